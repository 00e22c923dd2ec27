package scorer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
)

// content is what a table holds, with levels as text, by customer.
func content(t testing.TB, set *schemas.Set, c *customers) map[string]string {
	t.Helper()
	k := newPacking(set.Spec())
	out := map[string]string{}
	var at cursor
	var s schemas.ChurnScore
	for record := c.next(&at); record != nil; record = c.next(&at) {
		if _, err := k.unpack(record, &s, nil); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(string(s.EventID), s.SourceOffset, s.OccurredAt, s.ModelVersion, s.Probability, s.AttributeAges, s.RecentEvents)
		for f, x := range s.Attributes {
			text += "|" + set.Text(f, x)
		}
		out[string(s.CustomerID)] = text
	}
	if len(out) != c.len() {
		t.Fatalf("the walk meets %d customers of %d", len(out), c.len())
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

func testTable(t testing.TB, set *schemas.Set, n int) *customers {
	t.Helper()
	k := newPacking(set.Spec())
	rng := rand.New(rand.NewPCG(uint64(n), 6))
	table := newCustomers(k.maxBytes())
	for i := range n {
		table.put(k.append(nil, randomScore(rng, set, fmt.Sprint("customer", i))))
	}
	return table
}

func testHeader(set *schemas.Set) *snapshotHeader {
	return &snapshotHeader{
		fingerprint: set.Spec().Fingerprint(), topic: schemas.TopicScores, partition: 3,
		reflected: 1234, watermark: 5678, written: time.UnixMilli(start),
		landmarks: []landmark{{offset: 1200, hash: 1}, {offset: 1233, hash: ^uint64(0)}},
	}
}

func encodeSnapshot(set *schemas.Set, c *customers) []byte {
	e := newSnapshotEncoder(set.Vocabulary())
	data := e.start(nil, testHeader(set))
	var at cursor
	for done := false; !done; {
		data, done = e.customers(data, c, &at)
	}
	return e.end(data)
}

// readSnapshot reads a whole snapshot.
func readSnapshot(set *schemas.Set, from io.Reader) (*snapshotReader, *customers, error) {
	r, err := openSnapshot(from)
	if err != nil {
		return nil, nil, err
	}
	c, err := r.customers(newPacking(set.Spec()), set.Vocabulary())
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
	k := newPacking(set.Spec())
	table := testTable(t, set, 3000)
	rng := rand.New(rand.NewPCG(7, 7))
	before := content(t, set, table)
	changed := map[string]bool{}
	e := newSnapshotEncoder(set.Vocabulary())
	data := e.start(nil, testHeader(set))
	var at cursor
	for done := false; !done; {
		data, done = e.customers(data, table, &at)
		for range 100 {
			s := randomScore(rng, set, fmt.Sprint("customer", rng.IntN(3000)))
			s.Attributes[plan], _ = set.Vocabulary().CodeString(plan, fmt.Sprint("new", rng.IntN(1000)))
			changed[string(s.CustomerID)] = true
			table.put(k.append(nil, s))
		}
	}
	data = e.end(data)
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
func TestDamagedSnapshots(t *testing.T) {
	set := testSet(t)
	data := encodeSnapshot(set, testTable(t, set, 10))
	for n := range data {
		if _, _, err := readSnapshot(set, bytes.NewReader(data[:n])); !errors.Is(err, errSnapshot) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
	rng := rand.New(rand.NewPCG(8, 8))
	for at := range data {
		damaged := bytes.Clone(data)
		damaged[at] ^= 1 << rng.IntN(8)
		if _, _, err := readSnapshot(set, bytes.NewReader(damaged)); !errors.Is(err, errSnapshot) {
			t.Fatalf("byte %d of %d flipped: %v", at, len(data), err)
		}
	}
	if _, _, err := readSnapshot(set, bytes.NewReader(append(bytes.Clone(data), 0))); !errors.Is(err, errSnapshot) {
		t.Errorf("with a byte behind the end: %v", err)
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
			if _, _, err := readSnapshot(set, bytes.NewReader(d)); !errors.Is(err, errSnapshot) {
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
		// The checksums of the input are put right, so that what is behind
		// them is reached.
		e := &snapshotEncoder{}
		file := []byte(snapshotMagic)
		for len(blocks) >= 8 {
			n := min(int(uint32(blocks[0])|uint32(blocks[1])<<8), len(blocks)-8)
			at := len(file)
			file = e.seal(append(file, blocks[:8+n]...), at)
			blocks = blocks[8+n:]
		}
		_, c, err := readSnapshot(set, bytes.NewReader(file))
		if err != nil {
			if !errors.Is(err, errSnapshot) {
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

func TestSnapshotFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state", "x-0"+snapshotSuffix)
	write := func(text string, complete bool) error {
		f := createSnapshot(path)
		for _, b := range []byte(text) {
			f.hand(append(f.wait(), b))
		}
		if !complete {
			f.giveUp()
			return nil
		}
		f.finish()
		return <-f.done
	}
	if err := write("first, in more blocks than are in flight", true); err != nil {
		t.Fatal(err)
	}
	write("second", false)
	if got, err := os.ReadFile(path); err != nil || string(got) != "first, in more blocks than are in flight" {
		t.Errorf("after one was given up: %q, %v", got, err)
	}
	if err := write("third", true); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "third" {
		t.Errorf("%q", got)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%d files are left", len(entries))
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("others can read it: %v", info.Mode())
	}
	// A path that cannot be written to costs the snapshot and nothing else.
	path = filepath.Join(path, "below-a-file"+snapshotSuffix)
	if err := write("fourth, in more blocks than are in flight", true); err == nil {
		t.Error("no error where no file can be")
	}
}

func TestOldSnapshotsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	file := func(name string, age time.Duration) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	file("g-0.snapshot", 2*time.Hour)
	file("g-1.snapshot", time.Minute)
	file("g-2.snapshot.123.tmp", 2*time.Hour)
	file("notes.txt", 2*time.Hour)
	file("other.tmp", 2*time.Hour)
	if err := removeOldSnapshots(dir, time.Hour, now); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(dir)
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"g-1.snapshot", "notes.txt", "other.tmp"}; fmt.Sprint(left) != fmt.Sprint(want) {
		t.Errorf("left are %v, want %v", left, want)
	}
	if err := removeOldSnapshots(filepath.Join(dir, "nowhere"), time.Hour, now); err != nil {
		t.Errorf("no directory: %v", err)
	}
}

func TestSnapshotPath(t *testing.T) {
	if got, want := snapshotPath("dir", "../a group/ü", 7), filepath.Join("dir", ".._a_group__-7.snapshot"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
