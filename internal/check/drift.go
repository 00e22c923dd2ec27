package check

import (
	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/scoring/drift"
)

// drift compares customers as they were scored last with those of the champion's
// training.
func (a *analysis) drift() *quality.Drift {
	if a.champion == nil || len(a.data.Customers) == 0 || len(a.champion.Baseline) == 0 {
		return nil
	}
	spec, p := a.set.Spec(), a.champion.Predictor
	baseline := drift.NewBaseline(spec, a.champion.Baseline, a.champion.TrainingRows)
	sample, reasons := baseline.Sample(a.set.Vocabulary()), baseline.Reasons()
	w := p.NewWorkspace()
	var shap []float64
	// Of more customers, that many are explained, evenly spaced.
	every := (len(a.data.Customers) + mostExplained - 1) / mostExplained
	for i := range a.data.Customers {
		c := &a.data.Customers[i]
		sample.Add(c.Attributes, c.Levels)
		// Whatever version scored them: so it is customers who differ, not models.
		sample.AddScore(p.Probability(c.Attributes))
		if baseline.Explained() && i%every == 0 {
			shap = p.SHAP(shap, c.Attributes, w)
			reasons.Add(shap)
		}
	}
	measure := func(c drift.Change) quality.Measure {
		return quality.Measure{Value: quality.Number(c.Value), Threshold: quality.Number(c.Threshold)}
	}
	d := &quality.Drift{Scores: sample.Rows(), Score: measure(sample.Score())}
	for f := range spec.Len() {
		d.Features = append(d.Features, quality.FeatureDrift{Feature: spec.Feature(f).Name,
			Values: measure(sample.Feature(f)), Reason: measure(reasons.Feature(f))})
	}
	return d
}
