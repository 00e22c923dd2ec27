package scorer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// headerOwner is the header of a marker that distinguishes owners.
const headerOwner = "owner"

// markerKey is the key of the record by which a worker makes the broker refuse
// the former owner's writes. No customer id starts with a zero byte.
var markerKey = []byte(schemas.MarkerKey)

// errShortened means that an append was given an offset that another record
// had already.
var errShortened = errors.New("the output partition has become shorter")

// owner is the only writer of an output partition, from fence until another
// one fences. It keeps the state's place in the partition, and notices what
// others have written there.
type owner struct {
	*site
	id        []byte // what distinguishes this ownership's markers from others
	out       *kafka.FencedProducer
	lastWrite time.Time
	renewed   time.Time // when the transactional id was last asked for
	state     *state    // nil until restored
	// repairs are the ids of customers whose valid record is followed by one of
	// others.
	repairs [][]byte
	foreign int // records found that the owner has not written
	// overwritten is set when others have written a marker of progress after
	// the owner's.
	overwritten bool
}

func newOwner(s *site) *owner {
	return &owner{site: s, id: fmt.Appendf(nil, "%016x", rand.Uint64())}
}

// transactionalID names the right to write to a partition of the output topic,
// whatever group has it: two groups must not both have it.
func transactionalID(partition int) string {
	return fmt.Sprintf("%s-%d", schemas.TopicScores, partition)
}

// fence makes this worker the only writer of the output partition, and returns
// the offset of the marker it has written. The broker refuses the former owner
// from the first append under the new epoch on, so nothing of its can follow the
// marker.
func (o *owner) fence(ctx context.Context) (marker int64, record *kafka.Record, err error) {
	o.renewed = o.cfg.Now()
	o.out, err = o.cfg.Cluster.Fence(ctx, kafka.FenceConfig{
		TransactionalID: transactionalID(o.partition),
		Topic:           schemas.TopicScores,
		Partition:       o.partition,
	})
	if err != nil {
		return 0, nil, fmt.Errorf("taking the ownership of %s: %w", schemas.TopicScores, err)
	}
	records := o.marker()
	marker, err = o.write(ctx, records)
	return marker, &records[0], err
}

// adopt takes over a state that was restored up to the marker.
func (o *owner) adopt(r restored, marker int64, record *kafka.Record) {
	o.state, o.repairs, o.foreign = r.state, r.repairs, r.foreign
	o.state.remember(marker, record)
	o.state.reflected = marker + 1
}

// stay keeps the broker from forgetting whose the output partition is.
func (o *owner) stay(ctx context.Context) error {
	now := o.cfg.Now()
	renew := now.Sub(o.renewed) >= o.cfg.RenewInterval
	if renew {
		if err := o.out.Renew(ctx); err != nil {
			return err
		}
		o.renewed = now
	}
	// The new epoch counts from the first append under it.
	if renew || now.Sub(o.lastWrite) >= o.cfg.MarkerInterval {
		return o.append(ctx, o.marker())
	}
	return nil
}

// marker returns the record by which ownership is taken and kept.
func (o *owner) marker() []kafka.Record {
	// Without a value it is a tombstone: compaction removes it in time, and
	// consumers that know nothing of markers see the deletion of a customer
	// nobody has.
	return []kafka.Record{{
		Key: markerKey, Time: o.cfg.Now(), Headers: []kafka.Header{{Key: headerOwner, Value: o.id}},
	}}
}

// append appends records to the output partition. The state then is that of the
// partition. The owner knows where its records belong: if there is a gap,
// someone else has written into it, and their customers are to be repaired.
func (o *owner) append(ctx context.Context, records []kafka.Record) error {
	s := o.state
	base, err := o.write(ctx, records)
	if err != nil {
		return err
	}
	s.dirty = true // until what others may have written is known
	expected := s.reflected
	if base < expected {
		return fmt.Errorf("%w: a record was given offset %d, after %d", errShortened, base, expected-1)
	}
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

// write appends to the output partition and returns the offset of the first
// record.
func (o *owner) write(ctx context.Context, records []kafka.Record) (base int64, err error) {
	began := o.cfg.Now()
	base, err = o.out.Append(ctx, records)
	if err != nil {
		return 0, fmt.Errorf("appending to %s: %w", schemas.TopicScores, err)
	}
	o.lastWrite = began
	return base, nil
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
