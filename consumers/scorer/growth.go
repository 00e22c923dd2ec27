package scorer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// When the topics get more partitions, the home of a part of the customers
// changes: producers write their events to another partition from then on, some
// sooner than others. Nobody stops for it:
//
//   - The worker of a former home scores what had come before, and writes a marker
//     that names the new number of partitions. From this marker on it scores
//     nothing for those who have moved; their events that still come are forwarded
//     to the new home.
//   - The worker of a new home waits for the markers of all partitions from which
//     customers may come, takes their last states out of the topic of scores,
//     writes them to its own partition, and only then begins with its events.
//
// What an event is forwarded with, partition and offset, tells it from one that
// is forwarded again after a crash.

// depart forgets the customers who have moved away.
func (s *state) depart(partition int) (n int) {
	h := homesOf(&s.progress)
	if len(h.former) == 0 {
		return 0
	}
	var gone [][]byte
	var at customers.Cursor
	for r := s.customers.Next(&at); r != nil; r = s.customers.Next(&at) {
		if h.was(partition, r.ID()) {
			gone = append(gone, slices.Clone(r.ID()))
		}
	}
	for _, id := range gone {
		s.customers.Remove(id)
	}
	return len(gone)
}

// place sets of how many partitions one without a marker is. It may be new, and
// the topics not: that there were fewer partitions stands in the markers of
// others.
func (w *worker) place(ctx context.Context, p *schemas.Progress) error {
	now := int32(w.partitions.Load())
	for other := range int(now) {
		if other == w.partition {
			continue
		}
		first, end, err := w.cfg.Cluster.Offsets(ctx, schemas.TopicScores, other)
		if err != nil {
			return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicScores, err)
		}
		markers := w.markersOf(other)
		if err := markers.seek(ctx, first, end); err != nil {
			return err
		}
		if m := markers.last; m != nil {
			for _, n := range append(m.Former, int64(m.Partitions)) {
				if n > 0 && n < int64(now) {
					p.Former = formerly(p.Former, n)
				}
			}
		}
	}
	p.Partitions = now
	switch {
	case len(p.Former) == 0:
	case int64(w.partition) < p.Former[0]:
		// It was there from the beginning, but never scored: what has come before
		// the topics grew is to be scored as if they had not.
		p.Partitions, p.Former = int32(p.Former[0]), nil
	default:
		p.Moving = true
	}
	return nil
}

func (w *worker) markersOf(partition int) *markers {
	return newMarkers(&site{Scorer: w.Scorer, partition: partition, log: w.log}, w.ids)
}

// growth is what a worker knows of a growth that it has not taken into account.
type growth struct {
	partitions int64 // for which end is
	end        int64 // of the events when it was noticed
	now        bool  // whether events follow that need it
}

// growthDue reports whether it is time to take into account that there are more
// partitions. What was written before has to be scored first: were it forwarded,
// it would come after what was written later.
func (w *worker) growthDue(ctx context.Context) (bool, error) {
	p, now := &w.state.progress, w.partitions.Load()
	switch {
	case p.Moving:
		return true, nil
	case now <= int64(p.Partitions):
		return false, nil
	case w.growth.partitions != now:
		_, end, err := w.cfg.Cluster.Offsets(ctx, schemas.TopicEvents, w.partition)
		if err != nil {
			return false, fmt.Errorf("asking for the end of %s/%d: %w", schemas.TopicEvents, w.partition, err)
		}
		w.growth.partitions, w.growth.end = now, end
	}
	return w.growth.now || p.Next >= w.growth.end, nil
}

// grow brings the partition to the number of partitions there are now.
func (w *worker) grow(ctx, finishing context.Context) error {
	p := &w.state.progress
	for {
		if now := int32(w.partitions.Load()); now > p.Partitions {
			if w.cfg.Codec.Keys != schemas.KeyPlain {
				return w.cannotMove(now)
			}
			w.state.dirty = true
			p.Former = formerly(p.Former, int64(p.Partitions))
			p.Partitions, p.Moving = now, true
			departed := w.state.depart(w.partition)
			w.ledger.outdated = true
			if err := w.flush(finishing); err != nil {
				return err
			}
			w.log.Info("the topics have more partitions now", "partitions", now, "before", p.Former, "customers_moved_away", departed)
		}
		if !p.Moving {
			return nil
		}
		moved, err := w.arrivals(ctx)
		if errors.Is(err, errGrown) {
			if _, _, err := w.countPartitions(ctx); err != nil {
				return err
			}
			if !retry.Sleep(ctx, departurePause) {
				return ctx.Err()
			}
			continue
		}
		if err != nil {
			return err
		}
		w.metrics.moved.Add(float64(len(moved)))
		if len(moved) > 0 {
			w.log.Info("customers move here", "customers", len(moved))
		}
		if err := w.writeAgain(finishing, moved); err != nil {
			return err
		}
		p.Moving, w.growth = false, growth{}
		w.ledger.outdated = true
		return w.flush(finishing)
	}
}

// cannotMove refuses to go on where it cannot be told whose home is where.
func (w *worker) cannotMove(now int32) error {
	return &refusal{reason: reasonPartitions, why: fmt.Sprintf(
		"%s has %d partitions now, and had %d. With keys in the format of --key-format customers cannot be moved: their partitions follow from upstream's keys, which scores do not have. Create the topics anew with %d partitions and have upstream write what it has again",
		schemas.TopicEvents, now, w.state.progress.Partitions, now)}
}

// writeAgain writes the latest scores of customers again, a batch at a time.
func (w *worker) writeAgain(ctx context.Context, ids [][]byte) error {
	for batch := range slices.Chunk(ids, repairBatch) {
		if err := w.writeRepairs(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// arrivals brings the states of those customers into the table who have moved
// here, and returns their ids. It waits until no partition scores them any more.
func (w *worker) arrivals(ctx context.Context) (ids [][]byte, err error) {
	p := &w.state.progress
	take := func(states *customers.Table, own bool) {
		s := w.cfg.Codec.NewScore()
		var at customers.Cursor
		for r := states.Next(&at); r != nil; r = states.Next(&at) {
			// One who has moved twice is in two former homes.
			if known := w.state.customers.Get(r.ID()); known != nil && (own || known.AsOf() > r.AsOf()) {
				continue
			}
			states.Unpack(r, s)
			w.state.customers.Put(s)
			ids = append(ids, slices.Clone(r.ID()))
		}
	}
	for from := range int(p.Partitions) {
		if from == w.partition || int64(from) >= slices.Max(p.Former) {
			continue
		}
		m, span, err := w.departure(ctx, from)
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue // it never had an owner, so no state
		}
		for _, n := range m.Former {
			if n < int64(p.Partitions) {
				p.Former = formerly(p.Former, n)
			}
		}
		h := homes{now: int(p.Partitions), former: m.Former}
		if !h.gives(from, w.partition) {
			continue
		}
		states, err := w.departed(ctx, span, m.Writers, func(key []byte) bool { return h.is(w.partition, key) && h.was(from, key) })
		if err != nil {
			return nil, err
		}
		take(states, false)
	}
	if len(p.Former) > 1 {
		// Some have moved away before and come back now, perhaps without ever
		// having arrived elsewhere.
		first, _, err := w.cfg.Cluster.Offsets(ctx, schemas.TopicScores, w.partition)
		if err != nil {
			return nil, fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicScores, err)
		}
		span := kafka.Span{Topic: schemas.TopicScores, Partition: w.partition, Start: first, End: w.state.reflected}
		states, err := w.departed(ctx, span, p.Writers, func(key []byte) bool { return homesOf(p).is(w.partition, key) })
		if err != nil {
			return nil, err
		}
		take(states, true)
	}
	return ids, nil
}

// departurePause is the time between two looks for another partition's marker.
const departurePause = 500 * time.Millisecond

// departure waits for a partition's marker of as many partitions as this worker
// knows of, and returns it with what the partition held then; nil for a
// partition without records.
func (w *worker) departure(ctx context.Context, from int) (*marker, kafka.Span, error) {
	span := kafka.Span{Topic: schemas.TopicScores, Partition: from}
	markers := w.markersOf(from)
	var waited func()
	defer func() {
		if waited != nil {
			waited()
			w.waiting(w.partition, "")
		}
	}()
	for {
		first, end, err := w.cfg.Cluster.Offsets(ctx, span.Topic, from)
		if err != nil {
			return nil, span, fmt.Errorf("asking for the offsets of %s: %w", span.Topic, err)
		}
		if first == end {
			// What lies there of events, if anything, is to be scored there first.
			if _, events, err := w.cfg.Cluster.Offsets(ctx, schemas.TopicEvents, from); err != nil || events == 0 {
				return nil, span, err
			}
		}
		if err := markers.seek(ctx, first, end); err != nil {
			return nil, span, err
		}
		m := markers.last
		if m != nil && m.Partitions >= w.state.progress.Partitions {
			if m.Partitions > w.state.progress.Partitions {
				return nil, span, errGrown
			}
			span.Start, span.End = first, end
			return m, span, nil
		}
		if waited == nil {
			why := fmt.Sprintf("waiting for partition %d to let go of the customers who move from there to here, as there are %d partitions now; does a scorer work on it?",
				from, w.state.progress.Partitions)
			waited = retry.Begin(ctx, why)
			w.waiting(w.partition, why)
			w.log.Info("waiting for another partition", "for", from, "partitions", w.state.progress.Partitions)
		}
		if !retry.Sleep(ctx, departurePause) {
			return nil, span, ctx.Err()
		}
		if err := w.owner.stay(ctx); err != nil {
			return nil, span, err
		}
		if ids, err := w.currentTopicIDs(ctx, identityInterval); err != nil {
			return nil, span, err
		} else if ids != w.ids {
			return nil, span, fmt.Errorf("%w: %+v became %+v", errOtherTopics, w.ids, ids)
		}
	}
}

// errGrown means that there are more partitions than a worker has taken into
// account.
var errGrown = errors.New("there are more partitions now")

// departed reads the last states of those customers in a partition who are
// wanted.
func (w *worker) departed(ctx context.Context, span kafka.Span, owners writers, wanted func(key []byte) bool) (*customers.Table, error) {
	table := customers.NewTable(w.cfg.Codec.Set().Vocabulary())
	unreadable := map[string]error{} // unless something valid follows
	scores := intake.NewReader(w.intake, intake.Topic[schemas.ChurnScore]{
		Decode: w.cfg.Codec.DecodeScore, New: w.cfg.Codec.NewScore,
		Poison: func(_ context.Context, r *kafka.Record, why *schemas.PoisonError) error {
			if own, _ := owners.wrote(r); own {
				unreadable[string(r.Key)] = fmt.Errorf("%w: at offset %d of partition %d: %v", ErrUnreadableState, r.Offset, r.Partition, why)
			}
			return nil
		},
	})
	err := w.cfg.Cluster.Read(ctx, span, func(records []kafka.Record, _ int64) error {
		for i := range records {
			r := &records[i]
			if len(r.Key) == 0 || schemas.IsReservedKey(r.Key) || !wanted(r.Key) {
				continue
			}
			if own, known := owners.wrote(r); known && !own {
				continue // its owner has counted it
			}
			kind, err := scores.Read(ctx, r)
			switch {
			case err != nil:
				return err
			case kind == intake.Tombstone:
				if _, ok := sourceOffset(r); ok {
					table.Remove(r.Key)
					delete(unreadable, string(r.Key))
				}
			case kind == intake.Message:
				s := scores.Message()
				if known := table.Get(r.Key); bytes.Equal(s.CustomerID, r.Key) && (known == nil || known.AsOf() <= s.AsOf) {
					table.Put(s)
					delete(unreadable, string(r.Key))
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, err := range unreadable {
		return nil, w.unreadable(err)
	}
	return table, nil
}
