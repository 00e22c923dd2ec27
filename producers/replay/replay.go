// Package replay publishes a table of labelled customers as if it happened now:
// a part as history to learn from, the rest as live events whose outcomes
// follow. What it published before, it reads from the topics when it starts, so
// it carries on where it was stopped or killed.
package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/producers/pace"
	"github.com/churnstream/churnstream/schemas"
)

// The sources of what is published.
const (
	SourceHistory = "history" // outcomes that carry their attributes
	SourceLive    = "replay"  // events, and their outcomes
)

const (
	defaultHistoryShare = 0.6
	historyBatch        = 1000 // rows between two calls of Progress
)

// eventNamespace makes event ids of customer ids: an event that was published
// twice after all is recognised as the same.
var eventNamespace = uuid.MustParse("0d8c6f0e-3a5b-5c53-9a47-1f1de4f9a6c2")

// Config says what to replay and how.
type Config struct {
	// Cluster holds the topics. Both have to exist.
	Cluster *kafka.Cluster
	// Codec, registered.
	Codec *schemas.Codec
	// Examples are the customers, all with attributes of Codec's set and with
	// ids of their own; see Load.
	Examples []schemas.ChurnOutcome
	// HistoryShare is the share of customers that is published as history.
	// 0 means 0.6; negative means none.
	HistoryShare float64
	// Rate is in live events per second; 0 means as fast as possible.
	Rate float64
	// OutcomeDelay is the time from a live customer's event to its outcome.
	OutcomeDelay time.Duration
	// Drift changes what makes live customers leave, counted from the first live
	// event on the topic; nil is no change.
	Drift *pace.Drift
	// Seed selects which customers are history, and the order of the others.
	Seed int64
	// BeforeLive, if set, is called between history and live events, which
	// begin when it returns nil.
	BeforeLive func(ctx context.Context) error
	// Progress, if set, is called with how many of all records are on the topics: once
	// the topics are read, then after each batch. It must not block.
	Progress func(done, total int)
	// Logger receives starts and ends. Default none.
	Logger *slog.Logger
	// Registerer receives the metrics. Default none.
	Registerer prometheus.Registerer
}

// Stats counts what this process has published, and how far the whole table
// is, with what earlier runs have published. The totals are 0 until the topics
// have been read.
type Stats struct {
	History  int64 // labelled examples
	Events   int64 // live events
	Outcomes int64 // outcomes of live customers

	HistoryDone, HistoryTotal int64
	LiveDone, LiveTotal       int64 // by event
}

// Replay publishes one table once.
type Replay struct {
	cfg       Config
	topics    tailer
	publisher *pace.Publisher
	order     []int          // positions in Examples, shuffled
	position  map[string]int // of a customer id in Examples
	history   atomic.Int64

	// Sizes of the two parts, and what of them this run has to publish.
	historyTotal, historyLeft, liveTotal, liveLeft atomic.Int64
}

// New checks the configuration and returns a replay. It does no I/O.
func New(cfg Config) (*Replay, error) {
	if cfg.Cluster == nil {
		return nil, errors.New("replay: no cluster")
	}
	return newReplay(cfg, cfg.Cluster, cfg.Cluster.NewProducer(kafka.ProducerConfig{}))
}

func newReplay(cfg Config, topics tailer, producer pace.Producer) (*Replay, error) {
	if cfg.Codec == nil {
		return nil, errors.New("replay: no codec")
	}
	if cfg.HistoryShare == 0 {
		cfg.HistoryShare = defaultHistoryShare
	}
	if cfg.HistoryShare > 1 || math.IsNaN(cfg.HistoryShare) {
		return nil, fmt.Errorf("replay: history share %v is above 1", cfg.HistoryShare)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Replay{
		cfg:       cfg,
		topics:    topics,
		publisher: pace.NewPublisher(producer, cfg.Codec, cfg.Registerer),
		order:     make([]int, len(cfg.Examples)),
		position:  make(map[string]int, len(cfg.Examples)),
	}
	features := cfg.Codec.Set().Spec().Len()
	rank := make([]uint64, len(cfg.Examples))
	for i := range cfg.Examples {
		e := &cfg.Examples[i]
		if len(e.Attributes) != features {
			return nil, fmt.Errorf("replay: example %d has %d attributes, not the %d of the schema", i, len(e.Attributes), features)
		}
		if _, twice := r.position[e.CustomerID]; twice || e.CustomerID == "" {
			return nil, fmt.Errorf("replay: example %d has no customer id of its own", i)
		}
		r.position[e.CustomerID] = i
		r.order[i], rank[i] = i, pace.Hash(cfg.Seed, "order", e.CustomerID)
	}
	slices.SortStableFunc(r.order, func(a, b int) int {
		if rank[a] < rank[b] {
			return -1
		}
		if rank[a] > rank[b] {
			return 1
		}
		return 0
	})
	return r, nil
}

// Stats returns what was published so far. It is safe for concurrent use.
func (r *Replay) Stats() Stats {
	s, history := r.publisher.Stats(), r.history.Load()
	historyTotal, liveTotal := r.historyTotal.Load(), r.liveTotal.Load()
	return Stats{
		History: history, Events: s.Events, Outcomes: max(s.Outcomes-history, 0),
		HistoryDone: historyTotal - r.historyLeft.Load() + history, HistoryTotal: historyTotal,
		LiveDone: liveTotal - r.liveLeft.Load() + s.Events, LiveTotal: liveTotal,
	}
}

// Run reads what is on the topics already and publishes the rest. It returns
// nil when all is published or ctx is cancelled.
func (r *Replay) Run(ctx context.Context) error {
	err := r.run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	return nil
}

func (r *Replay) run(ctx context.Context) error {
	found, err := r.recover(ctx)
	if err != nil {
		return fmt.Errorf("reading what was published before: %w", err)
	}
	p := r.plan(found, time.Now())
	r.historyLeft.Store(int64(len(p.history)))
	r.liveLeft.Store(int64(len(p.live)))
	r.historyTotal.Store(int64(p.historyTotal))
	r.liveTotal.Store(int64(len(r.cfg.Examples) - p.historyTotal))
	total := p.done + len(p.history) + len(p.pending) + 2*len(p.live)
	report := func() {
		if r.cfg.Progress != nil {
			s := r.publisher.Stats()
			r.cfg.Progress(p.done+int(s.Events+s.Outcomes), total)
		}
	}
	r.cfg.Logger.Info("replay starts", "records", total, "published_before", p.done,
		"history", len(p.history), "live_customers", len(p.live), "outcomes_pending", len(p.pending))
	report()

	for batch := range slices.Chunk(p.history, historyBatch) {
		if err := r.publisher.Outcomes(ctx, batch); err != nil {
			return err
		}
		r.history.Add(int64(len(batch)))
		report()
	}
	if r.cfg.BeforeLive != nil {
		if err := r.cfg.BeforeLive(ctx); err != nil {
			return err
		}
	}
	live := p.live
	outcome := new(schemas.ChurnOutcome)
	err = r.publisher.Run(ctx, pace.Stream{
		Source:  SourceLive,
		Rate:    r.cfg.Rate,
		Pending: p.pending,
		Next: func(now time.Time, e *schemas.CustomerEvent) (*schemas.ChurnOutcome, bool) {
			if len(live) == 0 {
				return nil, false
			}
			example := &r.cfg.Examples[live[0]]
			live = live[1:]
			r.cfg.Drift.Start(e.OccurredAt)
			e.EventID = append(e.EventID[:0], eventID(example.CustomerID)...)
			e.CustomerID = append(e.CustomerID[:0], example.CustomerID...)
			copy(e.Changes, example.Attributes)
			*outcome = r.outcome(example, e.OccurredAt)
			return outcome, true
		},
		Published: report,
	})
	if err != nil {
		return err
	}
	s := r.Stats()
	r.cfg.Logger.Info("replay is done", "history", s.History, "events", s.Events, "outcomes", s.Outcomes)
	return nil
}

// outcome returns the outcome that follows a live customer's event. It depends
// on times that are on the topics, hence is the same after a restart.
func (r *Replay) outcome(example *schemas.ChurnOutcome, eventAt int64) schemas.ChurnOutcome {
	observedAt := eventAt + r.cfg.OutcomeDelay.Milliseconds()
	return schemas.ChurnOutcome{
		CustomerID: example.CustomerID,
		Churned:    r.cfg.Drift.Churned(example.CustomerID, example.Attributes, observedAt, example.Churned),
		ObservedAt: observedAt,
		Source:     SourceLive,
	}
}

func eventID(customerID string) string {
	return uuid.NewSHA1(eventNamespace, []byte(customerID)).String()
}
