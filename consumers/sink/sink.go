package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/settings"
	"github.com/churnstream/churnstream/schemas"
)

// name names the sink in logs and dead letters.
const name = "sink"

// Config says how a Sink writes. Store is required; the zero value of a setting
// is its default.
type Config struct {
	role.Dependencies `kong:"-"`

	// Store receives the rows. The caller closes it after Run.
	Store Store `kong:"-"`
	// Group is the consumer group; "" is "churn-sink-" and the store's name.
	Group string `name:"sink-group" help:"Consumer group of the sinks, if not churn-sink- and the store's kind. A group that is new writes all that the topics hold, which changes nothing that is there." advanced:""`
	// MaxRows is how many rows of a partition are written at once.
	MaxRows int `name:"sink-rows" help:"Rows of a partition that are written at once." default:"10000" unit:"rows" advanced:""`
	// MaxBytes is at how many bytes of a partition's records, as they are in
	// the topic, rows are written though they are fewer.
	MaxBytes int `name:"sink-bytes" help:"Records of a partition, in bytes, that are written at once." default:"32MiB" type:"bytes" advanced:""`
	// MaxDelay is how long a row waits for more.
	MaxDelay time.Duration `name:"sink-delay" help:"How long a row waits for more." default:"1s" advanced:""`
	// SessionTimeout is how long without a sign of life it takes until the
	// group gives a sink's partitions to others.
	SessionTimeout time.Duration `name:"sink-session-timeout" help:"Time without a sign of life from which a sink's partitions go to others." default:"15s" advanced:""`
}

// Sink writes churn.scores, churn.outcomes, churn.examples and churn.models to one
// store.
//
// Each assigned partition is read in order into batches. A batch's offset is
// committed when the store has acknowledged it. While the store is down the
// batch is tried again, with growing pauses, for as long as it takes. What
// was written but not committed is written again after a restart, which
// changes nothing, because rows have identities.
//
// A score, a record of examples or a model version that cannot be read becomes a
// dead letter. An outcome that cannot be read is counted and logged only: the
// labeler, which reads the same topic, makes the dead letter of it.
type Sink struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	letters *deadletters.Writer
	intake  *intake.Intake
	owners  *intake.Owners

	mu     sync.Mutex // also so that the last report is the valid one
	store  error      // what the store last answered
	joined bool       // the consumer group
}

// New returns a sink. It does no I/O.
func New(cfg Config) (*Sink, error) {
	if err := cfg.Dependencies.Complete(); err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	if cfg.Store == nil {
		return nil, errors.New("sink: no store")
	}
	if err := settings.Complete(&cfg); err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	if cfg.Group == "" {
		cfg.Group = "churn-sink-" + cfg.Store.Name()
	}
	m, err := newMetrics(cfg.Registerer, cfg.Store.Name())
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	log := cfg.Logger.With("store", cfg.Store.Name())
	in := intake.New(intake.Config{
		Name: "sink " + cfg.Store.Name() + " intake", Ready: cfg.Ready, Logger: log, Registerer: cfg.Registerer,
	})
	s := &Sink{
		cfg:     cfg,
		log:     log,
		metrics: m,
		intake:  in,
		owners:  intake.NewOwners(in, cfg.Cluster, cfg.Codec),
		letters: deadletters.NewWriter(cfg.Cluster.NewProducer(kafka.ProducerConfig{}), cfg.Codec, name+" "+cfg.Store.Name()),
	}
	s.state(errors.New("not connected yet"))
	return s, nil
}

// Run creates the tables if need be and writes until ctx ends; it returns nil
// then. It fails when waiting would not help: the error matches ErrSchema when
// the tables are not ones it can write to.
func (s *Sink) Run(ctx context.Context) error {
	err := s.run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Sink) run(ctx context.Context) error {
	err := retry.Do(ctx, s.log, "creating the tables", func(ctx context.Context) error {
		err := s.cfg.Store.Migrate(ctx)
		s.state(err)
		if errors.Is(err, ErrSchema) {
			return retry.Permanent(err)
		}
		return err
	})
	if err != nil {
		return err
	}
	// Dead letters need the id of their schema.
	err = retry.Do(ctx, s.log, "registering schemas", func(ctx context.Context) error {
		err := s.cfg.Codec.Register(ctx)
		if errors.Is(err, schemas.ErrIncompatible) {
			return retry.Permanent(err)
		}
		return err
	})
	if err != nil {
		return err
	}
	return s.cfg.Cluster.Consume(ctx, kafka.GroupConfig{
		Group:          s.cfg.Group,
		Reader:         name + " " + s.cfg.Store.Name(),
		Topics:         []string{schemas.TopicScores, schemas.TopicOutcomes, schemas.TopicExamples, schemas.TopicModels},
		SessionTimeout: s.cfg.SessionTimeout,
		OnAssigned:     s.assigned,
	}, s.work)
}

// state makes known whether the store is up: err is what it last answered.
func (s *Sink) state(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store = err
	s.metrics.up.Set(1)
	if err != nil {
		s.metrics.up.Set(0)
	}
	s.report()
}

// assigned makes known that the sink has its share of the partitions.
func (s *Sink) assigned([]*kafka.Claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joined = true
	s.report()
}

// report reports readiness. The caller holds mu.
func (s *Sink) report() {
	name := name + " " + s.cfg.Store.Name()
	switch {
	case s.store != nil:
		s.cfg.Ready(name, false, s.cfg.Store.Name()+": "+s.store.Error())
	case !s.joined:
		s.cfg.Ready(name, false, "joining the consumer group "+s.cfg.Group)
	default:
		s.cfg.Ready(name, true, "")
	}
}

// work reads one partition until ctx ends.
func (s *Sink) work(ctx context.Context, claim *kafka.Claim) error {
	claim.Position.Advance(claim.Committed)
	fetcher := s.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
		Topic: claim.Topic, Partition: claim.Partition, Offset: claim.Committed,
		MaxWait:  min(max(s.cfg.MaxDelay/4, 10*time.Millisecond), 500*time.Millisecond),
		Position: claim.Position,
	})
	defer fetcher.Close()
	w := s.newWorker(claim)
	for {
		records, err := fetcher.Fetch(ctx)
		if err != nil {
			return err
		}
		for i := range records {
			if err := w.take(ctx, &records[i]); err != nil {
				return err
			}
			if w.rows() >= s.cfg.MaxRows || w.bytes >= s.cfg.MaxBytes {
				if err := w.flush(ctx, records[i].Offset+1); err != nil {
					return err
				}
			}
		}
		// Records that became no row count as progress too.
		if w.since.IsZero() && fetcher.Offset() != w.committed {
			w.since = time.Now()
		}
		if !w.since.IsZero() && time.Since(w.since) >= s.cfg.MaxDelay {
			if err := w.flush(ctx, fetcher.Offset()); err != nil {
				return err
			}
		}
	}
}

// worker is one partition's batch in the making.
type worker struct {
	*Sink
	log       *slog.Logger
	claim     *kafka.Claim
	committed int64     // offset up to which all is stored
	since     time.Time // when the batch was begun; zero if it was not

	// A worker reads one of the topics.
	scores   *intake.Reader[schemas.ChurnScore]
	outcomes *intake.Reader[schemas.ChurnOutcome]
	examples *intake.Reader[schemas.CustomerExamples]
	models   *intake.Reader[schemas.ModelVersion]

	batch Batch
	bytes int // of the records in it
	free  []*schemas.ChurnScore
	// records are those that the batch's examples are in.
	records, freeRecords []*schemas.CustomerExamples
}

func (s *Sink) newWorker(claim *kafka.Claim) *worker {
	w := &worker{
		Sink:      s,
		log:       s.log.With("topic", claim.Topic, "partition", claim.Partition),
		claim:     claim,
		committed: claim.Committed,
	}
	// Each store's sink writes its own letter, under its own name.
	letter := s.letters.SetAside(s.log, func(topic string, reason schemas.Reason) {
		s.metrics.letters.WithLabelValues(topic, string(reason)).Inc()
	})
	passOver := s.intake.PassOver(func(_ string, reason schemas.Reason) {
		s.metrics.unreadable.WithLabelValues(string(reason)).Inc()
	})
	codec := s.cfg.Codec
	scores, outcomes, examples := intake.Scores(codec, s.owners), intake.Outcomes(codec), intake.Examples(codec)
	scores.New, scores.Poison = func() *schemas.ChurnScore { return recycled(&w.free, codec.NewScore) }, letter
	outcomes.Poison = passOver
	examples.New = func() *schemas.CustomerExamples {
		return recycled(&w.freeRecords, func() *schemas.CustomerExamples { return new(schemas.CustomerExamples) })
	}
	examples.Poison = letter
	w.scores = intake.NewReader(s.intake, scores)
	w.outcomes = intake.NewReader(s.intake, outcomes)
	w.examples = intake.NewReader(s.intake, examples)
	w.models = intake.NewReader(s.intake, intake.Topic[schemas.ModelVersion]{Decode: codec.DecodeModel, Check: checkModel, Poison: letter})
	return w
}

func (w *worker) rows() int {
	b := &w.batch
	return len(b.Scores) + len(b.Outcomes) + len(b.Examples) + len(b.Models) + len(b.Erased) + len(b.ErasedOutcomes) + len(b.ErasedExamples)
}

// take adds a record to the batch. It waits while the registry is down, and
// fails only when ctx ends.
func (w *worker) take(ctx context.Context, r *kafka.Record) (err error) {
	if w.since.IsZero() {
		w.since = time.Now()
	}
	w.bytes += len(r.Key) + len(r.Value)
	var kind intake.Kind
	switch r.Topic {
	case schemas.TopicScores:
		switch kind, err = w.scores.Read(ctx, r); kind {
		case intake.Tombstone:
			partition, offset, _ := intake.SourcePosition(r) // which the intake has checked
			w.batch.Erased = append(w.batch.Erased, Erasure{string(r.Key), partition, offset})
		case intake.Message:
			score := w.scores.Keep()
			// The record's bytes are gone with the next fetch.
			score.CustomerID, score.EventID = bytes.Clone(score.CustomerID), bytes.Clone(score.EventID)
			w.batch.Scores = append(w.batch.Scores, score)
		}
	case schemas.TopicOutcomes:
		switch kind, err = w.outcomes.Read(ctx, r); kind {
		case intake.Tombstone:
			w.eraseOutcomes(string(intake.CustomerID(w.cfg.Codec.Keys, r)))
		case intake.Message:
			w.batch.Outcomes = append(w.batch.Outcomes, w.outcomes.Keep())
		}
	case schemas.TopicExamples:
		switch kind, err = w.examples.Read(ctx, r); kind {
		case intake.Tombstone:
			w.batch.ErasedExamples = append(w.batch.ErasedExamples, Erasure{string(r.Key), int32(r.Partition), r.Offset})
		case intake.Message:
			w.addExamples(r, w.examples.Keep())
		}
	default:
		// Without a value, a version is forgotten in the topic; the table keeps
		// the history.
		if kind, err = w.models.Read(ctx, r); kind == intake.Message {
			w.batch.Models = append(w.batch.Models, ModelRow{Offset: r.Offset, ModelVersion: *w.models.Message()})
		}
	}
	return err
}

// recycled returns memory for a message, of a batch that is stored if there is
// some.
func recycled[M any](free *[]*M, make func() *M) *M {
	n := len(*free)
	if n == 0 {
		return make()
	}
	m := (*free)[n-1]
	*free = (*free)[:n-1]
	return m
}

func (w *worker) addExamples(r *kafka.Record, m *schemas.CustomerExamples) {
	w.records = append(w.records, m)
	id := string(m.CustomerID)
	m.CustomerID = nil // it was the record's
	for i := range m.Examples {
		w.batch.Examples = append(w.batch.Examples, ExampleRow{
			LabelledExample: &m.Examples[i], CustomerID: id, Levels: m.Levels,
			RecordPartition: int32(r.Partition), RecordOffset: r.Offset,
		})
	}
}

func (w *worker) eraseOutcomes(id string) {
	w.batch.Outcomes = slices.DeleteFunc(w.batch.Outcomes, func(o *schemas.ChurnOutcome) bool { return o.CustomerID == id })
	w.batch.ErasedOutcomes = append(w.batch.ErasedOutcomes, id)
}

// checkModel keeps what no role takes for a model version out of the table, which
// says who is the champion.
func checkModel(r *kafka.Record, v *schemas.ModelVersion) *schemas.PoisonError {
	if v == nil {
		return nil
	}
	if err := models.CheckRecord(r, v); err != nil {
		return &schemas.PoisonError{Reason: schemas.ReasonForeign, Detail: schemas.Clip(err.Error(), 1024)}
	}
	return nil
}

// flush stores the batch, then commits next as the offset to go on from. It
// fails only when ctx ends.
func (w *worker) flush(ctx context.Context, next int64) error {
	b := &w.batch
	w.settleErasures()
	w.settleExamples()
	if w.rows() > 0 {
		err := retry.Do(ctx, w.log, "writing to "+w.cfg.Store.Name(), func(ctx context.Context) error {
			start := time.Now()
			err := w.cfg.Store.Write(ctx, b)
			if ctx.Err() != nil && err != nil {
				return err // says nothing about the store
			}
			w.metrics.duration.Observe(time.Since(start).Seconds())
			w.state(err)
			if err != nil {
				w.metrics.retries.Inc()
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	w.metrics.scores.Add(float64(len(b.Scores)))
	w.metrics.outcomes.Add(float64(len(b.Outcomes)))
	w.metrics.examples.Add(float64(len(b.Examples)))
	w.metrics.models.Add(float64(len(b.Models)))
	w.metrics.erased.Add(float64(len(b.Erased)))

	w.committed, w.since, w.bytes = next, time.Time{}, 0
	w.claim.Position.Advance(next)
	w.free = append(w.free, b.Scores...)
	w.freeRecords, w.records = append(w.freeRecords, w.records...), w.records[:0]
	clear(b.Outcomes)
	clear(b.Examples)
	clear(b.Models)
	*b = Batch{
		Erased: b.Erased[:0], ErasedOutcomes: b.ErasedOutcomes[:0], ErasedExamples: b.ErasedExamples[:0],
		Scores: b.Scores[:0], Outcomes: b.Outcomes[:0], Examples: b.Examples[:0], Models: b.Models[:0],
	}

	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.claim.Commit(next); err != nil {
		// The next batch's commit makes up for it.
		w.log.Warn("offset not committed", "offset", next, "error", err)
	}
	return nil
}

// settleErasures takes the scores of before an erasure out of the batch.
func (w *worker) settleErasures() {
	if erased := lastErasures(w.batch.Erased); len(erased) > 0 {
		w.dropScores(func(s *schemas.ChurnScore) bool {
			return s.SourceOffset < erased[customer{string(s.CustomerID), s.SourcePartition}]
		})
	}
}

// settleExamples takes the examples of before an erasure out of the batch, and
// those of a record that a later one of the customer has as well or has left
// out: those from the first of the later record on.
func (w *worker) settleExamples() {
	type reach struct{ record, first, later int64 }
	of := map[customer]*reach{}
	erased := lastErasures(w.batch.ErasedExamples)
	kept := w.batch.Examples[:0]
	slices.Reverse(w.batch.Examples)
	for _, e := range w.batch.Examples {
		c := customer{e.CustomerID, e.RecordPartition}
		if e.RecordOffset < erased[c] {
			continue
		}
		r := of[c]
		if r == nil {
			r = &reach{record: e.RecordOffset, first: math.MaxInt64, later: math.MaxInt64}
			of[c] = r
		}
		if e.RecordOffset != r.record {
			r.record, r.later = e.RecordOffset, r.first
		}
		r.first = min(r.first, e.ObservedAt)
		if e.ObservedAt < r.later {
			kept = append(kept, e)
		}
	}
	slices.Reverse(kept)
	w.batch.Examples = kept
}

func (w *worker) dropScores(drop func(*schemas.ChurnScore) bool) {
	kept := w.batch.Scores[:0]
	for _, s := range w.batch.Scores {
		if drop(s) {
			w.free = append(w.free, s)
		} else {
			kept = append(kept, s)
		}
	}
	w.batch.Scores = kept
}

// metrics are the sink's figures.
type metrics struct {
	scores, outcomes, examples, models prometheus.Counter
	erased                             prometheus.Counter
	duration                           prometheus.Histogram
	up                                 prometheus.Gauge
	retries                            prometheus.Counter
	letters                            *prometheus.CounterVec
	unreadable                         *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, store string) (*metrics, error) {
	rows := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "churn_sink_rows_total",
		Help: "Rows that the store acknowledged, rewritten ones included.",
	}, []string{"table"})
	m := &metrics{
		scores:   rows.WithLabelValues("churn_scores"),
		outcomes: rows.WithLabelValues("churn_outcomes"),
		examples: rows.WithLabelValues("churn_examples"),
		models:   rows.WithLabelValues("model_versions"),
		erased: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_sink_erased_customers_total",
			Help: "Customers whose rows were deleted because they were erased.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                           "churn_sink_write_duration_seconds",
			Help:                           "Time the store took for a batch, failures included.",
			Buckets:                        []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "churn_sink_store_up",
			Help: "1 if the store took the last batch, 0 if it did not or was not reached yet.",
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_sink_retries_total",
			Help: "Writes that failed and were tried again.",
		}),
		letters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_sink_dead_letters_total",
			Help: "Records set aside as dead letters by the sink.",
		}, []string{"topic", "reason"}),
		unreadable: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_sink_unreadable_outcomes_total",
			Help: "Outcomes passed over because they cannot be read; the labeler makes dead letters of them.",
		}, []string{"reason"}),
	}
	if reg == nil {
		return m, nil
	}
	reg = prometheus.WrapRegistererWith(prometheus.Labels{"store": store}, reg)
	for _, c := range []prometheus.Collector{rows, m.erased, m.duration, m.up, m.retries, m.letters, m.unreadable} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}
