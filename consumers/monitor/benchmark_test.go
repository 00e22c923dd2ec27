package monitor

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
)

// telco is a monitor of the shipped table with a model of made-up weights, and
// examples and scores for it.
type telco struct {
	*Monitor
	rng     *rand.Rand
	model   *models.Version
	next    int
	levels  [][]string
	message schemas.CustomerExamples
}

func newTelco(tb testing.TB) *telco {
	tb.Helper()
	codec := schemas.NewCodec(schemas.Telco(), registrytest.New())
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(cluster.Close)
	rng := rand.New(rand.NewPCG(6, 6))
	spec := codec.Set().Spec()
	of := &telco{rng: rng}
	model := &scoring.Model{Intercept: -1}
	for i := range spec.Len() {
		f := scoring.ModelFeature{Name: spec.Feature(i).Name, Kind: spec.Feature(i).Kind.String()}
		if spec.Feature(i).Kind == scoring.Categorical {
			f.Levels, f.Frequency = []string{"a", "b", "c", "d"}, []float64{.4, .3, .2, .1}
			for range f.Levels {
				f.LogOdds = append(f.LogOdds, rng.NormFloat64()/3)
			}
		} else {
			f.LogOddsPerUnit = .01
			f.Quartiles, f.EmpiricalQuantiles = []float64{25, 50, 75}, []float64{10, 20, 30, 40, 50, 60, 70, 80, 90}
			for k := range 4 {
				low := float64(k) * 25
				f.Bins = append(f.Bins, scoring.Bin{Mean: low + 12.5, Std: 7, Min: low + 1, Max: low + 25, Frequency: .25})
			}
		}
		model.Features, of.levels = append(model.Features, f), append(of.levels, f.Levels)
	}
	predictor, err := scoring.Compile(model, codec.Set().Vocabulary())
	if err != nil {
		tb.Fatal(err)
	}
	of.model = &models.Version{Model: model, Predictor: predictor, ModelVersion: schemas.ModelVersion{
		Version: 1, Stage: schemas.StageChampion, MediumThreshold: .3, HighThreshold: .6}}
	reasons := drift.NewBaseline(spec, nil, 0).Reasons()
	rows := make([]scoring.Vector, 2000)
	for i := range rows {
		rows[i] = of.vector(codec.Set().Vocabulary())
		reasons.Add(predictor.SHAP(nil, rows[i], predictor.NewWorkspace()))
	}
	for i := range spec.Len() {
		f := &model.Features[i]
		d := drift.Levels(f.Name, f.Levels, []int64{800, 600, 400, 200}, 0, 2000)
		if f.Levels == nil {
			var values []float64
			for _, x := range rows {
				values = append(values, x[i])
			}
			d = drift.Numbers(f.Name, values)
		}
		d.ReasonRows, d.ReasonMean, d.ReasonDeviation = 2000, reasons.Mean(i), reasons.Deviation(i)
		of.model.Baseline = append(of.model.Baseline, d)
	}
	challenger := *of.model
	challenger.Version, challenger.Stage = 2, schemas.StageChallenger
	known := &theModels{}
	known.set(&challenger, of.model)
	if of.Monitor, err = New(Config{Dependencies: role.Dependencies{Cluster: cluster, Codec: codec, Models: known}}); err != nil {
		tb.Fatal(err)
	}
	of.caughtUp.Store(true)
	return of
}

func (m *telco) vector(v *scoring.Vocabulary) scoring.Vector {
	x := scoring.NewVector(len(m.levels))
	for i, levels := range m.levels {
		if levels == nil {
			x[i] = 100 * m.rng.Float64()
		} else {
			k := 0
			for p := m.rng.Float64(); k < 3 && p > []float64{.4, .7, .9}[k]; k++ {
			}
			x[i], _ = v.CodeString(i, levels[k])
		}
	}
	return x
}

// arrive takes examples and scores of further customers, who come again after a
// while.
func (m *telco) arrive(n int) {
	s := m.cfg.Codec.NewScore()
	for range n {
		m.next++
		x := m.vector(m.cfg.Codec.Set().Vocabulary())
		p := m.model.Predictor.Probability(x)
		id := []byte("customer-" + strconv.Itoa(m.next%20_000))
		e := schemas.LabelledExample{AsOf: int64(m.next), ObservedAt: int64(m.next) + 100, LabelledAt: int64(m.next) + 100,
			Churned: m.rng.Float64() < p, ModelVersion: 1, Probability: p, Attributes: x}
		m.message.CustomerID, m.message.Examples = id, append(m.message.Examples[:0], e)
		m.evidence.take(&m.message)
		s.CustomerID, s.AsOf, s.ModelVersion, s.Probability, s.Attributes = id, int64(m.next), 1, p, x
		m.customers.take(s)
	}
}

// BenchmarkCompute computes all figures over windows of 5,000 examples and 5,000
// customers, after some have come, and at first.
func BenchmarkCompute(b *testing.B) {
	for name, arrive := range map[string]int{"nothing_new": 0, "10_new": 10, "5000_new": 5000} {
		b.Run(name, func(b *testing.B) {
			m := newTelco(b)
			m.arrive(15_000)
			m.computer.result()
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				m.arrive(arrive)
				m.computer.next = time.Time{}
				b.StartTimer()
				if r := m.computer.result(); len(r.versions) != 1 || r.loss.reference.Examples() != 5000 || r.shadow.Rows != 5000 ||
					len(r.segments) != 16*4 || !defined(r.drift.reasons[0]) {
					b.Fatal("not what was to be measured")
				}
			}
		})
	}
}

func BenchmarkTake(b *testing.B) {
	m := newTelco(b)
	m.arrive(15_000)
	b.ReportAllocs()
	for b.Loop() {
		m.arrive(1)
	}
}

// Figures are not computed more often than once a second, nor for more than a fifth
// of the time; other models are noticed at once.
func TestComputedNowAndThen(t *testing.T) {
	m := newTelco(t)
	now := start
	m.now = func() time.Time { return now }
	m.arrive(100)
	first := m.computer.result()
	m.arrive(100)
	if m.computer.result() != first {
		t.Error("computed twice in a moment")
	}
	now = now.Add(time.Hour) // a fifth of which is more than it takes
	second := m.computer.result()
	if second == first || len(second.versions[0].rows.rows) != 200 {
		t.Error("not computed anew after a while")
	}
	m.computer.every = 0
	m.computer.next = now.Add(time.Second)
	if m.computer.result() != second {
		t.Error("computed before its time")
	}
	m.cfg.Models.(*theModels).set(m.model)
	third := m.computer.result()
	if third == second || third.shadow != nil {
		t.Error("that the challenger has gone is not noticed")
	}
	if third.versions[0] != second.versions[0] || !m.computer.next.After(now) {
		t.Error("what has not changed is computed once more, or without a pause")
	}
}
