package check

import (
	"encoding/json"
	"io"
	"time"

	"github.com/churnstream/churnstream/internal/quality"
)

// Report is what a check found. Times are UTC, and a number that is not defined is
// null.
type Report struct {
	At time.Time `json:"at"`
	// Since and Until bound the examples by when they were observed.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Labels say what a label says of a customer, such as "leaves within 30
	// days"; there are several if the horizon was changed.
	Labels []string `json:"labels"`
	// Champion is the version in use, 0 if there is none.
	Champion int64 `json:"champion"`
	// Passed says that all thresholds are met.
	Passed     bool     `json:"passed"`
	Thresholds []Result `json:"thresholds"`
	Examples   Counts   `json:"examples"`
	// Overall is what customers were told, whatever version it was.
	Overall  Measured  `json:"overall"`
	Versions []Version `json:"versions"` // newest first
	Weeks    []Week    `json:"weeks"`    // oldest first
	Segments []Segment `json:"segments"`
	// Drift compares customers with those of the champion's training; null
	// without scores, or without a champion that has a baseline.
	Drift *quality.Drift `json:"drift"`
	// Loss divides the champion's log loss among features; null without one.
	Loss *Loss `json:"loss"`
	// Outlook is what to expect of the champion for those whose labels are not
	// known yet; null without scores or a champion.
	Outlook *Outlook `json:"outlook"`
	Worst   []Miss   `json:"worst"`
	// Refused counts records that could not be read, by topic and reason.
	Refused map[string]int `json:"refused"`
}

// Counts says what examples there were.
type Counts struct {
	Examples  int64 `json:"examples"`
	Customers int64 `json:"customers"`
	Churners  int64 `json:"churners"`
	// Corrected are those whose label was changed later, and Unscored those
	// without a score in force, such as outcomes with attributes of their own.
	// The latter are in no figure.
	Corrected int64 `json:"corrected"`
	Unscored  int64 `json:"unscored"`
	// OtherHorizon are those with a score of a version that predicts something else
	// than the label says, as the horizons differ. They are in no figure either.
	OtherHorizon int64 `json:"other_horizon"`
}

// Measured is how good some scores were.
type Measured struct {
	Rows     int64 `json:"rows"`
	Churners int64 `json:"churners"`
	// Figures are those measured, and Expected what the scores themselves let
	// expect of the same rows: where they differ beyond the intervals, the scores
	// were not calibrated.
	Figures  quality.Figures `json:"figures"`
	Expected quality.Figures `json:"expected"`
	// ExpectedChurners is the sum of the probabilities.
	ExpectedChurners float64   `json:"expected_churners"`
	Confusion        Confusion `json:"confusion"`
	// Calibration is by rising probability, without bins that are empty.
	Calibration []quality.Bin `json:"calibration"`
	Deciles     []Decile      `json:"deciles"`
	// ROC and PrecisionRecall are points of the curves, of which there are at
	// most some hundred.
	ROC             [][2]float64 `json:"roc"`              // false and true positive rate
	PrecisionRecall [][2]float64 `json:"precision_recall"` // recall, precision
}

// Confusion counts rows by what was predicted, from probability 0.5 on, and what
// happened.
type Confusion struct {
	TruePositives  int64 `json:"true_positives"`
	FalsePositives int64 `json:"false_positives"`
	FalseNegatives int64 `json:"false_negatives"`
	TrueNegatives  int64 `json:"true_negatives"`
}

// Decile is the rows with the highest probabilities, up to some tenths of all.
type Decile struct {
	Rows     int64   `json:"rows"`
	Churners float64 `json:"churners"`
	// Gain is the share of all churners that is among them, Lift their churn rate
	// over that of all.
	Gain quality.Number `json:"gain"`
	Lift quality.Number `json:"lift"`
}

// Version is how good the scores of one model version were.
type Version struct {
	Version int64 `json:"version"`
	// Stage is CHAMPION, CHALLENGER or RETIRED, "" of a version that is not known
	// any more. InUse says that it is the champion.
	Stage string `json:"stage"`
	InUse bool   `json:"in_use"`
	// Label is what it predicts.
	Label    string `json:"label"`
	Measured `json:"measured"`
	// OtherHorizon counts examples with a score of it and a label of another
	// horizon, which are in no figure.
	OtherHorizon int64 `json:"other_horizon"`
	// Holdout is what it was published with.
	HoldoutRows int64           `json:"holdout_rows"`
	Holdout     quality.Figures `json:"holdout"`
}

// Week is what was observed in a week that begins on a Monday, UTC.
type Week struct {
	From     time.Time       `json:"from"`
	Rows     int64           `json:"rows"`
	Churners int64           `json:"churners"`
	Figures  quality.Figures `json:"figures"`
	Expected quality.Figures `json:"expected"`
	// BaseLogLoss is the log loss of the week's own churn rate as everybody's
	// probability.
	BaseLogLoss float64 `json:"base_log_loss"`
	// Versions are the same by the version that scored, newest first.
	Versions []WeekVersion `json:"versions"`
}

// WeekVersion is what a version's scores were worth in a week.
type WeekVersion struct {
	Version  int64           `json:"version"`
	Rows     int64           `json:"rows"`
	Churners int64           `json:"churners"`
	Figures  quality.Figures `json:"figures"`
}

// Segment is the rows with one level of a categorical feature, or with any of those
// that have no segment of their own.
type Segment struct {
	Feature  string          `json:"feature"`
	Level    string          `json:"level"` // "" is missing
	Rest     bool            `json:"rest,omitempty"`
	Rows     int64           `json:"rows"`
	Churners int64           `json:"churners"`
	Figures  quality.Figures `json:"figures"`
	// Expected is the mean probability, Observed the churn rate.
	Expected float64 `json:"expected"`
	Observed float64 `json:"observed"`
}

// Loss divides the mean log loss that the champion would have had among its
// features, by Shapley values: base and features add up to it. So do the changes.
type Loss struct {
	Version int64 `json:"version"`
	// From is when the first of the examples was observed that it is over, and
	// Rows how many they are. They are compared with Reference examples of
	// before, the first of which was observed at ReferenceFrom: those of as long
	// before as the report is of or, if there are none, the older half.
	From          time.Time `json:"from"`
	Rows          int64     `json:"rows"`
	ReferenceFrom time.Time `json:"reference_from,omitzero"`
	Reference     int64     `json:"reference"`
	// LogLoss is the mean, and Base what the labels would cost if nothing were
	// known of the customers. Changes are null without a reference.
	LogLoss    float64        `json:"log_loss"`
	Change     quality.Number `json:"change"`
	Base       float64        `json:"base"`
	BaseChange quality.Number `json:"base_change"`
	// Features are by falling change, or value where there is none.
	Features []FeatureLoss `json:"features"`
}

// FeatureLoss is a feature's part: below 0 it saves.
type FeatureLoss struct {
	Feature string         `json:"feature"`
	Value   float64        `json:"value"`
	Change  quality.Number `json:"change"`
}

// Outlook is what the champion lets expect of the customers as they are now.
type Outlook struct {
	Version   int64           `json:"version"`
	Customers int64           `json:"customers"`
	Churners  float64         `json:"churners"`
	Figures   quality.Figures `json:"figures"`
	// Risks counts them by risk.
	Risks map[string]int64 `json:"risks"`
}

// Miss is an example that the score in force was most wrong about.
type Miss struct {
	CustomerID  string    `json:"customer_id"`
	ObservedAt  time.Time `json:"observed_at"`
	AsOf        time.Time `json:"as_of"`
	Version     int64     `json:"version"`
	Probability float64   `json:"probability"`
	Churned     bool      `json:"churned"`
	LogLoss     float64   `json:"log_loss"`
	// Reasons are the features that led the version astray most, by its own
	// explanation; empty if the version is not known any more.
	Reasons []MissReason `json:"reasons"`
}

// MissReason is a feature's part in a miss.
type MissReason struct {
	Feature string `json:"feature"`
	Value   string `json:"value"`
	// SHAP is on the probability scale, Loss on that of the log loss: above 0 the
	// value led the model away from what happened.
	SHAP float64 `json:"shap"`
	Loss float64 `json:"loss"`
}

// WriteJSON writes the report as indented JSON.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
