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
	// OnCaughtUp is called once, from the goroutine of some partition, when
	// the records that were there at the start have been handled in all
	// partitions. Default: not called.
	OnCaughtUp func()
	// MaxBytes and MaxWait are those of FetcherConfig.
	MaxBytes int
	MaxWait  time.Duration
}

// Tail reads every partition of some topics outside any consumer group, one
// goroutine a partition. handle is called with records of one partition at a
// time, never none; calls for one partition follow one another, calls for
// different partitions overlap. The records are valid until handle returns.
//
// Tail returns nil when ctx ends and the error of the first handle that
// failed. It waits while the cluster is down, and fails with ErrUnknownTopic
// when a topic does not exist. Partitions added later are not noticed.
func (c *Cluster) Tail(ctx context.Context, cfg TailConfig, handle func(ctx context.Context, records []Record) error) error {
	type source struct {
		fetcher *Fetcher
		end     int64
	}
	var sources []source
	for _, topic := range cfg.Topics {
		n, err := c.Partitions(ctx, topic)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		for p := range n {
			first, end, err := c.Offsets(ctx, topic, p)
			if err != nil {
				return ignoreEnd(ctx, err)
			}
			if cfg.FromEnd {
				first = end
			}
			sources = append(sources, source{end: end, fetcher: c.NewFetcher(FetcherConfig{
				Topic: topic, Partition: p, Offset: first, MaxBytes: cfg.MaxBytes, MaxWait: cfg.MaxWait,
			})})
		}
	}

	var behind atomic.Int64
	behind.Store(int64(len(sources)))
	caughtUp := func() {
		if behind.Add(-1) == 0 && cfg.OnCaughtUp != nil {
			cfg.OnCaughtUp()
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range sources {
		group.Go(func() error {
			behind := true
			for {
				if behind && s.fetcher.Offset() >= s.end {
					behind = false
					caughtUp()
				}
				records, err := s.fetcher.Fetch(ctx)
				if err != nil {
					return ignoreEnd(ctx, err)
				}
				if len(records) == 0 {
					continue
				}
				if err := handle(ctx, records); err != nil {
					return ignoreEnd(ctx, err)
				}
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
