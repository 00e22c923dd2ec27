package scoring

import "math"

// marginal is how the contribution of one feature was distributed at training,
// less its mean. It is what explanations are computed from.
type marginal struct {
	// levels are a categorical feature's levels or a numeric one's bins.
	levels []weighted
	// background is the distribution that Shapley values draw from.
	background distribution
}

type weighted struct {
	frequency float64
	distribution
}

// distribution is a discrete distribution of contributions.
type distribution []point

type point struct{ contribution, probability float64 }

// span returns the least and the greatest contribution of any level or of the
// background.
func (m *marginal) span() (low, high float64) {
	low, high = m.background.span()
	for _, l := range m.levels {
		lo, hi := l.span()
		low, high = min(low, lo), max(high, hi)
	}
	return low, high
}

// span returns the least and the greatest contribution.
func (d distribution) span() (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, p := range d {
		low, high = min(low, p.contribution), max(high, p.contribution)
	}
	return low, high
}

func (d distribution) mean() float64 {
	sum := 0.0
	for _, p := range d {
		sum += p.contribution * p.probability
	}
	return sum
}

// logMoment returns log E[e^{θc}].
func (d distribution) logMoment(theta float64) float64 {
	sum := math.Inf(-1)
	for _, p := range d {
		sum = logSum(sum, math.Log(p.probability)+theta*p.contribution)
	}
	return sum
}

func (d distribution) centre(mean float64) {
	for i := range d {
		d[i].contribution -= mean
	}
}

// newMarginal derives the distributions of a feature from its part of a model,
// and the mean contribution that it subtracts from them.
func newMarginal(f *ModelFeature, contribution func(x float64) float64) (m marginal, mean float64) {
	if f.Kind == Categorical.String() {
		for i, c := range f.LogOdds {
			m.levels = append(m.levels, weighted{f.Frequency[i], distribution{{c, 1}}})
		}
	} else {
		for i := range f.Bins {
			m.levels = append(m.levels, weighted{f.Bins[i].Frequency, binDistribution(f, i, contribution)})
		}
	}
	sum := 0.0
	for _, l := range m.levels {
		sum += l.frequency
	}
	for i := range m.levels {
		m.levels[i].frequency /= sum
	}
	if len(f.EmpiricalQuantiles) > 0 {
		share := 1 / float64(len(f.EmpiricalQuantiles))
		for i, x := range f.EmpiricalQuantiles {
			if i > 0 && x == f.EmpiricalQuantiles[i-1] {
				m.background[len(m.background)-1].probability += share
				continue
			}
			m.background = append(m.background, point{contribution(x), share})
		}
	} else {
		for _, l := range m.levels {
			for _, p := range l.distribution {
				if l.frequency > 0 {
					m.background = append(m.background, point{p.contribution, p.probability * l.frequency})
				}
			}
		}
	}
	mean = m.background.mean()
	m.background.centre(mean)
	for _, l := range m.levels {
		l.centre(mean)
	}
	return m, mean
}

// binDistribution returns the distribution that LIME draws from within a bin: a
// normal with the mean and standard deviation of the training values in the
// bin, truncated to it. A bin in which no training value fell stands at its
// edge.
func binDistribution(f *ModelFeature, i int, contribution func(x float64) float64) distribution {
	b := f.Bins[i]
	if b.Frequency == 0 {
		// With one bin only, its frequency is 1: there is a quartile.
		return distribution{{contribution(f.Quartiles[max(i-1, 0)]), 1}}
	}
	mode := min(max(b.Mean, b.Min), b.Max)
	// Beyond reach, the density is below e^−40 of its greatest.
	reach := math.Sqrt((b.Mean-mode)*(b.Mean-mode) + 80*b.Std*b.Std)
	from, to := max(b.Min, b.Mean-reach), min(b.Max, b.Mean+reach)
	// The standard deviation of rounding errors is no width.
	if !(b.Std > 1e-12*math.Abs(b.Mean)) || !(from < to) {
		return distribution{{contribution(mode), 1}}
	}

	// Gauss–Legendre on panels: no kink of the contribution within one, at
	// most two standard deviations wide, and at most one unit of log-odds, so
	// that e^{itc} turns little more than once for every t that counts.
	at, weight := gaussLegendre(12)
	edges := []float64{from}
	for _, k := range f.Knots {
		if from < k && k < to {
			edges = append(edges, k)
		}
	}
	edges = append(edges, to)
	var d distribution
	total := 0.0
	for e := range edges[1:] {
		from, to := edges[e], edges[e+1]
		rise := math.Abs(contribution(to) - contribution(from))
		// The bound does not bite: what is steeper is beyond MaxLogOdds.
		panels := min(max(1, math.Ceil((to-from)/(2*b.Std)), math.Ceil(rise)), 4*MaxLogOdds)
		width := (to - from) / panels
		for i := range int(panels) {
			for k := range at {
				x := from + (float64(i)+at[k])*width
				z, m := (x-b.Mean)/b.Std, (mode-b.Mean)/b.Std
				w := width * weight[k] * math.Exp((m-z)*(m+z)/2)
				d = append(d, point{contribution(x), w})
				total += w
			}
		}
	}
	for i := range d {
		d[i].probability /= total
	}
	return d
}
