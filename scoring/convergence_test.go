package scoring

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// marginalsOf derives the marginals of a predictor's model once more: Compile
// does not keep them.
func marginalsOf(p *Predictor) []marginal {
	marginals := make([]marginal, len(p.features))
	for i := range p.model.Features {
		f := &p.model.Features[i]
		j, _ := p.spec.Index(f.Name)
		marginals[j], _ = newMarginal(f, p.features[j].contribution)
	}
	return marginals
}

// limeAt returns LIME's weights by another set of nodes.
func limeAt(p *Predictor, x Vector, q nodes) []float64 {
	width := 0.75 * math.Sqrt(float64(len(p.features)))
	r := math.Exp(-1 / (2 * width * width))
	other := &Predictor{model: p.model, spec: p.spec, intercept: p.intercept, features: p.features, active: p.active}
	other.lime = limeTables{nodes: q, weights: q.weights(p.centre())}
	marginals := marginalsOf(p)
	for _, j := range p.active {
		levels := len(marginals[j].levels)
		offset := len(other.lime.rows)
		other.lime.features = append(other.lime.features, limeFeature{offset: offset, unknown: levels})
		other.lime.rows = append(other.lime.rows, make([]float64, (levels+1)*4*q.size())...)
		marginals[j].tabulateLIME(other.lime.rows[offset:], q, r)
	}
	return other.LIME(nil, x, other.NewWorkspace())
}

func distance(a, b []float64) float64 {
	worst := 0.0
	for j := range a {
		worst = max(worst, math.Abs(a[j]-b[j]))
	}
	return worst
}

// telcoLike returns a model of 19 features, 3 of them numeric, with log-odds
// about as wide as those of the Telco table, and a customer.
func telcoLike(t *testing.T, seed uint64, spread float64) (*Predictor, Vector) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 9))
	m := randomModel(rng, 19, 3, spread)
	m.Intercept = -1.2
	for j := range 16 { // every one with an effect
		f := ModelFeature{Name: m.Features[j].Name, Kind: "categorical", Levels: []string{"a", "b", "c"}, Frequency: []float64{0.5, 0.3, 0.2}}
		for range f.Levels {
			f.LogOdds = append(f.LogOdds, rng.NormFloat64()*spread)
		}
		m.Features[j] = f
	}
	p, v := compileModel(t, m)
	return p, randomVector(t, rng, m, v)
}

// TestNodesConverge shows the error of LIME's weights against the number of
// points on the integral, and why the number taken is right.
//
// That is no constant: compileLIME takes the fewest points for which the bounds
// in quadrature.go promise to stay within tolerance for every customer of the
// model, 14 to 42 for those below. Two things are chosen, and each is tried by
// itself: how close the points are, by ω, and how far they reach.
//
// Closer: the error falls geometrically, more than tenfold with every further
// quarter of the points. With three quarters of them the promise of 1e-9 is
// broken, so no fewer will do. Further: likewise for narrow models, whose
// characteristic functions fall slowly. That of a wide one does the integrand's
// falling for it, and three quarters would do; the bound takes no notice, since
// nothing is known of a customer's product beforehand. More points than taken
// only buy digits that nobody reads, at a cost proportional to their number.
func TestNodesConverge(t *testing.T) {
	shares := []float64{0.25, 0.5, 0.75, 1, 1.25}
	for _, spread := range []float64{0.1, 0.4, 1.5} {
		for _, choice := range []struct {
			name string
			of   func(q nodes, share float64) nodes
		}{
			{"closer", func(q nodes, share float64) nodes {
				return nodes{omega: q.omega * share, n: int(math.Ceil(float64(q.n) * share)), poles: q.poles}
			}},
			{"further", func(q nodes, share float64) nodes {
				return nodes{omega: q.omega, n: int(math.Ceil(float64(q.n) * share)), poles: q.poles}
			}},
		} {
			t.Run(fmt.Sprintf("spread=%g/%s", spread, choice.name), func(t *testing.T) {
				worst := make([]float64, len(shares))
				least, most := math.MaxInt, 0
				for seed := range uint64(10) {
					p, x := telcoLike(t, seed, spread)
					taken := p.lime.nodes
					least, most = min(least, taken.n), max(most, taken.n)
					// Four times as close and three times as far, without the poles.
					fine := nodes{omega: 4 * taken.omega, n: 12 * taken.n}
					want := limeAt(p, x, fine)
					if got := distance(limeAt(p, x, taken), p.LIME(nil, x, p.NewWorkspace())); got != 0 {
						t.Fatalf("seed %d: the test's own tables give other weights, by %g", seed, got)
					}
					for i, share := range shares {
						worst[i] = max(worst[i], distance(limeAt(p, x, choice.of(taken, share)), want))
					}
				}
				t.Logf("%d to %d points; greatest error by share of them %v: %.1e", least, most, shares, worst)
				for i := range shares[:3] {
					if worst[i+1] > max(worst[i]/10, 1e-9) {
						t.Errorf("from %g to %g of the points, the error falls from %.1e to %.1e only", shares[i], shares[i+1], worst[i], worst[i+1])
					}
				}
				if worst[2] < 1e-9 && (choice.name == "closer" || spread < 0.2) {
					t.Errorf("three quarters of the points are off by %.1e only: more are taken than are needed", worst[2])
				}
				if worst[3] > 1e-9 || worst[4] > 1e-9 {
					t.Errorf("with all points the error is %.1e, with more %.1e", worst[3], worst[4])
				}
			})
		}
	}
}

// TestRulesConverge shows the error of Shapley values against the number of
// points in q, and why the first rule has 7.
//
// The integrand is a polynomial in q of degree 18 for 19 features, so 10 points
// are exact. Fewer do for most customers, as each feature bends it little by
// itself: the error falls geometrically. For models a little wider than the
// Telco table's, whose contributions have a standard deviation of 0.6 in the
// root mean square over features, 7 are the fewest that keep the promise of 1e-9. integrate looks at what a rule cannot tell before it settles
// for one, so that customers who need more get more (TestRules).
func TestRulesConverge(t *testing.T) {
	const most = 10
	only := func(m int) []shapRule { return []shapRule{newShapRule(m, true)} } // taken without a look
	for _, spread := range []float64{0.1, 0.4, 0.7} {
		worst := make([]float64, most+1)
		for seed := range uint64(20) {
			p, x := telcoLike(t, seed, spread)
			w := p.NewWorkspace()
			if n := len(p.shap.rules[0].q); n != 7 {
				t.Fatalf("the first rule has %d points: this test is about 7", n)
			}
			settled := p.SHAP(nil, x, w)
			p.shap.rules = only(most)
			want := p.SHAP(nil, x, w)
			if d := distance(settled, want); d > 1e-9 {
				t.Errorf("spread %g, seed %d: the rule settled for is off by %.1e", spread, seed, d)
			}
			for m := 1; m < most; m++ {
				p.shap.rules = only(m)
				worst[m] = max(worst[m], distance(p.SHAP(nil, x, w), want))
			}
			p.shap.rules = only(most + 4)
			worst[most] = max(worst[most], distance(p.SHAP(nil, x, w), want))
		}
		t.Logf("spread %g: greatest error of 1, 2, … points %.1e", spread, worst[1:])
		for m := 2; m <= 7; m++ {
			if worst[m] > max(worst[m-1]/5, 1e-12) {
				t.Errorf("spread %g: with %d points the error falls to %.1e only", spread, m, worst[m])
			}
		}
		if worst[7] > 1e-9 {
			t.Errorf("spread %g: 7 points are off by %.1e", spread, worst[7])
		}
		if spread == 0.7 && worst[6] < 1e-9 {
			t.Errorf("6 points are off by %.1e only: more are taken than are needed", worst[6])
		}
		if worst[most] > 1e-12 {
			t.Errorf("spread %g: %d points are not exact but off by %.1e", spread, most, worst[most])
		}
	}
}
