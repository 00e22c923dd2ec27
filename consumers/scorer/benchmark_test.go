package scorer

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
)

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
	w      *worker
	codec  *schemas.Codec
	events []kafka.Record
}

func customerName(i int) []byte { return fmt.Appendf(nil, "customer-%07d", i) }

func newBench(t testing.TB, customers, events int) *bench {
	t.Helper()
	set := schemas.Telco()
	codec := schemas.NewCodec(set, registrytest.New())
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
	b := &bench{codec: codec, w: s.offline()}
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

// offline returns a worker that has taken an empty partition, without a broker.
func (s *Scorer) offline() *worker {
	w := newWorker(s, claim{committed: -1})
	w.begin(newState(s.cfg.Codec.Set().Vocabulary()))
	w.use(s.cfg.Models.Champion())
	return w
}

// BenchmarkEvent is the way of an event through a worker, but for the network:
// the whole of it, and by stage. Customers are known and have attributes set
// at different times.
func BenchmarkEvent(b *testing.B) {
	const customers, events = 10_000, 20_000
	bench := newBench(b, customers, events)
	w := bench.w
	for i := range bench.events {
		if err := w.process(b.Context(), &bench.events[i]); err != nil {
			b.Fatal(err)
		}
	}
	w.outbox.clear()
	next := 0
	// event returns one after another, each with an id of its own.
	event := func() *kafka.Record {
		r := &bench.events[customers+next%events]
		r.Offset = int64(customers + events + next)
		var id [4]byte
		binary.BigEndian.PutUint32(id[:], uint32(next))
		hex.Encode(r.Value[6:], id[:])
		if next++; next%1000 == 0 {
			w.outbox.clear()
		}
		return r
	}
	decode := func(r *kafka.Record) {
		if kind, err := w.events.Read(b.Context(), r); kind != intake.Message || err != nil {
			b.Fatal(kind, err)
		}
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
		if err := w.process(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	})
	r := event()
	decode(r)
	s := *w.engine.Apply(w.events.Message(), r.Offset).Score
	stage("decode", decode)
	stage("encode", func(*kafka.Record) { w.outbox.score(&s) })
}

// TestKnownCustomersCostNoMemory counts what an event of a known customer
// allocates, in the long run.
func TestKnownCustomersCostNoMemory(t *testing.T) {
	const customers, events = 100, 1000
	b := newBench(t, customers, 3*events)
	next := 0
	round := func() {
		for range events {
			if err := b.w.process(t.Context(), &b.events[next%len(b.events)]); err != nil {
				t.Fatal(err)
			}
			next++
		}
		b.w.outbox.clear()
	}
	round()
	round()
	if n := testing.AllocsPerRun(1, round) / events; n > 0.01 {
		t.Errorf("%.2f allocations per event", n)
	}
}

func BenchmarkRestore(b *testing.B) {
	const customers = 200_000
	full := newBench(b, customers, 0)
	for i := range customers {
		if err := full.w.process(b.Context(), &full.events[i]); err != nil {
			b.Fatal(err)
		}
	}
	records := full.w.outbox.scores
	b.ReportAllocs()
	var before, after runtime.MemStats
	var r *restorer
	for b.Loop() {
		r = nil
		runtime.GC()
		runtime.ReadMemStats(&before)
		r = newRestorer(full.w.site, topicIDs{})
		r.state = newState(full.codec.Set().Vocabulary())
		for i := range records {
			records[i].Offset = int64(i)
			if err := r.take(b.Context(), &records[i]); err != nil {
				b.Fatal(err)
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(r)
	runtime.KeepAlive(full)
	runtime.KeepAlive(records)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/customers, "ns/customer")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/customers, "B/customer")
}
