package labeler

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/invariants"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
)

// attributes is a table unlike the shipped one: nothing here may depend on it.
const attributes = `{"type":"record","name":"CustomerAttributes","namespace":"churnstream","fields":[
	{"name":"plan","type":["null","string"],"default":null},
	{"name":"bill","type":["null","double"],"default":null}]}`

func newCodec(t testing.TB, registry schemas.Registry) *schemas.Codec {
	t.Helper()
	set, err := schemas.Parse([]byte(attributes))
	if err != nil {
		t.Fatal(err)
	}
	codec := schemas.NewCodec(set, registry)
	if err := codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	return codec
}

const (
	second = int64(1000)
	minute = 60 * second
	hour   = 60 * minute
	day    = 24 * hour
)

// start is a moment at the beginning of a day, in UTC.
const start = 19_700 * day

// score is one as tests say it.
type score struct {
	customer    string
	asOf        int64
	written     int64 // 0 for asOf
	version     int64 // 0 for 1
	offset      int64
	probability float64
	plan        string
	bill        float64
}

func (s score) message(codec *schemas.Codec) *schemas.ChurnScore {
	m := codec.NewScore()
	m.CustomerID, m.EventID = []byte(s.customer), []byte("0b5c4a52-6a3c-4b8e-9f0d-0123456789ab")
	m.OccurredAt, m.AsOf, m.ScoredAt, m.ModelVersion = s.asOf, s.asOf, s.asOf, max(1, s.version)
	m.Probability, m.SourceOffset = s.probability, s.offset
	if s.plan != "" {
		m.Attributes[0] = codec.Set().Vocabulary().Find(0, []byte(s.plan), &m.Levels)
	}
	m.Attributes[1] = s.bill
	return m
}

// label is an outcome as tests say it.
type label struct {
	customer string
	observed int64
	written  int64 // 0 for observed
	churned  bool
	own      scoring.Vector
}

// world is a broker with the topics.
type world struct {
	t        testing.TB
	broker   *embedded.Broker
	cluster  *kafka.Cluster
	registry *registrytest.Registry
	codec    *schemas.Codec
	producer *kafka.Producer
	// place, if set, says where records lie.
	place func(topic string, key []byte, partitions int) int
	// clock, if not 0, is what labelers take for the time.
	clock            atomic.Int64
	inputs, examples int
	batchBytes       int // --kafka-batch-bytes, if not 0
}

func newWorld(t testing.TB, inputs, examples int) *world {
	t.Helper()
	return newWorldOf(t, registrytest.New(), inputs, examples)
}

func newWorldOf(t testing.TB, registry *registrytest.Registry, inputs, examples int) *world {
	t.Helper()
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	w := &world{t: t, broker: broker, registry: registry, inputs: inputs, examples: examples}
	w.cluster = w.connect()
	if err := w.cluster.EnsureTopics(t.Context(),
		kafka.TopicConfig{Name: schemas.TopicScores, Partitions: inputs},
		kafka.TopicConfig{Name: schemas.TopicOutcomes, Partitions: inputs},
		kafka.TopicConfig{Name: schemas.TopicDeadLetters, Partitions: 1},
		kafka.TopicConfig{Name: schemas.TopicExamples, Partitions: examples, Configs: map[string]string{"cleanup.policy": "compact"}}); err != nil {
		t.Fatal(err)
	}
	w.codec = newCodec(t, w.registry)
	w.producer = w.cluster.NewProducer(kafka.ProducerConfig{})
	return w
}

func (w *world) connect() *kafka.Cluster {
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{w.broker.Addr()}, BatchBytes: w.batchBytes})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cluster.Close)
	return cluster
}

func (w *world) produce(topic string, records ...kafka.Record) {
	w.t.Helper()
	if w.place == nil {
		if err := w.producer.Produce(w.t.Context(), topic, records...); err != nil {
			w.t.Fatal(err)
		}
		return
	}
	by := map[int][]kafka.Record{}
	for _, r := range records {
		p := w.place(topic, r.Key, w.inputs)
		by[p] = append(by[p], r)
	}
	for p, records := range by {
		if err := w.producer.ProduceTo(w.t.Context(), topic, p, records); err != nil {
			w.t.Fatal(err)
		}
	}
}

// worlds returns how many random worlds a test looks at: with the race detector, which
// makes each take ten times as long, one.
func worlds() int {
	if invariants.Raced {
		return 1
	}
	return 3
}

func at(ms int64) time.Time { return time.UnixMilli(ms) }

func (w *world) score(all ...score) {
	w.t.Helper()
	var records []kafka.Record
	for _, s := range all {
		written := s.written
		if written == 0 {
			written = s.asOf
		}
		records = append(records, kafka.Record{Key: []byte(s.customer), Value: w.codec.AppendScore(nil, s.message(w.codec)), Time: at(written)})
	}
	w.produce(schemas.TopicScores, records...)
}

func (w *world) outcome(all ...label) {
	w.t.Helper()
	var records []kafka.Record
	for _, l := range all {
		written := l.written
		if written == 0 {
			written = l.observed
		}
		records = append(records, kafka.Record{Key: []byte(l.customer), Time: at(written), Value: w.codec.AppendOutcome(nil, &schemas.ChurnOutcome{
			CustomerID: l.customer, ObservedAt: l.observed, Churned: l.churned, Attributes: l.own,
		})})
	}
	w.produce(schemas.TopicOutcomes, records...)
}

// erase writes a tombstone as scorers do, to the scores.
func (w *world) erase(customer string, written int64) {
	w.t.Helper()
	w.produce(schemas.TopicScores, kafka.Record{Key: []byte(customer), Time: at(written), Headers: []kafka.Header{
		{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte("0")},
	}})
}

// running is a labeler at work.
type running struct {
	*Labeler
	w     *world
	reg   *prometheus.Registry
	ready chan struct{} // closed when it was ready once
	stop  func()

	mu  sync.Mutex
	why string // it is not ready
}

// config is what tests have in common.
func config() Config {
	return Config{Horizon: 30 * 24 * time.Hour, LabelDelay: 14 * 24 * time.Hour, TidyInterval: time.Nanosecond}
}

func (w *world) start(cfg Config) *running {
	w.t.Helper()
	return w.startOn(cfg, vfs.Default)
}

// startOn starts a labeler with its state on some disk.
func (w *world) startOn(cfg Config, disk vfs.FS) *running {
	w.t.Helper()
	return w.startBelow(w.t.Context(), cfg, disk)
}

func (w *world) startBelow(ctx context.Context, cfg Config, disk vfs.FS) *running {
	w.t.Helper()
	r := &running{w: w, reg: prometheus.NewPedanticRegistry(), ready: make(chan struct{})}
	cfg.Cluster, cfg.Codec, cfg.Registerer = w.connect(), newCodec(w.t, w.registry), r.reg
	cfg.Models = noModels{}
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(w.t.Output(), nil))
	}
	if w.clock.Load() != 0 {
		cfg.Now = func() time.Time { return at(w.clock.Load()) }
	}
	once := sync.OnceFunc(func() { close(r.ready) })
	cfg.Ready = func(of string, ready bool, why string) {
		if of != name {
			return
		}
		r.mu.Lock()
		r.why = why
		r.mu.Unlock()
		if ready {
			once()
		} else if why == "" {
			w.t.Error("not ready, without saying why")
		}
	}
	l, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Labeler = l
	l.fs = disk
	l.topicsInterval, l.pause, l.pollWait = 50*time.Millisecond, 10*time.Millisecond, 10*time.Millisecond
	l.fencedPause = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	w.t.Cleanup(r.stop)
	return r
}

// markers returns how many records with reserved keys have been written to the examples.
func (w *world) markers() (n int) {
	w.t.Helper()
	spans, err := w.cluster.Spans(w.t.Context(), schemas.TopicExamples)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, span := range spans {
		if err := w.cluster.Read(w.t.Context(), span, func(records []kafka.Record, _ int64) error {
			for i := range records {
				if schemas.IsReservedKey(records[i].Key) {
					n++
				}
			}
			return nil
		}); err != nil {
			w.t.Fatal(err)
		}
	}
	return n
}

// kill stops a labeler as if its process had ended.
func (r *running) kill() {
	r.killed.Store(true)
	r.stop()
}

type noModels struct{ role.Models }

// state is what a reader of the examples has.
type state struct {
	examples map[string][]schemas.LabelledExample
	sums     map[kind]int64
	progress map[int]schemas.LabelerProgress
	records  int
}

// read reads the examples that there are.
func (w *world) read() state {
	w.t.Helper()
	s := state{examples: map[string][]schemas.LabelledExample{}, sums: map[kind]int64{}, progress: map[int]schemas.LabelerProgress{}}
	in := intake.New(intake.Config{})
	topic := intake.Examples(w.codec)
	topic.Poison = in.PassOver(nil) // forged by tests
	reader := intake.NewReader(in, topic)
	spans, err := w.cluster.Spans(w.t.Context(), schemas.TopicExamples)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, span := range spans {
		err := w.cluster.Read(w.t.Context(), span, func(records []kafka.Record, _ int64) error {
			for i := range records {
				r := &records[i]
				if string(r.Key) == schemas.ProgressKey {
					var p schemas.LabelerProgress
					if err := w.codec.DecodeLabelerProgress(w.t.Context(), r.Header(schemas.HeaderProgress), &p); err != nil {
						return err
					}
					s.progress[span.Partition] = p
				}
				kind, err := reader.Read(w.t.Context(), r)
				if err != nil {
					return err
				}
				switch kind {
				case intake.Message:
					m := reader.Keep()
					if home := kafka.PartitionOf(r.Key, len(spans)); home != span.Partition {
						w.t.Errorf("examples of %s lie in partition %d, not %d", r.Key, span.Partition, home)
					}
					s.examples[string(r.Key)] = m.Examples
					s.records++
				case intake.Tombstone:
					delete(s.examples, string(r.Key))
				}
			}
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	for _, p := range s.progress {
		for _, sum := range p.Sums {
			s.sums[kind{sum.Result, sum.Churned}] += sum.Outcomes
		}
	}
	return s
}

// settled returns how many outcomes are settled.
func (s *state) settled() (n int64) {
	for _, of := range s.sums {
		n += of
	}
	return n
}

// await waits until so many outcomes are settled.
func (w *world) await(outcomes int64) state {
	w.t.Helper()
	var s state
	await.Until(w.t, fmt.Sprintf("%d outcomes settled", outcomes), func() bool {
		s = w.read()
		return s.settled() >= outcomes
	}, func() string { return fmt.Sprint(s.sums) })
	if got := s.settled(); got != outcomes {
		w.t.Errorf("%d outcomes are settled, of %d: %v", got, outcomes, s.sums)
	}
	return s
}

// dump is what examples say, for comparison.
func dump(w *world, examples map[string][]schemas.LabelledExample) string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(examples)) {
		fmt.Fprintf(&b, "%s:", id)
		for _, e := range examples[id] {
			fmt.Fprintf(&b, " %s", text(w.codec, &e))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func text(codec *schemas.Codec, e *schemas.LabelledExample) string {
	said := fmt.Sprintf("[%s as of %s", labelOf(e.Churned), when(e.AsOf))
	if e.Scored() {
		said += fmt.Sprintf(" v%d p=%g offset %d", e.ModelVersion, e.Probability, e.SourceOffset)
	}
	if e.Corrections > 0 {
		said += fmt.Sprintf(" corrected %d", e.Corrections)
	}
	return said + fmt.Sprintf(" observed %s written %s bill %g]", when(e.ObservedAt), when(e.LabelledAt), e.Attributes[1])
}

// when is a time as days after the start.
func when(ms int64) string { return strconv.FormatFloat(float64(ms-start)/float64(day), 'g', 8, 64) }

// difference returns the lines that only one of two texts has.
func difference(got, want string) string {
	var b strings.Builder
	for _, side := range []struct{ mark, text, other string }{{"got ", got, want}, {"want", want, got}} {
		other := map[string]bool{}
		for line := range strings.Lines(side.other) {
			other[line] = true
		}
		for line := range strings.Lines(side.text) {
			if !other[line] {
				fmt.Fprintf(&b, "%s %s", side.mark, line)
			}
		}
	}
	return b.String()
}

// recreate makes a topic anew, without its records.
func (w *world) recreate(topic string) {
	w.t.Helper()
	before, err := w.cluster.TopicID(w.t.Context(), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	n, err := w.cluster.Partitions(w.t.Context(), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	client := &kafkago.Client{Addr: kafkago.TCP(w.broker.Addr())}
	res, err := client.DeleteTopics(w.t.Context(), &kafkago.DeleteTopicsRequest{Topics: []string{topic}})
	if err != nil || res.Errors[topic] != nil {
		w.t.Fatal(err, res)
	}
	if err := w.cluster.EnsureTopics(w.t.Context(), kafka.TopicConfig{Name: topic, Partitions: n}); err != nil {
		w.t.Fatal(err)
	}
	if after, err := w.cluster.TopicID(w.t.Context(), topic); err != nil || after == before {
		w.t.Fatal("the same topic", err)
	}
}
