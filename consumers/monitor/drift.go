package monitor

import (
	"math"
	"sort"
	"strconv"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// scoreBaseline is the name of the score's own distribution in a baseline.
const scoreBaseline = "churn_probability"

// recentScores holds what the last scores were computed from.
type recentScores struct {
	limit       int
	of          *scoring.Vocabulary // of the scores
	probability []float64
	// attributes holds the vectors of the scores one after another, with the
	// numbers of vocabulary, which has the levels of these scores and, until
	// it is made anew, those of scores that have gone.
	attributes []float64
	vocabulary *scoring.Vocabulary
	next       int
}

func newRecentScores(limit int, of *scoring.Vocabulary) *recentScores {
	return &recentScores{limit: limit, of: of, vocabulary: scoring.NewVocabulary(of.Spec())}
}

func (r *recentScores) add(s *schemas.ChurnScore) {
	n := r.of.Spec().Len()
	if len(r.probability) < r.limit {
		r.probability = append(r.probability, s.Probability)
		r.attributes = append(r.attributes, s.Attributes...)
		r.learn(r.attributes[len(r.attributes)-n:], r.of, s.Levels)
		return
	}
	r.probability[r.next] = s.Probability
	x := r.attributes[r.next*n : (r.next+1)*n]
	copy(x, s.Attributes)
	r.learn(x, r.of, s.Levels)
	if r.next = (r.next + 1) % r.limit; r.next == 0 {
		r.forget()
	}
}

func (r *recentScores) learn(x scoring.Vector, of *scoring.Vocabulary, levels scoring.Levels) {
	r.vocabulary.Learn(x, of, levels, math.MaxInt)
}

// forget makes the vocabulary anew if half of a feature's levels or more may be
// of scores that have gone.
func (r *recentScores) forget() {
	many := false
	for i := range r.of.Spec().Len() {
		many = many || r.vocabulary.Size(i) > r.limit
	}
	if !many {
		return
	}
	former := r.vocabulary
	r.vocabulary = scoring.NewVocabulary(former.Spec())
	n := former.Spec().Len()
	for i := 0; i < len(r.attributes); i += n {
		r.learn(r.attributes[i:i+n], former, nil)
	}
}

// drift is how far recent scores are from a baseline, as population stability
// indices.
type drift struct {
	// feature holds an index for each feature, scoring.Missing for those the
	// baseline does not describe.
	feature []float64
	score   float64 // scoring.Missing if the baseline does not describe it
	scores  int
}

// against measures the drift from a baseline.
func (r *recentScores) against(baseline []schemas.BaselineDistribution) drift {
	v := r.vocabulary
	d := drift{feature: scoring.NewVector(v.Spec().Len()), score: scoring.Missing, scores: len(r.probability)}
	if d.scores == 0 {
		return d
	}
	for i := range baseline {
		b := &baseline[i]
		if len(b.Bins) != len(b.Frequencies) {
			continue
		}
		if b.Name == scoreBaseline {
			if bounds, ok := upperBounds(b.Bins); ok {
				d.score = stability(b.Frequencies, countNumbers(bounds, r.probability, 0, 1))
			}
			continue
		}
		j, known := v.Spec().Index(b.Name)
		if !known {
			continue
		}
		var counts []float64
		if v.Spec().Feature(j).Kind == scoring.Categorical {
			counts = r.countLevels(j, b.Bins)
		} else if bounds, ok := upperBounds(b.Bins); ok {
			counts = countNumbers(bounds, r.attributes, j, v.Spec().Len())
		} else {
			continue
		}
		d.feature[j] = stability(b.Frequencies, counts)
	}
	return d
}

// upperBounds parses the bins of a number. A baseline that cannot be read
// gives no drift rather than a wrong one.
func upperBounds(bins []string) ([]float64, bool) {
	bounds := make([]float64, len(bins))
	for i, text := range bins {
		var err error
		if bounds[i], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, false
		}
	}
	return bounds, sort.Float64sAreSorted(bounds)
}

// countNumbers counts the values at first, first+stride, … in each bin, and
// after them those in none: a bin goes up to and includes its bound.
func countNumbers(bounds, values []float64, first, stride int) []float64 {
	counts := make([]float64, len(bounds)+1)
	for i := first; i < len(values); i += stride {
		bin := len(bounds)
		if !scoring.IsMissing(values[i]) {
			bin = sort.SearchFloat64s(bounds, values[i])
		}
		counts[bin]++
	}
	return counts
}

// countLevels counts the values of a feature at each level, and after them
// those at none: missing, or a level that the training did not know.
func (r *recentScores) countLevels(feature int, levels []string) []float64 {
	v := r.vocabulary
	byCode := make([]float64, v.Size(feature)+1) // the last one counts the missing
	for i := feature; i < len(r.attributes); i += v.Spec().Len() {
		code := len(byCode) - 1
		if x := r.attributes[i]; x >= 0 && x < float64(code) {
			code = int(x)
		}
		byCode[code]++
	}
	counts := make([]float64, len(levels)+1)
	rest := float64(len(r.probability))
	for i, level := range levels {
		if code, known := v.Lookup(feature, level); known && int(code) < len(byCode)-1 {
			counts[i] = byCode[int(code)]
			rest -= counts[i]
		}
	}
	counts[len(levels)] = rest
	return counts
}

// stability is the population stability index Σ (a−e)·ln(a/e) of actual
// counts against expected shares; the last count belongs to no expected share.
// Shares are kept above 1e-4, so that an empty bin gives a finite figure.
//
// It is the symmetrised Kullback–Leibler divergence (Jeffreys 1946). Custom
// has it that 0.1 is little and 0.25 is much. Without any drift it is about
// (bins−1)/count.
func stability(expected, counts []float64) float64 {
	const floor = 1e-4
	var total, rest float64
	for _, c := range counts {
		total += c
	}
	rest = 1
	for _, e := range expected {
		rest -= e
	}
	var index float64
	for i, c := range counts {
		e := rest
		if i < len(expected) {
			e = expected[i]
		}
		e, a := max(e, floor), max(c/total, floor)
		index += (a - e) * math.Log(a/e)
	}
	return index
}
