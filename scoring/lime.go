package scoring

import (
	"fmt"
	"math"
)

// limeTables hold, at the nodes, what LIME needs of each active feature and
// each level or bin that a customer may be in; the last one stands for a value
// that is missing or unknown.
type limeTables struct {
	nodes   nodes
	weights []float64 // the rule's, with the intercept's factor
	// features[i] says where the rows of the i-th active feature are.
	features []limeFeature
	// A row is four times the number of nodes: real and imaginary parts of
	// the tilted characteristic function, then of the difference between that
	// of "same level" and that of "another level".
	rows []float64
}

type limeFeature struct {
	offset  int // of the first row
	unknown int // the last row: how many levels there are
}

// maxTable bounds the numbers in the tables of one predictor (256 MiB).
const maxTable = 1 << 25

func (p *Predictor) compileLIME(marginals []marginal) error {
	width := p.model.KernelWidth
	if width == 0 {
		width = 0.75 * math.Sqrt(float64(len(p.features)))
	}
	r := math.Exp(-1 / (2 * width * width))
	b := p.centre()

	// The fewest nodes by the bound in quadrature.go, over all customers.
	best := nodes{omega: math.Inf(1)}
	for _, theta := range []float64{2, 1, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08} {
		up, down := 0.0, 0.0
		pinUp, pinDown := 0.0, 0.0
		for _, j := range p.active {
			u, pu := marginals[j].tiltedMoment(theta, r)
			d, pd := marginals[j].tiltedMoment(-theta, r)
			up, down = up+u, down+d
			pinUp, pinDown = max(pinUp, pu-u), max(pinDown, pd-d)
		}
		bound := logSum(theta*b+up+pinUp, -theta*b+down+pinDown)
		omega := (bound - math.Log(tolerance)) / theta
		poles := theta > 1
		if omega < best.omega && (!poles || omega <= maxPoleBound) {
			best = newNodes(omega, poles)
		}
	}
	t := &p.lime
	t.nodes = best
	t.weights = best.weights(b)
	n := best.size()
	size := 0
	for _, j := range p.active {
		levels := len(marginals[j].levels)
		t.features = append(t.features, limeFeature{offset: size, unknown: levels})
		size += (levels + 1) * 4 * n
	}
	if size > maxTable {
		return fmt.Errorf("%w: explanations need %d numbers, at most %d are allowed", ErrModel, size, maxTable)
	}
	t.rows = make([]float64, size)
	for i, j := range p.active {
		marginals[j].tabulateLIME(t.rows[t.features[i].offset:], t.nodes, r)
	}
	return nil
}

// tiltedMoment returns the greatest log E[e^{θc}] of the feature over all
// customers, when it is drawn as LIME's weights tilt it, and when its level is
// held fixed.
func (m *marginal) tiltedMoment(theta, r float64) (tilted, fixed float64) {
	moments := make([]float64, len(m.levels))
	all := math.Inf(-1)
	fixed = 0 // a missing value's
	for i, l := range m.levels {
		moments[i] = l.logMoment(theta)
		fixed = max(fixed, moments[i])
		all = logSum(all, math.Log(l.frequency)+moments[i])
	}
	tilted = all
	for i, l := range m.levels {
		if l.frequency == 0 {
			continue // tilts nothing
		}
		z := l.frequency + r*(1-l.frequency)
		tilted = max(tilted, logSum(
			math.Log(r/z)+all,
			math.Log(l.frequency*(1-r)/z)+moments[i]))
	}
	return tilted, max(fixed, tilted)
}

// tabulateLIME fills the rows of a feature.
func (m *marginal) tabulateLIME(rows []float64, q nodes, r float64) {
	size := 2 * q.size()
	unknown := len(m.levels)
	// Every level's own characteristic function goes where its difference
	// will be; all of them, by frequency, into all.
	own := func(i int) []float64 { return rows[(2*i+1)*size:][:size] }
	all := make([]float64, size)
	for i, l := range m.levels {
		for _, p := range l.distribution {
			q.add(own(i), p.contribution, p.probability)
		}
		mix(all, all, own(i), l.frequency)
	}
	q.add(own(unknown), 0, 1) // the mean, which is 0 here

	// The others of a common level are summed, since all less its own part
	// would lose digits; at most one level is that common.
	others := make([]float64, size)
	rest := 0.0
	for i, l := range m.levels {
		if l.frequency <= 0.5 {
			continue
		}
		for o, other := range m.levels {
			if o != i {
				mix(others, others, own(o), other.frequency)
				rest += other.frequency
			}
		}
	}
	for i := range unknown + 1 {
		// tilted = keep·all + add·own
		f, keep, add := 0.0, 1.0, 0.0
		if i < unknown && m.levels[i].frequency > 0 {
			f = m.levels[i].frequency
			z := f + r*(1-f)
			keep, add = r/z, f*(1-r)/z
		}
		own := own(i)
		tilted := rows[2*i*size:][:size]
		for k := range own {
			tilted[k] = keep*all[k] + add*own[k]
			switch {
			case f <= 0.5:
				own[k] = (own[k] - all[k]) / (1 - f)
			case rest > 0:
				own[k] -= others[k] / rest
			default: // no other level is ever drawn: nothing to compare with
				own[k] = 0
			}
		}
	}
}

// LIME returns each feature's LIME weight on the probability scale: what the
// tabular explainer of Ribeiro, Singh and Guestrin ("Why should I trust you?",
// 2016) converges to as its sample grows, without the sampling.
//
// That explainer draws each feature by itself from its training distribution (a
// category by its frequency; a number by its quartile bin, then a normal
// truncated to the bin), notes z_j = 1 where the category or bin is the
// customer's own, weights a draw by exp(−d²/(2w²)), d² being the number of
// z_j that are 0, and fits a weighted linear regression of the probability on
// z. The weight is a product over features, so under it features stay
// independent, with r = exp(−1/(2w²)) as the factor on other categories; and
// independent regressors decouple (see Garreau and von Luxburg, "Explaining
// the Explainer", 2020). So
//
//	lime_j = Ẽ[σ(S) | z_j = 1] − Ẽ[σ(S) | z_j = 0].
//
// A missing or unknown value is like a category that never occurs and
// contributes the mean. A feature without effect, or with one category only,
// has weight 0. The result has one value per feature, is within 1e-9, and is dst
// where that has room.
func (p *Predictor) LIME(dst []float64, x Vector, w *Workspace) []float64 {
	dst = resize(dst, len(p.features))
	clear(dst)
	t, m := &p.lime, len(p.active)
	if m == 0 {
		return dst
	}
	size := len(t.weights)
	scratch := w.take((m + 1) * size)
	rows := w.takeRows(m)

	// The products over the features before each one, then from the other
	// end those over the features after it. Dividing the product of all by
	// one would fail where that is close to 0.
	before := scratch[:size]
	copy(before, t.weights)
	for i, j := range p.active {
		level := p.features[j].level(x[j])
		if level < 0 {
			level = t.features[i].unknown
		}
		rows[i] = t.features[i].offset + level*2*size
		if i+1 < m {
			next := scratch[(i+1)*size:][:size]
			multiply(next, before, t.rows[rows[i]:])
			before = next
		}
	}
	after := scratch[m*size:][:size]
	for k := range after {
		after[k] = 0
	}
	for k := range after[:size/2] {
		after[k] = 1
	}
	for i := m - 1; i >= 0; i-- {
		row := t.rows[rows[i]:][:2*size]
		dst[p.active[i]] = tripleImaginary(scratch[i*size:][:size], after, row[size:])
		multiply(after, after, row)
	}
	return dst
}
