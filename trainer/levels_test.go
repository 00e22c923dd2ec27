package trainer

import (
	"fmt"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// A trainer that has had more levels than can be kept goes on with those that
// examples have.
func TestLevelsAreNumberedAnew(t *testing.T) {
	tr := newWorld(t).idle()
	former := tr.data.Vocabulary()
	for i := range fitting.MaxCodes { // whose examples have gone
		if _, err := former.CodeString(0, fmt.Sprint("gone ", i)); err != nil {
			t.Fatal(err)
		}
	}
	take := func(customer string, plans ...string) {
		t.Helper()
		m := &schemas.CustomerExamples{}
		for i, plan := range plans {
			m.Examples = append(m.Examples, example(int64(50+i), false, scoring.Vector{m.Levels.Add(plan), scoring.Missing, 1}))
		}
		if err := tr.take(t.Context(), &kafka.Record{Key: []byte(customer), Time: time.Now()}, m); err != nil {
			t.Fatal(err)
		}
	}
	plan := func(d *fitting.Dataset, customer string, at int64) string {
		t.Helper()
		i, ok := d.Find(fitting.CustomerHash([]byte(customer)), at)
		if !ok {
			t.Fatalf("no example of %s", customer)
		}
		x := scoring.NewVector(3)
		d.Attributes(i, x)
		return d.Vocabulary().Level(0, x[0])
	}
	expect := func(customer string, plans ...string) {
		t.Helper()
		for i, want := range plans {
			if got := plan(tr.data, customer, int64(50+i)); got != want {
				t.Errorf("%s has %q, want %q", customer, got, want)
			}
		}
	}
	take("anna", "gone 70", "too many")
	expect("anna", "gone 70", "")
	clone := tr.data.Clone()
	tr.leftOut = fitting.MaxCodes / 4
	take("bert", "new", "newer")
	if n := tr.data.Vocabulary().Size(0); n != 3 {
		t.Errorf("%d levels are kept", n)
	}
	expect("anna", "gone 70", "")
	expect("bert", "new", "newer")
	if got := plan(clone, "anna", 50); got != "gone 70" {
		t.Errorf("the dataset of a training under way has %q", got)
	}
}
