package scoring

import (
	"cmp"
	"math"
	"slices"
)

// Metrics are the figures of a probabilistic classifier on labelled rows.
type Metrics struct {
	// Rows is the number of labelled rows.
	Rows int64
	// Accuracy, Precision, Recall and F1 are taken at probability 0.5.
	// Precision, Recall and F1 are 0 where their denominator is.
	Accuracy, Precision, Recall, F1 float64
	// ROCAUC is the area under the ROC curve, ties counting half; 0.5 when
	// only one class is present.
	ROCAUC float64
	// LogLoss is the mean negative log-likelihood (natural logarithm), with
	// probabilities kept 1e-15 away from 0 and 1.
	LogLoss float64
	// Brier is the mean squared error of the probability.
	Brier float64
	// CalibrationError is the expected calibration error over ten bins of
	// equal width.
	CalibrationError float64
	// TopDecileLift is the churn rate among the tenth of rows with the highest
	// probability, over the overall churn rate; 0 without churners.
	TopDecileLift float64
}

// Evaluate computes the metrics of probabilities against what became of the
// customers. A probability of 0.5 or more predicts churn. Where probabilities
// tie across the edge of the top decile, the tied rows count in proportion. No
// rows give zero metrics, but an area under the curve of 0.5. It panics when
// the lengths differ.
func Evaluate(probability []float64, churned []bool) Metrics {
	if len(probability) != len(churned) {
		panic("scoring: Evaluate needs one outcome a probability")
	}
	m := Metrics{Rows: int64(len(probability)), ROCAUC: 0.5}
	if m.Rows == 0 {
		return m
	}
	const bins = 10
	var (
		n                            = float64(m.Rows)
		truePos, falsePos, positives float64
		correct                      float64
		binSum, binChurn             [bins]float64
	)
	for i, p := range probability {
		y := 0.0
		if churned[i] {
			y = 1
			positives++
		}
		switch predicted := p >= 0.5; {
		case predicted && churned[i]:
			truePos++
			correct++
		case predicted:
			falsePos++
		case !churned[i]:
			correct++
		}
		const edge = 1e-15
		kept := min(max(p, edge), 1-edge)
		if churned[i] {
			m.LogLoss -= math.Log(kept)
		} else {
			m.LogLoss -= math.Log1p(-kept)
		}
		m.Brier += (p - y) * (p - y)
		b := min(max(int(p*bins), 0), bins-1)
		binSum[b] += p
		binChurn[b] += y
	}
	m.Accuracy = correct / n
	m.Precision = ratio(truePos, truePos+falsePos)
	m.Recall = ratio(truePos, positives)
	m.F1 = ratio(2*truePos, truePos+falsePos+positives)
	m.LogLoss /= n
	m.Brier /= n
	for b := range bins {
		m.CalibrationError += math.Abs(binChurn[b]-binSum[b]) / n
	}
	m.ROCAUC, m.TopDecileLift = ranking(probability, churned, positives)
	return m
}

// ranking returns the area under the ROC curve (Mann and Whitney's statistic,
// with ties counting half) and the lift in the top decile.
func ranking(probability []float64, churned []bool, positives float64) (auc, lift float64) {
	n := len(probability)
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(probability[b], probability[a]) })
	decile := math.Ceil(float64(n) / 10)
	var above, pairs, caught float64 // churners ranked above, ordered pairs, churners in the decile
	for i := 0; i < n; {
		end, tied := i, 0.0
		for ; end < n && cmp.Compare(probability[order[end]], probability[order[i]]) == 0; end++ {
			if churned[order[end]] {
				tied++
			}
		}
		rows := float64(end - i)
		pairs += (rows - tied) * (above + tied/2)
		caught += tied * min(max((decile-float64(i))/rows, 0), 1)
		above += tied
		i = end
	}
	auc = 0.5
	if negatives := float64(n) - positives; positives > 0 && negatives > 0 {
		auc = pairs / (positives * negatives)
	}
	return auc, ratio(caught/decile, positives/float64(n))
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
