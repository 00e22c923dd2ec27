package scoring

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func values(xs ...float64) Vector { return xs }

func same(a, b float64) bool { return a == b || IsMissing(a) && IsMissing(b) }

func sameVector(a, b Vector) bool { return slices.EqualFunc(a, b, same) }

func TestHashEvent(t *testing.T) {
	// Published FNV-1a values; scores in topics carry them.
	for id, want := range map[string]uint64{
		"":       0xcbf29ce484222325,
		"a":      0xaf63dc4c8601ec8c,
		"foobar": 0x85944171f73967e8,
	} {
		if got := uint64(HashEvent([]byte(id))); got != want {
			t.Errorf("hash of %q is %x, want %x", id, got, want)
		}
	}
}

func TestApply(t *testing.T) {
	na := Missing
	set := func(at int64, x ...float64) Change { return Change{OccurredAt: at, Set: x} }
	add := func(at int64, x ...float64) Change { return Change{OccurredAt: at, Add: x} }
	id := func(hash int64, c Change) Change { c.EventHash = hash; return c }
	ok := Applied{Applied: true}
	for name, tc := range map[string]struct {
		changes []Change
		results []Applied
		values  Vector
		ages    []int64 // at time 100
	}{
		"nothing known": {nil, nil, values(na, na), nil},
		"set": {
			[]Change{set(100, 1, 2)}, []Applied{ok}, values(1, 2), nil},
		"partly set": {
			[]Change{set(100, 1, na)}, []Applied{ok}, values(1, na), nil},
		"later change of one": {
			[]Change{set(90, 1, 2), set(100, na, 3)}, []Applied{ok, ok}, values(1, 3), []int64{10, 0}},
		"later change of all": {
			[]Change{set(90, 1, 2), set(100, 3, 4)}, []Applied{ok, ok}, values(3, 4), nil},
		"late change loses": {
			[]Change{set(100, 1, 2), set(90, 3, 4)},
			[]Applied{ok, {Applied: true, LateAttributes: 2}}, values(1, 2), nil},
		"late change of what was not set": {
			[]Change{set(100, 1, na), set(90, 3, 4)},
			[]Applied{ok, {Applied: true, LateAttributes: 1}}, values(1, 4), []int64{0, 10}},
		"late by one attribute only": {
			[]Change{set(80, 1, 2), set(100, 5, na), set(90, 3, 4)},
			[]Applied{ok, ok, {Applied: true, LateAttributes: 1}}, values(5, 4), []int64{0, 10}},
		"equal times: the later arrival wins": {
			[]Change{set(100, 1, 2), set(100, na, 3)}, []Applied{ok, ok}, values(1, 3), nil},
		"increment leaves the set time": {
			[]Change{set(90, 1, 2), add(100, 10, na)}, []Applied{ok, ok}, values(11, 2), []int64{10, 10}},
		"late increment counts after an earlier set": {
			[]Change{set(80, 1, 2), add(100, 10, na), add(90, 5, na)},
			[]Applied{ok, ok, ok}, values(16, 2), []int64{20, 20}},
		"increment before a later set is in it": {
			[]Change{set(100, 1, 2), add(90, 10, na)},
			[]Applied{ok, {Applied: true, LateAttributes: 1}}, values(1, 2), nil},
		"increment at the time of the set counts": {
			[]Change{set(100, 1, 2), add(100, 10, na)}, []Applied{ok, ok}, values(11, 2), nil},
		"increment of what was never set": {
			[]Change{set(100, 1, na), add(100, na, 10)},
			[]Applied{ok, {Applied: true, BaselessIncrements: 1}}, values(1, na), nil},
		"set and add in one": {
			[]Change{{OccurredAt: 100, Set: values(1, 2), Add: values(na, 5)}}, []Applied{ok}, values(1, 7), nil},
		"overflow stays finite": {
			[]Change{set(100, 9e99, -9e99), add(100, 9e99, -math.MaxFloat64), add(100, math.MaxFloat64, 1e99), add(100, -1e99, na)},
			[]Applied{ok, {Applied: true, Saturated: 2}, {Applied: true, Saturated: 1}, ok}, values(9e99, -9e99), nil},
		"duplicate": {
			[]Change{id(7, set(90, 1, 2)), id(8, add(100, 1, na)), id(8, add(100, 1, na)), id(7, set(90, 1, 2))},
			[]Applied{ok, ok, {}, {}}, values(2, 2), []int64{10, 10}},
		"duplicate forgotten after four others": {
			[]Change{set(100, 0, 0), id(1, add(100, 1, na)), id(2, add(100, 1, na)), id(3, add(100, 1, na)),
				id(4, add(100, 1, na)), id(1, add(100, 1, na)), id(5, add(100, 1, na)), id(1, add(100, 1, na))},
			[]Applied{ok, ok, ok, ok, ok, {}, ok, ok}, values(6, 0), nil},
		"no identity, no duplicate": {
			[]Change{set(100, 0, 0), add(100, 1, na), add(100, 1, na)}, []Applied{ok, ok, ok}, values(2, 0), nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewCustomer(2)
			for i := range tc.changes {
				if got := c.Apply(&tc.changes[i]); got != tc.results[i] {
					t.Errorf("change %d: %+v, want %+v", i, got, tc.results[i])
				}
			}
			if !sameVector(c.Values, tc.values) {
				t.Errorf("values %v, want %v", c.Values, tc.values)
			}
			if ages := c.Ages(nil, 100); !slices.Equal(ages, tc.ages) {
				t.Errorf("ages %v, want %v", ages, tc.ages)
			}
			if !IsMissing(c.Probability) {
				t.Errorf("probability %g", c.Probability)
			}
		})
	}
}

// reckoner is the rule, one attribute at a time, with nothing compact about it.
type reckoner struct {
	value, setAt []float64
	seen         []int64
}

func (r *reckoner) apply(ch *Change) {
	if slices.Contains(r.seen, ch.EventHash) {
		return
	}
	r.seen = append(r.seen, ch.EventHash)
	if len(r.seen) > RecentEvents {
		r.seen = r.seen[1:]
	}
	at := float64(ch.OccurredAt)
	for i := range r.value {
		if v := ch.Set[i]; !IsMissing(v) && (IsMissing(r.value[i]) || at >= r.setAt[i]) {
			r.value[i], r.setAt[i] = v, at
		}
		if v := ch.Add[i]; !IsMissing(v) && !IsMissing(r.value[i]) && at >= r.setAt[i] {
			r.value[i] += v
		}
	}
}

// TestHistories plays random histories, with late events and duplicates, to a
// customer, to one that is restored from what a score carries after every
// event, and to the plain rule.
func TestHistories(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 10))
		n := 1 + rng.IntN(5)
		original, restored := NewCustomer(n), NewCustomer(n)
		plain := reckoner{value: NewVector(n), setAt: make([]float64, n)}
		var past []Change
		var ages, recent []int64
		for range 60 {
			ch := Change{EventHash: rng.Int64(), OccurredAt: 1000 + rng.Int64N(12), Set: NewVector(n), Add: NewVector(n)}
			full := rng.IntN(4) == 0
			for i := range n {
				if full || rng.IntN(3) == 0 {
					ch.Set[i] = float64(rng.IntN(100))
				}
				if rng.IntN(3) == 0 {
					ch.Add[i] = float64(rng.IntN(100))
				}
			}
			if len(past) > 0 && rng.IntN(4) == 0 {
				ch = past[max(0, len(past)-1-rng.IntN(6))]
			}
			past = append(past, ch)

			a, b := original.Apply(&ch), restored.Apply(&ch)
			plain.apply(&ch)
			if a != b {
				t.Fatalf("seed %d: %+v, restored %+v", seed, a, b)
			}
			if a.Applied {
				original.Probability = rng.Float64()
			}
			ages = original.Ages(ages[:0], ch.OccurredAt)
			recent = original.RecentEvents(recent[:0])
			if again := restored.Ages(nil, ch.OccurredAt); !slices.Equal(ages, again) {
				t.Fatalf("seed %d: ages %v, restored %v", seed, ages, again)
			}
			if rng.IntN(2) == 0 {
				restored = new(Customer)
			}
			restored.Restore(original.Values, ch.OccurredAt, ages, recent, original.Probability)
			if !sameVector(original.Values, plain.value) || !sameVector(restored.Values, plain.value) {
				t.Fatalf("seed %d: %v, restored %v, want %v", seed, original.Values, restored.Values, plain.value)
			}
			if !same(restored.Probability, original.Probability) || !slices.Equal(restored.RecentEvents(nil), recent) {
				t.Fatalf("seed %d: restored %+v, original %+v", seed, restored, original)
			}
		}
	}
}

func TestRestoreKeepsNothing(t *testing.T) {
	x, ages, recent := values(1, 2), []int64{3, 0}, []int64{7}
	c := NewCustomer(2)
	c.Restore(x, 10, ages, recent, 0.5)
	x[0], ages[0], recent[0] = 9, 9, 9
	if c.Values[0] != 1 || c.Ages(nil, 10)[0] != 3 || c.RecentEvents(nil)[0] != 7 {
		t.Errorf("restored customer shares memory: %+v", c)
	}
	// Ages that the sender cut short count as 0.
	c.Restore(values(1, 2, 3), 10, []int64{4, 5}, nil, 0.5)
	if got := c.Ages(nil, 10); !slices.Equal(got, []int64{4, 5, 0}) {
		t.Errorf("ages %v", got)
	}
}

func TestApplyDoesNotAllocate(t *testing.T) {
	c := NewCustomer(3)
	c.Apply(&Change{EventHash: 1, OccurredAt: 1, Set: values(1, 2, 3)})
	ch := Change{EventHash: 2, OccurredAt: 2, Set: values(Missing, 1, Missing), Add: values(1, Missing, Missing)}
	c.Apply(&ch) // set times differ from here on
	var ages, recent []int64
	ages, recent = c.Ages(ages, 5), c.RecentEvents(make([]int64, 0, RecentEvents))
	if n := testing.AllocsPerRun(100, func() {
		ch.EventHash++
		ch.OccurredAt++
		c.Apply(&ch)
		ages, recent = c.Ages(ages[:0], ch.OccurredAt), c.RecentEvents(recent[:0])
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

// TestRestoreAndApplyDoNotAllocate takes turns between customers, as a worker
// does, whose attributes were set at different times, at one time, and not at
// all.
func TestRestoreAndApplyDoNotAllocate(t *testing.T) {
	c := NewCustomer(3)
	ch := Change{Set: values(Missing, 1, Missing), Add: values(1, Missing, Missing)}
	recent := []int64{1, 2, 3, 4}
	ages, out := make([]int64, 0, 3), make([]int64, 0, RecentEvents)
	at := int64(100)
	n := testing.AllocsPerRun(100, func() {
		for _, restored := range []struct {
			values Vector
			ages   []int64
		}{
			{values(1, 2, 3), []int64{5, 0, 7}},
			{values(1, 2, 3), nil},
			{values(Missing, Missing, Missing), nil},
			{values(1, Missing, 3), []int64{5, 0, 7}},
		} {
			c.Restore(restored.values, at, restored.ages, recent, 0.5)
			at++
			ch.EventHash, ch.OccurredAt = at+1000, at
			c.Apply(&ch)
			ages, out = c.Ages(ages[:0], at), c.RecentEvents(out[:0])
		}
	})
	if n != 0 {
		t.Errorf("%g allocations", n)
	}
	// A time of the customer before must not be left standing.
	c.Restore(values(1, 2, 3), 10, nil, nil, 0.5)
	if got := c.Ages(nil, 10); len(got) != 0 {
		t.Errorf("ages %v of attributes all set at once", got)
	}
}
