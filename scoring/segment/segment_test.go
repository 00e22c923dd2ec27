package segment

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/scoring"
)

func TestDivide(t *testing.T) {
	for _, c := range []struct {
		name   string
		rows   string // one letter per row
		limits Limits
		want   string
	}{
		{"no rows", "", Limits{}, ""},
		{"one level", "aaa", Limits{}, "a:aaa"},
		{"the most frequent first, then by text", "cabcbca", Limits{}, "c:ccc a:aa b:bb"},
		{"the rest together, in order", "aaadbcbdebb", Limits{Levels: 2}, "b:bbbb a:aaa (other):dcde"},
		{"few rows", "aaabbc", Limits{Rows: 3}, "a:aaa (other):bbc"},
		{"only few rows", "abc", Limits{Rows: 2}, "(other):abc"},
		{"as many as there is room for", "aab", Limits{Levels: 2, Rows: 1}, "a:aa b:b"},
		{"ten", "aabcdefghijk", Limits{}, "a:aa b:b c:c d:d e:e f:f g:g h:h i:i j:j (other):k"},
	} {
		var got []string
		for _, s := range Divide(strings.Split(c.rows, "")[:len(c.rows)], func(r string) string { return r }, c.limits) {
			got = append(got, s.Level+":"+strings.Join(s.Rows, ""))
			if s.Rest != (s.Level == Other) {
				t.Errorf("%s: %s is the rest: %t", c.name, s.Level, s.Rest)
			}
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %q, want %q", c.name, text, c.want)
		}
	}
	// A level may have the name of the rest.
	segments := Divide([]string{Other, Other, "a"}, func(r string) string { return r }, Limits{Levels: 1})
	if len(segments) != 2 || segments[0].Rest || !segments[1].Rest {
		t.Errorf("%+v", segments)
	}
}

func TestLevel(t *testing.T) {
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "x"}, {Name: "plan", Kind: scoring.Categorical}})
	if err != nil {
		t.Fatal(err)
	}
	v := scoring.NewVocabulary(spec)
	code, err := v.CodeString(1, "year")
	if err != nil {
		t.Fatal(err)
	}
	var others scoring.Levels
	month := others.Add("month")
	for want, x := range map[string]float64{"year": code, "month": month, Missing: scoring.Missing} {
		if got := Level(v, 1, scoring.Vector{1, x}, others); got != want {
			t.Errorf("%v is %q, want %q", x, got, want)
		}
	}
}

// Losses of the segments, weighted by their rows, add up to those of all, in each
// window; and the segment in which a feature cost more is found.
func TestDivideLosses(t *testing.T) {
	type row struct {
		level string
		loss  []float64
		base  float64
	}
	rng := rand.New(rand.NewPCG(1, 1))
	draw := func(n int, levels string, worse string) (rows []row) {
		for range n {
			r := row{string(levels[rng.IntN(len(levels))]), []float64{rng.NormFloat64() * 0.01, rng.NormFloat64() * 0.01}, rng.Float64()}
			if r.level == worse {
				r.loss[1] += 0.5
			}
			rows = append(rows, r)
		}
		return rows
	}
	now, before := draw(1000, "aaabbcd", "b"), draw(700, "aabbxyz", "")
	value := func(r row) ([]float64, float64) { return r.loss, r.base }
	level := func(r row) string { return r.level }
	losses := DivideLosses(now, before, level, 2, value, Limits{Levels: 2})
	if len(losses) != 3 || losses[0].Level != "a" || losses[1].Level != "b" || !losses[2].Rest {
		t.Fatalf("%+v", losses)
	}
	for k, rows := range [][]row{now, before} {
		all, merged := scoring.NewAttribution(2), scoring.NewAttribution(2)
		for _, r := range rows {
			all.Add(r.loss, r.base)
		}
		for i := range losses {
			merged.Merge([]*scoring.Attribution{losses[i].Now, losses[i].Before}[k])
		}
		if fmt.Sprint(all) != fmt.Sprint(merged) {
			t.Errorf("segments have %v, all have %v", merged, all)
		}
	}
	if c := losses[1].Change(1); math.Abs(c-0.5) > 0.01 {
		t.Errorf("the change is %v", c)
	}
	if c := losses[1].Change(0); math.Abs(c) > 0.01 {
		t.Errorf("the change of the other is %v", c)
	}
	slices.Reverse(now)
	slices.Reverse(before)
	if again := DivideLosses(now, before, level, 2, value, Limits{Levels: 2}); fmt.Sprint(*again[1].Now, *again[2].Before) != fmt.Sprint(*losses[1].Now, *losses[2].Before) {
		t.Error("the order of the rows made a difference")
	}
	// The rest may be the older window's alone, and then has no change.
	losses = DivideLosses(now, before, level, 2, value, Limits{})
	if last := losses[len(losses)-1]; len(losses) != 5 || !last.Rest || last.Now.Examples() != 0 || !scoring.IsMissing(last.Change(0)) {
		t.Errorf("%+v", losses)
	}
}
