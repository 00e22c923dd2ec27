package scoring

import (
	"math"
	"slices"
	"testing"
)

func TestWhatIf(t *testing.T) {
	m := smallModel()
	v := NewVocabulary(specOf(t, m))
	p, err := Compile(m, v)
	if err != nil {
		t.Fatal(err)
	}
	const month, year = 0, 1
	x := Vector{month, 5, 4}
	for name, changes := range map[string]map[int]float64{
		"nothing":       {},
		"a level":       {0: year},
		"a number":      {1: 0.5},
		"several":       {0: year, 1: 8, 2: 1},
		"forget":        {1: Missing},
		"unknown level": {0: Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := p.WhatIf(x, changes, nil)
			if !slices.Equal(x, Vector{month, 5, 4}) {
				t.Fatalf("the customer was changed: %v", x)
			}
			y := slices.Clone(x)
			for j, value := range changes {
				y[j] = value
			}
			for _, c := range []struct {
				x Vector
				e *Explanation
			}{{x, before}, {y, after}} {
				if !slices.EqualFunc(c.e.Attributes, c.x, func(a, b float64) bool { return a == b || IsMissing(a) && IsMissing(b) }) {
					t.Errorf("explains %v, want %v", c.e.Attributes, c.x)
				}
				if c.e.Probability != p.Probability(c.x) {
					t.Errorf("probability %v, want %v", c.e.Probability, p.Probability(c.x))
				}
				sum := p.ExpectedProbability()
				for _, s := range c.e.SHAP {
					sum += s
				}
				if math.Abs(sum-c.e.Probability) > 1e-9 {
					t.Errorf("SHAP values lead to %v, not %v", sum, c.e.Probability)
				}
				if !slices.Equal(c.e.LIME, p.LIME(nil, c.x, p.NewWorkspace())) || !slices.Equal(c.e.LogOdds, p.Contributions(nil, c.x)) {
					t.Error("other weights than LIME and Contributions give")
				}
				if !slices.Equal(c.e.Missing, p.Missing(nil, c.x)) {
					t.Errorf("missing %v", c.e.Missing)
				}
			}
			if len(changes) > 0 && before.Probability == after.Probability {
				t.Error("a change without effect on the probability")
			}
		})
	}
}
