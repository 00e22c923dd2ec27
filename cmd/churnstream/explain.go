package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"churnstream/schemas"
	"churnstream/scoring"
)

type explainCommand struct {
	Model    string            `help:"Model as JSON: a payload from churnstream models show, or any file of that form." required:"" type:"existingfile" placeholder:"FILE"`
	Customer string            `help:"Customer's attributes as a flat JSON object; - reads them from standard input." required:"" placeholder:"FILE"`
	Change   map[string]string `help:"What if: show the customer with these attributes changed, too." placeholder:"ATTRIBUTE=VALUE"`
	Schema   string            `help:"Avro schema (.avsc) of the attributes, for their labels; without it they are known by the model's names." type:"existingfile" placeholder:"FILE"`
	JSON     bool              `name:"json" help:"Print JSON instead of a table."`
}

// Help is shown by churnstream explain --help.
func (explainCommand) Help() string {
	return `Explains one customer's churn probability by a model in a file: for every feature, exact LIME and Shapley weights on the probability scale, and the contribution on the log-odds scale. Needs no Kafka. schemas/model.schema.json describes the model's form.

Examples:
  churnstream models show 3 --payload > model.json
  churnstream explain --model model.json --customer customer.json
  churnstream explain --model model.json --customer customer.json --change 'Contract=Two year' --json`
}

// explained is one customer under one model.
type explained struct {
	Probability         float64            `json:"probability"`
	ExpectedProbability float64            `json:"expected_probability"`
	Risk                string             `json:"risk"`
	Features            []explainedFeature `json:"features"`
}

type explainedFeature struct {
	Feature string  `json:"feature"`
	Label   string  `json:"-"`
	Value   any     `json:"value"` // as in the customer's JSON; null if missing
	Missing bool    `json:"missing,omitempty"`
	LIME    float64 `json:"lime"`
	SHAP    float64 `json:"shap"`
	LogOdds float64 `json:"log_odds"`

	text string
}

type bestChange struct {
	Feature     string  `json:"feature"`
	Value       string  `json:"value"`
	Probability float64 `json:"probability"`
}

type explanationOutput struct {
	explained
	WhatIf     *explained  `json:"what_if,omitempty"`
	BestChange *bestChange `json:"best_change,omitempty"`
	Note       string      `json:"note,omitempty"`
}

const whatIfNote = "What the model would predict, not an effect to expect."

func (c *explainCommand) Run(out io.Writer) error {
	data, err := os.ReadFile(c.Model)
	if err != nil {
		return fmt.Errorf("--model: %w", err)
	}
	model, err := scoring.ParseModel(data)
	if err != nil {
		return fmt.Errorf("--model %s: %w", c.Model, err)
	}
	set, err := c.set(model)
	if err != nil {
		return err
	}
	predictor, err := scoring.Compile(model, set.Vocabulary())
	if err != nil {
		return fmt.Errorf("--model %s: %w", c.Model, err)
	}
	x, err := c.customer(set)
	if err != nil {
		return err
	}
	w := predictor.NewWorkspace()
	result := explanationOutput{explained: explain(set, predictor, w, x)}
	if len(c.Change) > 0 {
		y := append(scoring.Vector(nil), x...)
		for name, text := range c.Change {
			i, ok := set.Spec().Index(name)
			if !ok {
				return fmt.Errorf("--change %s: the model has no such feature", name)
			}
			if y[i], err = set.ParseText(i, text); err != nil {
				return fmt.Errorf("--change: %w", err)
			}
		}
		changed := explain(set, predictor, w, y)
		result.WhatIf, result.Note = &changed, whatIfNote
	}
	if f, value, p, ok := predictor.BestChange(x, w); ok {
		result.BestChange = &bestChange{set.Spec().Feature(f).Name, set.Text(f, value), p}
		result.Note = whatIfNote
	}
	if c.JSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(result)
	}
	return result.print(out)
}

// set returns the schemas to read the customer by: those of --schema, the
// shipped ones if the model is of them, else ones made from the model.
func (c *explainCommand) set(m *scoring.Model) (*schemas.Set, error) {
	if c.Schema != "" {
		set, err := schemas.FromFile(c.Schema)
		if err != nil {
			return nil, fmt.Errorf("--schema: %w", err)
		}
		return set, nil
	}
	if set := schemas.Telco(); sameFeatures(set.Spec(), m) {
		return set, nil
	}
	type field struct {
		Name    string    `json:"name"`
		Type    [2]string `json:"type"`
		Default any       `json:"default"`
	}
	record := struct {
		Type   string  `json:"type"`
		Name   string  `json:"name"`
		Fields []field `json:"fields"`
	}{Type: "record", Name: "CustomerAttributes"}
	for _, f := range m.Features {
		kind := "double"
		if f.Kind == scoring.Categorical.String() {
			kind = "string"
		}
		record.Fields = append(record.Fields, field{Name: f.Name, Type: [2]string{"null", kind}})
	}
	avsc, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("making a schema of the model's features: %w", err)
	}
	set, err := schemas.Parse(avsc)
	if err != nil {
		return nil, fmt.Errorf("making a schema of the model's features: %w; give one with --schema", err)
	}
	return set, nil
}

func sameFeatures(spec *scoring.Spec, m *scoring.Model) bool {
	if spec.Len() != len(m.Features) {
		return false
	}
	for _, f := range m.Features {
		i, ok := spec.Index(f.Name)
		if !ok || spec.Feature(i).Kind.String() != f.Kind {
			return false
		}
	}
	return true
}

// maxCustomerBytes bounds what is read as one customer.
const maxCustomerBytes = 1 << 20

func (c *explainCommand) customer(set *schemas.Set) (scoring.Vector, error) {
	in := io.Reader(os.Stdin)
	if c.Customer != "-" {
		f, err := os.Open(c.Customer)
		if err != nil {
			return nil, fmt.Errorf("--customer: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxCustomerBytes))
	if err != nil {
		return nil, fmt.Errorf("--customer %s: %w", c.Customer, err)
	}
	x, err := set.AttributesFromJSON(data)
	if err != nil {
		return nil, fmt.Errorf("--customer %s: %w", c.Customer, err)
	}
	return x, nil
}

func explain(set *schemas.Set, p *scoring.Predictor, w *scoring.Workspace, x scoring.Vector) explained {
	n := set.Spec().Len()
	lime, shap := p.LIME(make([]float64, n), x, w), p.SHAP(make([]float64, n), x, w)
	odds := p.Contributions(make([]float64, n), x)
	missing := make([]bool, n)
	for _, f := range p.Missing(nil, x) {
		missing[f] = true
	}
	e := explained{Probability: p.Probability(x), ExpectedProbability: p.ExpectedProbability(), Risk: schemas.RiskLow.String()}
	switch t := p.Model().RiskThresholds(); {
	case e.Probability >= t.High:
		e.Risk = schemas.RiskHigh.String()
	case e.Probability >= t.Medium:
		e.Risk = schemas.RiskMedium.String()
	}
	values := set.AttributesToMap(x)
	for _, f := range scoring.TopByMagnitude(nil, lime, -1) {
		feature := set.Spec().Feature(f)
		e.Features = append(e.Features, explainedFeature{
			Feature: feature.Name, Label: feature.Label, Value: values[feature.Name], Missing: missing[f],
			LIME: lime[f], SHAP: shap[f], LogOdds: odds[f], text: set.Text(f, x[f]),
		})
	}
	return e
}

func (r *explanationOutput) print(out io.Writer) error {
	var b strings.Builder
	r.explained.print(&b, "Churn probability")
	if r.WhatIf != nil {
		b.WriteByte('\n')
		r.WhatIf.print(&b, "With the changes")
	}
	if r.BestChange != nil {
		fmt.Fprintf(&b, "\nBest single change: %s to %s, predicted %.3f\n", r.BestChange.Feature, r.BestChange.Value, r.BestChange.Probability)
	}
	if r.Note != "" {
		fmt.Fprintln(&b, r.Note)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// barWidth is the length in characters of the longest bar to one side.
const barWidth = 16

func (e *explained) print(b *strings.Builder, title string) {
	fmt.Fprintf(b, "%s %.3f (%s), expected %.3f\n\n", title, e.Probability, e.Risk, e.ExpectedProbability)
	wide := func(header string, text func(*explainedFeature) string) int {
		n := len([]rune(header))
		for i := range e.Features {
			n = max(n, len([]rune(text(&e.Features[i]))))
		}
		return n
	}
	label := func(f *explainedFeature) string { return f.Label }
	value := func(f *explainedFeature) string {
		switch {
		case f.text == "":
			return "(missing)"
		case f.Missing:
			return f.text + " (unknown to the model)"
		}
		return f.text
	}
	labels, values := wide("feature", label), wide("value", value)
	largest := 0.0
	for _, f := range e.Features {
		largest = max(largest, math.Abs(f.LIME))
	}
	fmt.Fprintf(b, "  %-*s  %-*s  %8s %*s│%-*s %8s %9s\n", labels, "feature", values, "value", "LIME", barWidth, "stays ", barWidth, " leaves", "SHAP", "log-odds")
	for i := range e.Features {
		f := &e.Features[i]
		left, right := bar(f.LIME, largest)
		fmt.Fprintf(b, "  %-*s  %-*s  %+8.4f %s│%s %+8.4f %+9.4f\n", labels, f.Label, values, value(f), f.LIME, left, right, f.SHAP, f.LogOdds)
	}
}

// bar draws x to the left or right of an axis, in eighths of a character to
// the right and whole ones to the left, for which there are no eighths.
func bar(x, largest float64) (left, right string) {
	blank := strings.Repeat(" ", barWidth)
	if largest == 0 || x == 0 {
		return blank, blank
	}
	length := math.Abs(x) / largest * barWidth
	if x < 0 {
		n := int(math.Round(length))
		return strings.Repeat(" ", barWidth-n) + strings.Repeat("█", n), blank
	}
	n := int(length)
	s := strings.Repeat("█", n)
	if eighths := int((length - float64(n)) * 8); eighths > 0 {
		s += string([]rune(" ▏▎▍▌▋▊▉")[eighths])
		n++
	}
	return blank, s + strings.Repeat(" ", barWidth-n)
}
