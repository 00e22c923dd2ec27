package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/churnstream/churnstream/internal/explain"
)

var update = flag.Bool("update", false, "write the golden files anew")

// explainModel has a feature of each shape, and names that no shipped schema
// has.
const explainModel = `{
	"intercept": -0.5, "thresholds": {"medium": 0.25, "high": 0.5},
	"features": [
		{"name": "plan", "kind": "categorical", "levels": ["monthly", "yearly", ""], "log_odds": [1.2, -1.1, 0], "frequency": [0.55, 0.4, 0.05]},
		{"name": "months", "kind": "numeric", "log_odds_per_unit": -0.05, "quartiles": [12],
			"bins": [{"mean": 6, "std": 3, "min": 0, "max": 12, "frequency": 0.5}, {"mean": 40, "std": 15, "min": 12, "max": 72, "frequency": 0.5}],
			"empirical_quantiles": [2, 6, 11, 20, 38, 70]},
		{"name": "bill", "kind": "numeric", "knots": [20, 60, 120], "knot_log_odds": [-0.3, 0.1, 0.9],
			"bins": [{"mean": 65, "std": 25, "min": 20, "max": 120, "frequency": 1}]},
		{"name": "region", "kind": "categorical", "levels": ["north", "south"], "log_odds": [0.1, -0.1], "frequency": [0.5, 0.5]},
		{"name": "a_feature_with_a_name_that_goes_on_for_long", "kind": "categorical", "levels": ["yes", "no"], "log_odds": [0.4, -0.1], "frequency": [0.2, 0.8]},
		{"name": "colour", "kind": "categorical", "levels": ["red", "blue"], "log_odds": [0.3, 0.3], "frequency": [0.5, 0.5]}
	]}`

// explainFiles writes a model and a customer, and returns the arguments that
// explain them.
func explainFiles(t *testing.T, model, customer string) []string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"explain"}
	for name, content := range map[string]string{"model": model, "customer": customer} {
		path := filepath.Join(dir, name+".json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--"+name, path)
	}
	return args
}

// program runs the program in this process.
func program(args ...string) (out, errs string, code int) {
	var o, e bytes.Buffer
	code = run(args, &o, &e)
	return o.String(), e.String(), code
}

func TestExplainTable(t *testing.T) {
	for name, tc := range map[string]struct {
		customer string
		args     []string
	}{
		"plain": {`{"plan":"monthly","months":3,"bill":99.5,"region":"north","a_feature_with_a_name_that_goes_on_for_long":"no","colour":"red"}`, nil},
		"odd": {`{"plan":"paid by the day, in advance, in small coins","months":3000000.25,"region":"\u001b[31mnört\nh","colour":null}`,
			[]string{"--change", "plan=a=b;c", "--change", "months=", "--change", "bill=1e3"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := program(append(explainFiles(t, explainModel, tc.customer), tc.args...)...)
			if code != 0 || errs != "" {
				t.Fatalf("exit code %d, said %q", code, errs)
			}
			golden := filepath.Join("testdata", "explain_"+name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out != string(want) {
				t.Errorf("printed\n%s\nwant\n%s", out, want)
			}
			// Whatever the values are, the axis stands in one column of each table.
			for _, table := range strings.Split(out, "\n\n") {
				axis := -1
				for _, line := range strings.Split(table, "\n") {
					before, _, ok := strings.Cut(line, "│")
					if !ok {
						continue
					}
					if axis < 0 {
						axis = utf8.RuneCountInString(before)
					}
					if at := utf8.RuneCountInString(before); at != axis {
						t.Errorf("axis at column %d, not %d: %s", at, axis, line)
					}
				}
			}
		})
	}
}

// explainedJSON is what --json prints, read by its keys.
type explainedJSON struct {
	Probability float64 `json:"probability"`
	Expected    float64 `json:"expected_probability"`
	Risk        string  `json:"risk"`
	Features    []struct {
		Feature string  `json:"feature"`
		Value   any     `json:"value"`
		Missing bool    `json:"missing"`
		Unknown bool    `json:"unknown"`
		LIME    float64 `json:"lime"`
		SHAP    float64 `json:"shap"`
		LogOdds float64 `json:"log_odds"`
	} `json:"features"`
	WhatIf     *explainedJSON `json:"what_if"`
	BestChange *struct {
		Feature     string  `json:"feature"`
		Value       string  `json:"value"`
		Probability float64 `json:"probability"`
	} `json:"best_change"`
	Note string `json:"note"`
}

func explainJSON(t *testing.T, args []string) explainedJSON {
	t.Helper()
	out, errs, code := program(append(args, "--json")...)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	var e explainedJSON
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return e
}

func TestExplainJSON(t *testing.T) {
	args := explainFiles(t, explainModel, `{"plan":"daily","bill":100,"region":"south"}`)
	e := explainJSON(t, append(args, "--change", "plan=yearly", "--change", "months=12"))
	values := map[string]any{"plan": "daily", "months": nil, "bill": 100.0, "region": "south"}
	sum := 0.0
	for i, f := range e.Features {
		sum += f.SHAP
		if want, ok := values[f.Feature]; ok && f.Value != want {
			t.Errorf("%s is %v, want %v", f.Feature, f.Value, want)
		}
		if f.Missing != (f.Value == nil) || f.Unknown != (f.Feature == "plan") {
			t.Errorf("%s: missing %t, unknown %t", f.Feature, f.Missing, f.Unknown)
		}
		if (f.Missing || f.Unknown) && f.LogOdds != 0 {
			t.Errorf("%s contributes %g to the log-odds", f.Feature, f.LogOdds)
		}
		if i > 0 && math.Abs(f.LIME) > math.Abs(e.Features[i-1].LIME) {
			t.Errorf("%s does not come after %s", f.Feature, e.Features[i-1].Feature)
		}
	}
	if len(e.Features) != 6 || math.Abs(sum-(e.Probability-e.Expected)) > 1e-9 {
		t.Errorf("%d features whose Shapley values sum to %g, not %g", len(e.Features), sum, e.Probability-e.Expected)
	}
	if e.WhatIf == nil || !(e.WhatIf.Probability < e.Probability) || e.WhatIf.Expected != e.Expected || len(e.WhatIf.Features) != 6 {
		t.Errorf("what if: %+v", e.WhatIf)
	}
	if e.Note != explain.WhatIfNote || e.BestChange != nil { // nothing is actionable without a schema
		t.Errorf("note %q, best change %v", e.Note, e.BestChange)
	}
	if e := explainJSON(t, args); e.WhatIf != nil || e.Note != "" {
		t.Errorf("without changes: %+v and note %q", e.WhatIf, e.Note)
	}
}

// TestExplainSchema takes labels and what is actionable from a schema.
func TestExplainSchema(t *testing.T) {
	schema := filepath.Join(t.TempDir(), "customers.avsc")
	if err := os.WriteFile(schema, []byte(`{"type":"record","name":"CustomerAttributes","fields":[
		{"name":"plan","type":["null","string"],"default":null,"feature":{"actionable":true,"label":"Plan"}},
		{"name":"region","type":["null","string"],"default":null}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	args := explainFiles(t, `{"intercept":0,"features":[
		{"name":"plan","kind":"categorical","levels":["monthly","yearly"],"log_odds":[1,-1],"frequency":[0.5,0.5]},
		{"name":"region","kind":"categorical","levels":["north","south"],"log_odds":[0.1,-0.1],"frequency":[0.5,0.5]}]}`,
		`{"plan":"monthly","region":"south"}`)
	out, errs, code := program(append(args, "--schema", schema)...)
	for _, want := range []string{"  Plan     monthly ", "Best single change: plan=yearly, predicted 0.250\n\n" + explain.WhatIfNote} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, %s, no %q in\n%s", code, errs, want, out)
		}
	}
}

func TestExplainErrors(t *testing.T) {
	const customer = `{"plan":"monthly"}`
	for name, tc := range map[string]struct {
		model, customer string
		args            []string
		says            string
	}{
		"model":            {`{"features":[]}`, customer, nil, "no features"},
		"model no JSON":    {`what`, customer, nil, "--model"},
		"customer":         {explainModel, `["monthly"]`, nil, "one JSON object"},
		"attribute":        {explainModel, `{"Plan":"monthly"}`, nil, "Plan: is not an attribute"},
		"number":           {explainModel, `{"months":"many"}`, nil, "months: must be a number"},
		"too much":         {explainModel, `{"plan":"` + strings.Repeat("x", maxCustomerBytes) + `"}`, nil, "more than"},
		"changed feature":  {explainModel, customer, []string{"--change", "Plan=yearly"}, "no such feature"},
		"changed value":    {explainModel, customer, []string{"--change", "months=many"}, "months: must be a number"},
		"name of no field": {strings.Replace(explainModel, `"plan"`, `"the plan"`, 1), customer, nil, "the plan"},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := program(append(explainFiles(t, tc.model, tc.customer), tc.args...)...)
			if code == 0 || out != "" || !strings.Contains(errs, tc.says) {
				t.Errorf("exit code %d, printed %q, said %q, want %q", code, out, errs, tc.says)
			}
		})
	}
}

// TestExplainReference runs the command as others would to check our numbers
// against theirs: with their file as the model, and their customers.
func TestExplainReference(t *testing.T) {
	path := os.Getenv("CHURN_REFERENCE")
	if path == "" {
		path = filepath.Join("..", "..", "..", "shared", "reference")
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "explanations_telco.json")
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("reference values are not there: no %s (CHURN_REFERENCE names the file or its directory)", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	var reference struct {
		Cases []struct {
			Customer    json.RawMessage    `json:"customer"`
			Probability float64            `json:"probability"`
			LIME        map[string]float64 `json:"lime_mean"`
			LIMEError   map[string]float64 `json:"lime_standard_error"`
			SHAP        map[string]float64 `json:"shap_mean"`
			SHAPError   map[string]float64 `json:"shap_standard_error"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(data, &reference); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, c := range reference.Cases {
		e := explainJSON(t, explainFiles(t, string(data), string(c.Customer)))
		if math.Abs(e.Probability-c.Probability) > 1e-12 {
			t.Errorf("probability %g, want %g", e.Probability, c.Probability)
		}
		for _, f := range e.Features {
			compared++
			for kind, z := range map[string]float64{
				"LIME": (f.LIME - c.LIME[f.Feature]) / c.LIMEError[f.Feature],
				"SHAP": (f.SHAP - c.SHAP[f.Feature]) / c.SHAPError[f.Feature],
			} {
				if !(math.Abs(z) <= 4) {
					t.Errorf("%s of %s: %.1f standard errors off", kind, f.Feature, z)
				}
			}
		}
	}
	if compared == 0 {
		t.Errorf("%s has no cases", path)
	}
}
