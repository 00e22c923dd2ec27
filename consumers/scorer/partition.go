package scorer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"churnstream/internal/kafka"
	"churnstream/internal/models"
	"churnstream/schemas"
	"churnstream/scoring"
)

// Header keys that carry the source position of a score, also on the
// tombstone of an erased customer, which has no value to carry it.
const (
	HeaderSourcePartition = "source-partition"
	HeaderSourceOffset    = "source-offset"
)

// markerKey is the key of the record by which a worker makes the broker refuse
// the former owner's writes. No customer id starts with a zero byte.
var markerKey = []byte("\x00fence")

// maxIDBytes bounds a customer id.
const maxIDBytes = 256

// work owns one partition until ctx ends: it fences off the former owner,
// restores the state and scores. When ownership is lost it starts over, which
// is right whether or not the group has noticed already: the state is in the
// topic.
func (s *Scorer) work(ctx context.Context, claim *kafka.Claim) error {
	log := s.log.With("partition", claim.Partition)
	for {
		p := newPartition(s, claim, log)
		err := p.run(ctx)
		p.forget()
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
			s.metrics.refenced.Inc()
			log.Warn("the broker has forgotten this worker; taking the partition anew", "error", err)
			if !wait(ctx, time.Second) {
				return nil
			}
		default:
			return fmt.Errorf("scoring partition %d: %w", claim.Partition, err)
		}
	}
}

func (s *Scorer) sessionTimeout() time.Duration {
	if s.cfg.SessionTimeout > 0 {
		return s.cfg.SessionTimeout
	}
	return 30 * time.Second
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

// entry is what a worker knows of one customer.
type entry struct {
	customer *scoring.Customer
	// offset is the source offset of the latest score, by which restore tells
	// which of two scores is newer.
	offset int64
}

// partition is the work on one partition from fencing to the end of ownership.
type partition struct {
	scorer *Scorer
	claim  *kafka.Claim
	log    *slog.Logger
	number int

	out       *kafka.FencedProducer
	lastWrite time.Time
	customers map[string]*entry
	// watermark is the highest source offset whose effect is in the state.
	watermark int64
	features  int

	// Reused from event to event.
	event  *schemas.CustomerEvent
	score  *schemas.ChurnScore
	change scoring.Change
	model  *models.Version
	space  *scoring.Workspace
	lime   []float64
	shap   []float64
	order  []int

	// What one batch produces. Keys and values of scores lie in arena.
	arena    []byte
	scores   []kafka.Record
	headers  []kafka.Header
	occurred []int64
	letters  []kafka.Record
}

func newPartition(s *Scorer, claim *kafka.Claim, log *slog.Logger) *partition {
	return &partition{
		scorer:    s,
		claim:     claim,
		log:       log,
		number:    claim.Partition,
		customers: map[string]*entry{},
		watermark: -1,
		features:  s.cfg.Codec.Set().Spec().Len(),
		event:     s.cfg.Codec.NewEvent(),
		score:     &schemas.ChurnScore{},
	}
}

// add makes the state of a customer of whom nothing is known yet.
func (p *partition) add(id []byte) *entry {
	e := &entry{customer: scoring.NewCustomer(p.features), offset: -1}
	p.customers[string(id)] = e
	return e
}

// forget removes the partition from the metrics: another scorer reports it now.
func (p *partition) forget() {
	m := p.scorer.metrics
	m.lag.DeleteLabelValues(label(p.number))
	m.customers.DeleteLabelValues(label(p.number))
	m.restoring.DeleteLabelValues(label(p.number))
}

func (p *partition) run(ctx context.Context) error {
	if err := p.fence(ctx); err != nil {
		return err
	}
	next := max(p.watermark+1, p.claim.Committed, 0)
	source := p.scorer.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
		Topic: schemas.TopicEvents, Partition: p.number, Offset: next,
	})
	committed, lastCommit := p.claim.Committed, p.scorer.cfg.Now()
	for {
		model, err := p.scorer.model(ctx)
		if err != nil {
			return err
		}
		p.use(model)
		records, err := source.Fetch(ctx)
		if err != nil {
			return fmt.Errorf("fetching from %s: %w", schemas.TopicEvents, err)
		}
		for i := range records {
			if records[i].Offset <= p.watermark {
				continue
			}
			if err := p.process(ctx, &records[i]); err != nil {
				return err
			}
			p.watermark = records[i].Offset
		}
		if err := p.flush(ctx); err != nil {
			return err
		}
		p.scorer.metrics.lag.WithLabelValues(label(p.number)).Set(float64(max(0, source.HighWatermark()-source.Offset())))

		now := p.scorer.cfg.Now()
		if source.Offset() > committed && now.Sub(lastCommit) >= p.scorer.cfg.CommitInterval {
			lastCommit = now
			if err := p.claim.Commit(source.Offset()); err != nil {
				// Progress is in the output topic: a commit that fails only
				// makes the lag look larger than it is.
				p.log.Debug("committing the offset", "error", err)
			} else {
				committed = source.Offset()
			}
		}
		if now.Sub(p.lastWrite) >= p.scorer.cfg.MarkerInterval {
			if _, err := p.mark(ctx); err != nil {
				return err
			}
		}
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
	p.out = out
	marker, err := p.mark(ctx)
	if err != nil {
		return err
	}
	if err := p.restore(ctx, marker); err != nil {
		return fmt.Errorf("restoring the state: %w", err)
	}
	took := p.scorer.cfg.Now().Sub(started)
	p.scorer.metrics.restored.Observe(took.Seconds())
	p.log.Info("state restored", "customers", len(p.customers), "watermark", p.watermark, "committed", p.claim.Committed, "took", took)
	return nil
}

func (p *partition) mark(ctx context.Context) (offset int64, err error) {
	p.lastWrite = p.scorer.cfg.Now()
	// Without a value it is a tombstone: compaction removes it in time, and
	// consumers that know nothing of markers see the deletion of a customer
	// nobody has.
	offset, err = p.out.Append(ctx, []kafka.Record{{Key: markerKey, Time: p.lastWrite}})
	if err != nil {
		return 0, fmt.Errorf("appending a marker to %s: %w", schemas.TopicScores, err)
	}
	return offset, nil
}

// restore rebuilds the state from the output partition up to the marker.
func (p *partition) restore(ctx context.Context, marker int64) error {
	first, _, err := p.scorer.cfg.Cluster.Offsets(ctx, schemas.TopicScores, p.number)
	if err != nil {
		return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicScores, err)
	}
	score := p.scorer.cfg.Codec.NewScore()
	remaining := p.scorer.metrics.restoring.WithLabelValues(label(p.number))
	out := p.scorer.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
		Topic: schemas.TopicScores, Partition: p.number, Offset: first,
	})
	for out.Offset() < marker {
		remaining.Set(float64(marker - out.Offset()))
		records, err := out.Fetch(ctx)
		if err != nil {
			return fmt.Errorf("fetching from %s: %w", schemas.TopicScores, err)
		}
		for i := range records {
			if records[i].Offset >= marker {
				break
			}
			if err := p.restoreRecord(ctx, &records[i], score); err != nil {
				return err
			}
		}
	}
	remaining.Set(0)
	p.scorer.metrics.customers.WithLabelValues(label(p.number)).Set(float64(len(p.customers)))
	return nil
}

// restoreRecord takes one record of the output partition into the state; s is
// for reuse.
func (p *partition) restoreRecord(ctx context.Context, r *kafka.Record, s *schemas.ChurnScore) error {
	if isMarker(r.Key) {
		return nil
	}
	if r.Value == nil {
		delete(p.customers, string(r.Key))
		if offset, ok := sourceOffset(r.Headers); ok {
			p.watermark = max(p.watermark, offset)
		}
		return nil
	}
	err := kafka.Retry(ctx, p.log, "decoding a score", func(ctx context.Context) error {
		err := p.scorer.cfg.Codec.DecodeScore(ctx, r.Value, s)
		if _, poison := schemas.AsPoison(err); poison {
			p.scorer.metrics.foreign.Inc()
			p.log.Warn("a record that is not a score stands in the output topic; leaving it out",
				"topic", schemas.TopicScores, "offset", r.Offset, "error", err)
			s.CustomerID = nil
			return nil
		}
		return err
	})
	if err != nil || s.CustomerID == nil {
		return err
	}
	e := p.customers[string(s.CustomerID)]
	if e == nil {
		e = p.add(s.CustomerID)
	}
	if s.SourceOffset < e.offset {
		return nil
	}
	e.offset = s.SourceOffset
	e.customer.Restore(s.Attributes, s.OccurredAt, s.AttributeAges, s.RecentEvents, s.Probability)
	p.watermark = max(p.watermark, s.SourceOffset)
	return nil
}

func isMarker(key []byte) bool { return len(key) > 0 && key[0] == 0 }

func sourceOffset(headers []kafka.Header) (int64, bool) {
	for _, h := range headers {
		if h.Key == HeaderSourceOffset {
			n, err := strconv.ParseInt(string(h.Value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

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
	p.lime = make([]float64, p.features)
	p.shap = make([]float64, p.features)
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
	e := p.customers[string(ev.CustomerID)]
	if e == nil {
		e = p.add(ev.CustomerID)
	}
	p.change = scoring.Change{
		EventHash:  scoring.HashEvent(ev.EventID),
		OccurredAt: ev.OccurredAt,
		Set:        ev.Changes,
		Add:        ev.Increments,
	}
	applied := e.customer.Apply(&p.change)
	m.late.Add(float64(applied.LateAttributes))
	m.baseless.Add(float64(applied.BaselessIncrements))
	if !applied.Applied {
		m.duplicates.Inc()
		return nil
	}
	e.offset = r.Offset
	p.scoreCustomer(e, r)
	return nil
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
	case len(id) > maxIDBytes:
		return &schemas.PoisonError{Reason: schemas.ReasonTooLarge, Detail: fmt.Sprintf("customer_id of %d bytes, at most %d are allowed", len(id), maxIDBytes)}, nil
	case isMarker(id):
		return &schemas.PoisonError{Reason: schemas.ReasonInvalidValue, Detail: "customer_id starts with a zero byte"}, nil
	case !bytes.Equal(r.Key, id):
		return &schemas.PoisonError{Reason: schemas.ReasonKeyMismatch, Detail: "the record's key is not its customer_id; produce with key = customer_id"}, nil
	}
	return nil, nil
}

// erase removes a customer, here and for everyone downstream.
func (p *partition) erase(r *kafka.Record) {
	delete(p.customers, string(r.Key))
	key := p.keep(r.Key)
	p.emit(kafka.Record{Key: key, Time: p.scorer.cfg.Now()}, r.Offset)
	p.scorer.metrics.erased.Inc()
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
		kafka.Header{Key: HeaderSourcePartition, Value: p.arena[start:mid:mid]},
		kafka.Header{Key: HeaderSourceOffset, Value: p.arena[mid:end:end]})
	out.Headers = p.headers[h : h+2 : h+2]
	p.scores = append(p.scores, out)
}

// scoreCustomer computes the customer's score and adds it to the batch.
func (p *partition) scoreCustomer(e *entry, r *kafka.Record) {
	ev, s, m := p.event, p.score, p.model
	x := e.customer.Values
	now := p.scorer.cfg.Now()

	s.CustomerID = ev.CustomerID
	s.EventID = ev.EventID
	s.OccurredAt = ev.OccurredAt
	s.ScoredAt = now.UnixMilli()
	s.ModelVersion = m.Version
	s.Previous = e.customer.Probability
	s.Probability = m.Predictor.Probability(x)
	s.Risk = schemas.RiskLow
	switch {
	case s.Probability >= m.HighThreshold:
		s.Risk = schemas.RiskHigh
	case s.Probability >= m.MediumThreshold:
		s.Risk = schemas.RiskMedium
	}
	s.ExpectedProbability = m.Predictor.ExpectedProbability()
	p.explain(x)
	s.Missing = m.Predictor.Missing(s.Missing[:0], x)
	for _, f := range s.Missing {
		p.scorer.metrics.missing[f].Inc()
	}
	s.Attributes = x
	s.AttributeAges = e.customer.Ages(s.AttributeAges[:0], ev.OccurredAt)
	s.RecentEvents = e.customer.RecentEvents(s.RecentEvents[:0])
	s.SourcePartition = int32(p.number)
	s.SourceOffset = r.Offset
	s.HasBestChange = false
	if p.scorer.cfg.BestChange && s.Risk == schemas.RiskHigh {
		b := &s.BestChange
		b.Feature, b.Value, b.Probability, s.HasBestChange = m.Predictor.BestChange(x, p.space)
	}
	e.customer.Probability = s.Probability

	key := p.keep(s.CustomerID)
	start := len(p.arena)
	p.arena = p.scorer.cfg.Codec.AppendScore(p.arena, s)
	value := p.arena[start:len(p.arena):len(p.arena)]
	p.emit(kafka.Record{Key: key, Value: value, Time: now}, r.Offset)
	p.occurred = append(p.occurred, ev.OccurredAt)
}

// explain fills the score's explanations with the features of greatest weight.
func (p *partition) explain(x scoring.Vector) {
	s, m, cfg := p.score, p.model, &p.scorer.cfg
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
	now := p.scorer.cfg.Now()
	letter := schemas.DeadLetter{
		Reason:    why.Reason,
		Detail:    why.Error(),
		Topic:     schemas.TopicEvents,
		Partition: int32(p.number),
		Offset:    r.Offset,
		Timestamp: r.Time.UnixMilli(),
		Key:       r.Key,
		Value:     r.Value,
		FailedAt:  now.UnixMilli(),
		FailedBy:  "scorer",
	}
	for _, h := range r.Headers {
		letter.Headers = append(letter.Headers, schemas.Header(h))
	}
	p.letters = append(p.letters, kafka.Record{
		Key:   append([]byte(nil), r.Key...),
		Value: p.scorer.cfg.Codec.AppendDeadLetter(nil, &letter),
		Time:  now,
	})
	p.scorer.metrics.letters.WithLabelValues(string(why.Reason)).Inc()
	p.log.Warn("record set aside as a dead letter", "reason", why.Reason, "detail", why.Detail,
		"topic", schemas.TopicEvents, "offset", r.Offset)
}

// flush writes the batch: dead letters first, because the scores behind them
// move the watermark past their source offsets.
func (p *partition) flush(ctx context.Context) error {
	if len(p.letters) > 0 {
		if err := p.scorer.letters.Produce(ctx, schemas.TopicDeadLetters, p.letters...); err != nil {
			return fmt.Errorf("producing to %s: %w", schemas.TopicDeadLetters, err)
		}
		p.letters = p.letters[:0]
	}
	if len(p.scores) == 0 {
		return nil
	}
	if _, err := p.out.Append(ctx, p.scores); err != nil {
		return fmt.Errorf("appending to %s: %w", schemas.TopicScores, err)
	}
	now := p.scorer.cfg.Now()
	p.lastWrite = now
	m := p.scorer.metrics
	m.scored.Add(float64(len(p.occurred)))
	for _, t := range p.occurred {
		m.latency.Observe(max(0, float64(now.UnixMilli()-t)/1000))
	}
	m.customers.WithLabelValues(label(p.number)).Set(float64(len(p.customers)))
	p.arena, p.scores, p.headers, p.occurred = p.arena[:0], p.scores[:0], p.headers[:0], p.occurred[:0]
	return nil
}
