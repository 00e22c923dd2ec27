package evaluation

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/churnstream/churnstream/scoring"
)

// undefined stands for Missing in tables, where 0 is a value.
var undefined = scoring.Missing

func TestFigures(t *testing.T) {
	for name, tc := range map[string]struct {
		probability    []float64
		churned        []bool
		rows, churners int64
		want           Figures
	}{
		"none": {nil, nil, 0, 0, Undefined()},
		"by hand": {
			// Predicted: yes, yes, no, no. Pairs in order: 0.9>0.6, 0.9>0.2, 0.4<0.6, 0.4>0.2.
			[]float64{0.9, 0.6, 0.4, 0.2}, []bool{true, false, true, false}, 4, 2,
			Figures{Accuracy: 0.5, Precision: 0.5, Recall: 0.5, F1: 0.5, ROCAUC: 0.75, PRAUC: (1 + 2./3) / 2,
				LogLoss:      -(math.Log(0.9) + math.Log(0.4) + math.Log(0.4) + math.Log(0.8)) / 4,
				LogLossSkill: 1 + (math.Log(0.9)+math.Log(0.4)+math.Log(0.4)+math.Log(0.8))/4/math.Ln2,
				Brier:        (0.01 + 0.36 + 0.36 + 0.04) / 4, CalibrationError: (0.1 + 0.6 + 0.6 + 0.2) / 4,
				TopDecileLift: 2},
		},
		"ties count half, and in proportion": {
			[]float64{0.5, 0.5, 0.5, 0.1}, []bool{true, false, false, false}, 4, 1,
			// Decile: one row of the three tied ones, a third of a churner, over a base rate of a quarter.
			Figures{Accuracy: 0.5, Precision: 1. / 3, Recall: 1, F1: 0.5, ROCAUC: (0.5 + 0.5 + 1) / 3, PRAUC: 1. / 3,
				LogLoss:      -(3*math.Log(0.5) + math.Log(0.9)) / 4,
				LogLossSkill: 1 - (3*math.Log(0.5)+math.Log(0.9))/(math.Log(0.25)+3*math.Log(0.75)),
				Brier:        (0.75 + 0.01) / 4, CalibrationError: (math.Abs(1-1.5) + 0.1) / 4, TopDecileLift: 4. / 3},
		},
		// The case auc-one-class: the first days after a release.
		"only stayers": {
			[]float64{0.2, 0.7}, []bool{false, false}, 2, 0,
			Figures{Accuracy: 0.5, Precision: 0, Recall: undefined, F1: 0, ROCAUC: undefined, PRAUC: undefined,
				LogLoss: -(math.Log(0.8) + math.Log(0.3)) / 2, LogLossSkill: undefined,
				Brier: (0.04 + 0.49) / 2, CalibrationError: 0.45, TopDecileLift: undefined},
		},
		"only stayers, rightly": {
			[]float64{0.2, 0.2}, []bool{false, false}, 2, 0,
			Figures{Accuracy: 1, Precision: undefined, Recall: undefined, F1: undefined, ROCAUC: undefined, PRAUC: undefined,
				LogLoss: -math.Log(0.8), LogLossSkill: undefined, Brier: 0.04, CalibrationError: 0.2, TopDecileLift: undefined},
		},
		"only churners": {
			[]float64{0.2, 0.2}, []bool{true, true}, 2, 2,
			Figures{Precision: undefined, ROCAUC: undefined, PRAUC: 1, LogLoss: -math.Log(0.2), LogLossSkill: undefined,
				Brier: 0.64, CalibrationError: 0.8, TopDecileLift: 1},
		},
		"nobody is ever predicted": {
			[]float64{0.1, 0.2}, []bool{true, false}, 2, 1,
			Figures{Accuracy: 0.5, Precision: undefined, ROCAUC: 0, PRAUC: 0.5, LogLoss: -(math.Log(0.1) + math.Log(0.8)) / 2,
				LogLossSkill: 1 + (math.Log(0.1)+math.Log(0.8))/2/math.Ln2,
				Brier:        (0.81 + 0.04) / 2, CalibrationError: 0.55},
		},
		"certain and wrong": {
			[]float64{1, 0}, []bool{false, true}, 2, 1,
			Figures{PRAUC: 0.5, LogLoss: 52 * math.Ln2, LogLossSkill: -51, Brier: 1, CalibrationError: 1},
		},
		"certain and right": {
			[]float64{1, 0}, []bool{true, false}, 2, 1,
			Figures{Accuracy: 1, Precision: 1, Recall: 1, F1: 1, ROCAUC: 1, PRAUC: 1, LogLossSkill: 1, TopDecileLift: 2},
		},
		"without a score": {
			[]float64{1, scoring.Missing, 0}, []bool{true, true, false}, 2, 1,
			Figures{Accuracy: 1, Precision: 1, Recall: 1, F1: 1, ROCAUC: 1, PRAUC: 1, LogLossSkill: 1, TopDecileLift: 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var examples []Example
			for i, p := range tc.probability {
				examples = append(examples, Example{uint64(i), p, tc.churned[i]})
			}
			got := Rank(examples).Metrics()
			if got.Rows != tc.rows || got.Churners != tc.churners {
				t.Errorf("%d rows, %d churners; want %d and %d", got.Rows, got.Churners, tc.rows, tc.churners)
			}
			same(t, "", got.Figures, tc.want, 1e-12)
			same(t, "without a bootstrap, lower", got.Lower, Undefined(), 0)
			same(t, "without a bootstrap, upper", got.Upper, Undefined(), 0)
		})
	}
}

func same(t *testing.T, what string, got, want Figures, tolerance float64) {
	t.Helper()
	for _, f := range All {
		got, want := *f.Of(&got), *f.Of(&want)
		if scoring.IsMissing(got) != scoring.IsMissing(want) || math.Abs(got-want) > tolerance*(1+math.Abs(want)) {
			t.Errorf("%s %s is %.15g, want %.15g", what, f.Name, got, want)
		}
	}
}

// random returns examples with ties, several of a customer, and sometimes one
// class only.
func random(rng *rand.Rand, n int) []Example {
	examples := make([]Example, n)
	levels := []int{2, 8, 1 << 30}[rng.IntN(3)]
	shift := rng.Float64() - 0.5
	for i := range examples {
		p := float64(rng.IntN(levels)+1) / float64(levels+1)
		examples[i] = Example{rng.Uint64N(uint64(n)), p, rng.Float64() < p+shift}
	}
	return examples
}

// TestFiguresAreTheirDefinitions counts pairs, thresholds and rows one by one.
func TestFiguresAreTheirDefinitions(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 14))
	for range 300 {
		examples := random(rng, 1+rng.IntN(60))
		same(t, "", Rank(examples).Metrics().Figures, byDefinition(examples), 1e-12)
	}
}

// byDefinition computes each figure by itself.
func byDefinition(examples []Example) Figures {
	n := float64(len(examples))
	count := func(is func(Example) bool) (k float64) {
		for _, e := range examples {
			if is(e) {
				k++
			}
		}
		return k
	}
	mean := func(of func(Example) float64) (sum float64) {
		for _, e := range examples {
			sum += of(e) / n
		}
		return sum
	}
	churners := count(func(e Example) bool { return e.Churned })
	predicted := count(func(e Example) bool { return e.Probability >= 0.5 })
	hits := count(func(e Example) bool { return e.Churned && e.Probability >= 0.5 })
	f := Figures{
		Accuracy: mean(func(e Example) float64 {
			if e.Churned == (e.Probability >= 0.5) {
				return 1
			}
			return 0
		}),
		Precision: hits / predicted, Recall: hits / churners,
		LogLoss: mean(func(e Example) float64 {
			if e.Churned {
				return -math.Log(e.Probability)
			}
			return -math.Log(1 - e.Probability)
		}),
		Brier: mean(func(e Example) float64 {
			if e.Churned {
				return math.Pow(e.Probability-1, 2)
			}
			return math.Pow(e.Probability, 2)
		}),
	}
	f.F1 = 2 * hits / (predicted + churners)
	pairs, ordered := 0.0, 0.0
	for _, a := range examples {
		for _, b := range examples {
			if a.Churned && !b.Churned {
				pairs++
				switch {
				case a.Probability > b.Probability:
					ordered++
				case a.Probability == b.Probability:
					ordered += 0.5
				}
			}
		}
	}
	f.ROCAUC = ordered / pairs
	thresholds := map[float64]bool{}
	for _, e := range examples {
		thresholds[e.Probability] = true
	}
	falling := make([]float64, 0, len(thresholds))
	for threshold := range thresholds {
		falling = append(falling, threshold)
	}
	slices.Sort(falling)
	slices.Reverse(falling)
	recall := 0.0
	for _, threshold := range falling {
		hits := count(func(e Example) bool { return e.Churned && e.Probability >= threshold })
		f.PRAUC += (hits/churners - recall) * hits / count(func(e Example) bool { return e.Probability >= threshold })
		recall = hits / churners
	}
	rate := churners / n
	f.LogLossSkill = 1 - f.LogLoss/-(rate*math.Log(rate)+(1-rate)*math.Log(1-rate))
	for b := range 10 {
		sum, churned := 0.0, 0.0
		for _, e := range examples {
			if e.Probability > float64(b)*0.1 && e.Probability <= float64(b+1)*0.1 {
				sum += e.Probability
				if e.Churned {
					churned++
				}
			}
		}
		f.CalibrationError += math.Abs(sum-churned) / n
	}
	// The expected lift over all orders of those that tie.
	decile, caught, left := math.Ceil(n/10), 0.0, math.Ceil(n/10)
	for _, threshold := range falling {
		tied := count(func(e Example) bool { return e.Probability == threshold })
		taken := min(tied, left)
		caught += taken / tied * count(func(e Example) bool { return e.Churned && e.Probability == threshold })
		left -= taken
	}
	f.TopDecileLift = caught / decile / rate
	return f
}

// The same examples give the same bits in any order.
func TestOrderDoesNotMatter(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 14))
	for range 10 {
		examples := random(rng, 200)
		pairs := make([]Pair, len(examples))
		probabilities := make([]float64, len(examples))
		for i, e := range examples {
			pairs[i] = Pair{e.Customer, e.Probability, rng.Float64(), e.Churned}
			probabilities[i] = e.Probability
		}
		text := func() string {
			r := Rank(examples)
			b, err := json.Marshal([]any{Evaluate(examples), Compare(pairs), Expect(probabilities).Figures, Expect(probabilities).Upper})
			if err != nil {
				t.Fatal(err)
			}
			curves, _ := json.Marshal([]any{r.Confusion(), r.PrecisionRecall()})
			return string(b) + string(curves)
		}
		want := text()
		rng.Shuffle(len(examples), func(i, j int) {
			examples[i], examples[j] = examples[j], examples[i]
			pairs[i], pairs[j] = pairs[j], pairs[i]
			probabilities[i], probabilities[j] = probabilities[j], probabilities[i]
		})
		if got := text(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestCurvesAgreeWithTheFigures(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 14))
	for range 200 {
		r := Rank(random(rng, 1+rng.IntN(80)))
		m := r.Metrics()
		n, churners := float64(m.Rows), float64(m.Churners)
		near := func(what string, got, want float64) {
			t.Helper()
			if scoring.IsMissing(got) != scoring.IsMissing(want) || math.Abs(got-want) > 1e-12 {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		c := r.Confusion()
		near("accuracy", float64(c.TruePositives+c.TrueNegatives)/n, m.Accuracy)
		near("recall", ratio(float64(c.TruePositives), float64(c.TruePositives+c.FalseNegatives)), m.Recall)
		near("precision", ratio(float64(c.TruePositives), float64(c.TruePositives+c.FalsePositives)), m.Precision)
		near("rows", float64(c.TruePositives+c.TrueNegatives+c.FalsePositives+c.FalseNegatives), n)

		area := scoring.Missing
		if roc := r.ROC(); roc != nil {
			area = 0
			for i := 1; i < len(roc); i++ {
				area += (roc[i].FalsePositiveRate - roc[i-1].FalsePositiveRate) * (roc[i].TruePositiveRate + roc[i-1].TruePositiveRate) / 2
			}
			if first, last := roc[0], roc[len(roc)-1]; first != (ROCPoint{math.Inf(1), 0, 0}) || last.FalsePositiveRate != 1 || last.TruePositiveRate != 1 {
				t.Errorf("the curve goes from %v to %v", first, last)
			}
		}
		near("area under ROC", area, m.ROCAUC)
		area = scoring.Missing
		if curve := r.PrecisionRecall(); curve != nil {
			area = 0
			recall := 0.0
			for _, p := range curve {
				area += (p.Recall - recall) * p.Precision
				recall = p.Recall
			}
			near("last recall", recall, 1)
		}
		near("average precision", area, m.PRAUC)

		deciles := r.Deciles()
		near("top decile", deciles[0].Lift, m.TopDecileLift)
		near("all rows", float64(deciles[9].Rows), n)
		near("all churners", deciles[9].Churners, churners)
		near("all gain", deciles[9].Gain, ratio(churners, churners))
		near("no lift of all", deciles[9].Lift, ratio(churners, churners))
		for d := 1; d < 10; d++ {
			if deciles[d].Churners < deciles[d-1].Churners || deciles[d].Rows < deciles[d-1].Rows {
				t.Errorf("decile %d has less than the one before: %v", d, deciles)
			}
		}
		distance, rows := 0.0, int64(0)
		for _, b := range r.Calibration() {
			rows += b.Rows
			if b.Rows > 0 {
				distance += float64(b.Rows) * math.Abs(b.Predicted-b.Observed) / n
			} else if !scoring.IsMissing(b.Predicted) || !scoring.IsMissing(b.Observed) {
				t.Errorf("an empty bin has %+v", b)
			}
		}
		near("calibration error", distance, m.CalibrationError)
		near("rows in bins", float64(rows), n)
	}
	if r := Rank(nil); r.ROC() != nil || r.PrecisionRecall() != nil {
		t.Error("no examples have curves")
	}
}

// A bin has its upper edge, as in scikit-learn.
func TestBinsHaveTheirUpperEdge(t *testing.T) {
	for p, want := range map[float64]int{0: 0, 0.05: 0, 0.1: 0, math.Nextafter(0.1, 1): 1, 0.3: 2, 0.30000000000000004: 2,
		0.5: 4, 0.6: 5, 0.7: 6, 0.9: 8, math.Nextafter(0.9, 1): 9, 1: 9} {
		if got := bin(p); got != want {
			t.Errorf("%v is in bin %d, want %d", p, got, want)
		}
	}
}

func TestJSONHasNullsForWhatIsNotDefined(t *testing.T) {
	b, err := json.Marshal(Rank([]Example{{1, 0.25, false}}).Metrics())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"rows": 1., "churners": 0., "accuracy": 1., "roc_auc": nil, "brier": 0.0625} {
		if value, is := got[name]; !is || value != want {
			t.Errorf("%s is %v, want %v, in %s", name, value, want, b)
		}
	}
	if bound, is := got["brier_upper"]; !is || bound != nil || len(got) != 2+3*len(All) {
		t.Errorf("no bounds in %s", b)
	}
}
