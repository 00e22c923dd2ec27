package simulator

import (
	"context"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/producers/pace/pacetest"
	"github.com/churnstream/churnstream/schemas"
)

func TestSimulatorOnABroker(t *testing.T) {
	cluster := pacetest.Cluster(t)
	codec, population := shopPopulation(t, 200)
	s, err := New(Config{Cluster: cluster, Codec: codec, Population: population, Rate: 20_000, OutcomeDelay: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	await.Until(t, "3,000 outcomes", func() bool { return s.Stats().Outcomes >= 3000 })
	stopped := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(stopped); took > time.Second {
		t.Errorf("took %v to stop", took)
	}
	for topic, atLeast := range map[string]int64{schemas.TopicEvents: s.Stats().Events, schemas.TopicOutcomes: s.Stats().Outcomes} {
		n := int64(0)
		for partition := range 6 {
			first, end, err := cluster.Offsets(t.Context(), topic, partition)
			if err != nil {
				t.Fatal(err)
			}
			if first == end {
				t.Errorf("nothing on partition %d of %s", partition, topic)
			}
			n += end - first
		}
		if n < atLeast {
			t.Errorf("%d records on %s, %d were acknowledged", n, topic, atLeast)
		}
	}
}

// BenchmarkSimulator measures events with their outcomes, from the draw to the
// broker's acknowledgement.
func BenchmarkSimulator(b *testing.B) {
	cluster := pacetest.Cluster(b)
	codec, population := shopPopulation(b, 200)
	s, err := New(Config{Cluster: cluster, Codec: codec, Population: population})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	b.ResetTimer()
	go func() { done <- s.Run(ctx) }()
	await.Until(b, "the events", func() bool { return s.Stats().Events >= int64(b.N) })
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkNext measures the making of events alone.
func BenchmarkNext(b *testing.B) {
	codec, population := shopPopulation(b, 200)
	s := start(b, Config{Codec: codec, Population: population}, &pacetest.Topics{})
	e := codec.NewEvent()
	now := time.Now()
	e.OccurredAt = now.UnixMilli()
	b.ReportAllocs()
	for b.Loop() {
		e.Changes.Clear()
		e.Increments.Clear()
		s.next(now, e)
	}
}
