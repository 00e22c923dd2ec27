package scoring

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat"
)

// benchmarkModel returns a model of n features of which a sixth are numeric, as
// in the Telco table, with log-odds that spread by about 1.5 at any n.
func benchmarkModel(rng *rand.Rand, n int) *Model {
	m := &Model{Intercept: -1.2}
	spread := 1.5 / math.Sqrt(float64(n))
	for j := range n {
		f := ModelFeature{Name: fmt.Sprintf("f%d", j), Kind: "categorical"}
		if j%6 == 5 {
			f.Kind = "numeric"
			numericFeature(rng, &f, spread)
			f.EmpiricalQuantiles = nil
			low, high := f.Bins[0].Min, f.Bins[3].Max
			for i := range 1000 {
				f.EmpiricalQuantiles = append(f.EmpiricalQuantiles, low+(high-low)*(float64(i)+0.5)/1000)
			}
		} else {
			f.Levels = []string{"a", "b", "c"}
			f.LogOdds = []float64{rng.NormFloat64() * spread, rng.NormFloat64() * spread, rng.NormFloat64() * spread}
			f.Frequency = []float64{0.5, 0.3, 0.2}
		}
		m.Features = append(m.Features, f)
	}
	return m
}

// benchmarkCustomers returns a predictor of n features and some customers.
func benchmarkCustomers(b *testing.B, n int) (*Predictor, []Vector) {
	rng := rand.New(rand.NewPCG(uint64(n), 8))
	p, v := compileModel(b, benchmarkModel(rng, n))
	var xs []Vector
	for range 16 {
		x := NewVector(n)
		for j, f := range p.model.Features {
			if f.Kind == "numeric" {
				x[j] = f.EmpiricalQuantiles[rng.IntN(1000)]
			} else {
				x[j], _ = v.CodeString(j, f.Levels[rng.IntN(3)])
			}
		}
		xs = append(xs, x)
	}
	return p, xs
}

// benchmarkSizes runs f for each number of features, with one customer after
// the other.
func benchmarkSizes(b *testing.B, f func(p *Predictor, dst []float64, x Vector, w *Workspace)) {
	for _, n := range []int{5, 19, 50, 200} {
		b.Run(fmt.Sprintf("features=%d", n), func(b *testing.B) {
			p, xs := benchmarkCustomers(b, n)
			dst, w := make([]float64, n), p.NewWorkspace()
			for _, x := range xs {
				f(p, dst, x, w) // makes tables that are made when first needed
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				f(p, dst, xs[i%len(xs)], w)
				i++
			}
		})
	}
}

func BenchmarkProbability(b *testing.B) {
	benchmarkSizes(b, func(p *Predictor, dst []float64, x Vector, _ *Workspace) { dst[0] = p.Probability(x) })
}

func BenchmarkLIME(b *testing.B) {
	benchmarkSizes(b, func(p *Predictor, dst []float64, x Vector, w *Workspace) { p.LIME(dst, x, w) })
}

func BenchmarkSHAP(b *testing.B) {
	benchmarkSizes(b, func(p *Predictor, dst []float64, x Vector, w *Workspace) { p.SHAP(dst, x, w) })
}

func BenchmarkBestChange(b *testing.B) {
	benchmarkSizes(b, func(p *Predictor, dst []float64, x Vector, w *Workspace) { _, _, dst[0], _ = p.BestChange(x, w) })
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{5, 19, 50, 200} {
		b.Run(fmt.Sprintf("features=%d", n), func(b *testing.B) {
			p, xs := benchmarkCustomers(b, n)
			v := NewVocabulary(p.spec)
			w := p.NewWorkspace()
			for b.Loop() {
				p, err := Compile(p.model, v)
				if err != nil {
					b.Fatal(err)
				}
				p.SHAP(nil, xs[0], w)
			}
		})
	}
}

// BenchmarkTelco is the reference model on the reference customers, if they
// are there.
func BenchmarkTelco(b *testing.B) {
	ref := loadReference(b)
	m, err := ParseModel(ref.data)
	if err != nil {
		b.Fatal(err)
	}
	p, v := compileModel(b, m)
	var xs []Vector
	for _, c := range ref.Cases {
		xs = append(xs, vectorOf(b, v, c.Customer))
	}
	dst, w := make([]float64, len(m.Features)), p.NewWorkspace()
	for name, f := range map[string]func(x Vector){
		"Probability": func(x Vector) { p.Probability(x) },
		"LIME":        func(x Vector) { p.LIME(dst, x, w) },
		"SHAP":        func(x Vector) { p.SHAP(dst, x, w) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				f(xs[i%len(xs)])
				i++
			}
		})
	}
}

// BenchmarkApply is a monthly bill: two increments and a set value.
func BenchmarkApply(b *testing.B) {
	c := NewCustomer(19)
	all := Change{EventHash: 1, OccurredAt: 1, Set: NewVector(19)}
	for j := range all.Set {
		all.Set[j] = float64(j)
	}
	c.Apply(&all)
	bill := Change{OccurredAt: 2, Set: NewVector(19), Add: NewVector(19)}
	bill.Add[4], bill.Add[18], bill.Set[17] = 1, 70, 70
	b.ReportAllocs()
	for b.Loop() {
		bill.EventHash++
		bill.OccurredAt++
		c.Apply(&bill)
	}
}

// sampledLIME is tabular LIME by sampling, as its authors' package does it:
// quartile bins with truncated normals, exponential kernel, ridge regression
// with penalty 1. It stands for what explanations cost without the closed form.
type sampledLIME struct {
	p       *Predictor
	v       *Vocabulary
	rng     *rand.Rand
	samples int
}

// explain returns the coefficients of one run.
func (l sampledLIME) explain(x Vector) []float64 {
	n := len(l.p.features)
	width := 0.75 * math.Sqrt(float64(n))
	z := mat.NewDense(l.samples, n, nil)
	y, weight := make([]float64, l.samples), make([]float64, l.samples)
	drawn := make(Vector, n)
	for i := range l.samples {
		different := 0.0
		for j := range drawn {
			f := &l.p.model.Features[j]
			own := l.p.features[j].level(x[j])
			level := own
			if i > 0 { // the first sample is the customer
				level = l.level(f)
			}
			switch {
			case i == 0:
				drawn[j] = x[j]
			case f.Kind == "numeric":
				drawn[j] = l.inBin(f.Bins[level])
			default:
				drawn[j], _ = l.v.Lookup(j, f.Levels[level])
			}
			if level == own {
				z.Set(i, j, 1)
			} else {
				different++
			}
		}
		y[i] = l.p.Probability(drawn)
		weight[i] = math.Exp(-different / (2 * width * width))
	}
	// Weighted ridge regression with an intercept: centre, then solve.
	meanY := stat.Mean(y, weight)
	for j := range n {
		column := mat.Col(nil, j, z)
		mean := stat.Mean(column, weight)
		for i, v := range column {
			z.Set(i, j, (v-mean)*math.Sqrt(weight[i]))
		}
	}
	for i := range y {
		y[i] = (y[i] - meanY) * math.Sqrt(weight[i])
	}
	normal := mat.NewSymDense(n, nil)
	normal.SymOuterK(1, z.T())
	for j := range n {
		normal.SetSym(j, j, normal.At(j, j)+1)
	}
	right := mat.NewVecDense(n, nil)
	right.MulVec(z.T(), mat.NewVecDense(l.samples, y))
	var cholesky mat.Cholesky
	if !cholesky.Factorize(normal) {
		panic("not positive definite")
	}
	beta := mat.NewVecDense(n, nil)
	if err := cholesky.SolveVecTo(beta, right); err != nil {
		panic(err)
	}
	return beta.RawVector().Data
}

func (l sampledLIME) level(f *ModelFeature) int {
	u := l.rng.Float64()
	if f.Kind == "numeric" {
		for i, b := range f.Bins {
			if u -= b.Frequency; u < 0 {
				return i
			}
		}
		return len(f.Bins) - 1
	}
	for i, frequency := range f.Frequency {
		if u -= frequency; u < 0 {
			return i
		}
	}
	return len(f.Frequency) - 1
}

func (l sampledLIME) inBin(b Bin) float64 {
	for b.Std > 0 {
		if x := b.Mean + b.Std*l.rng.NormFloat64(); b.Min <= x && x <= b.Max {
			return x
		}
	}
	return b.Mean
}

// BenchmarkSampledLIME measures the sampling explainer and how far its weights
// scatter over seeds, at its default number of samples and beyond, and how many
// times longer it takes than the exact values.
func BenchmarkSampledLIME(b *testing.B) {
	for _, samples := range []int{5000, 50_000} {
		b.Run(fmt.Sprintf("features=19/samples=%d", samples), func(b *testing.B) {
			rng := rand.New(rand.NewPCG(19, 8))
			p, v := compileModel(b, benchmarkModel(rng, 19))
			_, xs := benchmarkCustomers(b, 19)
			x := xs[0]
			l := sampledLIME{p: p, v: v, rng: rng, samples: samples}
			w, dst := p.NewWorkspace(), make([]float64, 19)
			exact := p.LIME(nil, x, w)
			square, runs := 0.0, 0.0
			for b.Loop() {
				for j, v := range l.explain(x) {
					square += (v - exact[j]) * (v - exact[j])
				}
				runs++
			}
			sampled := b.Elapsed().Seconds() / float64(b.N)
			const repeats = 10_000
			start := time.Now()
			for range repeats {
				p.LIME(dst, x, w)
			}
			ours := time.Since(start).Seconds() / repeats
			b.ReportMetric(math.Sqrt(square/runs/19), "scatter")
			b.ReportMetric(sampled/ours, "times-exact")
		})
	}
}

// TestSampledLIME checks that the two agree, within the sampling error.
func TestSampledLIME(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	m := benchmarkModel(rng, 8)
	p, v := compileModel(t, m)
	l := sampledLIME{p: p, v: v, rng: rng, samples: 10_000}
	x := NewVector(8)
	for j, f := range m.Features {
		if f.Kind == "numeric" {
			x[j] = f.EmpiricalQuantiles[300]
		} else {
			x[j], _ = v.CodeString(j, "b")
		}
	}
	exact := p.LIME(nil, x, p.NewWorkspace())
	const runs = 20
	values := make([][]float64, len(exact))
	for range runs {
		for j, v := range l.explain(x) {
			values[j] = append(values[j], v)
		}
	}
	for j := range exact {
		mean, std := stat.MeanStdDev(values[j], nil)
		if z := (mean - exact[j]) / (std / math.Sqrt(runs)); !(math.Abs(z) < 4.5) {
			t.Errorf("feature %d: sampled %g ± %g, exact %g", j, mean, std/math.Sqrt(runs), exact[j])
		}
	}
}
