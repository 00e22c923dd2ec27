package scorer

import (
	"context"
	"errors"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/ownership"
	"github.com/churnstream/churnstream/schemas"
)

// owner is the only writer of an output partition, from fence until another
// one fences. It keeps the state's place in the partition, and notices what
// others have written there.
type owner struct {
	*site
	*ownership.Owner        // nil until fenced
	state            *state // nil until restored
	// repairs are the ids of customers whose valid record is followed by one of
	// others.
	repairs [][]byte
	foreign int // records found that the owner has not written
	// overwritten is set when others have written a marker of progress after
	// the owner's.
	overwritten bool
}

// fence makes this worker the only writer of the output partition, and returns
// the marker it has written, with its offset. The broker refuses the former owner
// from the first append under the new epoch on, so nothing of its can follow the
// marker.
func (o *owner) fence(ctx context.Context) (at int64, marker *kafka.Record, err error) {
	o.Owner, at, marker, err = ownership.Take(ctx, ownership.Config{
		Cluster: o.cfg.Cluster, Topic: schemas.TopicScores, Partition: o.partition,
		MarkerInterval: o.cfg.MarkerInterval, RenewInterval: o.cfg.RenewInterval, Now: o.cfg.Now,
	})
	return at, marker, err
}

// adopt takes over a state that was restored up to the marker.
func (o *owner) adopt(r restored, marker int64, record *kafka.Record) {
	o.state, o.repairs, o.foreign = r.state, r.repairs, r.foreign
	o.state.remember(marker, record)
	o.state.reflected = marker + 1
}

// stay keeps the broker from forgetting whose the output partition is.
func (o *owner) stay(ctx context.Context) error { return o.Stay(ctx, o.append) }

// append appends records to the output partition. The state then is that of the
// partition. The owner knows where its records belong: if there is a gap,
// someone else has written into it, and their customers are to be repaired.
func (o *owner) append(ctx context.Context, records []kafka.Record) error {
	s := o.state
	expected := s.reflected
	base, err := o.Append(ctx, records, expected)
	if err != nil {
		s.dirty = s.dirty || errors.Is(err, ownership.ErrShortened)
		return err
	}
	s.dirty = true // until what others may have written is known
	n := len(records)
	s.reflected = base + int64(n)
	s.remember(s.reflected-1, &records[n-1])
	s.complete = s.watermark
	if base > expected {
		if err := o.inspect(ctx, expected, base); err != nil {
			return err
		}
	}
	s.dirty = false
	return nil
}

// inspect reads what others have written into the output partition and notes
// the customers whose valid record has to be written once more after it.
func (o *owner) inspect(ctx context.Context, from, to int64) error {
	seen := map[string]bool{}
	span := kafka.Span{Topic: schemas.TopicScores, Partition: o.partition, Start: from, End: to}
	err := o.cfg.Cluster.Read(ctx, span, func(records []kafka.Record, _ int64) error {
		for i := range records {
			r := &records[i]
			if string(r.Key) == schemas.ProgressKey {
				o.overwritten = true
			} else if len(r.Key) == 0 || schemas.IsReservedKey(r.Key) {
				continue
			}
			o.foreignRecord(&o.foreign, r.Offset, "it was written while this worker owned the partition")
			if !schemas.IsReservedKey(r.Key) {
				seen[string(r.Key)] = true
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id := range seen {
		o.repairs = append(o.repairs, []byte(id))
	}
	return nil
}

// repairBatch bounds how many records are made before they are written.
const repairBatch = 1000

// repair has the valid records of customers written again after those that
// others wrote of them, a batch at a time.
func (o *owner) repair(write func(ids [][]byte) error) error {
	for len(o.repairs) > 0 {
		n := min(len(o.repairs), repairBatch)
		if err := write(o.repairs[:n]); err != nil {
			return err
		}
		o.metrics.repaired.Add(float64(n))
		o.log.Info("repaired customers after foreign records", "topic", schemas.TopicScores, "customers", n)
		o.repairs = o.repairs[n:]
	}
	return nil
}
