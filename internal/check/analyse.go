package check

import (
	"cmp"
	"context"
	"math"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
	"github.com/churnstream/churnstream/scoring/segment"
)

// Versions are the model versions there are; a *models.Feed is.
type Versions interface {
	Champion() *models.Version
	Get(version int64) *models.Version
}

// Config says what a report is to have.
type Config struct {
	// At is when the report is made.
	At time.Time
	// Worst is how many of the worst misses it names, which are customers; 0 is
	// none.
	Worst int
	// SegmentRows is how few rows a segment may have (0: 50), and SegmentLevels
	// how many levels of a feature are shown, those with the most rows (0: 12).
	// The other levels are shown together.
	SegmentRows, SegmentLevels int
	// Thresholds are what the figures have to keep to.
	Thresholds Thresholds
}

const (
	// mostPoints bounds the points of a curve.
	mostPoints = 200
	// mostReasons bounds the features that explain a miss.
	mostReasons = 5
	// mostExplained bounds the customers whose reasons are compared with those of
	// the training: more of them say hardly more, and each is explained anew.
	mostExplained = 20_000
)

// Analyse makes a report of data. Figures, curves, weeks and segments are of the
// scores that were in force, where the label is of the version's horizon; drift, the division of the loss and the outlook are of
// the champion. It uses all cores, and fails only when ctx ends.
func Analyse(ctx context.Context, set *schemas.Set, d *Data, versions Versions, cfg Config) (*Report, error) {
	a := &analysis{set: set, data: d, versions: versions, champion: versions.Champion(), cfg: cfg, others: map[int64]int64{}}
	a.cfg.SegmentRows, a.cfg.SegmentLevels = cmp.Or(cfg.SegmentRows, 50), cmp.Or(cfg.SegmentLevels, 12)
	for i := range d.Examples {
		switch e := &d.Examples[i]; {
		case !e.Scored():
		case versions.Get(e.ModelVersion).Answers(&e.LabelledExample):
			a.scored = append(a.scored, e)
		default:
			a.others[e.ModelVersion]++
		}
	}
	r := &Report{At: cfg.At.UTC(), Since: d.Since, Until: d.Until, Labels: a.labels(), Examples: a.counts(), Refused: d.Refused}
	if a.champion != nil {
		r.Champion = a.champion.Version
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	do := func(work func()) {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			work()
			return nil
		})
	}
	do(func() { r.Overall = measure(a.scored) })
	a.byVersion(r, do)
	a.byWeek(r, do)
	a.bySegment(r, do)
	do(func() { r.Drift = a.drift() })
	do(func() { r.Loss = a.loss() })
	do(func() { r.Outlook = a.outlook() })
	do(func() { r.Worst = a.worst() })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	r.Thresholds = cfg.Thresholds.judge(&r.Overall)
	r.Passed = !slices.ContainsFunc(r.Thresholds, func(t Result) bool { return !t.Met })
	return r, nil
}

// analysis is what the parts of a report are made of.
type analysis struct {
	set  *schemas.Set
	data *Data
	// scored are those with a score in force and a label of its version's horizon,
	// in the data's order; others counts those of another horizon by version.
	scored   []*Example
	others   map[int64]int64
	versions Versions
	champion *models.Version
	cfg      Config
}

func (a *analysis) labels() []string {
	horizons := map[int64]bool{}
	list := []string{}
	for i := range a.data.Examples {
		if h := a.data.Examples[i].Horizon; !horizons[h] {
			horizons[h] = true
			list = append(list, schemas.Label(h))
		}
	}
	slices.Sort(list)
	return list
}

func (a *analysis) counts() (c Counts) {
	customers := map[string]bool{}
	for i := range a.data.Examples {
		e := &a.data.Examples[i]
		customers[e.CustomerID] = true
		c.Examples++
		if e.Churned {
			c.Churners++
		}
		if e.Corrections > 0 {
			c.Corrected++
		}
		if !e.Scored() {
			c.Unscored++
		}
	}
	c.Customers = int64(len(customers))
	for _, n := range a.others {
		c.OtherHorizon += n
	}
	return c
}

// evaluated returns examples as evaluation has them.
func evaluated(examples []*Example) []evaluation.Example {
	out := make([]evaluation.Example, len(examples))
	for i, e := range examples {
		out[i] = evaluation.Example{Customer: scoring.Hash([]byte(e.CustomerID)), Probability: e.Probability, Churned: e.Churned}
	}
	return out
}

// expected returns what the scores themselves let expect.
func expected(examples []*Example) (quality.Figures, float64) {
	p := make([]float64, len(examples))
	for i, e := range examples {
		p[i] = e.Probability
	}
	e := evaluation.Expect(p)
	return quality.EstimateOf(&e), e.Churners
}

// measure returns how good the scores in force were.
func measure(examples []*Example) Measured {
	r := evaluation.Rank(evaluated(examples))
	f := r.Metrics()
	f.Lower, f.Upper = r.Intervals()
	c := r.Confusion()
	m := Measured{Rows: f.Rows, Churners: f.Churners, Figures: quality.FiguresOf(&f),
		Confusion: Confusion(c), Calibration: []quality.Bin{}, Deciles: []Decile{}}
	m.Expected, m.ExpectedChurners = expected(examples)
	for _, b := range r.Calibration() {
		if b.Rows > 0 {
			m.Calibration = append(m.Calibration, quality.Bin(b))
		}
	}
	if f.Rows > 0 {
		for _, d := range r.Deciles() {
			m.Deciles = append(m.Deciles, Decile{d.Rows, d.Churners, quality.Number(d.Gain), quality.Number(d.Lift)})
		}
	}
	m.ROC = thin(r.ROC(), func(p evaluation.ROCPoint) [2]float64 { return [2]float64{p.FalsePositiveRate, p.TruePositiveRate} })
	m.PrecisionRecall = thin(r.PrecisionRecall(), func(p evaluation.PrecisionRecallPoint) [2]float64 { return [2]float64{p.Recall, p.Precision} })
	return m
}

// thin returns some of the points of a curve, the first and the last among them.
func thin[P any](points []P, of func(P) [2]float64) [][2]float64 {
	out := [][2]float64{}
	n := len(points)
	if n <= mostPoints {
		for _, p := range points {
			out = append(out, of(p))
		}
		return out
	}
	for i := range mostPoints {
		out = append(out, of(points[i*(n-1)/(mostPoints-1)]))
	}
	return out
}

// groups sorts examples by a key, and returns the keys in order.
func groups[K comparable](examples []*Example, key func(*Example) K, order func(a, b K) int) (keys []K, of map[K][]*Example) {
	of = map[K][]*Example{}
	for _, e := range examples {
		k := key(e)
		if of[k] == nil {
			keys = append(keys, k)
		}
		of[k] = append(of[k], e)
	}
	slices.SortFunc(keys, order)
	return keys, of
}

func versionOf(e *Example) int64  { return e.ModelVersion }
func newestFirst(a, b int64) int  { return cmp.Compare(b, a) }
func oldestFirst(a, b int64) int  { return cmp.Compare(a, b) }
func moment(ms int64) time.Time   { return time.UnixMilli(ms).UTC() }
func observedIn(e *Example) int64 { return week(e.ObservedAt) }

// week returns when the week of a moment begins: on a Monday, UTC.
func week(ms int64) int64 {
	const day, length = 24 * 3_600_000, 7 * 24 * 3_600_000
	monday := int64(4 * day) // 1970 began on a Thursday
	start := (ms - monday) / length
	if (ms-monday)%length < 0 {
		start--
	}
	return monday + start*length
}

func (a *analysis) byVersion(r *Report, do func(func())) {
	keys, of := groups(a.scored, versionOf, newestFirst)
	if a.champion != nil && of[a.champion.Version] == nil {
		keys = append(keys, a.champion.Version)
	}
	for version := range a.others {
		if !slices.Contains(keys, version) {
			keys = append(keys, version)
		}
	}
	slices.SortFunc(keys, newestFirst)
	r.Versions = make([]Version, len(keys))
	for i, version := range keys {
		do(func() {
			v := Version{Version: version, Measured: measure(of[version]), OtherHorizon: a.others[version], Holdout: quality.Figures{}, Label: schemas.Label(0)}
			if known := a.versions.Get(version); known != nil {
				v.Stage, v.Label = known.StageNow(a.champion).String(), schemas.Label(known.Horizon)
				v.InUse = a.champion != nil && version == a.champion.Version
				v.HoldoutRows, v.Holdout = known.Metrics.Rows, quality.FiguresOf(&known.Metrics)
			}
			r.Versions[i] = v
		})
	}
}

func (a *analysis) byWeek(r *Report, do func(func())) {
	keys, of := groups(a.scored, observedIn, oldestFirst)
	r.Weeks = make([]Week, len(keys))
	for i, start := range keys {
		do(func() {
			m := evaluation.Evaluate(evaluated(of[start]))
			w := Week{From: moment(start), Rows: m.Rows, Churners: m.Churners, Figures: quality.FiguresOf(&m),
				BaseLogLoss: base(m.Churners, m.Rows)}
			w.Expected, _ = expected(of[start])
			versions, byVersion := groups(of[start], versionOf, newestFirst)
			for _, version := range versions {
				of := m // a week of one version
				if len(versions) > 1 {
					of = evaluation.Evaluate(evaluated(byVersion[version]))
				}
				w.Versions = append(w.Versions, WeekVersion{version, of.Rows, of.Churners, quality.FiguresOf(&of)})
			}
			r.Weeks[i] = w
		})
	}
}

// base is the log loss of the churn rate itself as everybody's probability.
func base(churners, rows int64) float64 {
	loss := 0.0
	for _, n := range []int64{churners, rows - churners} {
		if n > 0 {
			loss -= float64(n) / float64(rows) * math.Log(float64(n)/float64(rows))
		}
	}
	return loss
}

func (a *analysis) bySegment(r *Report, do func(func())) {
	spec := a.set.Spec()
	limits := segment.Limits{Levels: a.cfg.SegmentLevels, Rows: a.cfg.SegmentRows}
	r.Segments = []Segment{}
	var examples [][]*Example
	for f := range spec.Len() {
		if spec.Feature(f).Kind != scoring.Categorical {
			continue
		}
		for _, s := range segment.Divide(a.scored, func(e *Example) string { return a.set.Text(f, e.Attributes[f], e.Levels) }, limits) {
			if len(s.Rows) >= a.cfg.SegmentRows { // the rest may have fewer
				r.Segments = append(r.Segments, Segment{Feature: spec.Feature(f).Name, Level: s.Level, Rest: s.Rest})
				examples = append(examples, s.Rows)
			}
		}
	}
	for i := range examples {
		do(func() {
			s, m := &r.Segments[i], evaluation.Evaluate(evaluated(examples[i]))
			_, churners := expected(examples[i])
			n := float64(m.Rows)
			s.Rows, s.Churners, s.Figures = m.Rows, m.Churners, quality.FiguresOf(&m)
			s.Expected, s.Observed = churners/n, float64(m.Churners)/n
		})
	}
}

// loss divides the champion's log loss among its features. It compares the examples
// with those of as long before, and where there are none the newer half with the older.
func (a *analysis) loss() *Loss {
	var before []*Example
	for i := range a.data.Reference {
		if e := &a.data.Reference[i]; e.Scored() && a.champion.Answers(&e.LabelledExample) {
			before = append(before, e)
		}
	}
	var now []*Example
	for i := range a.data.Examples {
		if e := &a.data.Examples[i]; e.Scored() && a.champion.Answers(&e.LabelledExample) {
			now = append(now, e)
		}
	}
	if len(before) == 0 {
		before, now = now[:len(now)/2], now[len(now)/2:]
	}
	if a.champion == nil || len(now) == 0 {
		return nil
	}
	newest, reference := a.attribution(now), a.attribution(before)
	loss := &Loss{Version: a.champion.Version, From: moment(now[0].ObservedAt), Rows: newest.Examples(), Reference: reference.Examples(),
		LogLoss: newest.LogLoss(), Base: newest.Base(),
		Change: quality.Number(newest.LogLoss() - reference.LogLoss()), BaseChange: quality.Number(newest.Base() - reference.Base())}
	if len(before) > 0 {
		loss.ReferenceFrom = moment(before[0].ObservedAt)
	}
	is, was := newest.Features(nil), reference.Features(nil)
	for f := range is {
		loss.Features = append(loss.Features, FeatureLoss{a.set.Spec().Feature(f).Name, is[f], quality.Number(is[f] - was[f])})
	}
	slices.SortStableFunc(loss.Features, func(x, y FeatureLoss) int {
		if loss.Reference > 0 {
			return cmp.Compare(y.Change, x.Change)
		}
		return cmp.Compare(y.Value, x.Value)
	})
	return loss
}

// attribution divides the champion's log loss on examples.
func (a *analysis) attribution(examples []*Example) *scoring.Attribution {
	p := a.champion.Predictor
	sum := scoring.NewAttribution(a.set.Spec().Len())
	w := p.NewWorkspace()
	var values []float64
	for _, e := range examples {
		values = p.LogLossSHAP(values, e.Attributes, e.Churned, w)
		sum.Add(values, p.ExpectedLogLoss(e.Churned))
	}
	return sum
}

func (a *analysis) outlook() *Outlook {
	if a.champion == nil || len(a.data.Customers) == 0 {
		return nil
	}
	o := &Outlook{Version: a.champion.Version, Customers: int64(len(a.data.Customers)), Risks: map[string]int64{}}
	p := make([]float64, len(a.data.Customers))
	for i := range a.data.Customers {
		p[i] = a.champion.Predictor.Probability(a.data.Customers[i].Attributes)
		o.Risks[a.champion.Risk(p[i]).String()]++
	}
	e := evaluation.Expect(p)
	o.Churners, o.Figures = e.Churners, quality.EstimateOf(&e)
	return o
}

// worst returns the examples with the greatest log loss, and what the version that
// scored them was misled by.
func (a *analysis) worst() []Miss {
	list := slices.Clone(a.scored)
	slices.SortStableFunc(list, func(x, y *Example) int {
		return cmp.Compare(evaluation.LogLoss(y.Probability, y.Churned), evaluation.LogLoss(x.Probability, x.Churned))
	})
	misses := []Miss{}
	for _, e := range list[:min(a.cfg.Worst, len(list))] {
		misses = append(misses, Miss{CustomerID: e.CustomerID, ObservedAt: moment(e.ObservedAt), AsOf: moment(e.AsOf), Version: e.ModelVersion,
			Probability: e.Probability, Churned: e.Churned, LogLoss: evaluation.LogLoss(e.Probability, e.Churned), Reasons: a.reasons(e)})
	}
	return misses
}

func (a *analysis) reasons(e *Example) []MissReason {
	reasons := []MissReason{}
	v := a.versions.Get(e.ModelVersion)
	if v == nil {
		return reasons
	}
	w := v.Predictor.NewWorkspace()
	shap := v.Predictor.SHAP(nil, e.Attributes, w)
	loss := v.Predictor.LogLossSHAP(nil, e.Attributes, e.Churned, w)
	for f := range loss {
		if loss[f] > 0 {
			reasons = append(reasons, MissReason{a.set.Spec().Feature(f).Name, a.set.Text(f, e.Attributes[f], e.Levels), shap[f], loss[f]})
		}
	}
	slices.SortStableFunc(reasons, func(x, y MissReason) int { return cmp.Compare(y.Loss, x.Loss) })
	return reasons[:min(len(reasons), mostReasons)]
}
