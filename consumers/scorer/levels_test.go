package scorer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// manyLevels has a history bring levels of more kinds.
func manyLevels(rng *rand.Rand, ops []op) {
	for i := range ops {
		for k, change := range ops[i].set {
			if strings.HasPrefix(change, "text=") {
				ops[i].set[k] = fmt.Sprint("text=level ", rng.IntN(9))
			}
		}
	}
}

// Which events are refused for a level too many depends on what is in their
// partition, and not on batches, stops, snapshots, processes or what those have
// seen of other partitions.
func TestLevelsDependOnThePartitionAlone(t *testing.T) {
	t.Parallel()
	th := newTheatre(t)
	for _, s := range th.processes {
		s.maxLevels = 3
	}
	refused := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 21))
		ops := randomHistory(rng)
		manyLevels(rng, ops)
		partitions := 1 + rng.IntN(3)
		want := th.play(t, ops, arrangement{partitions: partitions, batch: 1})
		refused += len(want.letters)
		for range 4 {
			a := randomArrangement(rng)
			a.partitions = partitions
			if diff := th.diff(t, th.play(t, ops, a), want); diff != "" {
				t.Fatalf("seed %d, arrangement %s: %s", seed, a, diff)
			}
		}
	}
	if refused < 60 {
		t.Errorf("%d events were refused, too few to tell", refused)
	}
}

// 21,000 customers with a level each, in three partitions, all of which one
// process comes to have: it restores them, from snapshots and from the topic,
// and goes on.
func TestPartitionsTogetherHaveMoreLevelsThanOne(t *testing.T) {
	t.Parallel()
	th := newTheatre(t)
	const n = 21_000
	history := make([]op, n, n+1)
	for i := range history {
		history[i] = op{kind: "event", customer: fmt.Sprint("customer ", i), id: "e", at: int64(i), set: []string{fmt.Sprint("text=level ", i), "double=1"}}
	}
	// The customer is known, so that its level is only one in place of another.
	history = append(history, op{kind: "event", customer: "customer 7", id: "f", at: n, set: []string{"text=another"}})
	want := th.play(t, history, arrangement{partitions: 3, batch: 1000})
	if len(want.letters) > 0 || len(want.final) != n {
		t.Fatalf("%d dead letters, %d customers", len(want.letters), len(want.final))
	}
	for _, a := range []arrangement{
		{partitions: 3, batch: 1000, stops: 50, seed: 1},
		{partitions: 3, batch: 1000, stops: 50, snapshots: true, seed: 2},
		{partitions: 3, batch: 1000, stops: 50, keep: true, seed: 3},
	} {
		if diff := th.diff(t, th.play(t, history, a), want); diff != "" {
			t.Errorf("arrangement %s: %s", a, diff)
		}
	}
	// The other's is the one that events are written with.
	if n := th.processes[1].cfg.Codec.Set().Vocabulary().Size(0); n > 100 {
		t.Errorf("the vocabulary has learnt %d levels", n)
	}
}

// Events that are refused, whyever, do not use up levels.
func TestRefusedEventsBringNoLevels(t *testing.T) {
	t.Parallel()
	th := newTheatre(t)
	scorer := th.processes[1]
	scorer.cfg.Models.(*fixedModels).set(th.model(t, 1, 1))
	w := scorer.offline()
	w.append = func(context.Context, []kafka.Record) error { return nil }
	th.stage = &stage{letters: map[int]bool{}, opOf: make([]int, 3*scoring.MaxLevels)}
	offset := int64(0)
	send := func(customer, key, level string) {
		t.Helper()
		e := th.codec.NewEvent()
		e.CustomerID, e.EventID, e.OccurredAt, e.Source = []byte(customer), fmt.Append(nil, "e", offset), start+offset, []byte("test")
		e.Changes[0] = e.Levels.Add(level)
		r := kafka.Record{Topic: schemas.TopicEvents, Offset: offset, Key: []byte(key), Value: th.codec.AppendEvent(nil, e)}
		offset++
		if err := w.batch(t.Context(), t.Context(), []kafka.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	text := func(customer string) string {
		t.Helper()
		record := w.state.customers.Get([]byte(customer))
		if record == nil {
			return ""
		}
		var s schemas.ChurnScore
		w.state.customers.Unpack(record, &s)
		return scorer.cfg.Codec.Set().Text(0, s.Attributes[0], s.Levels)
	}
	for i := range scoring.MaxLevels + 10 {
		send("anna", "somebody else", fmt.Sprint("refused ", i))
	}
	send("anna", "anna", "honest")
	if got := text("anna"); got != "honest" {
		t.Errorf("after %d refused events an honest one made %q", scoring.MaxLevels+10, got)
	}

	scorer.maxLevels = 2
	w.begin(w.state)
	w.model = nil
	w.use(scorer.cfg.Models.Champion())
	send("bert", "bert", "second")
	send("cleo", "cleo", "third")
	if got := w.state.customers.Levels(0); text("cleo") != "" || got != 2 {
		t.Errorf("cleo has %q, %d levels", text("cleo"), got)
	}
	send("anna", "anna", "third") // for which honest goes
	if got := text("anna"); got != "third" {
		t.Errorf("anna has %q", got)
	}
	send("cleo", "cleo", "third")
	if got := text("cleo"); got != "third" {
		t.Errorf("cleo has %q", got)
	}
	if letter := w.tooManyLevels(0); letter.Reason != schemas.ReasonTooManyLevels || !strings.Contains(letter.Detail, "text would have more than 2 different levels") {
		t.Errorf("a dead letter says %+v", letter)
	}
}
