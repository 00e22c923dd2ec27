package fitting

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/churnstream/churnstream/scoring"
)

// Champion is the model in use, as the gate sees it.
type Champion struct {
	// Version is its number in the reason.
	Version   int64
	Predictor *scoring.Predictor
	// Demand says in words why a new model is wanted that is no better, such
	// as the champion's age; empty if it is not.
	Demand string
}

// Verdict is what the gate decided, and on what grounds.
type Verdict struct {
	// Promote says that the candidate is to become the champion.
	Promote bool
	// Reason says why, or why not, in words.
	Reason string
	// Metrics are the candidate's and ChampionMetrics the champion's, on the
	// same holdout rows; ChampionMetrics is nil when there is no champion.
	Metrics         scoring.Metrics
	ChampionMetrics *scoring.Metrics
	// Difference is the candidate's log loss minus the champion's, Low and
	// High its 95 % bootstrap interval.
	Difference, Low, High float64
}

// Judge compares a candidate with the champion (nil: there is none) on the
// candidate's holdout. The candidate is promoted when there is no champion, when
// its log loss is lower, or when a new model is demanded and the candidate's
// log loss is not higher beyond chance: the 95 % bootstrap interval of the
// paired difference reaches down to zero.
//
// The champion may have been trained on some of the holdout rows, which then
// favour it; the candidate never has.
func Judge(c *Candidate, champion *Champion) Verdict {
	v := Verdict{Metrics: c.Metrics}
	if champion == nil {
		v.Promote = true
		v.Reason = fmt.Sprintf("there was no champion; log loss %.4f on %d holdout rows", v.Metrics.LogLoss, v.Metrics.Rows)
		return v
	}
	churned := c.data.labels(c.Holdout)
	own := c.data.probabilities(c.Predictor, c.Holdout)
	theirs := c.data.probabilities(champion.Predictor.For(c.data.vocabulary), c.Holdout)
	metrics := scoring.Evaluate(theirs, churned)
	v.ChampionMetrics = &metrics
	differences := make([]float64, len(churned))
	for i := range differences {
		differences[i] = logLoss(own[i], churned[i]) - logLoss(theirs[i], churned[i])
		v.Difference += differences[i] / float64(len(differences))
	}
	v.Low, v.High = bootstrap(differences)
	figures := fmt.Sprintf("log loss %.4f against %.4f of version %d on the same %d holdout rows (difference %+.3g, 95 %% interval %+.3g to %+.3g)",
		v.Metrics.LogLoss, metrics.LogLoss, champion.Version, v.Metrics.Rows, v.Difference, v.Low, v.High)
	switch {
	case v.Difference < 0:
		v.Promote = true
		v.Reason = "better: " + figures
	case champion.Demand != "" && v.Low <= 0:
		v.Promote = true
		v.Reason = "not worse beyond chance, and " + champion.Demand + ": " + figures
	default:
		v.Reason = "not better: " + figures
	}
	return v
}

// logLoss is that of one row, with the clipping of scoring.Metrics.
func logLoss(p float64, churned bool) float64 {
	if !churned {
		p = 1 - p
	}
	return -math.Log(min(max(p, 1e-15), 1-1e-15))
}

const (
	resamples    = 2000
	maxResampled = 10_000
)

// bootstrap returns the 2.5 and 97.5 percentiles of the mean of resampled
// values. Of more than maxResampled values, which are exchangeable, it
// resamples means of groups of equal size, which bounds the time and leaves
// the mean's variance as it is. The seed is fixed: the same rows give the same
// verdict.
func bootstrap(values []float64) (low, high float64) {
	if n := len(values); n > maxResampled {
		size := (n + maxResampled - 1) / maxResampled
		groups := make([]float64, n/size) // the last few rows of an incomplete group are left out
		for g := range groups {
			for _, v := range values[g*size : (g+1)*size] {
				groups[g] += v / float64(size)
			}
		}
		values = groups
	}
	r := rand.New(rand.NewPCG(1, 2))
	means := make([]float64, resamples)
	for k := range means {
		sum := 0.0
		for range values {
			sum += values[r.IntN(len(values))]
		}
		means[k] = sum / float64(len(values))
	}
	slices.Sort(means)
	return quantile(means, 0.025), quantile(means, 0.975)
}
