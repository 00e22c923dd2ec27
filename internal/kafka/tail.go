package kafka

import (
	"context"
	"errors"
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
}

// Tail reads every partition of some topics outside any consumer group, one
// goroutine per partition. handle is called with records of one partition at a
// time, never none; calls for one partition follow one another, calls for
// different partitions overlap. The records are valid until handle returns.
//
// Tail returns nil when ctx ends, or at the end with ToEnd, and the error of the
// first handle that failed. It waits while the cluster is down, and fails with
// ErrUnknownTopic when a topic does not exist. Partitions added later are not
// noticed.
func (c *Cluster) Tail(ctx context.Context, cfg TailConfig, handle func(ctx context.Context, records []Record) error) error {
	type source struct {
		fetcher  *Fetcher
		position *Position
		end      int64
	}
	var sources []source
	for _, topic := range cfg.Topics {
		spans, err := c.Spans(ctx, topic)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		for _, s := range spans {
			if cfg.FromEnd {
				s.Start = s.End
			}
			var position *Position
			if cfg.Reader != "" {
				position = c.Follow(cfg.Reader, topic, s.Partition, s.Start)
				position.Advance(s.Start)
				defer position.Close()
			}
			sources = append(sources, source{end: s.End, position: position, fetcher: c.NewFetcher(FetcherConfig{
				Topic: topic, Partition: s.Partition, Offset: s.Start, MaxBytes: cfg.MaxBytes, MaxWait: cfg.MaxWait, Position: position,
			})})
		}
	}

	var lagging atomic.Int64 // partitions
	lagging.Store(int64(len(sources)))
	caughtUp := func() {
		if lagging.Add(-1) == 0 && cfg.OnCaughtUp != nil {
			cfg.OnCaughtUp()
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range sources {
		group.Go(func() error {
			ctx := s.position.Watch(ctx)
			lagging := true
			for {
				if lagging && s.fetcher.Offset() >= s.end {
					lagging = false
					caughtUp()
					if cfg.ToEnd {
						return nil
					}
				}
				records, err := s.fetcher.Fetch(ctx)
				if err != nil {
					return ignoreEnd(ctx, err)
				}
				if len(records) > 0 {
					if err := handle(ctx, records); err != nil {
						return ignoreEnd(ctx, err)
					}
				}
				s.position.Advance(s.fetcher.Offset())
			}
		})
	}
	return group.Wait()
}

// ignoreEnd returns nil for an error that only says that ctx ended.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
