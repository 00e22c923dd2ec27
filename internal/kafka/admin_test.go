package kafka_test

import (
	"context"
	"errors"
	"testing"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/kafka"
)

// A topic that is created anew under its name is another one.
func TestTopicID(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	first, err := e.cluster.TopicID(ctx, topic)
	if err != nil || first == (kafka.TopicID{}) {
		t.Fatalf("id %s, %v", first, err)
	}
	if again, err := e.cluster.TopicID(ctx, topic); err != nil || again != first {
		t.Errorf("asked again: %s, %v", again, err)
	}
	if back, err := kafka.ParseTopicID(first.String()); err != nil || back != first {
		t.Errorf("parsed back: %s, %v", back, err)
	}
	client := &kafkago.Client{Addr: kafkago.TCP(e.broker.Addr())}
	if _, err := client.DeleteTopics(ctx, &kafkago.DeleteTopicsRequest{Topics: []string{topic}}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.cluster.TopicID(ctx, topic); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("of a topic that was deleted: %v", err)
	}
	if err := e.cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: topic, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	if second, err := e.cluster.TopicID(ctx, topic); err != nil || second == first {
		t.Errorf("id of the new topic %s, of the old %s, %v", second, first, err)
	}
}

func TestParseTopicID(t *testing.T) {
	for _, bad := range []string{"x", "00", "zz000000000000000000000000000000", "000000000000000000000000000000000000"} {
		if _, err := kafka.ParseTopicID(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if id, err := kafka.ParseTopicID(""); err != nil || id.String() != "" {
		t.Errorf("none: %v, %v", id, err)
	}
}

func TestTopicSettings(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	if err := e.cluster.EnsureTopics(ctx, kafka.TopicConfig{
		Name: "compacted", Partitions: 1, Configs: map[string]string{"cleanup.policy": "compact"},
	}); err != nil {
		t.Fatal(err)
	}
	settings, err := e.cluster.TopicSettings(ctx, topic, "compacted", "typo")
	if err != nil {
		t.Fatal(err)
	}
	if got := settings["compacted"]["cleanup.policy"]; got != "compact" {
		t.Errorf("cleanup.policy %q", got)
	}
	if got := settings[topic]["cleanup.policy"]; got != "delete" {
		t.Errorf("the broker's default cleanup.policy %q", got)
	}
	if _, ok := settings["typo"]; ok {
		t.Error("a topic that does not exist has settings")
	}
}

func TestGroupMembers(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	if n, err := e.cluster.GroupMembers(ctx, "nobody"); err != nil || n != 0 {
		t.Errorf("of a group that does not exist: %d, %v", n, err)
	}
	done := errors.New("done")
	err := e.cluster.Consume(ctx, quick(topic), func(ctx context.Context, claim *kafka.Claim) error {
		if n, err := e.cluster.GroupMembers(ctx, quick(topic).Group); err != nil || n != 1 {
			t.Errorf("of a group of one: %d, %v", n, err)
		}
		return done
	})
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	if n, err := e.cluster.GroupMembers(ctx, quick(topic).Group); err != nil || n != 0 {
		t.Errorf("after the last has left: %d, %v", n, err)
	}
}

func TestGrowTopic(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 2)
	for range 2 {
		if err := e.cluster.GrowTopic(ctx, topic, 5); err != nil {
			t.Fatal(err)
		}
		if n, err := e.cluster.Partitions(ctx, topic); err != nil || n != 5 {
			t.Fatalf("%d partitions, %v", n, err)
		}
	}
	if err := e.cluster.GrowTopic(ctx, topic, 4); !errors.Is(err, kafka.ErrMorePartitions) {
		t.Errorf("to fewer: %v", err)
	}
	if err := e.cluster.GrowTopic(ctx, "typo", 4); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("of no topic: %v", err)
	}
}
