package fitting

import (
	"context"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
)

// reasonRows bounds the customers whose explanations a baseline has the mean of. Its
// standard error is then 2 % of a standard deviation, which is nothing beside
// drift.MuchReason.
const reasonRows = 2000

// addBaseline notes what drift is measured against: how features were distributed
// in the training rows, how probabilities were in the holdout, and what the
// explanations were on average. Each customer counts once, as last seen: so do the
// customers that are compared with it.
func (c *Candidate) addBaseline(ctx context.Context) error {
	d, rows := c.data, c.data.lastOfCustomers(c.Training)
	c.Baseline = nil
	for j := range c.Model.Features {
		f := &c.Model.Features[j]
		if f.Kind == scoring.Categorical.String() {
			c.Baseline = append(c.Baseline, d.levelDistribution(j, f, rows))
			continue
		}
		values := make([]float64, len(rows))
		for i, r := range rows {
			values[i] = d.columns[j].numbers[r]
		}
		c.Baseline = append(c.Baseline, drift.Numbers(f.Name, values))
	}

	n := min(reasonRows, len(rows))
	reasons := drift.NewBaseline(d.Spec(), c.Baseline, 0).Reasons()
	x, shap, workspace := scoring.NewVector(d.Spec().Len()), []float64(nil), c.Predictor.NewWorkspace()
	for i := range n {
		if i%64 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		d.Attributes(int(rows[i*len(rows)/n]), x)
		shap = c.Predictor.SHAP(shap, x, workspace)
		reasons.Add(shap)
	}
	for j := range c.Baseline {
		b := &c.Baseline[j]
		b.ReasonRows, b.ReasonMean, b.ReasonDeviation = reasons.Rows(), reasons.Mean(j), reasons.Deviation(j)
	}

	held := d.probabilities(c.Predictor, d.lastOfCustomers(c.Holdout))
	c.Baseline = append(c.Baseline, drift.Numbers(drift.Score, held))
	return nil
}

// lastOfCustomers returns, of rows from the oldest to the newest, the newest of
// each customer, in their order.
func (d *Dataset) lastOfCustomers(rows []int32) []int32 {
	seen := make(map[uint64]struct{}, len(rows))
	out := make([]int32, len(rows))
	at := len(out)
	for i := len(rows) - 1; i >= 0; i-- {
		customer := d.customer[rows[i]] &^ 1
		if _, later := seen[customer]; later {
			continue
		}
		seen[customer] = struct{}{}
		at--
		out[at] = rows[i]
	}
	return out[at:]
}

// levelDistribution counts the levels of a categorical feature.
func (d *Dataset) levelDistribution(j int, f *scoring.ModelFeature, rows []int32) drift.Distribution {
	byCode := make([]int64, d.vocabulary.Size(j))
	missing := int64(0)
	for _, r := range rows {
		code := d.columns[j].value(int(r))
		switch {
		case scoring.IsMissing(code):
			missing++
		case code >= 0 && code < float64(len(byCode)):
			byCode[int(code)]++
		}
	}
	counts := make([]int64, len(f.Levels))
	for i, level := range f.Levels {
		if code, ok := d.vocabulary.Lookup(j, level); ok && int(code) < len(byCode) {
			counts[i] = byCode[int(code)]
		}
	}
	return drift.Levels(f.Name, f.Levels, counts, missing, int64(len(rows)))
}
