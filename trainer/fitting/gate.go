package fitting

import (
	"fmt"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
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
	Metrics         evaluation.Metrics
	ChampionMetrics *evaluation.Metrics
	// Comparison is of both on these rows, where there is a champion; the
	// candidate is the challenger.
	evaluation.Comparison
}

// Judge compares a candidate with the champion (nil: there is none) on the
// candidate's holdout. The candidate is promoted when there is no champion, when
// its log loss is lower, or when a new model is demanded and the candidate's
// log loss is not higher beyond chance; see evaluation.Compare. Rows of one class
// decide nothing: there, whoever gives everybody the same extreme is best.
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
	theirs := champion.Predictor.For(c.data.vocabulary)
	metrics := evaluation.Evaluate(c.data.scored(theirs, c.Holdout))
	v.ChampionMetrics = &metrics
	v.Comparison = c.against(theirs)
	interval := "of too few customers for an interval"
	if !scoring.IsMissing(v.Lower) {
		interval = fmt.Sprintf("95 %% interval %+.3g to %+.3g", v.Lower, v.Upper)
	}
	figures := fmt.Sprintf("log loss %.4f against %.4f of version %d on the same %d holdout rows (difference %+.3g, %s)",
		v.Metrics.LogLoss, metrics.LogLoss, champion.Version, v.Metrics.Rows, v.Difference, interval)
	switch churners := c.data.churnersIn(c.Holdout); {
	case churners == 0 || churners == len(c.Holdout):
		left := "none"
		if churners > 0 {
			left = "each"
		}
		v.Reason = fmt.Sprintf("not judged, as %s of the %d holdout customers left: %s", left, len(c.Holdout), figures)
	case v.Difference < 0:
		v.Promote = true
		v.Reason = "better: " + figures
	case champion.Demand != "" && v.Lower <= 0: // false without an interval
		v.Promote = true
		v.Reason = "not worse beyond chance, and " + champion.Demand + ": " + figures
	default:
		v.Reason = "not better: " + figures
	}
	return v
}
