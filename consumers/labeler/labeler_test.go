package labeler

import (
	"fmt"
	"testing"
	"time"
)

// What a labeler makes of scores and outcomes, from Kafka to Kafka.
func TestLabeler(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, 2)
	w.score(
		score{customer: "ann", asOf: start, probability: .2, plan: "month", bill: 20},
		score{customer: "ann", asOf: start + 10*day, probability: .3, plan: "month", bill: 21, offset: 1},
		score{customer: "ann", asOf: start + 39*day, probability: .9, plan: "year", bill: 22, offset: 2},
		score{customer: "bea", asOf: start + 2*day, probability: .7, plan: "month", bill: 30},
		score{customer: "cid", asOf: start + 20*day, probability: .4, plan: "month", bill: 40},
	)
	w.outcome(
		label{customer: "ann", observed: start + 40*day, churned: false},
		label{customer: "bea", observed: start + 41*day, churned: true},
		label{customer: "cid", observed: start + 42*day, churned: true},                                   // not watched for 30 days
		label{customer: "dan", observed: start + 43*day, churned: false},                                  // nobody knows him
		label{customer: "eve", observed: start + 44*day, churned: false, own: []float64{-1, 50}},          // says it all
		label{customer: "ann", observed: start + 40*day, written: start + 45*day, churned: true},          // after all
		label{customer: "bea", observed: start + 41*day, written: start + 46*day, churned: true},          // again
		label{customer: "bea", observed: start + 33*day, written: start + 33*day + 15*day, churned: true}, // too late
	)
	r := w.start(config())
	s := w.await(8)
	want := `ann: [churn as of 10 v1 p=0.3 offset 1 corrected 1 observed 40 written 45 bill 21]
bea: [churn as of 2 v1 p=0.7 offset 0 observed 41 written 41 bill 30]
eve: [stay as of 44 observed 44 written 44 bill 50]
`
	if got := dump(w, s.examples); got != want {
		t.Errorf("examples are\n%swant\n%s", got, want)
	}
	<-r.ready
	if s.sums[kind{reasonUnwatched, true}] != 1 || s.sums[kind{reasonNoScore, false}] != 1 || s.sums[kind{reasonTooLate, true}] != 1 {
		t.Errorf("sums are %v", s.sums)
	}
	w.outcome(label{customer: "bea", observed: start + 50*day, churned: true})
	w.await(9)
	w.erase("bea", start+60*day)
	w.outcome(label{customer: "ann", observed: start + 61*day, churned: true})
	s = w.await(10)
	if len(s.examples["bea"]) != 0 || len(s.examples["ann"]) != 2 {
		t.Errorf("after an erasure:\n%s", dump(w, s.examples))
	}
}

// A labeler that is killed, and one without its directory, go on where it was: every
// outcome is settled once.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, kept := range []bool{true, false} {
		t.Run(fmt.Sprintf("directory kept %v", kept), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 3, 2)
			cfg := config()
			cfg.StateDir = t.TempDir()
			for i := range 20 {
				w.score(score{customer: fmt.Sprint("c", i), asOf: start, probability: .5, bill: float64(i)})
			}
			for round := range 4 {
				r := w.start(cfg)
				for i := range 20 {
					w.outcome(label{customer: fmt.Sprint("c", i), observed: start + 40*day + int64(round), churned: i%3 == 0})
				}
				s := w.await(int64(20 * (round + 1)))
				if got := s.sums[kind{resultExample, true}] + s.sums[kind{resultExample, false}]; got != s.settled() {
					t.Errorf("of %d outcomes %d are examples: %v", s.settled(), got, s.sums)
				}
				r.kill()
				if !kept {
					cfg.StateDir = t.TempDir()
				}
			}
		})
	}
}

// Each time that can be none may be: a zero on the command line is no default.
func TestNone(t *testing.T) {
	w := newWorld(t, 1, 1)
	cfg := config()
	cfg.Horizon, cfg.ScoreInterval, cfg.Grace = None, None, None
	w.score(score{customer: "ann", asOf: start, probability: .2, plan: "month", bill: 20})
	w.outcome(label{customer: "ann", observed: start, churned: true})
	w.start(cfg)
	if got, want := dump(w, w.await(1).examples), "ann: [churn as of 0 v1 p=0.2 offset 0 observed 0 written 0 bill 20]\n"; got != want {
		t.Errorf("examples are\n%swant\n%s", got, want)
	}
	cfg.Horizon = -time.Second
	if _, err := New(cfg); err == nil {
		t.Error("a horizon below zero is taken")
	}
}
