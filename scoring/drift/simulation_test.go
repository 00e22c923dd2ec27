package drift

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/churnstream/churnstream/internal/invariants"
	"github.com/churnstream/churnstream/scoring"
)

// population draws customers of all kinds of features: a normal and a lognormal
// one, whole months with many at the ends, a flag that nine of ten have, amounts
// that are mostly 0, a constant, three levels of which some are missing, and forty
// of which most are rare.
type population struct {
	rng        *rand.Rand
	vocabulary *scoring.Vocabulary
	zipf       *rand.Zipf
}

var populationFeatures = []scoring.Feature{
	{Name: "normal"}, {Name: "lognormal"}, {Name: "months"}, {Name: "flag"}, {Name: "amount"}, {Name: "constant"},
	{Name: "plan", Kind: scoring.Categorical}, {Name: "town", Kind: scoring.Categorical},
}

func newPopulation(t testing.TB, seed uint64) *population {
	t.Helper()
	spec, err := scoring.NewSpec(populationFeatures)
	if err != nil {
		t.Fatal(err)
	}
	p := &population{rng: rand.New(rand.NewPCG(seed, 1)), vocabulary: scoring.NewVocabulary(spec)}
	p.zipf = rand.NewZipf(p.rng, 1.3, 1, 39)
	for _, feature := range []int{6, 7} {
		for l := range 40 {
			if _, err := p.vocabulary.CodeString(feature, fmt.Sprint("level ", l)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return p
}

func (p *population) draw(x scoring.Vector) {
	x[0] = p.rng.NormFloat64()
	x[1] = math.Exp(p.rng.NormFloat64())
	x[2] = min(math.Floor(p.rng.ExpFloat64()*30)+1, 72)
	x[3], x[4], x[5] = 1, 0, 7
	if p.rng.IntN(10) == 0 {
		x[3] = 0
	}
	if p.rng.IntN(5) == 0 {
		x[4] = 10 * p.rng.ExpFloat64()
	}
	x[6] = [4]float64{0, 1, 2, scoring.Missing}[min(int(p.rng.ExpFloat64()*1.2), 3)]
	x[7] = float64(p.zipf.Uint64())
}

// baseline is what a training of so many rows would note.
func (p *population) baseline(m int) *Baseline {
	spec := p.vocabulary.Spec()
	columns := make([][]float64, spec.Len())
	x := scoring.NewVector(spec.Len())
	for range m {
		p.draw(x)
		for j := range columns {
			columns[j] = append(columns[j], x[j])
		}
	}
	var list []Distribution
	for j, column := range columns {
		if spec.Feature(j).Kind != scoring.Categorical {
			list = append(list, Numbers(spec.Feature(j).Name, column))
			continue
		}
		var levels []string
		counts, missing := make([]int64, 40), int64(0)
		for _, v := range column {
			if scoring.IsMissing(v) {
				missing++
			} else {
				counts[int(v)]++
			}
		}
		for l := range 40 {
			levels = append(levels, fmt.Sprint("level ", l))
		}
		list = append(list, Levels(spec.Feature(j).Name, levels, counts, missing, int64(m)))
	}
	return NewBaseline(spec, list, 0)
}

// window returns a sample of n customers, changed by a function where there is one.
func (p *population) window(b *Baseline, n int, change func(x scoring.Vector)) *Sample {
	s := b.Sample(p.vocabulary)
	x := scoring.NewVector(len(populationFeatures))
	for range n {
		p.draw(x)
		if change != nil {
			change(x)
		}
		s.Add(x, nil)
	}
	return s
}

// TestFalseAlarms draws windows of customers that are like the training's. Chance
// alone must not exceed the thresholds more often than FalseAlarms says, over all
// features together; nor what the thresholds would be if every change mattered,
// however small.
func TestFalseAlarms(t *testing.T) {
	for _, c := range []struct{ m, n, windows int }{
		{200, 10, 1000}, {200, 50, 1000}, {200, 5000, 200}, {2000, 50, 1000}, {2000, 500, 500}, {5000, 5000, 150},
	} {
		t.Run(fmt.Sprintf("%d trained on, %d now", c.m, c.n), func(t *testing.T) {
			t.Parallel()
			if invariants.Raced {
				c.windows /= 20
			}
			alarms, chances := 0, 0
			for w := range c.windows {
				p := newPopulation(t, uint64(w)<<32|uint64(c.m)<<16|uint64(c.n))
				b := p.baseline(c.m)
				s := p.window(b, c.n, nil)
				alarm, exceeded := false, false
				for j := range populationFeatures {
					change := s.Feature(j)
					alarm = alarm || change.Exceeded()
					if k := len(s.FeatureBins(j)); k > 1 {
						exceeded = exceeded || change.Value > chance(float64(k), float64(c.n), float64(c.m), len(populationFeatures))
					}
				}
				if alarm {
					alarms++
				}
				if exceeded {
					chances++
				}
			}
			nominal := FalseAlarms * float64(c.windows)
			t.Logf("of %d windows, %d raised an alarm and %d exceeded chance; nominal %.0f", c.windows, alarms, chances, nominal)
			if float64(alarms) > max(nominal, 1) {
				t.Errorf("%d of %d windows raised an alarm", alarms, c.windows)
			}
			// Of a true rate at the nominal one, this many have a probability of 0.1 %.
			if float64(chances) > max(nominal, 1)+3.1*math.Sqrt(nominal) {
				t.Errorf("%d of %d windows exceeded chance", chances, c.windows)
			}
		})
	}
}

// TestPower has changes that everybody would want to know of, and how many
// customers it takes to see them in nine of ten windows.
func TestPower(t *testing.T) {
	for _, c := range []struct {
		name    string
		feature int
		n       int
		change  func(p *population, x scoring.Vector)
	}{
		{"a flag that nine of ten had is gone", 3, 30, func(_ *population, x scoring.Vector) { x[3] = 0 }},
		{"a constant is another", 5, 10, func(_ *population, x scoring.Vector) { x[5] = 8 }},
		{"a constant is missing for a fifth", 5, 200, func(p *population, x scoring.Vector) {
			if p.rng.IntN(5) == 0 {
				x[5] = scoring.Missing
			}
		}},
		{"a normal is a standard deviation higher", 0, 100, func(_ *population, x scoring.Vector) { x[0]++ }},
		{"a normal is in other units", 0, 20, func(_ *population, x scoring.Vector) { x[0] *= 1000 }},
		{"amounts have the sign changed", 4, 150, func(_ *population, x scoring.Vector) { x[4] = -x[4] }},
		{"a new level has a tenth", 6, 300, func(p *population, x scoring.Vector) {
			if p.rng.IntN(10) == 0 {
				x[6] = 30
			}
		}},
		{"one rare level has half", 7, 100, func(p *population, x scoring.Vector) {
			if p.rng.IntN(2) == 0 {
				x[7] = 35
			}
		}},
		{"months are all in the first year", 2, 50, func(p *population, x scoring.Vector) { x[2] = 1 + math.Mod(x[2], 12) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := 0
			const windows = 50
			for w := range windows {
				p := newPopulation(t, uint64(w)+1)
				change := p.window(p.baseline(5000), c.n, func(x scoring.Vector) { c.change(p, x) }).Feature(c.feature)
				if change.Exceeded() {
					seen++
				}
			}
			if seen < windows*9/10 {
				t.Errorf("seen in %d of %d windows of %d customers", seen, windows, c.n)
			}
		})
	}
}

// TestReasonsOfChance is TestFalseAlarms for means of explanations, skewed ones
// among them.
func TestReasonsOfChance(t *testing.T) {
	draw := func(rng *rand.Rand, to []float64) {
		to[0] = 0.05 * rng.NormFloat64()
		to[1] = 0.1*rng.ExpFloat64() - 0.1
		to[2] = 0.3
		if rng.IntN(10) > 0 {
			to[2] = -1. / 30
		}
		to[3] = 0                // without effect
		for j := 4; j < 7; j++ { // twenty may by chance all be alike
			to[j] = 0.15
			if rng.IntN(4) > 0 {
				to[j] = -0.05
			}
		}
	}
	for _, c := range []struct{ m, n, windows int }{{2000, 20, 2000}, {200, 50, 2000}, {2000, 50, 2000}, {2000, 1000, 500}} {
		if invariants.Raced {
			c.windows /= 20
		}
		alarms, exceeded := 0, 0
		for w := range c.windows {
			rng := rand.New(rand.NewPCG(uint64(w), uint64(c.n)))
			fill := func(b *Baseline, n int) *Reasons {
				r := b.Reasons()
				for range n {
					x := make([]float64, 7)
					draw(rng, x)
					r.Add(x)
				}
				return r
			}
			spec, err := scoring.NewSpec([]scoring.Feature{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}, {Name: "e"}, {Name: "f"}, {Name: "g"}})
			if err != nil {
				t.Fatal(err)
			}
			training := fill(NewBaseline(spec, nil, 0), c.m)
			var list []Distribution
			for j := range 7 {
				list = append(list, Distribution{Name: spec.Feature(j).Name, ReasonRows: int64(c.m),
					ReasonMean: training.Mean(j), ReasonDeviation: training.Deviation(j)})
			}
			r := fill(NewBaseline(spec, list, 0), c.n)
			alarm, chance := false, false
			for j := range 7 {
				change := r.Feature(j)
				alarm = alarm || change.Exceeded()
				if j < 3 {
					s, m := training.Deviation(j), float64(c.m)
					se := math.Sqrt(r.Deviation(j)*r.Deviation(j)/float64(c.n)+s*s/m) / s
					chance = chance || math.Abs(change.Value) > 3.023*se // normal, one in 400 on both sides
				}
			}
			if alarm {
				alarms++
			}
			if chance {
				exceeded++
			}
		}
		t.Logf("%d trained on, %d now: of %d windows %d raised an alarm", c.m, c.n, c.windows, alarms)
		if float64(alarms) > max(FalseAlarms*float64(c.windows), 1) {
			t.Errorf("%d trained on, %d now: %d of %d windows raised an alarm", c.m, c.n, alarms, c.windows)
		}
		if exceeded == 0 && !invariants.Raced {
			t.Errorf("%d trained on, %d now: chance never came near: nothing is tested", c.m, c.n)
		}
	}
}
