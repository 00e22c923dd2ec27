package kafka_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
)

// peak returns the most memory that the heap takes above what it has, until the
// function it returns is called.
func peak() (stop func() uint64) {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	before, most := stats.HeapAlloc, stats.HeapAlloc
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(2 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				var stats runtime.MemStats
				runtime.ReadMemStats(&stats)
				most = max(most, stats.HeapAlloc)
			case <-done:
				return
			}
		}
	}()
	return func() uint64 {
		close(done)
		<-ended
		return most - before
	}
}

// large produces n records of so many zeros to each partition, by batches of one.
func large(t *testing.T, e *env, partitions, n, size int) {
	t.Helper()
	p := e.cluster.NewProducer(kafka.ProducerConfig{Compression: kafka.Zstd})
	value := make([]byte, size)
	for i := range partitions * n {
		if err := p.ProduceTo(testContext(t), topic, i%partitions, []kafka.Record{{Value: value}}); err != nil {
			t.Fatal(err)
		}
	}
}

// Records of 60 MB that were compressed to two thousand bytes come one after
// another, however many partitions have them.
func TestLargeBatchesOfAllPartitionsAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a gigabyte of memory")
	}
	const partitions, each, size = 8, 3, 60_000_000
	e := setup(t, partitions)
	large(t, e, partitions, each, size)
	stop := peak()
	var group sync.WaitGroup
	var holding, most atomic.Int64
	for partition := range partitions {
		group.Go(func() {
			f := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: partition})
			defer f.Close()
			for f.Offset() < each {
				records, err := f.Fetch(testContext(t))
				if err != nil {
					t.Error(err)
					return
				}
				now := holding.Add(int64(len(records)))
				for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
				}
				for i := range records {
					if r := &records[i]; r.Unreadable != nil || len(r.Value) != size {
						t.Errorf("a record of %d bytes, unreadable: %v", len(r.Value), r.Unreadable)
					}
				}
				holding.Add(-int64(len(records)))
			}
		})
	}
	group.Wait()
	if got := stop(); got > 512<<20 {
		t.Errorf("the heap took %d MiB more", got>>20)
	} else {
		t.Logf("the heap took %d MiB more", got>>20)
	}
	if most.Load() > 4 {
		t.Errorf("%d of them were in memory at a time", most.Load())
	}
	if n := e.metric(t, "churn_kafka_memory_bytes"); n != 0 {
		t.Errorf("%v bytes are still taken", n)
	}
}

// A reader waits visibly while others have all the memory, and goes on when one
// of them gives it back.
func TestLargeBatchesAreWaitedFor(t *testing.T) {
	e := setup(t, 3)
	small := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}, LargestBatch: 4 << 20, Memory: 1, Registerer: e.metrics})
	large(t, e, 3, 2, 3_900_000)
	fetchers := make([]*kafka.Fetcher, 3)
	// Each takes a little more than 6 MB of 16, for a window of its own besides.
	for i := range fetchers {
		fetchers[i] = small.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: i})
		defer fetchers[i].Close()
	}
	fetch := func(i int) []kafka.Record {
		t.Helper()
		records, err := fetchers[i].Fetch(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		return records
	}
	if n := e.metric(t, "churn_kafka_memory_limit_bytes"); n != 16<<20 {
		t.Fatalf("the limit is %v", n)
	}
	fetch(0)
	fetch(1)
	got := make(chan []kafka.Record)
	go func() { got <- fetch(2) }()
	eventually(t, "the third to wait", func() bool { return e.metric(t, "churn_kafka_memory_waiting") == 1 })
	select {
	case <-got:
		t.Fatal("it did not wait")
	default:
	}
	// Its context ends the wait.
	ctx, cancel := context.WithCancel(testContext(t))
	other := small.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: 1, Offset: 1})
	ended := make(chan error)
	go func() {
		_, err := other.Fetch(ctx)
		ended <- err
	}()
	eventually(t, "a fourth to wait", func() bool { return e.metric(t, "churn_kafka_memory_waiting") == 2 })
	cancel()
	if err := <-ended; err == nil {
		t.Error("it got records")
	}
	fetchers[0].Close()
	if records := <-got; len(records) != 1 || records[0].Offset != 0 || len(records[0].Value) != 3_900_000 {
		t.Errorf("got %d records", len(records))
	}
	if n := e.metric(t, "churn_kafka_memory_waiting"); n != 0 {
		t.Errorf("%v wait", n)
	}
}

// Readers that keep records of one partition while they wait for another never
// wait for each other.
func TestReadersOfSeveralFetchers(t *testing.T) {
	const readers = 6
	e := setup(t, 2*readers)
	small := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}, LargestBatch: 4 << 20, Registerer: e.metrics, Memory: 1})
	large(t, e, 2*readers, 2, 3_900_000)
	var group sync.WaitGroup
	for i := range readers {
		group.Go(func() {
			both := kafka.NewTogether(2)
			a := small.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: 2 * i, Together: both})
			b := small.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: 2*i + 1, Together: both})
			defer a.Close()
			defer b.Close()
			for a.Offset() < 2 || b.Offset() < 2 {
				for _, f := range []*kafka.Fetcher{a, b} {
					if _, err := f.Fetch(testContext(t)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	group.Wait()
	if n := e.metric(t, "churn_kafka_memory_bytes"); n != 0 {
		t.Errorf("%v bytes are still taken", n)
	}
}

// Many tiny records, and many headers, take far more memory than bytes.
func TestTinyRecordsCount(t *testing.T) {
	e := setup(t, 1)
	small := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}, LargestBatch: 8 << 20, Registerer: e.metrics})
	p := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}, BatchBytes: 60_000_000}).NewProducer(kafka.ProducerConfig{Compression: kafka.Zstd})
	headers := make([]kafka.Header, 1000)
	for _, records := range [][]kafka.Record{
		make([]kafka.Record, 30_000),              // a large batch
		make([]kafka.Record, 100_000),             // one that is too large
		same(220, kafka.Record{Headers: headers}), // takes 8 MB
		same(80, kafka.Record{Headers: headers}),
		same(5, kafka.Record{Value: []byte("v")}),
	} {
		if err := p.ProduceTo(testContext(t), topic, 0, records); err != nil {
			t.Fatal(err)
		}
	}
	f := small.NewFetcher(kafka.FetcherConfig{Topic: topic})
	defer f.Close()
	var got []string
	for f.Offset() < 130_305 {
		records, err := f.Fetch(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		for len(records) > 0 {
			n := 1
			for n < len(records) && records[n].Unreadable == nil && records[0].Unreadable == nil && len(records[n].Headers) == len(records[0].Headers) && (records[n].Value == nil) == (records[0].Value == nil) {
				n++
			}
			got = append(got, fmt.Sprintf("%d from %d, unreadable: %t", n, records[0].Offset, records[0].Unreadable != nil))
			records = records[n:]
		}
	}
	want := []string{"30000 from 0, unreadable: false", "1 from 129999, unreadable: true", "1 from 130219, unreadable: true",
		"80 from 130220, unreadable: false", "5 from 130300, unreadable: false"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func same(n int, r kafka.Record) []kafka.Record {
	records := make([]kafka.Record, n)
	for i := range records {
		records[i] = r
	}
	return records
}
