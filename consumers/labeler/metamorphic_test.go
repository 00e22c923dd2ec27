package labeler

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// step is something that is written, of any kind.
type step struct {
	written int64
	write   func(w *world)
	outcome bool
}

// steps are random: customers who come, leave, are erased and come back, scores that
// are made again by a newer model, outcomes that are corrected, repeated, late, for
// customers nobody knows, or with attributes of their own.
func steps(rng *rand.Rand, customers int) (all []step) {
	add := func(written int64, outcome bool, write func(w *world)) {
		all = append(all, step{written, write, outcome})
	}
	for i := range customers {
		id := fmt.Sprint("customer-", i)
		offset := int64(i) * 1000
		for range rng.IntN(40) {
			offset++
			s := score{
				customer: id, asOf: start + rng.Int64N(90*day), offset: offset, version: 1 + rng.Int64N(2),
				probability: rng.Float64(), plan: fmt.Sprint("plan-", rng.IntN(5)), bill: float64(offset),
			}
			s.written = s.asOf + rng.Int64N(10*minute)
			add(s.written, false, func(w *world) { w.score(s) })
			if rng.IntN(5) == 0 {
				again := s
				again.version, again.written = 3, s.written+rng.Int64N(20*day)
				add(again.written, false, func(w *world) { w.score(again) })
			}
		}
		for range rng.IntN(5) {
			l := label{customer: id, observed: start + rng.Int64N(110*day), churned: rng.IntN(2) == 0}
			if rng.IntN(6) == 0 {
				l.own = []float64{-1, float64(rng.IntN(100))}
			}
			l.written = l.observed + rng.Int64N(16*day)
			add(l.written, true, func(w *world) { w.outcome(l) })
			if rng.IntN(3) == 0 {
				later := l
				later.churned = rng.IntN(2) == 0
				if rng.IntN(4) > 0 { // else as of the same batch
					later.written += rng.Int64N(3 * day)
				}
				add(later.written, true, func(w *world) { w.outcome(later) })
			}
		}
		if rng.IntN(5) == 0 {
			at := start + rng.Int64N(120*day)
			add(at, false, func(w *world) { w.erase(id, at) })
		}
	}
	slices.SortStableFunc(all, func(a, b step) int { return cmp.Compare(a.written, b.written) })
	return all
}

// The examples are the same whatever lies where, however many processes there are,
// and whenever they are killed or started, with and without what they had on disk.
func TestMetamorphic(t *testing.T) {
	t.Parallel()
	for range worlds() {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			all := steps(rand.New(rand.NewPCG(seed, 0)), 30)
			outcomes := int64(0)
			for _, s := range all {
				if s.outcome {
					outcomes++
				}
			}
			label := func(t *testing.T, rng *rand.Rand, inputs, examples, processes int, place func(topic string, key []byte, n int) int, disturbed bool) string {
				w := newWorld(t, inputs, examples)
				w.place = place
				w.clock.Store(start)
				cfg := config()
				cfg.StateDir = t.TempDir()
				running := make([]*running, processes)
				for i := range running {
					running[i] = w.start(cfg)
				}
				for _, s := range all {
					w.clock.Store(s.written)
					s.write(w)
					if disturbed && rng.IntN(60) == 0 {
						i := rng.IntN(processes)
						if rng.IntN(2) == 0 {
							running[i].kill()
						} else {
							running[i].stop()
						}
						again := cfg
						if rng.IntN(2) == 0 {
							again.StateDir = t.TempDir()
						}
						running[i] = w.start(again)
					}
				}
				w.clock.Add(hour) // outcomes without a score are given up
				state := w.await(outcomes)
				return dump(w, state.examples)
			}
			var want string
			t.Run("undisturbed", func(t *testing.T) { want = label(t, nil, 1, 1, 1, nil, false) })
			if want == "" {
				t.Fatal("no examples")
			}
			for name, of := range map[string]struct {
				inputs, examples, processes int
				place                       func(topic string, key []byte, n int) int
				disturbed                   bool
			}{
				"several partitions": {4, 3, 1, nil, false},
				"another partitioner": {3, 2, 1, func(topic string, key []byte, n int) int {
					return (len(topic)*31 + int(key[len(key)-1])) % n
				}, false},
				"several processes": {3, 4, 3, nil, false},
				"killed":            {2, 2, 1, nil, true},
				"scattered, several, killed": {3, 4, 2, func(topic string, key []byte, n int) int {
					return int(key[len(key)-1]) * len(topic) % n
				}, true},
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					got := label(t, rand.New(rand.NewPCG(seed, 1)), of.inputs, of.examples, of.processes, of.place, of.disturbed)
					if got != want {
						t.Errorf("examples differ:\n%s", difference(got, want))
					}
				})
			}
		})
	}
}
