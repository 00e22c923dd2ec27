package kafka_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/certificates"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
)

const topic = "churn.test"

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// env is a broker, a cluster connected to it, and what the cluster logs and
// counts.
type env struct {
	broker  *embedded.Broker
	cluster *kafka.Cluster
	metrics *prometheus.Registry
	log     *logBuffer
}

// logBuffer is what several goroutines log.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// setup starts a broker with a topic of so many partitions.
func setup(t testing.TB, partitions int) *env {
	return setupBroker(t, partitions, embedded.BrokerConfig{})
}

func setupBroker(t testing.TB, partitions int, cfg embedded.BrokerConfig) *env {
	t.Helper()
	broker, err := embedded.StartBroker(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	e := &env{broker: broker, metrics: prometheus.NewRegistry(), log: &logBuffer{}}
	e.cluster = connect(t, kafka.Config{
		Brokers:    []string{broker.Addr()},
		Logger:     slog.New(slog.NewTextHandler(e.log, nil)),
		Registerer: e.metrics,
	})
	if err := e.cluster.EnsureTopics(testContext(t), kafka.TopicConfig{Name: topic, Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
	return e
}

func connect(t testing.TB, cfg kafka.Config) *kafka.Cluster {
	t.Helper()
	c, err := kafka.Connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (e *env) kgo(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(e.broker.Addr()), kgo.DefaultProduceTopic(topic)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// metric returns a metric's sum over its labels.
func (e *env) metric(t testing.TB, name string) float64 {
	t.Helper()
	families, err := e.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func produce(t testing.TB, c *kafka.Cluster, records ...kafka.Record) {
	t.Helper()
	if err := c.NewProducer(kafka.ProducerConfig{}).Produce(testContext(t), topic, records...); err != nil {
		t.Fatal(err)
	}
}

// numbered returns records with the values from to to−1.
func numbered(from, to int) []kafka.Record {
	var records []kafka.Record
	for i := from; i < to; i++ {
		records = append(records, kafka.Record{Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Append(nil, i)})
	}
	return records
}

// fetchAll fetches until the fetcher's offset has reached end.
func fetchAll(t testing.TB, f *kafka.Fetcher, end int64) []kafka.Record {
	t.Helper()
	ctx := testContext(t)
	var all []kafka.Record
	for f.Offset() < end {
		records, err := f.Fetch(ctx)
		if err != nil {
			t.Fatalf("at offset %d of %d: %v", f.Offset(), end, err)
		}
		all = append(all, clone(records)...)
	}
	return all
}

// clone copies records beyond the life of their fetch.
func clone(records []kafka.Record) []kafka.Record {
	var out []kafka.Record
	for _, r := range records {
		r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
		var headers []kafka.Header
		for _, h := range r.Headers {
			headers = append(headers, kafka.Header{Key: h.Key, Value: bytes.Clone(h.Value)})
		}
		r.Headers = headers
		out = append(out, r)
	}
	return out
}

func values(records []kafka.Record) string {
	var s []string
	for _, r := range records {
		s = append(s, string(r.Value))
	}
	return strings.Join(s, " ")
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	await.Until(t, what, condition)
}

func TestConnectRefuses(t *testing.T) {
	for _, brokers := range [][]string{nil, {"localhost"}, {"localhost:kafka"}, {"a:1", "b"}} {
		if _, err := kafka.Connect(kafka.Config{Brokers: brokers}); err == nil {
			t.Errorf("brokers %q were accepted", brokers)
		}
	}
}

func TestEnsureTopics(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 3)
	other := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}})

	if n, err := other.Partitions(ctx, topic); n != 3 || err != nil {
		t.Errorf("%d partitions, %v", n, err)
	}
	// What exists is left alone, what does not is created, and its config
	// arrives.
	err := e.cluster.EnsureTopics(ctx,
		kafka.TopicConfig{Name: topic, Partitions: 5},
		kafka.TopicConfig{Name: "churn.models", Partitions: 1, Replication: 1, Configs: map[string]string{"max.message.bytes": "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := other.Partitions(ctx, topic); n != 3 || err != nil {
		t.Errorf("%d partitions afterwards, %v", n, err)
	}
	if !strings.Contains(e.log.String(), "another number of partitions") {
		t.Errorf("no warning of the other number of partitions: %s", e.log)
	}
	err = other.NewProducer(kafka.ProducerConfig{}).Produce(ctx, "churn.models", kafka.Record{Value: make([]byte, 2000)})
	if !errors.Is(err, kafka.ErrTooLarge) {
		t.Errorf("the topic's limit is not in force: %v", err)
	}
	if _, err := other.Partitions(ctx, "churn.typo"); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("unknown topic: %v", err)
	}
	if err := e.cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: "three.replicas", Replication: 3}); err == nil {
		t.Error("more replicas than brokers were accepted")
	}
}

func TestOffsets(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	if first, end, err := e.cluster.Offsets(ctx, topic, 0); first != 0 || end != 0 || err != nil {
		t.Errorf("empty partition: %d to %d, %v", first, end, err)
	}
	produce(t, e.cluster, numbered(0, 7)...)
	if first, end, err := e.cluster.Offsets(ctx, topic, 0); first != 0 || end != 7 || err != nil {
		t.Errorf("after 7 records: %d to %d, %v", first, end, err)
	}
	if _, _, err := e.cluster.Offsets(ctx, topic, 1); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("no such partition: %v", err)
	}
}

// Everything works against a cluster that asks for TLS and a password.
func TestTLSAndSASL(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			ctx := testContext(t)
			broker, err := embedded.StartBroker(embedded.BrokerConfig{Options: []kfake.Opt{
				kfake.TLS(serverTLS), kfake.EnableSASL(), kfake.Superuser(mechanism, "user", "secret"),
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer broker.Close()
			login, err := kafka.SASL(strings.ToLower(mechanism), "user", "secret")
			if err != nil {
				t.Fatal(err)
			}
			c := connect(t, kafka.Config{Brokers: []string{broker.Addr()}, TLS: clientTLS, SASL: login})
			if err := c.EnsureTopics(ctx, kafka.TopicConfig{Name: topic, Partitions: 1}); err != nil {
				t.Fatal(err)
			}
			produce(t, c, numbered(0, 3)...)
			done := errors.New("done")
			err = c.Consume(ctx, kafka.GroupConfig{Group: "g", Topics: []string{topic}}, func(ctx context.Context, claim *kafka.Claim) error {
				if got := values(fetchAll(t, c.NewFetcher(kafka.FetcherConfig{Topic: topic}), 3)); got != "0 1 2" {
					t.Errorf("fetched %s", got)
				}
				return done
			})
			if !errors.Is(err, done) {
				t.Error(err)
			}

			wrong, err := kafka.SASL(mechanism, "user", "guess")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(ctx)
			var log logBuffer
			guesser := connect(t, kafka.Config{
				Brokers: []string{broker.Addr()}, TLS: clientTLS, SASL: wrong, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			ended := make(chan error)
			go func() {
				_, err := guesser.Partitions(ctx, topic)
				ended <- err
			}()
			eventually(t, "the log names the credentials", func() bool { return strings.Contains(log.String(), "credentials") })
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("wrong password: %v", err)
			}
		})
	}
	if _, err := kafka.SASL("kerberos", "u", "p"); err == nil {
		t.Error("unknown mechanism was accepted")
	}
}

func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	authority, err := certificates.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Server("broker")
	if err != nil {
		t.Fatal(err)
	}
	if server, err = authority.Demanding(pair); err != nil {
		t.Fatal(err)
	}
	server.ClientAuth = tls.NoClientCert
	return server, &tls.Config{RootCAs: authority.Pool()}
}

func TestOperationsWaitForTheCluster(t *testing.T) {
	t.Parallel() // most of it is waiting
	ctx := testContext(t)
	dir := t.TempDir()
	e := setupBroker(t, 1, embedded.BrokerConfig{Dir: dir})
	produce(t, e.cluster, numbered(0, 2)...)
	fetcher := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, MaxWait: 10 * time.Millisecond})
	fetchAll(t, fetcher, 2)
	fenced, err := e.cluster.Fence(ctx, kafka.FenceConfig{TransactionalID: "id", Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	e.broker.Close()

	var group sync.WaitGroup
	var fetched []kafka.Record
	group.Go(func() { fetched = fetchAll(t, fetcher, 4) })
	group.Go(func() { produce(t, e.cluster, numbered(2, 3)...) })
	group.Go(func() {
		if _, err := fenced.Append(ctx, numbered(2, 3)); err != nil {
			t.Error(err)
		}
	})
	group.Go(func() {
		if _, err := e.cluster.Partitions(ctx, topic); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "four operations are being retried", func() bool { return e.metric(t, "churn_kafka_retrying") == 4 })
	broker, err := embedded.StartBroker(embedded.BrokerConfig{Addr: e.broker.Addr(), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	group.Wait()
	if got := values(fetched); got != "2 2" {
		t.Errorf("fetched %q after the outage", got)
	}
	eventually(t, "nothing is being retried", func() bool { return e.metric(t, "churn_kafka_retrying") == 0 })
	if n := e.metric(t, "churn_kafka_retries_total"); n < 4 {
		t.Errorf("%v retries counted", n)
	}
}

func TestOperationsEndWithTheContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // nobody listens there
	down := connect(t, kafka.Config{Brokers: []string{ln.Addr().String()}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for name, operation := range map[string]func() error{
		"EnsureTopics": func() error { return down.EnsureTopics(ctx, kafka.TopicConfig{Name: topic}) },
		"Partitions":   func() error { _, err := down.Partitions(ctx, topic); return err },
		"Offsets":      func() error { _, _, err := down.Offsets(ctx, topic, 0); return err },
		"Fetch": func() error {
			_, err := down.NewFetcher(kafka.FetcherConfig{Topic: topic}).Fetch(ctx)
			return err
		},
		"Produce": func() error { return down.NewProducer(kafka.ProducerConfig{}).Produce(ctx, topic, numbered(0, 1)...) },
		"ProduceTo": func() error {
			return down.NewProducer(kafka.ProducerConfig{}).ProduceTo(ctx, topic, 0, numbered(0, 1))
		},
		"Fence": func() error {
			_, err := down.Fence(ctx, kafka.FenceConfig{TransactionalID: "id", Topic: topic})
			return err
		},
	} {
		if err := operation(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if err := down.Tail(ctx, kafka.TailConfig{Topics: []string{topic}}, nil); err != nil {
		t.Errorf("Tail: error %v", err)
	}
	if err := down.Consume(ctx, kafka.GroupConfig{Group: "g", Topics: []string{topic}}, nil); err != nil {
		t.Errorf("Consume: error %v", err)
	}
}

// A fetch that waits for records ends at once when its context does.
func TestFetchIsInterrupted(t *testing.T) {
	e := setup(t, 1)
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error)
	go func() {
		_, err := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, MaxWait: time.Hour}).Fetch(ctx)
		done <- err
	}()
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("still fetching")
	}
}

func TestMetricsAreClean(t *testing.T) {
	e := setup(t, 1)
	produce(t, e.cluster, numbered(0, 3)...)
	fetchAll(t, e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}), 3)
	problems, err := testutil.GatherAndLint(e.metrics)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	for name, want := range map[string]float64{"churn_kafka_fetched_records_total": 3, "churn_kafka_produced_records_total": 3, "churn_kafka_retrying": 0} {
		if got := e.metric(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	// A second cluster of the process shares the metrics.
	again := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}, Registerer: e.metrics})
	produce(t, again, numbered(0, 1)...)
	if got := e.metric(t, "churn_kafka_produced_records_total"); got != 4 {
		t.Errorf("%v records counted, want 4", got)
	}
}

// A partition without a leader does not keep the others from their work.
func TestLeaderlessPartition(t *testing.T) {
	t.Parallel() // most of it is waiting
	ctx := testContext(t)
	e := setup(t, 2)
	if err := e.cluster.NewProducer(kafka.ProducerConfig{}).ProduceTo(ctx, topic, 0, numbered(0, 3)); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(e.broker.Addr())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	e.broker.Cluster().ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		e.broker.Cluster().KeepControl()
		res := req.ResponseKind().(*kmsg.MetadataResponse)
		broker := kmsg.NewMetadataResponseBroker()
		broker.NodeID, broker.Host, broker.Port = 7, host, int32(number)
		res.Brokers = append(res.Brokers, broker)
		rt := kmsg.NewMetadataResponseTopic()
		rt.Topic = kmsg.StringPtr(topic)
		for i, leader := range []int32{7, -1} {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Leader = int32(i), leader
			if leader < 0 {
				p.ErrorCode = 5 // LEADER_NOT_AVAILABLE
			}
			rt.Partitions = append(rt.Partitions, p)
		}
		res.Topics = append(res.Topics, rt)
		return res, nil, true
	})
	cluster := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}})
	if n, err := cluster.Partitions(ctx, topic); n != 2 || err != nil {
		t.Errorf("%d partitions, %v", n, err)
	}
	if got := values(fetchAll(t, cluster.NewFetcher(kafka.FetcherConfig{Topic: topic}), 3)); got != "0 1 2" {
		t.Errorf("from the partition that has a leader: %s", got)
	}
	if err := cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: topic, Partitions: 2}); err != nil {
		t.Errorf("topics that are there: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Partition: 1}).Fetch(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("from the other: %v", err)
	}
}

// TestBrokerThatLagsBehind asks two brokers of which one does not know the
// topic: in whatever order they are asked, the other is believed.
func TestBrokerThatLagsBehind(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 3)
	behind, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer behind.Close()
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{behind.Addr(), e.broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	for range 30 {
		if n, err := cluster.Partitions(ctx, topic); n != 3 || err != nil {
			t.Fatalf("%d partitions, %v", n, err)
		}
	}
	if _, err := cluster.Partitions(ctx, "churn.typo"); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("a topic that neither knows: %v", err)
	}
}
