package pace

import (
	"cmp"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

const (
	// driftSpread is the standard deviation of the log-odds after the change. At
	// 2, labels are about as predictable as those of real customers: a model that
	// has learnt them has a ROC AUC near 0.85.
	driftSpread = 2
	// priorRows is how many average customers a level is thought to have beside
	// those it has, so that a level of a few tells little.
	priorRows = 10
	// saturated is the log-odds beyond which a probability is 0 or 1 in a float64.
	saturated = 40
)

// Drift is a change in what makes customers leave, which a model can learn: from
// a moment on, outcomes follow a second truth. In it, the features that told
// most about the outcomes of a population tell least, those that told least
// tell most, and each points the other way. As many leave as before.
//
// The second truth is additive on the log-odds scale and follows from the
// population alone, so a restart changes no outcome. A nil Drift never comes.
// Methods are safe for concurrent use.
type Drift struct {
	after  time.Duration
	seed   int64
	base   float64 // intercept
	terms  []term  // by feature
	start  atomic.Int64
	leaves float64 // share of the population that leaves
}

// term is what a feature adds to the log-odds.
type term struct {
	levels map[float64]float64 // of a categorical feature, by code
	slope  float64             // of a number
	mean   float64             // of a number
}

func (t *term) at(x float64) float64 {
	switch {
	case scoring.IsMissing(x):
		return 0
	case t.levels != nil:
		return t.levels[x]
	}
	return t.slope * (x - t.mean)
}

// NewDrift returns the change that comes to a population of labelled customers,
// all with attributes of the specification, after so long from its start; 0 is
// never. Seed selects whom of those with the same chances it makes leave.
func NewDrift(spec *scoring.Spec, population []schemas.ChurnOutcome, after time.Duration, seed int64) *Drift {
	if after <= 0 || len(population) == 0 {
		return nil
	}
	d := &Drift{after: after, seed: seed, terms: make([]term, spec.Len())}
	for i := range population {
		if population[i].Churned {
			d.leaves++
		}
	}
	d.leaves /= float64(len(population))

	strength := make([]float64, spec.Len())
	var telling []int // features that tell something
	for f := range d.terms {
		if spec.Feature(f).Kind == scoring.Categorical {
			d.terms[f].levels, strength[f] = levelTerms(population, f, d.leaves)
		} else {
			d.terms[f].mean, d.terms[f].slope, strength[f] = numberTerm(population, f, d.leaves)
		}
		if strength[f] > 0 && !math.IsInf(strength[f], 0) {
			telling = append(telling, f)
		} else {
			d.terms[f] = term{}
		}
	}
	// The terms have the deviation of their strength: one takes that of another
	// when it is scaled by both's ratio. The sign turns it around.
	slices.SortStableFunc(telling, func(a, b int) int { return cmp.Compare(strength[b], strength[a]) })
	for i, f := range telling {
		d.terms[f].scale(-strength[telling[len(telling)-1-i]] / strength[f])
	}
	d.calibrate(population)
	return d
}

func (t *term) scale(by float64) {
	t.slope *= by
	for code := range t.levels {
		t.levels[code] *= by
	}
}

// levelTerms returns by how much more of those with a level left, and the
// standard deviation of that over the population.
func levelTerms(population []schemas.ChurnOutcome, f int, leaves float64) (map[float64]float64, float64) {
	all, left := map[float64]float64{}, map[float64]float64{}
	for i := range population {
		x := population[i].Attributes[f]
		if scoring.IsMissing(x) {
			continue
		}
		all[x]++
		if population[i].Churned {
			left[x]++
		}
	}
	levels := make(map[float64]float64, len(all))
	for x, n := range all {
		levels[x] = (left[x] - n*leaves) / (n + priorRows)
	}
	var m moments
	for i := range population {
		if x := population[i].Attributes[f]; !scoring.IsMissing(x) {
			m.add(levels[x], 0)
		}
	}
	return levels, m.deviation()
}

// numberTerm returns a number's mean, the slope of leaving on it, and the
// standard deviation of slope times number over the population.
func numberTerm(population []schemas.ChurnOutcome, f int, leaves float64) (mean, slope, deviation float64) {
	var m moments
	for i := range population {
		if x := population[i].Attributes[f]; !scoring.IsMissing(x) {
			y := -leaves
			if population[i].Churned {
				y++
			}
			m.add(x, y)
		}
	}
	if d := m.deviation(); d > 0 {
		slope = m.xy / m.xx
		deviation = math.Abs(slope) * d
	}
	return m.x, slope, deviation
}

// moments are means and sums of squares, updated as Welford does, so that the
// size of the numbers does not matter.
type moments struct{ n, x, y, xx, xy float64 }

func (m *moments) add(x, y float64) {
	m.n++
	dx := x - m.x
	m.x += dx / m.n
	m.y += (y - m.y) / m.n
	m.xx += dx * (x - m.x)
	m.xy += dx * (y - m.y)
}

func (m *moments) deviation() float64 {
	if m.n == 0 {
		return 0
	}
	return math.Sqrt(m.xx / m.n)
}

// calibrate gives the log-odds their spread, and lets as many of the population
// leave as did.
func (d *Drift) calibrate(population []schemas.ChurnOutcome) {
	var m moments
	sums := make([]float64, len(population))
	for i := range population {
		sums[i] = d.sum(population[i].Attributes)
		m.add(sums[i], 0)
	}
	if deviation := m.deviation(); deviation > 0 {
		by := driftSpread / deviation
		for f := range d.terms {
			d.terms[f].scale(by)
		}
		for i := range sums {
			sums[i] *= by
		}
	}
	low, high := math.Inf(1), math.Inf(-1)
	for _, s := range sums {
		low, high = min(low, -s), max(high, -s)
	}
	low, high = low-saturated, high+saturated
	for range 100 { // bisection; the share of leavers rises with the base
		d.base = (low + high) / 2
		var share float64
		for _, s := range sums {
			share += logistic(d.base + s)
		}
		if share < d.leaves*float64(len(sums)) {
			low = d.base
		} else {
			high = d.base
		}
	}
}

func logistic(s float64) float64 { return 1 / (1 + math.Exp(-s)) }

func (d *Drift) sum(x scoring.Vector) float64 {
	var s float64
	for f := range d.terms {
		s += d.terms[f].at(x[f])
	}
	return s
}

// Start notes when the change is counted from, in milliseconds, and returns it:
// what the first call gave.
func (d *Drift) Start(at int64) int64 {
	if d == nil {
		return at
	}
	if d.start.CompareAndSwap(0, at) {
		return at
	}
	return d.start.Load()
}

// At returns when the change comes, and false if that is not known yet or never.
func (d *Drift) At() (time.Time, bool) {
	if d == nil || d.start.Load() == 0 {
		return time.Time{}, false
	}
	return time.UnixMilli(d.start.Load()).Add(d.after), true
}

// Probability returns the probability that a customer leaves after the change.
func (d *Drift) Probability(x scoring.Vector) float64 {
	return logistic(d.base + d.sum(x))
}

// Churned returns what becomes of a customer by observedAt, given what would
// have become of one like it without the change. The answer is the same each
// time.
func (d *Drift) Churned(customerID string, x scoring.Vector, observedAt int64, before bool) bool {
	at, known := d.At()
	if !known || observedAt < at.UnixMilli() {
		return before
	}
	return float64(Hash(d.seed, "drift", customerID)>>11)/(1<<53) < d.Probability(x)
}
