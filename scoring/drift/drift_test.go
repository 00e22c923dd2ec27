package drift

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/churnstream/churnstream/scoring"
)

func repeated(pairs ...float64) (values []float64) {
	for i := 0; i < len(pairs); i += 2 {
		values = append(values, slices.Repeat(pairs[i:i+1], int(pairs[i+1]))...)
	}
	return values
}

func numberSpec(t testing.TB, names ...string) *scoring.Spec {
	t.Helper()
	var features []scoring.Feature
	for _, name := range names {
		features = append(features, scoring.Feature{Name: name})
	}
	spec, err := scoring.NewSpec(features)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestNumbers(t *testing.T) {
	var uniform []float64
	for i := range 1000 {
		uniform = append(uniform, float64(i))
	}
	nan := math.NaN()
	for _, c := range []struct {
		name    string
		values  []float64
		labels  []string
		counts  []float64
		missing int64
	}{
		{"deciles", uniform,
			[]string{"< 0", "≤ 99", "≤ 199", "≤ 299", "≤ 399", "≤ 499", "≤ 599", "≤ 699", "≤ 799", "≤ 899", "≤ 999", "> 999"},
			[]float64{0, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 0}, 0},
		{"a flag", repeated(0, 10, 1, 90), []string{"< 0", "= 0", "< 1", "= 1", "> 1"}, []float64{0, 10, 0, 90, 0}, 0},
		{"a flag that is rare", repeated(0, 95, 1, 5), []string{"< 0", "= 0", "≤ 1", "> 1"}, []float64{0, 95, 5, 0}, 0},
		{"a constant", repeated(7, 50), []string{"< 7", "= 7", "> 7"}, []float64{0, 50, 0}, 0},
		{"all missing", repeated(nan, 50), []string{"any"}, []float64{0}, 50},
		{"some missing", repeated(nan, 10, 3, 40), []string{"< 3", "= 3", "> 3"}, []float64{0, 40, 0}, 10},
		{"few rows", []float64{5, 1, 4, 2, 3, 6, 7, 8, 9, 10, 11, 12}, []string{"< 1", "≤ 5", "≤ 12", "> 12"}, []float64{0, 5, 7, 0}, 0},
		{"one row", []float64{5}, []string{"< 5", "= 5", "> 5"}, []float64{0, 1, 0}, 0},
		{"zero among others", append(repeated(0, 800), uniform[1:201]...),
			[]string{"< 0", "= 0", "≤ 100", "≤ 200", "> 200"}, []float64{0, 800, 100, 100, 0}, 0},
		{"a tie at the top", append(slices.Clone(uniform[:100]), repeated(500, 900)...),
			[]string{"< 0", "≤ 99", "< 500", "= 500", "> 500"}, []float64{0, 100, 0, 900, 0}, 0},
		{"both ends, as doubles have them", repeated(-1e100, 50, 1e100, 50), []string{"< -1e+100", "= -1e+100", "< 1e+100", "= 1e+100", "> 1e+100"},
			[]float64{0, 50, 0, 50, 0}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Numbers("x", slices.Clone(c.values))
			if d.Rows != int64(len(c.values)) || d.Missing != c.missing || d.Bins[len(d.Bins)-1] != "+Inf" {
				t.Errorf("%d rows, %d missing, bins %v", d.Rows, d.Missing, d.Bins)
			}
			b := NewBaseline(numberSpec(t, "x"), []Distribution{d}, 0)
			f := &b.features[0]
			if !f.known || !slices.Equal(f.labels[:len(f.bounds)], c.labels) || !slices.Equal(f.counts[:len(f.bounds)], c.counts) ||
				f.counts[len(f.counts)-1] != float64(c.missing) {
				t.Errorf("bins %q with counts %v", f.labels, f.counts)
			}
			// The very rows it was made of fall into its bins as it says.
			s := b.Sample(scoring.NewVocabulary(numberSpec(t, "x")))
			for _, x := range c.values {
				s.Add(scoring.Vector{x}, nil)
			}
			for i, n := range s.features[0].counts {
				if float64(n) != f.counts[i] {
					t.Errorf("%d of its own rows in bin %q, not %v", n, f.labels[i], f.counts[i])
				}
			}
			if change := s.Feature(0); len(c.values) > 0 && change.Value != 0 {
				t.Errorf("%+v of its own rows", change)
			}
		})
	}
}

func TestStabilityByHand(t *testing.T) {
	ln := math.Log
	// Shares with half a row more in each of k bins.
	psi := func(k float64, pairs ...float64) (sum float64) {
		n, m := 0.0, 0.0
		for i := 0; i < len(pairs); i += 2 {
			m, n = m+pairs[i], n+pairs[i+1]
		}
		for i := 0; i < len(pairs); i += 2 {
			e, a := (pairs[i]+0.5)/(m+k/2), (pairs[i+1]+0.5)/(n+k/2)
			sum += (a - e) * ln(a/e)
		}
		return sum
	}
	levels := func(missing, rows int64, counts ...int64) Distribution {
		return Levels("plan", []string{"a", "b", "c"}[:len(counts)], counts, missing, rows)
	}
	nan := math.NaN()
	for _, c := range []struct {
		name string
		d    Distribution
		now  []float64 // by code
		want float64
		bins int
	}{
		{"the same shares", levels(0, 100, 20, 30, 50), repeated(0, 20, 1, 30, 2, 50), 0, 3},
		{"half and half becomes three to one", levels(0, 1000, 500, 500), repeated(0, 75, 1, 25), psi(2, 500, 75, 500, 25), 2},
		{"a level runs empty", levels(0, 1000, 500, 500), repeated(0, 100), psi(2, 500, 100, 500, 0), 2},
		{"a new level takes a tenth", levels(0, 1000, 500, 500), repeated(0, 45, 1, 45, 7, 10), psi(3, 500, 45, 500, 45, 0, 10), 3},
		{"missing was a tenth as well", levels(100, 1000, 400, 500), repeated(0, 40, 1, 50, nan, 10), psi(3, 400, 40, 500, 50, 100, 10), 3},
		{"missing is new", levels(0, 1000, 500, 500), repeated(0, 40, 1, 50, nan, 10), psi(3, 500, 40, 500, 50, 0, 10), 3},
		{"other levels were there as well", levels(0, 1000, 500, 400), repeated(0, 50, 1, 40, 9, 10), psi(3, 500, 50, 400, 40, 100, 10), 3},
		{"one level only, as before", levels(0, 1000, 1000), repeated(0, 10), 0, 1},
		{"one level only, and another now", levels(0, 1000, 1000), repeated(5, 10), psi(2, 1000, 0, 0, 10), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec, err := scoring.NewSpec([]scoring.Feature{{Name: "plan", Kind: scoring.Categorical}})
			if err != nil {
				t.Fatal(err)
			}
			v := scoring.NewVocabulary(spec)
			for i := range 10 {
				if _, err := v.CodeString(0, string(rune('a'+i))); err != nil {
					t.Fatal(err)
				}
			}
			s := NewBaseline(spec, []Distribution{c.d}, 0).Sample(v)
			for _, x := range c.now {
				s.Add(scoring.Vector{x}, nil)
			}
			got, bins := s.Feature(0), s.FeatureBins(0)
			if math.Abs(got.Value-c.want) > 1e-12 || len(bins) != c.bins || got.Rows != int64(len(c.now)) || got.Baseline != c.d.Rows {
				t.Errorf("%+v with bins %+v, want %v", got, bins, c.want)
			}
			sum, e, a := 0.0, 0.0, 0.0
			for _, b := range bins {
				sum, e, a = sum+b.PSI, e+b.Expected, a+b.Actual
			}
			if math.Abs(sum-got.Value) > 1e-12 || math.Abs(e-1) > 1e-9 || math.Abs(a-1) > 1e-12 {
				t.Errorf("bins add up to %v, shares to %v and %v", sum, e, a)
			}
		})
	}
}

// Nine in ten had auto_renew, and one in ten a complaint; then nobody and
// everybody. Quartiles of either have one bound, and with those of the former
// nothing had changed.
func TestTiesAtTheTop(t *testing.T) {
	spec := numberSpec(t, "auto_renew", "complaint", "age")
	var age []float64
	for i := range 1500 {
		age = append(age, float64(18+i%63))
	}
	b := NewBaseline(spec, []Distribution{
		Numbers("auto_renew", repeated(0, 120, 1, 1380)), Numbers("complaint", repeated(0, 1380, 1, 120)), Numbers("age", age),
	}, 0)
	for _, rows := range []int{30, 5200} {
		s := b.Sample(scoring.NewVocabulary(spec))
		for range rows {
			s.Add(scoring.Vector{0, 1, 50}, nil)
		}
		for j := range 3 {
			c := s.Feature(j)
			if !c.Exceeded() || j < 2 && rows > 1000 && (c.Value < 9 || c.Value > 12) {
				t.Errorf("%s: %+v", spec.Feature(j).Name, c)
			}
		}
		if a, c := s.Feature(0), s.Feature(1); math.Abs(a.Value-c.Value) > 1e-9 {
			t.Errorf("%v and %v, though one changed as much as the other", a.Value, c.Value)
		}
	}
}

// Versions from before rows were noted have frequencies alone: of the values that
// there were, or with what was missing among the rest.
func TestBaselineOfFormerVersions(t *testing.T) {
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "plan", Kind: scoring.Categorical}, {Name: "bill"}, {Name: "part"}})
	if err != nil {
		t.Fatal(err)
	}
	v := scoring.NewVocabulary(spec)
	if _, err := v.CodeString(0, "year"); err != nil {
		t.Fatal(err)
	}
	b := NewBaseline(spec, []Distribution{
		{Name: "plan", Bins: []string{"year", "month"}, Frequencies: []float64{0.5, 0.5}},
		{Name: "bill", Bins: []string{"10", "20", "+Inf"}, Frequencies: []float64{0.25, 0.25, 0.5}},
		{Name: "part", Bins: []string{"10", "+Inf"}, Frequencies: []float64{0.5, 0.3}},
		{Name: Score, Bins: []string{"0.5", "+Inf"}, Frequencies: []float64{0.5, 0.5}},
	}, 4000)
	if b.Explained() {
		t.Error("it has reasons")
	}
	s := b.Sample(v)
	var month scoring.Levels
	unnumbered := month.Add("month")
	for i := range 100 {
		x := scoring.Vector{0, 15, 5}
		if i%2 == 0 {
			x[0], x[1] = unnumbered, 25
		}
		if i%4 == 1 {
			x[1] = 10
		}
		if i%10 >= 7 {
			x[2] = 15
		}
		if i%5 == 0 {
			x[0], x[2] = scoring.Missing, scoring.Missing
		}
		s.Add(x, month)
		s.AddScore(float64(i) / 99)
	}
	for j := range 3 {
		if c := s.Feature(j); !(c.Value < 0.02) || c.Baseline != 4000 || c.Exceeded() {
			t.Errorf("%s: %+v, bins %+v", spec.Feature(j).Name, c, s.FeatureBins(j))
		}
	}
	if c := s.Feature(0); c.Rows != 80 { // what is missing cannot be compared
		t.Errorf("%d rows, not 80", c.Rows)
	}
	if c := s.Score(); !(c.Value < 0.01) || c.Rows != 100 {
		t.Errorf("score: %+v", c)
	}
}

// What cannot be read gives no drift.
func TestUnreadableBaseline(t *testing.T) {
	spec := numberSpec(t, "x")
	for name, d := range map[string]Distribution{
		"absent":                  {Name: "y", Bins: []string{"+Inf"}, Frequencies: []float64{1}},
		"no bins":                 {Name: "x"},
		"a bin without frequency": {Name: "x", Bins: []string{"1", "+Inf"}, Frequencies: []float64{1}},
		"a bound in words":        {Name: "x", Bins: []string{"old", "+Inf"}, Frequencies: []float64{0.5, 0.5}},
		"bounds out of order":     {Name: "x", Bins: []string{"2", "1"}, Frequencies: []float64{0.5, 0.5}},
		"NaN":                     {Name: "x", Bins: []string{"1", "NaN"}, Frequencies: []float64{0.5, 0.5}},
		"a negative share":        {Name: "x", Bins: []string{"1", "+Inf"}, Frequencies: []float64{-0.5, 0.5}},
		"more than all":           {Name: "x", Bins: []string{"1", "+Inf"}, Frequencies: []float64{0.6, 0.6}},
		"more missing than rows":  {Name: "x", Bins: []string{"1", "+Inf"}, Frequencies: []float64{0.5, 0.5}, Rows: 10, Missing: 11},
	} {
		b := NewBaseline(spec, []Distribution{d}, 100)
		s := b.Sample(scoring.NewVocabulary(spec))
		s.Add(scoring.Vector{3}, nil)
		s.AddScore(0.5)
		if c := s.Feature(0); !scoring.IsMissing(c.Value) || c.Exceeded() || s.FeatureBins(0) != nil {
			t.Errorf("%s: %+v", name, c)
		}
		if c := s.Score(); !scoring.IsMissing(c.Value) || c.Exceeded() {
			t.Errorf("%s: score %+v", name, c)
		}
	}
	// Nor do no customers, on either side.
	if d := Numbers("x", nil); len(d.Bins) > 0 || NewBaseline(spec, []Distribution{d}, 0).features[0].known {
		t.Errorf("without rows: %+v", d)
	}
	b := NewBaseline(spec, []Distribution{Numbers("x", []float64{1, 2, 3})}, 0)
	if c := b.Sample(scoring.NewVocabulary(spec)).Feature(0); !scoring.IsMissing(c.Value) || c.Exceeded() {
		t.Errorf("without customers: %+v", c)
	}
}

// Thresholds by the tables that textbooks have.
func TestThresholds(t *testing.T) {
	// F with 3 and 19 degrees of freedom exceeds 5.010 with a probability of 0.01.
	if got, want := chance(4, 20, 1000, 1), (1./20+1./1000)*3*5.0103; math.Abs(got-want) > 1e-4 {
		t.Errorf("index: %v, want %v", got, want)
	}
	// Student's t with 20, on both sides, 2.8453. Eleven rows on either side.
	r := reason{rows: 11, deviation: 0.2}
	if got, want := r.change(11, 0, 0.2, 1).Threshold, 2.84534*math.Sqrt(2./11); math.Abs(got-want) > 1e-4 {
		t.Errorf("reason: %v, want %v", got, want)
	}
}

// A baseline that others made may end before +Inf.
func TestBeyondTheLastBound(t *testing.T) {
	spec := numberSpec(t, "x")
	s := NewBaseline(spec, []Distribution{{Name: "x", Bins: []string{"1", "2"}, Frequencies: []float64{0.5, 0.5}, Rows: 100}}, 0).
		Sample(scoring.NewVocabulary(spec))
	for _, x := range []float64{1, 2, 2.5, scoring.Missing} {
		s.Add(scoring.Vector{x}, nil)
	}
	if got := fmt.Sprint(s.features[0].counts); got != "[1 1 1 1]" {
		t.Errorf("counts %s", got)
	}
}

// Levels are found by what they are, whether the vocabulary has a number for them,
// got one later, or never does.
func TestLevelsByText(t *testing.T) {
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "plan", Kind: scoring.Categorical}})
	if err != nil {
		t.Fatal(err)
	}
	v := scoring.NewVocabulary(spec)
	if _, err := v.CodeString(0, "new"); err != nil {
		t.Fatal(err)
	}
	s := NewBaseline(spec, []Distribution{Levels("plan", []string{"year", "month"}, []int64{50, 50}, 0, 100)}, 0).Sample(v)
	var others scoring.Levels
	s.Add(scoring.Vector{others.Add("month")}, others)
	s.Add(scoring.Vector{0}, nil)
	year, err := v.CodeString(0, "year")
	if err != nil {
		t.Fatal(err)
	}
	s.Add(scoring.Vector{year}, nil)
	s.Add(scoring.Vector{scoring.Unknown}, nil)
	s.Add(scoring.Vector{99}, nil)
	if got := fmt.Sprint(s.features[0].counts); got != "[1 1 3 0]" {
		t.Errorf("counts %s", got)
	}

	// A level may be empty, which is not the same as unknown; and white space was
	// part of levels once.
	s = NewBaseline(spec, []Distribution{{Name: "plan", Bins: []string{" year", "year ", ""}, Frequencies: []float64{0.25, 0.25, 0.5}, Rows: 100}}, 0).Sample(v)
	s.Add(scoring.Vector{scoring.Unknown}, nil)
	s.Add(scoring.Vector{99}, nil)
	s.Add(scoring.Vector{others.Add("")}, others)
	s.Add(scoring.Vector{year}, nil)
	if got := fmt.Sprint(s.features[0].counts, s.features[0].bins.counts); got != "[1 0 1 2 0] [50 0 50 0 0]" {
		t.Errorf("counts %s", got)
	}
}

func TestRareLevelsAreJoined(t *testing.T) {
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "town", Kind: scoring.Categorical}})
	if err != nil {
		t.Fatal(err)
	}
	v := scoring.NewVocabulary(spec)
	levels, counts := []string{"large"}, []int64{800}
	for i := range 200 {
		levels, counts = append(levels, fmt.Sprint("small ", i)), append(counts, 1)
	}
	b := NewBaseline(spec, []Distribution{Levels("town", levels, counts, 0, 1000)}, 0)
	s := b.Sample(v)
	var others scoring.Levels
	for i := range 100 {
		others = others[:0]
		x := others.Add("large")
		if i%5 == 0 {
			x = others.Add(fmt.Sprint("small ", i))
		}
		s.Add(scoring.Vector{x}, others)
	}
	if bins := s.FeatureBins(0); len(bins) != 2 || bins[1].Label != "rare levels" || bins[1].Expected != 0.2 || bins[1].Actual != 0.2 {
		t.Errorf("%+v", bins)
	}
}

func TestReasons(t *testing.T) {
	spec := numberSpec(t, "a", "b", "c", "d")
	b := NewBaseline(spec, []Distribution{
		{Name: "a", ReasonRows: 1000, ReasonMean: 0.1, ReasonDeviation: 0.2},
		{Name: "b", ReasonRows: 1000, ReasonMean: 0, ReasonDeviation: 0},
		{Name: "c", ReasonRows: 1000, ReasonMean: math.Inf(1), ReasonDeviation: 1},
	}, 0)
	if !b.Explained() {
		t.Error("it has no reasons")
	}
	r := b.Reasons()
	if c := r.Feature(0); !scoring.IsMissing(c.Value) || c.Exceeded() {
		t.Errorf("without customers: %+v", c)
	}
	values := [][]float64{{0.3, 0.002, 1, 1}, {0.5, 0.002, 1, 1}, {-0.1, 0.002, 1, 1}, {0.3, 0.002, 1, 1}}
	for range 50 {
		for _, v := range values {
			r.Add(v)
		}
	}
	mean, variance := 0.25, (0.05*0.05+0.25*0.25+0.35*0.35+0.05*0.05)/4*200/199
	if c := r.Feature(0); math.Abs(r.Mean(0)-mean) > 1e-10 || math.Abs(r.Deviation(0)-math.Sqrt(variance)) > 1e-9 ||
		math.Abs(c.Value-0.75) > 1e-9 || c.Threshold != MuchReason || !c.Exceeded() || c.Rows != 200 || c.Baseline != 1000 {
		t.Errorf("mean %v, deviation %v: %+v", r.Mean(0), r.Deviation(0), c)
	}
	// What never varied is measured in tenths of percentage points.
	if c := r.Feature(1); math.Abs(c.Value-2) > 1e-6 || !c.Exceeded() {
		t.Errorf("a constant reason: %+v", c)
	}
	for j := 2; j < 4; j++ {
		if c := r.Feature(j); !scoring.IsMissing(c.Value) || c.Exceeded() {
			t.Errorf("without a baseline: %+v", c)
		}
	}
	// A fall has a sign, and counts as a rise does.
	r = b.Reasons()
	for range 50 {
		for _, v := range values {
			r.Add([]float64{-v[0], 0, 0, 0})
		}
	}
	if c := r.Feature(0); math.Abs(c.Value+1.75) > 1e-9 || !c.Exceeded() {
		t.Errorf("a fall: %+v", c)
	}
	// Of two customers anything might be.
	r = b.Reasons()
	r.Add(values[0])
	r.Add(values[1])
	if c := r.Feature(0); c.Exceeded() || math.Abs(c.Value-1.5) > 1e-9 {
		t.Errorf("two customers: %+v", c)
	}
}

// The order in which customers are added makes no difference, to the bit.
func TestOrderMakesNoDifference(t *testing.T) {
	p := newPopulation(t, 1)
	b := p.baseline(500)
	for j := range b.reasons {
		b.reasons[j] = reason{500, 0.01, 0.3}
	}
	rng := rand.New(rand.NewPCG(2, 2))
	xs, shaps := make([]scoring.Vector, 300), make([][]float64, 300)
	for i := range xs {
		xs[i], shaps[i] = scoring.NewVector(8), make([]float64, 8)
		p.draw(xs[i])
		for j := range shaps[i] {
			shaps[i][j] = rng.NormFloat64() * math.Pow(10, -6*rng.Float64())
		}
	}
	of := func(order []int) string {
		s, r := b.Sample(p.vocabulary), b.Reasons()
		for _, i := range order {
			s.Add(xs[i], nil)
			r.Add(shaps[i])
		}
		text := ""
		for j := range 8 {
			text += fmt.Sprintf("%x %x %x\n", s.Feature(j).Value, s.Feature(j).Threshold, r.Feature(j).Value)
		}
		return text
	}
	order := make([]int, len(xs))
	for i := range order {
		order[i] = i
	}
	want := of(order)
	for range 3 {
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		if got := of(order); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	}
}

func TestAddingDoesNotAllocate(t *testing.T) {
	p := newPopulation(t, 3)
	b := p.baseline(500)
	s, r := b.Sample(p.vocabulary), b.Reasons()
	x, shap := scoring.NewVector(8), make([]float64, 8)
	p.draw(x)
	if n := testing.AllocsPerRun(100, func() {
		s.Add(x, nil)
		s.AddScore(0.5)
		r.Add(shap)
	}); n > 0.1 { // the bins of the vocabulary's levels, once
		t.Errorf("%g allocations", n)
	}
}

// FuzzBaseline reads whatever a version may carry: there is no drift, or a finite
// one.
func FuzzBaseline(f *testing.F) {
	f.Add("x", "1", "+Inf", 0.5, 0.5, int64(100), int64(0), 0.1, 0.2, 3.0)
	f.Add("plan", "a", "b", 0.5, 0.4, int64(100), int64(10), 0.0, 0.0, -1.0)
	f.Add(Score, "0.1", "1", 1e-300, 1.0, int64(math.MaxInt64), int64(math.MaxInt64), math.Inf(1), -1.0, math.NaN())
	f.Fuzz(func(t *testing.T, name, first, second string, p, q float64, rows, missing int64, mean, deviation, value float64) {
		spec, err := scoring.NewSpec([]scoring.Feature{{Name: "x"}, {Name: "plan", Kind: scoring.Categorical}})
		if err != nil {
			t.Fatal(err)
		}
		b := NewBaseline(spec, []Distribution{{Name: name, Bins: []string{first, second}, Frequencies: []float64{p, q},
			Rows: rows, Missing: missing, ReasonRows: rows, ReasonMean: mean, ReasonDeviation: deviation}}, missing)
		s, r := b.Sample(scoring.NewVocabulary(spec)), b.Reasons()
		for range 3 {
			s.Add(scoring.Vector{value, scoring.Unknown}, nil)
			s.AddScore(value)
			r.Add([]float64{0.25, -0.5})
		}
		for _, c := range []Change{s.Feature(0), s.Feature(1), s.Score(), r.Feature(0), r.Feature(1)} {
			if math.IsInf(c.Value, 0) || scoring.IsMissing(c.Value) != scoring.IsMissing(c.Threshold) || c.Threshold < 0 {
				t.Errorf("%+v", c)
			}
		}
	})
}
