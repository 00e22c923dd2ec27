package monitor

import (
	"cmp"
	"slices"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// versionFigures are the figures of a model version over its newest examples.
type versionFigures struct {
	shownVersion
	metrics     evaluation.Metrics
	calibration []evaluation.CalibrationBin
	deciles     []evaluation.Decile
	ages        [len(ages)]ageFigures
}

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

func figuresOf(v shownVersion) *versionFigures {
	r := ranked(v.rows.rows)
	calibration, deciles := r.Calibration(), r.Deciles()
	f := &versionFigures{shownVersion: v, metrics: r.Metrics(), calibration: calibration[:], deciles: deciles[:]}
	f.metrics.Lower, f.metrics.Upper = r.Intervals()
	for _, e := range v.rows.rows {
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

// segment is the examples with one level of a feature.
type segment struct {
	feature int
	level   string
	rows    []*example
	figures evaluation.Figures
	share   float64 // of churners
}

// missingLevel is what customers have of whom a feature is not known.
const missingLevel = "(missing)"

// levelOf returns what an example has of a categorical feature.
func levelOf(v *scoring.Vocabulary, feature int, e *example) string {
	x := e.Attributes[feature]
	if scoring.IsMissing(x) {
		return missingLevel
	}
	return v.Text(feature, x, e.levels)
}

// segments divides examples by the most frequent levels of each categorical
// feature, most levels of a feature and most in all.
func segments(v *scoring.Vocabulary, rows []*example, levels, most int) []segment {
	var all []segment
	for j := range v.Spec().Len() {
		if v.Spec().Feature(j).Kind != scoring.Categorical {
			continue
		}
		byLevel := map[string][]*example{}
		for _, e := range rows {
			level := levelOf(v, j, e)
			byLevel[level] = append(byLevel[level], e)
		}
		var found []segment
		for level, rows := range byLevel {
			found = append(found, segment{feature: j, level: level, rows: rows})
		}
		slices.SortFunc(found, func(a, b segment) int {
			return cmp.Or(cmp.Compare(len(b.rows), len(a.rows)), cmp.Compare(a.level, b.level))
		})
		found = found[:min(len(found), levels, most-len(all))]
		for i := range found {
			m := ranked(found[i].rows).Metrics()
			found[i].figures, found[i].share = m.Figures, float64(m.Churners)/float64(m.Rows)
		}
		all = append(all, found...)
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
