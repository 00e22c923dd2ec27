package monitor

import (
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// championFigures are what the champion is judged by: what it would have said of
// customers whose fate it did not know, whoever scored them. By its own scores it
// could not be judged for as long as labels take, and after its return by what was
// long ago.
type championFigures struct {
	rows    []*example // ascending
	metrics evaluation.Metrics
}

// judge has the champion answer for those of the newest examples that are of its
// horizon and new to it.
func (c *computer) judge(champion *models.Version, newest []*example) *championFigures {
	if champion == nil {
		return nil
	}
	f := &championFigures{metrics: evaluation.NoMetrics()}
	known := labelsUntil(champion)
	var said []evaluation.Example
	for _, e := range newest {
		if !newTo(e, known) || !champion.Answers(&e.LabelledExample) {
			continue
		}
		f.rows = append(f.rows, e)
		said = append(said, evaluation.Example{Customer: e.hash, Churned: e.Churned,
			Probability: champion.Predictor.Probability(c.vector(e.Attributes, e.levels))})
	}
	if len(said) > 0 {
		r := evaluation.Rank(said)
		f.metrics = r.Metrics()
		f.metrics.Lower, f.metrics.Upper = r.Intervals()
	}
	return f
}
