package evaluation

import (
	"math"
	"strconv"

	"github.com/churnstream/churnstream/scoring"
)

// Figures say how good probabilities are. One that is not defined is
// scoring.Missing; without examples, all are.
type Figures struct {
	// Accuracy is the share of right predictions. A probability of 0.5 or more
	// predicts churn.
	Accuracy float64
	// Precision is the share of predicted churners that churned, not defined if
	// none was predicted; Recall the share of churners that were predicted, not
	// defined if there was none; F1 the harmonic mean of both, 2·TP/(2·TP+FP+FN),
	// not defined if there is neither a churner nor a prediction of one.
	Precision, Recall, F1 float64
	// ROCAUC is the area under the ROC curve, ties counting half: the
	// probability that a churner has a greater score than a stayer. It is not
	// defined when only one class is present.
	ROCAUC float64
	// PRAUC is the average precision, the sum of precision over the steps of
	// recall without interpolation, as scikit-learn's average_precision_score
	// has it. It is not defined without churners.
	PRAUC float64
	// LogLoss is the mean negative log-likelihood (natural logarithm), with the
	// probability of what happened kept 2⁻⁵² away from 0 and 1.
	LogLoss float64
	// LogLossSkill is 1 − LogLoss/H, where H is the log loss of the examples'
	// own churn rate as everybody's probability. At 0 and below, the scores say
	// no more than that rate. It is not defined when only one class is present.
	LogLossSkill float64
	// Brier is the mean squared error of the probability.
	Brier float64
	// CalibrationError is the expected calibration error over the bins of
	// Ranking.Calibration: the mean distance of the mean probability from the
	// churn rate, over all examples.
	CalibrationError float64
	// TopDecileLift is the churn rate among the tenth of examples with the
	// highest probability (rounded up), over the overall churn rate; examples
	// that tie across the edge count in proportion. It is not defined without
	// churners.
	TopDecileLift float64
}

// Figure is one of Figures.
type Figure struct {
	// Name is what it is called in metrics, schemas, tables and JSON.
	Name string
	// Help is what it is, as the beginning of a sentence.
	Help string
	// Of returns where it is.
	Of func(*Figures) *float64
}

// All are the figures, in the order of Figures' fields.
var All = []Figure{
	{"accuracy", "Share of right predictions at probability 0.5", func(f *Figures) *float64 { return &f.Accuracy }},
	{"precision", "Share of predicted churners that churned", func(f *Figures) *float64 { return &f.Precision }},
	{"recall", "Share of churners that were predicted", func(f *Figures) *float64 { return &f.Recall }},
	{"f1", "Harmonic mean of precision and recall", func(f *Figures) *float64 { return &f.F1 }},
	{"roc_auc", "Area under the ROC curve", func(f *Figures) *float64 { return &f.ROCAUC }},
	{"pr_auc", "Average precision, the area under the precision-recall curve", func(f *Figures) *float64 { return &f.PRAUC }},
	{"log_loss", "Mean negative log-likelihood, natural logarithm", func(f *Figures) *float64 { return &f.LogLoss }},
	{"log_loss_skill", "One minus the log loss over that of the churn rate itself", func(f *Figures) *float64 { return &f.LogLossSkill }},
	{"brier", "Mean squared error of the probability", func(f *Figures) *float64 { return &f.Brier }},
	{"calibration_error", "Expected calibration error over ten bins", func(f *Figures) *float64 { return &f.CalibrationError }},
	{"top_decile_lift", "Churn rate among the tenth with the highest probability, over the overall churn rate", func(f *Figures) *float64 { return &f.TopDecileLift }},
}

// Undefined returns figures of which none is defined.
func Undefined() Figures {
	var f Figures
	for _, figure := range All {
		*figure.Of(&f) = scoring.Missing
	}
	return f
}

// Metrics are figures on labelled examples and how far chance may have moved them.
type Metrics struct {
	// Rows is the number of examples, Churners how many of them churned.
	Rows, Churners int64
	Figures
	// Lower and Upper are the ends of the 95 % intervals; see Ranking.Intervals.
	Lower, Upper Figures
}

// NoMetrics returns the metrics of no examples.
func NoMetrics() Metrics {
	return Metrics{Figures: Undefined(), Lower: Undefined(), Upper: Undefined()}
}

// MarshalJSON writes an object with "rows", "churners", every figure by its name,
// and the ends of its interval by the name with _lower and _upper. What is not
// defined is null.
func (m Metrics) MarshalJSON() ([]byte, error) {
	dst := append([]byte(`{"rows":`), strconv.FormatInt(m.Rows, 10)...)
	dst = append(dst, `,"churners":`...)
	dst = strconv.AppendInt(dst, m.Churners, 10)
	dst = m.Figures.appendMembers(append(dst, ','), "")
	dst = m.Lower.appendMembers(append(dst, ','), "_lower")
	dst = m.Upper.appendMembers(append(dst, ','), "_upper")
	return append(dst, '}'), nil
}

// MarshalJSON writes an object with every figure by its name, null where it is not
// defined.
func (f Figures) MarshalJSON() ([]byte, error) {
	return append(f.appendMembers([]byte{'{'}, ""), '}'), nil
}

func (f *Figures) appendMembers(dst []byte, suffix string) []byte {
	for i, figure := range All {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `"`+figure.Name+suffix+`":`...)
		if x := *figure.Of(f); math.IsNaN(x) || math.IsInf(x, 0) {
			dst = append(dst, "null"...)
		} else {
			dst = strconv.AppendFloat(dst, x, 'g', -1, 64)
		}
	}
	return dst
}
