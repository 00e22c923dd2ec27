package scorer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// event makes the record of an event with attributes given as position and
// text.
func event(t testing.TB, codec *schemas.Codec, customer, id string, at int64, changes map[int]string, increments map[int]float64) kafka.Record {
	t.Helper()
	e := codec.NewEvent()
	e.CustomerID, e.EventID, e.OccurredAt, e.Source = []byte(customer), []byte(id), at, []byte("test")
	for f, text := range changes {
		x, err := codec.Set().ParseText(f, text)
		if err != nil {
			t.Fatal(err)
		}
		e.Changes[f] = x
	}
	for f, x := range increments {
		e.Increments[f] = x
	}
	return kafka.Record{Key: []byte(customer), Value: codec.AppendEvent(nil, e)}
}

// score decodes the value of a record.
func score(t testing.TB, codec *schemas.Codec, r kafka.Record) *schemas.ChurnScore {
	t.Helper()
	s := codec.NewScore()
	if err := codec.DecodeScore(t.Context(), r.Value, s); err != nil {
		t.Fatal(err)
	}
	return s
}

// latest returns the last record of each customer, as compaction would.
func latest(records []kafka.Record) map[string]kafka.Record {
	out := map[string]kafka.Record{}
	for _, r := range records {
		out[string(r.Key)] = r
	}
	return out
}

func testSet(t testing.TB) *schemas.Set {
	t.Helper()
	set, err := schemas.Parse([]byte(attributes))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// testTable is a table of n customers.
func testTable(t testing.TB, set *schemas.Set, n int) *customers.Table {
	t.Helper()
	table := customers.NewTable(set.Vocabulary())
	for i := range n {
		table.Put(&schemas.ChurnScore{CustomerID: customerName(i), Attributes: scoring.NewVector(set.Spec().Len())})
	}
	return table
}

func sameNumber(a, b float64) bool { return a == b || scoring.IsMissing(a) && scoring.IsMissing(b) }

// content is what a table holds, with levels as text, by customer.
func content(t testing.TB, set *schemas.Set, table *customers.Table) map[string]string {
	t.Helper()
	out := map[string]string{}
	var at customers.Cursor
	var s schemas.ChurnScore
	for record := table.Next(&at); record != nil; record = table.Next(&at) {
		table.Unpack(record, &s)
		text := fmt.Sprint(string(s.EventID), s.SourceOffset, s.OccurredAt, s.AsOf, s.ModelVersion, s.Probability, s.AttributeAges, s.RecentEvents)
		for f, x := range s.Attributes {
			text += "|" + set.Text(f, x, s.Levels)
		}
		out[string(s.CustomerID)] = text
	}
	if len(out) != table.Len() {
		t.Fatalf("the walk meets %d customers of %d", len(out), table.Len())
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

// stateOf runs a scorer until it has restored its state and caught up, and
// returns what it knows, with where from.
func (w *world) stateOf(s *Scorer, events int) (c map[string]string, from string) {
	w.t.Helper()
	before := map[string]int{}
	for _, source := range []string{fromTopic, fromSnapshot, fromMemory} {
		before[source] = w.restores(source)
	}
	w.committed.Store(-1)
	stop := w.run(s)
	w.until("a state to be restored", func() bool {
		for source, n := range before {
			if w.restores(source) > n {
				from = source
			}
		}
		return from != ""
	})
	w.caughtUp(int64(events))
	stop(false)
	kept := s.lost.take(0)
	if kept == nil {
		w.t.Fatal("the state was not kept")
	}
	defer s.lost.keep(0, kept)
	return content(w.t, s.cfg.Codec.Set(), kept.customers), from
}

// scored writes events, has them scored, and leaves a snapshot.
func (w *world) scored(records ...kafka.Record) (done int) {
	w.t.Helper()
	w.produce(schemas.TopicEvents, records...)
	_, end, err := w.cluster.Offsets(w.t.Context(), schemas.TopicEvents, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	s := w.process(nil)
	stop := w.run(s)
	w.caughtUp(end)
	stop(true)
	return int(end)
}

func TestSnapshotRefused(t *testing.T) {
	t.Parallel() // most of it is waiting
	read := func(t *testing.T, w *world) []byte {
		data, err := os.ReadFile(snapshotPath(w.stateDir, DefaultGroup, 0))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	write := func(t *testing.T, w *world, data []byte) {
		if err := os.WriteFile(snapshotPath(w.stateDir, DefaultGroup, 0), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, w *world)
		config func(*Config)
		good   bool
	}{
		{name: "good", good: true},
		{name: "truncated", change: func(t *testing.T, w *world) { data := read(t, w); write(t, w, data[:len(data)-1]) }},
		{name: "empty", change: func(t *testing.T, w *world) { write(t, w, nil) }},
		{name: "a bit flipped", change: func(t *testing.T, w *world) {
			data := read(t, w)
			data[len(data)/2] ^= 4
			write(t, w, data)
		}},
		{name: "a later format", change: func(t *testing.T, w *world) {
			data := read(t, w)
			data[len("churnst")]++
			write(t, w, data)
		}},
		{name: "another specification", change: func(t *testing.T, w *world) {
			w.schema = strings.Replace(everyType, `"name":"text"`, `"name":"words"`, 1)
		}},
		{name: "another partition", change: func(t *testing.T, w *world) {
			s := w.process(nil)
			w.writeSnapshot(s, customers.SnapshotHeader{Partition: 3}, customers.NewTable(s.cfg.Codec.Set().Vocabulary()))
		}},
		{name: "too old", config: func(cfg *Config) {
			cfg.Now = func() time.Time { return time.Now().Add(13 * time.Hour) }
		}},
		{name: "of a time before the log's start", change: func(t *testing.T, w *world) {
			// Something is appended, and all before it deleted.
			r, _ := customers.OpenSnapshot(bytes.NewReader(read(t, w)))
			w.produce(schemas.TopicScores, kafka.Record{Key: []byte("\x00"), Value: []byte{}})
			if err := w.broker.Cluster().DeleteRecords(schemas.TopicScores, 0, r.Header().Reflected+1); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "of a log that is shorter", change: func(t *testing.T, w *world) {
			w.recreateScores()
		}},
		{name: "of another log of the same length", change: func(t *testing.T, w *world) {
			records := w.records(schemas.TopicScores)
			r, _ := customers.OpenSnapshot(bytes.NewReader(read(t, w)))
			w.recreateScores()
			// The same customers, scored at another time.
			for i := range records {
				if s := w.process(nil).cfg.Codec; records[i].Value != nil {
					x := score(t, s, records[i])
					x.ScoredAt++
					records[i].Value = s.AppendScore(nil, x)
				}
			}
			w.produce(schemas.TopicScores, kafka.Record{Key: []byte(schemas.MarkerKey)})
			w.produce(schemas.TopicScores, records...)
			for _, end, _ := w.cluster.Offsets(t.Context(), schemas.TopicScores, 0); end < r.Header().Reflected+3; end++ {
				w.produce(schemas.TopicScores, kafka.Record{Key: []byte(schemas.MarkerKey)})
			}
		}},
		{name: "with no record left to know the log by", change: func(t *testing.T, w *world) {
			for _, r := range w.records(schemas.TopicScores) {
				w.own(r)
			}
			w.own(w.marker())
			w.produce(schemas.TopicScores, kafka.Record{Key: []byte(schemas.MarkerKey)})
			w.produce(schemas.TopicScores, kafka.Record{Key: []byte(schemas.MarkerKey)})
			w.broker.Cluster().Compact()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, everyType)
			events := history(rand.New(rand.NewPCG(1, 13)), w.process(nil).cfg.Codec, 60)
			n := w.scored(events...)
			if c.change != nil {
				c.change(t, w)
			}
			without, _ := w.stateOf(w.process(func(cfg *Config) { cfg.StateDir = "" }), n)
			refused := testutil.ToFloat64(w.metrics.refusedSnapshots)
			with, from := w.stateOf(w.process(c.config), n)
			sameContent(t, with, without)
			if c.good {
				if from != fromSnapshot || testutil.ToFloat64(w.metrics.refusedSnapshots) != refused {
					t.Errorf("restored from the %s", from)
				}
				return
			}
			if from != fromTopic || testutil.ToFloat64(w.metrics.refusedSnapshots) != refused+1 {
				t.Errorf("restored from the %s, not the topic", from)
			}
		})
	}
}

// recreateScores deletes churn.scores and makes a new one.
func (w *world) recreateScores() {
	w.t.Helper()
	if err := w.broker.Cluster().DeleteTopic(schemas.TopicScores); err != nil {
		w.t.Fatal(err)
	}
	err := w.cluster.EnsureTopics(w.t.Context(),
		kafka.TopicConfig{Name: schemas.TopicScores, Partitions: 1, Configs: map[string]string{"cleanup.policy": "compact"}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestDeltaRestore counts what is read when a partition comes back, and after
// a restart with a snapshot.
func TestDeltaRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, everyType)
	here, there := w.process(nil), w.process(func(cfg *Config) { cfg.StateDir = "" })
	codec := here.cfg.Codec
	rng := rand.New(rand.NewPCG(2, 13))
	events := history(rng, codec, 400)
	n := w.scored(events...)
	reads := func() int { return int(testutil.ToFloat64(w.metrics.restoreReads)) }

	if _, from := w.stateOf(here, n); from != fromSnapshot {
		t.Fatalf("restored from %s", from)
	}
	// Another scorer has the partition for a while, and it comes back.
	more := history(rng, codec, 20)
	w.produce(schemas.TopicEvents, more...)
	n += len(more)
	want, _ := w.stateOf(there, n)
	before := reads()
	got, from := w.stateOf(here, n)
	if from != fromMemory {
		t.Fatalf("restored from %s", from)
	}
	sameContent(t, got, want)
	// Its own last marker is known, the other one's is not.
	if read := reads() - before; read > len(more)+2 {
		t.Errorf("%d records were read, for %d events", read, len(more))
	}
	before = reads()
	got, from = w.stateOf(w.process(nil), n)
	if from != fromSnapshot {
		t.Fatalf("restored from %s", from)
	}
	sameContent(t, got, want)
	if read := reads() - before; read > len(more)+5 {
		t.Errorf("%d records were read beyond the snapshot, for %d events", read, len(more))
	}
}

// TestLostStatesAreBounded keeps no more customers than allowed, the latest
// first.
func TestLostStatesAreBounded(t *testing.T) {
	t.Parallel()
	set := testSet(t)
	lost := lostStates{limit: 100}
	at := time.Now()
	keep := func(partition, n int) bool {
		at = at.Add(time.Second)
		return lost.keep(partition, &state{customers: testTable(t, set, n), asOf: at})
	}
	if !keep(1, 40) || !keep(2, 40) || keep(3, 101) {
		t.Error("kept what is too large, or not what fits")
	}
	if !keep(4, 50) || lost.states[1] != nil || lost.states[2] == nil || lost.count != 90 {
		t.Errorf("%d customers of partitions %v are kept; the oldest had to go", lost.count, lost.states)
	}
	if !keep(2, 10) || lost.count != 60 {
		t.Errorf("%d customers are kept after a partition came twice", lost.count)
	}
	lost.expire(at)
	if lost.take(4) != nil || lost.take(2) == nil || lost.take(2) != nil || lost.count != 0 {
		t.Error("not the old states were dropped")
	}
	none := lostStates{limit: -1}
	if none.keep(1, &state{customers: testTable(t, set, 0)}) {
		t.Error("a state was kept where none is to be")
	}
}

// TestStaleRecords puts records after the valid ones that the owner has not
// written, as a former owner could whom the broker does not refuse.
func TestStaleRecords(t *testing.T) {
	t.Parallel() // most of it is waiting
	for _, c := range []struct {
		name string
		// running says that a worker owns the partition meanwhile, forgotten
		// that the broker refuses its next append, snapshot that states are
		// kept on disk.
		running, forgotten, snapshot bool
	}{
		{name: "between two owners"},
		{name: "between two owners with snapshots", snapshot: true},
		{name: "under the owner", running: true},
		{name: "under an owner whom the broker has forgotten", running: true, forgotten: true},
		{name: "under a forgotten owner with snapshots", running: true, forgotten: true, snapshot: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, attributes)
			process := func() *Scorer {
				return w.process(func(cfg *Config) {
					cfg.KeepLost = -1
					if !c.snapshot {
						cfg.StateDir = ""
					}
				})
			}
			s := process()
			codec := s.cfg.Codec
			e := func(customer string, i int) kafka.Record {
				return event(t, codec, customer, fmt.Sprint(customer, i), start+int64(i), map[int]string{plan: "monthly", months: fmt.Sprint(i)}, nil)
			}
			w.produce(schemas.TopicEvents, e("anna", 1), e("bert", 2), e("anna", 3), e("cleo", 4), kafka.Record{Key: []byte("cleo")}, e("dora", 6))
			stop := w.run(s)
			w.caughtUp(6)
			if !c.running {
				stop(true)
			}
			written := w.records(schemas.TopicScores)
			if len(written) != 6 {
				t.Fatalf("%d scores", len(written))
			}
			// An old score of anna and of cleo, who was erased; something that
			// is no score as bert's; dora's true score once more; a customer
			// nobody knows.
			w.produce(schemas.TopicScores, written[0], written[3], kafka.Record{Key: []byte("bert"), Value: []byte("no score")},
				written[5], kafka.Record{Key: []byte("emil"), Value: []byte("no score")})
			if c.forgotten {
				w.broker.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: schemas.TopicScores, Err: kerr.OutOfOrderSequenceNumber})
			}
			w.produce(schemas.TopicEvents, e("dora", 7))
			if !c.running {
				s = process()
				stop = w.run(s)
			}
			w.caughtUp(7)
			w.until("the repairs", func() bool { return testutil.ToFloat64(w.metrics.repaired) >= 3 })
			stop(false)
			if n := testutil.ToFloat64(w.metrics.refenced); c.forgotten != (n == 1) {
				t.Errorf("the partition was taken anew %v times", n)
			}

			last := latest(w.records(schemas.TopicScores))
			if got := score(t, codec, last["anna"]); got.SourceOffset != 2 || string(got.EventID) != "anna3" || got.Attributes[months] != 3 || got.OccurredAt != start+3 ||
				got.Probability != score(t, codec, written[2]).Probability {
				t.Errorf("anna's last score is %+v", got)
			}
			if got := score(t, codec, last["bert"]); got.SourceOffset != 1 || string(got.EventID) != "bert2" {
				t.Errorf("bert's last score is %+v", got)
			}
			if last["cleo"].Value != nil {
				t.Errorf("cleo, who was erased, has a score: %+v", score(t, codec, last["cleo"]))
			}
			if got := score(t, codec, last["dora"]); got.SourceOffset != 6 {
				t.Errorf("dora's last score is %+v", got)
			}
			if n := testutil.ToFloat64(w.metrics.foreign); n < 3 {
				t.Errorf("%v foreign records were counted", n)
			}
			// Once it is put right, it stays so.
			repaired := testutil.ToFloat64(w.metrics.repaired)
			records := len(w.records(schemas.TopicScores))
			w.stateOf(w.process(func(cfg *Config) { cfg.StateDir = "" }), 7)
			if n := len(w.records(schemas.TopicScores)); n != records || testutil.ToFloat64(w.metrics.repaired) != repaired {
				t.Errorf("%d records became %d at the next restore", records, n)
			}
		})
	}
}

// TestRestoreByMoment restores from scores that rest on the same event and
// speak of different moments: the one of the latest moment is valid, wherever
// it is in the log.
func TestRestoreByMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	codec := s.cfg.Codec
	w.produce(schemas.TopicEvents,
		event(t, codec, "anna", "a1", start, map[int]string{plan: "monthly", months: "1"}, nil),
		event(t, codec, "bert", "b1", start, map[int]string{months: "1"}, nil),
		event(t, codec, "cleo", "c1", start, map[int]string{months: "1"}, nil))
	stop := w.run(s)
	w.caughtUp(3)
	stop(true)
	written := w.records(schemas.TopicScores)
	const day = 24 * 60 * 60 * 1000
	// again is a score by another trigger of what a record was of.
	again := func(r kafka.Record, trigger schemas.Trigger, version, asOf int64, x float64) kafka.Record {
		c := score(t, codec, r)
		c.Trigger, c.ModelVersion, c.AsOf, c.Attributes[months] = trigger, version, asOf, x
		r.Value = codec.AppendScore(nil, c)
		return r
	}
	w.own(
		// Anna's is followed by those of earlier moments, and repaired.
		again(written[0], schemas.TriggerTime, 1, start+2*day, 3),
		again(written[0], schemas.TriggerTime, 1, start+day, 2),
		written[0],
		// Bert's is followed by one of a model at the same moment, and by a
		// repair, which is the same score: nothing is to be done.
		again(written[1], schemas.TriggerTime, 1, start+day, 2),
		again(written[1], schemas.TriggerModel, 2, start+day, 2),
		again(written[1], schemas.TriggerRepair, 2, start+day, 2),
		// Cleo's was written before scores spoke of a moment.
		again(written[2], schemas.TriggerEvent, 1, 0, 1))

	next := w.process(func(cfg *Config) { cfg.StateDir = "" })
	stop = w.run(next)
	w.until("the repair", func() bool { return testutil.ToFloat64(w.metrics.repaired) >= 1 })
	// Late events are scored as of the same moment.
	for i, id := range []string{"anna", "bert", "cleo"} {
		w.produce(schemas.TopicEvents, event(t, codec, id, "late", start-1000, map[int]string{complaints: "1"}, nil))
		w.caughtUp(int64(4 + i))
	}
	stop(true)
	if n := testutil.ToFloat64(w.metrics.repaired); n != 1 {
		t.Errorf("%v customers were repaired, want anna only", n)
	}
	all := w.records(schemas.TopicScores)
	tail := all[len(written)+7:]
	if len(tail) != 4 {
		t.Fatalf("%d scores, want a repair and three of late events", len(tail))
	}
	repaired := score(t, codec, tail[0])
	if string(repaired.CustomerID) != "anna" || repaired.Trigger != schemas.TriggerRepair || repaired.AsOf != start+2*day ||
		repaired.Attributes[months] != 3 || repaired.SourceOffset != 0 || repaired.ModelVersion != 1 {
		t.Errorf("repaired with %+v", repaired)
	}
	for i, want := range []struct{ asOf, months int64 }{{start + 2*day, 3}, {start + day, 2}, {start, 1}} {
		got := score(t, codec, tail[1+i])
		if got.AsOf != want.asOf || got.Attributes[months] != float64(want.months) || got.OccurredAt != start-1000 || got.Trigger != schemas.TriggerEvent {
			t.Errorf("%s is scored as of %d, months %v; want %d, %d", got.CustomerID, got.AsOf, got.Attributes[months], want.asOf, want.months)
		}
	}
}

// TestIdleOwnerForgotten has the broker answer as it does when it has
// forgotten the producer of an idle worker.
func TestIdleOwnerForgotten(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.MarkerInterval = time.Millisecond })
	codec := s.cfg.Codec
	w.produce(schemas.TopicEvents, event(t, codec, "anna", "a1", start, map[int]string{months: "1"}, nil))
	stop := w.run(s)
	w.caughtUp(1)
	var hit atomic.Bool
	w.broker.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: schemas.TopicScores, Err: kerr.OutOfOrderSequenceNumber,
		When: func(kmsg.Request) bool { hit.Store(true); return true }})
	w.produce(schemas.TopicEvents, event(t, codec, "anna", "a2", start+1, nil, map[int]float64{months: 1}))
	w.caughtUp(2)
	stop(false)
	records := w.records(schemas.TopicScores)
	if !hit.Load() || len(records) != 2 || score(t, codec, records[1]).Attributes[months] != 2 {
		t.Errorf("%d scores after the worker was forgotten (%v)", len(records), hit.Load())
	}
	if n := testutil.ToFloat64(w.metrics.refenced); n != 1 {
		t.Errorf("the partition was taken anew %v times", n)
	}
}

// TestLateAndDuplicate plays events as they should not come, with and without
// a restart before each.
func TestLateAndDuplicate(t *testing.T) {
	type values struct {
		plan               string
		months, complaints float64
	}
	na := scoring.Missing
	for _, c := range []struct {
		name string
		send func(e func(id string, at int64, changes map[int]string, increments map[int]float64) kafka.Record) []kafka.Record
		want values
		n    int // scores
	}{
		{"a late change loses", func(e func(string, int64, map[int]string, map[int]float64) kafka.Record) []kafka.Record {
			return []kafka.Record{
				e("1", 100, map[int]string{plan: "yearly", months: "5"}, nil),
				e("2", 50, map[int]string{plan: "monthly", complaints: "1"}, nil)}
		}, values{"yearly", 5, 1}, 2},
		{"each attribute by itself", func(e func(string, int64, map[int]string, map[int]float64) kafka.Record) []kafka.Record {
			return []kafka.Record{
				e("1", 100, map[int]string{plan: "yearly"}, nil),
				e("2", 300, map[int]string{months: "9"}, nil),
				e("3", 200, map[int]string{plan: "monthly", months: "4"}, nil)}
		}, values{"monthly", 9, na}, 3},
		{"a late increment before a set is in it", func(e func(string, int64, map[int]string, map[int]float64) kafka.Record) []kafka.Record {
			return []kafka.Record{
				e("1", 100, map[int]string{months: "5"}, nil),
				e("2", 50, nil, map[int]float64{months: 1}),
				e("3", 150, nil, map[int]float64{months: 2}),
				e("4", 120, nil, map[int]float64{months: 4})}
		}, values{"", 11, na}, 4},
		{"the same event twice", func(e func(string, int64, map[int]string, map[int]float64) kafka.Record) []kafka.Record {
			return []kafka.Record{
				e("1", 100, map[int]string{months: "5"}, nil),
				e("2", 200, nil, map[int]float64{months: 1}),
				e("2", 200, nil, map[int]float64{months: 1}),
				e("1", 100, map[int]string{months: "5"}, nil),
				e("2", 200, nil, map[int]float64{months: 1})}
		}, values{"", 6, na}, 2},
		{"the same event with three between", func(e func(string, int64, map[int]string, map[int]float64) kafka.Record) []kafka.Record {
			add := func(id string) kafka.Record { return e(id, 200, nil, map[int]float64{months: 1}) }
			return []kafka.Record{e("1", 100, map[int]string{months: "5"}, nil), add("2"), add("3"), add("4"), add("5"), add("2")}
		}, values{"", 9, na}, 5},
	} {
		for _, restart := range []string{"", "from the topic", "from snapshots"} {
			t.Run(c.name+" "+restart, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, attributes)
				fresh := func() *Scorer {
					return w.process(func(cfg *Config) {
						if restart == "from the topic" {
							cfg.StateDir = ""
						}
					})
				}
				s := fresh()
				codec := s.cfg.Codec
				records := c.send(func(id string, at int64, changes map[int]string, increments map[int]float64) kafka.Record {
					return event(t, codec, "anna", id, start+at, changes, increments)
				})
				stop := w.run(s)
				for i, r := range records {
					w.produce(schemas.TopicEvents, r)
					w.caughtUp(int64(i + 1))
					if restart != "" {
						stop(true)
						stop = w.run(fresh())
					}
				}
				stop(false)
				got := w.records(schemas.TopicScores)
				if len(got) != c.n {
					t.Fatalf("%d scores, want %d", len(got), c.n)
				}
				last := score(t, codec, got[len(got)-1])
				x := last.Attributes
				if codec.Set().Text(plan, x[plan], last.Levels) != c.want.plan || !sameNumber(x[months], c.want.months) || !sameNumber(x[complaints], c.want.complaints) {
					t.Errorf("attributes %v %q, want %v", x, codec.Set().Text(plan, x[plan], last.Levels), c.want)
				}
			})
		}
	}
}

// TestMisplacedEvents has a producer whose partitioner is not Java's.
func TestMisplacedEvents(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, attributes, 4)
	var log logBuffer
	s := w.process(func(cfg *Config) { cfg.Logger = log.logger() })
	s.partitions.Store(4) // of which this worker has the first
	codec := s.cfg.Codec
	var records []kafka.Record
	wrong := 0
	for i := range 40 {
		id := fmt.Sprint("customer", i)
		if kafka.PartitionOf([]byte(id), 4) != 0 {
			wrong++
		}
		records = append(records, event(t, codec, id, fmt.Sprint("e", i), start, map[int]string{months: "1"}, nil))
	}
	w.produce(schemas.TopicEvents, records...)
	stop := w.run(s)
	w.caughtUp(40)
	stop(false)
	if n := testutil.ToFloat64(w.metrics.misplaced); int(n) != wrong || wrong == 0 {
		t.Errorf("%v misplaced events were counted, want %d", n, wrong)
	}
	if n := len(w.records(schemas.TopicScores)); n != 40 {
		t.Errorf("%d events were scored, want all 40", n)
	}
	if n := strings.Count(log.String(), "murmur2_random"); n != 1 || !strings.Contains(log.String(), "source=test") {
		t.Errorf("%d lines in the log: %s", n, log.String())
	}
}

func TestMisplacedLogIsBounded(t *testing.T) {
	var m misplaced
	now := time.Now()
	logged := 0
	for i := range 10 * maxSources {
		for range 3 {
			if count, due := m.note(fmt.Append(nil, i), now); due && count > 0 {
				logged++
			}
		}
	}
	if logged != maxSources {
		t.Errorf("%d lines, want one of each of %d sources", logged, maxSources)
	}
	if count, due := m.note([]byte("0"), now.Add(misplacedInterval)); !due || count != 3 {
		t.Errorf("a minute later: %d events, %v; want 3", count, due)
	}
}

// TestRescore activates another model.
func TestRescore(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) {
		cfg.RescoreOnActivate, cfg.RescoreRate, cfg.StateDir = true, 1_000_000, ""
	})
	codec := s.cfg.Codec
	var records []kafka.Record
	const n = 30
	for i := range n {
		records = append(records, event(t, codec, fmt.Sprint("c", i), fmt.Sprint("e", i), start+int64(i), map[int]string{plan: "a", months: "3"}, nil))
	}
	w.produce(schemas.TopicEvents, records...)
	stop := w.run(s)
	w.caughtUp(n)
	first := w.records(schemas.TopicScores)
	s.cfg.Models.(*fixedModels).set(specModel(t, codec.Set(), 2))
	// A worker looks for a new model between two fetches.
	w.produce(schemas.TopicEvents, kafka.Record{Key: []byte("nobody")})
	w.until("all customers to be scored again", func() bool { return testutil.ToFloat64(w.metrics.rescored) >= n })
	stop(true)
	all := w.records(schemas.TopicScores)
	again := slices.DeleteFunc(all[n:], func(r kafka.Record) bool { return r.Value == nil })
	if len(again) != n {
		t.Fatalf("%d customers were scored again, want %d", len(again), n)
	}
	old := latest(first)
	for _, r := range again {
		a, b := score(t, codec, old[string(r.Key)]), score(t, codec, r)
		if b.ModelVersion != 2 || b.AsOf != a.AsOf || b.Trigger != schemas.TriggerModel || b.SourceOffset != a.SourceOffset || string(b.EventID) != string(a.EventID) || b.OccurredAt != a.OccurredAt ||
			b.Previous != a.Probability || b.Probability == a.Probability || !slices.EqualFunc(a.Attributes, b.Attributes, sameNumber) {
			t.Errorf("%+v became %+v", a, b)
		}
	}
	// A process that starts with version 2 finds nothing to do.
	s = w.process(func(cfg *Config) { cfg.RescoreOnActivate, cfg.RescoreRate, cfg.StateDir = true, 1_000_000, "" })
	s.cfg.Models.(*fixedModels).set(specModel(t, s.cfg.Codec.Set(), 2))
	stop = w.run(s)
	w.produce(schemas.TopicEvents, kafka.Record{Key: []byte("nobody")})
	w.caughtUp(n + 2)
	stop(true)
	if got := testutil.ToFloat64(w.metrics.rescored); got != n {
		t.Errorf("after a restart %v more customers were scored again", got-n)
	}
}

// While a state is restored, the metrics and the log say how far that is, and
// the scorer is not ready.
func TestRestoreShowsItsProgress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	const n = 5000
	var records []kafka.Record
	for i := range n {
		records = append(records, event(t, s.cfg.Codec, fmt.Sprint("customer", i), fmt.Sprint("e", i), start+int64(i), map[int]string{months: "1"}, nil))
	}
	w.produce(schemas.TopicEvents, records...)
	stop := w.run(s)
	w.caughtUp(n)
	stop(true)

	var log logBuffer
	var ready atomic.Value
	now := time.Now()
	again := w.process(func(cfg *Config) {
		cfg.StateDir, cfg.Logger = "", log.logger()
		cfg.Ready = func(_ string, ok bool, why string) { ready.Store(fmt.Sprint(ok, " ", why)) }
		// Every look at the clock is as long after the one before as two lines
		// of progress are apart.
		var mu sync.Mutex
		cfg.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			now = now.Add(progressInterval)
			return now
		}
		cfg.SnapshotMaxAge, cfg.MarkerInterval, cfg.RenewInterval = 1000*time.Hour, 1000*time.Hour, 1000*time.Hour
	})
	again.joined = true
	// The broker gives out the second half only when the first has been looked at.
	half := make(chan struct{})
	fetches, fenced := 0, false
	w.broker.Cluster().ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		fenced = true // from here on it restores
		return nil, nil, false
	})
	w.broker.Cluster().ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		if req.(*kmsg.FetchRequest).Topics[0].Topic == schemas.TopicScores && fenced {
			if fetches++; fetches == 2 {
				w.broker.Cluster().SleepControl(func() { <-half })
			}
		}
		return nil, nil, false
	})
	before := testutil.ToFloat64(w.metrics.restoreReads)
	stop = w.run(again)
	w.until("half of the restore", func() bool { return testutil.ToFloat64(w.metrics.restoreReads) > before })
	w.until("progress in the log", func() bool { return strings.Contains(log.String(), "restoring the state") })
	left := testutil.ToFloat64(w.metrics.of(0).restoring)
	if left <= 0 || left >= n+2 {
		t.Errorf("%v records are said to remain of %d", left, n)
	}
	if got := fmt.Sprint(ready.Load()); !strings.HasPrefix(got, "false restoring the state of partitions [0]") {
		t.Errorf("readiness %q", got)
	}
	close(half)
	w.until("readiness", func() bool { return strings.HasPrefix(fmt.Sprint(ready.Load()), "true") })
	stop(true)
}
