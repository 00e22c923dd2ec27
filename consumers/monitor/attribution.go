package monitor

import (
	"cmp"
	"math"
	"slices"

	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/segment"
)

// lossShare is what an example's log loss by a model is made of: the base and what
// each feature's value added.
type lossShare struct {
	of     *models.Version
	base   float64
	values []float64
}

// attribution says which features the champion's log loss on the newest examples is
// due to, and by which it differs from that on the examples before them. It is the
// champion's on both, whoever had scored them: between two models, bases and parts
// differ without any change of customers.
type attribution struct {
	newest, reference *scoring.Attribution
	// features and changes have one number per feature; changes are Missing
	// without examples to compare with.
	features, changes []float64
	// change is that of the mean log loss, the bases' part included.
	change float64
	// bySegment are the greatest changes of a feature's part within a segment.
	bySegment []segmentChange
}

// segmentChange is how much more a feature's value adds to the log loss of the
// examples with a level of another feature, or the same, than it did before.
type segmentChange struct {
	feature, segment int
	level            string
	change           float64
}

const (
	// maxSegmentChanges bounds the changes within segments that are told.
	maxSegmentChanges = 50
	// minRows is how many examples there must be in either window, and in either part
	// of a segment: a change from a few is one of them.
	minRows = 100
)

// attribute divides the champion's log loss on rows, which ascend, into that on the
// newest limit of them and that on those before.
func (c *computer) attribute(champion *models.Version, rows []*example, limit int) *attribution {
	if champion == nil {
		return nil
	}
	spec := c.monitor.spec
	for _, e := range rows {
		c.divide(champion, e)
	}
	newest, reference := rows[max(0, len(rows)-limit):], rows[:max(0, len(rows)-limit)]
	if len(reference) < minRows {
		reference = nil
	}
	a := &attribution{newest: scoring.NewAttribution(spec.Len()), reference: scoring.NewAttribution(spec.Len())}
	for _, e := range newest {
		a.newest.Add(e.share())
	}
	for _, e := range reference {
		a.reference.Add(e.share())
	}
	a.features = a.newest.Features(nil)
	a.changes = differences(a.newest, a.reference)
	a.change = a.newest.LogLoss() - a.reference.LogLoss()
	if len(reference) == 0 {
		return a
	}
	a.bySegment = c.changesWithin(newest, reference)
	slices.SortFunc(a.bySegment, func(a, b segmentChange) int {
		return cmp.Or(cmp.Compare(math.Abs(b.change), math.Abs(a.change)), cmp.Compare(a.feature, b.feature),
			cmp.Compare(a.segment, b.segment), cmp.Compare(a.level, b.level))
	})
	a.bySegment = a.bySegment[:min(len(a.bySegment), maxSegmentChanges)]
	return a
}

func differences(newest, reference *scoring.Attribution) []float64 {
	changes := newest.Features(nil)
	for i, before := range reference.Features(nil) {
		changes[i] -= before
	}
	return changes
}

// changesWithin returns the changes within the segments of each categorical
// feature.
func (c *computer) changesWithin(newest, reference []*example) (all []segmentChange) {
	spec, cfg, v := c.monitor.spec, &c.monitor.cfg, c.monitor.cfg.Codec.Set().Vocabulary()
	count := 0
	for j := range spec.Len() {
		left := min(cfg.SegmentLevels, cfg.Segments-count)
		if spec.Feature(j).Kind != scoring.Categorical || left <= 0 {
			continue
		}
		limits := segment.Limits{Levels: left, Rows: minRows}
		losses := segment.DivideLosses(newest, reference, levelOf(v, j), spec.Len(), (*example).share, limits)
		count += len(losses)
		named := false
		for i := range losses {
			s := &losses[i]
			if s.Rest && named {
				continue // as in segments
			}
			named = named || s.Level == segment.Other
			if min(s.Now.Examples(), s.Before.Examples()) < minRows {
				continue
			}
			for f := range spec.Len() {
				if change := s.Change(f); change != 0 {
					all = append(all, segmentChange{f, j, s.Level, change})
				}
			}
		}
	}
	return all
}

// divide computes what an example's log loss by the champion is made of, in some
// twenty microseconds, if it is not known yet.
func (c *computer) divide(champion *models.Version, e *example) {
	if e.loss != nil && e.loss.of == champion {
		return
	}
	x := c.vector(e.Attributes, e.levels)
	e.loss = &lossShare{
		of:     champion,
		base:   champion.Predictor.ExpectedLogLoss(e.Churned),
		values: champion.Predictor.LogLossSHAP(nil, x, e.Churned, &c.workspace),
	}
}

// share returns what divide computed last.
func (e *example) share() (values []float64, base float64) { return e.loss.values, e.loss.base }
