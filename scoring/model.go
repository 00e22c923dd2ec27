package scoring

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// Bounds of a model, so that a damaged or hostile payload cannot exhaust
// memory.
const (
	// MaxModelBytes bounds a model's JSON.
	MaxModelBytes = 16 << 20
	// MaxModelFeatures bounds the features of a model.
	MaxModelFeatures = 4096
	// MaxPoints bounds each of a numeric feature's lists: knots, quartiles,
	// bins, and empirical quantiles.
	MaxPoints = 10_000
)

// ErrModel is matched by every error about a model.
var ErrModel = errors.New("model")

// Model is an additive model of churn on the log-odds scale,
//
//	log-odds = intercept + Σ_j c_j(x_j),
//
// with what explanations need to know of the training rows. It is what a model
// version's payload holds, as JSON.
type Model struct {
	// About says where the model comes from; free text.
	About string `json:"about,omitempty"`
	// Intercept is the constant on the log-odds scale.
	Intercept float64 `json:"intercept"`
	// KernelWidth is LIME's kernel width; 0 means 0.75·√(number of features).
	KernelWidth float64 `json:"kernel_width,omitempty"`
	// BaseRate is the churn rate of the training rows.
	BaseRate float64 `json:"base_rate,omitempty"`
	// Thresholds sort probabilities into risks.
	Thresholds Thresholds `json:"thresholds,omitzero"`
	// Features lists every feature the model uses.
	Features []ModelFeature `json:"features"`
	// Importance is the global importance over the training rows, if computed.
	Importance []Importance `json:"importance,omitempty"`
}

// ModelFeature is one feature's contribution and its distribution at training.
type ModelFeature struct {
	// Name is the feature's name in the Spec.
	Name string `json:"name"`
	// Kind is "categorical" or "numeric".
	Kind string `json:"kind"`

	// Levels, LogOdds and Frequency belong to a categorical feature: its
	// levels, the contribution of each, and each one's share of the training
	// rows (they sum to 1).
	Levels    []string  `json:"levels,omitempty"`
	LogOdds   []float64 `json:"log_odds,omitempty"`
	Frequency []float64 `json:"frequency,omitempty"`

	// LogOddsPerUnit is the slope of a linear numeric feature.
	LogOddsPerUnit float64 `json:"log_odds_per_unit,omitempty"`
	// Knots and KnotLogOdds belong to a piecewise-linear numeric feature: its
	// contribution is KnotLogOdds[i] at Knots[i] (ascending), linear between
	// them and constant beyond the outer ones. LogOddsPerUnit is then 0.
	Knots       []float64 `json:"knots,omitempty"`
	KnotLogOdds []float64 `json:"knot_log_odds,omitempty"`

	// Bins are LIME's discretisation of a numeric feature: the quartile bins
	// of the training values. Quartiles are the upper bounds of all but the
	// last; a value equal to a bound belongs to the bin below it.
	Bins      []Bin     `json:"bins,omitempty"`
	Quartiles []float64 `json:"quartiles,omitempty"`
	// EmpiricalQuantiles are equally spaced mid-quantiles of the training
	// values, ascending: the background of Shapley values.
	EmpiricalQuantiles []float64 `json:"empirical_quantiles,omitempty"`
}

// Bin describes the training values within one bin of a numeric feature.
type Bin struct {
	// Mean, Std (population), Min and Max are of the values in the bin;
	// Frequency is their share of all.
	Mean      float64 `json:"mean"`
	Std       float64 `json:"std"`
	Min       float64 `json:"min"`
	Max       float64 `json:"max"`
	Frequency float64 `json:"frequency"`
}

// Importance is how much a feature matters over all training rows.
type Importance struct {
	// Feature is the feature's name.
	Feature string `json:"feature"`
	// LIME and SHAP are mean absolute weights on the probability scale.
	LIME float64 `json:"mean_abs_lime"`
	SHAP float64 `json:"mean_abs_shap"`
	// Points gives the direction: mean weight by level, or by bin of a number.
	Points []ImportancePoint `json:"points,omitempty"`
}

// ImportancePoint is a feature's mean weight over the rows with one level or
// in one bin.
type ImportancePoint struct {
	// Value is the level, or the bin's range as text.
	Value string `json:"value"`
	// LIME and SHAP are mean weights on the probability scale, with their sign.
	LIME float64 `json:"mean_lime"`
	SHAP float64 `json:"mean_shap"`
}

// ParseModel reads a model from JSON and validates it. Keys it does not know
// are ignored. Its errors match ErrModel.
func ParseModel(data []byte) (*Model, error) {
	if len(data) > MaxModelBytes {
		return nil, fmt.Errorf("%w: %d bytes of JSON, at most %d are allowed", ErrModel, len(data), MaxModelBytes)
	}
	m := new(Model)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%w: reading JSON: %w", ErrModel, err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// Spec returns the specification of the model's features, in the model's order.
// A model does not say what can be changed for a customer or how people call a
// feature: none is Actionable, and the labels are the names. It fails, matching
// ErrModel, when a name is empty or used twice, or a kind is not known.
func (m *Model) Spec() (*Spec, error) {
	features := make([]Feature, len(m.Features))
	for i := range m.Features {
		f := &m.Features[i]
		kind, err := parseKind(f.Kind)
		if err != nil {
			return nil, fmt.Errorf("%w: feature %q: %w", ErrModel, f.Name, err)
		}
		features[i] = Feature{Name: f.Name, Kind: kind}
	}
	spec, err := NewSpec(features)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModel, err)
	}
	return spec, nil
}

// Validate reports the first fault of a model: a number that is not finite,
// lists of lengths that do not match, frequencies that do not sum to 1 within
// 1e-6, bounds out of order, or more of anything than is allowed. Its errors
// match ErrModel.
func (m *Model) Validate() error {
	if !finite(m.Intercept, m.KernelWidth, m.BaseRate, m.Thresholds.Medium, m.Thresholds.High) {
		return fmt.Errorf("%w: a number is not finite", ErrModel)
	}
	if m.KernelWidth < 0 {
		return fmt.Errorf("%w: kernel width %g is negative", ErrModel, m.KernelWidth)
	}
	if m.BaseRate < 0 || m.BaseRate > 1 {
		return fmt.Errorf("%w: base rate %g is not within 0 and 1", ErrModel, m.BaseRate)
	}
	if t := m.RiskThresholds(); !(0 < t.Medium && t.Medium <= t.High && t.High < 1) {
		return fmt.Errorf("%w: thresholds %g and %g are not 0 < medium ≤ high < 1", ErrModel, t.Medium, t.High)
	}
	if len(m.Features) == 0 {
		return fmt.Errorf("%w: no features", ErrModel)
	}
	if len(m.Features) > MaxModelFeatures {
		return fmt.Errorf("%w: %d features, at most %d are allowed", ErrModel, len(m.Features), MaxModelFeatures)
	}
	names := make(map[string]bool, len(m.Features))
	for i := range m.Features {
		f := &m.Features[i]
		if f.Name == "" {
			return fmt.Errorf("%w: feature %d has no name", ErrModel, i)
		}
		if names[f.Name] {
			return fmt.Errorf("%w: feature %q occurs twice", ErrModel, f.Name)
		}
		names[f.Name] = true
		if err := f.validate(); err != nil {
			return fmt.Errorf("%w: feature %q: %w", ErrModel, f.Name, err)
		}
	}
	for i := range m.Importance {
		g := &m.Importance[i]
		ok := finite(g.LIME, g.SHAP)
		for _, pt := range g.Points {
			ok = ok && finite(pt.LIME, pt.SHAP)
		}
		if !ok {
			return fmt.Errorf("%w: importance of %q is not finite", ErrModel, g.Feature)
		}
	}
	return nil
}

func (f *ModelFeature) validate() error {
	kind, err := parseKind(f.Kind)
	switch {
	case err != nil:
		return err
	case kind == Categorical:
		return f.validateCategorical()
	}
	return f.validateNumeric()
}

func (f *ModelFeature) validateCategorical() error {
	n := len(f.Levels)
	if n == 0 || n > MaxLevels {
		return fmt.Errorf("%d levels, not 1 to %d", n, MaxLevels)
	}
	if len(f.LogOdds) != n || len(f.Frequency) != n {
		return fmt.Errorf("%d levels, %d log-odds and %d frequencies", n, len(f.LogOdds), len(f.Frequency))
	}
	if !finite(f.LogOdds...) {
		return errors.New("log-odds are not finite")
	}
	seen := make(map[string]bool, n)
	sum := 0.0
	for i, level := range f.Levels {
		if len(level) > MaxLevelBytes {
			return fmt.Errorf("level %d is longer than %d bytes", i, MaxLevelBytes)
		}
		if seen[level] {
			return fmt.Errorf("level %q occurs twice", level)
		}
		seen[level] = true
		if !(f.Frequency[i] >= 0) {
			return fmt.Errorf("frequency %g of level %q", f.Frequency[i], level)
		}
		sum += f.Frequency[i]
	}
	return sumsToOne(sum)
}

func (f *ModelFeature) validateNumeric() error {
	if len(f.Knots) > MaxPoints || len(f.Quartiles) > MaxPoints || len(f.EmpiricalQuantiles) > MaxPoints {
		return fmt.Errorf("more than %d knots, quartiles or quantiles", MaxPoints)
	}
	if !finite(f.LogOddsPerUnit) || !finite(f.Knots...) || !finite(f.KnotLogOdds...) ||
		!finite(f.Quartiles...) || !finite(f.EmpiricalQuantiles...) {
		return errors.New("a number is not finite")
	}
	for _, xs := range [][]float64{f.Knots, f.Quartiles, f.EmpiricalQuantiles} {
		for _, x := range xs {
			if math.Abs(x) > MaxNumber {
				return fmt.Errorf("%g is beyond ±%g", x, MaxNumber)
			}
		}
	}
	if len(f.Knots) != len(f.KnotLogOdds) {
		return fmt.Errorf("%d knots and %d log-odds at knots", len(f.Knots), len(f.KnotLogOdds))
	}
	if len(f.Knots) > 0 && f.LogOddsPerUnit != 0 {
		return errors.New("both knots and log-odds per unit")
	}
	if !ascending(f.Knots, true) {
		return errors.New("knots are not ascending")
	}
	if !ascending(f.Quartiles, true) {
		return errors.New("quartiles are not ascending")
	}
	if !ascending(f.EmpiricalQuantiles, false) {
		return errors.New("empirical quantiles are not ascending")
	}
	if len(f.Bins) != len(f.Quartiles)+1 {
		return fmt.Errorf("%d bins and %d quartiles, which is not one less", len(f.Bins), len(f.Quartiles))
	}
	sum := 0.0
	for i, b := range f.Bins {
		if !finite(b.Mean, b.Std, b.Min, b.Max, b.Frequency) || b.Frequency < 0 || b.Std < 0 {
			return fmt.Errorf("bin %d has a number that is negative or not finite", i)
		}
		sum += b.Frequency
		// A standard deviation of bounded values may lie beyond the bound by a
		// rounding.
		if x := max(math.Abs(b.Min), math.Abs(b.Max), b.Std/2); x > MaxNumber {
			return fmt.Errorf("bin %d: %g is beyond ±%g", i, x, MaxNumber)
		}
		if b.Frequency == 0 {
			continue // nothing was in it: the rest says nothing
		}
		// A mean of equal values may lie beyond them by a rounding.
		slack := 1e-9 * (math.Abs(b.Min) + math.Abs(b.Max))
		if b.Mean < b.Min-slack || b.Mean > b.Max+slack || b.Min > b.Max {
			return fmt.Errorf("bin %d: mean %g is not within %g and %g", i, b.Mean, b.Min, b.Max)
		}
		if i > 0 && b.Min < f.Quartiles[i-1]-slack || i < len(f.Quartiles) && b.Max > f.Quartiles[i]+slack {
			return fmt.Errorf("bin %d, from %g to %g, is not within its quartiles", i, b.Min, b.Max)
		}
	}
	return sumsToOne(sum)
}

func sumsToOne(sum float64) error {
	if !(math.Abs(sum-1) <= 1e-6) {
		return fmt.Errorf("frequencies sum to %g, not 1", sum)
	}
	return nil
}

func finite(xs ...float64) bool {
	for _, x := range xs {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return false
		}
	}
	return true
}

func ascending(xs []float64, strictly bool) bool {
	for i := 1; i < len(xs); i++ {
		if xs[i] < xs[i-1] || strictly && xs[i] == xs[i-1] {
			return false
		}
	}
	return true
}
