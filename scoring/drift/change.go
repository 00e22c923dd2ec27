package drift

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/churnstream/churnstream/scoring"
)

const (
	// MuchPSI is the population stability index below which no change matters,
	// however certain it is. Custom calls 0.1 little and 0.25 much.
	MuchPSI = 0.25
	// MuchReason is likewise for reasons, in standard deviations. Between two
	// normal distributions that are d standard deviations apart the index is d²:
	// this is the same measure.
	MuchReason = 0.5
	// FalseAlarms is how often any feature of all may exceed its threshold by
	// chance, when nothing has changed: once in a hundred windows that have no
	// customers in common.
	FalseAlarms = 0.01
	// leastDeviation is the standard deviation that Shapley values count with at
	// least: a tenth of a percentage point, below which no change of a reason
	// matters.
	leastDeviation = 0.001
)

// Change is a figure, and from where on it means something.
type Change struct {
	// Value is the population stability index, or the change of a mean Shapley
	// value in standard deviations, which has a sign. It is Missing where there is
	// nothing to compare.
	Value float64
	// Threshold is what chance hardly ever exceeds with as many rows, and at least
	// what matters: MuchPSI or MuchReason.
	Threshold float64
	// Rows is how many rows were compared, with how many of the Baseline.
	Rows, Baseline int64
}

// Exceeded reports whether there is a change that is neither chance nor negligible.
func (c Change) Exceeded() bool { return math.Abs(c.Value) > c.Threshold }

var noChange = Change{Value: scoring.Missing, Threshold: scoring.Missing}

// Bin is what one bin adds to a population stability index.
type Bin struct {
	// Label is the level, or says which numbers are in the bin.
	Label string
	// Expected is the share of the baseline's rows, Actual that of the sample's.
	Expected, Actual float64
	// PSI is the bin's part in the index.
	PSI float64
}

// stability compares counts with those of a baseline.
//
// The index is Σ (a−e)·ln(a/e) over shares a and e, the symmetrised
// Kullback–Leibler divergence (Jeffreys 1946). Shares are posterior means under
// Jeffreys' prior: half a row more in every bin that either side has a row in. So
// an empty bin counts by how many rows it is that are not in it.
//
// If nothing has changed, the index divided by 1/n + 1/m is nearly chi-squared with
// a degree of freedom less than bins (Yurdakul 2018). The threshold is a quantile of
// that, see chance: features share FalseAlarms among them. With few rows that needs
// bins with some expected in each, see pool.
func (b *bins) stability(actual []int64, features int) (Change, []Bin) {
	n := 0.0
	for _, a := range actual {
		n += float64(a)
	}
	if !b.known || n == 0 {
		return noChange, nil
	}
	labels, expected, counted := b.pool(actual, n)
	k := float64(len(labels))
	out := make([]Bin, len(labels))
	index := 0.0
	for i, label := range labels {
		e := (expected[i] + 0.5) / (b.rows + k/2)
		a := (counted[i] + 0.5) / (n + k/2)
		part := (a - e) * math.Log(a/e)
		out[i] = Bin{Label: label, Expected: expected[i] / b.rows, Actual: counted[i] / n, PSI: part}
		index += part
	}
	c := Change{Value: index, Threshold: MuchPSI, Rows: int64(n), Baseline: int64(math.Round(b.rows))}
	if k > 1 {
		c.Threshold = max(c.Threshold, chance(k, n, b.rows, features))
	}
	return c, out
}

// chance is the index that chance exceeds with a probability of FalseAlarms over
// the number of features. It has the quantile of (k−1)·F with k−1 and min(n,m)−1
// degrees of freedom in place of chi-squared's, which is its limit: with few rows
// the tail is longer, as Hotelling's T² has it for means.
func chance(k, n, m float64, features int) float64 {
	f := distuv.F{D1: k - 1, D2: max(min(n, m)-1, 1)}
	return (1/n + 1/m) * (k - 1) * f.Quantile(1-FalseAlarms/float64(max(features, 1)))
}

// leastExpected is how many rows a bin is expected to have at least, of the sample
// or of the baseline, whichever has fewer.
const leastExpected = 2

// pool returns the bins to be compared. Those that neither side has a row in say
// nothing. Those that the baseline has rows in, but in which too few are expected,
// are joined: numbers with the bin above, rare levels with each other. That depends
// on the baseline and on how many rows there are, not on what they are. Bins for
// what the baseline does not have are never joined with others.
func (b *bins) pool(actual []int64, n float64) (labels []string, expected, counted []float64) {
	least := leastExpected * b.rows / min(n, b.rows)
	open := -1 // a bin that has too few yet
	named := len(b.counts) - 2
	for i, e := range b.counts {
		a := float64(actual[i])
		if e == 0 && a == 0 {
			continue
		}
		if e == 0 || i >= named {
			labels, expected, counted = append(labels, b.labels[i]), append(expected, e), append(counted, a)
			continue
		}
		if open >= 0 && (b.levels == nil || e < least) {
			if labels[open] = "rare levels"; b.levels == nil {
				labels[open] = b.labels[i]
			}
			expected[open] += e
			counted[open] += a
		} else {
			labels, expected, counted = append(labels, b.labels[i]), append(expected, e), append(counted, a)
			if e < least {
				open = len(labels) - 1
			}
		}
		if open >= 0 && b.levels == nil && expected[open] >= least {
			open = -1
		}
	}
	return labels, expected, counted
}

// change compares a mean with that of the baseline: Welch's t, on the scale of the
// baseline's standard deviation.
func (r *reason) change(n, mean, deviation float64, features int) Change {
	if r.rows == 0 || n < 2 {
		return noChange
	}
	unit := max(r.deviation, leastDeviation)
	// A few rows may by chance be alike: no less than the baseline's deviation.
	deviation = max(deviation, r.deviation)
	ours, theirs := deviation*deviation/n, r.deviation*r.deviation/r.rows
	c := Change{Value: (mean - r.mean) / unit, Threshold: MuchReason, Rows: int64(n), Baseline: int64(r.rows)}
	if ours+theirs > 0 {
		freedom := (ours + theirs) * (ours + theirs) / (ours*ours/(n-1) + theirs*theirs/(r.rows-1))
		t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: freedom}.Quantile(1 - FalseAlarms/float64(max(features, 1))/2)
		c.Threshold = max(c.Threshold, t*math.Sqrt(ours+theirs)/unit)
	}
	return c
}
