package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/kafka"
)

// The hashes are those of Java's org.apache.kafka.common.utils.Utils.murmur2.
func TestPartitionOf(t *testing.T) {
	for key, hash := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		for _, n := range []int{1, 6, 1<<31 - 1} {
			if got, want := kafka.PartitionOf([]byte(key), n), int(hash&0x7fffffff)%n; got != want {
				t.Errorf("PartitionOf(%q, %d) = %d, want %d", key, n, got, want)
			}
		}
	}
}

func TestProducePartitionsAsOthersDo(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 6)
	var ours []kafka.Record
	var theirs []*kgo.Record
	for i := range 300 {
		key := fmt.Appendf(nil, "customer-%d", i)
		ours = append(ours, kafka.Record{Key: key, Value: []byte("ours")})
		theirs = append(theirs, &kgo.Record{Key: key, Value: []byte("theirs")})
	}
	produce(t, e.cluster, ours...)
	if err := e.kgo(t).ProduceSync(ctx, theirs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	found := 0
	for p := range 6 {
		_, end, err := e.cluster.Offsets(ctx, topic, p)
		if err != nil {
			t.Fatal(err)
		}
		keys := map[string][]string{}
		last := -1
		for _, r := range fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: p}), end) {
			if r.Partition != p {
				t.Errorf("record of partition %d says %d", p, r.Partition)
			}
			keys[string(r.Key)] = append(keys[string(r.Key)], string(r.Value))
			var i int
			if _, err := fmt.Sscanf(string(r.Key), "customer-%d", &i); err != nil {
				t.Fatal(err)
			}
			if string(r.Value) == "ours" {
				if i < last {
					t.Errorf("partition %d: record %d after %d", p, i, last)
				}
				last = i
			}
		}
		for key, values := range keys {
			found++
			if fmt.Sprint(values) != "[ours theirs]" {
				t.Errorf("partition %d has %v of %s", p, values, key)
			}
		}
	}
	if found != 300 {
		t.Errorf("%d keys found", found)
	}
}

func TestProduceKeepsKeylessRecordsTogether(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 6)
	var records []kafka.Record
	for i := range 50 {
		records = append(records, kafka.Record{Value: fmt.Append(nil, i)})
	}
	produce(t, e.cluster, records...)
	for p := range 6 {
		if _, end, err := e.cluster.Offsets(ctx, topic, p); err != nil || end != 0 && end != 50 {
			t.Errorf("partition %d has %d records, %v", p, end, err)
		}
	}
}

func TestProduceSplits(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	var records []kafka.Record
	for i := range 30 {
		records = append(records, kafka.Record{Value: append(fmt.Appendf(nil, "%02d", i), make([]byte, 100_000)...)})
	}
	check := func(name string, from int64, want []kafka.Record) {
		t.Helper()
		_, end, err := e.cluster.Offsets(ctx, topic, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Offset: from}), end)
		if len(got) != len(want) {
			t.Fatalf("%s: %d records, want %d", name, len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i].Value, want[i].Value) {
				t.Fatalf("%s: record %d is %.2s", name, i, got[i].Value)
			}
		}
	}
	// Three megabytes through a limit of one.
	produce(t, e.cluster, records...)
	check("by our limit", 0, records)

	// The broker's limit may be lower than ours.
	large := e.cluster.NewProducer(kafka.ProducerConfig{MaxBatchBytes: 10 << 20})
	if err := large.Produce(ctx, topic, records...); err != nil {
		t.Fatal(err)
	}
	check("by the broker's limit", 30, records)

	// A single record that is too large is an error, after what came before.
	tooLarge := []kafka.Record{{Value: []byte("before")}, {Value: make([]byte, 2<<20)}, {Value: []byte("after")}}
	if err := large.Produce(ctx, topic, tooLarge...); !errors.Is(err, kafka.ErrTooLarge) {
		t.Errorf("error %v", err)
	}
	check("what came before", 60, tooLarge[:1])
}

// A record above the limit is refused before it is sent: brokers hang up on
// what is larger than they would ever read.
func TestLargestRecord(t *testing.T) {
	e := setup(t, 1)
	small := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}, LargestBatch: 100_000})
	failProduce(e, func() int16 { return 0 })
	records := []kafka.Record{{Value: []byte("before")}, {Value: make([]byte, 100_000)}, {Value: []byte("after")}}
	p := small.NewProducer(kafka.ProducerConfig{MaxBatchBytes: 1000})
	if err := p.Produce(testContext(t), topic, records...); !errors.Is(err, kafka.ErrTooLarge) {
		t.Errorf("error %v", err)
	}
	fenced := fence(t, small)
	if _, err := fenced.Append(testContext(t), records[1:2]); !errors.Is(err, kafka.ErrTooLarge) {
		t.Errorf("fenced: error %v", err)
	}
	if _, err := fenced.Append(testContext(t), records[2:]); err != nil {
		t.Errorf("fenced, the next one: %v", err)
	}
	if got := values(fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}), 2)); got != "before after" {
		t.Errorf("stored %s", got)
	}
}

func TestProduceRetries(t *testing.T) {
	t.Parallel() // most of it is waiting
	ctx := testContext(t)
	e := setup(t, 1)
	codes := []int16{
		6,  // NOT_LEADER_OR_FOLLOWER
		19, // NOT_ENOUGH_REPLICAS
		7,  // REQUEST_TIMED_OUT
		29, // TOPIC_AUTHORIZATION_FAILED, until somebody allows it
	}
	failProduce(e, func() int16 {
		if len(codes) == 0 {
			return 0
		}
		code := codes[0]
		codes = codes[1:]
		return code
	})
	produce(t, e.cluster, numbered(0, 1)...)
	if got := values(fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}), 1)); got != "0" {
		t.Errorf("stored %s", got)
	}
	if n := e.metric(t, "churn_kafka_retries_total"); n != 4 {
		t.Errorf("%v retries counted, want 4", n)
	}
	failProduce(e, func() int16 { return 44 }) // POLICY_VIOLATION
	if err := e.cluster.NewProducer(kafka.ProducerConfig{}).Produce(ctx, topic, numbered(0, 1)...); err == nil {
		t.Error("no error for what the broker will never take")
	}
	if err := e.cluster.NewProducer(kafka.ProducerConfig{}).Produce(ctx, "typo", numbered(0, 1)...); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("unknown topic: %v", err)
	}
	if err := e.cluster.NewProducer(kafka.ProducerConfig{}).Produce(ctx, topic); err != nil {
		t.Errorf("no records: %v", err)
	}
}

// failProduce answers produce requests with a code, 0 to let them pass.
func failProduce(e *env, answer func() int16) {
	e.broker.Cluster().ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		e.broker.Cluster().KeepControl()
		req := kreq.(*kmsg.ProduceRequest)
		code := answer()
		if code == 0 {
			return nil, nil, false
		}
		res := req.ResponseKind().(*kmsg.ProduceResponse)
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = topic
		rp := kmsg.NewProduceResponseTopicPartition()
		rp.ErrorCode = code
		rt.Partitions = append(rt.Partitions, rp)
		res.Topics = append(res.Topics, rt)
		return res, nil, true
	})
}

func BenchmarkProduceAndFetch(b *testing.B) {
	ctx := testContext(b)
	e := setup(b, 1)
	p := e.cluster.NewProducer(kafka.ProducerConfig{})
	records := make([]kafka.Record, 3000)
	for i := range records {
		records[i] = kafka.Record{Key: fmt.Appendf(nil, "customer-%05d", i), Value: make([]byte, 230)}
	}
	end := int64(0)
	produced := time.Duration(0)
	for range 30 {
		start := time.Now()
		if err := p.ProduceTo(ctx, topic, 0, records); err != nil {
			b.Fatal(err)
		}
		produced += time.Since(start)
		end += int64(len(records))
	}
	b.ReportAllocs()
	for b.Loop() {
		f := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic})
		for f.Offset() < end {
			if _, err := f.Fetch(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(end)/produced.Seconds()/1e6, "M-produced/s")
	b.ReportMetric(float64(end)*float64(b.N)/b.Elapsed().Seconds()/1e6, "M-fetched/s")
}

// TestGivenUpWritesKeepTheirBytes gives up on writes at random moments and goes
// on with the same producer. What was given up may still be written, but never
// with the bytes of what came after.
func TestGivenUpWritesKeepTheirBytes(t *testing.T) {
	t.Parallel() // most of it is waiting
	ctx := testContext(t)
	e := setup(t, 1)
	p := e.cluster.NewProducer(kafka.ProducerConfig{})
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 60_000) }
	for i := range 150 {
		short, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(1500))*time.Microsecond)
		err := p.Produce(short, topic, kafka.Record{Key: []byte{byte(i)}, Value: value(i)})
		cancel()
		if err != nil && short.Err() == nil {
			t.Fatal(err)
		}
	}
	if err := p.Produce(ctx, topic, kafka.Record{Key: []byte{200}, Value: value(200)}); err != nil {
		t.Fatal(err)
	}
	f := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: 0})
	for n := 0; ; {
		records, err := f.Fetch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if n++; !bytes.Equal(r.Value, value(int(r.Key[0]))) {
				t.Fatalf("the record with key %d has another's bytes", r.Key[0])
			}
			if r.Key[0] == 200 {
				t.Logf("%d of 151 writes arrived", n)
				return
			}
		}
	}
}
