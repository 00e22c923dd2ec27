package scorer

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/ownership"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
)

var (
	historySeeds = flag.Int("histories", 12, "how many random histories to play")
	historyFrom  = flag.Int("history", 0, "the seed of the first random history")
)

// everyType is a specification with every type a feature can have: floats,
// ints and longs hold fewer digits than a state in memory would.
const everyType = `{"type":"record","name":"CustomerAttributes","fields":[
	{"name":"text","type":["null","string"],"default":null},
	{"name":"symbol","type":["null",{"type":"enum","name":"Symbol","symbols":["b","a","c"]}],"default":null},
	{"name":"double","type":["null","double"],"default":null},
	{"name":"float","type":["null","float"],"default":null},
	{"name":"int","type":["null","int"],"default":null},
	{"name":"long","type":["null","long"],"default":null}
]}`

// world is a broker with one partition of events, and what outlives a process.
type world struct {
	t        testing.TB
	broker   *embedded.Broker
	registry *registrytest.Registry
	cluster  *kafka.Cluster
	schema   string
	stateDir string
	// committed is the group's committed offset.
	committed atomic.Int64
	note      atomic.Value // that was committed with it
	metrics   *metrics     // of all processes
	log       *slog.Logger
}

func newWorld(t testing.TB, schema string) *world { return newWorldOf(t, schema, 1) }

func newWorldOf(t testing.TB, schema string, partitions int) *world {
	t.Helper()
	broker, err := embedded.StartBroker(embedded.BrokerConfig{CompactionInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	w := &world{t: t, broker: broker, registry: registrytest.New(), schema: schema, stateDir: t.TempDir(), log: quiet()}
	if os.Getenv("CHURN_TEST_LOG") != "" {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	w.committed.Store(-1)
	w.cluster, err = kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cluster.Close)
	err = w.cluster.EnsureTopics(t.Context(),
		kafka.TopicConfig{Name: schemas.TopicEvents, Partitions: partitions},
		kafka.TopicConfig{Name: schemas.TopicScores, Partitions: partitions, Configs: map[string]string{"cleanup.policy": "compact"}},
		kafka.TopicConfig{Name: schemas.TopicDeadLetters, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// process is a scorer with a vocabulary of its own, as another process has.
func (w *world) process(change func(*Config)) *Scorer {
	w.t.Helper()
	set, err := schemas.Parse([]byte(w.schema))
	if err != nil {
		w.t.Fatal(err)
	}
	codec := schemas.NewCodec(set, w.registry)
	if err := codec.Register(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	// Levels get other numbers in every process.
	for i := range rand.IntN(5) {
		if _, err := set.Vocabulary().CodeString(0, fmt.Sprint("only here ", i)); err != nil {
			w.t.Fatal(err)
		}
	}
	m := newFixedModels()
	m.set(specModel(w.t, set, 1))
	cfg := Config{
		Dependencies: role.Dependencies{Cluster: w.cluster, Codec: codec, Models: m, Logger: w.log},
		StateDir:     w.stateDir, SnapshotInterval: time.Hour, CommitInterval: time.Nanosecond,
		SessionTimeout: 20 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	s.partitions.Store(1)
	s.refusalPause = time.Millisecond
	if w.metrics == nil {
		w.metrics = s.metrics
	}
	s.metrics = w.metrics
	return s
}

// run starts a worker; stop ends it as a rebalance does, or as the end of the
// process does, and waits.
func (w *world) run(s *Scorer) (stop func(process bool)) {
	return w.work(s, claim{committed: w.committed.Load(), commit: w.commit})
}

// commit is what a group would do.
func (w *world) commit(offset int64, scores string) error {
	w.note.Store(noteOf(scores))
	for old := w.committed.Load(); offset > old && !w.committed.CompareAndSwap(old, offset); old = w.committed.Load() {
	}
	return nil
}

// work is run with a claim.
func (w *world) work(s *Scorer, claim claim) (stop func(process bool)) {
	running, end := context.WithCancel(context.Background())
	ctx, cancel := context.WithCancel(running)
	done := make(chan error, 1)
	go func() { done <- s.work(running, ctx, claim) }()
	stopped := false
	stop = func(process bool) {
		if stopped {
			return
		}
		stopped = true
		if process {
			end()
		}
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("worker: %v", err)
		}
		end()
	}
	w.t.Cleanup(func() { stop(false) })
	return stop
}

// caughtUp waits until all events before an offset are processed.
func (w *world) caughtUp(n int64) {
	w.t.Helper()
	w.until(fmt.Sprint(n, " events to be processed"), func() bool { return w.committed.Load() >= n })
}

func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	await.Until(w.t, what, done, func() string { return fmt.Sprint(w.committed.Load(), " events are processed") })
}

// records returns all records of a topic's first partition but markers.
func (w *world) records(topic string) []kafka.Record { w.t.Helper(); return w.recordsOf(topic, 0) }

func (w *world) recordsOf(topic string, partition int) []kafka.Record {
	w.t.Helper()
	return slices.DeleteFunc(w.all(topic, partition), func(r kafka.Record) bool { return schemas.IsReservedKey(r.Key) })
}

// marker returns the last marker of progress.
func (w *world) marker() (last kafka.Record) {
	w.t.Helper()
	for _, r := range w.all(schemas.TopicScores, 0) {
		if string(r.Key) == schemas.ProgressKey {
			last = r
		}
	}
	return last
}

// progress returns what it says.
func (w *world) progress() *schemas.Progress {
	w.t.Helper()
	p, marker := &schemas.Progress{}, w.marker()
	if err := w.process(nil).cfg.Codec.DecodeProgress(w.t.Context(), marker.Header(schemas.HeaderProgress), p); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) all(topic string, partition int) []kafka.Record {
	w.t.Helper()
	ctx := w.t.Context()
	first, end, err := w.cluster.Offsets(ctx, topic, partition)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []kafka.Record
	f := w.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: partition, Offset: first})
	for f.Offset() < end {
		records, err := f.Fetch(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range records {
			out = append(out, copied(r))
		}
	}
	return out
}

func copied(r kafka.Record) kafka.Record {
	r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	headers := r.Headers
	r.Headers = nil
	for _, h := range headers {
		r.Headers = append(r.Headers, kafka.Header{Key: h.Key, Value: bytes.Clone(h.Value)})
	}
	return r
}

func (w *world) produce(topic string, records ...kafka.Record) {
	w.t.Helper()
	if err := w.cluster.NewProducer(kafka.ProducerConfig{}).ProduceTo(w.t.Context(), topic, 0, records); err != nil {
		w.t.Fatal(err)
	}
}

// own writes records to the output partition as its owner would.
func (w *world) own(records ...kafka.Record) {
	w.t.Helper()
	owner, err := w.cluster.Fence(w.t.Context(), kafka.FenceConfig{TransactionalID: ownership.TransactionalID(schemas.TopicScores, 0), Topic: schemas.TopicScores})
	if err == nil {
		_, err = owner.Append(w.t.Context(), records)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// history makes records as upstream teams do on a bad day: late events,
// duplicates, erasures, poison.
func history(rng *rand.Rand, codec *schemas.Codec, n int) []kafka.Record {
	spec := codec.Set().Spec()
	var out []kafka.Record
	customers := 1 + rng.IntN(10)
	for i := range n {
		id := fmt.Sprint("customer", rng.IntN(customers))
		switch rng.IntN(20) {
		case 0:
			out = append(out, kafka.Record{Key: []byte(id)})
			continue
		case 1:
			out = append(out, kafka.Record{Key: []byte(id), Value: []byte{0, 1, 2}})
			continue
		case 2, 3:
			if len(out) > 0 {
				out = append(out, out[max(0, len(out)-1-rng.IntN(8))])
				continue
			}
		}
		e := codec.NewEvent()
		e.CustomerID, e.Source = []byte(id), []byte("test")
		e.EventID = fmt.Appendf(nil, "%08x-0000-4000-8000-%012x", rng.Uint32(), i)
		e.OccurredAt = start + int64(i)*1000
		if rng.IntN(4) == 0 {
			e.OccurredAt -= rng.Int64N(20_000)
		}
		all := rng.IntN(5) == 0
		for f := range spec.Len() {
			if spec.Feature(f).Kind == scoring.Categorical {
				if all || rng.IntN(4) == 0 {
					level := string(rune('a' + rng.IntN(3)))
					if f == 0 && rng.IntN(4) == 0 {
						level = fmt.Sprint("other", rng.IntN(40))
					}
					e.Changes[f], _ = codec.Set().Vocabulary().CodeString(f, level)
				}
				continue
			}
			if all || rng.IntN(6) == 0 {
				e.Changes[f] = rng.Float64() * 100
			}
			if rng.IntN(3) == 0 {
				e.Increments[f] = rng.NormFloat64() * 10
			}
		}
		out = append(out, kafka.Record{Key: e.CustomerID, Value: codec.AppendEvent(nil, e)})
	}
	return out
}

// undisturbed is what one worker that never stops makes of a history.
func (w *world) undisturbed(events []kafka.Record) *worker {
	w.t.Helper()
	p := w.process(nil).offline()
	for i := range events {
		r := events[i]
		r.Offset = int64(i)
		if err := p.process(w.t.Context(), &r); err != nil {
			w.t.Fatal(err)
		}
	}
	return p
}

// withoutTime returns a score as it was written, but for when.
func withoutTime(t testing.TB, codec *schemas.Codec, value []byte) []byte {
	if value == nil {
		return nil
	}
	s := codec.NewScore()
	if err := codec.DecodeScore(t.Context(), value, s); err != nil {
		t.Fatal(err)
	}
	s.ScoredAt = 0
	return codec.AppendScore(nil, s)
}

func sameRecord(t testing.TB, codec *schemas.Codec, got, want *kafka.Record) bool {
	if !bytes.Equal(got.Key, want.Key) || (got.Value == nil) != (want.Value == nil) || len(got.Headers) != len(want.Headers) {
		return false
	}
	for i, h := range got.Headers {
		if h.Key != want.Headers[i].Key || !bytes.Equal(h.Value, want.Headers[i].Value) {
			return false
		}
	}
	return bytes.Equal(withoutTime(t, codec, got.Value), withoutTime(t, codec, want.Value))
}

// TestHistories plays random histories to workers that join, leave, crash,
// are paused and taken over, over a network that loses answers. What they
// write, and the state they end with, must be that of one worker that was
// never disturbed: every byte but the time.
func TestHistories(t *testing.T) {
	n := *historySeeds
	if testing.Short() {
		n = min(n, 4)
	}
	from := map[string]*atomic.Int64{fromTopic: {}, fromSnapshot: {}, fromMemory: {}}
	t.Run("seeds", func(t *testing.T) {
		for i := range n {
			seed := uint64(*historyFrom + i)
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				playHistory(t, seed, from)
			})
		}
	})
	t.Logf("restored from the topic %d times, from snapshots %d, from memory %d",
		from[fromTopic].Load(), from[fromSnapshot].Load(), from[fromMemory].Load())
	for name, count := range from {
		if count.Load() == 0 {
			t.Errorf("no state was ever restored from %s", name)
		}
	}
}

func playHistory(t *testing.T, seed uint64, from map[string]*atomic.Int64) {
	rng := rand.New(rand.NewPCG(seed, 11))
	w := newWorld(t, everyType)
	upstream := w.process(nil).cfg.Codec
	events := history(rng, upstream, 100+rng.IntN(200))
	want := w.undisturbed(events)
	compacting := rng.IntN(3) == 0

	// A network that loses answers, before and after the work is done. Its
	// draws are made on the broker's goroutine.
	faults := rand.New(rand.NewPCG(seed, 12))
	now := func(kmsg.Request) bool { return faults.IntN(8) == 0 }
	w.broker.Cluster().Fault(
		kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: schemas.TopicScores, Err: kerr.RequestTimedOut, Count: -1, When: now},
		kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: schemas.TopicScores, Err: kerr.NotEnoughReplicas, Count: -1, When: now})

	doubted := w.watch(upstream)
	processes := make([]*Scorer, 2)
	for i := range processes {
		processes[i] = w.process(historyConfig(rng))
	}
	type worker struct {
		process int
		crash   bool
		stop    func(bool)
	}
	var workers []*worker
	begin := func() {
		k := &worker{process: rng.IntN(len(processes)), crash: rng.IntN(3) == 0}
		for _, other := range workers {
			if other.process == k.process {
				return
			}
		}
		processes[k.process].grace = stopGrace
		if k.crash {
			processes[k.process].grace = 0
		}
		k.stop = w.run(processes[k.process])
		workers = append(workers, k)
	}
	end := func() {
		if len(workers) == 0 {
			return
		}
		k := workers[0]
		workers = workers[1:]
		processes[k.process].killed.Store(k.crash)
		k.stop(k.crash || rng.IntN(4) == 0)
		if k.crash {
			processes[k.process] = w.process(historyConfig(rng))
		}
	}
	for sent := 0; sent < len(events); {
		n := min(len(events)-sent, 1+rng.IntN(20))
		w.produce(schemas.TopicEvents, events[sent:sent+n]...)
		sent += n
		for range rng.IntN(4) {
			switch rng.IntN(6) {
			case 0, 1:
				begin()
			case 2:
				end()
			case 3, 4:
				// A rebalance after which the partition stays where it was.
				if len(workers) > 0 {
					k := workers[0]
					k.stop(false)
					k.stop = w.run(processes[k.process])
				}
			case 5:
				if compacting {
					w.broker.Cluster().Compact()
				}
			}
		}
		if len(workers) > 0 && rng.IntN(2) == 0 {
			w.caughtUp(rng.Int64N(int64(sent) + 1))
		}
	}
	for len(workers) > 0 {
		end()
	}
	// However the state is restored in the end, it is the same.
	finally := func(s *Scorer, process bool) {
		t.Helper()
		before := w.restores()
		stop := w.run(s)
		w.until("a worker to restore its state", func() bool { return w.restores() > before })
		w.caughtUp(int64(len(events)))
		stop(process)
		if process {
			return
		}
		kept := s.lost.take(0)
		if kept == nil {
			t.Fatal("the state was not kept")
		}
		sameContent(t, content(t, s.cfg.Codec.Set(), kept.customers), content(t, want.cfg.Codec.Set(), want.state.customers))
		s.lost.keep(0, kept)
	}
	finally(w.process(nil), true)
	last := w.process(nil)
	finally(last, false) // from the snapshot that the one before has left
	finally(last, false) // from memory
	finally(w.process(func(cfg *Config) { cfg.StateDir = "" }), false)

	if n := doubted.Load(); n > 0 {
		t.Errorf("other roles took %d records of scorers for somebody else's", n)
	}
	w.believed(upstream, rng.Int64N(int64(len(events))))
	got := w.records(schemas.TopicScores)
	if compacting {
		// Of what is left, every record is as it should be and in its place,
		// and each customer's last one is there.
		next := 0
		lastOf := map[string]int{}
		for i := range want.outbox.scores {
			lastOf[string(want.outbox.scores[i].Key)] = i
		}
		for i := range got {
			for next < len(want.outbox.scores) && !sameRecord(t, upstream, &got[i], &want.outbox.scores[next]) {
				if lastOf[string(want.outbox.scores[next].Key)] == next {
					t.Fatalf("the last record of %s is missing", want.outbox.scores[next].Key)
				}
				next++
			}
			if next == len(want.outbox.scores) {
				t.Fatalf("record %d is not one of an undisturbed run, or not in its place: %s", i, got[i].Key)
			}
			next++
		}
	} else {
		if len(got) != len(want.outbox.scores) {
			t.Errorf("%d scores, want %d", len(got), len(want.outbox.scores))
		}
		for i := range min(len(got), len(want.outbox.scores)) {
			if !sameRecord(t, upstream, &got[i], &want.outbox.scores[i]) {
				t.Fatalf("score %d is of %s %v, want %s %v", i, got[i].Key, got[i].Headers, want.outbox.scores[i].Key, want.outbox.scores[i].Headers)
			}
		}
	}
	p, q := w.progress(), want.state.progress
	if compacting {
		// After a crash, an event whose score is compacted already looks as if it
		// had none.
		p.Scored, p.Duplicates = p.Scored+p.Duplicates, 0
		q.Scored, q.Duplicates = q.Scored+q.Duplicates, 0
	}
	if p.Sums != q.Sums || p.Since != 0 || p.Next != int64(len(events)) || p.Unaccounted() != 0 {
		t.Errorf("the last marker says %+v, want the sums %+v", p, q.Sums)
	}
	a, err := RunAudit(t.Context(), AuditConfig{Cluster: w.cluster, Codec: upstream, From: -1, To: -1})
	if err != nil {
		t.Fatal(err)
	}
	if !a.OK() || a.To != int64(len(events)) || !compacting && (a.Found != q.Sums || a.Markers < 2) {
		t.Errorf("the audit found %+v, want the sums %+v", a, q.Sums)
	}
	letters := map[int64]schemas.Reason{}
	for _, r := range w.records(schemas.TopicDeadLetters) {
		var d schemas.DeadLetter
		if err := upstream.DecodeDeadLetter(t.Context(), r.Value, &d); err != nil {
			t.Fatal(err)
		}
		letters[d.Offset] = d.Reason
	}
	if len(letters) != len(want.outbox.letters) {
		t.Errorf("dead letters of %d records, want %d", len(letters), len(want.outbox.letters))
	}
	for source, count := range from {
		count.Add(int64(w.restores(source)))
	}
}

// scores is how other roles read the scores, with what they do not believe.
func (w *world) scores(codec *schemas.Codec, doubt func(r *kafka.Record, why *schemas.PoisonError)) *intake.Reader[schemas.ChurnScore] {
	in := intake.New(intake.Config{})
	topic := intake.Scores(codec, intake.NewOwners(in, w.cluster, codec))
	topic.Poison = func(_ context.Context, r *kafka.Record, why *schemas.PoisonError) error {
		doubt(r, why)
		return nil
	}
	return intake.NewReader(in, topic)
}

// watch reads the scores as they come, as other roles do, and counts those that
// they do not believe.
func (w *world) watch(codec *schemas.Codec) *atomic.Int64 {
	doubted := new(atomic.Int64)
	reader := w.scores(codec, func(*kafka.Record, *schemas.PoisonError) { doubted.Add(1) })
	ctx, stop := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.cluster.Tail(ctx, kafka.TailConfig{Topics: []string{schemas.TopicScores}}, func(ctx context.Context, records []kafka.Record) error {
			for i := range records {
				if _, err := reader.Read(ctx, &records[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	w.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return doubted
}

// believed reads the scores as other roles do that start now, at the first and at
// another offset.
func (w *world) believed(codec *schemas.Codec, other int64) {
	w.t.Helper()
	records := w.all(schemas.TopicScores, 0)
	for _, from := range []int64{0, other} {
		reader := w.scores(codec, func(r *kafka.Record, why *schemas.PoisonError) {
			w.t.Errorf("read from offset %d: the record of %q at %d is not believed: %v", from, r.Key, r.Offset, why)
		})
		for i := range records {
			if records[i].Offset < from {
				continue
			}
			if _, err := reader.Read(w.t.Context(), &records[i]); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// historyConfig draws how a process keeps its state.
func historyConfig(rng *rand.Rand) func(*Config) {
	keep := []int{-1, 3, 0, 0}[rng.IntN(4)]
	interval := []time.Duration{time.Nanosecond, time.Hour}[rng.IntN(2)]
	return func(cfg *Config) { cfg.KeepLost, cfg.SnapshotInterval = keep, interval }
}

// restores returns how many states were restored, from the sources given or
// from any.
func (w *world) restores(sources ...string) int {
	w.t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(w.metrics.restored)
	families, err := reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			if len(sources) == 0 || slices.Contains(sources, metric.GetLabel()[0].GetValue()) {
				n += int(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	return n
}

// logBuffer collects a log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
