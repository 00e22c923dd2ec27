package fitting

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/churnstream/churnstream/scoring"
)

// dense is an independent statement of what a fit minimises: all columns
// written out, standardised, missing values at the column's mean.
type dense struct {
	columns [][]float64
	churned []bool
	feature []int
	level   []float64 // NaN for numbers
	knot    []int     // position of the hat function, −1 for others
}

// newDense makes numbers linear, or with 2 knots and more piecewise linear.
func newDense(d *Dataset, rows []int32, knots int) *dense {
	m := &dense{}
	x := scoring.NewVector(d.Spec().Len())
	table := make([]scoring.Vector, len(rows))
	for i, r := range rows {
		d.Attributes(int(r), x)
		table[i] = slices.Clone(x)
		m.churned = append(m.churned, d.Churned(int(r)))
	}
	add := func(j int, level float64, knot int, value func(x float64) float64) {
		column := make([]float64, len(rows))
		sum, n := 0.0, 0.0
		for i := range table {
			v := table[i][j]
			if !scoring.IsMissing(v) {
				column[i] = value(v)
			}
			if !scoring.IsMissing(v) {
				sum += column[i]
				n++
			}
		}
		mean, squares := sum/n, 0.0
		for i := range table {
			if scoring.IsMissing(table[i][j]) {
				column[i] = mean
			}
			squares += (column[i] - mean) * (column[i] - mean)
		}
		std := math.Sqrt(squares / n)
		if !(std >= 1e-12) { // or no value at all
			return
		}
		for i := range column {
			column[i] = (column[i] - mean) / std
		}
		m.columns = append(m.columns, column)
		m.feature = append(m.feature, j)
		m.level = append(m.level, level)
		m.knot = append(m.knot, knot)
	}
	for j := range d.Spec().Len() {
		if d.Spec().Feature(j).Kind == scoring.Categorical {
			for code := range d.vocabulary.Size(j) {
				add(j, float64(code), -1, func(x float64) float64 {
					if x == float64(code) {
						return 1
					}
					return 0
				})
			}
			continue
		}
		at := quantileKnots(table, j, knots)
		if len(at) < 2 {
			add(j, math.NaN(), -1, func(x float64) float64 { return x })
			continue
		}
		for k := range at {
			add(j, math.NaN(), k, func(x float64) float64 { return hat(at, k, x) })
		}
	}
	return m
}

// quantileKnots returns the least values that n equally spaced shares of the
// values do not exceed, the least value for the share 0, equal ones once.
func quantileKnots(table []scoring.Vector, feature, n int) []float64 {
	var values, knots []float64
	for _, x := range table {
		if !scoring.IsMissing(x[feature]) {
			values = append(values, x[feature])
		}
	}
	slices.Sort(values)
	for k := range n {
		for i, v := range values {
			if (i+1)*(n-1) >= k*len(values) { // share up to v is at least k/(n−1)
				if len(knots) == 0 || v > knots[len(knots)-1] {
					knots = append(knots, v)
				}
				break
			}
		}
	}
	return knots
}

// hat is 1 at knot k, 0 at the others, linear between and constant outside.
func hat(knots []float64, k int, x float64) float64 {
	x = min(max(x, knots[0]), knots[len(knots)-1])
	switch {
	case x == knots[k]:
		return 1
	case x < knots[k] && k > 0:
		return max(0, 1-(knots[k]-x)/(knots[k]-knots[k-1]))
	case x > knots[k] && k < len(knots)-1:
		return max(0, 1-(x-knots[k])/(knots[k+1]-knots[k]))
	}
	return 0
}

// coefficients are a fit's, the intercept first.
func (m *dense) coefficients(w *Weights) []float64 {
	out := []float64{w.Intercept()}
	for c, j := range m.feature {
		switch {
		case m.knot[c] >= 0:
			_, v := w.Knots(j)
			out = append(out, v[m.knot[c]])
		case math.IsNaN(m.level[c]):
			out = append(out, w.Number(j))
		default:
			out = append(out, w.Level(j, m.level[c]))
		}
	}
	return out
}

// logOdds is that of row i.
func (m *dense) logOdds(coefficients []float64, i int) float64 {
	eta := coefficients[0]
	for c, v := range coefficients[1:] {
		eta += v * m.columns[c][i]
	}
	return eta
}

// objective returns strength·Σ log loss + ½‖w‖² and its gradient, the
// intercept's first.
func (m *dense) objective(strength float64, w *Weights) (value float64, gradient []float64) {
	return m.objectiveAt(strength, m.coefficients(w))
}

func (m *dense) objectiveAt(strength float64, coefficients []float64) (value float64, gradient []float64) {
	gradient = append([]float64{0}, coefficients[1:]...)
	for _, v := range coefficients[1:] {
		value += v * v / 2
	}
	for i := range m.churned {
		eta := m.logOdds(coefficients, i)
		y := 0.0
		if m.churned[i] {
			y = 1
		}
		value += strength * (max(eta, 0) + math.Log1p(math.Exp(-math.Abs(eta))) - y*eta)
		residual := 1/(1+math.Exp(-eta)) - y
		gradient[0] += strength * residual
		for c := range m.columns {
			gradient[c+1] += strength * residual * m.columns[c][i]
		}
	}
	return value, gradient
}

func TestFitReachesTheOptimumOfTheDenseProblem(t *testing.T) {
	for _, problem := range []struct {
		missing float64
		knots   int
	}{{0, 0}, {0.1, 0}, {0, 5}, {0.1, 5}, {0.6, 3}, {0.1, 20}} {
		missing := problem.missing
		d := synthetic(t, 1500, missing, 3)
		rows := d.Ordered()
		oracle := newDense(d, rows, problem.knots)
		x := Encode(d, rows, EncodeConfig{Knots: problem.knots})
		for _, strength := range []float64{1e-4, 0.01, 1, 100, 1e4} {
			t.Run(fmt.Sprintf("missing %g, %d knots, C %g", missing, problem.knots, strength), func(t *testing.T) {
				w, err := x.Fit(context.Background(), strength, SolverConfig{})
				if err != nil {
					t.Fatal(err)
				}
				value, gradient := oracle.objective(strength, w)
				if math.Abs(value-w.Objective) > 1e-9*value {
					t.Errorf("objective %v, dense %v", w.Objective, value)
				}
				// The tolerance is that of a coefficient; a column has as much
				// curvature as there are rows.
				norm := 0.0
				for _, g := range gradient {
					norm += g * g
				}
				if norm = math.Sqrt(norm); norm > 1e-8+1e-10*strength*float64(len(rows)) {
					t.Errorf("gradient's norm %g", norm)
				}
				t.Logf("gradient %.1e, %d iterations, %d Hessians", norm, w.Iterations, w.Hessians)
			})
		}
	}
}

func TestFitIsTheSameOnAnyNumberOfProcessors(t *testing.T) {
	d := synthetic(t, 6000, 0.05, 5)
	x := Encode(d, d.Ordered(), EncodeConfig{Folds: 3, Knots: 7})
	one, err := x.Fit(context.Background(), 1, SolverConfig{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	seven, err := x.Fit(context.Background(), 1, SolverConfig{Workers: 7})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(one.v, seven.v) {
		t.Error("weights differ")
	}
	processors := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(processors)
	_, lossesOne, err := x.Strength(context.Background(), []float64{0.01, 1})
	if err != nil {
		t.Fatal(err)
	}
	runtime.GOMAXPROCS(5)
	_, lossesFive, err := x.Strength(context.Background(), []float64{0.01, 1})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(lossesOne, lossesFive) {
		t.Error("losses differ")
	}
}

// small makes a dataset of one categorical and two numeric features from rows
// of level, numbers and label.
func small(t *testing.T, rows [][4]any) *Dataset {
	t.Helper()
	spec, err := scoring.NewSpec([]scoring.Feature{
		{Name: "plan", Kind: scoring.Categorical},
		{Name: "months"}, {Name: "bill"},
	})
	if err != nil {
		t.Fatal(err)
	}
	vocabulary := scoring.NewVocabulary(spec)
	d := NewDataset(vocabulary, 0)
	for i, row := range rows {
		x := scoring.NewVector(3)
		if level, ok := row[0].(string); ok {
			if x[0], err = vocabulary.CodeString(0, level); err != nil {
				t.Fatal(err)
			}
		}
		for k := 1; k <= 2; k++ {
			if v, ok := row[k].(float64); ok {
				x[k] = v
			}
		}
		d.Add(Example{Customer: CustomerHash(fmt.Append(nil, i)), ObservedAt: int64(i), Churned: row[3].(bool), Attributes: x})
	}
	return d
}

func TestFitOfAwkwardData(t *testing.T) {
	t.Run("separable", func(t *testing.T) {
		var rows [][4]any
		for i := range 40 {
			rows = append(rows, [4]any{[]string{"a", "b"}[i%2], float64(i), float64(-i), i >= 20})
		}
		d := small(t, rows)
		x := Encode(d, d.Ordered(), EncodeConfig{})
		for _, strength := range DefaultStrengths() {
			w, err := x.Fit(context.Background(), strength, SolverConfig{})
			if err != nil {
				t.Fatalf("C %g: %v", strength, err)
			}
			if w.Number(1) <= 0 || math.Abs(w.Number(1)+w.Number(2)) > 1e-6*w.Number(1) {
				t.Errorf("C %g: weights %v and %v of opposite columns", strength, w.Number(1), w.Number(2))
			}
		}
	})
	t.Run("constant columns", func(t *testing.T) {
		var rows [][4]any
		for i := range 40 {
			rows = append(rows, [4]any{"only", 0.1, float64(i % 7), i%3 == 0})
		}
		d := small(t, rows)
		w, err := Encode(d, d.Ordered(), EncodeConfig{}).Fit(context.Background(), 1, SolverConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if w.Level(0, 0) != 0 || w.Number(1) != 0 || w.Number(2) == 0 {
			t.Errorf("weights %v, %v, %v", w.Level(0, 0), w.Number(1), w.Number(2))
		}
	})
	t.Run("nothing known", func(t *testing.T) {
		var rows [][4]any
		for i := range 40 {
			rows = append(rows, [4]any{nil, nil, nil, i%4 == 0})
		}
		d := small(t, rows)
		w, err := Encode(d, d.Ordered(), EncodeConfig{}).Fit(context.Background(), 1, SolverConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if got := 1 / (1 + math.Exp(-w.Intercept())); math.Abs(got-0.25) > 1e-9 {
			t.Errorf("probability %v, want the churn rate 0.25", got)
		}
	})
	t.Run("one class", func(t *testing.T) {
		d := small(t, [][4]any{{"a", 1.0, 2.0, true}, {"b", 2.0, 1.0, true}})
		_, err := Encode(d, d.Ordered(), EncodeConfig{}).Fit(context.Background(), 1, SolverConfig{})
		if !errors.Is(err, ErrTooFewLabels) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("too many levels", func(t *testing.T) {
		var rows [][4]any
		for i := range 300 {
			level := fmt.Sprint("rare ", i)
			if i%3 > 0 {
				level = []string{"", "a", "b"}[i%3]
			}
			rows = append(rows, [4]any{level, float64(i % 5), 1.0, i%2 == 0 || i%3 == 1})
		}
		d := small(t, rows)
		x := Encode(d, d.Ordered(), EncodeConfig{MaxLevels: 2})
		w, err := x.Fit(context.Background(), 1, SolverConfig{})
		if err != nil {
			t.Fatal(err)
		}
		a, _ := d.vocabulary.Lookup(0, "a")
		rare, _ := d.vocabulary.Lookup(0, "rare 0")
		if w.Level(0, a) == 0 || w.Level(0, rare) != 0 || len(x.features[0].levels) != 2 {
			t.Errorf("a %v, rare %v, %d levels", w.Level(0, a), w.Level(0, rare), len(x.features[0].levels))
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		d := synthetic(t, 100, 0, 1)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := Encode(d, d.Ordered(), EncodeConfig{}).Fit(ctx, 1, SolverConfig{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

func TestStrength(t *testing.T) {
	d := synthetic(t, 3000, 0, 9)
	x := Encode(d, d.Ordered(), EncodeConfig{Folds: 5})
	best, losses, err := x.Strength(context.Background(), DefaultStrengths())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("C %g, losses %.5f", best, losses)
	if s := DefaultStrengths(); best == s[0] || losses[0] < losses[4] {
		t.Errorf("C %g was chosen with losses %v", best, losses)
	}
	// A fold's loss is that of a fit to the rows of the others.
	from, to := x.fold(2)
	sums, err := x.foldLosses(context.Background(), 2, []float64{1})
	if err != nil {
		t.Fatal(err)
	}
	w, err := x.fit(context.Background(), []span{{0, from}, {to, x.Rows()}}, 1, nil, SolverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	oracle := newDense(d, x.rows, 0)
	oracle.churned = oracle.churned[from:to]
	for c := range oracle.columns {
		oracle.columns[c] = oracle.columns[c][from:to]
	}
	large, _ := oracle.objective(2, w)
	little, _ := oracle.objective(1, w)
	if want := large - little; math.Abs(sums[0]-want) > 1e-4*want {
		t.Errorf("loss %v of the fold left out, want %v", sums[0], want)
	}
}

func TestFitWithHardlyAnyPenalty(t *testing.T) {
	d := synthetic(t, 5000, 0, 11)
	w, err := Encode(d, d.Ordered(), EncodeConfig{}).Fit(context.Background(), 1e8, SolverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if w.Iterations > 30 {
		t.Errorf("%d iterations", w.Iterations)
	}
}

func BenchmarkFit(b *testing.B) {
	for _, rows := range []int{7_000, 200_000} {
		d := synthetic(b, rows, 0, 1)
		for _, knots := range []int{0, 5, 9} {
			x := Encode(d, d.Ordered(), EncodeConfig{Knots: knots})
			b.Run(fmt.Sprintf("rows=%d/knots=%d", rows, knots), func(b *testing.B) {
				for b.Loop() {
					w, err := x.Fit(context.Background(), 1, SolverConfig{})
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(w.Iterations), "gradients/op")
					b.ReportMetric(float64(w.Hessians), "hessians/op")
				}
				b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}

func BenchmarkStrength(b *testing.B) {
	d := synthetic(b, 7_000, 0, 1)
	x := Encode(d, d.Ordered(), EncodeConfig{Folds: 5})
	for b.Loop() {
		if _, _, err := x.Strength(context.Background(), DefaultStrengths()); err != nil {
			b.Fatal(err)
		}
	}
}
