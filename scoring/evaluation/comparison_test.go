package evaluation

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/churnstream/churnstream/internal/invariants"
	"github.com/churnstream/churnstream/scoring"
)

func TestCompare(t *testing.T) {
	c := Compare([]Pair{{1, 0.8, 0.5, true}, {2, 0.4, 0.5, false}, {3, scoring.Missing, 0.5, false}, {4, 0.5, scoring.Missing, true}})
	challenger, champion := -(math.Log(0.8)+math.Log(0.6))/2, math.Ln2
	if c.Rows != 2 || math.Abs(c.Challenger-challenger) > 1e-15 || math.Abs(c.Champion-champion) > 1e-15 ||
		math.Abs(c.Difference-(challenger-champion)) > 1e-15 {
		t.Errorf("got %+v", c)
	}
	// Rows 9, 1 and 1 of three customers are as good as 121/83 customers.
	uneven := []Pair{{2, 0.5, 0.5, true}, {3, 0.5, 0.5, true}}
	for range 9 {
		uneven = append(uneven, Pair{1, 0.4, 0.5, true})
	}
	if c := Compare(uneven); math.Abs(c.Customers-121./83) > 1e-12 {
		t.Errorf("%v customers", c.Customers)
	}
	if c := Compare(nil); c.Customers != 0 || c.Rows != 0 || !scoring.IsMissing(c.Difference) || !scoring.IsMissing(c.Lower) || c.Better() || c.Worse() {
		t.Errorf("of nothing: %+v", c)
	}
}

// The interval is that of a mean over customers, however many rows each has.
func TestCompareResamplesCustomers(t *testing.T) {
	for _, rows := range []int{1, 20} {
		rng := rand.New(rand.NewPCG(8, 14))
		const customers = 2000
		var pairs []Pair
		sum, squares := 0.0, 0.0
		for id := range uint64(customers) {
			p := Pair{id, 0.2 + 0.6*rng.Float64(), 0.2 + 0.6*rng.Float64(), rng.Float64() < 0.5}
			d := LogLoss(p.Challenger, p.Churned) - LogLoss(p.Champion, p.Churned)
			sum += d
			squares += d * d
			for range rows {
				pairs = append(pairs, p)
			}
		}
		mean := sum / customers
		want := 2 * 1.96 * math.Sqrt((squares/customers-mean*mean)/customers)
		c := Compare(pairs)
		if math.Abs(c.Difference-mean) > 1e-12 || math.Abs((c.Upper-c.Lower)/want-1) > 0.12 || math.Abs((c.Lower+c.Upper)/2-mean) > 0.1*want {
			t.Errorf("%d rows a customer: %+v, want an interval %v wide around %v", rows, c, want, mean)
		}
		if math.Abs(c.StandardError*2*1.96-want) > 1e-9 || math.Abs(c.Customers-customers) > 1e-6 {
			t.Errorf("%d rows a customer: standard error %v of %v customers, want %v", rows, c.StandardError, c.Customers, want/2/1.96)
		}
	}
}

// Of two models that are equally good, the comparison finds one better beyond
// chance in 1 of 20 worlds.
func TestCompareFindsNoDifferenceWhereThereIsNone(t *testing.T) {
	if invariants.Raced {
		t.Skip("a simulation")
	}
	rng := rand.New(rand.NewPCG(9, 14))
	found := 0
	for range 400 {
		pairs := make([]Pair, 400)
		for i := range pairs {
			logit := rng.NormFloat64()
			blur := func() float64 { return 1 / (1 + math.Exp(-logit-0.3*rng.NormFloat64())) }
			pairs[i] = Pair{rng.Uint64(), blur(), blur(), rng.Float64() < 1/(1+math.Exp(-logit))}
		}
		if c := Compare(pairs); c.Better() || c.Worse() {
			found++
		}
	}
	t.Logf("a difference in %d of 400 worlds", found)
	if found < 6 || found > 40 {
		t.Errorf("a difference in %d of 400 worlds", found)
	}
}

func BenchmarkCompare(b *testing.B) {
	rng := rand.New(rand.NewPCG(10, 14))
	pairs := make([]Pair, 5000)
	for i := range pairs {
		pairs[i] = Pair{rng.Uint64(), rng.Float64(), rng.Float64(), rng.Float64() < 0.3}
	}
	for b.Loop() {
		Compare(pairs)
	}
}
