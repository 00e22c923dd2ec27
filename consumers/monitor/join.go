package monitor

import (
	"hash/maphash"
	"slices"
	"sort"
	"sync"
)

const (
	// rememberedOutcomes bounds what a partition keeps to know an outcome
	// that comes again.
	rememberedOutcomes = 1 << 16
	// maxPending is the default of Config.MaxPending.
	maxPending = 100_000
)

// Why an outcome found no score: the values of a metric's label.
const (
	reasonNoScore   = "no_score"      // the customer has none
	reasonLaterOnly = "later_scores"  // all are from after the decision
	reasonForgotten = "forgotten"     // the one in force is no longer kept
	reasonErased    = "erased"        // the customer was erased meanwhile
	reasonTooMany   = "too_many_wait" // too many outcomes wait for scores
)

// score is what is kept of a score. Times are in milliseconds since 1970.
type score struct {
	asOf        int64
	writtenAt   int64 // time of the record
	version     int64
	probability float64
}

// outcome is what is known of an outcome.
type outcome struct {
	customer   string
	observedAt int64
	writtenAt  int64 // time of the record, or before if it was redriven
	churned    bool
	// own is set if the outcome carries attributes.
	own      bool
	deadline int64 // until when a score is waited for
	done     bool
}

// results takes what a join comes to.
type results interface {
	joined(o *outcome, s score)
	unmatched(o *outcome, reason string)
	// historical takes outcomes with own attributes that no score
	// preceded: history loaded from elsewhere.
	historical(o *outcome)
	duplicate(o *outcome)
	// waiting takes changes in the number of outcomes that wait.
	waiting(delta int)
}

// join matches the outcomes of one partition with scores. It wants the records
// of a partition in the order in which they were written. Whoever calls it
// holds the lock of its customers.
type join struct {
	history int   // scores kept for each customer
	lead    int64 // milliseconds
	pending int   // outcomes that may wait
	results results

	*customers
	// queue holds the outcomes that wait, as they came.
	queue []*outcome
	seen  recent
}

// customers are shared by the joins of all partitions: when topics get more
// partitions a customer's scores and outcomes go on in another one, and not all
// producers switch at the same moment.
type customers struct {
	sync.Mutex
	byID map[string]*customer
}

func newCustomers() *customers { return &customers{byID: make(map[string]*customer)} }

type customer struct {
	scores  []score // ascending by asOf, then as written
	dropped bool    // there were more
	waiting []*outcome
}

func newJoin(history int, lead int64, shared *customers, r results) *join {
	return &join{
		history: history, lead: lead, pending: maxPending, results: r,
		customers: shared,
		seen:      recent{seed: maphash.MakeSeed(), set: make(map[uint64]struct{}), limit: rememberedOutcomes},
	}
}

// score takes a customer's next score. It reports whether the score is new:
// the scorer may write one again.
func (j *join) score(id []byte, s score) bool {
	c := j.byID[string(id)]
	if c == nil {
		c = new(customer)
		j.byID[string(id)] = c
	}
	if !c.add(s, j.history) {
		return false
	}
	if len(c.waiting) > 0 {
		still := c.waiting[:0]
		for _, o := range c.waiting {
			if s.asOf <= o.observedAt-j.lead && s.writtenAt <= o.deadline {
				o.done = true
				j.results.waiting(-1)
				j.results.joined(o, s)
				continue
			}
			still = append(still, o)
		}
		clear(c.waiting[len(still):])
		c.waiting = still
	}
	return true
}

// outcome takes the next outcome. deadline is until when to wait for a score.
func (j *join) outcome(o outcome, deadline int64) {
	if !j.seen.add(o.customer, o.observedAt) {
		j.results.duplicate(&o)
		return
	}
	c := j.byID[o.customer]
	if c != nil {
		if s, ok := c.inForce(o.observedAt-j.lead, o.writtenAt); ok {
			j.results.joined(&o, s)
			return
		}
	}
	if o.own {
		j.results.historical(&o)
		return
	}
	if c == nil {
		c = new(customer)
		j.byID[o.customer] = c
	} else if s, ok := c.firstWritten(o.observedAt-j.lead, deadline); ok {
		j.results.joined(&o, s)
		return
	}
	if len(j.queue) >= j.pending {
		j.giveUp(reasonTooMany)
	}
	o.deadline = deadline
	c.waiting = append(c.waiting, &o)
	j.queue = append(j.queue, &o)
	j.results.waiting(1)
}

// erase forgets what was written of a customer up to a moment, with the
// outcomes that wait for a score. What was written since, perhaps in another
// partition, is of a customer who has come back.
func (j *join) erase(id []byte, at int64) {
	c := j.byID[string(id)]
	if c == nil {
		return
	}
	c.scores = slices.DeleteFunc(c.scores, func(s score) bool { return s.writtenAt <= at })
	c.waiting = slices.DeleteFunc(c.waiting, func(o *outcome) bool {
		if o.writtenAt > at {
			return false
		}
		o.done = true
		j.results.waiting(-1)
		j.results.unmatched(o, reasonErased)
		return true
	})
	if len(c.scores) == 0 && len(c.waiting) == 0 {
		delete(j.byID, string(id))
	}
}

// expire gives up the outcomes whose time to wait ended before now.
func (j *join) expire(now int64) {
	for len(j.queue) > 0 && (j.queue[0].done || j.queue[0].deadline < now) {
		j.giveUp("")
	}
}

// giveUp takes the first outcome out of the queue and, if it still waits,
// counts it as unmatched: for the given reason, or if it is empty, for the one
// found.
func (j *join) giveUp(reason string) {
	o := j.queue[0]
	j.queue[0] = nil
	j.queue = j.queue[1:]
	if o.done {
		return
	}
	c := j.byID[o.customer]
	for i := range c.waiting {
		if c.waiting[i] == o {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			break
		}
	}
	switch {
	case reason != "":
	case len(c.scores) == 0:
		reason = reasonNoScore
	case c.dropped:
		reason = reasonForgotten
	default:
		reason = reasonLaterOnly
	}
	if len(c.scores) == 0 && len(c.waiting) == 0 {
		delete(j.byID, o.customer)
	}
	j.results.waiting(-1)
	j.results.unmatched(o, reason)
}

// add inserts s, dropping the oldest score beyond limit. It returns false if
// the score is there already.
func (c *customer) add(s score, limit int) bool {
	i := sort.Search(len(c.scores), func(i int) bool { return c.scores[i].asOf > s.asOf })
	for k := i - 1; k >= 0 && c.scores[k].asOf == s.asOf; k-- {
		if c.scores[k].version == s.version && c.scores[k].probability == s.probability {
			c.scores[k].writtenAt = min(c.scores[k].writtenAt, s.writtenAt)
			return false
		}
	}
	if len(c.scores) >= limit {
		c.dropped = true
		if i == 0 {
			return true // older than all that are kept
		}
		copy(c.scores, c.scores[1:i])
		c.scores[i-1] = s
		return true
	}
	c.scores = append(c.scores, score{})
	copy(c.scores[i+1:], c.scores[i:])
	c.scores[i] = s
	return true
}

// inForce returns the score with the latest asOf not after at, among
// those written by the given time; of equally late ones the last written.
func (c *customer) inForce(at, writtenBy int64) (score, bool) {
	for i := len(c.scores) - 1; i >= 0; i-- {
		if s := &c.scores[i]; s.asOf <= at && s.writtenAt <= writtenBy {
			return *s, true
		}
	}
	return score{}, false
}

// firstWritten returns the score that was written first among those whose
// asOf is not after at, if it was written by the given time.
func (c *customer) firstWritten(at, writtenBy int64) (first score, found bool) {
	for _, s := range c.scores {
		if s.asOf <= at && s.writtenAt <= writtenBy && (!found || s.writtenAt < first.writtenAt) {
			first, found = s, true
		}
	}
	return first, found
}

// recent remembers the last limit pairs of customer and time by their hash.
type recent struct {
	seed  maphash.Seed
	limit int
	set   map[uint64]struct{}
	ring  []uint64
	next  int
}

// add returns false if the pair is remembered.
func (r *recent) add(customer string, at int64) bool {
	h := maphash.Comparable(r.seed, struct {
		customer string
		at       int64
	}{customer, at})
	if _, known := r.set[h]; known {
		return false
	}
	r.set[h] = struct{}{}
	if len(r.ring) < r.limit {
		r.ring = append(r.ring, h)
		return true
	}
	delete(r.set, r.ring[r.next])
	r.ring[r.next] = h
	r.next = (r.next + 1) % r.limit
	return true
}
