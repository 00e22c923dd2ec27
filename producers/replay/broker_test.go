package replay

import (
	"context"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/producers/pace/pacetest"
	"github.com/churnstream/churnstream/schemas"
)

// copyTopics reads a cluster's topics into memory.
func copyTopics(t *testing.T, cluster *kafka.Cluster) *pacetest.Topics {
	t.Helper()
	topics := &pacetest.Topics{}
	err := cluster.Tail(t.Context(), kafka.TailConfig{Topics: []string{schemas.TopicEvents, schemas.TopicOutcomes}, ToEnd: true},
		func(ctx context.Context, records []kafka.Record) error {
			return topics.Produce(ctx, records[0].Topic, records...)
		})
	if err != nil {
		t.Fatal(err)
	}
	return topics
}

func TestReplayOnABroker(t *testing.T) {
	cluster := pacetest.Cluster(t)
	set, examples := load(t)
	cfg := Config{Cluster: cluster, Codec: pacetest.Codec(t, set), Examples: examples, OutcomeDelay: 200 * time.Millisecond, Seed: 1}

	// Stop the first run between history and the last outcome.
	cfg.Rate = 5000
	first, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- first.Run(ctx) }()
	await.Until(t, "500 events", func() bool { return first.Stats().Events >= 500 })
	stopped := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(stopped); took > time.Second {
		t.Errorf("took %v to stop", took)
	}

	cfg.Rate = 0
	second, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, cfg, copyTopics(t, cluster))
	if one, two := first.Stats(), second.Stats(); one.History != 4226 || one.Events == 2817 || two.History != 0 || two.Events == 0 {
		t.Errorf("the first run published %+v, the second %+v", one, two)
	}
}

func TestReadAllOfEmptyTopics(t *testing.T) {
	topics := copyTopics(t, pacetest.Cluster(t))
	if n := len(topics.Records(schemas.TopicEvents)); n != 0 {
		t.Errorf("%d events", n)
	}
}

func TestReplayStopsWhileTheClusterIsAway(t *testing.T) {
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	set, examples := load(t)
	r, err := New(Config{Cluster: cluster, Codec: pacetest.Codec(t, set), Examples: examples})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := r.Run(ctx); err != nil {
		t.Errorf("error %v, want none", err)
	}
	if took := time.Since(began); ctx.Err() == nil || took > 1200*time.Millisecond {
		t.Errorf("stopped after %v, want 200 ms", took)
	}
}
