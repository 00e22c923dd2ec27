//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/churnstream/churnstream/internal/kafka"
)

// ensureTopic creates a topic with as many replicas as the cluster has by
// default.
func ensureTopic(t testing.TB, c *kafka.Cluster, name string, partitions int, configs map[string]string) {
	t.Helper()
	if err := c.EnsureTopics(testContext(t), kafka.TopicConfig{Name: name, Partitions: partitions, Configs: configs}); err != nil {
		t.Fatal(err)
	}
}

func numbered(from, to int) []kafka.Record {
	var records []kafka.Record
	for i := from; i < to; i++ {
		records = append(records, kafka.Record{Key: fmt.Appendf(nil, "key-%d", i%97), Value: fmt.Appendf(nil, "%d", i)})
	}
	return records
}

// fetchTo reads a partition from the first offset until it has n records.
func fetchTo(t testing.TB, c *kafka.Cluster, topic string, partition, n int) []kafka.Record {
	t.Helper()
	ctx := testContext(t)
	f := c.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: partition, Offset: -1})
	var all []kafka.Record
	for len(all) < n {
		records, err := f.Fetch(ctx)
		if err != nil {
			t.Fatalf("after %d of %d records: %v", len(all), n, err)
		}
		for _, r := range records {
			r.Key, r.Value = slices.Clone(r.Key), slices.Clone(r.Value)
			all = append(all, r)
		}
	}
	return all
}

func values(records []kafka.Record) string {
	var s []string
	for _, r := range records {
		s = append(s, string(r.Value))
	}
	return strings.Join(s, " ")
}

func foreign(t testing.TB, k *Kafka, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(k.Addrs()...)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func TestKafka(t *testing.T) {
	k := StartKafka(t, KafkaConfig{})
	c, _ := k.Connect()
	ctx := testContext(t)

	t.Run("topics", func(t *testing.T) {
		wanted := kafka.TopicConfig{Name: "topics", Partitions: 4, Configs: map[string]string{"cleanup.policy": "compact"}}
		for range 2 { // what exists is left as it is
			if err := c.EnsureTopics(ctx, wanted); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := c.Partitions(ctx, "topics"); n != 4 || err != nil {
			t.Errorf("%d partitions, %v", n, err)
		}
		if _, err := c.Partitions(ctx, "no-such-topic"); !errors.Is(err, kafka.ErrUnknownTopic) {
			t.Errorf("a topic that does not exist: %v", err)
		}
		if first, end, err := c.Offsets(ctx, "topics", 3); first != 0 || end != 0 || err != nil {
			t.Errorf("offsets of an empty partition: %d, %d, %v", first, end, err)
		}
	})

	for _, codec := range []struct {
		name    string
		foreign kgo.CompressionCodec
	}{{"none", kgo.NoCompression()}, {"gzip", kgo.GzipCompression()}, {"snappy", kgo.SnappyCompression()}, {"lz4", kgo.Lz4Compression()}, {"zstd", kgo.ZstdCompression()}} {
		t.Run(codec.name, func(t *testing.T) {
			const n = 5000
			topic := "codec-" + codec.name
			ensureTopic(t, c, topic, 1, nil)
			compression, err := kafka.ParseCompression(codec.name)
			if err != nil {
				t.Fatal(err)
			}
			ours := numbered(0, n)
			ours[0].Headers = []kafka.Header{{Key: "a", Value: []byte("1")}}
			ours[1].Value = nil
			if err := c.NewProducer(kafka.ProducerConfig{Compression: compression}).Produce(ctx, topic, ours...); err != nil {
				t.Fatal(err)
			}
			theirs := foreign(t, k, kgo.ProducerBatchCompression(codec.foreign), kgo.DefaultProduceTopic(topic),
				kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
			var sent []*kgo.Record
			for _, r := range ours {
				sent = append(sent, &kgo.Record{Key: r.Key, Value: r.Value})
			}
			if err := theirs.ProduceSync(ctx, sent...).FirstErr(); err != nil {
				t.Fatal(err)
			}

			got := fetchTo(t, c, topic, 0, 2*n)
			for i, r := range got {
				want := ours[i%n]
				if r.Offset != int64(i) || string(r.Key) != string(want.Key) || string(r.Value) != string(want.Value) || (r.Value == nil) != (want.Value == nil) {
					t.Fatalf("record %d: offset %d, %q: %q, want %q: %q", i, r.Offset, r.Key, r.Value, want.Key, want.Value)
				}
			}
			// The other client reads what ours wrote.
			read := 0
			for read < 2*n {
				fetches := theirs.PollFetches(ctx)
				if err := fetches.Err(); err != nil {
					t.Fatal(err)
				}
				fetches.EachRecord(func(r *kgo.Record) {
					if want := ours[read%n]; string(r.Value) != string(want.Value) || string(r.Key) != string(want.Key) {
						t.Fatalf("franz-go reads record %d as %q", read, r.Value)
					}
					read++
				})
			}
			t.Logf("%s: %d records of ours and %d of franz-go's read by both", codec.name, n, n)
		})
	}

	t.Run("murmur2", func(t *testing.T) {
		ensureTopic(t, c, "partitioned", 5, nil)
		cl := foreign(t, k, kgo.DefaultProduceTopic("partitioned"), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
		for i := range 200 {
			key := fmt.Appendf(nil, "customer-%d", i)
			r, err := cl.ProduceSync(ctx, &kgo.Record{Key: key}).First()
			if err != nil {
				t.Fatal(err)
			}
			if ours := kafka.PartitionOf(key, 5); int(r.Partition) != ours {
				t.Fatalf("key %s: franz-go chooses partition %d, ours is %d", key, r.Partition, ours)
			}
		}
	})

	t.Run("too large", func(t *testing.T) {
		ensureTopic(t, c, "small", 1, map[string]string{"max.message.bytes": "20000"})
		p := c.NewProducer(kafka.ProducerConfig{})
		if err := p.Produce(ctx, "small", numbered(0, 3000)...); err != nil {
			t.Errorf("small records in batches that must be made smaller: %v", err)
		}
		if got := fetchTo(t, c, "small", 0, 3000); len(got) != 3000 {
			t.Errorf("%d records", len(got))
		}
		if err := p.Produce(ctx, "small", kafka.Record{Value: make([]byte, 30_000)}); !errors.Is(err, kafka.ErrTooLarge) {
			t.Errorf("a record above the topic's limit: %v", err)
		}
	})

	t.Run("group", func(t *testing.T) { groups(t, k, c) })
}

// groups runs two members of a consumer group, stops one of them in the
// middle, and starts the group anew.
func groups(t *testing.T, k *Kafka, c *kafka.Cluster) {
	const topic, partitions, n = "grouped", 4, 8000
	ctx := testContext(t)
	ensureTopic(t, c, topic, partitions, nil)
	if err := c.NewProducer(kafka.ProducerConfig{}).Produce(ctx, topic, numbered(0, n/2)...); err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex
	seen := map[string]int{}
	owners := map[int]string{}
	total := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
	member := func(ctx context.Context, name string) error {
		cluster, err := kafka.Connect(kafka.Config{Brokers: k.Addrs(), ClientID: name, Registerer: prometheus.NewRegistry()})
		if err != nil {
			return err
		}
		defer cluster.Close()
		cfg := kafka.GroupConfig{Group: "readers", Topics: []string{topic}, SessionTimeout: 6 * time.Second, HeartbeatInterval: 500 * time.Millisecond}
		return cluster.Consume(ctx, cfg, func(ctx context.Context, claim *kafka.Claim) error {
			mu.Lock()
			owners[claim.Partition] = name
			mu.Unlock()
			f := cluster.NewFetcher(kafka.FetcherConfig{Topic: claim.Topic, Partition: claim.Partition, Offset: claim.Committed, MaxBytes: 2000})
			for {
				records, err := f.Fetch(ctx)
				if err != nil {
					return err
				}
				mu.Lock()
				for _, r := range records {
					seen[string(r.Value)]++
				}
				mu.Unlock()
				if len(records) > 0 {
					if err := claim.Commit(f.Offset()); err != nil {
						t.Logf("%s: %v", name, err)
					}
				}
			}
		})
	}
	start := func(name string) (stop func()) {
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- member(ctx, name) }()
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	shared := func(names ...string) func() error {
		return func() error {
			mu.Lock()
			defer mu.Unlock()
			got := slices.Sorted(maps.Values(owners))
			if len(got) != partitions || !slices.Equal(slices.Compact(got), names) {
				return fmt.Errorf("partitions are owned by %v", owners)
			}
			return nil
		}
	}
	stopFirst := start("first")
	Eventually(t, time.Minute, "the first member owning all", shared("first"))
	stopSecond := start("second")
	took := Eventually(t, time.Minute, "both members owning some", shared("first", "second"))
	t.Logf("a second member shared the work after %v", took.Round(10*time.Millisecond))
	if err := c.NewProducer(kafka.ProducerConfig{}).Produce(ctx, topic, numbered(n/2, n)...); err != nil {
		t.Fatal(err)
	}
	stopFirst()
	Eventually(t, time.Minute, "the second member owning all", shared("second"))
	Eventually(t, time.Minute, "every record read", func() error {
		if got := total(); got != n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
	stopSecond()

	// Nothing is left for a later member.
	mu.Lock()
	twice := 0
	for _, times := range seen {
		twice += times - 1
	}
	clear(seen)
	clear(owners)
	mu.Unlock()
	if err := c.NewProducer(kafka.ProducerConfig{}).Produce(ctx, topic, kafka.Record{Value: []byte("last")}); err != nil {
		t.Fatal(err)
	}
	stopThird := start("third")
	Eventually(t, time.Minute, "the last record read", func() error {
		if total() != 1 {
			return fmt.Errorf("%d records read", total())
		}
		return nil
	})
	stopThird()
	t.Logf("%d records read by two members in turn, %d of them again after a rebalance; a third found only the new one", n, twice)
}
