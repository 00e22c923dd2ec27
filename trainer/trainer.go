package trainer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/settings"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// name names the trainer in dead letters.
const name = "trainer"

// check names the trainer in reports of readiness.
const check = "train"

// Config says when a Trainer trains, and on what. The zero value of a setting
// is its default.
type Config struct {
	role.Dependencies `kong:"-"`

	// MinNewLabels is how many labels must have come since the newest model
	// version for another training.
	MinNewLabels int `name:"min-new-labels" help:"Train again after this many new labels." default:"1000" unit:"labels"`
	// MinLabels is how many examples a training needs.
	MinLabels int `name:"min-labels" help:"Labelled examples that a training needs." default:"500" unit:"examples"`
	// MinInterval is the least time between the starts of two trainings.
	MinInterval time.Duration `name:"min-interval" help:"Shortest time between two trainings." default:"1m"`
	// MaxAge bounds the age of examples; 0 does not.
	MaxAge time.Duration `name:"max-age" help:"Age from which an example is not learnt from any more; 0 is none." default:"0s"`
	// MaxModelAge is the champion's age from which a training is due as soon
	// as there is a new label, and a model that is no better but not worse
	// beyond chance is let through; 0 is never.
	MaxModelAge time.Duration `name:"max-model-age" help:"Age of the model in use from which a training is due as soon as there are new labels; 0 is none." default:"0s"`
	// Train says how models are made.
	Train fitting.Config `embed:""`
	// MaxExamples bounds the examples kept, the newest, at about 64 bytes each,
	// and the outcomes that wait for a score.
	MaxExamples int `name:"max-examples" help:"Labelled examples to keep, the newest; as many outcomes may wait for a score." default:"1000000" unit:"examples" advanced:""`
	// Grace is for how long an outcome without attributes waits for the score
	// it belongs to. One without any by then is dropped and counted.
	Grace time.Duration `name:"join-grace" help:"How long an outcome without attributes waits for the score it belongs to." default:"10m" advanced:""`
	// MaxRequestBytes bounds the body of a request for a training.
	MaxRequestBytes int64 `name:"retrain-body-bytes" help:"Largest body of /v1/retrain." default:"256KiB" type:"bytes" advanced:""`

	// Settle is for how long no label must have come before a training, so
	// that one caught in the middle of a load waits for the rest, though at
	// most ten times as long.
	Settle time.Duration `kong:"-" default:"1s"`
	// Snapshots bounds the snapshots kept of each customer for outcomes still
	// to come.
	Snapshots int `kong:"-" default:"3"`
}

// Trainer learns from labelled customers. It reads all outcomes and scores
// from their topics' starts, trains when enough labels have come, and
// publishes what it has trained as a model version, champion or challenger.
//
// Topics are its only store: after a restart it knows what it knew, and the
// newest model version says which labels are new. It is the one reader of
// outcomes that writes undecodable ones to the dead letters, each once.
//
// One trainer is enough. A second one does no harm to the models: publishing is
// fenced, and of two that train on the same labels one publishes. But it wastes
// work, and what is undecodable becomes a dead letter twice.
type Trainer struct {
	cfg      Config
	log      *slog.Logger
	producer *kafka.Producer
	models   role.Models
	metrics  *metrics
	intake   *intake.Intake
	setAside intake.Policy
	now      func() time.Time

	ready chan struct{} // closed when all topics have been read
	woken chan struct{} // holds a token when due must be asked again

	mu        sync.Mutex // guards what follows
	data      *fitting.Dataset
	join      *joiner
	gone      int64               // outcomes that retention had removed before the start
	letters   map[partOffset]bool // outcomes that are dead letters already
	leftOut   int                 // levels, since they were numbered anew
	lastLabel time.Time           // when the last new label came
	dueSince  time.Time           // since when a training waits for labels to settle
	requested string              // reason of a training asked for
	started   time.Time           // start of the last training
	trained   int64               // labels seen by the last training, published or not
	rebase    int64               // what the newest version saw beyond what there is
	short     time.Time           // since when there are fewer labels than it saw; zero if there are not
	caughtUp  time.Time
}

type partOffset struct {
	partition int32
	offset    int64
}

// New returns a Trainer. It fails when cfg makes no sense.
func New(cfg Config) (*Trainer, error) {
	if err := cfg.Dependencies.Complete(); err != nil {
		return nil, fmt.Errorf("trainer: %w", err)
	}
	if err := settings.Complete(&cfg); err != nil {
		return nil, fmt.Errorf("trainer: %w", err)
	}
	if err := cfg.Train.Validate(); err != nil {
		return nil, fmt.Errorf("trainer: %w", err)
	}
	t := &Trainer{
		cfg:      cfg,
		log:      cfg.Logger,
		producer: cfg.Cluster.NewProducer(kafka.ProducerConfig{}),
		models:   cfg.Models,
		metrics:  newMetrics(cfg.Registerer),
		intake:   intake.New(intake.Config{Name: check + " intake", Ready: cfg.Ready, Logger: cfg.Logger, Registerer: cfg.Registerer}),
		now:      time.Now,
		ready:    make(chan struct{}),
		woken:    make(chan struct{}, 1),
		data:     fitting.NewDataset(scoring.NewVocabulary(cfg.Codec.Set().Spec()), cfg.MaxExamples),
		letters:  make(map[partOffset]bool),
	}
	t.join = newJoiner(t.data, cfg.Snapshots)
	t.setAside = deadletters.NewWriter(t.producer, cfg.Codec, name).SetAside(t.log, func(_ string, reason schemas.Reason) {
		t.metrics.deadLetters.WithLabelValues(string(reason)).Inc()
	})
	t.cfg.Ready(check, false, "reading outcomes and scores")
	return t, nil
}

// Ready is closed when the trainer has read what was in its topics when it
// started.
func (t *Trainer) Ready() <-chan struct{} { return t.ready }

// Run reads, trains and publishes until ctx ends, and then returns nil. It
// waits while Kafka or the schema registry is down, and fails when a topic
// does not exist or the registry refuses our schemas.
func (t *Trainer) Run(ctx context.Context) error {
	err := t.run(ctx)
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("trainer: %w", err)
	}
	return nil
}

func (t *Trainer) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := retry.Do(ctx, t.log, "register schemas", func(ctx context.Context) error {
			err := t.cfg.Codec.Register(ctx)
			if errors.Is(err, schemas.ErrIncompatible) {
				return retry.Permanent(err)
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := t.readDeadLetters(ctx); err != nil {
			return err
		}
		if err := t.countRemoved(ctx); err != nil {
			return err
		}
		// Outcomes first: then every score finds the outcomes it serves, and
		// no history of scores need be kept for them.
		outcomes, scores := make(chan struct{}), make(chan struct{})
		group.Go(func() error {
			return t.tail(ctx, schemas.TopicOutcomes, outcomes, intake.Handle(t.intake, t.outcomes(), t.takeOutcome))
		})
		if !wait(ctx, outcomes) {
			return nil
		}
		group.Go(func() error {
			return t.tail(ctx, schemas.TopicScores, scores, intake.Handle(t.intake, t.scores(), t.takeScore))
		})
		if !wait(ctx, scores) || !wait(ctx, t.models.CaughtUp()) {
			return nil
		}
		t.begin()
		close(t.ready)
		t.cfg.Ready(check, true, "")
		return t.decide(ctx)
	})
	return group.Wait()
}

// wait waits for a channel to be closed, and reports whether it was.
func wait(ctx context.Context, closed <-chan struct{}) bool {
	select {
	case <-closed:
		return true
	case <-ctx.Done():
		return false
	}
}

// tail hands the records of a topic over, and looks at what has come of them
// after each fetch.
func (t *Trainer) tail(ctx context.Context, topic string, caughtUp chan struct{}, take func(context.Context, []kafka.Record) error) error {
	err := t.cfg.Cluster.Tail(ctx, kafka.TailConfig{
		Topics:     []string{topic},
		Reader:     name,
		OnCaughtUp: func() { close(caughtUp) },
	}, func(ctx context.Context, records []kafka.Record) error {
		if err := take(ctx, records); err != nil {
			return err
		}
		t.mu.Lock()
		t.show()
		t.mu.Unlock()
		t.wake()
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading %s: %w", topic, err)
	}
	return nil
}

// readDeadLetters learns which outcomes are dead letters already, so that
// reading the outcomes again does not make them so again.
func (t *Trainer) readDeadLetters(ctx context.Context) error {
	topic := intake.Topic[schemas.DeadLetter]{
		Decode: t.cfg.Codec.DecodeDeadLetter, Poison: t.intake.PassOver(nil),
		Reserved: true, // a letter has the key of its record, whatever that was
	}
	err := t.cfg.Cluster.Tail(ctx, kafka.TailConfig{Topics: []string{schemas.TopicDeadLetters}, ToEnd: true, Reader: name},
		intake.Handle(t.intake, topic, func(_ context.Context, _ *kafka.Record, d *schemas.DeadLetter) error {
			if d != nil && d.FailedBy == name && d.Topic == schemas.TopicOutcomes {
				t.mu.Lock()
				t.letters[partOffset{d.Partition, d.Offset}] = true
				t.mu.Unlock()
			}
			return nil
		}))
	if err != nil {
		return fmt.Errorf("reading %s: %w", schemas.TopicDeadLetters, err)
	}
	return ctx.Err()
}

// countRemoved counts the outcomes that retention has removed as labels seen.
// Without them the count would fall from one start to the next, and new labels
// would not look new.
func (t *Trainer) countRemoved(ctx context.Context) error {
	spans, err := t.cfg.Cluster.Spans(ctx, schemas.TopicOutcomes)
	for _, s := range spans {
		t.gone += s.Start
	}
	return err
}

// outcomes returns how outcomes are read.
func (t *Trainer) outcomes() intake.Topic[schemas.ChurnOutcome] {
	topic := intake.Outcomes(t.cfg.Codec)
	topic.Poison = t.deadLetter
	return topic
}

func (t *Trainer) takeOutcome(_ context.Context, r *kafka.Record, o *schemas.ChurnOutcome) error {
	if o == nil {
		t.erase(intake.CustomerID(t.cfg.Codec.Keys, r), r, true)
		return nil
	}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.learn(o.Attributes, o.Levels)
	added := t.join.outcome(fitting.Example{
		Customer:   fitting.CustomerHash([]byte(o.CustomerID)),
		ObservedAt: o.ObservedAt,
		Churned:    o.Churned,
		Attributes: o.Attributes,
	}, deadletters.WrittenAt(r).UnixMilli(), now.UnixMilli())
	if added {
		t.lastLabel = now
		t.metrics.labels.Inc()
	} else {
		t.metrics.repeated.Inc()
	}
	return nil
}

// scores returns how scores are read. One that cannot be decoded is passed over:
// making dead letters of scores is not the trainer's task.
func (t *Trainer) scores() intake.Topic[schemas.ChurnScore] {
	topic := intake.Scores(t.cfg.Codec, intake.NewOwners(t.intake, t.cfg.Cluster, t.cfg.Codec))
	topic.Poison = t.intake.PassOver(func(_ string, reason schemas.Reason) { t.metrics.badScores.WithLabelValues(string(reason)).Inc() })
	return topic
}

func (t *Trainer) takeScore(_ context.Context, r *kafka.Record, s *schemas.ChurnScore) error {
	if s == nil {
		t.erase(r.Key, r, false)
		return nil
	}
	at := s.AsOf
	for _, age := range s.AttributeAges {
		// Scores written before they had an as_of speak of their event's time.
		// A late event leaves attributes in place that were set after it: such
		// a snapshot knows more than there was to know at that time.
		at = max(at, s.OccurredAt-age)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.learn(s.Attributes, s.Levels)
	t.join.score(fitting.CustomerHash(s.CustomerID), at, s.Attributes, r.Time.UnixMilli())
	return nil
}

// erase forgets a customer; inOrder says that the tombstone is an outcome's. One
// that the scorer passes on is older than its place among the outcomes.
func (t *Trainer) erase(id []byte, r *kafka.Record, inOrder bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := deadletters.WrittenAt(r)
	t.join.erase(fitting.CustomerHash(id), at.UnixMilli(), inOrder && at.Equal(time.UnixMilli(r.Time.UnixMilli())))
}

// deadLetter writes an outcome that cannot be decoded to the dead letters, unless
// it is there.
func (t *Trainer) deadLetter(ctx context.Context, r *kafka.Record, why *schemas.PoisonError) error {
	t.mu.Lock()
	known := t.letters[partOffset{int32(r.Partition), r.Offset}]
	t.mu.Unlock()
	if known {
		return nil
	}
	return t.setAside(ctx, r, why)
}

// wake makes decide look again.
func (t *Trainer) wake() {
	select {
	case t.woken <- struct{}{}:
	default:
	}
}

// show updates the gauges. The caller holds mu.
func (t *Trainer) show() {
	t.metrics.examples.Set(float64(t.data.Len()))
	t.metrics.pending.Set(float64(t.join.pending))
	t.metrics.fresh.Set(float64(max(0, t.labels()-t.seen())))
}

// labels returns how many labels were read since the topic began. The caller
// holds mu.
func (t *Trainer) labels() int64 { return t.gone + t.rebase + t.join.labels }

// seen returns how many of them the last training knew. The caller holds mu.
func (t *Trainer) seen() int64 {
	seen := t.trained
	if list := t.models.List(); len(list) > 0 {
		seen = max(seen, list[0].LabelsSeen)
	}
	return seen
}

// begin starts counting new labels, when all topics have been read.
func (t *Trainer) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.caughtUp = t.now()
	if t.labels() < t.seen() {
		t.countFromHere("there are fewer labels than the newest model version had seen: outcomes were lost; counting from here")
	}
	t.log.Info("read all outcomes and scores", "labels", t.labels(), "examples", t.data.Len(),
		"churned", t.data.Churners(), "without_score", t.join.pending, "new_labels", t.labels()-t.seen())
}

// countFromHere makes the labels there are as many as the newest version has
// seen, so that new ones look new. The caller holds mu.
func (t *Trainer) countFromHere(why string) {
	t.log.Warn(why, "labels", t.labels(), "seen", t.seen())
	t.rebase += t.seen() - t.labels()
}

// Errors of Retrain.
var (
	// ErrNotReady is matched while the topics have not been read.
	ErrNotReady = errors.New("the trainer is still reading")
	// ErrNoNewLabels is matched when the newest model has seen all labels.
	ErrNoNewLabels = errors.New("no new labels")
)

// Retrain asks for a training, for a reason in words. It returns nil when
// there will be one, as soon as MinInterval allows; it does not wait for it,
// and several requests before it are one. It fails, matching ErrNotReady,
// fitting.ErrTooFewLabels or ErrNoNewLabels, when a training makes no sense.
func (t *Trainer) Retrain(_ context.Context, reason string) error {
	select {
	case <-t.ready:
	default:
		return ErrNotReady
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enough(); err != nil {
		return err
	}
	if t.labels() <= t.seen() {
		return fmt.Errorf("%w: the newest model has seen all %d", ErrNoNewLabels, t.labels())
	}
	t.requested = cmp.Or(reason, "requested")
	t.log.Info("training requested", "reason", t.requested)
	t.wake()
	return nil
}

// enough reports what is missing for a training, if anything. The caller holds
// mu.
func (t *Trainer) enough() error {
	n, churners := t.data.Len(), t.data.Churners()
	if n < t.cfg.MinLabels || churners == 0 || churners == n {
		return fmt.Errorf("%w: %d examples, %d of them churned; %d of both classes are needed",
			fitting.ErrTooFewLabels, n, churners, t.cfg.MinLabels)
	}
	return nil
}

// decide trains whenever a training is due.
func (t *Trainer) decide(ctx context.Context) error {
	for {
		changed := t.models.Changed()
		trigger, pause := t.due(t.now())
		if trigger != "" {
			if err := t.train(ctx, trigger); err != nil {
				return err
			}
			continue
		}
		timer := time.NewTimer(pause)
		select {
		case <-t.woken:
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// tick bounds how long decide waits before it looks again: at ages and at
// outcomes whose grace has passed.
const tick = 10 * time.Second

// due returns why a training is due now, or "" and when to ask again at the
// latest.
func (t *Trainer) due(now time.Time) (trigger string, pause time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if deadline := now.Add(-t.cfg.Grace); t.caughtUp.Before(deadline) {
		if n := t.join.expire(deadline.UnixMilli()); n > 0 {
			t.metrics.unjoined.Add(float64(n))
			t.log.Warn("outcomes dropped: no score of the customer at or before them", "count", n)
		}
	}
	t.show()
	fresh := t.labels() - t.seen()
	switch {
	case fresh >= 0:
		t.short = time.Time{}
	case t.short.IsZero():
		t.short = now // another trainer has read on, or somebody has made a version up
	case now.Sub(t.short) >= t.cfg.Grace:
		t.countFromHere("a model version claims more labels than there are; counting from here")
		fresh, t.short = 0, time.Time{}
	}
	champion := t.models.Champion()
	switch {
	case fresh <= 0:
	case t.requested != "":
		trigger = t.requested
	case len(t.models.List()) == 0:
		trigger = "the first model"
	case fresh >= int64(t.cfg.MinNewLabels):
		trigger = fmt.Sprintf("%d new labels", fresh)
	case champion != nil && t.age(now, champion) != "":
		trigger = t.age(now, champion)
	}
	if trigger == "" || t.enough() != nil {
		t.dueSince = time.Time{}
		return "", tick
	}
	if t.dueSince.IsZero() {
		t.dueSince = now
	}
	pause = 0
	if !t.started.IsZero() {
		pause = t.started.Add(t.cfg.MinInterval).Sub(now)
	}
	settled := t.lastLabel.Add(t.cfg.Settle)
	if latest := t.dueSince.Add(10 * t.cfg.Settle); settled.After(latest) {
		settled = latest
	}
	if pause = max(pause, settled.Sub(now)); pause > 0 {
		return "", min(pause, tick)
	}
	t.dueSince = time.Time{}
	return trigger, 0
}

// age says that the champion is too old, "" if it is not.
func (t *Trainer) age(now time.Time, champion *models.Version) string {
	age := now.Sub(time.UnixMilli(champion.CreatedAt))
	if t.cfg.MaxModelAge <= 0 || age <= t.cfg.MaxModelAge {
		return ""
	}
	return fmt.Sprintf("version %d is %s old, more than the %s allowed",
		champion.Version, age.Round(time.Second), t.cfg.MaxModelAge)
}

// train trains, judges and publishes. It fails only when publishing does; a
// training that fails is logged and waits for more labels.
func (t *Trainer) train(ctx context.Context, trigger string) error {
	start := t.now()
	t.mu.Lock()
	if t.cfg.MaxAge > 0 {
		t.data.DropBefore(start.Add(-t.cfg.MaxAge).UnixMilli())
	}
	data, labels := t.data.Clone(), t.labels()
	t.started, t.requested, t.trained = start, "", labels
	t.mu.Unlock()

	t.log.Info("training", "trigger", trigger, "examples", data.Len(), "churned", data.Churners(), "labels", labels)
	set := t.cfg.Codec.Set()
	candidate, err := fitting.Fit(ctx, data, t.cfg.Train)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		t.metrics.failed()
		t.log.Error("training failed; waiting for more labels", "trigger", trigger, "error", err)
		return nil
	}
	m, err := models.Describe(set, candidate.Model)
	if err != nil {
		return err
	}
	m.CreatedAt, m.Reason, m.LabelsSeen = t.now().UnixMilli(), trigger, labels
	m.TrainingRows = int64(len(candidate.Training))
	m.TrainingStart = data.ObservedAt(int(candidate.Training[0]))
	m.TrainingEnd = data.ObservedAt(int(candidate.Training[len(candidate.Training)-1]))
	m.Baseline = candidate.Baseline
	// What every reader would refuse must not be written.
	if _, err := models.Open(set, m); err != nil {
		t.metrics.failed()
		t.log.Error("the trained model is not usable", "trigger", trigger, "error", err)
		return nil
	}
	verdict, err := t.publish(ctx, &m, func(v *models.Version) fitting.Verdict {
		if v == nil {
			return fitting.Judge(candidate, nil)
		}
		return fitting.Judge(candidate, &fitting.Champion{Version: v.Version, Predictor: v.Predictor, Demand: t.age(start, v)})
	})
	if errors.Is(err, errSuperseded) {
		t.metrics.trainings.WithLabelValues("superseded").Inc()
		t.log.Warn("another trainer runs and was faster; the model is dropped", "trigger", trigger, "labels", labels, "error", err)
		return nil
	}
	if errors.Is(err, errNumbersUsedUp) {
		t.metrics.failed()
		t.log.Error("the model cannot be published", "trigger", trigger, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	took := t.now().Sub(start)
	t.metrics.published(&m, verdict, took)
	t.log.Info("published a model version", "version", m.Version, "stage", m.Stage, "reason", m.Reason,
		"training_rows", m.TrainingRows, "strength", candidate.Strength, "log_loss", m.Metrics.LogLoss,
		"roc_auc", m.Metrics.ROCAUC, "accuracy", m.Metrics.Accuracy, "took", took.Round(time.Millisecond))
	return nil
}
