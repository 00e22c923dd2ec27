package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/producers/pace"
	"github.com/churnstream/churnstream/producers/pace/pacetest"
	"github.com/churnstream/churnstream/schemas"
)

func start(t *testing.T, cfg Config, topics *pacetest.Topics) *Replay {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	r, err := newReplay(cfg, topics, topics)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// contents is what a finished replay left on the topics, by customer.
type contents struct {
	history, live map[string]schemas.ChurnOutcome
	events        map[string]*schemas.CustomerEvent
}

// check reads the topics and fails if they do not hold every example exactly
// once, as history or live.
func check(t *testing.T, cfg Config, topics *pacetest.Topics) contents {
	t.Helper()
	c := contents{map[string]schemas.ChurnOutcome{}, map[string]schemas.ChurnOutcome{}, map[string]*schemas.CustomerEvent{}}
	for _, o := range topics.Outcomes(t, cfg.Codec) {
		into := c.live
		if o.Source == SourceHistory {
			into = c.history
		} else if o.Source != SourceLive || o.Attributes != nil {
			t.Fatalf("outcome of %s is from %q, attributes %v", o.CustomerID, o.Source, o.Attributes)
		}
		if _, twice := into[o.CustomerID]; twice {
			t.Fatalf("%s has two outcomes", o.CustomerID)
		}
		into[o.CustomerID] = o
	}
	ids := map[string]bool{}
	for _, e := range topics.Events(t, cfg.Codec) {
		id := string(e.CustomerID)
		if c.events[id] != nil {
			t.Fatalf("%s has two events", id)
		}
		if ids[string(e.EventID)] {
			t.Fatalf("event id %s is not unique", e.EventID)
		}
		ids[string(e.EventID)] = true
		c.events[id] = e
		if string(e.Source) != SourceLive {
			t.Fatalf("event of %s is from %q", id, e.Source)
		}
	}
	historyAt := int64(-1)
	for i := range cfg.Examples {
		example := &cfg.Examples[i]
		id := example.CustomerID
		history, isHistory := c.history[id]
		live, hasOutcome := c.live[id]
		event, hasEvent := c.events[id]
		switch {
		case isHistory == hasEvent, hasEvent != hasOutcome:
			t.Fatalf("%s: history %v, event %v, outcome %v", id, isHistory, hasEvent, hasOutcome)
		case isHistory:
			if history.Churned != example.Churned || !same(history.Attributes, example.Attributes) {
				t.Fatalf("%s: history %+v, want %+v", id, history, *example)
			}
			if historyAt < 0 {
				historyAt = history.ObservedAt
			}
			if history.ObservedAt != historyAt {
				t.Fatalf("history at %d and at %d, want one moment", historyAt, history.ObservedAt)
			}
		default:
			if !same(event.Changes, example.Attributes) {
				t.Fatalf("%s: event sets %v, want %v", id, event.Changes, example.Attributes)
			}
			if want := event.OccurredAt + cfg.OutcomeDelay.Milliseconds(); live.ObservedAt != want {
				t.Fatalf("%s: outcome at %d, want %d", id, live.ObservedAt, want)
			}
			if cfg.Drift == nil && live.Churned != example.Churned {
				t.Fatalf("%s: churned %v, want %v", id, live.Churned, example.Churned)
			}
		}
	}
	if n := len(c.history) + len(c.events); n != len(cfg.Examples) {
		t.Fatalf("%d customers on the topics, want %d", n, len(cfg.Examples))
	}
	return c
}

func same(a, b []float64) bool {
	return slices.EqualFunc(a, b, func(x, y float64) bool { return x == y || x != x && y != y })
}

func TestReplayPublishesTheTableOnce(t *testing.T) {
	set, examples := load(t)
	cfg := Config{Codec: pacetest.Codec(t, set), Examples: examples, Rate: 100, OutcomeDelay: 30 * time.Second}
	synctest.Test(t, func(t *testing.T) {
		cfg := cfg
		reg := prometheus.NewPedanticRegistry()
		cfg.Registerer = reg
		var done []int
		total := 0
		cfg.Progress = func(d, n int) { done, total = append(done, d), n }
		topics := &pacetest.Topics{}
		r := start(t, cfg, topics)
		began := time.Now()
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := check(t, cfg, topics)
		if len(c.history) != 4226 { // 60 % of 7043
			t.Errorf("%d customers are history, want 4226", len(c.history))
		}
		if took, want := time.Since(began), 2816*10*time.Millisecond+30*time.Second; took < want || took > want+20*time.Millisecond {
			t.Errorf("took %v, want %v", took, want)
		}
		if want := (Stats{History: 4226, Events: 2817, Outcomes: 2817, HistoryDone: 4226, HistoryTotal: 4226, LiveDone: 2817, LiveTotal: 2817}); r.Stats() != want {
			t.Errorf("Stats gives %+v, want %+v", r.Stats(), want)
		}
		if total != 4226+2*2817 || done[0] != 0 || done[len(done)-1] != total || !slices.IsSorted(done) {
			t.Errorf("progress from %d to %d of %d", done[0], done[len(done)-1], total)
		}
		want := `
# HELP churn_producer_events_total Customer events published and acknowledged, by their source.
# TYPE churn_producer_events_total counter
churn_producer_events_total{source="replay"} 2817
# HELP churn_producer_outcomes_total Outcomes published and acknowledged, by their source.
# TYPE churn_producer_outcomes_total counter
churn_producer_outcomes_total{source="history"} 4226
churn_producer_outcomes_total{source="replay"} 2817
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
			t.Error(err)
		}

		// A second run finds all of it.
		done = nil
		again := start(t, Config{Codec: cfg.Codec, Examples: examples, Progress: cfg.Progress}, topics)
		if err := again.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := again.Stats(); s != (Stats{HistoryDone: 4226, HistoryTotal: 4226, LiveDone: 2817, LiveTotal: 2817}) {
			t.Errorf("the second run published %+v", s)
		}
		if len(done) != 1 || done[0] != total || total != 4226+2*2817 {
			t.Errorf("progress %v of %d in the second run, want all at once", done, total)
		}
	})
}

func TestSplitDependsOnTheSeedOnly(t *testing.T) {
	set, examples := load(t)
	codec := pacetest.Codec(t, set)
	split := func(seed int64, share float64, examples []schemas.ChurnOutcome) ([]string, float64) {
		topics := &pacetest.Topics{}
		cfg := Config{Codec: codec, Examples: examples, Seed: seed, HistoryShare: share}
		if err := start(t, cfg, topics).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := check(t, cfg, topics)
		churned := 0.0
		for _, o := range c.history {
			if o.Churned {
				churned++
			}
		}
		return slices.Sorted(maps.Keys(c.history)), churned / float64(len(c.history))
	}
	one, rate := split(1, 0.6, examples)
	if math.Abs(rate-1869.0/7043) > 0.02 {
		t.Errorf("%.3f of history churned: it is no random part", rate)
	}
	reversed := slices.Clone(examples)
	slices.Reverse(reversed)
	if again, _ := split(1, 0.6, reversed); !slices.Equal(one, again) {
		t.Error("the same seed gives another split")
	}
	if two, _ := split(2, 0.6, examples); slices.Equal(one, two) {
		t.Error("another seed gives the same split")
	}
	if none, _ := split(1, -1, examples[:50]); len(none) != 0 {
		t.Errorf("%d customers are history, want none", len(none))
	}
	if all, _ := split(1, 1, examples[:50]); len(all) != 50 {
		t.Errorf("%d customers are history, want 50", len(all))
	}
}

// TestReplayCarriesOn kills the replay at random moments, in the middle of
// writes as well, until it gets through.
func TestReplayCarriesOn(t *testing.T) {
	set, examples := load(t)
	cfg := Config{
		Codec: pacetest.Codec(t, set), Examples: examples[:600], Rate: 50, OutcomeDelay: 700 * time.Millisecond,
		Seed: 3,
	}
	newDrift := func() *pace.Drift { return pace.NewDrift(set.Spec(), cfg.Examples, 2*time.Second, 0) }
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			topics := &pacetest.Topics{}
			topics.Crash = func(n int) (int, bool) { return random.IntN(n + 1), random.IntN(20) == 0 }
			crashes := 0
			for {
				ctx, cancel := context.WithCancel(t.Context())
				if random.IntN(2) == 0 {
					time.AfterFunc(time.Duration(random.Int64N(int64(3*time.Second))), cancel)
				}
				cfg := cfg
				cfg.Drift = newDrift()
				err := start(t, cfg, topics).Run(ctx)
				stopped := ctx.Err() != nil
				cancel()
				if err == nil && !stopped {
					break
				}
				if err != nil && !errors.Is(err, pacetest.ErrCrash) {
					t.Fatal(err)
				}
				crashes++
				time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
			}
			if crashes < 2 {
				t.Logf("seed %d: only %d crashes", seed, crashes)
			}
			drift := newDrift()
			cfg := cfg
			cfg.Drift = drift
			c := check(t, cfg, topics)
			// The change goes by the first event on the topic, not by the last start.
			origin := int64(math.MaxInt64)
			for _, e := range c.events {
				origin = min(origin, e.OccurredAt)
			}
			drift.Start(origin)
			for _, e := range cfg.Examples {
				if o, live := c.live[e.CustomerID]; live {
					want := drift.Churned(e.CustomerID, e.Attributes, o.ObservedAt, e.Churned)
					if o.Churned != want {
						t.Fatalf("%s: churned %v, label %v, want %v", e.CustomerID, o.Churned, e.Churned, want)
					}
				}
			}
		})
	}
}

func TestReplayDrifts(t *testing.T) {
	set, examples := load(t)
	drift := pace.NewDrift(set.Spec(), examples, 20*time.Second, 0)
	cfg := Config{
		Codec: pacetest.Codec(t, set), Examples: examples, HistoryShare: -1, Rate: 200, OutcomeDelay: time.Second, Drift: drift,
	}
	synctest.Test(t, func(t *testing.T) {
		topics := &pacetest.Topics{}
		if err := start(t, cfg, topics).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		at, _ := drift.At()
		live := check(t, cfg, topics).live
		var changed, left, leave, n float64
		for _, e := range examples {
			o := live[e.CustomerID]
			if o.ObservedAt < at.UnixMilli() {
				if o.Churned != e.Churned {
					t.Fatalf("%s: the outcome changed %d ms before the change", e.CustomerID, at.UnixMilli()-o.ObservedAt)
				}
				continue
			}
			n++
			if o.Churned != e.Churned {
				changed++
			}
			if o.Churned {
				leave++
			}
			if e.Churned {
				left++
			}
		}
		if n < 3000 || changed/n < .3 || math.Abs(leave-left)/n > .03 {
			t.Errorf("of %v customers %v would have left, %v did, %v have another outcome", n, left, leave, changed)
		}
	})
}

func TestHistoryIsOneMoment(t *testing.T) {
	set, examples := load(t)
	cfg := Config{Codec: pacetest.Codec(t, set), Examples: examples[:100]}
	synctest.Test(t, func(t *testing.T) {
		topics := &pacetest.Topics{Crash: func(n int) (int, bool) { return n / 2, true }}
		if err := start(t, cfg, topics).Run(t.Context()); !errors.Is(err, pacetest.ErrCrash) {
			t.Fatalf("error %v, want a crash in the middle of history", err)
		}
		topics.Crash = nil
		time.Sleep(time.Hour)
		if err := start(t, cfg, topics).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, cfg, topics)
	})
}

func TestReplayTrustsTheTopics(t *testing.T) {
	set, examples := load(t)
	cfg := Config{Codec: pacetest.Codec(t, set), Rate: 100, OutcomeDelay: 10 * time.Second}
	synctest.Test(t, func(t *testing.T) {
		topics := &pacetest.Topics{}
		// Each run has more customers, another seed and another share: still
		// nobody becomes history and live.
		for i, share := range []float64{0.6, 0.5, 0.4, 0.3} {
			cfg.Examples, cfg.Seed, cfg.HistoryShare = examples[:200*(i+1)], int64(i), share
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if err := start(t, cfg, topics).Run(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		if err := start(t, cfg, topics).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, cfg, topics)
		last := int64(0)
		for _, o := range topics.Outcomes(t, cfg.Codec) {
			if o.Source == SourceLive {
				if o.ObservedAt < last {
					t.Fatalf("outcome at %d after one at %d", o.ObservedAt, last)
				}
				last = o.ObservedAt
			}
		}
	})
}

func TestReplayPassesOthersRecordsOver(t *testing.T) {
	set, examples := load(t)
	codec := pacetest.Codec(t, set)
	cfg := Config{Codec: codec, Examples: examples[:60], HistoryShare: 0.5, Seed: 4}
	topics := &pacetest.Topics{}
	foreign := codec.NewEvent()
	foreign.EventID, foreign.CustomerID = []byte("6b2f6cf4-6e55-4a0e-8a5e-2f7f5b8f6a11"), []byte("C-00001")
	foreign.OccurredAt, foreign.Source = 5, []byte("billing")
	foreign.Changes[4] = 7
	crm := schemas.ChurnOutcome{CustomerID: "C-00002", Churned: true, ObservedAt: 9, Source: "crm"}
	for topic, values := range map[string][][]byte{
		schemas.TopicEvents:   {codec.AppendEvent(nil, foreign), []byte("no frame"), {0, 0, 0, 0, 99, 1}},
		schemas.TopicOutcomes: {codec.AppendOutcome(nil, &crm), []byte("no frame"), {}},
	} {
		for i, value := range values {
			record := kafka.Record{Key: fmt.Appendf(nil, "C-%05d", i+1), Value: value}
			if err := topics.Produce(t.Context(), topic, record); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := start(t, cfg, topics)
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := (Stats{History: 30, Events: 30, Outcomes: 30, HistoryDone: 30, HistoryTotal: 30, LiveDone: 30, LiveTotal: 30}); r.Stats() != want {
		t.Errorf("published %+v, want %+v", r.Stats(), want)
	}
}

func TestReplayLeavesTheErasedAlone(t *testing.T) {
	set, examples := load(t)
	codec := pacetest.Codec(t, set)
	cfg := Config{Codec: codec, Examples: examples[:10], HistoryShare: -1, OutcomeDelay: time.Second}
	synctest.Test(t, func(t *testing.T) {
		topics := &pacetest.Topics{}
		// C-00001 is erased before its event, C-00002 between event and outcome.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := topics.Produce(ctx, schemas.TopicEvents, kafka.Record{Key: []byte("C-00001")}); err != nil {
			t.Fatal(err)
		}
		if err := start(t, cfg, topics).Run(ctx); err != nil {
			t.Fatal(err)
		}
		if err := topics.Produce(t.Context(), schemas.TopicEvents, kafka.Record{Key: []byte("C-00002")}); err != nil {
			t.Fatal(err)
		}
		if err := start(t, cfg, topics).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		var tombstones, events []string
		for _, r := range topics.Records(schemas.TopicEvents) {
			if r.Value == nil {
				tombstones = append(tombstones, string(r.Key))
			} else {
				events = append(events, string(r.Key))
			}
		}
		if len(tombstones) != 2 || len(events) != 9 || slices.Contains(events, "C-00001") {
			t.Errorf("tombstones %v, events %v", tombstones, events)
		}
		outcomes := topics.Outcomes(t, codec)
		if len(outcomes) != 8 {
			t.Errorf("%d outcomes, want 8", len(outcomes))
		}
		for _, o := range outcomes {
			if slices.Contains(tombstones, o.CustomerID) {
				t.Errorf("outcome of %s, who is erased", o.CustomerID)
			}
		}
	})
}

func TestNewRefuses(t *testing.T) {
	set, examples := load(t)
	codec := pacetest.Codec(t, set)
	tests := []struct {
		name, message string
		cfg           Config
	}{
		{"no codec", "no codec", Config{}},
		{"too much history", "share 1.5", Config{Codec: codec, HistoryShare: 1.5}},
		{"no share", "share NaN", Config{Codec: codec, HistoryShare: math.NaN()}},
		{"no id", "example 0", Config{Codec: codec, Examples: []schemas.ChurnOutcome{{Attributes: examples[0].Attributes}}}},
		{"an id twice", "example 1", Config{Codec: codec, Examples: []schemas.ChurnOutcome{examples[0], examples[0]}}},
		{"no attributes", "0 attributes", Config{Codec: codec, Examples: []schemas.ChurnOutcome{{CustomerID: "a"}}}},
	}
	for _, test := range tests {
		_, err := newReplay(test.cfg, &pacetest.Topics{}, &pacetest.Topics{})
		if err == nil || !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.message)
		}
	}
	if _, err := New(Config{Codec: codec}); err == nil {
		t.Error("a replay without a cluster")
	}
}
