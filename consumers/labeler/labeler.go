package labeler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/settings"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
)

// name names the labeler in reports, metrics and dead letters.
const name = "labeler"

// DefaultGroup is the consumer group labelers join by default.
const DefaultGroup = "churn-labeler"

// None as a duration of Config is zero, where the zero value is the default.
const None = time.Duration(-1)

// Config says what a Labeler makes of outcomes. The zero value of a setting is its
// default.
type Config struct {
	role.Dependencies `kong:"-"`

	// Group is the consumer group.
	Group string `name:"label-group" help:"Consumer group of the labelers." default:"churn-labeler" advanced:""`
	// Horizon is the time within which a customer leaves or not: the decision that
	// an outcome is the label of was so long before it was observed. None is at the
	// same moment.
	Horizon time.Duration `name:"horizon" help:"Time within which a customer leaves or not: an outcome is the label of what was known so long before it was observed." default:"720h" min:"-1ns"`
	// AcceptHorizon is the horizon of the examples that there are, if they are to be
	// gone on with under another one. Zero accepts none.
	AcceptHorizon time.Duration `name:"label-accept-horizon" help:"Horizon of the examples that there are, to go on with another --horizon. Without it the labeler refuses partitions whose examples are of another horizon." advanced:""`
	// LabelDelay is how long after it was observed an outcome may be written.
	LabelDelay time.Duration `name:"label-delay" help:"How long after it was observed an outcome may be written. Scores are kept for that and --horizon; min.compaction.lag.ms of churn.scores must be no less, with --score-interval on top." default:"336h"`
	// ScoreInterval is the time of which two scores per customer are kept, the first
	// and the last; None keeps all. It is never more than Horizon.
	ScoreInterval time.Duration `name:"score-interval" help:"Of each such time the first and the last score of a customer are kept; 0 keeps all. It is no more than --horizon." default:"24h" min:"-1ns"`
	// ExamplesPerCustomer is how many examples of a customer there may be, the
	// latest by the time of observation.
	ExamplesPerCustomer int `name:"examples-per-customer" help:"Examples of a customer that are kept, the latest." default:"24" unit:"examples" min:"1"`
	// Grace is how long an outcome waits for a score; None is not at all.
	Grace time.Duration `name:"label-grace" help:"How long an outcome waits for a score that is written after it." default:"1m" min:"-1ns" advanced:""`
	// StateDir is a directory for the scores that outcomes may ask for. Labelers
	// may share one. It holds customers' attributes. "" means a temporary
	// directory, which is filled from Kafka at every start.
	StateDir string `name:"label-state-dir" help:"Directory for the scores that outcomes may ask for. It holds customers' attributes. By default a temporary one, which is filled from Kafka at every start." placeholder:"DIR"`
	// StateMaxAge is the age beyond which what lies in StateDir is not used. It must
	// stay well below delete.retention.ms of churn.scores and churn.examples (Kafka's
	// default: 24 hours), after which the erasure of a customer may have left them.
	StateMaxAge time.Duration `name:"label-state-max-age" help:"Age from which what lies there is not used any more, but read from Kafka again. Keep it well below delete.retention.ms of churn.scores and churn.examples." default:"12h" advanced:""`
	// MaxWaiting is how many outcomes of a partition of the examples may wait for a
	// score; of more, the oldest are counted as unmatched.
	MaxWaiting int `name:"label-max-waiting" help:"Outcomes of a partition of examples that may wait for a score; of more, the oldest are given up." default:"10000" unit:"outcomes" min:"1" advanced:""`
	// SessionTimeout is how long without a sign of life it takes until the group
	// gives a labeler's partitions to others.
	SessionTimeout time.Duration `name:"label-session-timeout" help:"Time without a sign of life from which a labeler's partitions go to others." default:"15s" advanced:""`

	// FlushInterval is how often what is on disk is made to survive the process.
	FlushInterval time.Duration `kong:"-" default:"1m"`
	// ProgressInterval is how far in time the marker of progress may be behind.
	ProgressInterval time.Duration `kong:"-" default:"1m"`
	// MarkerInterval and RenewInterval are those of ownership.Config.
	MarkerInterval time.Duration `kong:"-" default:"4h"`
	RenewInterval  time.Duration `kong:"-" default:"24h"`
	// SweepInterval is how often the scores of all customers are looked at for old
	// ones.
	SweepInterval time.Duration `kong:"-" default:"24h"`
	// TidyInterval is how often the files are rewritten after erasures, so that
	// what was erased leaves the disk.
	TidyInterval time.Duration `kong:"-" default:"1h"`
	// Now defaults to time.Now.
	Now func() time.Time `kong:"-"`
}

// Labeler makes labelled examples of scores and outcomes.
type Labeler struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	rules   rules
	intake  *intake.Intake
	letters *deadletters.Writer
	fs      vfs.FS
	cache   *pebble.Cache

	partitions int // of the examples
	// batchBytes is what a batch of examples may be, where the topic takes less than
	// the producer would send; 0 while that is not known.
	batchBytes atomic.Int64
	reading    *reading
	positions  *positions

	idsMu sync.Mutex
	ids   topicIDs
	idsAt time.Time

	// What readiness depends on.
	mu       sync.Mutex
	joined   bool
	starting map[int]bool   // shards that have not read what there is
	refused  map[int]string // why shards are not worked on
	again    map[int]string // why shards are being started again

	// Otherwise in tests.
	topicsInterval time.Duration
	pause          time.Duration // between two tries to work on a shard
	fencedPause    time.Duration // after another one has taken it
	killed         atomic.Bool   // shards end as if their process did
	pollWait       time.Duration
}

// New returns a labeler. It does no I/O.
func New(cfg Config) (*Labeler, error) {
	if err := cfg.Dependencies.Complete(); err != nil {
		return nil, fmt.Errorf("labeler: %w", err)
	}
	if err := settings.Complete(&cfg); err != nil {
		return nil, fmt.Errorf("labeler: %w", err)
	}
	if cfg.LabelDelay < 0 {
		return nil, fmt.Errorf("labeler: --label-delay %s is below zero", cfg.LabelDelay)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Labeler{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registerer),
		rules: rules{
			horizon: milliseconds(cfg.Horizon), interval: min(milliseconds(cfg.ScoreInterval), milliseconds(cfg.Horizon)),
			delay: milliseconds(cfg.LabelDelay), grace: milliseconds(cfg.Grace),
			perCustomer: cfg.ExamplesPerCustomer, waiting: cfg.MaxWaiting, recordBytes: maxRecordBytes,
		},
		intake:  intake.New(intake.Config{Name: "labeler intake", Ready: cfg.Ready, Logger: cfg.Logger, Registerer: cfg.Registerer}),
		letters: deadletters.NewWriter(cfg.Cluster.NewProducer(kafka.ProducerConfig{}), cfg.Codec, name),
		fs:      vfs.Default, starting: map[int]bool{}, refused: map[int]string{}, again: map[int]string{},
		topicsInterval: 5 * time.Second, pause: time.Second, pollWait: 200 * time.Millisecond,
		fencedPause: cfg.SessionTimeout,
	}
	l.report()
	return l, nil
}

// milliseconds returns a time in milliseconds, below zero as zero.
func milliseconds(d time.Duration) int64 { return max(0, d.Milliseconds()) }

// Run labels until ctx ends, and returns nil then. It fails when a topic does not
// exist, or when there is no place for the state.
func (l *Labeler) Run(ctx context.Context) (err error) {
	defer func() {
		if ctx.Err() != nil {
			err = nil
		}
	}()
	for _, topic := range []string{schemas.TopicScores, schemas.TopicOutcomes} {
		if _, err := l.cfg.Cluster.Partitions(ctx, topic); err != nil {
			return fmt.Errorf("starting the labeler: %w", err)
		}
	}
	if l.partitions, err = l.cfg.Cluster.Partitions(ctx, schemas.TopicExamples); err != nil {
		return fmt.Errorf("starting the labeler: %w", err)
	}
	if l.cfg.StateDir == "" {
		dir, done, err := l.temporaryDir()
		if err != nil {
			return fmt.Errorf("starting the labeler: %w", err)
		}
		defer done()
		l.cfg.StateDir = dir
	} else if err := os.MkdirAll(l.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("starting the labeler: --label-state-dir: %w", err)
	}
	if err := l.checkTopics(ctx); err != nil {
		return fmt.Errorf("starting the labeler: %w", err)
	}
	l.cache = pebble.NewCache(cacheBytes)
	defer l.cache.Unref()
	l.positions = newPositions(l)
	defer l.positions.close()
	l.fs = &patientFS{FS: l.fs, ctx: ctx, log: l.log, failing: l.metrics.disk, first: firstDiskPause}
	inner, stop := context.WithCancel(ctx)
	defer stop()
	l.reading = newReading(l, inner)
	defer l.reading.wait()
	defer stop()
	return l.cfg.Cluster.Consume(ctx, kafka.GroupConfig{
		Group: l.cfg.Group, Reader: name, Topics: []string{schemas.TopicExamples},
		SessionTimeout: l.cfg.SessionTimeout,
		TopicsInterval: l.topicsInterval,
		OnAssigned: func(claims []*kafka.Claim) {
			l.mu.Lock()
			l.joined = true
			for _, c := range claims {
				l.starting[c.Partition] = true
			}
			l.mu.Unlock()
			l.report()
		},
	}, l.work)
}

// checkTopics warns of settings by which labels would be lost.
func (l *Labeler) checkTopics(ctx context.Context) error {
	return topics.Require(ctx, l.cfg.Cluster, l.log, l.cfg.Registerer, Requirements(l.cfg.Horizon, l.cfg.LabelDelay, l.cfg.ScoreInterval)...)
}

// Requirements is what a labeler with these settings asks of its topics.
func Requirements(horizon, delay, interval time.Duration) []topics.Requirement {
	horizon, delay = max(0, horizon), max(0, delay)
	interval = min(max(0, interval), horizon)
	return []topics.Requirement{
		topics.AtLeast(schemas.TopicScores, topics.CompactionLag, horizon+delay+interval,
			"outcomes find no score of the time of the decision, most of all those of customers who stayed"),
		topics.AtLeast(schemas.TopicOutcomes, topics.Retention, delay, "outcomes may be deleted before they are labelled"),
	}
}

// cacheBytes is the memory for what is read from disk, of all shards together.
const cacheBytes = 64 << 20

// note changes what readiness depends on.
func (l *Labeler) note(change func()) {
	l.mu.Lock()
	change()
	l.mu.Unlock()
	l.report()
}

// report reports readiness.
func (l *Labeler) report() {
	l.mu.Lock()
	defer l.mu.Unlock() // also so that the last report is the valid one
	switch {
	case !l.joined:
		l.cfg.Ready(name, false, "joining the consumer group "+l.cfg.Group)
	case len(l.refused) > 0:
		p := slices.Min(slices.Collect(maps.Keys(l.refused)))
		l.cfg.Ready(name, false, fmt.Sprintf("not labelling for partitions %v; %d: %s", slices.Sorted(maps.Keys(l.refused)), p, l.refused[p]))
	case len(l.starting) > 0:
		why := fmt.Sprintf("reading %s and %s for partitions %v", schemas.TopicScores, schemas.TopicOutcomes, slices.Sorted(maps.Keys(l.starting)))
		if len(l.again) > 0 {
			p := slices.Min(slices.Collect(maps.Keys(l.again)))
			why += fmt.Sprintf("; %d: %s", p, l.again[p])
		}
		l.cfg.Ready(name, false, why)
	default:
		l.cfg.Ready(name, true, "")
	}
}

// topicIDs tell the topics from others of the same names; "" where the broker
// knows no ids.
type topicIDs struct{ Examples, Scores, Outcomes string }

// errOtherTopics means that a topic is not the one any more that was read.
var errOtherTopics = errors.New("a topic was created anew")

// topicIDs returns the ids as they were some time ago at most.
func (l *Labeler) topicIDs(ctx context.Context, ago time.Duration) (ids topicIDs, err error) {
	l.idsMu.Lock()
	defer l.idsMu.Unlock()
	if now := l.cfg.Now(); l.idsAt.IsZero() || now.Sub(l.idsAt) >= ago {
		for topic, to := range map[string]*string{
			schemas.TopicExamples: &ids.Examples, schemas.TopicScores: &ids.Scores, schemas.TopicOutcomes: &ids.Outcomes,
		} {
			id, err := l.cfg.Cluster.TopicID(ctx, topic)
			if err != nil {
				return ids, fmt.Errorf("asking for the id of %s: %w", topic, err)
			}
			*to = id.String()
		}
		l.ids, l.idsAt = ids, now
	}
	return l.ids, nil
}
