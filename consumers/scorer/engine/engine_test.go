package engine

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
)

// attributes has every type a feature can have: floats, ints and longs hold
// fewer digits on the wire than in memory.
const attributes = `{"type":"record","name":"CustomerAttributes","fields":[
	{"name":"plan","type":["null","string"],"default":null,"feature":{"kind":"categorical","actionable":true}},
	{"name":"months","type":["null","double"],"default":null},
	{"name":"float","type":["null","float"],"default":null},
	{"name":"int","type":["null","int"],"default":null},
	{"name":"long","type":["null","long"],"default":null}
]}`

const plan, months = 0, 1

func testSet(t testing.TB) *schemas.Set {
	t.Helper()
	set, err := schemas.Parse([]byte(attributes))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// testModel is a model of every feature of a set: categorical features have
// levels a, b and c, numbers lie between 0 and 100.
func testModel(t testing.TB, set *schemas.Set, version int64) Model {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, uint64(version)))
	model := scoring.Model{Intercept: -1}
	for i := range set.Spec().Len() {
		f := set.Spec().Feature(i)
		m := scoring.ModelFeature{Name: f.Name, Kind: f.Kind.String()}
		if f.Kind == scoring.Categorical {
			m.Levels, m.Frequency = []string{"a", "b", "c"}, []float64{0.5, 0.25, 0.25}
			m.LogOdds = []float64{rng.NormFloat64() / 4, rng.NormFloat64() / 4, rng.NormFloat64() / 4}
		} else {
			m.LogOddsPerUnit = rng.NormFloat64() / 100
			m.Quartiles = []float64{25, 50, 75}
			for b := range 4 {
				low := float64(25 * b)
				m.Bins = append(m.Bins, scoring.Bin{Mean: low + 12, Std: 7, Min: low, Max: low + 25, Frequency: 0.25})
			}
			m.EmpiricalQuantiles = []float64{0, 25, 50, 75, 100}
		}
		model.Features = append(model.Features, m)
	}
	data, err := json.Marshal(&model)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := scoring.ParseModel(data)
	if err != nil {
		t.Fatal(err)
	}
	p, err := scoring.Compile(parsed, set.Vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	return Model{Version: version, Predictor: p, Thresholds: scoring.Thresholds{Medium: 0.3, High: 0.6}}
}

// newEngine returns an engine with a model, and its table.
func newEngine(t testing.TB, set *schemas.Set, change func(*Config)) (*Engine, *customers.Table) {
	t.Helper()
	cfg := Config{Set: set, Partition: 3, Reasons: 3}
	if change != nil {
		change(&cfg)
	}
	table := customers.NewTable(set.Vocabulary())
	e := New(cfg, table)
	e.Use(testModel(t, set, 1))
	return e, table
}

// event sets months, of which NaN leaves it alone.
func event(set *schemas.Set, customer, id string, at int64, x float64) *schemas.CustomerEvent {
	ev := &schemas.CustomerEvent{
		CustomerID: []byte(customer), EventID: []byte(id), OccurredAt: at,
		Changes: scoring.NewVector(set.Spec().Len()), Increments: scoring.NewVector(set.Spec().Len()),
	}
	ev.Changes[months] = x
	return ev
}

// take makes the scores of a walk until it is done, with their customers.
func take(w *Walk) (scores []schemas.ChurnScore) {
	for !w.Done() {
		look := 1
		if s := w.Next(&look); s != nil {
			scores = append(scores, copied(s))
		}
	}
	return scores
}

func copied(s *schemas.ChurnScore) schemas.ChurnScore {
	c := *s
	c.CustomerID, c.EventID = slices.Clone(s.CustomerID), slices.Clone(s.EventID)
	c.Attributes, c.AttributeAges, c.RecentEvents = slices.Clone(s.Attributes), slices.Clone(s.AttributeAges), slices.Clone(s.RecentEvents)
	c.Explanations, c.Missing = slices.Clone(s.Explanations), slices.Clone(s.Missing)
	return c
}

// TestPure makes sure that the engine can be used without what it is used with
// in the scorer.
func TestPure(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range strings.Fields(string(out)) {
		if pkg == "net" || pkg == "log/slog" {
			t.Errorf("the engine depends on %s", pkg)
		}
		for _, impure := range []string{"kafka", "prometheus", "net/http"} {
			if strings.Contains(pkg, impure) {
				t.Errorf("the engine depends on %s", pkg)
			}
		}
	}
}

// TestAsOf applies events in and out of order: a score speaks of the latest
// time at which anything occurred.
func TestAsOf(t *testing.T) {
	set := testSet(t)
	e, _ := newEngine(t, set, nil)
	for i, c := range []struct {
		at, want int64
	}{{-50, -50}, {100, 100}, {70, 100}, {100, 100}, {130, 130}, {-1000, 130}} {
		s := e.Apply(event(set, "anna", fmt.Sprint("e", i), c.at, float64(i)), int64(i)).Score
		if s.AsOf != c.want || s.OccurredAt != c.at || s.Trigger != schemas.TriggerEvent || s.SourceOffset != int64(i) || s.SourcePartition != 3 {
			t.Errorf("event at %d: as of %d, want %d: %+v", c.at, s.AsOf, c.want, s)
		}
		// Others do not matter.
		if s := e.Apply(event(set, fmt.Sprint("other", i), "e", 1_000_000, 1), int64(i)).Score; s.AsOf != 1_000_000 {
			t.Errorf("another customer's score is as of %d", s.AsOf)
		}
	}
	if again := e.Apply(event(set, "anna", "e5", 500, 1), 7); again.Score != nil {
		t.Errorf("a duplicate is scored: %+v", again.Score)
	}
	if s := e.Repair([]byte("anna")); s.AsOf != 130 {
		t.Errorf("as of %d after a duplicate", s.AsOf)
	}
}

// TestMoved goes on with a customer whose state is of another partition. What
// follows speaks of a later moment than that state, though the event may be
// earlier: the offsets of two partitions cannot be compared.
func TestMoved(t *testing.T) {
	set := testSet(t)
	before, table := newEngine(t, set, func(c *Config) { c.Partition = 1 })
	last := copied(before.Apply(event(set, "anna", "e1", 1000, 1), 500).Score)
	e := New(Config{Set: set, Partition: 3, Reasons: 3}, table)
	e.Use(testModel(t, set, 1))
	if s := e.Repair([]byte("anna")); s.SourcePartition != 1 || s.SourceOffset != 500 || s.AsOf != last.AsOf || s.Probability != last.Probability {
		t.Errorf("moved as %+v, it was %+v", s, last)
	}
	if again := e.Apply(event(set, "anna", "e1", 1000, 1), 0); again.Score != nil {
		t.Error("an event has an effect in both partitions")
	}
	for i, want := range []int64{1001, 1001, 1002} {
		at := []int64{900, 950, 1002}[i]
		s := e.Apply(event(set, "anna", fmt.Sprint("new", i), at, math.NaN()), int64(i)).Score
		if s.SourcePartition != 3 || s.SourceOffset != int64(i) || s.AsOf != want || s.OccurredAt != at || s.Attributes[months] != 1 {
			t.Errorf("event %d: %+v, want it as of %d", i, s, want)
		}
	}
}

func TestRescore(t *testing.T) {
	set := testSet(t)
	e, _ := newEngine(t, set, nil)
	const n = 50
	before := map[string]schemas.ChurnScore{}
	for i := range n {
		id := fmt.Sprint("c", i)
		e.Apply(event(set, id, "early", 1000, 1), int64(2*i))
		before[id] = copied(e.Apply(event(set, id, "late", 900, math.NaN()), int64(2*i+1)).Score)
	}
	walk := e.Rescore(testModel(t, set, 2))
	look := 10
	first := walk.Next(&look)
	if first == nil || look != 9 {
		t.Fatalf("after one customer %d of 10 may be looked at, score %v", look, first)
	}
	done := copied(first)
	// A walk that was cut short goes on with those that are left.
	again := take(e.Rescore(testModel(t, set, 2)))
	if len(again) != n-1 {
		t.Fatalf("%d more scores, want %d", len(again), n-1)
	}
	for _, s := range append(again, done) {
		old := before[string(s.CustomerID)]
		delete(before, string(s.CustomerID))
		if s.Trigger != schemas.TriggerModel || s.ModelVersion != 2 || s.AsOf != 1000 || s.OccurredAt != 900 || s.SourceOffset != old.SourceOffset ||
			string(s.EventID) != "late" || s.Previous != old.Probability || s.Probability == old.Probability ||
			!slices.Equal(s.AttributeAges, old.AttributeAges) || !slices.Equal(s.RecentEvents, old.RecentEvents) {
			t.Fatalf("%+v became %+v", old, s)
		}
	}
	if more := take(e.Rescore(testModel(t, set, 2))); len(before) != 0 || len(more) != 0 {
		t.Errorf("%d customers were left out, %d scored twice", len(before), len(more))
	}
}

func TestRepair(t *testing.T) {
	set := testSet(t)
	e, _ := newEngine(t, set, nil)
	if s := e.Repair([]byte("nobody")); s != nil {
		t.Errorf("a score of nobody: %+v", s)
	}
	e.Apply(event(set, "anna", "e1", 1000, 1), 4)
	want := copied(e.Apply(event(set, "anna", "e2", 900, 2), 5).Score)
	got := copied(e.Repair([]byte("anna")))
	// It is the same score, but that the one before is not known any more.
	want.Trigger, want.Previous = schemas.TriggerRepair, got.Previous
	if fmt.Sprint(got) != fmt.Sprint(want) || !scoring.IsMissing(got.Previous) {
		t.Errorf("repaired %+v\nwant %+v", got, want)
	}
	e.Use(testModel(t, set, 2))
	if s := e.Repair([]byte("anna")); s.ModelVersion != 2 || s.AsOf != 1000 || s.Previous != want.Probability {
		t.Errorf("repaired under another model %+v", s)
	}
	if !e.Erase([]byte("anna")) || e.Erase([]byte("anna")) || e.Repair([]byte("anna")) != nil {
		t.Error("an erased customer is remembered")
	}
}

// days is a rule by which time changes customers: months are the days since
// 1970, for those that have them.
func days(s *schemas.ChurnScore, at int64) bool {
	const day = 24 * 60 * 60 * 1000
	x := float64(at / day)
	if scoring.IsMissing(s.Attributes[months]) || s.Attributes[months] == x {
		return false
	}
	s.Attributes[months] = x
	return true
}

func TestTick(t *testing.T) {
	const day = 24 * 60 * 60 * 1000
	set := testSet(t)
	e, table := newEngine(t, set, func(cfg *Config) { cfg.Passing = days })
	anna := copied(e.Apply(event(set, "anna", "e1", 3*day+5, 3), 1).Score)
	e.Apply(event(set, "bert", "e1", 4*day+5, 4), 2)          // ahead of the tick
	e.Apply(event(set, "cleo", "e1", 3*day+5, math.NaN()), 3) // without what passes
	e.Apply(event(set, "dora", "e1", 4*day, 3), 4)            // at the tick
	e.Apply(event(set, "emil", "e1", 5, 4), 5)                // whom nothing changes

	scores := take(e.Tick(4 * day))
	if len(scores) != 1 {
		t.Fatalf("%d scores, want anna's: %+v", len(scores), scores)
	}
	s := scores[0]
	if string(s.CustomerID) != "anna" || s.AsOf != 4*day || s.Trigger != schemas.TriggerTime || s.Attributes[months] != 4 ||
		s.SourceOffset != anna.SourceOffset || s.OccurredAt != anna.OccurredAt || string(s.EventID) != "e1" ||
		s.ModelVersion != anna.ModelVersion || s.Previous != anna.Probability || s.Probability == anna.Probability ||
		!slices.Equal(s.RecentEvents, anna.RecentEvents) || len(s.AttributeAges) != 0 {
		t.Errorf("%+v became %+v", anna, s)
	}
	// A crash repeats the tick: what is done stays done.
	if more := take(e.Tick(4 * day)); len(more) != 0 {
		t.Errorf("the tick once more makes scores %+v", more)
	}
	// The moment never goes back, neither for events nor for ticks.
	if s := e.Apply(event(set, "anna", "e2", 3*day+6, 3), 6).Score; s.AsOf != 4*day || s.OccurredAt != 3*day+6 {
		t.Errorf("an event before the tick is scored as of %d", s.AsOf)
	}
	for _, s := range take(e.Tick(4*day - 1)) {
		if string(s.CustomerID) == "anna" {
			t.Errorf("an earlier tick makes score %+v", s)
		}
	}
	if record := table.Get([]byte("anna")); record.AsOf() != 4*day {
		t.Errorf("anna is kept as of %d", record.AsOf())
	}
	// The next day all have changed who can, as of that day.
	scores = take(e.Tick(5 * day))
	if len(scores) != 4 {
		t.Errorf("%d scores on the next day, want 4", len(scores))
	}
	for _, s := range scores {
		if s.AsOf != 5*day || s.Attributes[months] != 5 {
			t.Errorf("%s as of %d, months %v", s.CustomerID, s.AsOf, s.Attributes[months])
		}
	}
	// A score by a model rests on the tick's.
	for _, s := range take(e.Rescore(testModel(t, set, 2))) {
		if want := int64(5 * day); string(s.CustomerID) != "cleo" && s.AsOf != want {
			t.Errorf("%s is scored by a model as of %d, want %d", s.CustomerID, s.AsOf, want)
		}
	}
}

func TestTickWithoutRule(t *testing.T) {
	set := testSet(t)
	e, _ := newEngine(t, set, nil)
	e.Apply(event(set, "anna", "e1", 1, 3), 1)
	w := e.Tick(1 << 50)
	look := 10
	if s := w.Next(&look); s != nil || !w.Done() || look != 10 {
		t.Errorf("score %v, %d customers were visited", s, 10-look)
	}
}

// TestRounding compares attributes with what they are after a way over the
// wire.
func TestRounding(t *testing.T) {
	set := testSet(t)
	r := newRounding(set)
	for i := range 500 {
		rng := rand.New(rand.NewPCG(uint64(i), 3))
		x := scoring.NewVector(set.Spec().Len())
		want := slices.Clone(x)
		for f := 1; f < len(x); f++ {
			x[f] = rng.NormFloat64() * math.Pow(10, float64(rng.IntN(30)-10))
			want[f] = x[f]
		}
		want[2] = float64(float32(want[2]))
		want[3] = math.RoundToEven(min(max(want[3], math.MinInt32), math.MaxInt32))
		want[4] = math.RoundToEven(min(max(want[4], math.MinInt64), math.MaxInt64))
		r.apply(x)
		if !slices.Equal(x[1:], want[1:]) {
			t.Fatalf("%v, want %v", x, want)
		}
	}
}

// telco is an engine on the shipped specification, with customers whose
// attributes were set at different times, and further events of them.
// Amounts that add up to more than an attribute holds leave it at its bound, are
// counted, and leave a state that its own score gives back.
func TestIncrementsBeyondTheBound(t *testing.T) {
	set := testSet(t)
	codec := schemas.NewCodec(set, registrytest.New())
	if err := codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, _ := newEngine(t, set, nil)
	bounds := map[string]float64{"months": scoring.MaxNumber, "float": math.MaxFloat32, "int": math.MaxInt32, "long": math.MaxInt64}
	for sign := -1.0; sign <= 1; sign += 2 {
		id := fmt.Sprint("customer", sign)
		first := event(set, id, "", 1, math.NaN())
		more := event(set, id, "", 2, math.NaN())
		for name, most := range bounds {
			i, _ := set.Spec().Index(name)
			first.Changes[i], more.Increments[i] = sign*most/4*3, sign*most/2
		}
		if did := e.Apply(first, 1); did.Saturated != 0 {
			t.Errorf("%d attributes saturated by what they hold", did.Saturated)
		}
		did := e.Apply(more, 2)
		if did.Saturated != len(bounds) {
			t.Errorf("%d attributes saturated, want %d", did.Saturated, len(bounds))
		}
		got := codec.NewScore()
		if err := codec.DecodeScore(t.Context(), codec.AppendScore(nil, did.Score), got); err != nil {
			t.Fatal(err)
		}
		for name, most := range bounds {
			i, _ := set.Spec().Index(name)
			if x := did.Score.Attributes[i]; math.Abs(x-sign*most) > 1 || got.Attributes[i] != x {
				t.Errorf("%s is %g, and %g in its score; the bound is %g", name, x, got.Attributes[i], sign*most)
			}
		}
	}
}

func telco(t testing.TB, n int) (*Engine, []*schemas.CustomerEvent) {
	set := schemas.Telco()
	e, _ := newEngine(t, set, func(cfg *Config) { cfg.Reasons = 5 })
	rng := rand.New(rand.NewPCG(2, 2))
	var events []*schemas.CustomerEvent
	spec := set.Spec()
	for i := range 3 * n {
		ev := event(set, fmt.Sprint("customer-", i%n), fmt.Sprint("event-", i), int64(i), math.NaN())
		for f := range spec.Len() {
			switch {
			case spec.Feature(f).Kind == scoring.Categorical:
				if i < n || rng.IntN(8) == 0 {
					ev.Changes[f], _ = set.Vocabulary().CodeString(f, string(rune('a'+rng.IntN(3))))
				}
			case i < n:
				ev.Changes[f] = float64(rng.IntN(100))
			default:
				ev.Increments[f] = 1
			}
		}
		events = append(events, ev)
	}
	for i, ev := range events {
		e.Apply(ev, int64(i))
	}
	return e, events[n:]
}

// TestApplyDoesNotAllocate takes events of known customers.
func TestApplyDoesNotAllocate(t *testing.T) {
	e, events := telco(t, 100)
	next := 0
	round := func() {
		for range 100 {
			ev := events[next%len(events)]
			ev.OccurredAt += 1000
			next++
			e.Apply(ev, int64(next))
		}
	}
	for range 20 {
		round() // events come round; those among the last four are duplicates
	}
	if n := testing.AllocsPerRun(20, round); n > 0 {
		t.Errorf("%g allocations per 100 events", n)
	}
	versions := []Model{testModel(t, schemas.Telco(), 2), testModel(t, schemas.Telco(), 3)}
	flip := 0
	rescore := func() {
		walk := e.Rescore(versions[flip%2])
		flip++
		for look := 1000; walk.Next(&look) != nil; {
		}
	}
	rescore()
	if n := testing.AllocsPerRun(10, rescore); n > 5 { // the walk and the model's workspace
		t.Errorf("%g allocations per walk over 100 customers", n)
	}
}

func BenchmarkApply(b *testing.B) {
	e, events := telco(b, 10_000)
	next := 0
	b.ReportAllocs()
	for b.Loop() {
		ev := events[next%len(events)]
		next++
		e.Apply(ev, int64(next))
	}
}

func BenchmarkRescore(b *testing.B) {
	const n = 10_000
	e, _ := telco(b, n)
	versions := []Model{testModel(b, schemas.Telco(), 2), testModel(b, schemas.Telco(), 3)}
	flip := 0
	b.ReportAllocs()
	for b.Loop() {
		walk := e.Rescore(versions[flip%2])
		flip++
		for look := n + 1; walk.Next(&look) != nil; {
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/customer")
}
