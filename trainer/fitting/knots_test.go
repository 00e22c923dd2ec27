package fitting

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/optimize"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

func TestKnotsAreValuesThatOccur(t *testing.T) {
	for name, c := range map[string]struct {
		values []float64
		n      int
		want   []float64
	}{
		"quartiles":             {[]float64{1, 2, 3, 4, 5, 6, 7, 8}, 5, []float64{1, 2, 4, 6, 8}},
		"not interpolated":      {[]float64{1, 2, 3, 4, 5, 6}, 5, []float64{1, 2, 3, 5, 6}},
		"ends only":             {[]float64{1, 2, 3}, 2, []float64{1, 3}},
		"mostly one value":      {[]float64{0, 0, 0, 0, 0, 0, 0, 0, 1, 9}, 5, []float64{0, 9}},
		"mostly the last":       {[]float64{0, 9, 9, 9, 9, 9, 9, 9, 9, 9}, 5, []float64{0, 9}},
		"two values":            {[]float64{0, 0, 1, 1, 1}, 9, []float64{0, 1}},
		"one value":             {[]float64{3, 3, 3}, 5, []float64{3}},
		"a single one":          {[]float64{3}, 5, []float64{3}},
		"none":                  {nil, 5, nil},
		"more knots than there": {[]float64{1, 2, 3}, 100, []float64{1, 2, 3}},
	} {
		if got := knotsAt(c.values, c.n); !slices.Equal(got, c.want) {
			t.Errorf("%s: knots %v, want %v", name, got, c.want)
		}
	}
}

func TestLocate(t *testing.T) {
	knots := []float64{-1, 0, 4}
	for _, c := range []struct {
		x     float64
		knot  int
		share float64
	}{{-5, 0, 0}, {-1, 0, 0}, {-0.75, 0, 0.25}, {0, 0, 1}, {1, 1, 0.25}, {4, 1, 1}, {7, 1, 1}} {
		if knot, share := locate(knots, c.x); knot != c.knot || share != c.share {
			t.Errorf("%v is %v beyond knot %d, want %v beyond %d", c.x, share, knot, c.share, c.knot)
		}
	}
}

// A general optimizer, which knows nothing of sparse columns and folded
// gradients, comes to the same weights on the dense problem.
func TestFitWithKnotsAgreesWithAGeneralOptimizer(t *testing.T) {
	normal := func(r *rand.Rand) any { return r.NormFloat64() }
	for name, number := range map[string][2]func(r *rand.Rand) any{
		"spread":        {func(r *rand.Rand) any { return 100 * r.Float64() }, normal},
		"all equal":     {func(*rand.Rand) any { return 0.1 }, normal},
		"two values":    {func(r *rand.Rand) any { return float64(r.IntN(2)) }, normal},
		"three values":  {func(r *rand.Rand) any { return float64(r.IntN(3)) }, func(r *rand.Rand) any { return math.Floor(r.ExpFloat64()) }},
		"mostly zero":   {func(r *rand.Rand) any { return max(0, r.NormFloat64()-1) }, normal},
		"never present": {func(*rand.Rand) any { return nil }, normal},
		"mostly missing": {
			func(r *rand.Rand) any {
				if r.IntN(10) > 0 {
					return nil
				}
				return 10 * r.Float64()
			},
			func(r *rand.Rand) any {
				if r.IntN(2) > 0 {
					return nil
				}
				return float64(r.IntN(2))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(8, 8))
			var rows [][4]any
			for range 200 {
				row := [4]any{[]any{"a", "b", "c", nil}[r.IntN(4)], number[0](r), number[1](r), false}
				eta := -0.5
				if x, ok := row[2].(float64); ok {
					eta += math.Abs(x)
				}
				row[3] = r.Float64() < 1/(1+math.Exp(-eta))
				rows = append(rows, row)
			}
			d := small(t, rows)
			oracle := newDense(d, d.Ordered(), 5)
			for _, strength := range []float64{0.05, 2} {
				w, err := Encode(d, d.Ordered(), EncodeConfig{Knots: 5}).Fit(context.Background(), strength, SolverConfig{})
				if err != nil {
					t.Fatal(err)
				}
				got := oracle.coefficients(w)
				value, gradient := oracle.objectiveAt(strength, got)
				for c, g := range gradient {
					if math.Abs(g) > 1e-7 {
						t.Errorf("C %g: gradient %g in column %d", strength, g, c)
					}
				}
				problem := optimize.Problem{
					Func: func(v []float64) float64 { f, _ := oracle.objectiveAt(strength, v); return f },
					Grad: func(g, v []float64) { _, gradient := oracle.objectiveAt(strength, v); copy(g, gradient) },
				}
				result, err := optimize.Minimize(problem, make([]float64, len(got)),
					&optimize.Settings{GradientThreshold: 1e-6}, &optimize.BFGS{})
				if err != nil {
					t.Fatal(err)
				}
				if math.Abs(result.F-value) > 1e-9*value {
					t.Errorf("C %g: objective %v, the optimizer's %v", strength, value, result.F)
				}
				for c := range got {
					if math.Abs(got[c]-result.X[c]) > 1e-5 {
						t.Errorf("C %g: weight %v in column %d, the optimizer's %v", strength, got[c], c, result.X[c])
					}
				}
			}
		})
	}
}

// A feature with one value, or none, has no knots in the model and no effect.
func TestModelOfConstantNumbersHasNoKnots(t *testing.T) {
	var rows [][4]any
	for i := range 60 {
		rows = append(rows, [4]any{"a", 7.0, nil, i%3 == 0})
	}
	d := small(t, rows)
	w, err := Encode(d, d.Ordered(), EncodeConfig{Knots: 5}).Fit(context.Background(), 1, SolverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	m := w.Model()
	for _, f := range m.Features[1:] {
		if len(f.Knots) > 0 || f.LogOddsPerUnit != 0 {
			t.Errorf("%s: knots %v, log-odds per unit %v", f.Name, f.Knots, f.LogOddsPerUnit)
		}
	}
	if _, err := scoring.Compile(m, d.Vocabulary()); err != nil {
		t.Error(err)
	}
}

// curved makes customers with two numbers whose log-odds are the curve of the
// first; the second is noise.
func curved(t *testing.T, rows int, seed uint64, curve func(x float64) float64) *Dataset {
	t.Helper()
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "tenure", Kind: scoring.Numeric}, {Name: "noise", Kind: scoring.Numeric}})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 4))
	d := NewDataset(scoring.NewVocabulary(spec), rows)
	for i := range rows {
		x := scoring.Vector{72 * r.Float64(), r.NormFloat64()}
		d.Add(Example{
			Customer: CustomerHash(fmt.Append(nil, i)), ObservedAt: int64(i), Attributes: x,
			Churned: r.Float64() < 1/(1+math.Exp(-curve(x[0]))),
		})
	}
	return d
}

// fitted fits rows with some knots and hardly any penalty.
func fitted(t *testing.T, d *Dataset, knots int) *scoring.Predictor {
	t.Helper()
	w, err := Encode(d, d.Ordered(), EncodeConfig{Knots: knots}).Fit(context.Background(), 1, SolverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := scoring.Compile(w.Model(), d.Vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func meanLogLoss(p *scoring.Predictor, d *Dataset) float64 {
	sum, x := 0.0, scoring.NewVector(d.Spec().Len())
	for i := range d.Len() {
		d.Attributes(i, x)
		sum += evaluation.LogLoss(p.Probability(x), d.Churned(i))
	}
	return sum / float64(d.Len())
}

func TestKnotsRecoverAPiecewiseLinearCurve(t *testing.T) {
	// High in the first half year, low for years, higher again at the end.
	curve := func(x float64) float64 {
		switch {
		case x < 6:
			return 1.5 - 0.5*x
		case x < 48:
			return -1.5
		}
		return -1.5 + (x-48)/12
	}
	d := curved(t, 40_000, 1, curve)
	fresh := curved(t, 20_000, 2, curve)
	best := 0.0 // of the curve itself
	x := scoring.NewVector(2)
	for i := range fresh.Len() {
		fresh.Attributes(i, x)
		best += evaluation.LogLoss(1/(1+math.Exp(-curve(x[0]))), fresh.Churned(i)) / float64(fresh.Len())
	}
	linear := meanLogLoss(fitted(t, d, 0), fresh) - best
	pieces := fitted(t, d, 13) // knots near every six months
	excess := meanLogLoss(pieces, fresh) - best
	t.Logf("log loss beyond the curve's %.5f: linear %.5f, with knots %.5f", best, linear, excess)
	if linear < 0.03 || excess > 0.001 {
		t.Errorf("log loss beyond the curve's: linear %.5f, with knots %.5f", linear, excess)
	}
	for at := 0.0; at <= 72; at += 3 {
		if got := pieces.LogOdds(scoring.Vector{at, scoring.Missing}); math.Abs(got-curve(at)) > 0.25 {
			t.Errorf("log-odds %.3f at %v, curve %.3f", got, at, curve(at))
		}
	}
	// Beyond what was seen the contribution stays.
	if pieces.LogOdds(scoring.Vector{1000, 0}) != pieces.LogOdds(scoring.Vector{73, 0}) {
		t.Error("the contribution goes on beyond the last knot")
	}
}

func TestKnotsOfAStraightLineAreOnTheLine(t *testing.T) {
	curve := func(x float64) float64 { return 1 - x/18 }
	d := curved(t, 100_000, 3, curve)
	linear, pieces := fitted(t, d, 0), fitted(t, d, 5)
	worst, mean := 0.0, 0.0
	for at := 0.0; at <= 72; at++ {
		x := scoring.Vector{at, scoring.Missing}
		off := math.Abs(pieces.LogOdds(x) - linear.LogOdds(x))
		worst, mean = max(worst, off), mean+off/73
	}
	t.Logf("log-odds, which fall by 4, are off the line by %.3f on average, %.3f at most", mean, worst)
	if mean > 0.05 || worst > 0.12 { // few leave at the far end
		t.Errorf("log-odds are off the line by %.3f on average, %.3f at most", mean, worst)
	}
	fresh := curved(t, 100_000, 4, curve)
	if a, b := meanLogLoss(linear, fresh), meanLogLoss(pieces, fresh); math.Abs(a-b) > 2e-4 {
		t.Errorf("log loss %.6f with knots, %.6f linear", b, a)
	}
}

func TestFitWithKnots(t *testing.T) {
	d := synthetic(t, 2000, 0.05, 33)
	c, err := Fit(context.Background(), d, Config{Knots: 5, Strengths: []float64{0.1}, ImportanceRows: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range c.Model.Features {
		if numeric := f.Kind == scoring.Numeric.String(); numeric != (len(f.Knots) == 5) || f.LogOddsPerUnit != 0 {
			t.Errorf("%s, %s: knots %v, log-odds per unit %v", f.Name, f.Kind, f.Knots, f.LogOddsPerUnit)
		}
	}
}
