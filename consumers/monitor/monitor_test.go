package monitor

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// attributes is a table unlike the shipped one: nothing here may depend on it.
const attributes = `{"type":"record","name":"CustomerAttributes","namespace":"churnstream","fields":[
	{"name":"plan","type":["null","string"],"default":null},
	{"name":"bill","type":["null","double"],"default":null}]}`

func newCodec(t *testing.T) *schemas.Codec {
	t.Helper()
	set, err := schemas.Parse([]byte(attributes))
	if err != nil {
		t.Fatal(err)
	}
	codec := schemas.NewCodec(set, registrytest.New())
	if err := codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	return codec
}

// theModels are models that do not change.
type theModels struct {
	role.Models // what a monitor does not ask for
	all         []*models.Version
}

func (m theModels) List() []*models.Version { return m.all }
func (m theModels) Champion() *models.Version {
	for _, v := range m.all {
		if v.Stage == schemas.StageChampion {
			return v
		}
	}
	return nil
}

// world is a broker with the two topics and a clock for the records.
type world struct {
	t        *testing.T
	cluster  *kafka.Cluster
	codec    *schemas.Codec
	producer *kafka.Producer
	clock    time.Time // of the last record written
	models   theModels
}

func newWorld(t *testing.T) *world {
	t.Helper()
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	if err := cluster.EnsureTopics(t.Context(),
		kafka.TopicConfig{Name: schemas.TopicScores, Partitions: 3},
		kafka.TopicConfig{Name: schemas.TopicOutcomes, Partitions: 3}); err != nil {
		t.Fatal(err)
	}
	version := func(n int64, stage schemas.Stage) *models.Version {
		return &models.Version{ModelVersion: schemas.ModelVersion{
			Version: n, Stage: stage, CreatedAt: start.Add(-time.Hour).UnixMilli(),
			Metrics: evaluation.Metrics{Figures: evaluation.Figures{Accuracy: .8, ROCAUC: .85, LogLoss: .4}},
			Baseline: []schemas.BaselineDistribution{
				{Name: "plan", Bins: []string{"month", "year"}, Frequencies: []float64{.5, .5}},
				{Name: "bill", Bins: []string{"50", "+Inf"}, Frequencies: []float64{.5, .5}},
				{Name: scoreBaseline, Bins: []string{"0.5", "+Inf"}, Frequencies: []float64{.75, .25}},
			},
		}}
	}
	return &world{
		t: t, cluster: cluster, codec: newCodec(t), clock: start,
		producer: cluster.NewProducer(kafka.ProducerConfig{}),
		models:   theModels{all: []*models.Version{version(3, schemas.StageChallenger), version(2, schemas.StageChampion), version(1, schemas.StageRetired)}},
	}
}

var start = time.UnixMilli(1_700_000_000_000)

// produce writes a record a second after the one before.
func (w *world) produce(topic string, key, value []byte) {
	w.t.Helper()
	w.clock = w.clock.Add(time.Second)
	if err := w.producer.Produce(w.t.Context(), topic, kafka.Record{Key: key, Value: value, Time: w.clock}); err != nil {
		w.t.Fatal(err)
	}
}

// erase has a scorer erase the scores of a customer from before an offset.
func (w *world) erase(customer string, offset int) {
	w.t.Helper()
	w.clock = w.clock.Add(time.Second)
	if err := w.producer.Produce(w.t.Context(), schemas.TopicScores, kafka.Record{Key: []byte(customer), Time: w.clock, Headers: []kafka.Header{
		{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: strconv.AppendInt(nil, int64(offset), 10)},
	}}); err != nil {
		w.t.Fatal(err)
	}
}

// seconds is a time in milliseconds, in seconds after the start.
func seconds(n int) int64 { return start.Add(time.Duration(n) * time.Second).UnixMilli() }

func appendScore(codec *schemas.Codec, customer string, occurredAt, version int64, p float64, plan string, bill float64) []byte {
	s := codec.NewScore()
	s.CustomerID, s.EventID = []byte(customer), []byte("0b5c4a52-6a3c-4b8e-9f0d-0123456789ab")
	s.OccurredAt, s.ScoredAt, s.ModelVersion, s.Probability = occurredAt, occurredAt, version, p
	s.Previous = scoring.Missing
	s.Attributes = scoring.NewVector(2)
	if plan != "" {
		s.Attributes[0], _ = codec.Set().Vocabulary().CodeString(0, plan)
	}
	s.Attributes[1] = bill
	return codec.AppendScore(nil, s)
}

func (w *world) score(customer string, occurred int, version int64, p float64, plan string, bill float64) {
	w.t.Helper()
	w.produce(schemas.TopicScores, []byte(customer), appendScore(w.codec, customer, seconds(occurred), version, p, plan, bill))
}

func (w *world) outcome(customer string, observed int, churned bool, own scoring.Vector) {
	w.t.Helper()
	w.produce(schemas.TopicOutcomes, []byte(customer), w.codec.AppendOutcome(nil, &schemas.ChurnOutcome{
		CustomerID: customer, ObservedAt: seconds(observed), Churned: churned, Attributes: own,
	}))
}

// running is a monitor at work.
type running struct {
	*Monitor
	reg   *prometheus.Registry
	clock atomic.Int64
	ready chan struct{}
	stop  func()
}

func (w *world) start(cfg Config) *running {
	w.t.Helper()
	r := &running{reg: prometheus.NewPedanticRegistry(), ready: make(chan struct{})}
	cfg.Cluster, cfg.Codec, cfg.Models, cfg.Registerer = w.cluster, w.codec, w.models, r.reg
	cfg.Ready = func(name string, ready bool, why string) {
		if ready {
			close(r.ready)
		} else if why == "" {
			w.t.Error("not ready, without saying why")
		}
	}
	m, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Monitor = m
	r.clock.Store(w.clock.UnixMilli())
	m.now = func() time.Time { return time.UnixMilli(r.clock.Load()) }
	if got := w.values(r.reg, "churn_outcomes", "churn_score", "churn_monitor_caught_up"); len(got) != 1 || got["churn_monitor_caught_up"] != 0 {
		w.t.Errorf("exported before the history is read: %v", got)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	w.t.Cleanup(r.stop)
	select {
	case <-r.ready:
	case err := <-done:
		w.t.Fatalf("Run: %v", err)
	case <-time.After(20 * time.Second):
		w.t.Fatal("the monitor does not become ready")
	}
	return r
}

func (r *running) await(t *testing.T, what string, ok func(Stats) bool) {
	t.Helper()
	await.Until(t, what, func() bool { return ok(r.Stats()) }, func() string { return fmt.Sprintf("%+v", r.Stats()) })
}

// values returns counters, gauges and the counts of histograms by name and
// labels, of the metrics whose names begin so.
func (w *world) values(reg *prometheus.Registry, prefixes ...string) map[string]float64 {
	w.t.Helper()
	families, err := reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(f.GetName(), p) }) {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func (w *world) check(reg *prometheus.Registry, want map[string]float64) {
	w.t.Helper()
	got := w.values(reg, "churn_")
	for name, v := range want {
		if g, ok := got[name]; !ok || math.Abs(g-v) > 1e-9 {
			w.t.Errorf("%s is %v (there: %t), want %v", name, g, ok, v)
		}
	}
}

func TestMonitor(t *testing.T) {
	w := newWorld(t)
	w.produce(schemas.TopicScores, []byte("\x00marker"), nil)
	w.outcome("warehouse", 0, true, scoring.Vector{scoring.Missing, 70})
	w.score("ann", 2, 1, .8, "month", 20)   // written at 3
	w.score("bob", 3, 2, .4, "year", 50)    // 4
	w.score("cid", 4, 2, .6, "month", 50.5) // 5
	w.outcome("ann", 6, true, nil)          // 6
	w.outcome("bob", 6, true, nil)          // 7
	w.outcome("cid", 6, false, nil)         // 8
	w.outcome("ann", 6, true, nil)          // 9: again
	w.score("ann", 10, 2, .2, "", 100)      // 10
	w.outcome("ann", 11, false, nil)        // 11
	w.erase("bob", 3)
	w.produce(schemas.TopicScores, []byte("bob"), []byte("not framed"))
	w.outcome("bob", 13, true, nil) // 14: erased, in vain
	w.produce(schemas.TopicOutcomes, []byte("ann"), []byte{0, 0, 0, 0, 99})
	w.clock = w.clock.Add(time.Hour)

	history := map[string]float64{
		`churn_outcomes_total{actual="churn",model_version="1",predicted="churn"}`: 1,
		`churn_outcomes_total{actual="churn",model_version="1",predicted="stay"}`:  0,
		`churn_outcomes_total{actual="stay",model_version="1",predicted="churn"}`:  0,
		`churn_outcomes_total{actual="churn",model_version="2",predicted="stay"}`:  1,
		`churn_outcomes_total{actual="stay",model_version="2",predicted="churn"}`:  1,
		`churn_outcomes_total{actual="stay",model_version="2",predicted="stay"}`:   1,
		`churn_outcomes_historical_total`:                                          1,
		`churn_outcomes_duplicate_total`:                                           1,
		`churn_outcomes_unmatched_total{reason="no_score"}`:                        1,
		`churn_outcomes_unmatched_total{reason="later_scores"}`:                    0,
		`churn_outcomes_pending`:                                                   0,
		`churn_score_age_at_outcome_seconds`:                                       4,
		`churn_score_probability`:                                                  4,
		`churn_model_window_outcomes{model_version="1"}`:                           1,
		`churn_model_window_outcomes{model_version="2"}`:                           3,
		`churn_model_accuracy{model_version="1"}`:                                  1,
		`churn_model_accuracy{model_version="2"}`:                                  1. / 3,
		`churn_model_recall{model_version="2"}`:                                    0,
		`churn_model_brier{model_version="2"}`:                                     (.6*.6 + .6*.6 + .2*.2) / 3,
		`churn_model_holdout_accuracy{model_version="3"}`:                          .8,
		`churn_model_info{model_version="1",stage="retired"}`:                      1,
		`churn_model_info{model_version="2",stage="champion"}`:                     1,
		`churn_model_info{model_version="3",stage="challenger"}`:                   1,
		`churn_monitor_skipped_total{reason="bad_frame",topic="churn.scores"}`:     1,
		`churn_monitor_caught_up`:                                                  1,
		`churn_drift_window_scores`:                                                4,
		// month 2, year 1, missing 1 against half and half
		`churn_feature_psi{feature="plan"}`: -.25*math.Log(.5) + (.25-1e-4)*math.Log(.25/1e-4),
		`churn_feature_psi{feature="bill"}`: 0,
		`churn_score_psi`:                   -.25*math.Log(.5/.75) + .25*math.Log(.5/.25),
	}
	r := w.start(Config{})
	w.check(r.reg, history)
	if got := w.values(r.reg, "churn_model_age")["churn_model_age_seconds"]; got != w.clock.Sub(start.Add(-time.Hour)).Seconds() {
		t.Errorf("the champion's age is %v s", got)
	}
	if problems, err := testutil.GatherAndLint(r.reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	s := r.Stats()
	if !s.CaughtUp || s.Outcomes != 4 || s.Accuracy != .5 || s.Unmatched != 1 || s.Historical != 1 || s.Duplicates != 1 ||
		len(s.Versions) != 2 || s.Versions[0].Version != 2 || s.Versions[0].Outcomes != 3 {
		t.Errorf("got %+v", s)
	}

	// Live: an outcome that comes before its score, and one in vain.
	w.outcome("dan", 3620, true, nil)
	w.outcome("eve", 3620, true, nil)
	r.await(t, "the outcomes", func(s Stats) bool { return s.Pending == 2 })
	w.score("dan", 3619, 2, .9, "year", 1)
	r.await(t, "the late score", func(s Stats) bool { return s.Outcomes == 5 && s.Pending == 1 })
	r.clock.Add((2 * time.Minute).Milliseconds())
	r.await(t, "the end of the grace", func(s Stats) bool { return s.Unmatched == 2 && s.Pending == 0 })

	// A restart comes to the same figures.
	counters := []string{"churn_outcomes_", "churn_label", "churn_score_probability", "churn_monitor_skipped", "churn_model_"}
	w.clock = time.UnixMilli(r.clock.Load())
	before := w.values(r.reg, counters...)
	r.stop()
	r = w.start(Config{})
	if after := w.values(r.reg, counters...); !maps.Equal(before, after) {
		t.Errorf("after a restart:\n%v\nbefore:\n%v", after, before)
	}
}

// An outcome that was redriven is judged by the score of its own time.
func TestRedrivenOutcome(t *testing.T) {
	w := newWorld(t)
	w.score("ann", 1, 1, .9, "year", 1) // written at 1
	w.score("ann", 2, 1, .1, "year", 1) // 2
	w.clock = w.clock.Add(time.Hour)
	err := w.producer.Produce(t.Context(), schemas.TopicOutcomes, kafka.Record{
		Key: []byte("ann"), Time: w.clock,
		Value:   w.codec.AppendOutcome(nil, &schemas.ChurnOutcome{CustomerID: "ann", ObservedAt: seconds(5), Churned: true}),
		Headers: []kafka.Header{{Key: deadletters.HeaderWrittenAt, Value: strconv.AppendInt(nil, seconds(1), 10)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := w.start(Config{})
	if s := r.Stats(); s.Outcomes != 1 || s.Accuracy != 1 {
		t.Errorf("got %+v", s)
	}
}

// The score of a late event speaks of what came before it too.
func TestScoreOfALateEvent(t *testing.T) {
	w := newWorld(t)
	w.score("ann", 1, 1, .9, "year", 1)
	late := w.codec.NewScore()
	if err := w.codec.DecodeScore(t.Context(), appendScore(w.codec, "ann", seconds(2), 1, .1, "year", 1), late); err != nil {
		t.Fatal(err)
	}
	late.AsOf = seconds(8)
	w.produce(schemas.TopicScores, []byte("ann"), w.codec.AppendScore(nil, late))
	w.outcome("ann", 5, true, nil)
	r := w.start(Config{})
	if s := r.Stats(); s.Outcomes != 1 || s.Accuracy != 1 {
		t.Errorf("got %+v", s)
	}
}

// A record whose timestamp is years ahead does not end the waiting of others.
func TestRecordAheadOfItsTime(t *testing.T) {
	w := newWorld(t)
	w.outcome("ann", 60, true, nil)
	now := w.clock
	w.clock = now.AddDate(10, 0, 0)
	w.score("bob", 1, 1, .9, "year", 1)
	w.clock = now
	w.score("ann", 50, 1, .9, "year", 1)
	r := w.start(Config{})
	if s := r.Stats(); s.Outcomes != 1 || s.Unmatched != 0 {
		t.Errorf("got %+v", s)
	}
}

func TestLeadTime(t *testing.T) {
	w := newWorld(t)
	w.score("ann", 1, 1, .9, "year", 1)
	w.score("ann", 50, 1, .1, "year", 1)
	w.outcome("ann", 60, true, nil)
	r := w.start(Config{LeadTime: 30 * time.Second})
	if s := r.Stats(); s.Outcomes != 1 || s.Accuracy != 1 {
		t.Errorf("got %+v", s)
	}
}

// Topics get more partitions, one after the other. A customer whose home
// changes is joined with scores from before.
func TestTopicsGrow(t *testing.T) {
	w := newWorld(t)
	grow := func(topic string, n int) {
		t.Helper()
		if err := w.cluster.GrowTopic(t.Context(), topic, n); err != nil {
			t.Fatal(err)
		}
	}
	grow(schemas.TopicScores, 4)
	reports := make(chan string, 100)
	m, err := New(Config{Dependencies: role.Dependencies{Cluster: w.cluster, Codec: w.codec, Models: w.models, Ready: func(name string, ready bool, why string) {
		reports <- fmt.Sprintf("%s: %t %s", name, ready, why)
	}}})
	if err != nil {
		t.Fatal(err)
	}
	m.topicsInterval = 10 * time.Millisecond
	done := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- m.Run(ctx) }()
	report := func(want string) {
		t.Helper()
		for timeout := time.After(20 * time.Second); ; {
			select {
			case got := <-reports:
				if strings.Contains(got, want) {
					return
				}
			case <-timeout:
				t.Fatalf("nobody reports %q", want)
			}
		}
	}
	report("monitor partitions: false " + schemas.TopicScores + " has 4 partitions and " + schemas.TopicOutcomes + " has 3; give them the same number")
	grow(schemas.TopicOutcomes, 4)
	report("monitor: true")

	to := func(topic string, partition, second int, value []byte) {
		t.Helper()
		r := kafka.Record{Key: []byte("anna"), Value: value, Time: time.UnixMilli(seconds(second))}
		if err := w.producer.ProduceTo(t.Context(), topic, partition, []kafka.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	outcome := func(observed int) []byte {
		return w.codec.AppendOutcome(nil, &schemas.ChurnOutcome{CustomerID: "anna", ObservedAt: seconds(observed), Churned: true})
	}
	stats := func(what string, ok func(Stats) bool) {
		t.Helper()
		(&running{Monitor: m}).await(t, what, ok)
	}
	to(schemas.TopicScores, 0, 1, appendScore(w.codec, "anna", seconds(1), 2, .9, "year", 10))
	to(schemas.TopicOutcomes, 0, 2, outcome(2))
	stats("the first outcome", func(s Stats) bool { return s.Outcomes == 1 })
	grow(schemas.TopicOutcomes, 6)
	report("monitor partitions: false " + schemas.TopicScores + " has 4 partitions and " + schemas.TopicOutcomes + " has 6")
	grow(schemas.TopicScores, 6)
	report("monitor partitions: true")
	to(schemas.TopicOutcomes, 5, 3, outcome(3))
	stats("the outcome in a new partition", func(s Stats) bool { return s.Outcomes == 2 && s.Accuracy == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	whole := Config{Dependencies: role.Dependencies{Cluster: cluster, Codec: newCodec(t), Models: theModels{}}}
	for name, spoil := range map[string]func(*Config){
		"cluster":   func(c *Config) { c.Cluster = nil },
		"codec":     func(c *Config) { c.Codec = nil },
		"models":    func(c *Config) { c.Models = nil },
		"lead-time": func(c *Config) { c.LeadTime = -1 },
	} {
		cfg := whole
		spoil(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	reg := prometheus.NewRegistry()
	whole.Registerer = reg
	if _, err := New(whole); err != nil {
		t.Fatal(err)
	}
	if _, err := New(whole); err == nil {
		t.Error("the same metrics were registered twice")
	}
}

// timeline is a log of records that appear as they are fetched.
type timeline struct {
	records []kafka.Record
	there   int // of records
	rand    *rand.Rand
	done    func()
}

// topicFetcher reads one topic of a timeline.
type topicFetcher struct {
	*timeline
	topic  string
	offset int // in records
	high   int
	stuck  bool // after an open transaction, for ever
}

func (f *topicFetcher) Offset() int64        { return int64(f.offset) }
func (f *topicFetcher) HighWatermark() int64 { return int64(f.high) }
func (f *topicFetcher) Close()               {}

func (f *topicFetcher) Fetch(ctx context.Context) ([]kafka.Record, error) {
	if f.offset == len(f.records) || f.stuck {
		f.done()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.there = min(f.there+f.rand.IntN(4), len(f.records))
	f.high = f.there
	if f.stuck {
		return nil, nil
	}
	var out []kafka.Record
	for limit := 1 + f.rand.IntN(5); f.offset < f.there && len(out) < limit; f.offset++ {
		if f.records[f.offset].Topic == f.topic {
			out = append(out, f.records[f.offset])
		}
	}
	return out, nil
}

// TestRestartAgrees reads the same records while they appear and when they are
// all there, in fetches of any size: the results must be the same.
func TestRestartAgrees(t *testing.T) {
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	codec := newCodec(t)
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		var records []kafka.Record
		for i := range 80 {
			customer := "c" + strconv.Itoa(r.IntN(4))
			rec := kafka.Record{Topic: schemas.TopicScores, Key: []byte(customer), Offset: int64(i), Time: time.UnixMilli(seconds(i))}
			if r.IntN(3) > 0 {
				rec.Value = appendScore(codec, customer, seconds(i-r.IntN(20)), int64(i), .7, "year", 1)
			} else {
				rec.Topic = schemas.TopicOutcomes
				rec.Value = codec.AppendOutcome(nil, &schemas.ChurnOutcome{CustomerID: customer, ObservedAt: seconds(i - r.IntN(20)), Churned: true})
			}
			records = append(records, rec)
		}
		read := func(there int) []string {
			m, err := New(Config{Dependencies: role.Dependencies{Cluster: cluster, Codec: codec, Models: theModels{}}, Grace: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			line := &timeline{records: records, there: there, rand: r}
			fetch := func(topic string) *topicFetcher { return &topicFetcher{timeline: line, topic: topic} }
			scores, outcomes := fetch(schemas.TopicScores), fetch(schemas.TopicOutcomes)
			idle := 0
			line.done = func() {
				if scores.offset == len(records) && outcomes.offset == len(records) {
					if idle++; idle > 2 {
						cancel()
					}
				}
			}
			m.now = func() time.Time { return records[max(line.there-1, 0)].Time }
			var l ledger
			m.owners = nil // there is no Kafka to ask
			p := m.newPartition()
			p.join = newJoin(8, 0, newCustomers(), &l)
			p.scores = source{fetcher: scores, end: int64(there)}
			p.outcome = source{fetcher: outcomes, end: int64(there)}
			caughtUp := 0
			if err := p.run(ctx, func() { caughtUp++ }); ctx.Err() == nil {
				t.Fatal(err)
			}
			if caughtUp != 1 {
				t.Fatalf("caught up %d times", caughtUp)
			}
			p.join.expire(math.MaxInt64)
			slices.Sort(l.lines)
			return l.lines
		}
		live, restarted := read(0), read(len(records))
		if !slices.Equal(live, restarted) {
			t.Fatalf("seed %d:\n%s\nand after a restart:\n%s", seed, strings.Join(live, "\n"), strings.Join(restarted, "\n"))
		}
	}
}

// TestOpenTransaction has outcomes that cannot be read yet: scores go on.
func TestOpenTransaction(t *testing.T) {
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	codec := newCodec(t)
	m, err := New(Config{Dependencies: role.Dependencies{Cluster: cluster, Codec: codec, Models: theModels{}}})
	if err != nil {
		t.Fatal(err)
	}
	m.owners = nil // there is no Kafka to ask
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	line := &timeline{rand: rand.New(rand.NewPCG(1, 1))}
	for i := range 20 {
		line.records = append(line.records, kafka.Record{Topic: schemas.TopicScores, Time: time.UnixMilli(seconds(i)),
			Key: []byte(strconv.Itoa(i)), Value: appendScore(codec, strconv.Itoa(i), seconds(i), 1, .5, "", 1)})
	}
	line.there = len(line.records)
	scores := &topicFetcher{timeline: line, topic: schemas.TopicScores}
	outcomes := &topicFetcher{timeline: line, topic: schemas.TopicOutcomes, stuck: true}
	line.done = func() {
		if scores.offset == len(line.records) && len(m.recent.probability) == len(line.records) {
			cancel()
		}
	}
	p := m.newPartition()
	p.scores, p.outcome = source{fetcher: scores}, source{fetcher: outcomes}
	timeout := time.AfterFunc(10*time.Second, cancel)
	p.run(ctx, func() {})
	if !timeout.Stop() {
		t.Fatalf("%d of %d scores were handled", len(m.recent.probability), len(line.records))
	}
}
