package scoring

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
)

// smallModel is a valid model with a feature of each shape.
func smallModel() *Model {
	bins := func() []Bin {
		return []Bin{
			{Mean: 2, Std: 1, Min: 0, Max: 4, Frequency: 0.5},
			{Mean: 6, Std: 1, Min: 4, Max: 9, Frequency: 0.5},
		}
	}
	return &Model{
		Intercept: -1,
		Features: []ModelFeature{
			{Name: "contract", Kind: "categorical", Levels: []string{"month", "year", "two years"},
				LogOdds: []float64{0.5, -0.2, -0.9}, Frequency: []float64{0.5, 0.5, 0}},
			{Name: "tenure", Kind: "numeric", LogOddsPerUnit: -0.1, Bins: bins(), Quartiles: []float64{4},
				EmpiricalQuantiles: []float64{1, 3, 3, 5, 8}},
			{Name: "charges", Kind: "numeric", Knots: []float64{1, 4, 8}, KnotLogOdds: []float64{0, 1, -1},
				Bins: bins(), Quartiles: []float64{4}},
		},
		Importance: []Importance{{Feature: "tenure", LIME: 0.1, SHAP: 0.1, Points: []ImportancePoint{{Value: "≤ 4"}}}},
	}
}

func TestValidate(t *testing.T) {
	if err := smallModel().Validate(); err != nil {
		t.Fatal(err)
	}
	nan, inf := math.NaN(), math.Inf(1)
	for name, tc := range map[string]struct {
		spoil func(m *Model)
		says  string
	}{
		"intercept":          {func(m *Model) { m.Intercept = nan }, "not finite"},
		"kernel":             {func(m *Model) { m.KernelWidth = -1 }, "kernel width"},
		"base rate":          {func(m *Model) { m.BaseRate = 1.5 }, "base rate"},
		"thresholds order":   {func(m *Model) { m.Thresholds = Thresholds{0.6, 0.3} }, "thresholds"},
		"threshold 1":        {func(m *Model) { m.Thresholds = Thresholds{0.6, 1} }, "thresholds"},
		"threshold 0":        {func(m *Model) { m.Thresholds = Thresholds{0, 0.5} }, "thresholds"},
		"no features":        {func(m *Model) { m.Features = nil }, "no features"},
		"too many features":  {func(m *Model) { m.Features = make([]ModelFeature, MaxModelFeatures+1) }, "at most"},
		"no name":            {func(m *Model) { m.Features[1].Name = "" }, "no name"},
		"twice":              {func(m *Model) { m.Features[1].Name = "contract" }, "twice"},
		"kind":               {func(m *Model) { m.Features[0].Kind = "ordinal" }, `"ordinal"`},
		"no levels":          {func(m *Model) { m.Features[0].Levels = nil }, "0 levels"},
		"lengths":            {func(m *Model) { m.Features[0].LogOdds = m.Features[0].LogOdds[1:] }, "2 log-odds"},
		"level twice":        {func(m *Model) { m.Features[0].Levels[1] = "month" }, "twice"},
		"long level":         {func(m *Model) { m.Features[0].Levels[1] = strings.Repeat("x", 300) }, "longer"},
		"log-odds":           {func(m *Model) { m.Features[0].LogOdds[1] = inf }, "not finite"},
		"sum":                {func(m *Model) { m.Features[0].Frequency[0] = 0.6 }, "sum to 1.1"},
		"negative frequency": {func(m *Model) { m.Features[0].Frequency = []float64{1.5, -0.5, 0} }, "-0.5"},
		"NaN frequency":      {func(m *Model) { m.Features[0].Frequency[0] = nan }, "NaN"},
		"slope":              {func(m *Model) { m.Features[1].LogOddsPerUnit = inf }, "not finite"},
		"knots and slope":    {func(m *Model) { m.Features[2].LogOddsPerUnit = 1 }, "both"},
		"knots order":        {func(m *Model) { m.Features[2].Knots[1] = 1 }, "knots are not ascending"},
		"knot lengths":       {func(m *Model) { m.Features[2].Knots = []float64{1} }, "1 knots"},
		"no bins":            {func(m *Model) { m.Features[1].Bins = nil }, "0 bins"},
		"bins":               {func(m *Model) { m.Features[1].Quartiles = nil }, "2 bins"},
		"quartiles": {func(m *Model) {
			m.Features[1].Quartiles = []float64{4, 4}
			m.Features[1].Bins = append(m.Features[1].Bins, Bin{})
		}, "quartiles are not ascending"},
		"quantiles":      {func(m *Model) { m.Features[1].EmpiricalQuantiles[0] = 4 }, "quantiles are not ascending"},
		"bin std":        {func(m *Model) { m.Features[1].Bins[0].Std = -1 }, "bin 0"},
		"bin mean":       {func(m *Model) { m.Features[1].Bins[0].Mean = 5 }, "mean 5"},
		"bin range":      {func(m *Model) { m.Features[1].Bins[0].Max = 5 }, "quartiles"},
		"bin sum":        {func(m *Model) { m.Features[1].Bins[0].Frequency = 0.4 }, "sum to"},
		"bin infinite":   {func(m *Model) { m.Features[1].Bins[1].Max = inf }, "not finite"},
		"too many":       {func(m *Model) { m.Features[1].EmpiricalQuantiles = make([]float64, MaxPoints+1) }, "more than"},
		"huge number":    {func(m *Model) { m.Features[1].Bins[1].Max = 1e300 }, "beyond"},
		"importance":     {func(m *Model) { m.Importance[0].SHAP = nan }, "importance"},
		"importance dot": {func(m *Model) { m.Importance[0].Points[0].LIME = nan }, "importance"},
	} {
		t.Run(name, func(t *testing.T) {
			m := smallModel()
			tc.spoil(m)
			err := m.Validate()
			if !errors.Is(err, ErrModel) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want one that says %q", err, tc.says)
			}
		})
	}
}

func TestParseModel(t *testing.T) {
	data, err := json.Marshal(smallModel())
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseModel(bytes.Replace(data, []byte(`{`), []byte(`{"holdout":{"rows":3},`), 1))
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(m)
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("%v: %s\nwant %s", err, again, data)
	}
	for _, bad := range []string{"", "null", "[]", "{}", `{"features":1}`, string(data) + "x", string(data[:len(data)-1])} {
		if _, err := ParseModel([]byte(bad)); !errors.Is(err, ErrModel) {
			t.Errorf("%.40q: error %v", bad, err)
		}
	}
	if _, err := ParseModel(make([]byte, MaxModelBytes+1)); !errors.Is(err, ErrModel) {
		t.Errorf("too long: error %v", err)
	}
}

func TestRiskThresholds(t *testing.T) {
	m := smallModel()
	if got := m.RiskThresholds(); got != (Thresholds{0.3, 0.6}) {
		t.Errorf("default %v", got)
	}
	m.Thresholds = Thresholds{0.2, 0.2}
	if got := m.RiskThresholds(); got != m.Thresholds {
		t.Errorf("own %v", got)
	}
}

// FuzzParseModel checks that what is accepted is safe: it compiles or is
// refused with ErrModel, and what it computes is finite.
func FuzzParseModel(f *testing.F) {
	data, _ := json.Marshal(smallModel())
	f.Add(data)
	f.Add([]byte(`{"features":[{"name":"a","kind":"categorical","levels":["x"],"log_odds":[1e3],"frequency":[1]}]}`))
	f.Add([]byte(`{"features":[{"name":"a","kind":"numeric","log_odds_per_unit":1e99,"bins":[{"mean":1,"std":1e-9,"min":0,"max":2,"frequency":1}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return // enough for every shape, and quick
		}
		m, err := ParseModel(data)
		if err != nil {
			if !errors.Is(err, ErrModel) {
				t.Fatalf("error %v", err)
			}
			return
		}
		v := NewVocabulary(specOf(t, m))
		p, err := Compile(m, v)
		if err != nil {
			if !errors.Is(err, ErrModel) {
				t.Fatalf("error %v", err)
			}
			return
		}
		w := p.NewWorkspace()
		for _, value := range []float64{Missing, 0, 1, -1e9} {
			x := NewVector(len(m.Features))
			for j := range x {
				x[j] = value
			}
			if !finite(p.Probability(x)) || !finite(p.LIME(nil, x, w)...) || !finite(p.SHAP(nil, x, w)...) {
				t.Errorf("not finite at %g", value)
			}
		}
	})
}
