package scorer

import (
	"time"

	"github.com/churnstream/churnstream/consumers/scorer/engine"
	"github.com/churnstream/churnstream/schemas"
)

// rescoring scores the customers again whose latest score is of another model
// version than the one in use, at the rate allowed.
type rescoring struct {
	*site
	walk  *engine.Walk // nil while nothing is due
	last  time.Time
	count int
}

// lookedAt bounds how many customers one step looks at to find those to score.
const lookedAt = 100_000

// begin starts over with a walk.
func (w *rescoring) begin(walk *engine.Walk) {
	w.walk, w.last, w.count = walk, w.cfg.Now(), 0
}

// step emits new scores of some more customers, as many as the rate allows since
// the last step, and returns how many. Which version a score is of is in the
// state, so a walk that a restart cut short goes on with those that are left.
func (w *rescoring) step(emit func(*schemas.ChurnScore)) (n int) {
	if w.walk == nil {
		return 0
	}
	now := w.cfg.Now()
	allowed := int(min(now.Sub(w.last), time.Second).Seconds() * float64(w.cfg.RescoreRate))
	if allowed == 0 {
		return 0
	}
	w.last = now
	for look := lookedAt; n < min(allowed, repairBatch); n++ {
		s := w.walk.Next(&look)
		if s == nil {
			break
		}
		emit(s)
	}
	return n
}

// written notes that the scores of a step are in the output topic.
func (w *rescoring) written(n int, version int64) {
	w.count += n
	w.metrics.rescored.Add(float64(n))
	if w.walk != nil && w.walk.Done() {
		if w.count > 0 {
			w.log.Info("customers scored again under the new model", "customers", w.count, "version", version)
		}
		w.walk = nil
	}
}
