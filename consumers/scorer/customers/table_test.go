package customers

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// attributes are those of a company that is not the shipped one.
const attributes = `{"type":"record","name":"CustomerAttributes","fields":[
	{"name":"plan","type":["null","string"],"default":null,"feature":{"kind":"categorical","actionable":true}},
	{"name":"months","type":["null","double"],"default":null,"feature":{"kind":"numeric","unit":"months"}},
	{"name":"complaints","type":["null","double"],"default":null,"feature":{"kind":"numeric"}}
]}`

const plan = 0

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()

func testSet(t testing.TB) *schemas.Set {
	t.Helper()
	set, err := schemas.Parse([]byte(attributes))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func sameNumber(a, b float64) bool { return a == b || scoring.IsMissing(a) && scoring.IsMissing(b) }

// sameState compares what is kept of two scores.
func sameState(a, b *schemas.ChurnScore) bool {
	return bytes.Equal(a.CustomerID, b.CustomerID) && bytes.Equal(a.EventID, b.EventID) &&
		a.SourcePartition == b.SourcePartition && a.SourceOffset == b.SourceOffset && a.OccurredAt == b.OccurredAt && a.AsOf == b.AsOf && a.ModelVersion == b.ModelVersion &&
		sameNumber(a.Probability, b.Probability) && slices.EqualFunc(a.Attributes, b.Attributes, sameNumber) &&
		slices.Equal(a.AttributeAges, b.AttributeAges) && slices.Equal(a.RecentEvents, b.RecentEvents)
}

// described is what is kept of a score, as text.
func described(set *schemas.Set, s *schemas.ChurnScore) string {
	text := fmt.Sprint(string(s.EventID), s.SourceOffset, s.OccurredAt, s.AsOf, s.ModelVersion, s.Probability, s.AttributeAges, s.RecentEvents)
	for f, x := range s.Attributes {
		text += "|" + set.Text(f, x, s.Levels)
	}
	return text
}

// unpacked is described of a record.
func unpacked(set *schemas.Set, table *Table, r Record) string {
	var s schemas.ChurnScore
	table.Unpack(r, &s)
	return described(set, &s)
}

func randomScore(rng *rand.Rand, set *schemas.Set, id string) *schemas.ChurnScore {
	events := []string{"", "e1", "6f1c4a52-9d0e-4b7a-8f00-00c0ffee0001", "6F1C4A52-9d0e-4b7a-8f00-00c0ffee0001",
		"6f1c4a52-9d0e-4b7a-8f00-00c0ffee000-", "6f1c4a52_9d0e-4b7a-8f00-00c0ffee0001", strings.Repeat("x", 256)}
	s := &schemas.ChurnScore{
		CustomerID:   []byte(id),
		EventID:      []byte(events[rng.IntN(len(events))]),
		OccurredAt:   rng.Int64() - rng.Int64(),
		ModelVersion: rng.Int64(),
		Probability:  rng.Float64(),
		SourceOffset: rng.Int64() >> rng.IntN(62),

		SourcePartition: rng.Int32() >> rng.IntN(31),
		Attributes:      scoring.NewVector(set.Spec().Len()),
	}
	s.AsOf = s.OccurredAt
	if rng.IntN(2) == 0 {
		s.AsOf = rng.Int64()
	}
	for range rng.IntN(scoring.RecentEvents + 1) {
		s.RecentEvents = append(s.RecentEvents, int64(rng.Uint64()))
	}
	for f := range s.Attributes {
		switch {
		case rng.IntN(3) == 0:
		case set.Spec().Feature(f).Kind == scoring.Categorical:
			s.Attributes[f], _ = set.Vocabulary().CodeString(f, fmt.Sprint("level", rng.IntN(300)))
		default:
			s.Attributes[f] = rng.NormFloat64() * math.Pow(10, float64(rng.IntN(40)-20))
		}
	}
	if rng.IntN(2) == 0 {
		for _, x := range s.Attributes {
			age := int64(0)
			if !scoring.IsMissing(x) {
				age = rng.Int64N(1e12) - 1e11
			}
			s.AttributeAges = append(s.AttributeAges, age)
		}
	}
	return s
}

func TestPacking(t *testing.T) {
	set := testSet(t)
	k := newPacking(set.Spec())
	var got schemas.ChurnScore
	var scratch []byte
	for seed := range uint64(2000) {
		want := randomScore(rand.New(rand.NewPCG(seed, 1)), set, fmt.Sprint("customer", seed))
		packed := k.append(nil, want, want.Attributes)
		if len(packed) > k.maxBytes() {
			t.Fatalf("seed %d: %d bytes, more than %d", seed, len(packed), k.maxBytes())
		}
		var err error
		if scratch, err = k.unpack(packed, &got, scratch[:0]); err != nil || !sameState(&got, want) {
			t.Fatalf("seed %d: %+v, %v; want %+v", seed, got, err, want)
		}
		partition, offset := Record(packed).Source()
		if string(Record(packed).ID()) != string(want.CustomerID) || partition != want.SourcePartition || offset != want.SourceOffset || Record(packed).ModelVersion() != want.ModelVersion || Record(packed).AsOf() != want.AsOf {
			t.Fatalf("seed %d: id %s, source %d/%d, model %d, as of %d of %+v", seed, Record(packed).ID(), partition, offset, Record(packed).ModelVersion(), Record(packed).AsOf(), want)
		}
		for n := range packed {
			if _, err := k.unpack(packed[:n], &got, nil); err == nil {
				t.Fatalf("seed %d: the first %d of %d bytes are taken for a record", seed, n, len(packed))
			}
		}
	}
}

// FuzzPacked gives unpack bytes that nobody packed: it takes them or refuses
// them, and what it takes can be packed again.
func FuzzPacked(f *testing.F) {
	set := testSet(f)
	k := newPacking(set.Spec())
	for seed := range uint64(20) {
		s := randomScore(rand.New(rand.NewPCG(seed, 1)), set, "anna")
		f.Add(k.append(nil, s, s.Attributes))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s, again schemas.ChurnScore
		if _, err := k.unpack(data, &s, nil); err != nil {
			return
		}
		packed := k.append(nil, &s, s.Attributes)
		if _, err := k.unpack(packed, &again, nil); err != nil || !sameState(&again, &s) {
			t.Errorf("%+v became %+v: %v", s, again, err)
		}
	})
}

// TestCustomers plays random changes to the table and to a plain map.
func TestCustomers(t *testing.T) {
	set := testSet(t)
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 2))
		table, plain := NewTable(set.Vocabulary()), map[string]string{}
		ids := 1 + rng.IntN(3000)
		for range 6000 {
			id := fmt.Sprint("c", rng.IntN(ids))
			if rng.IntN(4) == 0 {
				table.Remove([]byte(id))
				delete(plain, id)
				continue
			}
			s := randomScore(rng, set, id)
			table.Put(s)
			plain[id] = described(set, s)
		}
		if table.Len() != len(plain) {
			t.Fatalf("seed %d: %d customers, want %d", seed, table.Len(), len(plain))
		}
		for i := range ids {
			id := fmt.Sprint("c", i)
			got := ""
			if record := table.Get([]byte(id)); record != nil {
				got = unpacked(set, table, record)
			}
			if got != plain[id] {
				t.Fatalf("seed %d: %s is %s, want %s", seed, id, got, plain[id])
			}
		}
		met := map[string]bool{}
		var at Cursor
		for record := table.Next(&at); record != nil; record = table.Next(&at) {
			id := string(record.ID())
			if got := unpacked(set, table, record); met[id] || got != plain[id] {
				t.Fatalf("seed %d: the walk meets %s as %s (met before: %v), want %s", seed, id, got, met[id], plain[id])
			}
			met[id] = true
		}
		if len(met) != len(plain) {
			t.Fatalf("seed %d: the walk meets %d customers of %d", seed, len(met), len(plain))
		}
	}
}

// TestWalkMeetsWhatDoesNotChange changes customers during a walk.
func TestWalkMeetsWhatDoesNotChange(t *testing.T) {
	set := testSet(t)
	rng := rand.New(rand.NewPCG(3, 3))
	table := NewTable(set.Vocabulary())
	const n = 5000
	for i := range n {
		table.Put(randomScore(rng, set, fmt.Sprint("c", i)))
	}
	changed, met := map[string]bool{}, map[string]bool{}
	var at Cursor
	for record := table.Next(&at); record != nil; record = table.Next(&at) {
		met[string(record.ID())] = true
		id := fmt.Sprint("c", rng.IntN(n))
		changed[id] = true
		if rng.IntN(2) == 0 {
			table.Remove([]byte(id))
		} else {
			table.Put(randomScore(rng, set, id))
		}
	}
	for i := range n {
		if id := fmt.Sprint("c", i); !changed[id] && !met[id] {
			t.Fatalf("%s did not change and was not met", id)
		}
	}
}

// TestErasedBytesAreGone looks for a removed customer in the table's memory.
func TestErasedBytesAreGone(t *testing.T) {
	set := testSet(t)
	table := NewTable(set.Vocabulary())
	rng := rand.New(rand.NewPCG(4, 4))
	table.Put(randomScore(rng, set, "somebody-else"))
	table.Put(randomScore(rng, set, "anna-who-left"))
	table.Remove([]byte("anna-who-left"))
	for _, chunk := range table.chunks {
		if bytes.Contains(chunk, []byte("anna")) {
			t.Error("the table still holds a removed customer")
		}
	}
	if table.Get([]byte("somebody-else")) == nil {
		t.Error("another customer was removed too")
	}
}

func TestCustomersReuseMemory(t *testing.T) {
	set := testSet(t)
	table := NewTable(set.Vocabulary())
	rng := rand.New(rand.NewPCG(5, 5))
	var scores []*schemas.ChurnScore
	for i := range 2000 {
		scores = append(scores, randomScore(rng, set, fmt.Sprint("c", i%1000)))
	}
	round := func() {
		for _, s := range scores {
			table.Put(s)
		}
		for _, s := range scores[:500] {
			table.Remove(s.CustomerID)
		}
	}
	round()
	round()
	before := table.Bytes()
	for range 20 {
		round()
	}
	// Levels come back under other numbers, which may be a byte longer.
	if after := table.Bytes(); after > before+before/50 {
		t.Errorf("%d bytes grew to %d though the customers are the same", before, after)
	}
	if n := testing.AllocsPerRun(10, round); n > 0 {
		t.Errorf("%g allocations in a warm table", n)
	}
}

// To score a customer again under another model must not move its record: the
// walk of a snapshot could miss it.
func TestModelsDoNotMoveRecords(t *testing.T) {
	set := testSet(t)
	k := newPacking(set.Spec())
	table := testTable(t, set, 500)
	var s schemas.ChurnScore
	var at Cursor
	for record := table.Next(&at); record != nil; record = table.Next(&at) {
		want := len(record)
		if _, err := k.unpack(record, &s, nil); err != nil {
			t.Fatal(err)
		}
		for _, version := range []int64{1, 63, 64, 8191, 8192, 1 << 40} {
			s.ModelVersion = version
			packed := k.append(nil, &s, s.Attributes)
			if len(packed) != want || Record(packed).ModelVersion() != version {
				t.Fatalf("%d bytes under version %d, %d before", len(packed), version, want)
			}
		}
	}
}
