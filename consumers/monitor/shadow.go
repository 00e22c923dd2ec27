package monitor

import (
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// shadow compares the newest challenger with the champion on the same examples:
// on what either would have said of the customers at the decision.
type shadow struct {
	champion, challenger *models.Version
	evaluation.Comparison
}

// newestChallenger returns the newest version that is a challenger, nil if there
// is none.
func newestChallenger(all []*models.Version) *models.Version {
	for _, v := range all {
		if v.Stage == schemas.StageChallenger {
			return v
		}
	}
	return nil
}

// compare has the two versions answer for the examples that are new to both. Those
// that either has been trained on, or chosen by, say nothing. A label that was
// corrected since is of an example that may have been among them, with the
// opposite label, unless it was observed later than they knew labels.
// Nor do those of another horizon than either's say anything.
func (c *computer) compare(champion, challenger *models.Version, rows []*example) *shadow {
	if champion == nil || challenger == nil || champion.Version == challenger.Version {
		return nil
	}
	s := &shadow{champion: champion, challenger: challenger}
	known := max(labelsUntil(champion), labelsUntil(challenger))
	var pairs []evaluation.Pair
	for _, e := range rows {
		if !newTo(e, known) ||
			!champion.Answers(&e.LabelledExample) || !challenger.Answers(&e.LabelledExample) {
			continue
		}
		x := c.vector(e.Attributes, e.levels)
		pairs = append(pairs, evaluation.Pair{
			Customer: e.hash, Churned: e.Churned,
			Challenger: challenger.Predictor.Probability(x), Champion: champion.Predictor.Probability(x),
		})
	}
	s.Comparison = evaluation.Compare(pairs)
	return s
}

// newTo says that an example is new to who knew the labels until then.
func newTo(e *example, known int64) bool {
	return e.LabelledAt > known && (e.Corrections == 0 || e.ObservedAt > known)
}

// labelsUntil is when the newest label was written that a version may have known.
func labelsUntil(v *models.Version) int64 {
	if v.LabelsUntil == 0 { // it does not say
		return v.CreatedAt
	}
	return v.LabelsUntil
}

// vector returns attributes with the numbers that levels have in the vocabulary by
// now: a model that came after them may know some.
func (c *computer) vector(x scoring.Vector, levels scoring.Levels) scoring.Vector {
	if len(levels) == 0 {
		return x
	}
	v := c.monitor.cfg.Codec.Set().Vocabulary()
	c.scratch = append(c.scratch[:0], x...)
	c.others = c.others[:0]
	v.Renumber(c.scratch, v, levels, &c.others)
	return c.scratch
}
