package scoring

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// namedPredictor is smallModel compiled for its own features, with a level that
// is a number.
func namedPredictor(t testing.TB) *Predictor {
	t.Helper()
	m := smallModel()
	m.Features[0].Levels[2] = "24"
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePredictor(data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVectorByName(t *testing.T) {
	type plan string
	p := namedPredictor(t)
	for name, tc := range map[string]struct {
		attributes map[string]any
		want       Vector
	}{
		"nothing":                {nil, Vector{Missing, Missing, Missing}},
		"nil":                    {map[string]any{"tenure": nil, "contract": nil}, Vector{Missing, Missing, Missing}},
		"empty strings":          {map[string]any{"tenure": "", "contract": ""}, Vector{Missing, Missing, Missing}},
		"white space":            {map[string]any{"tenure": " \t", "contract": plan("\u00a0")}, Vector{Missing, Missing, Missing}},
		"white space around":     {map[string]any{"tenure": " 5.5", "contract": "year "}, Vector{1, 5.5, Missing}},
		"strings and float":      {map[string]any{"contract": "year", "tenure": 5.5}, Vector{1, 5.5, Missing}},
		"whole numbers":          {map[string]any{"tenure": 5, "charges": uint8(7)}, Vector{Missing, 5, 7}},
		"float32":                {map[string]any{"tenure": float32(0.5)}, Vector{Missing, 0.5, Missing}},
		"number as text":         {map[string]any{"tenure": "5.5", "charges": json.Number("7")}, Vector{Missing, 5.5, 7}},
		"level as number":        {map[string]any{"contract": 24}, Vector{2, Missing, Missing}},
		"level from JSON":        {map[string]any{"contract": 24.0}, Vector{2, Missing, Missing}},
		"level of a JSON number": {map[string]any{"contract": json.Number("24")}, Vector{2, Missing, Missing}},
		"named type":             {map[string]any{"contract": plan("month")}, Vector{0, Missing, Missing}},
		"unknown level":          {map[string]any{"contract": "decade"}, Vector{Unknown, Missing, Missing}},
		"unknown number":         {map[string]any{"contract": -1}, Vector{Unknown, Missing, Missing}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := p.Vector(tc.attributes)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(got, tc.want, func(a, b float64) bool { return a == b || IsMissing(a) && IsMissing(b) }) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	if n := p.vocabulary.Size(0); n != 3 {
		t.Errorf("the vocabulary learnt from questions: %d levels", n)
	}
}

func TestAttributeErrors(t *testing.T) {
	p := namedPredictor(t)
	for name, tc := range map[string]struct {
		attributes map[string]any
		says       []string
	}{
		"no feature":        {map[string]any{"Contract": "month"}, []string{`"Contract"`, "not a feature"}},
		"first by name":     {map[string]any{"z": 1, "a": 1}, []string{`"a"`}},
		"text for a number": {map[string]any{"tenure": "five"}, []string{`"tenure"`, `"five"`, "not a number"}},
		"NaN":               {map[string]any{"tenure": math.NaN()}, []string{`"tenure"`, "not within"}},
		"infinite":          {map[string]any{"tenure": "-inf"}, []string{`"tenure"`, "not within"}},
		"greatest double":   {map[string]any{"tenure": math.MaxFloat64}, []string{`"tenure"`, "not within ±1e+100"}},
		"too large":         {map[string]any{"tenure": "1e999"}, []string{`"tenure"`, "not a number"}},
		"boolean":           {map[string]any{"tenure": true}, []string{`"tenure"`, "bool"}},
		"list":              {map[string]any{"contract": []string{"month"}}, []string{`"contract"`, "[]string"}},
		"fraction":          {map[string]any{"contract": 0.5}, []string{`"contract"`, "0.5"}},
		"boolean level":     {map[string]any{"contract": false}, []string{`"contract"`, "bool"}},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := p.ExplainByName(tc.attributes)
			if !errors.Is(err, ErrAttribute) || e != nil {
				t.Fatalf("%v, error %v", e, err)
			}
			for _, says := range tc.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("error %q does not say %q", err, says)
				}
			}
		})
	}
}

func TestExplainByName(t *testing.T) {
	p := namedPredictor(t)
	attributes := map[string]any{"contract": "decade", "charges": 7}
	x, err := p.Vector(attributes)
	if err != nil {
		t.Fatal(err)
	}
	want := p.Explain(x, nil)
	got, err := p.ExplainByName(attributes)
	if err != nil {
		t.Fatal(err)
	}
	if got.Probability != want.Probability || got.ExpectedProbability != p.ExpectedProbability() ||
		got.Risk != p.Model().RiskThresholds().Risk(want.Probability) {
		t.Errorf("got %+v", got)
	}
	if !slices.Equal(got.Missing, []string{"tenure"}) || !slices.Equal(got.Unknown, []string{"contract"}) {
		t.Errorf("missing %v, unknown %v", got.Missing, got.Unknown)
	}
	for j := range x {
		name := p.Spec().Feature(j).Name
		if got.LIME[name] != want.LIME[j] || got.SHAP[name] != want.SHAP[j] || got.LogOdds[name] != want.LogOdds[j] {
			t.Errorf("%s: %v %v %v", name, got.LIME[name], got.SHAP[name], got.LogOdds[name])
		}
	}
	if top := got.Top(1); !slices.Equal(top, []string{"charges"}) {
		t.Errorf("top %v", top)
	}
	if a, b := got.Top(-1), got.Top(9); len(a) != 3 || !slices.Equal(a, b) {
		t.Errorf("all are %v and %v", a, b)
	}
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"risk":"LOW"`, `"missing":["tenure"]`, `"unknown":["contract"]`, `"explanation":{"charges":`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s does not contain %s", text, part)
		}
	}
	if full, err := p.ExplainByName(map[string]any{"contract": "year", "tenure": 1, "charges": 1}); err != nil || full.Missing == nil || full.Unknown == nil {
		t.Errorf("%+v, error %v: lists without members must be [] in JSON", full, err)
	}
}

func TestParsePredictor(t *testing.T) {
	for _, bad := range []string{"", "{}", `{"features":[{"name":"a","kind":"ordinal"}]}`} {
		if p, err := ParsePredictor([]byte(bad)); !errors.Is(err, ErrModel) || p != nil {
			t.Errorf("%q: %v, error %v", bad, p, err)
		}
	}
}

func TestModelSpec(t *testing.T) {
	m := smallModel()
	spec, err := m.Spec()
	if err != nil {
		t.Fatal(err)
	}
	if spec.Len() != len(m.Features) || spec.Fingerprint() != specOf(t, m).Fingerprint() {
		t.Errorf("%d features, fingerprint %s", spec.Len(), spec.Fingerprint())
	}
	for name, spoil := range map[string]func(*Model){
		"kind":  func(m *Model) { m.Features[1].Kind = "ordinal" },
		"twice": func(m *Model) { m.Features[1].Name = "contract" },
		"none":  func(m *Model) { m.Features = nil },
	} {
		m := smallModel()
		spoil(m)
		if spec, err := m.Spec(); !errors.Is(err, ErrModel) || spec != nil {
			t.Errorf("%s: %v, error %v", name, spec, err)
		}
	}
}

// Levels of a model that was fitted when white space made a level another one are
// known without it.
func TestModelOfLevelsWithWhiteSpace(t *testing.T) {
	const model = `{"intercept":0,"base_rate":0.5,"thresholds":{"medium":0.3,"high":0.6},"features":[{"name":"plan","kind":"categorical","levels":[%s],
		"log_odds":[1,-1,3],"frequency":[0.5,0.3,0.2]}]}`
	probability := func(levels, plan string) float64 {
		t.Helper()
		p, err := ParsePredictor(fmt.Appendf(nil, model, levels))
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.ExplainByName(map[string]any{"plan": plan})
		if err != nil {
			t.Fatal(err)
		}
		return got.Probability
	}
	for _, plan := range []string{"year", "month", " month"} {
		want := probability(`"year","month","other"`, plan)
		// The more frequent of two that are one now is the one that counts.
		for _, levels := range []string{`"year ","month","other"`, `"year","month\t","other"`, `"year","month"," month "`, `"year ","month ","year"`} {
			if got := probability(levels, plan); got != want {
				t.Errorf("levels %s, plan %q: %v, want %v", levels, plan, got, want)
			}
		}
	}
}
