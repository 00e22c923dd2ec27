package monitor

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// TestTheChampionAnswersForWhatOthersScored has a champion judged before any of its
// own scores has come true, and one that has come back by what is now.
func TestTheChampionAnswersForWhatOthersScored(t *testing.T) {
	w := newWorld(t, 1)
	rng := rand.New(rand.NewPCG(3, 1))
	former, champion := w.models.Get(2), w.models.Get(3)
	former.Stage, champion.Stage = schemas.StageRetired, schemas.StageChampion
	former.LabelsUntil, champion.LabelsUntil = seconds(50), seconds(300)
	former.Horizon, champion.Horizon = 30_000, 30_000
	var records []kafka.Record
	answers := map[int64][]evaluation.Example{}
	for i := range 600 {
		customer := "c" + strconv.Itoa(i)
		plan, bill := []string{"month", "year"}[rng.IntN(2)], 100*rng.Float64()
		x := w.vector(plan, bill)
		// At first it is as the opposite of the former says, then as it says.
		p := former.Predictor.Probability(x)
		truth := p
		if i < 200 {
			truth = 1 - p
		}
		e := w.example(i, 2, p, rng.Float64() < truth, plan, bill)
		switch {
		case i%7 == 0: // nobody scored it
			e.ModelVersion, e.Probability = 0, scoring.Missing
		case i >= 200: // nor did the former, any more
			e.ModelVersion, e.Probability = 1, .5
		}
		if i%10 == 3 {
			e.Horizon = 60_000
		}
		records = append(records, w.examples(customer, e))
		if i < 200 || e.Horizon != 30_000 { // of the newest 400
			continue
		}
		for _, v := range w.models.List() {
			if v.LabelsUntil < e.LabelledAt {
				answers[v.Version] = append(answers[v.Version], evaluation.Example{Customer: scoring.Hash([]byte(customer)), Churned: e.Churned, Probability: v.Predictor.Probability(x)})
			}
		}
	}
	w.produce(schemas.TopicExamples, records...)
	w.models.set(former, champion)
	r := w.start(Config{Window: 400})
	judged := func(version int64, rows int) *evaluation.Metrics {
		t.Helper()
		of := answers[version]
		if len(of) != rows {
			t.Fatalf("%d examples are new to version %d", len(of), version)
		}
		ranked := evaluation.Rank(of)
		want := ranked.Metrics()
		want.Lower, want.Upper = ranked.Intervals()
		label := `{model_version="` + number(version) + `"}`
		expected := map[string]float64{"churn_champion_examples" + label: float64(rows)}
		for _, f := range evaluation.All {
			switch f.Name {
			case "roc_auc", "log_loss", "log_loss_skill", "calibration_error", "pr_auc", "brier":
				expected["churn_champion_"+f.Name+label] = *f.Of(&want.Figures)
				expected[`churn_champion_figure_lower{figure="`+f.Name+`",model_version="`+number(version)+`"}`] = *f.Of(&want.Lower)
				expected[`churn_champion_figure_upper{figure="`+f.Name+`",model_version="`+number(version)+`"}`] = *f.Of(&want.Upper)
			}
		}
		r.expect(expected)
		v := r.Report().Of(version)
		if v == nil || v.Current == nil || v.Current.Rows != int64(rows) || v.Current.Churners != want.Churners ||
			float64(v.Judged().Figures["roc_auc"].Value) != want.ROCAUC || v.Current.To.UnixMilli() != seconds(599) {
			t.Errorf("reported %+v", v)
		}
		return &want
	}
	judged(3, 270)
	r.expect(map[string]float64{`churn_model_window_outcomes{model_version="3"}`: math.NaN(), `churn_champion_examples{model_version="2"}`: math.NaN()})
	before := r.result()
	if again := r.result(); again.judged != before.judged {
		t.Error("what has not changed is computed once more")
	}

	// Back to the former: its own scores were wrong, and it would be right now.
	back, gone := *former, *champion
	back.Stage, gone.Stage = schemas.StageChampion, schemas.StageRetired
	w.models.set(&gone, &back)
	if want := judged(2, 360); want.Lower.LogLossSkill <= 0 {
		t.Errorf("the former is judged by %+v", want)
	}
	v := r.Report().Of(2)
	if own := v.Measured["log_loss_skill"]; own.Upper >= 0 {
		t.Errorf("of its own scores it had a skill of %+v", own)
	}
	if found, fallen := v.Fallen(); fallen {
		t.Errorf("it has fallen by %+v", found)
	}

	// Of a horizon that there are no examples of, nothing is known.
	other := back
	other.Horizon = 7
	w.models.set(&other)
	r.expect(map[string]float64{`churn_champion_examples{model_version="2"}`: 0, `churn_champion_roc_auc{model_version="2"}`: math.NaN()})
	if v := r.Report().Of(2); v.Current == nil || len(v.Current.Figures) != 0 {
		t.Errorf("reported %+v", v.Current)
	}
	if _, fallen := r.Report().Of(2).Fallen(); fallen {
		t.Error("it has fallen by its own scores of long ago")
	}
}
