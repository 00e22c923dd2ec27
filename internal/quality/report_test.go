package quality

import (
	"encoding/json"
	"math"
	"testing"
)

func TestAReportSurvivesJSON(t *testing.T) {
	figures := Figures{}
	figures.Set("roc_auc", .8, .7, .9)
	figures.Set("recall", .5, math.NaN(), math.NaN())
	figures.Set("precision", math.NaN(), 0, 1)
	want := Report{At: 5, Champion: 2, Versions: []Version{{Version: 3}, {Version: 2, Measured: figures}},
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
	if v == nil || len(v.Measured) != 2 || v.Measured["roc_auc"] != (Interval{.8, .7, .9}) {
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
