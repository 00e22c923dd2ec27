package replay

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// topics is what the replay reads its own progress from.
type topics interface {
	// ReadAll hands over all records of the topics, in order by partition, up
	// to the ends seen at the start. Handle may be called concurrently for
	// different partitions.
	ReadAll(ctx context.Context, topics []string, handle func(context.Context, []kafka.Record) error) error
}

// clusterTopics reads from a Kafka cluster.
type clusterTopics struct{ cluster *kafka.Cluster }

func (c clusterTopics) ReadAll(ctx context.Context, topics []string, handle func(context.Context, []kafka.Record) error) error {
	tailing, caughtUp := context.WithCancel(ctx)
	defer caughtUp()
	err := c.cluster.Tail(tailing, kafka.TailConfig{Topics: topics, OnCaughtUp: caughtUp}, handle)
	if tailing.Err() != nil {
		return ctx.Err() // caught up, unless the caller gave up
	}
	return err
}

// found is what of a customer is on the topics.
type found struct {
	history, event, outcome bool
	erased                  bool  // by a tombstone: nothing more may be sent
	eventAt                 int64 // of the event
	observedAt              int64 // of history or outcome
}

// recover reads what earlier runs published, by position in Examples.
func (r *Replay) recover(ctx context.Context) ([]found, error) {
	all := make([]found, len(r.cfg.Examples))
	var mu sync.Mutex
	event := r.cfg.Codec.NewEvent()
	handle := func(ctx context.Context, records []kafka.Record) error {
		mu.Lock()
		defer mu.Unlock()
		for i := range records {
			rec := &records[i]
			position, ours := r.position[string(rec.Key)]
			if !ours {
				continue
			}
			f := &all[position]
			switch {
			case rec.Value == nil:
				f.erased = true
			case rec.Topic == schemas.TopicEvents:
				ok, err := r.decode(ctx, func() error { return r.cfg.Codec.DecodeEvent(ctx, rec.Value, event) })
				if err != nil {
					return err
				}
				if ok && string(event.EventID) == eventID(r.cfg.Examples[position].CustomerID) {
					f.event, f.eventAt = true, event.OccurredAt
				}
			default:
				var o schemas.ChurnOutcome
				ok, err := r.decode(ctx, func() error { return r.cfg.Codec.DecodeOutcome(ctx, rec.Value, &o) })
				if err != nil {
					return err
				}
				switch {
				case !ok:
				case o.Source == SourceHistory:
					f.history, f.observedAt = true, o.ObservedAt
				case o.Source == SourceLive:
					f.outcome, f.observedAt = true, o.ObservedAt
				}
			}
		}
		return nil
	}
	return all, r.topics.ReadAll(ctx, []string{schemas.TopicEvents, schemas.TopicOutcomes}, handle)
}

// decode reports whether a record could be decoded. Poison of others is passed
// over; while the registry is away it waits.
func (r *Replay) decode(ctx context.Context, decode func() error) (ok bool, err error) {
	err = retry.Do(ctx, r.cfg.Logger, "decoding what was published before", func(context.Context) error {
		err := decode()
		if _, poison := schemas.AsPoison(err); poison {
			return nil
		}
		ok = err == nil
		return err
	})
	return ok, err
}

// plan is what is left to do.
type plan struct {
	done    int                    // records that are on the topics
	history []schemas.ChurnOutcome // to publish
	live    []int                  // positions of customers whose event is to come
	pending []schemas.ChurnOutcome // outcomes of events that are on the topics
	origin  int64                  // time of the first live event, 0 if none is there
	// historyTotal is the number of customers that are history, published or
	// not.
	historyTotal int
}

// plan compares the table with what was found. Where both disagree, as after a
// change of seed or share, the topics are right: nobody is history and live.
func (r *Replay) plan(all []found, now time.Time) plan {
	var p plan
	historyAt := int64(math.MaxInt64)
	origin := int64(math.MaxInt64)
	for _, f := range all {
		if f.history {
			historyAt = min(historyAt, f.observedAt)
		}
		if f.event {
			origin = min(origin, f.eventAt)
		}
		if f.outcome { // its event may have been removed by retention
			origin = min(origin, f.observedAt-r.cfg.OutcomeDelay.Milliseconds())
		}
	}
	if historyAt == math.MaxInt64 {
		historyAt = now.UnixMilli()
	}
	if origin != math.MaxInt64 {
		p.origin = origin
	}

	historyRows := int(math.Round(max(r.cfg.HistoryShare, 0) * float64(len(r.order))))
	var waiting []int
	for rank, position := range r.order {
		f, example := all[position], &r.cfg.Examples[position]
		switch {
		case f.history:
			p.done++
			p.historyTotal++
		case f.outcome:
			p.done += 2
		case f.event:
			p.done++
			if !f.erased {
				waiting = append(waiting, position)
			}
		case f.erased:
		case rank < historyRows:
			p.historyTotal++
			p.history = append(p.history, schemas.ChurnOutcome{
				CustomerID: example.CustomerID,
				Churned:    example.Churned,
				ObservedAt: historyAt,
				Attributes: example.Attributes,
				Source:     SourceHistory,
			})
		default:
			p.live = append(p.live, position)
		}
	}
	slices.SortStableFunc(waiting, func(a, b int) int { return int(all[a].eventAt - all[b].eventAt) })
	for _, position := range waiting {
		p.pending = append(p.pending, r.outcome(&r.cfg.Examples[position], all[position].eventAt, p.origin))
	}
	return p
}
