package scorer

import (
	"context"
	"fmt"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// countPartitions counts the partitions of both topics and notes their number if
// there are scores for all events.
func (s *Scorer) countPartitions(ctx context.Context) (events, scores int, err error) {
	if events, err = s.cfg.Cluster.Partitions(ctx, schemas.TopicEvents); err != nil {
		return 0, 0, fmt.Errorf("counting the partitions of %s: %w", schemas.TopicEvents, err)
	}
	if scores, err = s.cfg.Cluster.Partitions(ctx, schemas.TopicScores); err != nil {
		return 0, 0, fmt.Errorf("counting the partitions of %s: %w", schemas.TopicScores, err)
	}
	if events <= scores {
		// A broker may not know yet what another one said.
		s.mu.Lock()
		s.partitions.Store(max(s.partitions.Load(), int64(events)))
		s.mu.Unlock()
	}
	return events, scores, nil
}

// watchPartitions keeps the number of partitions up to date.
func (s *Scorer) watchPartitions(ctx context.Context, events, scores int) {
	known := map[string]int{schemas.TopicEvents: events, schemas.TopicScores: scores}
	_ = s.cfg.Cluster.Growth(ctx, s.topicsInterval, known, func(string, int) error {
		if _, _, err := s.countPartitions(ctx); err != nil {
			s.log.Warn("counting partitions", "error", err)
		}
		return nil
	})
}

func tooFew(events, scores int) string {
	return fmt.Sprintf("%s has %d partitions and %s only %d; give them the same number with churnstream topics grow",
		schemas.TopicEvents, events, schemas.TopicScores, scores)
}

// awaitPartition waits until a partition has one to write scores to.
func (s *Scorer) awaitPartition(ctx context.Context, partition int) error {
	var end func()
	defer func() {
		if end != nil {
			end()
			s.waiting(partition, "")
		}
	}()
	for {
		events, scores, err := s.countPartitions(ctx)
		if err != nil {
			return err
		}
		if partition < scores && s.partitions.Load() > 0 {
			return nil
		}
		if why := tooFew(events, scores); end == nil {
			end = retry.Begin(ctx, why)
			s.waiting(partition, why)
			s.log.Warn("waiting for a partition of scores", "partition", partition, "why", why)
		}
		if !retry.Sleep(ctx, departurePause) {
			return ctx.Err()
		}
	}
}

// checkGrowth has a batch stopped, by errGrown, before an event of a customer who is
// not at home here, but has moved here while nobody has noticed yet that there are more partitions:
// the customer's state has to come first.
func (w *worker) checkGrowth(ctx context.Context, key []byte) error {
	p := &w.state.progress
	if w.placed || w.cfg.Codec.Keys != schemas.KeyPlain {
		return nil
	}
	events, scores, err := w.countPartitions(ctx)
	switch {
	case err != nil:
		return err
	case events > scores && kafka.PartitionOf(key, events) == w.partition:
		return &refusal{reason: reasonPartitions, why: tooFew(events, scores), passed: func(ctx context.Context) bool {
			events, scores, err := w.countPartitions(ctx)
			return err == nil && events <= scores
		}}
	case events <= int(p.Partitions) && w.partitions.Load() <= int64(p.Partitions):
		w.placed = true // the batch was read before that
	case kafka.PartitionOf(key, int(w.partitions.Load())) == w.partition:
		return errGrown
	}
	return nil // an event that is misplaced either way, or an erasure of everywhere
}
