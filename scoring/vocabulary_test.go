package scoring

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
)

func levelVocabulary(t testing.TB) *Vocabulary {
	t.Helper()
	spec, err := NewSpec([]Feature{{Name: "plan", Kind: Categorical}, {Name: "age"}, {Name: "town", Kind: Categorical}})
	if err != nil {
		t.Fatal(err)
	}
	return NewVocabulary(spec)
}

// What Find returns says the level again, and teaches nothing.
func TestFind(t *testing.T) {
	v := levelVocabulary(t)
	for i := range 20 { // some are settled, some not
		if _, err := v.CodeString(0, fmt.Sprint("known ", i)); err != nil {
			t.Fatal(err)
		}
	}
	var levels Levels
	for i := range 20 {
		for _, text := range []string{fmt.Sprint("known ", i), fmt.Sprint("new ", i), ""} {
			x := v.Find(0, []byte(text), &levels)
			if known := x >= 0; known != (text == fmt.Sprint("known ", i)) || v.Text(0, x, levels) != text {
				t.Errorf("%q is %v, which is %q", text, x, v.Text(0, x, levels))
			}
		}
	}
	if v.Size(0) != 20 {
		t.Errorf("%d levels are known", v.Size(0))
	}
	for _, x := range []float64{Unknown, Missing, -2 - float64(len(levels)), math.Inf(-1), 20} {
		if text := v.Text(0, x, levels); text != "" {
			t.Errorf("%v is %q", x, text)
		}
	}
	known, found := []byte("known 3"), []byte("new 3")
	if n := testing.AllocsPerRun(100, func() {
		levels = levels[:0]
		v.Find(0, known, &levels)
		v.Find(0, found, &levels)
	}); n > 0 {
		t.Errorf("%g allocations", n)
	}
}

// A vector means the same after it was brought to other numbers.
func TestOtherNumbers(t *testing.T) {
	from, to := levelVocabulary(t), levelVocabulary(t)
	for i := range 9 {
		from.CodeString(0, fmt.Sprint("level ", i))
		to.CodeString(0, fmt.Sprint("level ", 2*i))
	}
	texts := func(v *Vocabulary, x Vector, levels Levels) []string {
		return []string{v.Text(0, x[0], levels), fmt.Sprint(x[1]), v.Text(2, x[2], levels)}
	}
	for i := range 12 {
		var levels, others Levels
		x := Vector{from.Find(0, fmt.Append(nil, "level ", i), &levels), -2, from.Find(2, []byte("Ulm"), &levels)}
		want := texts(from, x, levels)
		y := slices.Clone(x)
		to.Renumber(y, from, levels, &others)
		if got := texts(to, y, others); !slices.Equal(got, want) {
			t.Errorf("renumbered %q, want %q", got, want)
		}
		if known := y[0] >= 0; known != (i%2 == 0) {
			t.Errorf("level %d is %v", i, y[0])
		}
		if n := to.Learn(x, from, levels, 13); n != 0 && i < 8 {
			t.Errorf("%d levels were left out", n)
		} else if got := texts(to, x, nil); n == 0 && !slices.Equal(got, want) {
			t.Errorf("learnt %q, want %q", got, want)
		} else if n > 0 && (n != 1 || x[0] != Unknown) {
			t.Errorf("%d levels left out, %v", n, x)
		}
	}
	if to.Size(0) != 13 {
		t.Errorf("%d levels, want 13", to.Size(0))
	}
	x := Vector{Missing, Missing, Unknown}
	if n := to.Learn(x, from, nil, 100); n != 0 || !IsMissing(x[0]) || x[2] != Unknown {
		t.Errorf("%v, %d left out", x, n)
	}
}

// Levels are found from all goroutines while others add them.
func TestVocabularyIsSafe(t *testing.T) {
	v := levelVocabulary(t)
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			var levels Levels
			for i := range 2000 {
				text := fmt.Sprint("level ", i%500)
				if g == 0 && i%3 == 0 {
					v.CodeString(0, text)
				}
				levels = levels[:0]
				if x := v.Find(0, []byte(text), &levels); v.Text(0, x, levels) != text {
					t.Errorf("%q is %q", text, v.Text(0, x, levels))
				}
			}
		})
	}
	group.Wait()
}

// White space around a level does not count, in a vocabulary or among the others
// of a Vector.
func TestLevelsWithWhiteSpace(t *testing.T) {
	v := levelVocabulary(t)
	want, err := v.CodeString(0, "Two year ")
	if err != nil {
		t.Fatal(err)
	}
	for range minFresh { // so that it is settled
		if _, err := v.CodeString(0, fmt.Sprint("other ", v.Size(0))); err != nil {
			t.Fatal(err)
		}
	}
	if got := v.Level(0, want); got != "Two year" {
		t.Errorf("level %q", got)
	}
	for _, text := range []string{"Two year", " Two year", "Two year\t", "\u00a0Two year\u2003"} {
		var others Levels
		code, err := v.Code(0, []byte(text))
		found, known := v.Lookup(0, text)
		if err != nil || code != want || !known || found != want || v.Find(0, []byte(text), &others) != want || len(others) > 0 {
			t.Errorf("%q: code %v, found %v, others %q, %v", text, code, found, others, err)
		}
		settled, known := v.Known(0, []byte(text))
		if known != (text == "Two year") || known && settled != want {
			t.Errorf("%q is known: %v, %v", text, known, settled)
		}
	}
	var others Levels
	if x := v.Find(0, []byte(" unheard of "), &others); v.Text(0, x, others) != "unheard of" {
		t.Errorf("found %v, others %q", x, others)
	}
	if code, err := v.CodeString(0, "caf\xe9"); err != nil || v.Level(0, code) != "caf\ufffd" {
		t.Errorf("level %q, %v", v.Level(0, code), err)
	}
}
