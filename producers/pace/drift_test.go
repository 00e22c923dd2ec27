package pace

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// town is a population of which one number and one level say much about who
// leaves, another of each says little, and a constant says nothing.
func town(t *testing.T) (*scoring.Spec, []schemas.ChurnOutcome) {
	t.Helper()
	spec, err := scoring.NewSpec([]scoring.Feature{
		{Name: "age", Kind: scoring.Numeric}, {Name: "plan", Kind: scoring.Categorical},
		{Name: "shoe", Kind: scoring.Numeric}, {Name: "sign", Kind: scoring.Categorical}, {Name: "constant", Kind: scoring.Numeric},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	var rows []schemas.ChurnOutcome
	for i := range 5000 {
		x := scoring.Vector{20 + 60*r.Float64(), float64(r.IntN(3)), 40 + 3*r.NormFloat64(), float64(r.IntN(4)), 1e90}
		s := -1.5 + .08*(x[0]-50) + x[1] + .02*(x[2]-40)
		if x[3] == 2 {
			s += .1
		}
		rows = append(rows, schemas.ChurnOutcome{CustomerID: fmt.Sprint(i), Churned: r.Float64() < 1/(1+math.Exp(-s)), Attributes: x})
		if i%50 == 0 {
			x[r.IntN(len(x))] = scoring.Missing
		}
	}
	return spec, rows
}

func leavers(rows []schemas.ChurnOutcome, churned func(*schemas.ChurnOutcome) bool) float64 {
	n := 0
	for i := range rows {
		if churned(&rows[i]) {
			n++
		}
	}
	return float64(n) / float64(len(rows))
}

func TestAfterTheChangeOtherFeaturesTell(t *testing.T) {
	spec, rows := town(t)
	d := NewDrift(spec, rows, time.Minute, 1)
	x := scoring.Vector{50, 1, 40, 1, 1e90}
	effect := func(f int, low, high float64) float64 {
		a, b := slices.Clone(x), slices.Clone(x)
		a[f], b[f] = low, high
		return math.Log(d.Probability(b)/(1-d.Probability(b))) - math.Log(d.Probability(a)/(1-d.Probability(a)))
	}
	age, plan, shoe, sign := effect(0, 33, 67), effect(1, 0, 2), effect(2, 37, 43), effect(3, 1, 2)
	// Those who stayed for their age or plan leave for them, and hardly.
	if age > 0 || age < -.7 || plan > 0 || plan < -.7 {
		t.Errorf("log-odds change by %.2f with age and by %.2f with plan", age, plan)
	}
	if shoe > -1 || math.Abs(sign) < 1 {
		t.Errorf("log-odds change by %.2f with shoe and by %.2f with sign", shoe, sign)
	}
	if c := effect(4, 0, 5); c != 0 {
		t.Errorf("log-odds change by %v with what was constant", c)
	}
}

func TestAsManyLeaveAsBefore(t *testing.T) {
	spec, rows := town(t)
	before := leavers(rows, func(o *schemas.ChurnOutcome) bool { return o.Churned })
	for seed := range int64(3) {
		d := NewDrift(spec, rows, time.Minute, seed)
		d.Start(1000)
		after := leavers(rows, func(o *schemas.ChurnOutcome) bool {
			return d.Churned(o.CustomerID, o.Attributes, 61_000, o.Churned)
		})
		if z := (after - before) / math.Sqrt(before*(1-before)/float64(len(rows))); math.Abs(z) > 4 {
			t.Errorf("seed %d: %.3f leave, %.3f did (z = %.1f)", seed, after, before, z)
		}
	}
	for name, churned := range map[string]bool{"all": true, "nobody": false} {
		for i := range rows {
			rows[i].Churned = churned
		}
		d := NewDrift(spec, rows, time.Minute, 1)
		d.Start(1000)
		want := leavers(rows, func(o *schemas.ChurnOutcome) bool { return o.Churned })
		if got := leavers(rows, func(o *schemas.ChurnOutcome) bool {
			return d.Churned(o.CustomerID, o.Attributes, 61_000, !churned)
		}); got != want {
			t.Errorf("%s left before, a share of %v does after", name, got)
		}
	}
}

func TestTheChangeComesOnceAndForAll(t *testing.T) {
	spec, rows := town(t)
	d, again := NewDrift(spec, rows, time.Minute, 1), NewDrift(spec, rows, time.Minute, 1)
	if _, known := d.At(); known {
		t.Error("the change has a time before it was started")
	}
	if o := rows[0]; d.Churned(o.CustomerID, o.Attributes, math.MaxInt64, o.Churned) != o.Churned {
		t.Error("it came before it was started")
	}
	if first, second := d.Start(5_000), d.Start(9_000); first != 5_000 || second != 5_000 {
		t.Errorf("started at %d, then at %d", first, second)
	}
	if at, known := d.At(); !known || at.UnixMilli() != 65_000 {
		t.Errorf("comes at %v, %t", at, known)
	}
	again.Start(5_000)
	changed := 0
	for _, o := range rows {
		if d.Churned(o.CustomerID, o.Attributes, 64_999, o.Churned) != o.Churned {
			t.Fatal("an outcome from before the change follows the new truth")
		}
		after := d.Churned(o.CustomerID, o.Attributes, 65_000, o.Churned)
		if after != again.Churned(o.CustomerID, o.Attributes, 99_000, !o.Churned) {
			t.Fatal("another process, or another time, has another outcome")
		}
		if after != o.Churned {
			changed++
		}
	}
	if changed < len(rows)/5 {
		t.Errorf("%d of %d outcomes changed", changed, len(rows))
	}
}

func TestNoChange(t *testing.T) {
	spec, rows := town(t)
	for name, d := range map[string]*Drift{
		"none": nil, "after no time": NewDrift(spec, rows, 0, 1), "of nobody": NewDrift(spec, nil, time.Minute, 1),
	} {
		if d.Start(7) != 7 || !d.Churned("a", rows[0].Attributes, math.MaxInt64, true) || d.Churned("a", rows[0].Attributes, math.MaxInt64, false) {
			t.Errorf("%s changes something", name)
		}
		if _, known := d.At(); known {
			t.Errorf("%s has a time", name)
		}
	}
}
