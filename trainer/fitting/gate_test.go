package fitting

import (
	"context"
	"math"
	"testing"
)

func TestJudge(t *testing.T) {
	d := synthetic(t, 4000, 0, 41)
	train := func(cfg Config) *Candidate {
		c, err := Fit(context.Background(), d, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := train(Config{ImportanceRows: -1, Strengths: []float64{0.5}})
	poor := train(Config{ImportanceRows: -1, Strengths: []float64{1e-5}})
	// As good as the other but for a hair.
	hair := train(Config{ImportanceRows: -1, Strengths: []float64{good.Strength * 1.01}})
	better, worse := good, hair
	if Judge(good, nil).Metrics.LogLoss > Judge(hair, nil).Metrics.LogLoss {
		better, worse = hair, good
	}
	for name, c := range map[string]struct {
		candidate, champion *Candidate
		demand              string
		want                bool
	}{
		"no champion":                   {poor, nil, "", true},
		"better":                        {good, poor, "", true},
		"better by a hair":              {better, worse, "", true},
		"the same":                      {good, good, "", false},
		"worse":                         {poor, good, "", false},
		"worse beyond chance, demanded": {poor, good, "it is old", false},
		"worse by a hair":               {worse, better, "", false},
		"worse by a hair, demanded":     {worse, better, "it is old", true},
	} {
		t.Run(name, func(t *testing.T) {
			var champion *Champion
			if c.champion != nil {
				champion = &Champion{Version: 3, Predictor: c.champion.Predictor, Demand: c.demand}
			}
			v := Judge(c.candidate, champion)
			if v.Promote != c.want {
				t.Errorf("promote %v: %s", v.Promote, v.Reason)
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
