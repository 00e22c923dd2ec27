package trainer

import (
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
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/await"
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
	for _, topic := range []string{schemas.TopicExamples, schemas.TopicModels} {
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

// horizon is that of the examples of the tests.
const horizon = 30 * 24 * 3_600_000

// example is what a labeler makes of an outcome at a time.
func example(at int64, churned bool, x scoring.Vector) schemas.LabelledExample {
	return schemas.LabelledExample{
		AsOf: at - horizon, ObservedAt: at, LabelledAt: time.Now().UnixMilli(), Horizon: horizon, Churned: churned,
		Probability: scoring.Missing, SourcePartition: -1, SourceOffset: -1, Attributes: x,
	}
}

// record is a customer's record with all their examples; without any it
// is a tombstone.
func (w *world) record(id string, examples ...schemas.LabelledExample) kafka.Record {
	r := kafka.Record{Key: []byte(id)}
	if len(examples) > 0 {
		r.Value = w.codec.AppendExamples(nil, &schemas.CustomerExamples{CustomerID: []byte(id), Examples: examples})
	}
	return r
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
		records = append(records, w.record(fmt.Sprintf("customer-%d", first+i), example(int64(1000+first+i), churned, x)))
	}
	w.produce(schemas.TopicExamples, records...)
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

// lateModels know a version only once somebody has waited for it.
type lateModels struct {
	role.Models
	known atomic.Int64 // offset up to which somebody has
}

func (l *lateModels) WaitFor(ctx context.Context, offset int64) error {
	err := l.Models.WaitFor(ctx, offset)
	if err == nil {
		l.known.Store(offset + 1)
	}
	return err
}

func (l *lateModels) List() []*models.Version {
	return slices.DeleteFunc(slices.Clone(l.Models.List()), func(v *models.Version) bool { return v.Offset >= l.known.Load() })
}

// A trainer that has published a version does not train for a first model again
// while it has still to be read back.
func TestOneFirstModel(t *testing.T) {
	w := newWorld(t)
	w.load(0, 400)
	tr, err := New(Config{
		Dependencies: role.Dependencies{Cluster: w.cluster, Codec: w.codec, Models: &lateModels{Models: w.feed}},
		MinLabels:    300, MinNewLabels: 1000, MinInterval: time.Millisecond, Settle: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.start(tr.Run)
	w.until("the first model", func() bool { return testutil.ToFloat64(tr.metrics.trainings.WithLabelValues("champion")) == 1 })
	w.load(400, 10)
	w.until("labels that are new to version 1", func() bool { return tr.counts().Fresh == 10 })
	if trigger, _ := tr.due(time.Now().Add(time.Hour)); trigger != "" {
		t.Errorf("a training is due for %q", trigger)
	}
}

// until waits for a condition that nothing announces.
func (w *world) until(what string, condition func() bool) {
	w.t.Helper()
	await.Until(w.t, what, condition)
}

func (tr *Trainer) counts() fitting.Census {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.data.Census()
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

	// A record that comes twice counts once, as does a label that is corrected;
	// what cannot be read is passed over.
	w.load(700, 398)
	x, _ := w.customer()
	anew, other := example(1001, true, x), example(1, true, x)
	w.produce(schemas.TopicExamples,
		w.record("customer-1", anew), w.record("customer-1", anew),
		kafka.Record{Key: []byte("customer-4"), Value: w.record("customer-5", other).Value},
		kafka.Record{Key: []byte("junk"), Value: []byte("junk")},
		kafka.Record{Key: []byte(schemas.MarkerKey), Value: []byte("a labeler's progress")})
	passedOver := func(reason schemas.Reason) float64 {
		return testutil.ToFloat64(tr.metrics.passedOver.WithLabelValues(string(reason)))
	}
	w.until("399 new labels and 2 records passed over", func() bool {
		return tr.counts().Fresh == 399 && passedOver(schemas.ReasonKeyMismatch) == 1 && passedOver(schemas.ReasonBadFrame) == 1
	})
	if n := testutil.ToFloat64(tr.metrics.corrected); n != 1 || tr.counts().Examples != 1098 {
		t.Errorf("%v corrected labels, %d examples", n, tr.counts().Examples)
	}
	if len(w.feed.List()) != 1 {
		t.Error("it trained with 399 new labels")
	}

	// A request does not wait for the count.
	if err := tr.Retrain(w.ctx, "an alert"); err != nil {
		t.Fatal(err)
	}
	second := w.version(2)
	if second.LabelsSeen != 1098 || second.Horizon != horizon || second.LabelsUntil < anew.LabelledAt || second.LabelsUntil > second.CreatedAt || second.ChampionMetrics == nil || !strings.Contains(second.Reason, "an alert") {
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
	if got := testutil.ToFloat64(tr.metrics.examples); got != 1098 {
		t.Errorf("%v examples in the metrics", got)
	}

	// After a restart it knows what it knew, and trains on nothing twice.
	stop()
	again, _ := w.trainer(Config{MinLabels: 300, MinNewLabels: 400, MinInterval: time.Millisecond})
	if c := again.counts(); c.Examples != 1098 || c.Fresh != 0 {
		t.Errorf("%+v after the restart", c)
	}
	if err := again.Retrain(w.ctx, ""); !errors.Is(err, ErrNoNewLabels) {
		t.Errorf("training after the restart: %v", err)
	}
	w.load(1098, 400)
	if v := w.version(3); v.LabelsSeen != 1498 {
		t.Errorf("version 3 has seen %d labels", v.LabelsSeen)
	}
	if len(w.feed.List()) != 3 {
		t.Errorf("%d versions", len(w.feed.List()))
	}
}

// Examples that stand in the topic with numbers that no statistic survives, as
// Java's Double.MAX_VALUE for what is not known, stop no training, now or after a
// restart.
func TestNumbersBeyondTheBoundStopNoTraining(t *testing.T) {
	w := newWorld(t)
	for i := range 8 {
		x, churned := w.customer()
		x[2] = math.MaxFloat64
		w.produce(schemas.TopicExamples, w.record(fmt.Sprintf("unknown-%d", i), example(int64(1000+i), churned, x)))
	}
	w.load(0, 400)
	cfg := Config{MinLabels: 300, MinNewLabels: 300, MinInterval: time.Millisecond}
	tr, stop := w.trainer(cfg)
	if v := w.version(1); v.LabelsSeen != 400 {
		t.Errorf("version 1 has seen %d labels, want 400", v.LabelsSeen)
	}
	if n := testutil.ToFloat64(tr.metrics.passedOver.WithLabelValues(string(schemas.ReasonInvalidValue))); n != 8 {
		t.Errorf("%v records passed over", n)
	}
	w.until("a training that did not fail", func() bool {
		return testutil.ToFloat64(tr.metrics.trainings.WithLabelValues("champion")) == 1 && testutil.ToFloat64(tr.metrics.failing) == 0
	})
	stop()
	w.load(400, 300)
	w.trainer(cfg)
	w.version(2)
}

// A training that fails is seen until one succeeds, and the next labels make it
// be tried again.
func TestTrainingThatFails(t *testing.T) {
	w := newWorld(t)
	tr, _ := w.trainer(Config{MinLabels: 300, MinNewLabels: 300, MinInterval: time.Millisecond})
	x, _ := w.customer()
	x[2] = math.MaxFloat64
	far := fitting.Example{Customer: 2, ObservedAt: 1, Horizon: horizon, Attributes: x}
	tr.mu.Lock()
	tr.data.Add(far) // as no reader of a topic would
	tr.mu.Unlock()
	w.load(0, 300)
	failed := tr.metrics.trainings.WithLabelValues("failed")
	w.until("a failed training", func() bool { return testutil.ToFloat64(failed) == 1 && testutil.ToFloat64(tr.metrics.failing) == 1 })
	tr.mu.Lock()
	tr.data.Replace(far.Customer, nil)
	tr.mu.Unlock()
	w.load(300, 300)
	w.version(1)
	w.until("no failure any more", func() bool { return testutil.ToFloat64(tr.metrics.failing) == 0 })
}

// A customer's record replaces what there was: labels are corrected, examples that
// are kept no longer go, and a tombstone leaves nothing, also after a restart.
func TestRecordsReplaceWhatCustomersHad(t *testing.T) {
	w := newWorld(t)
	tr, stop := w.trainer(Config{})
	x := scoring.Vector{scoring.Missing, scoring.Missing, 1}
	has := func(tr *Trainer, want string) func() bool {
		return func() bool {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			got := ""
			for _, id := range []string{"anna", "bert", "carl"} {
				for at := range int64(10) {
					if i, ok := tr.data.Find(fitting.CustomerHash([]byte(id)), at); ok {
						got += fmt.Sprintf("%s%d%t ", id, at, tr.data.Churned(i))
					}
				}
			}
			return got == want
		}
	}
	stayed, left := example(2, false, x), example(3, true, x)
	w.produce(schemas.TopicExamples, w.record("anna", example(1, false, x), stayed, left), w.record("bert", stayed), w.record("carl", left))
	w.until("all examples", has(tr, "anna1false anna2false anna3true bert2false carl3true "))
	corrected := stayed
	corrected.Churned, corrected.LabelledAt, corrected.Corrections = true, stayed.LabelledAt+1, 1
	w.produce(schemas.TopicExamples, w.record("anna", corrected, left), w.record("bert"), w.record("carl", left))
	const want = "anna2true anna3true carl3true "
	w.until("anna's label is corrected, bert erased", has(tr, want))
	if got := testutil.ToFloat64(tr.metrics.corrected); got != 1 {
		t.Errorf("%v corrections", got)
	}
	if got := testutil.ToFloat64(tr.metrics.removed); got != 2 {
		t.Errorf("%v removed", got)
	}
	stop()
	again, _ := w.trainer(Config{})
	if !has(again, want)() {
		t.Error("other examples after the restart")
	}
}

// A label is new once, though every record of its customer has another time: where
// the broker's clock is ahead of the labeler's, the label is from after the record.
func TestALabelIsNewOnce(t *testing.T) {
	w := newWorld(t)
	tr, _ := w.trainer(Config{})
	x := scoring.Vector{scoring.Missing, scoring.Missing, 1}
	now := time.Now().UnixMilli()
	first, second := example(1, false, x), example(2, true, x)
	first.LabelledAt, second.LabelledAt = now+800, now+1000
	r := w.record("anna", first)
	r.Time = time.UnixMilli(now)
	w.produce(schemas.TopicExamples, r)
	w.until("the first label", func() bool { return testutil.ToFloat64(tr.metrics.labels) == 1 })
	tr.mu.Lock()
	tr.data.Seen(math.MaxInt64)
	tr.mu.Unlock()
	r = w.record("anna", first, second)
	r.Time = time.UnixMilli(now + 5000)
	w.produce(schemas.TopicExamples, r)
	w.until("the second label", func() bool { return testutil.ToFloat64(tr.metrics.labels) == 2 })
	if fresh, corrected := tr.counts().Fresh, testutil.ToFloat64(tr.metrics.corrected); fresh != 1 || corrected != 0 {
		t.Errorf("%d labels are new and %v corrected, want 1 and none", fresh, corrected)
	}
}

// A label that a version may not have known is new to it: one that came after it
// though it is older, as when another partition was behind. One that it knew is
// not new because its time lies ahead.
func TestWhatIsNew(t *testing.T) {
	w := newWorld(t)
	x, _ := w.customer()
	ahead := example(1, true, x)
	ahead.LabelledAt = time.Now().Add(1000 * time.Hour).UnixMilli()
	w.produce(schemas.TopicExamples, w.record("ahead", ahead))
	w.load(0, 300)
	cfg := Config{MinLabels: 300, MinNewLabels: 300, MinInterval: time.Millisecond}
	tr, stop := w.trainer(cfg)
	v := w.version(1)
	if now := time.Now().UnixMilli(); v.LabelsUntil > now {
		t.Errorf("version 1 knew labels until %d ms from now", v.LabelsUntil-now)
	}
	w.until("nothing is new", func() bool { return tr.counts().Fresh == 0 })
	late := example(2, false, x)
	late.LabelledAt = v.LabelsUntil - 1000
	w.produce(schemas.TopicExamples, w.record("late", late))
	w.until("a late label is new", func() bool { return tr.counts().Fresh == 1 })
	stop()
	again, _ := w.trainer(cfg)
	if n := again.counts().Fresh; n != 0 {
		t.Errorf("%d labels are new after the restart", n)
	}
}

// A few labels that answer another question keep nobody from training on the others;
// once there are enough of them, trainings answer theirs.
func TestAnotherHorizon(t *testing.T) {
	w := newWorld(t)
	tr, _ := w.trainer(Config{MinLabels: 200, MinNewLabels: 300, MinInterval: time.Millisecond})
	w.load(0, 300)
	if v := w.version(1); v.Horizon != horizon {
		t.Errorf("version 1 has horizon %d", v.Horizon)
	}
	another := func(first, n int) {
		var records []kafka.Record
		for i := range n {
			x, churned := w.customer()
			e := example(int64(5000+first+i), churned, x)
			e.Horizon = 7 * 24 * 3_600_000
			records = append(records, w.record(fmt.Sprint("another-", first+i), e))
		}
		w.produce(schemas.TopicExamples, records...)
	}
	another(0, 100)
	w.until("examples of another horizon", func() bool { c := tr.counts(); return c.Examples == 300 && c.Others == 100 })
	w.until("the metric", func() bool { return testutil.ToFloat64(tr.metrics.otherHorizon) == 100 })
	w.load(300, 300)
	if v := w.version(2); v.Horizon != horizon || v.LabelsSeen != 600 {
		t.Errorf("version 2 has horizon %d and has seen %d labels", v.Horizon, v.LabelsSeen)
	}
	another(100, 300)
	if v := w.version(3); v.Horizon != 7*24*3_600_000 || v.LabelsSeen < 300 {
		t.Errorf("version 3 has horizon %d and has seen %d labels", v.Horizon, v.LabelsSeen)
	}
}

// Examples that are too old are neither counted nor learnt from, and a request for
// a training is answered on what is recent.
func TestMaxAge(t *testing.T) {
	w := newWorld(t)
	w.load(0, 400) // as old as time
	tr, _ := w.trainer(Config{MinLabels: 200, MinNewLabels: 10_000, MinInterval: time.Millisecond, MaxAge: time.Hour})
	if c := tr.counts(); c.Examples != 0 {
		t.Errorf("%d examples are too old", c.Examples)
	}
	now := time.Now().UnixMilli()
	w.load(int(now-1000)-60_000, 250)
	w.until("recent examples", func() bool { return tr.counts().Examples == 250 })
	if err := tr.Retrain(w.ctx, "alert ChurnModelLossAboveHoldout"); err != nil {
		t.Fatal(err)
	}
	if v := w.version(1); v.LabelsSeen != 250 || v.TrainingStart < now-60_000 {
		t.Errorf("version 1 has seen %d labels, from %d on", v.LabelsSeen, v.TrainingStart)
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
			tr.takeOne(t, n, now)
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
	if err := w.publishVersion(1, now.UnixMilli(), now); err != nil {
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
	tr.started = now
	tr.data.Seen(math.MaxInt64)
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
	tr.data.Seen(math.MaxInt64)
	tr.mu.Unlock()
	now = now.Add(48 * time.Hour)
	due("", tick)
	add(1)
	now = now.Add(time.Second)
	due("old", 0)
}

// takeOne has a trainer that does not run take a customer in.
func (tr *Trainer) takeOne(t *testing.T, n int, now time.Time) {
	t.Helper()
	e := example(int64(n), n%2 == 0, scoring.Vector{0, 0, 1})
	e.LabelledAt = now.UnixMilli()
	if err := tr.take(t.Context(), &kafka.Record{Key: fmt.Append(nil, n), Time: now}, &schemas.CustomerExamples{Examples: []schemas.LabelledExample{e}}); err != nil {
		t.Fatal(err)
	}
}

// publishVersion publishes a champion that knew the labels until a time.
func (w *world) publishVersion(number, until int64, at time.Time) error {
	m := w.unpublished(until)
	m.Version, m.CreatedAt, m.Stage = number, at.UnixMilli(), schemas.StageChampion
	return w.out.Produce(w.ctx, schemas.TopicModels, kafka.Record{Key: models.Key(number), Value: w.codec.AppendModel(nil, m)})
}

// A version that somebody made up, with a number or labels that leave none to
// the trainer, does not keep it from training, now or after a restart.
func TestMadeUpVersionsDoNotStopTraining(t *testing.T) {
	w := newWorld(t)
	cfg := Config{MinLabels: 100, MinNewLabels: 200, MinInterval: time.Millisecond}
	_, stop := w.trainer(cfg)
	never := time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	for _, v := range []struct {
		number, until int64
		at            time.Time
	}{{math.MaxInt64, 1, never}, {math.MaxInt64 - 1, 1, never}, {3, math.MaxInt64, never}, {4, math.MaxInt64, time.Now()}} {
		if err := w.publishVersion(v.number, v.until, v.at); err != nil {
			t.Fatal(err)
		}
	}
	w.version(4)
	w.load(0, 200)
	if v := w.version(5); v.LabelsUntil > time.Now().UnixMilli() {
		t.Errorf("version 5 knew labels until %d", v.LabelsUntil)
	}
	stop()
	if err := w.publishVersion(6, math.MaxInt64, never); err != nil {
		t.Fatal(err)
	}
	w.version(6)
	tr, _ := w.trainer(cfg)
	if n := tr.counts().Fresh; n != 0 {
		t.Errorf("%d labels are new after the restart", n)
	}
	w.load(200, 200)
	w.version(7)
}

// Where examples were lost, or customers erased, those that come are counted from
// there.
func TestLostExamplesDoNotStopTraining(t *testing.T) {
	w := newWorld(t)
	w.load(0, 300)
	if err := w.publishVersion(5, time.Now().UnixMilli(), time.Now()); err != nil {
		t.Fatal(err)
	}
	w.version(5)
	tr, _ := w.trainer(Config{MinLabels: 100, MinNewLabels: 200, MinInterval: time.Millisecond})
	if c := tr.counts(); c.Examples != 300 || c.Fresh != 0 {
		t.Errorf("%+v", c)
	}
	for i := range 100 {
		w.produce(schemas.TopicExamples, w.record(fmt.Sprint("customer-", i)))
	}
	w.until("100 are erased", func() bool { return tr.counts().Examples == 200 })
	w.load(300, 200)
	if v := w.version(6); v.LabelsSeen != 400 {
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
		tr.takeOne(t, i, time.Now())
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

// When what makes customers leave has changed, a request is answered by a version
// of what is recent, which says so and is used.
func TestARequestAfterAChange(t *testing.T) {
	w := newWorld(t)
	tr, _ := w.trainer(Config{MinLabels: 300, MinNewLabels: 100_000, MinInterval: time.Millisecond})
	w.load(0, 6000)
	w.version(1)
	// Those who would have stayed leave.
	var records []kafka.Record
	for i := range 1500 {
		x, churned := w.customer()
		records = append(records, w.record(fmt.Sprint("changed-", i), example(int64(10_000+i), !churned, x)))
	}
	w.produce(schemas.TopicExamples, records...)
	w.until("the new labels", func() bool { return tr.counts().Fresh == 1500 })
	if err := tr.Retrain(w.ctx, "alert ChurnModelWorse"); err != nil {
		t.Fatal(err)
	}
	v := w.version(2)
	if v.Stage != schemas.StageChampion || v.TrainingStart < 6000 || v.LabelsSeen != 7500 ||
		!strings.Contains(v.Reason, "alert ChurnModelWorse; learnt from the newest") || v.Metrics.LogLoss > v.ChampionMetrics.LogLoss-0.1 {
		t.Errorf("version 2 is %s, learnt from %d on, and has seen %d: %s", v.Stage, v.TrainingStart, v.LabelsSeen, v.Reason)
	}
}
