package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
	"github.com/churnstream/churnstream/scoring/segment"
)

// attributes is a table unlike the shipped one: nothing here may depend on it.
const attributes = `{"type":"record","name":"CustomerAttributes","namespace":"churnstream","fields":[
	{"name":"plan","type":["null","string"],"default":null},
	{"name":"age","type":["null","double"],"default":null,"feature":{"unit":"EUR"}},
	{"name":"bill","type":["null","double"],"default":null,"feature":{"actionable":true,"unit":"EUR"}}]}`

func newCodec(t testing.TB) *schemas.Codec {
	t.Helper()
	set, err := schemas.Parse([]byte(attributes))
	if err != nil {
		t.Fatal(err)
	}
	codec := schemas.NewCodec(set, registrytest.New())
	if err := codec.Register(context.Background()); err != nil {
		t.Fatal(err)
	}
	return codec
}

// theModels are the model versions that a monitor knows.
type theModels struct {
	role.Models // what a monitor does not ask for
	mu          sync.Mutex
	all         []*models.Version
	changed     chan struct{}
}

func (m *theModels) List() []*models.Version {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all
}

func (m *theModels) Champion() *models.Version {
	for _, v := range m.List() {
		if v.Stage == schemas.StageChampion {
			return v
		}
	}
	return nil
}

func (m *theModels) Get(version int64) *models.Version {
	for _, v := range m.List() {
		if v.Version == version {
			return v
		}
	}
	return nil
}

func (m *theModels) CaughtUp() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (m *theModels) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *theModels) set(all ...*models.Version) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = all
	if m.changed != nil {
		close(m.changed)
	}
	m.changed = make(chan struct{})
}

var start = time.UnixMilli(1_700_000_000_000)

// seconds is a time in milliseconds, in seconds after the start.
func seconds(n int) int64 { return start.Add(time.Duration(n) * time.Second).UnixMilli() }

// newVersion makes a version whose log-odds are 0 but for what a plan by the year
// and a euro of the bill add.
func newVersion(t testing.TB, codec *schemas.Codec, number int64, stage schemas.Stage, year, bill float64) *models.Version {
	t.Helper()
	uniform := func(slope float64, name string) scoring.ModelFeature {
		f := scoring.ModelFeature{Name: name, Kind: "numeric", LogOddsPerUnit: slope, Quartiles: []float64{25, 50, 75}}
		for i := range 4 {
			low := float64(i) * 25
			f.Bins = append(f.Bins, scoring.Bin{Mean: low + 12.5, Std: 7, Min: low + 1, Max: low + 25, Frequency: .25})
		}
		for i := range 20 {
			f.EmpiricalQuantiles = append(f.EmpiricalQuantiles, float64(i)*5+2.5)
		}
		return f
	}
	model := &scoring.Model{Thresholds: scoring.Thresholds{Medium: .3, High: .6}, Features: []scoring.ModelFeature{
		{Name: "plan", Kind: "categorical", Levels: []string{"month", "year"}, LogOdds: []float64{0, year}, Frequency: []float64{.5, .5}},
		uniform(0, "age"), uniform(bill, "bill"),
	}}
	predictor, err := scoring.Compile(model, codec.Set().Vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	return &models.Version{Model: model, Predictor: predictor, ModelVersion: schemas.ModelVersion{
		Version: number, Stage: stage, CreatedAt: start.Add(-time.Hour).UnixMilli(), LabelsUntil: seconds(int(number)),
		MediumThreshold: .3, HighThreshold: .6, Horizon: 30_000,
	}}
}

// world is a broker with the topics.
type world struct {
	t        *testing.T
	cluster  *kafka.Cluster
	codec    *schemas.Codec
	producer *kafka.Producer
	models   *theModels
}

func newWorld(t *testing.T, partitions int) *world {
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
		kafka.TopicConfig{Name: schemas.TopicScores, Partitions: partitions},
		kafka.TopicConfig{Name: schemas.TopicExamples, Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, cluster: cluster, codec: newCodec(t), producer: cluster.NewProducer(kafka.ProducerConfig{}), models: &theModels{}}
	w.models.set(
		newVersion(t, w.codec, 3, schemas.StageChallenger, -2, .02),
		newVersion(t, w.codec, 2, schemas.StageChampion, -1, 0),
		newVersion(t, w.codec, 1, schemas.StageRetired, 1, 0))
	return w
}

func (w *world) produce(topic string, records ...kafka.Record) {
	w.t.Helper()
	if err := w.producer.Produce(w.t.Context(), topic, records...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) vector(plan string, bill float64) scoring.Vector {
	x := scoring.NewVector(3)
	if plan != "" {
		x[0], _ = w.codec.Set().Vocabulary().CodeString(0, plan)
	}
	x[1], x[2] = 40, bill
	return x
}

func (w *world) example(observed int, version int64, p float64, left bool, plan string, bill float64) schemas.LabelledExample {
	e := exampleAt(seconds(observed), version, p, left)
	e.AsOf, e.Horizon, e.LabelledAt, e.Attributes = seconds(observed-40), 30_000, seconds(observed+1), w.vector(plan, bill)
	return e
}

func (w *world) examples(customer string, examples ...schemas.LabelledExample) kafka.Record {
	return kafka.Record{Key: []byte(customer), Value: w.codec.AppendExamples(nil, recordOf(customer, examples...))}
}

func (w *world) score(customer string, asOf int, version int64, p float64, plan string, bill float64) kafka.Record {
	s := w.codec.NewScore()
	s.CustomerID, s.EventID = []byte(customer), []byte("0b5c4a52-6a3c-4b8e-9f0d-0123456789ab")
	s.OccurredAt, s.AsOf, s.ScoredAt, s.ModelVersion, s.Probability = seconds(asOf), seconds(asOf), seconds(asOf), version, p
	s.Previous = scoring.Missing
	s.Attributes = w.vector(plan, bill)
	return kafka.Record{Key: []byte(customer), Value: w.codec.AppendScore(nil, s)}
}

// running is a monitor at work.
type running struct {
	*Monitor
	world *world
	reg   *prometheus.Registry
	ready chan struct{}
	stop  func()
}

func (w *world) begin(cfg Config) *running {
	w.t.Helper()
	r := &running{world: w, reg: prometheus.NewPedanticRegistry(), ready: make(chan struct{})}
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
	m.now = func() time.Time { return start.Add(time.Hour) }
	m.computer.every, m.topicsInterval = 0, 10*time.Millisecond
	m.refillInterval = 10 * time.Millisecond
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
	return r
}

func (w *world) start(cfg Config) *running {
	w.t.Helper()
	r := w.begin(cfg)
	select {
	case <-r.ready:
	case <-time.After(20 * time.Second):
		w.t.Fatal("the monitor does not become ready")
	}
	return r
}

// result computes anew: the clock of a test stands still.
func (r *running) result() *result {
	r.computer.mu.Lock()
	r.computer.next = time.Time{}
	r.computer.mu.Unlock()
	return r.computer.result()
}

// text returns /metrics, but for how long it took to compute.
func (r *running) text() string {
	r.world.t.Helper()
	r.result()
	families, err := r.reg.Gather()
	if err != nil {
		r.world.t.Fatal(err)
	}
	var b bytes.Buffer
	for _, f := range families {
		if f.GetName() != "churn_monitor_compute_seconds" && f.GetName() != "churn_monitor_refills_total" {
			if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
				r.world.t.Fatal(err)
			}
		}
	}
	return b.String()
}

// lines are the samples on /metrics.
func (r *running) lines() map[string]string {
	r.world.t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(r.text()) {
		if at := strings.LastIndexByte(line, ' '); line[0] != '#' {
			all[line[:at]] = strings.TrimSpace(line[at:])
		}
	}
	return all
}

func (r *running) expect(want map[string]float64) {
	r.world.t.Helper()
	lines := r.lines()
	for name, value := range want {
		got, err := strconv.ParseFloat(lines[name], 64)
		switch {
		case math.IsNaN(value):
			if text, there := lines[name]; there {
				r.world.t.Errorf("%s is %s, where it is not defined", name, text)
			}
		case err != nil || math.Abs(got-value) > 1e-9:
			r.world.t.Errorf("%s is %q, not %v", name, lines[name], value)
		}
	}
}

func (r *running) until(what string, ok func(Stats) bool) {
	r.world.t.Helper()
	await.Until(r.world.t, what, func() bool { return ok(r.Stats()) }, func() string { return fmt.Sprintf("%+v", r.Stats()) })
}

func sigmoid(s float64) float64 { return 1 / (1 + math.Exp(-s)) }

func TestMonitor(t *testing.T) {
	w := newWorld(t, 3)
	w.produce(schemas.TopicExamples,
		kafka.Record{Key: []byte("\x00labeler"), Value: []byte("a marker")},
		w.examples("ann", w.example(50, 1, .8, true, "month", 20), w.example(100, 2, .2, false, "", 100)),
		w.examples("bob", w.example(60, 2, .4, true, "year", 50)),
		w.examples("cid", w.example(70, 2, .6, false, "month", 50)),
		w.examples("dan", w.example(80, 0, scoring.Missing, true, "month", 70)), // from a warehouse
		w.examples("eve", w.example(90, 2, .9, true, "month", 70)),
		kafka.Record{Key: []byte("eve")}, // erased
		kafka.Record{Key: []byte("fay"), Value: []byte("not framed")})
	w.produce(schemas.TopicScores,
		kafka.Record{Key: []byte(schemas.MarkerKey)},
		w.score("ann", 100, 1, .1, "month", 10),
		w.score("ann", 200, 2, .7, "month", 20),
		w.score("ann", 150, 2, .1, "month", 30), // is older
		w.score("bob", 210, 2, .4, "year", 40),
		w.score("cid", 220, 1, .9, "year", 50))
	r := w.start(Config{})
	third := math.Log(.4)
	r.expect(map[string]float64{
		`churn_monitor_caught_up`: 1,
		`churn_monitor_skipped_total{reason="bad_frame",topic="churn.examples"}`:   1,
		`churn_outcomes_total{actual="churn",model_version="1",predicted="churn"}`: 1,
		`churn_outcomes_total{actual="churn",model_version="1",predicted="stay"}`:  0,
		`churn_outcomes_total{actual="churn",model_version="2",predicted="stay"}`:  1,
		`churn_outcomes_total{actual="stay",model_version="2",predicted="churn"}`:  1,
		`churn_outcomes_total{actual="stay",model_version="2",predicted="stay"}`:   1,
		`churn_model_window_outcomes{model_version="1"}`:                           1,
		`churn_model_window_outcomes{model_version="2"}`:                           3,
		`churn_model_accuracy{model_version="2"}`:                                  1. / 3,
		`churn_model_recall{model_version="2"}`:                                    0,
		`churn_model_precision{model_version="2"}`:                                 0,
		`churn_model_roc_auc{model_version="2"}`:                                   .5,
		`churn_model_roc_auc{model_version="1"}`:                                   math.NaN(), // one class
		`churn_model_brier{model_version="2"}`:                                     (.6*.6 + .6*.6 + .2*.2) / 3,
		`churn_model_log_loss{model_version="2"}`:                                  -(2*third + math.Log(.8)) / 3,
		`churn_model_gain{decile="10",model_version="2"}`:                          1,
		`churn_model_calibration_observed{bin="3",model_version="2"}`:              1,
		`churn_model_calibration_predicted{bin="3",model_version="2"}`:             .4,
		`churn_model_calibration_observed{bin="9",model_version="2"}`:              math.NaN(),
		// ten seconds from the score to the decision
		`churn_age_examples{age="1h",model_version="2"}`:           3,
		`churn_age_examples{age="older",model_version="2"}`:        0,
		`churn_age_log_loss{age="older",model_version="2"}`:        math.NaN(),
		`churn_segment_examples{feature="plan",level="month"}`:     1,
		`churn_segment_examples{feature="plan",level="year"}`:      1,
		`churn_segment_churn_share{feature="plan",level="year"}`:   1,
		`churn_segment_log_loss{feature="plan",level="year"}`:      -third,
		`churn_segment_roc_auc{feature="plan",level="year"}`:       math.NaN(),
		`churn_segment_examples{feature="plan",level="(missing)"}`: 1,
		`churn_model_expected_accuracy{model_version="2"}`:         (.7 + .6) / 2,
		`churn_model_expected_accuracy{model_version="1"}`:         .9,
		`churn_model_info{model_version="1",stage="retired"}`:      1,
		`churn_model_info{model_version="2",stage="champion"}`:     1,
		`churn_model_info{model_version="3",stage="challenger"}`:   1,
		`churn_model_age_seconds`:                                  7200,
		`churn_drift_window_scores`:                                3,
		`churn_customers_by_risk{risk="HIGH"}`:                     2,
		`churn_customers_by_risk{risk="MEDIUM"}`:                   1,
		`churn_customers_by_risk{risk="LOW"}`:                      0,
		`churn_money_at_risk`:                                      70,
		`churn_money_feature_info{feature="bill",unit="EUR"}`:      1,
		`churn_shadow_examples{model_version="3"}`:                 5,
	})
	if problems, err := testutil.GatherAndLint(r.reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if s := r.Stats(); s != (Stats{CaughtUp: true, Examples: 4, Accuracy: .5, Customers: 3}) {
		t.Errorf("%+v", s)
	}

	// The report says the same, also in JSON, which knows no NaN.
	text, err := json.Marshal(r.Report())
	if err != nil {
		t.Fatal(err)
	}
	var report quality.Report
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	v := report.Of(2)
	if len(v.Gains) != 10 || v.Gains[9] != (quality.Decile{Gain: 1, Lift: 1}) {
		t.Errorf("gains %+v", v.Gains)
	}
	if len(v.Ages) != 1 || v.Ages[0].Most != "1h" || v.Ages[0].Rows != 3 || !(v.Ages[0].LogLoss > 0) {
		t.Errorf("ages %+v", v.Ages)
	}
	if i := slices.IndexFunc(report.Segments, func(s quality.Segment) bool { return s.Level == "year" }); len(report.Segments) != 3 || i < 0 ||
		report.Segments[i].Rows != 1 || report.Segments[i].ChurnShare != 1 || float64(report.Segments[i].LogLoss) != -third || report.Segments[i].ROCAUC.Defined() {
		t.Errorf("segments %+v", report.Segments)
	}

	// Live: a corrected label, an erasure, and a customer who comes back.
	w.produce(schemas.TopicExamples, w.examples("bob", w.example(60, 2, .4, false, "year", 50)), kafka.Record{Key: []byte("cid")})
	r.until("the correction and the erasure", func(s Stats) bool { return s.Examples == 3 && s.Accuracy == 1 })
	r.expect(map[string]float64{
		`churn_model_window_outcomes{model_version="2"}`:                          2,
		`churn_model_accuracy{model_version="2"}`:                                 1,
		`churn_outcomes_total{actual="churn",model_version="2",predicted="stay"}`: 1, // as it was at first
	})
	tombstone := kafka.Record{Key: []byte("ann"), Headers: []kafka.Header{
		{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte("9")}}}
	w.produce(schemas.TopicScores, tombstone)
	r.until("the erasure", func(s Stats) bool { return s.Customers == 2 })
	r.expect(map[string]float64{`churn_money_at_risk`: 50, `churn_customers_by_risk{risk="HIGH"}`: 1})

	// Other thresholds sort the customers anew.
	champion := newVersion(t, w.codec, 4, schemas.StageChampion, 0, 0)
	champion.MediumThreshold, champion.HighThreshold = .1, .2
	w.models.set(champion)
	r.expect(map[string]float64{`churn_money_at_risk`: 90, `churn_customers_by_risk{risk="HIGH"}`: 2})
}

// Until the topics are read nothing of them is exported.
func TestNothingIsSaidTooEarly(t *testing.T) {
	w := newWorld(t, 1)
	reg := prometheus.NewPedanticRegistry()
	m, err := New(Config{Dependencies: role.Dependencies{Cluster: w.cluster, Codec: w.codec, Models: w.models, Registerer: reg}})
	if err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		switch name := f.GetName(); {
		case name == "churn_monitor_caught_up":
			if f.GetMetric()[0].GetGauge().GetValue() != 0 {
				t.Error("it has caught up with what it has not read")
			}
		case strings.HasPrefix(name, "churn_model_holdout_"), strings.HasPrefix(name, "churn_monitor_"),
			name == "churn_model_info", name == "churn_model_age_seconds":
		default:
			t.Errorf("%s is exported", name)
		}
	}
	if report := m.Report(); report.CaughtUp || report.Champion != 2 || report.Versions != nil {
		t.Errorf("reported %+v", report)
	}
}

// history is what customers go through, as records of the topics in the order of
// each customer.
func (w *world) history(seed uint64) (examples, scores map[string][]kafka.Record) {
	rng := rand.New(rand.NewPCG(seed, 5))
	examples, scores = map[string][]kafka.Record{}, map[string][]kafka.Record{}
	for i := range 300 {
		customer := "customer-" + strconv.Itoa(i)
		plan := []string{"month", "year", "", "new plan"}[rng.IntN(4)]
		var all []schemas.LabelledExample
		for k := range 1 + rng.IntN(4) {
			bill := math.Round(1e4*rng.Float64()) / 100
			version := int64(1 + rng.IntN(2))
			p := sigmoid(rng.NormFloat64())
			all = append(all, w.example(100*k+rng.IntN(100), version, p, rng.Float64() < p, plan, bill))
			examples[customer] = append(examples[customer], w.examples(customer, all...))
			if rng.IntN(5) == 0 { // is corrected
				e := &all[k]
				e.Churned, e.LabelledAt, e.Corrections = !e.Churned, e.LabelledAt+3, e.Corrections+1
				examples[customer] = append(examples[customer], w.examples(customer, all...))
			}
			scores[customer] = append(scores[customer], w.score(customer, 100*k+rng.IntN(100), version, p, plan, bill))
		}
		if rng.IntN(20) == 0 { // is erased
			examples[customer] = append(examples[customer], kafka.Record{Key: []byte(customer)})
		}
	}
	return examples, scores
}

// The same topics give the same /metrics, to the bit: after a restart, read by
// several monitors, compacted, and with customers in any order in any number of
// partitions.
func TestTheSameTopicsGiveTheSameFigures(t *testing.T) {
	cfg := Config{Window: 120, DriftWindow: 100}
	var want, report string
	for i, partitions := range []int{4, 1, 3} {
		w := newWorld(t, partitions)
		for topic, byCustomer := range func() map[string]map[string][]kafka.Record {
			examples, scores := w.history(1)
			return map[string]map[string][]kafka.Record{schemas.TopicExamples: examples, schemas.TopicScores: scores}
		}() {
			customers := slices.Sorted(func(yield func(string) bool) {
				for customer := range byCustomer {
					if !yield(customer) {
						return
					}
				}
			})
			rng := rand.New(rand.NewPCG(uint64(i), 9))
			var records []kafka.Record
			for len(customers) > 0 { // each customer's in their order
				k := rng.IntN(len(customers))
				customer := customers[k]
				next := byCustomer[customer]
				if i == 2 { // as compaction leaves them
					next = next[len(next)-1:]
				}
				records = append(records, next[0])
				if byCustomer[customer] = next[1:]; len(next) == 1 {
					customers = slices.Delete(customers, k, k+1)
				}
			}
			w.produce(topic, records...)
		}
		first := w.start(cfg)
		second := w.start(cfg)
		if first.text() != second.text() {
			t.Fatal("two monitors differ")
		}
		second.stop()
		text := first.text()
		said, err := json.Marshal(first.Report())
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want, report = text, string(said)
			for _, name := range []string{"churn_loss_shapley{", "churn_loss_shapley_change{", "churn_shadow_log_loss_difference_upper{",
				"churn_model_expected_figure_lower{", "churn_model_figure_upper{", "churn_segment_log_loss_skill{"} {
				if !strings.Contains(text, "\n"+name) {
					t.Errorf("no %s: the test says too little", name)
				}
			}
			continue
		}
		if text != want || string(said) != report {
			t.Errorf("%d partitions: %s", partitions, firstDifference(text, want))
		}
	}
}

func firstDifference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%s\nwhere it was\n%s", a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines, not %d, or reports that differ", len(a), len(b))
}

// Where more is erased than the windows have in reserve, the topics are read once
// more, and the figures are those after a restart.
func TestMoreErasedThanInReserve(t *testing.T) {
	w := newWorld(t, 2)
	var examples, scores, gone, forgotten []kafka.Record
	for i := range 100 {
		customer := "c" + strconv.Itoa(i)
		p := float64(1+i%9) / 10
		examples = append(examples, w.examples(customer, w.example(i, 2, p, i%3 == 0, "year", 10)))
		scores = append(scores, w.score(customer, i, 2, p, "year", 10))
		if i >= 60 {
			gone = append(gone, kafka.Record{Key: []byte(customer)})
			forgotten = append(forgotten, kafka.Record{Key: []byte(customer), Headers: []kafka.Header{
				{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte("9")}}})
		}
	}
	w.produce(schemas.TopicExamples, examples...)
	w.produce(schemas.TopicScores, scores...)
	cfg := Config{Window: 20, DriftWindow: 20}
	r := w.start(cfg)
	counter := `churn_outcomes_total{actual="churn",model_version="2",predicted="churn"}`
	before := r.lines()[counter]
	w.produce(schemas.TopicExamples, gone...)
	w.produce(schemas.TopicScores, forgotten...)
	r.until("the erasures", func(s Stats) bool { return s.Examples == 60 && s.Customers == 60 })
	for _, topic := range []string{schemas.TopicExamples, schemas.TopicScores} {
		await.Until(t, topic+" to be read once more", func() bool {
			return testutil.ToFloat64(r.metrics.refills.WithLabelValues(topic)) > 0
		})
	}
	fresh := w.start(cfg)
	without := func(text string) string {
		return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool {
			return strings.HasPrefix(line, "churn_outcomes_total")
		}), "\n")
	}
	want := without(fresh.text())
	if n := len(fresh.result().customers.rows.rows); n != 20 {
		t.Errorf("%d customers in the window after a restart", n)
	}
	await.Until(t, "the windows to be filled", func() bool { return without(r.text()) == want },
		func() string { return firstDifference(without(r.text()), want) })
	if after := r.lines()[counter]; after != before {
		t.Errorf("the counter went from %s to %s", before, after)
	}
}

// A challenger is compared on what neither version has been trained on, by its
// own answers.
func TestShadow(t *testing.T) {
	w := newWorld(t, 1)
	rng := rand.New(rand.NewPCG(1, 1))
	champion, challenger := w.models.Get(2), w.models.Get(3)
	champion.LabelsUntil, challenger.LabelsUntil = seconds(100), seconds(300)
	var records []kafka.Record
	var pairs []evaluation.Pair
	for i := range 500 {
		customer := "c" + strconv.Itoa(i)
		plan, bill := []string{"month", "year"}[rng.IntN(2)], 100*rng.Float64()
		x := w.vector(plan, bill)
		e := w.example(i, 2, champion.Predictor.Probability(x), rng.Float64() < challenger.Predictor.Probability(x), plan, bill)
		records = append(records, w.examples(customer, e))
		if e.LabelledAt > seconds(300) && i >= 100 { // of the newest 400
			pairs = append(pairs, evaluation.Pair{Customer: scoring.Hash([]byte(customer)), Churned: e.Churned,
				Challenger: challenger.Predictor.Probability(x), Champion: e.Probability})
		}
	}
	// Two have been corrected since: what the versions learnt of the one was the
	// opposite label; the other is new to them all the same.
	for i, of := range map[int]string{250: "learnt", 450: "new"} {
		e := w.example(i, 2, .5, true, "month", 50)
		e.LabelledAt, e.Corrections = seconds(1000), 1
		records = append(records, w.examples(of, e))
		if of == "new" {
			x := w.vector("month", 50)
			pairs = append(pairs, evaluation.Pair{Customer: scoring.Hash([]byte(of)), Churned: true,
				Challenger: challenger.Predictor.Probability(x), Champion: champion.Predictor.Probability(x)})
		}
	}
	w.produce(schemas.TopicExamples, records...)
	r := w.start(Config{Window: 402})
	want := evaluation.Compare(pairs)
	r.expect(map[string]float64{
		`churn_shadow_examples{model_version="3"}`:                   float64(len(pairs)),
		`churn_shadow_log_loss{model_version="2",role="champion"}`:   want.Champion,
		`churn_shadow_log_loss{model_version="3",role="challenger"}`: want.Challenger,
		`churn_shadow_log_loss_difference{model_version="3"}`:        want.Difference,
		`churn_shadow_log_loss_difference_lower{model_version="3"}`:  want.Lower,
		`churn_shadow_log_loss_difference_upper{model_version="3"}`:  want.Upper,
	})
	if len(pairs) != 199+1+1 || !want.Better() {
		t.Errorf("%d pairs, %+v", len(pairs), want)
	}
	if v := r.Report().Of(3); v == nil || v.Shadow == nil || float64(v.Shadow.Difference.Upper) != want.Upper {
		t.Errorf("reported %+v", v)
	}
	// One from before versions said which labels they knew knew those of its time.
	older := *challenger
	older.LabelsUntil, older.CreatedAt = 0, seconds(450)
	w.models.set(&older, champion)
	r.expect(map[string]float64{`churn_shadow_examples{model_version="3"}`: 50})
	w.models.set(champion)
	r.expect(map[string]float64{`churn_shadow_examples{model_version="3"}`: math.NaN()})
}

// When what the plan says of leaving changes, the plan is named.
func TestLossAttribution(t *testing.T) {
	w := newWorld(t, 2)
	rng := rand.New(rand.NewPCG(2, 1))
	var records []kafka.Record
	champion := w.models.Get(2)
	var loss [2]float64
	const window = 1000
	for i := range 2 * window {
		plan, bill := []string{"month", "year"}[rng.IntN(2)], 100*rng.Float64()
		x := w.vector(plan, bill)
		p := champion.Predictor.Probability(x)
		q := p
		if i >= window && plan == "year" { // who pays by the year leaves more often than was learnt
			q = 1 - p
		}
		// Those before the promotion have scores of another version: no matter.
		e := w.example(i, int64(1+i/window), p, rng.Float64() < q, plan, bill)
		loss[i/window] += champion.Predictor.LogLoss(x, e.Churned) / window
		records = append(records, w.examples("c"+strconv.Itoa(i), e))
	}
	// Scored by a version that is not known, and by none.
	records = append(records, w.examples("x", w.example(2*window, 9, .5, true, "month", 1)),
		w.examples("y", w.example(2*window, 0, scoring.Missing, true, "month", 1)))
	w.produce(schemas.TopicExamples, records...)
	r := w.start(Config{Window: window})
	a := r.result().loss
	if a.newest.Examples() != window || a.reference.Examples() != window {
		t.Fatalf("%d and %d examples", a.newest.Examples(), a.reference.Examples())
	}
	sum := a.newest.Base() - a.reference.Base()
	for _, change := range a.changes {
		sum += change
	}
	if math.Abs(sum-a.change) > 1e-9 || math.Abs(a.change-(loss[1]-loss[0])) > .01 {
		t.Errorf("the changes sum to %v, the loss changed by %v and by %v", sum, a.change, loss[1]-loss[0])
	}
	if !(a.changes[0] > .05) || math.Abs(a.changes[1])+math.Abs(a.changes[2]) > 1e-9 {
		t.Errorf("changes %v: the plan did it", a.changes)
	}
	if first := a.bySegment[0]; first.feature != 0 || first.segment != 0 || first.level != "year" || !(first.change > a.changes[0]) {
		t.Errorf("the segment that did it is %+v", first)
	}
	lines := r.lines()
	if lines[`churn_loss_shapley_segment_change{feature="plan",level="year",segment_feature="plan"}`] == "" {
		t.Error("the segment is not exported")
	}
	report := r.Report()
	if l := report.Loss; l == nil || l.Features[0].Feature != "plan" || l.Features[0].Change != a.changes[0] || l.Change != a.change {
		t.Errorf("reported %+v", report.Loss)
	}
	next := newVersion(t, w.codec, 8, schemas.StageChampion, -1, .02)
	w.models.set(next, champion)
	want := 0.
	for i := range records[window:] {
		var m schemas.CustomerExamples
		if err := w.codec.DecodeExamples(t.Context(), records[window+i].Value, &m); err != nil {
			t.Fatal(err)
		}
		if e := &m.Examples[0]; !scoring.IsMissing(e.Probability) && i > 0 {
			want += next.Predictor.LogLoss(e.Attributes, e.Churned) / window
		}
	}
	if a := r.result().loss; math.Abs(a.newest.LogLoss()-want) > 1e-9 {
		t.Errorf("the next champion has a log loss of %v, want %v", a.newest.LogLoss(), want)
	}
	if c := report.Course; len(c) != courseLength || !(c[39].LogLoss > c[0].LogLoss) || c[0].BaseLogLoss > math.Ln2 {
		t.Errorf("the course is %+v", c)
	}
}

// A change from a handful of examples is one of theirs, and not told.
func TestLossOfTooFewExamples(t *testing.T) {
	w := newWorld(t, 1)
	rng := rand.New(rand.NewPCG(3, 1))
	example := func(i int) kafka.Record {
		return w.examples("c"+strconv.Itoa(i), w.example(i, 2, .5, rng.IntN(2) == 0, "month", 1))
	}
	var records []kafka.Record
	for i := range 200 + minRows - 1 {
		records = append(records, example(i))
	}
	w.produce(schemas.TopicExamples, records...)
	r := w.start(Config{Window: 200})
	r.expect(map[string]float64{
		`churn_loss_change`: math.NaN(), `churn_loss_shapley_change{feature="plan"}`: math.NaN(),
		`churn_model_window_outcomes{model_version="2"}`: 200,
	})
	w.produce(schemas.TopicExamples, example(200+minRows))
	r.until("one more", func(Stats) bool { return r.lines()["churn_loss_change"] != "" })
}

// A level that nobody has trained with yet is known to a model that comes later.
func TestLevelThatALaterModelKnows(t *testing.T) {
	w := newWorld(t, 1)
	writer := newCodec(t)
	e := w.example(500, 2, .5, true, "", 1)
	e.Attributes[0], _ = writer.Set().Vocabulary().CodeString(0, "week")
	w.produce(schemas.TopicExamples, kafka.Record{Key: []byte("ann"), Value: writer.AppendExamples(nil, recordOf("ann", e))})
	r := w.start(Config{})
	r.expect(map[string]float64{`churn_segment_examples{feature="plan",level="week"}`: 1})
	later := newVersion(t, w.codec, 5, schemas.StageChallenger, 0, 0)
	later.Model.Features[0] = scoring.ModelFeature{Name: "plan", Kind: "categorical",
		Levels: []string{"month", "week"}, LogOdds: []float64{0, 3}, Frequency: []float64{.5, .5}}
	var err error
	if later.Predictor, err = scoring.Compile(later.Model, w.codec.Set().Vocabulary()); err != nil {
		t.Fatal(err)
	}
	w.models.set(later, w.models.Get(2))
	r.expect(map[string]float64{`churn_shadow_log_loss{model_version="5",role="challenger"}`: math.Log1p(math.Exp(-3))})
}

func TestSegmentsAreBounded(t *testing.T) {
	w := newWorld(t, 1)
	var rows []*example
	for i := range 300 {
		e := w.example(i, 2, .5, i%2 == 0, fmt.Sprintf("plan-%02d", i%30), 1)
		rows = append(rows, &example{place: placeOf(e.ObservedAt, "c"), LabelledExample: e})
	}
	v := w.codec.Set().Vocabulary()
	for _, c := range []struct{ levels, most, want int }{{10, 200, 11}, {10, 7, 8}, {30, 200, 30}, {0, 200, 0}} {
		got := segments(v, rows, c.levels, c.most)
		if len(got) != c.want {
			t.Errorf("%d segments with %+v", len(got), c)
		}
		sum := 0
		for i := range got { // as many rows in each, so by name
			want := fmt.Sprintf("plan-%02d", i)
			if i == c.want-1 && c.levels < 30 {
				want = segment.Other
			}
			if got[i].Level != want {
				t.Errorf("segment %d is %s", i, got[i].Level)
			}
			sum += len(got[i].Rows)
		}
		if c.want > 0 && sum != len(rows) {
			t.Errorf("%d of %d examples are in a segment", sum, len(rows))
		}
	}
}

// A level that is called as the rest of a feature's levels has the name alone, or a
// scrape would fail.
func TestLevelWithTheNameOfTheRest(t *testing.T) {
	w := newWorld(t, 1)
	var records []kafka.Record
	for i := range 900 {
		plan := segment.Other
		if i%2 == 0 {
			plan = fmt.Sprintf("plan-%d", i%4)
		}
		records = append(records, w.examples("c"+strconv.Itoa(i), w.example(i, 2, .5, i%3 == 0, plan, float64(i%100))))
	}
	w.produce(schemas.TopicExamples, records...)
	w.models.set(newVersion(t, w.codec, 2, schemas.StageChampion, 0, .01))
	r := w.start(Config{Window: 450, SegmentLevels: 1})
	if r.result().loss.bySegment == nil {
		t.Error("no change within the level: the test says too little")
	}
	r.expect(map[string]float64{`churn_segment_examples{feature="plan",level="(other)"}`: 225})
}

func TestMoneyFeature(t *testing.T) {
	spec := newCodec(t).Set().Spec()
	for asked, want := range map[string]int{"": 2, "none": -1, "age": 1} {
		if got, err := moneyFeature(spec, asked); got != want || err != nil {
			t.Errorf("%q: %d, %v", asked, got, err)
		}
	}
	for _, asked := range []string{"plan", "salary"} {
		if _, err := moneyFeature(spec, asked); err == nil || !strings.Contains(err.Error(), "--money-feature "+asked) {
			t.Errorf("%q: %v", asked, err)
		}
	}
	months, err := scoring.NewSpec([]scoring.Feature{{Name: "tenure", Actionable: true, Unit: "months"}, {Name: "x", Actionable: true, Unit: "kWh"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := moneyFeature(months, ""); got != -1 || err != nil {
		t.Errorf("%d, %v where nothing is money", got, err)
	}
}

// Money adds up to the same sum in any order, beyond what 64 bits hold.
func TestSum(t *testing.T) {
	var s sum
	for range 20_000 {
		s.add(maxMoney * moneyUnit)
	}
	s.add(1)
	if got := s.float(); got != 2e19+1 && got != 2e19 {
		t.Errorf("%v", got)
	}
	for range 20_000 {
		s.add(-maxMoney * moneyUnit)
	}
	if s.float() != 1 {
		t.Errorf("%v left", s.float())
	}
}

// The report is what the endpoint answers.
func TestHandler(t *testing.T) {
	w := newWorld(t, 1)
	handlers := role.Dependencies{Cluster: w.cluster, Codec: w.codec, Models: w.models}
	handlers.Handlers = map[string]http.Handler{}
	made, err := Role.New(handlers, Role.Config())
	if err != nil {
		t.Fatal(err)
	}
	m := made.(*Monitor)
	m.evidence.take(recordOf("ann", w.example(60, 2, .9, true, "year", 1)))
	m.customers.take(scoreOf(t, w, w.score("ann", 1, 2, .9, "year", 1)))
	m.caughtUp.Store(true)
	server := httptest.NewServer(handlers.Handlers[quality.Path])
	defer server.Close()
	report, err := quality.NewClient(server.URL).Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v := report.Of(2)
	if report.Champion != 2 || !report.CaughtUp || v == nil || v.Rows != 1 || v.ExpectedRows != 1 || v.Horizon != 30 ||
		v.From.UnixMilli() != seconds(60) || v.Measured["accuracy"].Value != 1 || v.Expected["accuracy"].Value != .9 {
		t.Errorf("%+v", report)
	}
	if _, there := v.Measured["roc_auc"]; there {
		t.Error("what is not defined is reported")
	}
}

func scoreOf(t *testing.T, w *world, r kafka.Record) *schemas.ChurnScore {
	t.Helper()
	s := w.codec.NewScore()
	if err := w.codec.DecodeScore(t.Context(), r.Value, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNewFails(t *testing.T) {
	w := newWorld(t, 1)
	whole := Config{Dependencies: role.Dependencies{Cluster: w.cluster, Codec: w.codec, Models: w.models}}
	for name, change := range map[string]func(*Config){
		"no cluster":             func(c *Config) { c.Cluster = nil },
		"no codec":               func(c *Config) { c.Codec = nil },
		"no models":              func(c *Config) { c.Models = nil },
		"--window -1":            func(c *Config) { c.Window = -1 },
		"--money-feature salary": func(c *Config) { c.MoneyFeature = "salary" },
	} {
		cfg := whole
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole.Registerer = prometheus.NewRegistry()
	if _, err := New(whole); err != nil {
		t.Fatal(err)
	}
	if _, err := New(whole); err == nil {
		t.Error("the same metrics were registered twice")
	}
}

func TestTopicThatIsNotThere(t *testing.T) {
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	m, err := New(Config{Dependencies: role.Dependencies{Cluster: cluster, Codec: newCodec(t), Models: &theModels{}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(t.Context()); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("Run: %v", err)
	}
}

// The topic of scores gets more partitions: a customer goes on in another one, and
// an erasure in the former home does not undo what is newer.
func TestScoresGrow(t *testing.T) {
	w := newWorld(t, 1)
	r := w.start(Config{})
	w.produce(schemas.TopicScores, w.score("ann", 1, 2, .1, "month", 1))
	r.until("the customer", func(s Stats) bool { return s.Customers == 1 })
	if err := w.cluster.GrowTopic(t.Context(), schemas.TopicScores, 2); err != nil {
		t.Fatal(err)
	}
	next := w.score("ann", 100, 2, .9, "month", 1)
	s := scoreOf(t, w, next)
	s.SourcePartition = 1
	next.Value = w.codec.AppendScore(nil, s)
	if err := w.producer.ProduceTo(t.Context(), schemas.TopicScores, 1, []kafka.Record{next}); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the score in the new partition", func() bool { return r.result().customers.byRisk[scoring.RiskHigh] == 1 })
	tombstone := kafka.Record{Key: []byte("ann"), Time: time.UnixMilli(seconds(50)), Headers: []kafka.Header{
		{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte("1")}}}
	bob := w.score("bob", 1, 2, .1, "month", 1)
	if err := w.producer.ProduceTo(t.Context(), schemas.TopicScores, 0, []kafka.Record{tombstone, bob}); err != nil {
		t.Fatal(err)
	}
	r.until("another customer", func(s Stats) bool { return s.Customers == 2 })
	tombstone.Time = time.UnixMilli(seconds(200))
	if err := w.producer.ProduceTo(t.Context(), schemas.TopicScores, 0, []kafka.Record{tombstone}); err != nil {
		t.Fatal(err)
	}
	r.until("the erasure", func(s Stats) bool { return s.Customers == 1 })
}

// A label of another horizon than a version's says nothing of what it predicted: it is
// in no figure, and counted.
func TestLabelsOfAnotherHorizon(t *testing.T) {
	w := newWorld(t, 1)
	var same, all []kafka.Record
	for i := range 600 {
		customer, plan := "c"+strconv.Itoa(i), []string{"month", "year"}[i%2]
		e := w.example(i, 2, .1+.2*float64(i%5), i%3 == 0, plan, float64(i%100))
		record := w.examples(customer, e)
		same, all = append(same, record), append(all, record)
		if i%4 == 0 { // certain, and wrong
			e = w.example(i, 2, .999, false, "other", 1000)
			e.Horizon = 7_000
			all = append(all, w.examples("other "+customer, e))
		}
		if i == 0 { // of a version that has no other
			e = w.example(i, 1, .999, false, "month", 1)
			e.Horizon = 7_000
			all = append(all, w.examples("another", e))
		}
	}
	measured := func(records []kafka.Record) (map[string]string, *quality.Report) {
		w := newWorld(t, 1)
		w.produce(schemas.TopicExamples, records...)
		r := w.start(Config{Window: 1000})
		lines := r.lines()
		report := r.Report()
		for line := range lines {
			name, _, _ := strings.Cut(line, "{")
			switch {
			case strings.HasPrefix(name, "churn_monitor_"), name == "churn_outcomes_total", name == "churn_model_other_horizon_examples",
				strings.Contains(line, `model_version="1"`):
				delete(lines, line)
			}
		}
		if report.Of(2).Rows != 600 {
			t.Errorf("%d rows", report.Of(2).Rows)
		}
		if len(records) == len(same) {
			return lines, report
		}
		r.expect(map[string]float64{
			`churn_model_other_horizon_examples{model_version="2"}`: 150,
			`churn_model_other_horizon_examples{model_version="1"}`: 1,
			`churn_model_window_outcomes{model_version="2"}`:        600,
			`churn_model_window_outcomes{model_version="1"}`:        0,
			`churn_model_log_loss{model_version="1"}`:               math.NaN(),
			`churn_model_calibration_error{model_version="1"}`:      math.NaN(),
			`churn_model_gain{decile="10",model_version="1"}`:       math.NaN(),
			`churn_segment_examples{feature="plan",level="other"}`:  math.NaN(),
		})
		if v := report.Of(1); v.OtherHorizon != 1 || v.Rows != 0 || !v.From.IsZero() || len(v.Measured) != 0 {
			t.Errorf("reported of version 1: %+v", v)
		}
		if v := report.Of(2); v.OtherHorizon != 150 || v.Examples != 750 {
			t.Errorf("reported of version 2: %+v", v)
		}
		// One that does not say what it predicts is measured by all.
		silent := *w.models.Get(2)
		silent.Horizon = 0
		w.models.set(&silent)
		r.expect(map[string]float64{
			`churn_model_other_horizon_examples{model_version="2"}`: 0,
			`churn_model_window_outcomes{model_version="2"}`:        750,
			`churn_segment_examples{feature="plan",level="other"}`:  150,
		})
		return lines, report
	}
	want, without := measured(same)
	got, with := measured(all)
	for line, value := range want {
		if got[line] != value {
			t.Errorf("%s is %s, and %s without the others", line, got[line], value)
		}
	}
	for line := range got {
		if _, there := want[line]; !there {
			t.Errorf("%s is there because of the others", line)
		}
	}
	if !reflect.DeepEqual(with.Course, without.Course) || len(with.Course) == 0 || !reflect.DeepEqual(with.Loss, without.Loss) {
		t.Error("the course of the log loss, or what it is due to, depends on the others")
	}
	w.models.Get(3).Horizon = 7_000
	w.produce(schemas.TopicExamples, same[0])
	w.start(Config{}).expect(map[string]float64{`churn_shadow_examples{model_version="3"}`: 0})
}
