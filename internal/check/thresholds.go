package check

import (
	"fmt"
	"strconv"

	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/scoring"
)

// Thresholds are what the figures of all scores in force have to keep to. Nil is
// anything.
type Thresholds struct {
	MinExamples int64 `name:"min-examples" help:"Fewest examples with a score." default:"1" unit:"examples"`

	MinROCAUC           *float64 `name:"min-roc-auc" help:"Least area under the ROC curve." placeholder:"AREA"`
	MinPRAUC            *float64 `name:"min-pr-auc" help:"Least average precision." placeholder:"AREA"`
	MinSkill            *float64 `name:"min-skill" help:"Least skill: 1 minus the log loss over that of the churn rate itself. Below 0 the scores are worse than one number for all." placeholder:"SKILL"`
	MinAccuracy         *float64 `name:"min-accuracy" help:"Least share of right predictions. Where few leave, it says little." placeholder:"SHARE"`
	MinPrecision        *float64 `name:"min-precision" help:"Least share of predicted churners that left." placeholder:"SHARE"`
	MinRecall           *float64 `name:"min-recall" help:"Least share of those who left that was predicted." placeholder:"SHARE"`
	MinLift             *float64 `name:"min-lift" help:"Least lift in the tenth with the highest probabilities." placeholder:"TIMES"`
	MaxLogLoss          *float64 `name:"max-log-loss" help:"Greatest log loss." placeholder:"NATS"`
	MaxBrier            *float64 `name:"max-brier" help:"Greatest Brier score." placeholder:"SCORE"`
	MaxCalibrationError *float64 `name:"max-calibration-error" help:"Greatest expected calibration error." placeholder:"ERROR"`

	BeyondChance bool `name:"beyond-chance" help:"A threshold is missed only if the whole 95 % interval of the figure is beyond it."`
}

// Result is what became of one threshold.
type Result struct {
	// Threshold is the flag's name, and Limit its value.
	Threshold string  `json:"threshold"`
	Limit     float64 `json:"limit"`
	// Name is the figure's, "" of the number of examples.
	Name string `json:"name,omitempty"`
	// Figure is what was measured.
	Figure quality.Interval `json:"figure"`
	Met    bool             `json:"met"`
	// Why says what is the matter, "" if it is met.
	Why string `json:"why,omitempty"`
}

// judge holds figures against the thresholds that are given.
func (t *Thresholds) judge(m *Measured) (results []Result) {
	few := Result{Threshold: "min-examples", Limit: float64(t.MinExamples), Met: m.Rows >= t.MinExamples,
		Figure: quality.Interval{Value: quality.Number(m.Rows), Lower: quality.Number(m.Rows), Upper: quality.Number(m.Rows)}}
	if !few.Met {
		few.Why = fmt.Sprintf("%d examples with a score, fewer than %d", m.Rows, t.MinExamples)
	}
	results = append(results, few)
	for _, c := range []struct {
		name, figure string
		limit        *float64
		least        bool
	}{
		{"min-roc-auc", "roc_auc", t.MinROCAUC, true},
		{"min-pr-auc", "pr_auc", t.MinPRAUC, true},
		{"min-skill", "log_loss_skill", t.MinSkill, true},
		{"min-accuracy", "accuracy", t.MinAccuracy, true},
		{"min-precision", "precision", t.MinPrecision, true},
		{"min-recall", "recall", t.MinRecall, true},
		{"min-lift", "top_decile_lift", t.MinLift, true},
		{"max-log-loss", "log_loss", t.MaxLogLoss, false},
		{"max-brier", "brier", t.MaxBrier, false},
		{"max-calibration-error", "calibration_error", t.MaxCalibrationError, false},
	} {
		if c.limit == nil {
			continue
		}
		f, defined := m.Figures[c.figure]
		if !defined {
			f = undefined
		}
		r := Result{Threshold: c.name, Limit: *c.limit, Name: c.figure, Figure: f}
		// What counts is the figure, or the end of its interval that is nearer to
		// the limit. One that is not defined meets nothing.
		at, above := f.Value, "below"
		if t.BeyondChance && c.least && f.Upper.Defined() {
			at = f.Upper
		}
		if t.BeyondChance && !c.least && f.Lower.Defined() {
			at = f.Lower
		}
		if r.Met = float64(at) >= *c.limit; !c.least {
			r.Met, above = float64(at) <= *c.limit, "above"
		}
		switch {
		case !defined:
			r.Why = fmt.Sprintf("%s is not defined: %d of %d examples churned", c.figure, m.Churners, m.Rows)
		case !r.Met && t.BeyondChance:
			r.Why = fmt.Sprintf("%s %s, 95 %% interval %s to %s, is %s %s beyond chance", c.figure, short(f.Value), short(f.Lower), short(f.Upper), above, short(quality.Number(r.Limit)))
		case !r.Met:
			r.Why = fmt.Sprintf("%s %s is %s %s", c.figure, short(f.Value), above, short(quality.Number(r.Limit)))
		}
		results = append(results, r)
	}
	return results
}

// short shows a number with three decimals, a dash where it is not defined.
func short(x quality.Number) string {
	if !x.Defined() {
		return "–"
	}
	return strconv.FormatFloat(float64(x), 'f', 3, 64)
}

// undefined is a figure that is not defined.
var undefined = quality.Interval{Value: quality.Number(scoring.Missing), Lower: quality.Number(scoring.Missing), Upper: quality.Number(scoring.Missing)}
