package quality

import (
	"cmp"
	"math"
	"slices"
)

// titles are the figures as people read them in a sentence.
var titles = map[string]string{
	"log_loss": "log loss", "log_loss_skill": "skill", "roc_auc": "ROC AUC", "pr_auc": "PR AUC",
	"calibration_error": "calibration error", "brier": "Brier score", "top_decile_lift": "top decile lift",
	"f1": "F1",
}

// Title returns the name of a figure for people, as it stands in a sentence.
func Title(figure string) string { return cmp.Or(titles[figure], figure) }

// Finding is a figure that is not what it should be, beyond chance.
type Finding struct {
	// Figure is its name in metrics.
	Figure string
	// Measured is the figure that the version is judged by, Promised that of the holdout; with the
	// skill, which has to be above 0 whatever was promised, that is 0.
	Measured, Promised Interval
}

// lowerIsBetter are the figures of which less is better.
var lowerIsBetter = []string{"log_loss", "brier", "calibration_error"}

// LowerIsBetter says that less of a figure is better.
func LowerIsBetter(figure string) bool { return slices.Contains(lowerIsBetter, figure) }

// Worse says that a measured figure is worse than on the holdout, beyond chance:
// their 95 % intervals do not meet. It is false where one of them is not defined.
func (v *Version) Worse(figure string) bool {
	judged := v.Judged()
	measured, is := judged.Figures[figure]
	promised, was := v.Holdout[figure]
	if !is || !was {
		return false
	}
	if !LowerIsBetter(figure) {
		return measured.Upper < promised.Lower
	}
	lower := float64(measured.Lower)
	if figure == "calibration_error" {
		lower -= judged.chance()
	}
	return lower > float64(promised.Upper)
}

// chance is what the calibration error is above 0 at most when probabilities are
// right, in few examples: sqrt(2/π)·sqrt(10 bins · mean of p(1−p) / examples), with
// the Brier score for p(1−p).
func (s *Sample) chance() float64 {
	return 2.53 * math.Sqrt(float64(s.Figures["brier"].Value)/float64(s.Rows))
}

// Fallen says by which figure a version has fallen below what is asked of it, if
// it has: its log loss is that of the churn rate or worse, or its area under the
// ROC curve or its calibration error is worse than on its holdout, each beyond
// chance. Of the champion these are the conditions of the alerts ChurnModelWorseThanBaseRate,
// ChurnModelAUCLow and ChurnModelCalibrationOff.
func (v *Version) Fallen() (Finding, bool) {
	if v == nil {
		return Finding{}, false
	}
	judged := v.Judged().Figures
	if skill := judged["log_loss_skill"]; skill.Upper < 0 {
		return Finding{"log_loss_skill", skill, Interval{}}, true
	}
	for _, figure := range []string{"roc_auc", "calibration_error"} {
		if v.Worse(figure) {
			return Finding{figure, judged[figure], v.Holdout[figure]}, true
		}
	}
	return Finding{}, false
}

// EnoughRows is from how many examples on it is said how good a version is, as the
// alert ChurnModelNoSkill does.
const EnoughRows = 200

// Standing is how good a version is by what became of customers.
type Standing int

// The standings. Intervals are of 95 %.
const (
	// Untold: there are too few examples, or no intervals that tell chance apart.
	Untold Standing = iota
	// Fallen: see [Version.Fallen].
	Fallen
	// NoSkill: the log loss is that of the churn rate or worse, which may be chance.
	// It is what the alert ChurnModelNoSkill waits for.
	NoSkill
	// Unproven: the log loss is better than that of the churn rate, which may be
	// chance.
	Unproven
	// Better: the log loss is better than that of the churn rate beyond chance.
	Better
)

// Stands says how good a version is, and by what it has fallen if it has.
func (v *Version) Stands() (Standing, Finding) {
	if found, fallen := v.Fallen(); fallen {
		return Fallen, found
	}
	if v == nil {
		return Untold, Finding{}
	}
	judged := v.Judged()
	if judged.Rows < EnoughRows {
		return Untold, Finding{}
	}
	skill, is := judged.Figures["log_loss_skill"]
	switch {
	case is && skill.Value <= 0:
		return NoSkill, Finding{"log_loss_skill", skill, Interval{}}
	case !is || !skill.bounded():
		return Untold, Finding{}
	case skill.Lower <= 0:
		return Unproven, Finding{}
	}
	return Better, Finding{}
}

// Comparable says that chance can be told apart in the figures that Fallen compares
// with those of the holdout.
func (v *Version) Comparable() bool {
	judged := v.Judged().Figures
	for _, figure := range []string{"roc_auc", "calibration_error"} {
		measured, is := judged[figure]
		promised, was := v.Holdout[figure]
		if !is || !was || !measured.bounded() || !promised.bounded() {
			return false
		}
	}
	return true
}

func (i Interval) bounded() bool { return i.Lower.Defined() && i.Upper.Defined() }
