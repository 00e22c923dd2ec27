package drift

import (
	"math"
	"sort"

	"github.com/churnstream/churnstream/scoring"
)

// Sample counts customers against a baseline. What comes out depends on who was
// added and not on the order. A customer should be in it once: rows that depend on
// each other make changes look more certain than they are.
//
// Adding takes time in proportion to the features and allocates nothing. A Sample
// is not safe for concurrent use.
type Sample struct {
	baseline   *Baseline
	vocabulary *scoring.Vocabulary
	features   []counter
	score      counter
	rows       int64
}

// counter counts the values of one feature by bin.
type counter struct {
	bins   *bins
	counts []int64
	// byCode is the bin of each level by its number, as far as it was looked up.
	byCode []int32
}

// Sample returns an empty sample of vectors with the numbers of a vocabulary of the
// baseline's specification.
func (b *Baseline) Sample(v *scoring.Vocabulary) *Sample {
	s := &Sample{baseline: b, vocabulary: v, features: make([]counter, len(b.features)), score: newCounter(&b.score)}
	for j := range s.features {
		s.features[j] = newCounter(&b.features[j])
	}
	return s
}

func newCounter(b *bins) counter { return counter{bins: b, counts: make([]int64, len(b.counts))} }

// Add adds a customer's attributes, and the levels among them that the vocabulary
// has no number for.
func (s *Sample) Add(x scoring.Vector, others scoring.Levels) {
	s.rows++
	for j := range s.features {
		c := &s.features[j]
		if !c.bins.known {
			continue
		}
		if i := c.bin(x[j], j, s.vocabulary, others); i >= 0 {
			c.counts[i]++
		}
	}
}

// AddScore adds a probability. It should be one of the model version that the
// baseline is of: other versions' differ without any drift.
func (s *Sample) AddScore(probability float64) {
	if s.score.bins.known && !scoring.IsMissing(probability) {
		s.score.counts[s.score.bins.number(probability)]++
	}
}

// Rows returns how many customers were added.
func (s *Sample) Rows() int64 { return s.rows }

// Feature returns the population stability index of a feature.
func (s *Sample) Feature(j int) Change {
	c, _ := s.features[j].bins.stability(s.features[j].counts, s.baseline.compared)
	return c
}

// FeatureBins returns what a feature's index is made of, nil where there is none.
func (s *Sample) FeatureBins(j int) []Bin {
	_, out := s.features[j].bins.stability(s.features[j].counts, s.baseline.compared)
	return out
}

// Score returns the population stability index of the probabilities.
func (s *Sample) Score() Change {
	c, _ := s.score.bins.stability(s.score.counts, 1)
	return c
}

func (b *bins) number(x float64) int {
	if scoring.IsMissing(x) {
		return b.missing
	}
	return sort.SearchFloat64s(b.bounds, x) // "other" beyond the last bound, which ours is +Inf
}

// bin returns the bin of a value, −1 if it is passed over.
func (c *counter) bin(x float64, j int, v *scoring.Vocabulary, others scoring.Levels) int {
	b := c.bins
	if b.levels == nil {
		return b.number(x)
	}
	if scoring.IsMissing(x) {
		return b.missing
	}
	if x < 0 {
		if level, ok := others.At(x); ok {
			return b.level(level)
		}
		return b.others()
	}
	for code := len(c.byCode); code <= int(x) && code < v.Size(j); code++ {
		c.byCode = append(c.byCode, int32(b.level(v.Level(j, float64(code)))))
	}
	if int(x) >= len(c.byCode) {
		return b.others()
	}
	return int(c.byCode[int(x)])
}

// level returns the bin of a level: one for all others where it has none.
func (b *bins) level(text string) int {
	if i, ok := b.levels[text]; ok {
		return i
	}
	return b.others()
}

// others is the bin of levels that have none.
func (b *bins) others() int { return len(b.counts) - 2 }

// Reasons sums the explanations of customers, for comparison with those of a
// baseline. As for a Sample, a customer should be in it once, and the order makes
// no difference. It is not safe for concurrent use.
type Reasons struct {
	baseline *Baseline
	rows     int64
	// Sums of values and of squares, in whole units, so that they are exact.
	sum, squares []int64
}

// reasonUnit leaves room for 2^26 rows, and is a hundredth of what a Shapley value
// is within.
const reasonUnit = 0x1p-36

// Reasons returns the sums of no customers.
func (b *Baseline) Reasons() *Reasons {
	return &Reasons{baseline: b, sum: make([]int64, len(b.reasons)), squares: make([]int64, len(b.reasons))}
}

// Explained reports whether the baseline has reasons: if not, there is no point in
// explaining anybody.
func (b *Baseline) Explained() bool { return b.explains > 0 }

// Add adds a customer's Shapley values of the probability, one per feature, by the
// model that the baseline is of.
func (r *Reasons) Add(shap []float64) {
	r.rows++
	for j, v := range shap {
		r.sum[j] += int64(math.RoundToEven(v / reasonUnit))
		r.squares[j] += int64(math.RoundToEven(v * v / reasonUnit))
	}
}

// Rows returns how many customers were added.
func (r *Reasons) Rows() int64 { return r.rows }

// Mean returns a feature's mean Shapley value, Missing without customers.
func (r *Reasons) Mean(j int) float64 {
	if r.rows == 0 {
		return scoring.Missing
	}
	return float64(r.sum[j]) * reasonUnit / float64(r.rows)
}

// Deviation returns the standard deviation of a feature's Shapley values, 0 below
// two customers.
func (r *Reasons) Deviation(j int) float64 {
	if r.rows < 2 {
		return 0
	}
	n := float64(r.rows)
	mean := r.Mean(j)
	variance := max(float64(r.squares[j])*reasonUnit/n-mean*mean, 0) * n / (n - 1)
	if variance < 1e-10 { // rounding
		variance = 0
	}
	return math.Sqrt(variance)
}

// Feature returns by how many of the baseline's standard deviations the mean
// Shapley value of a feature has changed: above 0 the feature speaks more for
// churn than it did.
func (r *Reasons) Feature(j int) Change {
	return r.baseline.reasons[j].change(float64(r.rows), r.Mean(j), r.Deviation(j), r.baseline.explains)
}
