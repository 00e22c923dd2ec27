// Package scorer turns customer events into churn scores.
//
// One worker owns one partition of churn.customer-events, for as long as the
// consumer group assigns it, and is the only writer of the partition of
// churn.scores with the same number. That output partition is the worker's
// state: every score carries the customer's full attributes and the source
// offset it rests on, so one append is output, state and progress at once.
//
// What a worker needs of that state lies packed in memory and, as a cache that
// may be lost, in snapshots on disk. A partition that comes back and a process
// that restarts read only what was written since. Of all records of a customer
// the one with the highest source offset is true, wherever it stands; where
// others stand behind it, the owner writes the truth once more.
package scorer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
)

// DefaultGroup is the consumer group scorers join unless told otherwise. It
// also prefixes their transactional ids.
const DefaultGroup = "churn-scorer"

// Models tells which model version is in use.
type Models interface {
	// Champion returns the version in use, nil while there is none.
	Champion() *models.Version
	// Changed returns a channel that is closed at the next change.
	Changed() <-chan struct{}
}

// Explain says which explanations a score carries.
type Explain uint8

// The explanations a score can carry.
const (
	// ExplainLIME adds exact LIME weights. It is the zero value.
	ExplainLIME Explain = iota
	// ExplainSHAP adds exact Shapley values.
	ExplainSHAP
	// ExplainBoth adds both, chosen and ordered by LIME.
	ExplainBoth
	// ExplainNone adds none.
	ExplainNone
)

// ParseExplain reads "lime", "shap", "both" or "none".
func ParseExplain(s string) (Explain, error) {
	switch s {
	case "lime":
		return ExplainLIME, nil
	case "shap":
		return ExplainSHAP, nil
	case "both":
		return ExplainBoth, nil
	case "none":
		return ExplainNone, nil
	}
	return 0, fmt.Errorf("explanations %q: choose lime, shap, both or none", s)
}

// AllReasons as Config.Reasons keeps every feature's explanation.
const AllReasons = -1

// Config says what a Scorer works on. Cluster, Codec and Models are required.
type Config struct {
	Cluster *kafka.Cluster
	Codec   *schemas.Codec
	Models  Models
	// Group is the consumer group; empty means DefaultGroup.
	Group string
	// Explain says which explanations scores carry.
	Explain Explain
	// Reasons is how many features a score explains, those of greatest
	// weight; 0 means 5, AllReasons all.
	Reasons int
	// BestChange adds, for customers at high risk, the single actionable
	// change after which the model would predict the lowest probability.
	BestChange bool
	// CommitInterval is how often offsets are committed; 0 means one second.
	// They only serve lag monitoring and partitions without scores.
	CommitInterval time.Duration
	// MarkerInterval is how long a worker may stay silent before it repeats
	// its marker, so that the broker does not forget who owns the partition;
	// 0 means four hours.
	MarkerInterval time.Duration
	// RenewInterval is how often a worker asks anew for the transactional id of
	// its partition; 0 means one day. It must stay well below Kafka's
	// transactional.id.expiration.ms (default: a week).
	RenewInterval time.Duration
	// StateDir is a directory for snapshots of the state, so that a restart
	// reads only the scores written since. Scorers may share one. Its files
	// hold customers' attributes. "" means none.
	StateDir string
	// SnapshotInterval is the time between two snapshots of a partition; 0
	// means one minute. One is also written when the scorer stops.
	SnapshotInterval time.Duration
	// SnapshotMaxAge is the age beyond which a snapshot, or a state kept in
	// memory, is not used and removed; 0 means 12 hours. It must stay well
	// below delete.retention.ms of churn.scores (Kafka's default: 24 hours),
	// after which the erasure of a customer may have left the topic.
	SnapshotMaxAge time.Duration
	// KeepLost is how many customers are kept in memory of partitions that
	// went to other scorers, in case they come back; 0 means 5 million,
	// negative none. A customer takes about 200 bytes.
	KeepLost int
	// RescoreOnActivate scores all customers again, at RescoreRate, when the
	// model in use changes. Such a score repeats the event and the source
	// position of the one before; its identity differs in the model version.
	RescoreOnActivate bool
	// RescoreRate is how many customers a partition scores again in a second;
	// 0 means 1000.
	RescoreRate int
	// SessionTimeout is after how long without a sign of life the group gives
	// a scorer's partitions to others; 0 means the group's default.
	SessionTimeout time.Duration
	// Ready, if set, is told whether the scorer can work and otherwise why not.
	Ready func(name string, ready bool, why string)
	// Logger defaults to slog.Default.
	Logger *slog.Logger
	// Registerer receives the metrics; nil means none.
	Registerer prometheus.Registerer
	// Now defaults to time.Now.
	Now func() time.Time
}

// Scorer consumes customer events and produces churn scores.
type Scorer struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	// producer writes what is not fenced: dead letters and erasures of outcomes.
	producer *kafka.Producer
	letters  *deadletters.Writer

	packing   *packing
	rounding  rounding
	lost      lostStates
	misplaced misplaced
	// partitions is their number; 0 until Run has asked.
	partitions atomic.Int64

	// What readiness depends on.
	mu         sync.Mutex
	joined     bool
	unrestored map[int]bool // partitions that are to be restored before they can be worked on

	// grace is how long a worker may go on to finish a batch when it has to
	// stop. It must stay below the time the group waits for workers.
	grace time.Duration
	// sourcePatience is sourcePatience outside of tests.
	sourcePatience time.Duration
	// killed is set by tests: workers end as if their process did.
	killed atomic.Bool
}

// stopGrace is the grace of every scorer outside of tests.
const stopGrace = 10 * time.Second

// New returns a scorer. It does no I/O.
func New(cfg Config) (*Scorer, error) {
	if cfg.Cluster == nil || cfg.Codec == nil || cfg.Models == nil {
		return nil, errors.New("scorer: Cluster, Codec and Models are required")
	}
	if cfg.Group == "" {
		cfg.Group = DefaultGroup
	}
	if cfg.Reasons == 0 {
		cfg.Reasons = 5
	}
	if cfg.Reasons < AllReasons {
		return nil, fmt.Errorf("scorer: %d reasons asked for; use a positive number or AllReasons", cfg.Reasons)
	}
	if cfg.CommitInterval <= 0 {
		cfg.CommitInterval = time.Second
	}
	if cfg.MarkerInterval <= 0 {
		cfg.MarkerInterval = 4 * time.Hour
	}
	if cfg.RenewInterval <= 0 {
		cfg.RenewInterval = 24 * time.Hour
	}
	if cfg.SnapshotInterval <= 0 {
		cfg.SnapshotInterval = time.Minute
	}
	if cfg.SnapshotMaxAge <= 0 {
		cfg.SnapshotMaxAge = 12 * time.Hour
	}
	if cfg.KeepLost == 0 {
		cfg.KeepLost = 5_000_000
	}
	if cfg.RescoreRate <= 0 {
		cfg.RescoreRate = 1000
	}
	if cfg.Ready == nil {
		cfg.Ready = func(string, bool, string) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	log := cfg.Logger.With("role", "scorer")
	producer := cfg.Cluster.NewProducer(kafka.ProducerConfig{})
	return &Scorer{
		cfg:      cfg,
		log:      log,
		metrics:  newMetrics(cfg.Registerer, cfg.Codec.Set().Spec()),
		producer: producer,
		letters:  deadletters.NewWriter(producer, cfg.Codec, "scorer"),

		packing:        newPacking(cfg.Codec.Set().Spec()),
		rounding:       newRounding(cfg.Codec.Set()),
		lost:           lostStates{limit: cfg.KeepLost},
		unrestored:     map[int]bool{},
		grace:          stopGrace,
		sourcePatience: sourcePatience,
	}, nil
}

// ErrPartitions means that churn.customer-events and churn.scores differ in
// their number of partitions.
var ErrPartitions = errors.New("topics must have the same number of partitions")

// Run scores until ctx ends, and returns nil then. It fails at once when the
// topics do not fit each other.
func (s *Scorer) Run(ctx context.Context) error {
	s.tell()
	if err := s.checkPartitions(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("starting the scorer: %w", err)
	}
	go s.watchModel(ctx)
	go s.forgetOldStates(ctx)
	err := s.cfg.Cluster.Consume(ctx, kafka.GroupConfig{
		Group:          s.cfg.Group,
		Topics:         []string{schemas.TopicEvents},
		SessionTimeout: s.cfg.SessionTimeout,
		OnAssigned: func(claims []*kafka.Claim) {
			s.mu.Lock()
			s.joined = true
			clear(s.unrestored) // the workers of before have ended
			for _, c := range claims {
				s.unrestored[c.Partition] = true
			}
			s.mu.Unlock()
			s.tell()
		},
	}, func(workerCtx context.Context, c *kafka.Claim) error {
		// Topics grow.
		if err := s.checkPartitions(workerCtx); err != nil {
			return err
		}
		return s.work(ctx, workerCtx, claim{partition: c.Partition, committed: c.Committed, commit: c.Commit})
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Scorer) checkPartitions(ctx context.Context) error {
	in, err := s.cfg.Cluster.Partitions(ctx, schemas.TopicEvents)
	if err != nil {
		return fmt.Errorf("counting the partitions of %s: %w", schemas.TopicEvents, err)
	}
	out, err := s.cfg.Cluster.Partitions(ctx, schemas.TopicScores)
	if err != nil {
		return fmt.Errorf("counting the partitions of %s: %w", schemas.TopicScores, err)
	}
	if in != out {
		return fmt.Errorf("%w: %s has %d, %s has %d; recreate one of them with the other's number",
			ErrPartitions, schemas.TopicEvents, in, schemas.TopicScores, out)
	}
	s.partitions.Store(int64(in))
	return nil
}

// restoring notes that a partition has to be restored before it can be worked
// on, or need not any more.
func (s *Scorer) restoring(partition int, yes bool) {
	s.mu.Lock()
	if yes {
		s.unrestored[partition] = true
	} else {
		delete(s.unrestored, partition)
	}
	s.mu.Unlock()
	s.tell()
}

// tell makes known whether the scorer can work.
func (s *Scorer) tell() {
	s.mu.Lock()
	defer s.mu.Unlock() // also so that what is told last is what is so
	switch {
	case s.cfg.Models.Champion() == nil:
		s.cfg.Ready("scorer", false, "no model yet: events wait in "+schemas.TopicEvents)
	case !s.joined:
		s.cfg.Ready("scorer", false, "joining the consumer group "+s.cfg.Group)
	case len(s.unrestored) > 0:
		s.cfg.Ready("scorer", false, fmt.Sprintf("restoring the state of partitions %v", slices.Sorted(maps.Keys(s.unrestored))))
	default:
		s.cfg.Ready("scorer", true, "")
	}
}

// watchModel keeps readiness and the model metric in step with the champion.
func (s *Scorer) watchModel(ctx context.Context) {
	for {
		changed := s.cfg.Models.Changed()
		if m := s.cfg.Models.Champion(); m != nil {
			s.metrics.modelVersion.Set(float64(m.Version))
		}
		s.tell()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// forgetOldStates drops what is too old to be restored from: customers who
// asked to be forgotten must not live on in it.
func (s *Scorer) forgetOldStates(ctx context.Context) {
	for {
		now := s.cfg.Now()
		s.lost.expire(now.Add(-s.cfg.SnapshotMaxAge))
		if s.cfg.StateDir != "" {
			if err := removeOldSnapshots(s.cfg.StateDir, s.cfg.SnapshotMaxAge, now); err != nil {
				s.log.Warn("cleaning the state directory", "error", err)
			}
		}
		if !wait(ctx, time.Hour) {
			return
		}
	}
}

// model waits for a champion, and returns nil when there is none within a time.
func (s *Scorer) model(ctx context.Context, limit time.Duration) (*models.Version, error) {
	var late <-chan time.Time
	for {
		changed := s.cfg.Models.Changed()
		if m := s.cfg.Models.Champion(); m != nil {
			return m, nil
		}
		if late == nil {
			late = time.After(limit)
		}
		select {
		case <-changed:
		case <-late:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
