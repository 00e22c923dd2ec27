package scorer

import (
	"context"
	"fmt"
	"slices"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// passOn forwards what lies here of a customer who has moved, and reports whether
// it did. What comes of an erasure is written here, too: here lies the customer's
// last score of before.
func (w *worker) passOn(r *kafka.Record, kind intake.Kind) bool {
	p := &w.state.progress
	if len(p.Former) == 0 {
		return false
	}
	h := homesOf(p)
	home := kafka.PartitionOf(r.Key, h.now)
	moved := h.was(w.partition, r.Key)
	if kind == intake.Tombstone && (moved || home == w.partition) && r.Header(schemas.HeaderErasureCopy) == nil && r.Header(schemas.HeaderForwardedPartition) == nil {
		// Upstream may have erased the customer in one partition only.
		for _, n := range h.former {
			if former := kafka.PartitionOf(r.Key, int(n)); former != home && former != w.partition {
				w.outbox.copyErasure(r, former)
			}
		}
	}
	switch {
	case !moved:
		return false
	case kind == intake.Tombstone:
		// What was forwarded before it may arrive after the erasure there.
		w.engine.Erase(r.Key)
		w.outbox.erasure(r.Key, r)
		p.Erasures++
	case recordBytes(r) > maxForward:
		w.outbox.letter(r, &schemas.PoisonError{Reason: schemas.ReasonTooLarge,
			Detail: fmt.Sprintf("its customer has moved to partition %d, and with %d bytes it may not fit there; at most %d are forwarded", home, recordBytes(r), maxForward)})
		p.DeadLetters++
		return true
	default:
		w.metrics.forwarded.Inc()
		p.Forwarded++
	}
	w.outbox.forward(r, home)
	return true
}

// maxForward bounds the bytes of an event that is forwarded: a topic takes at
// least 1 MiB, and upstream may have compressed what is written without here.
const maxForward = 900_000

func recordBytes(r *kafka.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// returned reports whether an erasure came the long way, over a former home, and
// the customer has come back meanwhile: what there is of the customer is from
// after the erasure.
func (w *worker) returned(r *kafka.Record) bool {
	if r.Header(schemas.HeaderErasureCopy) == nil {
		return false
	}
	known := w.state.customers.Get(r.Key)
	return known != nil && known.AsOf() > deadletters.WrittenAt(r).UnixMilli()
}

// repeated reports whether an event was forwarded here before, and notes it
// otherwise.
func (w *worker) repeated(ctx context.Context, r *kafka.Record) (bool, error) {
	p := &w.state.progress
	if len(p.Former) == 0 || len(r.Headers) == 0 {
		return false, nil
	}
	from, offset, ok, err := w.forwardedFrom(ctx, r)
	if !ok || err != nil {
		return false, err
	}
	for i := range p.Origins {
		if o := &p.Origins[i]; o.Partition == from {
			if offset < o.Next {
				return true, nil
			}
			o.Next = offset + 1
			return false, nil
		}
	}
	// A copy: the marker in hand may share the slice.
	p.Origins = append(slices.Clone(p.Origins), schemas.Origin{Partition: from, Next: offset + 1})
	return false, nil
}

// forwardedFrom returns where an event lay before it was forwarded. Anybody can
// write such headers, so they are believed only of a customer who has moved here
// from there, and of an event that can be.
func (w *worker) forwardedFrom(ctx context.Context, r *kafka.Record) (from int32, offset int64, ok bool, err error) {
	p := &w.state.progress
	partition, ok1 := r.HeaderNumber(schemas.HeaderForwardedPartition)
	offset, ok2 := r.HeaderNumber(schemas.HeaderForwardedOffset)
	h := homesOf(p)
	if !ok1 || !ok2 || offset < 0 || partition < 0 || partition >= int64(p.Partitions) ||
		int(partition) == w.partition || !h.is(w.partition, r.Key) && !h.was(w.partition, r.Key) || !h.was(int(partition), r.Key) {
		return 0, 0, false, nil
	}
	if offset >= w.ends[int(partition)] {
		_, end, err := w.cfg.Cluster.Offsets(ctx, schemas.TopicEvents, int(partition))
		if err != nil {
			return 0, 0, false, fmt.Errorf("asking for the end of %s/%d: %w", schemas.TopicEvents, partition, err)
		}
		w.ends[int(partition)] = end
	}
	return int32(partition), offset, offset < w.ends[int(partition)], nil
}
