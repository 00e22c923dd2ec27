package simulator

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/churnstream/churnstream/producers/pace"
	"github.com/churnstream/churnstream/producers/pace/pacetest"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// shop is a specification with every kind of feature.
const shop = `{"type": "record", "name": "CustomerAttributes", "namespace": "churnstream", "fields": [
	{"name": "region", "type": ["null", "string"], "default": null},
	{"name": "plan", "type": ["null", "string"], "default": null, "feature": {"kind": "categorical", "actionable": true}},
	{"name": "courier", "type": ["null", "string"], "default": null, "feature": {"kind": "categorical", "actionable": true}},
	{"name": "discount", "type": ["null", "double"], "default": null, "feature": {"kind": "numeric", "actionable": true}},
	{"name": "orders", "type": ["null", "double"], "default": null},
	{"name": "balance", "type": ["null", "double"], "default": null},
	{"name": "constant", "type": ["null", "double"], "default": null}]}`

const (
	plan, courier             = 1, 2
	discount, orders, balance = 3, 4, 5
	constant                  = 6
)

// shopPopulation returns n customers; couriers go with plans, and some values
// are missing.
func shopPopulation(t testing.TB, n int) (*schemas.Codec, []schemas.ChurnOutcome) {
	t.Helper()
	set, err := schemas.Parse([]byte(shop))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	var population []schemas.ChurnOutcome
	for i := range n {
		x := scoring.NewVector(set.Spec().Len())
		level := func(f int, text string) {
			if x[f], err = set.Vocabulary().CodeString(f, text); err != nil {
				t.Fatal(err)
			}
		}
		level(0, fmt.Sprint("region ", r.IntN(5)))
		p := r.IntN(3)
		level(plan, fmt.Sprint("plan ", p))
		level(courier, fmt.Sprint("courier ", p))
		x[discount] = float64(r.IntN(400)) / 10
		x[orders] = float64(r.IntN(200))
		x[balance] = math.Round(1e4*r.NormFloat64()) / 100
		x[constant] = 42
		for f := range constant {
			if r.IntN(20) == 0 {
				x[f] = scoring.Missing
			}
		}
		population = append(population, schemas.ChurnOutcome{CustomerID: fmt.Sprint(i), Churned: r.IntN(4) == 0, Attributes: x})
	}
	return pacetest.Codec(t, set), population
}

func start(t testing.TB, cfg Config, producer pace.Producer) *Simulator {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	s, err := newSimulator(cfg, producer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// simulate runs a simulator for a while of simulated time.
func simulate(t *testing.T, cfg Config, topics *pacetest.Topics, duration time.Duration) *Simulator {
	t.Helper()
	s := start(t, cfg, topics)
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSimulator(t *testing.T) {
	codec, population := shopPopulation(t, 500)
	set := codec.Set()
	bounds, err := newPopulation(set.Spec(), population)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		topics := &pacetest.Topics{}
		delay := 5 * time.Second
		s := simulate(t, Config{Codec: codec, Population: population, Rate: 200, OutcomeDelay: delay, Seed: 7}, topics, time.Minute)

		events, outcomes := topics.Events(t, codec), topics.Outcomes(t, codec)
		if n := len(events); n < 11_990 || n > 12_001 {
			t.Errorf("%d events in a minute, want 12,000", n)
		}
		if got, want := s.Stats(), (pace.Stats{Events: int64(len(events)), Outcomes: int64(len(outcomes))}); got != want {
			t.Errorf("Stats gives %+v, want %+v", got, want)
		}

		outcomeOf := map[string]schemas.ChurnOutcome{}
		churned := 0
		for _, o := range outcomes {
			if _, twice := outcomeOf[o.CustomerID]; twice || o.Source != Source || o.Attributes != nil {
				t.Fatalf("outcome %+v, one before: %v", o, twice)
			}
			outcomeOf[o.CustomerID] = o
			if o.Churned {
				churned++
			}
		}
		if share := float64(churned) / float64(len(outcomes)); math.Abs(share-0.25) > 0.05 {
			t.Errorf("%.3f churned, a quarter of the population has", share)
		}

		state := map[string]scoring.Vector{}
		ids := map[string]bool{}
		kinds := map[string]int{}
		due := 0
		end := events[len(events)-1].OccurredAt
		for _, e := range events {
			id := string(e.CustomerID)
			if ids[string(e.EventID)] || string(e.Source) != Source {
				t.Fatalf("event %s from %q, seen before: %v", e.EventID, e.Source, ids[string(e.EventID)])
			}
			ids[string(e.EventID)] = true
			o, decided := outcomeOf[id]
			x, known := state[id]
			if !known {
				kinds["new"]++
				state[id] = slices.Clone(e.Changes)
				if want := e.OccurredAt + delay.Milliseconds(); decided && o.ObservedAt != want {
					t.Fatalf("%s: outcome at %d, want %d", id, o.ObservedAt, want)
				}
				if e.OccurredAt+delay.Milliseconds() < end-10 {
					due++
				}
				if slices.ContainsFunc(e.Increments, func(x float64) bool { return !scoring.IsMissing(x) }) {
					t.Fatalf("the first event of %s has increments", id)
				}
			} else {
				if decided && o.Churned && e.OccurredAt >= o.ObservedAt {
					t.Fatalf("%s has an event %d ms after leaving", id, e.OccurredAt-o.ObservedAt)
				}
				changed := 0
				for f, value := range e.Changes {
					if scoring.IsMissing(value) {
						continue
					}
					changed++
					kinds[set.Spec().Feature(f).Name]++
					if value == x[f] {
						t.Fatalf("%s: %s is set to what it was", id, set.Spec().Feature(f).Name)
					}
					if !set.Spec().Feature(f).Actionable {
						t.Fatalf("%s: %s is set, and is not actionable", id, set.Spec().Feature(f).Name)
					}
					x[f] = value
				}
				for f, d := range e.Increments {
					if scoring.IsMissing(d) {
						continue
					}
					changed++
					kinds["+"+set.Spec().Feature(f).Name]++
					if f != orders && f != balance || d <= 0 {
						t.Fatalf("%s: increment of %s by %v", id, set.Spec().Feature(f).Name, d)
					}
					x[f] += d
				}
				if changed == 0 {
					t.Fatalf("%s: an event of nothing", id)
				}
			}
			for f, value := range state[id] {
				feature := set.Spec().Feature(f)
				n := bounds.numbers[f]
				if feature.Kind == scoring.Numeric && !scoring.IsMissing(value) && (value < n.least-1e-9 || value > n.greatest+1e-9 || !whole(value*n.scale)) {
					t.Fatalf("%s: %s is %v, in the population from %v to %v in steps of 1/%v",
						id, feature.Name, value, n.least, n.greatest, n.scale)
				}
			}
		}
		if len(outcomes) < due {
			t.Errorf("%d outcomes, %d were due", len(outcomes), due)
		}
		if share := float64(kinds["new"]) / float64(len(events)); math.Abs(share-0.71) > 0.03 {
			t.Errorf("%.3f of the events are new customers, want 0.7 and a little more", share)
		}
		for _, kind := range []string{"plan", "courier", "discount", "+orders", "+balance"} {
			if kinds[kind] < 100 {
				t.Errorf("%d follow-up events with %s: %v", kinds[kind], kind, kinds)
			}
		}
	})
}

func TestNewcomersAreAliveButNoCopies(t *testing.T) {
	codec, rows := shopPopulation(t, 500)
	p, err := newPopulation(codec.Set().Spec(), rows)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(2, 2))
	x := scoring.NewVector(len(rows[0].Attributes))
	var mean, want [7]float64
	var count [7]float64
	copies, missing := 0, 0
	const n = 20_000
	for range n {
		p.draw(r, x)
		if slices.ContainsFunc(rows, func(row schemas.ChurnOutcome) bool { return slices.Equal(row.Attributes, x) }) {
			copies++
		}
		for f := discount; f <= constant; f++ {
			if scoring.IsMissing(x[f]) {
				missing++
			} else {
				mean[f] += x[f]
				count[f]++
			}
		}
	}
	if copies > n/10 {
		t.Errorf("%d of %d are copies", copies, n)
	}
	if share := float64(missing) / (3 * n); math.Abs(share-0.05) > 0.02 {
		t.Errorf("%.3f of the numbers are missing, want 0.05 as in the population", share)
	}
	for f := discount; f <= constant; f++ {
		var sum2, sum, m float64
		for _, row := range rows {
			if v := row.Attributes[f]; !scoring.IsMissing(v) {
				sum, sum2, m = sum+v, sum2+v*v, m+1
			}
		}
		want[f] = sum / m
		deviation := math.Sqrt(sum2/m - want[f]*want[f])
		if got := mean[f] / count[f]; math.Abs(got-want[f]) > 0.05*deviation+1e-9 {
			t.Errorf("feature %d has mean %v, want %v", f, got, want[f])
		}
	}
}

func TestNewLevelsFitTheCustomer(t *testing.T) {
	codec, rows := shopPopulation(t, 500)
	p, err := newPopulation(codec.Set().Spec(), rows)
	if err != nil {
		t.Fatal(err)
	}
	// A customer whose plan was changed gets the courier that goes with it.
	r := rand.New(rand.NewPCG(3, 3))
	fits, n := 0, 0
	for range 3000 {
		x := slices.Clone(rows[r.IntN(len(rows))].Attributes)
		changes := scoring.NewVector(len(x))
		x[courier] = float64(int(x[plan]+1) % 3)
		if scoring.IsMissing(x[plan]) || !p.changeLevel(r, x, changes) || scoring.IsMissing(changes[courier]) {
			continue
		}
		n++
		if codec.Set().Text(courier, x[courier], nil)[len("courier "):] == codec.Set().Text(plan, x[plan], nil)[len("plan "):] {
			fits++
		}
	}
	if n < 500 || float64(fits)/float64(n) < 0.9 {
		t.Errorf("%d of %d changes fit the rest of the customer", fits, n)
	}
}

func TestCustomersAreUniqueAcrossRuns(t *testing.T) {
	codec, population := shopPopulation(t, 50)
	synctest.Test(t, func(t *testing.T) {
		topics := &pacetest.Topics{}
		cfg := Config{Codec: codec, Population: population, Rate: 100, FollowUpShare: -1, Seed: 1}
		for range 3 {
			simulate(t, cfg, topics, time.Second)
		}
		customers, ids := map[string]bool{}, map[string]bool{}
		drawn := map[string][]string{} // values by number of the customer
		events := topics.Events(t, codec)
		for _, e := range events {
			customers[string(e.CustomerID)], ids[string(e.EventID)] = true, true
			if parts := strings.Split(string(e.CustomerID), "-"); len(parts) != 3 || parts[0] != "S" {
				t.Fatalf("customer %s", e.CustomerID)
			} else {
				drawn[parts[2]] = append(drawn[parts[2]], fmt.Sprint(e.Changes))
			}
		}
		if len(events) < 290 || len(customers) != len(events) || len(ids) != len(events) {
			t.Errorf("%d events of %d customers with %d ids", len(events), len(customers), len(ids))
		}
		// The same seed draws the same customers, only under other ids.
		for number, values := range drawn {
			if values = slices.Compact(values); len(values) != 1 {
				t.Fatalf("customer %s is %v", number, values)
			}
		}
	})
}

func TestActiveCustomersAreBounded(t *testing.T) {
	codec, population := shopPopulation(t, 50)
	synctest.Test(t, func(t *testing.T) {
		topics := &pacetest.Topics{}
		s := simulate(t, Config{Codec: codec, Population: population, Rate: 1000, OutcomeDelay: time.Second, Active: 100, Seed: 1},
			topics, 10*time.Second)
		if n := len(s.active); n > 100 || cap(s.active) > 256 {
			t.Errorf("%d active customers remembered, room for %d, want at most 100", n, cap(s.active))
		}
	})
}

func TestNewRefuses(t *testing.T) {
	codec, population := shopPopulation(t, 5)
	tests := []struct {
		name, message string
		cfg           Config
	}{
		{"no codec", "no codec", Config{Population: population}},
		{"nobody", "population is empty", Config{Codec: codec}},
		{"no attributes", "0 attributes", Config{Codec: codec, Population: []schemas.ChurnOutcome{{CustomerID: "a"}}}},
		{"too many follow-ups", "share 2", Config{Codec: codec, Population: population, FollowUpShare: 2}},
	}
	for _, test := range tests {
		_, err := newSimulator(test.cfg, &pacetest.Topics{})
		if err == nil || !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.message)
		}
	}
	if _, err := New(Config{Codec: codec, Population: population}); err == nil {
		t.Error("a simulator without a cluster")
	}
}

// TestPoorSpecifications runs populations that offer nothing to follow up on.
func TestPoorSpecifications(t *testing.T) {
	for _, fields := range []string{
		`{"name": "n", "type": ["null", "double"], "default": null}`,
		`{"name": "s", "type": ["null", "string"], "default": null}`,
		`{"name": "s", "type": ["null", "string"], "default": null, "feature": {"kind": "categorical", "actionable": true}}`,
	} {
		set, err := schemas.Parse([]byte(`{"type": "record", "name": "CustomerAttributes", "namespace": "churnstream", "fields": [` + fields + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		codec := pacetest.Codec(t, set)
		for _, value := range []float64{0, scoring.Missing} {
			if set.Spec().Feature(0).Kind == scoring.Categorical && value == 0 {
				if value, err = set.Vocabulary().CodeString(0, "only"); err != nil {
					t.Fatal(err)
				}
			}
			population := []schemas.ChurnOutcome{{CustomerID: "a", Attributes: scoring.Vector{value}}}
			synctest.Test(t, func(t *testing.T) {
				topics := &pacetest.Topics{}
				simulate(t, Config{Codec: codec, Population: population, Rate: 100}, topics, time.Second)
				for _, e := range topics.Events(t, codec) {
					if x := e.Changes[0]; x != value && !(x != x && value != value) {
						t.Fatalf("value %v, want %v", x, value)
					}
				}
			})
		}
	}
}
