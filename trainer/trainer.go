package trainer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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

// name names the trainer as a reader of topics.
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
	// MaxExamples bounds the examples kept, the newest, at about 75 bytes each.
	MaxExamples int `name:"max-examples" help:"Labelled examples to keep, the newest." default:"1000000" unit:"examples" advanced:""`
	// MaxRequestBytes bounds the body of a request for a training.
	MaxRequestBytes int64 `name:"retrain-body-bytes" help:"Largest body of /v1/retrain." default:"256KiB" type:"bytes" advanced:""`

	// Settle is for how long no label must have come before a training, so
	// that one caught in the middle of a load waits for the rest, though at
	// most ten times as long.
	Settle time.Duration `kong:"-" default:"1s"`
}

// Trainer learns from labelled customers. It reads all examples from their
// topic's start, trains when enough labels have come, and publishes what it has
// trained as a model version, champion or challenger.
//
// The topic is its only store: after a restart it knows what it knew, and the
// newest model version says up to when it knew the labels, so which are new.
//
// A label answers a question: whether the customer left within the horizon. Only
// examples that have the horizon of most of the newest labels are learnt from; it
// becomes the version's. The newest are twice Config.MinLabels, less one, by
// labelled_at: a horizon that takes the place of another has enough labels then.
//
// One trainer is enough. A second one does no harm: publishing is fenced, and of
// two that train on the same labels one publishes. But it wastes work.
type Trainer struct {
	cfg     Config
	log     *slog.Logger
	models  role.Models
	metrics *metrics
	intake  *intake.Intake
	now     func() time.Time

	ready chan struct{} // closed when all examples have been read
	woken chan struct{} // holds a token when due must be asked again

	mu        sync.Mutex // guards what follows
	data      *fitting.Dataset
	leftOut   int               // levels, since they were numbered anew
	taken     []fitting.Example // of the customer being taken in
	newest    int64             // version whose labels have been marked as seen
	lastLabel time.Time         // when the last new label came
	dueSince  time.Time         // since when a training waits for labels to settle
	requested string            // reason of a training asked for
	started   time.Time         // start of the last training
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
		cfg:     cfg,
		log:     cfg.Logger,
		models:  cfg.Models,
		metrics: newMetrics(cfg.Registerer),
		intake:  intake.New(intake.Config{Name: check + " intake", Ready: cfg.Ready, Logger: cfg.Logger, Registerer: cfg.Registerer}),
		now:     time.Now,
		ready:   make(chan struct{}),
		woken:   make(chan struct{}, 1),
		data:    fitting.NewDataset(scoring.NewVocabulary(cfg.Codec.Set().Spec()), cfg.MaxExamples),
	}
	t.data.DecideBy(2*t.cfg.MinLabels - 1)
	t.cfg.Ready(check, false, "reading labelled examples")
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
		examples := make(chan struct{})
		group.Go(func() error { return t.tail(ctx, examples) })
		if !wait(ctx, examples) || !wait(ctx, t.models.CaughtUp()) {
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

// tail takes the examples in, and looks at what has come of them after each
// fetch.
func (t *Trainer) tail(ctx context.Context, caughtUp chan struct{}) error {
	topic := intake.Examples(t.cfg.Codec)
	topic.Poison = t.intake.PassOver(func(_ string, reason schemas.Reason) { t.metrics.passedOver.WithLabelValues(string(reason)).Inc() })
	take := intake.Handle(t.intake, topic, t.take)
	err := t.cfg.Cluster.Tail(ctx, kafka.TailConfig{
		Topics:     []string{schemas.TopicExamples},
		Reader:     name,
		OnCaughtUp: func() { close(caughtUp) },
	}, func(ctx context.Context, records []kafka.Record) error {
		if err := take(ctx, records); err != nil {
			return err
		}
		t.wake()
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading %s: %w", schemas.TopicExamples, err)
	}
	return nil
}

// take takes in the examples of a customer, which replace those there were: all
// that are kept of the customer are in every record. A tombstone (nil) leaves
// none.
func (t *Trainer) take(_ context.Context, r *kafka.Record, m *schemas.CustomerExamples) error {
	customer := fitting.CustomerHash(r.Key)
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = t.taken[:0]
	if m != nil {
		t.renumber()
		for i := range m.Examples {
			e := &m.Examples[i]
			if t.tooOld(e.ObservedAt, now) {
				continue
			}
			t.learn(e.Attributes, m.Levels)
			t.taken = append(t.taken, fitting.Example{
				Customer: customer, ObservedAt: e.ObservedAt, Horizon: e.Horizon,
				// A label of the future would look new for ever.
				LabelledAt: min(e.LabelledAt, r.Time.UnixMilli()),
				Churned:    e.Churned, Attributes: e.Attributes,
			})
		}
	}
	change := t.data.Replace(customer, t.taken)
	if change.Added+change.Corrected > 0 {
		t.lastLabel = now
	}
	t.metrics.labels.Add(float64(change.Added))
	t.metrics.corrected.Add(float64(change.Corrected))
	t.metrics.removed.Add(float64(change.Removed))
	return nil
}

// tooOld reports whether an example is not to be learnt from any more.
func (t *Trainer) tooOld(observedAt int64, now time.Time) bool {
	return t.cfg.MaxAge > 0 && observedAt < now.Add(-t.cfg.MaxAge).UnixMilli()
}

// wake makes decide look again.
func (t *Trainer) wake() {
	select {
	case t.woken <- struct{}{}:
	default:
	}
}

// census counts the examples and shows how many there are. The caller holds mu.
func (t *Trainer) census() fitting.Census {
	c := t.data.Census()
	t.metrics.examples.Set(float64(c.Examples))
	t.metrics.otherHorizon.Set(float64(c.Others))
	t.metrics.fresh.Set(float64(c.Fresh))
	return c
}

// recognise marks the labels as seen that the newest version knew, if it is
// another than before and not ours, whose labels are marked already. The caller
// holds mu.
//
// Labels that come later are new whatever their times, so that no version can
// keep them from being learnt: neither one that says it knew labels of the
// future, nor one that was trained while the labels of another partition were
// still to come.
func (t *Trainer) recognise() {
	if list := t.models.List(); len(list) > 0 && list[0].Version != t.newest {
		t.newest = list[0].Version
		t.data.Seen(t.knew(list[0]))
	}
}

// knew returns up to when a version knew the labels: not beyond when it was made,
// nor beyond now.
func (t *Trainer) knew(v *models.Version) int64 {
	return min(v.LabelsUntil, v.CreatedAt, t.now().UnixMilli())
}

// begin tells new labels from others, when all topics have been read.
func (t *Trainer) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recognise()
	c := t.census()
	t.log.Info("read all examples", "examples", c.Examples, "churned", c.Churners, "new_labels", c.Fresh,
		"label", schemas.Label(c.Horizon), "other_horizon", c.Others)
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
	t.recognise()
	c := t.census()
	if err := t.enough(c); err != nil {
		return err
	}
	if c.Fresh == 0 {
		return fmt.Errorf("%w: the newest model has seen all %d", ErrNoNewLabels, c.Examples)
	}
	t.requested = cmp.Or(reason, "requested")
	t.log.Info("training requested", "reason", t.requested)
	t.wake()
	return nil
}

// enough reports what is missing for a training, if anything.
func (t *Trainer) enough(c fitting.Census) error {
	if c.Examples < t.cfg.MinLabels || c.Churners == 0 || c.Churners == c.Examples {
		err := fmt.Errorf("%w: %d examples, %d of them churned; %d of both classes are needed",
			fitting.ErrTooFewLabels, c.Examples, c.Churners, t.cfg.MinLabels)
		if c.Others > 0 {
			err = fmt.Errorf("%w; %d more do not say whether a customer %s", err, c.Others, schemas.Label(c.Horizon))
		}
		return err
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

// tick bounds how long decide waits before it looks again at ages.
const tick = 10 * time.Second

// due returns why a training is due now, or "" and when to ask again at the
// latest.
func (t *Trainer) due(now time.Time) (trigger string, pause time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recognise()
	c := t.census()
	champion := t.models.Champion()
	switch {
	case c.Fresh == 0:
	case t.requested != "":
		trigger = t.requested
	case len(t.models.List()) == 0:
		trigger = "the first model"
	case c.Fresh >= t.cfg.MinNewLabels:
		trigger = fmt.Sprintf("%d new labels", c.Fresh)
	case champion != nil && t.age(now, champion) != "":
		trigger = t.age(now, champion)
	}
	if trigger == "" || t.enough(c) != nil {
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
	c := t.census()
	if err := t.enough(c); err != nil || c.Fresh == 0 {
		t.mu.Unlock()
		return nil // examples have been erased, or are too old by now
	}
	data := t.data.Clone()
	t.data.Seen(math.MaxInt64)
	t.started, t.requested = start, ""
	t.mu.Unlock()

	t.log.Info("training", "trigger", trigger, "examples", c.Examples, "churned", c.Churners, "new_labels", c.Fresh,
		"label", schemas.Label(c.Horizon), "other_horizon", c.Others)
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
	m.CreatedAt, m.Reason, m.LabelsSeen = t.now().UnixMilli(), trigger, int64(candidate.Examples)
	if used := len(candidate.Training) + len(candidate.Holdout); used < candidate.Examples {
		m.Reason += fmt.Sprintf("; learnt from the newest %d of %d examples, as older ones made it worse", used, candidate.Examples)
	}
	m.Horizon, m.LabelsUntil = candidate.Horizon, data.LabelledThrough()
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
		t.log.Warn("another trainer runs and was faster; the model is dropped", "trigger", trigger, "error", err)
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
		"label", schemas.Label(m.Horizon), "training_rows", m.TrainingRows, "of", candidate.Examples, "strength", candidate.Strength, "log_loss", m.Metrics.LogLoss,
		"roc_auc", m.Metrics.ROCAUC, "accuracy", m.Metrics.Accuracy, "took", took.Round(time.Millisecond))
	return nil
}
