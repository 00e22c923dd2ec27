package replay

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

func load(t testing.TB) (*schemas.Set, []schemas.ChurnOutcome) {
	t.Helper()
	set := schemas.Telco()
	examples, err := Load(set)
	if err != nil {
		t.Fatal(err)
	}
	return set, examples
}

func TestEmbeddedTableIsTheCSV(t *testing.T) {
	want, err := os.ReadFile("data/telco_customer_churn.csv")
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(telcoTable))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the compressed table differs from the CSV: run data/export.sh")
	}
}

func TestLoad(t *testing.T) {
	set, examples := load(t)
	spec := set.Spec()
	if len(examples) != 7043 {
		t.Errorf("%d customers, want 7043", len(examples))
	}
	churned := 0
	levels := make([]map[string]int, spec.Len())
	sums := make([]float64, spec.Len())
	for f := range levels {
		levels[f] = map[string]int{}
	}
	for i, e := range examples {
		if want := fmt.Sprintf("C-%05d", i+1); e.CustomerID != want {
			t.Fatalf("customer %d is %s, want %s", i, e.CustomerID, want)
		}
		if e.ObservedAt != 0 || e.Source != "telco" {
			t.Fatalf("%s: observed at %d by %q", e.CustomerID, e.ObservedAt, e.Source)
		}
		if e.Churned {
			churned++
		}
		for f, x := range e.Attributes {
			if scoring.IsMissing(x) {
				t.Fatalf("%s has no %s", e.CustomerID, spec.Feature(f).Name)
			}
			if spec.Feature(f).Kind == scoring.Categorical {
				levels[f][set.Text(f, x, nil)]++
			} else {
				sums[f] += x
			}
		}
	}
	if churned != 1869 {
		t.Errorf("%d churned, want 1869", churned)
	}
	// Counts and sums of the public table.
	want := map[string]map[string]int{
		"gender":           {"Female": 3488, "Male": 3555},
		"SeniorCitizen":    {"No": 5901, "Yes": 1142},
		"Partner":          {"No": 3641, "Yes": 3402},
		"Dependents":       {"No": 4933, "Yes": 2110},
		"PhoneService":     {"No": 682, "Yes": 6361},
		"MultipleLines":    {"No": 3390, "No phone service": 682, "Yes": 2971},
		"InternetService":  {"DSL": 2421, "Fiber optic": 3096, "No": 1526},
		"OnlineSecurity":   {"No": 3498, "No internet service": 1526, "Yes": 2019},
		"OnlineBackup":     {"No": 3088, "No internet service": 1526, "Yes": 2429},
		"DeviceProtection": {"No": 3095, "No internet service": 1526, "Yes": 2422},
		"TechSupport":      {"No": 3473, "No internet service": 1526, "Yes": 2044},
		"StreamingTV":      {"No": 2810, "No internet service": 1526, "Yes": 2707},
		"StreamingMovies":  {"No": 2785, "No internet service": 1526, "Yes": 2732},
		"Contract":         {"Month-to-month": 3875, "One year": 1473, "Two year": 1695},
		"PaperlessBilling": {"No": 2872, "Yes": 4171},
		"PaymentMethod": {"Bank transfer (automatic)": 1544, "Credit card (automatic)": 1522,
			"Electronic check": 2365, "Mailed check": 1612},
	}
	wantSums := map[string]float64{"tenure": 227990, "MonthlyCharges": 456116.6, "TotalCharges": 16056168.7}
	for f := range spec.Len() {
		name := spec.Feature(f).Name
		if spec.Feature(f).Kind == scoring.Categorical {
			if fmt.Sprint(levels[f]) != fmt.Sprint(want[name]) {
				t.Errorf("%s has %v, want %v", name, levels[f], want[name])
			}
		} else if math.Abs(sums[f]-wantSums[name]) > 0.01 {
			t.Errorf("%s adds up to %.2f, want %.2f", name, sums[f], wantSums[name])
		}
	}
}

// small is another company's specification.
const small = `{"type": "record", "name": "CustomerAttributes", "namespace": "churnstream", "fields": [
	{"name": "plan", "type": ["null", "string"], "default": null},
	{"name": "visits", "type": ["null", "double"], "default": null}]}`

func smallSet(t testing.TB) *schemas.Set {
	t.Helper()
	set, err := schemas.Parse([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestLoadRefusesAnotherSchema(t *testing.T) {
	_, err := Load(smallSet(t))
	if !errors.Is(err, ErrTable) || !strings.Contains(err.Error(), `"plan"`) {
		t.Errorf("error %v, want one that names plan", err)
	}
}

var smallColumns = Columns{ID: "id", Label: "left", Positive: "1", Source: "shop"}

func TestLoadCSV(t *testing.T) {
	set := smallSet(t)
	examples, err := LoadCSV(set, strings.NewReader(
		"\ufeffvisits,remark,id,left,plan\n"+
			"3.5,\"says \"\"no\"\",\ntwice\",a,1,gold\n"+
			",,b,0,\"silver, new\"\n"+
			"-2e1,,c,0,\n"), smallColumns)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range examples {
		got = append(got, fmt.Sprintf("%s %v %s %q %q", e.CustomerID, e.Churned, e.Source,
			set.Text(0, e.Attributes[0], nil), set.Text(1, e.Attributes[1], nil)))
	}
	want := []string{`a true shop "gold" "3.5"`, `b false shop "silver, new" ""`, `c false shop "" "-20"`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Tables as they are published.
func TestLoadCSVOfOthers(t *testing.T) {
	for name, test := range map[string]struct{ table, want string }{
		"plain":                    {"plan,visits,id,left\ngold,20.5,a,1\nsilver,,b,0\n", `a true "gold" "20.5", b false "silver" ""`},
		"a blank for a number":     {"plan,visits,id,left\ngold,20.5,a,1\nsilver, ,b,0\n", `a true "gold" "20.5", b false "silver" ""`},
		"white space around cells": {" plan ,visits,id\t,left\ngold ,20.5 ,a , 1\n silver,\u00a0,\tb,0 \n", `a true "gold" "20.5", b false "silver" ""`},
		"before quotes":            {"plan, \"visits\", id, left\n\"gold\", \"20.5\", a, \"1\"\n", `a true "gold" "20.5"`},
		"mark, CRLF and quotes":    {"\ufeff\"plan\",\"visits\",\"id\",\"left\"\r\n\"gold \",\"20.5\",\"a\",\"1\"\r\n\" \",\"\",\"b\",\"0\"\r\n", `a true "gold" "20.5", b false "" ""`},
		"no end of the last line":  {"plan,visits,id,left\r\ngold,20.5,a,1", `a true "gold" "20.5"`},
		"marks of missing values": {"plan,visits,id,left\nNA,N/A,a,1\nnan,NaN,b,0\nnull,NULL,c,0\n#N/A, na ,d,0\nNaNa,1,e,0\n",
			`a true "" "", b false "" "", c false "" "", d false "" "", e false "NaNa" "1"`},
	} {
		t.Run(name, func(t *testing.T) {
			set := smallSet(t)
			examples, err := LoadCSV(set, strings.NewReader(test.table), smallColumns)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range examples {
				got = append(got, fmt.Sprintf("%s %v %q %q", e.CustomerID, e.Churned, set.Text(0, e.Attributes[0], nil), set.Text(1, e.Attributes[1], nil)))
			}
			if got := strings.Join(got, ", "); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
	// Who has a level of that name says what is missing.
	set := smallSet(t)
	columns := smallColumns
	columns.Missing = []string{"?"}
	examples, err := LoadCSV(set, strings.NewReader("plan,visits,id,left\nNA,?,a,1\n?, ,b,0\n"), columns)
	if err != nil || set.Text(0, examples[0].Attributes[0], nil) != "NA" || !scoring.IsMissing(examples[0].Attributes[1]) ||
		!scoring.IsMissing(examples[1].Attributes[0]) || !scoring.IsMissing(examples[1].Attributes[1]) {
		t.Errorf("%v: %+v", err, examples)
	}
}

func TestLoadCSVRefuses(t *testing.T) {
	tests := []struct{ name, table, message string }{
		{"nothing", "", "empty"},
		{"no id column", "plan,visits,left\n", `"id"`},
		{"no label column", "plan,visits,id\n", `"left"`},
		{"no column of a feature", "plan,id,left\n", `"visits"`},
		{"a column twice", "plan,plan,visits,id,left\n", `"plan" occurs twice`},
		{"no id", "plan,visits,id,left\ngold,1,,0\n", `line 2: column "id": value "": no customer id`},
		{"a long id", "plan,visits,id,left\ngold,1," + strings.Repeat("a", 300) + ",0\n", `…: a customer id of 300 bytes`},
		{"an id twice", "plan,visits,id,left\ngold,1,a,0\ngold,1,b,0\ngold,1,a,0\n", `line 4: column "id": value "a": the same customer id as line 2`},
		{"no label", "plan,visits,id,left\ngold,1,a,\n", `line 2: column "left": value "": no label`},
		{"a third label", "plan,visits,id,left\ngold,1,a,0\ngold,1,b,1\ngold,1,c,yes\n", `line 4: column "left": value "yes": neither "1" nor "0"`},
		{"no number", "plan,visits,id,left\ngold,1,a,0\ngold,often,b,0\n", `line 3: column "visits": value "often": must be a number`},
		{"infinite", "plan,visits,id,left\ngold,Inf,a,0\n", `line 2: column "visits"`},
		{"on the second line of its row", "plan,visits,id,left\n\"go\nld\",often,a,0\n", `line 3: column "visits"`},
		{"a missing label", "plan,visits,id,left\ngold,1,a,N/A\n", `line 2: column "left": value "N/A": no label`},
		{"a label of white space", "plan,visits,id,left\ngold,1,a, \n", "no label"},
		{"an id of white space", "plan,visits,id,left\ngold,1,\u00a0,0\n", "no customer id"},
		{"an id in Latin-1", "plan,visits,id,left\ngold,1,J\xfcrgen,0\n", `value "J\xfcrgen": is not UTF-8 text`},
		{"a level in Latin-1", "plan,visits,id,left\nm\xfcd,1,a,0\n", `column "plan": value "m\xfcd": is not UTF-8 text`},
		{"short row", "plan,visits,id,left\ngold,1\n", "line 2"},
		{"open quote", "plan,visits,id,left\n\"gold,1,a,0\n", "line 2"},
	}
	for _, test := range tests {
		_, err := LoadCSV(smallSet(t), strings.NewReader(test.table), smallColumns)
		if !errors.Is(err, ErrTable) || !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s: error %v, want one with %s", test.name, err, test.message)
		}
	}
}

func TestLoadCSVPassesReadErrorsOn(t *testing.T) {
	broken := errors.New("disk on fire")
	r := io.MultiReader(strings.NewReader("plan,visits,id,left\n"), iotest.ErrReader(broken))
	if _, err := LoadCSV(smallSet(t), r, smallColumns); !errors.Is(err, broken) || errors.Is(err, ErrTable) {
		t.Errorf("error %v, want the reader's", err)
	}
}

func FuzzLoadCSV(f *testing.F) {
	f.Add("plan,visits,id,left\ngold,1,a,0\n")
	f.Add("\ufeffleft,id,visits,plan\r\n1,\"a\nb\",1e-3,\r\n")
	f.Add("plan,visits,id,left\n,,,\n")
	set := smallSet(f)
	f.Fuzz(func(t *testing.T, table string) {
		examples, err := LoadCSV(set, strings.NewReader(table), smallColumns)
		if err != nil {
			if !errors.Is(err, ErrTable) {
				t.Fatalf("error %v is not about the table", err)
			}
			return
		}
		seen := map[string]bool{}
		for _, e := range examples {
			if e.CustomerID == "" || seen[e.CustomerID] {
				t.Fatalf("customer %q came through", e.CustomerID)
			}
			seen[e.CustomerID] = true
			if math.IsInf(e.Attributes[1], 0) {
				t.Fatal("an infinite number came through")
			}
		}
	})
}
