package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

func TestPredictorReproducesTheFit(t *testing.T) {
	for _, problem := range []struct {
		missing float64
		knots   int
	}{{0, 0}, {0.1, 0}, {0, 5}, {0.1, 5}, {0, 100}} {
		missing := problem.missing
		t.Run(fmt.Sprintf("missing=%g,knots=%d", missing, problem.knots), func(t *testing.T) {
			d, vocabulary := synthetic(t, 4000, missing, 21)
			rows := d.Ordered()
			w, err := Encode(d, rows, vocabulary, EncodeConfig{Folds: 5, Knots: problem.knots}).Fit(context.Background(), 1, FitConfig{})
			if err != nil {
				t.Fatal(err)
			}
			model := w.Model(d, vocabulary)
			payload, err := json.Marshal(model)
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := scoring.ParseModel(payload)
			if err != nil {
				t.Fatal(err)
			}
			p, err := scoring.Compile(parsed, vocabulary)
			if err != nil {
				t.Fatal(err)
			}
			oracle := newDense(d, rows, vocabulary, problem.knots)
			coefficients := oracle.coefficients(w)
			// A missing number counts with its mean, which scoring takes from
			// the thousand quantiles in the model.
			tolerance := 1e-9
			if missing > 0 {
				tolerance = 2e-3
			}
			x := scoring.NewVector(d.Spec().Len())
			worst := 0.0
			for i, r := range rows {
				d.Attributes(int(r), x)
				worst = max(worst, math.Abs(p.LogOdds(x)-oracle.logOdds(coefficients, i)))
			}
			t.Logf("log-odds off by at most %.1e", worst)
			if worst > tolerance {
				t.Errorf("log-odds off by %g", worst)
			}
		})
	}
}

func TestQuartileBins(t *testing.T) {
	for name, c := range map[string]struct {
		values, bounds []float64
		frequency      []float64
	}{
		"even":                          {[]float64{1, 2, 3, 4, 5, 6, 7, 8, 9}, []float64{3, 5, 7}, []float64{3. / 9, 2. / 9, 2. / 9, 2. / 9}},
		"between values":                {[]float64{1, 2, 3, 4}, []float64{1.75, 2.5, 3.25}, []float64{0.25, 0.25, 0.25, 0.25}},
		"mostly one value, at the foot": {[]float64{0, 0, 0, 0, 0, 0, 1, 2}, []float64{0}, []float64{0.75, 0.25}}, // no value between 0 and the upper quartile, 0.25
		"mostly one value, at the top":  {[]float64{1, 2, 9, 9, 9, 9, 9, 9}, []float64{7.25}, []float64{0.25, 0.75}},
		"one value":                     {[]float64{3, 3, 3}, nil, []float64{1}},
		"none":                          {nil, nil, []float64{1}},
	} {
		t.Run(name, func(t *testing.T) {
			bounds, bins := quartileBins(c.values)
			if !slices.Equal(bounds, c.bounds) {
				t.Errorf("bounds %v, want %v", bounds, c.bounds)
			}
			var frequency []float64
			for b, bin := range bins {
				frequency = append(frequency, bin.Frequency)
				if bin.Mean < bin.Min || bin.Mean > bin.Max {
					t.Errorf("bin %d: %+v", b, bin)
				}
			}
			if !slices.Equal(frequency, c.frequency) {
				t.Errorf("frequencies %v, want %v", frequency, c.frequency)
			}
		})
	}
}

func TestTrain(t *testing.T) {
	d, vocabulary := synthetic(t, 2000, 0.02, 33)
	c, err := Train(context.Background(), d, vocabulary, TrainConfig{ImportanceRows: 200})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Training) != 1500 || len(c.Holdout) != 500 {
		t.Fatalf("%d rows for training, %d held out", len(c.Training), len(c.Holdout))
	}
	newest := d.ObservedAt(int(c.Training[len(c.Training)-1]))
	for _, r := range c.Holdout {
		if d.ObservedAt(int(r)) < newest {
			t.Fatal("a row held out is older than one trained on")
		}
	}
	if !slices.Contains(DefaultStrengths(), c.Strength) {
		t.Errorf("C %v", c.Strength)
	}
	if c.Model.Thresholds.Medium != scoring.DefaultMediumThreshold || c.Model.Thresholds.High != scoring.DefaultHighThreshold {
		t.Errorf("thresholds %v", c.Model.Thresholds)
	}
	if n := d.Spec().Len(); len(c.Baseline) != n+1 || c.Baseline[n].Name != ScoreBaseline || len(c.Model.Importance) != n {
		t.Fatalf("%d baselines, %d importances for %d features", len(c.Baseline), len(c.Model.Importance), n)
	}
	for _, b := range c.Baseline {
		sum := 0.0
		for _, f := range b.Frequencies {
			sum += f
		}
		if len(b.Bins) != len(b.Frequencies) || math.Abs(sum-1) > 1e-9 {
			t.Errorf("baseline of %s: %d bins, %d frequencies with sum %v", b.Name, len(b.Bins), len(b.Frequencies), sum)
		}
	}
	if b := c.Baseline[len(c.Baseline)-1]; len(b.Bins) != 10 || b.Bins[9] != "+Inf" || math.Abs(b.Frequencies[0]-0.1) > 0.001 {
		t.Errorf("baseline of the probability: %v", b)
	}
	again, err := Train(context.Background(), d.Clone(), vocabulary, TrainConfig{ImportanceRows: 200})
	if err != nil {
		t.Fatal(err)
	}
	first, _ := json.Marshal(c.Model)
	second, _ := json.Marshal(again.Model)
	if string(first) != string(second) {
		t.Error("the same examples gave another model")
	}
}

// The order in which examples came must not matter: partitions are read at the
// same time.
func TestTrainDoesNotDependOnTheOrderOfExamples(t *testing.T) {
	d, vocabulary := synthetic(t, 1000, 0, 34)
	reversed := NewDataset(d.Spec(), 0)
	for i := d.Len() - 1; i >= 0; i-- {
		x := scoring.NewVector(d.Spec().Len())
		d.Attributes(i, x)
		reversed.Add(Example{d.customer[i] &^ 1, d.ObservedAt(i), d.Churned(i), x})
	}
	cfg := TrainConfig{Strengths: []float64{1}, ImportanceRows: -1}
	var payloads []string
	for _, data := range []*Dataset{d, reversed} {
		c, err := Train(context.Background(), data, vocabulary, cfg)
		if err != nil {
			t.Fatal(err)
		}
		payload, _ := json.Marshal(c.Model)
		payloads = append(payloads, string(payload))
	}
	if payloads[0] != payloads[1] {
		t.Error("another order gave another model")
	}
}

func TestTrainOnTooLittle(t *testing.T) {
	for name, rows := range map[string][][4]any{
		"nothing":   nil,
		"one":       {{"a", 1.0, 1.0, true}},
		"one class": {{"a", 1.0, 1.0, true}, {"b", 1.0, 1.0, true}, {"b", 1.0, 1.0, true}, {"b", 2.0, 1.0, true}, {"b", 3.0, 1.0, true}},
	} {
		d, vocabulary := small(t, rows)
		if _, err := Train(context.Background(), d, vocabulary, TrainConfig{}); !errors.Is(err, ErrTooFewLabels) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestJudge(t *testing.T) {
	d, vocabulary := synthetic(t, 4000, 0, 41)
	train := func(cfg TrainConfig) *Candidate {
		c, err := Train(context.Background(), d, vocabulary, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := train(TrainConfig{ImportanceRows: -1, Strengths: []float64{0.5}})
	poor := train(TrainConfig{ImportanceRows: -1, Strengths: []float64{1e-5}})
	// As good as the other but for a hair.
	hair := train(TrainConfig{ImportanceRows: -1, Strengths: []float64{good.Strength * 1.01}})
	better, worse := good, hair
	if Judge(good, d, nil).Metrics.LogLoss > Judge(hair, d, nil).Metrics.LogLoss {
		better, worse = hair, good
	}
	for name, c := range map[string]struct {
		candidate, champion *Candidate
		demand              string
		want                schemas.Stage
	}{
		"no champion":                   {poor, nil, "", schemas.StageChampion},
		"better":                        {good, poor, "", schemas.StageChampion},
		"better by a hair":              {better, worse, "", schemas.StageChampion},
		"the same":                      {good, good, "", schemas.StageChallenger},
		"worse":                         {poor, good, "", schemas.StageChallenger},
		"worse beyond chance, demanded": {poor, good, "it is old", schemas.StageChallenger},
		"worse by a hair":               {worse, better, "", schemas.StageChallenger},
		"worse by a hair, demanded":     {worse, better, "it is old", schemas.StageChampion},
	} {
		t.Run(name, func(t *testing.T) {
			var champion *Champion
			if c.champion != nil {
				champion = &Champion{Version: 3, Predictor: c.champion.Predictor, Demand: c.demand}
			}
			v := Judge(c.candidate, d, champion)
			if v.Stage != c.want {
				t.Errorf("%s: %s", v.Stage, v.Reason)
			}
			t.Log(v.Reason)
			if v.Metrics.Rows != 1000 || (v.ChampionMetrics == nil) != (champion == nil) {
				t.Errorf("metrics %+v, of the champion %+v", v.Metrics, v.ChampionMetrics)
			}
			if champion != nil && math.Abs(v.Difference-(v.Metrics.LogLoss-v.ChampionMetrics.LogLoss)) > 1e-12 {
				t.Errorf("difference %v of log losses %v and %v", v.Difference, v.Metrics.LogLoss, v.ChampionMetrics.LogLoss)
			}
			if v.Low > v.Difference || v.High < v.Difference {
				t.Errorf("difference %v is not within %v and %v", v.Difference, v.Low, v.High)
			}
		})
	}
}

func TestBootstrapIntervalHasTheRightWidth(t *testing.T) {
	for _, n := range []int{400, 20_000} {
		values := make([]float64, n)
		for i := range values {
			values[i] = math.Sqrt(12) * (float64(mix(uint64(i+1))>>11)/(1<<53) - 0.5) // mean 0, variance 1
		}
		low, high := bootstrap(values)
		mean, std := meanStd(values)
		want := 2 * 1.96 * std / math.Sqrt(float64(n))
		if math.Abs((high-low)/want-1) > 0.1 || math.Abs((low+high)/2-mean) > 0.1*want {
			t.Errorf("%d values: interval %v to %v, want %v wide around %v", n, low, high, want, mean)
		}
	}
}
