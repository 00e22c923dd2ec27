package monitor

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/retry"
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
}

// partition reads the partitions of one number of both topics side by side.
type partition struct {
	monitor *Monitor
	number  int
	of      int // partitions of a topic
	scores  source
	outcome source
	join    *join

	score *schemas.ChurnScore
	label schemas.ChurnOutcome
	// history tells that what was there at the start is still being read.
	history bool
}

// source is one of the two partitions, with what was fetched and not yet
// handled.
type source struct {
	fetcher fetcher
	end     int64 // end of the partition at the start
	records []kafka.Record
	// drained tells that nothing could be read behind records at the last
	// fetch. An open transaction may end what can be read before the end.
	drained bool
	lag     prometheus.Gauge
}

// fill fetches until there are records or nothing more can be read.
func (s *source) fill(ctx context.Context) error {
	for len(s.records) == 0 {
		before := s.fetcher.Offset()
		var err error
		if s.records, err = s.fetcher.Fetch(ctx); err != nil {
			return err
		}
		behind := s.fetcher.HighWatermark() - s.fetcher.Offset()
		s.lag.Set(float64(max(behind, 0)))
		s.drained = behind <= 0 || s.fetcher.Offset() == before
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
	for {
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
		}
	}
}

// next takes the record that was written first off what was fetched, scores
// before outcomes. It returns nil when another fetch is needed to tell.
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

func (p *partition) handle(ctx context.Context, r *kafka.Record) error {
	if schemas.IsReservedKey(r.Key) {
		return nil // the scorer's mark of a change of ownership
	}
	p.join.expire(r.Time.UnixMilli())
	if r.Value == nil {
		p.join.erase(r.Key)
		return nil
	}
	if r.Topic == schemas.TopicScores {
		return p.handleScore(ctx, r)
	}
	return p.handleOutcome(ctx, r)
}

func (p *partition) handleScore(ctx context.Context, r *kafka.Record) error {
	s := p.score
	if ok, err := p.decode(ctx, r, func(ctx context.Context) error {
		return p.monitor.cfg.Codec.DecodeScore(ctx, r.Value, s)
	}); !ok {
		return err
	}
	if p.join.score(s.CustomerID, score{
		occurredAt: s.OccurredAt, writtenAt: r.Time.UnixMilli(),
		version: s.ModelVersion, probability: s.Probability,
	}) {
		p.monitor.scored(s)
	}
	return nil
}

func (p *partition) handleOutcome(ctx context.Context, r *kafka.Record) error {
	o := &p.label
	if ok, err := p.decode(ctx, r, func(ctx context.Context) error {
		return p.monitor.cfg.Codec.DecodeOutcome(ctx, r.Value, o)
	}); !ok {
		return err
	}
	written := deadletters.WrittenAt(r).UnixMilli()
	p.join.outcome(outcome{
		customer: o.CustomerID, observedAt: o.ObservedAt, writtenAt: written, churned: o.Churned,
		own:       o.Attributes != nil,
		misplaced: kafka.PartitionOf([]byte(o.CustomerID), p.of) != p.number,
	}, written+p.monitor.cfg.Grace.Milliseconds())
	return nil
}

// expireIdle gives outcomes up by the clock, as no record tells the time.
func (p *partition) expireIdle() {
	p.join.expire(p.monitor.now().Add(-inFlight).UnixMilli())
}

// decode calls read until it succeeds or the record turns out to be
// unreadable, which is counted and makes ok false.
func (p *partition) decode(ctx context.Context, r *kafka.Record, read func(context.Context) error) (ok bool, err error) {
	what := "decoding a record of " + r.Topic
	var poison *schemas.PoisonError
	err = retry.Do(ctx, p.monitor.log, what, func(ctx context.Context) error {
		err := read(ctx)
		var isPoison bool
		if poison, isPoison = schemas.AsPoison(err); isPoison {
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return false, fmt.Errorf("partition %d of %s at offset %d: %w", r.Partition, r.Topic, r.Offset, err)
	case poison != nil:
		p.monitor.metrics.skipped.WithLabelValues(r.Topic, string(poison.Reason)).Inc()
		p.monitor.log.Warn("passing over a record that cannot be read",
			"topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "reason", poison.Reason)
		return false, nil
	}
	return true, nil
}

func label(n int) string { return strconv.Itoa(n) }
