package scoring

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// reference is what reference/explanations_telco.json holds: a fitted model,
// and for some customers the mean and standard error of long sampling runs.
type reference struct {
	Cases []struct {
		Customer    map[string]any     `json:"customer"`
		Probability float64            `json:"probability"`
		LIME        map[string]float64 `json:"lime_mean"`
		LIMEError   map[string]float64 `json:"lime_standard_error"`
		SHAP        map[string]float64 `json:"shap_mean"`
		SHAPError   map[string]float64 `json:"shap_standard_error"`
	} `json:"cases"`
	data []byte
}

// loadReference reads the reference from the file or the directory that
// CHURN_REFERENCE names, by default beside the repository.
func loadReference(t testing.TB) *reference {
	t.Helper()
	path := os.Getenv("CHURN_REFERENCE")
	if path == "" {
		path = filepath.Join("..", "..", "shared", "reference")
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "explanations_telco.json")
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("reference values are not there: no %s (CHURN_REFERENCE names the file or its directory)", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &reference{data: data}
	if err := json.Unmarshal(data, r); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if len(r.Cases) == 0 {
		t.Fatalf("%s has no cases", path)
	}
	return r
}

// specOf returns the specification of a model's features, all actionable.
func specOf(t testing.TB, m *Model) *Spec {
	t.Helper()
	var features []Feature
	for _, f := range m.Features {
		kind := Numeric
		if f.Kind == Categorical.String() {
			kind = Categorical
		}
		features = append(features, Feature{Name: f.Name, Kind: kind, Actionable: true})
	}
	spec, err := NewSpec(features)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func compileModel(t testing.TB, m *Model) (*Predictor, *Vocabulary) {
	t.Helper()
	v := NewVocabulary(specOf(t, m))
	p, err := Compile(m, v)
	if err != nil {
		t.Fatal(err)
	}
	return p, v
}

func vectorOf(t testing.TB, v *Vocabulary, values map[string]any) Vector {
	t.Helper()
	x := NewVector(v.Spec().Len())
	for name, value := range values {
		j, ok := v.Spec().Index(name)
		if !ok {
			t.Fatalf("no feature %q", name)
		}
		switch value := value.(type) {
		case float64:
			x[j] = value
		case string:
			var err error
			if x[j], err = v.CodeString(j, value); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("%s is a %T", name, value)
		}
	}
	return x
}

// TestReference compares with long runs of the Python package lime and of
// permutation sampling: every value within the sampling error.
func TestReference(t *testing.T) {
	ref := loadReference(t)
	m, err := ParseModel(ref.data)
	if err != nil {
		t.Fatal(err)
	}
	p, v := compileModel(t, m)
	w := p.NewWorkspace()
	type statistic struct{ sum, n, worst float64 }
	var lime, shap statistic
	check := func(s *statistic, kind, feature string, got, want, se float64) {
		z := (got - want) / se
		if !(math.Abs(z) <= 4) {
			t.Errorf("%s of %s is %g, want %g ± %g: %.1f standard errors off", kind, feature, got, want, se, z)
		}
		s.sum += z * z
		s.n++
		s.worst = max(s.worst, math.Abs(z))
	}
	for _, c := range ref.Cases {
		x := vectorOf(t, v, c.Customer)
		if got := p.Probability(x); math.Abs(got-c.Probability) > 1e-12 {
			t.Errorf("probability %v, want %v", got, c.Probability)
		}
		if missing := p.Missing(nil, x); len(missing) > 0 {
			t.Errorf("missing %v", missing)
		}
		limes, shaps := p.LIME(nil, x, w), p.SHAP(nil, x, w)
		for j := range x {
			name := v.Spec().Feature(j).Name
			check(&lime, "LIME", name, limes[j], c.LIME[name], c.LIMEError[name])
			check(&shap, "SHAP", name, shaps[j], c.SHAP[name], c.SHAPError[name])
		}
	}
	for _, s := range []struct {
		name string
		statistic
	}{{"LIME", lime}, {"SHAP", shap}} {
		rms := math.Sqrt(s.sum / s.n)
		t.Logf("%s: %g values, z-scores: rms %.3f, worst %.2f", s.name, s.n, rms, s.worst)
		if !(rms < 1.3) {
			t.Errorf("%s: rms of the z-scores is %.3f, not near 1", s.name, rms)
		}
	}
}
