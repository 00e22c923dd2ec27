package monitor

import (
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
)

// drifted is how the customers with the newest scores differ from those that
// models were trained on.
type drifted struct {
	// features and reasons are by feature, against the champion's training; nil
	// without a champion.
	features, reasons []drift.Change
	// scores are by model version, each against its own training.
	scores []scoreDrift
}

type scoreDrift struct {
	version int64
	drift.Change
}

// reasonRows is how many customers, the newest, are explained.
const reasonRows = 2000

// drift compares customers with those that the champion was trained on, and what
// each version that made some of their newest scores makes of all of them with its
// own holdout. The versions are given newest first.
//
// It is no use to look at a version's own scores alone: after a promotion those are
// of the customers who did something since, who are not like the others.
func (c *computer) drift(champion *models.Version, versions []expected, rows []*scored) *drifted {
	set := c.monitor.cfg.Codec.Set()
	baseline := func(v *models.Version) *drift.Baseline {
		return drift.NewBaseline(set.Spec(), v.Baseline, v.TrainingRows)
	}
	d := &drifted{}
	for i := range versions {
		v := c.monitor.cfg.Models.Get(versions[i].version)
		if v == nil {
			continue
		}
		sample := baseline(v).Sample(set.Vocabulary())
		for _, s := range rows {
			sample.AddScore(v.Predictor.Probability(c.vector(s.attributes, s.levels)))
		}
		d.scores = append(d.scores, scoreDrift{v.Version, sample.Score()})
	}
	if champion == nil {
		return d
	}
	of := baseline(champion)
	sample, reasons := of.Sample(set.Vocabulary()), of.Reasons()
	for i, s := range rows {
		sample.Add(s.attributes, s.levels)
		if of.Explained() && i >= len(rows)-reasonRows {
			reasons.Add(c.explain(champion, s))
		}
	}
	for j := range set.Spec().Len() {
		d.features = append(d.features, sample.Feature(j))
		d.reasons = append(d.reasons, reasons.Feature(j))
	}
	return d
}

// explain returns the Shapley values of a customer's probability by the champion. It
// takes some thirty microseconds the first time.
func (c *computer) explain(champion *models.Version, s *scored) []float64 {
	if s.explainedBy != champion {
		s.explainedBy = champion
		s.reasons = champion.Predictor.SHAP(s.reasons, c.vector(s.attributes, s.levels), &c.workspace)
	}
	return s.reasons
}

// defined reports whether there was something to compare.
func defined(c drift.Change) bool { return !scoring.IsMissing(c.Value) }
