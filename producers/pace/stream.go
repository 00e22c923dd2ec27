package pace

import (
	"context"
	"time"

	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// tick is the shortest wait. At high rates it gathers batches: 250 events at
// 50,000 per second. It bounds lateness, and does not add up.
const tick = 5 * time.Millisecond

// Stream says what Run publishes.
type Stream struct {
	// Source is the source of the events and outcomes.
	Source string
	// Rate is in events per second; 0 is as fast as they are acknowledged.
	Rate float64
	// Next fills an event that occurs at now: EventID, CustomerID, Changes and
	// Increments (both missing throughout before the call). Byte slices need to
	// stay valid until the next call. It returns the outcome that follows, whose
	// ObservedAt must not be before that of an earlier event's outcome; nil if
	// none follows. It returns false, and fills nothing, when there are no more
	// events.
	Next func(now time.Time, e *schemas.CustomerEvent) (outcome *schemas.ChurnOutcome, ok bool)
	// Pending holds outcomes of earlier events, in order of ObservedAt.
	Pending []schemas.ChurnOutcome
	// Published, if set, is called after each batch that was acknowledged.
	Published func()
}

// Run publishes a stream's events at its rate and each outcome once its
// ObservedAt has come and its event is acknowledged. It returns nil when all is
// published, and the producer's error otherwise, such as the context's.
func (p *Publisher) Run(ctx context.Context, s Stream) error {
	schedule := NewSchedule(s.Rate, time.Now())
	pending := s.Pending
	for more := true; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		published := 0
		if more {
			now := time.Now()
			p.reset()
			for range schedule.Take(now, batch) {
				e := p.event
				e.OccurredAt, e.Source = now.UnixMilli(), append(e.Source[:0], s.Source...)
				e.Changes.Clear()
				e.Increments.Clear()
				outcome, ok := s.Next(now, e)
				if !ok {
					more = false
					break
				}
				p.addEvent()
				if outcome != nil {
					pending = append(pending, *outcome)
				}
			}
			if err := p.publishEvents(ctx, s.Source); err != nil {
				return err
			}
			published = len(p.records)
		}
		due := 0
		for now := time.Now().UnixMilli(); due < min(len(pending), batch) && pending[due].ObservedAt <= now; due++ {
		}
		if err := p.Outcomes(ctx, pending[:due]); err != nil {
			return err
		}
		pending = pending[due:]
		if s.Published != nil && published+due > 0 {
			s.Published()
		}

		var until time.Time
		switch {
		case more && len(pending) > 0:
			until = earlier(schedule.Next(), time.UnixMilli(pending[0].ObservedAt))
		case more:
			until = schedule.Next()
		case len(pending) > 0:
			until = time.UnixMilli(pending[0].ObservedAt)
		default:
			return nil
		}
		if wait := time.Until(until); wait > 0 {
			if !retry.Sleep(ctx, max(wait, tick)) {
				return ctx.Err()
			}
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
