package serving

import (
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// checkPage looks for what holds of every page: headers, no inline script or
// style, elements that are closed, one heading.
func checkPage(t *testing.T, st *stage, target string, status int) string {
	t.Helper()
	w := st.do("GET", target, "")
	body := w.Body.String()
	if w.Code != status {
		t.Fatalf("%s: status %d: %s", target, w.Code, body)
	}
	if got := w.Header().Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("%s: Content-Type %q", target, got)
	}
	if inline := regexp.MustCompile(`<style|\sstyle=|\son[a-z]+=|<script>|javascript:|https?://`).FindString(body); inline != "" {
		t.Errorf("%s: the page has %q, which its policy forbids", target, inline)
	}
	d := xml.NewDecoder(strings.NewReader(body))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	var open []string
	headings := 0
	for {
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			if e.Name.Local == "h1" {
				headings++
			}
			switch e.Name.Local {
			case "meta", "link", "input", "line", "rect", "circle", "polyline", "path":
			default:
				open = append(open, e.Name.Local)
			}
		case xml.EndElement:
			switch e.Name.Local {
			case "line", "rect", "circle", "polyline", "path":
				continue
			}
			if len(open) == 0 || open[len(open)-1] != e.Name.Local {
				t.Fatalf("%s: </%s> closes %v", target, e.Name.Local, open)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Errorf("%s: %v not closed", target, open)
	}
	if strings.Contains(body, "<html") && headings != 1 {
		t.Errorf("%s: %d first headings", target, headings)
	}
	return strings.ReplaceAll(body, "&#43;", "+") // as html/template writes it
}

func wants(t *testing.T, body string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(body, part) {
			t.Errorf("the page does not say %q:\n%s", part, body)
		}
	}
}

const noModelWords = "No model yet: the scorer waits until the trainer has published the first version."

func TestPagesWithNothing(t *testing.T) {
	st := newReadingStage(t)
	wants(t, checkPage(t, st, "/", 200), noModelWords, "Reading the scores there are")
	close(st.customers.caughtUp)
	if body := checkPage(t, st, "/", 200); strings.Count(body, noModelWords) != 2 {
		t.Errorf("tile and list should both say that there is no model:\n%s", body)
	}
	checkPage(t, st, "/fragment/customers", 200)
	wants(t, checkPage(t, st, "/model", 200), noModelWords)
	wants(t, checkPage(t, st, "/customers/ann", 404), "No customer <b>ann</b> is known")
}

func TestPagesWithModelOnly(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(1, schemas.StageChampion))
	wants(t, checkPage(t, st, "/", 200), "No customer has been scored yet", "Version 1", "79.2\u202f%", "0.834")
	wants(t, checkPage(t, st, "/model", 200), "Version 1 is in force", "5\u202f274", "What matters most", "better than the one &lt;before&gt;")
}

// Until the topic has been read, a customer in it may have been erased since.
func TestNobodyIsShownBeforeAllIsRead(t *testing.T) {
	st := newReadingStage(t)
	st.customers.Apply(st.scored("ann", `{"plan":"monthly"}`))
	for _, target := range []string{"/v1/customers", "/v1/customers/ann"} {
		if w := st.do("GET", target, ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "ann") {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	for target, status := range map[string]int{"/": 200, "/fragment/customers": 200, "/customers/ann": 404} {
		w := st.do("GET", target, "")
		if w.Code != status || strings.Contains(w.Body.String(), `href="/customers/ann"`) {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	close(st.customers.caughtUp)
	for _, target := range []string{"/v1/customers", "/v1/customers/ann", "/", "/customers/ann"} {
		if w := st.do("GET", target, ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "ann") {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
}

func TestPagesWithCustomersOnly(t *testing.T) {
	st := newStage(t)
	st.customers.Apply(st.scored("ann", `{"plan":"monthly","visits":3,"town":"<Ost>"}`))
	wants(t, checkPage(t, st, "/", 200), "ann", noModelWords)
	wants(t, checkPage(t, st, "/customers/ann", 200), "No model yet", "+0.120", "&lt;Ost&gt;", "One score so far", "first score")
}

func TestPagesWithData(t *testing.T) {
	st := newStage(t)
	st.now = func() time.Time { return time.UnixMilli(1_750_000_000_000).Add(2 * time.Minute) }
	st.models.add(st.version(1, schemas.StageRetired))
	st.models.add(st.version(2, schemas.StageChampion))
	st.models.add(st.version(3, schemas.StageChallenger))
	st.customers.Apply(st.scored("ann", `{"plan":"monthly","visits":3,"town":"<Ost>"}`))
	s := st.scored("ann", `{"plan":"monthly","visits":1,"town":"<Ost>","age":20}`)
	s.Previous = 0.611
	st.customers.Apply(s)
	st.customers.Apply(st.scored("bob", `{"plan":"lifelong","visits":22,"age":70}`))
	for range pageSize {
		s := st.scored("", `{}`)
		s.CustomerID = []byte("member " + string(rune('a'+s.SourceOffset)))
		s.Probability, s.Risk = 0.4, schemas.RiskMedium
		st.customers.Apply(s)
	}

	first := checkPage(t, st, "/", 200)
	wants(t, first, `href="/customers/ann"`, "Plan: monthly <b>+0.12</b>", `Town &lt;b&gt;&amp;&#34;&#39;: &lt;Ost&gt; <b>`+minus+`0.03</b>`,
		"Visits: 1 a month <b>+0.02</b>", "chip toward", "chip away", "badge high", "1 min ago",
		signed(100*(s.Probability-0.611), 1), `class="up"`, `href="/?offset=25" rel="next"`, "1–25 of 27")
	if strings.Contains(first, "Age: ") {
		t.Error("a row shows more than its top reasons")
	}
	wants(t, checkPage(t, st, "/?offset=25", 200), `rel="prev"`, "26–27 of 27", "bob")
	wants(t, checkPage(t, st, "/?risk=HIGH&sort=recent&q=an", 200), "1–1 of 1", `value="HIGH" checked`, `value="recent" selected`, `value="an"`)
	wants(t, checkPage(t, st, "/?q=nobody", 200), "contains “nobody”")
	wants(t, checkPage(t, st, "/?risk=LOW&q=ann", 200), "at this risk")
	wants(t, checkPage(t, st, "/?offset=100", 200), "ends before this page")
	wants(t, checkPage(t, st, "/?risk=absurd&limit=-7&offset=x", 200), "1–25 of 27") // a mistyped address still shows the list
	if fragment := checkPage(t, st, "/fragment/customers?risk=HIGH", 200); strings.Contains(fragment, "<html") {
		t.Error("the fragment is a whole page")
	} else {
		wants(t, fragment, `id="summary"`, `id="list"`, "1–1 of 1")
	}

	ann := checkPage(t, st, "/customers/ann", 200)
	wants(t, ann, `data-customer="ann"`, "The last 2 scores", `<option value="yearly">`, `<option value="monthly" selected>`,
		`data-name="visits" value="1" data-numeric`, "not cause and effect", "what the model would predict, not what would happen", "Best single change", `data-try="plan" data-value="yearly"`,
		`data-feature="age"`, "<polyline points=", "Attributes that cannot be acted on")
	wants(t, checkPage(t, st, "/customers/bob", 200), "lifelong (unknown to the model)", "not known", "This is the customer's first score")

	wants(t, checkPage(t, st, "/model", 200), "Champion", "Challenger", "Retired", "in force")
}

// The bars show what the numbers say.
func TestBars(t *testing.T) {
	if b := newBar(0.05, 0.1); b.X != 100 || b.Width != 50 || b.Class != "toward" || b.Text != "+0.050" {
		t.Errorf("%+v", b)
	}
	if b := newBar(-0.1, 0.1); b.X != 0 || b.Width != 100 || b.Class != "away" || b.Text != minus+"0.100" {
		t.Errorf("%+v", b)
	}
	if b := newBar(scoring.Missing, 0.1); b.Width != 0 || b.Text != "–" {
		t.Errorf("%+v", b)
	}
	if got := fullBar([]float64{0, scoring.Missing}); got != 1 {
		t.Errorf("full bar %v where nothing weighs", got)
	}
}

func TestNumbers(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{signed(0.0004, 3), "0.000"}, {signed(-0.0004, 3), "0.000"}, {signed(-12.34, 1), minus + "12.3"}, {signed(3, 0), "+3"},
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1\u202f000"}, {count(int64(1234567)), "1\u202f234\u202f567"}, {count(-1000), "-1\u202f000"},
		{percent(0.5), "50.0\u202f%"}, {ago(-time.Second), "just now"}, {ago(59 * time.Second), "59 s ago"},
		{ago(59 * time.Minute), "59 min ago"}, {ago(47 * time.Hour), "47 h ago"}, {ago(72 * time.Hour), "3 days ago"},
	} {
		if tc.got != tc.want {
			t.Errorf("%q, want %q", tc.got, tc.want)
		}
	}
}

func TestSingular(t *testing.T) {
	for unit, want := range map[string]string{
		"months": "month", "US dollars": "US dollar", "a month": "a month", "USD": "USD",
		"ms": "ms", "s": "s", "celsius": "celsius", "basis": "basis", "gross": "gross", "": "",
	} {
		if got := singular(unit); got != want {
			t.Errorf("one of %q is %q, want %q", unit, got, want)
		}
	}
	st := newStage(t)
	age, _ := st.set.Spec().Index("age")
	for x, want := range map[float64]string{1: "1 year", 0: "0 years", 1.5: "1.5 years", 24: "24 years"} {
		if got := st.valueText(age, x, nil); got != want {
			t.Errorf("%v is shown as %q, want %q", x, got, want)
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	st := newStage(t)
	for _, target := range []string{"/", "/v1/customers", "/nothing", "/static/app.js", "/openapi.json"} {
		h := st.do("GET", target, "").Header()
		policy := h.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "script-src 'self'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %q", target, policy)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "X-Frame-Options": "DENY"} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s %q", target, name, got)
			}
		}
	}
	if got := st.do("GET", "/v1/customers", "").Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("customers: Cache-Control %q", got)
	}
}

func TestStaticFiles(t *testing.T) {
	st := newStage(t)
	for _, link := range regexp.MustCompile(`/static/[^"]+`).FindAllString(checkPage(t, st, "/", 200), -1) {
		w := st.do("GET", link, "")
		if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") || w.Body.Len() == 0 {
			t.Errorf("%s: status %d, %v", link, w.Code, w.Header())
		}
		if w := st.do("GET", link, "", "If-None-Match", w.Header().Get("ETag")); w.Code != http.StatusNotModified {
			t.Errorf("%s again: status %d", link, w.Code)
		}
	}
	for file, want := range map[string]string{"app.css": "text/css; charset=utf-8", "app.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"} {
		h := st.do("GET", "/static/"+file, "").Header()
		if h.Get("Content-Type") != want || h.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %v", file, h)
		}
	}
}

// Outside what is shipped about the Telco customers, no feature has a name.
func TestNoFeatureNames(t *testing.T) {
	spec := schemas.Telco().Spec()
	for _, name := range []string{"templates/layout.html", "templates/customers.html", "templates/customer.html",
		"templates/model.html", "static/app.js", "openapi.json"} {
		text, err := files.ReadFile(name)
		if name == "openapi.json" {
			text, err = openAPITemplate, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range spec.Len() {
			if feature := spec.Feature(i).Name; strings.Contains(string(text), `"`+feature+`"`) {
				t.Errorf("%s knows %s", name, feature)
			}
		}
	}
}
