package labeler

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/ownership"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// notReady waits until a labeler says why it is not ready.
func (r *running) notReady(why string) {
	r.w.t.Helper()
	get := func() string { r.mu.Lock(); defer r.mu.Unlock(); return r.why }
	await.Until(r.w.t, "it says "+why, func() bool { return strings.Contains(get(), why) }, get)
}

// value returns the sum of a metric's series.
func (r *running) value(metric string) (sum float64) {
	families, err := r.reg.Gather()
	if err != nil {
		r.w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == metric {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func (r *running) isReady() {
	r.w.t.Helper()
	get := func() string { r.mu.Lock(); defer r.mu.Unlock(); return r.why }
	await.Until(r.w.t, "it is ready", func() bool { return get() == "" }, get)
}

// An outcome that comes before its score waits, through restarts too, but not for ever.
func TestWaiting(t *testing.T) {
	t.Parallel()
	for _, kept := range []bool{true, false} {
		t.Run(fmt.Sprint("directory kept ", kept), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2, 1)
			w.clock.Store(start + 100*day)
			cfg := config()
			cfg.StateDir = t.TempDir()
			r := w.start(cfg)
			observed := start + 100*day
			w.outcome(label{customer: "ann", observed: observed}, label{customer: "bea", observed: observed, churned: true}, label{customer: "cid", observed: observed, own: []float64{-1, 1}})
			await.Until(t, "two wait", func() bool {
				p := w.read().progress[0]
				n := 0
				for _, at := range p.Positions {
					n += len(at.Waiting)
				}
				return n == 2
			})
			r.kill()
			if !kept {
				cfg.StateDir = t.TempDir()
			}
			r = w.start(cfg)
			w.score(score{customer: "ann", asOf: start + 60*day, written: observed + 30*second, bill: 7})
			s := w.await(2)
			if got := s.examples["ann"]; len(got) != 1 || got[0].Attributes[1] != 7 {
				t.Errorf("examples of ann: %+v", got)
			}
			w.score(score{customer: "bea", asOf: start + 60*day, written: observed + 70*second})
			w.clock.Store(observed + 3*minute)
			s = w.await(3)
			if len(s.examples["bea"]) != 0 || s.sums[kind{resultExample, false}] != 2 || s.settled() != 3 {
				t.Errorf("sums %v\n%s", s.sums, dump(w, s.examples))
			}
			if p := w.read().progress[0]; len(p.Positions) == 0 || len(p.Positions[0].Waiting) != 0 {
				t.Errorf("positions %v", p.Positions)
			}
			if n := testutil.ToFloat64(r.metrics.waiting.WithLabelValues("0")); n != 0 {
				t.Errorf("%v outcomes wait", n)
			}
		})
	}
}

// Of more outcomes that wait than may, the oldest are given up.
func TestTooManyWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	w.clock.Store(start + 100*day)
	cfg := config()
	cfg.MaxWaiting = 2
	w.start(cfg)
	for i := range 5 {
		w.outcome(label{customer: fmt.Sprint("c", i), observed: start + 100*day, churned: i == 0})
	}
	s := w.await(3)
	if s.sums[kind{reasonTooMany, true}] != 1 || s.sums[kind{reasonTooMany, false}] != 2 {
		t.Errorf("sums %v", s.sums)
	}
}

// Whoever takes the partition is its only writer; who had it notices and comes back.
func TestFencing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	r := w.start(config())
	w.outcome(label{customer: "ann", observed: start, own: []float64{-1, 1}})
	w.await(1)
	other, err := w.cluster.Fence(t.Context(), kafka.FenceConfig{TransactionalID: ownership.TransactionalID(schemas.TopicExamples, 0), Topic: schemas.TopicExamples})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Append(t.Context(), []kafka.Record{{Key: []byte(schemas.MarkerKey)}}); err != nil {
		t.Fatal(err)
	}
	w.outcome(label{customer: "ann", observed: start + day, own: []float64{-1, 2}})
	s := w.await(2)
	if len(s.examples["ann"]) != 2 {
		t.Errorf("examples %s", dump(w, s.examples))
	}
	if n := testutil.ToFloat64(r.metrics.refenced); n < 1 {
		t.Errorf("fenced %v times", n)
	}
	if _, err := other.Append(t.Context(), []kafka.Record{{Key: []byte("eve"), Value: []byte("x")}}); !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("the former owner writes: %v", err)
	}
}

// Two processes share the partitions. When one is gone the other does its work.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, 4)
	a := w.start(config())
	<-a.ready
	b := w.start(config())
	assigned := func(r *running) int {
		n := 0
		for p := range 4 {
			if testutil.ToFloat64(r.metrics.kept.WithLabelValues(fmt.Sprint(p))) > 0 {
				n++
			}
		}
		return n
	}
	for i := range 40 {
		w.score(score{customer: fmt.Sprint("c", i), asOf: start, bill: 1})
	}
	await.Until(t, "both have partitions", func() bool { return assigned(a) == 2 && assigned(b) == 2 })
	for i := range 20 {
		w.outcome(label{customer: fmt.Sprint("c", i), observed: start + 40*day})
	}
	w.await(20)
	a.kill()
	for i := range 20 {
		w.outcome(label{customer: fmt.Sprint("c", 20+i), observed: start + 40*day})
	}
	s := w.await(40)
	if s.sums[kind{resultExample, false}] != 40 {
		t.Errorf("sums %v", s.sums)
	}
}

// What others write among the examples is put right.
func TestForeignExamples(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	forged := func(id string) kafka.Record {
		return kafka.Record{Key: []byte(id), Value: w.codec.AppendExamples(nil, &schemas.CustomerExamples{CustomerID: []byte(id), Examples: []schemas.LabelledExample{{
			AsOf: start, ObservedAt: start, Churned: true, Probability: .5, ModelVersion: 1, Attributes: []float64{-1, 66},
		}}})}
	}
	r := w.start(config())
	for _, id := range []string{"ann", "bea"} {
		w.outcome(label{customer: id, observed: start, own: []float64{-1, 1}})
	}
	want := dump(w, w.await(2).examples)
	w.produce(schemas.TopicExamples, forged("ann"), forged("eve"))
	await.Until(t, "the examples are put right, though no outcome comes", func() bool { return dump(w, w.read().examples) == want })
	r.stop()
	w.produce(schemas.TopicExamples, forged("bea"), forged("eve"), kafka.Record{Key: []byte("ann"), Value: []byte("junk")})
	r = w.start(config())
	<-r.ready
	if s := w.read(); dump(w, s.examples) != want {
		t.Errorf("after a restart: %s", difference(dump(w, s.examples), want))
	}
}

// A state on disk that is damaged, or of something else, is built anew.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	tables := func(t *testing.T, dir string) (files []string) {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if strings.HasSuffix(path, ".sst") {
				files = append(files, path)
			}
			return err
		})
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		return files
	}
	for name, damage := range map[string]func(t *testing.T, dir string, cfg *Config){
		"flipped bits": func(t *testing.T, dir string, _ *Config) {
			for _, path := range tables(t, dir) {
				content, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				for i := 10; i < len(content); i += 50 {
					content[i] ^= 0x20
				}
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a table missing": func(t *testing.T, dir string, _ *Config) {
			for _, path := range tables(t, dir) {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
		},
		"another horizon": func(_ *testing.T, _ string, cfg *Config) {
			cfg.AcceptHorizon = cfg.Horizon
			cfg.Horizon -= time.Hour
		},
		"emptied": func(t *testing.T, dir string, _ *Config) { os.RemoveAll(dir) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2, 1)
			cfg := config()
			cfg.StateDir = filepath.Join(t.TempDir(), "state")
			r := w.start(cfg)
			for i := range 50 {
				w.score(score{customer: fmt.Sprint("c", i), asOf: start, bill: 1})
			}
			w.outcome(label{customer: "c1", observed: start + 40*day})
			w.await(1)
			r.stop()
			damage(t, cfg.StateDir, &cfg)
			r = w.start(cfg)
			w.outcome(label{customer: "c1", observed: start + 41*day}, label{customer: "c2", observed: start + 41*day, churned: true})
			s := w.await(3)
			if len(s.examples["c1"]) != 2 || len(s.examples["c2"]) != 1 {
				t.Errorf("examples %s", dump(w, s.examples))
			}
			if n := testutil.ToFloat64(r.metrics.rebuilt); n < 1 {
				t.Errorf("rebuilt %v times", n)
			}
		})
	}
}

// Whatever has become of a file, the state is built anew, once, and the examples are
// right: also when that shows only at work, long after the state was opened.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	const customers = 300
	rewrite := func(change func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, change(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	kinds := map[string]func(*testing.T, string){
		"truncated": rewrite(func(b []byte) []byte { return b[:len(b)/3] }),
		"empty":     rewrite(func(b []byte) []byte { return nil }),
		"garbage":   rewrite(func(b []byte) []byte { return bytes.Repeat([]byte("garbage "), len(b)/8+1)[:len(b)] }),
		// Only blocks of scores, which are not read when the state is opened.
		"bits flipped": rewrite(func(b []byte) []byte {
			for i := len(b) * 6 / 10; i < len(b)*8/10; i += 300 {
				b[i] ^= 1
			}
			return b
		}),
		"missing": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	}
	for _, files := range []string{"*.sst", "MANIFEST-*", "marker.manifest.*", "OPTIONS-*"} {
		for kind, damage := range kinds {
			if strings.HasPrefix(files, "marker") && kind != "missing" {
				continue // its name says all
			}
			t.Run(files+" "+kind, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 1, 1)
				cfg := config()
				cfg.StateDir = t.TempDir()
				r := w.start(cfg)
				var scores []score
				var labels []label
				for i := range customers {
					id := fmt.Sprint("c", i)
					scores = append(scores, score{customer: id, asOf: start, bill: float64(i), plan: fmt.Sprintf("%x", sha256.Sum256([]byte(id)))})
					labels = append(labels, label{customer: id, observed: start + 40*day, churned: i%2 == 0})
				}
				w.score(scores...)
				w.outcome(label{customer: "c0", observed: start + 39*day})
				w.await(1)
				<-r.ready
				r.stop()
				paths, err := filepath.Glob(filepath.Join(storeDir(cfg.StateDir, 0), files))
				if err != nil || len(paths) == 0 {
					t.Fatal(paths, err)
				}
				for _, path := range paths {
					damage(t, path)
				}
				markers := w.markers()
				r = w.start(cfg)
				w.outcome(labels...)
				s := w.await(1 + customers)
				for i := range customers {
					got := s.examples[fmt.Sprint("c", i)]
					if len(got) == 0 || got[len(got)-1].Attributes[1] != float64(i) || got[len(got)-1].Churned != (i%2 == 0) {
						t.Fatalf("examples of c%d: %+v", i, got)
					}
				}
				r.isReady()
				if n := testutil.ToFloat64(r.metrics.rebuilt); n > 1 || n == 0 && !strings.HasPrefix(files, "OPTIONS") {
					t.Errorf("rebuilt %v times", n)
				}
				if n := w.markers() - markers; n > 20 {
					t.Errorf("%d markers", n)
				}
			})
		}
	}
}

// rottingFS has bits flipped in what is read of tables, while it is told to.
type rottingFS struct {
	vfs.FS
	rots atomic.Bool
}

func (f *rottingFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(name, opts...)
	if err != nil || !strings.HasSuffix(name, ".sst") {
		return file, err
	}
	return &rottingFile{file, f}, nil
}

type rottingFile struct {
	vfs.File
	fs *rottingFS
}

func (f *rottingFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	if f.fs.rots.Load() && n > 0 {
		b[n/2] ^= 1
	}
	return n, err
}

// A state that is damaged again and again is waited for ever longer, and that shows:
// as one wait, as lag, and in what readiness says.
func TestDamagedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	cfg := config()
	cfg.StateDir, cfg.FlushInterval = t.TempDir(), time.Nanosecond
	disk := &rottingFS{FS: vfs.Default}
	disk.rots.Store(true)
	var waits retry.Waits
	r := w.startBelow(retry.Watch(t.Context(), &waits), cfg, disk)
	for i := range 300 {
		w.score(score{customer: fmt.Sprint("c", i), asOf: start, bill: 1})
	}
	w.outcome(label{customer: "c1", observed: start + 40*day})
	r.notReady("damaged")
	longest := func(damaged bool) (since time.Time) {
		await.Until(t, fmt.Sprint("it waits for a damaged state: ", damaged), func() bool {
			what, at, ok := waits.Longest()
			since = at
			return (ok && strings.Contains(what, "damaged")) == damaged
		})
		return since
	}
	since := longest(true)
	before := testutil.ToFloat64(r.metrics.rebuilt)
	await.Until(t, "it tries on", func() bool { return testutil.ToFloat64(r.metrics.rebuilt) >= before+3 })
	if at := longest(true); !at.Equal(since) {
		t.Errorf("the wait began at %v, and then at %v", since, at)
	}
	if n := w.markers(); n > 40 {
		t.Errorf("%d markers", n)
	}
	for _, topic := range inputTopics {
		await.Until(t, "the position in "+topic+" is looked at", func() bool {
			r.positions.mu.Lock()
			defer r.positions.mu.Unlock()
			in := input{topic, 0}
			return r.positions.of[in] != nil && r.positions.by[0] != nil // until it has caught up
		})
	}
	disk.rots.Store(false)
	s := w.await(1)
	if len(s.examples["c1"]) != 1 {
		t.Errorf("examples %s", dump(w, s.examples))
	}
	r.isReady()
	longest(false)
}

// Examples of two horizons are not mixed unless somebody says so, not even where a
// partition has none yet.
func TestAnotherHorizon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 2)
	cfg := config()
	r := w.start(cfg)
	w.outcome(label{customer: "ann", observed: start, own: []float64{-1, 1}})
	w.await(1)
	<-r.ready
	other := cfg
	other.Horizon -= 24 * time.Hour
	second := w.start(other) // in the same group
	second.notReady("--label-accept-horizon 720h0m0s")
	second.stop()
	r.stop()
	r = w.start(other)
	r.notReady("leaving within 720h0m0s")
	if n := r.value("churn_labeler_refused_partitions"); n == 0 {
		t.Error("the metric does not say so")
	}
	w.outcome(label{customer: "ann", observed: start + day, own: []float64{-1, 1}})
	r.stop()
	other.AcceptHorizon = cfg.Horizon
	r = w.start(other)
	w.await(2)
	<-r.ready
	r.stop()
	for partition, p := range w.read().progress {
		if p.Horizon != 29*day {
			t.Errorf("the marker of partition %d says %d", partition, p.Horizon)
		}
	}
	w.start(cfg).notReady("leaving within 696h0m0s")
}

// A state from so long ago that an erasure since may have left the topics is not used.
func TestOldState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	w.clock.Store(start + 50*day)
	cfg := config()
	cfg.StateDir = t.TempDir()
	for i, away := range []int64{0, hour, 13 * hour} {
		w.clock.Add(away)
		r := w.start(cfg)
		w.outcome(label{customer: "ann", observed: w.clock.Load(), own: []float64{-1, 1}})
		w.await(int64(i + 1))
		r.stop()
		want := 1.0
		if away == hour {
			want = 0
		}
		if n := testutil.ToFloat64(r.metrics.rebuilt); n != want {
			t.Errorf("after %d hours the state was rebuilt %v times", away/hour, n)
		}
		w.clock.Add(second)
	}
}

// The topics made anew are other topics.
func TestTopicsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	cfg := config()
	cfg.StateDir = t.TempDir()
	r := w.start(cfg)
	w.score(score{customer: "ann", asOf: start, bill: 1})
	w.outcome(label{customer: "ann", observed: start + 40*day})
	w.await(1)
	info, err := os.Stat(storeDir(cfg.StateDir, 0))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	w.recreate(schemas.TopicOutcomes)
	w.outcome(label{customer: "ann", observed: start + 41*day, churned: true})
	s := w.await(2)
	if len(s.examples["ann"]) != 2 {
		t.Errorf("outcomes made anew: %s", dump(w, s.examples))
	}
	w.recreate(schemas.TopicExamples)
	s = w.await(1)
	if len(s.examples["ann"]) != 1 {
		t.Errorf("examples made anew: %s", dump(w, s.examples))
	}
	r.isReady()
}

// Erased customers leave the disk.
func TestErasedBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	cfg := config()
	cfg.StateDir = t.TempDir()
	cfg.FlushInterval = time.Nanosecond
	w.clock.Store(start + 61*day)
	w.start(cfg)
	const id = "4f1d7c6a-9be2-4c55-8a01-d3b7e9f26c80"
	w.score(score{customer: id, asOf: start, bill: 1, plan: "a-plan-of-one-7261"}, score{customer: "other", asOf: start, bill: 1})
	w.outcome(label{customer: id, observed: start + 40*day}, label{customer: "other", observed: start + 40*day})
	w.await(2)
	holds := func(text string) bool {
		w.clock.Add(second) // what is done now and then is done
		found := false
		_ = filepath.WalkDir(cfg.StateDir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // tidied away meanwhile
			}
			content, _ := os.ReadFile(path)
			found = found || bytes.Contains(content, []byte(text))
			return nil
		})
		return found
	}
	await.Until(t, "it is on disk", func() bool { return holds(id) })
	w.erase(id, start+50*day)
	await.Until(t, "it is on disk no more", func() bool { return !holds(id) && !holds("a-plan-of-one-7261") })
	if s := w.read(); len(s.examples) != 1 {
		t.Errorf("examples %s", dump(w, s.examples))
	}
	// An outcome of before, redriven, is not of a customer who has come back.
	w.produce(schemas.TopicOutcomes, kafka.Record{
		Key: []byte(id), Time: at(start + 60*day), Headers: []kafka.Header{{Key: deadletters.HeaderWrittenAt, Value: fmt.Append(nil, start+45*day)}},
		Value: w.codec.AppendOutcome(nil, &schemas.ChurnOutcome{CustomerID: id, ObservedAt: start + 40*day}),
	})
	s := w.await(3)
	if s.sums[kind{reasonErased, false}] != 1 {
		t.Errorf("sums %v", s.sums)
	}
}

// failingFS fails to write while it is told to.
type failingFS struct {
	vfs.FS
	full atomic.Bool
}

func (f *failingFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	return &failingFile{file, f}, err
}

type failingFile struct {
	vfs.File
	fs *failingFS
}

func (f *failingFile) Write(b []byte) (int, error) {
	if f.fs.full.Load() {
		n, _ := f.File.Write(b[:len(b)/2])
		return n, syscall.ENOSPC
	}
	return f.File.Write(b)
}

// A disk that is full is waited for, and that is said.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	cfg := config()
	cfg.StateDir, cfg.FlushInterval = t.TempDir(), time.Nanosecond
	disk := &failingFS{FS: vfs.Default}
	r := w.startOn(cfg, disk)
	<-r.ready
	disk.full.Store(true)
	for i := range 20 {
		w.score(score{customer: fmt.Sprint("c", i), asOf: start, bill: 1})
	}
	await.Until(t, "it is said", func() bool { return testutil.ToFloat64(r.metrics.disk) > 0 })
	disk.full.Store(false)
	w.outcome(label{customer: "c1", observed: start + 40*day})
	s := w.await(1)
	if len(s.examples["c1"]) != 1 {
		t.Errorf("examples %s", dump(w, s.examples))
	}
	await.Until(t, "all is well", func() bool { return testutil.ToFloat64(r.metrics.disk) == 0 })
	r.stop()
	r = w.startOn(cfg, disk)
	w.outcome(label{customer: "c2", observed: start + 40*day})
	w.await(2)
	if n := testutil.ToFloat64(r.metrics.rebuilt); n != 0 {
		t.Error("the state was not usable")
	}
}

// What cannot be read is a dead letter, once, and holds up nothing.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, 2)
	cfg := config()
	r := w.start(cfg)
	w.produce(schemas.TopicOutcomes, kafka.Record{Key: []byte("ann"), Value: []byte("junk")}, kafka.Record{Value: []byte("junk")})
	w.outcome(label{customer: "ann", observed: start, own: []float64{-1, 1}})
	w.await(1)
	var letters []schemas.DeadLetter
	read := func() []schemas.DeadLetter {
		letters = nil
		reader := intake.NewReader(intake.New(intake.Config{}), intake.Topic[schemas.DeadLetter]{Decode: w.codec.DecodeDeadLetter, Reserved: true})
		spans, err := w.cluster.Spans(t.Context(), schemas.TopicDeadLetters)
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range spans {
			if err := w.cluster.Read(t.Context(), span, func(records []kafka.Record, _ int64) error {
				for i := range records {
					if _, err := reader.Read(t.Context(), &records[i]); err != nil {
						return err
					}
					letters = append(letters, *reader.Keep())
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		return letters
	}
	await.Until(t, "two letters", func() bool { return len(read()) == 2 })
	for _, l := range letters {
		if l.FailedBy != name || l.Reason != schemas.ReasonBadFrame || l.Topic != schemas.TopicOutcomes {
			t.Errorf("letter %+v", l)
		}
	}
	r.kill()
	w.start(cfg)
	w.outcome(label{customer: "ann", observed: start + day, own: []float64{-1, 1}})
	w.await(2)
	if n := len(read()); n != 2 {
		t.Errorf("%d letters after a restart", n)
	}
}

// New partitions of the inputs are read; the examples must not get any.
func TestTopicsGrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 2)
	r := w.start(config())
	w.outcome(label{customer: "ann", observed: start, own: []float64{-1, 1}})
	w.await(1)
	for _, topic := range inputTopics {
		if err := w.cluster.GrowTopic(t.Context(), topic, 4); err != nil {
			t.Fatal(err)
		}
	}
	w.inputs = 4
	w.place = func(_ string, key []byte, n int) int { return int(key[len(key)-1]) % n }
	for i := range 8 {
		w.score(score{customer: fmt.Sprint("c", i), asOf: start, bill: 1})
		w.outcome(label{customer: fmt.Sprint("c", i), observed: start + 40*day})
	}
	s := w.await(9)
	if s.sums[kind{resultExample, false}] != 9 {
		t.Errorf("sums %v", s.sums)
	}
	if err := w.cluster.GrowTopic(t.Context(), schemas.TopicExamples, 3); err != nil {
		t.Fatal(err)
	}
	r.notReady("has 3 partitions, but customers are distributed over 2")
	r.stop()
	r = w.start(config())
	r.notReady("has 3 partitions, but customers are distributed over 2")
}

// While the registry is down, what it has to be asked for waits.
func TestRegistryDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	r := w.start(config())
	<-r.ready
	id := w.registry.Add(w.codec.Set().Schema(schemas.TopicOutcomes))
	w.registry.Fail(errors.New("no connection"))
	value := w.codec.AppendOutcome(nil, &schemas.ChurnOutcome{CustomerID: "ann", ObservedAt: start, Attributes: []float64{-1, 1}})
	binary.BigEndian.PutUint32(value[1:], uint32(id))
	w.produce(schemas.TopicOutcomes, kafka.Record{Key: []byte("ann"), Value: value, Time: at(start)})
	await.Until(t, "it waits", func() bool { return r.value("churn_intake_waiting") == 1 })
	w.registry.Fail(nil)
	w.await(1)
}
