package benchmarks

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/churnstream/churnstream/scoring"
)

// Cost is what explanations of one case cost on one core. Times are in
// nanoseconds.
type Cost struct {
	Case     string
	Features int
	// Probability, LIME, SHAP and All three together are per customer, all
	// features explained.
	Probability, LIME, SHAP, All float64
	// Allocations is how many of them all three together make.
	Allocations float64
	// Compile is the time from a model to its first explanation, with the
	// tables made; TableBytes is the memory they take.
	Compile, TableBytes float64
	// Sampled is a run of the sampled LIME, Ratio how many times as long as the
	// exact one that takes.
	Sampled, Ratio float64
}

// Measure measures a case. Each time is that of the fastest of the given number
// of rounds, since what else the machine does can only add to it; in a round all
// are measured in turns, so that none has the quiet moments for itself.
func Measure(c *Case, rounds, samples int) (*Cost, error) {
	sampled, err := NewSampledLIME(c.Predictor, c.Vocabulary, samples)
	if err != nil {
		return nil, err
	}
	n := c.Predictor.Spec().Len()
	w, dst, rng := c.Predictor.NewWorkspace(), make([]float64, n), rand.New(rand.NewPCG(1, 2))
	sink := 0.0
	var failed error
	all := func(x scoring.Vector) {
		sink += c.Predictor.Probability(x)
		c.Predictor.LIME(dst, x, w)
		c.Predictor.SHAP(dst, x, w)
	}
	subjects := []func(x scoring.Vector){
		func(x scoring.Vector) { sink += c.Predictor.Probability(x) },
		func(x scoring.Vector) { c.Predictor.LIME(dst, x, w) },
		func(x scoring.Vector) { c.Predictor.SHAP(dst, x, w) },
		all,
		func(x scoring.Vector) {
			if _, err := sampled.Explain(dst, x, rng); err != nil {
				failed = err
			}
		},
		func(x scoring.Vector) {
			if _, err := c.compile(x); err != nil {
				failed = err
			}
		},
	}
	for _, x := range c.Customers {
		all(x) // makes tables that are made when first needed
	}
	repeats := make([]int, len(subjects))
	for s, f := range subjects {
		repeats[s] = c.calibrate(f)
	}
	fastest := make([]float64, len(subjects))
	for round := range rounds {
		for s, f := range subjects {
			took := c.time(f, repeats[s])
			if round == 0 || took < fastest[s] {
				fastest[s] = took
			}
		}
	}
	if failed != nil {
		return nil, failed
	}
	bytes, err := c.tableBytes()
	if err != nil {
		return nil, err
	}
	next := 0
	return &Cost{
		Case: c.Name, Features: n,
		Probability: fastest[0], LIME: fastest[1], SHAP: fastest[2], All: fastest[3],
		Sampled: fastest[4], Ratio: fastest[4] / fastest[1], Compile: fastest[5], TableBytes: bytes,
		Allocations: testing.AllocsPerRun(100, func() {
			all(c.Customers[next%len(c.Customers)])
			next++
		}),
	}, nil
}

// time returns the nanoseconds that f takes for one customer, over at least as
// many calls as asked for, with one customer after the other.
func (c *Case) time(f func(x scoring.Vector), repeats int) float64 {
	start := time.Now()
	for i := range repeats {
		f(c.Customers[i%len(c.Customers)])
	}
	return float64(time.Since(start).Nanoseconds()) / float64(repeats)
}

// calibrate returns how many calls of f take a fiftieth of a second, and no
// fewer than one of each customer takes while that is short.
func (c *Case) calibrate(f func(x scoring.Vector)) int {
	const round = 20 * time.Millisecond
	for repeats := len(c.Customers); ; repeats *= 2 {
		start := time.Now()
		c.time(f, repeats)
		if time.Since(start) >= round {
			return repeats
		}
	}
}

// compile makes a predictor of the case's model and explains one customer.
func (c *Case) compile(x scoring.Vector) (*scoring.Predictor, error) {
	p, err := scoring.Compile(c.Predictor.Model(), c.Vocabulary)
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", c.Name, err)
	}
	w := p.NewWorkspace()
	p.LIME(nil, x, w)
	p.SHAP(nil, x, w)
	return p, nil
}

// tableBytes returns how much the heap grows by a predictor once all customers
// have been explained, beyond the model itself.
func (c *Case) tableBytes() (float64, error) {
	const copies = 8
	kept := make([]*scoring.Predictor, 0, copies)
	before := heap()
	for range copies {
		p, err := c.compile(c.Customers[0])
		if err != nil {
			return 0, err
		}
		w := p.NewWorkspace()
		for _, x := range c.Customers {
			p.SHAP(nil, x, w)
		}
		kept = append(kept, p)
	}
	grown := float64(heap()) - float64(before)
	runtime.KeepAlive(kept)
	return max(grown, 0) / copies, nil
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalisers held on to
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
