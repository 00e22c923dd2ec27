package scoring

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// ErrAttribute is matched by every error about attributes given by name.
var ErrAttribute = errors.New("attribute")

// NamedExplanation is what a model says about one customer, by feature name. As
// JSON it has the names of the answer of /v1/explain, which lists unknown levels
// among the missing.
type NamedExplanation struct {
	// Probability is the churn probability; ExpectedProbability is the base
	// that the SHAP values explain the difference from.
	Probability         float64 `json:"probability"`
	ExpectedProbability float64 `json:"expected_probability"`
	// Risk is the probability measured against the model's RiskThresholds.
	Risk Risk `json:"risk"`
	// LIME and SHAP are weights on the probability scale, LogOdds
	// contributions on the log-odds scale; each has every feature of the model.
	LIME    map[string]float64 `json:"explanation"`
	SHAP    map[string]float64 `json:"shap"`
	LogOdds map[string]float64 `json:"log_odds"`
	// Missing lists the features without a value, Unknown those whose level
	// the model was not trained with, both in feature order and never nil.
	// Either contributes what the feature contributes on average.
	Missing []string `json:"missing"`
	Unknown []string `json:"unknown"`

	top []string // all features by magnitude of their LIME weight
}

// Top returns the names of the k features with the LIME weights of greatest
// magnitude, greatest first; all of them if k is negative. They are the reasons
// for the probability in short.
func (e *NamedExplanation) Top(k int) []string {
	if k < 0 || k > len(e.top) {
		k = len(e.top)
	}
	return slices.Clone(e.top[:k])
}

// ParsePredictor reads a model from JSON as ParseModel does and compiles it for
// the model's own features. It is the short way for those who have a model's
// payload and nothing else; its errors match ErrModel.
func ParsePredictor(data []byte) (*Predictor, error) {
	m, err := ParseModel(data)
	if err != nil {
		return nil, err
	}
	spec, err := m.Spec()
	if err != nil {
		return nil, err
	}
	return Compile(m, NewVocabulary(spec))
}

// ExplainByName returns all that the model says about a customer whose
// attributes are given by feature name, as Vector takes them. It fails, matching
// ErrAttribute and naming the attribute, where Vector does. It is safe for
// concurrent use.
func (p *Predictor) ExplainByName(attributes map[string]any) (*NamedExplanation, error) {
	x, err := p.Vector(attributes)
	if err != nil {
		return nil, err
	}
	e := p.Explain(x, nil)
	named := &NamedExplanation{
		Probability:         e.Probability,
		ExpectedProbability: p.ExpectedProbability(),
		Risk:                p.model.RiskThresholds().Risk(e.Probability),
		LIME:                p.byName(e.LIME),
		SHAP:                p.byName(e.SHAP),
		LogOdds:             p.byName(e.LogOdds),
		Missing:             []string{},
		Unknown:             []string{},
	}
	for _, j := range e.Missing {
		name := p.spec.Feature(j).Name
		if IsMissing(x[j]) {
			named.Missing = append(named.Missing, name)
		} else {
			named.Unknown = append(named.Unknown, name)
		}
	}
	for _, j := range TopByMagnitude(nil, e.LIME, -1) {
		named.top = append(named.top, p.spec.Feature(j).Name)
	}
	return named, nil
}

func (p *Predictor) byName(weights []float64) map[string]float64 {
	m := make(map[string]float64, len(weights))
	for j, weight := range weights {
		m[p.spec.Feature(j).Name] = weight
	}
	return m
}

// Vector returns the vector of a customer whose attributes are given by feature
// name. A numeric feature takes a number within ±MaxNumber, or a string that holds one; a
// categorical feature takes a string, or a whole number that stands for its
// digits. White space around a string does not count. What is not there, nil, or a
// string of nothing else is Missing; a level that neither a model
// nor an event has brought is Unknown, and the vocabulary does not learn it.
//
// It fails, matching ErrAttribute and naming the attribute, when a name is not a
// feature or a value is none of these.
func (p *Predictor) Vector(attributes map[string]any) (Vector, error) {
	x := NewVector(p.spec.Len())
	// In the order of the names, so that the same attributes give the same error.
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		j, ok := p.spec.Index(name)
		if !ok {
			return nil, fmt.Errorf("%w %q is not a feature of the model", ErrAttribute, name)
		}
		value := attributes[name]
		if value == nil || blank(value) {
			continue
		}
		var err error
		if p.features[j].categorical {
			x[j], err = p.level(j, value)
		} else {
			x[j], err = number(value)
		}
		if err != nil {
			return nil, fmt.Errorf("%w %q: %w", ErrAttribute, name, err)
		}
	}
	return x, nil
}

// blank reports whether a value is a string of nothing but white space.
func blank(value any) bool {
	v := reflect.ValueOf(value)
	return v.Kind() == reflect.String && strings.TrimSpace(v.String()) == ""
}

// number reads a value of a numeric feature.
func number(value any) (float64, error) {
	var x float64
	switch v := reflect.ValueOf(value); {
	case v.CanFloat():
		x = v.Float()
	case v.CanInt():
		x = float64(v.Int())
	case v.CanUint():
		x = float64(v.Uint())
	case v.Kind() == reflect.String:
		parsed, err := strconv.ParseFloat(strings.TrimSpace(v.String()), 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not a number", v.String())
		}
		x = parsed
	default:
		return 0, fmt.Errorf("%T is neither a number nor a string", value)
	}
	if !(math.Abs(x) <= MaxNumber) {
		return 0, fmt.Errorf("%g is not within ±%g", x, MaxNumber)
	}
	return x, nil
}

// level reads a value of categorical feature j.
func (p *Predictor) level(j int, value any) (float64, error) {
	v := reflect.ValueOf(value)
	if _, isNumber := value.(json.Number); v.Kind() == reflect.String && !isNumber {
		return p.lookup(j, v.String()), nil
	}
	x, err := number(value)
	if err != nil {
		return 0, err
	}
	if x != math.Trunc(x) {
		return 0, fmt.Errorf("%g is neither a string nor a whole number", x)
	}
	return p.lookup(j, strconv.FormatFloat(x, 'f', -1, 64)), nil
}

func (p *Predictor) lookup(j int, level string) float64 {
	if code, ok := p.vocabulary.Lookup(j, level); ok {
		return code
	}
	return Unknown
}
