package labeler

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
)

// telcoScore is a score of the shipped schemas.
func telcoScore(codec *schemas.Codec, customer int, at int64) *schemas.ChurnScore {
	s := codec.NewScore()
	s.CustomerID, s.EventID = fmt.Appendf(nil, "customer-%07d", customer), []byte("0b5c4a52-6a3c-4b8e-9f0d-0123456789ab")
	s.OccurredAt, s.AsOf, s.ScoredAt, s.ModelVersion, s.Probability, s.SourceOffset = at, at, at, 1, .25, at
	spec := codec.Set().Spec()
	for f := range spec.Len() {
		if spec.Feature(f).Kind == scoring.Categorical {
			s.Attributes[f], _ = codec.Set().Vocabulary().CodeString(f, []string{"Yes", "No", "Month-to-month"}[customer%3])
		} else {
			s.Attributes[f] = float64(customer % 100)
		}
	}
	return s
}

func benchStore(b *testing.B) (*join, *schemas.Codec) {
	codec := schemas.NewCodec(schemas.Telco(), registrytest.New())
	if err := codec.Register(b.Context()); err != nil {
		b.Fatal(err)
	}
	cache := pebble.NewCache(cacheBytes)
	b.Cleanup(cache.Unref)
	s, _, err := openStore(storeConfig{fs: vfs.Default, dir: b.TempDir(), codec: codec, log: slog.New(slog.NewTextHandler(io.Discard, nil)), cache: cache}, meta{Format: storeFormat}, 0, "")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.close)
	return newJoin(rules{
		horizon: 30 * day, interval: day, delay: 14 * day, grace: minute, perCustomer: 24, waiting: 10000, recordBytes: maxRecordBytes,
	}, s), codec
}

// cpu returns the time for which the process has computed, on all cores: what is left
// over where others use the machine too.
func cpu(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkJoin is what one core makes of scores and outcomes: decoded, kept, joined
// and encoded, without Kafka.
func BenchmarkJoin(b *testing.B) {
	for _, customers := range []int{10_000, 1_000_000} {
		for _, perDay := range []int{1, 10} {
			b.Run(fmt.Sprintf("scores/customers=%d/per_day=%d", customers, perDay), func(b *testing.B) {
				j, codec := benchStore(b)
				var values [][]byte
				for i := range 1024 {
					values = append(values, codec.AppendScore(nil, telcoScore(codec, i, 0)))
				}
				m := codec.NewScore()
				ctx := b.Context()
				b.ResetTimer()
				before := cpu(b)
				for i := range b.N {
					if err := codec.DecodeScore(ctx, values[i%len(values)], m); err != nil {
						b.Fatal(err)
					}
					m.CustomerID = fmt.Appendf(m.CustomerID[:0:0], "customer-%07d", i%customers)
					m.AsOf = start + int64(i/customers)*day/int64(perDay)
					j.now = m.AsOf
					if err := j.takeScore(ctx, m, m.AsOf); err != nil {
						b.Fatal(err)
					}
					if i%chunkRecords == 0 {
						if err := j.store.commit(); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.StopTimer()
				b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
				runtime.GC()
				var memory runtime.MemStats
				runtime.ReadMemStats(&memory)
				b.ReportMetric(float64(memory.HeapAlloc)/(1<<20), "MB-heap")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "scores/s")
			})
		}
	}
	b.Run("outcomes", func(b *testing.B) {
		const customers = 10_000
		j, codec := benchStore(b)
		ctx := b.Context()
		for c := range customers {
			for d := range int64(5) {
				if err := j.takeScore(ctx, telcoScore(codec, c, start+d*day), start+d*day); err != nil {
					b.Fatal(err)
				}
			}
		}
		if err := j.store.commit(); err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		before := cpu(b)
		for i := range b.N {
			observed := start + 33*day + int64(i/customers)*hour
			o := schemas.ChurnOutcome{CustomerID: fmt.Sprintf("customer-%07d", i%customers), ObservedAt: observed, Churned: i%3 == 0}
			if err := j.takeOutcome(ctx, &o, observed, 0, int64(i)); err != nil {
				b.Fatal(err)
			}
			if i%chunkRecords == 0 {
				j.flushed()
				if err := j.store.commit(); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "outcomes/s")
	})
}

// BenchmarkLabeler is a labeler from Kafka to Kafka, and beside it a pass-through: the
// same records fetched, and as many written as there are examples.
func BenchmarkLabeler(b *testing.B) {
	const customers, days = 5000, 40
	w := newWorld(b, 4, 4)
	var records []kafka.Record
	for d := range int64(days) {
		for c := range customers {
			s := score{customer: fmt.Sprintf("customer-%07d", c), asOf: start + d*day, offset: d, bill: float64(d), plan: "month"}
			records = append(records, kafka.Record{Key: []byte(s.customer), Value: w.codec.AppendScore(nil, s.message(w.codec)), Time: at(s.asOf)})
		}
		w.produce(schemas.TopicScores, records...)
		records = records[:0]
	}
	for c := range customers {
		w.outcome(label{customer: fmt.Sprintf("customer-%07d", c), observed: start + 38*day, churned: c%3 == 0})
	}
	all := customers*days + customers
	b.ResetTimer()
	for range b.N {
		began := time.Now()
		value := make([]byte, 300)
		for _, topic := range inputTopics {
			spans, err := w.cluster.Spans(b.Context(), topic)
			if err != nil {
				b.Fatal(err)
			}
			for _, span := range spans {
				err := w.cluster.Read(b.Context(), span, func(records []kafka.Record, _ int64) error {
					if topic == schemas.TopicScores {
						return nil
					}
					out := make([]kafka.Record, len(records))
					for i := range records {
						out[i] = kafka.Record{Key: records[i].Key, Value: value}
					}
					return w.producer.Produce(b.Context(), schemas.TopicDeadLetters, out...)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		}
		passed := time.Since(began)
		w.recreate(schemas.TopicExamples)
		began = time.Now()
		r := w.start(config())
		w.await(customers)
		took := time.Since(began)
		r.stop()
		b.ReportMetric(float64(all)/passed.Seconds(), "passed/s")
		b.ReportMetric(float64(all)/took.Seconds(), "labelled/s")
	}
}
