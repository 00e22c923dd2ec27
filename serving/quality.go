package serving

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/problem"
	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/schemas"
)

// reporter is who knows how good the models are: the monitor of this process, or
// a client of another's.
type reporter interface {
	Report(ctx context.Context) (*quality.Report, error)
}

// remembered asks a reporter once in a while, however many pages are open.
type remembered struct {
	reporter
	// local says that asking takes no time.
	local  bool
	mu     sync.Mutex
	asked  time.Time
	report *quality.Report
	err    error
}

// reportLife is for how long a report is shown.
const reportLife = time.Second

func (r *remembered) Report(ctx context.Context) (*quality.Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.asked) >= reportLife {
		report, err := r.reporter.Report(ctx)
		if err != nil && ctx.Err() != nil {
			return nil, err // of this request alone
		}
		r.report, r.err, r.asked = report, err, time.Now()
	}
	return r.report, r.err
}

// newReporter returns the monitor of this process if there is one, else the one at
// a URL; nil if there is none either.
func newReporter(local http.Handler, url string) reporter {
	if h, ok := local.(quality.Handler); ok {
		return &remembered{reporter: h, local: true}
	}
	if url == "" {
		return nil
	}
	return &remembered{reporter: quality.NewClient(url)}
}

// labelled returns how many labelled examples the monitor of this process knows; −1
// where there is none.
func (s *Server) labelled(ctx context.Context) int64 {
	if q, ok := s.quality.(*remembered); ok && q.local {
		if r, err := q.Report(ctx); err == nil && r != nil {
			return r.Examples
		}
	}
	return -1
}

// getQuality answers with the monitor's report.
func (s *Server) getQuality(w http.ResponseWriter, r *http.Request) {
	if s.quality == nil {
		s.problem(w, r, &problem.Details{Status: http.StatusNotFound, Detail: noMonitor})
		return
	}
	report, err := s.quality.Report(r.Context())
	if err != nil {
		s.log.Warn("the monitor does not answer", "error", err)
		s.problem(w, r, &problem.Details{Status: http.StatusServiceUnavailable, Detail: "The monitor does not answer.", RetryAfter: 5})
		return
	}
	s.answer(w, r, report)
}

const noMonitor = "No monitor runs in this process, and none was named with --monitor: nothing is measured here."

// qualityView is how good a version is.
type qualityView struct {
	Version    int64
	Definition string
	Verdict    verdictView
	// Measured says that there are figures of labels that came, Current that they are
	// of what the version would have said.
	Measured    bool
	Current     bool
	Rows        int64
	HoldoutRows int64
	Expected    bool
	Figures     []figureView
	Course      *courseView
	Calibration *calibrationView
	Loss        *lossView
	Drift       *driftView
	Shadow      string
}

type verdictView struct {
	Class       string // "good", "bad" or "none"
	Title, Text string
}

// figureView is one figure, with a picture in a box of 200 by 24.
type figureView struct {
	Label, Hint, Better         string
	Measured, Holdout, Expected figureText
	// Worse says that it is worse than on the holdout, beyond chance.
	Worse   bool
	Picture []markView
}

type figureText struct{ Value, Interval string }

// markView is a figure in a picture: its interval from X for Width, and At itself.
type markView struct {
	Class        string
	X, Width, At float64
	Y            float64
}

// figureNames are the figures as people read them, in the order they are shown.
var figureNames = []struct{ name, hint string }{
	{"log_loss", "how surprised the scores are by what happens"},
	{"log_loss_skill", "log loss against the base rate's; at 0 the model is of no use"},
	{"roc_auc", "whether leavers come first; 0.5 is guessing, 1 perfect"},
	{"pr_auc", "precision over recall; guessing gives the churn rate"},
	{"calibration_error", "mean distance of probabilities from what happens"},
	{"brier", "mean squared error of the probability"},
	{"accuracy", "share of right predictions at 50 %"},
	{"precision", "share of predicted leavers who leave"},
	{"recall", "share of leavers who were predicted"},
	{"top_decile_lift", "churn rate of the tenth most at risk, over the average"},
}

// qualityView returns what is shown of a version. Without a monitor that is what it
// was published with.
func (s *Server) qualityView(ctx context.Context, v *models.Version) *qualityView {
	view := &qualityView{Version: v.Version, Definition: schemas.Label(v.Horizon)}
	var report *quality.Report
	none := func(title, text string) { view.Verdict = verdictView{"none", title, text} }
	if s.quality == nil {
		none("Not measured here", noMonitor)
	} else if r, err := s.quality.Report(ctx); err != nil {
		none("The monitor does not answer", "Shown is what the version was published with.")
		s.log.Warn("the monitor does not answer", "error", err)
	} else {
		report = r
	}
	q := report.Of(v.Version)
	known := quality.Version{Version: v.Version, Holdout: quality.FiguresOf(&v.Metrics)}
	if q != nil {
		known = *q
		if len(known.Holdout) == 0 {
			known.Holdout = quality.FiguresOf(&v.Metrics)
		}
	}
	// What a version is judged by is what is shown as measured.
	judged := known.Judged()
	view.Current, known.Current = known.Current != nil, nil
	known.Rows, known.Measured = judged.Rows, judged.Figures
	view.Rows, view.HoldoutRows = known.Rows, cmp.Or(known.HoldoutRows, v.Metrics.Rows)
	view.Measured, view.Expected = len(known.Measured) > 0, len(known.Expected) > 0
	view.Figures = figureViews(&known)
	if report == nil {
		return view
	}
	view.Course = newCourse(report.Course, known.Holdout["log_loss"])
	view.Calibration = newCalibration(known.Calibration)
	if v.Version == report.Champion {
		view.Loss, view.Drift = s.lossView(report.Loss), s.driftView(report.Drift)
	}
	if d := known.Shadow; d != nil && d.Rows > 0 {
		view.Shadow = shadowText(d, v.Version, report.Champion)
	}
	switch standing, found := known.Stands(); {
	case !report.CaughtUp:
		none("Still reading", "The monitor reads the labelled examples that there are. Figures are of a part of them.")
	case !view.Measured:
		none("No outcome yet", fmt.Sprintf("What became of customers whom version %d scored is not known yet. Its scores say what is to be expected, if they are right.", v.Version))
	case standing == quality.Fallen:
		view.Verdict = verdictView{"bad", "Worse than promised", s.whatFell(v, &known, found, report)}
	case standing == quality.Untold:
		none("Too few outcomes to tell", tooFew(&known))
	case standing == quality.NoSkill:
		view.Verdict = verdictView{"bad", "No better than the base rate", fmt.Sprintf(
			"Over the last %s outcomes, the skill of version %d is %s: the base rate alone would do as well or better. It may be chance.", count(known.Rows), v.Version, withInterval(found.Measured))}
	default:
		view.Verdict = asPromised(&known, standing)
	}
	return view
}

// tooFew says that too few outcomes are known of a version, and what its skill is so
// far if that is bad.
func tooFew(known *quality.Version) string {
	text := fmt.Sprintf("What became of %s customers is known. That does not tell whether version %d is as good as promised, nor whether it beats the base rate", count(known.Rows), known.Version)
	if known.Rows < quality.EnoughRows {
		text += fmt.Sprintf("; from %d on it may", quality.EnoughRows)
	}
	if skill, is := known.Measured["log_loss_skill"]; is && skill.Value <= 0 {
		text += fmt.Sprintf(". So far its skill is %s: the base rate alone would have done as well or better", withInterval(skill))
	}
	return text + "."
}

// asPromised says how a version does that has not fallen and has skill.
func asPromised(known *quality.Version, standing quality.Standing) verdictView {
	verdict := verdictView{Class: "good", Title: "As promised", Text: fmt.Sprintf(
		"Over the last %s outcomes, version %d ranks customers as well and is as well calibrated as on its holdout, as far as chance lets tell,", count(known.Rows), known.Version)}
	if !known.Comparable() {
		verdict.Title = "Better than the base rate"
		verdict.Text = fmt.Sprintf("Over the last %s outcomes, whether version %d is as good as on its holdout cannot be told, for want of intervals,", count(known.Rows), known.Version)
	}
	if standing == quality.Better {
		verdict.Text += " and it is better than the base rate."
		return verdict
	}
	verdict.Class, verdict.Title = "none", "Too little skill to tell"
	verdict.Text += fmt.Sprintf(" and whether it beats the base rate cannot be told yet: its skill is %s.", withInterval(known.Measured["log_loss_skill"]))
	return verdict
}

// withInterval shows a figure with its interval, where that is defined.
func withInterval(i quality.Interval) string {
	text := figureSign(float64(i.Value))
	if i.Lower.Defined() && i.Upper.Defined() {
		text += " (" + figureSign(float64(i.Lower)) + " to " + figureSign(float64(i.Upper)) + ")"
	}
	return text
}

// whatFell says by what a version has fallen, and what that is due to.
func (s *Server) whatFell(v *models.Version, known *quality.Version, found quality.Finding, report *quality.Report) string {
	text := fmt.Sprintf("Over the last %s outcomes, the %s of version %d is %s", count(known.Rows), quality.Title(found.Figure), v.Version, figureSign(float64(found.Measured.Value)))
	if found.Figure == "log_loss_skill" {
		text += ": the base rate alone would do better."
	} else {
		text += fmt.Sprintf(", where its holdout promised %s.", figureSign(float64(found.Promised.Value)))
	}
	if loss, expected := known.Measured["log_loss"], known.Expected["log_loss"]; expected.Value.Defined() && loss.Lower > expected.Upper {
		text += fmt.Sprintf(" Its scores let expect a log loss of %s, and it is %s: what makes customers leave has changed since the training.",
			figure(float64(expected.Value)), figure(float64(loss.Value)))
	}
	if v.Version == report.Champion && report.Loss != nil && report.Loss.Change > 0 {
		if names := s.costliest(report.Loss, 3); len(names) > 0 {
			text += " Most of the loss came with " + enumerate(names) + "."
		}
	}
	return text
}

func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

func enumerate(names []string) string {
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}

// costliest are the labels of the features that cost most of the loss.
func (s *Server) costliest(l *quality.Loss, n int) []string {
	features := slices.Clone(l.Features)
	slices.SortStableFunc(features, func(a, b quality.FeatureLoss) int { return cmp.Compare(b.Change, a.Change) })
	var names []string
	for _, f := range features {
		if len(names) == n || f.Change <= 0 {
			break
		}
		names = append(names, s.featureLabel(f.Feature))
	}
	return names
}

func (s *Server) featureLabel(name string) string {
	if f, ok := s.set.Spec().Index(name); ok {
		return s.set.Spec().Feature(f).Label
	}
	return name
}

func figureViews(v *quality.Version) []figureView {
	var list []figureView
	for _, f := range figureNames {
		measured, is := v.Measured[f.name]
		promised, was := v.Holdout[f.name]
		expected, will := v.Expected[f.name]
		if !is && !was && !will {
			continue
		}
		row := figureView{Label: capital(quality.Title(f.name)), Hint: f.hint, Better: "higher is better"}
		if quality.LowerIsBetter(f.name) {
			row.Better = "lower is better"
		}
		row.Worse = v.Worse(f.name)
		var marks []markView
		low, high := math.Inf(1), math.Inf(-1)
		for _, m := range []struct {
			there bool
			i     quality.Interval
			text  *figureText
			class string
			y     float64
		}{
			{was, promised, &row.Holdout, "promised", 12}, {will, expected, &row.Expected, "expected", 19}, {is, measured, &row.Measured, "measured", 5},
		} {
			if !m.there {
				*m.text = figureText{Value: "–"}
				continue
			}
			*m.text = figureText{Value: figureSign(float64(m.i.Value))}
			mark := markView{Class: m.class, At: float64(m.i.Value), X: float64(m.i.Value), Y: m.y}
			if m.i.Lower.Defined() && m.i.Upper.Defined() {
				m.text.Interval = figureSign(float64(m.i.Lower)) + " to " + figureSign(float64(m.i.Upper))
				mark.X, mark.Width = float64(m.i.Lower), float64(m.i.Upper-m.i.Lower)
			}
			low, high = min(low, mark.X, mark.At), max(high, mark.X+mark.Width, mark.At)
			marks = append(marks, mark)
		}
		if row.Worse {
			marks[len(marks)-1].Class += " worse"
		}
		span := cmp.Or(high-low, 1)
		for i := range marks {
			m := &marks[i]
			m.At, m.X, m.Width = round1(8+184*(m.At-low)/span), round1(8+184*(m.X-low)/span), round1(184*m.Width/span)
		}
		row.Picture = marks
		list = append(list, row)
	}
	return list
}

// figureSign shows a figure with a true minus.
func figureSign(x float64) string {
	if text := figure(x); !strings.HasPrefix(text, "-") {
		return text
	}
	return minus + figure(-x)
}

// courseView is how the log loss went, in a box of 640 by 180.
type courseView struct {
	Loss, Base   string // points of lines
	Band         *markView
	Promised     float64 // height of the holdout's
	HasPromised  bool
	Changes      []changeOfVersion
	Top          string
	First, Last  string
	Start, End   time.Time
	Summary      string
	LastX, LastY float64
}

type changeOfVersion struct {
	X       float64
	Version int64
}

func newCourse(slices []quality.Slice, promised quality.Interval) *courseView {
	if len(slices) < 2 {
		return nil
	}
	top, rows := 0.0, int64(0)
	for _, p := range slices {
		top = max(top, p.LogLoss, p.BaseLogLoss)
		rows += p.Rows
	}
	if promised.Value.Defined() {
		top = max(top, float64(promised.Value))
	}
	top = cmp.Or(1.1*top, 1)
	const left, width, ground, height = 6.0, 628.0, 172.0, 164.0
	y := func(loss float64) float64 { return round1(ground - height*min(loss/top, 1)) }
	start, end := slices[0].To, slices[len(slices)-1].To
	x := func(p *quality.Slice) float64 {
		return round1(left + width*float64(p.To.Sub(start))/max(float64(end.Sub(start)), 1))
	}
	c := &courseView{Top: figure(top), Start: slices[0].From, End: end}
	var loss, base strings.Builder
	for i := range slices {
		p := &slices[i]
		c.LastX, c.LastY = x(p), y(p.LogLoss)
		fmt.Fprintf(&loss, "%g,%g ", c.LastX, c.LastY)
		fmt.Fprintf(&base, "%g,%g ", c.LastX, y(p.BaseLogLoss))
		if i > 0 && p.Version != slices[i-1].Version {
			c.Changes = append(c.Changes, changeOfVersion{c.LastX, p.Version})
		}
	}
	c.Loss, c.Base = strings.TrimSpace(loss.String()), strings.TrimSpace(base.String())
	if promised.Value.Defined() {
		c.HasPromised, c.Promised = true, y(float64(promised.Value))
		if promised.Lower.Defined() && promised.Upper.Defined() {
			upper := y(float64(promised.Upper))
			c.Band = &markView{Y: upper, Width: round1(y(float64(promised.Lower)) - upper)}
		}
	}
	first, last := &slices[0], &slices[len(slices)-1]
	c.First, c.Last = figure(first.LogLoss), figure(last.LogLoss)
	c.Summary = fmt.Sprintf("Log loss of the last %s outcomes in %d parts: from %s at first to %s at last, where the base rate alone has %s",
		strconv.FormatInt(rows, 10), len(slices), c.First, c.Last, figure(last.BaseLogLoss))
	return c
}

// calibrationView is what was predicted and what happened, in a box of 200 by 200.
type calibrationView struct {
	Points []calibrationPoint
	Line   string
}

type calibrationPoint struct {
	X, Y, R             float64
	Rows                int64
	Predicted, Observed string
}

func newCalibration(curve []quality.Bin) *calibrationView {
	if len(curve) == 0 {
		return nil
	}
	most := int64(0)
	for _, b := range curve {
		most = max(most, b.Rows)
	}
	c := new(calibrationView)
	var line strings.Builder
	for _, b := range curve {
		p := calibrationPoint{X: round1(10 + 180*b.Predicted), Y: round1(190 - 180*b.Observed), R: round1(2 + 5*math.Sqrt(float64(b.Rows)/float64(max(most, 1)))),
			Rows: b.Rows, Predicted: percent(b.Predicted), Observed: percent(b.Observed)}
		c.Points = append(c.Points, p)
		fmt.Fprintf(&line, "%g,%g ", p.X, p.Y)
	}
	c.Line = strings.TrimSpace(line.String())
	return c
}

// lossView is which features the log loss changed by, the most first, with bars in
// a box of 200 by 8 whose middle is zero.
type lossView struct {
	Change          string
	More            bool
	Rows, Reference int64
	Features        []lossRow
}

type lossRow struct {
	Label string
	Bar   barView
	Value string
}

// shownFeatures is how many features a list shows.
const shownFeatures = 8

func (s *Server) lossView(l *quality.Loss) *lossView {
	if l == nil || len(l.Features) == 0 {
		return nil
	}
	v := &lossView{Change: figure(math.Abs(l.Change)), More: l.Change > 0, Rows: l.Rows, Reference: l.Reference}
	features := slices.Clone(l.Features)
	slices.SortStableFunc(features, func(a, b quality.FeatureLoss) int { return cmp.Compare(math.Abs(b.Change), math.Abs(a.Change)) })
	scale := fullBar([]float64{features[0].Change})
	for _, f := range features[:min(len(features), shownFeatures)] {
		v.Features = append(v.Features, lossRow{s.featureLabel(f.Feature), newBar(f.Change, scale), figureSign(f.Value)})
	}
	return v
}

// driftView is how customers and scores differ from those of the training, what is
// furthest beyond its threshold first, with bars in a box of 100 by 6.
type driftView struct {
	Scores int64
	// Beyond is how many of all, the attributes and the probability, are beyond a
	// threshold.
	Beyond, Of int
	Rows       []driftRow
}

type driftRow struct {
	Label          string
	Values, Reason measureView
	ratio          float64
}

// measureView is a measure against its threshold, which is at the middle.
type measureView struct {
	Text, Threshold string
	Bar             float64
	Exceeded        bool
	Known           bool
}

func newMeasure(m quality.Measure) (measureView, float64) {
	if !m.Value.Defined() {
		return measureView{Text: "–"}, 0
	}
	v := measureView{Text: figureSign(float64(m.Value)), Exceeded: m.Exceeded(), Known: true}
	if !m.Threshold.Defined() || m.Threshold <= 0 {
		return v, 0
	}
	v.Threshold = figure(float64(m.Threshold))
	ratio := math.Abs(float64(m.Value / m.Threshold))
	v.Bar = round1(50 * min(ratio, 2))
	return v, ratio
}

func (s *Server) driftView(d *quality.Drift) *driftView {
	if d == nil || d.Scores == 0 {
		return nil
	}
	v := &driftView{Scores: d.Scores, Of: len(d.Features) + 1}
	add := func(label string, values, reason quality.Measure) {
		row := driftRow{Label: label}
		var a, b float64
		row.Values, a = newMeasure(values)
		row.Reason, b = newMeasure(reason)
		row.ratio = max(a, b)
		if row.Values.Exceeded || row.Reason.Exceeded {
			v.Beyond++
		}
		v.Rows = append(v.Rows, row)
	}
	add("Probability of leaving", d.Score, quality.Measure{Value: quality.Number(math.NaN())})
	for _, f := range d.Features {
		add(s.featureLabel(f.Feature), f.Values, f.Reason)
	}
	slices.SortStableFunc(v.Rows, func(a, b driftRow) int { return cmp.Compare(b.ratio, a.ratio) })
	v.Rows = v.Rows[:min(len(v.Rows), shownFeatures)]
	return v
}

func shadowText(d *quality.Shadow, challenger, champion int64) string {
	i := d.Difference
	text := fmt.Sprintf("On the same %s outcomes, version %d would have had a log loss of %s and version %d of %s",
		count(d.Rows), challenger, figure(d.Challenger), champion, figure(d.Champion))
	switch {
	case i.Upper < 0:
		text += ": the challenger is better beyond chance"
	case i.Lower > 0:
		text += ": the challenger is worse beyond chance"
	default:
		text += ": no difference beyond chance"
	}
	if i.Lower.Defined() && i.Upper.Defined() {
		text += fmt.Sprintf(" (difference %s, 95 %% interval %s to %s)", figureSign(float64(i.Value)), figureSign(float64(i.Lower)), figureSign(float64(i.Upper)))
	}
	return text + "."
}
