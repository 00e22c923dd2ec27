package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/embedded"
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
	{"name":"risk","type":["null","double"],"default":null,"feature":{"kind":"numeric"}}
]}`

const partitions = 3

// examplePartitions is not partitions: the topic of examples never grows.
const examplePartitions = 2

// stack is a broker, a registry and what speaks to them.
type stack struct {
	set      *schemas.Set
	registry schemas.Registry
	codec    *schemas.Codec // the scorer's and trainer's
	cluster  *kafka.Cluster
	broker   string
	producer *kafka.Producer
}

func newStack(t *testing.T) *stack {
	t.Helper()
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
	set, err := schemas.Parse([]byte(attributes))
	if err != nil {
		t.Fatal(err)
	}
	client, err := registry.New(registry.Config{URL: reg.URL()})
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	s := &stack{set: set, registry: client, codec: schemas.NewCodec(set, client), cluster: cluster, broker: broker.Addr()}
	if err := s.codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = cluster.EnsureTopics(t.Context(),
		kafka.TopicConfig{Name: schemas.TopicScores, Partitions: partitions, Replication: 1},
		kafka.TopicConfig{Name: schemas.TopicOutcomes, Partitions: partitions, Replication: 1},
		kafka.TopicConfig{Name: schemas.TopicExamples, Partitions: examplePartitions, Replication: 1},
		kafka.TopicConfig{Name: schemas.TopicModels, Partitions: 1, Replication: 1},
		kafka.TopicConfig{Name: schemas.TopicDeadLetters, Partitions: partitions, Replication: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.producer = cluster.NewProducer(kafka.ProducerConfig{})
	return s
}

func (s *stack) produce(t *testing.T, topic string, records ...kafka.Record) {
	t.Helper()
	if err := s.producer.Produce(t.Context(), topic, records...); err != nil {
		t.Fatal(err)
	}
}

// score returns the record of a customer's score.
func (s *stack) score(t *testing.T, customer string, offset int64, p float64) kafka.Record {
	t.Helper()
	score := s.codec.NewScore()
	score.CustomerID, score.EventID = []byte(customer), []byte("6f1c1a52-7d0e-4a4b-9a50-6b6f6d1f0b3e")
	score.OccurredAt, score.ScoredAt, score.ModelVersion = 1767225600000+offset, 1767225600005+offset, 1
	score.Probability, score.Previous, score.ExpectedProbability = p, scoring.Missing, 0.25
	if p >= 0.6 {
		score.Risk = schemas.RiskHigh
	}
	score.Attributes[0], score.Attributes[1] = score.Levels.Add("monthly"), 7
	score.Explanations = append(score.Explanations, schemas.Explanation{Feature: 0, LIME: 0.25, SHAP: 0.125})
	score.SourcePartition = int32(kafka.PartitionOf([]byte(customer), partitions))
	score.SourceOffset = offset
	return kafka.Record{Key: []byte(customer), Value: s.codec.AppendScore(nil, score)}
}

// erased returns the record by which a scorer erases a customer's scores of
// before an offset.
func (s *stack) erased(customer string, offset int64) kafka.Record {
	return kafka.Record{Key: []byte(customer), Headers: []kafka.Header{
		{Key: "source-partition", Value: strconv.AppendInt(nil, int64(kafka.PartitionOf([]byte(customer), partitions)), 10)},
		{Key: "source-offset", Value: strconv.AppendInt(nil, offset, 10)},
	}}
}

func (s *stack) outcome(customer string, observedAt int64) kafka.Record {
	return kafka.Record{Key: []byte(customer), Value: s.codec.AppendOutcome(nil, &schemas.ChurnOutcome{
		CustomerID: customer, Churned: true, ObservedAt: observedAt, Source: "crm",
	})}
}

// examples returns the record of a customer's examples, by model 1, with the
// given observation times and one churn probability for all.
func (s *stack) examples(customer string, p float64, change func(*schemas.LabelledExample), observedAt ...int64) kafka.Record {
	m := &schemas.CustomerExamples{CustomerID: []byte(customer)}
	for _, when := range observedAt {
		e := schemas.LabelledExample{
			AsOf: when - 2000, ObservedAt: when, LabelledAt: when + 1000, Horizon: 1000, Churned: true,
			ModelVersion: 1, Probability: p, SourceOffset: 3, Attributes: scoring.NewVector(s.set.Spec().Len()),
		}
		e.Attributes[0], e.Attributes[1] = m.Levels.Add("monthly "+strconv.FormatInt(when%1000, 10)), 7
		if change != nil {
			change(&e)
		}
		m.Examples = append(m.Examples, e)
	}
	return kafka.Record{Key: []byte(customer), Value: s.codec.AppendExamples(nil, m)}
}

// start runs a sink and returns a function that stops it and returns what Run
// returned. The sink's codec is its own: it knows no schema ids yet.
// models is a feed that sinks have no use for.
func (s *stack) models() role.Models {
	return models.NewFeed(models.FeedConfig{Cluster: s.cluster, Codec: s.codec})
}

func (s *stack) start(t *testing.T, cfg Config) (stop func() error) {
	t.Helper()
	cfg.Cluster, cfg.Models = s.cluster, s.models()
	if cfg.Codec == nil {
		cfg.Codec = schemas.NewCodec(s.set, s.registry)
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	if cfg.MaxDelay == 0 {
		cfg.MaxDelay = 20 * time.Millisecond
	}
	sink, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sink.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { stop() })
	return stop
}

// lag returns how many records of all topics a group has not committed.
func (s *stack) lag(t *testing.T, group string) (lag int64) {
	t.Helper()
	topics := map[string][]int{schemas.TopicScores: {0, 1, 2}, schemas.TopicOutcomes: {0, 1, 2}, schemas.TopicExamples: {0, 1}, schemas.TopicModels: {0}}
	client := &kafkago.Client{Addr: kafkago.TCP(s.broker)}
	answer, err := client.OffsetFetch(t.Context(), &kafkago.OffsetFetchRequest{GroupID: group, Topics: topics})
	if err != nil {
		t.Fatal(err)
	}
	committed := map[string]int64{}
	for topic, list := range answer.Topics {
		for _, p := range list {
			committed[fmt.Sprint(topic, p.Partition)] = max(p.CommittedOffset, 0)
		}
	}
	for topic, list := range topics {
		for _, p := range list {
			_, end, err := s.cluster.Offsets(t.Context(), topic, p)
			if err != nil {
				t.Fatal(err)
			}
			lag += end - committed[fmt.Sprint(topic, p)]
		}
	}
	return lag
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	await.Until(t, what, condition)
}

// deadLetters returns reason, topic and key of all dead letters, sorted.
func (s *stack) deadLetters(t *testing.T) (list []string) {
	t.Helper()
	for p := range partitions {
		_, end, err := s.cluster.Offsets(t.Context(), schemas.TopicDeadLetters, p)
		if err != nil {
			t.Fatal(err)
		}
		f := s.cluster.NewFetcher(kafka.FetcherConfig{Topic: schemas.TopicDeadLetters, Partition: p, Offset: -1, MaxWait: 10 * time.Millisecond})
		for f.Offset() < end {
			records, err := f.Fetch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				var d schemas.DeadLetter
				if err := s.codec.DecodeDeadLetter(t.Context(), r.Value, &d); err != nil {
					t.Fatal(err)
				}
				list = append(list, fmt.Sprintf("%s %s %q %q by %s", d.Reason, d.Topic, d.Key, d.Value, d.FailedBy))
			}
		}
	}
	slices.Sort(list)
	return list
}

func TestSinkStoresEverything(t *testing.T) {
	stack := newStack(t)
	eachStore(t, stack.set, func(t *testing.T, s *opened) {
		reg := prometheus.NewRegistry()
		stack.produce(t, schemas.TopicScores,
			kafka.Record{Key: []byte("\x00marker"), Value: []byte("not a score")},
			stack.score(t, "anna", 1, 0.5), stack.score(t, "anna", 2, 0.75),
			stack.erased("anna", 1), // from before, written late
			stack.score(t, "bert", 3, 0.75),
			kafka.Record{Key: []byte("bert")}, // by someone else than a scorer
			stack.score(t, "carl", 4, 0.75),
			stack.erased("carl", 5), // and a customer again
			stack.score(t, "carl", 6, 0.875),
			// Written late, by a scorer that has lost its partition.
			stack.score(t, "carl", 3, 0.5),
			kafka.Record{Key: []byte("anna"), Value: []byte("junk")},
			kafka.Record{Key: []byte("dora"), Value: stack.score(t, "anna", 7, 0.5).Value},
			kafka.Record{Value: nil},
		)
		stack.produce(t, schemas.TopicOutcomes,
			stack.outcome("anna", 1767225700000),
			stack.outcome("emil", 1767225700000),
			kafka.Record{Key: []byte("emil")}, // withdrawn
			// Written after an erasure that the other topic still has.
			stack.outcome("carl", 1767225700000),
			// Withdrawn, while the scores stay.
			stack.outcome("anna", 1767225600000),
			kafka.Record{Key: []byte("anna")},
			stack.outcome("anna", 1767225700000),
			kafka.Record{Key: []byte("anna"), Value: []byte{0, 0, 0}},
		)
		corrected := func(e *schemas.LabelledExample) {
			if e.ObservedAt == 1767225700001 {
				e.Churned, e.LabelledAt, e.Corrections = false, e.LabelledAt+1, 1
			}
		}
		stack.produce(t, schemas.TopicExamples,
			kafka.Record{Key: []byte("\x00progress"), Value: []byte("not examples")},
			stack.examples("anna", 0.75, nil, 1767225700001, 1767225700002),
			stack.examples("emil", 0.75, nil, 1767225700001),
			stack.examples("carl", 0.75, nil, 1767225700001),
			kafka.Record{Key: []byte("emil")},
			kafka.Record{Key: []byte("carl")},
			stack.examples("carl", 0.25, nil, 1767225700005), // and a customer again
			stack.examples("anna", 0.75, corrected, 1767225700001, 1767225700002, 1767225700003),
			stack.examples("anna", 0.75, corrected, 1767225700002, 1767225700003, 1767225700004),
			kafka.Record{Key: []byte("anna"), Value: []byte("junk")},
			kafka.Record{Key: []byte("dora"), Value: stack.examples("anna", 0.5, nil).Value},
			stack.examples("dora", 1.5, nil, 1767225700001),
			kafka.Record{Value: nil},
		)
		model := schemas.ModelVersion{Version: 1, Stage: schemas.StageChampion, Payload: "{}", SHA256: models.SHA256("{}"), FeatureFingerprint: stack.set.Spec().Fingerprint()}
		// Neither is what anybody takes for a version.
		tampered, beyond := model, model
		tampered.Version, tampered.Payload = 2, "{ }"
		beyond.Version = math.MaxInt64
		stack.produce(t, schemas.TopicModels,
			kafka.Record{Key: []byte("2"), Value: stack.codec.AppendModel(nil, &tampered)},
			kafka.Record{Key: models.Key(math.MaxInt64), Value: stack.codec.AppendModel(nil, &beyond)},
			kafka.Record{Key: []byte("3"), Value: stack.codec.AppendModel(nil, &model)},
			kafka.Record{Key: []byte("1"), Value: stack.codec.AppendModel(nil, &model)}, kafka.Record{Key: []byte("0")})

		stop := stack.start(t, Config{Store: s, Dependencies: role.Dependencies{Registerer: reg}})
		eventually(t, "all committed", func() bool { return stack.lag(t, "churn-sink-"+s.Name()) == 0 })
		if err := stop(); err != nil {
			t.Fatalf("Run: %v", err)
		}

		expectRows(t, s.ask(t, "SELECT customer_id, source_offset, churn_probability, plan, feature_risk FROM "+s.table("churn_scores")+" ORDER BY source_offset"),
			"anna | 1 | 0.5 | monthly | 7", "anna | 2 | 0.75 | monthly | 7", "bert | 3 | 0.75 | monthly | 7", "carl | 6 | 0.875 | monthly | 7")
		expectRows(t, s.ask(t, "SELECT customer_id, reasons FROM customers_at_risk"), "carl | plan: monthly (+0.25)", "anna | plan: monthly (+0.25)", "bert | plan: monthly (+0.25)")
		expectRows(t, s.ask(t, "SELECT customer_id, churned FROM "+s.table("churn_outcomes")+" ORDER BY 1"), "anna | 1", "carl | 1")
		expectRows(t, s.ask(t, "SELECT version, stage FROM "+s.table("model_versions")), "1 | CHAMPION")
		expectRows(t, s.ask(t, "SELECT customer_id, observed_at, churned, corrections, churn_probability, plan, feature_risk FROM "+s.table("churn_examples")+" ORDER BY 1, 2"),
			"anna | 2026-01-01 00:01:40.001 | 0 | 1 | 0.75 | monthly 1 | 7", "anna | 2026-01-01 00:01:40.002 | 1 | 0 | 0.75 | monthly 2 | 7",
			"anna | 2026-01-01 00:01:40.003 | 1 | 0 | 0.75 | monthly 3 | 7", "anna | 2026-01-01 00:01:40.004 | 1 | 0 | 0.75 | monthly 4 | 7",
			"carl | 2026-01-01 00:01:40.005 | 1 | 0 | 0.25 | monthly 5 | 7")
		expectRows(t, s.ask(t, "SELECT day, model_version, examples, churned, accuracy, precision, recall FROM model_accuracy_daily"), "2026-01-01 | 1 | 5 | 4 | 0.6 | 0.75 | 0.75")

		letters := slices.DeleteFunc(stack.deadLetters(t), func(letter string) bool {
			return !strings.HasSuffix(letter, " by sink "+s.Name()) // of the other store's run
		})
		expectRows(t, slices.Compact(letters),
			`bad_frame churn.examples "anna" "junk" by sink `+s.Name(),
			`bad_frame churn.scores "anna" "junk" by sink `+s.Name(),
			fmt.Sprintf("foreign churn.examples \"dora\" %q by sink %s", stack.examples("dora", 1.5, nil, 1767225700001).Value, s.Name()),
			fmt.Sprintf("foreign churn.models \"2\" %q by sink %s", stack.codec.AppendModel(nil, &tampered), s.Name()),
			fmt.Sprintf("foreign churn.models \"3\" %q by sink %s", stack.codec.AppendModel(nil, &model), s.Name()),
			fmt.Sprintf("foreign churn.models \"9223372036854775807\" %q by sink %s", stack.codec.AppendModel(nil, &beyond), s.Name()),
			`foreign churn.scores "bert" "" by sink `+s.Name(),
			fmt.Sprintf("key_mismatch churn.examples \"dora\" %q by sink %s", stack.examples("anna", 0.5, nil).Value, s.Name()),
			fmt.Sprintf("key_mismatch churn.scores \"dora\" %q by sink %s", stack.score(t, "anna", 7, 0.5).Value, s.Name()),
			`missing_customer_id churn.examples "" "" by sink `+s.Name(),
			`missing_customer_id churn.scores "" "" by sink `+s.Name())
		want := strings.ReplaceAll(`# HELP churn_sink_rows_total Rows that the store acknowledged, rewritten ones included.
# TYPE churn_sink_rows_total counter
churn_sink_rows_total{store="STORE",table="churn_examples"} 5
churn_sink_rows_total{store="STORE",table="churn_outcomes"} 2
churn_sink_rows_total{store="STORE",table="churn_scores"} 4
churn_sink_rows_total{store="STORE",table="model_versions"} 1
# HELP churn_sink_erased_customers_total Customers whose rows were deleted because they were erased.
# TYPE churn_sink_erased_customers_total counter
churn_sink_erased_customers_total{store="STORE"} 2
# HELP churn_sink_unreadable_outcomes_total Outcomes passed over because they cannot be read; the labeler makes dead letters of them.
# TYPE churn_sink_unreadable_outcomes_total counter
churn_sink_unreadable_outcomes_total{reason="bad_frame",store="STORE"} 1
# HELP churn_sink_store_up 1 if the store took the last batch, 0 if it did not or was not reached yet.
# TYPE churn_sink_store_up gauge
churn_sink_store_up{store="STORE"} 1
`, "STORE", s.Name())
		if s.Name() == "sqlite" { // the second run finds the first one's records twice
			if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "churn_sink_rows_total", "churn_sink_erased_customers_total", "churn_sink_unreadable_outcomes_total", "churn_sink_store_up"); err != nil {
				t.Error(err)
			}
		}
		if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
			t.Errorf("promlint: %v %v", problems, err)
		}
	})
}

// dying is a store after whose first write the process ends, before any
// offset is committed.
type dying struct {
	Store
	die  func()
	dead atomic.Bool
}

func (d *dying) Write(ctx context.Context, b *Batch) error {
	if d.dead.Load() {
		return errors.New("the process has ended")
	}
	if err := d.Store.Write(ctx, b); err != nil {
		return err
	}
	d.dead.Store(true)
	d.die()
	return errors.New("the process has ended")
}

func TestSinkEndedBetweenWriteAndCommitLeavesNoDoubles(t *testing.T) {
	stack := newStack(t)
	eachStore(t, stack.set, func(t *testing.T, s *opened) {
		group := "ended-" + s.Name()
		const n = 300
		var records []kafka.Record
		var want []string
		for i := range n {
			id := fmt.Sprintf("c%03d", i)
			records = append(records, stack.score(t, id, int64(i), 0.5))
			want = append(want, id+" | 1")
		}
		stack.produce(t, schemas.TopicScores, records...)
		// Rows a crash-free run would have, and nothing committed yet.
		died := make(chan struct{})
		stop := stack.start(t, Config{Store: &dying{Store: s, die: sync.OnceFunc(func() { close(died) })}, Group: group, MaxRows: 50})
		<-died
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		stored, err := strconv.Atoi(s.ask(t, "SELECT count(*) FROM churn_scores")[0])
		if err != nil || stored == 0 || stored >= n {
			t.Fatalf("%d rows were stored before the end, want some of %d (%v)", stored, n, err)
		}
		if lag := stack.lag(t, group); lag < n {
			t.Fatalf("%d records to go, want all %d: something was committed", lag, n)
		}

		stop = stack.start(t, Config{Store: s, Group: group, MaxRows: 70})
		eventually(t, "all committed", func() bool { return stack.lag(t, group) == 0 })
		stop()
		expectRows(t, s.ask(t, "SELECT customer_id, count(*) FROM "+s.table("churn_scores")+" GROUP BY customer_id ORDER BY customer_id"), want...)
	})
}

// failing is a store that refuses its first calls.
type failing struct {
	Store
	migrations, writes atomic.Int64 // refusals to come
	rows               atomic.Int64 // most in one batch
}

func (f *failing) Migrate(ctx context.Context) error {
	if f.migrations.Add(-1) >= 0 {
		return errors.New("connection refused")
	}
	return f.Store.Migrate(ctx)
}

func (f *failing) Write(ctx context.Context, b *Batch) error {
	if f.writes.Add(-1) >= 0 {
		return errors.New("no space left on device")
	}
	f.rows.Store(max(f.rows.Load(), int64(len(b.Scores))))
	return f.Store.Write(ctx, b)
}

func TestSinkWaitsForItsStore(t *testing.T) {
	stack := newStack(t)
	s := openTestSQLite(t, stack.set)
	store := &failing{Store: s}
	store.migrations.Store(2)
	store.writes.Store(3)
	var records []kafka.Record
	for i := range 25 {
		records = append(records, stack.score(t, "anna", int64(i), 0.5))
	}
	stack.produce(t, schemas.TopicScores, records...)

	var mu sync.Mutex
	var states []string
	reg := prometheus.NewRegistry()
	stop := stack.start(t, Config{
		Store: store, MaxRows: 10,
		Dependencies: role.Dependencies{Registerer: reg, Ready: func(name string, ready bool, why string) {
			mu.Lock()
			defer mu.Unlock()
			state := fmt.Sprintf("%s %v %s", name, ready, why)
			if len(states) == 0 || states[len(states)-1] != state {
				states = append(states, state)
			}
		}},
	})
	eventually(t, "all committed", func() bool { return stack.lag(t, "churn-sink-sqlite") == 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	expectRows(t, s.ask(t, "SELECT count(*), min(source_offset), max(source_offset) FROM churn_scores"), "25 | 0 | 24")
	expectRows(t, states,
		"sink sqlite false sqlite: not connected yet", "sink sqlite false sqlite: connection refused",
		"sink sqlite false joining the consumer group churn-sink-sqlite", "sink sqlite true ",
		"sink sqlite false sqlite: no space left on device", "sink sqlite true ")
	if n := store.rows.Load(); n != 10 {
		t.Errorf("the largest batch had %d rows, want MaxRows, 10", n)
	}
	want := "# HELP churn_sink_retries_total Writes that failed and were tried again.\n# TYPE churn_sink_retries_total counter\nchurn_sink_retries_total{store=\"sqlite\"} 3\n"
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "churn_sink_retries_total"); err != nil {
		t.Error(err)
	}
}

// Large records are written before they are many, and before their time.
func TestSinkBoundsABatchsBytes(t *testing.T) {
	stack := newStack(t)
	s := openTestSQLite(t, stack.set)
	store := &failing{Store: s}
	var records []kafka.Record
	for i := range 20 {
		records = append(records, stack.score(t, "anna", int64(i), 0.5))
	}
	stack.produce(t, schemas.TopicScores, records...)
	size := len(records[0].Key) + len(records[0].Value)
	stack.start(t, Config{Store: store, MaxBytes: 4*size + 1, MaxDelay: time.Hour})
	eventually(t, "all committed", func() bool { return stack.lag(t, "churn-sink-sqlite") == 0 })
	if n := store.rows.Load(); n != 5 {
		t.Errorf("the largest batch had %d rows of %d bytes, want 5", n, size)
	}
}

// flaky is a registry that is down for its first calls.
type flaky struct {
	schemas.Registry
	refusals atomic.Int64
}

func (f *flaky) Schema(ctx context.Context, id int) (string, error) {
	if f.refusals.Add(-1) >= 0 {
		return "", errors.New("registry is down")
	}
	return f.Registry.Schema(ctx, id)
}

func (f *flaky) Register(ctx context.Context, subject, schema string) (int, error) {
	if f.refusals.Add(-1) >= 0 {
		return 0, errors.New("registry is down")
	}
	return f.Registry.Register(ctx, subject, schema)
}

func TestSinkWaitsForTheRegistry(t *testing.T) {
	stack := newStack(t)
	s := openTestSQLite(t, stack.set)
	registry := &flaky{Registry: stack.registry}
	registry.refusals.Store(2)
	stack.produce(t, schemas.TopicScores, stack.score(t, "anna", 1, 0.5))
	stop := stack.start(t, Config{Store: s, Dependencies: role.Dependencies{Codec: schemas.NewCodec(stack.set, registry)}})
	eventually(t, "the first score", func() bool { return stack.lag(t, "churn-sink-sqlite") == 0 })

	// A scorer of a later schema, whose id the sink must ask for.
	later, err := schemas.Parse([]byte(strings.Replace(attributes, `"fields":[`,
		`"fields":[{"name":"visits","type":["null","double"],"default":null},`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	registry.refusals.Store(2)
	codec := schemas.NewCodec(later, stack.registry)
	if err := codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	score := codec.NewScore()
	score.CustomerID, score.EventID, score.SourceOffset = []byte("anna"), []byte("6f1c1a52-7d0e-4a4b-9a50-6b6f6d1f0b3e"), 2
	score.ModelVersion, score.Previous, score.Attributes[2] = 1, scoring.Missing, 9
	stack.produce(t, schemas.TopicScores, kafka.Record{Key: []byte("anna"), Value: codec.AppendScore(nil, score)})
	eventually(t, "the later score", func() bool { return stack.lag(t, "churn-sink-sqlite") == 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	expectRows(t, s.ask(t, "SELECT source_offset, feature_risk FROM churn_scores ORDER BY source_offset"), "1 | 7", "2 | 9")
	if registry.refusals.Load() >= 0 {
		t.Error("the registry was not asked while it was down")
	}
	expectRows(t, stack.deadLetters(t))
}

func TestRunRefusesForeignTables(t *testing.T) {
	stack := newStack(t)
	s := openTestSQLite(t, newCompany(t, numeric("plan")))
	s.mustMigrate(t)
	sink, err := New(Config{Dependencies: role.Dependencies{Cluster: stack.cluster, Codec: stack.codec, Models: stack.models()}, Store: s.reopen(stack.set)})
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Run(t.Context()); !errors.Is(err, ErrSchema) {
		t.Errorf("Run: %v, want ErrSchema", err)
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no error without cluster, codec and store")
	}
	if _, err := OpenClickHouse(ClickHouseConfig{Addr: "no port"}, threeFeatures(t)); err == nil {
		t.Error("no error for an address without a port")
	}
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	reg := prometheus.NewRegistry()
	codec := schemas.NewCodec(schemas.Telco(), nil)
	feed := models.NewFeed(models.FeedConfig{Cluster: cluster, Codec: codec})
	cfg := Config{Dependencies: role.Dependencies{Cluster: cluster, Codec: codec, Models: feed, Registerer: reg}}
	dir := t.TempDir()
	open := func(name string) Store {
		s, err := OpenSQLite(filepath.Join(dir, name), schemas.Telco())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	cfg.Store = open("a.db")
	if _, err := New(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg); err == nil {
		t.Error("no error for metrics that are registered already")
	}
}

// A sink stores whatever levels scorers have accepted: it knows of no limit to
// how many there are in all partitions together.
func TestSinkStoresAnyNumberOfLevels(t *testing.T) {
	stack := newStack(t)
	s := openTestSQLite(t, stack.set)
	const n = scoring.MaxLevels + 100
	records := make([]kafka.Record, n)
	score := stack.codec.NewScore()
	score.EventID, score.ModelVersion, score.OccurredAt, score.Probability = []byte("e"), 1, 1767225600000, 0.5
	for i := range records {
		id := fmt.Sprint("customer ", i)
		score.CustomerID, score.SourceOffset, score.SourcePartition = []byte(id), int64(i), int32(kafka.PartitionOf([]byte(id), partitions))
		score.Levels = score.Levels[:0]
		score.Attributes[0] = score.Levels.Add(fmt.Sprint("level ", i))
		records[i] = kafka.Record{Key: []byte(id), Value: stack.codec.AppendScore(nil, score)}
	}
	stack.produce(t, schemas.TopicScores, records...)
	stop := stack.start(t, Config{Store: s})
	eventually(t, "all committed", func() bool { return stack.lag(t, "churn-sink-"+s.Name()) == 0 })
	if err := stop(); err != nil {
		t.Fatalf("Run: %v", err)
	}
	expectRows(t, s.ask(t, "SELECT count(DISTINCT plan), count(*), min(plan) FROM "+s.table("churn_scores")), fmt.Sprint(n, " | ", n, " | level 0"))
	if letters := stack.deadLetters(t); len(letters) > 0 {
		t.Errorf("%d dead letters, the first %s", len(letters), letters[0])
	}
	if known := stack.set.Vocabulary().Size(0); known > 0 {
		t.Errorf("%d levels were learnt", known)
	}
}
