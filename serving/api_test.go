package serving

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

func TestExplain(t *testing.T) {
	st := newStage(t)
	v := st.version(7, schemas.StageChampion)
	st.models.add(v)
	w := st.do("POST", "/v1/explain", `{"visits":"3","plan":"monthly","town":"Ulm","age":null}`)
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	x := st.attributes(`{"visits":3,"plan":"monthly","town":"Ulm"}`)
	ws := v.Predictor.NewWorkspace()
	lime, shap := v.Predictor.LIME(nil, x, ws), v.Predictor.SHAP(make([]float64, 4), x, ws)
	odds := v.Predictor.Contributions(make([]float64, 4), x)
	p := v.Predictor.Probability(x)
	text := func(x float64) string { b, _ := json.Marshal(x); return string(b) }
	want := fmt.Sprintf(`{"data":{"plan":"monthly","visits":3,"town":"Ulm","age":null},"probability":%s,"expected_probability":%s,`+
		`"risk":"HIGH","model_version":7,"explanation":{"plan":%s,"visits":%s,"town":%s,"age":%s},`+
		`"shap":{"plan":%s,"visits":%s,"town":%s,"age":%s},"log_odds":{"plan":%s,"visits":%s,"town":%s,"age":%s},"missing":["age"]}`+"\n",
		text(p), text(v.Predictor.ExpectedProbability()), text(lime[0]), text(lime[1]), text(lime[2]), text(lime[3]),
		text(shap[0]), text(shap[1]), text(shap[2]), text(shap[3]),
		text(odds[0]), text(odds[1]), text(odds[2]), text(odds[3]))
	if got := w.Body.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	// The numbers come back as the same floats.
	got := decode[struct {
		Probability float64
		Explanation map[string]float64
	}](t, w)
	if got.Probability != p || got.Explanation["plan"] != lime[0] {
		t.Errorf("got %v, want %v and %v", got, p, lime[0])
	}
}

func TestScore(t *testing.T) {
	st := newStage(t)
	v := st.version(7, schemas.StageChampion)
	st.models.add(v)
	type answer struct {
		ModelVersion  int64 `json:"model_version"`
		Probabilities []float64
		Risks         []string
	}
	got := decode[answer](t, st.do("POST", "/v1/score", `{"customers":[{"plan":"monthly","visits":0},{"plan":"yearly","visits":20,"age":70}]}`))
	a, b := v.Predictor.Probability(st.attributes(`{"plan":"monthly","visits":0}`)), v.Predictor.Probability(st.attributes(`{"plan":"yearly","visits":20,"age":70}`))
	if fmt.Sprint(got) != fmt.Sprint(answer{7, []float64{a, b}, []string{"HIGH", "LOW"}}) {
		t.Errorf("got %v, want %v, %v", got, a, b)
	}
	full := `{"customers":[` + strings.TrimSuffix(strings.Repeat(`{"plan":"yearly"},`, 1000), ",") + `]}`
	if got := decode[answer](t, st.do("POST", "/v1/score", full)); len(got.Probabilities) != 1000 {
		t.Errorf("%d probabilities", len(got.Probabilities))
	}
	if w := st.do("POST", "/v1/score", `{"customers":[]}`); strings.TrimSpace(w.Body.String()) != `{"model_version":7,"probabilities":[],"risks":[]}` {
		t.Errorf("nobody: %s", w.Body)
	}
}

func TestWhatIf(t *testing.T) {
	st := newStage(t)
	v := st.version(7, schemas.StageChampion)
	st.models.add(v)
	st.customers.Apply(st.scored("ann", `{"plan":"monthly","visits":3,"town":"Ulm","age":30}`))
	type side struct {
		Data              map[string]any
		Probability       float64
		Explanation, SHAP map[string]float64
		LogOdds           map[string]float64 `json:"log_odds"`
		Missing           []string
	}
	type answer struct {
		Before, After side
		Difference    float64
		BestChange    *changeJSON `json:"best_change"`
		Note          string
	}
	before := `{"plan":"monthly","visits":3,"town":"Ulm","age":30}`
	for name, tc := range map[string]struct {
		body, after string
	}{
		"known customer": {`{"customer_id":"ann","changes":{"plan":"yearly"}}`, `{"plan":"yearly","visits":3,"town":"Ulm","age":30}`},
		"attributes":     {`{"attributes":` + before + `,"changes":{"visits":12,"plan":"yearly"}}`, `{"plan":"yearly","visits":12,"town":"Ulm","age":30}`},
		"to missing":     {`{"customer_id":"ann","changes":{"age":null}}`, `{"plan":"monthly","visits":3,"town":"Ulm"}`},
		"no change":      {`{"customer_id":"ann","changes":{}}`, before},
	} {
		t.Run(name, func(t *testing.T) {
			w := st.do("POST", "/v1/what-if", tc.body)
			if w.Code != http.StatusOK {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			got := decode[answer](t, w)
			p, q := v.Predictor.Probability(st.attributes(before)), v.Predictor.Probability(st.attributes(tc.after))
			if got.Before.Probability != p || got.After.Probability != q || got.Difference != q-p {
				t.Errorf("probabilities %v → %v (%v), want %v → %v", got.Before.Probability, got.After.Probability, got.Difference, p, q)
			}
			sum := v.Predictor.ExpectedProbability()
			for _, s := range got.After.SHAP {
				sum += s
			}
			if math.Abs(sum-q) > 1e-6 {
				t.Errorf("SHAP values lead to %v, not %v", sum, q)
			}
			f, value, best, _ := v.Predictor.BestChange(st.attributes(before), nil)
			if got.BestChange == nil || got.BestChange.Feature != st.set.Spec().Feature(f).Name ||
				fmt.Sprint(got.BestChange.Value) != st.set.Text(f, value, nil) || got.BestChange.Probability != best {
				t.Errorf("best change %+v", got.BestChange)
			}
			for _, note := range []string{got.Note, got.BestChange.Note} {
				if !strings.Contains(note, "what the model would predict, not what would happen") {
					t.Errorf("note %q", note)
				}
			}
			// The log-odds contributions are what the model adds up.
			change := 0.0
			for name, c := range got.After.LogOdds {
				change += c - got.Before.LogOdds[name]
			}
			x, y := st.attributes(before), st.attributes(tc.after)
			if want := v.Predictor.LogOdds(y) - v.Predictor.LogOdds(x); len(got.After.LogOdds) != 4 || math.Abs(change-want) > 1e-9 {
				t.Errorf("contributions %v change the log-odds by %v, not %v", got.After.LogOdds, change, want)
			}
		})
	}
	// The read model's attributes are not changed by trying.
	if c, _ := st.customers.Get("ann"); c.Attributes[1] != 3 || st.set.Text(0, c.Attributes[0], c.Levels) != "monthly" {
		t.Errorf("the customer has become %v", c.Attributes)
	}
}

// refusal is an answer in the form of RFC 9457.
type refusal struct {
	Type, Title, Detail, Field string
	Status                     int
}

// Each fault is answered with a problem that names its field.
func TestProblems(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(1, schemas.StageChampion))
	st.customers.Apply(st.scored("ann", `{}`))
	for _, tc := range []struct {
		method, target, body string
		status               int
		field                string
		detail               string // a part of it
	}{
		{"POST", "/v1/explain", `{"visits":"many"}`, 400, "visits", "number"},
		{"POST", "/v1/explain", `{"visits":1e999}`, 400, "visits", "large"},
		{"POST", "/v1/explain", `{"visits":1.7976931348623157e308}`, 400, "visits", "must be from -1e+100"},
		{"POST", "/v1/explain", `{"plan":3}`, 400, "plan", "string"},
		{"POST", "/v1/explain", `{"plan":["a"]}`, 400, "plan", ""},
		{"POST", "/v1/explain", `{"plan":"a","plan":"b"}`, 400, "plan", "twice"},
		{"POST", "/v1/explain", `{"tenure":3}`, 400, "tenure", "not an attribute"},
		{"POST", "/v1/explain", `[]`, 400, "", "object"},
		{"POST", "/v1/explain", `null`, 400, "", "object"},
		{"POST", "/v1/explain", ``, 400, "", "JSON"},
		{"POST", "/v1/explain", `{"plan":"a"`, 400, "", "JSON"},
		{"POST", "/v1/explain", `{"plan":"a"} {}`, 400, "", "JSON"},
		{"POST", "/v1/explain", `{"plan":"a"}x`, 400, "", "JSON"},
		{"POST", "/v1/explain", "{\"plan\":\"\xff\"}", 400, "", "UTF-8"},
		{"POST", "/v1/explain", `{"plan":"` + strings.Repeat("a", 64<<10) + `"}`, 413, "", "65536"},
		{"POST", "/v1/score", `{"customers":[{"plan":"a"},{"visits":"b"}]}`, 400, "customers[1].visits", "number"},
		{"POST", "/v1/score", `{"customers":[{},null]}`, 400, "customers[1]", "object"},
		{"POST", "/v1/score", `{"customers":{}}`, 400, "customers", "list"},
		{"POST", "/v1/score", `{"customers":null}`, 400, "customers", "list"},
		{"POST", "/v1/score", `{}`, 400, "customers", "list"},
		{"POST", "/v1/score", `{"customers":[],"custmers":[]}`, 400, "custmers", "no field"},
		{"POST", "/v1/score", `{"customers":[` + strings.Repeat("{},", 1000) + `{}]}`, 400, "customers", "1001"},
		{"POST", "/v1/score", `{"customers":"` + strings.Repeat("a", 1<<20) + `"}`, 413, "", "1048576"},
		{"POST", "/v1/score", `7`, 400, "", "object"},
		{"POST", "/v1/what-if", `{"changes":{}}`, 400, "attributes", "start"},
		{"POST", "/v1/what-if", `{"customer_id":"ann"}`, 400, "changes", ""},
		{"POST", "/v1/what-if", `{"customer_id":"ann","changes":null}`, 400, "changes", "object"},
		{"POST", "/v1/what-if", `{"customer_id":"ann","changes":{"visits":true}}`, 400, "changes.visits", "number"},
		{"POST", "/v1/what-if", `{"customer_id":"zoe","changes":{}}`, 404, "customer_id", "zoe"},
		{"POST", "/v1/what-if", `{"customer_id":7,"changes":{}}`, 400, "customer_id", "string"},
		{"POST", "/v1/what-if", `{"customer_id":"ann","attributes":{},"changes":{}}`, 400, "customer_id", "not both"},
		{"POST", "/v1/what-if", `{"attributes":{"plan":1},"changes":{}}`, 400, "attributes.plan", "string"},
		{"GET", "/v1/customers?risk=HUGE", "", 400, "risk", "HUGE"},
		{"GET", "/v1/customers?sort=name", "", 400, "sort", "name"},
		{"GET", "/v1/customers?limit=0", "", 400, "limit", ""},
		{"GET", "/v1/customers?limit=501", "", 400, "limit", "500"},
		{"GET", "/v1/customers?limit=a", "", 400, "limit", ""},
		{"GET", "/v1/customers?offset=-1", "", 400, "offset", ""},
		{"GET", "/v1/customers?offset=9999", "", 400, "offset", "10000"},
		{"GET", "/v1/customers?rsik=HIGH", "", 400, "rsik", ""},
		{"GET", "/v1/customers?risk=LOW&risk=HIGH", "", 400, "risk", "once"},
		{"GET", "/v1/customers?q=" + strings.Repeat("a", 257), "", 400, "q", "257"},
		{"GET", "/v1/customers?q=%zz", "", 400, "", "well formed"},
		{"GET", "/v1/customers/zoe", "", 404, "", "zoe"},
		{"GET", "/v1/models/2", "", 404, "", "2"},
		{"GET", "/v1/models/two", "", 400, "version", "two"},
		{"GET", "/v1/nothing", "", 404, "", "/v1/nothing"},
		{"GET", "/static/../serving.go", "", 307, "", ""},
		{"GET", "/static/serving.go", "", 404, "", ""},
	} {
		name := tc.method + " " + tc.target + " " + tc.body
		t.Run(name[:min(len(name), 60)], func(t *testing.T) {
			w := st.do(tc.method, tc.target, tc.body)
			if tc.status == 307 { // the address is made clean, and then not found
				if w.Code != 307 && w.Code != 301 {
					t.Errorf("status %d", w.Code)
				}
				return
			}
			if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
				t.Fatalf("status %d, Content-Type %q: %s", w.Code, got, w.Body)
			}
			p := decode[refusal](t, w)
			if w.Code != tc.status || p.Status != tc.status || p.Title != http.StatusText(tc.status) || p.Type != "about:blank" ||
				p.Field != tc.field || !strings.Contains(p.Detail, tc.detail) {
				t.Errorf("status %d, %+v; want status %d, field %q, detail with %q", w.Code, p, tc.status, tc.field, tc.detail)
			}
		})
	}
}

func TestContentType(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(1, schemas.StageChampion))
	for contentType, want := range map[string]int{
		"application/json":                  200,
		"application/json; charset=utf-8":   200,
		"Application/JSON":                  200,
		"application/x-www-form-urlencoded": 415,
		"text/plain":                        415,
		"":                                  415,
		";":                                 415,
	} {
		if w := st.do("POST", "/v1/explain", `{}`, "Content-Type", contentType); w.Code != want {
			t.Errorf("%q: status %d, want %d", contentType, w.Code, want)
		}
	}
}

func TestMethods(t *testing.T) {
	st := newStage(t)
	allowed := map[string]string{}
	for _, r := range st.endpoints() {
		methods := r.method
		if r.method == http.MethodGet {
			methods = "GET, HEAD"
		}
		if before := allowed[r.path]; before != "" {
			methods = before + ", " + methods
		}
		allowed[r.path] = methods
	}
	for path, allow := range allowed {
		target := strings.NewReplacer("{$}", "", "{id}", "x", "{version}", "1", "{file}", "app.css").Replace(path)
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
			if strings.Contains(allow, method) {
				continue
			}
			w := st.do(method, target, "")
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != allow ||
				w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %s: status %d, Allow %q", method, target, w.Code, w.Header().Get("Allow"))
			}
		}
	}
	if got := allowed["/v1/customers/{id}"]; got != "GET, HEAD, DELETE" {
		t.Errorf("a customer answers %s", got)
	}
}

func TestNoModel(t *testing.T) {
	st := newStage(t)
	for _, path := range []string{"/v1/explain", "/v1/score", "/v1/what-if"} {
		w := st.do("POST", path, `{}`)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" ||
			!strings.Contains(decode[refusal](t, w).Detail, "No model yet") {
			t.Errorf("%s: status %d, %v, %s", path, w.Code, w.Header(), w.Body)
		}
	}
	if w := st.do("GET", "/v1/models", ""); strings.TrimSpace(w.Body.String()) != `{"models":[]}` {
		t.Errorf("models: %s", w.Body)
	}
}

func TestListCustomers(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(3, schemas.StageChampion))
	for _, c := range []struct{ id, attributes string }{
		{"C-low", `{"plan":"yearly","visits":20}`},
		{"C-high", `{"plan":"monthly","visits":0,"town":"<Ost>"}`},
		{"D-mid", `{"plan":"yearly","visits":0,"town":"<Ost>"}`},
		{"C-later", `{"plan":"monthly","visits":1}`},
	} {
		st.customers.Apply(st.scored(c.id, c.attributes))
	}
	type answer struct {
		Total, Limit, Offset int
		Risks                map[string]int
		Customers            []struct {
			CustomerID   string   `json:"customer_id"`
			Previous     *float64 `json:"previous_probability"`
			ScoredAt     string   `json:"scored_at"`
			Explanations []struct {
				Feature    string
				Value      any
				LIME, SHAP *float64
			}
		}
	}
	for query, want := range map[string]string{
		"":                            "C-high C-later D-mid C-low /4",
		"?sort=recent":                "C-later D-mid C-high C-low /4",
		"?risk=HIGH":                  "C-high C-later /2",
		"?risk=medium":                "D-mid /1",
		"?q=c-":                       "C-high C-later C-low /3",
		"?q=none":                     "/0",
		"?limit=2":                    "C-high C-later /4",
		"?limit=2&offset=2":           "D-mid C-low /4",
		"?offset=9":                   "/4",
		"?q=C&risk=HIGH&sort=recent":  "C-later C-high /2",
		"?risk=&sort=&q=&limit=500":   "C-high C-later D-mid C-low /4",
		"?sort=probability&offset=03": "C-low /4",
	} {
		got := decode[answer](t, st.do("GET", "/v1/customers"+query, ""))
		var ids string
		for _, c := range got.Customers {
			ids += c.CustomerID + " "
		}
		if ids += fmt.Sprintf("/%d", got.Total); ids != want {
			t.Errorf("%q: %s, want %s", query, ids, want)
		}
		if fmt.Sprint(got.Risks) != "map[HIGH:2 LOW:1 MEDIUM:1]" {
			t.Errorf("%q: risks %v", query, got.Risks)
		}
	}
	c := decode[answer](t, st.do("GET", "/v1/customers?q=high", "")).Customers[0]
	if c.Previous != nil || c.ScoredAt != "2025-06-15T15:06:42Z" || len(c.Explanations) != 4 ||
		c.Explanations[1].Value != "<Ost>" || *c.Explanations[0].LIME != 0.12 || c.Explanations[2].LIME != nil {
		t.Errorf("customer %+v", c)
	}
}

// A customer at high risk has a best change, from the score or else computed
// with the model that the score is from.
func TestBestChangeOfACustomer(t *testing.T) {
	st := newStage(t)
	first := st.version(1, schemas.StageRetired)
	st.models.add(first)
	st.models.add(st.version(2, schemas.StageChampion))
	score := func(id string, risk schemas.Risk, version int64) *schemas.ChurnScore {
		s := st.scored(id, `{"plan":"monthly","visits":3,"town":"Ulm","age":30}`)
		s.Risk, s.ModelVersion = risk, version
		return s
	}
	sent := score("sent", schemas.RiskHigh, 1)
	sent.HasBestChange, sent.BestChange = true, schemas.BestChange{Feature: 1, Value: 9, Probability: 0.25}
	for _, s := range []*schemas.ChurnScore{sent, score("high", schemas.RiskHigh, 1), score("medium", schemas.RiskMedium, 1),
		score("forgotten model", schemas.RiskHigh, 9)} {
		st.customers.Apply(s)
	}
	f, value, p, _ := first.Predictor.BestChange(st.attributes(`{"plan":"monthly","visits":3,"town":"Ulm","age":30}`), nil)
	for id, want := range map[string]*changeJSON{
		"sent":              {"visits", 9.0, 0.25, whatIfNote},
		"high":              {st.set.Spec().Feature(f).Name, st.jsonValue(f, value, nil), p, whatIfNote},
		"medium":            nil,
		"forgotten%20model": nil,
	} {
		got := decode[struct {
			BestChange *changeJSON `json:"best_change"`
		}](t, st.do("GET", "/v1/customers/"+id, "")).BestChange
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %+v, want %+v", id, got, want)
		}
	}
}

func TestCustomerIDsOfAnyKind(t *testing.T) {
	st := newStage(t)
	for i, id := range []string{"a/b", "a b", "ü", "100%", "a?b#c", `"<script>"`} {
		st.customers.Apply(st.scored(id, `{}`))
		if got := st.rowView(st.customers.List(Query{Risk: AnyRisk, Text: id, Limit: 1}).Customers[0]).Href; got == "" {
			t.Fatal(i)
		} else if w := st.do("GET", got, ""); w.Code != 200 {
			t.Errorf("%q: %s has status %d", id, got, w.Code)
		} else if w := st.do("GET", "/v1"+got, ""); w.Code != 200 || decode[struct {
			ID string `json:"customer_id"`
		}](t, w).ID != id {
			t.Errorf("%q: /v1%s has status %d: %s", id, got, w.Code, w.Body)
		}
	}
}

func TestModels(t *testing.T) {
	st := newStage(t)
	first, second := st.version(1, schemas.StageChampion), st.version(2, schemas.StageChallenger)
	champion := evaluation.NoMetrics()
	champion.LogLoss = 0.41
	second.ChampionMetrics = &champion
	st.models.add(first)
	st.models.add(second)
	type metrics struct {
		Accuracy float64  `json:"accuracy"`
		ROCAUC   float64  `json:"roc_auc"`
		Lower    float64  `json:"roc_auc_lower"`
		Lift     *float64 `json:"top_decile_lift"` // not defined
		LogLoss  float64  `json:"log_loss"`
	}
	type model struct {
		Version         int64
		InForce         bool `json:"in_force"`
		Stage           string
		Metrics         metrics
		ChampionMetrics *metrics `json:"champion_metrics"`
		Model           *scoring.Model
	}
	list := decode[struct{ Models []model }](t, st.do("GET", "/v1/models", "")).Models
	if len(list) != 2 || list[0].Version != 2 || list[0].InForce || !list[1].InForce ||
		list[0].Stage != "CHALLENGER" || list[0].ChampionMetrics.LogLoss != 0.41 || list[1].ChampionMetrics != nil ||
		list[1].Metrics.ROCAUC != 0.8344 || list[1].Metrics.Lower != 0.8146 || list[1].Metrics.Lift != nil {
		t.Errorf("models %+v", list)
	}
	one := decode[model](t, st.do("GET", "/v1/models/1", ""))
	if one.Version != 1 || one.Model == nil || one.Model.Intercept != 0.4 || one.Metrics.Accuracy != 0.7918 {
		t.Errorf("model %+v", one)
	}
}

// The description has every endpoint that programs may use, and nothing else;
// every reference in it leads somewhere.
func TestOpenAPI(t *testing.T) {
	st := newStage(t)
	w := st.do("GET", "/openapi.json", "")
	doc := decode[struct {
		OpenAPI    string
		Paths      map[string]map[string]any
		Components struct {
			Schemas   map[string]map[string]any
			Responses map[string]any
		}
	}](t, w)
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("openapi %q", doc.OpenAPI)
	}
	described := map[string]bool{}
	for path, methods := range doc.Paths {
		for method := range methods {
			described[strings.ToUpper(method)+" "+path] = true
		}
	}
	pages := map[string]bool{"/{$}": true, "/customers/{id}": true, "/model": true, "/fragment/customers": true, "/fragment/model": true, "/static/{file}": true}
	for _, r := range st.endpoints() {
		if name := r.method + " " + r.path; !pages[r.path] && !described[name] {
			t.Errorf("%s is not described", name)
		} else {
			delete(described, name)
		}
	}
	for name := range described {
		t.Errorf("%s is described but not there", name)
	}

	properties, _ := json.Marshal(doc.Components.Schemas["Attributes"]["properties"])
	var attributes map[string]struct {
		Type        []string
		Description string
	}
	if err := json.Unmarshal(properties, &attributes); err != nil || len(attributes) != st.set.Spec().Len() ||
		attributes["visits"].Type[0] != "number" || attributes["visits"].Description != "Visits, in a month" || attributes["plan"].Type[0] != "string" {
		t.Errorf("attributes %s, %v", properties, err)
	}
	for path, methods := range doc.Paths {
		for method, operation := range methods {
			_, secured := operation.(map[string]any)["security"]
			text, _ := json.Marshal(operation)
			changes := method == "delete" || strings.Contains(path, "/activate") || path == "/v1/retrain"
			if secured != changes || secured != strings.Contains(string(text), "responses/Forbidden") {
				t.Errorf("%s %s: security %v", method, path, secured)
			}
		}
	}
	for _, part := range strings.Split(w.Body.String(), `"$ref": "#/components/`)[1:] {
		kind, name, _ := strings.Cut(part[:strings.IndexByte(part, '"')], "/")
		if kind == "schemas" && doc.Components.Schemas[name] == nil || kind == "responses" && doc.Components.Responses[name] == nil {
			t.Errorf("#/components/%s/%s is not there", kind, name)
		}
	}
}

// Whatever is sent, the answer is an explanation whose numbers add up, or a
// problem.
func FuzzExplain(f *testing.F) {
	st := newStage(f)
	v := st.version(1, schemas.StageChampion)
	st.models.add(v)
	for _, body := range []string{`{}`, `{"plan":"monthly","visits":3,"town":"Ulm","age":30}`, `{"plan":null}`,
		`{"visits":1e308,"age":-1e308}`, `{"visits":"1e-320"}`, `[`, `{"plan":"\u0000"}`, `{"a":{"b":[]}}`, `{"visits":-0.0}`, "{\"plan\":\"\xff\"}"} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		w := st.do("POST", "/v1/explain", body)
		switch w.Code {
		case 200:
			got := decode[struct {
				Data        map[string]any
				Probability float64
				Expected    float64 `json:"expected_probability"`
				Explanation map[string]float64
				SHAP        map[string]float64
			}](t, w)
			sum := got.Expected
			for _, s := range got.SHAP {
				sum += s
			}
			for _, name := range []string{"visits", "age"} {
				// Log-odds of millions that cancel out cannot be explained
				// to the last digit.
				if x, _ := got.Data[name].(float64); math.Abs(x) > 1e6 {
					sum = got.Probability
				}
			}
			if !(got.Probability >= 0 && got.Probability <= 1) || math.Abs(sum-got.Probability) > 1e-6 ||
				len(got.Explanation) != 4 || len(got.Data) != 4 {
				t.Errorf("%q: %s", body, w.Body)
			}
		case 400, 413:
			if p := decode[refusal](t, w); p.Status != w.Code || p.Detail == "" {
				t.Errorf("%q: %s", body, w.Body)
			}
		default:
			t.Errorf("%q: status %d: %s", body, w.Code, w.Body)
		}
	})
}

// Whatever is sent to the other endpoints, the answer is JSON of the promised
// kind.
func FuzzRequests(f *testing.F) {
	st := newStage(f)
	st.models.add(st.version(1, schemas.StageChampion))
	st.customers.Apply(st.scored("ann", `{"plan":"monthly","visits":3}`))
	requests := []struct{ method, target string }{
		{"POST", "/v1/score"}, {"POST", "/v1/what-if"}, {"GET", "/v1/customers?"}, {"GET", "/v1/customers/"},
		{"DELETE", "/v1/customers/"}, {"POST", "/v1/models/%/activate"},
	}
	for i, text := range []string{`{"customers":[{"plan":"monthly"},{"visits":"3"}]}`,
		`{"customer_id":"ann","changes":{"plan":"yearly","visits":null}}`, `risk=HIGH&q=a&sort=recent&limit=5&offset=1`, `ann`, `ann`, `1`,
		`{"customers":[[]]}`, `{"attributes":{"visits":1e308},"changes":{"age":-1e308}}`, `offset=99999999999999999999`, "\x00fence", "\x00", "-1"} {
		f.Add(uint8(i%len(requests)), text)
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		request := requests[int(which)%len(requests)]
		target, body := request.target, ""
		switch {
		case strings.Contains(target, "%"):
			target = strings.Replace(target, "%", url.PathEscape(text), 1)
		case strings.HasSuffix(target, "?"):
			target += url.QueryEscape(text)
			if strings.ContainsAny(text, "=&") && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }) {
				target = request.target + text
			}
		case strings.HasSuffix(target, "/"):
			target += url.PathEscape(text)
		default:
			body = text
		}
		w := st.do(request.method, target, body, "Authorization", "Bearer "+token)
		if w.Code >= 300 && w.Code < 400 { // a path that is not clean
			return
		}
		if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s %s with %q: status %d: %s", request.method, target, body, w.Code, w.Body)
		}
		if w.Code >= 400 {
			if p := decode[refusal](t, w); p.Status != w.Code || p.Detail == "" {
				t.Errorf("%s %s with %q: %s", request.method, target, body, w.Body)
			}
		}
	})
}

// The description of the interface has every member that a customer and a model
// version are shown with, and says which of them lists have.
func TestEveryMemberIsDescribed(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(1, schemas.StageChampion))
	s := st.scored("ann", `{}`)
	s.AsOf, s.Trigger = 1_767_225_600_000, schemas.TriggerTime
	st.customers.Apply(s)
	type described struct {
		Required   []string
		Properties map[string]json.RawMessage
		AllOf      []struct {
			Required   []string
			Properties map[string]json.RawMessage
		} `json:"allOf"`
	}
	document := decode[struct {
		Paths map[string]struct {
			Get struct {
				Responses map[string]struct {
					Content map[string]struct{ Schema described }
				}
			}
		}
		Components struct{ Schemas map[string]described }
	}](t, st.do("GET", "/openapi.json", ""))
	check := func(what string, members map[string]json.RawMessage, required ...string) {
		t.Helper()
		slices.Sort(required)
		if got := slices.Sorted(maps.Keys(members)); !slices.Equal(got, required) {
			t.Errorf("%s has %q, described are %q", what, got, required)
		}
	}
	customer, version := document.Components.Schemas["Customer"].Required, document.Components.Schemas["ModelVersion"].Required
	list := decode[struct{ Customers []map[string]json.RawMessage }](t, st.do("GET", "/v1/customers", ""))
	check("a customer in a list", list.Customers[0], slices.Clone(customer)...)
	detail := document.Paths["/v1/customers/{id}"].Get.Responses["200"].Content["application/json"].Schema.AllOf[1].Required
	one := decode[map[string]json.RawMessage](t, st.do("GET", "/v1/customers/ann", ""))
	check("a customer", one, slices.Concat(customer, detail)...)
	if string(one["as_of"]) != `"2026-01-01T00:00:00Z"` || string(one["trigger"]) != `"TIME"` {
		t.Errorf("as_of %s, trigger %s", one["as_of"], one["trigger"])
	}
	models := decode[struct{ Models []map[string]json.RawMessage }](t, st.do("GET", "/v1/models", ""))
	check("a model version", models.Models[0], version...)
	var metrics map[string]json.RawMessage
	if err := json.Unmarshal(models.Models[0]["metrics"], &metrics); err != nil {
		t.Fatal(err)
	}
	check("its metrics", metrics, slices.Collect(maps.Keys(document.Components.Schemas["Metrics"].Properties))...)
	if m := models.Models[0]; string(m["label"]) != `"leaves within 30 days"` || string(m["horizon_seconds"]) != "2592000" || string(m["labels_until"]) != `"2023-11-14T22:13:20Z"` {
		t.Errorf("label %s within %s s, known until %s", m["label"], m["horizon_seconds"], m["labels_until"])
	}
}

// A customer's levels are shown whether a model knows them or not, are known to
// one that comes after the customer was read, and asking teaches nothing.
func TestLevelsOfCustomers(t *testing.T) {
	st := newStage(t)
	st.customers.Apply(st.scored("ann", `{"plan":"monthly","town":"Atlantis","visits":3}`))
	if n := st.set.Vocabulary().Size(0) + st.set.Vocabulary().Size(2); n != 0 {
		t.Fatalf("%d levels are known without a model", n)
	}
	v := st.version(7, schemas.StageChampion)
	st.models.add(v)
	got := decode[struct {
		Before struct {
			Data        map[string]any
			Missing     []string
			Probability float64
		}
		After struct{ Data map[string]any }
	}](t, st.do("POST", "/v1/what-if", `{"customer_id":"ann","changes":{"plan":"fortnightly"}}`))
	if got.Before.Data["plan"] != "monthly" || got.Before.Data["town"] != "Atlantis" || got.After.Data["plan"] != "fortnightly" || got.After.Data["town"] != "Atlantis" {
		t.Errorf("what-if shows %v and %v", got.Before.Data, got.After.Data)
	}
	if want := v.Predictor.Probability(st.attributes(`{"plan":"monthly","visits":3}`)); got.Before.Probability != want || !slices.Equal(got.Before.Missing, []string{"town", "age"}) {
		t.Errorf("probability %v, want %v; missing %v", got.Before.Probability, want, got.Before.Missing)
	}
	customer := decode[struct{ Data map[string]any }](t, st.do("GET", "/v1/customers/ann", ""))
	if customer.Data["plan"] != "monthly" || customer.Data["town"] != "Atlantis" {
		t.Errorf("the customer is shown with %v", customer.Data)
	}
	if page := st.do("GET", "/customers/ann", "").Body.String(); !strings.Contains(page, "Atlantis") || !strings.Contains(page, "monthly") {
		t.Error("the page does not show the levels")
	}
	if explained := decode[struct{ Data map[string]any }](t, st.do("POST", "/v1/explain", `{"town":"El Dorado"}`)); explained.Data["town"] != "El Dorado" {
		t.Errorf("explained with %v", explained.Data)
	}
	for _, level := range []string{"fortnightly", "Atlantis", "El Dorado"} {
		for f := range 3 {
			if _, known := st.set.Vocabulary().Lookup(f, level); known {
				t.Errorf("%q was learnt", level)
			}
		}
	}
}
