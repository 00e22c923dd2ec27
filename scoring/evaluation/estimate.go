package evaluation

import (
	"cmp"
	"math"
	"slices"

	"github.com/churnstream/churnstream/scoring"
)

// Estimate is the figures to expect of scores whose labels are not known yet.
type Estimate struct {
	Rows int64
	// Churners is the sum of the probabilities.
	Churners float64
	// Figures are the expected accuracy, area under the ROC curve, log loss and
	// Brier score; the others are Missing.
	Figures
	// Lower and Upper hold the figure that the labels will give with a
	// probability of 95 %, if the probabilities are right.
	Lower, Upper Figures
}

// Expect returns the figures to expect of probabilities, on the assumption that
// they are calibrated: that of the customers with probability p, the share p will
// churn, each independently of the others. So give it one score of a customer.
// Missing ones are left out.
//
// It sees when a model says less than it did, because customers have come to be
// where it cannot tell them apart. It cannot see a change in what makes customers
// leave: then the probabilities themselves are wrong, and so is what is expected
// of them. Only labels tell.
//
// With labels Y of probability p the mean and variance of a figure are, for n rows,
//
//	accuracy   mean of max(p, 1−p)            Σ p(1−p) / n²
//	log loss   mean of −p ln p − (1−p)ln(1−p) Σ p(1−p) ln²(p/(1−p)) / n²
//	Brier      mean of p(1−p)                 Σ p(1−p)(1−2p)² / n²
//
// and the area under the ROC curve is N/D with N = Σ Y_i(1−Y_j)k_ij over i ≠ j,
// where k is 1 if p_i > p_j and ½ if they tie, and D the same with k = 1. Expected
// is E N / E D, and its variance by the delta method Σ g_i² p_i(1−p_i) with
//
//	g_i = (∂N/∂p_i − N/D · ∂D/∂p_i) / D
//
// at Y = p, in n log n steps. The bounds are 1.96 standard deviations away, within
// what the figure can be.
func Expect(probabilities []float64) Estimate {
	p := slices.DeleteFunc(slices.Clone(probabilities), scoring.IsMissing)
	slices.SortFunc(p, func(a, b float64) int { return cmp.Compare(b, a) })
	e := Estimate{Rows: int64(len(p)), Figures: Undefined(), Lower: Undefined(), Upper: Undefined()}
	if len(p) == 0 {
		return e
	}
	n := float64(len(p))
	var accuracy, loss, brier, accuracyVariance, lossVariance, brierVariance float64
	for _, p := range p {
		variance := p * (1 - p)
		e.Churners += p
		accuracy += max(p, 1-p)
		accuracyVariance += variance
		loss += entropy(p)
		if variance > 0 {
			logit := math.Log(p) - math.Log1p(-p)
			lossVariance += variance * logit * logit
		}
		brier += variance
		brierVariance += variance * (1 - 2*p) * (1 - 2*p)
	}
	e.Accuracy, e.Lower.Accuracy, e.Upper.Accuracy = within(accuracy/n, accuracyVariance/n/n, 1)
	e.LogLoss, e.Lower.LogLoss, e.Upper.LogLoss = within(loss/n, lossVariance/n/n, math.Inf(1))
	e.Brier, e.Lower.Brier, e.Upper.Brier = within(brier/n, brierVariance/n/n, 1)
	if area, variance := expectedArea(p, e.Churners); !scoring.IsMissing(area) {
		e.ROCAUC, e.Lower.ROCAUC, e.Upper.ROCAUC = within(area, variance, 1)
	}
	return e
}

func within(mean, variance, most float64) (figure, lower, upper float64) {
	half := 1.959963984540054 * math.Sqrt(variance)
	return mean, max(mean-half, 0), min(mean+half, most)
}

// expectedArea is that under the ROC curve and its variance. The probabilities
// fall, and churners is their sum.
func expectedArea(p []float64, churners float64) (area, variance float64) {
	stayers := float64(len(p)) - churners
	var above, numerator, same float64 // churners above, N, Σ p(1−p)
	numeratorSlope := make([]float64, len(p))
	passed := 0.0 // stayers above
	for i := 0; i < len(p); {
		end, churned, stayed := i, 0.0, 0.0
		for ; end < len(p) && p[end] == p[i]; end++ {
			churned += p[end]
			stayed += 1 - p[end]
		}
		below := max(stayers-passed-stayed, 0)
		for j := i; j < end; j++ {
			q := 1 - p[j]
			same += p[j] * q
			// of being a churner: stayers below; of not being a stayer: churners above
			numeratorSlope[j] = below + (stayed-q)/2 - above - (churned-p[j])/2
			numerator += p[j] * (below + (stayed-q)/2)
		}
		above += churned
		passed += stayed
		i = end
	}
	denominator := churners*stayers - same
	if !(denominator > 0) {
		return scoring.Missing, scoring.Missing
	}
	area = numerator / denominator
	for i, p := range p {
		slope := (stayers - (1 - p)) - (churners - p)
		g := (numeratorSlope[i] - area*slope) / denominator
		variance += g * g * p * (1 - p)
	}
	return area, variance
}
