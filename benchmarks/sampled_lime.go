package benchmarks

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"

	"gonum.org/v1/gonum/mat"

	"github.com/churnstream/churnstream/scoring"
)

// DefaultSamples is how many neighbours the original explainer draws unless
// set otherwise.
const DefaultSamples = 5000

// SampledLIME is tabular LIME by sampling, as its authors' package computes it
// with default settings and all features kept (Ribeiro, Singh and Guestrin,
// "Why should I trust you?", 2016). It is what Predictor.LIME does away with,
// and stands here as the baseline:
//
//   - A neighbour draws each feature by itself: a level by its frequency; of a
//     number first the quartile bin by its frequency, then a value from a normal
//     with the bin's mean and standard deviation, truncated to the bin.
//   - z_j is 1 where the neighbour's level or bin is the customer's. The first
//     neighbour is the customer.
//   - A neighbour with d zeros has weight exp(−d/(2w²)), where w is 0.75·√n for
//     n features unless the model says otherwise.
//   - The weights are the coefficients of the weighted ridge regression of the
//     probability on z, with penalty 1 and an intercept that has none.
//
// It is written to be fast as well as faithful: the normal equations are summed
// while drawing, over the ones of z only, and no neighbour is kept. It is safe
// for concurrent use, each goroutine with its own source of random numbers.
type SampledLIME struct {
	predictor *scoring.Predictor
	features  []sampledFeature
	samples   int
	kernel    []float64 // weight by number of zeros
}

// sampledFeature is how one feature is drawn.
type sampledFeature struct {
	cumulative []float64 // probability up to and including each level or bin
	codes      []float64 // of a categorical feature's levels
	quartiles  []float64
	bins       []scoring.Bin // of a number; nil for a categorical feature
}

// NewSampledLIME prepares runs of the given number of samples (0:
// DefaultSamples) for a predictor, which was compiled with the vocabulary.
func NewSampledLIME(p *scoring.Predictor, v *scoring.Vocabulary, samples int) (*SampledLIME, error) {
	if samples == 0 {
		samples = DefaultSamples
	}
	if samples < 0 {
		return nil, fmt.Errorf("sampled LIME: %d samples", samples)
	}
	n := p.Spec().Len()
	l := &SampledLIME{predictor: p, samples: samples, features: make([]sampledFeature, n)}
	model := p.Model()
	for i := range model.Features {
		mf := &model.Features[i]
		j, ok := p.Spec().Index(mf.Name)
		if !ok {
			return nil, fmt.Errorf("sampled LIME: feature %q is not in the specification", mf.Name)
		}
		f := &l.features[j]
		frequency := mf.Frequency
		if mf.Kind == scoring.Numeric.String() {
			f.bins, f.quartiles, frequency = mf.Bins, mf.Quartiles, nil
			for _, b := range mf.Bins {
				frequency = append(frequency, b.Frequency)
			}
		}
		for _, level := range mf.Levels {
			code, ok := v.Lookup(j, level)
			if !ok {
				return nil, fmt.Errorf("sampled LIME: level %q of %s is not in the vocabulary", level, mf.Name)
			}
			f.codes = append(f.codes, code)
		}
		sum := 0.0
		for _, share := range frequency {
			sum += share
			f.cumulative = append(f.cumulative, sum)
		}
		for k := range f.cumulative {
			f.cumulative[k] /= sum
		}
	}
	width := model.KernelWidth
	if width == 0 {
		width = 0.75 * math.Sqrt(float64(n))
	}
	for zeros := range n + 1 {
		l.kernel = append(l.kernel, math.Exp(-float64(zeros)/(2*width*width)))
	}
	return l, nil
}

// ErrSingular is returned when the regression has no solution, which the ridge
// penalty rules out for finite probabilities.
var ErrSingular = errors.New("sampled LIME: the normal equations are singular")

// Explain returns the weights that one run finds, one per feature, in dst if
// that has room. The customer's values must all be known to the model.
func (l *SampledLIME) Explain(dst []float64, x scoring.Vector, rng *rand.Rand) ([]float64, error) {
	n := len(l.features)
	own := make([]int, n)
	for j := range own {
		own[j] = l.features[j].level(x[j])
	}
	var (
		drawn         = make(scoring.Vector, n)
		ones          = make([]int, 0, n)
		total, totalY float64
		sum           = make([]float64, n)   // Σ weight·z_j
		cross         = make([]float64, n*n) // Σ weight·z_i·z_j, upper triangle
		crossY        = make([]float64, n)   // Σ weight·z_j·y
	)
	for s := range l.samples {
		ones = ones[:0]
		for j := range l.features {
			f := &l.features[j]
			level := own[j]
			if s == 0 {
				drawn[j] = x[j]
			} else {
				level = f.drawLevel(rng)
				drawn[j] = f.drawValue(level, rng)
			}
			if level == own[j] {
				ones = append(ones, j)
			}
		}
		y, weight := l.predictor.Probability(drawn), l.kernel[n-len(ones)]
		total += weight
		totalY += weight * y
		for i, a := range ones {
			sum[a] += weight
			crossY[a] += weight * y
			row := cross[a*n:][:n]
			for _, b := range ones[i:] {
				row[b] += weight
			}
		}
	}
	// The intercept has no penalty, so centring removes it.
	normal, right := mat.NewSymDense(n, nil), mat.NewVecDense(n, nil)
	for i := range n {
		right.SetVec(i, crossY[i]-sum[i]*totalY/total)
		for j := i; j < n; j++ {
			normal.SetSym(i, j, cross[i*n+j]-sum[i]*sum[j]/total)
		}
		normal.SetSym(i, i, normal.At(i, i)+1)
	}
	var cholesky mat.Cholesky
	if !cholesky.Factorize(normal) {
		return nil, ErrSingular
	}
	var beta mat.VecDense
	if err := cholesky.SolveVecTo(&beta, right); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSingular, err)
	}
	return append(dst[:0], beta.RawVector().Data...), nil
}

// level returns the position of a value's level or bin, -1 if unknown.
func (f *sampledFeature) level(x float64) int {
	if f.bins != nil {
		return sort.SearchFloat64s(f.quartiles, x)
	}
	for i, code := range f.codes {
		if code == x {
			return i
		}
	}
	return -1
}

func (f *sampledFeature) drawLevel(rng *rand.Rand) int {
	u := rng.Float64()
	for i, c := range f.cumulative {
		if u < c {
			return i
		}
	}
	return len(f.cumulative) - 1
}

func (f *sampledFeature) drawValue(level int, rng *rand.Rand) float64 {
	if f.bins == nil {
		return f.codes[level]
	}
	return drawTruncated(&f.bins[level], rng)
}

// drawTruncated draws from a normal truncated to a bin, which contains its
// mean: by rejection from the normal, or where that is wide from the uniform
// distribution, so that a draw takes few attempts.
func drawTruncated(b *scoring.Bin, rng *rand.Rand) float64 {
	width := b.Max - b.Min
	switch {
	case b.Std == 0 || width == 0:
		return min(max(b.Mean, b.Min), b.Max)
	case b.Std < width:
		for {
			if x := b.Mean + b.Std*rng.NormFloat64(); b.Min <= x && x <= b.Max {
				return x
			}
		}
	}
	for {
		x := b.Min + width*rng.Float64()
		if z := (x - b.Mean) / b.Std; rng.Float64() < math.Exp(-z*z/2) {
			return x
		}
	}
}
