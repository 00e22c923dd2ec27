package benchmarks

import (
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"

	"github.com/churnstream/churnstream/scoring"
)

// Scatter is one customer explained many times by sampling, and once exactly.
type Scatter struct {
	Case          string
	Runs, Samples int
	Probability   float64
	// Features are in the order of the exact weights, the greatest first.
	Features []FeatureScatter
	// OtherTop is the share of runs whose five greatest weights are not, or not
	// in this order, those of the five greatest exact ones; OtherSign is the
	// share of all weights that point the other way.
	OtherTop, OtherSign float64
}

// FeatureScatter is one feature's part of a Scatter. Weights are on the
// probability scale.
type FeatureScatter struct {
	Feature, Value string
	Exact          float64
	// Sampled holds the weight of every run; Mean and Std are theirs.
	Sampled   []float64
	Mean, Std float64
}

// Z returns by how many of its standard errors the mean of the runs is off the
// exact weight.
func (f *FeatureScatter) Z() float64 {
	return (f.Mean - f.Exact) / (f.Std / math.Sqrt(float64(len(f.Sampled))))
}

// RMSZ returns the root mean square of all features' Z. If the exact weights
// are what sampling converges to, it is near 1.
func (s *Scatter) RMSZ() float64 {
	sum := 0.0
	for i := range s.Features {
		sum += s.Features[i].Z() * s.Features[i].Z()
	}
	return math.Sqrt(sum / float64(len(s.Features)))
}

// MeasureScatter explains a customer by runs of sampling, each with a seed of
// its own (0, 1, 2, …).
func MeasureScatter(c *Case, x scoring.Vector, runs, samples int) (*Scatter, error) {
	l, err := NewSampledLIME(c.Predictor, c.Vocabulary, samples)
	if err != nil {
		return nil, err
	}
	exact := c.Predictor.LIME(nil, x, c.Predictor.NewWorkspace())
	const top = 5
	order := scoring.TopByMagnitude(nil, exact, -1)
	first := order[:min(top, len(order))]
	s := &Scatter{Case: c.Name, Runs: runs, Samples: l.samples, Probability: c.Predictor.Probability(x)}
	sampled := make([][]float64, len(exact))
	for seed := range runs {
		weights, err := l.Explain(nil, x, rand.New(rand.NewPCG(uint64(seed), 0)))
		if err != nil {
			return nil, err
		}
		for j, w := range weights {
			sampled[j] = append(sampled[j], w)
			if w*exact[j] < 0 {
				s.OtherSign += 1 / float64(runs*len(exact))
			}
		}
		if !slices.Equal(scoring.TopByMagnitude(nil, weights, len(first)), first) {
			s.OtherTop += 1 / float64(runs)
		}
	}
	for _, j := range order {
		f := FeatureScatter{
			Feature: c.Predictor.Spec().Feature(j).Name, Value: c.text(j, x[j]),
			Exact: exact[j], Sampled: sampled[j],
		}
		f.Mean, f.Std = stat.MeanStdDev(f.Sampled, nil)
		s.Features = append(s.Features, f)
	}
	return s, nil
}
