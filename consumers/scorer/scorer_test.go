package scorer

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
	"github.com/churnstream/churnstream/scoring"
)

// attributes are those of a company that is not the shipped one.
const attributes = `{"type":"record","name":"CustomerAttributes","fields":[
	{"name":"plan","type":["null","string"],"default":null,"feature":{"kind":"categorical","actionable":true}},
	{"name":"months","type":["null","double"],"default":null,"feature":{"kind":"numeric","unit":"months"}},
	{"name":"complaints","type":["null","double"],"default":null,"feature":{"kind":"numeric"}}
]}`

const plan, months, complaints = 0, 1, 2

func modelVersion(t testing.TB, set *schemas.Set, version int64, intercept float64) *models.Version {
	t.Helper()
	bins := func(min, max float64) string {
		return fmt.Sprintf(`"quartiles":[%[2]v],"bins":[{"mean":%[1]v,"std":0.1,"min":%[1]v,"max":%[2]v,"frequency":0.5},{"mean":%[3]v,"std":0.1,"min":%[2]v,"max":%[3]v,"frequency":0.5}],"empirical_quantiles":[%[1]v,%[2]v,%[3]v]`,
			min, (min+max)/2, max)
	}
	m, err := scoring.ParseModel([]byte(fmt.Sprintf(`{"intercept":%v,"features":[
		{"name":"plan","kind":"categorical","levels":["monthly","yearly"],"log_odds":[0.8,-0.8],"frequency":[0.5,0.5]},
		{"name":"months","kind":"numeric","log_odds_per_unit":-0.05,%s},
		{"name":"complaints","kind":"numeric","log_odds_per_unit":0.7,%s}]}`, intercept, bins(0, 60), bins(0, 4))))
	if err != nil {
		t.Fatal(err)
	}
	p, err := scoring.Compile(m, set.Vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	return &models.Version{
		ModelVersion: schemas.ModelVersion{Version: version, MediumThreshold: 0.3, HighThreshold: 0.6},
		Model:        m, Predictor: p,
	}
}

// fixedModels is a model feed that the test turns by hand.
type fixedModels struct {
	role.Models // what a scorer does not ask for

	mu       sync.Mutex
	champion *models.Version
	changed  chan struct{}
}

func newFixedModels() *fixedModels { return &fixedModels{changed: make(chan struct{})} }

func (f *fixedModels) Champion() *models.Version {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.champion
}

func (f *fixedModels) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fixedModels) set(v *models.Version) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.champion = v
	close(f.changed)
	f.changed = make(chan struct{})
}

// stack is a broker, a registry and what speaks to them.
type stack struct {
	t        *testing.T
	set      *schemas.Set
	registry schemas.Registry
	codec    *schemas.Codec
	cluster  *kafka.Cluster
	producer *kafka.Producer
	models   *fixedModels
	metrics  *prometheus.Registry
	ready    sync.Map
}

const partitions = 2

func newStack(t *testing.T) *stack {
	t.Helper()
	broker, err := embedded.StartBroker(embedded.BrokerConfig{CompactionInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	reg, err := embedded.StartRegistry(embedded.RegistryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	set, err := schemas.Parse([]byte(attributes))
	if err != nil {
		t.Fatal(err)
	}
	client, err := registry.New(registry.Config{URL: reg.URL()})
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Close() })
	s := &stack{t: t, set: set, registry: client, codec: schemas.NewCodec(set, client), cluster: cluster, models: newFixedModels()}
	if err := s.codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = cluster.EnsureTopics(t.Context(),
		kafka.TopicConfig{Name: schemas.TopicEvents, Partitions: partitions, Replication: 1},
		kafka.TopicConfig{Name: schemas.TopicScores, Partitions: partitions, Replication: 1, Configs: map[string]string{"cleanup.policy": "compact"}},
		kafka.TopicConfig{Name: schemas.TopicOutcomes, Partitions: partitions, Replication: 1},
		kafka.TopicConfig{Name: schemas.TopicDeadLetters, Partitions: partitions, Replication: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.producer = cluster.NewProducer(kafka.ProducerConfig{})
	return s
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// start runs a scorer until the returned function is called.
func (s *stack) start() (stop func()) {
	s.t.Helper()
	s.metrics = prometheus.NewRegistry()
	sc, err := New(Config{
		Dependencies: role.Dependencies{
			Cluster: s.cluster, Codec: s.codec, Models: s.models, Logger: quiet(), Registerer: s.metrics,
			Ready: func(name string, ready bool, why string) { s.ready.Store(name, why) },
		},
		CommitInterval: time.Millisecond,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sc.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				s.t.Errorf("Run: %v", err)
			}
		})
	}
	s.t.Cleanup(stop)
	return stop
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()

// event makes an event with attributes given as feature position and text.
func (s *stack) event(customer, id string, at int64, changes map[int]string, increments map[int]float64) *schemas.CustomerEvent {
	s.t.Helper()
	e := s.codec.NewEvent()
	e.CustomerID, e.EventID, e.OccurredAt, e.Source = []byte(customer), []byte(id), at, []byte("test")
	for f, text := range changes {
		x, err := s.set.ParseText(f, text)
		if err != nil {
			s.t.Fatal(err)
		}
		e.Changes[f] = x
	}
	for f, x := range increments {
		e.Increments[f] = x
	}
	return e
}

func (s *stack) send(key string, value []byte) {
	s.t.Helper()
	if err := s.producer.Produce(s.t.Context(), schemas.TopicEvents, kafka.Record{Key: []byte(key), Value: value}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stack) sendEvent(e *schemas.CustomerEvent) {
	s.t.Helper()
	s.send(string(e.CustomerID), s.codec.AppendEvent(nil, e))
}

// read returns the records of a topic but markers, in order within a
// partition, once there are n of them; it fails if there are more.
func (s *stack) read(topic string, n int) []kafka.Record {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	var out []kafka.Record
	for {
		out = out[:0]
		for p := range partitions {
			first, end, err := s.cluster.Offsets(ctx, topic, p)
			if err != nil {
				s.t.Fatalf("reading %s: %d of %d records: %v", topic, len(out), n, err)
			}
			f := s.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: p, Offset: first, MaxWait: 10 * time.Millisecond})
			for f.Offset() < end {
				records, err := f.Fetch(ctx)
				if err != nil {
					s.t.Fatalf("reading %s: %d of %d records: %v", topic, len(out), n, err)
				}
				for _, r := range records {
					if schemas.IsReservedKey(r.Key) {
						continue
					}
					r.Key, r.Value = append([]byte(nil), r.Key...), append([]byte(nil), r.Value...)
					r.Headers = append([]kafka.Header(nil), r.Headers...)
					out = append(out, r)
				}
			}
		}
		if len(out) >= n {
			if len(out) > n {
				s.t.Fatalf("%s holds %d records, want %d", topic, len(out), n)
			}
			return out
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("%s holds %d records, want %d", topic, len(out), n)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *stack) scores(n int) []*schemas.ChurnScore {
	s.t.Helper()
	var out []*schemas.ChurnScore
	for _, r := range s.read(schemas.TopicScores, n) {
		if len(r.Value) == 0 {
			out = append(out, nil)
			continue
		}
		score := s.codec.NewScore()
		if err := s.codec.DecodeScore(s.t.Context(), r.Value, score); err != nil {
			s.t.Fatal(err)
		}
		out = append(out, score)
	}
	return out
}

func TestScoresAnEvent(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	v := modelVersion(t, s.set, 7, 0)
	s.models.set(v)
	s.start()
	s.sendEvent(s.event("anna", "e1", start, map[int]string{plan: "monthly", months: "10"}, nil))

	got := s.scores(1)[0]
	x := scoring.NewVector(3)
	x[plan], _ = s.set.Vocabulary().Lookup(plan, "monthly")
	x[months] = 10
	want := v.Predictor.Probability(x)
	if got.Probability != want || got.ModelVersion != 7 {
		t.Errorf("probability %v by model %d, want %v by 7", got.Probability, got.ModelVersion, want)
	}
	if string(got.CustomerID) != "anna" || string(got.EventID) != "e1" || got.OccurredAt != start {
		t.Errorf("score of customer %s, event %s at %d", got.CustomerID, got.EventID, got.OccurredAt)
	}
	if !scoring.IsMissing(got.Previous) {
		t.Errorf("first score has previous probability %v", got.Previous)
	}
	if got.Risk != schemas.RiskHigh {
		t.Errorf("risk %v at probability %v", got.Risk, got.Probability)
	}
	if len(got.Missing) != 1 || got.Missing[0] != complaints {
		t.Errorf("missing features %v, want complaints", got.Missing)
	}
	lime := v.Predictor.LIME(make([]float64, 3), x, v.Predictor.NewWorkspace())
	if len(got.Explanations) != 3 {
		t.Fatalf("%d explanations", len(got.Explanations))
	}
	for i, e := range got.Explanations {
		if e.LIME != lime[e.Feature] || !scoring.IsMissing(e.SHAP) {
			t.Errorf("feature %d: lime %v, shap %v; want %v and none", e.Feature, e.LIME, e.SHAP, lime[e.Feature])
		}
		if i > 0 && math.Abs(e.LIME) > math.Abs(got.Explanations[i-1].LIME) {
			t.Errorf("explanations are not in order of weight: %v", got.Explanations)
		}
	}
	if got.Attributes[plan] != x[plan] || got.Attributes[months] != 10 || !scoring.IsMissing(got.Attributes[complaints]) {
		t.Errorf("attributes %v", got.Attributes)
	}
	record := s.read(schemas.TopicScores, 1)[0]
	if want := kafka.PartitionOf([]byte("anna"), partitions); record.Partition != want || int(got.SourcePartition) != want {
		t.Errorf("score in partition %d from %d, want %d", record.Partition, got.SourcePartition, want)
	}
	if offset, ok := sourceOffset(&record); !ok || offset != got.SourceOffset {
		t.Errorf("headers %v, want source offset %d", record.Headers, got.SourceOffset)
	}
}

// TestBadInput sends what no producer should send, each followed by a good
// event in the same partition.
func TestBadInput(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, 0))
	s.start()

	good := func(id string) []byte {
		return s.codec.AppendEvent(nil, s.event("anna", id, start, map[int]string{plan: "monthly", months: "10"}, nil))
	}
	frame := func(id uint32, body []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0}, id), body...)
	}
	// A producer whose idea of months is text.
	wrong, err := s.registry.Register(t.Context(), "test-wrong-type", strings.Replace(s.set.Schema(schemas.TopicEvents),
		`"name":"months","type":["null","double"]`, `"name":"months","type":["null","string"]`, 1))
	if err != nil {
		t.Fatal(err)
	}
	if schema, _ := s.registry.Schema(t.Context(), wrong); !strings.Contains(schema, `"months"`) || strings.Count(schema, `"string"`) <= strings.Count(s.set.Schema(schemas.TopicEvents), `"string"`) {
		t.Fatal("the schema with the wrong type was not made")
	}
	nan := s.event("anna", "nan", start, nil, nil)
	nan.Changes[months] = 1
	nanValue := s.codec.AppendEvent(nil, nan)
	one := binary.LittleEndian.AppendUint64(nil, math.Float64bits(1))
	at := strings.Index(string(nanValue), string(one))
	binary.LittleEndian.PutUint64(nanValue[at:], math.Float64bits(math.NaN()))

	at = strings.Index(string(s.codec.AppendEvent(nil, nan)), string(one))
	greatest := s.codec.AppendEvent(nil, nan)
	binary.LittleEndian.PutUint64(greatest[at:], math.Float64bits(math.MaxFloat64))
	when := func(ms int64) []byte {
		return s.codec.AppendEvent(nil, s.event("anna", "x", ms, map[int]string{plan: "yearly"}, nil))
	}

	cases := []struct {
		name   string
		key    string
		value  []byte
		reason schemas.Reason
	}{
		{"empty value", "anna", []byte{}, schemas.ReasonBadFrame},
		{"truncated frame", "anna", good("x")[:3], schemas.ReasonBadFrame},
		{"wrong magic byte", "anna", append([]byte{2}, good("x")[1:]...), schemas.ReasonBadFrame},
		{"unknown schema id", "anna", frame(999_999, good("x")[5:]), schemas.ReasonUnknownSchema},
		{"truncated body", "anna", good("x")[:len(good("x"))-3], schemas.ReasonUndecodable},
		{"trailing bytes", "anna", append(good("x"), 0), schemas.ReasonUndecodable},
		{"wrong type", "anna", frame(uint32(wrong), good("x")[5:]), schemas.ReasonUndecodable},
		{"not a number", "anna", nanValue, schemas.ReasonInvalidValue},
		{"greatest double", "anna", greatest, schemas.ReasonInvalidValue},
		{"a clock ahead", "anna", when(time.Now().Add(25 * time.Hour).UnixMilli()), schemas.ReasonAheadOfClock},
		{"no end", "anna", when(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).UnixMilli()), schemas.ReasonAheadOfClock},
		{"empty customer id", "anna", s.codec.AppendEvent(nil, s.event("", "x", start, map[int]string{plan: "yearly"}, nil)), schemas.ReasonNoCustomerID},
		{"key of another customer", "anna", s.codec.AppendEvent(nil, s.event("bert", "x", start, map[int]string{plan: "yearly"}, nil)), schemas.ReasonKeyMismatch},
		{"over-long event id", "anna", s.codec.AppendEvent(nil, s.event("anna", strings.Repeat("e", 300), start, map[int]string{plan: "yearly"}, nil)), schemas.ReasonTooLarge},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			if len(c.value) == 0 {
				// An empty value is not a null one.
				c.value = []byte{}
			}
			s.send(c.key, c.value)
			s.send("anna", good(fmt.Sprint("good", i)))
			scores := s.scores(i + 1)
			if got := string(scores[i].EventID); got != fmt.Sprint("good", i) {
				t.Errorf("scored event %s", got)
			}
			letters := s.read(schemas.TopicDeadLetters, i+1)
			var found *schemas.DeadLetter
			for _, r := range letters {
				var l schemas.DeadLetter
				if err := s.codec.DecodeDeadLetter(t.Context(), r.Value, &l); err != nil {
					t.Fatal(err)
				}
				if l.Offset == scores[i].SourceOffset-1 {
					found = &l
				}
			}
			if found == nil {
				t.Fatalf("no dead letter for offset %d", scores[i].SourceOffset-1)
			}
			if found.Reason != c.reason || found.Topic != schemas.TopicEvents || string(found.Key) != c.key ||
				string(found.Value) != string(c.value) || found.FailedBy != "scorer" || found.Detail == "" {
				t.Errorf("dead letter %+v, want reason %s and the record itself", found, c.reason)
			}
		})
	}
}

// TestPoisonAsLargeAsARecordCanBe sends what no dead letter holds whole.
func TestPoisonAsLargeAsARecordCanBe(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, 0))
	s.start()
	s.send("anna", bytes.Repeat([]byte{2}, 1<<20-100))
	s.sendEvent(s.event("anna", "e1", start, map[int]string{plan: "monthly", months: "10"}, nil))
	if got := s.scores(1)[0]; string(got.EventID) != "e1" {
		t.Errorf("scored event %s", got.EventID)
	}
	var letter schemas.DeadLetter
	if err := s.codec.DecodeDeadLetter(t.Context(), s.read(schemas.TopicDeadLetters, 1)[0].Value, &letter); err != nil {
		t.Fatal(err)
	}
	if letter.Reason != schemas.ReasonBadFrame || len(letter.Value) != 64<<10 || letter.OriginalBytes != 1<<20-100+4 || string(letter.Key) != "anna" || !strings.Contains(letter.Detail, "of which 65536 are kept") {
		t.Errorf("letter of key %q, value of %d bytes, detail %q", letter.Key, len(letter.Value), letter.Detail)
	}
}

func TestCarriesOnAfterRestart(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, 0))
	stop := s.start()
	s.sendEvent(s.event("anna", "e1", start, map[int]string{plan: "monthly", months: "10", complaints: "0"}, nil))
	s.sendEvent(s.event("anna", "e2", start+1000, map[int]string{plan: "yearly"}, map[int]float64{months: 1}))
	before := s.scores(2)
	stop()

	s.sendEvent(s.event("anna", "e3", start+2000, nil, map[int]float64{months: 1, complaints: 2}))
	s.start()
	got := s.scores(3)[2]
	if got.Attributes[months] != 12 || got.Attributes[complaints] != 2 || s.set.Text(plan, got.Attributes[plan], got.Levels) != "yearly" {
		t.Errorf("attributes after the restart: %v", got.Attributes)
	}
	if got.Previous != before[1].Probability {
		t.Errorf("previous probability %v, want %v", got.Previous, before[1].Probability)
	}
	if len(got.RecentEvents) != 3 {
		t.Errorf("recent events %v, want three", got.RecentEvents)
	}
	// A late change of plan, older than e2's, and the same event once more.
	s.sendEvent(s.event("anna", "late", start+500, map[int]string{plan: "monthly"}, nil))
	s.sendEvent(s.event("anna", "e3", start+2000, nil, map[int]float64{months: 1, complaints: 2}))
	s.sendEvent(s.event("anna", "e4", start+3000, nil, map[int]float64{months: 1}))
	got = s.scores(5)[4]
	if string(got.EventID) != "e4" || got.Attributes[months] != 13 || s.set.Text(plan, got.Attributes[plan], got.Levels) != "yearly" {
		t.Errorf("event %s, attributes %v", got.EventID, got.Attributes)
	}
}

func TestErasure(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, 0))
	stop := s.start()
	s.sendEvent(s.event("anna", "e1", start, map[int]string{plan: "monthly", months: "10"}, nil))
	s.send("anna", nil)
	records := s.read(schemas.TopicScores, 2)
	if r := records[1]; string(r.Key) != "anna" || len(r.Value) != 0 {
		t.Fatalf("after the erasure: %+v", r)
	}
	if offset, ok := sourceOffset(&records[1]); !ok || offset != 1 {
		t.Errorf("tombstone has headers %v, want source offset 1", records[1].Headers)
	}
	if r := s.read(schemas.TopicOutcomes, 1)[0]; string(r.Key) != "anna" || r.Value != nil {
		t.Errorf("among the outcomes: %+v", r)
	}
	stop()
	s.start()
	s.sendEvent(s.event("anna", "e2", start+1, map[int]string{plan: "yearly"}, nil))
	got := s.scores(3)[2]
	if !scoring.IsMissing(got.Attributes[months]) || !scoring.IsMissing(got.Previous) {
		t.Errorf("an erased customer is remembered: %+v", got)
	}
}

// Upstream may write keys as Avro or JSON strings, and name the schema in headers.
func TestFramedKeys(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		format schemas.KeyFormat
		header string // of the key
		key    func(id string) string
	}{
		"avro":                {schemas.KeyAvro, "", func(id string) string { return "\x00\x00\x00\x00\x09" + string(rune(2*len(id))) + id }},
		"avro, by its header": {schemas.KeyAvro, "\x01ABCDEFGHIJKLMNOP", func(id string) string { return string(rune(2*len(id))) + id }},
		"json":                {schemas.KeyJSON, "", func(id string) string { return `"` + id + `"` }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t)
			s.codec.Keys = c.format
			s.models.set(modelVersion(t, s.set, 1, 0))
			stop := s.start()
			send := func(key string, value []byte, headers ...kafka.Header) {
				t.Helper()
				if c.header != "" {
					headers = append(headers, kafka.Header{Key: schemas.KeySchemaHeader, Value: []byte(c.header)})
				}
				if err := s.producer.Produce(t.Context(), schemas.TopicEvents, kafka.Record{Key: []byte(c.key(key)), Value: value, Headers: headers}); err != nil {
					t.Fatal(err)
				}
			}
			// Enough customers that some belong elsewhere by their id alone.
			var ids []string
			for i := range 8 {
				ids = append(ids, fmt.Sprint("customer-", i))
				value := s.codec.AppendEvent(nil, s.event(ids[i], "e1", start, map[int]string{plan: "monthly", months: "10"}, nil))
				if i%2 == 0 {
					send(ids[i], value)
				} else { // its schema in a header
					send(ids[i], value[5:], kafka.Header{Key: schemas.ValueSchemaHeader, Value: value[:5]})
				}
			}
			seen := map[string]bool{}
			for _, r := range s.read(schemas.TopicScores, 8) {
				seen[string(r.Key)] = true
			}
			for _, id := range ids {
				if !seen[id] {
					t.Errorf("no score under the key %q: %v", id, seen)
				}
			}
			if n, err := testutil.GatherAndCount(s.metrics, "churn_scorer_misplaced_events_total"); err != nil || n != 1 {
				t.Fatal(n, err)
			}
			families, err := s.metrics.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if f.GetName() == "churn_scorer_misplaced_events_total" && f.GetMetric()[0].GetCounter().GetValue() != 0 {
					t.Errorf("%v events are misplaced", f)
				}
			}

			// Another's key is poison, and kept as it was.
			send("bert", s.codec.AppendEvent(nil, s.event("anna", "e2", start, nil, nil)))
			var letter *schemas.DeadLetter
			until(t, "the dead letter", func() bool {
				err := s.cluster.Tail(t.Context(), kafka.TailConfig{Topics: []string{schemas.TopicDeadLetters}, ToEnd: true},
					intake.Handle(intake.New(intake.Config{}), intake.Topic[schemas.DeadLetter]{Decode: s.codec.DecodeDeadLetter, Reserved: true},
						func(_ context.Context, _ *kafka.Record, l *schemas.DeadLetter) error {
							kept := *l
							letter = &kept
							return nil
						}))
				if err != nil {
					t.Fatal(err)
				}
				return letter != nil
			})
			if letter.Reason != schemas.ReasonKeyMismatch || string(letter.Key) != c.key("bert") {
				t.Errorf("%+v", letter)
			}

			// Erased by upstream and by us, whose keys are plain.
			send(ids[0], nil)
			if err := s.producer.ProduceEverywhere(t.Context(), schemas.TopicEvents, kafka.Record{Key: []byte(ids[1])}); err != nil {
				t.Fatal(err)
			}
			until(t, "both erasures, in every partition of the outcomes", func() bool {
				spans, err := s.cluster.Spans(t.Context(), schemas.TopicOutcomes)
				return err == nil && spans[0].End >= 2 && spans[1].End >= 2
			})
			stop()
			s.start()
			for _, id := range ids[:3] {
				send(id, s.codec.AppendEvent(nil, s.event(id, "e3", start+1, map[int]string{plan: "yearly"}, nil)))
			}
			latest := map[string]*schemas.ChurnScore{}
			var mu sync.Mutex // partitions are read at the same time
			until(t, "the scores after that", func() bool {
				clear(latest)
				err := s.cluster.Tail(t.Context(), kafka.TailConfig{Topics: []string{schemas.TopicScores}, ToEnd: true},
					intake.Handle(intake.New(intake.Config{}), intake.Topic[schemas.ChurnScore]{Decode: s.codec.DecodeScore, New: s.codec.NewScore},
						func(_ context.Context, r *kafka.Record, score *schemas.ChurnScore) error {
							if score != nil && string(score.EventID) == "e3" {
								kept := *score
								kept.Attributes = slices.Clone(score.Attributes)
								mu.Lock()
								defer mu.Unlock()
								latest[string(r.Key)] = &kept
							}
							return nil
						}))
				if err != nil {
					t.Fatal(err)
				}
				return len(latest) == 3
			})
			for i, id := range ids[:3] {
				if forgotten := scoring.IsMissing(latest[id].Attributes[months]); forgotten != (i < 2) {
					t.Errorf("%s is forgotten: %v", id, forgotten)
				}
			}
		})
	}
}

// Erasures come to every partition. Where the customer's events lie, wherever
// they belong, something follows, and where they belong; elsewhere nothing.
func TestErasureOfMisplacedCustomers(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, 0))
	s.start()
	ctx := t.Context()
	home := kafka.PartitionOf([]byte("anna"), partitions)
	elsewhere := 1 - home
	misplace := func(e *schemas.CustomerEvent) {
		t.Helper()
		record := kafka.Record{Key: e.CustomerID, Value: s.codec.AppendEvent(nil, e)}
		if err := s.producer.ProduceTo(ctx, schemas.TopicEvents, elsewhere, []kafka.Record{record}); err != nil {
			t.Fatal(err)
		}
	}
	misplace(s.event("anna", "e1", start, map[int]string{plan: "monthly", months: "10"}, nil))
	s.scores(1)
	for _, id := range []string{"nobody", "anna"} {
		if err := s.producer.ProduceEverywhere(ctx, schemas.TopicEvents, kafka.Record{Key: []byte(id)}); err != nil {
			t.Fatal(err)
		}
	}
	tombstones := map[string]int{}
	for _, r := range s.read(schemas.TopicScores, 4) {
		if r.Value == nil {
			tombstones[fmt.Sprintf("%s in %d", r.Key, r.Partition)]++
		}
	}
	want := map[string]int{"anna in 0": 1, "anna in 1": 1, fmt.Sprint("nobody in ", kafka.PartitionOf([]byte("nobody"), partitions)): 1}
	if !maps.Equal(tombstones, want) {
		t.Errorf("tombstones %v, want %v", tombstones, want)
	}
	misplace(s.event("anna", "e2", start+1, map[int]string{plan: "yearly"}, nil))
	for _, got := range s.scores(5) {
		if got != nil && string(got.EventID) == "e2" && !scoring.IsMissing(got.Attributes[months]) {
			t.Errorf("an erased customer is remembered: %+v", got)
		}
	}
}

func TestWaitsForAModelAndSwitches(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.start()
	s.sendEvent(s.event("anna", "e1", start, map[int]string{plan: "monthly", months: "10"}, nil))
	until(t, "readiness to name the missing model", func() bool {
		why, _ := s.ready.Load("scorer")
		text, _ := why.(string)
		return strings.Contains(text, "no model")
	})
	s.models.set(modelVersion(t, s.set, 1, 0))
	first := s.scores(1)[0]
	s.models.set(modelVersion(t, s.set, 2, -3))
	until(t, "the new model in the metrics", func() bool {
		n, _ := testutil.GatherAndCount(s.metrics, "churn_scorer_model_version")
		families, _ := s.metrics.Gather()
		for _, f := range families {
			if f.GetName() == "churn_scorer_model_version" && n == 1 {
				return f.GetMetric()[0].GetGauge().GetValue() == 2
			}
		}
		return false
	})
	// The event below may still be scored by the batch that began before.
	for i := 2; ; i++ {
		s.sendEvent(s.event("anna", fmt.Sprint("e", i), start+int64(i), nil, map[int]float64{months: 0}))
		scores := s.scores(i)
		if last := scores[i-1]; last.ModelVersion == 2 {
			if last.Probability >= first.Probability || last.Previous != scores[i-2].Probability {
				t.Errorf("first score %+v, after the switch %+v", first, last)
			}
			return
		}
		if i > 20 {
			t.Fatal("the new model was never used")
		}
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	await.Until(t, what, done)
}

// TestGroup has a second scorer join the group and leave it again.
func TestGroup(t *testing.T) {
	if testing.Short() {
		t.Skip("a group takes seconds to rebalance")
	}
	t.Parallel()
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, 0))
	sent := 0
	send := func() {
		for range 20 {
			s.sendEvent(s.event(fmt.Sprint("customer", sent%7), fmt.Sprint("e", sent), start+int64(sent), map[int]string{plan: "monthly"}, map[int]float64{complaints: 1}))
			sent++
		}
		s.scores(sent)
	}
	assigned := func(reg *prometheus.Registry) int {
		n, err := testutil.GatherAndCount(reg, "churn_scorer_customers")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	s.start()
	first := s.metrics
	send()
	leave := s.start()
	second := s.metrics
	until(t, "the second scorer to get a partition", func() bool { return assigned(second) == 1 && assigned(first) == 1 })
	send()
	leave()
	until(t, "the first scorer to have both again", func() bool { return assigned(first) == 2 })
	send()
	families, err := first.Gather()
	if err != nil {
		t.Fatal(err)
	}
	restored := map[string]uint64{}
	for _, f := range families {
		if f.GetName() == "churn_scorer_restore_seconds" {
			for _, m := range f.GetMetric() {
				restored[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
			}
		}
	}
	if restored[fromTopic] != partitions || restored[fromMemory] == 0 {
		t.Errorf("the first scorer restored its states so: %v", restored)
	}
}
