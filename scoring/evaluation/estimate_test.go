package evaluation

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/churnstream/churnstream/scoring"
)

// TestExpectIsTheMeanOverAllLabels goes through every way in which labels can fall.
func TestExpectIsTheMeanOverAllLabels(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 14))
	for range 30 {
		n := 1 + rng.IntN(8)
		p := make([]float64, n)
		for i := range p {
			p[i] = float64(1+rng.IntN(9)) / 10
		}
		var mean, square Figures
		var ordered, pairs float64
		for labels := range uint(1 << n) {
			chance := 1.0
			examples := make([]Example, n)
			for i := range p {
				churned := labels>>i&1 == 1
				examples[i] = Example{uint64(i), p[i], churned}
				if churned {
					chance *= p[i]
				} else {
					chance *= 1 - p[i]
				}
			}
			f := Rank(examples).Metrics().Figures
			mean.Accuracy += chance * f.Accuracy
			mean.LogLoss += chance * f.LogLoss
			mean.Brier += chance * f.Brier
			square.Accuracy += chance * f.Accuracy * f.Accuracy
			square.LogLoss += chance * f.LogLoss * f.LogLoss
			square.Brier += chance * f.Brier * f.Brier
			k := float64(bits.OnesCount(labels)) * float64(n-bits.OnesCount(labels))
			if pairs += chance * k; k > 0 {
				ordered += chance * k * f.ROCAUC
			}
		}
		e := Expect(p)
		// The bounds of small samples are cut off; compare the formulas' width where they are not.
		for _, c := range []struct {
			name                                    string
			got, want, meanSquare, lower, upper, hi float64
		}{
			{"accuracy", e.Accuracy, mean.Accuracy, square.Accuracy, e.Lower.Accuracy, e.Upper.Accuracy, 1},
			{"log loss", e.LogLoss, mean.LogLoss, square.LogLoss, e.Lower.LogLoss, e.Upper.LogLoss, math.Inf(1)},
			{"Brier", e.Brier, mean.Brier, square.Brier, e.Lower.Brier, e.Upper.Brier, 1},
		} {
			half := 1.959963984540054 * math.Sqrt(max(c.meanSquare-c.want*c.want, 0))
			if math.Abs(c.got-c.want) > 1e-12 || math.Abs(c.lower-max(c.want-half, 0)) > 1e-7 || math.Abs(c.upper-min(c.want+half, c.hi)) > 1e-7 {
				t.Errorf("%s of %v: %v (%v to %v), want %v ± %v", c.name, p, c.got, c.lower, c.upper, c.want, half)
			}
		}
		if n == 1 {
			if !scoring.IsMissing(e.ROCAUC) {
				t.Errorf("one customer has an area of %v", e.ROCAUC)
			}
		} else if math.Abs(e.ROCAUC-ordered/pairs) > 1e-12 {
			t.Errorf("area of %v: %v, want %v", p, e.ROCAUC, ordered/pairs)
		}
	}
}

// If the probabilities are right, what happens is within the bounds in 95 of 100
// worlds.
func TestExpectationsComeTrue(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 14))
	p := make([]float64, 500)
	for i := range p {
		p[i] = 1 / (1 + math.Exp(1.5-1.2*rng.NormFloat64()))
	}
	e := Expect(p)
	within := make([]int, len(All))
	const worlds = 1000
	for range worlds {
		examples := make([]Example, len(p))
		for i := range p {
			examples[i] = Example{uint64(i), p[i], rng.Float64() < p[i]}
		}
		m := Rank(examples).Metrics()
		for k, f := range All {
			if x := *f.Of(&m.Figures); *f.Of(&e.Lower) <= x && x <= *f.Of(&e.Upper) {
				within[k]++
			}
		}
	}
	for k, f := range All {
		defined := !scoring.IsMissing(*f.Of(&e.Figures))
		t.Logf("%s in %d of %d", f.Name, within[k], worlds)
		if defined && (within[k] < 930 || within[k] > 970) || !defined && within[k] > 0 {
			t.Errorf("%s within the bounds in %d of %d worlds", f.Name, within[k], worlds)
		}
	}
}

func TestExpectOfNothing(t *testing.T) {
	for _, p := range [][]float64{nil, {scoring.Missing}} {
		e := Expect(p)
		if e.Rows != 0 || e.Churners != 0 {
			t.Errorf("%+v", e)
		}
		same(t, "", e.Figures, Undefined(), 0)
		same(t, "lower", e.Lower, Undefined(), 0)
	}
	// Certain ones have nothing that can vary, and if all are alike, no pairs.
	e := Expect([]float64{0, 0, 0})
	if e.Accuracy != 1 || e.Upper.LogLoss != 0 || !scoring.IsMissing(e.ROCAUC) {
		t.Errorf("%+v", e)
	}
	if e := Expect([]float64{1, 0, 1}); e.ROCAUC != 1 || e.Lower.ROCAUC != 1 || e.Churners != 2 {
		t.Errorf("%+v", e)
	}
}

// The sum of ranks is what it is by definition.
func TestExpectedAreaVariance(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	for range 20 {
		n := 2 + rng.IntN(20)
		p := make([]float64, n)
		for i := range p {
			p[i] = float64(1+rng.IntN(7)) / 8
		}
		value := func(y []float64) (ordered, pairs float64) {
			for i := range y {
				for j := range y {
					if i == j {
						continue
					}
					k := 0.0
					if p[i] > p[j] {
						k = 1
					} else if p[i] == p[j] {
						k = 0.5
					}
					ordered += y[i] * (1 - y[j]) * k
					pairs += y[i] * (1 - y[j])
				}
			}
			return ordered, pairs
		}
		ordered, pairs := value(p)
		area := ordered / pairs
		variance := 0.0
		for i := range p {
			moved := append([]float64(nil), p...)
			moved[i]++ // both are linear in each label
			o, q := value(moved)
			g := (o - ordered - area*(q-pairs)) / pairs
			variance += g * g * p[i] * (1 - p[i])
		}
		e := Expect(p)
		half := 1.959963984540054 * math.Sqrt(variance)
		if math.Abs(e.ROCAUC-area) > 1e-12 || math.Abs(e.Upper.ROCAUC-min(area+half, 1)) > 1e-12 {
			t.Errorf("%v to %v, want %v + %v", e.ROCAUC, e.Upper.ROCAUC, area, half)
		}
	}
}
