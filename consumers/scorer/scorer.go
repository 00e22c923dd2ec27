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
// the one with the highest source offset is valid, wherever it is in the log;
// where others follow it, the owner writes it once more.
//
// The parts of a worker are the engine, which scores without I/O, the table of
// customers, the owner, which alone writes to the output partition, and the
// outbox, which holds what is to be written.
package scorer

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/churnstream/churnstream/consumers/scorer/engine"
	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/settings"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// DefaultGroup is the consumer group scorers join by default.
const DefaultGroup = "churn-scorer"

// Explain says which explanations a score carries.
type Explain = engine.Explain

// The explanations a score can carry; see engine.Explain.
const (
	ExplainLIME = engine.ExplainLIME
	ExplainSHAP = engine.ExplainSHAP
	ExplainBoth = engine.ExplainBoth
	ExplainNone = engine.ExplainNone
)

// AllReasons as Config.Reasons keeps every feature's explanation.
const AllReasons = -1

// Config says what a Scorer works on, and how. The zero value of a setting is
// its default.
type Config struct {
	role.Dependencies `kong:"-"`

	// Group is the consumer group.
	Group string `name:"score-group" help:"Consumer group of the scorers. One group at a time scores into churn.scores." default:"churn-scorer"`
	// Explain says which explanations scores carry.
	Explain Explain `name:"explain" help:"Explanations in each score: lime, shap, both or none." enum:"lime,shap,both,none" default:"lime"`
	// Reasons is how many features a score explains, those of greatest weight;
	// AllReasons is all. ExplainNone explains none.
	Reasons int `name:"reasons" help:"Features each score explains, those of greatest weight; -1 for all, 0 for none." default:"5" min:"-1" unit:"features"`
	// BestChange adds, for customers at high risk, the single actionable
	// change after which the model would predict the lowest probability.
	BestChange bool `name:"best-change" help:"Add to scores of customers at high risk the single actionable change after which the model would predict the lowest probability."`

	// StateDir is a directory for snapshots of the state, so that a restart
	// reads only the scores written since. Scorers may share one. Its files
	// hold customers' attributes. "" means none.
	StateDir string `name:"state-dir" help:"Directory for snapshots of the state, so that a restart reads only what came since. It holds customers' attributes." placeholder:"DIR"`
	// SnapshotInterval is the time between two snapshots of a partition. One
	// is also written when the scorer stops.
	SnapshotInterval time.Duration `name:"snapshot-interval" help:"Time between two snapshots of a partition." default:"1m" advanced:""`
	// SnapshotMaxAge is the age beyond which a snapshot, or a state kept in
	// memory, is not used and removed. It must stay well below
	// delete.retention.ms of churn.scores (Kafka's default: 24 hours), after
	// which the erasure of a customer may have left the topic.
	SnapshotMaxAge time.Duration `name:"snapshot-max-age" help:"Age from which a snapshot is not used any more. Keep it well below delete.retention.ms of churn.scores." default:"12h" advanced:""`
	// KeepLost is how many customers are kept in memory of partitions that
	// went to other scorers, in case they come back; negative means none. A
	// customer takes about 200 bytes.
	KeepLost int `name:"keep-lost" help:"Customers to keep in memory of partitions that went to other scorers, about 200 bytes each; -1 for none." default:"5000000" min:"-1" unit:"customers" advanced:""`
	// RescoreOnActivate scores all customers again, at RescoreRate, when the
	// model in use changes. Such a score repeats the event and the source
	// position of the one before; its identity differs in the model version.
	RescoreOnActivate bool `name:"rescore-on-activate" help:"Score all customers again when the model in use changes."`
	// RescoreRate is how many customers per second a partition scores again.
	RescoreRate int `name:"rescore-rate" help:"Customers per second that a partition scores again then." default:"1000" unit:"customers per second" advanced:""`
	// SessionTimeout is how long without a sign of life it takes until the
	// group gives a scorer's partitions to others.
	SessionTimeout time.Duration `name:"session-timeout" help:"Time without a sign of life from which a scorer's partitions go to others." default:"15s" advanced:""`

	// CommitInterval is how often offsets are committed. They serve lag
	// monitoring only: where to go on stands in churn.scores.
	CommitInterval time.Duration `kong:"-" default:"1s"`
	// ProgressInterval is how far in time the marker of progress in
	// churn.scores may be behind.
	ProgressInterval time.Duration `kong:"-" default:"1m"`
	// MarkerInterval is how long a worker may stay silent before it repeats
	// its marker, so that the broker does not forget who owns the partition.
	MarkerInterval time.Duration `kong:"-" default:"4h"`
	// RenewInterval is how often a worker asks anew for the transactional id of
	// its partition. It must stay well below Kafka's
	// transactional.id.expiration.ms (default: a week).
	RenewInterval time.Duration `kong:"-" default:"24h"`
	// Now defaults to time.Now.
	Now func() time.Time `kong:"-"`
}

// Scorer consumes customer events and produces churn scores.
type Scorer struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	// producer writes what is not fenced: dead letters and erasures of outcomes.
	producer producer
	letters  *deadletters.Writer
	intake   *intake.Intake

	lost      lostStates
	misplaced misplaced
	// topicIDs asks for the ids of the topics; ids are those of a moment ago.
	topicIDs func(context.Context) (topicIDs, error)
	idsMu    sync.Mutex
	ids      topicIDs
	idsAt    time.Time
	// partitions is their number, of events and scores alike; 0 until it is known.
	// While the topics get more it is the number before.
	partitions     atomic.Int64
	topicsInterval time.Duration // between two looks at it; 0 for the default

	// What readiness depends on.
	mu         sync.Mutex
	joined     bool
	unrestored map[int]bool   // partitions that are to be restored before they can be worked on
	refused    map[int]string // why partitions are not worked on

	// grace is how long a worker may go on to finish a batch when it has to
	// stop. It must stay below the time the group waits for workers.
	grace time.Duration
	// maxLevels is the engines', scoring.MaxLevels outside of tests.
	maxLevels int
	// sourcePatience is sourcePatience outside of tests.
	sourcePatience time.Duration
	// refusalPause is refusalPause outside of tests.
	refusalPause time.Duration
	// killed is set by tests: workers end as if their process did.
	killed atomic.Bool
}

// stopGrace is the grace of every scorer outside of tests.
const stopGrace = 10 * time.Second

// New returns a scorer. It does no I/O.
func New(cfg Config) (*Scorer, error) {
	if err := cfg.Dependencies.Complete(); err != nil {
		return nil, fmt.Errorf("scorer: %w", err)
	}
	if err := settings.Complete(&cfg); err != nil {
		return nil, fmt.Errorf("scorer: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	producer := cfg.Cluster.NewProducer(kafka.ProducerConfig{})
	s := &Scorer{
		cfg:      cfg,
		log:      cfg.Logger,
		metrics:  newMetrics(cfg.Registerer, cfg.Codec.Set().Spec()),
		producer: producer,
		letters:  deadletters.NewWriter(producer, cfg.Codec, "scorer"),
		intake:   intake.New(intake.Config{Name: "scorer intake", Ready: cfg.Ready, Logger: cfg.Logger, Registerer: cfg.Registerer}),

		lost:           lostStates{limit: cfg.KeepLost},
		unrestored:     map[int]bool{},
		grace:          stopGrace,
		maxLevels:      scoring.MaxLevels,
		sourcePatience: sourcePatience,
		refusalPause:   refusalPause,
		refused:        map[int]string{},
	}
	s.topicIDs = s.askTopicIDs
	return s, nil
}

// Run scores until ctx ends, and returns nil then. It fails when a topic does not
// exist.
func (s *Scorer) Run(ctx context.Context) error {
	s.report()
	in, out, err := s.countPartitions(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("starting the scorer: %w", err)
	}
	go s.watchPartitions(ctx, in, out)
	go s.watchModel(ctx)
	go s.forgetOldStates(ctx)
	err = s.cfg.Cluster.Consume(ctx, kafka.GroupConfig{
		Group:          s.cfg.Group,
		Reader:         "scorer",
		Topics:         []string{schemas.TopicEvents},
		SessionTimeout: s.cfg.SessionTimeout,
		OnAssigned: func(claims []*kafka.Claim) {
			s.mu.Lock()
			s.joined = true
			for _, c := range claims {
				s.unrestored[c.Partition] = true
			}
			s.mu.Unlock()
			s.report()
		},
	}, func(workerCtx context.Context, c *kafka.Claim) error {
		if err := s.awaitPartition(workerCtx, c.Partition); err != nil {
			return err
		}
		return s.work(ctx, workerCtx, claim{
			partition: c.Partition, committed: c.Committed, note: c.Note, position: c.Position,
			commit: func(offset int64, scores string) error { return c.CommitNote(offset, noteOf(scores)) },
		})
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
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
	s.report()
}

// waiting notes why a partition is not worked on, "" for one that is.
func (s *Scorer) waiting(partition int, why string) {
	s.mu.Lock()
	if why == "" {
		delete(s.refused, partition)
	} else {
		s.refused[partition] = why
	}
	s.mu.Unlock()
	s.report()
}

// report reports readiness: whether the scorer can work.
func (s *Scorer) report() {
	s.mu.Lock()
	defer s.mu.Unlock() // also so that the last report is the valid one
	switch {
	case s.cfg.Models.Champion() == nil:
		s.cfg.Ready("scorer", false, "no model yet: events wait in "+schemas.TopicEvents)
	case !s.joined:
		s.cfg.Ready("scorer", false, "joining the consumer group "+s.cfg.Group)
	case len(s.refused) > 0:
		p := slices.Min(slices.Collect(maps.Keys(s.refused)))
		s.cfg.Ready("scorer", false, fmt.Sprintf("not scoring partitions %v; %d: %s", slices.Sorted(maps.Keys(s.refused)), p, s.refused[p]))
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
		s.report()
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
		if !retry.Sleep(ctx, time.Hour) {
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
			defer retry.Begin(ctx, "there is no model yet")()
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
