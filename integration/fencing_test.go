//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

const fenced = "fenced"

func fence(t testing.TB, c *kafka.Cluster) *kafka.FencedProducer {
	t.Helper()
	p, err := c.Fence(testContext(t), kafka.FenceConfig{TransactionalID: "owner-0", Topic: fenced})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func appendTo(t testing.TB, p *kafka.FencedProducer, want int64, records ...kafka.Record) {
	t.Helper()
	base, err := p.Append(testContext(t), records)
	if err != nil || base != want {
		t.Fatalf("appended at %d, %v; want at %d", base, err, want)
	}
}

// loseAnswers has the answers to produce requests lost at every broker. The
// returned counter says how many were.
func loseAnswers(k *Kafka, times int64) *atomic.Int64 {
	var lost atomic.Int64
	for i := range k.brokers {
		k.Proxy(i).OnAnswer(func(api int16, _ []byte) bool {
			return api != apiProduce || lost.Add(1) > times
		})
	}
	return &lost
}

func TestFencing(t *testing.T) {
	k := StartKafka(t, KafkaConfig{Proxied: true})
	c, _ := k.Connect()
	other, _ := k.Connect()
	ensureTopic(t, c, fenced, 1, nil)

	former := fence(t, c)
	appendTo(t, former, 0, numbered(0, 3)...)
	owner := fence(t, other)
	// Until the new owner's first append the broker does not know better.
	appendTo(t, former, 3, numbered(3, 4)...)
	appendTo(t, owner, 4, kafka.Record{Value: []byte("marker")})
	_, err := former.Append(testContext(t), numbered(90, 93))
	if !errors.Is(err, kafka.ErrFenced) {
		t.Fatalf("the paused former owner's write: %v", err)
	}
	t.Logf("the former owner's write is refused: %v", err)

	lost := loseAnswers(k, 2)
	appendTo(t, owner, 5, numbered(5, 8)...)
	if lost.Load() < 3 {
		t.Fatalf("%d answers passed the proxy, so none was lost", lost.Load())
	}
	loseAnswers(k, 0)
	appendTo(t, owner, 8, numbered(8, 10)...)
	if got := values(fetchTo(t, c, fenced, 0, 10)); got != "0 1 2 3 marker 5 6 7 8 9" {
		t.Errorf("stored: %s", got)
	}
	_, end, err := c.Offsets(testContext(t), fenced, 0)
	if end != 10 || err != nil {
		t.Errorf("the log ends at %d, %v; want 10", end, err)
	}
	t.Logf("a batch sent three times, as two answers were lost, is stored once; the log ends at %d", end)
}

// TestFencingAcrossLeaderDeath kills the leader between a batch and its retry,
// and between a takeover and the former owner's write.
func TestFencingAcrossLeaderDeath(t *testing.T) {
	k := StartKafka(t, KafkaConfig{Brokers: 3, Proxied: true})
	c, _ := k.Connect()
	other, _ := k.Connect()
	ensureTopic(t, c, fenced, 1, nil)

	former := fence(t, c)
	appendTo(t, former, 0, numbered(0, 3)...)
	owner := fence(t, other)
	appendTo(t, owner, 3, kafka.Record{Value: []byte("marker")})

	// The leader stores the batch and dies before its answer arrives.
	leader := k.Leader(fenced, 0)
	died := make(chan struct{})
	var once atomic.Bool
	k.Proxy(leader).OnAnswer(func(api int16, _ []byte) bool {
		if api == apiProduce && once.CompareAndSwap(false, true) {
			k.Kill9(leader)
			close(died)
			return false
		}
		return true
	})
	begin := time.Now()
	appendTo(t, owner, 4, numbered(4, 7)...)
	select {
	case <-died:
	default:
		t.Fatal("the leader has not been killed")
	}
	next := k.Leader(fenced, 0)
	if next == leader {
		t.Fatalf("broker %d was killed and leads again", leader)
	}
	t.Logf("broker %d killed with -9 after it stored a batch and before it answered; the retry got offset 4 from broker %d after %v",
		leader, next, time.Since(begin).Round(10*time.Millisecond))

	_, err := former.Append(testContext(t), numbered(90, 93))
	if !errors.Is(err, kafka.ErrFenced) {
		t.Fatalf("the paused former owner's write to the new leader: %v", err)
	}
	t.Logf("the new leader refuses the former owner: %v", err)
	appendTo(t, owner, 7, numbered(7, 9)...)

	// And back: the killed broker comes up, the present leader dies.
	k.Proxy(leader).OnAnswer(nil)
	k.Start(leader)
	k.WaitBrokers(3)
	k.Kill9(next)
	begin = time.Now()
	appendTo(t, owner, 9, numbered(9, 11)...)
	t.Logf("broker %d killed too: the owner's next batch was stored after %v", next, time.Since(begin).Round(10*time.Millisecond))
	if got := values(fetchTo(t, other, fenced, 0, 11)); got != "0 1 2 marker 4 5 6 7 8 9 10" {
		t.Errorf("stored: %s", got)
	}
	if _, end, err := c.Offsets(testContext(t), fenced, 0); end != 11 || err != nil {
		t.Errorf("the log ends at %d, %v; want 11", end, err)
	}
}

// forgetful makes a broker forget producers that are silent for a second.
var forgetful = map[string]string{
	"producer.id.expiration.ms":                "1000",
	"producer.id.expiration.check.interval.ms": "100",
}

// TestForgottenProducer shows why an idle owner must not be silent for long,
// and that one who was finds out.
func TestForgottenProducer(t *testing.T) {
	k := StartKafka(t, KafkaConfig{Settings: forgetful})
	c, _ := k.Connect()
	ensureTopic(t, c, fenced, 1, nil)

	// Each is older than the next; each tries once.
	var former []*kafka.FencedProducer
	for range 4 {
		former = append(former, fence(t, c))
	}
	owner := fence(t, c)
	begin := time.Now()
	next := int64(0)
	mark := func() {
		appendTo(t, owner, next, kafka.Record{Value: []byte("marker")})
		next++
	}
	mark()
	// The marker is repeated more often than the broker forgets.
	tried := 0
	for tick := time.NewTicker(300 * time.Millisecond); tried < 3; <-tick.C {
		mark()
		if time.Since(begin) > time.Duration(tried+1)*1500*time.Millisecond {
			if _, err := former[tried].Append(testContext(t), numbered(90, 91)); !errors.Is(err, kafka.ErrFenced) {
				t.Fatalf("after %v of markers, a former owner's write: %v", time.Since(begin), err)
			}
			tried++
		}
	}
	t.Logf("with a marker every 300 ms, former owners were refused for %v, while the broker forgets after 1 s",
		time.Since(begin).Round(100*time.Millisecond))

	// Without markers the broker forgets the owner, and takes the write of a
	// former one. The owner must learn of it.
	begin = time.Now()
	Eventually(t, 30*time.Second, "the broker forgetting", func() error {
		stale := former[3]
		if time.Since(begin) < 2500*time.Millisecond {
			return errors.New("not yet time")
		}
		if base, err := stale.Append(testContext(t), []kafka.Record{{Value: []byte("stale")}}); err != nil || base != next {
			t.Fatalf("a former owner's write after the broker forgot: at %d, %v; want at %d", base, err, next)
		}
		return nil
	})
	_, err := owner.Append(testContext(t), numbered(0, 1))
	if !errors.Is(err, kafka.ErrOutOfSequence) {
		t.Fatalf("the forgotten owner's write after a foreign one: %v", err)
	}
	t.Logf("without markers for 2.5 s the stale write got through, and the owner's next one fails: %v", err)

	// It takes a new epoch and shuts the other out again.
	again := fence(t, c)
	appendTo(t, again, next+1, kafka.Record{Value: []byte("marker")})
	if _, err := former[3].Append(testContext(t), numbered(91, 92)); !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("the former owner's write after the owner came back: %v", err)
	}
	appendTo(t, again, next+2, numbered(0, 1)...)
}

// table is a small schema of another company.
const table = `{"type":"record","name":"CustomerAttributes","fields":[
	{"name":"plan","type":["null","string"],"default":null,"feature":{"kind":"categorical","actionable":true}},
	{"name":"complaints","type":["null","double"],"default":null,"feature":{"kind":"numeric"}}
]}`

// oneModel is a model feed that never changes.
type oneModel struct {
	role.Models // what a scorer does not ask for
	version     *models.Version
}

func (o oneModel) Champion() *models.Version { return o.version }
func (oneModel) Changed() <-chan struct{}    { return nil }

func handmade(t testing.TB, set *schemas.Set) oneModel {
	t.Helper()
	m, err := scoring.ParseModel([]byte(`{"intercept":-1,"features":[
		{"name":"plan","kind":"categorical","levels":["monthly","yearly"],"log_odds":[0.8,-0.8],"frequency":[0.5,0.5]},
		{"name":"complaints","kind":"numeric","log_odds_per_unit":0.7,"quartiles":[2],
		 "bins":[{"mean":1,"std":0.1,"min":0,"max":2,"frequency":0.5},{"mean":3,"std":0.1,"min":2,"max":4,"frequency":0.5}],"empirical_quantiles":[0,2,4]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := scoring.Compile(m, set.Vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	return oneModel{version: &models.Version{
		ModelVersion: schemas.ModelVersion{Version: 1, MediumThreshold: 0.3, HighThreshold: 0.6}, Model: m, Predictor: p,
	}}
}

// world is a platform with a small schema and a scorer in this process.
type world struct {
	*Platform
	cluster  *kafka.Cluster
	codec    *schemas.Codec
	producer *kafka.Producer
	metrics  *prometheus.Registry
	events   int
}

func startWorld(t *testing.T, cfg KafkaConfig) *world {
	t.Helper()
	set, err := schemas.Parse([]byte(table))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Platform: StartPlatform(t, cfg)}
	w.cluster, w.metrics = w.Connect()
	w.codec = w.Codec(set)
	w.producer = w.cluster.NewProducer(kafka.ProducerConfig{})
	ensureTopic(t, w.cluster, schemas.TopicEvents, 1, nil)
	ensureTopic(t, w.cluster, schemas.TopicScores, 1, map[string]string{"cleanup.policy": "compact"})
	ensureTopic(t, w.cluster, schemas.TopicDeadLetters, 1, nil)
	return w
}

// score runs a scorer until the test ends.
func (w *world) score(cfg scorer.Config) { w.t.Helper(); w.startScorer(cfg) }

// startScorer runs a scorer until it is stopped or the test ends.
func (w *world) startScorer(cfg scorer.Config) (stop func()) {
	w.t.Helper()
	cfg.Cluster, cfg.Codec, cfg.Models, cfg.Registerer = w.cluster, w.codec, handmade(w.t, w.codec.Set()), w.metrics
	cfg.Logger = slog.New(slog.NewTextHandler(w.t.Output(), nil))
	s, err := scorer.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("the scorer: %v", err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// event returns a new event that sets a customer's complaints.
func (w *world) event(customer string, complaints float64) kafka.Record {
	return w.newEvent(customer, func(e *schemas.CustomerEvent) { e.Changes[1] = complaints })
}

// increment returns a new event that adds to a customer's complaints.
func (w *world) increment(customer string, complaints float64) kafka.Record {
	return w.newEvent(customer, func(e *schemas.CustomerEvent) { e.Increments[1] = complaints })
}

func (w *world) newEvent(customer string, fill func(*schemas.CustomerEvent)) kafka.Record {
	w.events++
	e := w.codec.NewEvent()
	e.EventID = fmt.Appendf(nil, "00000000-0000-0000-0000-%012d", w.events)
	e.CustomerID = []byte(customer)
	e.OccurredAt = time.Now().UnixMilli()
	fill(e)
	return kafka.Record{Key: e.CustomerID, Value: w.codec.AppendEvent(nil, e)}
}

func (w *world) send(events ...kafka.Record) {
	w.t.Helper()
	if err := w.producer.Produce(testContext(w.t), schemas.TopicEvents, events...); err != nil {
		w.t.Fatal(err)
	}
}

// scores reads all scores there are now, as customer:complaints@source offset,
// and counts the markers.
func (w *world) scores() (scores []string, markers int) {
	w.t.Helper()
	ctx := testContext(w.t)
	_, end, err := w.cluster.Offsets(ctx, schemas.TopicScores, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	f := w.cluster.NewFetcher(kafka.FetcherConfig{Topic: schemas.TopicScores, Offset: -1, MaxWait: 50 * time.Millisecond})
	s := w.codec.NewScore()
	for f.Offset() < end {
		records, err := f.Fetch(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range records {
			if r.Value == nil || schemas.IsReservedKey(r.Key) {
				markers++
				continue
			}
			if err := w.codec.DecodeScore(ctx, r.Value, s); err != nil {
				w.t.Fatal(err)
			}
			scores = append(scores, fmt.Sprintf("%s:%v@%d", s.CustomerID, s.Attributes[1], s.SourceOffset))
		}
	}
	return scores, markers
}

func (w *world) waitScores(want ...string) {
	w.t.Helper()
	Eventually(w.t, time.Minute, "scores", func() error {
		if got, _ := w.scores(); strings.Join(got, " ") != strings.Join(want, " ") {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
}

// former takes the scorer's transactional id before the scorer does.
func (w *world) former() *kafka.FencedProducer {
	w.t.Helper()
	p, err := w.cluster.Fence(testContext(w.t), kafka.FenceConfig{TransactionalID: schemas.TopicScores + "-0", Topic: schemas.TopicScores})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// TestExpiredTransactionalID has the coordinator forget transactional ids that
// nobody has asked for in two seconds. Those of owners that renew stay, and with
// them the fence.
func TestExpiredTransactionalID(t *testing.T) {
	k := StartKafka(t, KafkaConfig{Settings: map[string]string{
		"transactional.id.expiration.ms":                              "2000",
		"transaction.remove.expired.transaction.cleanup.interval.ms":  "200",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "200",
	}})
	c, _ := k.Connect()
	ensureTopic(t, c, fenced, 1, nil)
	ctx := testContext(t)
	fenceAs := func(id string, partition string) *kafka.FencedProducer {
		t.Helper()
		p, err := c.Fence(ctx, kafka.FenceConfig{TransactionalID: id, Topic: partition})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const other = "not-renewed"
	ensureTopic(t, c, other, 1, nil)

	former := fenceAs("renewed", fenced)
	appendTo(t, former, 0, numbered(0, 1)...)
	owner := fenceAs("renewed", fenced)
	appendTo(t, owner, 1, numbered(1, 2)...)
	silent := fenceAs("silent", other)
	appendTo(t, silent, 0, numbered(0, 1)...)

	// It is forgotten when it cannot be renewed any more.
	renewals, next := 0, int64(2)
	begin := time.Now()
	Eventually(t, time.Minute, "a transactional id being forgotten", func() error {
		if err := owner.Renew(ctx); err != nil {
			t.Fatalf("renewal %d: %v", renewals, err)
		}
		renewals++
		appendTo(t, owner, next, numbered(int(next), int(next)+1)...)
		next++
		if time.Since(begin) < 5*time.Second {
			return errors.New("not yet")
		}
		if err := silent.Renew(ctx); !errors.Is(err, kafka.ErrOutOfSequence) && !errors.Is(err, kafka.ErrFenced) {
			return fmt.Errorf("it can be renewed: %v", err)
		}
		return nil
	})
	if err := former.Renew(ctx); !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("the former owner renews: %v", err)
	}
	if _, err := former.Append(ctx, numbered(90, 91)); !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("the former owner writes: %v", err)
	}
	// And the next owner fences the one that renewed.
	last := fenceAs("renewed", fenced)
	appendTo(t, last, next, numbered(int(next), int(next)+1)...)
	if _, err := owner.Append(ctx, numbered(90, 91)); !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("the owner before writes: %v", err)
	}
	t.Logf("in %v and %d renewals the transactional id was not forgotten, and former owners stayed fenced off; one that was not renewed was", time.Since(begin).Round(100*time.Millisecond), renewals)
}

// TestIdleScorerStaysOwner has a scorer without events for longer than the
// broker remembers producers.
func TestIdleScorerStaysOwner(t *testing.T) {
	w := startWorld(t, KafkaConfig{Settings: forgetful})
	former := w.former()
	w.score(scorer.Config{MarkerInterval: 300 * time.Millisecond})
	w.send(w.event("anna", 1))
	w.waitScores("anna:1@0")
	begin := time.Now()
	Eventually(t, time.Minute, "ten more markers", func() error {
		if _, markers := w.scores(); markers < 11 {
			return fmt.Errorf("%d markers", markers)
		}
		return nil
	})
	idle := time.Since(begin)
	_, err := former.Append(testContext(t), []kafka.Record{{Key: []byte("anna"), Value: []byte("stale")}})
	if !errors.Is(err, kafka.ErrFenced) {
		t.Fatalf("the former owner's write after %v: %v", idle, err)
	}
	w.send(w.event("anna", 2))
	w.waitScores("anna:1@0", "anna:2@1")
	t.Logf("idle for %v, the scorer repeated its marker and stayed the only writer: %v", idle.Round(100*time.Millisecond), err)
}

// TestForgottenScorerComesBack has a scorer be silent for so long that a
// former owner's stale score gets through.
func TestForgottenScorerComesBack(t *testing.T) {
	w := startWorld(t, KafkaConfig{Settings: forgetful})
	former := w.former()
	w.score(scorer.Config{})
	w.send(w.event("anna", 1))
	w.send(w.event("anna", 2))
	w.waitScores("anna:1@0", "anna:2@1")
	stale := fetchTo(t, w.cluster, schemas.TopicScores, 0, 3)
	for _, r := range stale {
		if r.Value != nil && !schemas.IsReservedKey(r.Key) {
			stale = []kafka.Record{r} // the score of the first event
			break
		}
	}
	begin := time.Now()
	Eventually(t, 30*time.Second, "the broker forgetting", func() error {
		if time.Since(begin) < 2500*time.Millisecond {
			return errors.New("not yet time")
		}
		return nil
	})
	if _, err := former.Append(testContext(t), stale); err != nil {
		t.Fatalf("the stale write after the broker forgot: %v", err)
	}
	w.send(w.event("bert", 3))
	Eventually(t, time.Minute, "the score of the new event", func() error {
		if got, _ := w.scores(); !slices.Contains(got, "bert:3@2") {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	if n := counter(t, w.metrics, "churn_scorer_fenced_total"); n != 1 {
		t.Errorf("the partition was taken anew %v times, want once", n)
	}
	got, _ := w.scores()
	t.Logf("the scorer was forgotten, met a stale write and took the partition anew: %v", got)
	last, identities := "", map[string]bool{}
	for _, s := range got {
		identities[s] = true
		if strings.HasPrefix(s, "anna") {
			last = s
		}
	}
	if len(identities) != 3 {
		t.Errorf("%d different scores, want one for each of three events: %v", len(identities), got)
	}

	// The state did not take the stale score for the valid one.
	w.send(w.event("anna", 4))
	Eventually(t, time.Minute, "anna's new score", func() error {
		if got, _ := w.scores(); got[len(got)-1] != "anna:4@3" {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	s := w.codec.NewScore()
	each(t, w.cluster, schemas.TopicScores, func(ctx context.Context, r kafka.Record) error {
		if r.Value == nil || schemas.IsReservedKey(r.Key) {
			return nil
		}
		return w.codec.DecodeScore(ctx, r.Value, s) // the last one stays
	})
	second := 1 / (1 + math.Exp(-(-1 + 2*0.7)))
	if math.Abs(s.Previous-second) > 1e-9 {
		t.Errorf("the probability before anna's third event is %v, want that of her second, %v", s.Previous, second)
	}
	if last != "anna:2@1" {
		// Compaction would keep it.
		t.Errorf("until anna's next event the last of her scores was %s, want the valid one after the stale", last)
	}
}

// counter returns the sum of a counter's series.
func counter(t testing.TB, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
