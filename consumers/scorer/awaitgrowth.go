package scorer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// ErrUnscored means that topics must not be given more partitions yet.
var ErrUnscored = errors.New("not before scorers have been at work on all partitions")

// MayGrow returns nil when the topics may be given more partitions, up to the
// number given: every partition with events was scored, so that it stands in its
// marker how many there were, and nobody moves any more because of another
// number. Otherwise the error matches ErrUnscored.
func MayGrow(ctx context.Context, cluster *kafka.Cluster, codec *schemas.Codec, partitions int) error {
	events, err := cluster.Partitions(ctx, schemas.TopicEvents)
	if err != nil {
		return err
	}
	if events == partitions {
		return nil // only the others, or what is left to be done
	}
	all, err := ReadProgress(ctx, cluster, codec)
	if err != nil {
		return err
	}
	for i := range all {
		switch p := &all[i]; {
		case i >= events:
		case p.Marker == nil && p.EventsEnd > 0:
			return fmt.Errorf("%w: partition %d holds events and was never scored; start scorers, with a model, first", ErrUnscored, i)
		case p.Marker != nil && (int(p.Marker.Partitions) != events || p.Marker.Moving):
			return fmt.Errorf("%w: customers still move because there are %d partitions now, which partition %d has not taken into account; are scorers running?", ErrUnscored, events, i)
		}
	}
	return nil
}

// AwaitGrowth waits until scorers have taken into account that there are as many
// partitions as given: every customer then has one state, at home. waiting is
// called with the partitions that are waited for, when they change.
func AwaitGrowth(ctx context.Context, cluster *kafka.Cluster, codec *schemas.Codec, partitions int, waiting func([]int)) error {
	var last []int
	for {
		all, err := ReadProgress(ctx, cluster, codec)
		if err != nil {
			return err
		}
		var left []int
		for i := range all {
			if m := all[i].Marker; m == nil || int(m.Partitions) < partitions || m.Moving {
				left = append(left, i)
			}
		}
		if len(left) == 0 {
			return nil
		}
		if !slices.Equal(left, last) {
			last = left
			waiting(left)
		}
		if !retry.Sleep(ctx, departurePause) {
			return ctx.Err()
		}
	}
}
