package engine

import (
	"fmt"
	"slices"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// Explain says which explanations a score carries.
type Explain uint8

// The explanations a score can carry.
const (
	// ExplainLIME adds exact LIME weights. It is the zero value.
	ExplainLIME Explain = iota
	// ExplainSHAP adds exact Shapley values.
	ExplainSHAP
	// ExplainBoth adds both, chosen and ordered by LIME.
	ExplainBoth
	// ExplainNone adds none.
	ExplainNone
)

// explains are the explanations by name.
var explains = [...]string{ExplainLIME: "lime", ExplainSHAP: "shap", ExplainBoth: "both", ExplainNone: "none"}

// String returns "lime", "shap", "both" or "none".
func (e Explain) String() string { return explains[e] }

// UnmarshalText reads what String returns.
func (e *Explain) UnmarshalText(text []byte) error {
	i := slices.Index(explains[:], string(text))
	if i < 0 {
		return fmt.Errorf("explanations %q: choose lime, shap, both or none", text)
	}
	*e = Explain(i)
	return nil
}

// explain fills the score's explanations with the features of greatest weight.
func (e *Engine) explain(s *schemas.ChurnScore) {
	m, x := &e.model, s.Attributes
	s.Explanations = s.Explanations[:0]
	if e.cfg.Explain == ExplainNone {
		return
	}
	var weights []float64
	if e.cfg.Explain != ExplainLIME {
		e.shap = m.Predictor.SHAP(e.shap, x, e.space)
		weights = e.shap
	}
	if e.cfg.Explain != ExplainSHAP {
		e.lime = m.Predictor.LIME(e.lime, x, e.space)
		weights = e.lime
	}
	e.order = scoring.TopByMagnitude(e.order[:0], weights, e.cfg.Reasons)
	for _, f := range e.order {
		part := schemas.Explanation{Feature: f, LIME: scoring.Missing, SHAP: scoring.Missing}
		if e.cfg.Explain != ExplainSHAP {
			part.LIME = e.lime[f]
		}
		if e.cfg.Explain != ExplainLIME {
			part.SHAP = e.shap[f]
		}
		s.Explanations = append(s.Explanations, part)
	}
}
