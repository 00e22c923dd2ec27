package topics

import (
	"context"
	"errors"
	"fmt"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// Growing are the topics whose partitions belong together, in the order in which
// they are given more: the events last, for it is their number that producers
// distribute customers by, and scorers move customers when both it and that of
// the scores are there.
func Growing() []string {
	return []string{schemas.TopicScores, schemas.TopicOutcomes, schemas.TopicDeadLetters, schemas.TopicEvents}
}

// ErrFewer means that topics were to get fewer partitions than they have.
var ErrFewer = errors.New("partitions cannot be taken away")

// Grow gives the topics of events, scores, outcomes and dead letters a number of
// partitions. What an earlier call has begun is completed. It waits while the
// cluster is down; ErrFewer says that a topic has more already, in which case
// none is changed. done is called after each topic that was given more.
func Grow(ctx context.Context, cluster *kafka.Cluster, partitions int, done func(topic string, before int)) error {
	counts := map[string]int{}
	for _, topic := range Growing() {
		n, err := cluster.Partitions(ctx, topic)
		if err != nil {
			return fmt.Errorf("counting the partitions of %s: %w", topic, err)
		}
		if n > partitions {
			return fmt.Errorf("%w: %s has %d, asked for were %d", ErrFewer, topic, n, partitions)
		}
		counts[topic] = n
	}
	for _, topic := range Growing() {
		if counts[topic] == partitions {
			continue
		}
		if err := cluster.GrowTopic(ctx, topic, partitions); err != nil {
			return fmt.Errorf("giving %s %d partitions: %w", topic, partitions, err)
		}
		done(topic, counts[topic])
	}
	return nil
}
