package trainer

import (
	"fmt"
	"testing"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// A dataset and a joiner that have had more levels than can be kept go on with
// those that examples and snapshots have.
func TestLevelsAreNumberedAnew(t *testing.T) {
	former := joinVocabulary(t)
	for i := range fitting.MaxCodes { // whose examples have gone
		if _, err := former.CodeString(0, fmt.Sprint("gone ", i)); err != nil {
			t.Fatal(err)
		}
	}
	d := fitting.NewDataset(former, 0)
	j := newJoiner(d, 3)
	learn := func(text string) scoring.Vector {
		var levels scoring.Levels
		x := scoring.Vector{levels.Add(text), 1}
		d.Vocabulary().Learn(x, d.Vocabulary(), levels, fitting.MaxCodes)
		return x
	}
	plan := func(customer uint64) string {
		t.Helper()
		i, ok := d.Find(customer, 50)
		if !ok {
			t.Fatalf("no example of %d", customer)
		}
		x := scoring.NewVector(2)
		d.Attributes(i, x)
		return d.Vocabulary().Level(0, x[0])
	}
	d.Add(fitting.Example{Customer: 2, ObservedAt: 50, Attributes: learn("gone 70")})
	d.Add(fitting.Example{Customer: 4, ObservedAt: 50, Attributes: learn("too many")})
	j.score(6, 40, learn("gone 9000"), 1000)
	if plan(2) != "gone 70" || plan(4) != "" {
		t.Fatalf("examples with %q and %q", plan(2), plan(4))
	}
	clone := d.Clone()
	d.Renumber(scoring.NewVocabulary(former.Spec()))
	j.renumber(former)
	if d.Vocabulary().Size(0) != 2 {
		t.Errorf("%d levels are kept", d.Vocabulary().Size(0))
	}
	d.Add(fitting.Example{Customer: 8, ObservedAt: 50, Attributes: learn("new")})
	j.outcome(fitting.Example{Customer: 6, ObservedAt: 50}, 1000, 1000)
	if plan(2) != "gone 70" || plan(4) != "" || plan(6) != "gone 9000" || plan(8) != "new" {
		t.Errorf("examples with %q, %q, %q and %q", plan(2), plan(4), plan(6), plan(8))
	}
	x := scoring.NewVector(2)
	clone.Attributes(0, x)
	if got := clone.Vocabulary().Level(0, x[0]); got != "gone 70" {
		t.Errorf("the dataset of a training under way has %q", got)
	}
}
