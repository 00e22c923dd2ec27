package scorer

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// TestSlowOutput has a broker that takes its time with scores while events
// pile up: what the scorer holds is one batch, however many wait.
func TestSlowOutput(t *testing.T) {
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	codec := s.cfg.Codec
	var records []kafka.Record
	waiting := 0
	for i := range 30_000 {
		r := event(t, codec, fmt.Sprint("customer", i%100), fmt.Sprint(strings.Repeat("long", 50), i), start+int64(i), map[int]string{plan: "a", months: "1"}, nil)
		waiting += len(r.Value)
		records = append(records, r)
	}
	slow := func(kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().SleepControl(func() { <-time.After(20 * time.Millisecond) })
		return nil, nil, false
	}
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	// The broker is in this process too and holds what is written, so what it
	// holds is taken off.
	written := func(topic string) (n int) {
		for _, p := range w.broker.Cluster().PartitionInfos(topic) {
			n += int(p.NumBytes)
		}
		return n
	}
	w.produce(schemas.TopicEvents, records[:len(records)/3]...)
	w.broker.Cluster().ControlKey(int16(kmsg.Produce), slow)
	before := heap() - written(schemas.TopicEvents)
	stop := w.run(s)
	// Events keep coming, faster than their scores are taken.
	ctx, cancel := context.WithCancel(t.Context())
	produced := make(chan error, 1)
	go func() {
		producer := w.cluster.NewProducer(kafka.ProducerConfig{})
		for rest := records[len(records)/3:]; len(rest) > 0; rest = rest[min(2000, len(rest)):] {
			if err := producer.ProduceTo(ctx, schemas.TopicEvents, 0, rest[:min(2000, len(rest))]); err != nil {
				produced <- err
				return
			}
		}
		produced <- nil
	}()
	var most [2]int // in the first and the second half
	lag := int64(0)
	for w.committed.Load() < int64(len(records)) {
		half := min(1, w.committed.Load()/int64(len(records)/2))
		most[half] = max(most[half], heap()-written(schemas.TopicEvents)-written(schemas.TopicScores)-before)
		lag = max(lag, w.broker.Cluster().PartitionInfo(schemas.TopicEvents, 0).HighWatermark-w.committed.Load())
		<-time.After(5 * time.Millisecond)
	}
	if err := <-produced; err != nil {
		t.Error(err)
	}
	cancel()
	stop(false)
	t.Logf("%d events (%d kB), of which %d waited at most; beside the topics the heap held %d kB more at most in the first half, %d kB in the second",
		len(records), waiting>>10, lag, most[0]>>10, most[1]>>10)
	// Buffers of the client, the broker and this test are in it as well; what
	// counts is that it does not grow.
	if most[1] > most[0]+8<<20 || most[0] > 64<<20 {
		t.Error("the heap grew while the output was slow")
	}
	if n := len(w.records(schemas.TopicScores)); n != len(records) {
		t.Errorf("%d scores, want %d", n, len(records))
	}
}

// scoreHistory writes scores as many events of a few customers leave.
func scoreHistory(w *world, customers, records int) {
	codec := w.process(nil).cfg.Codec
	s := codec.NewScore()
	s.EventID = []byte("6f1c4a52-9d0e-4b7a-8f00-00c0ffee0001")
	s.ModelVersion, s.Probability, s.Attributes = 1, 0.5, scoring.NewVector(codec.Set().Spec().Len())
	s.Attributes[0], _ = codec.Set().Vocabulary().CodeString(0, "a")
	var batch, events []kafka.Record
	for i := range records {
		s.CustomerID = customerName(i % customers)
		s.OccurredAt, s.SourceOffset = start+int64(i), int64(i)
		batch = append(batch, kafka.Record{Key: s.CustomerID, Value: codec.AppendScore(nil, s)})
		events = append(events, kafka.Record{Key: s.CustomerID}) // of which only the offset matters
		if len(batch) == 5000 || i == records-1 {
			w.produce(schemas.TopicScores, batch...)
			w.produce(schemas.TopicEvents, events...)
			batch, events = batch[:0], events[:0]
		}
	}
}

// restoreTime returns how long a new process takes to restore its state.
func restoreTime(w *world, config func(*Config)) (took time.Duration, read int) {
	w.t.Helper()
	before, reads := w.restores(), testutil.ToFloat64(w.metrics.restoreReads)
	s := w.process(config)
	began := time.Now()
	stop := w.run(s)
	w.until("a state to be restored", func() bool { return w.restores() > before })
	took = time.Since(began)
	stop(true)
	return took, int(testutil.ToFloat64(w.metrics.restoreReads) - reads)
}

// TestRestartTime restarts after a history and after ten times as much: with
// a snapshot the same few records are read.
func TestRestartTime(t *testing.T) {
	const customers, records = 500, 3000
	var reads [2]int
	for i, n := range []int{records, 10 * records} {
		w := newWorld(t, attributes)
		scoreHistory(w, customers, n)
		full, all := restoreTime(w, nil) // leaves a snapshot
		fromSnapshot, few := restoreTime(w, nil)
		t.Logf("%6d records of history: from the topic %6.1f ms (%d records read), from a snapshot %5.1f ms (%d)",
			n, full.Seconds()*1000, all, fromSnapshot.Seconds()*1000, few)
		if all < n {
			t.Errorf("only %d of %d records were read from the topic", all, n)
		}
		reads[i] = few
	}
	if reads[0] != reads[1] || reads[0] > 10 {
		t.Errorf("%d and %d records were read after a snapshot", reads[0], reads[1])
	}
}

// BenchmarkRestart is TestRestartTime on a larger scale.
func BenchmarkRestart(b *testing.B) {
	for _, records := range []int{50_000, 500_000} {
		w := newWorld(b, attributes)
		scoreHistory(w, 20_000, records)
		restoreTime(w, nil)
		for name, dir := range map[string]string{fromTopic: "", fromSnapshot: w.stateDir} {
			b.Run(fmt.Sprintf("records=%d/from=%s", records, name), func(b *testing.B) {
				took := time.Duration(0)
				n := 0
				for b.Loop() {
					d, _ := restoreTime(w, func(cfg *Config) { cfg.StateDir = dir })
					took += d
					n++
				}
				b.ReportMetric(took.Seconds()*1000/float64(n), "ms/restore")
			})
		}
	}
}

// Records that were compressed a thousandfold take memory one after another, in
// whatever partition they are, and their dead letters have the beginning only.
func TestRecordsThatWereCompressedWell(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a gigabyte of memory")
	}
	const n, size = 24, 60_000_000
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, 0))
	producer := s.cluster.NewProducer(kafka.ProducerConfig{Compression: kafka.Zstd})
	value := make([]byte, size)
	for i := range n {
		r := kafka.Record{Key: fmt.Append(nil, "customer ", i), Value: value}
		if err := producer.ProduceTo(t.Context(), schemas.TopicEvents, i%partitions, []kafka.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	s.sendEvent(s.event("anna", "e1", start, map[int]string{plan: "monthly", months: "10"}, nil))

	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, most := m.HeapAlloc, m.HeapAlloc
	s.start()
	until(t, "the dead letters", func() bool {
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
		letters := int64(0)
		for p := range partitions {
			_, end, err := s.cluster.Offsets(t.Context(), schemas.TopicDeadLetters, p)
			if err != nil {
				t.Fatal(err)
			}
			letters += end
		}
		return letters >= n
	})
	t.Logf("the heap held %d MiB more", (most-before)>>20)
	if most-before > 512<<20 {
		t.Errorf("the heap held %d MiB more", (most-before)>>20)
	}
	s.scores(1)
	for _, r := range s.read(schemas.TopicDeadLetters, n) {
		var letter schemas.DeadLetter
		if err := s.codec.DecodeDeadLetter(t.Context(), r.Value, &letter); err != nil {
			t.Fatal(err)
		}
		if len(letter.Value) != 64<<10 || letter.OriginalBytes < size || letter.ValueSHA256 == "" || !strings.HasPrefix(string(letter.Key), "customer ") {
			t.Errorf("a letter of key %q and %d bytes, of %d, hash %q", letter.Key, len(letter.Value), letter.OriginalBytes, letter.ValueSHA256)
		}
	}
}
