package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/kafka"
)

func fence(t *testing.T, c *kafka.Cluster) *kafka.FencedProducer {
	t.Helper()
	p, err := c.Fence(testContext(t), kafka.FenceConfig{TransactionalID: "g-0", Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func appendTo(t *testing.T, p *kafka.FencedProducer, want int64, records ...kafka.Record) {
	t.Helper()
	base, err := p.Append(testContext(t), records)
	if err != nil || base != want {
		t.Fatalf("appended at %d, %v; want at %d", base, err, want)
	}
}

func TestFormerOwnerIsRefused(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	former := fence(t, e.cluster)
	appendTo(t, former, 0, numbered(0, 3)...)

	// Another process takes over; its first append is what shuts the former
	// owner out.
	owner := fence(t, connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}}))
	appendTo(t, owner, 3, kafka.Record{Value: []byte("marker")})
	for range 2 {
		if _, err := former.Append(ctx, numbered(3, 4)); !errors.Is(err, kafka.ErrFenced) {
			t.Errorf("the former owner's append: %v", err)
		}
	}
	appendTo(t, owner, 4, numbered(4, 6)...)
	if got := values(fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}), 6)); got != "0 1 2 marker 4 5" {
		t.Errorf("stored %s", got)
	}
	// Other transactional ids are not concerned.
	if p, err := e.cluster.Fence(ctx, kafka.FenceConfig{TransactionalID: "g-1", Topic: topic}); err != nil {
		t.Error(err)
	} else {
		appendTo(t, p, 6, numbered(6, 7)...)
	}
}

// lossyProxy passes bytes between clients and a broker, and drops the
// connection instead of passing the answer to every other produce request on:
// the broker has stored a batch, and the client does not know.
type lossyProxy struct {
	net.Listener
	dropped atomic.Int32
}

// The records a lost acknowledgement makes a producer send again are stored
// once.
func TestRepeatedBatchIsStoredOnce(t *testing.T) {
	t.Parallel() // most of it is waiting
	e := setup(t, 1)
	p := fence(t, e.cluster)
	proxy := &lossyProxy{}
	cluster := proxy.connect(t, e)
	lossy, err := cluster.Fence(testContext(t), kafka.FenceConfig{TransactionalID: "g-0", Topic: topic, MaxBatchBytes: 500})
	if err != nil {
		t.Fatal(err)
	}
	base := int64(0)
	for i := range 5 {
		appendTo(t, lossy, base, numbered(20*i, 20*i+20)...)
		base += 20
	}
	if _, err := p.Append(testContext(t), numbered(0, 1)); !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("the former owner's append: %v", err)
	}
	if n := proxy.dropped.Load(); n < 5 {
		t.Fatalf("%d acknowledgements were lost, the test tests nothing", n)
	}
	got := fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}), 100)
	if len(got) != 100 {
		t.Fatalf("%d records stored, want 100", len(got))
	}
	for i, r := range got {
		if string(r.Value) != fmt.Sprint(i) {
			t.Fatalf("record %d is %s", i, r.Value)
		}
	}
}

// connect starts the proxy in front of e's broker and returns a cluster that
// talks through it. The broker's metadata is made to name the proxy.
func (x *lossyProxy) connect(t *testing.T, e *env) *kafka.Cluster {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			go x.serve(client, e.broker.Addr(), ln.Addr().(*net.TCPAddr).Port)
		}
	}()
	return connect(t, kafka.Config{Brokers: []string{ln.Addr().String()}})
}

func (x *lossyProxy) serve(client net.Conn, broker string, port int) {
	defer client.Close()
	server, err := net.Dial("tcp", broker)
	if err != nil {
		return
	}
	defer server.Close()
	for {
		req, err := readFrame(client)
		if err != nil {
			return
		}
		if _, err := server.Write(req); err != nil {
			return
		}
		res, err := readFrame(server)
		if err != nil {
			return
		}
		key, version := int16(req[4])<<8|int16(req[5]), int16(req[6])<<8|int16(req[7])
		switch key {
		case int16(kmsg.Produce):
			if x.dropped.Add(1)%2 == 1 {
				return
			}
		case int16(kmsg.Metadata):
			meta := kmsg.NewPtrMetadataResponse()
			meta.Version = version
			if meta.ReadFrom(res[8:]) == nil {
				for i := range meta.Brokers {
					meta.Brokers[i].Port = int32(port)
				}
				res = frame(res[4:8], meta.AppendTo(nil))
			}
		case int16(kmsg.FindCoordinator):
			found := kmsg.NewPtrFindCoordinatorResponse()
			found.Version = version
			if found.ReadFrom(res[8:]) == nil {
				found.Port = int32(port)
				res = frame(res[4:8], found.AppendTo(nil))
			}
		}
		if _, err := client.Write(res); err != nil {
			return
		}
	}
}

// readFrame reads a request or response with its size.
func readFrame(r io.Reader) ([]byte, error) {
	size := make([]byte, 4)
	if _, err := io.ReadFull(r, size); err != nil {
		return nil, err
	}
	n := int(size[0])<<24 | int(size[1])<<16 | int(size[2])<<8 | int(size[3])
	data := append(size, make([]byte, n)...)
	_, err := io.ReadFull(r, data[4:])
	return data, err
}

func frame(head, body []byte) []byte {
	n := len(head) + len(body)
	out := []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	return append(append(out, head...), body...)
}

func TestAppendSplitsAndKeepsOrder(t *testing.T) {
	e := setup(t, 1)
	p, err := e.cluster.Fence(testContext(t), kafka.FenceConfig{TransactionalID: "g-0", Topic: topic, Compression: kafka.LZ4, MaxBatchBytes: 200})
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, p, -1)
	appendTo(t, p, 0, numbered(0, 50)...)
	appendTo(t, p, 50, numbered(50, 100)...)
	for i, r := range fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}), 100) {
		if string(r.Value) != fmt.Sprint(i) {
			t.Fatalf("record %d is %s", i, r.Value)
		}
	}
	// A refused record takes no sequence number.
	if _, err := p.Append(testContext(t), []kafka.Record{{Value: make([]byte, 3<<20)}}); err != nil {
		t.Fatal(err) // zeros compress well
	}
	e.broker.Cluster().ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		res := kreq.ResponseKind().(*kmsg.ProduceResponse)
		res.Topics = []kmsg.ProduceResponseTopic{{Topic: topic, Partitions: []kmsg.ProduceResponseTopicPartition{{ErrorCode: 10}}}}
		return res, nil, true
	})
	if _, err := p.Append(testContext(t), numbered(0, 1)); !errors.Is(err, kafka.ErrTooLarge) {
		t.Errorf("error %v", err)
	}
	appendTo(t, p, 101, numbered(0, 1)...)
}

func TestAppendErrors(t *testing.T) {
	for code, want := range map[int16]error{
		45: kafka.ErrOutOfSequence, // OUT_OF_ORDER_SEQUENCE_NUMBER
		46: kafka.ErrOutOfSequence, // DUPLICATE_SEQUENCE_NUMBER
		47: kafka.ErrFenced,        // INVALID_PRODUCER_EPOCH
		49: kafka.ErrOutOfSequence, // INVALID_PRODUCER_ID_MAPPING
		59: kafka.ErrOutOfSequence, // UNKNOWN_PRODUCER_ID
		90: kafka.ErrFenced,        // PRODUCER_FENCED
	} {
		t.Run(want.Error(), func(t *testing.T) {
			e := setup(t, 1)
			p := fence(t, e.cluster)
			appendTo(t, p, 0, numbered(0, 1)...)
			e.broker.Cluster().ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
				res := kreq.ResponseKind().(*kmsg.ProduceResponse)
				res.Topics = []kmsg.ProduceResponseTopic{{Topic: topic, Partitions: []kmsg.ProduceResponseTopicPartition{{ErrorCode: code}}}}
				return res, nil, true
			})
			// Once broken it stays broken, though the broker would take
			// the next append.
			for range 2 {
				if _, err := p.Append(testContext(t), numbered(1, 2)); !errors.Is(err, want) {
					t.Errorf("code %d: error %v, want %v", code, err, want)
				}
			}
			appendTo(t, fence(t, e.cluster), 1, numbered(1, 2)...)
		})
	}
}

// A record of another producer between two of ours is noticed.
func TestAppendNoticesForeignRecords(t *testing.T) {
	e := setup(t, 1)
	p, err := e.cluster.Fence(testContext(t), kafka.FenceConfig{TransactionalID: "g-0", Topic: topic, MaxBatchBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	foreign := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}})
	var requests atomic.Int32
	e.broker.Cluster().ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		e.broker.Cluster().KeepControl()
		if requests.Add(1) == 2 {
			e.broker.Cluster().SleepControl(func() { produce(t, foreign, kafka.Record{Value: []byte("foreign")}) })
		}
		return nil, nil, false
	})
	if _, err := p.Append(testContext(t), numbered(0, 3)); !errors.Is(err, kafka.ErrOutOfSequence) {
		t.Errorf("error %v", err)
	}
}

func TestFenceRetriesCoordinatorErrors(t *testing.T) {
	t.Parallel() // most of it is waiting
	e := setup(t, 1)
	codes := []int16{
		14, // COORDINATOR_LOAD_IN_PROGRESS
		15, // COORDINATOR_NOT_AVAILABLE
		16, // NOT_COORDINATOR
		51, // CONCURRENT_TRANSACTIONS
		53, // TRANSACTIONAL_ID_AUTHORIZATION_FAILED, until somebody allows it
	}
	e.broker.Cluster().ControlKey(int16(kmsg.InitProducerID), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		e.broker.Cluster().KeepControl()
		if len(codes) == 0 {
			return nil, nil, false
		}
		res := kreq.ResponseKind().(*kmsg.InitProducerIDResponse)
		res.ErrorCode, codes = codes[0], codes[1:]
		return res, nil, true
	})
	appendTo(t, fence(t, e.cluster), 0, numbered(0, 1)...)
	codes = []int16{42} // INVALID_REQUEST
	if _, err := e.cluster.Fence(testContext(t), kafka.FenceConfig{TransactionalID: "x", Topic: topic}); err == nil {
		t.Error("no error for a request that the broker does not understand")
	}
}

func TestRenew(t *testing.T) {
	e := setup(t, 1)
	ctx := testContext(t)
	p := fence(t, e.cluster)
	appendTo(t, p, 0, numbered(0, 3)...)
	for i := range int64(3) {
		if err := p.Renew(ctx); err != nil {
			t.Fatal(err)
		}
		appendTo(t, p, 3+2*i, numbered(3, 5)...)
	}
	// That a former owner cannot renew, the real broker has to show.
	e.broker.Cluster().ControlKey(int16(kmsg.InitProducerID), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		res := kreq.ResponseKind().(*kmsg.InitProducerIDResponse)
		res.ErrorCode = 90 // PRODUCER_FENCED
		return res, nil, true
	})
	if err := p.Renew(ctx); !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("a former owner renews: %v", err)
	}
	if _, err := p.Append(ctx, numbered(0, 1)); !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("and writes: %v", err)
	}
}

func TestAppendEndsWithTheContext(t *testing.T) {
	e := setup(t, 1)
	p := fence(t, e.cluster)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Append(ctx, numbered(0, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	// Whether it was stored is not known: nothing more may follow it.
	if _, err := p.Append(t.Context(), numbered(1, 2)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// Who wrote a record can be seen in it, also after compaction.
func TestRecordsNameTheirProducer(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	if err := e.cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: "compacted", Partitions: 1, Configs: map[string]string{"cleanup.policy": "compact"}}); err != nil {
		t.Fatal(err)
	}
	var ids []int64
	for _, id := range []string{"g-0", "g-1"} {
		p, err := e.cluster.Fence(ctx, kafka.FenceConfig{TransactionalID: id, Topic: "compacted"})
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range []string{"old", "new"} {
			if _, err := p.Append(ctx, []kafka.Record{{Key: []byte(id), Value: []byte(value)}, {Key: []byte(id + value), Value: []byte(value)}}); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, p.ProducerID())
	}
	if err := e.cluster.NewProducer(kafka.ProducerConfig{}).Produce(ctx, "compacted", kafka.Record{Key: []byte("x"), Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	e.broker.Cluster().Compact()
	records := fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: "compacted"}), 7)
	for i, want := range []int64{ids[0], ids[0], ids[0], ids[1], ids[1], ids[1], -1} {
		if r := records[i]; r.ProducerID != want || (r.ProducerEpoch < 0) != (want < 0) {
			t.Errorf("%s at offset %d is of producer %d, epoch %d; want %d", r.Key, r.Offset, r.ProducerID, r.ProducerEpoch, want)
		}
	}
}
