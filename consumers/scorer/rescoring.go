package scorer

import (
	"context"
	"time"
)

// rescoring is a walk over a worker's customers to score those whose latest
// score is of another model version than the one in use.
type rescoring struct {
	due   bool
	from  cursor
	last  time.Time
	count int
}

// lookedAt bounds how many customers one step looks at to find those to score.
const lookedAt = 100_000

// rescore scores some more customers, as many as the rate allows since the
// last step, and writes their scores. Which version a score is of is in the
// state, so a walk that a restart cut short goes on with those that are left.
func (p *partition) rescore(ctx context.Context) error {
	w := &p.rescored
	if !w.due {
		return nil
	}
	now := p.scorer.cfg.Now()
	allowed := int(min(now.Sub(w.last), time.Second).Seconds() * float64(p.scorer.cfg.RescoreRate))
	if allowed == 0 {
		return nil
	}
	w.last = now
	n := 0
	p.dirty = true
	for looked := 0; n < min(allowed, repairBatch) && looked < lookedAt; looked++ {
		record := p.state.customers.next(&w.from)
		if record == nil {
			w.due = false
			break
		}
		if packedModel(record) != p.model.Version {
			p.scoreAgain(record)
			n++
		}
	}
	if err := p.flush(ctx); err != nil {
		return err
	}
	w.count += n
	p.scorer.metrics.rescored.Add(float64(n))
	if !w.due && w.count > 0 {
		p.log.Info("customers scored again under the new model", "customers", w.count, "version", p.model.Version)
	}
	return nil
}
