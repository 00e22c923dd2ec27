package serving

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/problem"
	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

//go:embed openapi.json
var openAPITemplate []byte

//go:embed templates/*.html static/*
var files embed.FS

const (
	pageSize = 25
	// chips is how many reasons a row of the list shows.
	chips = 3
	// streamSilence is how long a stream may say nothing before it shows that
	// it is alive, so that nothing on the way closes it.
	streamSilence = 15 * time.Second
)

// pages are the parsed templates and the static files.
type pages struct {
	byName map[string]*template.Template
	static map[string]asset
}

type asset struct {
	body []byte
	tag  string // from the content
}

func parsePages(s *Server) (*pages, error) {
	p := &pages{byName: map[string]*template.Template{}, static: map[string]asset{}}
	list, err := fs.ReadDir(files, "static")
	if err != nil {
		return nil, fmt.Errorf("reading the embedded files: %w", err)
	}
	for _, f := range list {
		body, err := files.ReadFile("static/" + f.Name())
		if err != nil {
			return nil, fmt.Errorf("reading the embedded files: %w", err)
		}
		sum := sha256.Sum256(body)
		p.static[f.Name()] = asset{body, hex.EncodeToString(sum[:8])}
	}
	funcs := template.FuncMap{
		"static":  func(name string) string { return "/static/" + name + "?v=" + p.static[name].tag },
		"percent": percent,
		"count":   count,
		"figure":  figure,
		"times":   times,
		"time":    func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04:05 UTC") },
		"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"ago":     func(t time.Time) string { return ago(s.now().Sub(t)) },
	}
	for _, name := range []string{"customers", "customer", "model", "missing"} {
		t, err := template.New("layout.html").Funcs(funcs).ParseFS(files, "templates/layout.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("parsing the page %s: %w", name, err)
		}
		p.byName[name] = t
	}
	return p, nil
}

// render answers with a page, or with one of its parts.
func (s *Server) render(w http.ResponseWriter, r *http.Request, status int, page, part string, view any) {
	var buf bytes.Buffer
	if err := s.pages.byName[page].ExecuteTemplate(&buf, part, view); err != nil {
		s.problem(w, r, fmt.Errorf("rendering the page %s: %w", page, err))
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes())
}

// frame is what the layout of every page needs.
type frame struct {
	Title   string
	Section string
	// Live pages listen to the event stream.
	Live bool
}

type customersView struct {
	frame
	Summary summary
	List    listView
	Filter  filterView
}

// summary is what the tiles show.
type summary struct {
	Known, High int
	HighShare   float64
	Model       *models.Version
	Rate        float64
	Reading     bool
}

type filterView struct {
	Risks  []choice
	Orders []choice
	Text   string
}

type choice struct {
	Value, Label string
	Chosen       bool
}

type listView struct {
	Rows           []rowView
	Total          int
	First, Last    int
	Previous, Next string
	// Empty says why there are no rows.
	Empty string
}

type rowView struct {
	*Customer
	Href      string
	Scored    time.Time
	RiskClass string
	RiskWord  string
	Bar       float64
	Change    changeView
	Reasons   []reasonView
}

// changeView is how a probability moved since the previous score.
type changeView struct {
	Known bool
	Text  string // in percentage points, with sign
	Class string // "up", "down" or "same"
}

type reasonView struct {
	Label, Value, Weight string
	Class                string // "toward" or "away" from churn
}

func (s *Server) customersView(r *http.Request) *customersView {
	values := r.URL.Query()
	values.Del("limit")
	q, _ := readQuery(values.Encode(), false, s.limits.Page)
	q.Limit = pageSize
	v := &customersView{frame: frame{Title: "Customers at risk", Section: "customers", Live: true}}
	v.Summary = s.summary()
	v.Filter.Text = q.Text
	v.Filter.Risks = []choice{{"", "All", q.Risk == AnyRisk}}
	for risk := schemas.RiskHigh; ; risk-- {
		v.Filter.Risks = append(v.Filter.Risks, choice{risk.String(), riskWord(risk), q.Risk == risk})
		if risk == schemas.RiskLow {
			break
		}
	}
	v.Filter.Orders = []choice{
		{"probability", "Highest probability", q.Order == ByProbability},
		{"recent", "Most recent", q.Order == ByRecency},
	}
	var page Page
	if !v.Summary.Reading { // else customers may stand there who have been erased
		page = s.customers.List(q)
	}
	l := &v.List
	l.Total = page.Total
	for _, c := range page.Customers {
		l.Rows = append(l.Rows, s.rowView(c))
	}
	if n := len(l.Rows); n > 0 {
		l.First, l.Last = q.Offset+1, q.Offset+n
	} else {
		l.Empty = emptyList(&v.Summary, q)
	}
	if q.Offset > 0 {
		l.Previous = pageHref(q, max(q.Offset-pageSize, 0))
	}
	if next := q.Offset + pageSize; next < page.Total && next+pageSize <= maxDepth {
		l.Next = pageHref(q, next)
	}
	return v
}

func emptyList(sum *summary, q Query) string {
	switch {
	case sum.Reading:
		return "Reading the scores there are. Customers appear here in a moment."
	case sum.Known == 0 && sum.Model == nil:
		return "No model yet: the scorer waits until the trainer has published the first version."
	case q.Offset > 0:
		return "The list ends before this page."
	case q.Text != "" && q.Risk == AnyRisk:
		return "No customer's id contains “" + q.Text + "”."
	case q.Text != "":
		return "No customer's id contains “" + q.Text + "” at this risk."
	case q.Risk == AnyRisk:
		return "No customer has been scored yet. They appear here with their first event."
	}
	return "No customer is at " + strings.ToLower(riskWord(q.Risk)) + " risk."
}

func pageHref(q Query, offset int) string {
	values := url.Values{}
	if q.Risk != AnyRisk {
		values.Set("risk", q.Risk.String())
	}
	if q.Order == ByRecency {
		values.Set("sort", "recent")
	}
	if q.Text != "" {
		values.Set("q", q.Text)
	}
	if offset > 0 {
		values.Set("offset", strconv.Itoa(offset))
	}
	if len(values) == 0 {
		return "/"
	}
	return "/?" + values.Encode()
}

func (s *Server) summary() summary {
	counts := s.customers.Counts()
	sum := summary{
		High:    counts[schemas.RiskHigh],
		Model:   s.models.Champion(),
		Rate:    s.customers.Rate(),
		Reading: !s.customers.isCaughtUp(),
	}
	for _, n := range counts {
		sum.Known += n
	}
	if sum.Known > 0 {
		sum.HighShare = float64(sum.High) / float64(sum.Known)
	}
	return sum
}

func (s *Server) rowView(c *Customer) rowView {
	row := rowView{
		Customer:  c,
		Href:      "/customers/" + url.PathEscape(c.ID()),
		Scored:    millis(c.ScoredAt),
		RiskClass: strings.ToLower(c.Risk.String()),
		RiskWord:  riskWord(c.Risk),
		Bar:       round1(100 * c.Probability),
		Change:    changeSince(c),
	}
	for _, e := range c.Explanations[:min(chips, len(c.Explanations))] {
		weight := e.LIME
		if scoring.IsMissing(weight) {
			weight = e.SHAP
		}
		row.Reasons = append(row.Reasons, reasonView{
			Label:  s.set.Spec().Feature(e.Feature).Label,
			Value:  s.valueText(e.Feature, c.Attributes[e.Feature], c.Levels),
			Weight: signed(weight, 2),
			Class:  direction(weight),
		})
	}
	return row
}

func changeSince(c *Customer) changeView {
	if scoring.IsMissing(c.Previous) {
		return changeView{}
	}
	points := round1(100 * (c.Probability - c.Previous))
	v := changeView{Known: true, Text: signed(points, 1), Class: "same"}
	if points > 0 {
		v.Class = "up"
	} else if points < 0 {
		v.Class = "down"
	}
	return v
}

// valueText is a value with its unit, or words where it is not known.
func (s *Server) valueText(feature int, x float64, levels scoring.Levels) string {
	if scoring.IsMissing(x) {
		return "not known"
	}
	text := s.set.Text(feature, x, levels)
	if f := s.set.Spec().Feature(feature); f.Unit != "" {
		unit := f.Unit
		if x == 1 {
			unit = singular(unit)
		}
		text += " " + unit
	}
	return text
}

// singular takes the plural s off an English unit, such as months. Short ones
// (ms) and those that end in s anyway (celsius, basis) stay as they are.
func singular(unit string) string {
	if len(unit) < 4 || !strings.HasSuffix(unit, "s") {
		return unit
	}
	for _, ending := range []string{"ss", "us", "is"} {
		if strings.HasSuffix(unit, ending) {
			return unit
		}
	}
	return unit[:len(unit)-1]
}

func (s *Server) pageCustomers(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, http.StatusOK, "customers", "layout.html", s.customersView(r))
}

func (s *Server) fragmentCustomers(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, http.StatusOK, "customers", "fragment", s.customersView(r))
}

type customerView struct {
	frame
	rowView
	Occurred time.Time
	// Now is what the current model says; nil while there is none.
	Now     *nowView
	Unknown []string // labels of features that were missing when scored
	History sparkline
	Best    *bestView
	Stored  []contribution // used while there is no model
}

// nowView is a customer seen by the current model.
type nowView struct {
	Version       int64
	Probability   float64
	Base          float64
	RiskClass     string
	RiskWord      string
	Scale         float64 // the weight at which a bar is full
	Contributions []contribution
	Actionable    []formField
	Other         []formField
	Differs       bool // from the stored score
}

// contribution is one feature's weights, and bars in a box of 200 by 8 whose
// middle is zero.
type contribution struct {
	Name, Label, Value string
	Unknown            bool
	LIME, SHAP         barView
}

type barView struct {
	X, Width float64
	Text     string
	Class    string
}

type formField struct {
	Name, Label, Unit string
	Numeric           bool
	Value             string
	Options           []choice
}

type bestView struct {
	Name, Label, Value, Text string
	Probability              float64
}

func (s *Server) pageCustomer(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	c, history := s.customers.Get(id)
	if c == nil || !s.customers.isCaughtUp() {
		s.render(w, r, http.StatusNotFound, "missing", "layout.html", struct {
			frame
			ID      string
			Reading bool
		}{frame{Title: "Unknown customer", Section: "customers"}, id, !s.customers.isCaughtUp()})
		return
	}
	c = s.current(c)
	spec := s.set.Spec()
	view := &customerView{
		frame:    frame{Title: "Customer " + c.ID(), Section: "customers"},
		rowView:  s.rowView(c),
		Occurred: millis(c.OccurredAt),
		History:  newSparkline(history),
	}
	for _, f := range c.Missing {
		view.Unknown = append(view.Unknown, spec.Feature(f).Label)
	}
	if v := s.models.Champion(); v != nil {
		ws := v.Predictor.NewWorkspace()
		view.Now = s.nowView(v, c, ws)
		if f, value, p, ok := v.Predictor.BestChange(c.Attributes, ws); ok {
			view.Best = s.bestView(f, value, p, nil)
		}
	} else {
		lime, shap := scoring.NewVector(spec.Len()), scoring.NewVector(spec.Len())
		order := make([]int, len(c.Explanations))
		for i, e := range c.Explanations {
			order[i], lime[e.Feature], shap[e.Feature] = e.Feature, e.LIME, e.SHAP
		}
		view.Stored = s.contributions(c, lime, shap, c.Missing, order, fullBar(lime, shap))
		if c.HasBestChange {
			view.Best = s.bestView(c.BestChange.Feature, c.BestChange.Value, c.BestChange.Probability, c.Levels)
		}
	}
	s.render(w, r, http.StatusOK, "customer", "layout.html", view)
}

func (s *Server) bestView(feature int, value, probability float64, levels scoring.Levels) *bestView {
	f := s.set.Spec().Feature(feature)
	return &bestView{f.Name, f.Label, s.set.Text(feature, value, levels), s.valueText(feature, value, levels), probability}
}

func (s *Server) nowView(v *models.Version, c *Customer, ws *scoring.Workspace) *nowView {
	p := predict(v, c.Attributes, ws)
	now := &nowView{
		Version:     v.Version,
		Probability: p.Probability,
		Base:        v.Predictor.ExpectedProbability(),
		RiskClass:   strings.ToLower(p.risk.String()),
		RiskWord:    riskWord(p.risk),
		Scale:       fullBar(p.LIME, p.SHAP),
		Differs:     percent(p.Probability) != percent(c.Probability),
	}
	order := scoring.TopByMagnitude(nil, p.LIME, -1)
	now.Contributions = s.contributions(c, p.LIME, p.SHAP, p.Missing, order, now.Scale)

	levels := map[string][]string{}
	for _, f := range v.Model.Features {
		levels[f.Name] = f.Levels
	}
	for i := range s.set.Spec().Len() {
		f := s.set.Spec().Feature(i)
		field := formField{Name: f.Name, Label: f.Label, Unit: f.Unit,
			Numeric: f.Kind == scoring.Numeric, Value: s.set.Text(i, c.Attributes[i], c.Levels)}
		if !field.Numeric {
			field.Options = levelChoices(levels[f.Name], field.Value)
		}
		if f.Actionable {
			now.Actionable = append(now.Actionable, field)
		} else {
			now.Other = append(now.Other, field)
		}
	}
	return now
}

// levelChoices lists the levels a model knows, and what the customer has if it
// is none of them.
func levelChoices(levels []string, value string) []choice {
	list := make([]choice, 0, len(levels)+2)
	for _, level := range levels {
		list = append(list, choice{level, level, level == value})
	}
	if value != "" && !slices.Contains(levels, value) {
		list = append(list, choice{value, value + " (unknown to the model)", true})
	}
	return append(list, choice{"", "not known", value == ""})
}

// contributions lists features in the given order, with bars that are full at
// the weight scale.
func (s *Server) contributions(c *Customer, lime, shap []float64, missing, order []int, scale float64) []contribution {
	list := make([]contribution, len(order))
	for i, f := range order {
		feature := s.set.Spec().Feature(f)
		list[i] = contribution{
			Name: feature.Name, Label: feature.Label, Value: s.valueText(f, c.Attributes[f], c.Levels),
			Unknown: slices.Contains(missing, f) && !scoring.IsMissing(c.Attributes[f]),
			LIME:    newBar(lime[f], scale), SHAP: newBar(shap[f], scale),
		}
	}
	return list
}

// fullBar returns the weight at which a bar is full: a little above the
// greatest, so that a what-if has room to grow.
func fullBar(weights ...[]float64) float64 {
	greatest := 0.0
	for _, list := range weights {
		for _, w := range list {
			if a := math.Abs(w); a > greatest { // false for a missing one
				greatest = a
			}
		}
	}
	return cmp.Or(1.15*greatest, 1)
}

func newBar(weight, scale float64) barView {
	if scoring.IsMissing(weight) {
		return barView{X: 100, Text: "–", Class: "none"}
	}
	width := round1(100 * min(math.Abs(weight)/scale, 1))
	b := barView{X: 100, Width: width, Text: signed(weight, 3), Class: direction(weight)}
	if weight < 0 {
		b.X = round1(100 - width)
	}
	return b
}

// sparkline is a history drawn into a box of 300 by 60, the whole height being
// probabilities from 0 to 1.
type sparkline struct {
	Points       string
	LastX, LastY float64
	First, Last  Point
	Low, High    float64
	N            int
}

func newSparkline(history []Point) sparkline {
	s := sparkline{N: len(history), Low: 1}
	if s.N == 0 {
		return s
	}
	var b strings.Builder
	for i, p := range history {
		s.LastX = 296
		if s.N > 1 {
			s.LastX = round1(4 + 292*float64(i)/float64(s.N-1))
		}
		s.LastY = round1(56 - 52*p.Probability())
		fmt.Fprintf(&b, "%g,%g ", s.LastX, s.LastY)
		s.Low, s.High = min(s.Low, p.Probability()), max(s.High, p.Probability())
	}
	s.Points, s.First, s.Last = strings.TrimSpace(b.String()), history[0], history[s.N-1]
	return s
}

type modelView struct {
	frame
	Champion *versionView
	// Chosen is the version that is asked for, else the champion.
	Chosen     *versionView
	Quality    *qualityView
	Happened   []happening
	Versions   []versionView
	Importance []importanceView
}

type versionView struct {
	V          *models.Version
	Created    time.Time
	StageWord  string
	StageClass string
	Reason     string // as a sentence of its own
	InForce    bool
	Shown      bool
	// What was measured.
	Outcomes                int64
	LiveLogLoss, LiveROCAUC string
	Worse                   bool
}

// happening is something that happened to the models.
type happening struct {
	At         time.Time
	Text, Note string
}

// maxHappenings bounds what the page tells.
const maxHappenings = 8

// happened lists what happened to the models, the latest first.
func (s *Server) happened() []happening {
	var list []happening
	for _, v := range s.models.List() {
		text := fmt.Sprintf("Version %d was published as %s", v.Version, strings.ToLower(v.Stage.String()))
		if v.Stage == schemas.StageRetired { // what it was at first is not known
			text = fmt.Sprintf("Version %d was published", v.Version)
		}
		if v.Reason == models.ByHand { // in place of why it was published, and as what
			list = append(list, happening{At: millis(v.CreatedAt), Text: fmt.Sprintf("Version %d was published", v.Version)},
				happening{At: millis(v.WrittenAt), Text: fmt.Sprintf("Version %d was activated by hand", v.Version)})
			continue
		}
		list = append(list, happening{millis(v.CreatedAt), text, v.Reason})
	}
	for _, at := range s.asked.list() {
		list = append(list, happening{At: at, Text: "A training was asked for"})
	}
	slices.SortStableFunc(list, func(a, b happening) int { return b.At.Compare(a.At) })
	return list[:min(len(list), maxHappenings)]
}

type importanceView struct {
	Label          string
	SHAP, LIME     float64
	SHAPBar        float64
	SHAPTxt, LIMEs string
}

func (s *Server) modelView(r *http.Request) *modelView {
	view := &modelView{frame: frame{Title: "Model", Section: "model", Live: true}}
	var report *quality.Report
	if s.quality != nil {
		report, _ = s.quality.Report(r.Context()) // its absence is told of with the figures
	}
	champion := s.models.Champion()
	chosen := champion
	if n, err := strconv.ParseInt(r.URL.Query().Get("version"), 10, 64); err == nil {
		chosen = cmp.Or(s.models.Get(n), champion)
	}
	view.Happened = s.happened()
	for _, v := range s.models.List() {
		view.Versions = append(view.Versions, newVersionView(v, champion, chosen, report))
	}
	if champion != nil {
		c := newVersionView(champion, champion, chosen, report)
		view.Champion = &c
	}
	if chosen != nil {
		c := newVersionView(chosen, champion, chosen, report)
		view.Chosen, view.Quality = &c, s.qualityView(r.Context(), chosen)
		view.Importance = s.importance(chosen.Model)
	}
	return view
}

func (s *Server) pageModel(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, http.StatusOK, "model", "layout.html", s.modelView(r))
}

func (s *Server) fragmentModel(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, http.StatusOK, "model", "fragment", s.modelView(r))
}

func newVersionView(v, champion, chosen *models.Version, report *quality.Report) versionView {
	view := versionView{
		V:           v,
		Created:     millis(v.CreatedAt),
		StageWord:   sentence(v.StageNow(champion).String()),
		StageClass:  strings.ToLower(v.StageNow(champion).String()),
		Reason:      capitalized(v.Reason),
		InForce:     champion != nil && champion.Version == v.Version,
		Shown:       chosen != nil && chosen.Version == v.Version,
		LiveLogLoss: "–", LiveROCAUC: "–",
	}
	if q := report.Of(v.Version); q != nil {
		view.Outcomes = q.Examples
		if i, ok := q.Measured["log_loss"]; ok {
			view.LiveLogLoss = figure(float64(i.Value))
		}
		if i, ok := q.Measured["roc_auc"]; ok {
			view.LiveROCAUC = figure(float64(i.Value))
		}
		standing, _ := q.Stands()
		view.Worse = standing == quality.Fallen || standing == quality.NoSkill
	}
	return view
}

func (s *Server) importance(m *scoring.Model) []importanceView {
	if m == nil || len(m.Importance) == 0 {
		return nil
	}
	greatest := 0.0
	for _, i := range m.Importance {
		greatest = max(greatest, i.SHAP)
	}
	list := make([]importanceView, len(m.Importance))
	for k, i := range m.Importance {
		label := i.Feature
		if f, ok := s.set.Spec().Index(i.Feature); ok {
			label = s.set.Spec().Feature(f).Label
		}
		list[k] = importanceView{Label: label, SHAP: i.SHAP, LIME: i.LIME,
			SHAPTxt: figure(i.SHAP), LIMEs: figure(i.LIME)}
		if greatest > 0 {
			list[k].SHAPBar = round1(100 * i.SHAP / greatest)
		}
	}
	slices.SortStableFunc(list, func(a, b importanceView) int { return cmp.Compare(b.SHAP, a.SHAP) })
	return list
}

// events is a stream that says "changed" when customers, models or labels did, at
// most once per tick. What changed, the page asks for.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	defer s.streams.Add(-1)
	if s.streams.Add(1) > int64(s.limits.Streams) {
		s.problem(w, r, &problem.Details{Status: http.StatusServiceUnavailable,
			Detail: "Too many event streams are open.", RetryAfter: 30})
		return
	}
	rc := http.NewResponseController(w)
	// The limits of a request do not hold for a stream; each write has its own.
	_ = rc.SetReadDeadline(time.Time{})
	send := func(text string) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(s.limits.StreamWrite))
		if _, err := w.Write([]byte(text)); err != nil {
			return false
		}
		if rc.Flush() != nil {
			return false
		}
		// In HTTP/2 a deadline that passes ends the stream, written to or not.
		_ = rc.SetWriteDeadline(time.Time{})
		return true
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold the stream back
	seen, changed, labels := s.customers.Generation(), s.models.Changed(), s.labelled(r.Context())
	if !send("retry: 3000\n\n") {
		return
	}
	ticker := time.NewTicker(s.tick)
	defer ticker.Stop()
	said, model := time.Now(), false
	for {
		select {
		case <-r.Context().Done():
			return
		case <-s.stopped:
			return
		case <-changed:
			model, changed = true, s.models.Changed()
		case <-ticker.C:
			g, l, text := s.customers.Generation(), s.labelled(r.Context()), ""
			if g != seen || model || l != labels {
				seen, model, labels, text = g, false, l, "data: changed\n\n"
			} else if time.Since(said) >= streamSilence {
				text = ": alive\n\n"
			}
			if text != "" {
				if !send(text) {
					return
				}
				said = time.Now()
			}
		}
	}
}

func (s *Server) getStatic(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	a, ok := s.pages.static[name]
	if !ok {
		s.notFound(w, r)
		return
	}
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	w.Header().Set("Content-Type", types[path.Ext(name)])
	w.Header().Set("ETag", `"`+a.tag+`"`)
	w.Header().Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == a.tag {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(a.body))
}

// How numbers are shown.

const minus = "\u2212"

// Of figures that are not defined, a dash is shown.

func percent(p float64) string { return shown(100*p, 1, "\u202f%") }

func figure(x float64) string { return shown(x, 3, "") }

func times(x float64) string { return shown(x, 1, "×") }

func shown(x float64, digits int, unit string) string {
	if scoring.IsMissing(x) {
		return "–"
	}
	return strconv.FormatFloat(x, 'f', digits, 64) + unit
}

// signed shows a weight with its sign, and one that rounds to nothing without.
func signed(x float64, digits int) string {
	text := strconv.FormatFloat(math.Abs(x), 'f', digits, 64)
	switch {
	case strings.Trim(text, "0.") == "":
		return text
	case x < 0:
		return minus + text
	}
	return "+" + text
}

// count groups the digits of a number in threes.
func count(n any) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

func round1(x float64) float64 { return math.Round(10*x) / 10 }

// direction is the class of a weight: what pushes towards churn is red.
func direction(weight float64) string {
	if weight < 0 {
		return "away"
	}
	return "toward"
}

func riskWord(r schemas.Risk) string { return sentence(r.String()) }

// sentence writes a symbol as a word: HIGH becomes High.
func sentence(symbol string) string { return symbol[:1] + strings.ToLower(symbol[1:]) }

// capitalized makes a text begin as a sentence does.
func capitalized(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	if first == utf8.RuneError {
		return text
	}
	return string(unicode.ToUpper(first)) + text[size:]
}

// ago is how long something is past, roughly.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}
