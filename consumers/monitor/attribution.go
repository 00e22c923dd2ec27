package monitor

import (
	"cmp"
	"math"
	"slices"

	"github.com/churnstream/churnstream/scoring"
)

// lossShare is what an example's log loss is made of: the base and what each
// feature's value added, of the model that had scored it.
type lossShare struct {
	base   float64
	values []float64
}

// attribution says which features the log loss of the newest examples is due to,
// and by which it differs from that of the examples before them.
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

// segmentChange is how much more a feature's value adds to the log loss of a
// segment's examples than it did before.
type segmentChange struct {
	feature int
	segment *segment
	change  float64
}

const (
	// maxSegmentChanges bounds the changes within segments that are told.
	maxSegmentChanges = 50
	// minSegmentRows is how many examples a segment must have in either window.
	minSegmentRows = 100
)

// attribute divides the log loss of rows, which ascend, into that of the newest
// limit of them and that of those before. Examples whose model version is not
// known any more are left out. The rows of segments are the newest's.
func (c *computer) attribute(rows []*example, limit int, segments []segment) *attribution {
	spec := c.monitor.spec
	split := max(0, len(rows)-limit)
	newest, reference := rows[split:], rows[:split]
	a := &attribution{newest: scoring.NewAttribution(spec.Len()), reference: scoring.NewAttribution(spec.Len())}
	c.sum(a.newest, newest)
	c.sum(a.reference, reference)
	a.features = a.newest.Features(nil)
	a.changes = differences(a.newest, a.reference)
	a.change = a.newest.LogLoss() - a.reference.LogLoss()
	if a.reference.Examples() == 0 {
		return a
	}
	for len(segments) > 0 {
		n := 1
		for n < len(segments) && segments[n].feature == segments[0].feature {
			n++
		}
		a.bySegment = c.changesWithin(a.bySegment, newest, reference, segments[:n])
		segments = segments[n:]
	}
	slices.SortFunc(a.bySegment, func(a, b segmentChange) int {
		return cmp.Or(cmp.Compare(math.Abs(b.change), math.Abs(a.change)), cmp.Compare(a.feature, b.feature),
			cmp.Compare(a.segment.feature, b.segment.feature), cmp.Compare(a.segment.level, b.segment.level))
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

func (c *computer) sum(a *scoring.Attribution, rows []*example) {
	for _, e := range rows {
		if s := c.share(e); s != nil {
			a.Add(s.values, s.base)
		}
	}
}

// partial sums the shares of a segment's examples. Its rows come in their order, so
// that the sums are the same in every process.
type partial struct {
	rows int
	sums []float64
}

// changesWithin appends the changes within the segments of one feature.
func (c *computer) changesWithin(all []segmentChange, newest, reference []*example, segments []segment) []segmentChange {
	byLevel := make(map[string]*[2]partial, len(segments))
	for i := range segments {
		n := c.monitor.spec.Len()
		byLevel[segments[i].level] = &[2]partial{{sums: make([]float64, n)}, {sums: make([]float64, n)}}
	}
	v, feature := c.monitor.cfg.Codec.Set().Vocabulary(), segments[0].feature
	for i, rows := range [2][]*example{newest, reference} {
		for _, e := range rows {
			of, share := byLevel[levelOf(v, feature, e)], c.share(e)
			if of == nil || share == nil {
				continue
			}
			of[i].rows++
			for j, value := range share.values {
				of[i].sums[j] += value
			}
		}
	}
	for i := range segments {
		now, before := &byLevel[segments[i].level][0], &byLevel[segments[i].level][1]
		if min(now.rows, before.rows) < minSegmentRows {
			continue
		}
		for feature := range now.sums {
			if change := now.sums[feature]/float64(now.rows) - before.sums[feature]/float64(before.rows); change != 0 {
				all = append(all, segmentChange{feature, &segments[i], change})
			}
		}
	}
	return all
}

// share returns what an example's log loss is made of, nil if its model version is
// not known. It takes some twenty microseconds the first time.
func (c *computer) share(e *example) *lossShare {
	if e.loss == nil {
		v := c.monitor.cfg.Models.Get(e.ModelVersion)
		if v == nil {
			return nil
		}
		e.loss = &lossShare{
			base:   v.Predictor.ExpectedLogLoss(e.Churned),
			values: v.Predictor.LogLossSHAP(nil, c.vector(e.Attributes, e.levels), e.Churned, &c.workspace),
		}
	}
	return e.loss
}
