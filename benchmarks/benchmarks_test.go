package benchmarks

import (
	"context"
	"fmt"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gonum.org/v1/gonum/stat"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

func synthetic(t testing.TB, n int) *Case {
	t.Helper()
	c, err := Synthetic(n)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func telco(t testing.TB) *Case {
	t.Helper()
	c, err := Telco(context.Background(), fitting.Config{Strengths: []float64{1}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSampledConverges says that the closed form is what sampling converges to:
// over many runs, the mean of each weight is within its standard error of the
// exact one. Penalty and first neighbour pull a run away by about one part in a
// thousand of a weight at 5,000 samples, and less the more there are, which is
// why there are more here.
func TestSampledConverges(t *testing.T) {
	square, values := 0.0, 0.0
	for _, tc := range []struct {
		c        *Case
		customer int
	}{{synthetic(t, 5), 0}, {synthetic(t, 19), 1}, {telco(t), 0}} {
		const runs = 40
		s, err := MeasureScatter(tc.c, tc.c.Customers[tc.customer], runs, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for i := range s.Features {
			if f := &s.Features[i]; !(math.Abs(f.Z()) < 4.5) {
				t.Errorf("%s, customer %d, %s: sampled %.5f ± %.5f, exact %.5f", s.Case, tc.customer, f.Feature, f.Mean, f.Std/math.Sqrt(runs), f.Exact)
			}
		}
		t.Logf("%s, customer %d: z-scores of %d features: rms %.2f", s.Case, tc.customer, len(s.Features), s.RMSZ())
		square += s.RMSZ() * s.RMSZ() * float64(len(s.Features))
		values += float64(len(s.Features))
	}
	if rms := math.Sqrt(square / values); !(rms < 1.3) {
		t.Errorf("rms of %g z-scores is %.2f, not near 1", values, rms)
	}
}

// TestScatterShrinks checks that the scatter is one of sampling: four times the
// samples halve it.
func TestScatterShrinks(t *testing.T) {
	c := synthetic(t, 8)
	var square [2]float64
	for i, samples := range []int{1000, 4000} {
		s, err := MeasureScatter(c, c.Customers[0], 100, samples)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range s.Features {
			square[i] += f.Std * f.Std
		}
	}
	if ratio := math.Sqrt(square[0] / square[1]); ratio < 1.75 || ratio > 2.25 {
		t.Errorf("four times the samples make the scatter %.2f times smaller, not twice", ratio)
	}
}

// TestSampledIsRidge checks one run against its definition where the answer is
// known: a feature without effect gets about nothing, one sample gives 0 for
// all, and equal seeds give equal weights.
func TestSampledIsRidge(t *testing.T) {
	c := synthetic(t, 6)
	one, err := NewSampledLIME(c.Predictor, c.Vocabulary, 1)
	if err != nil {
		t.Fatal(err)
	}
	weights, err := one.Explain(nil, c.Customers[0], rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for j, w := range weights {
		if w != 0 {
			t.Errorf("weight %d of the customer alone is %g", j, w)
		}
	}
	many, err := NewSampledLIME(c.Predictor, c.Vocabulary, 0)
	if err != nil {
		t.Fatal(err)
	}
	if many.samples != DefaultSamples {
		t.Errorf("%d samples by default", many.samples)
	}
	a, _ := many.Explain(nil, c.Customers[0], rand.New(rand.NewPCG(1, 1)))
	b, _ := many.Explain(make([]float64, 0, 10), c.Customers[0], rand.New(rand.NewPCG(1, 1)))
	d, _ := many.Explain(nil, c.Customers[0], rand.New(rand.NewPCG(1, 2)))
	if fmt.Sprint(a) != fmt.Sprint(b) || fmt.Sprint(a) == fmt.Sprint(d) {
		t.Errorf("same seed %v and %v, another %v", a, b, d)
	}
	if _, err := NewSampledLIME(c.Predictor, c.Vocabulary, -1); err == nil {
		t.Error("−1 samples are accepted")
	}
	if _, err := NewSampledLIME(c.Predictor, scoring.NewVocabulary(c.Predictor.Spec()), 0); err == nil {
		t.Error("another vocabulary is accepted")
	}
}

// TestDrawTruncated compares the mean of draws with that of the truncated
// normal, mean + std·(ϕ(a) − ϕ(b))/(Φ(b) − Φ(a)).
func TestDrawTruncated(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for _, b := range []scoring.Bin{
		{Mean: 3.63, Std: 2.67, Min: 1, Max: 9},
		{Mean: 8.9, Std: 2.67, Min: 1, Max: 9},
		{Mean: 2, Std: 100, Min: 1, Max: 9},
		{Mean: 2, Std: 8, Min: 1, Max: 9},
		{Mean: 5, Std: 0.02, Min: 1, Max: 9},
		{Mean: 5, Std: 0, Min: 1, Max: 9},
	} {
		const draws = 20_000
		xs := make([]float64, draws)
		for i := range xs {
			if xs[i] = drawTruncated(&b, rng); xs[i] < b.Min || xs[i] > b.Max {
				t.Fatalf("%+v: drew %g", b, xs[i])
			}
		}
		want := b.Mean
		if b.Std > 0 {
			density := func(z float64) float64 { return math.Exp(-z*z/2) / math.Sqrt(2*math.Pi) }
			share := func(z float64) float64 { return math.Erfc(-z/math.Sqrt2) / 2 }
			from, to := (b.Min-b.Mean)/b.Std, (b.Max-b.Mean)/b.Std
			want += b.Std * (density(from) - density(to)) / (share(to) - share(from))
		}
		mean, std := stat.MeanStdDev(xs, nil)
		if math.Abs(mean-want) > 4.5*std/math.Sqrt(draws)+1e-12 {
			t.Errorf("%+v: mean of draws %g, want %g", b, mean, want)
		}
	}
}

func TestMeasure(t *testing.T) {
	c := synthetic(t, 5)
	cost, err := Measure(c, 1, 500)
	if err != nil {
		t.Fatal(err)
	}
	if cost.Features != 5 || cost.Allocations != 0 {
		t.Errorf("%d features, %g allocations", cost.Features, cost.Allocations)
	}
	if !(cost.Probability > 0 && cost.LIME > 0 && cost.SHAP > 0 && cost.All > cost.Probability && cost.Compile > cost.LIME &&
		cost.Sampled > cost.LIME && cost.Ratio > 1 && cost.TableBytes > 1000) {
		t.Errorf("%+v", cost)
	}
}

func TestTables(t *testing.T) {
	costs := CostTable([]*Cost{{Case: "made up", Features: 19, Probability: 71.66, LIME: 1049, SHAP: 11200, All: 12320,
		Compile: 939e3, TableBytes: 111 << 10, Sampled: 2.074e6, Ratio: 1986.4}})
	const want = "| made up | 19 | 71.7 ns | 1.05 µs | 11.2 µs | 12.3 µs | 0 | 939 µs | 111 KiB | 2.07 ms | 1986 |\n"
	if _, row, _ := strings.Cut(costs, "--:|\n"); row != want {
		t.Errorf("row %q, want %q", row, want)
	}
	scatter := ScatterTable(&Scatter{Runs: 4, Features: []FeatureScatter{
		{Feature: "contract", Value: "a|b", Exact: 0.1, Mean: 0.102, Std: 0.004, Sampled: make([]float64, 4)}}})
	const wantScatter = "| contract | a\\|b | +0.10000 | +0.10200 | 0.00400 | +1.0 |\n"
	if _, row, _ := strings.Cut(scatter, "--:|\n"); row != wantScatter {
		t.Errorf("row %q, want %q", row, wantScatter)
	}
	for bytes, want := range map[float64]string{100: "0.0977 KiB", 2048: "2.00 KiB", 3 << 20: "3.00 MiB"} {
		if got := size(bytes); got != want {
			t.Errorf("%g bytes are %q, want %q", bytes, got, want)
		}
	}
	for ns, want := range map[float64]string{0: "0.00 ns", 9.994: "9.99 ns", 1500: "1.50 µs", 2e9: "2.00 s", 4500e9: "4500 s"} {
		if got := duration(ns); got != want {
			t.Errorf("%g ns are %q, want %q", ns, got, want)
		}
	}
}

func TestPicture(t *testing.T) {
	c := synthetic(t, 5)
	s, err := MeasureScatter(c, c.Customers[0], 5, 200)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "scatter.png")
	if err := Picture(s, path); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	picture, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	red, blue := 0, 0
	for y := range picture.Bounds().Dy() {
		for x := range picture.Bounds().Dx() {
			switch r, g, b, _ := picture.At(x, y).RGBA(); {
			case r > b+0x4000 && r > g+0x4000:
				red++
			case b > r+0x2000:
				blue++
			}
		}
	}
	if red < 100 || blue < 100 {
		t.Errorf("%d pixels of lines and %d of dots", red, blue)
	}
	if err := Picture(s, filepath.Join(t.TempDir(), "scatter.what")); err == nil {
		t.Error("an unknown format is accepted")
	}
}

func TestFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.json")
	if err := os.WriteFile(path, []byte(`{"intercept":-1,"features":[
		{"name":"contract","kind":"categorical","levels":["month","year"],"log_odds":[1,-1],"frequency":[0.6,0.4]},
		{"name":"tenure","kind":"numeric","log_odds_per_unit":-0.1,"bins":[{"mean":5,"std":2,"min":0,"max":9,"frequency":1}]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Customers) != customersPerCase || len(c.Predictor.Missing(nil, c.Customers[3])) > 0 {
		t.Errorf("customers %v", c.Customers)
	}
	if _, err := FromFile(path + "x"); err == nil {
		t.Error("a file that is not there is accepted")
	}
	if err := os.WriteFile(path, []byte(`{"features":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FromFile(path); err == nil {
		t.Error("a model without features is accepted")
	}
}

var sizes = []int{5, 19, 50, 200}

// bench runs f with one customer after the other, for every size.
func bench(b *testing.B, f func(c *Case, dst []float64, x scoring.Vector, w *scoring.Workspace)) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("features=%d", n), func(b *testing.B) {
			c := synthetic(b, n)
			dst, w := make([]float64, n), c.Predictor.NewWorkspace()
			for _, x := range c.Customers {
				f(c, dst, x, w) // makes tables that are made when first needed
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				f(c, dst, c.Customers[i%len(c.Customers)], w)
				i++
			}
		})
	}
}

func BenchmarkProbability(b *testing.B) {
	bench(b, func(c *Case, dst []float64, x scoring.Vector, _ *scoring.Workspace) {
		dst[0] = c.Predictor.Probability(x)
	})
}

func BenchmarkLIME(b *testing.B) {
	bench(b, func(c *Case, dst []float64, x scoring.Vector, w *scoring.Workspace) { c.Predictor.LIME(dst, x, w) })
}

func BenchmarkSHAP(b *testing.B) {
	bench(b, func(c *Case, dst []float64, x scoring.Vector, w *scoring.Workspace) { c.Predictor.SHAP(dst, x, w) })
}

// BenchmarkAll is probability, LIME and SHAP together.
func BenchmarkAll(b *testing.B) {
	bench(b, func(c *Case, dst []float64, x scoring.Vector, w *scoring.Workspace) {
		c.Predictor.LIME(dst, x, w)
		c.Predictor.SHAP(dst, x, w)
		dst[0] = c.Predictor.Probability(x)
	})
}

func BenchmarkBestChange(b *testing.B) {
	bench(b, func(c *Case, dst []float64, x scoring.Vector, w *scoring.Workspace) {
		_, _, dst[0], _ = c.Predictor.BestChange(x, w)
	})
}

// BenchmarkCompile makes the tables of a model and explains one customer; it
// reports the memory they take.
func BenchmarkCompile(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("features=%d", n), func(b *testing.B) {
			c := synthetic(b, n)
			for b.Loop() {
				if _, err := c.compile(c.Customers[0]); err != nil {
					b.Fatal(err)
				}
			}
			bytes, err := c.tableBytes()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(bytes, "table-bytes")
		})
	}
}

// BenchmarkSampledLIME runs the sampling explainer. It reports how far its
// weights scatter (the root mean square over features and runs) and how many
// times longer it takes than the exact ones, measured in turns.
func BenchmarkSampledLIME(b *testing.B) {
	for _, samples := range []int{DefaultSamples, 10 * DefaultSamples} {
		b.Run(fmt.Sprintf("features=19/samples=%d", samples), func(b *testing.B) {
			c := synthetic(b, 19)
			l, err := NewSampledLIME(c.Predictor, c.Vocabulary, samples)
			if err != nil {
				b.Fatal(err)
			}
			w, dst, rng := c.Predictor.NewWorkspace(), make([]float64, 19), rand.New(rand.NewPCG(1, 2))
			x := c.Customers[0]
			exact := c.Predictor.LIME(nil, x, w)
			var square, runs float64
			var sampled, ours time.Duration
			for b.Loop() {
				start := time.Now()
				weights, err := l.Explain(nil, x, rng)
				if err != nil {
					b.Fatal(err)
				}
				middle := time.Now()
				const repeats = 100
				for range repeats {
					c.Predictor.LIME(dst, x, w)
				}
				sampled, ours = sampled+middle.Sub(start), ours+time.Since(middle)/repeats
				for j, v := range weights {
					square += (v - exact[j]) * (v - exact[j])
				}
				runs++
			}
			b.ReportMetric(sampled.Seconds()/runs*1e9, "ns/run")
			b.ReportMetric(math.Sqrt(square/runs/19), "scatter")
			b.ReportMetric(sampled.Seconds()/ours.Seconds(), "times-exact")
		})
	}
}
