package fitting

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
)

// Customers who are in the training many times count once, as last seen; the mean
// of their explanations is what the model says of them; and a holdout of the same
// kind shows no drift, while one of another does.
func TestBaseline(t *testing.T) {
	base := synthetic(t, 3600, 0, 71) // more in training than are explained
	d := NewDataset(base.Vocabulary(), 0)
	x := scoring.NewVector(d.Spec().Len())
	for i := range base.Len() {
		base.Attributes(i, x)
		// Customers of even rows were there before, with other attributes.
		if i%2 == 0 {
			former := slices.Clone(x)
			for j := range former {
				former[j] = scoring.Missing
			}
			d.Add(Example{Customer: base.customer[i] &^ 1, ObservedAt: base.ObservedAt(i) - 1_000_000, Churned: base.Churned(i), Attributes: former})
		}
		d.Add(Example{Customer: base.customer[i] &^ 1, ObservedAt: base.ObservedAt(i), Churned: base.Churned(i), Attributes: x})
	}
	c, err := Fit(context.Background(), d, Config{Strengths: []float64{1}, ImportanceRows: -1})
	if err != nil {
		t.Fatal(err)
	}
	rows := d.lastOfCustomers(c.Training)
	if len(rows) >= len(c.Training) || !slices.IsSortedFunc(rows, func(a, b int32) int { return int(d.ObservedAt(int(a)) - d.ObservedAt(int(b))) }) {
		t.Fatalf("%d of %d rows, or not in order", len(rows), len(c.Training))
	}
	n := min(reasonRows, len(rows))
	sum, squares := make([]float64, len(x)), make([]float64, len(x))
	w := c.Predictor.NewWorkspace()
	for i := range n {
		d.Attributes(int(rows[i*len(rows)/n]), x)
		for j, v := range c.Predictor.SHAP(nil, x, w) {
			sum[j] += v
			squares[j] += v * v
		}
	}
	for j := range x {
		b := c.Baseline[j]
		missing := int64(0)
		for _, r := range rows {
			if scoring.IsMissing(d.columns[j].value(int(r))) {
				missing++
			}
		}
		if b.Name != d.Spec().Feature(j).Name || b.Rows != int64(len(rows)) || b.Missing != missing {
			t.Errorf("baseline %d: %s, %d rows, %d missing; want %d and %d", j, b.Name, b.Rows, b.Missing, len(rows), missing)
		}
		mean := sum[j] / float64(n)
		deviation := math.Sqrt((squares[j] - mean*sum[j]) / float64(n-1))
		if b.ReasonRows != int64(n) || math.Abs(b.ReasonMean-mean) > 1e-9 || math.Abs(b.ReasonDeviation-deviation) > 1e-6 {
			t.Errorf("%s: %d reasons, mean %g, deviation %g; want %g and %g", b.Name, b.ReasonRows, b.ReasonMean, b.ReasonDeviation, mean, deviation)
		}
	}

	baseline := drift.NewBaseline(d.Spec(), c.Baseline, 0)
	same, other := baseline.Sample(d.Vocabulary()), baseline.Sample(d.Vocabulary())
	for _, r := range c.Training {
		d.Attributes(int(r), x)
		if !slices.Contains(rows, r) {
			other.Add(x, nil) // those from before, of whom nothing was known
			continue
		}
		same.Add(x, nil)
	}
	for _, p := range d.probabilities(c.Predictor, c.Holdout) {
		same.AddScore(p)
		other.AddScore(1 - p)
	}
	for j := range x {
		if change := same.Feature(j); change.Value > 1e-9 {
			t.Errorf("feature %d: %+v of the baseline's own customers", j, change)
		}
		if change := other.Feature(j); !change.Exceeded() {
			t.Errorf("feature %d: %+v of customers of whom nothing is known", j, change)
		}
	}
	if c := same.Score(); c.Value > 1e-9 {
		t.Errorf("score: %+v", c)
	}
	if c := other.Score(); !c.Exceeded() {
		t.Errorf("score: %+v of other probabilities", c)
	}
}
