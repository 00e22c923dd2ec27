package replay

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// tailer is what the replay reads its own progress with. A *kafka.Cluster is one.
type tailer interface {
	Tail(ctx context.Context, cfg kafka.TailConfig, handle func(context.Context, []kafka.Record) error) error
}

// found is what of a customer is on the topics.
type found struct {
	history, event, outcome bool
	erased                  bool  // by a tombstone: nothing more may be sent
	eventAt                 int64 // of the event
	observedAt              int64 // of history or outcome
}

// recover reads what earlier runs published, by position in Examples. Of others'
// records it looks at the keys only.
func (r *Replay) recover(ctx context.Context) ([]found, error) {
	all := make([]found, len(r.cfg.Examples))
	in := intake.New(intake.Config{Logger: r.cfg.Logger, Registerer: r.cfg.Registerer})
	codec, passOver := r.cfg.Codec, in.PassOver(nil)
	events := intake.NewReader(in, intake.Topic[schemas.CustomerEvent]{Decode: codec.DecodeEvent, New: codec.NewEvent, Poison: passOver})
	outcomes := intake.NewReader(in, intake.Topic[schemas.ChurnOutcome]{Decode: codec.DecodeOutcome, Poison: passOver})
	var mu sync.Mutex
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
			var kind intake.Kind
			var err error
			if rec.Topic == schemas.TopicEvents {
				kind, err = events.Read(ctx, rec)
				if event := events.Message(); kind == intake.Message && string(event.EventID) == eventID(r.cfg.Examples[position].CustomerID) {
					f.event, f.eventAt = true, event.OccurredAt
				}
			} else {
				kind, err = outcomes.Read(ctx, rec)
				switch o := outcomes.Message(); {
				case kind != intake.Message:
				case o.Source == SourceHistory:
					f.history, f.observedAt = true, o.ObservedAt
				case o.Source == SourceLive:
					f.outcome, f.observedAt = true, o.ObservedAt
				}
			}
			if err != nil {
				return err
			}
			f.erased = f.erased || kind == intake.Tombstone
		}
		return nil
	}
	err := r.topics.Tail(ctx, kafka.TailConfig{Topics: []string{schemas.TopicEvents, schemas.TopicOutcomes}, ToEnd: true}, handle)
	return all, cmp.Or(err, ctx.Err())
}

// plan is what is left to do.
type plan struct {
	done    int                    // records that are on the topics
	history []schemas.ChurnOutcome // to publish
	live    []int                  // positions of customers whose event is to come
	pending []schemas.ChurnOutcome // outcomes of events that are on the topics
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
		r.cfg.Drift.Start(origin)
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
		p.pending = append(p.pending, r.outcome(&r.cfg.Examples[position], all[position].eventAt))
	}
	return p
}
