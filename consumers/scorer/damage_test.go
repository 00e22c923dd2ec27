package scorer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// refused waits until the partition is refused for a reason.
func (w *world) refused(reason string) {
	w.t.Helper()
	w.until("the partition to be refused: "+reason, func() bool {
		return testutil.ToFloat64(w.metrics.refused.WithLabelValues("0", reason)) == 1
	})
}

// Events without an id are not each other's duplicates.
func TestEventsWithoutID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, attributes)
	s := w.process(nil)
	for i := range 3 {
		w.produce(schemas.TopicEvents, event(t, s.cfg.Codec, "anna", "", start+int64(i), map[int]string{months: fmt.Sprint(i)}, nil))
	}
	stop := w.run(s)
	w.caughtUp(3)
	stop(false)
	if n := len(w.records(schemas.TopicScores)); n != 3 {
		t.Errorf("%d scores of 3 events", n)
	}
}

// The topic of events is made anew under a scorer that has read some of it.
func TestEventsMadeAnewWhileScoring(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	s := w.process(nil)
	s.sourcePatience = 0
	c := s.cfg.Codec
	for i := range 5 {
		w.produce(schemas.TopicEvents, event(t, c, "anna", fmt.Sprint("e", i), start+int64(i), map[int]string{months: fmt.Sprint(i)}, nil))
	}
	w.run(s)
	w.caughtUp(5)
	if err := w.broker.Cluster().DeleteTopic(schemas.TopicEvents); err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.EnsureTopics(t.Context(), kafka.TopicConfig{Name: schemas.TopicEvents, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	w.produce(schemas.TopicEvents, event(t, c, "anna", "new", start+100, map[int]string{months: "9"}, nil))
	w.refused(reasonEventsReplaced)
	if n := len(w.records(schemas.TopicScores)); n != 5 {
		t.Errorf("%d scores", n)
	}
}

// A leader that knows less becomes one that knows all again.
func TestEventsShorterForAMoment(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	s := w.process(nil)
	c := s.cfg.Codec
	send := func(from, to int) {
		for i := from; i < to; i++ {
			w.produce(schemas.TopicEvents, event(t, c, "anna", fmt.Sprint("e", i), start+int64(i), map[int]string{months: fmt.Sprint(i)}, nil))
		}
	}
	send(0, 5)
	w.run(s)
	w.caughtUp(5)
	// One answer says that offset 5 does not exist, and two that the log ends at 3.
	w.broker.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: schemas.TopicEvents, Err: kerr.OffsetOutOfRange, Count: 1})
	answered := 0
	w.broker.Cluster().ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		asked := req.(*kmsg.ListOffsetsRequest)
		if asked.Topics[0].Topic != schemas.TopicEvents || asked.Topics[0].Partitions[0].Timestamp != -1 || answered == 2 {
			return nil, nil, false
		}
		answered++
		res := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		p := kmsg.NewListOffsetsResponseTopicPartition()
		p.Offset = 3
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic, rt.Partitions = schemas.TopicEvents, append(rt.Partitions, p)
		res.Topics = append(res.Topics, rt)
		return res, nil, true
	})
	send(5, 8)
	w.caughtUp(8)
	records := w.records(schemas.TopicScores)
	for i, r := range records {
		if got := score(t, c, r); string(got.EventID) != fmt.Sprint("e", i) {
			t.Errorf("score %d is of event %s", i, got.EventID)
		}
	}
	if len(records) != 8 {
		t.Errorf("%d scores of 8 events", len(records))
	}
}

// The broker loses scores that it has acknowledged, and knows of their producer
// only what is left. What they were of is scored again.
func TestLostScoresAreMadeAgain(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	var log logBuffer
	s := w.process(func(cfg *Config) { cfg.StateDir, cfg.Logger = "", log.logger() })
	// The test makes the topic anew for want of another way to shorten it.
	s.topicIDs = func(context.Context) (topicIDs, error) { return topicIDs{}, nil }
	c := s.cfg.Codec
	w.produce(schemas.TopicEvents, event(t, c, "anna", "e0", start, map[int]string{months: "0"}, nil))
	add := func(i int) {
		w.produce(schemas.TopicEvents, event(t, c, "anna", fmt.Sprint("e", i), start+int64(i), nil, map[int]float64{months: 1}))
	}
	for i := 1; i < 5; i++ {
		add(i)
	}
	w.run(s)
	w.caughtUp(5)
	all := w.records(schemas.TopicScores)
	w.recreateScores()
	w.produce(schemas.TopicScores, all[:3]...)
	w.broker.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: schemas.TopicScores, Err: kerr.OutOfOrderSequenceNumber, Count: 1})
	add(5)
	w.until("six scores", func() bool { return len(w.records(schemas.TopicScores)) >= 6 })
	for i, r := range w.records(schemas.TopicScores) {
		if got := score(t, c, r); string(got.EventID) != fmt.Sprint("e", i) || got.Attributes[months] != float64(i) {
			t.Errorf("score %d is of event %s, months %v", i, got.EventID, got.Attributes[months])
		}
	}
	if !strings.Contains(log.String(), "has lost records") {
		t.Errorf("the log does not say so: %s", log.String())
	}
}

// writeSnapshot writes a snapshot of a table by hand.
func (w *world) writeSnapshot(s *Scorer, h customers.SnapshotHeader, table *customers.Table) {
	w.t.Helper()
	set := s.cfg.Codec.Set()
	h.Fingerprint, h.Topic, h.Written = set.Spec().Fingerprint(), schemas.TopicScores, time.Now()
	e := customers.NewSnapshotEncoder()
	data := e.Start(nil, &h)
	var at customers.Cursor
	for done := false; !done; {
		data, done = e.Customers(data, table, &at)
	}
	path := snapshotPath(w.stateDir, DefaultGroup, 0)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, e.End(data), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// A snapshot is written while scoring goes on, so it may know a customer better
// than the offset that it goes back to. Nobody else has written anything then.
func TestSnapshotAheadOfItsOffset(t *testing.T) {
	t.Parallel()
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	c := s.cfg.Codec
	for i := range 5 {
		w.produce(schemas.TopicEvents, event(t, c, "anna", fmt.Sprint("e", i), start+int64(i), map[int]string{months: fmt.Sprint(i)}, nil))
	}
	stop := w.run(s)
	w.caughtUp(5)
	stop(true)
	records := w.records(schemas.TopicScores)
	table := customers.NewTable(c.Set().Vocabulary())
	table.Put(score(t, c, records[4]))
	w.writeSnapshot(s, customers.SnapshotHeader{
		Reflected: records[0].Offset + 1, Watermark: 0,
		Landmarks: []customers.Landmark{{Offset: records[0].Offset, Hash: recordHash(&records[0])}},
	}, table)
	_, from := w.stateOf(w.process(nil), 5)
	if n := testutil.ToFloat64(w.metrics.foreign); from != fromSnapshot || n != 0 {
		t.Errorf("restored from %s, %v foreign records counted", from, n)
	}
	if n := len(w.records(schemas.TopicScores)); n != 5 {
		t.Errorf("%d scores", n)
	}
}

// A process that has met as many levels as a partition may have restores those
// of another partition.
func TestRestoreWithLevelsOfOtherPartitions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	c := s.cfg.Codec
	w.produce(schemas.TopicEvents, event(t, c, "anna", "e0", start, map[int]string{plan: "monthly", months: "1"}, nil))
	w.produce(schemas.TopicEvents, event(t, c, "anna", "e1", start+1, map[int]string{plan: "rare", months: "2"}, nil))
	stop := w.run(s)
	w.caughtUp(2)
	stop(true)

	full := w.process(func(cfg *Config) { cfg.StateDir = "" })
	v := full.cfg.Codec.Set().Vocabulary()
	for i := range 2 * scoring.MaxLevels {
		if _, err := v.CodeString(plan, fmt.Sprint("level ", i)); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := w.stateOf(full, 2)
	if len(got) != 1 || !strings.Contains(got["anna"], "rare") {
		t.Errorf("the state is %v", got)
	}
}

// One fetch may bring very many events, if they were compressed well: they are
// written as they are scored.
func TestLargeBatchesAreWrittenInParts(t *testing.T) {
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	const n = 60_000
	var records []kafka.Record
	for i := range n {
		records = append(records, event(t, s.cfg.Codec, fmt.Sprint("customer", i%100), fmt.Sprint("e", i), start+int64(i), map[int]string{months: "1"}, nil))
	}
	zstd := w.cluster.NewProducer(kafka.ProducerConfig{Compression: kafka.Zstd, MaxBatchBytes: 64 << 20})
	if err := zstd.Produce(t.Context(), schemas.TopicEvents, records...); err != nil {
		t.Fatal(err)
	}
	p := newWorker(s, claim{committed: -1, commit: func(int64, string) error { return nil }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.run(ctx) }()
	w.until("scores of all", func() bool {
		_, end, err := w.cluster.Offsets(t.Context(), schemas.TopicScores, 0)
		return err == nil && end >= n+1 // and the marker
	})
	cancel()
	<-done
	if limit := 3 * flushBytes; cap(p.outbox.arena) > limit {
		t.Errorf("%d bytes are held for scores that are to be written, want %d at most", cap(p.outbox.arena), limit)
	}
}
