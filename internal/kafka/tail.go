package kafka

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// TailConfig configures Tail. Topics is required.
type TailConfig struct {
	Topics []string
	// FromEnd starts each partition at its end. Default: at its first record.
	FromEnd bool
	// ToEnd ends reading where the partitions end now. By default it goes on
	// with what is written from now on.
	ToEnd bool
	// OnCaughtUp is called once, from the goroutine of some partition, when
	// the records that were there at the start have been handled in all
	// partitions. Default: not called.
	OnCaughtUp func()
	// Reader is the name under which lag and standstill are reported; see
	// Cluster.Follow. Default none: they are not.
	Reader string
	// MaxBytes and MaxWait are those of FetcherConfig.
	MaxBytes int
	MaxWait  time.Duration
	// TopicsInterval is how often to look whether topics have more partitions
	// than before. Default 5 s.
	TopicsInterval time.Duration
}

// Tail reads every partition of some topics outside any consumer group, one
// goroutine per partition. handle is called with records of one partition at a
// time, never none; calls for one partition follow one another, calls for
// different partitions overlap. The records are valid until handle returns.
//
// Tail returns nil when ctx ends, or at the end with ToEnd, and the error of the
// first handle that failed. It waits while the cluster is down, and fails with
// ErrUnknownTopic when a topic does not exist. Partitions that are added to a
// topic are read from their first record on, within TopicsInterval.
func (c *Cluster) Tail(ctx context.Context, cfg TailConfig, handle func(ctx context.Context, records []Record) error) error {
	read := reading{c: c, cfg: cfg, handle: handle, known: map[string]int{}}
	read.group, ctx = errgroup.WithContext(ctx)
	for _, topic := range cfg.Topics {
		spans, err := c.Spans(ctx, topic)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		read.known[topic] = len(spans)
		read.spans = append(read.spans, spans...)
	}
	read.lagging.Store(int64(len(read.spans)))
	for _, span := range read.spans {
		start := span.Start
		if cfg.FromEnd {
			start = span.End
		}
		read.group.Go(func() error { return read.partition(ctx, span, start, true) })
	}
	if !cfg.ToEnd {
		read.group.Go(func() error {
			return c.Growth(ctx, cfg.TopicsInterval, read.known, func(topic string, partition int) error {
				read.group.Go(func() error {
					return read.partition(ctx, Span{Topic: topic, Partition: partition}, -1, false)
				})
				return nil
			})
		})
	}
	return read.group.Wait()
}

// reading is one call of Tail.
type reading struct {
	c       *Cluster
	cfg     TailConfig
	handle  func(ctx context.Context, records []Record) error
	group   *errgroup.Group
	known   map[string]int // partitions by topic
	spans   []Span
	lagging atomic.Int64 // partitions
}

// partition reads a partition from a start on. Until its end at the start it may
// count as lagging.
func (t *reading) partition(ctx context.Context, span Span, start int64, lagging bool) error {
	var position *Position
	if t.cfg.Reader != "" {
		position = t.c.Follow(t.cfg.Reader, span.Topic, span.Partition, start)
		position.Advance(start)
		defer position.Close()
	}
	ctx = position.Watch(ctx)
	fetcher := t.c.NewFetcher(FetcherConfig{
		Topic: span.Topic, Partition: span.Partition, Offset: start, MaxBytes: t.cfg.MaxBytes, MaxWait: t.cfg.MaxWait, Position: position,
	})
	defer fetcher.Close()
	for {
		if lagging && fetcher.Offset() >= span.End {
			lagging = false
			if t.lagging.Add(-1) == 0 && t.cfg.OnCaughtUp != nil {
				t.cfg.OnCaughtUp()
			}
			if t.cfg.ToEnd {
				return nil
			}
		}
		records, err := fetcher.Fetch(ctx)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		if len(records) > 0 {
			if err := t.handle(ctx, records); err != nil {
				return ignoreEnd(ctx, err)
			}
		}
		position.Advance(fetcher.Offset())
	}
}

// Growth calls added for every partition that topics get beyond those known, by
// topic, in order, until ctx ends. It looks every interval, by default every
// 5 s, and goes on looking while the cluster is down or a topic is not there.
// The error is that of added, or nil.
func (c *Cluster) Growth(ctx context.Context, interval time.Duration, known map[string]int, added func(topic string, partition int) error) error {
	ticker := time.NewTicker(cmp.Or(interval, defaultTopicsInterval))
	defer ticker.Stop()
	topics := slices.Sorted(maps.Keys(known))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		meta, err := c.metadata(ctx, topics...)
		if err != nil {
			continue // whoever reads the partitions there are says so
		}
		for _, topic := range topics {
			partitions, err := topicPartitions(meta, topic)
			if err != nil || len(partitions) <= known[topic] {
				continue
			}
			c.log.Info("a topic has more partitions now", "topic", topic, "before", known[topic], "now", len(partitions))
			for ; known[topic] < len(partitions); known[topic]++ {
				if err := added(topic, known[topic]); err != nil {
					return err
				}
			}
		}
	}
}

// defaultTopicsInterval is how often to look for new partitions by default.
const defaultTopicsInterval = 5 * time.Second

// ignoreEnd returns nil for an error that only says that ctx ended.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
