package fitting

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/scoring"
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
			if v.Lower > v.Difference || v.Upper < v.Difference {
				t.Errorf("difference %v is not within %v and %v", v.Difference, v.Lower, v.Upper)
			}
		})
	}
}

// A holdout of one class promotes nobody, whoever is better there.
func TestJudgeOfOneClass(t *testing.T) {
	for name, left := range map[string]bool{"none": false, "each": true} {
		s := newStream(t, 6)
		s.add(1200, false)
		champion := s.fit(t)
		for range 400 {
			x, _ := s.draw(false)
			s.data.Add(Example{Customer: CustomerHash(fmt.Append(nil, s.rows)), ObservedAt: int64(s.rows), Churned: left, Attributes: x})
			s.rows++
		}
		c := s.fit(t)
		if v := Judge(c, nil); !v.Promote {
			t.Errorf("%s left: without a champion: %s", name, v.Reason)
		}
		for _, demand := range []string{"", "it is old"} {
			v := Judge(c, &Champion{Version: 3, Predictor: champion.Predictor, Demand: demand})
			if v.Promote || !strings.Contains(v.Reason, "not judged, as "+name+" of the 400 holdout customers left") || strings.Contains(v.Reason, "NaN") {
				t.Errorf("%s left: promoted %t: %s", name, v.Promote, v.Reason)
			}
			if !scoring.IsMissing(v.Metrics.ROCAUC) {
				t.Errorf("%s left: area %v", name, v.Metrics.ROCAUC)
			}
		}
	}
}

// One customer's rows say nothing of chance: a model that is wanted, and worse, is not
// let through for want of an interval.
func TestJudgeWithoutAnInterval(t *testing.T) {
	many := synthetic(t, 4000, 0, 43)
	d := NewDataset(many.Vocabulary(), 0)
	x := make(scoring.Vector, many.Spec().Len())
	for i := range many.Len() {
		many.Attributes(i, x)
		customer := CustomerHash([]byte{byte(i), byte(i >> 8)})
		if i >= 3000 { // the holdout
			customer = CustomerHash([]byte("always the same"))
		}
		d.Add(Example{Customer: customer, ObservedAt: int64(i), Churned: many.Churned(i), Attributes: x})
	}
	fit := func(strength float64) *Candidate {
		c, err := Fit(context.Background(), d, Config{ImportanceRows: -1, Strengths: []float64{strength}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	v := Judge(fit(1e-5), &Champion{Version: 3, Predictor: fit(0.5).Predictor, Demand: "it is old"})
	if !scoring.IsMissing(v.Lower) || v.Difference <= 0 {
		t.Fatalf("difference %v, from %v: the test is none", v.Difference, v.Lower)
	}
	if v.Promote || strings.Contains(v.Reason, "NaN") {
		t.Errorf("promote %v: %s", v.Promote, v.Reason)
	}
}
