package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/settings"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// name names the monitor in reports and metrics.
const name = "monitor"

// Config says what a Monitor measures. The zero value of a setting is its
// default.
type Config struct {
	role.Dependencies `kong:"-"`

	// LeadTime is how long before an outcome was observed a score must have
	// been in force to count.
	LeadTime time.Duration `name:"lead-time" help:"How long before an outcome the score must have been in force to count." default:"0s"`
	// Window is the number of latest outcomes of each model version that
	// accuracy and the other figures are computed over.
	Window int `name:"window" help:"Latest outcomes per model that accuracy and the other figures are computed over." default:"5000" unit:"outcomes"`
	// DriftWindow is the number of latest scores that drift is measured on.
	// They are scores, not customers: a customer with many events counts
	// often.
	DriftWindow int `name:"drift-window" help:"Latest scores that drift is measured on." default:"5000" unit:"scores" advanced:""`
	// History is the number of latest scores kept for each customer. With a
	// long LeadTime it must cover the events of that time.
	History int `name:"score-history" help:"Latest scores kept per customer; with a long --lead-time they must cover it." default:"8" unit:"scores"`
	// Grace is how long an outcome waits for a score.
	Grace time.Duration `name:"outcome-grace" help:"How long an outcome waits for a score." default:"1m" advanced:""`
	// MaxPending is how many outcomes of a partition may wait for a score; of
	// more, the oldest count as unmatched.
	MaxPending int `name:"max-pending" help:"Outcomes of a partition that may wait for a score." default:"100000" unit:"outcomes" advanced:""`
}

// Monitor measures models. Its state is rebuilt from Kafka by Run.
type Monitor struct {
	cfg     Config
	log     *slog.Logger
	spec    *scoring.Spec
	now     func() time.Time
	metrics *metrics
	intake  *intake.Intake
	owners  *intake.Owners
	// customers are what the partitions have in common.
	customers *customers
	// topicsInterval is how often to look for new partitions.
	topicsInterval time.Duration
	differing      bool // that the topics differ is reported

	mu       sync.Mutex // guards what follows
	versions map[int64]*versionCounters
	windows  windows
	recent   *recentScores
	total    totals
	// What computed returned last, and when.
	computedAt    time.Time
	computedStats []VersionStats
	computedDrift drift
	computedFor   *models.Version
}

type totals struct {
	joined, correct, unmatched, historical, duplicates, pending int64
}

// versionCounters are the counters of a model version by prediction and
// outcome.
type versionCounters [2][2]prometheus.Counter

// computeEvery is the shortest time between two computations of the figures
// over windows, however often they are scraped.
const computeEvery = time.Second

// Stats is what the monitor knows at a moment.
type Stats struct {
	// CaughtUp reports whether the history has been read.
	CaughtUp bool
	// Outcomes counts those joined with a score, whatever its model version.
	Outcomes int64
	// Accuracy is the share of right predictions among them; 0 without any.
	Accuracy float64
	// Unmatched counts outcomes without a score in force, Pending those that
	// still wait for one, Historical those with own attributes and no score,
	// Duplicates those that came again.
	Unmatched, Pending, Historical, Duplicates int64
	// Versions holds the newest model versions that have outcomes, newest
	// first.
	Versions []VersionStats
}

// New returns a monitor that does nothing until Run runs. It fails when cfg is
// incomplete or the metrics cannot be registered.
func New(cfg Config) (*Monitor, error) {
	if err := cfg.Dependencies.Complete(); err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	if err := settings.Complete(&cfg); err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	spec := cfg.Codec.Set().Spec()
	m := &Monitor{
		cfg:            cfg,
		log:            cfg.Logger,
		spec:           spec,
		now:            time.Now,
		versions:       make(map[int64]*versionCounters),
		customers:      newCustomers(),
		topicsInterval: 5 * time.Second,
		intake:         intake.New(intake.Config{Name: "monitor intake", Ready: cfg.Ready, Logger: cfg.Logger, Registerer: cfg.Registerer}),
		windows:        windows{limit: cfg.Window, byVersion: make(map[int64]*window)},
		recent:         newRecentScores(cfg.DriftWindow, cfg.Codec.Set().Vocabulary()),
	}
	m.owners = intake.NewOwners(m.intake, cfg.Cluster, cfg.Codec)
	m.cfg.Ready(name, false, "reading the history of "+schemas.TopicScores+" and "+schemas.TopicOutcomes)
	m.metrics = newMetrics(m)
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(m.metrics); err != nil {
			return nil, fmt.Errorf("registering the monitor's metrics: %w", err)
		}
	}
	return m, nil
}

// Run reads scores and outcomes from their start and follows them until ctx
// ends, and then returns nil. It waits while the cluster or the registry is
// down, and while the topics differ in their number of partitions. It fails when
// a topic does not exist. A monitor runs once.
func (m *Monitor) Run(ctx context.Context) error {
	err := m.run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (m *Monitor) run(ctx context.Context) error {
	started := m.now()
	partitions, err := m.open(ctx)
	if err != nil {
		return err
	}
	var lagging atomic.Int64
	lagging.Store(int64(len(partitions)))
	caughtUp := func() {
		if lagging.Add(-1) > 0 {
			return
		}
		m.metrics.caughtUp.Store(true)
		m.cfg.Ready(name, true, "")
		s := m.Stats()
		m.log.Info("the monitor has read the history", "took", m.now().Sub(started).Round(time.Millisecond),
			"outcomes", s.Outcomes, "unmatched", s.Unmatched, "historical", s.Historical)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range partitions {
		group.Go(func() error { return p.run(ctx, caughtUp) })
	}
	group.Go(func() error { return m.grow(ctx, group, len(partitions)) })
	return group.Wait()
}

// open finds the partitions and where they end now. While the topics differ in
// their number of partitions, as when they are given more, it waits.
func (m *Monitor) open(ctx context.Context) ([]*partition, error) {
	for {
		scores, err := m.cfg.Cluster.Spans(ctx, schemas.TopicScores)
		if err != nil {
			return nil, fmt.Errorf("looking for partitions of %s: %w", schemas.TopicScores, err)
		}
		outcomes, err := m.cfg.Cluster.Spans(ctx, schemas.TopicOutcomes)
		if err != nil {
			return nil, fmt.Errorf("looking for partitions of %s: %w", schemas.TopicOutcomes, err)
		}
		if len(scores) != len(outcomes) {
			m.differ(len(scores), len(outcomes))
			if !retry.Sleep(ctx, m.topicsInterval) {
				return nil, ctx.Err()
			}
			continue
		}
		m.agree()
		partitions := make([]*partition, len(scores))
		for i := range partitions {
			partitions[i] = m.newPartition()
			both := kafka.NewTogether(2)
			partitions[i].scores = m.source(scores[i], scores[i].Start, scoresWait, both)
			partitions[i].outcome = m.source(outcomes[i], outcomes[i].Start, outcomesWait, both)
		}
		return partitions, nil
	}
}

// partitionsName is the name under which it is reported whether the topics have
// the same number of partitions.
const partitionsName = "monitor partitions"

// differ reports that they have not, agree that they have again.
func (m *Monitor) differ(scores, outcomes int) {
	m.differing = true
	why := fmt.Sprintf("%s has %d partitions and %s has %d; give them the same number with churnstream topics grow",
		schemas.TopicScores, scores, schemas.TopicOutcomes, outcomes)
	m.cfg.Ready(partitionsName, false, why)
	m.log.Warn("waiting for the topics to have the same number of partitions: " + why)
}

func (m *Monitor) agree() {
	if m.differing {
		m.differing = false
		m.cfg.Ready(partitionsName, true, "")
	}
}

// grow reads the partitions that both topics get beyond their first n.
func (m *Monitor) grow(ctx context.Context, group *errgroup.Group, n int) error {
	counts := map[string]int{schemas.TopicScores: n, schemas.TopicOutcomes: n}
	known := maps.Clone(counts)
	return m.cfg.Cluster.Growth(ctx, m.topicsInterval, known, func(topic string, partition int) error {
		counts[topic] = partition + 1
		scores, outcomes := counts[schemas.TopicScores], counts[schemas.TopicOutcomes]
		for ; n < min(scores, outcomes); n++ {
			p := m.newPartition()
			both := kafka.NewTogether(2)
			p.scores = m.source(kafka.Span{Topic: schemas.TopicScores, Partition: n}, -1, scoresWait, both)
			p.outcome = m.source(kafka.Span{Topic: schemas.TopicOutcomes, Partition: n}, -1, outcomesWait, both)
			group.Go(func() error { return p.run(ctx, func() {}) })
		}
		if scores == outcomes {
			m.agree()
		} else {
			m.differ(scores, outcomes)
		}
		return nil
	})
}

// source reads a partition from a start on. Whoever reads it also waits for the
// other source of both.
func (m *Monitor) source(s kafka.Span, start int64, wait time.Duration, both *kafka.Together) source {
	lag := m.metrics.lag.WithLabelValues(s.Topic, label(s.Partition))
	lag.Set(float64(s.End - s.Start))
	position := m.cfg.Cluster.Follow(name, s.Topic, s.Partition, start)
	position.Show(lag)
	position.Advance(start)
	return source{
		fetcher: m.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
			Topic: s.Topic, Partition: s.Partition, Offset: start, MaxWait: wait, Position: position, Together: both,
		}),
		end:      s.End,
		position: position,
	}
}

// scored takes a new score.
func (m *Monitor) scored(s *schemas.ChurnScore) {
	m.metrics.probability.Observe(s.Probability)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.recent.add(s)
}

func (m *Monitor) joined(o *outcome, s score) {
	m.metrics.delay.Observe(float64(o.observedAt-s.asOf) / 1000)
	predicted := s.probability >= 0.5
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total.joined++
	if predicted == o.churned {
		m.total.correct++
	}
	c := m.versions[s.version]
	if c == nil {
		c = m.newVersion(s.version)
	}
	c[index(predicted)][index(o.churned)].Inc()
	m.windows.add(s.version, s.probability, o.churned)
}

// newVersion makes the counters of a version, all of them, so that rates are
// defined from the first outcome on.
func (m *Monitor) newVersion(version int64) *versionCounters {
	c := new(versionCounters)
	text := [2]string{"stay", "churn"}
	for predicted := range c {
		for actual := range c[predicted] {
			c[predicted][actual] = m.metrics.outcomes.WithLabelValues(
				strconv.FormatInt(version, 10), text[predicted], text[actual])
		}
	}
	m.versions[version] = c
	return c
}

func index(churn bool) int {
	if churn {
		return 1
	}
	return 0
}

func (m *Monitor) unmatched(_ *outcome, reason string) {
	m.metrics.unmatched.WithLabelValues(reason).Inc()
	m.count(func(t *totals) { t.unmatched++ })
}

func (m *Monitor) historical(*outcome) {
	m.metrics.historical.Inc()
	m.count(func(t *totals) { t.historical++ })
}

func (m *Monitor) duplicate(*outcome) {
	m.metrics.duplicates.Inc()
	m.count(func(t *totals) { t.duplicates++ })
}

func (m *Monitor) waiting(delta int) {
	m.metrics.pending.Add(float64(delta))
	m.count(func(t *totals) { t.pending += int64(delta) })
}

func (m *Monitor) count(what func(*totals)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	what(&m.total)
}

// computed returns the figures over windows, computed anew at most once a
// computeEvery.
func (m *Monitor) computed() ([]VersionStats, drift) {
	champion := m.cfg.Models.Champion()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if m.computedAt.IsZero() || now.Sub(m.computedAt) >= computeEvery || champion != m.computedFor {
		m.computedStats = m.windows.stats()
		var baseline []schemas.BaselineDistribution
		if champion != nil {
			baseline = champion.Baseline
		}
		m.computedDrift = m.recent.against(baseline)
		m.computedAt, m.computedFor = now, champion
	}
	return m.computedStats, m.computedDrift
}

// Stats returns what the monitor knows now; while the history is being read,
// what it has come to so far.
func (m *Monitor) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Stats{
		CaughtUp:   m.metrics.caughtUp.Load(),
		Outcomes:   m.total.joined,
		Unmatched:  m.total.unmatched,
		Pending:    m.total.pending,
		Historical: m.total.historical,
		Duplicates: m.total.duplicates,
		Versions:   m.windows.stats(),
	}
	if s.Outcomes > 0 {
		s.Accuracy = float64(m.total.correct) / float64(s.Outcomes)
	}
	return s
}
