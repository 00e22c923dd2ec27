package scoring

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestProbability(t *testing.T) {
	m := smallModel()
	p, v := compileModel(t, m)
	year, _ := v.Lookup(0, "year")
	unseen, _ := v.CodeString(0, "three years") // after compiling
	const meanContract = 0.5*0.5 - 0.5*0.2
	meanTenure := -0.1 * 4
	for _, tc := range []struct {
		x       Vector
		logOdds float64
		missing []int
	}{
		{Vector{year, 5, 4}, -1 - 0.2 - 0.5 + 1, nil},
		{Vector{year, 5, 2}, -1 - 0.2 - 0.5 + 1.0/3, nil},
		{Vector{year, 5, 7}, -1 - 0.2 - 0.5 - 0.5, nil},
		{Vector{year, 5, -100}, -1 - 0.2 - 0.5, nil},
		{Vector{year, 5, 100}, -1 - 0.2 - 0.5 - 1, nil},
		{Vector{Missing, 5, 4}, -1 + meanContract - 0.5 + 1, []int{0}},
		{Vector{unseen, 5, 4}, -1 + meanContract - 0.5 + 1, []int{0}},
		{Vector{9999, 5, 4}, -1 + meanContract - 0.5 + 1, []int{0}},
		{Vector{-1, Missing, 4}, -1 + meanContract + meanTenure + 1, []int{0, 1}},
	} {
		if got := p.LogOdds(tc.x); math.Abs(got-tc.logOdds) > 1e-12 {
			t.Errorf("%v: log-odds %g, want %g", tc.x, got, tc.logOdds)
		}
		if got, want := p.Probability(tc.x), 1/(1+math.Exp(-tc.logOdds)); math.Abs(got-want) > 1e-12 {
			t.Errorf("%v: probability %g, want %g", tc.x, got, want)
		}
		if got := p.Missing(nil, tc.x); !slices.Equal(got, tc.missing) {
			t.Errorf("%v: missing %v, want %v", tc.x, got, tc.missing)
		}
		c := p.Contributions(nil, tc.x)
		if got, want := c[0]+c[1]+c[2], tc.logOdds-p.LogOdds(NewVector(3)); math.Abs(got-want) > 1e-12 {
			t.Errorf("%v: contributions %v sum to %g, want %g", tc.x, c, got, want)
		}
		for _, j := range tc.missing {
			if c[j] != 0 {
				t.Errorf("%v: a missing value contributes %g", tc.x, c[j])
			}
		}
	}
	// Without quantiles the background is that of the bins.
	want := expectation(oracle{&m.Features[2]}.background(20_000))
	if got := p.features[2].expected; math.Abs(got-want) > 1e-4 {
		t.Errorf("mean contribution %g, want %g", got, want)
	}
	if p.Model() != m || p.Spec() != v.Spec() {
		t.Error("model or specification is another")
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(m *Model)
		says  string
	}{
		"invalid":        {func(m *Model) { m.Intercept = math.NaN() }, "finite"},
		"renamed":        {func(m *Model) { m.Features[0].Name = "other" }, `"other" is not in the specification`},
		"one short":      {func(m *Model) { m.Features = m.Features[1:] }, `"contract" of the specification`},
		"kind":           {func(m *Model) { m.Features[0] = m.Features[1]; m.Features[0].Name = "contract" }, "is numeric"},
		"wide":           {func(m *Model) { m.Features[0].LogOdds[0] = 2000 }, "at most ±1000"},
		"wide intercept": {func(m *Model) { m.Intercept = 1e300 }, "at most ±1000"},
		"steep":          {func(m *Model) { m.Features[1].LogOddsPerUnit = 1e99 }, "at most ±1000"},
	} {
		m := smallModel()
		v := NewVocabulary(specOf(t, m))
		tc.spoil(m)
		if _, err := Compile(m, v); !errors.Is(err, ErrModel) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: error %v, want one that says %q", name, err, tc.says)
		}
	}
}

// TestCompileOrder compiles a model whose features stand in another order than
// the specification's, against a vocabulary that knows other levels already.
func TestCompileOrder(t *testing.T) {
	m := smallModel()
	p, v := compileModel(t, m)
	turned := smallModel()
	slices.Reverse(turned.Features)
	other := NewVocabulary(v.Spec())
	for _, level := range []string{"three years", "two years", "year"} {
		if _, err := other.CodeString(0, level); err != nil {
			t.Fatal(err)
		}
	}
	q, err := Compile(turned, other)
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []string{"month", "year", "two years", "three years"} {
		x, y := Vector{0, 5, 2}, Vector{0, 5, 2}
		x[0], _ = v.CodeString(0, level)
		y[0], _ = other.CodeString(0, level)
		if a, b := p.Probability(x), q.Probability(y); math.Abs(a-b) > 1e-15 {
			t.Errorf("%s: %g and %g", level, a, b)
		}
		compare(t, level, q.SHAP(nil, y, q.NewWorkspace()), p.SHAP(nil, x, p.NewWorkspace()), 1e-15)
		compare(t, level, q.LIME(nil, y, q.NewWorkspace()), p.LIME(nil, x, p.NewWorkspace()), 1e-15)
	}
}

func TestBestChange(t *testing.T) {
	m := smallModel()
	features := func(actionable ...bool) *Spec {
		spec := specOf(t, m)
		var fs []Feature
		for j, a := range actionable {
			f := *spec.Feature(j)
			f.Actionable = a
			fs = append(fs, f)
		}
		spec, err := NewSpec(fs)
		if err != nil {
			t.Fatal(err)
		}
		return spec
	}
	const month, year = 0, 1 // codes in the order of the model
	for name, tc := range map[string]struct {
		spec    *Spec
		x       Vector
		feature int
		value   float64
		ok      bool
	}{
		"greatest charges":      {features(true, false, true), Vector{month, 5, 4}, 2, 9, true},
		"level that never was":  {features(true, false, false), Vector{month, 5, 4}, 0, year, true},
		"best already":          {features(true, false, false), Vector{year, 5, 4}, 0, 0, false},
		"better than known":     {features(true, false, false), Vector{2, 5, 4}, 0, 0, false},
		"linear number":         {features(false, true, false), Vector{month, 5, 4}, 1, 9, true},
		"one step, not the end": {features(false, true, false), Vector{month, 2, 4}, 1, 4, true},
		"step down":             {features(false, false, true), Vector{month, 5, 3}, 2, 0, true},
		"beyond range already":  {features(false, true, false), Vector{month, 50, 4}, 0, 0, false},
		"nothing actionable":    {features(false, false, false), Vector{month, 5, 4}, 0, 0, false},
		"missing is not known":  {features(true, false, false), Vector{Missing, 5, 4}, 0, 0, false},
		"unknown level changes": {features(true, false, false), Vector{77, 5, 4}, 0, year, true},
	} {
		v := NewVocabulary(tc.spec)
		p, err := Compile(m, v)
		if err != nil {
			t.Fatal(err)
		}
		feature, value, probability, ok := p.BestChange(tc.x, nil)
		if feature != tc.feature || value != tc.value || ok != tc.ok {
			t.Errorf("%s: feature %d to %g (%v), want %d to %g (%v)", name, feature, value, ok, tc.feature, tc.value, tc.ok)
		}
		if !ok {
			continue
		}
		changed := slices.Clone(tc.x)
		changed[feature] = value
		if want := p.Probability(changed); math.Abs(probability-want) > 1e-15 || !(probability < p.Probability(tc.x)) {
			t.Errorf("%s: probability %g, want %g", name, probability, want)
		}
	}
}

func TestTopByMagnitude(t *testing.T) {
	weights := []float64{0.1, -0.5, 0.5, 0, -0.9, 0.1}
	for k, want := range map[int][]int{
		0: nil, 1: {4}, 2: {4, 1}, 3: {4, 1, 2}, 5: {4, 1, 2, 0, 5}, -1: {4, 1, 2, 0, 5, 3}, 99: {4, 1, 2, 0, 5, 3},
	} {
		if got := TopByMagnitude(nil, weights, k); !slices.Equal(got, want) {
			t.Errorf("top %d: %v, want %v", k, got, want)
		}
	}
	if got := TopByMagnitude([]int{7, 8}, weights, 2); !slices.Equal(got, []int{7, 8, 4, 1}) {
		t.Errorf("appended: %v", got)
	}
	rng := rand.New(rand.NewPCG(1, 11))
	for range 200 {
		weights := make([]float64, rng.IntN(30))
		all := make([]int, len(weights))
		for i := range weights {
			weights[i], all[i] = float64(rng.IntN(11)-5), i
		}
		slices.SortStableFunc(all, func(a, b int) int {
			return int(math.Abs(weights[b]) - math.Abs(weights[a]))
		})
		k := rng.IntN(len(weights) + 1)
		if got := TopByMagnitude(nil, weights, k); !slices.Equal(got, all[:k]) {
			t.Fatalf("top %d of %v: %v, want %v", k, weights, got, all[:k])
		}
	}
}

func TestPredictorDoesNotAllocate(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 12))
	m := randomModel(rng, 19, 3, 0.6)
	p, v := compileModel(t, m)
	x := randomVector(t, rng, m, v)
	extreme := slices.Clone(x)
	extreme[18] = 1e9
	w, dst, top, missing := p.NewWorkspace(), make([]float64, 19), make([]int, 0, 19), make([]int, 0, 19)
	if n := testing.AllocsPerRun(20, func() {
		p.Probability(x)
		p.LIME(dst, x, w)
		p.SHAP(dst, x, w)
		p.SHAP(dst, extreme, w)
		p.Contributions(dst, x)
		p.Missing(missing, x)
		p.BestChange(x, w)
		TopByMagnitude(top, dst, -1)
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

// TestConcurrentUse shares a predictor, and a workspace between predictors.
func TestConcurrentUse(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 13))
	large, lv := compileModel(t, randomModel(rng, 12, 3, 1))
	small, sv := compileModel(t, randomModel(rng, 4, 1, 3))
	var xs, ys []Vector
	for range 20 {
		xs, ys = append(xs, randomVector(t, rng, large.model, lv)), append(ys, randomVector(t, rng, small.model, sv))
	}
	var group sync.WaitGroup
	results := make([][]string, 4)
	for g := range results {
		group.Go(func() {
			var w Workspace
			for i := range xs {
				results[g] = append(results[g], fmt.Sprint(
					large.SHAP(nil, xs[i], &w), small.SHAP(nil, ys[i], &w), large.LIME(nil, xs[i], &w), small.LIME(nil, ys[i], &w)))
			}
		})
	}
	group.Wait()
	for g := range results {
		if !slices.Equal(results[g], results[0]) {
			t.Errorf("goroutine %d computed something else", g)
		}
	}
}

// TestDegenerate computes with models that leave nothing to explain.
func TestDegenerate(t *testing.T) {
	m := &Model{Intercept: 0.4, Features: []ModelFeature{
		{Name: "a", Kind: "categorical", Levels: []string{"x"}, LogOdds: []float64{3}, Frequency: []float64{1}},
	}}
	p, v := compileModel(t, m)
	if got, want := p.ExpectedProbability(), sigmoid(3.4); math.Abs(got-want) > 1e-9 {
		t.Errorf("expected probability %g, want %g", got, want)
	}
	code, _ := v.Lookup(0, "x")
	for _, x := range []Vector{{code}, {Missing}} {
		if l, s := p.LIME(nil, x, p.NewWorkspace()), p.SHAP(nil, x, p.NewWorkspace()); l[0] != 0 || s[0] != 0 {
			t.Errorf("LIME %v, SHAP %v", l, s)
		}
	}

	// All training values equal: one quartile, nothing above it.
	m = &Model{Features: []ModelFeature{{Name: "a", Kind: "numeric", LogOddsPerUnit: 1, Quartiles: []float64{5},
		Bins: []Bin{{Mean: 5, Min: 5, Max: 5, Frequency: 1}, {}}, EmpiricalQuantiles: []float64{5}}}}
	p, _ = compileModel(t, m)
	if got := p.LIME(nil, Vector{5}, p.NewWorkspace()); got[0] != 0 {
		t.Errorf("LIME of a constant %v", got)
	}
	if got, want := p.SHAP(nil, Vector{7}, p.NewWorkspace())[0], sigmoid(7)-sigmoid(5); math.Abs(got-want) > 1e-9 {
		t.Errorf("SHAP %g, want %g", got, want)
	}
	if got := p.LIME(nil, Vector{7}, p.NewWorkspace()); !finite(got...) {
		t.Errorf("LIME above %v", got)
	}

	// A kernel so narrow that its weights are 0 in floating point has the
	// limit of ever narrower ones.
	x := Vector{0, 5, 4}
	m = smallModel()
	m.KernelWidth = 0.05
	p, _ = compileModel(t, m)
	want := p.LIME(nil, x, p.NewWorkspace())
	m.KernelWidth = 1e-3
	p, _ = compileModel(t, m)
	compare(t, "narrow kernel", p.LIME(nil, x, p.NewWorkspace()), want, 1e-9)
	if want[0] == 0 {
		t.Error("nothing to compare")
	}
}
