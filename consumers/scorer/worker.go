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
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// claim is the right to work on a partition, as the group gives it.
type claim struct {
	partition int
	committed int64 // offset of events committed to the group, −1 if none
	commit    func(offset int64) error
	position  *kafka.Position // nil outside of a group
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
		claim.committed = max(claim.committed, w.committed)
		log := w.log
		switch {
		case ctx.Err() != nil:
			return nil
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
		case errors.Is(err, errShortened):
			// What was acknowledged is gone, and with it what the committed
			// offset relies on.
			log.Error("the broker has lost records of the output topic; going back to what is left", "error", err)
			claim.committed, claim.written = -1, 0
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

	// committed is the offset of events committed to the group, next the one
	// to read next.
	committed, next int64
}

func newWorker(s *Scorer, claim claim) *worker {
	site := newSite(s, claim.partition)
	owner := newOwner(site)
	w := &worker{
		site: site, claim: claim,
		owner: owner, append: owner.append,
		outbox:    outbox{site: site},
		rescoring: rescoring{site: site},
		snapshots: snapshotting{site: site},
		committed: claim.committed,
	}
	w.events = intake.NewReader(s.intake, w.eventTopic())
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
	}
}

func (w *worker) run(ctx context.Context) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	w.next = max(w.state.watermark+1, w.claim.committed, 0)
	w.advance()
	if err := w.checkSource(ctx); err != nil {
		return err
	}
	w.Scorer.restoring(w.partition, false)
	source := w.source()
	// A batch in hand is written even when ctx ends, so that the state stays
	// that of the topic and the next owner has nothing to do again.
	finishing, stop := outlive(ctx, w.grace)
	defer stop()
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
		if err := w.repair(finishing); err != nil {
			return err
		}
		records, err := source.Fetch(ctx)
		if err != nil {
			return fmt.Errorf("fetching from %s: %w", schemas.TopicEvents, err)
		}
		if source.Offset() < w.next || len(records) > 0 && records[0].Offset < w.next {
			// The log ends before what was read of it: its leader has lost the
			// rest, or does not know it yet.
			if err := w.checkSource(ctx); err != nil {
				return err
			}
			source = w.source()
			continue
		}
		if err := w.batch(ctx, finishing, records); err != nil {
			return err
		}
		w.next = source.Offset()
		w.advance()
		if err := w.rescore(finishing); err != nil {
			return err
		}
		w.snapshots.step(w.state, w.owner.lastWrite, len(w.owner.repairs) > 0)

		now := w.cfg.Now()
		if now.Sub(lastCommit) >= w.cfg.CommitInterval {
			lastCommit = now
			w.commit()
		}
	}
}

// take makes this worker the only writer of the output partition and then
// restores the state up to the marker by which it did.
func (w *worker) take(ctx context.Context) error {
	defer retry.Begin(ctx, "restoring the state from "+schemas.TopicScores)()
	started := w.cfg.Now()
	at, marker, err := w.owner.fence(ctx)
	if err != nil {
		return err
	}
	if at < w.claim.written {
		return fmt.Errorf("%w: a marker was given offset %d, after %d", errShortened, at, w.claim.written-1)
	}
	r := newRestorer(w.site)
	got, err := r.restore(ctx, at)
	if err != nil {
		w.state = r.state
		return fmt.Errorf("restoring the state: %w", err)
	}
	w.owner.adopt(got, at, marker)
	w.begin(got.state)
	w.restored = true
	w.snapshots.last = w.cfg.Now()
	took := w.snapshots.last.Sub(started)
	w.metrics.restored.WithLabelValues(got.from).Observe(took.Seconds())
	w.gauges.customers.Set(float64(w.state.customers.Len()))
	w.log.Info("state restored", "from", got.from, "customers", w.state.customers.Len(), "watermark", w.state.watermark,
		"committed", w.claim.committed, "repairs", len(got.repairs), "took", took)
	return nil
}

// start returns the offset to read from: the next one, or −1 for the first there
// is when none has been scored yet, as then nothing has been missed.
func (w *worker) start() int64 {
	if w.next == 0 {
		return -1
	}
	return w.next
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
		w.log.Info("scoring with model", "version", m.Version)
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
	for i := range records {
		r := &records[i]
		if r.Offset <= w.state.watermark {
			continue
		}
		if invariants.Enabled && r.Offset < w.next {
			panic(fmt.Sprintf("scorer: the event at offset %d comes after the one at %d", r.Offset, w.next-1))
		}
		w.state.dirty = true
		if stopped = w.process(ctx, r); stopped != nil {
			break
		}
		w.state.watermark = r.Offset
		w.next = r.Offset + 1
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
	switch {
	case err != nil || kind == intake.Nothing:
		return err
	case kind == intake.Tombstone:
		w.erase(r)
		return nil
	}
	event := w.events.Message()
	w.checkPlace(r.Key, event.Source)
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
	if applied.Score == nil {
		w.metrics.duplicates.Inc()
		return nil
	}
	w.outbox.score(applied.Score)
	return nil
}

// eventTopic returns how events are read.
func (w *worker) eventTopic() intake.Topic[schemas.CustomerEvent] {
	topic := intake.Events(w.cfg.Codec)
	topic.Poison = func(_ context.Context, r *kafka.Record, why *schemas.PoisonError) error {
		w.outbox.letter(r, why)
		return nil
	}
	return topic
}

// erase removes a customer, here and for everyone downstream. Erasures are
// written to all partitions, as it may be that a customer's events lie where
// they do not belong. Where they do not lie either, nothing follows.
func (w *worker) erase(r *kafka.Record) {
	id := intake.CustomerID(w.cfg.Codec.Keys, r)
	if known := w.engine.Erase(id); known || w.home(r.Key) {
		w.outbox.erasure(id, r)
	}
}

// repair writes the valid record of customers after those that others wrote: a
// score of the latest event, or a tombstone.
func (w *worker) repair(ctx context.Context) error {
	return w.owner.repair(func(ids [][]byte) error {
		w.state.dirty = true
		for _, id := range ids {
			if s := w.engine.Repair(id); s != nil {
				w.outbox.score(s)
			} else {
				w.outbox.tombstone(id, w.state.watermark)
			}
		}
		return w.flush(ctx)
	})
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
	if err := w.outbox.flush(ctx, w.append); err != nil {
		return err
	}
	w.state.dirty = false
	w.gauges.customers.Set(float64(w.state.customers.Len()))
	return nil
}

// commit lets the group know how far the partition is read. Progress is in the
// output topic: a commit that fails only makes the lag look larger than it is.
func (w *worker) commit() {
	if w.next <= w.committed {
		return
	}
	if err := w.claim.commit(w.next); err != nil {
		w.log.Debug("committing the offset", "offset", w.next, "error", err)
		return
	}
	w.committed = w.next
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
		w.state.asOf = w.owner.lastWrite
	}
	kept := !stopping && w.lost.keep(w.partition, w.state)
	if !kept && w.restored {
		w.snapshots.final(w.state, w.owner.lastWrite)
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

// ErrSourceShortened means that events up to an offset that does not exist
// have been scored: churn.customer-events was created anew or has lost records.
// Going on would take the events to come for known ones, and leave them out.
var ErrSourceShortened = errors.New("the topic of events is shorter than what was scored of it; create " + schemas.TopicScores + " anew too")

// sourcePatience is how long a partition may look too short. A new leader
// learns only after a moment how far its log is valid.
const sourcePatience = 30 * time.Second

// checkSource makes sure that the next event to score can exist.
func (w *worker) checkSource(ctx context.Context) error {
	for begin := time.Now(); ; {
		_, end, err := w.cfg.Cluster.Offsets(ctx, schemas.TopicEvents, w.partition)
		if err != nil {
			return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicEvents, err)
		}
		if w.next <= end {
			return nil
		}
		if time.Since(begin) > w.sourcePatience {
			return fmt.Errorf("%w (%s ends at %d, scored up to %d)", ErrSourceShortened, schemas.TopicEvents, end, w.next-1)
		}
		w.log.Warn("waiting for events that have been scored to be there again", "topic", schemas.TopicEvents, "end", end, "scored", w.next-1)
		if !pause(ctx, retakePause, "events that have been scored are not there any more") {
			return ctx.Err()
		}
	}
}
