package topics_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
)

func TestGrow(t *testing.T) {
	c, _ := cluster(t)
	if err := topics.Grow(t.Context(), c, 4, nil); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("without topics: %v", err)
	}
	if err := c.EnsureTopics(t.Context(), topics.EmbeddedConfigs(3)...); err != nil {
		t.Fatal(err)
	}
	if err := c.GrowTopic(t.Context(), schemas.TopicScores, 5); err != nil { // begun before
		t.Fatal(err)
	}
	var grown []string
	note := func(topic string, before int) {
		if before != 3 {
			t.Errorf("%s had %d partitions", topic, before)
		}
		grown = append(grown, topic)
	}
	for range 2 {
		if err := topics.Grow(t.Context(), c, 5, note); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{schemas.TopicOutcomes, schemas.TopicDeadLetters, schemas.TopicEvents}; !slices.Equal(grown, want) {
		t.Errorf("grown are %v, want %v", grown, want)
	}
	if err := topics.Grow(t.Context(), c, 4, note); !errors.Is(err, topics.ErrFewer) {
		t.Errorf("to fewer: %v", err)
	}
	for _, topic := range topics.Names() {
		want := 5
		switch topic {
		case schemas.TopicModels:
			want = 1
		case schemas.TopicExamples: // has a number of its own
			want = 3
		}
		if n, err := c.Partitions(t.Context(), topic); err != nil || n != want {
			t.Errorf("%s has %d partitions, %v", topic, n, err)
		}
	}
}
