package monitor

import (
	"slices"
	"sync"
	"time"

	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

const (
	// computeEvery is the shortest time between two computations of the figures,
	// however often they are asked for.
	computeEvery = time.Second
	// computeShare is the share of one processor that they may take.
	computeShare = 0.2
)

// result is what a monitor knows at a moment. It is not changed any more.
type result struct {
	at        time.Time
	champion  *models.Version
	models    []*models.Version // newest first
	shown     *shown
	total     totals
	customers *shownCustomers
	versions  []*versionFigures // newest first
	expected  []expected        // newest first
	segments  []levelFigures    // of the champion
	course    []slice
	judged    *championFigures // nil without a champion
	shadow    *shadow          // nil unless there are both
	loss      *attribution
	drift     *drifted
}

func (r *result) of(version int64) *versionFigures {
	for _, v := range r.versions {
		if v.version == version {
			return v
		}
	}
	return nil
}

// expected is what the newest scores of a version let expect.
type expected struct {
	version int64
	evaluation.Estimate
}

// computer computes results: at most once a while, only what has changed, and
// without keeping readers of the topics waiting.
type computer struct {
	monitor *Monitor
	every   time.Duration

	mu        sync.Mutex // guards what follows
	last      *result
	changed   <-chan struct{} // of the models, closed when they differ from those of last
	next      time.Time       // of the next computation
	workspace scoring.Workspace
	scratch   scoring.Vector
	others    scoring.Levels
}

// result returns what is known now, or a moment ago.
func (c *computer) result() *result {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && c.monitor.now().Before(c.next) && !isClosed(c.changed) {
		return c.last
	}
	began := time.Now()
	c.last = c.compute(c.last)
	took := time.Since(began)
	c.monitor.metrics.computing.Observe(took.Seconds())
	c.next = c.last.at.Add(max(c.every, time.Duration(float64(took)/computeShare)))
	return c.last
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (c *computer) compute(before *result) *result {
	m := c.monitor
	r := &result{at: m.now()}
	c.changed = m.cfg.Models.Changed()
	r.champion, r.models = m.cfg.Models.Champion(), m.cfg.Models.List()
	if before == nil {
		before = &result{shown: &shown{}, customers: &shownCustomers{}}
	}
	r.shown, r.total = m.evidence.show(before.shown), m.evidence.totals()
	r.customers = m.customers.show(before.customers, r.champion)

	known := make(map[int64]*models.Version, len(r.models))
	for _, v := range r.models {
		known[v.Version] = v
	}
	for _, v := range r.shown.versions {
		f := before.of(v.version)
		if model := known[v.version]; f == nil || f.horizon != horizonOf(model) || !f.rows.same(v.rows) {
			f = figuresOf(v, model)
		}
		r.versions = append(r.versions, f)
	}
	sameVersions := slices.Equal(r.models, before.models)
	sameCustomers := r.customers.rows.same(before.customers.rows)
	if sameCustomers {
		r.expected = before.expected
	} else {
		r.expected = expect(r.customers.rows.rows)
	}
	if sameCustomers && sameVersions && before.drift != nil {
		r.drift = before.drift
	} else {
		r.drift = c.drift(r.champion, r.expected, r.customers.rows.rows)
	}
	sameModels := r.champion == before.champion && newestChallenger(r.models) == newestChallenger(before.models)
	if r.champion != nil {
		f := r.of(r.champion.Version)
		switch {
		case f == nil:
		case r.champion == before.champion && f == before.of(r.champion.Version):
			r.segments = before.segments
		default:
			r.segments = segments(m.cfg.Codec.Set().Vocabulary(), f.measured, m.cfg.SegmentLevels, m.cfg.Segments)
		}
	}
	sameExamples := r.shown.all.same(before.shown.all)
	if sameExamples && r.champion == before.champion {
		r.judged = before.judged
	} else {
		r.judged = c.judge(r.champion, r.shown.all.rows)
	}
	if sameModels && sameExamples {
		r.shadow = before.shadow
	} else {
		r.shadow = c.compare(r.champion, newestChallenger(r.models), r.shown.all.rows)
	}
	scored := r.shown.scored
	if scored.same(before.shown.scored) && sameVersions {
		r.course = before.course
	} else {
		r.course = course(answering(scored.rows, func(e *example) *models.Version { return known[e.ModelVersion] }))
	}
	if scored.same(before.shown.scored) && r.champion == before.champion {
		r.loss = before.loss
	} else {
		r.loss = c.attribute(r.champion, answering(scored.rows, func(*example) *models.Version { return r.champion }), m.cfg.Window)
	}
	return r
}
