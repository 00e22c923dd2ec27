// Package quality is what a monitor tells of the models: how good they are by what
// became of customers, beside what was promised and what can be expected. Monitors
// answer it at Path, and whoever shows it to people, or acts on it, reads it here.
package quality

import (
	"encoding/json"
	"math"
	"slices"
	"time"

	"github.com/churnstream/churnstream/scoring/evaluation"
)

// Path is where a process with a monitor answers with a Report, as JSON.
const Path = "/v1/quality"

// Report is what a monitor knows at a moment.
type Report struct {
	// At is the moment.
	At time.Time `json:"at"`
	// CaughtUp says that what was in the topics at the start has been read. Until
	// then the figures are of a part.
	CaughtUp bool `json:"caught_up"`
	// Window is how many examples figures are over, at most: of each version the
	// newest by observed_at.
	Window int `json:"window"`
	// Champion is the version in use, 0 while there is none.
	Champion int64 `json:"champion"`
	// Examples counts the labelled examples that there are with a score.
	Examples int64 `json:"examples"`
	// Versions are those that have examples, and the champion, newest first.
	Versions []Version `json:"versions"`
	// Course is how the log loss of the scores went, whatever their version,
	// oldest first.
	Course []Slice `json:"course,omitempty"`
	// Segments divide the champion's window by categorical features.
	Segments []Segment `json:"segments,omitempty"`
	// Drift says how customers and scores differ from those of the training; nil
	// without a champion that has a baseline.
	Drift *Drift `json:"drift,omitempty"`
	// Loss says which features the champion's log loss has changed by; nil as long
	// as there is no window to compare the newest with.
	Loss *Loss `json:"loss,omitempty"`
}

// Version is what is known of one model version.
type Version struct {
	Version int64 `json:"version"`
	// Horizon is within how many seconds its training's labels had customers leave;
	// 0 is not known.
	Horizon float64 `json:"horizon_seconds"`
	// Examples counts all that were scored by it, Rows those in the window, and
	// Churners those of them who left.
	Examples int64 `json:"examples"`
	Rows     int64 `json:"rows"`
	Churners int64 `json:"churners"`
	// OtherHorizon counts the newest whose labels are of another horizon: they are
	// in no figure.
	OtherHorizon int64 `json:"other_horizon_examples"`
	// From and To are when the oldest and the newest in the window were observed.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// Measured are the figures on the window, Holdout those that the version was
	// published with, and Expected what its scores let expect before any label.
	Measured Figures `json:"measured"`
	Holdout  Figures `json:"holdout"`
	Expected Figures `json:"expected"`
	// Current is what the champion is judged by: what it would have said of the
	// newest examples of its horizon that are new to it, whoever scored them. It is
	// nil of others.
	Current *Sample `json:"current,omitempty"`
	// HoldoutRows and ExpectedRows are how many customers those are over.
	HoldoutRows  int64 `json:"holdout_rows"`
	ExpectedRows int64 `json:"expected_rows"`
	// Calibration is the curve on the window, by rising probability; bins without
	// customers are not in it.
	Calibration []Bin `json:"calibration,omitempty"`
	// Gains is by tenths of the window's customers, those with the highest
	// probability first, each with all before it.
	Gains []Decile `json:"gains,omitempty"`
	// Ages is by how old the score was at the decision; classes without customers
	// are not in it.
	Ages []Age `json:"ages,omitempty"`
	// Shadow compares a challenger with the champion on what both would have said
	// of the same examples; nil of others.
	Shadow *Shadow `json:"shadow,omitempty"`
}

// Sample is figures over some examples.
type Sample struct {
	Rows     int64 `json:"rows"`
	Churners int64 `json:"churners"`
	// From and To are when the oldest and the newest were observed.
	From    time.Time `json:"from,omitzero"`
	To      time.Time `json:"to,omitzero"`
	Figures Figures   `json:"figures"`
}

// Judged returns what a version is judged by: Current if it is the champion, else
// what became of the customers whom it scored.
func (v *Version) Judged() Sample {
	if v.Current != nil {
		return *v.Current
	}
	return Sample{Rows: v.Rows, Churners: v.Churners, From: v.From, To: v.To, Figures: v.Measured}
}

// Bin is the customers with a probability in one interval.
type Bin struct {
	Rows int64 `json:"rows"`
	// Predicted is their mean probability, Observed the share of them that left.
	Predicted float64 `json:"predicted"`
	Observed  float64 `json:"observed"`
}

// Decile is the tenths of customers with the highest probability, up to this one.
type Decile struct {
	// Gain is the share of all churners that is among them, Lift their churn rate
	// over that of all.
	Gain Number `json:"gain"`
	Lift Number `json:"lift"`
}

// Age is the customers whose score was so old at the decision.
type Age struct {
	// Most is the greatest age of the class, as in the label of churn_age_log_loss.
	Most    string  `json:"most"`
	Rows    int64   `json:"rows"`
	LogLoss float64 `json:"log_loss"`
}

// Segment is the champion's newest examples with a level of a feature.
type Segment struct {
	Feature string `json:"feature"`
	Level   string `json:"level"`
	Rows    int64  `json:"rows"`
	// ChurnShare is the share of them that left.
	ChurnShare float64 `json:"churn_share"`
	// The figures are null where they are not defined.
	LogLoss          Number `json:"log_loss"`
	LogLossSkill     Number `json:"log_loss_skill"`
	ROCAUC           Number `json:"roc_auc"`
	CalibrationError Number `json:"calibration_error"`
}

// Slice is the examples of a while.
type Slice struct {
	// From and To are when the first and the last of them were observed.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Rows int64     `json:"rows"`
	// Version is the model version of the last one's score.
	Version int64 `json:"version"`
	// LogLoss is that of the scores, BaseLogLoss that of the slice's own churn
	// rate as everybody's probability.
	LogLoss     float64 `json:"log_loss"`
	BaseLogLoss float64 `json:"base_log_loss"`
}

// Drift is how the newest scores differ from the training.
type Drift struct {
	// Scores is how many there are.
	Scores int64 `json:"scores"`
	// Features is by feature, in the order of the specification.
	Features []FeatureDrift `json:"features"`
	// Score is that of the probability itself, among scores of the champion.
	Score Measure `json:"score"`
}

// FeatureDrift is how one attribute of customers, and its part in the
// explanations, differ from the training.
type FeatureDrift struct {
	Feature string `json:"feature"`
	// Values is the population stability index, Reason the standardised change of
	// the mean SHAP value.
	Values Measure `json:"values"`
	Reason Measure `json:"reason"`
}

// Measure is a figure that means something from a threshold on.
type Measure struct {
	Value     Number `json:"value"`
	Threshold Number `json:"threshold"`
}

// Exceeded says that the figure is beyond its threshold. It is false where one of
// them is not defined.
func (m Measure) Exceeded() bool { return math.Abs(float64(m.Value)) > float64(m.Threshold) }

// Loss is by how much the champion's log loss changed from one window to the next.
type Loss struct {
	// Rows and Reference are the examples of the newest window and of the one
	// before it.
	Rows      int64 `json:"rows"`
	Reference int64 `json:"reference"`
	// Change is the mean log loss of the newest minus that of the reference.
	Change float64 `json:"change"`
	// Features share the mean log loss, and its change, among them: Shapley
	// values, which add up with that of the model's base.
	Features []FeatureLoss `json:"features"`
}

// FeatureLoss is what one feature does to the log loss: more of it is worse.
type FeatureLoss struct {
	Feature string `json:"feature"`
	// Value is its part in the newest window, Change by how much more that is
	// than in the reference.
	Value  float64 `json:"value"`
	Change float64 `json:"change"`
}

// Shadow compares a challenger with the champion.
type Shadow struct {
	Rows int64 `json:"rows"`
	// Challenger and Champion are their log losses, Difference that of the former
	// minus that of the latter: below 0 the challenger is better.
	Challenger float64  `json:"challenger"`
	Champion   float64  `json:"champion"`
	Difference Interval `json:"difference"`
}

// Number is a float64 that is null in JSON where it is not defined: NaN.
type Number float64

// Defined says that there is a number.
func (n Number) Defined() bool { return n == n && !math.IsInf(float64(n), 0) }

// MarshalJSON writes the number, or null.
func (n Number) MarshalJSON() ([]byte, error) {
	if !n.Defined() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// UnmarshalJSON reads a number, or null.
func (n *Number) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		*n = Number(math.NaN())
		return nil
	}
	return json.Unmarshal(data, (*float64)(n))
}

// Interval is a figure with the ends of its 95 % interval, which may not be
// defined where the figure is.
type Interval struct {
	Value Number `json:"value"`
	Lower Number `json:"lower"`
	Upper Number `json:"upper"`
}

// Figures are figures by their name in metrics, such as roc_auc. What is not
// defined is not in it.
type Figures map[string]Interval

// Set puts a figure in, if it is defined.
func (f Figures) Set(name string, value, lower, upper float64) {
	i := Interval{Number(value), Number(lower), Number(upper)}
	if i.Value.Defined() {
		f[name] = i
	}
}

// FiguresOf returns the figures of metrics, of those that are defined.
func FiguresOf(m *evaluation.Metrics) Figures {
	f := Figures{}
	if m.Rows == 0 {
		return f
	}
	for _, figure := range evaluation.All {
		f.Set(figure.Name, *figure.Of(&m.Figures), *figure.Of(&m.Lower), *figure.Of(&m.Upper))
	}
	return f
}

// EstimateOf returns the figures that scores let expect.
func EstimateOf(e *evaluation.Estimate) Figures {
	return FiguresOf(&evaluation.Metrics{Rows: e.Rows, Figures: e.Figures, Lower: e.Lower, Upper: e.Upper})
}

// Of returns the version's part of the report, nil if there is none.
func (r *Report) Of(version int64) *Version {
	if r == nil {
		return nil
	}
	if i := slices.IndexFunc(r.Versions, func(v Version) bool { return v.Version == version }); i >= 0 {
		return &r.Versions[i]
	}
	return nil
}
