package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
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

	// Window is the number of newest examples, by the time they were observed,
	// that the figures of a model version are computed over.
	Window int `name:"window" help:"Newest examples, by the time they were observed, that the figures of a model version are computed over." default:"5000" unit:"examples" min:"1"`
	// DriftWindow is the number of customers, those with the newest scores, that
	// drift is measured on, and what to expect before there are labels. Each counts
	// once.
	DriftWindow int `name:"drift-window" help:"Customers with the newest scores that drift is measured on." default:"5000" unit:"customers" min:"1" advanced:""`
	// SegmentLevels and Segments bound the segments that the champion's figures
	// are given for.
	SegmentLevels int `name:"segment-levels" help:"Most frequent levels of a categorical feature that the champion's figures are given for." default:"10" unit:"levels" min:"1" advanced:""`
	Segments      int `name:"segments" help:"Levels of all features together that the champion's figures are given for." default:"200" unit:"levels" min:"1" advanced:""`
	// MoneyFeature says what a customer pays.
	MoneyFeature string `name:"money-feature" help:"Feature that says what a customer pays, for the money at risk; 'none' for none. Default: the first actionable number whose unit is a currency (ISO 4217)." advanced:""`
}

// Monitor measures models. Its state is rebuilt from Kafka by Run.
type Monitor struct {
	cfg     Config
	log     *slog.Logger
	spec    *scoring.Spec
	moneyOf int // position of Config.MoneyFeature, −1 for none
	now     func() time.Time
	metrics *metrics
	intake  *intake.Intake
	owners  *intake.Owners
	// topicsInterval is how often to look for new partitions, refillInterval how
	// often to look whether a window lacks something.
	topicsInterval, refillInterval time.Duration

	// What the topics say, as far as they have been read.
	evidence  *evidence
	customers *customers
	caughtUp  atomic.Bool
	computer  computer
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
	moneyOf, err := moneyFeature(spec, cfg.MoneyFeature)
	if err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	m := &Monitor{
		cfg:            cfg,
		log:            cfg.Logger,
		spec:           spec,
		moneyOf:        moneyOf,
		now:            time.Now,
		topicsInterval: 5 * time.Second,
		refillInterval: time.Minute,
		intake:         intake.New(intake.Config{Name: "monitor intake", Ready: cfg.Ready, Logger: cfg.Logger, Registerer: cfg.Registerer}),
		evidence:       newEvidence(cfg.Window),
		customers:      newCustomers(cfg.DriftWindow, moneyOf),
	}
	m.computer.monitor, m.computer.every = m, computeEvery
	m.owners = intake.NewOwners(m.intake, cfg.Cluster, cfg.Codec)
	m.cfg.Ready(name, false, "reading "+schemas.TopicExamples+", "+schemas.TopicScores+" and "+schemas.TopicModels)
	m.metrics = newMetrics(m)
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(m.metrics); err != nil {
			return nil, fmt.Errorf("registering the monitor's metrics: %w", err)
		}
	}
	return m, nil
}

// Run reads examples and scores from their start and follows them until ctx
// ends, and then returns nil. It waits while the cluster or the registry is
// down. It fails when a topic does not exist. A monitor runs once.
func (m *Monitor) Run(ctx context.Context) error {
	err := m.run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (m *Monitor) run(ctx context.Context) error {
	started := m.now()
	group, ctx := errgroup.WithContext(ctx)
	var read sync.WaitGroup // of the topics, for the first time
	for _, r := range []reading{m.readExamples(), m.readScores()} {
		read.Add(1)
		group.Go(func() error { return m.follow(ctx, r, read.Done) })
	}
	group.Go(func() error {
		topics := make(chan struct{})
		go func() { read.Wait(); close(topics) }()
		for _, done := range []<-chan struct{}{topics, m.cfg.Models.CaughtUp()} {
			select {
			case <-done:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		m.evidence.begin()
		m.caughtUp.Store(true)
		m.cfg.Ready(name, true, "")
		s := m.Stats()
		m.log.Info("the monitor has read the history", "took", m.now().Sub(started).Round(time.Millisecond),
			"examples", s.Examples, "customers", s.Customers)
		return nil
	})
	return group.Wait()
}

// handler is what a *kafka.Cluster's Tail calls.
type handler func(ctx context.Context, records []kafka.Record) error

// reading is how a topic is read.
type reading struct {
	topic  string
	handle handler
	// lacks reports whether so much was removed that a window lacks what there
	// was once no room for. refill has it filled up by the handler, which is
	// given all records once more, and must be called when that is done.
	lacks  func() bool
	refill func() (again handler, done func())
}

func (m *Monitor) readExamples() reading {
	topic := intake.Examples(m.cfg.Codec)
	topic.Poison = m.passOver()
	v := m.evidence
	return reading{
		topic: schemas.TopicExamples,
		handle: intake.Handle(m.intake, topic, func(_ context.Context, r *kafka.Record, e *schemas.CustomerExamples) error {
			if e == nil {
				v.erase(r.Key)
			} else {
				v.take(e)
			}
			return nil
		}),
		lacks: v.lacks,
		refill: func() (handler, func()) {
			again := intake.Examples(m.cfg.Codec)
			again.Poison = m.intake.PassOver(nil)
			return intake.Handle(m.intake, again, func(_ context.Context, _ *kafka.Record, e *schemas.CustomerExamples) error {
				if e != nil {
					v.offer(e)
				}
				return nil
			}), v.refill()
		},
	}
}

func (m *Monitor) readScores() reading {
	topic := intake.Scores(m.cfg.Codec, m.owners)
	topic.Poison = m.passOver()
	c := m.customers
	return reading{
		topic: schemas.TopicScores,
		handle: intake.Handle(m.intake, topic, func(_ context.Context, r *kafka.Record, s *schemas.ChurnScore) error {
			if s == nil {
				c.erase(r.Key, r.Partition, r.Time)
			} else {
				c.take(s)
			}
			return nil
		}),
		lacks: c.lacks,
		refill: func() (handler, func()) {
			again := intake.Scores(m.cfg.Codec, intake.NewOwners(m.intake, m.cfg.Cluster, m.cfg.Codec))
			again.Poison = m.intake.PassOver(nil)
			return intake.Handle(m.intake, again, func(_ context.Context, _ *kafka.Record, s *schemas.ChurnScore) error {
				if s != nil {
					c.offer(s)
				}
				return nil
			}), c.refill()
		},
	}
}

func (m *Monitor) passOver() intake.Policy {
	return m.intake.PassOver(func(topic string, reason schemas.Reason) {
		m.metrics.skipped.WithLabelValues(topic, string(reason)).Inc()
	})
}

// follow reads a topic from its start until ctx ends, and once more whenever a
// window lacks something. caughtUp is called when what was there at the start has
// been read and nothing is lacking.
func (m *Monitor) follow(ctx context.Context, r reading, caughtUp func()) error {
	group, ctx := errgroup.WithContext(ctx)
	read := make(chan struct{})
	group.Go(func() error {
		err := m.cfg.Cluster.Tail(ctx, kafka.TailConfig{
			Topics: []string{r.topic}, Reader: name, TopicsInterval: m.topicsInterval,
			OnCaughtUp: func() { close(read) },
		}, r.handle)
		if err != nil {
			return fmt.Errorf("following %s: %w", r.topic, err)
		}
		return nil
	})
	group.Go(func() error {
		select {
		case <-read:
		case <-ctx.Done():
			return nil
		}
		ticker := time.NewTicker(m.refillInterval)
		defer ticker.Stop()
		for first := true; ; first = false {
			if r.lacks() {
				if err := m.refill(ctx, r); err != nil {
					return err
				}
			}
			if first {
				caughtUp()
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return group.Wait()
}

// refill reads a topic once more, to its end.
func (m *Monitor) refill(ctx context.Context, r reading) error {
	m.metrics.refills.WithLabelValues(r.topic).Inc()
	m.log.Info("reading a topic once more, since more was erased than the windows had in reserve", "topic", r.topic)
	handle, done := r.refill()
	defer done()
	if err := m.cfg.Cluster.Tail(ctx, kafka.TailConfig{Topics: []string{r.topic}, Reader: name + " refill", ToEnd: true}, handle); err != nil {
		return fmt.Errorf("reading %s once more: %w", r.topic, err)
	}
	return nil
}

// Stats is what the monitor knows at a moment.
type Stats struct {
	// CaughtUp reports whether the topics have been read.
	CaughtUp bool
	// Examples counts those with a score, whatever its model version.
	Examples int64
	// Accuracy is the share of right predictions among them; 0 without any.
	Accuracy float64
	// Customers counts those with a score.
	Customers int64
}

// Stats returns what the monitor knows now; while the topics are being read for
// the first time, what it has come to so far.
func (m *Monitor) Stats() Stats {
	s := Stats{CaughtUp: m.caughtUp.Load(), Customers: m.customers.count()}
	total := m.evidence.totals()
	if s.Examples = total.examples; s.Examples > 0 {
		s.Accuracy = float64(total.right) / float64(total.examples)
	}
	return s
}
