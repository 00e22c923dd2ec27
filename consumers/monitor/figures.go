package monitor

import (
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
	"github.com/churnstream/churnstream/scoring/segment"
)

// versionFigures are the figures of a model version over its newest examples.
type versionFigures struct {
	shownVersion
	// horizon is the version's, and measured are those of the rows whose labels
	// have it: the figures are over these.
	horizon     int64
	measured    []*example
	metrics     evaluation.Metrics
	calibration []evaluation.CalibrationBin
	deciles     []evaluation.Decile
	ages        [len(ages)]ageFigures
}

// others is how many of the newest rows are of another horizon, and in no figure.
func (f *versionFigures) others() int64 { return int64(len(f.rows.rows) - len(f.measured)) }

// ages are the classes of the age of a score at the decision, each with the
// greatest age in it, in milliseconds; the last one has what is older.
var ages = [...]struct {
	name string
	most int64
}{{"1h", hour}, {"1d", day}, {"7d", 7 * day}, {"30d", 30 * day}, {"90d", 90 * day}, {"older", 1<<63 - 1}}

const (
	hour = 3600_000
	day  = 24 * hour
)

// ageFigures are over the examples whose scores are in one of the ages.
type ageFigures struct {
	rows    int64
	logLoss float64 // scoring.Missing without rows
}

func ranked(rows []*example) *evaluation.Ranking {
	list := make([]evaluation.Example, len(rows))
	for i, e := range rows {
		list[i] = evaluation.Example{Customer: e.hash, Probability: e.Probability, Churned: e.Churned}
	}
	return evaluation.Rank(list)
}

// figuresOf returns the figures of a version over those rows of it that answer what
// its model does, all without one.
func figuresOf(v shownVersion, model *models.Version) *versionFigures {
	measured := answering(v.rows.rows, func(*example) *models.Version { return model })
	r := ranked(measured)
	calibration, deciles := r.Calibration(), r.Deciles()
	f := &versionFigures{shownVersion: v, horizon: horizonOf(model), measured: measured, metrics: r.Metrics(), calibration: calibration[:], deciles: deciles[:]}
	f.metrics.Lower, f.metrics.Upper = r.Intervals()
	for _, e := range measured {
		age := 0
		for e.decided()-e.AsOf > ages[age].most {
			age++
		}
		f.ages[age].rows++
		f.ages[age].logLoss += evaluation.LogLoss(e.Probability, e.Churned)
	}
	for i := range f.ages {
		if n := f.ages[i].rows; n > 0 {
			f.ages[i].logLoss /= float64(n)
		} else {
			f.ages[i].logLoss = scoring.Missing
		}
	}
	return f
}

// levelFigures are the figures of the examples with one level of a feature, or with
// any of those that are left.
type levelFigures struct {
	feature int
	segment.Segment[*example]
	figures evaluation.Figures
	share   float64 // of churners
}

// levelOf returns what gives the level that an example has of a feature.
func levelOf(v *scoring.Vocabulary, feature int) func(*example) string {
	return func(e *example) string { return segment.Level(v, feature, e.Attributes, e.levels) }
}

// segments divides examples by each categorical feature: the most frequent levels,
// so many of a feature and so many in all, and the others of the feature together.
func segments(v *scoring.Vocabulary, rows []*example, levels, most int) []levelFigures {
	var all []levelFigures
	for j := range v.Spec().Len() {
		left := min(levels, most-len(all))
		if v.Spec().Feature(j).Kind != scoring.Categorical || left <= 0 {
			continue
		}
		named := false
		for _, s := range segment.Divide(rows, levelOf(v, j), segment.Limits{Levels: left}) {
			if s.Rest && named {
				continue // a level has that name, and what has it twice fails a scrape
			}
			named = named || s.Level == segment.Other
			m := ranked(s.Rows).Metrics()
			all = append(all, levelFigures{j, s, m.Figures, float64(m.Churners) / float64(m.Rows)})
		}
	}
	return all
}

// slice is the examples of a while.
type slice struct {
	rows              []*example
	logLoss, baseLoss float64
}

// courseLength is how many slices the course of the log loss has.
const courseLength = 40

// course divides rows into slices of the same number of examples.
func course(rows []*example) []slice {
	n := min(len(rows)/25, courseLength)
	all := make([]slice, n)
	for i := range all {
		part := rows[i*len(rows)/n : (i+1)*len(rows)/n]
		churned := 0.0
		s := slice{rows: part}
		for _, e := range part {
			s.logLoss += evaluation.LogLoss(e.Probability, e.Churned)
			if e.Churned {
				churned++
			}
		}
		s.logLoss /= float64(len(part))
		share := churned / float64(len(part))
		s.baseLoss = share*evaluation.LogLoss(share, true) + (1-share)*evaluation.LogLoss(share, false)
		all[i] = s
	}
	return all
}
