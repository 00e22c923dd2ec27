package customers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// content is what a table holds, with levels as text, by customer.
func content(t testing.TB, set *schemas.Set, c *Table) map[string]string {
	t.Helper()
	out := map[string]string{}
	var at Cursor
	for record := c.Next(&at); record != nil; record = c.Next(&at) {
		out[string(record.ID())] = unpacked(set, c, record)
	}
	if len(out) != c.Len() {
		t.Fatalf("the walk meets %d customers of %d", len(out), c.Len())
	}
	return out
}

func sameContent(t testing.TB, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d customers, want %d", len(got), len(want))
	}
	for id, w := range want {
		if got[id] != w {
			t.Fatalf("customer %s: %s\nwant %s", id, got[id], w)
		}
	}
}

func testTable(t testing.TB, set *schemas.Set, n int) *Table {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(n), 6))
	table := NewTable(set.Vocabulary())
	for i := range n {
		table.Put(randomScore(rng, set, fmt.Sprint("customer", i)))
	}
	return table
}

func testHeader(set *schemas.Set) *SnapshotHeader {
	return &SnapshotHeader{
		Fingerprint: set.Spec().Fingerprint(), Topic: schemas.TopicScores, Partition: 3,
		Reflected: 1234, Watermark: 5678, Written: time.UnixMilli(start),
		Landmarks: []Landmark{{Offset: 1200, Hash: 1}, {Offset: 1233, Hash: ^uint64(0)}},
		Progress: schemas.Progress{
			Group: "group", EventsTopicID: "000102030405060708090a0b0c0d0e0f", ScoresTopicID: "f0e0d0c0b0a090807060504030201000",
			Partition: 3, Since: 5, Next: 5679, LeaderEpoch: -1, Customers: 3000, Sums: schemas.Sums{Scored: 1, Duplicates: 2, DeadLetters: 3, Erasures: 4, NoRecord: 5664},
			Writers: []schemas.Writer{{ProducerID: 1 << 60, Since: 4}, {ProducerID: 7, Since: 1000}},
		},
	}
}

func encodeSnapshot(set *schemas.Set, c *Table) []byte {
	e := NewSnapshotEncoder()
	data := e.Start(nil, testHeader(set))
	var at Cursor
	for done := false; !done; {
		data, done = e.Customers(data, c, &at)
	}
	return e.End(data)
}

// readSnapshot reads a whole snapshot.
func readSnapshot(set *schemas.Set, from io.Reader) (*SnapshotReader, *Table, error) {
	r, err := OpenSnapshot(from)
	if err != nil {
		return nil, nil, err
	}
	c, err := r.Table(set.Vocabulary())
	return r, c, err
}

// TestSnapshotInAnotherProcess reads a snapshot with a vocabulary that numbers
// levels otherwise.
func TestSnapshotInAnotherProcess(t *testing.T) {
	here, there := testSet(t), testSet(t)
	for i := range 50 {
		if _, err := there.Vocabulary().CodeString(plan, fmt.Sprint("level", 299-3*i)); err != nil {
			t.Fatal(err)
		}
	}
	table := testTable(t, here, 3000)
	data := encodeSnapshot(here, table)
	if len(data) < 3*blockBytes {
		t.Fatalf("%d bytes are too few to test several blocks", len(data))
	}
	r, got, err := readSnapshot(there, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	sameContent(t, content(t, there, got), content(t, here, table))
	if want := testHeader(here); fmt.Sprint(r.header) != fmt.Sprint(*want) {
		t.Errorf("header %v, want %v", r.header, *want)
	}
}

// TestSnapshotWhileScoring changes customers between the blocks: those that
// do not change come as they are, new levels included.
func TestSnapshotWhileScoring(t *testing.T) {
	set := testSet(t)
	table := testTable(t, set, 3000)
	rng := rand.New(rand.NewPCG(7, 7))
	before := content(t, set, table)
	changed := map[string]bool{}
	e := NewSnapshotEncoder()
	data := e.Start(nil, testHeader(set))
	var at Cursor
	for done := false; !done; {
		data, done = e.Customers(data, table, &at)
		for range 100 {
			s := randomScore(rng, set, fmt.Sprint("customer", rng.IntN(3000)))
			s.Attributes[plan] = s.Levels.Add(fmt.Sprint("new", rng.IntN(1000)))
			changed[string(s.CustomerID)] = true
			table.Put(s)
		}
	}
	data = e.End(data)
	there := testSet(t)
	_, read, err := readSnapshot(there, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	got := content(t, there, read)
	for id, want := range before {
		if !changed[id] && got[id] != want {
			t.Fatalf("customer %s: %s, want %s", id, got[id], want)
		}
	}
}

// TestDamagedSnapshots cuts and flips a snapshot everywhere.
// A snapshot of a version that took any number is refused: the topic gives the
// state back without such numbers.
func TestSnapshotWithNumbersBeyondTheBound(t *testing.T) {
	set := testSet(t)
	for _, x := range []float64{math.MaxFloat64, -math.MaxFloat64, math.Nextafter(scoring.MaxNumber, math.Inf(1))} {
		s := randomScore(rand.New(rand.NewPCG(1, 2)), set, "customer")
		for i := range s.Attributes {
			if set.Spec().Feature(i).Kind == scoring.Numeric {
				s.Attributes[i] = x
			}
		}
		table := NewTable(set.Vocabulary())
		values := slices.Clone(s.Attributes)
		table.levels.number(values, s.Levels)
		table.put(table.packing.append(nil, s, values))
		if _, _, err := readSnapshot(set, bytes.NewReader(encodeSnapshot(set, table))); !errors.Is(err, ErrRefused) {
			t.Errorf("with %g: %v", x, err)
		}
	}
}

func TestDamagedSnapshots(t *testing.T) {
	set := testSet(t)
	data := encodeSnapshot(set, testTable(t, set, 10))
	for n := range data {
		if _, _, err := readSnapshot(set, bytes.NewReader(data[:n])); !errors.Is(err, ErrRefused) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
	rng := rand.New(rand.NewPCG(8, 8))
	for at := range data {
		damaged := bytes.Clone(data)
		damaged[at] ^= 1 << rng.IntN(8)
		if _, _, err := readSnapshot(set, bytes.NewReader(damaged)); !errors.Is(err, ErrRefused) {
			t.Fatalf("byte %d of %d flipped: %v", at, len(data), err)
		}
	}
	if _, _, err := readSnapshot(set, bytes.NewReader(append(bytes.Clone(data), 0))); !errors.Is(err, ErrRefused) {
		t.Errorf("with a byte after the end: %v", err)
	}
	// A block that is lost, or comes twice, has a good checksum of its own.
	var blocks [][]byte
	for rest := data[len(snapshotMagic):]; len(rest) > 0; {
		n := 8 + int(uint32(rest[0])|uint32(rest[1])<<8|uint32(rest[2])<<16)
		blocks = append(blocks, rest[:n])
		rest = rest[n:]
	}
	for i := range blocks {
		lost, twice := []byte(snapshotMagic), []byte(snapshotMagic)
		for j, b := range blocks {
			if j != i {
				lost = append(lost, b...)
			} else {
				twice = append(twice, b...)
			}
			twice = append(twice, b...)
		}
		for name, d := range map[string][]byte{"lost": lost, "twice": twice} {
			if _, _, err := readSnapshot(set, bytes.NewReader(d)); !errors.Is(err, ErrRefused) {
				t.Errorf("block %d %s: %v", i, name, err)
			}
		}
	}
}

// FuzzSnapshot gives the reader blocks with good checksums and any content.
func FuzzSnapshot(f *testing.F) {
	set := testSet(f)
	data := encodeSnapshot(set, testTable(f, set, 20))
	f.Add(data[len(snapshotMagic):])
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, blockEnd})
	f.Fuzz(func(t *testing.T, blocks []byte) {
		set := testSet(t)
		// The checksums of the input are put right, so that what follows
		// them is reached.
		e := &SnapshotEncoder{}
		file := []byte(snapshotMagic)
		for len(blocks) >= 8 {
			n := min(int(uint32(blocks[0])|uint32(blocks[1])<<8), len(blocks)-8)
			at := len(file)
			file = e.seal(append(file, blocks[:8+n]...), at)
			blocks = blocks[8+n:]
		}
		_, c, err := readSnapshot(set, bytes.NewReader(file))
		if err != nil {
			if !errors.Is(err, ErrRefused) {
				t.Errorf("%v is not a refusal", err)
			}
			return
		}
		_, again, err := readSnapshot(set, bytes.NewReader(encodeSnapshot(set, c)))
		if err != nil {
			t.Fatalf("written again it cannot be read: %v", err)
		}
		sameContent(t, content(t, set, again), content(t, set, c))
	})
}

// BenchmarkSnapshot writes and reads snapshots of 100,000 customers.
func BenchmarkSnapshot(b *testing.B) {
	const n = 100_000
	set := schemas.Telco()
	table := testTable(b, set, n)
	data := encodeSnapshot(set, table)
	b.Run("write", func(b *testing.B) {
		// What the worker does; the disk is another goroutine's.
		block := make([]byte, 0, 2*blockBytes)
		for b.Loop() {
			e := NewSnapshotEncoder()
			var at Cursor
			for done := false; !done; {
				_, done = e.Customers(block[:0], table, &at)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/100k-customers")
		b.ReportMetric(float64(len(data))/n, "B/customer")
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := readSnapshot(set, bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/100k-customers")
	})
}
