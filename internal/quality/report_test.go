package quality

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/churnstream/churnstream/scoring/evaluation"
)

func TestAReportSurvivesJSON(t *testing.T) {
	figures := Figures{}
	figures.Set("roc_auc", .8, .7, .9)
	figures.Set("recall", .5, math.NaN(), math.NaN())
	figures.Set("precision", math.NaN(), 0, 1)
	want := Report{At: time.UnixMilli(5).UTC(), Champion: 2, Versions: []Version{{Version: 3}, {Version: 2, Measured: figures}},
		Drift: &Drift{Score: Measure{Number(math.NaN()), .1}}}
	text, err := json.Marshal(&want)
	if err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	v := got.Of(2)
	if !got.At.Equal(want.At) || v == nil || len(v.Measured) != 2 || v.Measured["roc_auc"] != (Interval{.8, .7, .9}) {
		t.Fatalf("%+v", got)
	}
	if r := v.Measured["recall"]; r.Value != .5 || r.Lower.Defined() || r.Upper.Defined() {
		t.Errorf("recall is %+v", r)
	}
	if _, there := v.Measured["precision"]; there || got.Drift.Score.Value.Defined() {
		t.Errorf("a figure that was not defined is: %s", text)
	}
	if got.Of(7) != nil || (*Report)(nil).Of(2) != nil {
		t.Error("a version that is not there has figures")
	}
}

func TestExceeded(t *testing.T) {
	for m, want := range map[Measure]bool{
		{.2, .1}: true, {-.2, .1}: true, {.1, .1}: false, {0, 0}: false, {.2, Number(math.NaN())}: false, {Number(math.NaN()), .1}: false,
	} {
		if m.Exceeded() != want {
			t.Errorf("%+v: %t", m, !want)
		}
	}
}

func TestFiguresOf(t *testing.T) {
	m := evaluation.Evaluate([]evaluation.Example{{Customer: 1, Probability: .9, Churned: true}, {Customer: 2, Probability: .2}})
	f := FiguresOf(&m)
	if f["accuracy"].Value != 1 || f["roc_auc"].Value != 1 {
		t.Errorf("%+v", f)
	}
	one := evaluation.Evaluate([]evaluation.Example{{Customer: 1, Probability: .2}})
	f = FiguresOf(&one)
	if _, there := f["roc_auc"]; there || f["accuracy"].Value != 1 || f["accuracy"].Lower.Defined() && f["accuracy"].Lower > 1 {
		t.Errorf("%+v", f)
	}
	none := evaluation.NoMetrics()
	if f := FiguresOf(&none); len(f) != 0 {
		t.Errorf("%+v", f)
	}
}
