package labeler

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// What becomes of an outcome: the values of a metric's label, and of the sums in
// markers.
const (
	resultExample    = "example"
	resultCorrection = "correction"
	resultDuplicate  = "duplicate"

	// Why there is no example.
	reasonNoScore   = "no_score"      // the customer has none
	reasonUnwatched = "not_watched"   // all are from after the decision
	reasonForgotten = "forgotten"     // there were older ones, which are no longer kept
	reasonTooLate   = "too_late"      // scores of that time are no longer kept
	reasonErased    = "erased"        // the customer was erased after it was written
	reasonTooMany   = "too_many_wait" // too many outcomes wait for scores
	reasonTooOld    = "too_old"       // the customer has as many newer examples as are kept
)

var reasons = [...]string{
	reasonNoScore, reasonUnwatched, reasonForgotten, reasonTooLate, reasonErased, reasonTooMany, reasonTooOld,
}

// tally counts outcomes by what became of them.
type tally map[kind]int64

type kind struct {
	result  string
	churned bool
}

// rules are how outcomes are joined. Times are in milliseconds.
type rules struct {
	horizon, interval, delay, grace int64
	perCustomer                     int // examples
	waiting                         int // outcomes
	recordBytes                     int // of the examples of a customer
}

// join makes examples of outcomes and scores. It wants the records in the order in
// which they were written, as far as that is known: what it makes of an outcome
// depends on the scores that were written up to then, and up to the end of the
// grace period if none of them will do, and not on what comes later.
type join struct {
	rules
	store *store
	codec *schemas.Codec
	now   int64 // time of the records so far

	waiting map[string][]*outcome
	// queue holds those that wait, as they came, and some that do not any more.
	queue []*outcome
	waits int // those that do

	// What has come of the records since the last flush.
	changed []string // customers whose examples did, as they came
	marked  map[string]struct{}
	erased  map[string]struct{} // those of them who were erased
	tally   tally
	delays  []int64 // of examples and corrections, from observed_at to written
	bytes   int     // about what is to be written

	examples, score schemas.CustomerExamples // memory that is used again
	record          []byte
}

// outcome is one that is not settled.
type outcome struct {
	id                    string
	customer              customer
	observedAt, writtenAt int64
	churned               bool
	partition             int
	offset                int64
	deadline              int64 // until when a score is waited for
	done                  bool
	since                 time.Time // when it was read
}

// recordOverhead is what a record takes beside key and value.
const recordOverhead = 50

func newJoin(r rules, s *store) *join {
	return &join{
		rules: r, store: s, codec: s.codec,
		waiting: map[string][]*outcome{}, marked: map[string]struct{}{}, erased: map[string]struct{}{}, tally: tally{},
	}
}

// takeScore takes a score, written at a time.
func (j *join) takeScore(ctx context.Context, s *schemas.ChurnScore, writtenAt int64) error {
	c := customerOf(s.CustomerID)
	if j.store.erasedAfter(c, writtenAt) {
		return nil
	}
	k := kept{asOf: s.AsOf, writtenAt: writtenAt, sourceOffset: s.SourceOffset, sourcePartition: s.SourcePartition, version: s.ModelVersion}
	for _, age := range s.AttributeAges {
		// Scores written before they had an as_of speak of their event's time, and
		// a late event leaves attributes in place that were set after it.
		k.asOf = max(k.asOf, s.OccurredAt-age)
	}
	oldest, err := j.store.keep(c, k, j.interval, func(dst []byte) []byte {
		// It is an example without a label.
		m := schemas.CustomerExamples{CustomerID: s.CustomerID, Levels: s.Levels}
		m.Examples = append(j.score.Examples[:0], schemas.LabelledExample{
			AsOf: k.asOf, ModelVersion: s.ModelVersion, Probability: s.Probability,
			SourcePartition: s.SourcePartition, SourceOffset: s.SourceOffset, Attributes: s.Attributes,
		})
		return j.codec.AppendExamples(dst, &m)
	})
	if err != nil {
		return err
	}
	// An eighth of the time later: many together cost as much as one.
	if until := j.until(); oldest < until-j.retained()/8 {
		if err := j.store.prune(c, until); err != nil {
			return err
		}
	}
	return j.settle(ctx, s.CustomerID)
}

// retained is for how long before now scores may be asked for.
func (j *join) retained() int64 { return j.horizon + j.delay }

// until is the time before which a customer needs one score only.
func (j *join) until() int64 { return j.now - j.retained() }

// takeOutcome takes an outcome that lies at an offset.
func (j *join) takeOutcome(ctx context.Context, m *schemas.ChurnOutcome, writtenAt int64, partition int, offset int64) error {
	o := &outcome{
		id: m.CustomerID, customer: customerOf([]byte(m.CustomerID)), observedAt: m.ObservedAt, writtenAt: writtenAt, churned: m.Churned,
		partition: partition, offset: offset, since: time.Now(),
		// One from the future, by somebody's clock, waits no longer than others.
		deadline: min(writtenAt, j.now) + j.grace,
	}
	if j.store.erasedAfter(o.customer, writtenAt) {
		j.count(o, reasonErased)
		return nil
	}
	if err := j.store.examples(ctx, o.customer, &j.examples); err != nil {
		return err
	}
	switch known, err := j.correct(o); {
	case err != nil:
		return err
	case known:
		j.supersede(o)
		return nil
	case m.Attributes != nil:
		j.supersede(o)
		return j.add(o, &schemas.LabelledExample{
			AsOf: o.observedAt, Probability: scoring.Missing, SourcePartition: -1, SourceOffset: -1, Attributes: m.Attributes,
		}, m.Levels)
	case o.writtenAt-o.observedAt > j.delay:
		// Silent customers still have their scores, others have not: to take what
		// there is would prefer the former.
		j.count(o, reasonTooLate)
		return nil
	}
	switch settled, err := j.try(ctx, o); {
	case err != nil:
		return err
	case settled:
		j.supersede(o)
		return nil
	}
	if o.deadline < j.now {
		return j.giveUp(o, "")
	}
	for j.waits > 0 && j.waits >= j.rules.waiting {
		if err := j.giveUpFirst(reasonTooMany); err != nil {
			return err
		}
	}
	j.waiting[o.id] = append(j.waiting[o.id], o)
	if len(j.queue) > 2*j.waits+1000 {
		j.queue = slices.DeleteFunc(j.queue, func(o *outcome) bool { return o.done })
	}
	j.queue = append(j.queue, o)
	j.waits++
	return nil
}

// end notes that an outcome does not wait any more.
func (j *join) end(o *outcome) {
	o.done = true
	j.waits--
}

// supersede settles the outcomes that wait and say what one says that was read after
// them and is settled: what waits beyond a marker is read again after it, and would
// then be taken for the later one where both were written at the same time.
func (j *join) supersede(by *outcome) {
	waiting := j.waiting[by.id]
	if len(waiting) == 0 {
		return
	}
	j.keepWaiting(by.id, slices.DeleteFunc(waiting, func(o *outcome) bool {
		if o == by || o.observedAt != by.observedAt || o.writtenAt > by.writtenAt {
			return false
		}
		j.end(o)
		j.count(o, resultDuplicate)
		return true
	}))
}

// oldestWait returns when the outcome was read that has waited for the longest time.
func (j *join) oldestWait() (since time.Time, any bool) {
	for _, o := range j.queue {
		if !o.done {
			return o.since, true
		}
	}
	return since, false
}

// try makes an example of an outcome if there is a score for it.
func (j *join) try(ctx context.Context, o *outcome) (settled bool, err error) {
	decision := o.observedAt - j.horizon
	_, says, ok, err := j.store.inForce(o.customer, decision, o.writtenAt)
	if err == nil && !ok {
		_, says, ok, err = j.store.firstWritten(o.customer, decision, o.deadline)
	}
	if err != nil || !ok {
		return false, err
	}
	if err := j.store.decode(ctx, says, &j.score); err != nil {
		return false, err
	}
	if len(j.score.Examples) != 1 {
		return false, errDamaged
	}
	return true, j.add(o, &j.score.Examples[0], j.score.Levels)
}

// settle tries the outcomes of a customer that wait.
func (j *join) settle(ctx context.Context, id []byte) error {
	waiting := j.waiting[string(id)]
	if len(waiting) == 0 {
		return nil
	}
	still := waiting[:0]
	for _, o := range waiting {
		if err := j.store.examples(ctx, o.customer, &j.examples); err != nil {
			return err
		}
		settled, err := j.correct(o)
		if err == nil && !settled {
			settled, err = j.try(ctx, o)
		}
		if err != nil {
			return err
		}
		if settled {
			j.end(o)
		} else {
			still = append(still, o)
		}
	}
	clear(waiting[len(still):])
	j.keepWaiting(string(id), still)
	return nil
}

func (j *join) keepWaiting(customer string, still []*outcome) {
	if len(still) == 0 {
		delete(j.waiting, customer)
	} else {
		j.waiting[customer] = still
	}
}

// correct takes an outcome of which there is an example, among j.examples. Of two that
// were written at the same time, as the records of a batch are, the one that is read
// later counts: that of the greater offset.
func (j *join) correct(o *outcome) (known bool, err error) {
	all := j.examples.Examples
	i, found := slices.BinarySearchFunc(all, o.observedAt, func(e schemas.LabelledExample, at int64) int {
		return cmp.Compare(e.ObservedAt, at)
	})
	if !found {
		return false, nil
	}
	e := &all[i]
	if e.Churned == o.churned || o.writtenAt < e.LabelledAt {
		j.count(o, resultDuplicate)
		return true, nil
	}
	e.Churned, e.LabelledAt = o.churned, o.writtenAt
	e.Corrections++
	j.count(o, resultCorrection)
	j.delays = append(j.delays, o.writtenAt-o.observedAt)
	return true, j.write(o.id)
}

// add makes an example of an outcome, beside those in j.examples, and what was
// known at the decision, with its levels.
func (j *join) add(o *outcome, known *schemas.LabelledExample, levels scoring.Levels) error {
	all := j.examples.Examples
	i := sort.Search(len(all), func(i int) bool { return all[i].ObservedAt > o.observedAt })
	if i == 0 && len(all) >= j.perCustomer {
		j.count(o, reasonTooOld)
		return nil
	}
	e := *known
	e.ObservedAt, e.LabelledAt, e.Horizon, e.Churned = o.observedAt, o.writtenAt, j.horizon, o.churned
	e.Attributes = slices.Clone(e.Attributes)
	vocabulary := j.codec.Set().Vocabulary()
	vocabulary.Renumber(e.Attributes, vocabulary, levels, &j.examples.Levels)
	all = slices.Insert(all, i, e)
	j.examples.Examples = all[max(0, len(all)-j.perCustomer):]
	j.count(o, resultExample)
	j.delays = append(j.delays, o.writtenAt-o.observedAt)
	err := j.write(o.id)
	j.examples.Examples = nil // they share attributes with what is used again
	return err
}

// write writes j.examples as those of a customer.
func (j *join) write(customer string) error {
	m := &j.examples
	m.CustomerID = []byte(customer)
	if len(m.Examples) == 0 {
		j.record = nil
	} else {
		j.record = j.codec.AppendExamples(j.record[:0], m)
		for len(j.record) > j.recordBytes && len(m.Examples) > 1 {
			m.Examples = m.Examples[1:] // a topic takes only so much
			j.record = j.codec.AppendExamples(j.record[:0], m)
		}
	}
	if err := j.store.setRecord(customerOf(m.CustomerID), j.record); err != nil {
		return err
	}
	j.bytes += len(customer) + len(j.record) + recordOverhead
	if _, known := j.marked[customer]; !known {
		j.marked[customer] = struct{}{}
		j.changed = append(j.changed, customer)
	}
	return nil
}

// erase forgets what was written of a customer up to a moment. What was written
// since is of a customer who has come back.
//
// It leaves a tombstone among the examples, before those of the customer that are left
// or come until the flush: that is what has readers forget the others, and a labeler
// that has lost its directory know of the erasure.
func (j *join) erase(ctx context.Context, id []byte, at int64) error {
	c := customerOf(id)
	if j.store.erasedAfter(c, at-1) {
		return nil
	}
	if err := j.store.forget(c, at); err != nil {
		return err
	}
	still := j.waiting[string(id)][:0]
	for _, o := range j.waiting[string(id)] {
		if o.writtenAt > at {
			still = append(still, o)
			continue
		}
		j.end(o)
		j.count(o, reasonErased)
	}
	j.keepWaiting(string(id), still)
	if err := j.store.examples(ctx, c, &j.examples); err != nil {
		return err
	}
	before := len(j.examples.Examples)
	left := slices.DeleteFunc(slices.Clone(j.examples.Examples), func(e schemas.LabelledExample) bool { return e.LabelledAt <= at })
	if len(left) == before && before > 0 {
		return nil // readers have nothing to forget
	}
	j.erased[string(id)] = struct{}{}
	j.bytes += len(id) + 2*recordOverhead
	j.examples.Examples = left
	err := j.write(string(id))
	j.examples.Examples = nil
	return err
}

// advance gives up the outcomes whose time to wait ended before now.
func (j *join) advance(now int64) error {
	j.now = max(j.now, now)
	for len(j.queue) > 0 && (j.queue[0].done || j.queue[0].deadline < j.now) {
		if err := j.giveUpFirst(""); err != nil {
			return err
		}
	}
	return nil
}

func (j *join) giveUpFirst(reason string) error {
	o := j.queue[0]
	j.queue[0] = nil
	j.queue = j.queue[1:]
	if o.done {
		return nil
	}
	j.end(o)
	j.keepWaiting(o.id, slices.DeleteFunc(j.waiting[o.id], func(w *outcome) bool { return w == o }))
	return j.giveUp(o, reason)
}

// giveUp counts an outcome that has found no score: for the given reason, or if it
// is empty, for the one found.
func (j *join) giveUp(o *outcome, reason string) error {
	if reason == "" {
		l, ok, err := j.store.latest(o.customer)
		if err != nil {
			return err
		}
		switch {
		case !ok:
			reason = reasonNoScore
		case l.forgotten:
			reason = reasonForgotten
		default:
			reason = reasonUnwatched
		}
	}
	j.count(o, reason)
	return nil
}

func (j *join) count(o *outcome, result string) { j.tally[kind{result, o.churned}]++ }

// flushed starts over with what has come of the records.
func (j *join) flushed() {
	j.changed, j.delays, j.bytes = j.changed[:0], j.delays[:0], 0
	clear(j.marked)
	clear(j.erased)
	clear(j.tally)
}

// unsettled returns the offsets of the outcomes of each partition that wait, in
// ascending order.
func (j *join) unsettled() map[int][]int64 {
	offsets := map[int][]int64{}
	for _, o := range j.queue {
		if !o.done {
			offsets[o.partition] = append(offsets[o.partition], o.offset)
		}
	}
	for _, of := range offsets {
		slices.Sort(of)
	}
	return offsets
}
