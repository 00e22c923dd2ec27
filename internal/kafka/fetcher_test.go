package kafka_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
)

func TestFetch(t *testing.T) {
	e := setup(t, 2)
	at := time.UnixMilli(1_700_000_000_123)
	sent := []kafka.Record{
		{Key: []byte("k"), Value: []byte("v"), Time: at, Headers: []kafka.Header{{Key: "a", Value: []byte("1")}, {Key: "b"}}},
		{Key: []byte("k"), Value: nil, Time: at.Add(-time.Hour)},
		{Key: []byte{}, Value: []byte{}, Time: at},
	}
	if err := e.cluster.NewProducer(kafka.ProducerConfig{}).ProduceTo(testContext(t), topic, 1, sent); err != nil {
		t.Fatal(err)
	}
	f := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: 1, Offset: -1, MaxWait: 50 * time.Millisecond})
	if f.Offset() != -1 || f.HighWatermark() != -1 {
		t.Errorf("before the first fetch: offset %d, high watermark %d", f.Offset(), f.HighWatermark())
	}
	got := fetchAll(t, f, 3)
	for i, r := range got {
		want := sent[i]
		want.Topic, want.Partition, want.Offset = topic, 1, int64(i)
		want.ProducerID, want.ProducerEpoch = -1, -1
		if fmt.Sprintf("%#v", r) != fmt.Sprintf("%#v", want) {
			t.Errorf("record %d: %#v, want %#v", i, r, want)
		}
	}
	if f.Offset() != 3 || f.HighWatermark() != 3 {
		t.Errorf("at the end: offset %d, high watermark %d", f.Offset(), f.HighWatermark())
	}
	records, err := f.Fetch(testContext(t))
	if len(records) > 0 || err != nil {
		t.Errorf("past the end: %d records, %v", len(records), err)
	}
	if got := values(fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: 1, Offset: 2}), 3)); got != "" {
		t.Errorf("from offset 2: %q", got)
	}
}

func TestFetchReadsEveryCodec(t *testing.T) {
	for name, codec := range map[string]kgo.CompressionCodec{
		"gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		t.Run(name, func(t *testing.T) {
			e := setup(t, 1)
			cl := e.kgo(t, kgo.ProducerBatchCompression(codec))
			var foreign []*kgo.Record
			for i := range 500 {
				foreign = append(foreign, &kgo.Record{Value: fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", i))})
			}
			if err := cl.ProduceSync(testContext(t), foreign...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			ours, err := kafka.ParseCompression(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.cluster.NewProducer(kafka.ProducerConfig{Compression: ours}).Produce(testContext(t), topic, numbered(0, 500)...); err != nil {
				t.Fatal(err)
			}
			got := fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, MaxBytes: 10_000}), 1000)
			if len(got) != 1000 {
				t.Fatalf("%d records", len(got))
			}
			for i := range 500 {
				if !bytes.Equal(got[i].Value, foreign[i].Value) || string(got[500+i].Value) != fmt.Sprint(i) {
					t.Fatalf("record %d: %q and %q", i, got[i].Value, got[500+i].Value)
				}
			}
		})
	}
}

// What an upstream team's transactional producer aborted is never seen, nor
// are control records, and a trailing one does not stall the reader.
func TestFetchReadsCommittedOnly(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	transaction := func(cl *kgo.Client, commit kgo.TransactionEndTry, values ...string) {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if err := cl.ProduceSync(ctx, kgo.StringRecord(v)).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.EndTransaction(ctx, commit); err != nil {
			t.Fatal(err)
		}
	}
	a, b := e.kgo(t, kgo.TransactionalID("a")), e.kgo(t, kgo.TransactionalID("b"))
	plain := func(v string) { produce(t, e.cluster, kafka.Record{Value: []byte(v)}) }

	plain("1")
	transaction(a, kgo.TryAbort, "aborted", "aborted")
	transaction(a, kgo.TryCommit, "2", "3")
	// Two transactions that overlap, with other records between.
	for _, cl := range []*kgo.Client{a, b} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		cl    *kgo.Client
		value string
	}{{a, "aborted"}, {b, "4"}, {a, "aborted"}, {b, "5"}} {
		if err := step.cl.ProduceSync(ctx, kgo.StringRecord(step.value)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	plain("6")

	open := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, MaxWait: 20 * time.Millisecond})
	_, end, err := e.cluster.Offsets(ctx, topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := values(fetchAll(t, open, end)); got != "1 2 3" {
		t.Errorf("while transactions are open: %s", got)
	}
	if records, err := open.Fetch(ctx); len(records) > 0 || err != nil {
		t.Errorf("beyond the open transactions: %s, %v", values(records), err)
	}
	if open.HighWatermark() <= end {
		t.Errorf("high watermark %d, last stable offset %d", open.HighWatermark(), end)
	}

	if err := a.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	if err := b.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	transaction(b, kgo.TryAbort, "aborted")
	_, end, err = e.cluster.Offsets(ctx, topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := values(fetchAll(t, open, end)); got != "4 5 6" {
		t.Errorf("when they have ended: %s", got)
	}
	// From every offset, with every size of request, the same is seen.
	all := fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}), end)
	if got := values(all); got != "1 2 3 4 5 6" {
		t.Errorf("from the start: %s", got)
	}
	for from := range end {
		var want []kafka.Record
		for _, r := range all {
			if r.Offset >= from {
				want = append(want, r)
			}
		}
		for _, size := range []int{1, 100, 1 << 20} {
			f := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Offset: from, MaxBytes: size, MaxWait: time.Millisecond})
			if got := values(fetchAll(t, f, end)); got != values(want) {
				t.Errorf("from %d by %d bytes: %q, want %q", from, size, got, values(want))
			}
			if f.Offset() != end {
				t.Errorf("from %d: offset %d, want %d", from, f.Offset(), end)
			}
		}
	}
}

func TestFetchReadsBatchesLargerThanAsked(t *testing.T) {
	e := setup(t, 1)
	want := bytes.Repeat([]byte("large "), 100_000)
	produce(t, e.cluster, kafka.Record{Value: want}, kafka.Record{Value: []byte("next")})
	got := fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, MaxBytes: 100}), 2)
	if len(got) != 2 || !bytes.Equal(got[0].Value, want) {
		t.Errorf("%d records", len(got))
	}
}

func TestFetchOutsideTheLog(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	for i := range 10 {
		produce(t, e.cluster, numbered(i, i+1)...)
	}
	deleted := kmsg.NewPtrDeleteRecordsRequest()
	deleted.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 0, Offset: 4}}}}
	deleted.TimeoutMillis = 1000
	if _, err := deleted.RequestWith(ctx, e.kgo(t)); err != nil {
		t.Fatal(err)
	}
	first := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Offset: -1})
	if got := values(fetchAll(t, first, 10)); got != "4 5 6 7 8 9" {
		t.Errorf("from the first record: %s", got)
	}
	if n := e.metric(t, "churn_kafka_offset_resets_total"); n != 0 {
		t.Errorf("%v resets counted for a start at the first record", n)
	}
	before := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Offset: 1})
	if got := values(fetchAll(t, before, 10)); got != "4 5 6 7 8 9" {
		t.Errorf("from before the log: %s", got)
	}
	beyond := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Offset: 1000, MaxWait: time.Millisecond})
	if records, err := beyond.Fetch(ctx); len(records) > 0 || err != nil {
		t.Errorf("from beyond the log: %s, %v", values(records), err)
	}
	if beyond.Offset() != 10 {
		t.Errorf("offset %d, want the end, 10", beyond.Offset())
	}
	if n := e.metric(t, "churn_kafka_offset_resets_total"); n != 2 {
		t.Errorf("%v resets counted, want 2", n)
	}
	if !strings.Contains(e.log.String(), "offset is outside the log") {
		t.Error("no log line")
	}
}

// fakeFetch lets answer change or replace the broker's answers to fetches.
func fakeFetch(e *env, answer func(req *kmsg.FetchRequest) *kmsg.FetchResponse) {
	e.broker.Cluster().ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		e.broker.Cluster().KeepControl()
		res := answer(req.(*kmsg.FetchRequest))
		if res == nil {
			return nil, nil, false
		}
		return res, nil, true
	})
}

func fetchResponse(req *kmsg.FetchRequest, code int16, batches []byte) *kmsg.FetchResponse {
	res := req.ResponseKind().(*kmsg.FetchResponse)
	p := kmsg.NewFetchResponseTopicPartition()
	p.ErrorCode, p.HighWatermark, p.RecordBatches = code, 1000, batches
	rt := kmsg.NewFetchResponseTopic()
	rt.Topic, rt.Partitions = topic, []kmsg.FetchResponseTopicPartition{p}
	res.Topics = []kmsg.FetchResponseTopic{rt}
	return res
}

// rawBatch returns a batch of one record at base, of a log from which the
// records up to last were compacted away.
func rawBatch(base, last int64, value string) []byte {
	record := kmsg.Record{Value: []byte(value)}
	record.Length = int32(len(record.AppendTo(nil)) - 1)
	b := kmsg.RecordBatch{
		FirstOffset: base, Magic: 2, LastOffsetDelta: int32(last - base), ProducerID: -1, ProducerEpoch: -1,
		FirstSequence: -1, NumRecords: 1, Records: record.AppendTo(nil),
	}
	if value == "" { // compacted away altogether
		b.NumRecords, b.Records = 0, nil
	}
	b.Length = int32(len(b.AppendTo(nil)) - 12)
	data := b.AppendTo(nil)
	binary.BigEndian.PutUint32(data[17:], crc32.Checksum(data[21:], crc32.MakeTable(crc32.Castagnoli)))
	return data
}

// A compacted batch keeps its last offset when its last records are gone,
// and may be empty: the reader moves on.
func TestFetchMovesPastCompactionGaps(t *testing.T) {
	e := setup(t, 1)
	fakeFetch(e, func(req *kmsg.FetchRequest) *kmsg.FetchResponse {
		var batches []byte
		switch from := req.Topics[0].Partitions[0].FetchOffset; {
		case from < 10:
			batches = rawBatch(0, 9, "a")
		case from < 20:
			batches = rawBatch(10, 19, "")
		case from < 25:
			batches = append(rawBatch(20, 24, "b"), rawBatch(30, 39, "")...)
			batches = append(batches, rawBatch(40, 49, "cut off")[:40]...)
		case from < 50:
			batches = rawBatch(40, 49, "c")
		}
		return fetchResponse(req, 0, batches)
	})
	f := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic})
	if got := values(fetchAll(t, f, 50)); got != "a b c" || f.Offset() != 50 {
		t.Errorf("%s, offset %d", got, f.Offset())
	}
	if n := e.metric(t, "churn_kafka_retries_total"); n != 0 {
		t.Errorf("%v retries", n)
	}
}

func TestFetchRefusesCorruptBatches(t *testing.T) {
	e := setup(t, 1)
	answers := 0
	fakeFetch(e, func(req *kmsg.FetchRequest) *kmsg.FetchResponse {
		good, bad := rawBatch(0, 0, "good"), rawBatch(1, 1, "better")
		if answers++; answers < 4 {
			bad[len(bad)-3] ^= 1
		}
		if req.Topics[0].Partitions[0].FetchOffset == 0 {
			return fetchResponse(req, 0, append(good, bad...))
		}
		return fetchResponse(req, 0, bad)
	})
	got := fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}), 2)
	if values(got) != "good better" {
		t.Errorf("fetched %s", values(got))
	}
	if n := e.metric(t, "churn_kafka_corrupt_batches_total"); n != 2 {
		t.Errorf("%v corrupt batches counted, want 2", n)
	}
	if !strings.Contains(e.log.String(), "checksum") {
		t.Errorf("no log line: %s", e.log)
	}
}

// What cannot be read though its checksum is right never will be: it stands as
// one record among the others, and holds nobody up.
func TestFetchSetsUnreadableBatchesAside(t *testing.T) {
	e := setup(t, 1)
	small := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}, LargestBatch: 100_000, Registerer: e.metrics,
		Logger: slog.New(slog.NewTextHandler(e.log, nil))})
	large := kafka.Record{Value: make([]byte, 60_000)}
	produce(t, e.cluster, numbered(0, 1)...)
	for _, compression := range []kafka.Compression{kafka.Gzip, kafka.Snappy, kafka.LZ4, kafka.Zstd} {
		p := e.cluster.NewProducer(kafka.ProducerConfig{Compression: compression})
		if err := p.Produce(testContext(t), topic, large, large); err != nil {
			t.Fatal(err)
		}
	}
	produce(t, e.cluster, numbered(1, 2)...)

	got := fetchAll(t, small.NewFetcher(kafka.FetcherConfig{Topic: topic}), 10)
	if len(got) != 6 || string(got[0].Value) != "0" || string(got[5].Value) != "1" {
		t.Fatalf("%d records: %s", len(got), values(got))
	}
	for i, r := range got[1:5] {
		first := int64(1 + 2*i)
		switch u := r.Unreadable; {
		case u == nil || u.Err == nil || u.First != first || len(u.Batch) == 0:
			t.Errorf("record %d: %+v", i+1, u)
		case r.Offset != first+1 || r.Key != nil || r.Value == nil || len(r.Value) > 0:
			t.Errorf("record %d: offset %d, key %q, value %q", i+1, r.Offset, r.Key, r.Value)
		}
	}
	if n := e.metric(t, "churn_kafka_unreadable_batches_total"); n != 4 {
		t.Errorf("%v unreadable batches counted, want 4", n)
	}
	if n := e.metric(t, "churn_kafka_retries_total"); n != 0 {
		t.Errorf("%v retries", n)
	}

	// A batch that its producer made wrongly.
	fakeFetch(e, func(req *kmsg.FetchRequest) *kmsg.FetchResponse {
		batch := rawBatch(10, 12, "record")
		batch[61] = 0x7e // the record's length
		binary.BigEndian.PutUint32(batch[17:], crc32.Checksum(batch[21:], crc32.MakeTable(crc32.Castagnoli)))
		return fetchResponse(req, 0, batch)
	})
	got = fetchAll(t, small.NewFetcher(kafka.FetcherConfig{Topic: topic, Offset: 10}), 13)
	if len(got) != 1 || got[0].Offset != 12 || got[0].Unreadable == nil || got[0].Unreadable.First != 10 {
		t.Errorf("%+v", got)
	}
}

func TestFetchRetriesBrokerErrors(t *testing.T) {
	t.Parallel() // most of it is waiting
	e := setup(t, 1)
	produce(t, e.cluster, numbered(0, 1)...)
	var codes []int16
	fakeFetch(e, func(req *kmsg.FetchRequest) *kmsg.FetchResponse {
		if len(codes) == 0 {
			return nil
		}
		code := codes[0]
		codes = codes[1:]
		return fetchResponse(req, code, nil)
	})
	for _, codes = range [][]int16{
		{5, 6},      // LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER
		{9, 56},     // REPLICA_NOT_AVAILABLE, KAFKA_STORAGE_ERROR
		{75, -1, 1}, // UNKNOWN_LEADER_EPOCH, UNKNOWN_SERVER_ERROR, OFFSET_OUT_OF_RANGE though it is in range
	} {
		if got := values(fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}), 1)); got != "0" {
			t.Errorf("fetched %s", got)
		}
	}
	// A right that is missing may come, so it is waited for as long as the
	// caller does.
	ctx, giveUp := context.WithCancel(testContext(t))
	refusals := 0
	fakeFetch(e, func(req *kmsg.FetchRequest) *kmsg.FetchResponse {
		if refusals++; refusals == 3 {
			giveUp()
		}
		return fetchResponse(req, 29, nil) // TOPIC_AUTHORIZATION_FAILED
	})
	_, err := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}).Fetch(ctx)
	if !errors.Is(err, context.Canceled) || !errors.Is(err, kafkago.TopicAuthorizationFailed) {
		t.Errorf("error %v for a topic we may not read", err)
	}
}

func TestTail(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 3)
	if err := e.cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: "empty", Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	produce(t, e.cluster, numbered(0, 100)...)

	t.Run("from the start", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		seen := make(chan string, 1000)
		caughtUp := make(chan int, 2)
		ended := make(chan error)
		go func() {
			ended <- e.cluster.Tail(ctx, kafka.TailConfig{
				Topics:     []string{topic, "empty"},
				MaxWait:    10 * time.Millisecond,
				OnCaughtUp: func() { caughtUp <- len(seen) },
			}, func(_ context.Context, records []kafka.Record) error {
				if len(records) == 0 {
					t.Error("handler called with no records")
				}
				for _, r := range records {
					seen <- string(r.Value)
				}
				return nil
			})
		}()
		if n := <-caughtUp; n != 100 {
			t.Errorf("caught up after %d records", n)
		}
		produce(t, e.cluster, numbered(100, 110)...)
		eventually(t, "later records are seen", func() bool { return len(seen) == 110 })
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if len(caughtUp) > 0 {
			t.Error("caught up twice")
		}
	})
	t.Run("partitions that are added", func(t *testing.T) {
		if err := e.cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: "growing", Partitions: 1}); err != nil {
			t.Fatal(err)
		}
		for _, fromEnd := range []bool{false, true} {
			ctx, cancel := context.WithCancel(ctx)
			seen := make(chan int, 100)
			caughtUp := make(chan struct{}, 2)
			ended := make(chan error)
			go func() {
				ended <- e.cluster.Tail(ctx, kafka.TailConfig{
					Topics: []string{"growing"}, FromEnd: fromEnd, MaxWait: 10 * time.Millisecond, TopicsInterval: 10 * time.Millisecond,
					OnCaughtUp: func() { caughtUp <- struct{}{} },
				}, func(_ context.Context, records []kafka.Record) error {
					for _, r := range records {
						seen <- r.Partition
					}
					return nil
				})
			}()
			<-caughtUp
			n, err := e.cluster.Partitions(ctx, "growing")
			if err != nil {
				t.Fatal(err)
			}
			growTopic(t, e, "growing", n+2)
			// The last one's record may well come before it is noticed.
			if err := e.cluster.NewProducer(kafka.ProducerConfig{}).ProduceTo(ctx, "growing", n+1, []kafka.Record{{Value: []byte("x")}}); err != nil {
				t.Fatal(err)
			}
			if p := <-seen; p != n+1 {
				t.Errorf("a record of partition %d, want %d", p, n+1)
			}
			cancel()
			if err := <-ended; err != nil || len(caughtUp) > 0 {
				t.Errorf("%v, caught up %d times more", err, len(caughtUp))
			}
		}
	})
	t.Run("to the end", func(t *testing.T) {
		var seen atomic.Int32
		err := e.cluster.Tail(ctx, kafka.TailConfig{Topics: []string{topic, "empty"}, ToEnd: true}, func(_ context.Context, records []kafka.Record) error {
			seen.Add(int32(len(records)))
			return nil
		})
		if n := seen.Load(); err != nil || n != 110 {
			t.Errorf("%d records, %v", n, err)
		}
	})
	t.Run("spans", func(t *testing.T) {
		spans, err := e.cluster.Spans(ctx, topic)
		if err != nil || len(spans) != 3 {
			t.Fatalf("spans %v, %v", spans, err)
		}
		total := int64(0)
		for p, s := range spans {
			if s.Topic != topic || s.Partition != p || s.Start != 0 || s.End < 3 {
				t.Fatalf("span %+v of partition %d", s, p)
			}
			total += s.End
			s.Start, s.End = s.Start+1, s.End-1
			read, last := s.Start, int64(-1)
			err := e.cluster.Read(ctx, s, func(records []kafka.Record, next int64) error {
				for _, r := range records {
					if r.Partition != p || r.Offset != read {
						t.Errorf("offset %d of partition %d, want %d of %d", r.Offset, r.Partition, read, p)
					}
					read++
				}
				last = next
				return nil
			})
			if err != nil || read != s.End || last != s.End {
				t.Errorf("read %d of %+v, up to %d, %v", read, s, last, err)
			}
			if err := e.cluster.Read(ctx, s, func([]kafka.Record, int64) error { return io.EOF }); !errors.Is(err, io.EOF) {
				t.Errorf("error %v, want the caller's", err)
			}
		}
		if total != 110 {
			t.Errorf("%d records in all", total)
		}
		if err := e.cluster.Read(ctx, kafka.Span{Topic: topic, Start: 2, End: 2}, nil); err != nil {
			t.Errorf("an empty span: %v", err)
		}
		if _, err := e.cluster.Spans(ctx, "unknown"); !errors.Is(err, kafka.ErrUnknownTopic) {
			t.Errorf("error %v for an unknown topic", err)
		}
	})
	t.Run("from the end", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		caughtUp := make(chan struct{})
		seen := make(chan string, 1000)
		go e.cluster.Tail(ctx, kafka.TailConfig{
			Topics: []string{topic}, FromEnd: true, MaxWait: 10 * time.Millisecond, OnCaughtUp: func() { close(caughtUp) },
		}, func(_ context.Context, records []kafka.Record) error {
			seen <- values(records)
			return nil
		})
		<-caughtUp
		produce(t, e.cluster, kafka.Record{Value: []byte("new")})
		if got := <-seen; got != "new" {
			t.Errorf("first seen %q", got)
		}
	})
	t.Run("until the handler fails", func(t *testing.T) {
		bad := errors.New("bad")
		err := e.cluster.Tail(ctx, kafka.TailConfig{Topics: []string{topic}}, func(context.Context, []kafka.Record) error { return bad })
		if !errors.Is(err, bad) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("of a topic that is not there", func(t *testing.T) {
		err := e.cluster.Tail(ctx, kafka.TailConfig{Topics: []string{topic, "typo"}}, nil)
		if !errors.Is(err, kafka.ErrUnknownTopic) {
			t.Errorf("error %v", err)
		}
	})
}

// After a real compaction and a restart nothing is lost but what was
// superseded.
func TestFetchAfterCompaction(t *testing.T) {
	ctx := testContext(t)
	e := setupBroker(t, 1, embedded.BrokerConfig{CompactionInterval: 10 * time.Millisecond})
	if err := e.cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: "compacted", Partitions: 1, Configs: map[string]string{"cleanup.policy": "compact"}}); err != nil {
		t.Fatal(err)
	}
	p := e.cluster.NewProducer(kafka.ProducerConfig{})
	for round := range 3 {
		var records []kafka.Record
		for _, k := range []string{"a", "b", "c"} {
			records = append(records, kafka.Record{Key: []byte(k), Value: fmt.Appendf(nil, "%s%d", k, round)})
		}
		if round == 1 {
			records = records[:2] // the last record of the first batch stays, those before it go
		}
		if err := p.Produce(ctx, "compacted", records...); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "superseded records are gone", func() bool {
		f := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: "compacted", MaxWait: time.Millisecond})
		return values(fetchAll(t, f, 8)) == "c0 a1 b1 a2 b2 c2"
	})
}
