package scorer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// headerOwner is the header of a marker that tells owners apart.
const headerOwner = "owner"

// markerKey is the key of the record by which a worker makes the broker refuse
// the former owner's writes. No customer id starts with a zero byte.
var markerKey = []byte("\x00fence")

// claim is the right to work on a partition, as the group gives it.
type claim struct {
	partition int
	committed int64 // offset of events committed to the group, −1 if none
	commit    func(offset int64) error
	// written is the offset behind the last record that a worker of this claim
	// has had acknowledged, or has read.
	written int64
}

// work owns one partition until ctx ends: it fences off the former owner,
// restores the state and scores. When ownership is lost it starts over, which
// is right whether or not the group has noticed already: the state is in the
// topic. running ends with the scorer, ctx already when the partition goes to
// another one.
func (s *Scorer) work(running, ctx context.Context, claim claim) error {
	log := s.log.With("partition", claim.partition)
	for {
		p := newPartition(s, claim, log)
		s.restoring(claim.partition, true)
		err := p.run(ctx)
		s.restoring(claim.partition, false)
		if p.restored {
			claim.written = p.state.reflected
		}
		if !s.killed.Load() {
			p.leave(running.Err() != nil)
		}
		claim.committed = max(claim.committed, p.committed)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, kafka.ErrFenced):
			// Another worker took the partition, so a rebalance is under way
			// and ends ctx. Taking the partition back at once would only make
			// the two fence each other.
			s.metrics.refenced.Inc()
			log.Warn("another scorer owns this partition now; waiting for the group to say so")
			if !wait(ctx, s.sessionTimeout()) {
				return nil
			}
		case errors.Is(err, kafka.ErrOutOfSequence):
			// Others may have written meanwhile; restoring finds what stands
			// behind the truth and has the truth written once more.
			s.metrics.refenced.Inc()
			log.Warn("the broker has forgotten this worker; taking the partition anew", "error", err)
			if !wait(ctx, retakePause) {
				return nil
			}
		case errors.Is(err, errShortened):
			// What was acknowledged is gone, and with it what the committed
			// offset relies on.
			log.Error("the broker has lost records of the output topic; going back to what is left", "error", err)
			claim.committed, claim.written = -1, 0
			if !wait(ctx, retakePause) {
				return nil
			}
		default:
			return fmt.Errorf("scoring partition %d: %w", claim.partition, err)
		}
	}
}

// retakePause is how long a worker waits before it takes its partition anew.
const retakePause = time.Second

// errShortened means that an append was given an offset that another record
// had already.
var errShortened = errors.New("the output partition has become shorter")

func (s *Scorer) sessionTimeout() time.Duration {
	if s.cfg.SessionTimeout > 0 {
		return s.cfg.SessionTimeout
	}
	return kafka.DefaultSessionTimeout
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// partition is the work on one partition from fencing to the end of ownership.
type partition struct {
	scorer *Scorer
	claim  claim
	log    *slog.Logger
	gauges gauges
	number int

	out       *kafka.FencedProducer
	owner     []byte // what tells this ownership's markers from others
	lastWrite time.Time
	renewed   time.Time // when the transactional id was last asked for
	state     *state
	restored  bool // up to this ownership's marker
	// dirty is set while the state is ahead of what was acknowledged.
	dirty bool
	// committed is the offset of events committed to the group, next the one
	// to read next.
	committed, next int64
	// repairs are customers behind whose true record others stand.
	repairs  [][]byte
	snapshot snapshotting
	rescored rescoring
	foreign  int // records found that its owner has not written

	// Reused from event to event.
	event    *schemas.CustomerEvent
	score    *schemas.ChurnScore // of the event in hand
	known    *schemas.ChurnScore // the customer's latest before it
	customer scoring.Customer
	nothing  scoring.Vector
	change   scoring.Change
	packed   []byte
	scratch  []byte
	model    *models.Version
	space    *scoring.Workspace
	lime     []float64
	shap     []float64
	order    []int

	// What one batch produces. Keys and values of scores lie in arena.
	arena    []byte
	scores   []kafka.Record
	headers  []kafka.Header
	occurred []int64
	letters  []schemas.DeadLetter
	aside    int            // bytes of records among them
	erasures []kafka.Record // for the topic of outcomes
}

func newPartition(s *Scorer, claim claim, log *slog.Logger) *partition {
	features := s.cfg.Codec.Set().Spec().Len()
	return &partition{
		scorer:    s,
		claim:     claim,
		log:       log,
		gauges:    s.metrics.of(claim.partition),
		number:    claim.partition,
		owner:     fmt.Appendf(nil, "%016x", rand.Uint64()),
		committed: claim.committed,
		event:     s.cfg.Codec.NewEvent(),
		score:     &schemas.ChurnScore{},
		known:     &schemas.ChurnScore{},
		nothing:   scoring.NewVector(features),
		lime:      make([]float64, features),
		shap:      make([]float64, features),
	}
}

func (p *partition) run(ctx context.Context) error {
	if err := p.fence(ctx); err != nil {
		return err
	}
	p.next = max(p.state.watermark+1, p.claim.committed, 0)
	if err := p.checkSource(ctx); err != nil {
		return err
	}
	p.scorer.restoring(p.number, false)
	source := p.source()
	// A batch in hand is written even when ctx ends, so that the state stays
	// that of the topic and the next owner has nothing to do again.
	finishing, stop := outlive(ctx, p.scorer.grace)
	defer stop()
	lastCommit := p.scorer.cfg.Now()
	for {
		model, err := p.scorer.model(ctx, p.scorer.cfg.MarkerInterval)
		if err != nil {
			return err
		}
		if err := p.stayOwner(finishing); err != nil {
			return err
		}
		if model == nil {
			continue
		}
		p.use(model)
		if err := p.repair(finishing); err != nil {
			return err
		}
		records, err := source.Fetch(ctx)
		if err != nil {
			return fmt.Errorf("fetching from %s: %w", schemas.TopicEvents, err)
		}
		if source.Offset() < p.next || len(records) > 0 && records[0].Offset < p.next {
			// The log ends before what was read of it: its leader has lost the
			// rest, or does not know it yet.
			if err := p.checkSource(ctx); err != nil {
				return err
			}
			source = p.source()
			continue
		}
		if err := p.batch(ctx, finishing, records); err != nil {
			return err
		}
		p.next = source.Offset()
		p.gauges.lag.Set(float64(max(0, source.HighWatermark()-p.next)))
		if err := p.rescore(finishing); err != nil {
			return err
		}
		p.takeSnapshot()

		now := p.scorer.cfg.Now()
		if now.Sub(lastCommit) >= p.scorer.cfg.CommitInterval {
			lastCommit = now
			p.commit()
		}
	}
}

// source reads the events from the next one on.
func (p *partition) source() *kafka.Fetcher {
	offset := p.next
	if offset == 0 {
		offset = -1 // from the first there is: nothing has been missed
	}
	return p.scorer.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
		Topic: schemas.TopicEvents, Partition: p.number, Offset: offset,
	})
}

// stayOwner keeps the broker from forgetting whose the output partition is.
func (p *partition) stayOwner(ctx context.Context) error {
	now := p.scorer.cfg.Now()
	renew := now.Sub(p.renewed) >= p.scorer.cfg.RenewInterval
	if renew {
		if err := p.out.Renew(ctx); err != nil {
			return err
		}
		p.renewed = now
	}
	// The new epoch counts from the first append under it.
	if renew || now.Sub(p.lastWrite) >= p.scorer.cfg.MarkerInterval {
		return p.mark(ctx)
	}
	return nil
}

// batch processes records and writes what follows from them. When ctx ends
// while a record has to wait, what came before it is written still.
func (p *partition) batch(ctx, finishing context.Context, records []kafka.Record) error {
	var stopped error
	for i := range records {
		if records[i].Offset <= p.state.watermark {
			continue
		}
		p.dirty = true
		if stopped = p.process(ctx, &records[i]); stopped != nil {
			break
		}
		p.state.watermark = records[i].Offset
		p.next = records[i].Offset + 1
		// One fetch may bring a batch that was compressed well.
		if len(p.arena)+p.aside >= flushBytes {
			if err := p.flush(finishing); err != nil {
				return err
			}
		}
	}
	if err := p.flush(finishing); err != nil {
		return err
	}
	return stopped
}

// flushBytes is how much is made of a batch before it is written.
const flushBytes = 8 << 20

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

// commit tells the group how far the partition is read. Progress is in the
// output topic: a commit that fails only makes the lag look larger than it is.
func (p *partition) commit() {
	if p.next <= p.committed {
		return
	}
	if err := p.claim.commit(p.next); err != nil {
		p.log.Debug("committing the offset", "error", err)
		return
	}
	p.committed = p.next
}

// leave hands the partition over. The state stays in memory, where it is at
// hand if the partition comes back; when the scorer stops it goes to disk.
func (p *partition) leave(stopping bool) {
	p.snapshot.giveUp()
	p.scorer.metrics.forget(p.number)
	if p.state == nil || p.dirty || len(p.repairs) > 0 {
		return
	}
	if p.restored {
		p.commit()
		p.state.asOf = p.lastWrite
	}
	kept := !stopping && p.scorer.lost.keep(p.number, p.state)
	if !kept && p.restored {
		p.finalSnapshot()
	}
}

// fence makes this worker the only writer of the output partition and then
// restores the state. The marker comes first: the broker refuses the former
// owner from the first append under the new epoch on, so nothing of its can
// appear behind what restore reads.
func (p *partition) fence(ctx context.Context) error {
	started := p.scorer.cfg.Now()
	out, err := p.scorer.cfg.Cluster.Fence(ctx, kafka.FenceConfig{
		TransactionalID: fmt.Sprintf("%s-%d", p.scorer.cfg.Group, p.number),
		Topic:           schemas.TopicScores,
		Partition:       p.number,
	})
	if err != nil {
		return fmt.Errorf("taking the ownership of %s: %w", schemas.TopicScores, err)
	}
	p.out, p.renewed = out, started
	marker := p.marker()
	at, err := p.append(ctx, marker)
	if err != nil {
		return err
	}
	if at < p.claim.written {
		return fmt.Errorf("%w: a marker was given offset %d, after %d", errShortened, at, p.claim.written-1)
	}
	from, err := p.restore(ctx, at)
	if err != nil {
		return fmt.Errorf("restoring the state: %w", err)
	}
	p.state.remember(at, &marker[0])
	p.state.reflected = at + 1
	p.restored = true
	p.snapshot.last = p.scorer.cfg.Now()
	took := p.snapshot.last.Sub(started)
	m := p.scorer.metrics
	m.restored.WithLabelValues(from).Observe(took.Seconds())
	p.gauges.customers.Set(float64(p.state.customers.len()))
	p.log.Info("state restored", "from", from, "customers", p.state.customers.len(), "watermark", p.state.watermark,
		"committed", p.claim.committed, "repairs", len(p.repairs), "took", took)
	return nil
}

// ErrSourceShortened means that events up to an offset that does not exist
// have been scored: churn.customer-events was created anew or has lost records.
// Going on would take the events to come for known ones, and leave them out.
var ErrSourceShortened = errors.New("the topic of events is shorter than what was scored of it; create " + schemas.TopicScores + " anew too")

// sourcePatience is how long a partition may look too short. A new leader
// learns only after a moment how far its log counts.
const sourcePatience = 30 * time.Second

// checkSource makes sure that the next event to score can exist.
func (p *partition) checkSource(ctx context.Context) error {
	for begin := time.Now(); ; {
		_, end, err := p.scorer.cfg.Cluster.Offsets(ctx, schemas.TopicEvents, p.number)
		if err != nil {
			return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicEvents, err)
		}
		if p.next <= end {
			return nil
		}
		if time.Since(begin) > p.scorer.sourcePatience {
			return fmt.Errorf("%w (%s ends at %d, scored up to %d)", ErrSourceShortened, schemas.TopicEvents, end, p.next-1)
		}
		p.log.Warn("waiting for events that have been scored to be there again", "topic", schemas.TopicEvents, "end", end, "scored", p.next-1)
		if !wait(ctx, retakePause) {
			return ctx.Err()
		}
	}
}

// marker returns the record by which ownership is taken and kept.
func (p *partition) marker() []kafka.Record {
	// Without a value it is a tombstone: compaction removes it in time, and
	// consumers that know nothing of markers see the deletion of a customer
	// nobody has.
	return []kafka.Record{{
		Key: markerKey, Time: p.scorer.cfg.Now(), Headers: []kafka.Header{{Key: headerOwner, Value: p.owner}},
	}}
}

func (p *partition) mark(ctx context.Context) error {
	marker := p.marker()
	at, err := p.append(ctx, marker)
	if err != nil {
		return err
	}
	p.dirty = true // until what others may have written is known
	if err := p.follow(ctx, at, marker); err != nil {
		return err
	}
	p.dirty = false
	return nil
}

// append appends to the output partition.
func (p *partition) append(ctx context.Context, records []kafka.Record) (base int64, err error) {
	began := p.scorer.cfg.Now()
	base, err = p.out.Append(ctx, records)
	if err != nil {
		return 0, fmt.Errorf("appending to %s: %w", schemas.TopicScores, err)
	}
	p.lastWrite = began
	return base, nil
}

// follow notes that records were appended at base. This worker knows where
// they belong: if there is a gap, someone else has written into it.
func (p *partition) follow(ctx context.Context, base int64, records []kafka.Record) error {
	expected := p.state.reflected
	if base < expected {
		return fmt.Errorf("%w: a record was given offset %d, after %d", errShortened, base, expected-1)
	}
	n := len(records)
	p.state.reflected = base + int64(n)
	p.state.remember(p.state.reflected-1, &records[n-1])
	p.state.complete = p.state.watermark
	if base > expected {
		return p.inspect(ctx, expected, base)
	}
	return nil
}

// inspect reads what others have written into the output partition and notes
// the customers whose true record has to be written behind it.
func (p *partition) inspect(ctx context.Context, from, to int64) error {
	f := p.scorer.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
		Topic: schemas.TopicScores, Partition: p.number, Offset: from,
	})
	seen := map[string]bool{}
	for f.Offset() < to {
		records, err := f.Fetch(ctx)
		if err != nil {
			return fmt.Errorf("fetching from %s: %w", schemas.TopicScores, err)
		}
		for _, r := range records {
			if r.Offset >= to {
				break
			}
			if len(r.Key) == 0 || isMarker(r.Key) {
				continue
			}
			p.foreignRecord(r.Offset, "it was written while this worker owned the partition")
			seen[string(r.Key)] = true
		}
	}
	for id := range seen {
		p.repairs = append(p.repairs, []byte(id))
	}
	return nil
}

// foreignRecord counts a record of the output partition that its owner has not
// written, and names the first few in the log.
func (p *partition) foreignRecord(offset int64, problem string) {
	const named = 10
	p.scorer.metrics.foreign.Inc()
	if p.foreign++; p.foreign <= named {
		p.log.Warn("a record stands in the output topic that its owner has not written",
			"topic", schemas.TopicScores, "offset", offset, "problem", problem)
	}
	if p.foreign == named {
		p.log.Warn("more such records are only counted")
	}
}

// repair writes the truth about customers behind what others wrote about
// them: a score of the latest event, or a tombstone.
func (p *partition) repair(ctx context.Context) error {
	for len(p.repairs) > 0 {
		p.dirty = true
		n := min(len(p.repairs), repairBatch)
		for _, id := range p.repairs[:n] {
			if record := p.state.customers.get(id); record != nil {
				p.scoreAgain(record)
			} else {
				p.emit(kafka.Record{Key: p.keep(id), Time: p.scorer.cfg.Now()}, p.state.watermark)
			}
		}
		if err := p.flush(ctx); err != nil {
			return err
		}
		p.scorer.metrics.repaired.Add(float64(n))
		p.log.Info("wrote the truth behind records of others", "topic", schemas.TopicScores, "customers", n)
		p.repairs = p.repairs[n:]
	}
	return nil
}

// repairBatch bounds how many records are made before they are written.
const repairBatch = 1000

// use switches to a model; called between batches only, so that every batch is
// scored by one version.
func (p *partition) use(m *models.Version) {
	if p.model == m {
		return
	}
	if p.model == nil || p.model.Version != m.Version {
		p.log.Info("scoring with model", "version", m.Version)
	}
	p.model = m
	p.space = m.Predictor.NewWorkspace()
	p.rescored = rescoring{due: p.scorer.cfg.RescoreOnActivate, last: p.scorer.cfg.Now()}
}

// process applies one record to the state and adds what follows from it to the
// batch.
func (p *partition) process(ctx context.Context, r *kafka.Record) error {
	m := p.scorer.metrics
	if r.Value == nil && len(r.Key) > 0 && !isMarker(r.Key) {
		p.erase(r)
		return nil
	}
	poison, err := p.decode(ctx, r)
	if err != nil {
		return err
	}
	if poison != nil {
		p.setAside(r, poison)
		return nil
	}
	ev := p.event
	p.checkPlace(ev.CustomerID, ev.Source)
	p.recall(ev.CustomerID)
	p.change = scoring.Change{
		OccurredAt: ev.OccurredAt,
		Set:        ev.Changes,
		Add:        ev.Increments,
	}
	if len(ev.EventID) > 0 { // those without an id are not the same event
		p.change.EventHash = scoring.HashEvent(ev.EventID)
	}
	applied := p.customer.Apply(&p.change)
	if applied.LateAttributes > 0 {
		m.late.Add(float64(applied.LateAttributes))
	}
	if applied.BaselessIncrements > 0 {
		m.baseless.Add(float64(applied.BaselessIncrements))
	}
	if !applied.Applied {
		m.duplicates.Inc()
		return nil
	}
	p.scorer.rounding.apply(p.customer.Values)
	p.scoreEvent(r)
	return nil
}

// recall sets p.customer to what is known of a customer.
func (p *partition) recall(id []byte) {
	record := p.state.customers.get(id)
	if record == nil {
		p.customer.Restore(p.nothing, 0, nil, nil, scoring.Missing)
		return
	}
	p.unpack(record, p.known)
	s := p.known
	p.customer.Restore(s.Attributes, s.OccurredAt, s.AttributeAges, s.RecentEvents, s.Probability)
}

func (p *partition) unpack(record []byte, s *schemas.ChurnScore) {
	var err error
	if p.scratch, err = p.scorer.packing.unpack(record, s, p.scratch[:0]); err != nil {
		panic("scorer: a record in memory: " + err.Error())
	}
}

// decode reads the event into p.event. It returns a reason for a dead letter,
// or an error when ctx ended before the registry answered.
func (p *partition) decode(ctx context.Context, r *kafka.Record) (poison *schemas.PoisonError, err error) {
	err = p.scorer.cfg.Codec.DecodeEvent(ctx, r.Value, p.event)
	if err != nil {
		var isPoison bool
		if poison, isPoison = schemas.AsPoison(err); !isPoison {
			err = kafka.Retry(ctx, p.log, "decoding an event", func(ctx context.Context) error {
				err := p.scorer.cfg.Codec.DecodeEvent(ctx, r.Value, p.event)
				if poison, isPoison = schemas.AsPoison(err); isPoison {
					return nil
				}
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		if poison != nil {
			return poison, nil
		}
	}
	id := p.event.CustomerID
	switch {
	case isMarker(id):
		return &schemas.PoisonError{Reason: schemas.ReasonInvalidValue, Detail: "customer_id starts with a zero byte"}, nil
	case !bytes.Equal(r.Key, id):
		return &schemas.PoisonError{Reason: schemas.ReasonKeyMismatch, Detail: "the record's key is not its customer_id; produce with key = customer_id"}, nil
	}
	return nil, nil
}

// erase removes a customer, here and for everyone downstream. Erasures are
// written to all partitions, as it may be that a customer's events lie where
// they do not belong. Where they do not lie either, nothing follows.
func (p *partition) erase(r *kafka.Record) {
	if known := p.state.customers.remove(r.Key); !known && !p.home(r.Key) {
		return
	}
	key := p.keep(r.Key)
	p.emit(kafka.Record{Key: key, Time: p.scorer.cfg.Now()}, r.Offset)
	// What is written of the customer from now on, here too, is of a new one,
	// though the broker may stamp this tombstone later.
	at := strconv.AppendInt(nil, r.Time.UnixMilli(), 10)
	p.erasures = append(p.erasures, kafka.Record{Key: key, Headers: []kafka.Header{{Key: deadletters.HeaderWrittenAt, Value: at}}})
	p.scorer.metrics.erased.Inc()
}

// eraseOutcomes has the outcomes of erased customers forgotten. Their topic
// keeps them for as long as there are models to train, which is longer than a
// tombstone stands among the scores.
func (p *partition) eraseOutcomes(ctx context.Context) error {
	if len(p.erasures) == 0 {
		return nil
	}
	err := p.scorer.producer.Produce(ctx, schemas.TopicOutcomes, p.erasures...)
	if err != nil && !errors.Is(err, kafka.ErrUnknownTopic) { // else there are none
		return fmt.Errorf("erasing outcomes: %w", err)
	}
	p.erasures = p.erasures[:0]
	return nil
}

// keep copies b into the batch's arena. Slices of an arena that has grown
// since stay valid: what they point to is not written again.
func (p *partition) keep(b []byte) []byte {
	start := len(p.arena)
	p.arena = append(p.arena, b...)
	return p.arena[start:len(p.arena):len(p.arena)]
}

// emit adds a record to the batch, with the source position in its headers.
func (p *partition) emit(out kafka.Record, sourceOffset int64) {
	start := len(p.arena)
	p.arena = strconv.AppendInt(p.arena, int64(p.number), 10)
	mid := len(p.arena)
	p.arena = strconv.AppendInt(p.arena, sourceOffset, 10)
	end := len(p.arena)
	h := len(p.headers)
	p.headers = append(p.headers,
		kafka.Header{Key: schemas.HeaderSourcePartition, Value: p.arena[start:mid:mid]},
		kafka.Header{Key: schemas.HeaderSourceOffset, Value: p.arena[mid:end:end]})
	out.Headers = p.headers[h : h+2 : h+2]
	p.scores = append(p.scores, out)
}

// scoreEvent scores p.customer after the event in hand and adds the score to
// the batch.
func (p *partition) scoreEvent(r *kafka.Record) {
	ev, s := p.event, p.score
	s.CustomerID = ev.CustomerID
	s.EventID = ev.EventID
	s.OccurredAt = ev.OccurredAt
	s.Previous = p.customer.Probability
	s.Attributes = p.customer.Values
	s.AttributeAges = p.customer.Ages(s.AttributeAges[:0], ev.OccurredAt)
	s.RecentEvents = p.customer.RecentEvents(s.RecentEvents[:0])
	s.SourceOffset = r.Offset
	p.add(s)
	p.occurred = append(p.occurred, ev.OccurredAt)
}

// scoreAgain adds a new score of a packed customer to the batch, under the
// model in use, for the event that the latest one rests on.
func (p *partition) scoreAgain(record []byte) {
	s := p.known
	p.unpack(record, s)
	s.Previous = s.Probability
	if s.ModelVersion == p.model.Version {
		s.Previous = scoring.Missing // it is the same score; the one before is not known any more
	}
	p.add(s)
}

// add completes a score of which the customer and the event are given, adds it
// to the batch and keeps it as the customer's state.
func (p *partition) add(s *schemas.ChurnScore) {
	m, x, now := p.model, s.Attributes, p.scorer.cfg.Now()
	s.ScoredAt = now.UnixMilli()
	s.ModelVersion = m.Version
	s.Probability = m.Predictor.Probability(x)
	s.Risk = m.Risk(s.Probability)
	s.ExpectedProbability = m.Predictor.ExpectedProbability()
	p.explain(s)
	s.Missing = m.Predictor.Missing(s.Missing[:0], x)
	for _, f := range s.Missing {
		p.scorer.metrics.missing[f].Inc()
	}
	s.SourcePartition = int32(p.number)
	s.HasBestChange = false
	if p.scorer.cfg.BestChange && s.Risk == schemas.RiskHigh {
		b := &s.BestChange
		b.Feature, b.Value, b.Probability, s.HasBestChange = m.Predictor.BestChange(x, p.space)
	}

	key := p.keep(s.CustomerID)
	start := len(p.arena)
	p.arena = p.scorer.cfg.Codec.AppendScore(p.arena, s)
	value := p.arena[start:len(p.arena):len(p.arena)]
	p.emit(kafka.Record{Key: key, Value: value, Time: now}, s.SourceOffset)
	p.packed = p.scorer.packing.append(p.packed[:0], s)
	p.state.customers.put(p.packed)
}

// explain fills the score's explanations with the features of greatest weight.
func (p *partition) explain(s *schemas.ChurnScore) {
	m, cfg, x := p.model, &p.scorer.cfg, s.Attributes
	s.Explanations = s.Explanations[:0]
	if cfg.Explain == ExplainNone {
		return
	}
	var weights []float64
	if cfg.Explain != ExplainLIME {
		p.shap = m.Predictor.SHAP(p.shap, x, p.space)
		weights = p.shap
	}
	if cfg.Explain != ExplainSHAP {
		p.lime = m.Predictor.LIME(p.lime, x, p.space)
		weights = p.lime
	}
	p.order = scoring.TopByMagnitude(p.order[:0], weights, cfg.Reasons)
	for _, f := range p.order {
		e := schemas.Explanation{Feature: f, LIME: scoring.Missing, SHAP: scoring.Missing}
		if cfg.Explain != ExplainSHAP {
			e.LIME = p.lime[f]
		}
		if cfg.Explain != ExplainLIME {
			e.SHAP = p.shap[f]
		}
		s.Explanations = append(s.Explanations, e)
	}
}

// setAside adds a dead letter to the batch.
func (p *partition) setAside(r *kafka.Record, why *schemas.PoisonError) {
	p.letters = append(p.letters, p.scorer.letters.Letter(r, why, p.scorer.cfg.Now()))
	p.aside += len(p.letters[len(p.letters)-1].Value)
	p.scorer.metrics.letters.WithLabelValues(string(why.Reason)).Inc()
	p.log.Warn("record set aside as a dead letter", "reason", why.Reason, "detail", why.Detail,
		"topic", schemas.TopicEvents, "offset", r.Offset)
}

// flush writes the batch: dead letters and erasures of outcomes first, because
// the scores behind them move the watermark past their source offsets.
func (p *partition) flush(ctx context.Context) error {
	if err := p.scorer.letters.Write(ctx, p.letters...); err != nil {
		return err
	}
	p.letters, p.aside = p.letters[:0], 0
	if err := p.eraseOutcomes(ctx); err != nil {
		return err
	}
	if len(p.scores) == 0 {
		p.dirty = false
		return nil
	}
	base, err := p.append(ctx, p.scores)
	if err != nil {
		return err
	}
	if err := p.follow(ctx, base, p.scores); err != nil {
		return err
	}
	p.dirty = false
	now := p.scorer.cfg.Now()
	m := p.scorer.metrics
	m.scored.Add(float64(len(p.occurred)))
	for _, t := range p.occurred {
		m.latency.Observe(max(0, float64(now.UnixMilli()-t)/1000))
	}
	p.gauges.customers.Set(float64(p.state.customers.len()))
	p.arena, p.scores, p.headers, p.occurred = p.arena[:0], p.scores[:0], p.headers[:0], p.occurred[:0]
	if cap(p.arena) > 2*flushBytes {
		p.arena = nil
	}
	return nil
}
