package quality

import "slices"

// Finding is a figure that is not what it should be, beyond chance.
type Finding struct {
	// Figure is its name in metrics.
	Figure string
	// Measured is the figure on the window, Promised that of the holdout; with the
	// skill, which has to be above 0 whatever was promised, that is 0.
	Measured, Promised Interval
}

// lowerIsBetter are the figures of which less is better.
var lowerIsBetter = []string{"log_loss", "brier", "calibration_error"}

// LowerIsBetter says that less of a figure is better.
func LowerIsBetter(figure string) bool { return slices.Contains(lowerIsBetter, figure) }

// Worse says that a measured figure is worse than what was promised, beyond
// chance: their 95 % intervals do not meet. It is false where one of them is not
// defined.
func Worse(figure string, measured, promised Interval) bool {
	if LowerIsBetter(figure) {
		return measured.Lower > promised.Upper
	}
	return measured.Upper < promised.Lower
}

// Fallen says by which figure a version has fallen below what is asked of it, if
// it has: its log loss is that of the base rate or worse, or its area under the
// ROC curve or its calibration error is worse than on its holdout, each beyond
// chance. It is the condition of the alerts ChurnModelSkillLost,
// ChurnModelRankingFallen and ChurnModelMiscalibrated.
func (v *Version) Fallen() (Finding, bool) {
	if v == nil {
		return Finding{}, false
	}
	if skill := v.Measured["log_loss_skill"]; skill.Upper < 0 {
		return Finding{"log_loss_skill", skill, Interval{}}, true
	}
	for _, figure := range []string{"roc_auc", "calibration_error"} {
		measured, is := v.Measured[figure]
		promised, was := v.Holdout[figure]
		if is && was && Worse(figure, measured, promised) {
			return Finding{figure, measured, promised}, true
		}
	}
	return Finding{}, false
}
