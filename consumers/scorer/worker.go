package scorer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/churnstream/churnstream/consumers/scorer/engine"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/invariants"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/ownership"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// claim is the right to work on a partition, as the group gives it.
type claim struct {
	partition int
	committed int64           // offset of events committed to the group, −1 if none; for others to see
	note      string          // that was committed with it
	position  *kafka.Position // nil outside of a group
	// commit commits an offset, with the id of the topic of scores.
	commit func(offset int64, scores string) error
	// written is the offset after the last record that a worker of this claim
	// has had acknowledged, or has read.
	written int64
}

// work owns one partition until ctx ends: it fences the former owner,
// restores the state and scores. When ownership is lost it starts over, which
// is right whether or not the group has noticed already: the state is in the
// topic. running ends with the scorer, ctx already when the partition goes to
// another one.
func (s *Scorer) work(running, ctx context.Context, claim claim) error {
	for {
		w := newWorker(s, claim)
		s.restoring(claim.partition, true)
		err := w.run(ctx)
		s.restoring(claim.partition, false)
		if w.restored {
			claim.written = w.state.reflected
		}
		if !s.killed.Load() {
			w.leave(running.Err() != nil)
		}
		if w.committed >= 0 {
			claim.committed, claim.note = w.committed, noteOf(w.ids.scores)
		}
		log := w.log
		var refused *refusal
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &refused):
			known := w.known
			if w.restored {
				known = w.state.reflected
			}
			if !w.refuse(ctx, refused, known) {
				return nil
			}
		case errors.Is(err, errOtherTopics):
			log.Warn("restoring the state anew", "reason", err)
		case errors.Is(err, kafka.ErrFenced):
			// Another worker took the partition, so a rebalance is under way
			// and ends ctx. Taking the partition back at once would only make
			// the two fence each other.
			s.metrics.refenced.Inc()
			log.Warn("another scorer owns this partition now; waiting for the group to say so")
			if !pause(ctx, s.cfg.SessionTimeout, "another scorer owns this partition, and the group has not said so yet") {
				return nil
			}
		case errors.Is(err, kafka.ErrOutOfSequence):
			// Others may have written meanwhile; restoring finds the customers
			// whose valid record is followed by others, and has it written once
			// more.
			s.metrics.refenced.Inc()
			log.Warn("the broker has forgotten this worker; taking the partition anew", "error", err)
			if !pause(ctx, retakePause, "the broker has forgotten this worker") {
				return nil
			}
		case errors.Is(err, ownership.ErrShortened):
			// What was acknowledged is gone.
			log.Error("the broker has lost records of the output topic; going back to what is left", "error", err)
			claim.written = 0
			if !pause(ctx, retakePause, "the broker has lost records of the output topic") {
				return nil
			}
		default:
			return fmt.Errorf("scoring partition %d: %w", claim.partition, err)
		}
	}
}

// pause waits, and says why meanwhile. It reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration, why string) bool {
	defer retry.Begin(ctx, why)()
	return retry.Sleep(ctx, d)
}

// retakePause is how long a worker waits before it takes its partition anew.
const retakePause = time.Second

// worker works on one partition from fencing to the end of ownership: it brings
// events to the engine, and what the engine makes of them to the outbox and the
// owner.
type worker struct {
	*site
	claim    claim
	owner    *owner
	state    *state // nil until a restore has begun
	restored bool   // up to this ownership's marker
	engine   *engine.Engine
	outbox   outbox
	// append appends to the output partition, as its owner does.
	append func(context.Context, []kafka.Record) error
	model  *models.Version
	events *intake.Reader[schemas.CustomerEvent]

	rescoring rescoring
	snapshots snapshotting
	ledger    ledger

	ids   topicIDs
	known int64 // offset after the last record of the output partition that is known
	// counting reads events whose scores are there already.
	counting *intake.Reader[schemas.CustomerEvent]

	growth growth
	// placed is set once the partitions were counted for a batch.
	placed bool
	// ends are how far partitions of the events are known to reach, from which
	// some are forwarded.
	ends map[int]int64

	committed int64 // offset of events committed to the group
}

func newWorker(s *Scorer, claim claim) *worker {
	site := newSite(s, claim.partition)
	owner := &owner{site: site}
	w := &worker{
		site: site, claim: claim,
		owner: owner, append: owner.append,
		outbox:    outbox{site: site, nobody: s.cfg.Codec.NewScore()},
		rescoring: rescoring{site: site},
		snapshots: snapshotting{site: site},
		ends:      map[int]int64{},
		ledger:    ledger{site: site, written: schemas.Progress{Next: -1}},
		committed: -1, // so that what others have committed is put right
	}
	topic := w.eventTopic()
	w.events = intake.NewReader(s.intake, topic)
	topic.Poison = func(context.Context, *kafka.Record, *schemas.PoisonError) error {
		w.state.progress.DeadLetters++
		return nil
	}
	w.counting = intake.NewReader(s.intake, topic)
	claim.position.Show(w.gauges.lag)
	return w
}

// begin starts an engine on a state.
func (w *worker) begin(s *state) {
	w.state, w.engine = s, engine.New(w.engineConfig(), s.customers)
}

func (w *worker) engineConfig() engine.Config {
	return engine.Config{
		Set:        w.cfg.Codec.Set(),
		Partition:  w.partition,
		Explain:    w.cfg.Explain,
		Reasons:    w.cfg.Reasons,
		BestChange: w.cfg.BestChange,
		MaxLevels:  w.maxLevels,
	}
}

func (w *worker) run(ctx context.Context) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	w.advance()
	w.Scorer.restoring(w.partition, false)
	// A batch in hand is written even when ctx ends, so that the state stays
	// that of the topic and the next owner has nothing to do again.
	finishing, stop := outlive(ctx, w.grace)
	defer stop()
	err := w.score(ctx, finishing)
	if ctx.Err() != nil && !w.killed.Load() && !w.state.dirty && w.state.progress.Next != w.ledger.written.Next {
		// The next owner goes on here.
		w.ledger.outdated = true
		if err := w.flush(finishing); err != nil {
			w.log.Warn("the marker of progress could not be written; some events will be read again", "error", err)
		}
	}
	return err
}

// score scores events as they come, until ctx ends.
func (w *worker) score(ctx, finishing context.Context) error {
	source := w.source()
	defer func() { source.Close() }()
	next := &w.state.progress.Next
	lastCommit := w.cfg.Now()
	for {
		model, err := w.Scorer.model(ctx, w.cfg.MarkerInterval)
		if err != nil {
			return err
		}
		if err := w.owner.stay(finishing); err != nil {
			return err
		}
		if model == nil {
			continue
		}
		w.use(model)
		if due, err := w.growthDue(ctx); err != nil {
			return err
		} else if due {
			if err := w.grow(ctx, finishing); err != nil {
				return err
			}
		}
		if err := w.repair(finishing); err != nil {
			return err
		}
		records, err := source.Fetch(ctx)
		if err != nil {
			return fmt.Errorf("fetching from %s: %w", schemas.TopicEvents, err)
		}
		if ids, err := w.currentTopicIDs(ctx, identityInterval); err != nil {
			return err
		} else if ids != w.ids {
			return fmt.Errorf("%w: %+v became %+v", errOtherTopics, w.ids, ids)
		}
		if source.Offset() < *next || len(records) > 0 && records[0].Offset < *next {
			// The log ends before what was read of it: its leader has lost the
			// rest, or does not know it yet.
			if err := w.checkSource(ctx, &w.state.progress); err != nil {
				return err
			}
			source.Close()
			source = w.source()
			continue
		}
		if n := len(records); n > 0 && records[n-1].LeaderEpoch != w.state.progress.LeaderEpoch {
			// Under another leader the log may go on from before what was read.
			if err := w.checkSource(ctx, &w.state.progress); err != nil {
				return err
			}
		}
		switch err := w.batch(ctx, finishing, records); {
		case errors.Is(err, errGrown):
			w.growth.now = true
			source.Close()
			source = w.source()
			continue
		case err != nil:
			return err
		}
		w.state.skip(source.Offset())
		if err := w.flush(finishing); err != nil {
			return err
		}
		w.advance()
		if err := w.rescore(finishing); err != nil {
			return err
		}
		w.snapshots.step(w.state, w.owner.LastWrite(), len(w.owner.repairs) > 0)

		now := w.cfg.Now()
		if now.Sub(lastCommit) >= w.cfg.CommitInterval {
			lastCommit = now
			w.commit()
		}
	}
}

// take makes this worker the only writer of the output partition and then
// restores the state up to the marker by which it did.
func (w *worker) take(ctx context.Context) (err error) {
	defer retry.Begin(ctx, "restoring the state from "+schemas.TopicScores)()
	started := w.cfg.Now()
	if w.ids, err = w.currentTopicIDs(ctx, 0); err != nil {
		return err
	}
	first, end, err := w.cfg.Cluster.Offsets(ctx, schemas.TopicScores, w.partition)
	if err != nil {
		return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicScores, err)
	}
	w.known = end
	r := newRestorer(w.site, w.ids)
	// A group that scores already must not be fenced off.
	if err := r.markers.seek(ctx, first, end); err != nil {
		return err
	}
	if err := w.checkGroup(ctx, r.markers.last); err != nil {
		return err
	}
	at, marker, err := w.owner.fence(ctx)
	if err != nil {
		return err
	}
	w.known = at + 1
	if at < w.claim.written {
		return fmt.Errorf("%w: a marker was given offset %d, after %d", ownership.ErrShortened, at, w.claim.written-1)
	}
	got, err := r.restore(ctx, at)
	if err != nil {
		var refused *refusal
		switch {
		case errors.As(err, &refused):
			return err
		case errors.Is(err, ErrUnreadableState):
			return w.unreadable(err)
		}
		w.state = r.state
		return fmt.Errorf("restoring the state: %w", err)
	}
	if err := w.check(ctx, r); err != nil {
		return err
	}
	if err := w.open(ctx, got.state, at); err != nil {
		return err
	}
	if err := w.checkSource(ctx, &got.state.progress); err != nil {
		return err
	}
	w.owner.adopt(got, at, marker)
	w.begin(got.state)
	w.restored = true
	// From here on it is known who may have written what.
	if err := w.flush(ctx); err != nil {
		return err
	}
	w.snapshots.last = w.cfg.Now()
	took := w.snapshots.last.Sub(started)
	w.metrics.restored.WithLabelValues(got.from).Observe(took.Seconds())
	w.gauges.hold(w.state.customers)
	w.log.Info("state restored", "from", got.from, "customers", w.state.customers.Len(), "watermark", w.state.watermark,
		"next", w.state.progress.Next, "repairs", len(got.repairs), "took", took)
	return nil
}

// check refuses an output partition that is not the one the state was in.
func (w *worker) check(ctx context.Context, r *restorer) error {
	if err := w.checkGroup(ctx, r.markers.last); err != nil {
		return err
	}
	if r.markers.last != nil {
		return nil
	}
	traces := r.traces
	if id := readNote(w.claim.note); id != "" {
		traces = append(traces, trace{"what the consumer group has committed", id, w.claim.committed})
	}
	if m := r.markers.other; m != nil {
		traces = append(traces, trace{fmt.Sprintf("the marker at offset %d", m.offset), m.ScoresTopicID, m.Next})
	}
	for _, t := range traces {
		switch {
		case different(t.scores, w.ids.scores):
			return &refusal{reason: reasonScoresReplaced, why: fmt.Sprintf(
				"%s/%d is another topic than the one with the state: %s speaks of id %s and events up to offset %d, the topic of today has id %s and no marker of its own. Bring the old topic back, or go on from what is there: %s",
				schemas.TopicScores, w.partition, t.where, t.scores, t.next, w.ids.scores, w.acceptAdvice("first"))}
		case t.next > 0 && r.empty():
			return &refusal{reason: reasonScoresReplaced, why: fmt.Sprintf(
				"%s/%d is empty, though events up to offset %d were scored according to %s. Bring the scores back, or start from nothing: %s",
				schemas.TopicScores, w.partition, t.next, t.where, w.acceptAdvice("first"))}
		}
	}
	return nil
}

// checkGroup refuses to score beside another group.
func (w *worker) checkGroup(ctx context.Context, m *marker) error {
	if m == nil || m.Group == w.cfg.Group {
		return nil
	}
	members, err := w.cfg.Cluster.GroupMembers(ctx, m.Group)
	switch {
	case errors.Is(err, kafka.ErrNotAllowed):
		return &refusal{reason: reasonOtherGroup, busy: true, err: err, why: fmt.Sprintf(
			"%s is scored by the group %s, and this user may not see whether that still has members. If it has none: %s",
			schemas.TopicScores, m.Group, w.acceptAdvice("next"))}
	case err != nil:
		return fmt.Errorf("looking at the group %s: %w", m.Group, err)
	case members > 0:
		return &refusal{reason: reasonOtherGroup, busy: true,
			why: fmt.Sprintf("%s is scored by the group %s, which has %d members: one group at a time. Stop it, or give this one topics of its own", schemas.TopicScores, m.Group, members),
			passed: func(ctx context.Context) bool {
				members, err := w.cfg.Cluster.GroupMembers(ctx, m.Group)
				return err == nil && members == 0
			}}
	}
	w.log.Warn("taking over from another group, which has no members", "group", w.cfg.Group, "before", m.Group)
	return nil
}

// unreadableAgain is the time after which a state that could not be read is read
// again.
const unreadableAgain = time.Minute

// unreadable waits with a partition whose state cannot be read.
func (w *worker) unreadable(err error) error {
	since := w.cfg.Now()
	return &refusal{
		reason: reasonUnreadable, why: err.Error(), err: err,
		passed: func(context.Context) bool { return w.cfg.Now().Sub(since) >= unreadableAgain },
	}
}

// open begins, or goes on with, the account of a state that was restored up to
// the marker at an offset, which this worker has written.
func (w *worker) open(ctx context.Context, s *state, at int64) error {
	p := &s.progress
	switch {
	case len(p.Writers) > 0:
		if different(p.EventsTopicID, w.ids.events) {
			return w.otherEvents(p)
		}
	case s.watermark >= 0:
		p.Since, p.LeaderEpoch = s.watermark+1, -1
		p.Next = p.Since
		p.Partitions = int32(w.partitions.Load())
	default:
		first, _, err := w.cfg.Cluster.Offsets(ctx, schemas.TopicEvents, w.partition)
		if err != nil {
			return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicEvents, err)
		}
		p.Since, p.Next, p.LeaderEpoch = first, first, -1
	}
	if p.Partitions == 0 { // nobody has said so far
		if err := w.place(ctx, p); err != nil {
			return err
		}
	}
	p.Group, p.Partition = w.cfg.Group, int32(w.partition)
	p.EventsTopicID, p.ScoresTopicID = w.ids.events, w.ids.scores
	p.Writers = writers(p.Writers).with(w.owner.ProducerID(), at)
	return nil
}

// otherEvents refuses a topic of events that is not the one scored so far.
func (w *worker) otherEvents(p *schemas.Progress) error {
	return &refusal{reason: reasonEventsReplaced, why: fmt.Sprintf(
		"%s was created anew: events up to offset %d of the topic with id %s are scored, the topic of today has id %s. Offsets of the two say nothing of each other. Bring the old topic back, or create %s anew too and go on with %s",
		schemas.TopicEvents, p.Next, p.EventsTopicID, w.ids.events, schemas.TopicScores, w.acceptAdvice("first"))}
}

// start returns the offset to read from: the next one, or −1 for the first there
// is when none has been scored yet, as then nothing has been missed.
func (w *worker) start() int64 {
	if w.state.progress.Next == 0 {
		return -1
	}
	return w.state.progress.Next
}

// advance notes how far the events are dealt with.
func (w *worker) advance() { w.claim.position.Advance(w.start()) }

// source reads the events from the next one on.
func (w *worker) source() *kafka.Fetcher {
	return w.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
		Topic: schemas.TopicEvents, Partition: w.partition, Offset: w.start(), Position: w.claim.position,
	})
}

// use switches to a model; called between batches only, so that every batch is
// scored by one version.
func (w *worker) use(m *models.Version) {
	if w.model == m {
		return
	}
	if w.model == nil || w.model.Version != m.Version {
		w.log.Info("scoring with model", "version", m.Version, "label", schemas.Label(m.Horizon))
	}
	w.model = m
	model := engine.Model{
		Version: m.Version, Predictor: m.Predictor,
		Thresholds: scoring.Thresholds{Medium: m.MediumThreshold, High: m.HighThreshold},
	}
	if w.cfg.RescoreOnActivate {
		w.rescoring.begin(w.engine.Rescore(model))
	} else {
		w.engine.Use(model)
	}
}

// batch processes records and writes what follows from them. When ctx ends
// while a record has to wait, what came before it is written still.
func (w *worker) batch(ctx, finishing context.Context, records []kafka.Record) error {
	var stopped error
	w.placed = false
	for i := range records {
		r := &records[i]
		if invariants.Enabled && r.Offset < w.state.progress.Next {
			panic(fmt.Sprintf("scorer: the event at offset %d comes after the one at %d", r.Offset, w.state.progress.Next-1))
		}
		w.state.skip(r.Offset)
		if r.Offset <= w.state.watermark {
			stopped = w.count(ctx, r)
		} else {
			w.state.dirty = true
			stopped = w.process(ctx, r)
		}
		if stopped != nil {
			break
		}
		w.state.done(r)
		// One fetch may bring a batch that was compressed well.
		if w.outbox.full() {
			if err := w.flush(finishing); err != nil {
				return err
			}
		}
	}
	if err := w.flush(finishing); err != nil {
		return err
	}
	return stopped
}

// process applies one record to the state and adds what follows from it to the
// outbox.
func (w *worker) process(ctx context.Context, r *kafka.Record) error {
	kind, err := w.events.Read(ctx, r)
	if err != nil || kind == intake.Nothing {
		return err
	}
	home := homesOf(&w.state.progress).is(w.partition, r.Key)
	if !home {
		if err := w.checkGrowth(ctx, r.Key); err != nil {
			return err
		}
	}
	// From here on the event is dealt with.
	if again, err := w.repeated(ctx, r); err != nil {
		return err
	} else if again {
		w.metrics.duplicates.Inc()
		w.state.progress.Duplicates++
		return nil
	}
	switch {
	case w.passOn(r, kind):
		return nil
	case kind == intake.Tombstone:
		if !w.returned(r) {
			w.erase(r, home)
		}
		w.state.progress.Erasures++
		return nil
	}
	event := w.events.Message()
	if !home {
		w.notePlace(event.Source)
	}
	applied := w.engine.Apply(event, r.Offset)
	if applied.LateAttributes > 0 {
		w.metrics.late.Add(float64(applied.LateAttributes))
	}
	if applied.BaselessIncrements > 0 {
		w.metrics.baseless.Add(float64(applied.BaselessIncrements))
	}
	if applied.Saturated > 0 {
		w.metrics.saturated.Add(float64(applied.Saturated))
	}
	switch {
	case applied.TooManyLevels:
		w.outbox.letter(r, w.tooManyLevels(applied.Feature))
		w.state.progress.DeadLetters++
		return nil
	case applied.Score == nil:
		w.metrics.duplicates.Inc()
		w.state.progress.Duplicates++
		return nil
	}
	w.outbox.score(applied.Score)
	w.state.progress.Scored++
	return nil
}

// count counts an event whose effect is in the state: the owner of before wrote
// its score, if it has one, and ended before it wrote a marker.
func (w *worker) count(ctx context.Context, r *kafka.Record) error {
	p := &w.state.progress
	again, err := w.repeated(ctx, r)
	if err != nil {
		return err
	}
	if _, ok := w.state.ahead[r.Offset]; ok {
		delete(w.state.ahead, r.Offset)
		p.Scored++
		return nil
	}
	kind, err := w.counting.Read(ctx, r)
	if err != nil || kind == intake.Nothing {
		return err // poison is counted
	}
	switch {
	case again:
		p.Duplicates++
	case kind == intake.Tombstone:
		p.Erasures++
	case homesOf(p).was(w.partition, r.Key):
		p.Forwarded++
	default:
		p.Duplicates++ // or a level too many, which the state cannot tell any more
	}
	return nil
}

// tooManyLevels is why an event is not applied that brings a level too many.
func (w *worker) tooManyLevels(feature int) *schemas.PoisonError {
	return &schemas.PoisonError{
		Reason: schemas.ReasonTooManyLevels,
		Detail: fmt.Sprintf("%s would have more than %d different levels among the customers of this partition",
			w.cfg.Codec.Set().Spec().Feature(feature).Name, w.maxLevels),
	}
}

// eventTopic returns how events are read.
func (w *worker) eventTopic() intake.Topic[schemas.CustomerEvent] {
	topic := intake.Events(w.cfg.Codec)
	topic.Poison = func(_ context.Context, r *kafka.Record, why *schemas.PoisonError) error {
		w.outbox.letter(r, why)
		w.state.progress.DeadLetters++
		return nil
	}
	return topic
}

// erase removes a customer, here and for everyone downstream. Erasures are
// written to all partitions, as it may be that a customer's events lie where
// they do not belong. Where they do not lie either, nothing follows.
func (w *worker) erase(r *kafka.Record, home bool) {
	id := intake.CustomerID(w.cfg.Codec.Keys, r)
	if known := w.engine.Erase(id); known || home {
		w.outbox.erasure(id, r)
	}
}

// repair writes the valid record of customers after those that others wrote: a
// score of the latest event, or a tombstone.
func (w *worker) repair(ctx context.Context) error {
	return w.owner.repair(func(ids [][]byte) error { return w.writeRepairs(ctx, ids) })
}

func (w *worker) writeRepairs(ctx context.Context, ids [][]byte) error {
	w.state.dirty = true
	for _, id := range ids {
		if homesOf(&w.state.progress).was(w.partition, id) {
			continue // the valid record is elsewhere
		}
		if s := w.engine.Repair(id); s != nil {
			w.outbox.score(s)
		} else {
			w.outbox.tombstone(id, w.state.watermark)
		}
	}
	return w.flush(ctx)
}

// rescore scores some customers again, if that is due.
func (w *worker) rescore(ctx context.Context) error {
	n := w.rescoring.step(w.outbox.score)
	if n > 0 {
		w.state.dirty = true
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	w.rescoring.written(n, w.model.Version)
	return nil
}

// flush writes what is in the outbox; the state then is that of the topic.
func (w *worker) flush(ctx context.Context) error {
	p := &w.state.progress
	w.ledger.outdated = w.ledger.outdated || w.owner.overwritten
	due := w.ledger.due(p)
	if due {
		p.Customers = int64(w.state.customers.Len())
		w.outbox.mark(p)
	}
	if err := w.outbox.flush(ctx, w.append); err != nil {
		return err
	}
	if due {
		w.ledger.wrote(p)
		w.owner.overwritten = false
	}
	w.state.dirty = false
	w.gauges.hold(w.state.customers)
	return nil
}

// commit lets the group know how far the partition is read. Progress is in the
// output topic: a commit that fails only makes the lag look larger than it is.
func (w *worker) commit() {
	next := w.state.progress.Next
	if next == w.committed {
		return
	}
	if err := w.claim.commit(next, w.ids.scores); err != nil {
		w.log.Debug("committing the offset", "offset", next, "error", err)
		return
	}
	w.committed = next
}

// leave hands the partition over. The state stays in memory, where it is at
// hand if the partition comes back; when the scorer stops it goes to disk.
func (w *worker) leave(stopping bool) {
	w.snapshots.giveUp()
	w.metrics.forget(w.partition)
	if w.state == nil || w.state.dirty || len(w.owner.repairs) > 0 {
		return
	}
	if w.restored {
		w.commit()
		w.state.asOf = w.owner.LastWrite()
	}
	kept := !stopping && w.lost.keep(w.partition, w.state)
	if !kept && w.restored {
		w.snapshots.final(w.state, w.owner.LastWrite())
	}
}

// outlive returns a context that ends some time after ctx.
func outlive(ctx context.Context, by time.Duration) (context.Context, func()) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	detach := context.AfterFunc(ctx, func() {
		if by <= 0 {
			cancel()
			return
		}
		t := time.AfterFunc(by, cancel)
		context.AfterFunc(later, func() { t.Stop() })
	})
	return later, func() { detach(); cancel() }
}

// sourcePatience is how long a partition may look too short. A new leader
// learns only after a moment how far its log is valid.
const sourcePatience = 30 * time.Second

// checkSource makes sure that the events up to the next one are those that were
// scored.
func (w *worker) checkSource(ctx context.Context, p *schemas.Progress) error {
	for begin := time.Now(); ; {
		ids, err := w.topicIDs(ctx)
		if err != nil {
			return err
		}
		if different(p.EventsTopicID, ids.events) {
			return w.otherEvents(p)
		}
		end, err := w.sourceEnd(ctx, p)
		if err != nil {
			return err
		}
		if p.Next <= end {
			return nil
		}
		if time.Since(begin) >= w.sourcePatience {
			return &refusal{
				reason: reasonEventsCut,
				why: fmt.Sprintf("%s/%d has lost events: those up to offset %d are scored, and of these it has those before %d. Bring them back, or go on from what is left: %s",
					schemas.TopicEvents, w.partition, p.Next-1, end, w.acceptAdvice(fmt.Sprint(end))),
				passed: func(ctx context.Context) bool { end, err := w.sourceEnd(ctx, p); return err == nil && p.Next <= end },
			}
		}
		w.log.Warn("waiting for events that have been scored to be there again", "topic", schemas.TopicEvents, "end", end, "scored", p.Next-1)
		if !pause(ctx, retakePause, "events that have been scored are not there any more") {
			return ctx.Err()
		}
	}
}

// sourceEnd returns the offset up to which the events may be those that were
// scored: the end of the log, or of what it has of the leader under whom the last
// of them was written.
func (w *worker) sourceEnd(ctx context.Context, p *schemas.Progress) (int64, error) {
	_, end, err := w.cfg.Cluster.Offsets(ctx, schemas.TopicEvents, w.partition)
	if err != nil {
		return 0, fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicEvents, err)
	}
	if p.LeaderEpoch >= 0 && p.Next <= end {
		of, err := w.cfg.Cluster.EpochEnd(ctx, schemas.TopicEvents, w.partition, p.LeaderEpoch)
		if err != nil {
			return 0, fmt.Errorf("asking for the history of %s: %w", schemas.TopicEvents, err)
		}
		if of >= 0 {
			end = min(end, of)
		}
	}
	return end, nil
}
