package scorer

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// memoryRegistry is a schema registry in memory.
type memoryRegistry struct {
	mu      sync.Mutex
	schemas []string
}

func (r *memoryRegistry) Schema(_ context.Context, id int) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id < 1 || id > len(r.schemas) {
		return "", schemas.ErrSchemaNotFound
	}
	return r.schemas[id-1], nil
}

func (r *memoryRegistry) Register(_ context.Context, _, schema string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.schemas, schema); i >= 0 {
		return i + 1, nil
	}
	r.schemas = append(r.schemas, schema)
	return len(r.schemas), nil
}

// specModel makes a model of every feature of a specification: categorical
// features have levels a, b and c, numbers lie between 0 and 100.
func specModel(t testing.TB, set *schemas.Set, version int64) *models.Version {
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
	return &models.Version{
		ModelVersion: schemas.ModelVersion{Version: version, MediumThreshold: 0.3, HighThreshold: 0.6},
		Model:        parsed, Predictor: p,
	}
}

// bench is a worker without a broker, on the shipped schemas.
type bench struct {
	p      *partition
	codec  *schemas.Codec
	events []kafka.Record
}

func customerName(i int) []byte { return fmt.Appendf(nil, "customer-%07d", i) }

func newBench(t testing.TB, customers, events int) *bench {
	t.Helper()
	set := schemas.Telco()
	codec := schemas.NewCodec(set, &memoryRegistry{})
	if err := codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	m := newFixedModels()
	m.set(specModel(t, set, 1))
	s, err := New(Config{Dependencies: role.Dependencies{Cluster: cluster, Codec: codec, Models: m, Logger: quiet()}})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{codec: codec, p: newPartition(s, claim{committed: -1}, quiet())}
	b.p.state = newState(s.packing)
	b.p.use(m.Champion())
	rng := rand.New(rand.NewPCG(2, 2))
	e := codec.NewEvent()
	spec := set.Spec()
	for i := range customers + events {
		e.Changes.Clear()
		e.Increments.Clear()
		c := i
		if i >= customers {
			c = rng.IntN(customers)
		}
		e.CustomerID = customerName(c)
		e.EventID = fmt.Appendf(nil, "%08x-0000-4000-8000-%012x", rng.Uint32(), i)
		e.OccurredAt = start + int64(i)
		for f := range spec.Len() {
			if spec.Feature(f).Kind == scoring.Categorical {
				if i < customers || rng.IntN(8) == 0 {
					e.Changes[f], _ = set.Vocabulary().CodeString(f, string(rune('a'+rng.IntN(3))))
				}
			} else if i < customers {
				e.Changes[f] = float64(rng.IntN(100))
			} else {
				e.Increments[f] = 1
			}
		}
		e.Source = []byte("bench")
		b.events = append(b.events, kafka.Record{Offset: int64(i), Key: e.CustomerID, Value: codec.AppendEvent(nil, e)})
	}
	return b
}

// clearBatch does what flush does after writing.
func (p *partition) clearBatch() {
	p.arena, p.scores, p.headers, p.occurred = p.arena[:0], p.scores[:0], p.headers[:0], p.occurred[:0]
}

// BenchmarkEvent is the way of an event through a worker, but for the network:
// the whole of it, and by stage. Customers are known and have attributes set
// at different times.
func BenchmarkEvent(b *testing.B) {
	const customers, events = 10_000, 20_000
	w := newBench(b, customers, events)
	p := w.p
	for i := range w.events {
		if err := p.process(b.Context(), &w.events[i]); err != nil {
			b.Fatal(err)
		}
	}
	p.clearBatch()
	next := 0
	// event returns one after another, each with an id of its own.
	event := func() *kafka.Record {
		r := &w.events[customers+next%events]
		r.Offset = int64(customers + events + next)
		var id [4]byte
		binary.BigEndian.PutUint32(id[:], uint32(next))
		hex.Encode(r.Value[6:], id[:])
		if next++; next%1000 == 0 {
			p.clearBatch()
		}
		return r
	}
	decode := func(r *kafka.Record) {
		if poison, err := p.decode(b.Context(), r); poison != nil || err != nil {
			b.Fatal(poison, err)
		}
	}
	apply := func() {
		p.recall(p.event.CustomerID)
		p.change = scoring.Change{EventHash: scoring.HashEvent(p.event.EventID), OccurredAt: p.event.OccurredAt, Set: p.event.Changes, Add: p.event.Increments}
		p.customer.Apply(&p.change)
		p.scorer.rounding.apply(p.customer.Values)
	}
	stage := func(name string, fn func(r *kafka.Record)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				fn(event())
			}
		})
	}
	stage("whole", func(r *kafka.Record) {
		if err := p.process(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	})
	r := event()
	decode(r)
	apply()
	p.scoreEvent(r)
	s := p.score
	stage("decode", decode)
	stage("apply", func(*kafka.Record) { apply() })
	stage("score", func(*kafka.Record) { s.Probability = p.model.Predictor.Probability(s.Attributes) })
	stage("explain", func(*kafka.Record) { p.explain(s) })
	stage("encode", func(*kafka.Record) { p.arena = w.codec.AppendScore(p.arena[:0], s) })
	stage("keep", func(*kafka.Record) {
		p.packed = p.scorer.packing.append(p.packed[:0], s)
		p.state.customers.put(p.packed)
	})
}

// TestKnownCustomersCostNoMemory counts what an event of a known customer
// allocates, in the long run.
func TestKnownCustomersCostNoMemory(t *testing.T) {
	const customers, events = 100, 1000
	w := newBench(t, customers, 3*events)
	next := 0
	round := func() {
		for range events {
			if err := w.p.process(t.Context(), &w.events[next%len(w.events)]); err != nil {
				t.Fatal(err)
			}
			next++
		}
		w.p.clearBatch()
	}
	round()
	round()
	// Set times that differ take one allocation to restore.
	if n := testing.AllocsPerRun(1, round) / events; n > 1.01 {
		t.Errorf("%.2f allocations an event", n)
	}
}

// BenchmarkSnapshot writes and reads snapshots of 100,000 customers.
func BenchmarkSnapshot(b *testing.B) {
	const customers = 100_000
	w := newBench(b, customers, 0)
	for i := range customers {
		if err := w.p.process(b.Context(), &w.events[i]); err != nil {
			b.Fatal(err)
		}
	}
	set := schemas.Telco()
	data := encodeSnapshot(set, w.p.state.customers)
	b.Run("write", func(b *testing.B) {
		// What the worker does; the disk is another goroutine's.
		block := make([]byte, 0, 2*blockBytes)
		for b.Loop() {
			e := newSnapshotEncoder(set.Vocabulary())
			var at cursor
			for done := false; !done; {
				_, done = e.customers(block[:0], w.p.state.customers, &at)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/100k-customers")
		b.ReportMetric(float64(len(data))/customers, "B/customer")
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

func BenchmarkRestore(b *testing.B) {
	const customers = 200_000
	w := newBench(b, customers, 0)
	for i := range customers {
		if err := w.p.process(b.Context(), &w.events[i]); err != nil {
			b.Fatal(err)
		}
	}
	records := w.p.scores
	b.ReportAllocs()
	var before, after runtime.MemStats
	var p *partition
	for b.Loop() {
		p = nil
		runtime.GC()
		runtime.ReadMemStats(&before)
		p = newPartition(w.p.scorer, w.p.claim, quiet())
		p.state = newState(p.scorer.packing)
		r := newRestorer(p)
		for i := range records {
			records[i].Offset = int64(i)
			if err := r.take(b.Context(), &records[i]); err != nil {
				b.Fatal(err)
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(p)
	runtime.KeepAlive(w)
	runtime.KeepAlive(records)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/customers, "ns/customer")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/customers, "B/customer")
}
