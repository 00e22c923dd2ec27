package serving

import (
	"encoding/json"
	"math"
	"slices"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/columns"
	"github.com/churnstream/churnstream/scoring"
)

// object is a JSON object whose members keep their order.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	buf := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			buf = append(buf, ',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		buf = append(append(append(buf, name...), ':'), value...)
	}
	return append(buf, '}'), nil
}

// set gives a member a value in its place, or at the end.
func (o *object) set(name string, value any) {
	for i := range *o {
		if (*o)[i].name == name {
			(*o)[i].value = value
			return
		}
	}
	*o = append(*o, member{name, value})
}

// show returns a message as JSON: the members that its columns describe. An
// object in which there is nothing but nulls is null.
func show[M any](set *schemas.Set, list []columns.Column[M], m *M) object {
	cell := jsonCell{set: set}
	shown := make(object, 0, len(list))
	within := map[string]object{}
	for i := range list {
		c := &list[i]
		if c.Member == "" {
			continue
		}
		c.Value(m, &cell)
		if c.Object == "" {
			shown = append(shown, member{c.Member, cell.value})
			continue
		}
		inner := append(within[c.Object], member{c.Member, cell.value})
		within[c.Object] = inner
		if slices.ContainsFunc(inner, func(m member) bool { return m.value != nil }) {
			shown.set(c.Object, inner)
		} else {
			shown.set(c.Object, nil)
		}
	}
	return shown
}

// jsonCell keeps a column's value as encoding/json wants it.
type jsonCell struct {
	set   *schemas.Set
	value any
}

func (c *jsonCell) Null()                { c.value = nil }
func (c *jsonCell) Text(s string)        { c.value = s }
func (c *jsonCell) Int32(n int32)        { c.value = n }
func (c *jsonCell) Int64(n int64)        { c.value = n }
func (c *jsonCell) Bool(b bool)          { c.value = b }
func (c *jsonCell) Time(ms int64)        { c.value = millis(ms) }
func (c *jsonCell) Float(x float64)      { c.value = number(x) }
func (c *jsonCell) Feature(position int) { c.value = c.set.Spec().Feature(position).Name }

// Features shows the names; never null, so that JSON has [].
func (c *jsonCell) Features(positions []int) {
	names := make([]string, len(positions))
	for i, f := range positions {
		names[i] = c.set.Spec().Feature(f).Name
	}
	c.value = names
}

func (c *jsonCell) Value(feature int, x float64, levels scoring.Levels) {
	switch {
	case scoring.IsMissing(x):
		c.value = nil
	case c.set.Spec().Feature(feature).Kind == scoring.Categorical:
		c.value = c.set.Text(feature, x, levels)
	default:
		c.value = x
	}
}

func (c *jsonCell) ValueText(feature int, x float64, levels scoring.Levels) {
	c.Value(feature, x, levels)
}

func (c *jsonCell) Explanations(list []schemas.Explanation, attributes scoring.Vector, levels scoring.Levels) {
	type reason struct {
		Feature string `json:"feature"`
		Value   any    `json:"value"`
		LIME    any    `json:"lime"`
		SHAP    any    `json:"shap"`
	}
	reasons := make([]reason, len(list))
	for i, e := range list {
		c.Value(e.Feature, attributes[e.Feature], levels)
		reasons[i] = reason{c.set.Spec().Feature(e.Feature).Name, c.value, number(e.LIME), number(e.SHAP)}
	}
	c.value = reasons
}

func (c *jsonCell) Distributions(list []schemas.BaselineDistribution) {
	type distribution struct {
		Name        string    `json:"name"`
		Bins        []string  `json:"bins"`
		Frequencies []float64 `json:"frequencies"`
	}
	shown := make([]distribution, len(list))
	for i, d := range list {
		shown[i] = distribution{d.Name, append([]string{}, d.Bins...), append([]float64{}, d.Frequencies...)}
	}
	c.value = shown
}

// number is null for a missing one, and for what JSON has no number for.
func number(x float64) any {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return x
}

func millis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
