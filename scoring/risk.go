package scoring

// Thresholds of a model that names none.
const (
	DefaultMediumThreshold = 0.3
	DefaultHighThreshold   = 0.6
)

// Thresholds are the probabilities from which a risk is medium or high.
type Thresholds struct {
	// Medium and High are probabilities, Medium the lower one.
	Medium float64 `json:"medium"`
	High   float64 `json:"high"`
}

// Risk returns the risk of a probability: high from High, else medium from
// Medium, else low. It allocates nothing.
func (t Thresholds) Risk(probability float64) Risk {
	switch {
	case probability >= t.High:
		return RiskHigh
	case probability >= t.Medium:
		return RiskMedium
	}
	return RiskLow
}

// RiskThresholds returns the thresholds that sort probabilities into risks: the
// model's own, or the defaults where it names none.
func (m *Model) RiskThresholds() Thresholds {
	if m.Thresholds == (Thresholds{}) {
		return Thresholds{Medium: DefaultMediumThreshold, High: DefaultHighThreshold}
	}
	return m.Thresholds
}

// Risk is a churn probability measured against thresholds; see Thresholds.Risk.
type Risk uint8

// The risks, in ascending order. Their numbers are those of the symbols of the
// Risk enum in a score's schema and so never change.
const (
	RiskLow Risk = iota
	RiskMedium
	RiskHigh
)

// String returns "LOW", "MEDIUM" or "HIGH".
func (r Risk) String() string {
	switch r {
	case RiskHigh:
		return "HIGH"
	case RiskMedium:
		return "MEDIUM"
	}
	return "LOW"
}

// MarshalText returns what String returns, so that JSON has the name.
func (r Risk) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
