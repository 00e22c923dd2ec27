package scoring

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestEvaluate(t *testing.T) {
	for name, tc := range map[string]struct {
		probability []float64
		churned     []bool
		want        Metrics
	}{
		"none": {nil, nil, Metrics{ROCAUC: 0.5}},
		"by hand": {
			// Predicted: yes, yes, no, no. Pairs in order: 0.9>0.6, 0.9>0.2, 0.4<0.6, 0.4>0.2.
			[]float64{0.9, 0.6, 0.4, 0.2}, []bool{true, false, true, false},
			Metrics{Rows: 4, Accuracy: 0.5, Precision: 0.5, Recall: 0.5, F1: 0.5, ROCAUC: 0.75,
				LogLoss: -(math.Log(0.9) + math.Log(0.4) + math.Log(0.4) + math.Log(0.8)) / 4,
				Brier:   (0.01 + 0.36 + 0.36 + 0.04) / 4, CalibrationError: (0.1 + 0.6 + 0.6 + 0.2) / 4,
				TopDecileLift: 2},
		},
		"ties count half, and in proportion": {
			[]float64{0.5, 0.5, 0.5, 0.1}, []bool{true, false, false, false},
			// Decile: one row of the three tied ones, a third of a churner, over a base rate of a quarter.
			Metrics{Rows: 4, Accuracy: 0.5, Precision: 1. / 3, Recall: 1, F1: 0.5, ROCAUC: (0.5 + 0.5 + 1) / 3,
				LogLoss: -(3*math.Log(0.5) + math.Log(0.9)) / 4, Brier: (0.75 + 0.01) / 4,
				CalibrationError: (math.Abs(1-1.5) + 0.1) / 4, TopDecileLift: 4. / 3},
		},
		"one class": {
			[]float64{0.2, 0.7}, []bool{false, false},
			Metrics{Rows: 2, Accuracy: 0.5, ROCAUC: 0.5, LogLoss: -(math.Log(0.8) + math.Log(0.3)) / 2,
				Brier: (0.04 + 0.49) / 2, CalibrationError: 0.45},
		},
		"certain and wrong": {
			[]float64{1, 0}, []bool{false, true},
			Metrics{Rows: 2, LogLoss: -math.Log(1e-15), Brier: 1, CalibrationError: 1},
		},
		"certain and right": {
			[]float64{1, 0}, []bool{true, false},
			Metrics{Rows: 2, Accuracy: 1, Precision: 1, Recall: 1, F1: 1, ROCAUC: 1, TopDecileLift: 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := Evaluate(tc.probability, tc.churned)
			for _, f := range []struct {
				name      string
				got, want float64
			}{
				{"rows", float64(got.Rows), float64(tc.want.Rows)},
				{"accuracy", got.Accuracy, tc.want.Accuracy},
				{"precision", got.Precision, tc.want.Precision},
				{"recall", got.Recall, tc.want.Recall},
				{"F1", got.F1, tc.want.F1},
				{"ROC AUC", got.ROCAUC, tc.want.ROCAUC},
				{"log loss", got.LogLoss, tc.want.LogLoss},
				{"Brier", got.Brier, tc.want.Brier},
				{"calibration error", got.CalibrationError, tc.want.CalibrationError},
				{"lift", got.TopDecileLift, tc.want.TopDecileLift},
			} {
				// 1−1e-15 is rounded, hence the slack of a certain error.
				if !(math.Abs(f.got-f.want) <= 1e-12*(1+math.Abs(f.want)) || name == "certain and wrong" && math.Abs(f.got-f.want) < 0.1) {
					t.Errorf("%s is %.15g, want %.15g", f.name, f.got, f.want)
				}
			}
		})
	}
}

// TestEvaluateRanking compares the area under the curve with a count of pairs,
// and the lift with a count of rows, on data with many ties.
func TestEvaluateRanking(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 14))
	for range 50 {
		n := 2 + rng.IntN(100)
		p, y := make([]float64, n), make([]bool, n)
		for i := range p {
			p[i] = float64(rng.IntN(8)) / 8
			y[i] = rng.Float64() < p[i]
		}
		pairs, ordered := 0.0, 0.0
		for i := range p {
			for j := range p {
				if y[i] && !y[j] {
					pairs++
					switch {
					case p[i] > p[j]:
						ordered++
					case p[i] == p[j]:
						ordered += 0.5
					}
				}
			}
		}
		want := 0.5
		if pairs > 0 {
			want = ordered / pairs
		}
		if got := Evaluate(p, y).ROCAUC; math.Abs(got-want) > 1e-12 {
			t.Errorf("area %g, want %g", got, want)
		}
	}
	// NaN, which no model of ours gives, must not hang it.
	Evaluate([]float64{math.NaN(), 0.5, math.NaN()}, []bool{true, false, true})

	defer func() {
		if recover() == nil {
			t.Error("lengths that differ do not panic")
		}
	}()
	Evaluate([]float64{1}, nil)
}
