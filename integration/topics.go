//go:build integration

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// timeout bounds what one test does on its services.
const timeout = 4 * time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// Position is a record's place in a topic.
type Position struct {
	Partition int
	Offset    int64
}

// Event is what identifies a customer event.
type Event struct {
	ID, Customer string
}

// Score is a score as it stands in churn.scores.
type Score struct {
	EventID, Customer string
	Source            Position // of the event it rests on
	ModelVersion      int64
	Probability       float64
}

// each calls fn with every record that a topic holds now, in the order of each
// partition.
func each(t testing.TB, c *kafka.Cluster, topic string, fn func(ctx context.Context, r kafka.Record) error) {
	t.Helper()
	ctx := testContext(t)
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	for partition := range n {
		_, end, err := c.Offsets(ctx, topic, partition)
		if err != nil {
			t.Fatal(err)
		}
		f := c.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: partition, Offset: -1})
		for f.Offset() < end {
			records, err := f.Fetch(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				if err := fn(ctx, r); err != nil {
					t.Fatalf("%s/%d at offset %d: %v", topic, partition, r.Offset, err)
				}
			}
		}
	}
}

// Events reads all customer events.
func Events(t testing.TB, c *kafka.Cluster, codec *schemas.Codec) map[Position]Event {
	t.Helper()
	events := map[Position]Event{}
	e := codec.NewEvent()
	each(t, c, schemas.TopicEvents, func(ctx context.Context, r kafka.Record) error {
		if err := codec.DecodeEvent(ctx, r.Value, e); err != nil {
			return err
		}
		events[Position{r.Partition, r.Offset}] = Event{string(e.EventID), string(e.CustomerID)}
		return nil
	})
	return events
}

// Scores reads all scores, in the order of each partition.
func Scores(t testing.TB, c *kafka.Cluster, codec *schemas.Codec) []Score {
	t.Helper()
	var scores []Score
	s := codec.NewScore()
	each(t, c, schemas.TopicScores, func(ctx context.Context, r kafka.Record) error {
		if r.Value == nil || schemas.IsReservedKey(r.Key) {
			return nil // a marker, or an erasure
		}
		if err := codec.DecodeScore(ctx, r.Value, s); err != nil {
			return err
		}
		if string(r.Key) != string(s.CustomerID) || r.Partition != int(s.SourcePartition) {
			return fmt.Errorf("score of customer %s, from partition %d, has key %s", s.CustomerID, s.SourcePartition, r.Key)
		}
		scores = append(scores, Score{
			EventID: string(s.EventID), Customer: string(s.CustomerID),
			Source: Position{int(s.SourcePartition), s.SourceOffset}, ModelVersion: s.ModelVersion, Probability: s.Probability,
		})
		return nil
	})
	return scores
}

// CheckScores fails the test unless every event has exactly one score by
// identity, and each customer's scores follow the order of its events. An event
// that its producer wrote twice counts once, at its first place; the number of
// such second places is returned.
func CheckScores(t testing.TB, events map[Position]Event, scores []Score) (repeated int) {
	t.Helper()
	var wrong []string
	first := map[Event]Position{}
	for at, e := range events {
		if before, ok := first[e]; ok {
			repeated++
			if before.Partition != at.Partition {
				wrong = append(wrong, fmt.Sprintf("event %+v stands at %+v and %+v", e, before, at))
			}
			if before.Offset < at.Offset {
				continue
			}
		}
		first[e] = at
	}
	count := map[Event]int{}
	last := map[string]int64{}
	for _, s := range scores {
		e := Event{s.EventID, s.Customer}
		count[e]++
		if at, ok := first[e]; !ok || at != s.Source {
			wrong = append(wrong, fmt.Sprintf("score %+v, but its event stands at %+v", s, at))
		}
		if before, ok := last[s.Customer]; ok && s.Source.Offset <= before {
			wrong = append(wrong, fmt.Sprintf("score %+v comes after the one of offset %d", s, before))
		}
		last[s.Customer] = s.Source.Offset
	}
	for e, at := range first {
		if count[e] != 1 {
			wrong = append(wrong, fmt.Sprintf("event %+v at %+v has %d scores", e, at, count[e]))
		}
	}
	if len(wrong) > 0 {
		t.Errorf("%d events and %d scores; %d things are wrong:\n%s", len(events), len(scores), len(wrong), tail(strings.Join(wrong, "\n"), 2000))
	}
	return repeated
}
