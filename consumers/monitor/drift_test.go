package monitor

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring/drift"
)

// trained gives a version the baseline of customers who pay by the month or the
// year, half of them each, and up to 100.
func (w *world) trained(v *models.Version, rng *rand.Rand) *models.Version {
	const rows = 2000
	var bills, probabilities []float64
	reasons := drift.NewBaseline(w.codec.Set().Spec(), nil, 0).Reasons()
	for i := range rows {
		x := w.vector([]string{"month", "year"}[i%2], 100*rng.Float64())
		bills = append(bills, x[2])
		probabilities = append(probabilities, v.Predictor.Probability(x))
		reasons.Add(v.Predictor.SHAP(nil, x, v.Predictor.NewWorkspace()))
	}
	v.Baseline = []schemas.BaselineDistribution{
		drift.Levels("plan", []string{"month", "year"}, []int64{rows / 2, rows / 2}, 0, rows),
		drift.Numbers("bill", bills),
		drift.Numbers(drift.Score, probabilities),
	}
	for _, at := range []struct{ distribution, feature int }{{0, 0}, {1, 2}} {
		b := &v.Baseline[at.distribution]
		b.ReasonRows, b.ReasonMean, b.ReasonDeviation = rows, reasons.Mean(at.feature), reasons.Deviation(at.feature)
	}
	return v
}

// TestDrift has customers turn to paying by the year, and the champion change. The
// plan is named; the version that came by the change says of its scores what it
// knows of them.
func TestDrift(t *testing.T) {
	w := newWorld(t, 2)
	rng := rand.New(rand.NewPCG(4, 4))
	former := w.trained(newVersion(t, w.codec, 1, schemas.StageRetired, -1, 0), rng)
	champion := w.trained(newVersion(t, w.codec, 2, schemas.StageChampion, 2, .01), rng)
	w.models.set(champion, former)
	score := func(customer string, at int, v *models.Version, share float64) kafka.Record {
		plan := "month"
		if rng.Float64() < share {
			plan = "year"
		}
		bill := 100 * rng.Float64()
		return w.score(customer, at, v.Version, v.Predictor.Probability(w.vector(plan, bill)), plan, bill)
	}
	var records []kafka.Record
	for i := range 600 {
		// Those whom the champion has scored are not like the others.
		v, share := former, 0.
		if i >= 300 {
			v, share = champion, 1
		}
		records = append(records, score("c"+strconv.Itoa(i), i, v, share))
	}
	w.produce(schemas.TopicScores, records...)
	r := w.start(Config{DriftWindow: 500})
	d := r.result().drift
	if len(d.features) != 3 || defined(d.features[1]) {
		t.Errorf("%d features, one of which is not in the baseline: %+v", len(d.features), d.features)
	}
	if d.features[0].Exceeded() || d.features[2].Exceeded() || d.reasons[0].Exceeded() || d.reasons[2].Exceeded() {
		t.Errorf("nothing has changed, but %+v", d)
	}
	if len(d.scores) != 2 || d.scores[0].Exceeded() || d.scores[1].Exceeded() || d.scores[0].Rows != 500 || d.scores[1].Rows != 500 {
		t.Errorf("a promotion is no drift: %+v", d.scores)
	}

	// One customer with many events counts once.
	records = records[:0]
	for i := range 3000 {
		records = append(records, score("restless", 600+i, champion, 1))
	}
	w.produce(schemas.TopicScores, records...)
	r.until("the restless customer", func(s Stats) bool {
		rows := r.result().customers.rows.rows
		return s.Customers == 601 && rows[len(rows)-1].at == seconds(3599)
	})
	if d := r.result().drift; d.features[0].Exceeded() || d.features[0].Rows != 500 {
		t.Errorf("one customer makes %+v", d.features[0])
	}

	records = records[:0]
	for i := range 600 {
		records = append(records, score("c"+strconv.Itoa(i), 4000+i, champion, .95))
	}
	w.produce(schemas.TopicScores, records...)
	r.until("the others", func(Stats) bool {
		rows := r.result().customers.rows.rows
		return rows[0].at >= seconds(4000)
	})
	d = r.result().drift
	if !d.features[0].Exceeded() || !d.reasons[0].Exceeded() || d.features[2].Exceeded() || d.reasons[2].Exceeded() {
		t.Errorf("the plan has changed, and %+v", d)
	}
	if len(d.scores) != 1 || !d.scores[0].Exceeded() {
		t.Errorf("the scores have changed: %+v", d.scores)
	}
	r.expect(map[string]float64{
		`churn_feature_psi{feature="plan"}`:            d.features[0].Value,
		`churn_feature_psi_threshold{feature="plan"}`:  d.features[0].Threshold,
		`churn_reason_drift{feature="plan"}`:           d.reasons[0].Value,
		`churn_reason_drift_threshold{feature="plan"}`: d.reasons[0].Threshold,
		`churn_score_psi{model_version="2"}`:           d.scores[0].Value,
		`churn_score_psi_threshold{model_version="2"}`: d.scores[0].Threshold,
		`churn_drift_window_scores`:                    500,
	})
	report := r.Report().Drift
	if report == nil || !report.Features[0].Values.Exceeded() || !report.Features[0].Reason.Exceeded() || !report.Score.Exceeded() || report.Scores != 500 {
		t.Errorf("reported %+v", report)
	}
}
