package labeler

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// said returns what the records of a customer among the examples are, in their order:
// the numbers of examples, and "erased" for tombstones.
func (w *world) said(customer string) (all []string) {
	w.t.Helper()
	spans, err := w.cluster.Spans(w.t.Context(), schemas.TopicExamples)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, span := range spans {
		err := w.cluster.Read(w.t.Context(), span, func(records []kafka.Record, _ int64) error {
			for i := range records {
				switch r := &records[i]; {
				case string(r.Key) != customer:
				case r.Value == nil:
					all = append(all, "erased")
				default:
					var m schemas.CustomerExamples
					if err := w.codec.DecodeExamples(w.t.Context(), r.Value, &m); err != nil {
						return err
					}
					all = append(all, fmt.Sprint(len(m.Examples)))
				}
			}
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return all
}

// A customer who is erased and comes back before the labeler has written anything is
// erased for readers too; so is one of whom some examples are from after the erasure.
func TestErasedAndBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	cfg := config()
	cfg.StateDir = t.TempDir()
	l := w.start(cfg)
	own := func(bill float64) []float64 { return []float64{-1, bill} }
	w.outcome(label{customer: "ann", observed: start, own: own(1)})
	w.outcome(label{customer: "bea", observed: start, own: own(1)},
		label{customer: "bea", observed: start + 5*hour, churned: true, own: own(2)})
	w.await(3)
	l.stop()
	w.erase("ann", start+hour)
	w.outcome(label{customer: "ann", observed: start + 2*hour, churned: true, own: own(2)})
	w.erase("bea", start+hour)
	w.score(score{customer: "dan", asOf: start + 6*hour})
	w.outcome(label{customer: "dan", observed: start + 7*hour, own: own(3)})
	w.start(cfg)
	s := w.await(5)
	for _, id := range []string{"ann", "bea"} {
		said := w.said(id)
		if n := len(said); n < 3 || said[n-2] != "erased" || said[n-1] != "1" {
			t.Errorf("records of %s: %v", id, said)
		}
		if got := s.examples[id]; len(got) != 1 || !got[0].Churned {
			t.Errorf("examples of %s: %+v", id, got)
		}
	}
}

// A labeler that has lost its directory, or the latest of what was in it, knows of an
// erasure from the topic, though the tombstone among the outcomes is not read again.
func TestErasureOutlivesDirectory(t *testing.T) {
	t.Parallel()
	for _, kept := range []bool{true, false} {
		t.Run(fmt.Sprint("directory kept ", kept), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1, 1)
			w.clock.Store(start + 80*day) // erasures are known for 90 days
			cfg := config()
			cfg.StateDir = t.TempDir()
			r := w.start(cfg)
			w.score(score{customer: "ann", asOf: start, bill: 1})
			w.outcome(label{customer: "dan", observed: start + hour, own: []float64{-1, 1}})
			w.await(1)
			w.produce(schemas.TopicOutcomes, kafka.Record{Key: []byte("ann"), Time: at(start + 2*hour)})
			await.Until(t, "the tombstone", func() bool { return len(w.said("ann")) == 1 })
			r.kill()
			if !kept {
				cfg.StateDir = t.TempDir()
			}
			w.start(cfg)
			w.outcome(label{customer: "ann", observed: start + 31*day, churned: true})
			// One from before it, that is redriven, is not labelled.
			w.outcome(label{customer: "ann", observed: start + hour, written: start + hour, own: []float64{-1, 9}})
			w.outcome(label{customer: "dan", observed: start + 70*day, own: []float64{-1, 1}})
			w.score(score{customer: "dan", asOf: start + 71*day})
			s := w.await(4)
			if len(s.examples["ann"]) != 0 || s.sums[kind{reasonErased, false}] != 1 {
				t.Errorf("%v, examples of an erased customer: %+v", s.sums, s.examples["ann"])
			}
		})
	}
}

// Of outcomes of the same time, the later one in the topic counts, once: whether it
// comes by itself, waits with the other one, or overtakes it and all is read again.
func TestCorrectionOfTheSameTime(t *testing.T) {
	t.Parallel()
	own := []float64{-1, 1}
	t.Run("at once", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 1, 1)
		w.start(config())
		l := label{customer: "ann", observed: start, written: start + hour, own: own}
		later := l
		later.churned = true
		w.outcome(l, later, later)
		s := w.await(3)
		if e := s.examples["ann"]; len(e) != 1 || !e[0].Churned || e[0].Corrections != 1 || s.sums[kind{resultDuplicate, true}] != 1 {
			t.Errorf("%v %s", s.sums, dump(w, s.examples))
		}
	})
	for _, attributes := range []bool{false, true} {
		t.Run(fmt.Sprint("waiting, the later one with attributes ", attributes), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1, 1)
			w.clock.Store(start + 100*day)
			cfg := config()
			r := w.start(cfg)
			l := label{customer: "ann", observed: start + 100*day}
			later := l
			later.churned = true
			if attributes {
				later.own = own
			}
			w.outcome(l, later)
			await.Until(t, "both read", func() bool {
				p := w.read().progress[0]
				return len(p.Positions) == 1 && p.Positions[0].Next == 2
			})
			r.kill()
			w.start(cfg)
			w.score(score{customer: "ann", asOf: start + 60*day, written: start + 100*day + 30*second, bill: 7})
			s := w.await(2)
			if e := s.examples["ann"]; len(e) != 1 || !e[0].Churned {
				t.Errorf("%v %s", s.sums, dump(w, s.examples))
			}
		})
	}
}

// An outcome with a time in the future waits no longer than others, nor do others wait
// for it; how long the oldest waits is to be seen meanwhile.
func TestOutcomeFromTheFuture(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	now := start + 100*day
	w.clock.Store(now)
	r := w.start(config())
	w.outcome(label{customer: "future", observed: now, written: now + 10*hour}, label{customer: "ann", observed: now})
	await.Until(t, "both wait", func() bool { return testutil.ToFloat64(r.metrics.waiting.WithLabelValues("0")) == 2 })
	await.Until(t, "the wait is to be seen", func() bool { return testutil.ToFloat64(r.metrics.wait.WithLabelValues("0")) > 0 })
	w.clock.Store(now + 3*minute)
	s := w.await(2)
	if s.sums[kind{reasonNoScore, false}] != 2 {
		t.Errorf("sums %v", s.sums)
	}
	await.Until(t, "none waits", func() bool { return testutil.ToFloat64(r.metrics.wait.WithLabelValues("0")) == 0 })
}

// Where batches may be small, more of them are written; what does not fit into one at
// all is a reason to refuse the partition, not to end.
func TestSmallBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	var all []label
	for i := range 400 {
		all = append(all, label{customer: fmt.Sprint("c", i), observed: start, churned: i%2 == 0, own: []float64{-1, 1}})
	}
	w.outcome(all...)
	w.batchBytes = 8 << 10
	r := w.start(config())
	if s := w.await(400); len(s.examples) != 400 {
		t.Errorf("%d customers have examples", len(s.examples))
	}
	r.stop()
	w.batchBytes = 100
	w.outcome(label{customer: "ann", observed: start, own: []float64{-1, 1}})
	r = w.start(config())
	r.notReady("max.message.bytes")
}

// A feed of a pass that failed is not given to another one, and fails once.
func TestFeedFailsOnce(t *testing.T) {
	f := &feed{broken: make(chan struct{})}
	if f.failed() {
		t.Error("it has not failed")
	}
	f.fail()
	f.fail()
	if !f.failed() {
		t.Error("it has failed")
	}
}
