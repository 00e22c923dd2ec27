package kafka

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/internal/retry"
)

// ErrTooLarge is matched when a single record exceeds the size limit of its
// topic (max.message.bytes) or Config.LargestBatch.
var ErrTooLarge = errors.New("record is too large for the topic")

const (
	// partitionsTTL bounds how long a producer works with an old number of
	// partitions.
	partitionsTTL = defaultTopicsInterval
	// concurrentPartitions bounds the requests of one Produce in flight.
	concurrentPartitions = 16
)

// ProducerConfig configures NewProducer. The zero value is good.
type ProducerConfig struct {
	// Compression of the batches. Default Config.Compression.
	Compression Compression
	// MaxBatchBytes bounds a batch before compression. A larger record goes
	// into a batch of its own. Default Config.BatchBytes.
	MaxBatchBytes int
}

// Producer writes records with acknowledgement by all in-sync replicas. It is
// safe for concurrent use and needs no closing.
//
// A write that was stored but whose acknowledgement was lost is sent again:
// records may come twice, side by side in their order.
type Producer struct {
	c        *Cluster
	cfg      ProducerConfig
	encoders sync.Pool // *encoder

	mu         sync.Mutex
	partitions map[string]partitionCount
}

type partitionCount struct {
	n  int
	at time.Time
}

// NewProducer returns a Producer. It does no I/O.
func (c *Cluster) NewProducer(cfg ProducerConfig) *Producer {
	cfg.MaxBatchBytes = cmp.Or(max(cfg.MaxBatchBytes, 0), c.cfg.BatchBytes)
	cfg.Compression = cmp.Or(cfg.Compression, c.cfg.Compression)
	return &Producer{
		c: c, cfg: cfg,
		encoders:   sync.Pool{New: func() any { return new(encoder) }},
		partitions: map[string]partitionCount{},
	}
}

// Produce writes records to topic and returns when all are acknowledged. A
// record's partition is PartitionOf its key; records without a key go
// together to a partition drawn for the call. The order of records is kept
// within a partition. Topic, Partition and Offset of the records are ignored.
//
// Passing errors are retried until ctx ends. The error matches
// ErrUnknownTopic, ErrTooLarge or ctx.Err() where they apply; then some of
// the records may have been written.
func (p *Producer) Produce(ctx context.Context, topic string, records ...Record) error {
	if len(records) == 0 {
		return nil
	}
	n, err := p.count(ctx, topic)
	if err != nil {
		return fmt.Errorf("producing to topic %q: %w", topic, err)
	}
	if n == 1 || len(records) == 1 {
		partition := 0
		if n > 1 {
			partition = p.partition(records[0].Key, n, rand.IntN(n))
		}
		return p.ProduceTo(ctx, topic, partition, records)
	}
	byPartition := make([][]Record, n)
	keyless := rand.IntN(n)
	for _, r := range records {
		i := p.partition(r.Key, n, keyless)
		byPartition[i] = append(byPartition[i], r)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrentPartitions)
	for partition, records := range byPartition {
		if len(records) > 0 {
			group.Go(func() error { return p.ProduceTo(ctx, topic, partition, records) })
		}
	}
	return group.Wait()
}

// ProduceEverywhere writes one record to every partition that a topic has now,
// as Produce does.
func (p *Producer) ProduceEverywhere(ctx context.Context, topic string, record Record) error {
	n, err := p.c.Partitions(ctx, topic)
	if err != nil {
		return fmt.Errorf("producing to topic %q: %w", topic, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrentPartitions)
	for partition := range n {
		group.Go(func() error { return p.ProduceTo(ctx, topic, partition, []Record{record}) })
	}
	return group.Wait()
}

// ProduceTo is Produce to a partition of the caller's choice.
func (p *Producer) ProduceTo(ctx context.Context, topic string, partition int, records []Record) error {
	encoder := p.encoders.Get().(*encoder)
	defer p.encoders.Put(encoder)
	what := fmt.Sprintf("producing to %s/%d", topic, partition)
	limit := p.cfg.MaxBatchBytes
	for len(records) > 0 {
		n := fitBatch(records, limit)
		if err := p.c.fits(records[:n]); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		frame, err := encoder.encode(records[:n], p.cfg.Compression, noProducer, time.Now())
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		answered := true
		err = p.c.retry(ctx, "produce", what, func(ctx context.Context) error {
			_, err := p.c.produceRaw(ctx, topic, partition, frame)
			answered = answered && err == nil
			return err
		})
		if !answered {
			encoder.abandon()
		}
		if errors.Is(err, ErrTooLarge) && n > 1 {
			limit = len(frame) / 2 // the topic's limit is below ours
			continue
		}
		if err != nil {
			return err
		}
		p.c.metrics.produced.WithLabelValues(topic).Add(float64(n))
		records = records[n:]
	}
	return nil
}

func (p *Producer) partition(key []byte, n, keyless int) int {
	if key == nil {
		return keyless
	}
	return PartitionOf(key, n)
}

// count returns the number of partitions of a topic, from memory if it can.
func (p *Producer) count(ctx context.Context, topic string) (int, error) {
	p.mu.Lock()
	known, ok := p.partitions[topic]
	p.mu.Unlock()
	if ok && time.Since(known.at) < partitionsTTL {
		return known.n, nil
	}
	n, err := p.c.Partitions(ctx, topic)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, fmt.Errorf("topic %q has no partitions: %w", topic, ErrUnknownTopic)
	}
	p.mu.Lock()
	p.partitions[topic] = partitionCount{n, time.Now()}
	p.mu.Unlock()
	return n, nil
}

// fits returns ErrTooLarge for a batch that brokers would not answer but hang
// up on: an error of the connection, which would be tried again for ever.
func (c *Cluster) fits(records []Record) error {
	if len(records) > 1 {
		return nil // as fitBatch has seen to
	}
	if n := recordBound(records[0]); n > c.cfg.LargestBatch {
		return fmt.Errorf("%w: %d bytes, and %d are the most that is sent", ErrTooLarge, n, c.cfg.LargestBatch)
	}
	return nil
}

// produceRaw makes one attempt to write one encoded batch and returns the
// offset of its first record.
func (c *Cluster) produceRaw(ctx context.Context, topic string, partition int, frame []byte) (int64, error) {
	res, err := c.client.RawProduce(ctx, &kafkago.RawProduceRequest{
		Topic:        topic,
		Partition:    partition,
		RequiredAcks: kafkago.RequireAll,
		RawRecords:   protocol.RawRecordSet{Reader: bytes.NewReader(frame)},
	})
	if err != nil {
		return 0, err
	}
	switch err := res.Error; {
	case errors.Is(err, kafkago.MessageSizeTooLarge), errors.Is(err, kafkago.RecordListTooLarge):
		return 0, retry.Permanent(fmt.Errorf("%w: batch of %d bytes: %w", ErrTooLarge, len(frame)-4, err))
	case err != nil:
		return 0, err
	}
	return res.BaseOffset, nil
}

// PartitionOf returns the partition of a key as Java's DefaultPartitioner
// does: murmur2 of the key, without its sign, modulo the number of
// partitions. Clients with another default (librdkafka hashes with CRC-32)
// must be set to murmur2 to agree.
func PartitionOf(key []byte, partitions int) int {
	return int(murmur2(key)&0x7fffffff) % partitions
}

// murmur2 is Austin Appleby's MurmurHash2, 32 bits, with the seed that Kafka
// uses.
func murmur2(data []byte) uint32 {
	const m = 0x5bd1e995
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> 24
		k *= m
		h = h*m ^ k
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
