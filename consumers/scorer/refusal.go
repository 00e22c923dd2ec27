package scorer

import (
	"context"
	"fmt"
	"time"

	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// Why a partition is refused; values of a metric label.
const (
	// reasonScoresReplaced: the output topic is not the one that holds the state.
	reasonScoresReplaced = "scores_replaced"
	// reasonEventsReplaced: the events are of another topic than those scored.
	reasonEventsReplaced = "events_replaced"
	// reasonEventsCut: events that were scored are not there any more.
	reasonEventsCut = "events_cut"
	// reasonStatesLost: the output topic has lost scores of customers.
	reasonStatesLost = "states_lost"
	// reasonOtherGroup: another group scores into the topic.
	reasonOtherGroup = "other_group"
	// reasonUnreadable: a score of an owner cannot be read.
	reasonUnreadable = "unreadable_state"
	// reasonPartitions: the topics do not have the same number of partitions, or
	// customers cannot be moved between them.
	reasonPartitions = "partitions"
	// reasonTopicMissing: a topic does not exist.
	reasonTopicMissing = "topic_missing"
)

var reasons = [...]string{
	reasonScoresReplaced, reasonEventsReplaced, reasonEventsCut, reasonStatesLost, reasonOtherGroup, reasonUnreadable,
	reasonPartitions, reasonTopicMissing,
}

// refusal is why a partition is not worked on until somebody has decided what
// is to become of it. The others go on meanwhile.
type refusal struct {
	reason string
	why    string // with what to do
	// passed, if set, reports whether the reason is no more, beside what always
	// ends a refusal.
	passed func(context.Context) bool
	// busy says that others write into the output partition, so that this means
	// nothing.
	busy bool
	err  error // that it comes from, if any
}

func (r *refusal) Error() string { return r.why }
func (r *refusal) Unwrap() error { return r.err }

// acceptAdvice says how to go on after a refusal.
func (s *site) acceptAdvice(from string) string {
	return fmt.Sprintf("churnstream progress accept --partition %d --from %s", s.partition, from)
}

// refusalPause is the time between two looks at whether a refusal is over.
const refusalPause = 2 * time.Second

// refuse waits until there may be an end of a refusal: its reason has passed, a
// topic was created anew, or somebody has written into the output partition from
// the offset known on. It returns false when ctx ends.
func (s *site) refuse(ctx context.Context, r *refusal, known int64) bool {
	s.log.Error("not scoring this partition", "reason", r.reason, "why", r.why)
	gauge := s.metrics.refused.WithLabelValues(fmt.Sprint(s.partition), r.reason)
	s.waiting(s.partition, r.why)
	gauge.Set(1)
	defer func() {
		gauge.Set(0)
		s.waiting(s.partition, "")
	}()
	defer retry.Begin(ctx, r.why)()
	ids, _, err := s.surroundings(ctx)
	for {
		if !retry.Sleep(ctx, s.refusalPause) {
			return false
		}
		nowIDs, nowEnd, nowErr := s.surroundings(ctx)
		switch {
		case ctx.Err() != nil:
			return false
		case nowErr == nil && (err != nil || nowIDs != ids || nowEnd != known && !r.busy):
			return true
		case nowErr == nil && r.passed != nil && r.passed(ctx):
			return true
		}
	}
}

// surroundings are what ends a refusal when it changes.
func (s *site) surroundings(ctx context.Context) (ids topicIDs, end int64, err error) {
	if ids, err = s.topicIDs(ctx); err != nil {
		return ids, 0, err
	}
	_, end, err = s.cfg.Cluster.Offsets(ctx, schemas.TopicScores, s.partition)
	return ids, end, err
}
