package labeler

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// happening is a record of a history.
type happening struct {
	score   *score
	outcome *label
}

func (h happening) written() int64 {
	if h.score != nil {
		return h.score.written
	}
	return h.outcome.written
}

// history is what happens to customers: those who stay are scored every day, those
// who leave are silent for weeks before. Labels come 30 days late.
func history(rng *rand.Rand, customers int) (all []happening, churned, stayed int64) {
	const days, late = 130, 30
	moment := func(from int64) int64 { return from + rng.Int64N(day-hour) }
	for i := range customers {
		id := fmt.Sprint("customer-", i)
		leaves := int64(0) // day
		if rng.IntN(3) == 0 {
			leaves = 60 + rng.Int64N(30)
		}
		offset := int64(i) * 1000
		for d := int64(0); d < days; d++ {
			switch {
			case leaves != 0 && d > 5 && rng.IntN(20) > 0: // silent
				continue
			case leaves != 0 && d >= leaves-32:
				continue
			}
			for range 1 + rng.IntN(3) {
				asOf := moment(start + d*day)
				offset++
				all = append(all, happening{score: &score{
					customer: id, asOf: asOf, written: asOf + rng.Int64N(minute), offset: offset, probability: rng.Float64(), bill: float64(d),
				}})
			}
		}
		observe := func(d int64, left bool) {
			observed := moment(start + d*day)
			all = append(all, happening{outcome: &label{customer: id, observed: observed, written: observed + late*day + rng.Int64N(day/2), churned: left}})
			if left {
				churned++
			} else {
				stayed++
			}
		}
		if leaves != 0 {
			observe(leaves, true)
			continue
		}
		observe(60, false)
		observe(90, false)
	}
	slices.SortStableFunc(all, func(a, b happening) int { return cmp.Compare(a.written(), b.written()) })
	return all, churned, stayed
}

// joined is what is to come of an outcome, from all the scores there ever were: of
// the first and the last of each interval.
func joined(all []happening, o *label, horizon, interval int64) *score {
	first, last := map[int64]*score{}, map[int64]*score{} // by interval
	for _, h := range all {
		s := h.score
		if s == nil || s.customer != o.customer || s.written > o.written {
			continue
		}
		k, _ := intervalOf(s.asOf, interval)
		if first[k] == nil || s.asOf < first[k].asOf {
			first[k] = s
		}
		if last[k] == nil || s.asOf > last[k].asOf {
			last[k] = s
		}
	}
	var best *score
	for _, kept := range []map[int64]*score{first, last} {
		for _, s := range kept {
			if s.asOf <= o.observed-horizon && (best == nil || s.asOf > best.asOf) {
				best = s
			}
		}
	}
	return best
}

// compacted returns a world as this one is when the cleaner has been at the scores:
// of those older than a lag the last of each customer is left.
func (w *world) compacted(lag int64) *world {
	w.t.Helper()
	after := newWorldOf(w.t, w.registry, w.inputs, w.examples)
	after.clock.Store(w.clock.Load())
	copyOf := func(topic string, change func(r kafka.Record, partition int) *kafka.Record) {
		spans, err := w.cluster.Spans(w.t.Context(), topic)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, span := range spans {
			var records []kafka.Record
			err := w.cluster.Read(w.t.Context(), span, func(all []kafka.Record, _ int64) error {
				for i := range all {
					records = append(records, all[i].Clone())
				}
				return nil
			})
			if err != nil {
				w.t.Fatal(err)
			}
			last := map[string]int64{}
			for _, r := range records {
				if r.Time.UnixMilli() < w.clock.Load()-lag {
					last[string(r.Key)] = r.Offset
				}
			}
			var left []kafka.Record
			for _, r := range records {
				if topic == schemas.TopicScores && r.Offset < last[string(r.Key)] {
					continue
				}
				if change != nil {
					if c := change(r, span.Partition); c != nil {
						left = append(left, *c)
					}
					continue
				}
				left = append(left, r)
			}
			if err := after.producer.ProduceTo(w.t.Context(), topic, span.Partition, left); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	copyOf(schemas.TopicScores, nil)
	copyOf(schemas.TopicOutcomes, nil)
	id := func(topic string) string {
		id, err := after.cluster.TopicID(w.t.Context(), topic)
		if err != nil {
			w.t.Fatal(err)
		}
		return id.String()
	}
	examples, outcomes := id(schemas.TopicExamples), id(schemas.TopicOutcomes)
	copyOf(schemas.TopicExamples, func(r kafka.Record, _ int) *kafka.Record {
		if said := r.Header(schemas.HeaderProgress); said != nil { // the same topic still
			var p schemas.LabelerProgress
			if err := w.codec.DecodeLabelerProgress(w.t.Context(), said, &p); err != nil {
				w.t.Fatal(err)
			}
			p.ExamplesTopicID, p.OutcomesTopicID, p.Writers = examples, outcomes, nil
			r.Headers = []kafka.Header{{Key: schemas.HeaderProgress, Value: w.codec.AppendLabelerProgress(nil, &p)}}
		}
		return &r
	})
	return after
}

// Silent leavers and stayers who are scored every day, labels 30 days late, labelers
// that are killed at any moment, with and without their directory, and compaction in
// between: every outcome becomes an example, and the one that an undisturbed look at
// all scores gives.
func TestFair(t *testing.T) {
	t.Parallel()
	for range worlds() {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 0))
			all, churned, stayed := history(rng, 25)
			w := newWorld(t, 3, 2)
			if rng.IntN(2) == 0 {
				w.place = func(_ string, key []byte, n int) int { return (len(key) + int(key[len(key)-1])) % n }
			}
			cfg := config()
			cfg.LabelDelay = 31 * 24 * time.Hour
			lag := (cfg.Horizon + cfg.LabelDelay + 24*time.Hour).Milliseconds()
			cfg.StateDir = t.TempDir()
			w.clock.Store(start)
			r := w.start(cfg)
			done, outcomes := 0, int64(0)
			for done < len(all) {
				n := min(len(all)-done, 1+rng.IntN(400))
				for _, h := range all[done : done+n] {
					w.clock.Store(h.written())
					if h.score != nil {
						w.score(*h.score)
					} else {
						outcomes++
						w.outcome(*h.outcome)
					}
				}
				done += n
				switch rng.IntN(4) {
				case 0:
					w.await(outcomes)
				case 1:
					r.kill()
					r = w.start(cfg)
				case 2:
					r.kill()
					cfg.StateDir = t.TempDir()
					r = w.start(cfg)
				case 3:
					// What the cleaner takes has been read: labelers are no more behind
					// than the lag allows.
					w.await(outcomes)
					r.kill()
					place := w.place
					w = w.compacted(lag)
					w.place = place
					cfg.StateDir = t.TempDir()
					r = w.start(cfg)
				}
			}
			s := w.await(outcomes)
			if got := s.sums[kind{resultExample, true}]; got != churned {
				t.Errorf("%d of %d outcomes of leavers are examples: %v", got, churned, s.sums)
			}
			if got := s.sums[kind{resultExample, false}]; got != stayed {
				t.Errorf("%d of %d outcomes of stayers are examples: %v", got, stayed, s.sums)
			}
			found := 0
			for _, h := range all {
				if h.outcome == nil {
					continue
				}
				for _, e := range s.examples[h.outcome.customer] {
					if e.ObservedAt != h.outcome.observed {
						continue
					}
					found++
					want := joined(all, h.outcome, cfg.Horizon.Milliseconds(), day)
					if e.AsOf != want.asOf || e.Probability != want.probability || e.Churned != h.outcome.churned || e.Attributes[1] != want.bill {
						t.Errorf("%s observed %s has the score of %s, not %s", h.outcome.customer, when(e.ObservedAt), when(e.AsOf), when(want.asOf))
					}
				}
			}
			if found != int(outcomes) {
				t.Errorf("%d examples of %d outcomes", found, outcomes)
			}
		})
	}
}
