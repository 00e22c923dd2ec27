package monitor

import (
	"math"
	"slices"
	"strconv"
	"testing"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-12*max(1, math.Abs(b)) }

func TestStabilityByHand(t *testing.T) {
	ln := math.Log
	for _, c := range []struct {
		name             string
		expected, counts []float64
		want             float64
	}{
		{"no drift", []float64{.2, .3, .5}, []float64{20, 30, 50, 0}, 0},
		{"half and half becomes three to one", []float64{.5, .5}, []float64{75, 25, 0}, .25*ln(1.5) - .25*ln(.5)},
		{"a bin runs empty", []float64{.5, .5}, []float64{10, 0, 0}, .5*ln(2) + (1e-4-.5)*ln(1e-4/.5)},
		{"a new level takes a tenth", []float64{.5, .5}, []float64{45, 45, 10},
			2*(-.05)*ln(.9) + (.1-1e-4)*ln(.1/1e-4)},
		{"missing was a tenth at training too", []float64{.4, .5}, []float64{40, 50, 10}, 0},
	} {
		if got := stability(c.expected, c.counts); !near(got, c.want) && math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestDrift(t *testing.T) {
	spec, err := scoring.NewSpec([]scoring.Feature{
		{Name: "plan", Kind: scoring.Categorical}, {Name: "bill"}, {Name: "age"}})
	if err != nil {
		t.Fatal(err)
	}
	v := scoring.NewVocabulary(spec)
	code := func(level string) float64 {
		c, err := v.CodeString(0, level)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	baseline := []schemas.BaselineDistribution{
		{Name: "plan", Bins: []string{"year", "never seen", "month"}, Frequencies: []float64{.5, .1, .4}},
		{Name: "bill", Bins: []string{"10", "20", "+Inf"}, Frequencies: []float64{.25, .25, .5}},
		{Name: "age", Bins: []string{"old", "+Inf"}, Frequencies: []float64{.5, .5}},
		{Name: "gone", Bins: []string{"+Inf"}, Frequencies: []float64{1}},
		{Name: scoreBaseline, Bins: []string{"0.5", "+Inf"}, Frequencies: []float64{.5, .5}},
	}
	r := newRecentScores(4, v)
	add := func(p, plan, bill float64) {
		r.add(&schemas.ChurnScore{Probability: p, Attributes: scoring.Vector{plan, bill, 50}})
	}
	if d := r.against(baseline); d.scores != 0 || !scoring.IsMissing(d.score) || !scoring.IsMissing(d.feature[0]) {
		t.Errorf("without scores: %+v", d)
	}
	add(.9, code("other"), 1e9) // leaves the window again
	add(.5, code("month"), 10)
	add(.6, code("year"), 10.5)
	add(.7, code("trial"), 21)
	add(.8, scoring.Missing, scoring.Missing)
	d := r.against(baseline)
	psi := func(pairs ...float64) (sum float64) {
		for i := 0; i < len(pairs); i += 2 {
			e, a := max(pairs[i], 1e-4), max(pairs[i+1], 1e-4)
			sum += (a - e) * math.Log(a/e)
		}
		return sum
	}
	if want := psi(.5, .25, .1, 0, .4, .25, 0, .5); !near(d.feature[0], want) {
		t.Errorf("plan: got %v, want %v", d.feature[0], want)
	}
	// 10 belongs to the bin that it bounds.
	if want := psi(.25, .25, .25, .25, .5, .25, 0, .25); !near(d.feature[1], want) {
		t.Errorf("bill: got %v, want %v", d.feature[1], want)
	}
	if !scoring.IsMissing(d.feature[2]) {
		t.Errorf("a baseline that cannot be read gave %v", d.feature[2])
	}
	if want := psi(.5, .25, .5, .75); !near(d.score, want) {
		t.Errorf("score: got %v, want %v", d.score, want)
	}
	if d.scores != 4 {
		t.Errorf("%d scores, want 4", d.scores)
	}
}

// The window has the levels of its scores, whoever knows them, and forgets those
// of scores that have gone.
func TestWindowForgetsLevels(t *testing.T) {
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "plan", Kind: scoring.Categorical}})
	if err != nil {
		t.Fatal(err)
	}
	v := scoring.NewVocabulary(spec)
	r := newRecentScores(100, v)
	for i := range 20_000 {
		s := &schemas.ChurnScore{Attributes: scoring.NewVector(1)}
		s.Attributes[0] = s.Levels.Add("level " + strconv.Itoa(i))
		r.add(s)
		if n := r.vocabulary.Size(0); n > 200 {
			t.Fatalf("%d levels of 100 scores", n)
		}
	}
	counts := r.countLevels(0, []string{"level 19950", "level 19899", "level 19999"})
	if !slices.Equal(counts, []float64{1, 0, 1, 98}) || v.Size(0) != 0 {
		t.Errorf("counts %v, %d levels learnt", counts, v.Size(0))
	}
	// A model that brings a level afterwards makes no difference.
	if _, err := v.CodeString(0, "level 19950"); err != nil {
		t.Fatal(err)
	}
	if again := r.countLevels(0, []string{"level 19950", "level 19899", "level 19999"}); !slices.Equal(again, counts) {
		t.Errorf("counts %v, before %v", again, counts)
	}
}
