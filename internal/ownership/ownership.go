// Package ownership makes a worker the only writer of a partition: it takes a
// producer epoch under a transactional id named after the partition and appends a
// marker, from which on the broker refuses the former owner. It then knows the
// offset of each of its records, so that what others have written shows.
package ownership

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

// markerKey is the key of the record by which a worker makes the broker refuse the
// former owner's writes. No customer id starts with a zero byte.
var markerKey = []byte(schemas.MarkerKey)

// ErrShortened means that an append was given an offset that another record had
// already.
var ErrShortened = errors.New("the output partition has become shorter")

// Config configures Take. All is required.
type Config struct {
	Cluster   *kafka.Cluster
	Topic     string
	Partition int
	// MarkerInterval is how long an owner may stay silent before it repeats its
	// marker, so that the broker does not forget who owns the partition.
	MarkerInterval time.Duration
	// RenewInterval is how often an owner asks anew for the transactional id. It
	// must stay well below Kafka's transactional.id.expiration.ms.
	RenewInterval time.Duration
	Now           func() time.Time
}

// Owner is the only writer of a partition, until another one takes it.
type Owner struct {
	cfg       Config
	id        []byte // what distinguishes this ownership's markers from others
	out       *kafka.FencedProducer
	lastWrite time.Time
	renewed   time.Time // when the transactional id was last asked for
}

// TransactionalID names the right to write to a partition, whatever group has it:
// two groups must not both have it.
func TransactionalID(topic string, partition int) string {
	return fmt.Sprintf("%s-%d", topic, partition)
}

// Take makes the caller the only writer of a partition, and returns the marker it
// has written, with its offset. Nothing of the former owner can follow the marker.
func Take(ctx context.Context, cfg Config) (o *Owner, at int64, marker *kafka.Record, err error) {
	o = &Owner{cfg: cfg, id: fmt.Appendf(nil, "%016x", rand.Uint64()), renewed: cfg.Now()}
	o.out, err = cfg.Cluster.Fence(ctx, kafka.FenceConfig{
		TransactionalID: TransactionalID(cfg.Topic, cfg.Partition), Topic: cfg.Topic, Partition: cfg.Partition,
	})
	if err != nil {
		return nil, 0, nil, fmt.Errorf("taking the ownership of %s: %w", cfg.Topic, err)
	}
	records := o.marker()
	at, err = o.write(ctx, o.out.Append, records)
	if err != nil {
		return nil, 0, nil, err
	}
	return o, at, &records[0], nil
}

// ProducerID returns the id under which the owner's records are written.
func (o *Owner) ProducerID() int64 { return o.out.ProducerID() }

// LastWrite returns when the last append that was acknowledged began.
func (o *Owner) LastWrite() time.Time { return o.lastWrite }

// Append appends records, the first of which is expected at an offset, and returns
// the offset that it got. A greater one means that others have written what lies
// between; a lesser one is ErrShortened. Other errors are those of
// kafka.FencedProducer.
func (o *Owner) Append(ctx context.Context, records []kafka.Record, expected int64) (base int64, err error) {
	return o.append(ctx, o.out.Append, records, expected)
}

// AppendBatch is Append for records that are stored as one batch, all or none. Where
// those are too many the error matches kafka.ErrTooLarge, and nothing is stored.
func (o *Owner) AppendBatch(ctx context.Context, records []kafka.Record, expected int64) (base int64, err error) {
	return o.append(ctx, o.out.AppendBatch, records, expected)
}

// MaxBatchBytes is that of kafka.FencedProducer.
func (o *Owner) MaxBatchBytes() int { return o.out.MaxBatchBytes() }

// writer is a way to append to the partition.
type writer func(context.Context, []kafka.Record) (int64, error)

func (o *Owner) append(ctx context.Context, write writer, records []kafka.Record, expected int64) (base int64, err error) {
	if base, err = o.write(ctx, write, records); err != nil {
		return 0, err
	}
	if base < expected {
		return 0, fmt.Errorf("%w: a record was given offset %d, after %d", ErrShortened, base, expected-1)
	}
	return base, nil
}

// Stay keeps the broker from forgetting whose the partition is. Where that takes a
// marker, append is called with it.
func (o *Owner) Stay(ctx context.Context, append func(context.Context, []kafka.Record) error) error {
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
		return append(ctx, o.marker())
	}
	return nil
}

// marker returns the record by which ownership is taken and kept.
func (o *Owner) marker() []kafka.Record {
	// Without a value it is a tombstone: compaction removes it in time, and
	// consumers that know nothing of markers see the deletion of a customer
	// nobody has.
	return []kafka.Record{{
		Key: markerKey, Time: o.cfg.Now(), Headers: []kafka.Header{{Key: headerOwner, Value: o.id}},
	}}
}

// write appends to the partition and returns the offset of the first record.
func (o *Owner) write(ctx context.Context, write writer, records []kafka.Record) (base int64, err error) {
	began := o.cfg.Now()
	if base, err = write(ctx, records); err != nil {
		return 0, fmt.Errorf("appending to %s: %w", o.cfg.Topic, err)
	}
	o.lastWrite = began
	return base, nil
}
