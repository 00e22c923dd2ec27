package scoring

import "slices"

// Explanation is all that a model says about one customer. The slices are in
// the order of the specification's features.
type Explanation struct {
	// Attributes are what is explained.
	Attributes Vector
	// Probability is the churn probability.
	Probability float64
	// LIME and SHAP are weights on the probability scale, LogOdds
	// contributions on the log-odds scale; see Predictor.LIME, Predictor.SHAP
	// and Predictor.Contributions.
	LIME, SHAP, LogOdds []float64
	// Missing lists the positions of features whose value is missing or
	// unknown to the model.
	Missing []int
}

// Explain returns all that the model says about a customer. The workspace may
// be nil. It allocates the answer; where that matters, call what it calls.
func (p *Predictor) Explain(x Vector, w *Workspace) *Explanation {
	if w == nil {
		w = p.NewWorkspace()
	}
	return &Explanation{
		Attributes:  slices.Clone(x),
		Probability: p.Probability(x),
		LIME:        p.LIME(nil, x, w),
		SHAP:        p.SHAP(nil, x, w),
		LogOdds:     p.Contributions(nil, x),
		Missing:     p.Missing(nil, x),
	}
}

// WhatIf explains a customer as is and with other values of some features, given
// by position; Missing makes a value unknown. The workspace may be nil.
//
// The second answer is what the model would predict, not what would happen.
func (p *Predictor) WhatIf(x Vector, changes map[int]float64, w *Workspace) (before, after *Explanation) {
	changed := slices.Clone(x)
	for j, value := range changes {
		changed[j] = value
	}
	return p.Explain(x, w), p.Explain(changed, w)
}
