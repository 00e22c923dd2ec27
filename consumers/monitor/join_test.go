package monitor

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// ledger writes down what a join comes to.
type ledger struct {
	lines []string
	open  int
}

func (l *ledger) add(format string, args ...any) {
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *ledger) joined(o *outcome, s score) {
	l.add("%s@%d churned=%t joined v%d %g", o.customer, o.observedAt, o.churned, s.version, s.probability)
}
func (l *ledger) unmatched(o *outcome, reason string) {
	l.add("%s@%d unmatched %s", o.customer, o.observedAt, reason)
}
func (l *ledger) historical(o *outcome) { l.add("%s@%d historical", o.customer, o.observedAt) }
func (l *ledger) duplicate(o *outcome)  { l.add("%s@%d duplicate", o.customer, o.observedAt) }
func (l *ledger) waiting(delta int)     { l.open += delta }

func TestJoin(t *testing.T) {
	const grace = 100
	type step = func(j *join)
	scored := func(occurred, written, version int64, p float64) step {
		return func(j *join) {
			j.expire(written)
			j.score([]byte("a"), score{asOf: occurred, writtenAt: written, version: version, probability: p})
		}
	}
	observe := func(o outcome) step {
		return func(j *join) {
			o.customer = "a"
			j.expire(o.writtenAt)
			j.outcome(o, o.writtenAt+grace)
		}
	}
	left := func(observed, written int64) step {
		return observe(outcome{observedAt: observed, writtenAt: written, churned: true})
	}
	// One that was written long before it is read.
	redriven := func(observed, written, read int64) step {
		return func(j *join) {
			j.expire(read)
			j.outcome(outcome{customer: "a", observedAt: observed, writtenAt: written, churned: true}, written+grace)
		}
	}
	erase := func(j *join) { j.erase([]byte("a"), math.MaxInt64) }
	until := func(now int64) step { return func(j *join) { j.expire(now) } }

	for _, c := range []struct {
		name  string
		lead  int64
		steps []step
		want  []string
		open  int
	}{
		{name: "score before the outcome", steps: []step{scored(10, 11, 1, .7), left(20, 21)},
			want: []string{"a@20 churned=true joined v1 0.7"}},
		{name: "the latest before the outcome, not one after it",
			steps: []step{scored(10, 11, 1, .2), scored(15, 16, 1, .3), scored(25, 26, 1, .9), left(20, 30)},
			want:  []string{"a@20 churned=true joined v1 0.3"}},
		{name: "at the very moment", steps: []step{scored(20, 20, 1, .4), left(20, 20)},
			want: []string{"a@20 churned=true joined v1 0.4"}},
		{name: "lead time", lead: 8, steps: []step{scored(10, 11, 1, .2), scored(15, 16, 1, .3), left(20, 21)},
			want: []string{"a@20 churned=true joined v1 0.2"}},
		{name: "lead time leaves none", lead: 11, steps: []step{scored(10, 11, 1, .2), left(20, 21), until(122)},
			want: []string{"a@20 unmatched later_scores"}},
		{name: "late event sorts in before", steps: []step{scored(15, 16, 1, .3), scored(5, 17, 1, .6), left(20, 21)},
			want: []string{"a@20 churned=true joined v1 0.3"}},
		{name: "re-scored by a new model", steps: []step{scored(10, 11, 1, .3), scored(10, 15, 2, .8), left(20, 21)},
			want: []string{"a@20 churned=true joined v2 0.8"}},
		{name: "re-scored after the outcome was written", steps: []step{scored(10, 11, 1, .3), scored(10, 25, 2, .8), left(20, 21)},
			want: []string{"a@20 churned=true joined v1 0.3"}},
		{name: "score after the outcome, within the grace", steps: []step{left(20, 21), scored(19, 30, 1, .7)},
			want: []string{"a@20 churned=true joined v1 0.7"}},
		{name: "the first of two that come late", steps: []step{left(20, 21), scored(18, 30, 1, .7), scored(19, 31, 1, .8)},
			want: []string{"a@20 churned=true joined v1 0.7"}},
		{name: "the first of two that come late but were read before",
			steps: []step{scored(18, 30, 1, .7), scored(19, 31, 1, .8), left(20, 21)},
			want:  []string{"a@20 churned=true joined v1 0.7"}},
		{name: "a late score from after the decision does not count", steps: []step{left(20, 21), scored(22, 30, 1, .7)}, open: 1},
		{name: "score after the grace", steps: []step{left(20, 21), scored(19, 122, 1, .7)},
			want: []string{"a@20 unmatched no_score"}},
		{name: "at the end of the grace", steps: []step{left(20, 21), scored(19, 121, 1, .7)},
			want: []string{"a@20 churned=true joined v1 0.7"}},
		{name: "no score at all", steps: []step{left(20, 21), until(121), until(122)},
			want: []string{"a@20 unmatched no_score"}},
		{name: "same outcome twice", steps: []step{scored(10, 11, 1, .7), left(20, 21), left(20, 40), left(30, 41)},
			want: []string{"a@20 churned=true joined v1 0.7", "a@20 duplicate", "a@30 churned=true joined v1 0.7"}},
		{name: "same outcome twice while waiting", steps: []step{left(20, 21), left(20, 22), scored(19, 30, 1, .7)},
			want: []string{"a@20 duplicate", "a@20 churned=true joined v1 0.7"}},
		{name: "history", steps: []step{observe(outcome{observedAt: 20, writtenAt: 21, own: true}), scored(10, 30, 1, .7)},
			want: []string{"a@20 historical"}},
		{name: "own attributes but a score in force", steps: []step{scored(10, 11, 1, .7), observe(outcome{observedAt: 20, writtenAt: 21, own: true})},
			want: []string{"a@20 churned=false joined v1 0.7"}},
		{name: "erased before", steps: []step{scored(10, 11, 1, .7), erase, left(20, 21), until(200)},
			want: []string{"a@20 unmatched no_score"}},
		{name: "erased while waiting", steps: []step{left(20, 21), erase, scored(10, 30, 1, .7), until(200)},
			want: []string{"a@20 unmatched erased"}},
		{name: "back before the tombstone is read", steps: []step{scored(10, 11, 1, .7), scored(15, 16, 1, .2), func(j *join) { j.erase([]byte("a"), 12) }, left(20, 21)},
			want: []string{"a@20 churned=true joined v1 0.2"}},
		{name: "erased and back", steps: []step{scored(10, 11, 1, .7), erase, scored(15, 16, 1, .2), left(20, 21)},
			want: []string{"a@20 churned=true joined v1 0.2"}},
		{name: "redriven, a better score since", steps: []step{scored(10, 11, 1, .7), scored(15, 150, 1, .2), redriven(20, 21, 200)},
			want: []string{"a@20 churned=true joined v1 0.7"}},
		{name: "redriven, the first score after the grace", steps: []step{left(90, 180), redriven(20, 21, 200), scored(10, 210, 1, .7), until(281)},
			want: []string{"a@90 churned=true joined v1 0.7", "a@20 unmatched later_scores"}},
		{name: "the oldest are dropped", steps: []step{scored(10, 11, 1, .1), scored(20, 21, 1, .2), scored(30, 31, 1, .3),
			scored(40, 41, 1, .4), scored(50, 51, 1, .5), left(25, 60), left(15, 60), until(161)},
			want: []string{"a@25 churned=true joined v1 0.2", "a@15 unmatched forgotten"}},
		{name: "a late event older than all kept", steps: []step{scored(20, 21, 1, .2), scored(30, 31, 1, .3),
			scored(40, 41, 1, .4), scored(50, 51, 1, .5), scored(10, 52, 1, .1), left(15, 60), left(25, 60), until(161)},
			want: []string{"a@25 churned=true joined v1 0.2", "a@15 unmatched forgotten"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l ledger
			j := newJoin(4, c.lead, newCustomers(), &l)
			for _, s := range c.steps {
				s(j)
			}
			if !slices.Equal(l.lines, c.want) || l.open != c.open {
				t.Errorf("got\n  %s\n  %d waiting\nwant\n  %s\n  %d waiting",
					strings.Join(l.lines, "\n  "), l.open, strings.Join(c.want, "\n  "), c.open)
			}
		})
	}
}

func TestScoreWrittenAgain(t *testing.T) {
	j := newJoin(8, 0, newCustomers(), &ledger{})
	s := score{asOf: 10, writtenAt: 11, version: 1, probability: .5}
	if !j.score([]byte("a"), s) {
		t.Error("a new score was taken for an old one")
	}
	// What was written again may be read before what was written first.
	s.writtenAt = 5
	j.score([]byte("a"), s)
	if got := j.byID["a"].scores[0].writtenAt; got != 5 {
		t.Errorf("written at %d, want the first time", got)
	}
	again := s
	again.writtenAt = 20
	if j.score([]byte("a"), again) {
		t.Error("a score written again was taken for a new one")
	}
	if !j.score([]byte("b"), s) {
		t.Error("another customer's score was taken for the same")
	}
	s.version = 2
	if !j.score([]byte("a"), s) {
		t.Error("another model's score was taken for the same")
	}
}

// TestJoinAgainstDefinition compares the join with its definition, evaluated
// over all records at once.
func TestJoinAgainstDefinition(t *testing.T) {
	const grace, lead = 30, 5
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var scores []score
		var want, got []string
		l := &ledger{}
		j := newJoin(1000, lead, newCustomers(), l)
		type written struct {
			at int64
			s  *score
			o  *outcome
		}
		var log []written
		for i := range 60 {
			at := int64(10 * i) // times of records differ, so their order is defined
			if r.IntN(3) > 0 {
				s := score{asOf: at - r.Int64N(40), writtenAt: at, version: int64(i), probability: .5}
				scores = append(scores, s)
				log = append(log, written{at, &s, nil})
			} else {
				log = append(log, written{at, nil, &outcome{customer: "a", observedAt: at - r.Int64N(60) + int64(i%10), writtenAt: at}})
			}
		}
		seen := map[int64]bool{}
		for _, w := range log {
			if w.o == nil || seen[w.o.observedAt] {
				continue
			}
			seen[w.o.observedAt] = true
			var best *score
			for k := range scores {
				s := &scores[k]
				if s.asOf <= w.o.observedAt-lead && s.writtenAt <= w.at && (best == nil || s.asOf >= best.asOf) {
					best = s
				}
			}
			for k := 0; best == nil && k < len(scores); k++ {
				if s := &scores[k]; s.asOf <= w.o.observedAt-lead && s.writtenAt > w.at && s.writtenAt <= w.at+grace {
					best = s
				}
			}
			if best != nil {
				want = append(want, fmt.Sprintf("a@%d churned=false joined v%d 0.5", w.o.observedAt, best.version))
			}
		}
		for _, w := range log {
			j.expire(w.at)
			if w.s != nil {
				j.score([]byte("a"), *w.s)
			} else {
				j.outcome(*w.o, w.at+grace)
			}
		}
		j.expire(1 << 40)
		for _, line := range l.lines {
			if strings.Contains(line, "joined") {
				got = append(got, line)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if l.open != 0 {
			t.Fatalf("seed %d: %d still wait", seed, l.open)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	l := &ledger{}
	j := newJoin(8, 0, newCustomers(), l)
	for i := range maxPending + 10 {
		j.outcome(outcome{customer: fmt.Sprint(i), observedAt: 1, writtenAt: 1}, 1000)
	}
	if l.open != maxPending || len(j.byID) != maxPending {
		t.Errorf("%d outcomes of %d customers wait, want %d", l.open, len(j.byID), maxPending)
	}
	if len(l.lines) != 10 || !strings.HasSuffix(l.lines[0], "unmatched "+reasonTooMany) {
		t.Errorf("got %q", l.lines)
	}
	if n := len(j.seen.set); n != rememberedOutcomes {
		t.Errorf("%d outcomes are remembered, want %d", n, rememberedOutcomes)
	}
	j.expire(1001)
	if len(j.byID) != 0 || l.open != 0 {
		t.Errorf("%d customers are left, %d outcomes wait", len(j.byID), l.open)
	}
}

func TestRecentForgetsTheOldest(t *testing.T) {
	r := newJoin(1, 0, newCustomers(), &ledger{}).seen
	r.limit = 3
	for i, c := range []struct {
		customer string
		at       int64
		added    bool
	}{
		{"a", 1, true}, {"a", 2, true}, {"b", 1, true},
		{"a", 1, false}, {"b", 1, false},
		{"b", 2, true}, // a@1 is forgotten
		{"a", 2, false}, {"a", 1, true}, {"a", 2, true}, {"b", 2, false},
	} {
		if got := r.add(c.customer, c.at); got != c.added {
			t.Errorf("step %d, %s@%d: added is %t", i, c.customer, c.at, got)
		}
	}
}

func BenchmarkJoinScore(b *testing.B) {
	j := newJoin(8, 0, newCustomers(), &ledger{})
	ids := make([][]byte, 100_000)
	for i := range ids {
		ids[i] = fmt.Appendf(nil, "customer-%06d", i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		j.score(ids[i%len(ids)], score{asOf: int64(i), writtenAt: int64(i), version: 1, probability: .3})
	}
}
