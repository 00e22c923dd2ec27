package fitting

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/churnstream/churnstream/scoring"
)

func importanceOf(t *testing.T, m *scoring.Model, feature string) scoring.Importance {
	t.Helper()
	i := slices.IndexFunc(m.Importance, func(g scoring.Importance) bool { return g.Feature == feature })
	if i < 0 {
		t.Fatalf("no importance of %s", feature)
	}
	return m.Importance[i]
}

func TestImportanceOfAFeatureWithoutEffectIsZero(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, knots := range []int{0, 5} {
		var rows [][4]any
		for range 400 {
			x := r.Float64()
			rows = append(rows, [4]any{"only", x, 0.1, r.Float64() < x}) // two features are constant
		}
		d := small(t, rows)
		c, err := Fit(context.Background(), d, Config{Knots: knots, Strengths: []float64{1}})
		if err != nil {
			t.Fatal(err)
		}
		for j, f := range c.Model.Features {
			g := importanceOf(t, c.Model, f.Name)
			sum := g.LIME + g.SHAP
			for _, p := range g.Points {
				sum += math.Abs(p.LIME) + math.Abs(p.SHAP)
			}
			if effect := j == 1; effect != (sum > 0) {
				t.Errorf("%d knots, %s: %+v", knots, f.Name, g)
			}
			if len(g.Points) != max(len(f.Levels), len(f.Bins)) {
				t.Errorf("%s: %d points", f.Name, len(g.Points))
			}
		}
	}
}

// With one feature alone the levels' weights are in the order of their
// log-odds, negative for the least and positive for the greatest.
func TestImportancePointsShowTheDirection(t *testing.T) {
	rates := map[string]float64{"a": 0.3, "b": 0.9, "c": 0.1, "d": 0.6}
	for _, kind := range []scoring.Kind{scoring.Categorical, scoring.Numeric} {
		for _, knots := range []int{0, 5} {
			t.Run(fmt.Sprint(kind, " ", knots), func(t *testing.T) {
				spec, err := scoring.NewSpec([]scoring.Feature{{Name: "x", Kind: kind}})
				if err != nil {
					t.Fatal(err)
				}
				vocabulary := scoring.NewVocabulary(spec)
				d := NewDataset(vocabulary, 0)
				r := rand.New(rand.NewPCG(4, 4))
				for i := range 3000 {
					level := string(rune('a' + r.IntN(4)))
					x, rate := scoring.Vector{r.Float64()}, 0.0
					if kind == scoring.Categorical {
						if x[0], err = vocabulary.CodeString(0, level); err != nil {
							t.Fatal(err)
						}
						rate = rates[level]
					} else {
						rate = 0.9 - 0.8*x[0]
					}
					d.Add(Example{Customer: CustomerHash(fmt.Append(nil, i)), ObservedAt: int64(i), Churned: r.Float64() < rate, Attributes: x})
				}
				c, err := Fit(context.Background(), d, Config{Knots: knots, Strengths: []float64{1}})
				if err != nil {
					t.Fatal(err)
				}
				f, g := c.Model.Features[0], c.Model.Importance[0]
				if len(g.Points) != 4 {
					t.Fatalf("points %+v", g.Points)
				}
				order := []int{0, 1, 2, 3}
				logOdds := f.LogOdds
				if kind == scoring.Numeric {
					logOdds = nil
					for _, b := range f.Bins {
						logOdds = append(logOdds, c.Predictor.LogOdds(scoring.Vector{b.Mean}))
					}
				}
				slices.SortFunc(order, func(a, b int) int {
					if logOdds[a] < logOdds[b] {
						return -1
					}
					return 1
				})
				for k := 1; k < 4; k++ {
					before, after := g.Points[order[k-1]], g.Points[order[k]]
					if after.LIME <= before.LIME || after.SHAP <= before.SHAP {
						t.Errorf("%+v is not above %+v", after, before)
					}
				}
				least, greatest := g.Points[order[0]], g.Points[order[3]]
				if least.LIME >= 0 || least.SHAP >= 0 || greatest.LIME <= 0 || greatest.SHAP <= 0 {
					t.Errorf("least %+v, greatest %+v", least, greatest)
				}
				// Of a single feature the SHAP value is the whole difference.
				if kind == scoring.Categorical {
					want := 1/(1+math.Exp(-c.Model.Intercept-logOdds[order[3]])) - c.Predictor.ExpectedProbability()
					if math.Abs(greatest.SHAP-want) > 1e-9 {
						t.Errorf("SHAP %v, want %v", greatest.SHAP, want)
					}
				}
			})
		}
	}
}

func TestImportancePointsCoverEveryLevel(t *testing.T) {
	var rows [][4]any
	for i := range 4000 {
		level := "common"
		if i < 2000 && i%400 == 7 {
			level = fmt.Sprint("rare ", i/400)
		}
		rows = append(rows, [4]any{level, float64(i % 89), 1.0, i%3 == 0 || level != "common"})
	}
	d := small(t, rows)
	c, err := Fit(context.Background(), d, Config{Strengths: []float64{1}, ImportanceRows: 50})
	if err != nil {
		t.Fatal(err)
	}
	f, g := c.Model.Features[0], importanceOf(t, c.Model, c.Model.Features[0].Name)
	if len(f.Levels) != 6 || len(g.Points) != 6 {
		t.Fatalf("%d levels, %d points", len(f.Levels), len(g.Points))
	}
	for k, p := range g.Points {
		sign := 1.0 // those of rare levels all left
		if f.Levels[k] == "common" {
			sign = -1
		}
		if p.Value != f.Levels[k] || sign*p.SHAP <= 0 || sign*p.LIME <= 0 {
			t.Errorf("%s: %+v", f.Levels[k], p)
		}
	}
	// What stands for rare levels is not in the means.
	common := g.Points[slices.Index(f.Levels, "common")]
	if math.Abs(g.SHAP+common.SHAP) > 1e-12 {
		t.Errorf("mean absolute SHAP %v, that of the only level taken %v", g.SHAP, common.SHAP)
	}
}

func TestImportanceIsThatOfEveryRow(t *testing.T) {
	d := synthetic(t, 1000, 0.05, 12)
	c, err := Fit(context.Background(), d, Config{Strengths: []float64{1}, Knots: 5})
	if err != nil {
		t.Fatal(err)
	}
	lime, shap := make([]float64, d.Spec().Len()), make([]float64, d.Spec().Len())
	x, w := scoring.NewVector(d.Spec().Len()), c.Predictor.NewWorkspace()
	for _, r := range c.Training {
		d.Attributes(int(r), x)
		for j, v := range c.Predictor.LIME(nil, x, w) {
			lime[j] += math.Abs(v) / float64(len(c.Training))
		}
		for j, v := range c.Predictor.SHAP(nil, x, w) {
			shap[j] += math.Abs(v) / float64(len(c.Training))
		}
	}
	for j, f := range c.Model.Features {
		g := importanceOf(t, c.Model, f.Name)
		if math.Abs(g.LIME-lime[j]) > 1e-12 || math.Abs(g.SHAP-shap[j]) > 1e-12 {
			t.Errorf("%s: %v and %v, want %v and %v", f.Name, g.LIME, g.SHAP, lime[j], shap[j])
		}
	}
	// Most important first, and the same on any number of processors.
	if !slices.IsSortedFunc(c.Model.Importance, func(a, b scoring.Importance) int { return cmp.Compare(b.SHAP, a.SHAP) }) {
		t.Error("not the most important first")
	}
	want, _ := json.Marshal(c.Model.Importance)
	processors := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(processors)
	c.Model.Importance = nil
	if err := c.addImportance(context.Background(), 10_000); err != nil {
		t.Fatal(err)
	}
	if got, _ := json.Marshal(c.Model.Importance); string(got) != string(want) {
		t.Error("another number of processors gives another importance")
	}
}
