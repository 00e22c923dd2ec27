// Package simulator publishes customer events without end: new customers in the
// likeness of a population, small changes to those it has made, and what became
// of each. It knows features by their specification only.
package simulator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/producers/pace"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// Source is the source of the simulator's events and outcomes.
const Source = "simulator"

const (
	defaultFollowUpShare = 0.3
	defaultActive        = 50_000
)

// eventNamespace is what event ids are derived in.
var eventNamespace = uuid.MustParse("5b1f8a52-7c0e-5d0b-8d3c-64b1c2e9f0a7")

// Config says whom to simulate and how.
type Config struct {
	// Cluster holds the topics. Both have to exist.
	Cluster *kafka.Cluster
	// Codec, registered.
	Codec *schemas.Codec
	// Population is what customers are drawn from; all with attributes of
	// Codec's set.
	Population []schemas.ChurnOutcome
	// Rate is in events per second; 0 means as fast as possible.
	Rate float64
	// OutcomeDelay is the time from a customer's first event to its outcome, which
	// says whether the customer has left by then. Those who have, have no events
	// from then on.
	OutcomeDelay time.Duration
	// FollowUpShare is the share of events that are about customers seen
	// before. 0 means 0.3; negative means none.
	FollowUpShare float64
	// Active is how many customers are remembered for follow-up events, about
	// 300 bytes each; 0 means 50,000.
	Active int
	// Drift changes what makes customers leave, counted from the first event if
	// nothing has started it before; nil is no change.
	Drift *pace.Drift
	// Seed makes the draws reproducible, but for the ids; 0 means different
	// ones in each run.
	Seed int64
	// Logger receives starts and ends. Default none.
	Logger *slog.Logger
	// Registerer receives the metrics. Default none.
	Registerer prometheus.Registerer
}

// Simulator publishes events of one run. Outcomes that are due after it stops
// are never sent: those customers' fate stays unknown.
type Simulator struct {
	cfg        Config
	publisher  *pace.Publisher
	population *population
	rand       *rand.Rand

	run       string    // in the ids of this run's customers
	namespace uuid.UUID // of this run's events
	customers int64     // made so far
	events    int64     // made so far
	active    []customer
	outcome   schemas.ChurnOutcome
}

// customer is one that may have further events.
type customer struct {
	id       string
	values   scoring.Vector
	leavesAt int64
}

// New checks the configuration and returns a simulator with a run id of its
// own. It does no I/O.
func New(cfg Config) (*Simulator, error) {
	if cfg.Cluster == nil {
		return nil, errors.New("simulator: no cluster")
	}
	return newSimulator(cfg, cfg.Cluster.NewProducer(kafka.ProducerConfig{}))
}

func newSimulator(cfg Config, producer pace.Producer) (*Simulator, error) {
	if cfg.Codec == nil {
		return nil, errors.New("simulator: no codec")
	}
	if cfg.FollowUpShare == 0 {
		cfg.FollowUpShare = defaultFollowUpShare
	}
	if cfg.FollowUpShare > 1 || math.IsNaN(cfg.FollowUpShare) {
		return nil, fmt.Errorf("simulator: follow-up share %v is above 1", cfg.FollowUpShare)
	}
	if cfg.Active <= 0 {
		cfg.Active = defaultActive
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Int64()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	population, err := newPopulation(cfg.Codec.Set().Spec(), cfg.Population)
	if err != nil {
		return nil, fmt.Errorf("simulator: %w", err)
	}
	publisher := pace.NewPublisher(producer, cfg.Codec, cfg.Registerer)
	run := uuid.New()
	return &Simulator{
		cfg:        cfg,
		publisher:  publisher,
		population: population,
		rand:       rand.New(rand.NewPCG(uint64(cfg.Seed), 0)),
		// 58 random bits: short to read, and no two runs will ever share them.
		run:       strconv.FormatUint(binary.BigEndian.Uint64(run[8:])<<6>>6, 36),
		namespace: uuid.NewSHA1(eventNamespace, run[:]),
	}, nil
}

// Stats returns what was published so far. It is safe for concurrent use.
func (s *Simulator) Stats() pace.Stats { return s.publisher.Stats() }

// Run publishes until ctx is cancelled, and then returns nil.
func (s *Simulator) Run(ctx context.Context) error {
	s.cfg.Logger.Info("simulator starts", "run", s.run, "rate", s.cfg.Rate, "population", len(s.population.rows))
	err := s.publisher.Run(ctx, pace.Stream{Source: Source, Rate: s.cfg.Rate, Next: s.next})
	if ctx.Err() == nil {
		return fmt.Errorf("simulator: %w", err) // there is always a next event
	}
	stats := s.publisher.Stats()
	s.cfg.Logger.Info("simulator stops", "run", s.run, "events", stats.Events, "outcomes", stats.Outcomes)
	return nil
}

// next makes an event of a new customer or of one seen before.
func (s *Simulator) next(_ time.Time, e *schemas.CustomerEvent) (*schemas.ChurnOutcome, bool) {
	s.cfg.Drift.Start(e.OccurredAt)
	s.events++
	event := uuid.NewSHA1(s.namespace, binary.BigEndian.AppendUint64(nil, uint64(s.events)))
	e.EventID = append(e.EventID[:0], event.String()...)

	if s.rand.Float64() < s.cfg.FollowUpShare {
		if c := s.someone(e.OccurredAt); c != nil && s.population.followUp(s.rand, c.values, e.Changes, e.Increments) {
			e.CustomerID = append(e.CustomerID[:0], c.id...)
			return nil, true
		}
	}
	return s.newcomer(e), true
}

// newcomer makes the first event of a new customer, and the outcome.
func (s *Simulator) newcomer(e *schemas.CustomerEvent) *schemas.ChurnOutcome {
	s.customers++
	c := customer{
		id:       "S-" + s.run + "-" + strconv.FormatInt(s.customers, 10),
		leavesAt: math.MaxInt64,
	}
	replaced := -1
	if len(s.active) == s.cfg.Active {
		replaced = s.rand.IntN(len(s.active))
		c.values = s.active[replaced].values
	} else {
		c.values = make(scoring.Vector, len(e.Changes))
	}
	churned := s.population.draw(s.rand, c.values)

	dueAt := e.OccurredAt + s.cfg.OutcomeDelay.Milliseconds()
	churned = s.cfg.Drift.Churned(c.id, c.values, dueAt, churned)
	if churned {
		c.leavesAt = dueAt
	}
	if replaced >= 0 {
		s.active[replaced] = c
	} else {
		s.active = append(s.active, c)
	}
	e.CustomerID = append(e.CustomerID[:0], c.id...)
	copy(e.Changes, c.values)
	s.outcome = schemas.ChurnOutcome{CustomerID: c.id, Churned: churned, ObservedAt: dueAt, Source: Source}
	return &s.outcome
}

// someone draws an active customer, dropping those who have left by now; nil if
// nobody was found soon.
func (s *Simulator) someone(now int64) *customer {
	for range 16 {
		if len(s.active) == 0 {
			break
		}
		i := s.rand.IntN(len(s.active))
		if now < s.active[i].leavesAt {
			return &s.active[i]
		}
		last := len(s.active) - 1
		s.active[i] = s.active[last]
		s.active[last] = customer{}
		s.active = s.active[:last]
	}
	return nil
}
