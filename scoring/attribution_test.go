package scoring

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

func TestExactSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 16))
	var s, reversed exactSum
	want := new(big.Float).SetPrec(300)
	var xs []float64
	for range 2000 {
		x := rng.NormFloat64() * math.Pow(10, rng.Float64()*24-12)
		xs = append(xs, x)
		s.add(x)
		units := new(big.Float).SetPrec(300).SetFloat64(math.RoundToEven(x * 0x1p44))
		want.Add(want, units.Mul(units, big.NewFloat(0x1p-44)))
	}
	if w, _ := want.Float64(); s.float() != w {
		t.Errorf("sum %v, want %v", s.float(), w)
	}
	for i := range xs {
		reversed.add(xs[len(xs)-1-i])
	}
	if s != reversed {
		t.Errorf("%v, in reverse %v", s, reversed)
	}
	for _, x := range xs {
		s.add(-x)
	}
	if s != (exactSum{}) {
		t.Errorf("%v remains", s)
	}
	for _, x := range []float64{0, 1, -1, 0.75, -0.75, 1e12, -1e12, 0x1p-44, -0x1p-44, 0x1p-46, 1 << 20, -1 << 20} {
		var s exactSum
		s.add(x)
		if math.Abs(s.float()-x) > 0x1p-45 {
			t.Errorf("%v became %v", x, s.float())
		}
	}
}

// TestAttribution: base and features sum to the loss, of a set and of the
// difference between two, and the order of the examples makes no difference.
func TestAttribution(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 17))
	m := randomModel(rng, 6, 2, 1)
	p, v := compileModel(t, m)
	w := p.NewWorkspace()
	type example struct {
		x       Vector
		churned bool
	}
	sets := make([][]example, 2)
	for k := range sets {
		for range 200 {
			sets[k] = append(sets[k], example{randomVector(t, rng, m, v), rng.IntN(4) < 1+2*k})
		}
	}
	of := func(set []example) *Attribution {
		a := NewAttribution(6)
		for _, e := range set {
			a.Add(p.LogLossSHAP(nil, e.x, e.churned, w), p.ExpectedLogLoss(e.churned))
		}
		return a
	}
	loss := func(set []example) (sum float64) {
		for _, e := range set {
			sum += p.LogLoss(e.x, e.churned) / float64(len(set))
		}
		return sum
	}
	before, now := of(sets[0]), of(sets[1])
	if got := before.LogLoss(); math.Abs(got-loss(sets[0])) > 1e-9 {
		t.Errorf("mean loss %g, want %g", got, loss(sets[0]))
	}
	if got := before.Base() + sum(before.Features(nil)); math.Abs(got-before.LogLoss()) > 1e-12 {
		t.Errorf("base and features sum to %g, the loss is %g", got, before.LogLoss())
	}
	for j, f := range before.Features(nil) {
		if before.Feature(j) != f {
			t.Errorf("feature %d: %g and %g", j, before.Feature(j), f)
		}
	}
	churners := func(set []example) (share float64) {
		for _, e := range set {
			if e.churned {
				share += 1 / float64(len(set))
			}
		}
		return share
	}
	if got, want := now.Base()-before.Base(), -p.centre()*(churners(sets[1])-churners(sets[0])); math.Abs(got-want) > 1e-9 {
		t.Errorf("the base changed by %g, want %g", got, want)
	}

	again := NewAttribution(6)
	halves := []*Attribution{of(sets[0][100:]), of(sets[0][:100])}
	for _, h := range halves {
		again.Merge(h)
	}
	for _, e := range sets[1] {
		again.Add(p.LogLossSHAP(nil, e.x, e.churned, w), p.ExpectedLogLoss(e.churned))
	}
	for _, e := range sets[1] {
		again.Remove(p.LogLossSHAP(nil, e.x, e.churned, w), p.ExpectedLogLoss(e.churned))
	}
	if fmt.Sprint(again) != fmt.Sprint(before) {
		t.Errorf("%v, in another order %v", before, again)
	}
	again.Reset()
	if !IsMissing(again.LogLoss()) || !IsMissing(again.Base()) || !IsMissing(again.Features(nil)[0]) || again.Examples() != 0 {
		t.Errorf("without examples: %g", again.LogLoss())
	}
}

// TestAttributionNamesTheFeature has customers whose leaving comes to depend on
// another feature: the loss rises, and the features that did it are named.
func TestAttributionNamesTheFeature(t *testing.T) {
	m := &Model{Intercept: -0.2}
	for _, name := range []string{"trusted", "quiet", "other"} {
		f := ModelFeature{Name: name, Kind: "categorical", Levels: []string{"a", "b"}, LogOdds: []float64{-0.3, 0.3}, Frequency: []float64{0.5, 0.5}}
		if name == "trusted" {
			f.LogOdds = []float64{-2, 2}
		}
		m.Features = append(m.Features, f)
	}
	p, _ := compileModel(t, m)
	w := p.NewWorkspace()
	rng := rand.New(rand.NewPCG(1, 18))
	month := func(by int) *Attribution {
		a := NewAttribution(3)
		for range 4000 {
			x := Vector{float64(rng.IntN(2)), float64(rng.IntN(2)), float64(rng.IntN(2))}
			churned := rng.Float64() < sigmoid(4*x[by]-2)
			a.Add(p.LogLossSHAP(nil, x, churned, w), p.ExpectedLogLoss(churned))
		}
		return a
	}
	before, now := month(0), month(1)
	change := now.Features(nil)
	for j, b := range before.Features(nil) {
		change[j] -= b
	}
	if rise := now.LogLoss() - before.LogLoss(); rise < 0.3 || change[0] < 0.9*rise || math.Abs(change[2]) > 0.02 || change[1] > 0 {
		t.Errorf("the loss rose by %g, of which %v", rise, change)
	}
}
