// Package explain shows what a model says of one customer and why: as a table
// for people, or as JSON.
package explain

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// explained is one customer under one model.
type explained struct {
	Probability         float64            `json:"probability"`
	ExpectedProbability float64            `json:"expected_probability"`
	Risk                string             `json:"risk"`
	Features            []explainedFeature `json:"features"`
}

type explainedFeature struct {
	Feature string  `json:"feature"`
	Value   any     `json:"value"` // as in the customer's JSON; null if missing
	Missing bool    `json:"missing,omitempty"`
	Unknown bool    `json:"unknown,omitempty"` // a level that the model was not trained with
	LIME    float64 `json:"lime"`
	SHAP    float64 `json:"shap"`
	LogOdds float64 `json:"log_odds"`

	label, text string
}

type bestChange struct {
	Feature     string  `json:"feature"`
	Value       string  `json:"value"`
	Probability float64 `json:"probability"`
}

// Explanation is what a model says of a customer. As JSON it is what
// churnstream explain --json prints.
type Explanation struct {
	explained
	Changes    map[string]string `json:"changes,omitempty"`
	WhatIf     *explained        `json:"what_if,omitempty"`
	BestChange *bestChange       `json:"best_change,omitempty"`
	Note       string            `json:"note,omitempty"`
}

// WhatIfNote is said with every prediction for a changed customer.
const WhatIfNote = "What the model would predict, not an effect to expect."

// Explainer explains customers by one model.
type Explainer struct {
	set       *schemas.Set
	predictor *scoring.Predictor
	workspace *scoring.Workspace
}

// New returns an explainer. set knows the attributes and their labels; without
// one it is the shipped set if the model is of that, else one made of the
// model's own names.
func New(model *scoring.Model, set *schemas.Set) (*Explainer, error) {
	if set == nil {
		var err error
		if set, err = setOf(model); err != nil {
			return nil, err
		}
	}
	predictor, err := scoring.Compile(model, set.Vocabulary())
	if err != nil {
		return nil, err
	}
	return &Explainer{set, predictor, predictor.NewWorkspace()}, nil
}

// Customer reads a customer's attributes from a flat JSON object.
func (e *Explainer) Customer(data []byte) (scoring.Vector, error) {
	var levels scoring.Levels
	x, err := e.set.AttributesFromJSON(data, &levels)
	if err != nil {
		return nil, err
	}
	return x, learnLevels(e.set, x, levels)
}

// Explain explains a customer as it is and, with changes, as it would be with
// these attributes changed: values as text, "" for one that is not known.
func (e *Explainer) Explain(x scoring.Vector, changes map[string]string) (*Explanation, error) {
	result := &Explanation{explained: explain(e.set, e.predictor, e.workspace, x), Changes: changes}
	if len(changes) > 0 {
		y := slices.Clone(x)
		for _, name := range slices.Sorted(maps.Keys(changes)) {
			i, ok := e.set.Spec().Index(name)
			if !ok {
				return nil, fmt.Errorf("%s: the model has no such feature", name)
			}
			var err error
			if y[i], err = e.set.ParseText(i, changes[name]); err != nil {
				return nil, err
			}
		}
		changed := explain(e.set, e.predictor, e.workspace, y)
		result.WhatIf, result.Note = &changed, WhatIfNote
	}
	if f, value, p, ok := e.predictor.BestChange(x, e.workspace); ok {
		result.BestChange = &bestChange{e.set.Spec().Feature(f).Name, e.set.Text(f, value, nil), p}
		result.Note = WhatIfNote
	}
	return result, nil
}

// setOf returns the shipped schemas if the model is of them, else ones made
// from the model.
func setOf(m *scoring.Model) (*schemas.Set, error) {
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

// learnLevels gives levels that no model has brought a number: this vocabulary
// is the customer's own.
func learnLevels(set *schemas.Set, x scoring.Vector, levels scoring.Levels) error {
	for i := range x {
		level, ok := levels.At(x[i])
		if !ok || set.Spec().Feature(i).Kind != scoring.Categorical {
			continue
		}
		var err error
		if x[i], err = set.Vocabulary().CodeString(i, level); err != nil {
			return fmt.Errorf("reading the customer's levels: %w", err)
		}
	}
	return nil
}

func explain(set *schemas.Set, p *scoring.Predictor, w *scoring.Workspace, x scoring.Vector) explained {
	all := p.Explain(x, w)
	unknown := make([]bool, len(x))
	for _, f := range all.Missing {
		unknown[f] = !scoring.IsMissing(x[f])
	}
	e := explained{
		Probability: all.Probability, ExpectedProbability: p.ExpectedProbability(),
		Risk: p.Model().RiskThresholds().Risk(all.Probability).String(),
	}
	values := set.AttributesToMap(x, nil)
	for _, f := range scoring.TopByMagnitude(nil, all.LIME, -1) {
		feature := set.Spec().Feature(f)
		e.Features = append(e.Features, explainedFeature{
			Feature: feature.Name, Value: values[feature.Name], Missing: scoring.IsMissing(x[f]), Unknown: unknown[f],
			LIME: all.LIME[f], SHAP: all.SHAP[f], LogOdds: all.LogOdds[f], label: feature.Label, text: set.Text(f, x[f], nil),
		})
	}
	return e
}

// Print prints it for people.
func (r *Explanation) Print(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Churn probability %.3f (%s), expected %.3f\n\n", r.Probability, r.Risk, r.ExpectedProbability)
	r.explained.print(&b)
	if r.BestChange != nil {
		fmt.Fprintf(&b, "\nBest single change: %s=%s, predicted %.3f\n", r.BestChange.Feature, shown(r.BestChange.Value, maxValueWidth), r.BestChange.Probability)
	}
	if r.WhatIf != nil {
		var changes []string
		for _, name := range slices.Sorted(maps.Keys(r.Changes)) {
			text := shown(r.Changes[name], maxValueWidth)
			if text == "" {
				text = missingText
			}
			changes = append(changes, name+"="+text)
		}
		fmt.Fprintf(&b, "\nWith %s: predicted %.3f (%s)\n\n", strings.Join(changes, ", "), r.WhatIf.Probability, r.WhatIf.Risk)
		r.WhatIf.print(&b)
	}
	if r.Note != "" {
		fmt.Fprintf(&b, "\n%s\n", r.Note)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

const (
	// barWidth is the length in characters of the longest bar to one side.
	barWidth = 16
	// maxLabelWidth and maxValueWidth bound a column in characters: one long
	// text would push the numbers out of sight.
	maxLabelWidth, maxValueWidth = 28, 32
	// missingText stands for a value that is not known.
	missingText = "(missing)"
)

// shown returns text as it can be printed in a line: without control
// characters, which could be anything to a terminal, and cut to a width.
func shown(text string, width int) string {
	runes := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text))
	if len(runes) > width {
		return string(runes[:width-1]) + "…"
	}
	return string(runes)
}

// valueText returns a feature's value and whether the model knows it.
func (f *explainedFeature) valueText() string {
	switch {
	case f.Missing:
		return missingText
	case f.Unknown:
		const mark = " (unknown)"
		return shown(f.text, maxValueWidth-len(mark)) + mark
	case f.text == "":
		return `""`
	}
	return shown(f.text, maxValueWidth)
}

// print writes the features as a table, the one with the greatest weight first.
func (e *explained) print(b *strings.Builder) {
	labels, values := len("feature"), len("value")
	largest, average := 0.0, false
	for i := range e.Features {
		f := &e.Features[i]
		labels = max(labels, utf8.RuneCountInString(shown(f.label, maxLabelWidth)))
		values = max(values, utf8.RuneCountInString(f.valueText()))
		largest = max(largest, math.Abs(f.LIME))
		average = average || f.Missing || f.Unknown
	}
	fmt.Fprintf(b, "  %-*s  %-*s  %8s %*s│%-*s %8s %9s\n", labels, "feature", values, "value", "LIME", barWidth, "stays ", barWidth, " leaves", "SHAP", "log-odds")
	for i := range e.Features {
		f := &e.Features[i]
		left, right := bar(f.LIME, largest)
		fmt.Fprintf(b, "  %-*s  %-*s  %s %s│%s %s %s\n", labels, shown(f.label, maxLabelWidth), values, f.valueText(),
			signed(f.LIME, 8), left, right, signed(f.SHAP, 8), signed(f.LogOdds, 9))
	}
	if average {
		b.WriteString("\n  What is missing or unknown to the model counts as its feature does on average.\n")
	}
}

// signed returns x with its sign and four decimals; what rounds to 0 has none.
func signed(x float64, width int) string {
	text := fmt.Sprintf("%+*.4f", width, x)
	if strings.Trim(text, " +-0.") == "" {
		return fmt.Sprintf("%*.4f", width, 0.0)
	}
	return text
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
