package trainer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// attributes is a customer record of another company: two levels and a number.
const attributes = `{"type":"record","name":"CustomerAttributes","fields":[
	{"name":"plan","type":["null","string"],"default":null},
	{"name":"region","type":["null","string"],"default":null},
	{"name":"bill","type":["null","double"],"default":null}]}`

// world is a cluster with all topics, and what writes to them.
type world struct {
	t       *testing.T
	ctx     context.Context
	cluster *kafka.Cluster
	codec   *schemas.Codec
	out     *kafka.Producer
	feed    *models.Feed
	random  *rand.Rand
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	reg, err := embedded.StartRegistry(embedded.RegistryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reg.Close)
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	client, err := registry.New(registry.Config{URL: reg.URL()})
	if err != nil {
		t.Fatal(err)
	}
	set, err := schemas.Parse([]byte(attributes))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ctx: ctx, cluster: cluster, codec: schemas.NewCodec(set, client), random: rand.New(rand.NewPCG(6, 6))}
	if err := w.codec.Register(ctx); err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{schemas.TopicOutcomes, schemas.TopicScores, schemas.TopicDeadLetters, schemas.TopicModels} {
		partitions := 3
		if topic == schemas.TopicModels {
			partitions = 1
		}
		if err := cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: topic, Partitions: partitions}); err != nil {
			t.Fatal(err)
		}
	}
	w.out = cluster.NewProducer(kafka.ProducerConfig{})
	w.feed = models.NewFeed(models.FeedConfig{Cluster: cluster, Codec: w.codec})
	w.start(w.feed.Run)
	return w
}

// start runs something until the test ends or stop is called, which waits for
// its end.
func (w *world) start(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	w.t.Cleanup(stop)
	return stop
}

// dependencies are those of a trainer.
func (w *world) dependencies() role.Dependencies {
	return role.Dependencies{Cluster: w.cluster, Codec: w.codec, Models: w.feed}
}

// trainer starts a trainer and waits until it has read what there is.
func (w *world) trainer(cfg Config) (*Trainer, func()) {
	w.t.Helper()
	cfg.Cluster, cfg.Codec, cfg.Models = w.cluster, w.codec, w.feed
	if cfg.Settle == 0 {
		cfg.Settle = 100 * time.Millisecond
	}
	tr, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	stop := w.start(tr.Run)
	select {
	case <-tr.Ready():
	case <-w.ctx.Done():
		w.t.Fatal("the trainer does not become ready")
	}
	return tr, stop
}

// customer draws attributes and whether the customer leaves.
func (w *world) customer() (scoring.Vector, bool) {
	vocabulary := w.codec.Set().Vocabulary()
	x := scoring.NewVector(3)
	plan := w.random.IntN(3)
	for j, level := range []string{[]string{"basic", "plus", "pro"}[plan], []string{"north", "south"}[w.random.IntN(2)]} {
		code, err := vocabulary.CodeString(j, level)
		if err != nil {
			w.t.Fatal(err)
		}
		x[j] = code
	}
	x[2] = 20 + 80*w.random.Float64()
	eta := -2 - float64(plan) + x[2]/25
	return x, w.random.Float64() < 1/(1+math.Exp(-eta))
}

func (w *world) outcome(id string, at int64, churned bool, x scoring.Vector) kafka.Record {
	return kafka.Record{Key: []byte(id), Value: w.codec.AppendOutcome(nil, &schemas.ChurnOutcome{
		CustomerID: id, Churned: churned, ObservedAt: at, Attributes: x, Source: "test",
	})}
}

func (w *world) score(id string, at int64, x scoring.Vector, ages []int64) kafka.Record {
	return kafka.Record{Key: []byte(id), Value: w.codec.AppendScore(nil, &schemas.ChurnScore{
		CustomerID: []byte(id), EventID: []byte("00000000-0000-0000-0000-000000000001"),
		OccurredAt: at, ScoredAt: at, ModelVersion: 1, Probability: 0.5, Previous: scoring.Missing,
		ExpectedProbability: 0.5, Attributes: x, AttributeAges: ages,
	})}
}

func (w *world) scoreAsOf(id string, at, asOf int64, x scoring.Vector) kafka.Record {
	return kafka.Record{Key: []byte(id), Value: w.codec.AppendScore(nil, &schemas.ChurnScore{
		CustomerID: []byte(id), EventID: []byte("00000000-0000-0000-0000-000000000002"),
		OccurredAt: at, AsOf: asOf, ScoredAt: at, ModelVersion: 1, Probability: 0.5, Previous: scoring.Missing,
		ExpectedProbability: 0.5, Attributes: x,
	})}
}

func (w *world) produce(topic string, records ...kafka.Record) {
	w.t.Helper()
	if err := w.out.Produce(w.ctx, topic, records...); err != nil {
		w.t.Fatal(err)
	}
}

// load publishes n labelled customers, numbered from first.
func (w *world) load(first, n int) {
	w.t.Helper()
	var records []kafka.Record
	for i := range n {
		x, churned := w.customer()
		records = append(records, w.outcome(fmt.Sprintf("customer-%d", first+i), int64(1000+first+i), churned, x))
	}
	w.produce(schemas.TopicOutcomes, records...)
}

// version waits for a model version.
func (w *world) version(number int64) *models.Version {
	w.t.Helper()
	for {
		changed := w.feed.Changed()
		if v := w.feed.Get(number); v != nil {
			return v
		}
		select {
		case <-changed:
		case <-w.ctx.Done():
			w.t.Fatalf("version %d does not come", number)
		}
	}
}

// until waits for a condition that nothing announces.
func (w *world) until(what string, condition func() bool) {
	w.t.Helper()
	await.Until(w.t, what, condition)
}

func (tr *Trainer) counts() (labels int64, examples, pending int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.labels(), tr.data.Len(), tr.join.pending
}

func TestTrainerLearnsPublishesAndGoesOn(t *testing.T) {
	w := newWorld(t)
	registry := prometheus.NewPedanticRegistry()
	tr, stop := w.trainer(Config{Dependencies: role.Dependencies{Registerer: registry}, MinLabels: 300, MinNewLabels: 400, MinInterval: time.Millisecond})
	if err := tr.Retrain(w.ctx, ""); !errors.Is(err, fitting.ErrTooFewLabels) {
		t.Errorf("training without labels: %v", err)
	}

	// The first model uses the whole load, though fewer labels would do.
	w.load(0, 350)
	w.load(350, 350)
	first := w.version(1)
	if first.Stage != schemas.StageChampion || first.LabelsSeen != 700 || first.TrainingRows != 525 || first.Metrics.Rows != 175 ||
		first.ChampionMetrics != nil || first.TrainingStart != 1000 || first.TrainingEnd != 1524 {
		t.Errorf("version 1: %v, %d labels, %d rows, from %d to %d, metrics %+v, %+v", first.Stage, first.LabelsSeen, first.TrainingRows,
			first.TrainingStart, first.TrainingEnd, first.Metrics, first.ChampionMetrics)
	}
	if v := w.feed.Champion(); v == nil || v.Version != 1 {
		t.Error("version 1 is not the champion")
	}
	if first.MediumThreshold != scoring.DefaultMediumThreshold || len(first.Baseline) != 4 {
		t.Errorf("threshold %v, %d baselines", first.MediumThreshold, len(first.Baseline))
	}

	// A record that comes twice counts once; one that cannot be read becomes a
	// dead letter.
	w.load(700, 399)
	x, _ := w.customer()
	w.produce(schemas.TopicOutcomes,
		w.outcome("customer-3", 1003, true, x),
		kafka.Record{Key: []byte("customer-4"), Value: w.outcome("customer-5", 1, true, x).Value},
		kafka.Record{Key: []byte("junk"), Value: []byte("junk"), Headers: []kafka.Header{{Key: "from", Value: []byte("crm")}}})
	w.until("1,099 labels and 2 dead letters", func() bool {
		labels, _, _ := tr.counts()
		return labels == 1099 && len(w.deadLetters()) == 2
	})
	for _, d := range w.deadLetters() {
		if d.FailedBy != "trainer" || d.Topic != schemas.TopicOutcomes || len(d.Value) == 0 {
			t.Errorf("dead letter %+v", d)
		}
	}
	if len(w.feed.List()) != 1 {
		t.Error("it trained with 399 new labels")
	}

	// A request does not wait for the count.
	if err := tr.Retrain(w.ctx, "an alert"); err != nil {
		t.Fatal(err)
	}
	second := w.version(2)
	if second.LabelsSeen != 1099 || second.ChampionMetrics == nil || !strings.Contains(second.Reason, "an alert") {
		t.Errorf("version 2: %d labels, champion %+v, %s", second.LabelsSeen, second.ChampionMetrics, second.Reason)
	}
	w.until("no new labels", func() bool { return errors.Is(tr.Retrain(w.ctx, ""), ErrNoNewLabels) })

	// The metrics say so too.
	w.until("2 trainings in the metrics", func() bool {
		return testutil.ToFloat64(tr.metrics.trainings.WithLabelValues("champion"))+
			testutil.ToFloat64(tr.metrics.trainings.WithLabelValues("challenger")) == 2
	})
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if got := testutil.ToFloat64(tr.metrics.examples); got != 1099 {
		t.Errorf("%v examples in the metrics", got)
	}

	// After a restart it knows what it knew, and trains on nothing twice.
	stop()
	again, _ := w.trainer(Config{MinLabels: 300, MinNewLabels: 400, MinInterval: time.Millisecond})
	if labels, examples, _ := again.counts(); labels != 1099 || examples != 1099 {
		t.Errorf("%d labels, %d examples after the restart", labels, examples)
	}
	if err := again.Retrain(w.ctx, ""); !errors.Is(err, ErrNoNewLabels) {
		t.Errorf("training after the restart: %v", err)
	}
	if n := len(w.deadLetters()); n != 2 {
		t.Errorf("%d dead letters after the restart", n)
	}
	w.load(1099, 400)
	if v := w.version(3); v.LabelsSeen != 1499 {
		t.Errorf("version 3 has seen %d labels", v.LabelsSeen)
	}
	if len(w.feed.List()) != 3 {
		t.Errorf("%d versions", len(w.feed.List()))
	}
}

// deadLetters returns all dead letters.
func (w *world) deadLetters() []schemas.DeadLetter {
	w.t.Helper()
	partitions, err := w.cluster.Partitions(w.ctx, schemas.TopicDeadLetters)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []schemas.DeadLetter
	for p := range partitions {
		_, end, err := w.cluster.Offsets(w.ctx, schemas.TopicDeadLetters, p)
		if err != nil {
			w.t.Fatal(err)
		}
		f := w.cluster.NewFetcher(kafka.FetcherConfig{Topic: schemas.TopicDeadLetters, Partition: p})
		for f.Offset() < end {
			records, err := f.Fetch(w.ctx)
			if err != nil {
				w.t.Fatal(err)
			}
			for _, r := range records {
				var d schemas.DeadLetter
				if err := w.codec.DecodeDeadLetter(w.ctx, r.Value, &d); err != nil {
					w.t.Fatal(err)
				}
				out = append(out, d)
			}
		}
	}
	return out
}

// Outcomes and scores that stand in the topics with numbers that no statistic
// survives, as Java's Double.MAX_VALUE for what is not known, stop no training,
// now or after a restart.
func TestNumbersBeyondTheBoundStopNoTraining(t *testing.T) {
	w := newWorld(t)
	var bad []kafka.Record
	for i := range 8 {
		x, churned := w.customer()
		x[2] = math.MaxFloat64
		id := fmt.Sprintf("unknown-%d", i)
		bad = append(bad, w.outcome(id, int64(1000+i), churned, x))
		// The same customer by way of a score that a former version wrote.
		scored := fmt.Sprintf("scored-%d", i)
		w.produce(schemas.TopicScores, w.score(scored, 500, x, nil))
		w.produce(schemas.TopicOutcomes, w.outcome(scored, 2000, churned, nil))
	}
	// One whose time stands for none would be among the newest for ever.
	x, _ := w.customer()
	never := time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	bad = append(bad, w.outcome("never", never.UnixMilli(), true, x))
	w.produce(schemas.TopicOutcomes, bad...)
	w.load(0, 400)
	cfg := Config{MinLabels: 300, MinNewLabels: 300, MinInterval: time.Millisecond}
	tr, stop := w.trainer(cfg)
	if v := w.version(1); v.LabelsSeen != 408 {
		t.Errorf("version 1 has seen %d labels, want 408", v.LabelsSeen)
	}
	letters := w.deadLetters()
	slices.SortFunc(letters, func(a, b schemas.DeadLetter) int { return cmp.Compare(b.Reason, a.Reason) })
	if len(letters) != 9 || letters[8].Reason != schemas.ReasonAheadOfClock || letters[0].Reason != schemas.ReasonInvalidValue || !strings.Contains(letters[0].Detail, "attributes: bill") {
		t.Errorf("%d dead letters, %+v", len(letters), letters)
	}
	w.until("a training that did not fail", func() bool {
		return testutil.ToFloat64(tr.metrics.trainings.WithLabelValues("champion")) == 1 && testutil.ToFloat64(tr.metrics.failing) == 0
	})
	stop()
	w.load(400, 300)
	w.trainer(cfg)
	w.version(2)
	if n := len(w.deadLetters()); n != 9 {
		t.Errorf("%d dead letters after the restart", n)
	}
}

// A training that fails is seen until one succeeds, and the next labels make it
// be tried again.
func TestTrainingThatFails(t *testing.T) {
	w := newWorld(t)
	tr, _ := w.trainer(Config{MinLabels: 300, MinNewLabels: 300, MinInterval: time.Millisecond})
	x, _ := w.customer()
	x[2] = math.MaxFloat64
	far := fitting.Example{Customer: 2, ObservedAt: 1, Attributes: x}
	tr.mu.Lock()
	tr.data.Add(far) // as no reader of a topic would
	tr.mu.Unlock()
	w.load(0, 300)
	failed := tr.metrics.trainings.WithLabelValues("failed")
	w.until("a failed training", func() bool { return testutil.ToFloat64(failed) == 1 && testutil.ToFloat64(tr.metrics.failing) == 1 })
	tr.mu.Lock()
	tr.data.Forget(far.Customer, far.ObservedAt)
	tr.mu.Unlock()
	w.load(300, 300)
	w.version(1)
	w.until("no failure any more", func() bool { return testutil.ToFloat64(tr.metrics.failing) == 0 })
}

func TestTrainerJoinsOutcomesWithScores(t *testing.T) {
	w := newWorld(t)
	x := func(bill float64) scoring.Vector { return scoring.Vector{scoring.Missing, scoring.Missing, bill} }
	// Long histories, written before and after the outcomes.
	for i := range 20 {
		w.produce(schemas.TopicScores, w.score("anna", int64(100+i), x(float64(i)), nil))
	}
	w.produce(schemas.TopicScores, kafka.Record{Key: []byte("\x00fence")}, kafka.Record{Key: []byte("anna"), Value: []byte("junk")})
	w.produce(schemas.TopicOutcomes, w.outcome("anna", 105, true, nil))
	// A late event's score: its attributes were set after it.
	w.produce(schemas.TopicScores,
		w.score("bert", 100, x(1), nil),
		w.score("bert", 90, x(2), []int64{0, 0, -30}),
		// One of a late event that set nothing, and says what it speaks of.
		w.scoreAsOf("bert", 105, 130, x(3)))
	w.produce(schemas.TopicOutcomes, w.outcome("bert", 110, true, nil))

	tr, _ := w.trainer(Config{Grace: time.Hour})
	bill := func(customer string, at int64) float64 {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		v, _, ok := held(tr.data, fitting.CustomerHash([]byte(customer)), at)
		if !ok {
			return -1
		}
		return v
	}
	if got := bill("anna", 105); got != 5 {
		t.Errorf("anna's outcome was joined with score %v, want 5", got)
	}
	if got := bill("bert", 110); got != 1 {
		t.Errorf("bert's outcome was joined with score %v, want 1", got)
	}
	// Live, in either order.
	w.produce(schemas.TopicOutcomes, w.outcome("carl", 200, false, nil))
	w.until("carl's outcome waits", func() bool { _, _, pending := tr.counts(); return pending == 1 })
	w.produce(schemas.TopicScores, w.score("carl", 199, x(7), nil))
	w.until("carl's outcome is joined", func() bool { return bill("carl", 200) == 7 })
	w.produce(schemas.TopicOutcomes, w.outcome("carl", 300, true, nil))
	w.until("carl's second outcome is joined", func() bool { return bill("carl", 300) == 7 })
	// Erasure.
	w.produce(schemas.TopicScores,
		kafka.Record{Key: []byte("anna")}, // not a scorer's
		kafka.Record{Key: []byte("carl"), Headers: []kafka.Header{
			{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte("7")}}})
	w.until("carl is forgotten", func() bool { _, examples, _ := tr.counts(); return examples == 2 })
	if got := testutil.ToFloat64(tr.metrics.badScores.WithLabelValues("bad_frame")); got != 1 {
		t.Errorf("%v scores that cannot be read", got)
	}
	w.until("the foreign tombstone is counted", func() bool { return testutil.ToFloat64(tr.metrics.badScores.WithLabelValues("foreign")) == 1 })
}

// An outcome that was redriven is as old as it was: it does not bring back a
// customer who was erased since.
func TestTrainerForgetsRedrivenOutcomes(t *testing.T) {
	w := newWorld(t)
	const erasedAt = 1_700_000_000_000
	outcome := func(id, writtenAt string) kafka.Record {
		r := w.outcome(id, 100, true, scoring.Vector{scoring.Missing, scoring.Missing, 1})
		r.Time = time.UnixMilli(erasedAt + 1000)
		if writtenAt != "" {
			r.Headers = []kafka.Header{{Key: deadletters.HeaderWrittenAt, Value: []byte(writtenAt)}}
		}
		return r
	}
	ids := []string{"anna", "bert", "carl", "dora", "emil"}
	for _, id := range ids {
		w.produce(schemas.TopicOutcomes, kafka.Record{Key: []byte(id), Time: time.UnixMilli(erasedAt)})
	}
	w.produce(schemas.TopicOutcomes,
		outcome("anna", "1699999999999"), // written before
		outcome("bert", "1700000000001"), // and after the erasure
		outcome("carl", ""),
		outcome("dora", "1700000099999"), // later than it can be
		outcome("emil", "long ago"))
	tr, _ := w.trainer(Config{})
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, id := range ids {
		if got, want := has(tr.data, fitting.CustomerHash([]byte(id)), 100), id != "anna"; got != want {
			t.Errorf("%s is an example: %t", id, got)
		}
	}
}

// The trainer reads nothing here: labels and clock are the test's own.
func TestDue(t *testing.T) {
	w := newWorld(t)
	tr, err := New(Config{
		Dependencies: w.dependencies(),
		MinLabels:    10, MinNewLabels: 100, MinInterval: time.Minute, Settle: time.Second, MaxModelAge: 24 * time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	start := time.UnixMilli(1_800_000_000_000)
	now := start
	tr.now = func() time.Time { return now }
	n := 0
	add := func(k int) {
		for range k {
			n++
			if err := tr.takeOutcome(t.Context(), &kafka.Record{Time: now}, &schemas.ChurnOutcome{
				CustomerID: fmt.Sprint(n), ObservedAt: int64(n), Churned: n%2 == 0, Attributes: scoring.Vector{0, 0, 1},
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	due := func(want string, pause time.Duration) {
		t.Helper()
		trigger, p := tr.due(now)
		if !strings.Contains(trigger, want) || want == "" && trigger != "" || p != pause {
			t.Errorf("after %v and %d labels: due %q in %v, want %q in %v", now.Sub(start), n, trigger, p, want, pause)
		}
	}
	due("", tick)
	add(9)
	now = now.Add(time.Hour)
	due("", tick) // too few
	add(1)
	due("", time.Second) // wait for more
	now = now.Add(600 * time.Millisecond)
	add(1)
	due("", time.Second)
	now = now.Add(999 * time.Millisecond)
	due("", time.Millisecond)
	now = now.Add(time.Millisecond)
	due("first", 0)
	// While labels keep coming, the wait has an end.
	add(1)
	due("", time.Second)
	for range 11 {
		now = now.Add(900 * time.Millisecond)
		add(1)
		if trigger, pause := tr.due(now); trigger != "" || pause <= 0 {
			t.Fatalf("due %q in %v while labels keep coming", trigger, pause)
		}
	}
	now = now.Add(100 * time.Millisecond)
	due("first", 0)
	// A version is there: count from it.
	if err := w.publishVersion(1, int64(n), now); err != nil {
		t.Fatal(err)
	}
	w.version(1)
	due("", tick)
	add(99)
	now = now.Add(time.Hour)
	due("", tick)
	add(1)
	now = now.Add(time.Second)
	due("100 new labels", 0)
	// Not twice within a minute.
	tr.mu.Lock()
	tr.started, tr.trained = now, int64(n)
	tr.mu.Unlock()
	add(100)
	now = now.Add(5 * time.Second)
	due("", tick)
	now = now.Add(54 * time.Second)
	due("", time.Second)
	now = now.Add(time.Second)
	due("100 new labels", 0)
	// Age demands one as soon as there is a new label.
	tr.mu.Lock()
	tr.trained = int64(n)
	tr.mu.Unlock()
	now = now.Add(48 * time.Hour)
	due("", tick)
	add(1)
	now = now.Add(time.Second)
	due("old", 0)
}

// publishVersion publishes a champion that has seen some labels.
func (w *world) publishVersion(number, seen int64, at time.Time) error {
	m := w.unpublished(seen)
	m.Version, m.CreatedAt, m.Stage = number, at.UnixMilli(), schemas.StageChampion
	return w.out.Produce(w.ctx, schemas.TopicModels, kafka.Record{Key: models.Key(number), Value: w.codec.AppendModel(nil, m)})
}

// A version that somebody made up, with a number or labels that leave none to
// the trainer, does not keep it from training.
func TestMadeUpVersionsDoNotStopTraining(t *testing.T) {
	w := newWorld(t)
	tr, _ := w.trainer(Config{MinLabels: 100, MinNewLabels: 100, MinInterval: time.Millisecond, Grace: 50 * time.Millisecond})
	for _, v := range []struct{ number, seen int64 }{{math.MaxInt64, 1}, {math.MaxInt64 - 1, 1}, {3, math.MaxInt64}, {4, 1 << 40}} {
		if err := w.publishVersion(v.number, v.seen, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	w.version(4)
	w.load(0, 200)
	w.until("new labels to count", func() bool {
		tr.wake()
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return tr.rebase > 0
	})
	w.load(200, 200)
	if v := w.version(5); v.LabelsSeen <= 1<<40 {
		t.Errorf("version 5 has seen %d labels", v.LabelsSeen)
	}
}

func TestLostOutcomesDoNotStopTraining(t *testing.T) {
	w := newWorld(t)
	if err := w.publishVersion(5, 10_000, time.Now()); err != nil {
		t.Fatal(err)
	}
	w.version(5)
	w.load(0, 300)
	tr, _ := w.trainer(Config{MinLabels: 100, MinNewLabels: 200, MinInterval: time.Millisecond})
	if labels, _, _ := tr.counts(); labels != 10_000 {
		t.Errorf("%d labels", labels)
	}
	w.load(300, 200)
	if v := w.version(6); v.LabelsSeen != 10_200 {
		t.Errorf("version 6 has seen %d labels", v.LabelsSeen)
	}
}

func TestRetrainHandler(t *testing.T) {
	w := newWorld(t)
	tr, err := New(Config{Dependencies: w.dependencies(), MinLabels: 2})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(tr.RetrainHandler("secret"))
	defer server.Close()
	post := func(method, token, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(method, server.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		data, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(data)
	}
	expect := func(status int, method, token, body string) {
		t.Helper()
		if got, text := post(method, token, body); got != status {
			t.Errorf("%s %.50q: %d %s, want %d", method, body, got, text, status)
		}
	}
	expect(http.StatusServiceUnavailable, "POST", "secret", "")
	close(tr.ready)
	expect(http.StatusMethodNotAllowed, "GET", "secret", "")
	expect(http.StatusUnauthorized, "POST", "", "")
	expect(http.StatusUnauthorized, "POST", "wrong", "")
	expect(http.StatusConflict, "POST", "secret", "")
	for i := range 4 {
		if err := tr.takeOutcome(t.Context(), &kafka.Record{Time: time.Now()}, &schemas.ChurnOutcome{
			CustomerID: fmt.Sprint(i), ObservedAt: 1, Churned: i%2 == 0, Attributes: scoring.Vector{0, 0, 1},
		}); err != nil {
			t.Fatal(err)
		}
	}
	expect(http.StatusBadRequest, "POST", "secret", "not JSON")
	expect(http.StatusRequestEntityTooLarge, "POST", "secret", strings.Repeat(" ", 256<<10+1))
	expect(http.StatusNoContent, "POST", "secret", `{"status":"resolved","commonLabels":{"alertname":"ModelWorse"}}`)
	if tr.requested != "" {
		t.Errorf("requested %q", tr.requested)
	}
	for body, want := range map[string]string{
		"":                        "requested",
		`{"reason":"new prices"}`: "new prices",
		`{"version":"4","status":"firing","commonLabels":{"alertname":"ModelWorse"},"alerts":[]}`: "alert ModelWorse",
	} {
		expect(http.StatusAccepted, "POST", "secret", body)
		if tr.requested != want {
			t.Errorf("%s: requested %q, want %q", body, tr.requested, want)
		}
	}
	open := httptest.NewServer(tr.RetrainHandler(""))
	defer open.Close()
	server.URL = open.URL
	expect(http.StatusAccepted, "POST", "", "")
}

func TestNewRefusesNonsense(t *testing.T) {
	w := newWorld(t)
	on := w.dependencies()
	for name, cfg := range map[string]Config{
		"no cluster":  {Dependencies: role.Dependencies{Codec: w.codec, Models: w.feed}},
		"no codec":    {Dependencies: role.Dependencies{Cluster: w.cluster, Models: w.feed}},
		"no models":   {Dependencies: role.Dependencies{Cluster: w.cluster, Codec: w.codec}},
		"below zero":  {Dependencies: on, MinLabels: -1},
		"all held":    {Dependencies: on, Train: fitting.Config{Holdout: 1}},
		"one knot":    {Dependencies: on, Train: fitting.Config{Knots: 1}},
		"too many":    {Dependencies: on, Train: fitting.Config{Knots: 101}},
		"no strength": {Dependencies: on, Train: fitting.Config{Strengths: []float64{0, 1}}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A tombstone that the scorer passes on takes effect at the time of the one that
// it was given, not at its place: the customer may be back already.
func TestTrainerTakesErasuresAtTheirTime(t *testing.T) {
	w := newWorld(t)
	const at = 1_700_000_000_000
	before := w.outcome("anna", at-1000, true, scoring.Vector{scoring.Missing, scoring.Missing, 1})
	after := w.outcome("anna", at+1000, false, scoring.Vector{scoring.Missing, scoring.Missing, 1})
	tombstone := kafka.Record{Key: []byte("anna"), Time: time.UnixMilli(at + 2000),
		Headers: []kafka.Header{{Key: deadletters.HeaderWrittenAt, Value: []byte("1700000000000")}}}
	before.Time, after.Time = time.UnixMilli(at-500), time.UnixMilli(at+1500)
	w.produce(schemas.TopicOutcomes, before, after, tombstone)
	tr, _ := w.trainer(Config{})
	tr.mu.Lock()
	defer tr.mu.Unlock()
	id := fitting.CustomerHash([]byte("anna"))
	if before, after := has(tr.data, id, at-1000), has(tr.data, id, at+1000); before || !after {
		t.Errorf("examples: before the erasure %t, after it %t", before, after)
	}
}
