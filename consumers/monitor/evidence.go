package monitor

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// maxVersions bounds the model versions that figures are kept and exported for:
// the newest ones.
const maxVersions = 20

// example is a labelled example in a window. Nothing of it changes but loss:
// another label is another example.
type example struct {
	place // by the time it was observed
	schemas.LabelledExample
	levels scoring.Levels // those in Attributes
	// loss is kept by the computer, once it has been asked for.
	loss *lossShare
}

// decided is when the decision was, in milliseconds since 1970.
func (e *example) decided() int64 { return e.ObservedAt - e.Horizon }

// predicted reports whether the score in force said that the customer would leave.
func predicted(probability float64) bool { return probability >= 0.5 }

// cell is what was predicted and what happened.
type cell uint8

const (
	churned cell = 1 << iota
	predictedChurn
	cells = 4
)

func (c cell) right() bool { return c == 0 || c == churned|predictedChurn }

func cellOf(e *schemas.LabelledExample) (c cell) {
	if e.Churned {
		c = churned
	}
	if predicted(e.Probability) {
		c |= predictedChurn
	}
	return c
}

// label is what is kept of every example, whether it is in a window or not.
type label struct {
	observedAt int64
	// version is the model version of its score, 0 without one, and its cell.
	version int64
	// digest tells whether the customer's next record says something else of it.
	digest uint64
}

func (l *label) modelVersion() int64 { return l.version >> 2 }
func (l *label) cell() cell          { return cell(l.version & 3) }

func labelOf(e *schemas.LabelledExample) label {
	l := label{observedAt: e.ObservedAt, version: e.ModelVersion<<2 | int64(cellOf(e))}
	for _, x := range [...]uint64{uint64(e.AsOf), uint64(e.LabelledAt), uint64(e.Horizon), uint64(e.Corrections),
		math.Float64bits(e.Probability), uint64(e.SourceOffset)} {
		l.digest = mix(l.digest ^ x)
	}
	return l
}

// counts are numbers of examples by cell.
type counts [cells]int64

// evidence is what churn.examples says, in any order of its customers' records:
// of each customer the last one counts. It is safe for concurrent use. While a
// refill is under way, windows may hold less than there is.
type evidence struct {
	limit, reserve int

	mu       sync.Mutex
	byID     map[string][]label // ascending by observedAt
	all      newest[*example]
	scored   newest[*example] // those with a score
	versions map[int64]*newest[*example]
	// forgotten is the highest version that there was no room for; 0 while there
	// was none.
	forgotten int64
	// present counts the examples that there are, by the version of their score,
	// total those with a score.
	present map[int64]*counts
	total   totals
	// counted counts, from begin on, those that there were and those that came. It
	// never falls, and a corrected label is counted once, as it was at first.
	counted map[int64]*counts

	labels  []label             // of the record in hand
	windows []*newest[*example] // of the example in hand
}

// totals are over all examples with a score.
type totals struct {
	examples, right int64 // right are those whose prediction was
}

func (v *evidence) totals() totals {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.total
}

func newEvidence(limit int) *evidence {
	reserve := limit/4 + 1
	return &evidence{
		limit: limit, reserve: reserve,
		byID: map[string][]label{},
		all:  newest[*example]{room: limit + reserve},
		// Twice as many, for the window before the newest.
		scored:   newest[*example]{room: 2*limit + reserve},
		versions: map[int64]*newest[*example]{},
		present:  map[int64]*counts{}, counted: map[int64]*counts{},
	}
}

// take has a customer's record take the place of the one before. It copies what
// it keeps.
func (v *evidence) take(m *schemas.CustomerExamples) {
	v.mu.Lock()
	defer v.mu.Unlock()
	former := v.byID[string(m.CustomerID)]
	v.labels = v.labels[:0]
	for i := range m.Examples {
		v.labels = append(v.labels, labelOf(&m.Examples[i]))
	}
	if slices.Equal(former, v.labels) {
		return
	}
	id := string(m.CustomerID)
	rest := former // from the present example on
	for i, l := range v.labels {
		for len(rest) > 0 && rest[0].observedAt < l.observedAt {
			v.remove(id, &rest[0])
			rest = rest[1:]
		}
		isNew := true
		if len(rest) > 0 && rest[0].observedAt == l.observedAt {
			known := rest[0]
			rest = rest[1:]
			if known == l {
				continue
			}
			v.remove(id, &known)
			isNew = known.modelVersion() == 0
		}
		v.add(id, &m.Examples[i], m.Levels, l)
		if version := l.modelVersion(); isNew && version > 0 {
			tally(v.counted, version)[l.cell()]++
		}
	}
	for i := range rest {
		v.remove(id, &rest[i])
	}
	if len(v.labels) == 0 {
		delete(v.byID, id)
	} else {
		v.byID[id] = slices.Clone(v.labels)
	}
}

// erase forgets a customer.
func (v *evidence) erase(id []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	labels := v.byID[string(id)]
	for i := range labels {
		v.remove(string(id), &labels[i])
	}
	delete(v.byID, string(id))
}

func (v *evidence) add(id string, e *schemas.LabelledExample, levels scoring.Levels, l label) {
	version := l.modelVersion()
	if version > 0 {
		tally(v.present, version)[l.cell()]++
		v.total.examples++
		if l.cell().right() {
			v.total.right++
		}
	}
	v.place(id, e, levels, version)
}

// place brings an example into the windows that have room for it.
func (v *evidence) place(id string, e *schemas.LabelledExample, levels scoring.Levels, version int64) {
	p := placeOf(e.ObservedAt, id)
	windows := append(v.windows[:0], &v.all)
	if version > 0 {
		windows = append(windows, &v.scored)
		if w := v.window(version); w != nil {
			windows = append(windows, w)
		}
	}
	v.windows = windows
	var kept *example
	for _, w := range windows {
		if !w.admits(&p) {
			w.drop(&p)
			continue
		}
		if kept == nil {
			kept = &example{place: p, LabelledExample: *e, levels: levelsIn(e.Attributes, levels)}
			kept.Attributes = slices.Clone(e.Attributes)
		}
		w.add(kept)
	}
}

// levelsIn returns a copy of the levels if a vector has any of them.
func levelsIn(x scoring.Vector, levels scoring.Levels) scoring.Levels {
	if len(levels) == 0 {
		return nil
	}
	for _, value := range x {
		if _, has := levels.At(value); has {
			return slices.Clone(levels)
		}
	}
	return nil
}

func (v *evidence) remove(id string, l *label) {
	p := placeOf(l.observedAt, id)
	v.all.remove(&p)
	version := l.modelVersion()
	if version == 0 {
		return
	}
	v.scored.remove(&p)
	c := v.present[version]
	c[l.cell()]--
	v.total.examples--
	if l.cell().right() {
		v.total.right--
	}
	if *c == (counts{}) {
		delete(v.present, version)
	}
	if w := v.versions[version]; w != nil {
		w.remove(&p)
		if len(w.rows) == 0 && w.dropped == nil {
			delete(v.versions, version)
		}
	}
}

// window returns the window of a version, nil for one that has none.
func (v *evidence) window(version int64) *newest[*example] {
	if version <= v.forgotten {
		return nil
	}
	w := v.versions[version]
	if w != nil {
		return w
	}
	if len(v.versions) >= maxVersions {
		oldest := slices.Min(slices.Collect(maps.Keys(v.versions)))
		v.forgotten = min(oldest, version)
		if version < oldest {
			return nil
		}
		delete(v.versions, oldest)
	}
	w = &newest[*example]{room: v.limit + v.reserve}
	v.versions[version] = w
	return w
}

// begin has the counters begin with the examples that there are: what had been
// erased or corrected before has no part in them, whether compaction has removed it
// or not.
func (v *evidence) begin() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.counted)
	for version, c := range v.present {
		*tally(v.counted, version) = *c
	}
}

func tally(m map[int64]*counts, version int64) *counts {
	c := m[version]
	if c == nil {
		c = new(counts)
		m[version] = c
	}
	return c
}

// lacks reports whether so much was removed that windows lack examples which
// they once had no room for.
func (v *evidence) lacks() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.all.lacks(v.limit) || v.scored.lacks(2*v.limit) || v.forgotten > 0 && len(v.versions) < maxVersions {
		return true
	}
	for _, w := range v.versions {
		if w.lacks(v.limit) {
			return true
		}
	}
	return false
}

// refill has the windows filled up from all the records that there are, which are
// then offered. What is called at the end says that they were.
func (v *evidence) refill() (done func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forgotten = 0
	v.all.forget()
	v.scored.forget()
	for _, w := range v.versions {
		w.forget()
	}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		for version, w := range v.versions {
			if len(w.rows) == 0 {
				delete(v.versions, version)
			}
		}
	}
}

// offer has the windows take those of a record's examples that there still are.
func (v *evidence) offer(m *schemas.CustomerExamples) {
	v.mu.Lock()
	defer v.mu.Unlock()
	labels := v.byID[string(m.CustomerID)]
	for i := range m.Examples {
		e := &m.Examples[i]
		if l := labelOf(e); slices.Contains(labels, l) {
			v.place(string(m.CustomerID), e, m.Levels, l.modelVersion())
		}
	}
}

// shown is what there is at a moment.
type shown struct {
	all, scored rows[*example] // scored has twice as many
	versions    []shownVersion
	counted     []versionCounts
}

type shownVersion struct {
	version int64
	present int64 // examples, of which rows has the newest
	rows    rows[*example]
}

type versionCounts struct {
	version int64
	counts
}

// show returns what there is now.
func (v *evidence) show(before *shown) *shown {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := &shown{all: v.all.show(v.limit, before.all), scored: v.scored.show(2*v.limit, before.scored)}
	for version, w := range v.versions {
		if len(w.rows) == 0 {
			continue
		}
		var known rows[*example]
		for i := range before.versions {
			if before.versions[i].version == version {
				known = before.versions[i].rows
			}
		}
		o := shownVersion{version: version, rows: w.show(v.limit, known)}
		for _, n := range v.present[version] {
			o.present += n
		}
		s.versions = append(s.versions, o)
	}
	slices.SortFunc(s.versions, func(a, b shownVersion) int { return cmp.Compare(b.version, a.version) })
	for version, c := range v.counted {
		s.counted = append(s.counted, versionCounts{version, *c})
	}
	slices.SortFunc(s.counted, func(a, b versionCounts) int { return cmp.Compare(b.version, a.version) })
	s.counted = s.counted[:min(len(s.counted), maxVersions)]
	return s
}
