//go:build integration

package integration

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// learned is what scikit-learn says of examples.
type learned struct {
	Figures         map[string]*float64
	Confusion       [4]int64 // true negatives, false positives, false negatives, true positives
	Calibration     [3][]float64
	ROC             [][]float64
	PrecisionRecall [][]float64 `json:"precision_recall"`
}

// scikitLearn returns what scikit-learn says of sets of examples. The test is
// skipped where it is not installed, which deploy/local/stack does.
func scikitLearn(t testing.TB, cases [][]evaluation.Example) []learned {
	t.Helper()
	if _, err := os.Stat(filepath.Join(installed(t, "python"), "sklearn")); err != nil {
		t.Skipf("scikit-learn is not installed: %v\nrun deploy/local/stack install clients", err)
	}
	var file bytes.Buffer
	for _, examples := range cases {
		var c struct {
			Probability []float64 `json:"probability"`
			Churned     []int     `json:"churned"`
		}
		for _, e := range examples {
			label := 0
			if e.Churned {
				label = 1
			}
			c.Probability, c.Churned = append(c.Probability, e.Probability), append(c.Churned, label)
		}
		if err := json.NewEncoder(&file).Encode(c); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "examples")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var answers []learned
	for _, line := range python(t, "evaluate.py", path) {
		answers = append(answers, unmarshal[learned](t, line))
	}
	if len(answers) != len(cases) {
		t.Fatalf("%d answers of %d cases", len(answers), len(cases))
	}
	return answers
}

// TestFiguresAreThoseOfScikitLearn compares every figure and curve with those of
// scikit-learn, on examples with and without ties, of both classes and of one.
func TestFiguresAreThoseOfScikitLearn(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 14))
	var cases [][]evaluation.Example
	for _, levels := range []int{2, 9, 100, 1 << 40} {
		for _, n := range []int{2, 7, 40, 5000} {
			for _, shift := range []float64{-1, -0.4, 0, 0.4, 1} {
				examples := make([]evaluation.Example, n)
				for i := range examples {
					p := float64(rng.IntN(levels+1)) / float64(levels)
					examples[i] = evaluation.Example{Customer: uint64(i), Probability: p, Churned: rng.Float64() < p+shift}
				}
				cases = append(cases, examples)
			}
		}
	}
	greatest := 0.0
	near := func(what string, got, want float64) {
		t.Helper()
		if scoring.IsMissing(got) != scoring.IsMissing(want) || math.Abs(got-want) > 1e-9*(1+math.Abs(want)) {
			t.Errorf("%s is %.15g, scikit-learn has %.15g", what, got, want)
		} else if difference := math.Abs(got - want); difference > greatest {
			greatest = difference
		}
	}
	defined := 0
	for i, want := range scikitLearn(t, cases) {
		r := evaluation.Rank(cases[i])
		m := r.Metrics()
		for _, f := range evaluation.All {
			value := scoring.Missing
			if x := want.Figures[f.Name]; x != nil {
				value = *x
				defined++
			}
			near(f.Name, *f.Of(&m.Figures), value)
		}
		c := r.Confusion()
		if got := [4]int64{c.TrueNegatives, c.FalsePositives, c.FalseNegatives, c.TruePositives}; got != want.Confusion {
			t.Errorf("confusion matrix %v, scikit-learn has %v", got, want.Confusion)
		}
		k := 0
		for _, b := range r.Calibration() {
			if b.Rows == 0 {
				continue
			}
			near("rows of a bin", float64(b.Rows), want.Calibration[0][k])
			near("mean probability of a bin", b.Predicted, want.Calibration[1][k])
			near("churn rate of a bin", b.Observed, want.Calibration[2][k])
			k++
		}
		roc := r.ROC()
		if want.ROC == nil != (roc == nil) || roc != nil && len(want.ROC[0]) != len(roc) {
			t.Fatalf("case %d: an ROC curve of %d points, scikit-learn has %v", i, len(roc), want.ROC)
		}
		for k, p := range roc {
			near("false positive rate", p.FalsePositiveRate, want.ROC[0][k])
			near("true positive rate", p.TruePositiveRate, want.ROC[1][k])
		}
		curve := r.PrecisionRecall()
		if want.PrecisionRecall == nil != (curve == nil) || curve != nil && len(want.PrecisionRecall[0]) != len(curve) {
			t.Fatalf("case %d: a precision-recall curve of %d points, scikit-learn has %v", i, len(curve), want.PrecisionRecall)
		}
		for k, p := range curve {
			near("precision", p.Precision, want.PrecisionRecall[0][k])
			near("recall", p.Recall, want.PrecisionRecall[1][k])
		}
		if t.Failed() {
			t.Fatalf("case %d, %d examples", i, len(cases[i]))
		}
	}
	t.Logf("%d cases, %d figures that are defined; the greatest difference is %.2g", len(cases), defined, greatest)
}
