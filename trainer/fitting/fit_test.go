package fitting

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
)

func TestFit(t *testing.T) {
	d := synthetic(t, 2000, 0.02, 33)
	c, err := Fit(context.Background(), d, Config{ImportanceRows: 200})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Training) != 1500 || len(c.Holdout) != 500 {
		t.Fatalf("%d rows for training, %d held out", len(c.Training), len(c.Holdout))
	}
	newest := d.ObservedAt(int(c.Training[len(c.Training)-1]))
	for _, r := range c.Holdout {
		if d.ObservedAt(int(r)) < newest {
			t.Fatal("a row held out is older than one trained on")
		}
	}
	if !slices.Contains(DefaultStrengths(), c.Strength) {
		t.Errorf("C %v", c.Strength)
	}
	if c.Model.Thresholds.Medium != scoring.DefaultMediumThreshold || c.Model.Thresholds.High != scoring.DefaultHighThreshold {
		t.Errorf("thresholds %v", c.Model.Thresholds)
	}
	if n := d.Spec().Len(); len(c.Baseline) != n+1 || c.Baseline[n].Name != drift.Score || len(c.Model.Importance) != n {
		t.Fatalf("%d baselines, %d importances for %d features", len(c.Baseline), len(c.Model.Importance), n)
	}
	for _, b := range c.Baseline {
		sum := float64(b.Missing) / float64(b.Rows)
		for _, f := range b.Frequencies {
			sum += f
		}
		if len(b.Bins) != len(b.Frequencies) || math.Abs(sum-1) > 1e-9 {
			t.Errorf("baseline of %s: %d bins, %d frequencies with sum %v", b.Name, len(b.Bins), len(b.Frequencies), sum)
		}
	}
	// Deciles, a bin below them and one above.
	if b := c.Baseline[len(c.Baseline)-1]; len(b.Bins) != 12 || b.Bins[11] != "+Inf" || b.Frequencies[0] != 0 ||
		math.Abs(b.Frequencies[1]-0.1) > 0.01 || b.Rows != int64(len(c.Holdout)) || b.ReasonRows != 0 {
		t.Errorf("baseline of the probability: %v", b)
	}
	again, err := Fit(context.Background(), d.Clone(), Config{ImportanceRows: 200})
	if err != nil {
		t.Fatal(err)
	}
	first, _ := json.Marshal(c.Model)
	second, _ := json.Marshal(again.Model)
	if string(first) != string(second) {
		t.Error("the same examples gave another model")
	}
}

// The order in which examples came must not matter: partitions are read at the
// same time.
func TestFitDoesNotDependOnTheOrderOfExamples(t *testing.T) {
	d := synthetic(t, 1000, 0, 34)
	reversed := NewDataset(d.Vocabulary(), 0)
	for i := d.Len() - 1; i >= 0; i-- {
		x := scoring.NewVector(d.Spec().Len())
		d.Attributes(i, x)
		reversed.Add(Example{Customer: d.customer[i] &^ 1, ObservedAt: d.ObservedAt(i), Churned: d.Churned(i), Attributes: x})
	}
	cfg := Config{Strengths: []float64{1}, ImportanceRows: -1}
	var payloads []string
	for _, data := range []*Dataset{d, reversed} {
		c, err := Fit(context.Background(), data, cfg)
		if err != nil {
			t.Fatal(err)
		}
		payload, _ := json.Marshal(c.Model)
		payloads = append(payloads, string(payload))
	}
	if payloads[0] != payloads[1] {
		t.Error("another order gave another model")
	}
}

func TestFitOnTooLittle(t *testing.T) {
	for name, rows := range map[string][][4]any{
		"nothing":   nil,
		"one":       {{"a", 1.0, 1.0, true}},
		"one class": {{"a", 1.0, 1.0, true}, {"b", 1.0, 1.0, true}, {"b", 1.0, 1.0, true}, {"b", 2.0, 1.0, true}, {"b", 3.0, 1.0, true}},
	} {
		d := small(t, rows)
		if _, err := Fit(context.Background(), d, Config{}); !errors.Is(err, ErrTooFewLabels) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// Numbers that no statistic survives must not make a fit loop or fail without
// saying where they are, however many they are and whoever put them there.
func TestFitOfNumbersThatAreNone(t *testing.T) {
	for _, c := range []struct {
		name    string
		numbers []float64
	}{
		{"one greatest double", []float64{math.MaxFloat64}},
		{"two", []float64{math.MaxFloat64, math.MaxFloat64}},
		{"eight of both signs", slices.Repeat([]float64{math.MaxFloat64, -math.MaxFloat64}, 4)},
		{"infinite", []float64{math.Inf(1)}},
		{"just beyond the bound", []float64{math.Nextafter(scoring.MaxNumber, math.Inf(1))}},
	} {
		var rows [][4]any
		for i := range 100 {
			rows = append(rows, [4]any{"a", float64(i % 5), float64(i), i%3 == 0})
		}
		for i, x := range c.numbers {
			rows[10*i+5][2] = x
		}
		d := small(t, rows)
		for _, knots := range []int{0, 5} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if _, err := Fit(ctx, d, Config{Knots: knots}); !errors.Is(err, ErrNotFinite) || !strings.Contains(err.Error(), `"bill"`) {
				t.Errorf("%s, %d knots: fit: %v", c.name, knots, err)
			}
			cancel()
		}
		// Who fits a design of their own gets the error too; one row that is far out
		// may well have a mean and a deviation.
		_, err := Encode(d, d.Ordered(), EncodeConfig{Folds: 3}).Fit(t.Context(), 1, SolverConfig{})
		if err != nil && (!errors.Is(err, ErrNotFinite) || !strings.Contains(err.Error(), `"bill"`)) || err == nil && c.numbers[0] > 2*scoring.MaxNumber {
			t.Errorf("%s: fit of the design: %v", c.name, err)
		}
	}
}

// Up to the bound, every number can be fitted, and the model be used.
func TestFitOfNumbersAtTheBound(t *testing.T) {
	for name, numbers := range map[string]func(i int) float64{
		"one":         func(i int) float64 { return map[bool]float64{true: scoring.MaxNumber, false: float64(i % 7)}[i == 30] },
		"both signs":  func(i int) float64 { return []float64{scoring.MaxNumber, -scoring.MaxNumber, 1e99}[i%3] },
		"hardly any":  func(i int) float64 { return []float64{0, 5e-324, 1e-161}[i%3] },
		"plain":       func(i int) float64 { return []float64{0, 1, 2}[i%3] },
		"far and far": func(i int) float64 { return []float64{1e-161, scoring.MaxNumber}[i%2] },
	} {
		var rows [][4]any
		for i := range 120 {
			rows = append(rows, [4]any{[]string{"a", "b"}[i%2], float64(i % 5), numbers(i), i%3 == 0})
		}
		for _, knots := range []int{0, 5} {
			c, err := Fit(t.Context(), small(t, rows), Config{Knots: knots})
			if err != nil {
				t.Errorf("%s, %d knots: %v", name, knots, err)
				continue
			}
			if err := c.Model.Validate(); err != nil || math.IsNaN(c.Metrics.LogLoss) {
				t.Errorf("%s, %d knots: %v, metrics %+v", name, knots, err, c.Metrics)
			}
		}
	}
}

func TestFitEndsWithTheContext(t *testing.T) {
	d := synthetic(t, 1000, 0, 34)
	c, err := Fit(context.Background(), d, Config{Strengths: []float64{1}, ImportanceRows: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Fit(ctx, d, Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("fit: %v", err)
	}
	if err := c.addImportance(ctx, 1000); !errors.Is(err, context.Canceled) || c.Model.Importance != nil {
		t.Errorf("importance: %v, %v", err, c.Model.Importance)
	}
}

func TestConfigValidate(t *testing.T) {
	for name, c := range map[string]struct {
		cfg Config
		ok  bool
	}{
		"zero":           {Config{}, true},
		"all held out":   {Config{Holdout: 1}, false},
		"no number":      {Config{Holdout: math.NaN()}, false},
		"two knots":      {Config{Knots: 2}, true},
		"one knot":       {Config{Knots: 1}, false},
		"too many":       {Config{Knots: MaxKnots + 1}, false},
		"no strength":    {Config{Strengths: []float64{0, 1}}, false},
		"any importance": {Config{ImportanceRows: -1}, true},
	} {
		if err := c.cfg.Validate(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
