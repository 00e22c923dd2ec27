package monitor

import (
	"context"
	"strconv"
	"time"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

const (
	// Both topics are asked in turn, so while one is idle the other waits.
	scoresWait   = 200 * time.Millisecond
	outcomesWait = 50 * time.Millisecond

	// inFlight is how long after its time a record may take to be readable.
	inFlight = time.Second
)

// fetcher is what a partition needs of a kafka.Fetcher.
type fetcher interface {
	Fetch(ctx context.Context) ([]kafka.Record, error)
	Offset() int64
	HighWatermark() int64
	Close()
}

// partition reads the partitions of one number of both topics side by side.
type partition struct {
	monitor *Monitor
	scores  source
	outcome source
	join    *join

	score *intake.Reader[schemas.ChurnScore]
	label *intake.Reader[schemas.ChurnOutcome]
	// history reports that what was there at the start is still being read.
	history bool
}

// newPartition returns a partition that has nothing to read from yet.
func (m *Monitor) newPartition() *partition {
	codec := m.cfg.Codec
	passOver := m.intake.PassOver(func(topic string, reason schemas.Reason) {
		m.metrics.skipped.WithLabelValues(topic, string(reason)).Inc()
	})
	join := newJoin(m.cfg.History, m.cfg.LeadTime.Milliseconds(), m.customers, m)
	join.pending = m.cfg.MaxPending
	scores, outcomes := intake.Scores(codec, m.owners), intake.Outcomes(codec)
	scores.Poison, outcomes.Poison = passOver, passOver
	return &partition{
		monitor: m,
		join:    join,
		score:   intake.NewReader(m.intake, scores),
		label:   intake.NewReader(m.intake, outcomes),
	}
}

// source is one of the two partitions, with what was fetched and not yet
// handled.
type source struct {
	fetcher fetcher
	end     int64 // end of the partition at the start
	records []kafka.Record
	// drained reports that nothing could be read after records at the last
	// fetch. An open transaction may end what can be read before the end.
	drained  bool
	position *kafka.Position
}

// advance notes how far the source has been handled.
func (s *source) advance() {
	if len(s.records) > 0 {
		s.position.Advance(s.records[0].Offset)
	} else {
		s.position.Advance(s.fetcher.Offset())
	}
}

// fill fetches until there are records or nothing more can be read.
func (s *source) fill(ctx context.Context) error {
	for len(s.records) == 0 {
		before := s.fetcher.Offset()
		var err error
		if s.records, err = s.fetcher.Fetch(ctx); err != nil {
			return err
		}
		s.drained = s.fetcher.HighWatermark() <= s.fetcher.Offset() || s.fetcher.Offset() == before
		if s.drained {
			break
		}
	}
	return nil
}

// run reads until ctx ends. caughtUp is called once, when what was there at
// the start has been handled.
func (p *partition) run(ctx context.Context, caughtUp func()) error {
	p.history = true
	defer p.scores.position.Close()
	defer p.outcome.position.Close()
	defer p.scores.fetcher.Close()
	defer p.outcome.fetcher.Close()
	// They are read in the order of time, so what holds one up holds up both.
	ctx = p.scores.position.Watch(p.outcome.position.Watch(ctx))
	for {
		p.scores.advance()
		p.outcome.advance()
		if p.history && p.scores.fetcher.Offset() >= p.scores.end && p.outcome.fetcher.Offset() >= p.outcome.end &&
			len(p.scores.records) == 0 && len(p.outcome.records) == 0 {
			p.history = false
			p.expireIdle()
			caughtUp()
		}
		// Outcomes first: an outcome must not be handled before the scores that
		// were written before it, so what is known of the end of the scores is
		// worth nothing for outcomes fetched since.
		if len(p.outcome.records) == 0 {
			if err := p.outcome.fill(ctx); err != nil {
				return err
			}
			p.scores.drained = false
		}
		if err := p.scores.fill(ctx); err != nil {
			return err
		}
		if len(p.scores.records) == 0 && len(p.outcome.records) == 0 {
			if !p.history {
				p.expireIdle()
			}
			continue
		}
		for {
			next := p.next()
			if next == nil {
				break
			}
			if err := p.handle(ctx, next); err != nil {
				return err
			}
			p.scores.advance()
			p.outcome.advance()
		}
	}
}

// next takes the record that was written first off what was fetched, scores
// before outcomes. It returns nil when another fetch is needed to decide.
func (p *partition) next() *kafka.Record {
	s, o := &p.scores, &p.outcome
	from := s
	switch {
	case len(s.records) == 0 && len(o.records) == 0:
		return nil
	case len(s.records) == 0:
		if !s.drained {
			return nil
		}
		from = o
	case len(o.records) == 0:
		if !o.drained {
			return nil
		}
	case o.records[0].Time.Before(s.records[0].Time):
		from = o
	}
	r := &from.records[0]
	from.records = from.records[1:]
	return r
}

func (p *partition) handle(ctx context.Context, r *kafka.Record) (err error) {
	isScore := r.Topic == schemas.TopicScores
	var kind intake.Kind
	if isScore {
		kind, err = p.score.Read(ctx, r)
	} else {
		kind, err = p.label.Read(ctx, r)
	}
	if err != nil || kind == intake.Nothing {
		return err
	}
	p.join.Lock()
	defer p.join.Unlock()
	// The time of a record is its producer's to choose; one that has not come yet
	// says nothing, and must not make outcomes of today be given up.
	if !r.Time.After(p.monitor.now().Add(inFlight)) {
		p.join.expire(r.Time.UnixMilli())
	}
	switch {
	case kind == intake.Tombstone && isScore:
		p.join.erase(r.Key, deadletters.WrittenAt(r).UnixMilli())
	case kind == intake.Tombstone:
		p.join.erase(intake.CustomerID(p.monitor.cfg.Codec.Keys, r), deadletters.WrittenAt(r).UnixMilli())
	case isScore:
		p.takeScore(r, p.score.Message())
	default:
		p.takeOutcome(r, p.label.Message())
	}
	return nil
}

func (p *partition) takeScore(r *kafka.Record, s *schemas.ChurnScore) {
	if p.join.score(s.CustomerID, score{
		asOf: s.AsOf, writtenAt: r.Time.UnixMilli(),
		version: s.ModelVersion, probability: s.Probability,
	}) {
		p.monitor.scored(s)
	}
}

func (p *partition) takeOutcome(r *kafka.Record, o *schemas.ChurnOutcome) {
	written := deadletters.WrittenAt(r).UnixMilli()
	p.join.outcome(outcome{
		customer: o.CustomerID, observedAt: o.ObservedAt, writtenAt: written, churned: o.Churned,
		own: o.Attributes != nil,
	}, written+p.monitor.cfg.Grace.Milliseconds())
}

// expireIdle gives outcomes up by the clock, while no record shows the time.
func (p *partition) expireIdle() {
	p.join.Lock()
	defer p.join.Unlock()
	p.join.expire(p.monitor.now().Add(-inFlight).UnixMilli())
}

func label(n int) string { return strconv.Itoa(n) }
