package trainer

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

func joinVocabulary(t *testing.T) *scoring.Vocabulary {
	t.Helper()
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "plan", Kind: scoring.Categorical}, {Name: "bill"}})
	if err != nil {
		t.Fatal(err)
	}
	return scoring.NewVocabulary(spec)
}

// has reports whether there is an example of a customer at a moment.
func has(d *fitting.Dataset, customer uint64, at int64) bool {
	_, found := d.Find(customer, at)
	return found
}

// held returns the last attribute, the bill, of a customer's example at a moment.
func held(d *fitting.Dataset, customer uint64, at int64) (last float64, churned, ok bool) {
	i, ok := d.Find(customer, at)
	if !ok {
		return 0, false, false
	}
	return bill(d, i), d.Churned(i), true
}

// bill returns the last attribute, the bill, of example i.
func bill(d *fitting.Dataset, i int) float64 {
	x := scoring.NewVector(d.Spec().Len())
	d.Attributes(i, x)
	return x[len(x)-1]
}

func TestJoinTakesTheScoreInForce(t *testing.T) {
	const anna, bert = 2, 4
	outcome := func(at int64) func(*joiner) {
		return func(j *joiner) {
			j.outcome(fitting.Example{Customer: anna, ObservedAt: at, Churned: true}, 1000, 1000)
		}
	}
	score := func(customer uint64, at int64, bill float64) func(*joiner) {
		return func(j *joiner) { j.score(customer, at, scoring.Vector{scoring.Missing, bill}, 1000) }
	}
	for name, c := range map[string]struct {
		steps []func(*joiner)
		want  float64 // −1: none
	}{
		"no score at all":                    {[]func(*joiner){outcome(50)}, -1},
		"score before":                       {[]func(*joiner){score(anna, 40, 1), outcome(50)}, 1},
		"score at the same time":             {[]func(*joiner){score(anna, 50, 1), outcome(50)}, 1},
		"score after":                        {[]func(*joiner){score(anna, 51, 1), outcome(50)}, -1},
		"another customer's score":           {[]func(*joiner){score(bert, 40, 1), outcome(50)}, -1},
		"latest of several":                  {[]func(*joiner){score(anna, 30, 1), score(anna, 45, 2), score(anna, 60, 3), outcome(50)}, 2},
		"latest, read out of order":          {[]func(*joiner){score(anna, 45, 2), score(anna, 60, 3), score(anna, 30, 1), outcome(50)}, 2},
		"score read after the outcome":       {[]func(*joiner){outcome(50), score(anna, 40, 1)}, 1},
		"better score read later":            {[]func(*joiner){outcome(50), score(anna, 40, 1), score(anna, 48, 2), score(anna, 55, 3)}, 2},
		"worse score read later":             {[]func(*joiner){outcome(50), score(anna, 48, 2), score(anna, 40, 1)}, 2},
		"score again under another model":    {[]func(*joiner){score(anna, 40, 1), score(anna, 40, 5), outcome(50)}, 5},
		"forgotten, as too many came since":  {[]func(*joiner){score(anna, 40, 1), score(anna, 60, 2), score(anna, 70, 3), score(anna, 80, 4), outcome(50)}, -1},
		"older than what is kept is no use":  {[]func(*joiner){score(anna, 60, 2), score(anna, 70, 3), score(anna, 80, 4), score(anna, 40, 1), outcome(65)}, 2},
		"outcomes first need no history":     {[]func(*joiner){outcome(50), score(anna, 40, 1), score(anna, 60, 2), score(anna, 70, 3), score(anna, 80, 4), score(anna, 90, 5)}, 1},
		"after the grace nothing is awaited": {[]func(*joiner){outcome(50), func(j *joiner) { j.expire(1000) }, score(anna, 40, 1)}, -1},
		"after the grace a join stands":      {[]func(*joiner){outcome(50), score(anna, 40, 1), func(j *joiner) { j.expire(1000) }, score(anna, 45, 2)}, 1},
		"within the grace it waits":          {[]func(*joiner){outcome(50), func(j *joiner) { j.expire(999) }, score(anna, 40, 1)}, 1},
		"erased":                             {[]func(*joiner){score(anna, 40, 1), outcome(50), func(j *joiner) { j.erase(anna, 1000, true) }}, -1},
		"written before the erasure":         {[]func(*joiner){func(j *joiner) { j.erase(anna, 1000, true) }, score(anna, 40, 1), outcome(50)}, -1},
		"written after the erasure":          {[]func(*joiner){func(j *joiner) { j.erase(anna, 999, false) }, score(anna, 40, 1), outcome(50)}, 1},
		"read before an older erasure":       {[]func(*joiner){outcome(50), func(j *joiner) { j.erase(anna, 999, false) }, score(anna, 40, 1)}, 1},
		"joined before an older erasure":     {[]func(*joiner){score(anna, 40, 1), outcome(50), func(j *joiner) { j.erase(anna, 999, false) }, score(anna, 45, 2)}, 2},
		"erased among the scores":            {[]func(*joiner){score(anna, 40, 1), outcome(50), func(j *joiner) { j.erase(anna, 1000, false) }, score(anna, 45, 2)}, -1},
		"another customer erased":            {[]func(*joiner){func(j *joiner) { j.erase(bert, 1000, true) }, score(anna, 40, 1), outcome(50)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJoiner(fitting.NewDataset(joinVocabulary(t), 100), 3)
			for _, step := range c.steps {
				step(j)
			}
			bill, churned, ok := -1.0, true, false
			for _, at := range []int64{50, 65} {
				if b, ch, found := held(j.data, anna, at); found {
					bill, churned, ok = b, ch, true
				}
			}
			if bill != c.want || ok != (c.want >= 0) || !churned {
				t.Errorf("joined with %v, want %v", bill, c.want)
			}
			if j.pending < 0 || ok && j.pending != 0 {
				t.Errorf("%d pending", j.pending)
			}
		})
	}
}

func TestJoinCountsRepeatedOutcomesOnce(t *testing.T) {
	j := newJoiner(fitting.NewDataset(joinVocabulary(t), 100), 3)
	own := scoring.Vector{0, 7}
	for k, c := range []struct {
		e      fitting.Example
		added  bool
		labels int64
	}{
		{fitting.Example{Customer: 2, ObservedAt: 1}, true, 1},
		{fitting.Example{Customer: 2, ObservedAt: 1}, false, 1},
		{fitting.Example{Customer: 2, ObservedAt: 1, Churned: true, Attributes: own}, false, 1}, // a correction that knows more
		{fitting.Example{Customer: 2, ObservedAt: 2, Attributes: own}, true, 2},
		{fitting.Example{Customer: 4, ObservedAt: 1, Attributes: own}, true, 3},
		{fitting.Example{Customer: 4, ObservedAt: 1, Churned: true, Attributes: own}, false, 3}, // a correction
	} {
		if added := j.outcome(c.e, 10, 10); added != c.added || j.labels != c.labels {
			t.Errorf("outcome %d: added %v, %d labels", k, added, j.labels)
		}
	}
	if _, churned, ok := held(j.data, 4, 1); !ok || !churned {
		t.Error("the correction was not taken")
	}
	if j.data.Len() != 3 || j.pending != 0 {
		t.Errorf("%d examples, %d pending", j.data.Len(), j.pending)
	}
	if n := j.expire(10); n != 0 {
		t.Errorf("%d outcomes dropped", n)
	}
	if len(j.customers) != 0 {
		t.Errorf("%d customers are still waited for", len(j.customers))
	}
}

// Whatever the order in which outcomes and scores are read, as long as all
// outcomes come first or histories are short enough, the examples are the same.
func TestJoinDoesNotDependOnTheOrderOfReading(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	type reading struct {
		outcome  bool
		customer uint64
		at       int64
		bill     float64
	}
	for range 200 {
		var readings []reading
		for customer := uint64(2); customer <= 6; customer += 2 {
			for k := range 4 {
				readings = append(readings, reading{false, customer, int64(r.IntN(100)*10 + k), r.Float64()})
			}
			for k := range 2 {
				readings = append(readings, reading{true, customer, int64(r.IntN(100)*10 + k), 0})
			}
		}
		var first *fitting.Dataset
		for range 6 {
			j := newJoiner(fitting.NewDataset(joinVocabulary(t), 100), 4)
			for _, k := range r.Perm(len(readings)) {
				if q := readings[k]; q.outcome {
					j.outcome(fitting.Example{Customer: q.customer, ObservedAt: q.at}, 0, 0)
				} else {
					j.score(q.customer, q.at, scoring.Vector{scoring.Missing, q.bill}, 0)
				}
			}
			if first == nil {
				first = j.data
				continue
			}
			if first.Len() != j.data.Len() {
				t.Fatalf("%d examples, then %d", first.Len(), j.data.Len())
			}
			a, b := first.Ordered(), j.data.Ordered()
			if !slices.EqualFunc(a, b, func(x, y int32) bool {
				return bill(first, int(x)) == bill(j.data, int(y)) && first.ObservedAt(int(x)) == j.data.ObservedAt(int(y))
			}) {
				t.Fatal("other examples")
			}
		}
	}
}

// However many outcomes come for which there is no score, those that wait are
// bounded: the newest.
func TestWaitingOutcomesAreBounded(t *testing.T) {
	const limit, n = 100, 250
	j := newJoiner(fitting.NewDataset(joinVocabulary(t), limit), 3)
	for i := range int64(n) {
		j.outcome(fitting.Example{Customer: uint64(i % 40), ObservedAt: i, Churned: true}, i, i)
	}
	open := 0
	for _, timeline := range j.customers {
		open += len(timeline.open)
	}
	if len(j.queue) != limit || open != limit || j.pending != limit {
		t.Errorf("%d in the queue, %d open, %d without a snapshot, want %d", len(j.queue), open, j.pending, limit)
	}
	if got := j.expire(-1); got != n-limit {
		t.Errorf("%d are said to have been dropped, want %d", got, n-limit)
	}
	x := scoring.NewVector(j.data.Spec().Len())
	j.score(39, 0, x, 0) // of the outcomes at 39, 79, … 239
	if dropped, waiting := has(j.data, 39, 119), has(j.data, 39, 159); dropped || !waiting {
		t.Errorf("an outcome that was dropped is an example: %t; one that waits is none: %t", dropped, !waiting)
	}
}
