package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/retry"
)

var (
	// ErrFenced is matched when another process has taken over the
	// transactional id and written to the partition: this one lost it.
	ErrFenced = errors.New("fenced by a newer producer")
	// ErrOutOfSequence is matched when the broker no longer knows this
	// producer's last batch, as after producer.id.expiration.ms of silence,
	// or when records of others came between ours. Others may have written
	// meanwhile: fence again and check.
	ErrOutOfSequence = errors.New("broker lost this producer's sequence")
)

// transactionTimeout must be set, though no transaction is ever begun.
const transactionTimeout = time.Minute

// FenceConfig configures Fence. TransactionalID and Topic are required.
type FenceConfig struct {
	// TransactionalID names the right to write; it has one owner at a time.
	TransactionalID string
	Topic           string
	Partition       int
	// Compression and MaxBatchBytes are those of ProducerConfig.
	Compression   Compression
	MaxBatchBytes int
}

// FencedProducer writes to one partition as the latest owner of a
// transactional id. Batches are sent one after another; the broker drops
// those it has already, so a retry never writes twice. It is safe for
// concurrent use and needs no closing.
type FencedProducer struct {
	c    *Cluster
	cfg  FenceConfig
	what string

	mu       sync.Mutex
	encoder  encoder
	producer producerState
	broken   error // the first error, for good
}

// Fence takes a transactional id over from its former owner. The broker
// enforces it on the partition from the first Append on: the former owner's
// appends are accepted until then, and fail with ErrFenced after it.
//
// No transaction is begun: the producer id and epoch that come with a
// transactional id fence and deduplicate outside of transactions too. Fence
// retries while the cluster or the id's coordinator is not ready, until ctx
// ends. With access control it needs Write on the transactional id.
func (c *Cluster) Fence(ctx context.Context, cfg FenceConfig) (*FencedProducer, error) {
	cfg.MaxBatchBytes = cmp.Or(max(cfg.MaxBatchBytes, 0), c.cfg.BatchBytes)
	cfg.Compression = cmp.Or(cfg.Compression, c.cfg.Compression)
	p := &FencedProducer{c: c, cfg: cfg, what: fmt.Sprintf("appending to %s/%d", cfg.Topic, cfg.Partition)}
	what := fmt.Sprintf("taking producer id of %q", cfg.TransactionalID)
	var err error
	// A new epoch, whoever had the last one.
	if p.producer, err = c.initProducerID(ctx, what, cfg.TransactionalID, -1, -1); err != nil {
		return nil, err
	}
	return p, nil
}

// ProducerID returns the id under which Append writes; see Record.
func (p *FencedProducer) ProducerID() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.producer.id
}

// initProducerID asks the coordinator of a transactional id for a new epoch: the
// one after the one given, or after the latest for id and epoch −1.
func (c *Cluster) initProducerID(ctx context.Context, what, transactionalID string, id int64, epoch int16) (session producerState, err error) {
	err = c.retry(ctx, "init_producer_id", what, func(ctx context.Context) error {
		res, err := c.client.InitProducerID(ctx, &kafkago.InitProducerIDRequest{
			TransactionalID:      transactionalID,
			TransactionTimeoutMs: int(transactionTimeout.Milliseconds()),
			ProducerID:           int(id),
			ProducerEpoch:        int(epoch),
		})
		if err == nil {
			err = res.Error
		}
		if err != nil {
			return lostOwnership(err)
		}
		session = producerState{id: int64(res.Producer.ProducerID), epoch: int16(res.Producer.ProducerEpoch)}
		return nil
	})
	return session, err
}

// lostOwnership makes errors permanent that mean the end of a producer's
// ownership.
func lostOwnership(err error) error {
	switch {
	case errors.Is(err, kafkago.InvalidProducerEpoch), errors.Is(err, kafkago.ProducerFenced):
		return retry.Permanent(fmt.Errorf("%w: %w", ErrFenced, err))
	case errors.Is(err, kafkago.OutOfOrderSequenceNumber), errors.Is(err, kafkago.DuplicateSequenceNumber),
		errors.Is(err, kafkago.UnknownProducerId), errors.Is(err, kafkago.InvalidProducerIDMapping):
		return retry.Permanent(fmt.Errorf("%w: %w", ErrOutOfSequence, err))
	}
	return err
}

// Renew takes the epoch that follows this producer's own. The coordinator forgets
// a transactional id that nobody has asked for within
// transactional.id.expiration.ms, a week by default, however much is appended.
// Whoever fences then gets another producer id, and the broker, which compares
// epochs of one id, would go on taking what the former owner writes. Renewing
// every day or so keeps the id known.
//
// Passing errors are retried until ctx ends. The error matches ErrFenced when
// another process has taken the id over, ErrOutOfSequence when it is forgotten
// already, or ctx.Err(); every later Append then fails with it.
func (p *FencedProducer) Renew(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	what := fmt.Sprintf("renewing producer id of %q", p.cfg.TransactionalID)
	session, err := p.c.initProducerID(ctx, what, p.cfg.TransactionalID, p.producer.id, p.producer.epoch)
	if err == nil && session.id != p.producer.id {
		// An id that was forgotten is given out anew.
		err = fmt.Errorf("%s: %w: it has become %d, after %d", what, ErrOutOfSequence, session.id, p.producer.id)
	}
	if err != nil {
		p.broken = err
		return err
	}
	p.producer = session
	return nil
}

// Append writes records in order and returns the offset of the first when all
// are acknowledged; the others follow it without a gap. Topic, Partition and
// Offset of the records are ignored. It returns −1 for no records.
//
// Passing errors are retried until ctx ends. The error matches ErrFenced,
// ErrOutOfSequence, ErrTooLarge or ctx.Err() where they apply. After any
// error but ErrTooLarge it is not known what was stored, and every later
// Append fails with the same error: call Fence again and read the end of the
// partition. After ErrTooLarge the records before the one that is too large
// may have been stored, and the producer stays usable.
func (p *FencedProducer) Append(ctx context.Context, records []Record) (baseOffset int64, err error) {
	return p.append(ctx, records, false)
}

// AppendBatch is Append for records that are stored as one batch, all or none. Where
// they are more than one takes, by MaxBatchBytes or by the topic, the error matches
// ErrTooLarge, nothing is stored, and the producer stays usable.
func (p *FencedProducer) AppendBatch(ctx context.Context, records []Record) (baseOffset int64, err error) {
	return p.append(ctx, records, true)
}

// MaxBatchBytes returns the limit of a batch before compression. That of the topic may
// be lower.
func (p *FencedProducer) MaxBatchBytes() int { return p.cfg.MaxBatchBytes }

func (p *FencedProducer) append(ctx context.Context, records []Record, whole bool) (baseOffset int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return -1, p.broken
	}
	first, next := int64(-1), int64(-1)
	limit := p.cfg.MaxBatchBytes
	for len(records) > 0 {
		n := fitBatch(records, limit)
		if whole && n < len(records) {
			return -1, fmt.Errorf("%s: %w: %d records are more than a batch of %d bytes takes", p.what, ErrTooLarge, len(records), limit)
		}
		if err := p.c.fits(records[:n]); err != nil {
			return -1, fmt.Errorf("%s: %w", p.what, err)
		}
		frame, err := p.encoder.encode(records[:n], p.cfg.Compression, p.producer, time.Now())
		if err != nil {
			return -1, fmt.Errorf("%s: %w", p.what, err)
		}
		base, err := p.send(ctx, frame)
		if errors.Is(err, ErrTooLarge) {
			if n == 1 || whole {
				return -1, err
			}
			limit = len(frame) / 2 // the topic's limit is below ours
			continue
		}
		if err == nil && next >= 0 && base != next {
			err = fmt.Errorf("%s: %w: offset %d came after %d", p.what, ErrOutOfSequence, base, next-1)
		}
		if err != nil {
			p.broken = err
			return -1, err
		}
		if first < 0 {
			first = base
		}
		next = base + int64(n)
		// Sequences count records and go from 2^31 − 1 to 0.
		p.producer.sequence = int32((int64(p.producer.sequence) + int64(n)) & 0x7fffffff)
		p.c.metrics.produced.WithLabelValues(p.cfg.Topic).Add(float64(n))
		records = records[n:]
	}
	return first, nil
}

// send sends the same bytes until they are acknowledged or refused.
func (p *FencedProducer) send(ctx context.Context, frame []byte) (base int64, err error) {
	answered := true
	defer func() {
		if !answered {
			p.encoder.abandon()
		}
	}()
	err = p.c.retry(ctx, "append", p.what, func(ctx context.Context) error {
		var err error
		base, err = p.c.produceRaw(ctx, p.cfg.Topic, p.cfg.Partition, frame)
		answered = answered && err == nil
		return lostOwnership(err)
	})
	return base, err
}
