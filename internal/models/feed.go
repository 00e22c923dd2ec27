// Package models follows the model versions in their topic, so that every role
// knows the champion.
package models

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/metrics"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// ErrRefused is matched by the errors of Open: a version that must not be
// used.
var ErrRefused = errors.New("model version refused")

// Version is a model version that passed all checks, ready to score with. It
// must not be changed.
type Version struct {
	schemas.ModelVersion
	// Offset is that of the version's latest record, and WrittenAt its time.
	Offset    int64
	WrittenAt int64
	Model     *scoring.Model
	Predictor *scoring.Predictor
}

// StageNow is the version's stage beside the champion, nil for none: of the versions
// that were published as champions one is in use, and the others are retired.
func (v *Version) StageNow(champion *Version) schemas.Stage {
	if v.Stage == schemas.StageChampion && champion != nil && champion.Version != v.Version {
		return schemas.StageRetired
	}
	return v.Stage
}

// Answers reports whether an example's label answers the question that the version
// does. One that left within 30 days says nothing of what was said of 7. A version that
// is not known (nil), or does not say, is taken to answer all.
func (v *Version) Answers(e *schemas.LabelledExample) bool {
	return v == nil || v.Horizon == 0 || e.Horizon == v.Horizon
}

// Open checks a model version and compiles its model for the vectors of set.
// It refuses, matching ErrRefused, a payload that is not the one that was
// hashed, is no valid model, or belongs to another feature specification, and
// thresholds that are not the payload's.
func Open(set *schemas.Set, v schemas.ModelVersion) (*Version, error) {
	if err := checkHash(&v); err != nil {
		return nil, err
	}
	if own := set.Spec().Fingerprint(); v.FeatureFingerprint != own {
		return nil, &refusal{"fingerprint", fmt.Errorf("%w: feature specification %.64s, not %s", ErrRefused, v.FeatureFingerprint, own)}
	}
	model, err := scoring.ParseModel([]byte(v.Payload))
	if err != nil {
		return nil, &refusal{"payload", fmt.Errorf("%w: %w", ErrRefused, err)}
	}
	predictor, err := scoring.Compile(model, set.Vocabulary())
	if err != nil {
		return nil, &refusal{"payload", fmt.Errorf("%w: %w", ErrRefused, err)}
	}
	if t := model.RiskThresholds(); v.MediumThreshold != t.Medium || v.HighThreshold != t.High {
		return nil, &refusal{"thresholds", fmt.Errorf("%w: thresholds %g and %g, the payload's are %g and %g",
			ErrRefused, v.MediumThreshold, v.HighThreshold, t.Medium, t.High)}
	}
	return &Version{ModelVersion: v, Model: model, Predictor: predictor}, nil
}

// CheckRecord refuses, matching ErrRefused, what can be no version's record,
// whatever the features: one under another key, with a number that none has, or
// with a payload that is not the one that was hashed.
func CheckRecord(r *kafka.Record, v *schemas.ModelVersion) error {
	switch {
	case string(r.Key) != string(Key(v.Version)):
		return &refusal{"version", fmt.Errorf("%w: version %d under the key %.32q", ErrRefused, v.Version, r.Key)}
	case v.Version < 1 || v.Version > schemas.MaxModelVersion:
		return &refusal{"version", fmt.Errorf("%w: version %d, not from 1 to %d", ErrRefused, v.Version, schemas.MaxModelVersion)}
	case v.LabelsSeen < 0 || v.LabelsSeen > schemas.MaxModelVersion:
		return &refusal{"version", fmt.Errorf("%w: version %d has seen %d labels", ErrRefused, v.Version, v.LabelsSeen)}
	}
	return checkHash(v)
}

func checkHash(v *schemas.ModelVersion) error {
	if sum := SHA256(v.Payload); sum != v.SHA256 {
		return &refusal{"sha256", fmt.Errorf("%w: payload has SHA-256 %s, not %.64s", ErrRefused, sum, v.SHA256)}
	}
	return nil
}

// refusal is an ErrRefused with the value of the metric's label.
type refusal struct {
	reason string
	error
}

func (r *refusal) Unwrap() error { return r.error }

// SHA256 returns the content hash of a payload as it stands in a version.
func SHA256(payload string) string {
	sum := sha256.Sum256([]byte(payload))
	return hex.EncodeToString(sum[:])
}

// Key returns the key of a version's record: the version as decimal text.
func Key(version int64) []byte { return strconv.AppendInt(nil, version, 10) }

// Tailer reads a topic from its start and goes on as records come; it is what
// a Feed needs of a *kafka.Cluster.
type Tailer interface {
	Tail(ctx context.Context, cfg kafka.TailConfig, handle func(ctx context.Context, records []kafka.Record) error) error
}

// FeedConfig configures NewFeed. Cluster and Codec are required.
type FeedConfig struct {
	Cluster Tailer
	Codec   *schemas.Codec
	// Logger receives what an operator should know. Default none.
	Logger *slog.Logger
	// Registerer receives the metrics. Default none.
	Registerer prometheus.Registerer
}

// Feed follows the topic of model versions from its start. Its methods but Run
// are safe for concurrent use and do not block.
//
// A number is believed up to believable, and beyond only if it is at most maxStep
// above the highest so far: so nobody's number can use up those that the trainer
// has still to give. What is not believed uses no number up.
//
// Of each version the latest record counts, as after compaction. The champion
// is the one of them with stage CHAMPION and the highest offset, so a version
// becomes champion, for the first time or again, by being published as such.
// Records that are refused change nothing; a tombstone removes its version;
// markers are passed over.
type Feed struct {
	cfg     FeedConfig
	log     *slog.Logger
	metrics feedMetrics
	reader  *intake.Reader[schemas.ModelVersion]

	state    atomic.Pointer[state]
	caughtUp chan struct{}

	mu      sync.Mutex // guards changed
	changed chan struct{}
}

// state is what a Feed knows. It is replaced as a whole.
type state struct {
	versions []*Version // newest first
	champion *Version
	highest  int64 // version that is believed, refused ones included
	next     int64 // offset after the last record taken in
}

type feedMetrics struct {
	refused     *prometheus.CounterVec
	versions    prometheus.Gauge
	champion    prometheus.Gauge
	activations prometheus.Counter
}

// NewFeed returns a feed that knows nothing until Run runs.
func NewFeed(cfg FeedConfig) *Feed {
	f := &Feed{cfg: cfg, log: cfg.Logger, caughtUp: make(chan struct{}), changed: make(chan struct{})}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	f.state.Store(&state{})
	// A process can work with the champion it has while the registry is down, so
	// the feed does not report readiness.
	f.reader = intake.NewReader(intake.New(intake.Config{Logger: f.log, Registerer: cfg.Registerer}), intake.Topic[schemas.ModelVersion]{
		Decode: cfg.Codec.DecodeModel,
		Poison: func(_ context.Context, r *kafka.Record, why *schemas.PoisonError) error {
			f.refuse(r, why)
			return nil
		},
	})
	f.metrics = feedMetrics{
		refused: metrics.Register(cfg.Registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_models_refused_total",
			Help: "Records of model versions that were refused, by reason.",
		}, []string{"reason"})),
		versions: metrics.Register(cfg.Registerer, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "churn_models_versions",
			Help: "Model versions known and usable.",
		})),
		champion: metrics.Register(cfg.Registerer, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "churn_models_champion_version",
			Help: "Version of the champion, 0 while there is none.",
		})),
		activations: metrics.Register(cfg.Registerer, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_models_champion_changes_total",
			Help: "Changes of the champion seen by this process.",
		})),
	}
	for _, reason := range []string{"version", "sha256", "fingerprint", "payload", "thresholds", "undecodable"} {
		f.metrics.refused.WithLabelValues(reason)
	}
	return f
}

// Run follows the topic until ctx ends, and then returns nil. It fails when
// the topic does not exist.
func (f *Feed) Run(ctx context.Context) error {
	err := f.cfg.Cluster.Tail(ctx, kafka.TailConfig{
		Topics:     []string{schemas.TopicModels},
		Reader:     "models",
		OnCaughtUp: func() { close(f.caughtUp) },
	}, f.handle)
	if err != nil {
		return fmt.Errorf("following model versions: %w", err)
	}
	return nil
}

// CaughtUp is closed when the versions that were there at the start are known.
func (f *Feed) CaughtUp() <-chan struct{} { return f.caughtUp }

// Champion returns the version in use, nil while there is none.
func (f *Feed) Champion() *Version { return f.state.Load().champion }

// Changed returns a channel that is closed at the next record, whether it
// changes the champion, the list, or nothing. To miss none, take the channel
// before looking.
func (f *Feed) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Get returns a version, nil if it is not known or was refused.
func (f *Feed) Get(version int64) *Version {
	for _, v := range f.state.Load().versions {
		if v.Version == version {
			return v
		}
	}
	return nil
}

// List returns all usable versions, newest first. The slice must not be
// changed.
func (f *Feed) List() []*Version { return f.state.Load().versions }

// Highest returns the highest version number ever seen and believed, those of
// refused versions included, 0 if there was none: a new version must be higher.
func (f *Feed) Highest() int64 { return f.state.Load().highest }

// WaitFor waits until the feed has taken in the record at an offset, or a later
// one. It fails only when ctx ends first.
func (f *Feed) WaitFor(ctx context.Context, offset int64) error {
	for {
		changed := f.Changed()
		if f.state.Load().next > offset {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for offset %d of %s: %w", offset, schemas.TopicModels, ctx.Err())
		}
	}
}

func (f *Feed) handle(ctx context.Context, records []kafka.Record) error {
	for i := range records {
		r := &records[i]
		kind, err := f.reader.Read(ctx, r)
		if err != nil {
			return err
		}
		next := f.state.Load().clone()
		next.next = r.Offset + 1
		// A version that is refused, or withdrawn, has used its number up.
		key, err := strconv.ParseInt(string(r.Key), 10, 64)
		believed := err == nil && string(Key(key)) == string(r.Key) && next.believes(key)
		if believed {
			next.highest = max(next.highest, key)
			if kind == intake.Tombstone {
				next.remove(key)
			}
		}
		if kind == intake.Message {
			if v, err := f.open(r, *f.reader.Message(), believed); err != nil {
				f.refuse(r, err)
			} else {
				next.remove(v.Version)
				next.versions = append(next.versions, v)
			}
		}
		f.publish(next)
	}
	return nil
}

// open checks what a record holds.
func (f *Feed) open(r *kafka.Record, m schemas.ModelVersion, believed bool) (*Version, error) {
	if err := CheckRecord(r, &m); err != nil {
		return nil, err
	}
	if !believed {
		return nil, &refusal{"version", fmt.Errorf("%w: version %d is beyond %d and more than %d above the highest so far, %d",
			ErrRefused, m.Version, int64(believable), maxStep, f.Highest())}
	}
	v, err := Open(f.cfg.Codec.Set(), m)
	if err != nil {
		return nil, err
	}
	v.Offset, v.WrittenAt = r.Offset, r.Time.UnixMilli()
	return v, nil
}

func (f *Feed) refuse(r *kafka.Record, err error) {
	reason := "undecodable"
	if refused := new(refusal); errors.As(err, &refused) {
		reason = refused.reason
	}
	f.metrics.refused.WithLabelValues(reason).Inc()
	f.log.Error("refused a model version; the champion stays",
		"topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "key", fmt.Sprintf("%.32q", r.Key), "champion", number(f.Champion()), "error", err)
}

const (
	// believable is up to where any number of a version is believed: dates and
	// milliseconds are, for those who number by them.
	believable = 1 << 52
	// maxStep is how far above the highest a number beyond that may be.
	maxStep = 1000
)

// believes reports whether a number can be a version's.
func (s *state) believes(number int64) bool {
	return number > 0 && (number <= believable || number <= min(s.highest+maxStep, schemas.MaxModelVersion))
}

// maxVersions bounds the versions known at a time: the newest, and the champion.
const maxVersions = 200

// publish makes a state the current one and wakes those who wait.
func (f *Feed) publish(next *state) {
	slices.SortFunc(next.versions, func(a, b *Version) int {
		if a.Version > b.Version {
			return -1
		}
		return 1
	})
	next.champion = nil
	for _, v := range next.versions {
		if v.Stage == schemas.StageChampion && (next.champion == nil || v.Offset > next.champion.Offset) {
			next.champion = v
		}
	}
	// Each has a predictor in memory, and nothing takes versions from the topic.
	if len(next.versions) > maxVersions {
		old := next.versions[maxVersions:]
		next.versions = next.versions[:maxVersions:maxVersions]
		if slices.Contains(old, next.champion) {
			next.versions[maxVersions-1] = next.champion
		}
	}
	old := f.state.Swap(next)
	f.metrics.versions.Set(float64(len(next.versions)))
	f.metrics.champion.Set(float64(number(next.champion)))
	if number(old.champion) != number(next.champion) {
		f.metrics.activations.Inc()
		switch v := next.champion; {
		case v == nil:
			f.log.Warn("the champion was withdrawn, and there is no other", "version", number(old.champion))
		default:
			f.log.Info("champion", "version", v.Version, "label", schemas.Label(v.Horizon), "before", number(old.champion),
				"trained", time.UnixMilli(v.CreatedAt).UTC().Format(time.RFC3339), "log_loss", v.Metrics.LogLoss, "reason", v.Reason)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.changed)
	f.changed = make(chan struct{})
}

func number(v *Version) int64 {
	if v == nil {
		return 0
	}
	return v.Version
}

func (s *state) clone() *state {
	c := *s
	c.versions = slices.Clone(s.versions)
	return &c
}

func (s *state) remove(version int64) {
	s.versions = slices.DeleteFunc(s.versions, func(v *Version) bool { return v.Version == version })
}
