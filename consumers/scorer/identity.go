package scorer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// topicIDs tell the topics from others of the same names; "" where the broker
// knows no ids.
type topicIDs struct{ events, scores string }

// different reports whether two ids are those of different topics.
func different(a, b string) bool { return a != "" && b != "" && a != b }

// identityInterval is the time between two looks at the ids of the topics.
const identityInterval = 2 * time.Second

// askTopicIDs asks the broker for the ids of the topics.
func (s *Scorer) askTopicIDs(ctx context.Context) (ids topicIDs, err error) {
	for _, t := range []struct {
		name string
		id   *string
	}{{schemas.TopicEvents, &ids.events}, {schemas.TopicScores, &ids.scores}} {
		id, err := s.cfg.Cluster.TopicID(ctx, t.name)
		if errors.Is(err, kafka.ErrUnknownTopic) {
			return ids, &refusal{
				reason: reasonTopicMissing,
				why:    fmt.Sprintf("there is no topic %s any more", t.name),
				passed: func(ctx context.Context) bool {
					_, err := s.cfg.Cluster.TopicID(ctx, t.name)
					return err == nil
				},
			}
		}
		if err != nil {
			return ids, fmt.Errorf("asking for the id of %s: %w", t.name, err)
		}
		*t.id = id.String()
	}
	return ids, nil
}

// currentTopicIDs returns the ids as they were some time ago at most, for all
// workers.
func (s *Scorer) currentTopicIDs(ctx context.Context, ago time.Duration) (topicIDs, error) {
	s.idsMu.Lock()
	defer s.idsMu.Unlock()
	if now := s.cfg.Now(); s.idsAt.IsZero() || now.Sub(s.idsAt) >= ago {
		ids, err := s.topicIDs(ctx)
		if err != nil {
			return ids, err
		}
		s.ids, s.idsAt = ids, now
	}
	return s.ids, nil
}

// errOtherTopics means that a topic is not the one any more that the worker has
// restored its state from.
var errOtherTopics = errors.New("a topic was created anew")

// notePrefix begins what is committed beside an offset: the id of the topic of
// scores to which it belongs. Nobody else commits such notes, so whoever commits
// offsets under the scorer's group says nothing by it.
const notePrefix = schemas.TopicScores + " "

func noteOf(scores string) string {
	if scores == "" {
		return ""
	}
	return notePrefix + scores
}

// readNote returns the id of the topic of scores in a note, "" if it has none.
func readNote(note string) string {
	id, ok := strings.CutPrefix(note, notePrefix)
	if _, err := kafka.ParseTopicID(id); !ok || err != nil {
		return ""
	}
	return id
}

// trace is a sign of progress outside the output topic, by which one that came
// back empty is known.
type trace struct {
	where  string // it is found
	scores string // id of the topic of scores it speaks of, "" if it says none
	next   int64  // event
}
