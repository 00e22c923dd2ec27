package engine

import (
	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/schemas"
)

// Walk is a pass over all customers that makes new scores of some. It can be
// left at any time and gone on with after events were applied: what it did is
// in the table, so a walk that was cut short and begun anew goes on with those
// that are left.
type Walk struct {
	engine *Engine
	// rescore makes a new score of a customer in the engine, or reports that
	// none is called for.
	rescore func(customers.Record) bool
	at      customers.Cursor
	done    bool
}

// Done reports whether all customers were looked at.
func (w *Walk) Done() bool { return w.done }

// Next returns the next score. It is nil when the walk is done, and when as many
// customers as *look were looked at, which it counts down.
func (w *Walk) Next(look *int) *schemas.ChurnScore {
	for !w.done && *look > 0 {
		record := w.engine.table.Next(&w.at)
		if record == nil {
			w.done = true
			break
		}
		*look--
		if w.rescore(record) {
			return &w.engine.score
		}
	}
	return nil
}

// Rescore switches to a model and returns a walk over new scores of the
// customers whose latest score is of another version. They rest on the same
// events and speak of the same moments as those before.
func (e *Engine) Rescore(m Model) *Walk {
	e.Use(m)
	return &Walk{engine: e, rescore: func(record customers.Record) bool {
		if record.ModelVersion() == e.model.Version {
			return false
		}
		e.again(record, schemas.TriggerModel)
		return true
	}}
}

// Tick returns a walk over new scores of the customers in whom time alone has
// changed something until a moment, in milliseconds since 1970 UTC. They speak
// of that moment. A customer whose latest score speaks of it or of a later one
// is left alone. Without features that depend on time nobody is visited.
func (e *Engine) Tick(now int64) *Walk {
	if e.cfg.Passing == nil {
		return &Walk{engine: e, done: true}
	}
	return &Walk{engine: e, rescore: func(record customers.Record) bool {
		if record.AsOf() >= now {
			return false
		}
		s := e.recall(record)
		if !e.cfg.Passing(s, now) {
			return false
		}
		e.rounding.apply(s.Attributes)
		s.AsOf, s.Trigger, s.Previous = now, schemas.TriggerTime, s.Probability
		e.complete(s)
		return true
	}}
}
