package serving

import (
	"bufio"
	"context"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
)

// measured returns a report of the version: as promised, or after what makes
// customers leave has changed.
func measured(version int64, changed bool) *quality.Report {
	at := time.UnixMilli(1_750_000_000_000).UTC()
	f := func(of ...any) quality.Figures {
		out := quality.Figures{}
		for i := 0; i < len(of); i += 4 {
			out.Set(of[i].(string), of[i+1].(float64), of[i+2].(float64), of[i+3].(float64))
		}
		return out
	}
	v := quality.Version{
		Version: version, Examples: 4321, Rows: 2000, Churners: 500, HoldoutRows: 1500, ExpectedRows: 3000,
		Measured:    f("log_loss", .42, .4, .44, "log_loss_skill", .28, .25, .31, "roc_auc", .83, .81, .85, "calibration_error", .02, .01, .03),
		Holdout:     f("log_loss", .41, .39, .43, "log_loss_skill", .3, .27, .33, "roc_auc", .84, .82, .86, "calibration_error", .02, .01, .03),
		Expected:    f("log_loss", .415, .4, .43, "roc_auc", .835, .82, .85),
		Calibration: []quality.Bin{{Rows: 900, Predicted: .05, Observed: .06}, {Rows: 100, Predicted: .95, Observed: .9}},
	}
	r := &quality.Report{At: at, CaughtUp: true, Window: 2000, Champion: version, Examples: 4321,
		Drift: &quality.Drift{Scores: 5000, Score: quality.Measure{Value: .01, Threshold: .05}, Features: []quality.FeatureDrift{
			{Feature: "plan", Values: quality.Measure{Value: .02, Threshold: .05}, Reason: quality.Measure{Value: -.01, Threshold: .05}},
			{Feature: "town", Values: quality.Measure{Value: quality.Number(math.NaN())}, Reason: quality.Measure{Value: quality.Number(math.NaN())}},
		}}}
	for i := range 4 {
		r.Course = append(r.Course, quality.Slice{From: at.Add(time.Duration(i) * time.Minute), To: at.Add(time.Duration(i+1) * time.Minute),
			Rows: 500, Version: version, LogLoss: .4, BaseLogLoss: .58})
	}
	if changed {
		v.Measured = f("log_loss", 1.2, 1.1, 1.3, "log_loss_skill", -.9, -1., -.8, "roc_auc", .25, .22, .28, "calibration_error", .3, .28, .32)
		r.Loss = &quality.Loss{Rows: 1000, Reference: 1000, Change: .8, Features: []quality.FeatureLoss{
			{Feature: "plan", Value: .7, Change: .6}, {Feature: "town", Value: .1, Change: -.05}, {Feature: "visits", Value: .3, Change: .25}}}
		r.Course[3].LogLoss = 1.2
		r.Drift.Features[0].Values.Value = .2
	}
	r.Versions = []quality.Version{v}
	return r
}

// newMeasuredStage returns a stage with a champion and a monitor whose report is
// what report points to.
func newMeasuredStage(t *testing.T, report **quality.Report) *stage {
	st := newStage(t)
	st.quality = quality.Handler(func() *quality.Report { return *report })
	st.models.add(st.version(1, schemas.StageRetired))
	st.models.add(st.version(2, schemas.StageChampion))
	return st
}

func TestModelAsPromised(t *testing.T) {
	report := measured(2, false)
	st := newMeasuredStage(t, &report)
	page := checkPage(t, st, "/model", 200)
	wants(t, page, `class="verdict good"`, "As promised", "How good version 2 is at telling who leaves within 30 days", "0.420", "(0.400 to 0.440)", "cannot see a change in what makes customers leave",
		"<polyline class=\"measured\"", "Calibration", "Nothing is beyond what chance explains", "4\u202f321", `data-live`)
	if strings.Contains(page, "worse than promised") || strings.Contains(page, "changed the log loss") {
		t.Error("it says that something is worse")
	}
	// Of another version there are no figures but its own.
	wants(t, checkPage(t, st, "/model?version=1", 200), "How good version 1 is", "No outcome yet")
	wants(t, checkPage(t, st, "/model?version=99", 200), "How good version 2 is")
	if fragment := checkPage(t, st, "/fragment/model", 200); strings.Contains(fragment, "<html") {
		t.Error("the fragment is a whole page")
	} else {
		wants(t, fragment, `id="lead"`, `id="quality"`, `id="versions"`)
	}
}

func TestModelThatFell(t *testing.T) {
	report := measured(2, true)
	st := newMeasuredStage(t, &report)
	wants(t, checkPage(t, st, "/model", 200), `class="verdict bad"`, "Worse than promised",
		"the skill of version 2 is "+minus+"0.900: the base rate alone would do better",
		"what makes customers leave has changed since the training", "Most of the loss came with Plan and Visits.",
		"worse than promised", "+0.600", minus+"0.050", "What changed the log loss", "greater by 0.800", "Beyond what chance explains: 1 of 3.", "beyond the threshold of 0.050")
	// As the champion it would be right now.
	now := measured(2, false).Versions[0]
	report.Versions[0].Current = &quality.Sample{Rows: 1234, Figures: now.Measured}
	wants(t, checkPage(t, st, "/model", 200), "As promised", "1\u202f234 outcomes that are new to the version, by what it would have said", "0.420")
	report.Versions[0].Current = nil
	report.Versions[0].Measured = quality.Figures{}
	wants(t, checkPage(t, st, "/model", 200), "No outcome yet", "0.415")
	report.CaughtUp = false
	wants(t, checkPage(t, st, "/model", 200), "Still reading")
}

// The page never says better of a version than what its outcomes tell, nor anything
// else than the alerts do.
func TestVerdicts(t *testing.T) {
	nan := math.NaN()
	type figures = map[string][3]float64
	for _, test := range []struct {
		name         string
		rows         int64
		measured     figures
		holdout      figures
		class, title string
		says         []string
	}{
		{"good", 2000, nil, nil, "good", "As promised", []string{"as on its holdout", "it is better than the base rate"}},
		{"too few", 199, nil, nil, "none", "Too few outcomes to tell", []string{"from 200 on it may"}},
		{"too few, and bad", 12, figures{"log_loss_skill": {-.4, -1.1, .1}, "roc_auc": {.45, .2, .85}}, nil, "none", "Too few outcomes to tell",
			[]string{"its skill is " + minus + "0.400 (" + minus + "1.100 to 0.100): the base rate alone would have done as well or better"}},
		{"no skill", 200, figures{"log_loss_skill": {0, -.1, .1}}, nil, "bad", "No better than the base rate", []string{"the skill of version 2 is 0", "may be chance"}},
		{"no skill, without an interval", 500, figures{"log_loss_skill": {-.1, nan, nan}}, nil, "bad", "No better than the base rate", []string{"the skill of version 2 is " + minus + "0.100:"}},
		{"without an interval", 500, figures{"log_loss_skill": {.2, nan, nan}}, nil, "none", "Too few outcomes to tell", []string{"What became of 500 customers is known."}},
		{"without skill", 500, figures{"log_loss_skill": {nan, nan, nan}}, nil, "none", "Too few outcomes to tell", nil},
		{"little skill", 500, figures{"log_loss_skill": {.02, -.01, .05}}, nil, "none", "Too little skill to tell", []string{"cannot be told yet: its skill is 0.020"}},
		{"nothing to compare with", 500, nil, figures{"roc_auc": {.84, nan, nan}}, "good", "Better than the base rate", []string{"cannot be told, for want of intervals, and it is better"}},
		{"few, but beyond chance", 50, figures{"log_loss_skill": {-.9, -1, -.8}}, nil, "bad", "Worse than promised", nil},
	} {
		report := measured(2, false)
		v := &report.Versions[0]
		v.Rows = test.rows
		for into, changed := range map[*quality.Figures]figures{&v.Measured: test.measured, &v.Holdout: test.holdout} {
			for name, f := range changed {
				delete(*into, name)
				into.Set(name, f[0], f[1], f[2])
			}
		}
		view := newMeasuredStage(t, &report).view(t)
		if view.Class != test.class || view.Title != test.title {
			t.Errorf("%s: %+v", test.name, view)
		}
		for _, says := range test.says {
			if !strings.Contains(view.Text, says) {
				t.Errorf("%s: it does not say %q: %s", test.name, says, view.Text)
			}
		}
		if test.class != "good" && strings.Contains(view.Text, "better than the base rate") {
			t.Errorf("%s: %s", test.name, view.Text)
		}
	}
}

func (st *stage) view(t *testing.T) verdictView {
	t.Helper()
	return st.qualityView(t.Context(), st.models.Champion()).Verdict
}

func TestModelWithoutAMonitor(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(1, schemas.StageChampion))
	wants(t, checkPage(t, st, "/model", 200), "Not measured here", "0.834")
	if w := st.do("GET", quality.Path, ""); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "--monitor") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	st.quality = silent{}
	wants(t, checkPage(t, st, "/model", 200), "The monitor does not answer", "0.834")
	if w := st.do("GET", quality.Path, ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

type silent struct{}

func (silent) Report(context.Context) (*quality.Report, error) { return nil, errors.New("not there") }

func TestMonitorElsewhere(t *testing.T) {
	asked := 0
	monitor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		quality.Handler(func() *quality.Report { return measured(2, false) }).ServeHTTP(w, r)
	}))
	defer monitor.Close()
	st := newStage(t)
	cfg := st.config(role.Dependencies{})
	cfg.Monitor = monitor.URL
	elsewhere, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	st.quality = elsewhere.quality
	st.models.add(st.version(2, schemas.StageChampion))
	for range 3 {
		wants(t, checkPage(t, st, "/model", 200), "As promised")
	}
	if asked != 1 {
		t.Errorf("the monitor was asked %d times", asked)
	}
	wants(t, st.do("GET", quality.Path, "").Body.String(), `"champion":2`, `"log_loss":{"value":0.42,"lower":0.4,"upper":0.44}`)
	// The one in this process is nearer.
	cfg.Handlers = map[string]http.Handler{quality.Path: quality.Handler(func() *quality.Report { return measured(7, false) })}
	if st.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	wants(t, st.do("GET", quality.Path, "").Body.String(), `"champion":7`)
}

// Labels come when no scores do; the page shows them.
func TestLabelsAreEvents(t *testing.T) {
	var examples atomic.Int64
	st := newStage(t)
	st.tick = time.Millisecond
	st.quality = newReporter(quality.Handler(func() *quality.Report { return &quality.Report{Examples: examples.Load()} }), "")
	srv := httptest.NewServer(st.Handler())
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && lines.Text() != "data: changed" {
		examples.Add(1)
	}
	if lines.Text() != "data: changed" {
		t.Errorf("the stream ended: %v", lines.Err())
	}
}

func TestWhatHappened(t *testing.T) {
	report := measured(2, true)
	st := newMeasuredStage(t, &report)
	answer := http.StatusConflict
	st.trainer = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(answer) })
	ask := func() { st.do("POST", "/v1/retrain", "", "Authorization", "Bearer "+token) }
	ask()
	if page := checkPage(t, st, "/model", 200); strings.Contains(page, "A training was asked for") {
		t.Error("a request that was refused is told of")
	}
	answer = http.StatusAccepted
	ask()
	page := checkPage(t, st, "/fragment/model", 200)
	wants(t, page, `id="happened"`, "A training was asked for", "Version 2 was published as champion", "Version 1 was published<")
	if strings.Index(page, "A training was asked for") > strings.Index(page, "Version 2 was published") {
		t.Error("the latest is not first")
	}
	for range 3 * maxMoments {
		ask()
	}
	if n := strings.Count(checkPage(t, st, "/model", 200), "A training was asked for"); n != maxHappenings {
		t.Errorf("%d happenings are shown", n)
	}
}

func TestPictures(t *testing.T) {
	v := measured(2, true).Versions[0]
	for _, row := range figureViews(&v) {
		if len(row.Picture) < 2 {
			t.Fatalf("%s: %+v", row.Label, row.Picture)
		}
		for _, m := range row.Picture {
			if m.X < 0 || m.X+m.Width > 200.1 || m.At < m.X-.1 || m.At > m.X+m.Width+.1 {
				t.Errorf("%s: %+v", row.Label, m)
			}
		}
	}
	if rows := figureViews(&quality.Version{}); len(rows) != 0 {
		t.Errorf("figures of nothing: %+v", rows)
	}
	one := quality.Figures{}
	one.Set("recall", .5, math.NaN(), math.NaN())
	if rows := figureViews(&quality.Version{Holdout: one}); len(rows) != 1 || rows[0].Holdout.Interval != "" || math.IsNaN(rows[0].Picture[0].At) {
		t.Errorf("%+v", rows)
	}
	c := newCourse(measured(2, true).Course, quality.Interval{Value: .41, Lower: .39, Upper: .43})
	if points := strings.Fields(c.Loss); len(points) != 4 || points[0] != "6,122.3" || points[3] != "634,22.9" || c.Band == nil || c.Band.Width <= 0 {
		t.Errorf("%+v", c)
	}
	if newCourse(nil, quality.Interval{}) != nil || newCalibration(nil) != nil {
		t.Error("pictures of nothing")
	}
}
