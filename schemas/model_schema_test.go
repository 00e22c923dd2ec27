package schemas_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/churnstream/churnstream/producers/replay"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// modelSchema compiles model.schema.json, which thereby is a valid schema.
func modelSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile("model.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validate returns what the schema has against a document.
func validate(t *testing.T, s *jsonschema.Schema, document []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatalf("%.80s: %v", document, err)
	}
	return s.Validate(v)
}

// TestModelSchemaOfTrained validates what the trainer publishes, with linear
// numbers and with knots. Every property that a payload has is described.
func TestModelSchemaOfTrained(t *testing.T) {
	s := modelSchema(t)
	set := schemas.Telco()
	rows, err := replay.Load(set)
	if err != nil {
		t.Fatal(err)
	}
	d := fitting.NewDataset(set.Vocabulary(), len(rows))
	for _, r := range rows {
		d.Add(fitting.Example{Customer: fitting.CustomerHash([]byte(r.CustomerID)), Churned: r.Churned, Attributes: r.Attributes})
	}
	description, err := os.ReadFile("model.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, knots := range map[string]int{"linear": 0, "knots": 5} {
		t.Run(name, func(t *testing.T) {
			c, err := fitting.Fit(context.Background(), d, fitting.Config{
				Strengths: []float64{1}, Knots: knots, ImportanceRows: 50})
			if err != nil {
				t.Fatal(err)
			}
			payload, err := json.Marshal(c.Model)
			if err != nil {
				t.Fatal(err)
			}
			if knots > 0 != bytes.Contains(payload, []byte(`"knots"`)) || !bytes.Contains(payload, []byte(`"mean_abs_shap"`)) {
				t.Fatalf("the payload is not what this test is about: %.300s", payload)
			}
			if err := validate(t, s, payload); err != nil {
				t.Error(err)
			}
			var document any
			if err := json.Unmarshal(payload, &document); err != nil {
				t.Fatal(err)
			}
			for key := range keys(document, map[string]bool{}) {
				if !bytes.Contains(description, []byte(`"`+key+`": {`)) {
					t.Errorf("the schema does not describe %q", key)
				}
			}
		})
	}
}

// keys adds the names of all properties in a document to a set.
func keys(document any, to map[string]bool) map[string]bool {
	switch d := document.(type) {
	case map[string]any:
		for key, value := range d {
			to[key] = true
			keys(value, to)
		}
	case []any:
		for _, value := range d {
			keys(value, to)
		}
	}
	return to
}

// TestModelSchemaOfReference validates a model made by other programs.
func TestModelSchemaOfReference(t *testing.T) {
	path := os.Getenv("CHURN_REFERENCE")
	if path == "" {
		path = filepath.Join("..", "..", "shared", "reference")
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
	if err := validate(t, modelSchema(t), data); err != nil {
		t.Error(err)
	}
	if _, err := scoring.ParseModel(data); err != nil {
		t.Error(err)
	}
}

// The small model that the table below spoils.
const smallModelJSON = `{
	"about": "made by hand", "intercept": -1, "kernel_width": 1.5, "base_rate": 0.25, "thresholds": {"medium": 0.3, "high": 0.6},
	"features": [
		{"name": "contract", "kind": "categorical", "levels": ["month", "year"], "log_odds": [0.5, -0.5], "frequency": [0.5, 0.5]},
		{"name": "tenure", "kind": "numeric", "log_odds_per_unit": -0.1,
			"bins": [{"mean": 2, "std": 1, "min": 0, "max": 4, "frequency": 0.5}, {"mean": 6, "std": 1, "min": 4, "max": 9, "frequency": 0.5}],
			"quartiles": [4], "empirical_quantiles": [1, 3, 3, 8]},
		{"name": "charges", "kind": "numeric", "knots": [1, 4, 8], "knot_log_odds": [0, 1, -1],
			"bins": [{"mean": 2, "std": 1, "min": 0, "max": 9, "frequency": 1}]}],
	"importance": [{"feature": "tenure", "mean_abs_lime": 0.1, "mean_abs_shap": 0.1, "points": [{"value": "≤ 4", "mean_lime": 0.1, "mean_shap": -0.1}]}],
	"holdout": {"rows": 3}
}`

// TestModelSchemaAgrees says on which documents the schema and the program
// agree, and on which they do not and why.
func TestModelSchemaAgrees(t *testing.T) {
	s := modelSchema(t)
	const tenure, charges = `"log_odds_per_unit": -0.1,`, `"knots": [1, 4, 8], "knot_log_odds": [0, 1, -1],`
	long := strings.Repeat("x", 257)
	type verdict struct{ schema, program bool }
	both, neither := verdict{true, true}, verdict{}
	// What relates one part of a document to another, a schema cannot say.
	refusedByProgram := verdict{schema: true}
	// The program reads what is absent or null as zero, as it does with every
	// key; who writes a model should not rely on it.
	refusedBySchema := verdict{program: true}
	for name, tc := range map[string]struct {
		old, new string
		verdict
	}{
		"as it is":               {``, ``, both},
		"no options":             {`"about": "made by hand", "intercept": -1, "kernel_width": 1.5, "base_rate": 0.25, "thresholds": {"medium": 0.3, "high": 0.6},`, `"intercept": 0,`, both},
		"further keys":           {`"name": "tenure",`, `"name": "tenure", "unit": "months", "of": {"a": [1]},`, both},
		"no importance":          {`"importance": [`, `"other": [`, both},
		"empty importance":       {`, "points": [{"value": "≤ 4", "mean_lime": 0.1, "mean_shap": -0.1}]`, ``, both},
		"level never trained on": {`"frequency": [0.5, 0.5]}`, `"frequency": [1, 0]}`, both},
		"rounded frequency":      {`"frequency": 1}`, `"frequency": 1.0000001}`, both},
		"empty bin":              {`0.5}, {"mean": 6, "std": 1, "min": 4, "max": 9, "frequency": 0.5}`, `1}, {"mean": 0, "std": 0, "min": 0, "max": 0, "frequency": 0}`, both},
		"one knot":               {charges, `"knots": [1], "knot_log_odds": [2],`, both},
		"no knots":               {charges, `"knots": [], "knot_log_odds": [],`, both},
		"knots and slope 0":      {charges, charges + `"log_odds_per_unit": 0,`, both},
		"neither":                {tenure, ``, both},
		"no quantiles":           {`, "empirical_quantiles": [1, 3, 3, 8]`, ``, both},
		"empty level":            {`"month"`, `""`, both},
		"longest level":          {`"month"`, `"` + long[1:] + `"`, both},

		"intercept text":        {`"intercept": -1`, `"intercept": "-1"`, neither},
		"intercept too large":   {`"intercept": -1`, `"intercept": -1e309`, neither},
		"kernel width":          {`1.5`, `-1.5`, neither},
		"base rate":             {`0.25`, `1.25`, neither},
		"threshold 0":           {`"medium": 0.3`, `"medium": 0`, neither},
		"threshold 1":           {`"high": 0.6`, `"high": 1`, neither},
		"no features":           {`"features": [`, `"features": [], "others": [`, neither},
		"features absent":       {`"features": [`, `"others": [`, neither},
		"features an object":    {`"features": [`, `"features": {}, "others": [`, neither},
		"a feature is text":     {`{"name": "contract"`, `"tenure", {"name": "contract"`, neither},
		"no name":               {`"name": "contract", `, ``, neither},
		"empty name":            {`"name": "contract"`, `"name": ""`, neither},
		"no kind":               {`"kind": "categorical", `, ``, neither},
		"other kind":            {`"kind": "categorical"`, `"kind": "ordinal"`, neither},
		"wrong kind":            {`"kind": "categorical"`, `"kind": "numeric"`, neither},
		"no levels":             {`"levels": ["month", "year"]`, `"levels": []`, neither},
		"level twice":           {`["month", "year"]`, `["month", "month"]`, neither},
		"level a number":        {`["month", "year"]`, `["month", 12]`, neither},
		"long level":            {`"month"`, `"` + long + `"`, neither},
		"no log-odds":           {`"log_odds": [0.5, -0.5], `, ``, neither},
		"log-odds text":         {`"log_odds": [0.5, -0.5]`, `"log_odds": ["0.5", "-0.5"]`, neither},
		"no frequency":          {`, "frequency": [0.5, 0.5]}`, `}`, neither},
		"negative frequency":    {`[0.5, 0.5]`, `[-0.5, 1.5]`, neither},
		"knots and slope":       {charges, charges + `"log_odds_per_unit": 2,`, neither},
		"knots without values":  {charges, `"knots": [1, 4, 8],`, neither},
		"knot too large":        {charges, `"knots": [1, 4, 8e100], "knot_log_odds": [0, 1, -1],`, neither},
		"no bins":               {`[{"mean": 2, "std": 1, "min": 0, "max": 9, "frequency": 1}]`, `[]`, neither},
		"bins absent":           {`"bins": [{"mean": 2, "std": 1, "min": 0, "max": 9, "frequency": 1}]`, `"b": 1`, neither},
		"negative deviation":    {`"std": 1, "min": 0, "max": 9`, `"std": -1, "min": 0, "max": 9`, neither},
		"bin's frequency":       {`"frequency": 1}`, `"frequency": -1}`, neither},
		"quartile is text":      {`"quartiles": [4]`, `"quartiles": ["4"]`, neither},
		"importance an object":  {`"importance": [`, `"importance": {}, "other": [`, neither},
		"importance of a level": {`"mean_lime": 0.1`, `"mean_lime": "high"`, neither},
		"an array":              {smallModelJSON, `[]`, neither},
		"null":                  {smallModelJSON, `null`, neither},
		"empty":                 {smallModelJSON, `{}`, neither},

		"thresholds swapped":      {`"medium": 0.3`, `"medium": 0.7`, refusedByProgram},
		"feature twice":           {`"tenure", "kind"`, `"contract", "kind"`, refusedByProgram},
		"lengths":                 {`"log_odds": [0.5, -0.5]`, `"log_odds": [0.5]`, refusedByProgram},
		"frequencies":             {`[0.5, 0.5]`, `[0.5, 0.4]`, refusedByProgram},
		"knots descend":           {`[1, 4, 8]`, `[1, 8, 4]`, refusedByProgram},
		"knot lengths":            {`"knot_log_odds": [0, 1, -1]`, `"knot_log_odds": [0, 1]`, refusedByProgram},
		"bins and quartiles":      {`"quartiles": [4]`, `"quartiles": [4, 5]`, refusedByProgram},
		"bin's mean":              {`"mean": 6`, `"mean": 12`, refusedByProgram},
		"quantiles descend":       {`[1, 3, 3, 8]`, `[1, 3, 2, 8]`, refusedByProgram},
		"level of too many bytes": {`"month"`, `"` + strings.Repeat("ü", 129) + `"`, refusedByProgram},

		"no intercept":           {`"intercept": -1, `, ``, refusedBySchema},
		"intercept null":         {`"intercept": -1`, `"intercept": null`, refusedBySchema},
		"thresholds 0":           {`{"medium": 0.3, "high": 0.6}`, `{"medium": 0, "high": 0}`, refusedBySchema},
		"importance without":     {`"mean_abs_lime": 0.1, `, ``, refusedBySchema},
		"negative importance":    {`"mean_abs_lime": 0.1`, `"mean_abs_lime": -0.1`, refusedBySchema},
		"bin's deviation absent": {`"std": 1, "min": 0, "max": 9`, `"min": 0, "max": 9`, refusedBySchema},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(smallModelJSON, tc.old) {
				t.Fatalf("there is no %s to replace", tc.old)
			}
			document := []byte(strings.Replace(smallModelJSON, tc.old, tc.new, 1))
			invalid := validate(t, s, document)
			_, refused := scoring.ParseModel(document)
			if (invalid == nil) != tc.schema {
				t.Errorf("valid by the schema: %t, want %t: %v", invalid == nil, tc.schema, invalid)
			}
			if (refused == nil) != tc.program {
				t.Errorf("taken by the program: %t, want %t: %v", refused == nil, tc.program, refused)
			}
		})
	}
}
