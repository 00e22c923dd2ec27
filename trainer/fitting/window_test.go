package fitting

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/churnstream/churnstream/internal/invariants"
	"github.com/churnstream/churnstream/scoring"
)

// stream is a world of customers with three numbers, of whom the first and the
// second, later the third as well, make them leave.
type stream struct {
	data   *Dataset
	random *rand.Rand
	rows   int
}

func newStream(t *testing.T, seed uint64) *stream {
	t.Helper()
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "a"}, {Name: "b"}, {Name: "c"}})
	if err != nil {
		t.Fatal(err)
	}
	return &stream{data: NewDataset(scoring.NewVocabulary(spec), 0), random: rand.New(rand.NewPCG(3, seed))}
}

func (s *stream) draw(changed bool) (x scoring.Vector, p float64) {
	x = scoring.Vector{s.random.NormFloat64(), s.random.NormFloat64(), s.random.NormFloat64()}
	eta := -1 + 1.2*x[0] + 0.8*x[1]
	if changed {
		eta = -1 - 1.2*x[0] + 0.8*x[1] + 0.5*x[2]
	}
	return x, 1 / (1 + math.Exp(-eta))
}

func (s *stream) add(rows int, changed bool) {
	for range rows {
		x, p := s.draw(changed)
		s.data.Add(Example{Customer: CustomerHash(fmt.Append(nil, s.rows)), ObservedAt: int64(s.rows), Churned: s.random.Float64() < p, Attributes: x})
		s.rows++
	}
}

// loss returns the expected log loss of a model, and that of the best there is.
func (s *stream) loss(p *scoring.Predictor, changed bool) (loss, least float64) {
	const rows = 20_000
	for range rows {
		x, truth := s.draw(changed)
		q := p.Probability(x)
		loss -= (truth*math.Log(q) + (1-truth)*math.Log(1-q)) / rows
		least -= (truth*math.Log(truth) + (1-truth)*math.Log(1-truth)) / rows
	}
	return loss, least
}

func (s *stream) fit(t *testing.T) *Candidate {
	t.Helper()
	c, err := Fit(t.Context(), s.data, Config{Strengths: []float64{1}, ImportanceRows: -1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// When what makes customers leave has changed, the model in use is one of what
// is recent after a few thousand labels, though there are many more old ones.
func TestAChangeIsLearntFromTheNewest(t *testing.T) {
	s := newStream(t, 4)
	s.add(20_000, false)
	champion := &Champion{Version: 1, Predictor: s.fit(t).Predictor}
	for labels := 1000; labels <= 5000; labels += 1000 {
		s.add(1000, true)
		c := s.fit(t)
		if v := Judge(c, champion); v.Promote {
			champion = &Champion{Version: champion.Version + 1, Predictor: c.Predictor}
		}
		loss, least := s.loss(champion.Predictor, true)
		t.Logf("after %d labels: version %d, learnt from %d of %d, log loss %.4f, %.4f at best", labels, champion.Version, len(c.Training), c.Examples, loss, least)
		if labels >= 2000 && loss > least+0.015 {
			t.Errorf("log loss %.4f after %d labels, %.4f is the best there is", loss, labels, least)
		}
	}
}

// Where nothing changes, all examples are learnt from.
func TestNothingIsForgottenWhereNothingChanges(t *testing.T) {
	if invariants.Raced {
		t.Skip("a simulation")
	}
	forgotten, trainings := 0, 0
	for seed := range uint64(15) {
		s := newStream(t, seed)
		s.add(3000, false)
		for range 6 {
			s.add(500, false)
			if c := s.fit(t); c.used() < c.Examples {
				forgotten++
			}
			trainings++
		}
	}
	if forgotten > 1 {
		t.Errorf("%d of %d trainings forgot what is old", forgotten, trainings)
	}
}

// Labels of customers who stayed may come later than those of customers who left.
// That what is newest has then more of the latter is no reason to forget the rest.
func TestLabelsOfOneClassThatComeFirst(t *testing.T) {
	if invariants.Raced {
		t.Skip("a simulation")
	}
	for seed := range uint64(5) {
		s := newStream(t, 20+seed)
		s.add(6000, false)
		for range 3000 {
			if x, p := s.draw(false); s.random.Float64() < p || s.random.IntN(5) == 0 { // of those who stayed, one in five
				left := s.random.Float64() < p/(p+(1-p)/5)
				s.data.Add(Example{Customer: CustomerHash(fmt.Append(nil, s.rows)), ObservedAt: int64(s.rows), Churned: left, Attributes: x})
				s.rows++
			}
		}
		if c := s.fit(t); c.used() < c.Examples {
			t.Errorf("%d of %d examples are used", c.used(), c.Examples)
		}
	}
}

// Undated history has no newest part, and what is undecided there is not decided
// by chance.
func TestWindowsOfUndatedHistory(t *testing.T) {
	s := newStream(t, 1)
	for i := range 4000 {
		x, p := s.draw(i < 2000)
		s.data.Add(Example{Customer: CustomerHash(fmt.Append(nil, i)), ObservedAt: 7, Churned: s.random.Float64() < p, Attributes: x})
	}
	if c := s.fit(t); c.used() != 4000 {
		t.Errorf("%d of 4000 examples are used", c.used())
	}
}

// Only examples whose labels answer the same question as most of the newest are
// learnt from.
func TestExamplesOfAnotherHorizonAreNotLearntFrom(t *testing.T) {
	s := newStream(t, 2)
	for i := range 3000 {
		x, p := s.draw(i%2 == 0)
		s.data.Add(Example{Customer: CustomerHash(fmt.Append(nil, i)), ObservedAt: int64(i), Horizon: int64(1 + i%2), Churned: s.random.Float64() < p, Attributes: x})
	}
	c := s.fit(t)
	for _, r := range append(c.Training, c.Holdout...) {
		if s.data.Horizon(int(r)) != 2 {
			t.Fatalf("an example of horizon %d", s.data.Horizon(int(r)))
		}
	}
	if c.used() != 1500 || c.Horizon != 2 {
		t.Errorf("%d examples are used, of horizon %d", c.used(), c.Horizon)
	}
}

// The rows of one customer are one piece of evidence, however many they are.
func TestRowsOfOneCustomerDoNotOutweighAll(t *testing.T) {
	s := newStream(t, 3)
	s.add(4000, false)
	// One customer, seen every day, who does as customers used not to.
	for i := range 400 {
		s.data.Add(Example{Customer: 2, ObservedAt: int64(4000 + i), Churned: i%20 == 0, Attributes: scoring.Vector{3, 3, 0}})
	}
	if c := s.fit(t); c.used() < c.Examples {
		t.Errorf("%d of %d examples are used", c.used(), c.Examples)
	}
}

// A window that cannot be fitted is no reason to have no model.
func TestWindowThatCannotBeFitted(t *testing.T) {
	s := newStream(t, 5)
	s.add(2000, false)
	for range 3000 { // a column says exactly who left
		x, _ := s.draw(false)
		s.data.Add(Example{Customer: CustomerHash(fmt.Append(nil, s.rows)), ObservedAt: int64(s.rows), Churned: x[0] > 0, Attributes: x})
		s.rows++
	}
	c, err := Fit(t.Context(), s.data, Config{Strengths: []float64{1e300}, ImportanceRows: -1})
	if err != nil || c.used() != 5000 {
		t.Errorf("%v", err)
	}
}
