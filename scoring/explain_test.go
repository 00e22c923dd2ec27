package scoring

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/integrate/quad"
	"gonum.org/v1/gonum/mat"
)

// randomModel returns a model of n features, categorical but for the given
// number of numeric ones at the end. Contributions spread as normals of the
// given standard deviation.
func randomModel(rng *rand.Rand, n, numeric int, spread float64) *Model {
	m := &Model{Intercept: rng.NormFloat64() * 2}
	for j := range n {
		f := ModelFeature{Name: fmt.Sprintf("f%d", j), Kind: "categorical"}
		if j >= n-numeric {
			f.Kind = "numeric"
			numericFeature(rng, &f, spread)
		} else {
			categoricalFeature(rng, &f, spread)
		}
		m.Features = append(m.Features, f)
	}
	return m
}

func categoricalFeature(rng *rand.Rand, f *ModelFeature, spread float64) {
	levels := 1 + rng.IntN(3)
	sum := 0.0
	for l := range levels {
		f.Levels = append(f.Levels, fmt.Sprintf("level %d", l))
		f.LogOdds = append(f.LogOdds, rng.NormFloat64()*spread)
		weight := rng.ExpFloat64()
		switch rng.IntN(6) {
		case 0:
			weight = 0 // known to the model, not in the training rows
		case 1:
			weight *= 1e4 // nearly all rows
		}
		f.Frequency = append(f.Frequency, weight)
		sum += weight
	}
	if sum == 0 {
		f.Frequency[0], sum = 1, 1
	}
	for l := range f.Frequency {
		f.Frequency[l] /= sum
	}
}

func numericFeature(rng *rand.Rand, f *ModelFeature, spread float64) {
	// Training values from a skewed distribution, then what a trainer notes.
	values := make([]float64, 40)
	x := rng.NormFloat64() * 10
	for i := range values {
		x += rng.ExpFloat64()
		values[i] = x
	}
	n := len(values)
	low, high := values[0], values[n-1]
	f.Quartiles = []float64{values[n/4], values[n/2], values[3*n/4]}
	edges := []float64{low, f.Quartiles[0], f.Quartiles[1], f.Quartiles[2], high}
	for b := range 4 {
		var in []float64
		for _, v := range values {
			if (b == 0 || v > edges[b]) && (b == 3 || v <= edges[b+1]) {
				in = append(in, v)
			}
		}
		bin := Bin{Min: edges[b], Max: edges[b+1], Frequency: float64(len(in)) / float64(n)}
		for _, v := range in {
			bin.Mean += v / float64(len(in))
		}
		for _, v := range in {
			bin.Std += (v - bin.Mean) * (v - bin.Mean) / float64(len(in))
		}
		bin.Std = math.Sqrt(bin.Std)
		f.Bins = append(f.Bins, bin)
	}
	f.Bins[rng.IntN(4)].Std *= []float64{1, 1, 0, 0.01, 30}[rng.IntN(5)]
	if rng.IntN(2) == 0 {
		for i := range 10 {
			f.EmpiricalQuantiles = append(f.EmpiricalQuantiles, values[(2*i+1)*n/20])
		}
	}
	if rng.IntN(2) == 0 {
		f.LogOddsPerUnit = rng.NormFloat64() * spread / (high - low) * 3
		return
	}
	for i := range 5 {
		f.Knots = append(f.Knots, low+(high-low)*float64(i)/4)
		f.KnotLogOdds = append(f.KnotLogOdds, rng.NormFloat64()*spread)
	}
}

// randomVector returns a customer: levels that occur or not, missing and
// unknown ones, numbers within training's range and somewhat beyond.
func randomVector(t testing.TB, rng *rand.Rand, m *Model, v *Vocabulary) Vector {
	t.Helper()
	x := NewVector(len(m.Features))
	for j, f := range m.Features {
		switch {
		case rng.IntN(12) == 0: // missing
		case f.Kind == "numeric":
			low, high := f.Bins[0].Min, f.Bins[len(f.Bins)-1].Max
			x[j] = low + (high-low)*(rng.Float64()*1.4-0.2)
		default:
			level := "never seen"
			if rng.IntN(12) > 0 {
				level = f.Levels[rng.IntN(len(f.Levels))]
			}
			var err error
			if x[j], err = v.CodeString(j, level); err != nil {
				t.Fatal(err)
			}
		}
	}
	return x
}

// atom is one possible contribution of a feature, computed by the tests in
// their own way.
type atom struct {
	c, p float64
	same bool // in the customer's category or bin
}

// oracle computes everything about one feature from its definition.
type oracle struct{ f *ModelFeature }

func (o oracle) contribution(x float64) float64 {
	f := o.f
	if len(f.Knots) == 0 {
		return f.LogOddsPerUnit * x
	}
	last := len(f.Knots) - 1
	if x <= f.Knots[0] {
		return f.KnotLogOdds[0]
	}
	for i := range last {
		if x <= f.Knots[i+1] {
			slope := (f.KnotLogOdds[i+1] - f.KnotLogOdds[i]) / (f.Knots[i+1] - f.Knots[i])
			return f.KnotLogOdds[i] + slope*(x-f.Knots[i])
		}
	}
	return f.KnotLogOdds[last]
}

// lime returns the atoms that LIME draws for a customer with value x; points
// is how finely a bin is resolved.
func (o oracle) lime(v *Vocabulary, j int, x float64, points int) []atom {
	var atoms []atom
	f := o.f
	if f.Kind == "categorical" {
		for l, c := range f.LogOdds {
			atoms = append(atoms, atom{c, f.Frequency[l], !IsMissing(x) && v.Level(j, x) == f.Levels[l]})
		}
		return atoms
	}
	for b, bin := range f.Bins {
		same := !IsMissing(x) && (b == 0 || x > f.Quartiles[b-1]) && (b == len(f.Quartiles) || x <= f.Quartiles[b])
		if bin.Std == 0 || bin.Min == bin.Max {
			atoms = append(atoms, atom{o.contribution(bin.Mean), bin.Frequency, same})
			continue
		}
		// By quantile: the midpoints of slices of equal probability.
		cdf := func(x float64) float64 { return math.Erfc(-(x-bin.Mean)/bin.Std/math.Sqrt2) / 2 }
		from, to := cdf(bin.Min), cdf(bin.Max)
		for i := range points {
			u := from + (to-from)*(float64(i)+0.5)/float64(points)
			value := bin.Mean - bin.Std*math.Sqrt2*math.Erfcinv(2*u)
			atoms = append(atoms, atom{o.contribution(value), bin.Frequency / float64(points), same})
		}
	}
	return atoms
}

// background returns the atoms that Shapley values draw.
func (o oracle) background(points int) []atom {
	var atoms []atom
	if n := len(o.f.EmpiricalQuantiles); n > 0 {
		for _, x := range o.f.EmpiricalQuantiles {
			atoms = append(atoms, atom{c: o.contribution(x), p: 1 / float64(n)})
		}
		return atoms
	}
	return o.lime(nil, 0, Missing, points)
}

func expectation(atoms []atom) float64 {
	sum := 0.0
	for _, a := range atoms {
		sum += a.c * a.p
	}
	return sum
}

// own returns the contribution of the customer's own value.
func (o oracle) own(v *Vocabulary, j int, x float64, background []atom) float64 {
	if !IsMissing(x) && o.f.Kind == "numeric" {
		return o.contribution(x)
	}
	if !IsMissing(x) {
		for l, name := range o.f.Levels {
			if v.Level(j, x) == name {
				return o.f.LogOdds[l]
			}
		}
	}
	return expectation(background)
}

// limeAtoms returns the atoms of every feature for a customer, and for each
// feature its own contribution and how often its own category is drawn.
func limeAtoms(m *Model, v *Vocabulary, x Vector, points int) (atoms [][]atom, own, share []float64) {
	for j := range m.Features {
		o := oracle{&m.Features[j]}
		a := o.lime(v, j, x[j], points)
		same := 0.0
		for _, a := range a {
			if a.same {
				same += a.p
			}
		}
		atoms = append(atoms, a)
		share = append(share, same)
		own = append(own, o.own(v, j, x[j], o.background(points)))
	}
	return atoms, own, share
}

func tilt(m *Model) float64 {
	width := m.KernelWidth
	if width == 0 {
		width = 0.75 * math.Sqrt(float64(len(m.Features)))
	}
	return math.Exp(-1 / (2 * width * width))
}

// enumerateLIME returns the difference of weighted means over every possible
// draw.
func enumerateLIME(m *Model, v *Vocabulary, x Vector, points int) []float64 {
	n, r := len(m.Features), tilt(m)
	atoms, own, share := limeAtoms(m, v, x, points)
	weights := make([]float64, n)
	for j := range n {
		var mean [2]float64
		for z := range mean {
			sum, mass := 0.0, 0.0
			var draw func(i int, s, p float64)
			draw = func(i int, s, p float64) {
				switch {
				case p == 0:
				case i == n:
					sum += p * sigmoid(s)
					mass += p
				case i == j && z == 1 && share[j] == 0:
					// never drawn: its contribution is what it would be
					draw(i+1, s+own[j], p)
				default:
					for _, a := range atoms[i] {
						switch {
						case i == j && a.same != (z == 1):
						case a.same:
							draw(i+1, s+a.c, p*a.p)
						default:
							draw(i+1, s+a.c, p*a.p*r)
						}
					}
				}
			}
			draw(0, m.Intercept, 1)
			mean[z] = sum / mass
		}
		if weights[j] = mean[1] - mean[0]; IsMissing(weights[j]) {
			weights[j] = 0 // one category only
		}
	}
	return weights
}

// regressLIME fits the weighted linear regression on every possible draw. Every
// value of the customer must occur in training.
func regressLIME(t *testing.T, m *Model, v *Vocabulary, x Vector) []float64 {
	n, r := len(m.Features), tilt(m)
	atoms, _, share := limeAtoms(m, v, x, 1)
	var columns []int // those that vary
	for j := range n {
		if share[j] < 1-1e-12 {
			columns = append(columns, j)
		}
	}
	size := len(columns) + 1
	normal, right := mat.NewSymDense(size, nil), mat.NewVecDense(size, nil)
	z, row := make([]float64, n), make([]float64, size)
	var draw func(j int, s, p float64)
	draw = func(j int, s, p float64) {
		if j < n {
			for _, a := range atoms[j] {
				z[j] = 0
				weight := p * a.p * r
				if a.same {
					z[j], weight = 1, p*a.p
				}
				draw(j+1, s+a.c, weight)
			}
			return
		}
		row[0] = 1
		for i, j := range columns {
			row[i+1] = z[j]
		}
		normal.SymRankOne(normal, p, mat.NewVecDense(size, row))
		right.AddScaledVec(right, p*sigmoid(s), mat.NewVecDense(size, row))
	}
	draw(0, m.Intercept, 1)
	var beta mat.VecDense
	if err := beta.SolveVec(normal, right); err != nil {
		t.Fatal(err)
	}
	weights := make([]float64, n)
	for i, j := range columns {
		weights[j] = beta.AtVec(i + 1)
	}
	return weights
}

// enumerateSHAP is enumerateShapley of the probability.
func enumerateSHAP(m *Model, v *Vocabulary, x Vector, points int) []float64 {
	weights, _ := enumerateShapley(m, v, x, points, sigmoid)
	return weights
}

// enumerateShapley returns the Shapley values of a function of the log-odds, and
// its mean over background draws, by summing over all coalitions and all such
// draws. Only means over draws enter, so values that coalitions share are computed
// once.
func enumerateShapley(m *Model, v *Vocabulary, x Vector, points int, of func(logOdds float64) float64) (weights []float64, none float64) {
	n := len(m.Features)
	own := make([]float64, n)
	background := make([][]atom, n)
	for j := range m.Features {
		o := oracle{&m.Features[j]}
		background[j] = o.background(points)
		own[j] = o.own(v, j, x[j], background[j])
	}
	value := make([]float64, 1<<n)
	for set := range value {
		var draw func(j int, s, p float64) float64
		draw = func(j int, s, p float64) float64 {
			if p == 0 {
				return 0
			}
			if j == n {
				return p * of(s)
			}
			if set>>j&1 == 1 {
				return draw(j+1, s+own[j], p)
			}
			sum := 0.0
			for _, a := range background[j] {
				sum += draw(j+1, s+a.c, p*a.p)
			}
			return sum
		}
		value[set] = draw(0, m.Intercept, 1)
	}
	weights = make([]float64, n)
	for set := range value {
		size := 0
		for j := range n {
			size += set >> j & 1
		}
		share := 1 / float64(n) // 1/(n·C(n−1, size))
		for k := range size {
			share *= float64(k+1) / float64(n-1-k)
		}
		for j := range n {
			if set>>j&1 == 0 {
				weights[j] += share * (value[set|1<<j] - value[set])
			}
		}
	}
	return weights, value[0]
}

func compare(t *testing.T, what string, got, want []float64, tolerance float64) {
	t.Helper()
	for j := range want {
		if !(math.Abs(got[j]-want[j]) <= tolerance) {
			t.Errorf("%s of feature %d: %.12g, want %.12g (off by %.2g)", what, j, got[j], want[j], got[j]-want[j])
		}
	}
}

// TestSHAPEnumerated compares with the definition on models of every shape.
func TestSHAPEnumerated(t *testing.T) {
	for seed := range uint64(120) {
		rng := rand.New(rand.NewPCG(seed, 1))
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
			got := p.SHAP(nil, x, w)
			compare(t, fmt.Sprintf("seed %d: SHAP", seed), got, enumerateSHAP(m, v, x, 1), 1e-9)
			checkSum(t, p, x, got, 1e-9)
		}
	}
}

func checkSum(t *testing.T, p *Predictor, x Vector, shap []float64, tolerance float64) {
	t.Helper()
	sum := 0.0
	for _, v := range shap {
		sum += v
	}
	if want := p.Probability(x) - p.ExpectedProbability(); !(math.Abs(sum-want) <= tolerance) {
		t.Errorf("SHAP values sum to %.12g, probability less expected is %.12g", sum, want)
	}
}

// TestLIMEEnumerated compares with the definition on every possible draw.
func TestLIMEEnumerated(t *testing.T) {
	regressed := 0
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 2))
		n := 1 + rng.IntN(5)
		spread := []float64{0.3, 1, 3, 12, 40}[rng.IntN(5)]
		m := randomModel(rng, n, 0, spread)
		if rng.IntN(3) == 0 {
			m.KernelWidth = 0.2 + rng.Float64()
			if rng.IntN(4) == 0 {
				m.KernelWidth = 0.1 // other categories count for next to nothing
			}
		}
		p, v := compileModel(t, m)
		w := p.NewWorkspace()
		for range 4 {
			x := randomVector(t, rng, m, v)
			got := p.LIME(nil, x, w)
			compare(t, fmt.Sprintf("seed %d: LIME", seed), got, enumerateLIME(m, v, x, 1), 1e-9)
			if _, _, share := limeAtoms(m, v, x, 1); slices.Min(share) > 1e-3 && tilt(m) > 1e-3 {
				compare(t, fmt.Sprintf("seed %d: LIME by regression", seed), got, regressLIME(t, m, v, x), 1e-9)
				regressed++
			}
		}
	}
	if regressed < 50 {
		t.Errorf("only %d customers were compared with a regression", regressed)
	}
}

// TestNumericBins compares one numeric feature with finely resolved bins, and
// its interplay with a category.
func TestNumericBins(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		n := 1 + rng.IntN(2)
		spread := []float64{0.3, 1, 3, 10}[rng.IntN(4)]
		m := randomModel(rng, n, 1, spread)
		p, v := compileModel(t, m)
		w := p.NewWorkspace()
		x := randomVector(t, rng, m, v)
		// The oracle's midpoint rule in probability converges slowly in the
		// tails of a normal: hence the wider tolerance.
		compare(t, fmt.Sprintf("seed %d: LIME", seed), p.LIME(nil, x, w), enumerateLIME(m, v, x, 4000), 3e-5)
		compare(t, fmt.Sprintf("seed %d: SHAP", seed), p.SHAP(nil, x, w), enumerateSHAP(m, v, x, 4000), 3e-5)
	}
}

// TestBinDistribution compares characteristic functions of truncated normals
// with an integral of many more points.
func TestBinDistribution(t *testing.T) {
	for _, b := range []Bin{
		{Mean: 3.63, Std: 2.67, Min: 1, Max: 9, Frequency: 1},
		{Mean: 8.9, Std: 2.67, Min: 1, Max: 9, Frequency: 1},
		{Mean: 1, Std: 100, Min: 1, Max: 9, Frequency: 1},
		{Mean: 5, Std: 0.02, Min: 1, Max: 9, Frequency: 1},
	} {
		for _, slope := range []float64{0.1, -1, 5} {
			f := &ModelFeature{Kind: "numeric", Bins: []Bin{b}, LogOddsPerUnit: slope}
			d := binDistribution(f, 0, func(x float64) float64 { return slope * x })
			for _, freq := range []float64{0, 0.1, 1, 3, 7} {
				density := func(x float64) float64 { return math.Exp(-(x - b.Mean) * (x - b.Mean) / (2 * b.Std * b.Std)) }
				integral := func(g func(x float64) float64) float64 {
					sum := 0.0
					for i := range 400 {
						sum += quad.Fixed(g, b.Min+(b.Max-b.Min)*float64(i)/400, b.Min+(b.Max-b.Min)*float64(i+1)/400, 20, nil, 0)
					}
					return sum
				}
				mass := integral(density)
				wantRe := integral(func(x float64) float64 { return density(x) * math.Cos(freq*slope*x) }) / mass
				wantIm := integral(func(x float64) float64 { return density(x) * math.Sin(freq*slope*x) }) / mass
				re, im := 0.0, 0.0
				for _, p := range d {
					re += p.probability * math.Cos(freq*p.contribution)
					im += p.probability * math.Sin(freq*p.contribution)
				}
				if math.Hypot(re-wantRe, im-wantIm) > 1e-12 {
					t.Errorf("%+v, slope %g at %g: %g%+gi, want %g%+gi", b, slope, freq, re, im, wantRe, wantIm)
				}
			}
		}
	}
}

// TestQuadrature compares expectations with the sigmoid itself, at each point
// that the bound covers.
func TestQuadrature(t *testing.T) {
	for _, omega := range []float64{11.6, 12, 20, 51, 200, 249, 300, 1000} {
		q := newNodes(omega, omega <= maxPoleBound)
		reach := omega + math.Log(tolerance)/2
		if !q.poles {
			reach = omega + math.Log(tolerance)
		}
		for i := -20; i <= 20; i++ {
			s := reach * float64(i) / 20
			for _, b := range []float64{0, s / 2, -3} {
				row := make([]float64, 2*q.size())
				q.add(row, s-b, 1)
				multiply(row, row, q.weights(b))
				got := 0.5
				for _, v := range row[q.size():] {
					got += v
				}
				if math.Abs(got-sigmoid(s)) > 2*tolerance+1e-12 {
					t.Errorf("ω %g: σ(%g) is off by %g", omega, s, got-sigmoid(s))
				}
			}
		}
	}
}

// TestExtremeValues puts numbers into vectors that no customer has: two that
// are extreme, or three of which the greatest need not outweigh the others.
func TestExtremeValues(t *testing.T) {
	extreme := []float64{0, 1, -1, 30, -47, 400, -900, 1e4, 1e9, -1e9, 2e9, 1e300, -1e300, math.MaxFloat64}
	large := []float64{0, 1, 30, -47, 50, 60, -100, -110, 150, 400, -410, -900}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 4))
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
			if c := p.Contributions(nil, x); !finite(c...) || !finite(p.LogOdds(x), p.Probability(x)) {
				t.Errorf("contributions %v, log-odds %g, probability %g", c, p.LogOdds(x), p.Probability(x))
			}
			lime, shap := p.LIME(nil, x, w), p.SHAP(nil, x, w)
			if !finite(lime...) {
				t.Errorf("LIME %v", lime)
			}
			// The oracle would add 1e300 and −1e300; it too sees 1e12. And
			// log-odds of 1e9 are rounded to 1e-7, and two may cancel.
			clamped, tolerance := slices.Clone(x), 1e-9
			for j := n - numeric; j < n; j++ {
				slope := m.Features[j].LogOddsPerUnit
				c := min(max(slope*x[j], -maxContribution), maxContribution)
				clamped[j] = c / slope
				tolerance += 4e-16 * math.Abs(c)
			}
			compare(t, fmt.Sprintf("seed %d, %v: SHAP", seed, x), shap, enumerateSHAP(m, v, clamped, 1), tolerance)
			checkSum(t, p, x, shap, tolerance)
		}
	}
}

// TestIdentities checks what must hold exactly: no effect means 0, equal
// features have equal weights, and swapping two swaps their weights.
func TestIdentities(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	m := randomModel(rng, 12, 3, 0.8)
	twin := m.Features[0]
	twin.Name = "twin"
	flat := ModelFeature{Name: "flat", Kind: "categorical",
		Levels: []string{"a", "b"}, LogOdds: []float64{0.7, 0.7}, Frequency: []float64{0.4, 0.6}}
	level := ModelFeature{Name: "level", Kind: "numeric", Bins: m.Features[11].Bins, Quartiles: m.Features[11].Quartiles}
	m.Features = append(m.Features, twin, flat, level)
	p, v := compileModel(t, m)
	w := p.NewWorkspace()
	for range 50 {
		x := randomVector(t, rng, m, v)
		if IsMissing(x[0]) {
			x[12] = Missing
		} else {
			x[12], _ = v.CodeString(12, v.Level(0, x[0]))
		}
		for name, weights := range map[string][]float64{"LIME": p.LIME(nil, x, w), "SHAP": p.SHAP(nil, x, w)} {
			if weights[13] != 0 || weights[14] != 0 {
				t.Errorf("%s without effect: %g and %g", name, weights[13], weights[14])
			}
			if math.Abs(weights[0]-weights[12]) > 1e-14 {
				t.Errorf("%s of twins: %g and %g", name, weights[0], weights[12])
			}
		}
		checkSum(t, p, x, p.SHAP(nil, x, w), 1e-9)
	}
}

// TestSwap gives two features that a model cannot tell apart each other's
// values: their weights change places, and no other weight moves.
func TestSwap(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 5))
	m := randomModel(rng, 9, 3, 1.2)
	for _, j := range []int{0, 8} { // a categorical and a numeric one
		if j == 0 {
			m.Features[j].Levels = []string{"a", "b", "c"}
			m.Features[j].LogOdds, m.Features[j].Frequency = []float64{0.9, -0.4, -1.3}, []float64{0.2, 0.7, 0.1}
		}
		twin := m.Features[j]
		twin.Name += " twin"
		m.Features = append(m.Features, twin)
	}
	p, v := compileModel(t, m)
	w := p.NewWorkspace()
	different := 0
	for range 50 {
		x := randomVector(t, rng, m, v)
		// Each feature has its own numbers of levels; both got them in order.
		y := slices.Clone(x)
		swapped := map[int]int{}
		for _, pair := range [][2]int{{0, 9}, {8, 10}} {
			a, b := pair[0], pair[1]
			swapped[a], swapped[b] = b, a
			for _, to := range [][2]int{{a, b}, {b, a}} {
				y[to[1]] = x[to[0]]
				if m.Features[a].Kind == "categorical" && !IsMissing(x[to[0]]) {
					y[to[1]], _ = v.CodeString(to[1], v.Level(to[0], x[to[0]]))
				}
			}
		}
		if math.Abs(p.Probability(x)-p.Probability(y)) > 1e-15 {
			t.Errorf("probability %g became %g", p.Probability(x), p.Probability(y))
		}
		for name, pair := range map[string][2][]float64{
			"LIME":         {p.LIME(nil, x, w), p.LIME(nil, y, w)},
			"SHAP":         {p.SHAP(nil, x, w), p.SHAP(nil, y, w)},
			"contribution": {p.Contributions(nil, x), p.Contributions(nil, y)},
		} {
			for j := range x {
				from, ok := swapped[j]
				if !ok {
					from = j
				}
				if math.Abs(pair[1][j]-pair[0][from]) > 1e-14 {
					t.Errorf("%s of feature %d became %g, want %g, that of feature %d", name, j, pair[1][j], pair[0][from], from)
				}
			}
			if math.Abs(pair[0][0]-pair[0][9]) > 1e-3 {
				different++
			}
		}
	}
	if different < 50 {
		t.Errorf("only %d weights differed from their twins': nothing is tested", different)
	}
}

// TestExtremeModels names the models that sampling and plain quadrature fail
// on. Each is small enough to compare with the definitions; TestWide has 200
// features.
func TestExtremeModels(t *testing.T) {
	levels := func(name string, logOdds, frequency []float64) ModelFeature {
		f := ModelFeature{Name: name, Kind: "categorical", LogOdds: logOdds, Frequency: frequency}
		for l := range logOdds {
			f.Levels = append(f.Levels, fmt.Sprint(l))
		}
		return f
	}
	two := levels("two", []float64{0.8, -0.6}, []float64{0.4, 0.6})
	for name, tc := range map[string]struct {
		features  []ModelFeature
		intercept float64
		zero      []int // weights that are exactly 0 for every customer
	}{
		"one feature":          {features: []ModelFeature{two}, intercept: -1},
		"one feature, certain": {features: []ModelFeature{two}, intercept: -800},
		"one level":            {features: []ModelFeature{levels("one", []float64{3}, []float64{1}), two}, zero: []int{0}},
		"spread of 40":         {features: []ModelFeature{levels("wide", []float64{40, -40, 0}, []float64{0.3, 0.3, 0.4}), two}},
		"several of 40": {features: []ModelFeature{
			levels("a", []float64{40, -40}, []float64{0.5, 0.5}), levels("b", []float64{-40, 40}, []float64{0.1, 0.9}),
			levels("c", []float64{40, 0, -40}, []float64{0.01, 0.98, 0.01}), two}},
		"frequency 0":       {features: []ModelFeature{levels("rare", []float64{-2, 1, 5}, []float64{0.5, 0.5, 0}), two}},
		"frequency 1":       {features: []ModelFeature{levels("all", []float64{2, -3}, []float64{1, 0}), two}},
		"frequency 1 of 40": {features: []ModelFeature{levels("all", []float64{40, -40}, []float64{1, 0}), two}},
		"frequency near 1":  {features: []ModelFeature{levels("most", []float64{2, -3}, []float64{1 - 1e-12, 1e-12}), two}},
		"no effect": {features: []ModelFeature{ // equal but for rounding, once multiplied and summed
			levels("a", slices.Repeat([]float64{0.7}, 7), slices.Repeat([]float64{1. / 7}, 7)), levels("b", []float64{0}, []float64{1}), two}, zero: []int{0, 1}},
		"equal knots": {features: []ModelFeature{{Name: "flat", Kind: "numeric", Knots: []float64{0, 5}, KnotLogOdds: []float64{0.1, 0.1},
			Bins: []Bin{{Mean: 2, Std: 1, Min: 0, Max: 5, Frequency: 1}}}, two}, zero: []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Model{Intercept: tc.intercept, Features: tc.features}
			p, v := compileModel(t, m)
			w := p.NewWorkspace()
			var explain func(x Vector, j int)
			explain = func(x Vector, j int) {
				if j < len(x) {
					for _, level := range append([]string{"", "never seen"}, m.Features[j].Levels...) {
						switch {
						case level == "":
							x[j] = Missing
						case m.Features[j].Kind == "numeric":
							x[j] = 3
						default:
							x[j], _ = v.CodeString(j, level)
						}
						explain(x, j+1)
					}
					return
				}
				lime, shap := p.LIME(nil, x, w), p.SHAP(nil, x, w)
				compare(t, fmt.Sprint(x, " LIME"), lime, enumerateLIME(m, v, x, 1), 1e-9)
				compare(t, fmt.Sprint(x, " SHAP"), shap, enumerateSHAP(m, v, x, 1), 1e-9)
				checkSum(t, p, x, shap, 1e-9)
				for _, j := range tc.zero {
					if lime[j] != 0 || shap[j] != 0 {
						t.Errorf("%v: feature %d without effect has LIME %g and SHAP %g", x, j, lime[j], shap[j])
					}
				}
			}
			explain(NewVector(len(m.Features)), 0)
		})
	}
}

// TestWide checks models of up to 200 features against distributions on a
// lattice, which convolve exactly.
func TestWide(t *testing.T) {
	const step = 0.25
	for _, spread := range []float64{0.2, 1, 5} {
		rng := rand.New(rand.NewPCG(6, uint64(spread*10)))
		m := &Model{Intercept: -1}
		for j := range 200 {
			a, b := math.Round(rng.NormFloat64()*spread/step)*step, math.Round(rng.NormFloat64()*spread/step)*step
			share := rng.Float64()
			m.Features = append(m.Features, ModelFeature{Name: fmt.Sprint("f", j), Kind: "categorical",
				Levels: []string{"a", "b"}, LogOdds: []float64{a, b}, Frequency: []float64{share, 1 - share}})
		}
		p, v := compileModel(t, m)
		w := p.NewWorkspace()
		x := NewVector(200)
		own := make([]int, 200)
		for j := range x {
			own[j] = rng.IntN(2)
			x[j], _ = v.CodeString(j, m.Features[j].Levels[own[j]])
		}
		// expect returns E[σ(S)] where feature j draws its first level with
		// probability first(j).
		const half = 8000
		expect := func(first func(j int) float64) float64 {
			lattice, next := make([]float64, 2*half), make([]float64, 2*half)
			lattice[half] = 1
			low, high := half, half
			for j, f := range m.Features {
				p := first(j)
				a, b := int(f.LogOdds[0]/step), int(f.LogOdds[1]/step)
				clear(next[low+min(a, b) : high+max(a, b)+1])
				for i := low; i <= high; i++ {
					next[i+a] += p * lattice[i]
					next[i+b] += (1 - p) * lattice[i]
				}
				low, high = low+min(a, b), high+max(a, b)
				lattice, next = next, lattice
			}
			sum := 0.0
			for i := low; i <= high; i++ {
				sum += lattice[i] * sigmoid(m.Intercept+float64(i-half)*step)
			}
			return sum
		}
		frequency := func(j int) float64 { return m.Features[j].Frequency[0] }
		certain := func(level int) float64 { return float64(1 - level) }
		if got, want := p.ExpectedProbability(), expect(frequency); math.Abs(got-want) > 1e-9 {
			t.Errorf("spread %g: expected probability %g, want %g", spread, got, want)
		}
		lime, shap := p.LIME(nil, x, w), p.SHAP(nil, x, w)
		checkSum(t, p, x, shap, 1e-9)
		r := math.Exp(-1 / (2 * 0.75 * 0.75 * 200))
		q, qWeight := make([]float64, 100), make([]float64, 100)
		quad.Legendre{}.FixedLocations(q, qWeight, 0, 1)
		for _, j := range []int{0, 199} {
			tilted := func(i int) float64 {
				same := m.Features[i].Frequency[own[i]]
				same /= same + r*(1-same)
				return math.Abs(float64(own[i]) - same)
			}
			with := func(rest func(int) float64, p float64) float64 {
				return expect(func(i int) float64 {
					if i == j {
						return p
					}
					return rest(i)
				})
			}
			want := with(tilted, certain(own[j])) - with(tilted, certain(1-own[j]))
			compare(t, fmt.Sprintf("spread %g: LIME", spread), lime[j:j+1], []float64{want}, 1e-9)
			want = 0
			for s, q := range q {
				mixed := func(i int) float64 { return q*certain(own[i]) + (1-q)*frequency(i) }
				want += qWeight[s] * (with(mixed, certain(own[j])) - with(mixed, frequency(j)))
			}
			compare(t, fmt.Sprintf("spread %g: SHAP", spread), shap[j:j+1], []float64{want}, 1e-9)
		}
	}
}

// TestRules compares the rule that SHAP settles for with the exact one.
func TestRules(t *testing.T) {
	cheaper := 0
	for seed := range uint64(25) {
		rng := rand.New(rand.NewPCG(seed, 7))
		n := 15 + rng.IntN(60)
		m := randomModel(rng, n, rng.IntN(10), []float64{0.2, 0.6, 2, 10}[rng.IntN(4)])
		p, v := compileModel(t, m)
		exact, _ := Compile(m, v)
		exact.shap.rules = exact.shap.rules[len(exact.shap.rules)-1:]
		if len(p.shap.rules) > 1 {
			cheaper++
		}
		w := p.NewWorkspace()
		for range 5 {
			x := randomVector(t, rng, m, v)
			compare(t, fmt.Sprintf("seed %d: SHAP", seed), p.SHAP(nil, x, w), exact.SHAP(nil, x, w), 3e-10)
		}
	}
	if cheaper == 0 {
		t.Error("every rule was the exact one")
	}

	// Opposite features leave the probability at ½ whatever q is, so that the
	// values' sum is right by any rule.
	m := &Model{}
	x := NewVector(60)
	for j := range x {
		m.Features = append(m.Features, ModelFeature{Name: fmt.Sprint("f", j), Kind: "categorical",
			Levels: []string{"a", "b"}, LogOdds: []float64{3, -3}, Frequency: []float64{0.01, 0.99}})
		if j%2 == 0 {
			m.Features[j].Frequency = []float64{0.99, 0.01}
		}
	}
	p, v := compileModel(t, m)
	exact, _ := Compile(m, v)
	exact.shap.rules = exact.shap.rules[len(exact.shap.rules)-1:]
	for j := range x {
		x[j] = float64((j + 1) % 2)
	}
	w := p.NewWorkspace()
	compare(t, "opposite: SHAP", p.SHAP(nil, x, w), exact.SHAP(nil, x, w), 3e-10)
	exact.shap.rules = p.shap.rules[:1]
	if got, want := exact.SHAP(nil, x, w)[0], p.SHAP(nil, x, w)[0]; math.Abs(got-want) < 3e-10 {
		t.Error("the cheapest rule does as well: nothing is tested")
	}
}

// TestGaussLegendre integrates every power that a rule must integrate exactly.
func TestGaussLegendre(t *testing.T) {
	for m := 1; m <= 120; m++ {
		at, weight := gaussLegendre(m)
		for power := range 2 * m {
			sum := 0.0
			for i := range at {
				sum += weight[i] * math.Pow(at[i], float64(power))
			}
			if want := 1 / float64(power+1); math.Abs(sum-want) > 1e-14 {
				t.Fatalf("%d points: ∫x^%d is %g, want %g", m, power, sum, want)
			}
		}
	}
}
