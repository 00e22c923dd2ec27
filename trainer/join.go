package trainer

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// joiner makes examples of outcomes. An outcome that names the customer's
// attributes is one by itself. Any other is joined, point in time, with the
// snapshot in the customer's latest score at or before it.
//
// Scores and outcomes are read independently, so that score may come after the
// outcome. An outcome therefore stays open for a grace period: it becomes an
// example with the first snapshot that fits, and takes a later one that fits
// better. Without any it is dropped in the end.
//
// The other way round, a score may come before the outcome it serves, so the
// last few snapshots of every customer are kept: with 16 categorical and 3
// numeric features 64 bytes each. A joiner is not safe for concurrent use.
type joiner struct {
	data      *fitting.Dataset
	snapshots int    // kept per customer
	numeric   []bool // by feature
	rowBytes  int

	customers map[uint64]*timeline
	// queue holds the open outcomes as they came, as many as there can be
	// examples. Beyond that the oldest are closed.
	queue   []openOutcome
	dropped int // without a snapshot, since the last expire
	// erased holds when customers were erased: what was written before, in
	// whatever topic, is to be ignored.
	erased map[uint64]int64

	labels  int64 // distinct outcomes taken
	pending int   // open outcomes without a snapshot
}

// timeline is what is known of a customer for joining.
type timeline struct {
	snapshots []byte // ascending by time, each time and row
	open      []openOutcome
}

// openOutcome is an outcome that a snapshot may still be found for.
type openOutcome struct {
	customer   uint64
	observedAt int64
	churned    bool
	joined     bool
	joinedAt   int64 // time of the snapshot
	writtenAt  int64 // time of its record
	readAt     int64 // when it came
}

func newJoiner(data *fitting.Dataset, snapshots int) *joiner {
	j := &joiner{
		data: data, snapshots: snapshots,
		customers: make(map[uint64]*timeline), erased: make(map[uint64]int64),
	}
	for i := range data.Spec().Len() {
		numeric := data.Spec().Feature(i).Kind == scoring.Numeric
		j.numeric = append(j.numeric, numeric)
		j.rowBytes += 2
		if numeric {
			j.rowBytes += 6
		}
	}
	return j
}

// outcome takes an outcome whose record was written at writtenAt and read at
// readAt, and reports whether it is new. One that came before counts once, but
// its label and attributes replace the former ones: a correction.
func (j *joiner) outcome(e fitting.Example, writtenAt, readAt int64) (added bool) {
	if at, erased := j.erased[e.Customer]; erased && writtenAt <= at {
		return false
	}
	t := j.customers[e.Customer]
	_, known := j.data.Find(e.Customer, e.ObservedAt)
	added = !known && (t == nil || t.find(e.ObservedAt) < 0)
	if added {
		j.labels++
	}
	if e.Attributes != nil {
		j.close(e.Customer, e.ObservedAt)
		j.data.Add(e)
		return added
	}
	if t == nil {
		t = new(timeline)
		j.customers[e.Customer] = t
	}
	k := t.find(e.ObservedAt)
	if k < 0 {
		o := openOutcome{customer: e.Customer, observedAt: e.ObservedAt, writtenAt: writtenAt, readAt: readAt}
		j.queue = append(j.queue, o)
		t.open = append(t.open, o)
		k = len(t.open) - 1
		j.pending++
	}
	t.open[k].churned = e.Churned
	best := -1
	for s := range t.count(j) {
		if t.time(j, s) <= e.ObservedAt {
			best = s
		}
	}
	if best >= 0 {
		x := scoring.NewVector(j.data.Spec().Len())
		j.unpack(t.row(j, best), x)
		j.join(&t.open[k], t.time(j, best), x)
	}
	for len(j.queue) > j.data.Limit() {
		if j.close(j.queue[0].customer, j.queue[0].observedAt) {
			j.dropped++
		}
		j.queue = j.queue[1:]
	}
	return added
}

// score takes a snapshot of a customer's attributes as they were at a time,
// from a record written at writtenAt.
func (j *joiner) score(customer uint64, at int64, x scoring.Vector, writtenAt int64) {
	if erasedAt, erased := j.erased[customer]; erased && writtenAt <= erasedAt {
		return
	}
	t := j.customers[customer]
	if t == nil {
		t = new(timeline)
		j.customers[customer] = t
	}
	for k := range t.open {
		if o := &t.open[k]; at <= o.observedAt && (!o.joined || at >= o.joinedAt) {
			j.join(o, at, x)
		}
	}
	j.remember(t, at, x)
}

func (j *joiner) join(o *openOutcome, at int64, x scoring.Vector) {
	if !o.joined {
		j.pending--
	}
	o.joined, o.joinedAt = true, at
	j.data.Add(fitting.Example{Customer: o.customer, ObservedAt: o.observedAt, Churned: o.churned, Attributes: x})
}

// erase forgets a customer whose tombstone was written at writtenAt, and
// whatever was written of the customer before, even if it is read later.
//
// inOrder says that the tombstone is among the outcomes, so that all outcomes
// read so far were written before it. One among the scores may be read long
// after outcomes that are younger, as they are at the start: open outcomes
// say when they were written; examples only when they were observed, which
// decides for them.
func (j *joiner) erase(customer uint64, writtenAt int64, inOrder bool) {
	j.erased[customer] = max(writtenAt, j.erased[customer])
	through := writtenAt
	if inOrder {
		through = math.MaxInt64
	}
	j.data.Forget(customer, through)
	t := j.customers[customer]
	if t == nil {
		return
	}
	t.snapshots = nil
	t.open = slices.DeleteFunc(t.open, func(o openOutcome) bool {
		if o.writtenAt > through {
			return false
		}
		if !o.joined {
			j.pending--
		}
		return true
	})
	for k := range t.open {
		// What it was joined with is older than the tombstone.
		if o := &t.open[k]; o.joined && o.observedAt <= through {
			o.joined, o.joinedAt = false, 0
			j.pending++
		}
	}
	if len(t.open) == 0 {
		delete(j.customers, customer)
	}
}

// expire closes the outcomes read at or before a time, and returns how many have
// been closed for which no snapshot was found.
func (j *joiner) expire(readAt int64) (unjoined int) {
	unjoined, j.dropped = j.dropped, 0
	n := 0
	for ; n < len(j.queue) && j.queue[n].readAt <= readAt; n++ {
		if j.close(j.queue[n].customer, j.queue[n].observedAt) {
			unjoined++
		}
	}
	if n > 0 {
		j.queue = append(j.queue[:0:0], j.queue[n:]...)
	}
	return unjoined
}

// close ends the wait of an outcome, and reports whether it was waiting and had
// no snapshot.
func (j *joiner) close(customer uint64, observedAt int64) (unjoined bool) {
	t := j.customers[customer]
	if t == nil {
		return false
	}
	k := t.find(observedAt)
	if k < 0 {
		return false
	}
	unjoined = !t.open[k].joined
	if unjoined {
		j.pending--
	}
	t.open = append(t.open[:k], t.open[k+1:]...)
	if len(t.open) == 0 {
		t.open = nil
		if len(t.snapshots) == 0 {
			delete(j.customers, customer)
		}
	}
	return unjoined
}

// renumber gives the vocabulary of the examples the levels that snapshots have,
// whose numbers are those of a former one.
func (j *joiner) renumber(former *scoring.Vocabulary) {
	x := scoring.NewVector(j.data.Spec().Len())
	for _, t := range j.customers {
		for s := range t.count(j) {
			j.unpack(t.row(j, s), x)
			j.data.Vocabulary().Learn(x, former, nil, fitting.MaxCodes)
			j.pack(t.row(j, s), x)
		}
	}
}

func (t *timeline) find(observedAt int64) int {
	for k := range t.open {
		if t.open[k].observedAt == observedAt {
			return k
		}
	}
	return -1
}

func (t *timeline) count(j *joiner) int { return len(t.snapshots) / (8 + j.rowBytes) }

func (t *timeline) time(j *joiner, s int) int64 {
	return int64(binary.LittleEndian.Uint64(t.snapshots[s*(8+j.rowBytes):]))
}

func (t *timeline) row(j *joiner, s int) []byte {
	return t.snapshots[s*(8+j.rowBytes)+8 : (s+1)*(8+j.rowBytes)]
}

// remember keeps a snapshot in its place by time. One of the same time
// replaces the other; of too many the oldest goes.
func (j *joiner) remember(t *timeline, at int64, x scoring.Vector) {
	size, n := 8+j.rowBytes, t.count(j)
	s := n
	for s > 0 && t.time(j, s-1) > at {
		s--
	}
	switch {
	case s > 0 && t.time(j, s-1) == at:
		s--
	case n < j.snapshots:
		if cap(t.snapshots) == len(t.snapshots) { // append would take more than is used
			t.snapshots = append(make([]byte, 0, min(2*n+1, j.snapshots)*size), t.snapshots...)
		}
		t.snapshots = t.snapshots[:(n+1)*size]
		copy(t.snapshots[(s+1)*size:], t.snapshots[s*size:n*size])
	case s == 0:
		return // older than all that are kept
	default:
		s--
		copy(t.snapshots, t.snapshots[size:(s+1)*size])
	}
	binary.LittleEndian.PutUint64(t.snapshots[s*size:], uint64(at))
	j.pack(t.row(j, s), x)
}

func (j *joiner) pack(row []byte, x scoring.Vector) {
	for i, v := range x {
		if j.numeric[i] {
			binary.LittleEndian.PutUint64(row, math.Float64bits(v))
			row = row[8:]
			continue
		}
		code := uint16(0)
		if v >= 0 { // neither missing nor unknown
			code = uint16(v) + 1
		}
		binary.LittleEndian.PutUint16(row, code)
		row = row[2:]
	}
}

func (j *joiner) unpack(row []byte, x scoring.Vector) {
	for i := range x {
		if j.numeric[i] {
			x[i] = math.Float64frombits(binary.LittleEndian.Uint64(row))
			row = row[8:]
			continue
		}
		x[i] = scoring.Missing
		if code := binary.LittleEndian.Uint16(row); code > 0 {
			x[i] = float64(code - 1)
		}
		row = row[2:]
	}
}
