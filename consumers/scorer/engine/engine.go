// Package engine turns customer events into churn scores, in memory: events,
// model versions and moments go in, scores come out. It does no I/O, reads no
// clock and starts no goroutine, so the same input gives the same scores.
package engine

import (
	"cmp"
	"math"

	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// Model is a model version to score with. It must not be changed.
type Model struct {
	Version    int64
	Predictor  *scoring.Predictor
	Thresholds scoring.Thresholds
}

// Config says what scores an Engine makes. Set is required.
type Config struct {
	// Set holds the features and their levels.
	Set *schemas.Set
	// Partition is that of the events.
	Partition int
	// Explain says which explanations scores carry.
	Explain Explain
	// Reasons is how many features a score explains, those of greatest
	// weight; negative means all, 0 none.
	Reasons int
	// BestChange adds, for customers at high risk, the single actionable
	// change after which the model would predict the lowest probability.
	BestChange bool
	// MaxLevels is how many levels of a categorical feature the customers may
	// have among them. An event that would bring more is not applied. It must
	// be the same wherever the partition may go. Default scoring.MaxLevels.
	MaxLevels int
	// Passing computes the features of a customer that depend on time as they
	// are at a moment, which is later than the score's AsOf, and reports
	// whether any has changed. It may change the score's Attributes only. Nil
	// means that no feature depends on time.
	Passing func(s *schemas.ChurnScore, at int64) bool
}

// Engine scores the customers of one partition. It is not safe for concurrent
// use.
//
// The scores it returns are complete but for ScoredAt, and are in its table
// already. A score is valid until the next call.
type Engine struct {
	cfg      Config
	table    *customers.Table
	model    Model
	space    *scoring.Workspace
	rounding rounding

	// One customer at a time is unpacked, into score. The attributes of score
	// and of customer are in the same memory.
	score    schemas.ChurnScore
	customer scoring.Customer
	change   scoring.Change
	nothing  scoring.Vector
	set      scoring.Vector // the changes of an event with levels of its own
	ids      []byte         // of the customer and the event of a score that rests on no new event

	lime, shap []float64
	order      []int
}

// New returns an engine that goes on from what a table holds, and keeps it up
// to date. The table must have the features of the set. The engine needs a
// model, by Use or Rescore, before it can score.
func New(cfg Config, table *customers.Table) *Engine {
	n := cfg.Set.Spec().Len()
	cfg.MaxLevels = cmp.Or(cfg.MaxLevels, scoring.MaxLevels)
	return &Engine{
		cfg: cfg, table: table, rounding: newRounding(cfg.Set),
		nothing: scoring.NewVector(n), lime: make([]float64, n), shap: make([]float64, n),
	}
}

// Use switches to a model. Scores there are stay as they are.
func (e *Engine) Use(m Model) {
	e.model = m
	e.table.Renumber()
	e.space = m.Predictor.NewWorkspace()
}

// Applied says what Apply did with an event.
type Applied struct {
	// Score is nil for an event without effect: a duplicate, or one that is
	// refused.
	Score *schemas.ChurnScore
	// TooManyLevels refuses the event: with it the customers would have more
	// than Config.MaxLevels levels of Feature.
	TooManyLevels bool
	Feature       int
	// LateAttributes and BaselessIncrements are those of scoring.Applied.
	LateAttributes, BaselessIncrements int
	// Saturated counts attributes to which more was added than their type, or
	// scoring.MaxNumber, holds.
	Saturated int
}

// Apply applies the event at an offset of the partition and scores its
// customer. The byte slices of the score are those of the event.
func (e *Engine) Apply(ev *schemas.CustomerEvent, offset int64) Applied {
	s := &e.score
	record := e.table.Get(ev.CustomerID)
	known := record != nil
	if known {
		e.table.Unpack(record, s)
		e.customer.Restore(s.Attributes, s.OccurredAt, s.AttributeAges, s.RecentEvents, s.Probability)
	} else {
		e.customer.Restore(e.nothing, 0, nil, nil, scoring.Missing)
		s.AsOf = math.MinInt64
		s.Levels = s.Levels[:0]
	}
	e.change = scoring.Change{OccurredAt: ev.OccurredAt, Set: e.changes(ev), Add: ev.Increments}
	if len(ev.EventID) > 0 { // those without an id are not the same event
		e.change.EventHash = scoring.HashEvent(ev.EventID)
	}
	did := e.customer.Apply(&e.change)
	applied := Applied{LateAttributes: did.LateAttributes, BaselessIncrements: did.BaselessIncrements, Saturated: did.Saturated}
	// From here on they are in the same memory, for the next customer too.
	s.Attributes = e.customer.Values
	if !did.Applied {
		return applied
	}
	applied.Saturated += e.rounding.apply(s.Attributes)
	if known && s.SourcePartition != int32(e.cfg.Partition) {
		// The customer has moved here. Offsets do not tell which of two scores is
		// the later one then, so their moments have to.
		s.AsOf++
	}
	s.CustomerID, s.EventID, s.OccurredAt = ev.CustomerID, ev.EventID, ev.OccurredAt
	s.SourcePartition, s.SourceOffset = int32(e.cfg.Partition), offset
	s.AsOf = max(s.AsOf, ev.OccurredAt)
	s.Trigger = schemas.TriggerEvent
	s.Previous = e.customer.Probability
	s.AttributeAges = e.customer.Ages(s.AttributeAges[:0], ev.OccurredAt)
	s.RecentEvents = e.customer.RecentEvents(s.RecentEvents[:0])
	e.predict(s)
	if full, ok := e.table.Accept(s, e.cfg.MaxLevels); !ok {
		return Applied{TooManyLevels: true, Feature: full}
	}
	applied.Score = s
	return applied
}

// changes returns what an event changes, with its levels among those of the
// score in hand.
func (e *Engine) changes(ev *schemas.CustomerEvent) scoring.Vector {
	if len(ev.Levels) == 0 {
		return ev.Changes
	}
	e.set = append(e.set[:0], ev.Changes...)
	for i, x := range e.set {
		if e.cfg.Set.Spec().Feature(i).Kind == scoring.Categorical {
			if level, ok := ev.Levels.At(x); ok {
				e.set[i] = e.score.Levels.Add(level)
			}
		}
	}
	return e.set
}

// Erase forgets a customer and reports whether there was one.
func (e *Engine) Erase(id []byte) bool { return e.table.Remove(id) }

// Repair returns the latest score of a customer once more, under the model in
// use; nil if there is no such customer. It is the same score unless it was of
// another model version.
func (e *Engine) Repair(id []byte) *schemas.ChurnScore {
	record := e.table.Get(id)
	if record == nil {
		return nil
	}
	e.again(record, schemas.TriggerRepair)
	return &e.score
}

// again scores a customer again on what the latest score rests on.
func (e *Engine) again(record customers.Record, why schemas.Trigger) {
	s := e.recall(record)
	s.Previous = s.Probability
	if s.ModelVersion == e.model.Version {
		s.Previous = scoring.Missing // it is the same score; the one before is not known any more
	}
	s.Trigger = why
	e.complete(s)
}

// recall unpacks a record into the score in hand, which then is independent of
// the table.
func (e *Engine) recall(record customers.Record) *schemas.ChurnScore {
	s := &e.score
	e.table.Unpack(record, s)
	n := len(s.CustomerID)
	e.ids = append(append(e.ids[:0], s.CustomerID...), s.EventID...)
	s.CustomerID, s.EventID = e.ids[:n:n], e.ids[n:]
	return s
}

// complete computes what follows from a score's customer and event, and keeps
// the score.
func (e *Engine) complete(s *schemas.ChurnScore) {
	e.predict(s)
	e.table.Put(s)
}

// predict computes what follows from a score's customer and event.
func (e *Engine) predict(s *schemas.ChurnScore) {
	m, x := &e.model, s.Attributes
	s.ScoredAt = 0
	s.ModelVersion = m.Version
	s.Probability = m.Predictor.Probability(x)
	s.Risk = m.Thresholds.Risk(s.Probability)
	s.ExpectedProbability = m.Predictor.ExpectedProbability()
	e.explain(s)
	s.Missing = m.Predictor.Missing(s.Missing[:0], x)
	s.HasBestChange = false
	if e.cfg.BestChange && s.Risk == scoring.RiskHigh {
		b := &s.BestChange
		b.Feature, b.Value, b.Probability, s.HasBestChange = m.Predictor.BestChange(x, e.space)
	}
}
