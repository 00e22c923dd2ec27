package customers

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// withPlan is a score with a plan, "" for none, that the vocabulary has or has
// not.
func withPlan(set *schemas.Set, id, text string) *schemas.ChurnScore {
	s := &schemas.ChurnScore{CustomerID: []byte(id), Attributes: scoring.NewVector(set.Spec().Len())}
	if text != "" {
		s.Attributes[plan] = set.Vocabulary().Find(plan, []byte(text), &s.Levels)
	}
	return s
}

func planOf(set *schemas.Set, t *Table, id string) string {
	var s schemas.ChurnScore
	t.Unpack(t.Get([]byte(id)), &s)
	return set.Text(plan, s.Attributes[plan], s.Levels)
}

// TestAccept: a level counts as long as a customer has it.
func TestAccept(t *testing.T) {
	set := testSet(t)
	if _, err := set.Vocabulary().CodeString(plan, "b"); err != nil { // it makes no difference
		t.Fatal(err)
	}
	table := NewTable(set.Vocabulary())
	for i, step := range []struct {
		id, plan string // plan "−" removes
		ok       bool
		held     int
	}{
		{"anna", "a", true, 1},
		{"bert", "a", true, 1},
		{"bert", "b", true, 2},
		{"cleo", "c", false, 2},
		{"cleo", "", true, 2},
		{"cleo", "c", false, 2},
		{"cleo", "b", true, 2},
		{"anna", "c", true, 2}, // gives a back
		{"dora", "a", false, 2},
		{"cleo", "a", false, 2}, // bert has b still
		{"bert", "−", true, 2},
		{"cleo", "a", true, 2}, // and now nobody
		{"anna", "−", true, 1},
		{"dora", "d", true, 2},
		{"dora", "", true, 1},
		{"cleo", "−", true, 0},
		{"anna", "e", true, 1},
	} {
		before := ""
		if table.Get([]byte(step.id)) != nil {
			before = planOf(set, table, step.id)
		}
		if step.plan == "−" {
			table.Remove([]byte(step.id))
		} else if full, ok := table.Accept(withPlan(set, step.id, step.plan), 2); ok != step.ok || !ok && full != plan {
			t.Fatalf("step %d, %+v: %v, feature %d", i, step, ok, full)
		}
		if n := table.Levels(plan); n != step.held {
			t.Fatalf("step %d, %+v: %d levels", i, step, n)
		}
		want := step.plan
		if !step.ok {
			want = before
		}
		if want != "−" && table.Get([]byte(step.id)) != nil && planOf(set, table, step.id) != want {
			t.Fatalf("step %d, %+v: %q", i, step, planOf(set, table, step.id))
		}
	}
}

// TestAcceptDependsOnTheCustomersAlone plays changes to a table, and to one that
// is every now and then another process's, of a snapshot or of the scores there
// are: both decide the same, and have the same levels.
func TestAcceptDependsOnTheCustomersAlone(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 11))
		here := testSet(t)
		table := NewTable(here.Vocabulary())
		there := here
		other := NewTable(there.Vocabulary())
		const most = 10
		for step := range 2000 {
			id := fmt.Sprint("c", rng.IntN(20))
			switch rng.IntN(40) {
			case 0:
				next := testSet(t)
				for range rng.IntN(30) { // which other partitions or models have brought
					if _, err := next.Vocabulary().CodeString(plan, fmt.Sprint("level ", rng.IntN(30))); err != nil {
						t.Fatal(err)
					}
				}
				if rng.IntN(2) == 0 {
					_, read, err := readSnapshot(next, bytes.NewReader(encodeSnapshot(there, other)))
					if err != nil {
						t.Fatal(err)
					}
					other = read
				} else {
					again := NewTable(next.Vocabulary())
					var at Cursor
					for record := other.Next(&at); record != nil; record = other.Next(&at) {
						var s schemas.ChurnScore
						other.Unpack(record, &s)
						next.Vocabulary().Renumber(s.Attributes, there.Vocabulary(), s.Levels, &s.Levels)
						again.Put(&s)
					}
					other = again
				}
				there = next
				continue
			case 1, 2:
				if table.Remove([]byte(id)) != other.Remove([]byte(id)) {
					t.Fatalf("seed %d, step %d: %s is known to one only", seed, step, id)
				}
				continue
			case 3:
				// A model brings a level while the tables have it.
				for _, set := range []*schemas.Set{here, there} {
					if _, err := set.Vocabulary().CodeString(plan, fmt.Sprint("level ", rng.IntN(30))); err != nil {
						t.Fatal(err)
					}
				}
				if rng.IntN(2) == 0 {
					table.Renumber()
				} else {
					other.Renumber()
				}
				continue
			}
			text := ""
			if n := rng.IntN(31); n < 30 {
				text = fmt.Sprint("level ", n)
			}
			_, ok := table.Accept(withPlan(here, id, text), most)
			if _, same := other.Accept(withPlan(there, id, text), most); same != ok {
				t.Fatalf("seed %d, step %d: %v here, %v there", seed, step, ok, same)
			}
			if table.Levels(plan) != other.Levels(plan) || table.Levels(plan) > most {
				t.Fatalf("seed %d, step %d: %d levels here, %d there", seed, step, table.Levels(plan), other.Levels(plan))
			}
		}
		sameContent(t, content(t, there, other), content(t, here, table))
	}
}

// Of levels that come and go nothing stays.
func TestLevelsAreForgotten(t *testing.T) {
	set := testSet(t)
	table := NewTable(set.Vocabulary())
	for i := range 3 * scoring.MaxLevels {
		if _, ok := table.Accept(withPlan(set, "anna", fmt.Sprint("level ", i)), 1); !ok {
			t.Fatalf("level %d is refused", i)
		}
	}
	before := table.Bytes()
	for i := range scoring.MaxLevels {
		if _, ok := table.Accept(withPlan(set, "bert", fmt.Sprint("no ", i)), 1); ok {
			t.Fatal("a level too many is accepted")
		}
	}
	if after := table.Bytes(); after != before || len(table.levels.features[plan].levels) > 3 {
		t.Errorf("%d bytes became %d, with room for %d levels", before, after, len(table.levels.features[plan].levels))
	}
	if n := set.Vocabulary().Size(plan); n != 0 {
		t.Errorf("the vocabulary has learnt %d levels", n)
	}
}
