package scoring

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// softplus is ln(1+e^s), written differently from the code under test.
func softplus(s float64) float64 {
	if s > 0 {
		return s + math.Log1p(math.Exp(-s))
	}
	return math.Log1p(math.Exp(s))
}

func lossOf(churned bool) func(float64) float64 {
	if churned {
		return func(s float64) float64 { return softplus(-s) }
	}
	return softplus
}

// checkLoss compares the values of both labels with the definition.
func checkLoss(t *testing.T, what string, p *Predictor, v *Vocabulary, x, oracle Vector, w *Workspace, tolerance float64) {
	t.Helper()
	var both [2][]float64
	for label, churned := range []bool{false, true} {
		what := fmt.Sprintf("%s, churned %t", what, churned)
		got := p.LogLossSHAP(nil, x, churned, w)
		want, base := enumerateShapley(p.Model(), v, oracle, 1, lossOf(churned))
		compare(t, what+": loss", got, want, tolerance)
		compare(t, what+": expected loss", []float64{p.ExpectedLogLoss(churned)}, []float64{base}, 1e-9)
		checkLossSum(t, what, p, x, churned, got, tolerance)
		both[label] = got
	}
	for j, c := range p.Contributions(nil, x) {
		if math.Abs(both[0][j]-both[1][j]-c) > tolerance {
			t.Errorf("%s: the values of feature %d differ by %g, its contribution is %g", what, j, both[0][j]-both[1][j], c)
		}
	}
}

func checkLossSum(t *testing.T, what string, p *Predictor, x Vector, churned bool, values []float64, tolerance float64) {
	t.Helper()
	if got, want := sum(values), p.LogLoss(x, churned)-p.ExpectedLogLoss(churned); !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s: loss values sum to %.12g, loss less expected is %.12g", what, got, want)
	}
}

func TestLogLoss(t *testing.T) {
	m := &Model{Features: []ModelFeature{{Name: "x", Kind: "numeric", LogOddsPerUnit: 1,
		Bins: []Bin{{Min: 0, Max: 0, Frequency: 1}}}}}
	p, _ := compileModel(t, m)
	for _, s := range []float64{0, 1, -1, 30, -30, 36.7, 800, -800, 1e9} {
		for _, churned := range []bool{false, true} {
			if got, want := p.LogLoss(Vector{s}, churned), lossOf(churned)(s); math.Abs(got-want) > 1e-15*want {
				t.Errorf("log-odds %g, churned %t: %g, want %g", s, churned, got, want)
			}
		}
	}
	// Minus the logarithm of the probability, where that is not cut off.
	if got, want := p.LogLoss(Vector{1.5}, true), -math.Log(p.Probability(Vector{1.5})); math.Abs(got-want) > 1e-15 {
		t.Errorf("%g, the probability's is %g", got, want)
	}
}

// TestLogLossSHAPEnumerated compares with the definition on models of every
// shape: numbers, missing and unknown values, log-odds beyond 100.
func TestLogLossSHAPEnumerated(t *testing.T) {
	greatest := 0.0
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 11))
		n := 1 + rng.IntN(6)
		spread := []float64{0.3, 1, 3, 12, 40}[rng.IntN(5)]
		m := randomModel(rng, n, 0, spread)
		if n >= 2 && n < 6 && rng.IntN(2) == 0 {
			m = randomModel(rng, n, 1, spread)
			m.Features[n-1].EmpiricalQuantiles = []float64{-3, -1, 0, 0, 2.5, 8}
		}
		p, v := compileModel(t, m)
		w := p.NewWorkspace()
		for range 4 {
			x := randomVector(t, rng, m, v)
			checkLoss(t, fmt.Sprintf("seed %d", seed), p, v, x, x, w, 1e-9)
			greatest = max(greatest, math.Abs(p.LogOdds(x)))
		}
	}
	if greatest < 100 {
		t.Errorf("log-odds up to %g only", greatest)
	}
}

// TestLogLossSHAPExtremeValues has numbers that no customer has, where the loss
// goes on growing although the probability does not.
func TestLogLossSHAPExtremeValues(t *testing.T) {
	extreme := []float64{0, 1, -1, 30, -47, 400, -900, 1e4, 1e9, -1e9, 2e9, 1e300, -1e300}
	large := []float64{0, 1, 30, -47, 50, 60, -100, -110, 150, 400, -410, -900}
	for seed := range uint64(240) {
		rng := rand.New(rand.NewPCG(seed, 12))
		spread := []float64{0.3, 3, 12}[rng.IntN(3)]
		values, numeric := extreme, 2
		if seed%2 == 0 {
			values, numeric = large, 3
		}
		n := numeric + rng.IntN(3)
		m := randomModel(rng, n, numeric, spread)
		for j := n - numeric; j < n; j++ {
			f := &m.Features[j]
			f.Knots, f.KnotLogOdds = nil, nil
			f.EmpiricalQuantiles = []float64{-3, -1, 0, 0, 2.5, 8}
			f.LogOddsPerUnit = spread * (rng.Float64() - 0.5)
			if seed%3 == 0 {
				f.LogOddsPerUnit = spread / 8 // such that values cancel
			}
		}
		p, v := compileModel(t, m)
		w := p.NewWorkspace()
		for range 6 {
			x := randomVector(t, rng, m, v)
			for j := n - numeric; j < n; j++ {
				x[j] = values[rng.IntN(len(values))]
			}
			// As in TestExtremeValues.
			clamped, tolerance := slices.Clone(x), 1e-9
			for j := n - numeric; j < n; j++ {
				slope := m.Features[j].LogOddsPerUnit
				c := min(max(slope*x[j], -maxContribution), maxContribution)
				clamped[j] = c / slope
				tolerance += 2e-15 * math.Abs(c)
			}
			checkLoss(t, fmt.Sprintf("seed %d, %v", seed, x), p, v, x, clamped, w, tolerance)
		}
	}
}

// TestLogLossSHAPConfused has three numbers that reach beyond every table and of
// which none outweighs the others: the sum still holds.
func TestLogLossSHAPConfused(t *testing.T) {
	m := &Model{Intercept: -1}
	for j := range 4 {
		m.Features = append(m.Features, ModelFeature{Name: fmt.Sprint("x", j), Kind: "numeric", LogOddsPerUnit: 1,
			EmpiricalQuantiles: []float64{-1, 0, 2}, Bins: []Bin{{Min: -1, Max: 2, Frequency: 1}}})
	}
	p, _ := compileModel(t, m)
	w := p.NewWorkspace()
	for _, x := range []Vector{{1, 1e6, 1e6, -1.5e6}, {1, -1e6, -1e6, 2e6 + 3}, {5000, 5001, -5002, -9000}} {
		for _, churned := range []bool{false, true} {
			checkLossSum(t, fmt.Sprint(x), p, x, churned, p.LogLossSHAP(nil, x, churned, w), 1e-8)
		}
	}
}

// TestLogLossSHAPReference compares with enumerations in other languages: with 40
// digits by testdata/log_loss_shapley.py, and of one model by NumPy.
func TestLogLossSHAPReference(t *testing.T) {
	type reference struct {
		Intercept float64
		Frequency [][]float64
		LogOdds   [][]float64 `json:"log_odds"`
		Own       []int
		Churned   bool
		Loss      float64
		Expected  float64
		Shapley   []float64
	}
	var cases []reference
	for _, name := range []string{"log_loss_shapley.json", "log_loss_shapley_numpy.json"} {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var more []reference
		if err := json.Unmarshal(data, &more); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		cases = append(cases, more...)
	}
	if len(cases) != 7 {
		t.Fatalf("%d cases, not 7", len(cases))
	}
	for i, c := range cases {
		m := &Model{Intercept: c.Intercept}
		for j := range c.Frequency {
			f := ModelFeature{Name: fmt.Sprint("f", j), Kind: "categorical", LogOdds: c.LogOdds[j], Frequency: c.Frequency[j]}
			for l := range f.LogOdds {
				f.Levels = append(f.Levels, fmt.Sprint(l))
			}
			m.Features = append(m.Features, f)
		}
		p, v := compileModel(t, m)
		x := NewVector(len(m.Features))
		for j, l := range c.Own {
			var err error
			if x[j], err = v.CodeString(j, fmt.Sprint(l)); err != nil {
				t.Fatal(err)
			}
		}
		what := fmt.Sprintf("case %d", i)
		compare(t, what, p.LogLossSHAP(nil, x, c.Churned, p.NewWorkspace()), c.Shapley, 1e-9)
		compare(t, what+": loss and its base", []float64{p.LogLoss(x, c.Churned), p.ExpectedLogLoss(c.Churned)},
			[]float64{c.Loss, c.Expected}, 1e-9)
	}
}

// TestLossQuadrature compares with ln cosh itself at each point that the bound
// covers, near 0 included, where the integrand divides by t².
func TestLossQuadrature(t *testing.T) {
	for _, omega := range []float64{11.6, 12, 20, 51, 200, 249, 300, 1000, 2700} {
		q := newNodes(omega, omega <= maxPoleBound)
		reach := omega + math.Log(tolerance)/2
		if !q.poles {
			reach = omega + math.Log(tolerance)
		}
		points := []float64{1e-9, -1e-5, 0.01}
		for i := -20; i <= 20; i++ {
			points = append(points, reach*float64(i)/20)
		}
		for _, s := range points {
			for _, b := range []float64{0, s / 2, -3} {
				row := make([]float64, 2*q.size())
				q.add(row, s-b, 1)
				multiply(row, row, q.lossWeights(b))
				got := q.lossConstant() + sum(row[q.size():])
				if want := logCosh(s); math.Abs(got-want) > 1.5*tolerance {
					t.Errorf("ω %g: ln cosh(%g/2) = %g is off by %g", omega, s, want, got-want)
				}
			}
		}
	}
}

// TestLossRules compares the rule that is settled for with the exact one.
func TestLossRules(t *testing.T) {
	cheaper := 0
	for seed := range uint64(25) {
		rng := rand.New(rand.NewPCG(seed, 13))
		m := randomModel(rng, 15+rng.IntN(60), rng.IntN(10), []float64{0.2, 0.6, 2, 10}[rng.IntN(4)])
		p, v := compileModel(t, m)
		exact, _ := Compile(m, v)
		exact.shap.rules = exact.shap.rules[len(exact.shap.rules)-1:]
		if len(p.shap.rules) > 1 {
			cheaper++
		}
		w := p.NewWorkspace()
		for range 5 {
			x := randomVector(t, rng, m, v)
			got := p.LogLossSHAP(nil, x, seed%2 == 0, w)
			compare(t, fmt.Sprintf("seed %d: loss", seed), got, exact.LogLossSHAP(nil, x, seed%2 == 0, w), 3e-10)
			checkLossSum(t, fmt.Sprintf("seed %d", seed), p, x, seed%2 == 0, got, 1e-9)
		}
	}
	if cheaper == 0 {
		t.Error("every rule was the exact one")
	}
}

// TestLogLossSHAPIdentities: no effect means 0, equal features have equal values.
func TestLogLossSHAPIdentities(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 5))
	m := randomModel(rng, 8, 3, 0.8)
	twin := m.Features[0]
	twin.Name = "twin"
	flat := ModelFeature{Name: "flat", Kind: "categorical",
		Levels: []string{"a", "b"}, LogOdds: []float64{0.7, 0.7}, Frequency: []float64{0.4, 0.6}}
	m.Features = append(m.Features, twin, flat)
	p, v := compileModel(t, m)
	w := p.NewWorkspace()
	for i := range 50 {
		x := randomVector(t, rng, m, v)
		x[8] = Missing
		if !IsMissing(x[0]) {
			x[8], _ = v.CodeString(8, v.Level(0, x[0]))
		}
		values := p.LogLossSHAP(nil, x, i%2 == 0, w)
		if values[9] != 0 {
			t.Errorf("without effect: %g", values[9])
		}
		if math.Abs(values[0]-values[8]) > 1e-14 {
			t.Errorf("twins: %g and %g", values[0], values[8])
		}
	}
	// Without any feature that has an effect, what is lost is what is expected.
	p, _ = compileModel(t, &Model{Intercept: -1.5, Features: []ModelFeature{flat}})
	x := Vector{0}
	if values := p.LogLossSHAP(nil, x, true, w); values[0] != 0 || math.Abs(p.LogLoss(x, true)-p.ExpectedLogLoss(true)) > 1e-9 {
		t.Errorf("values %v, loss %g, expected %g", values, p.LogLoss(x, true), p.ExpectedLogLoss(true))
	}
}

func TestLogLossSHAPDoesNotAllocate(t *testing.T) {
	p, x := telcoLike(t, 1, 0.4)
	wild := slices.Clone(x)
	wild[18] = 1e9
	w, dst := p.NewWorkspace(), make([]float64, len(x))
	a := NewAttribution(len(x))
	if n := testing.AllocsPerRun(20, func() {
		for _, x := range []Vector{x, wild} {
			a.Add(p.LogLossSHAP(dst, x, true, w), p.ExpectedLogLoss(true))
		}
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

// BenchmarkLogLossSHAP takes turns with SHAP of the probability, and reports the
// ratio of their times.
func BenchmarkLogLossSHAP(b *testing.B) {
	m := randomModel(rand.New(rand.NewPCG(1, 15)), 19, 3, 0.4)
	p, v := compileModel(b, m)
	rng := rand.New(rand.NewPCG(2, 15))
	xs := make([]Vector, 64)
	for i := range xs {
		xs[i] = randomVector(b, rng, m, v)
	}
	w, dst := p.NewWorkspace(), make([]float64, 19)
	b.ReportAllocs()
	reportRatio(b, len(xs),
		func(i int) { dst = p.LogLossSHAP(dst, xs[i], i%2 == 0, w) },
		func(i int) { dst = p.SHAP(dst, xs[i], w) })
}
