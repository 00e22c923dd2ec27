package pace_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/producers/pace"
	"github.com/churnstream/churnstream/producers/pace/pacetest"
	"github.com/churnstream/churnstream/schemas"
)

// counting returns a Next that makes n events, each with an outcome delay after.
func counting(n int, delay time.Duration) func(time.Time, *schemas.CustomerEvent) (*schemas.ChurnOutcome, bool) {
	made := 0
	return func(_ time.Time, e *schemas.CustomerEvent) (*schemas.ChurnOutcome, bool) {
		if made == n {
			return nil, false
		}
		made++
		e.EventID = fmt.Appendf(e.EventID[:0], "00000000-0000-4000-8000-%012d", made)
		e.CustomerID = fmt.Appendf(e.CustomerID[:0], "c%d", made)
		return &schemas.ChurnOutcome{
			CustomerID: string(e.CustomerID),
			ObservedAt: e.OccurredAt + delay.Milliseconds(),
			Source:     "test",
		}, true
	}
}

func newPublisher(t *testing.T, producer pace.Producer, codec *schemas.Codec, reg prometheus.Registerer) *pace.Publisher {
	t.Helper()
	return pace.NewPublisher(producer, codec, reg)
}

func TestRunKeepsRateAndDelay(t *testing.T) {
	codec := pacetest.Codec(t, schemas.Telco())
	tests := []struct {
		rate  float64
		n     int
		delay time.Duration
	}{
		{1, 30, 4 * time.Second},
		{100, 500, 0},
		{3_000, 10_000, time.Second},
		{50_000, 50_000, 300 * time.Millisecond},
		{0, 20_000, 50 * time.Millisecond},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%v per second", test.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				topics := &pacetest.Topics{}
				p := newPublisher(t, topics, codec, nil)
				start := time.Now()
				published := 0
				err := p.Run(t.Context(), pace.Stream{
					Source: "test", Rate: test.rate, Next: counting(test.n, test.delay),
					Published: func() { published++ },
				})
				if err != nil {
					t.Fatal(err)
				}
				duration := time.Since(start)
				want := test.delay
				if test.rate > 0 {
					want += time.Duration(float64(test.n-1) / test.rate * float64(time.Second))
				}
				if off := duration - want; off < -time.Millisecond || off > 20*time.Millisecond {
					t.Errorf("took %v, want %v", duration, want)
				}
				events, outcomes := topics.Events(t, codec), topics.Outcomes(t, codec)
				if len(events) != test.n || len(outcomes) != test.n {
					t.Fatalf("%d events and %d outcomes, want %d each", len(events), len(outcomes), test.n)
				}
				if s := p.Stats(); s.Events != int64(test.n) || s.Outcomes != int64(test.n) {
					t.Errorf("Stats gives %+v, want %d each", s, test.n)
				}
				if published == 0 {
					t.Error("Published was never called")
				}
				for i, e := range events {
					if want := fmt.Sprintf("c%d", i+1); string(e.CustomerID) != want || outcomes[i].CustomerID != want {
						t.Fatalf("position %d: event of %s, outcome of %s, want %s", i, e.CustomerID, outcomes[i].CustomerID, want)
					}
					if string(e.Source) != "test" {
						t.Fatalf("source %q, want test", e.Source)
					}
					if test.rate > 0 {
						due := start.Add(time.Duration(float64(i) / test.rate * float64(time.Second)))
						if late := time.UnixMilli(e.OccurredAt).Sub(due); late < -time.Millisecond || late > 6*time.Millisecond {
							t.Fatalf("event %d is %v late", i, late)
						}
					}
				}
				if test.rate == 50_000 && topics.Calls > 2*test.n/200 {
					t.Errorf("%d calls of Produce for %d events: batches are too small", topics.Calls, test.n)
				}
			})
		})
	}
}

func TestRunSendsNoOutcomeBeforeItIsDue(t *testing.T) {
	codec := pacetest.Codec(t, schemas.Telco())
	synctest.Test(t, func(t *testing.T) {
		topics := &pacetest.Topics{}
		ctx, cancel := context.WithCancel(t.Context())
		p := newPublisher(t, topics, codec, nil)
		pending := []schemas.ChurnOutcome{
			{CustomerID: "overdue", ObservedAt: time.Now().Add(-time.Hour).UnixMilli(), Source: "test"},
			{CustomerID: "soon", ObservedAt: time.Now().Add(time.Second).UnixMilli(), Source: "test"},
		}
		done := make(chan error)
		go func() {
			done <- p.Run(ctx, pace.Stream{Source: "test", Rate: 1, Next: counting(1, time.Minute), Pending: pending})
		}()
		steps := []struct {
			at   time.Duration
			want string
		}{
			{500 * time.Millisecond, "overdue"},
			{1010 * time.Millisecond, "overdue soon"},
			{59 * time.Second, "overdue soon"},
			{61 * time.Second, "overdue soon c1"},
		}
		start := time.Now()
		for _, step := range steps {
			time.Sleep(time.Until(start.Add(step.at)))
			synctest.Wait()
			var ids []string
			for _, o := range topics.Outcomes(t, codec) {
				ids = append(ids, o.CustomerID)
			}
			if got := strings.Join(ids, " "); got != step.want {
				t.Errorf("after %v: outcomes of %q, want %q", step.at, got, step.want)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		cancel()
	})
}

func TestRunStops(t *testing.T) {
	codec := pacetest.Codec(t, schemas.Telco())
	t.Run("when cancelled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			p := newPublisher(t, &pacetest.Topics{}, codec, nil)
			time.AfterFunc(time.Minute, cancel)
			start := time.Now()
			err := p.Run(ctx, pace.Stream{Source: "test", Rate: 0.001, Next: counting(10, time.Hour)})
			if !errors.Is(err, context.Canceled) || time.Since(start) != time.Minute {
				t.Errorf("%v after %v, want it cancelled after 1 minute", err, time.Since(start))
			}
		})
	})
	t.Run("when the producer fails", func(t *testing.T) {
		topics := &pacetest.Topics{Crash: func(int) (int, bool) { return 0, true }}
		p := newPublisher(t, topics, codec, nil)
		if err := p.Run(t.Context(), pace.Stream{Source: "test", Next: counting(10, 0)}); !errors.Is(err, pacetest.ErrCrash) {
			t.Errorf("error %v, want the producer's", err)
		}
		if s := p.Stats(); s.Events != 0 {
			t.Errorf("%d events counted, none was acknowledged", s.Events)
		}
	})
}

func TestMetricsAreShared(t *testing.T) {
	codec := pacetest.Codec(t, schemas.Telco())
	reg := prometheus.NewPedanticRegistry()
	for _, source := range []string{"a", "b"} {
		p := newPublisher(t, &pacetest.Topics{}, codec, reg)
		next := counting(3, 0)
		err := p.Run(t.Context(), pace.Stream{Source: source, Next: func(now time.Time, e *schemas.CustomerEvent) (*schemas.ChurnOutcome, bool) {
			o, ok := next(now, e)
			if ok {
				o.Source = source
			}
			return o, ok
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := `
# HELP churn_producer_events_total Customer events published and acknowledged, by their source.
# TYPE churn_producer_events_total counter
churn_producer_events_total{source="a"} 3
churn_producer_events_total{source="b"} 3
# HELP churn_producer_outcomes_total Outcomes published and acknowledged, by their source.
# TYPE churn_producer_outcomes_total counter
churn_producer_outcomes_total{source="a"} 3
churn_producer_outcomes_total{source="b"} 3
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

func TestOutcomesInBatches(t *testing.T) {
	codec := pacetest.Codec(t, schemas.Telco())
	topics := &pacetest.Topics{}
	p := newPublisher(t, topics, codec, nil)
	var outcomes []schemas.ChurnOutcome
	for i := range 2500 {
		outcomes = append(outcomes, schemas.ChurnOutcome{CustomerID: fmt.Sprint("c", i), Churned: i%3 == 0, ObservedAt: int64(i), Source: "test"})
	}
	if err := p.Outcomes(t.Context(), outcomes); err != nil {
		t.Fatal(err)
	}
	same := func(a, b schemas.ChurnOutcome) bool {
		return a.CustomerID == b.CustomerID && a.Churned == b.Churned && a.ObservedAt == b.ObservedAt && a.Source == b.Source
	}
	if got := topics.Outcomes(t, codec); !slices.EqualFunc(got, outcomes, same) {
		t.Error("what was read is not what was written")
	}
	if topics.Calls != 3 {
		t.Errorf("%d calls of Produce, want 3", topics.Calls)
	}
}
