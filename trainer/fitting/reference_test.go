package fitting_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/producers/replay"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// reference reads a file of values measured with other implementations, or
// skips the test.
func reference(t *testing.T, name string, to any) {
	t.Helper()
	directory := os.Getenv("CHURN_REFERENCE")
	if directory == "" {
		directory = filepath.Join("..", "..", "..", "shared", "reference")
	}
	data, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		t.Skipf("no reference values, set CHURN_REFERENCE to their directory: %v", err)
	}
	if err := json.Unmarshal(data, to); err != nil {
		t.Fatal(err)
	}
}

// telco returns the table's 7,032 complete rows, in its order.
func telco(tb testing.TB) *fitting.Dataset {
	tb.Helper()
	set := schemas.Telco()
	rows, err := replay.Load(set)
	if err != nil {
		tb.Fatal(err)
	}
	d := fitting.NewDataset(set.Vocabulary(), len(rows))
	for _, r := range rows {
		// The reference left out customers who were never billed: they alone
		// have numbers that are 0.
		if neverBilled(set.Spec(), r.Attributes) {
			continue
		}
		d.Add(fitting.Example{
			Customer:   fitting.CustomerHash([]byte(r.CustomerID)),
			ObservedAt: r.ObservedAt,
			Churned:    r.Churned,
			Attributes: r.Attributes,
		})
	}
	if d.Len() != 7032 {
		tb.Fatalf("%d complete rows", d.Len())
	}
	return d
}

func neverBilled(spec *scoring.Spec, x scoring.Vector) bool {
	for j, v := range x {
		if v == 0 && spec.Feature(j).Kind == scoring.Numeric {
			return true
		}
	}
	return false
}

// trainingSplit returns the rows that the reference optima were fitted on.
func trainingSplit(t *testing.T, d *fitting.Dataset) []int32 {
	t.Helper()
	var holdout struct {
		TestRows []int `json:"test_rows"`
	}
	reference(t, "telco_holdout_rows.json", &holdout)
	test := make(map[int]bool)
	for _, r := range holdout.TestRows {
		test[r] = true
	}
	var rows []int32
	for i := range d.Len() {
		if !test[i] {
			rows = append(rows, int32(i))
		}
	}
	return rows
}

// The reference's optimizer stops when an iteration lowers the objective by
// less than 2e-9 of it, so its optima are near the true ones, not at them. But
// the objective is strongly convex in the penalised weights w, with modulus 1:
//
//	½‖w − w*‖² ≤ F(w) − F(w*),
//
// which says exactly how far from the optimum w* the reference's w can be.
func TestFitAgreesWithScikitLearn(t *testing.T) {
	var want struct {
		Columns []string
		Optima  []struct {
			C, Objective, Intercept float64
			Coef                    []float64
		}
	}
	reference(t, "logistic_optima_telco.json", &want)
	d := telco(t)
	rows := trainingSplit(t, d)
	churned := make([]bool, len(rows))
	for i, r := range rows {
		churned[i] = d.Churned(int(r))
	}
	columns := make([][]float64, len(want.Columns))
	for c, name := range want.Columns {
		columns[c] = standardised(t, d, rows, name)
	}
	x := fitting.Encode(d, rows, fitting.EncodeConfig{})
	for _, optimum := range want.Optima {
		t.Run(fmt.Sprintf("C=%g", optimum.C), func(t *testing.T) {
			w, err := x.Fit(context.Background(), optimum.C, fitting.SolverConfig{})
			if err != nil {
				t.Fatal(err)
			}
			coef := make([]float64, len(columns))
			distance, greatest := 0.0, 0.0
			for c, column := range want.Columns {
				name, level, categorical := strings.Cut(column, "=")
				feature, _ := d.Spec().Index(name)
				coef[c] = w.Number(feature)
				if categorical {
					code, _ := d.Vocabulary().Lookup(feature, level)
					coef[c] = w.Level(feature, code)
				}
				distance += (coef[c] - optimum.Coef[c]) * (coef[c] - optimum.Coef[c])
				greatest = max(greatest, math.Abs(coef[c]-optimum.Coef[c]))
			}
			theirs, theirGradient := objective(columns, churned, optimum.C, optimum.Intercept, optimum.Coef)
			ours, ourGradient := objective(columns, churned, optimum.C, w.Intercept(), coef)
			if off := theirs/optimum.Objective - 1; math.Abs(off) > 1e-12 {
				t.Errorf("objective %v at the reference's weights, which says %v", theirs, optimum.Objective)
			}
			if off := w.Objective/ours - 1; math.Abs(off) > 1e-12 {
				t.Errorf("objective %v, but %v when computed from all columns", w.Objective, ours)
			}
			if off := ours/theirs - 1; off > 1e-12 || off < -2e-8 {
				t.Errorf("objective is off by %g from the reference's", off)
			}
			// The gradient bounds our own distance from the optimum.
			if ourGradient > 1e-8*max(1, optimum.C) {
				t.Errorf("gradient's norm %g", ourGradient)
			}
			if bound := math.Sqrt(2*(theirs-ours)) * (1 + 1e-6); !(math.Sqrt(distance) <= bound) {
				t.Errorf("weights are %g from the reference's, at most %g is possible", math.Sqrt(distance), bound)
			}
			t.Logf("objective %.15g, reference's %.1e higher; gradient %.1e, reference's %.1e; weights differ by up to %.1e; %d gradients, %d Hessians",
				ours, theirs/ours-1, ourGradient, theirGradient, greatest, w.Iterations, w.Hessians)
		})
	}
}

// standardised returns the column of a name as in the reference file, with
// mean 0 and population standard deviation 1.
func standardised(t *testing.T, d *fitting.Dataset, rows []int32, name string) []float64 {
	t.Helper()
	name, level, categorical := strings.Cut(name, "=")
	feature, ok := d.Spec().Index(name)
	if !ok {
		t.Fatalf("no feature %q", name)
	}
	column, attributes := make([]float64, len(rows)), scoring.NewVector(d.Spec().Len())
	mean, square := 0.0, 0.0
	for i, r := range rows {
		d.Attributes(int(r), attributes)
		column[i] = attributes[feature]
		if categorical {
			column[i] = 0
			if d.Vocabulary().Level(feature, attributes[feature]) == level {
				column[i] = 1
			}
		}
		mean += column[i] / float64(len(rows))
	}
	for _, v := range column {
		square += (v - mean) * (v - mean) / float64(len(rows))
	}
	for i := range column {
		column[i] = (column[i] - mean) / math.Sqrt(square)
	}
	return column
}

// objective returns c·Σ log loss + ½‖w‖² and the norm of its gradient.
func objective(columns [][]float64, churned []bool, c, intercept float64, coef []float64) (value, norm float64) {
	gradient := append([]float64{0}, coef...)
	for _, w := range coef {
		value += w * w / 2
	}
	for i := range churned {
		eta, y := intercept, 0.0
		for k := range coef {
			eta += coef[k] * columns[k][i]
		}
		if churned[i] {
			y = 1
		}
		value += c * (max(eta, 0) + math.Log1p(math.Exp(-math.Abs(eta))) - y*eta)
		residual := c * (1/(1+math.Exp(-eta)) - y)
		gradient[0] += residual
		for k := range coef {
			gradient[k+1] += residual * columns[k][i]
		}
	}
	for _, g := range gradient {
		norm += g * g
	}
	return value, math.Sqrt(norm)
}

func TestModelDescribesTheRowsAsTheReferenceDoes(t *testing.T) {
	var want scoring.Model
	reference(t, "explanations_telco.json", &want)
	d := telco(t)
	all := make([]int32, d.Len())
	for i := range all {
		all[i] = int32(i)
	}
	w, err := fitting.Encode(d, all, fitting.EncodeConfig{}).Fit(context.Background(), 1, fitting.SolverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	got := w.Model()
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-9*max(1, math.Abs(want)) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	near("base rate", got.BaseRate, want.BaseRate)
	for j, f := range want.Features {
		g := got.Features[j]
		if g.Name != f.Name || g.Kind != f.Kind || len(g.Levels) != len(f.Levels) ||
			len(g.Bins) != len(f.Bins) || len(g.Quartiles) != len(f.Quartiles) || len(g.EmpiricalQuantiles) != len(f.EmpiricalQuantiles) {
			t.Fatalf("%s: another shape", f.Name)
		}
		for l, level := range f.Levels {
			if g.Levels[l] != level {
				t.Errorf("%s: level %q, want %q", f.Name, g.Levels[l], level)
			}
			near(f.Name+" "+level, g.Frequency[l], f.Frequency[l])
		}
		for q := range f.Quartiles {
			near(f.Name+" quartile", g.Quartiles[q], f.Quartiles[q])
		}
		for b := range f.Bins {
			near(f.Name+" mean", g.Bins[b].Mean, f.Bins[b].Mean)
			near(f.Name+" std", g.Bins[b].Std, f.Bins[b].Std)
			near(f.Name+" min", g.Bins[b].Min, f.Bins[b].Min)
			near(f.Name+" max", g.Bins[b].Max, f.Bins[b].Max)
			near(f.Name+" frequency", g.Bins[b].Frequency, f.Bins[b].Frequency)
		}
		for q := range f.EmpiricalQuantiles {
			near(f.Name+" quantile", g.EmpiricalQuantiles[q], f.EmpiricalQuantiles[q])
		}
	}
}

func BenchmarkTrainTelco(b *testing.B) {
	d := telco(b)
	for b.Loop() {
		if _, err := fitting.Fit(context.Background(), d, fitting.Config{}); err != nil {
			b.Fatal(err)
		}
	}
}

// The model that cross-validation leads to is as good on the reference's own
// test rows as the reference's, which was tuned the same way.
func TestTunedFitIsAsGoodAsTheReference(t *testing.T) {
	var want struct {
		Holdout struct {
			Accuracy float64
			ROCAUC   float64 `json:"roc_auc"`
			LogLoss  float64 `json:"log_loss"`
			Brier    float64
		}
	}
	reference(t, "explanations_telco.json", &want)
	d := telco(t)
	rows := trainingSplit(t, d)
	var linear float64
	for _, knots := range []int{0, 5, 9} {
		got, strength := tuned(t, d, rows, knots)
		t.Logf("%d knots, C %.4g: %+v, reference %+v", knots, strength, got, want.Holdout)
		if knots == 0 {
			linear = got.LogLoss
			if got.LogLoss > want.Holdout.LogLoss+0.001 || got.ROCAUC < want.Holdout.ROCAUC-0.002 ||
				got.Brier > want.Holdout.Brier+0.0005 || math.Abs(got.Accuracy-want.Holdout.Accuracy) > 0.01 {
				t.Errorf("%+v, reference %+v", got, want.Holdout)
			}
		} else if got.LogLoss > linear {
			t.Errorf("log loss %v with %d knots, %v without", got.LogLoss, knots, linear)
		}
	}
}

// tuned fits rows with the strength that cross-validation chooses, and measures
// the model on all others.
func tuned(t *testing.T, d *fitting.Dataset, rows []int32, knots int) (evaluation.Metrics, float64) {
	t.Helper()
	x := fitting.Encode(d, rows, fitting.EncodeConfig{Folds: 5, Knots: knots})
	strength, _, err := x.Strength(context.Background(), fitting.DefaultStrengths())
	if err != nil {
		t.Fatal(err)
	}
	w, err := x.Fit(context.Background(), strength, fitting.SolverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := scoring.Compile(w.Model(), d.Vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	var examples []evaluation.Example
	attributes := scoring.NewVector(d.Spec().Len())
	for i := range d.Len() {
		if _, training := slices.BinarySearch(rows, int32(i)); !training {
			d.Attributes(i, attributes)
			examples = append(examples, evaluation.Example{Customer: uint64(i), Probability: p.Probability(attributes), Churned: d.Churned(i)})
		}
	}
	return evaluation.Evaluate(examples), strength
}

func BenchmarkTrainTelcoImportance(b *testing.B) {
	d := telco(b)
	for _, rows := range []int{-1, 2000, 10_000} { // of 5,274 for training
		b.Run(fmt.Sprint("rows=", rows), func(b *testing.B) {
			cfg := fitting.Config{Strengths: []float64{1}, ImportanceRows: rows}
			for b.Loop() {
				if _, err := fitting.Fit(context.Background(), d, cfg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
