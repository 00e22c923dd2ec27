package simulator

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/churnstream/churnstream/producers/pace"
	"github.com/churnstream/churnstream/producers/pace/pacetest"
	"github.com/churnstream/churnstream/producers/replay"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// logLoss returns a model's log loss on examples, and that of predicting their
// base rate for everybody.
func logLoss(p *scoring.Predictor, examples []fitting.Example) (model, base float64) {
	left := 0.0
	for _, e := range examples {
		probability := p.Probability(e.Attributes)
		if !e.Churned {
			probability = 1 - probability
		} else {
			left++
		}
		model -= math.Log(probability)
	}
	n := float64(len(examples))
	rate := left / n
	return model / n, -rate*math.Log(rate) - (1-rate)*math.Log(1-rate)
}

// TestTheChangeCanBeLearnt follows simulated customers through a change in what
// makes them leave with a model from before, and learns another from after it.
func TestTheChangeCanBeLearnt(t *testing.T) {
	set := schemas.Telco()
	rows, err := replay.Load(set)
	if err != nil {
		t.Fatal(err)
	}
	codec := pacetest.Codec(t, set)
	fit := func(examples []fitting.Example) *fitting.Candidate {
		t.Helper()
		d := fitting.NewDataset(set.Vocabulary(), 0)
		for _, e := range examples {
			d.Add(e)
		}
		c, err := fitting.Fit(t.Context(), d, fitting.Config{Strengths: []float64{1}, ImportanceRows: -1})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var history []fitting.Example
	for _, row := range rows {
		history = append(history, fitting.Example{Customer: fitting.CustomerHash([]byte(row.CustomerID)), Churned: row.Churned, Attributes: row.Attributes})
	}
	champion := fit(history)

	drift := pace.NewDrift(set.Spec(), rows, 30*time.Second, 0)
	topics := &pacetest.Topics{}
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Codec: codec, Population: rows, Rate: 200, FollowUpShare: -1, OutcomeDelay: 2 * time.Second, Drift: drift, Seed: 1}
		simulate(t, cfg, topics, time.Minute)
	})
	at, _ := drift.At()
	attributes := map[string]scoring.Vector{}
	for _, e := range topics.Events(t, codec) {
		attributes[string(e.CustomerID)] = e.Changes
	}
	var before, after []fitting.Example
	for _, o := range topics.Outcomes(t, codec) {
		into := &before
		if o.ObservedAt >= at.UnixMilli() {
			into = &after
		}
		*into = append(*into, fitting.Example{
			Customer: fitting.CustomerHash([]byte(o.CustomerID)), ObservedAt: o.ObservedAt, Churned: o.Churned, Attributes: attributes[o.CustomerID],
		})
	}
	if len(before) < 5000 || len(after) < 5000 {
		t.Fatalf("%d outcomes before the change, %d after it", len(before), len(after))
	}

	was, base := logLoss(champion.Predictor, before)
	is, baseAfter := logLoss(champion.Predictor, after)
	t.Logf("log loss %.3f on the holdout, %.3f before the change (base rate %.3f), %.3f after it (base rate %.3f)",
		champion.Metrics.LogLoss, was, base, is, baseAfter)
	if math.Abs(was-champion.Metrics.LogLoss) > .03 {
		t.Errorf("log loss %.3f before the change, %.3f on the holdout", was, champion.Metrics.LogLoss)
	}
	if is < baseAfter+.1 {
		t.Errorf("log loss %.3f after the change, %.3f by the base rate alone", is, baseAfter)
	}
	if math.Abs(base-baseAfter) > .03 {
		t.Errorf("base rates of %.3f and %.3f, in log loss", base, baseAfter)
	}
	// What is learnt from the first half is good for the second.
	half := len(after) / 2
	learnt, baseLater := logLoss(fit(after[:half]).Predictor, after[half:])
	t.Logf("log loss %.3f of a model from after the change (base rate %.3f)", learnt, baseLater)
	if skill := 1 - learnt/baseLater; skill < .15 || learnt > champion.Metrics.LogLoss+.05 {
		t.Errorf("log loss %.3f of a model from after the change, skill %.3f", learnt, skill)
	}
}
