package scoring

import (
	"cmp"
	"math"
	"slices"
	"sync"
)

// shapTables hold what Shapley values need of the active features.
type shapTables struct {
	centre   float64 // the mean log-odds
	features []shapFeature
	classes  [shapClasses]shapClass
	// rules integrate over q, from the cheapest to one that is exact.
	rules []shapRule
}

// shapFeature is the background of one feature: the distribution of its
// contribution less its mean.
type shapFeature struct {
	background distribution
	low, high  float64 // of the background
	up, down   float64 // log E[e^{±2c}], for the bound in quadrature.go
}

// The points that a customer needs depend on how far from 0 the log-odds may
// get, so there are tables for every 15 % more, made when first needed. The
// first class does for narrow models, the last for twice MaxLogOdds.
const (
	shapClasses = 40
	shapFirst   = 12.0
	shapStep    = 1.15
)

type shapClass struct {
	once        sync.Once
	nodes       nodes
	background  []float64 // 2n numbers per feature
	probability integrand
	loss        integrand
}

// integrand is what an expectation is taken of: the nodes' weights for it, and
// the sum Σ_k Im(weight_k · Π_j φ_j(t_k)) when every feature is drawn from the
// background.
type integrand struct {
	weights  []float64 // 2n numbers
	expected float64
}

// shapRule is a Gauss–Legendre rule on [0, 1].
type shapRule struct {
	q, weight []float64
	// last and secondLast give the coefficients of the highest two Legendre
	// polynomials that the rule can tell: Σ_s last_s·f(q_s). nil if the rule
	// is exact for every customer.
	last, secondLast []float64
}

func newShapRule(m int, exact bool) shapRule {
	var r shapRule
	r.q, r.weight = gaussLegendre(m)
	if exact {
		return r
	}
	r.last, r.secondLast = make([]float64, m), make([]float64, m)
	for s, q := range r.q {
		p, before := legendre(m-1, 2*q-1)
		r.last[s] = float64(2*m-1) * p * r.weight[s]
		r.secondLast[s] = float64(2*m-3) * before * r.weight[s]
	}
	return r
}

func (p *Predictor) compileSHAP(marginals []marginal) {
	t := &p.shap
	t.centre = p.centre()
	up, down := 2*t.centre, -2*t.centre
	for _, j := range p.active {
		f := shapFeature{background: marginals[j].background}
		f.low, f.high = f.background.span()
		f.up, f.down = f.background.logMoment(2), f.background.logMoment(-2)
		up, down = up+f.up, down+f.down
		t.features = append(t.features, f)
	}
	// The integrand is a polynomial in q of one degree less than there are
	// active features, and m points are exact up to degree 2m−1.
	exact := (len(p.active) + 1) / 2
	for m := 7; m < exact; m += m / 2 {
		t.rules = append(t.rules, newShapRule(m, false))
	}
	if exact > 0 {
		t.rules = append(t.rules, newShapRule(exact, true))
	}

	c := t.class(logSum(up, down))
	p.expectedProbability = min(max(c.probability.expected+0.5, 0), 1)
	p.expectedLoss = max(c.loss.expected+c.nodes.lossConstant(), 0)
}

// class returns the tables for customers with log(E[e^{2S}] + E[e^{−2S}]) up
// to bound, whichever features are the customer's own.
func (t *shapTables) class(bound float64) *shapClass {
	omega := (bound - math.Log(tolerance)) / 2
	if omega > maxPoleBound {
		// Without the poles. E[e^{|S|}] is at most the root of E[e^{2|S|}].
		omega = bound/2 - math.Log(tolerance)
	}
	k := int(math.Ceil(math.Log(omega/shapFirst) / math.Log(shapStep)))
	k = min(max(k, 0), shapClasses-1)
	c := &t.classes[k]
	c.once.Do(func() { c.tabulate(t, shapFirst*math.Pow(shapStep, float64(k))) })
	return c
}

func (c *shapClass) tabulate(t *shapTables, omega float64) {
	c.nodes = newNodes(omega, omega <= maxPoleBound)
	c.probability.weights = c.nodes.weights(t.centre)
	c.loss.weights = c.nodes.lossWeights(t.centre)
	size := 2 * c.nodes.size()
	c.background = make([]float64, len(t.features)*size)
	for i, f := range t.features {
		row := c.background[i*size:][:size]
		for _, b := range f.background {
			c.nodes.add(row, b.contribution, b.probability)
		}
	}
	for _, f := range []*integrand{&c.probability, &c.loss} {
		product := slices.Clone(f.weights)
		for i := range t.features {
			multiply(product, product, c.background[i*size:])
		}
		f.expected = sum(product[size/2:])
	}
}

// bound returns log(E[e^{2S}] + E[e^{−2S}]) at its greatest over all choices
// of which features are the customer's own.
func (t *shapTables) bound(own []float64) float64 {
	up, down := 2*t.centre, -2*t.centre
	for i, c := range own {
		up += max(2*c, t.features[i].up)
		down += max(-2*c, t.features[i].down)
	}
	return logSum(up, down)
}

// saturate cuts extreme contributions back to where the probability cannot
// tell: to what outweighs, by certain, all that may stand against it. That
// holds for the greatest ones, each of which outweighs all smaller ones
// against it; the others stay as they are.
//
// Only when those reach further than any table are they cut too, such that the
// difference of two that all but cancel stays. More than two such are then not
// distinguished, and confused is true.
//
// It returns the positions of those that may have been cut, each of which
// outweighs the ones before it.
func (t *shapTables) saturate(own []float64, order []int) (dominant []int, confused bool) {
	const certain = 24 // e^−24 < tolerance
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(math.Abs(own[a]), math.Abs(own[b])), cmp.Compare(a, b))
	})
	// reach is what the log-odds may be while only some features are the
	// customer's own.
	type reach struct{ low, high float64 }
	all := reach{t.centre, t.centre}
	for _, f := range t.features {
		all.low, all.high = all.low+f.low, all.high+f.high
	}
	with := func(r reach, i int) reach {
		f := &t.features[i]
		return reach{r.low + min(own[i]-f.low, 0), r.high + max(own[i]-f.high, 0)}
	}
	// limits are the values beyond which own[i] outweighs the rest.
	limits := func(r reach, i int) (down, up float64) {
		f := &t.features[i]
		return min(-certain-(r.high-f.high), f.low), max(certain-(r.low-f.low), f.high)
	}

	kept, start := all, 0
	r := all
	for at, i := range order {
		down, up := limits(r, i)
		r = with(r, i)
		if max(-r.low, r.high) > 2*MaxLogOdds {
			confused = true
			break
		}
		if down < own[i] && own[i] < up {
			kept, start = r, at+1
		}
	}
	r = kept
	least := certain + max(-kept.low, kept.high) // so that either of two that cancel is certain by itself
	cutDown, cutUp := 0.0, 0.0
	for _, i := range order[start:] {
		c := own[i]
		if down, up := limits(r, i); c > 0 {
			own[i] = min(c-cutDown, max(up, least))
			cutUp = max(cutUp, c-own[i])
		} else {
			own[i] = max(c+cutUp, min(down, -least))
			cutDown = max(cutDown, own[i]-c)
		}
		r = with(r, i)
	}
	return order[start:], confused
}

// SHAP returns each feature's Shapley value on the probability scale (Štrumbelj
// and Kononenko, "Explaining prediction models and individual predictions with
// feature contributions", 2014; Lundberg and Lee, "A unified approach to
// interpreting model predictions", 2017), exactly. The background of each
// feature is its distribution at training, independent of the others. The
// values sum to Probability − ExpectedProbability.
//
// The Shapley value is the integral of a partial derivative of the game's
// multilinear extension along its diagonal (Owen, "Multilinear extensions of
// games", 1972):
//
//	shap_j = ∫_0^1 ( E_q[σ(S) | X_j = x_j] − E_q[σ(S) | X_j ~ background] ) dq,
//
// where every other feature is the customer's own with probability q, else
// drawn from the background. Its characteristic function is then
// q·e^{itc(x)} + (1−q)·φ(t), and the expectations follow as in LIME's case.
//
// A missing or unknown value is one that contributes the mean. A feature
// without effect has value 0. Values however extreme are taken for what they
// are. The result has one value per feature, is within 1e-9, and is dst where
// that has room.
func (p *Predictor) SHAP(dst []float64, x Vector, w *Workspace) []float64 {
	dst = resize(dst, len(p.features))
	clear(dst)
	if len(p.active) == 0 {
		return dst
	}
	s := p.prepare(x, w)
	s.solve(&s.class.probability)
	for i, j := range p.active {
		dst[j] = s.value[i]
	}
	return dst
}

// prepare gets everything ready that the values of a customer need, whatever
// they are the values of.
func (p *Predictor) prepare(x Vector, w *Workspace) shapScratch {
	t, m := &p.shap, len(p.active)
	s := shapScratch{tables: t}
	numbers := w.own(2 * m)
	s.own, s.removed = numbers[:m], numbers[m:]
	for i, j := range p.active {
		f := &p.features[j]
		s.own[i] = f.contribution(x[j]) - f.expected
	}
	clear(s.removed)
	bound := t.bound(s.own)
	if bound > 60 { // from here on cutting back may save more than it costs
		copy(s.removed, s.own)
		s.dominant, s.confused = t.saturate(s.own, w.takeRows(m))
		for i, c := range s.own {
			s.removed[i] -= c
		}
		bound = t.bound(s.own)
	}
	c := t.class(bound)
	s.class = c
	size := 2 * c.nodes.size()
	scratch := w.take((3*m+1)*size + 3*m)
	s.difference = cut(&scratch, m*size)
	s.factor = cut(&scratch, m*size)
	s.before = cut(&scratch, m*size)
	s.after = cut(&scratch, size)
	s.value = cut(&scratch, m)
	s.last = cut(&scratch, m)
	s.secondLast = cut(&scratch, m)
	for i, contribution := range s.own {
		row := s.difference[i*size:][:size]
		for k, b := range c.background[i*size:][:size] {
			row[k] = -b
		}
		c.nodes.add(row, contribution, 1)
	}
	return s
}

// shapScratch is what one call works with.
type shapScratch struct {
	tables *shapTables
	class  *shapClass

	own        []float64 // the contributions, cut back by removed
	removed    []float64
	dominant   []int     // of saturate
	confused   bool      // of saturate
	difference []float64 // 2n per feature: own less background
	factor     []float64 // 2n per feature: background + q·difference
	before     []float64 // 2n per feature: the products over the features before it
	after      []float64 // 2n: the product over the features after

	value, last, secondLast []float64 // by feature

	sum float64 // what the values sum to
}

// solve computes the values of an integrand.
func (s *shapScratch) solve(f *integrand) {
	c := s.class
	size := len(f.weights)
	// What the values sum to, from the same points: then what they are off by is
	// the fault of the integral over q alone.
	copy(s.after, f.weights)
	for i := range s.own {
		factor := s.factor[i*size:][:size]
		mix(factor, c.background[i*size:], s.difference[i*size:], 1)
		multiply(s.after, s.after, factor)
	}
	s.sum = sum(s.after[size/2:]) - f.expected
	for r := range s.tables.rules {
		if s.integrate(f, &s.tables.rules[r]) {
			break
		}
	}
}

// integrate computes the values with a rule and reports whether they are good
// enough: exact, or their sum is right to 1e-11 (of itself, where it is above 1), and so that this is no
// coincidence the integrands' Legendre coefficients fall off fast enough. A
// rule of m points errs from coefficient 2m on. Those fall off geometrically
// at first and then, the integrand being entire in q, faster: where m of them
// fell by a factor, 2m fall by more than its cube.
func (s *shapScratch) integrate(f *integrand, rule *shapRule) bool {
	m, size, background := len(s.own), len(f.weights), s.class.background
	clear(s.value)
	clear(s.last)
	clear(s.secondLast)
	greatest := 0.0 // of the integrands
	copy(s.before, f.weights)
	for r, q := range rule.q {
		for i := range m {
			factor := s.factor[i*size:][:size]
			mix(factor, background[i*size:], s.difference[i*size:], q)
			if i+1 < m {
				multiply(s.before[(i+1)*size:][:size], s.before[i*size:], factor)
			}
		}
		for k := range s.after {
			s.after[k] = 0
		}
		for k := range s.after[:size/2] {
			s.after[k] = 1
		}
		for i := m - 1; i >= 0; i-- {
			v := tripleImaginary(s.before[i*size:][:size], s.after, s.difference[i*size:])
			s.value[i] += rule.weight[r] * v
			if rule.last != nil {
				greatest = max(greatest, math.Abs(v))
				s.last[i] += rule.last[r] * v
				s.secondLast[i] += rule.secondLast[r] * v
			}
			if i > 0 {
				multiply(s.after, s.after, s.factor[i*size:])
			}
		}
	}
	if rule.last == nil {
		return true
	}
	if !(math.Abs(sum(s.value)-s.sum) <= 1e-11*max(1, math.Abs(s.sum))) {
		return false
	}
	tail := 0.0
	for i := range s.last {
		tail = max(tail, math.Abs(s.last[i]), math.Abs(s.secondLast[i]))
	}
	return tail*tail*tail <= 1e-9*greatest*greatest
}

// cut takes the first n numbers off a slice.
func cut(from *[]float64, n int) []float64 {
	head := (*from)[:n:n]
	*from = (*from)[n:]
	return head
}
