package serving

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// The tests are about a company with other attributes than the shipped ones,
// one of them with a name that is awkward in HTML.
const gymSchema = `{"type":"record","name":"CustomerAttributes","fields":[
 {"name":"plan","type":["null","string"],"default":null,"feature":{"kind":"categorical","actionable":true,"label":"Plan"}},
 {"name":"visits","type":["null","double"],"default":null,"feature":{"kind":"numeric","actionable":true,"label":"Visits","unit":"a month"}},
 {"name":"town","type":["null","string"],"default":null,"feature":{"kind":"categorical","actionable":false,"label":"Town <b>&\"'"}},
 {"name":"age","type":["null","double"],"default":null,"feature":{"kind":"numeric","actionable":false,"label":"Age","unit":"years"}}
]}`

const gymModel = `{"intercept":0.4,"thresholds":{"medium":0.3,"high":0.6},"base_rate":0.4,"features":[
 {"name":"plan","kind":"categorical","levels":["monthly","yearly"],"log_odds":[0.8,-0.9],"frequency":[0.6,0.4]},
 {"name":"visits","kind":"numeric","log_odds_per_unit":-0.1,
  "bins":[{"mean":1,"std":0.5,"min":0,"max":2,"frequency":0.25},{"mean":4,"std":0.8,"min":2.5,"max":5,"frequency":0.25},
          {"mean":8,"std":1,"min":6,"max":10,"frequency":0.25},{"mean":15,"std":3,"min":11,"max":25,"frequency":0.25}],
  "quartiles":[2,5,10],"empirical_quantiles":[0.5,1.5,3,4.5,7,9,12,20]},
 {"name":"town","kind":"categorical","levels":["Ulm","Köln","<Ost>"],"log_odds":[0.1,-0.1,0.3],"frequency":[0.5,0.4,0.1]},
 {"name":"age","kind":"numeric","log_odds_per_unit":-0.01,
  "bins":[{"mean":20,"std":2,"min":16,"max":24,"frequency":0.25},{"mean":30,"std":3,"min":25,"max":35,"frequency":0.25},
          {"mean":42,"std":3,"min":36,"max":48,"frequency":0.25},{"mean":60,"std":6,"min":49,"max":80,"frequency":0.25}],
  "quartiles":[24,35,48],"empirical_quantiles":[18,22,27,33,39,45,55,70]}],
 "importance":[{"feature":"plan","mean_abs_lime":0.2,"mean_abs_shap":0.18},{"feature":"age","mean_abs_lime":0.02,"mean_abs_shap":0.03}]}`

// modelList stands in for the feed of models.
type modelList struct {
	role.Models // what a server does not ask for

	mu       sync.Mutex
	versions []*models.Version // newest first
	champion *models.Version
	changed  chan struct{}
}

func (l *modelList) Champion() *models.Version {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.champion
}

func (l *modelList) List() []*models.Version {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.versions
}

func (l *modelList) Get(version int64) *models.Version {
	for _, v := range l.List() {
		if v.Version == version {
			return v
		}
	}
	return nil
}

func (l *modelList) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *modelList) add(v *models.Version) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.versions = append([]*models.Version{v}, l.versions...)
	if v.Stage == schemas.StageChampion {
		l.champion = v
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// topic is a Tailer of one partition that is written by the test.
type topic struct {
	records chan []kafka.Record
	err     error // of Tail, at once
}

func (t *topic) Tail(ctx context.Context, cfg kafka.TailConfig, handle func(context.Context, []kafka.Record) error) error {
	if t.err != nil {
		return t.err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case records := <-t.records:
			if records == nil {
				cfg.OnCaughtUp()
				continue
			}
			if err := handle(ctx, records); err != nil {
				return err
			}
		}
	}
}

// stage is a server with everything around it.
type stage struct {
	*Server
	t      testing.TB
	set    *schemas.Set
	codec  *schemas.Codec
	models *modelList
	topic  *topic
	out    *written
	reg    *prometheus.Registry
	offset int64
}

// token is what changes need on a stage.
const token = "let me in"

// written is a Producer that remembers, or fails.
type written struct {
	mu      sync.Mutex
	records []kafka.Record // with Topic set
	err     error
}

func (w *written) Produce(_ context.Context, topic string, records ...kafka.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	for _, r := range records {
		r.Topic = topic
		w.records = append(w.records, r)
	}
	return nil
}

func (w *written) ProduceEverywhere(ctx context.Context, topic string, record kafka.Record) error {
	return w.Produce(ctx, topic+", everywhere", record)
}

func newReadingStage(t testing.TB) *stage {
	t.Helper()
	set, err := schemas.Parse([]byte(gymSchema))
	if err != nil {
		t.Fatal(err)
	}
	st := &stage{t: t, set: set, codec: schemas.NewCodec(set, registrytest.New()),
		models: &modelList{changed: make(chan struct{})},
		topic:  &topic{records: make(chan []kafka.Record)},
		out:    &written{},
		reg:    prometheus.NewPedanticRegistry()}
	if err := st.codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st.Server, err = New(st.config(role.Dependencies{Guard: ops.NewGuard(token), Registerer: st.reg})); err != nil {
		t.Fatal(err)
	}
	st.customers.refresh = 0 // lists are as new as the customers
	return st
}

// config returns what a server on the stage needs. It reads and writes no
// cluster.
func (st *stage) config(on role.Dependencies) Config {
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		st.t.Fatal(err)
	}
	on.Cluster, on.Codec, on.Models = cluster, st.codec, st.models
	return Config{Dependencies: on, Tailer: st.topic, Producer: st.out}
}

// newStage returns a stage that has read all customers there are.
func newStage(t testing.TB) *stage {
	st := newReadingStage(t)
	close(st.customers.caughtUp)
	return st
}

func (st *stage) version(n int64, level schemas.Stage) *models.Version {
	m, err := scoring.ParseModel([]byte(gymModel))
	if err != nil {
		st.t.Fatal(err)
	}
	p, err := scoring.Compile(m, st.set.Vocabulary())
	if err != nil {
		st.t.Fatal(err)
	}
	metrics := evaluation.NoMetrics()
	metrics.Rows, metrics.Churners, metrics.Accuracy, metrics.ROCAUC, metrics.LogLoss = 1758, 467, 0.7918, 0.8344, 0.4267
	metrics.Lower.ROCAUC, metrics.Upper.ROCAUC = 0.8146, 0.8533
	v := &models.Version{Model: m, Predictor: p}
	v.ModelVersion = schemas.ModelVersion{Version: n, CreatedAt: 1_700_000_000_000 + n, Stage: level,
		Reason: "better than the one <before>", SHA256: "abc", TrainingRows: 5274, Horizon: 30 * 24 * 3_600_000, LabelsUntil: 1_700_000_000_000, MediumThreshold: 0.3, HighThreshold: 0.6,
		Metrics: metrics}
	return v
}

// attributes reads a customer's attributes, of which levels that no model has
// are left out.
func (st *stage) attributes(text string) scoring.Vector {
	st.t.Helper()
	x, _ := st.vector(text)
	return x
}

// vector reads a customer's attributes, as they are in an event.
func (st *stage) vector(text string) (scoring.Vector, scoring.Levels) {
	st.t.Helper()
	var levels scoring.Levels
	x, err := st.set.AttributesFromJSON([]byte(text), &levels)
	if err != nil {
		st.t.Fatal(err)
	}
	return x, levels
}

// scored makes a score as the scorer would, of the stage's champion if it has
// one.
func (st *stage) scored(id string, attributes string) *schemas.ChurnScore {
	st.t.Helper()
	st.offset++
	s := st.codec.NewScore()
	s.CustomerID, s.EventID = []byte(id), []byte("7d444840-9dc0-11d1-b245-5ffdce74fad2")
	s.Attributes, s.Levels = st.vector(attributes)
	s.ScoredAt = 1_750_000_000_000 + 1000*st.offset
	s.OccurredAt, s.SourceOffset, s.ModelVersion = s.ScoredAt-50, st.offset, 1
	s.Probability, s.ExpectedProbability = 0.5, 0.4
	s.Explanations = []schemas.Explanation{{Feature: 0, LIME: 0.12, SHAP: 0.1}, {Feature: 2, LIME: -0.034, SHAP: -0.03},
		{Feature: 1, LIME: scoring.Missing, SHAP: 0.02}, {Feature: 3, LIME: 0.01, SHAP: 0.01}}
	s.Missing = []int{3}
	if v := st.models.Champion(); v != nil {
		s.ModelVersion = v.Version
		s.Probability = v.Predictor.Probability(s.Attributes)
		s.Risk = v.Risk(s.Probability)
	}
	return s
}

// do sends a request to the handler.
func (st *stage) do(method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	st.Handler().ServeHTTP(w, r)
	return w
}

func decode[T any](t testing.TB, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("status %d, body %q: %v", w.Code, w.Body, err)
	}
	return v
}

func TestNewRefusesIncompleteConfig(t *testing.T) {
	st := newStage(t)
	for name, spoil := range map[string]func(*Config){
		"no cluster": func(c *Config) { c.Cluster = nil },
		"no codec":   func(c *Config) { c.Codec = nil },
		"no models":  func(c *Config) { c.Models = nil },
		"below zero": func(c *Config) { c.Limits.Bodies = -1 },
	} {
		cfg := st.config(role.Dependencies{})
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(st.config(role.Dependencies{Registerer: st.reg})); err == nil {
		t.Error("the metrics were registered twice without an error")
	}
}

// erased is the record by which a scorer erases a customer.
func erased(customer, offset string) kafka.Record {
	return kafka.Record{Key: []byte(customer), Headers: []kafka.Header{
		{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte(offset)},
	}}
}

// What is in the topic must come out of the REST interface: scores decoded,
// erased customers gone, records that are no scores left out.
func TestRunFollowsTheTopic(t *testing.T) {
	st := newReadingStage(t)
	st.models.add(st.version(1, schemas.StageChampion))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- st.Run(ctx) }()

	record := func(s *schemas.ChurnScore) kafka.Record {
		return kafka.Record{Key: s.CustomerID, Value: st.codec.AppendScore(nil, s)}
	}
	st.topic.records <- []kafka.Record{
		{Key: []byte("\x00fence")},
		record(st.scored("ann", `{"plan":"monthly","visits":1,"town":"Ulm"}`)),
		{Key: []byte("junk"), Value: []byte("junk")},
		record(st.scored("bob", `{"plan":"yearly","visits":9,"town":"Köln","age":50}`)),
	}
	select {
	case <-st.CaughtUp():
		t.Fatal("caught up before the topic said so")
	default:
	}
	st.topic.records <- nil
	<-st.CaughtUp()
	ann := st.scored("ann", `{"plan":"monthly","visits":0,"town":"Ulm"}`)
	ann.HasBestChange, ann.BestChange = true, schemas.BestChange{Feature: 0, Value: st.attributes(`{"plan":"yearly"}`)[0], Probability: 0.2}
	notAScorers := record(st.scored("bob", `{}`))
	notAScorers.Key = []byte("ann")
	st.topic.records <- []kafka.Record{record(ann), {Key: []byte("ann")}, erased("ann", "-1"), notAScorers, erased("bob", "2")}
	st.topic.records <- []kafka.Record{record(ann)} // once more: stale, and the above is done

	if w := st.do("GET", "/v1/customers/bob", ""); w.Code != http.StatusNotFound {
		t.Errorf("an erased customer: status %d", w.Code)
	}
	got := decode[struct {
		Probability float64
		Data        map[string]any
		Missing     []string
		History     []struct{ Probability float64 }
		BestChange  struct {
			Feature, Value string
			Probability    float64
		} `json:"best_change"`
	}](t, st.do("GET", "/v1/customers/ann", ""))
	if got.Probability != ann.Probability || len(got.History) != 2 || got.Data["plan"] != "monthly" ||
		got.Data["age"] != nil || got.BestChange.Value != "yearly" || fmt.Sprint(got.Missing) != "[age]" {
		t.Errorf("customer = %+v, want probability %v and two scores", got, ann.Probability)
	}
	for result, want := range map[string]float64{"applied": 3, "erased": 1, "undecodable": 1, "foreign": 3} {
		if n := testutil.ToFloat64(st.metrics.records.WithLabelValues(result)); n != want {
			t.Errorf("%v records %s, want %v", n, result, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestRunReportsFailure(t *testing.T) {
	st := newStage(t)
	st.topic.err = errors.New("no such topic")
	if err := st.Run(t.Context()); !errors.Is(err, st.topic.err) {
		t.Errorf("Run = %v", err)
	}
}

func TestMetrics(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(1, schemas.StageChampion))
	for i, risk := range []schemas.Risk{schemas.RiskHigh, schemas.RiskHigh, schemas.RiskLow} {
		s := st.scored(fmt.Sprint(i), `{}`)
		s.Risk = risk
		st.customers.Apply(s)
	}
	st.do("GET", "/v1/customers", "")
	st.do("GET", "/v1/customers?limit=x", "")
	st.do("BREW", "/v1/customers", "")
	st.do("GET", "/wp-login.php", "")
	err := testutil.GatherAndCompare(st.reg, strings.NewReader(`
# HELP churn_customers_at_risk Customers by the risk of their latest score. Those who have left since count too, until they are erased.
# TYPE churn_customers_at_risk gauge
churn_customers_at_risk{risk="HIGH"} 2
churn_customers_at_risk{risk="LOW"} 1
churn_customers_at_risk{risk="MEDIUM"} 0
# HELP churn_customers_known Customers with a score, also those who have left since, until they are erased.
# TYPE churn_customers_known gauge
churn_customers_known 3
# HELP churn_http_requests_total HTTP requests answered.
# TYPE churn_http_requests_total counter
churn_http_requests_total{code="200",handler="/v1/customers",method="GET"} 1
churn_http_requests_total{code="400",handler="/v1/customers",method="GET"} 1
churn_http_requests_total{code="404",handler="other",method="GET"} 1
churn_http_requests_total{code="405",handler="/v1/customers",method="other"} 1
`), "churn_customers_at_risk", "churn_customers_known", "churn_http_requests_total")
	if err != nil {
		t.Error(err)
	}
	families, err := st.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
}

func TestPanicBecomesAnAnswer(t *testing.T) {
	st := newStage(t)
	w := httptest.NewRecorder()
	st.instrument("test", false, func(http.ResponseWriter, *http.Request) { panic("oh") }).
		ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusInternalServerError || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("status %d, %s", w.Code, w.Body)
	}
}

// The event stream says "changed" after a change, nothing without one, and
// ends with Run.
func TestEvents(t *testing.T) {
	st := newStage(t)
	st.tick = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- st.Run(ctx) }()
	srv := httptest.NewServer(st.Handler())
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		for lines.Scan() {
			if lines.Text() != "" {
				return lines.Text()
			}
		}
		return "end"
	}
	if got := next(); got != "retry: 3000" {
		t.Errorf("first line %q", got)
	}
	st.customers.Apply(st.scored("ann", `{}`))
	if got := next(); got != "data: changed" {
		t.Errorf("after a score: %q", got)
	}
	st.models.add(st.version(1, schemas.StageChampion))
	if got := next(); got != "data: changed" {
		t.Errorf("after a model: %q", got)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if got := next(); got != "end" {
		t.Errorf("after Run: %q", got)
	}
}

// In HTTP/2 the deadline of one notice must not end the stream before the next.
func TestEventsOverHTTP2(t *testing.T) {
	st := newStage(t)
	st.tick, st.limits.StreamWrite = 60*time.Millisecond, 20*time.Millisecond
	srv := httptest.NewUnstartedServer(st.Handler())
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Fatalf("spoken was %s", resp.Proto)
	}
	lines := bufio.NewScanner(resp.Body)
	for n := 0; n < 4; {
		st.customers.Apply(st.scored("ann", `{}`))
		for {
			if !lines.Scan() {
				t.Fatalf("the stream ended after %d notices: %v", n, lines.Err())
			}
			if lines.Text() == "data: changed" {
				n++
				break
			}
		}
	}
}

func TestEventsAreBounded(t *testing.T) {
	st := newStage(t)
	st.streams.Store(int64(st.limits.Streams))
	if w := st.do("GET", "/events", ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("status %d, %v", w.Code, w.Header())
	}
	if n := st.streams.Load(); n != int64(st.limits.Streams) {
		t.Errorf("%d streams are counted", n)
	}
}

// Whatever a score in the topic says of times and levels, everybody is answered:
// lists, the customer, the history and the pages.
func TestCustomersAtTheEndsOfTime(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(1, schemas.StageChampion))
	first, last := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli(), time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC).UnixMilli()
	for i, at := range []int64{math.MinInt64, first, 0, last, math.MaxInt64} {
		s := st.scored(fmt.Sprint("customer", i), `{"plan":"monthly","visits":1,"town":"Ulm"}`)
		s.OccurredAt, s.ScoredAt, s.AsOf = at, at, at
		read := st.codec.NewScore()
		if err := st.codec.DecodeScore(t.Context(), st.codec.AppendScore(nil, s), read); err != nil {
			t.Fatal(err)
		}
		st.customers.Apply(read)
	}
	for _, path := range []string{"/v1/customers", "/v1/customers?sort=recent", "/", "/?sort=recent",
		"/v1/customers/customer0", "/v1/customers/customer4", "/customers/customer0", "/customers/customer4"} {
		if w := st.do("GET", path, ""); w.Code != http.StatusOK {
			t.Errorf("%s: status %d: %.300s", path, w.Code, w.Body)
		}
	}
}
