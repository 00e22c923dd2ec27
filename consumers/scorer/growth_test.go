package scorer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
)

// A partition of events without one of scores waits, and the others go on.
func TestUnequalPartitions(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, -1))
	if err := s.cluster.GrowTopic(t.Context(), schemas.TopicScores, 3); err != nil { // begun by topics grow
		t.Fatal(err)
	}
	startGrowing(s)
	send := func(partition int, id string) {
		t.Helper()
		e := s.event("c-"+id, id, start, map[int]string{1: "1"}, nil)
		r := kafka.Record{Key: e.CustomerID, Value: s.codec.AppendEvent(nil, e)}
		if err := s.producer.ProduceTo(t.Context(), schemas.TopicEvents, partition, []kafka.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	scored := func(id string) bool { return len(readGrown(s).scores[id]) == 1 }
	send(0, "before")
	until(t, "a score while there are more partitions of scores", func() bool { return scored("before") })
	if err := s.cluster.GrowTopic(t.Context(), schemas.TopicEvents, 4); err != nil {
		t.Fatal(err)
	}
	why := func() string { v, _ := s.ready.Load("scorer"); text, _ := v.(string); return text }
	until(t, "the reason", func() bool {
		return strings.Contains(why(), "not scoring partitions [3]") && strings.Contains(why(), "churnstream topics grow")
	})
	send(0, "meanwhile")
	until(t, "a score meanwhile", func() bool { return scored("meanwhile") })
	send(3, "waiting")
	if err := s.cluster.GrowTopic(t.Context(), schemas.TopicScores, 4); err != nil {
		t.Fatal(err)
	}
	until(t, "the score of what waited", func() bool { return scored("waiting") })
	until(t, "readiness", func() bool { return why() == "" })
}

// startGrowing runs a scorer that notices at once when topics grow.
func startGrowing(s *stack) (stop func(process bool)) {
	s.t.Helper()
	sc, err := New(Config{
		Dependencies: role.Dependencies{
			Cluster: s.cluster, Codec: s.codec, Models: s.models, Logger: quiet(),
			Ready: func(name string, ready bool, why string) { s.ready.Store(name, why) },
		},
		CommitInterval: time.Millisecond,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	sc.topicsInterval = 5 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sc.Run(ctx) }()
	var stopped atomic.Bool
	stop = func(process bool) {
		if stopped.Swap(true) {
			return
		}
		sc.killed.Store(!process)
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			s.t.Errorf("Run: %v", err)
		}
	}
	s.t.Cleanup(func() { stop(true) })
	return stop
}

// grown is what the output topic holds, over all its partitions.
type grown struct {
	scores map[string][]int              // the partitions of the scores by events, by event
	latest map[string]schemas.ChurnScore // by customer
	live   map[string][]int              // the partitions whose last record of a customer is a score
}

func readGrown(s *stack) grown {
	s.t.Helper()
	g := grown{map[string][]int{}, map[string]schemas.ChurnScore{}, map[string][]int{}}
	spans, err := s.cluster.Spans(s.t.Context(), schemas.TopicScores)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, span := range spans {
		last := map[string]bool{}
		err := s.cluster.Read(s.t.Context(), span, func(records []kafka.Record, _ int64) error {
			for _, r := range records {
				if schemas.IsReservedKey(r.Key) {
					continue
				}
				last[string(r.Key)] = r.Value != nil
				if r.Value == nil {
					continue
				}
				score := s.codec.NewScore()
				if err := s.codec.DecodeScore(s.t.Context(), r.Value, score); err != nil {
					return err
				}
				if score.Trigger == schemas.TriggerEvent {
					g.scores[string(score.EventID)] = append(g.scores[string(score.EventID)], r.Partition)
				}
				if known, ok := g.latest[string(r.Key)]; !ok || known.AsOf <= score.AsOf {
					g.latest[string(r.Key)] = *score
				}
			}
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
		for id, live := range last {
			if live {
				g.live[id] = append(g.live[id], span.Partition)
			}
		}
	}
	return g
}

// Topics get more partitions, twice, while events come, from producers that
// notice late, and while scorers are killed and restarted. Every event is scored
// once, nothing that was added to a customer is lost or counted twice, and who
// was erased is nowhere any more.
func TestGrowth(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			playGrowth(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

func playGrowth(t *testing.T, rng *rand.Rand) {
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, -1))
	stops := []func(bool){startGrowing(s), startGrowing(s)}

	counts := []int{partitions}
	want := map[string]float64{}
	erased := map[string]bool{}
	born := map[string]int{}      // which of counts there was then
	events := map[string]string{} // the customer of each
	to := func(partition int, r kafka.Record) {
		t.Helper()
		if err := s.producer.ProduceTo(t.Context(), schemas.TopicEvents, partition, []kafka.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	send := func(customer string, n int, changes map[int]string, add map[int]float64) {
		id := fmt.Sprintf("e%d", len(events))
		events[id] = customer
		e := s.event(customer, id, start+int64(len(events)), changes, add)
		to(kafka.PartitionOf([]byte(customer), n), kafka.Record{Key: []byte(customer), Value: s.codec.AppendEvent(nil, e)})
	}
	settled := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var left []int
		if err := AwaitGrowth(ctx, s.cluster, s.codec, counts[len(counts)-1], func(partitions []int) { left = partitions }); err != nil {
			t.Fatalf("partitions %v: waiting for %v: %v; %s", counts, left, err, readyOf(s))
		}
	}
	settled()
	const steps = 400
	for step := range steps {
		if step == steps/3 || step == 2*steps/3 {
			now := counts[len(counts)-1]
			n := []int{now + 1, now + 2, 2 * now}[rng.IntN(3)]
			settled()
			if err := MayGrow(t.Context(), s.cluster, s.codec, n); err != nil {
				t.Fatal(err)
			}
			if rng.IntN(2) == 0 {
				if err := topics.Grow(t.Context(), s.cluster, n, func(string, int) {}); err != nil {
					t.Fatal(err)
				}
			} else { // by hand, in the other order
				for _, topic := range []string{schemas.TopicEvents, schemas.TopicOutcomes, schemas.TopicScores} {
					if err := s.cluster.GrowTopic(t.Context(), topic, n); err != nil {
						t.Fatal(err)
					}
				}
			}
			counts = append(counts, n)
		}
		if rng.IntN(60) == 0 {
			i := rng.IntN(len(stops))
			stops[i](rng.IntN(2) == 0)
			stops[i] = startGrowing(s)
		}
		customer := fmt.Sprint("customer", rng.IntN(30))
		now := counts[len(counts)-1]
		// What is added to has to come first: a customer's first event is not
		// overtaken by what a late producer wrote elsewhere.
		late := counts[born[customer]+rng.IntN(len(counts)-born[customer])]
		_, known := want[customer]
		switch {
		case erased[customer]:
		case known && rng.IntN(50) == 0:
			erased[customer] = true
			r := kafka.Record{Key: []byte(customer)}
			if rng.IntN(2) == 0 {
				to(kafka.PartitionOf([]byte(customer), now), r)
			} else if err := s.producer.ProduceEverywhere(t.Context(), schemas.TopicEvents, r); err != nil {
				t.Fatal(err)
			}
		case !known:
			want[customer], born[customer] = 1, len(counts)-1
			send(customer, now, map[int]string{months: "1"}, nil)
		default:
			x := float64(1 + rng.IntN(5))
			want[customer] += x
			send(customer, late, nil, map[int]float64{months: x})
		}
	}
	var problem string
	deadline := time.Now().Add(60 * time.Second)
	for {
		if problem = unsettled(readGrown(s), events, want, erased); problem == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("partitions %v: %s; %v", counts, problem, readyOf(s))
		}
		time.Sleep(20 * time.Millisecond)
	}
	// What is restored from the topic is the same.
	for i := range stops {
		stops[i](i == 0)
	}
	startGrowing(s)
	for customer := range want {
		if !erased[customer] {
			want[customer]++
			send(customer, counts[born[customer]+rng.IntN(len(counts)-born[customer])], nil, map[int]float64{months: 1})
		}
	}
	until(t, "all that was added after the restart", func() bool {
		problem = unsettled(readGrown(s), events, want, erased)
		return problem == ""
	})
}

func readyOf(s *stack) string { v, _ := s.ready.Load("scorer"); return fmt.Sprint(v) }

func unsettled(g grown, events map[string]string, want map[string]float64, erased map[string]bool) string {
	for id, customer := range events {
		// One that comes after its customer was erased is a duplicate of nothing.
		if in := g.scores[id]; len(in) > 1 || len(in) == 0 && !erased[customer] {
			return fmt.Sprintf("event %s of %s is scored in partitions %v", id, customer, in)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		s, known := g.latest[id]
		switch {
		case erased[id] && len(g.live[id]) > 0:
			return fmt.Sprintf("%s is erased, and not in partitions %v", id, g.live[id])
		case erased[id]:
		case !known:
			return fmt.Sprintf("%s has no score", id)
		case s.Attributes[months] != want[id]:
			return fmt.Sprintf("%s has %v after event %s in %d, want %v; scores in %v", id, s.Attributes[months], s.EventID, s.SourcePartition, want[id], g.live[id])
		}
	}
	return ""
}

// A partition that is accepted from an offset on keeps the customers who have
// moved there, and nobody can have it go back to before they moved.
func TestAcceptAfterGrowth(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, -1))
	stop := startGrowing(s)
	id := ""
	for i := 0; id == ""; i++ {
		if c := fmt.Sprint("customer", i); kafka.PartitionOf([]byte(c), 4) == 3 {
			id = c
		}
	}
	to := func(partition int, e *schemas.CustomerEvent) {
		t.Helper()
		r := kafka.Record{Key: e.CustomerID, Value: s.codec.AppendEvent(nil, e)}
		if err := s.producer.ProduceTo(t.Context(), schemas.TopicEvents, partition, []kafka.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want float64) func() bool {
		return func() bool { c, known := readGrown(s).latest[id]; return known && c.Attributes[months] == want }
	}
	to(1, s.event(id, "e1", start, map[int]string{months: "5"}, nil))
	until(t, "the first score", is(5))
	if err := topics.Grow(t.Context(), s.cluster, 4, func(string, int) {}); err != nil {
		t.Fatal(err)
	}
	if err := AwaitGrowth(t.Context(), s.cluster, s.codec, 4, func([]int) {}); err != nil {
		t.Fatal(err)
	}
	stop(true)
	accept := func(partition int, from From) error {
		_, _, err := Accept(t.Context(), AcceptConfig{Cluster: s.cluster, Codec: s.codec, Partition: partition, Group: DefaultGroup, From: from})
		return err
	}
	if err := accept(1, "0"); err == nil || !strings.Contains(err.Error(), "moved") {
		t.Errorf("back to before they moved: %v", err)
	}
	if err := accept(3, "0"); err != nil {
		t.Fatal(err)
	}
	startGrowing(s)
	to(3, s.event(id, "e2", start+1, nil, map[int]float64{months: 2}))
	until(t, "what was added after it", is(7))
}

// An erasure that comes over a former home does not reach a customer who has come
// back since.
func TestErasureTheLongWay(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	sc, err := New(Config{Dependencies: role.Dependencies{Cluster: s.cluster, Codec: s.codec, Models: s.models, Logger: quiet()}})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(sc, claim{})
	w.begin(newState(s.set.Vocabulary()))
	c := s.codec.NewScore()
	c.CustomerID, c.AsOf = []byte("anna"), start
	w.state.customers.Put(c)
	copied := []kafka.Header{{Key: schemas.HeaderErasureCopy, Value: []byte("1")}}
	for _, test := range []struct {
		name    string
		key     string
		at      int64
		headers []kafka.Header
		want    bool
	}{
		{"asked for here", "anna", start - 1, nil, false},
		{"of before", "anna", start - 1, copied, true},
		{"of after", "anna", start, copied, false},
		{"of nobody", "otto", start - 1, copied, false},
	} {
		r := kafka.Record{Key: []byte(test.key), Headers: test.headers, Time: time.UnixMilli(test.at)}
		if got := w.returned(&r); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
