package kafka_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/retry"
)

// gauge returns the value of a metric of a reader's position in a partition of
// topic, and whether there is one.
func (e *env) positionMetric(t testing.TB, name, reader string, partition int) (float64, bool) {
	t.Helper()
	families, err := e.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["reader"] == reader && labels["topic"] == topic && labels["partition"] == fmt.Sprint(partition) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue(), true
			}
		}
	}
	return 0, false
}

func (e *env) expectPosition(t testing.TB, when, name string, partition int, want float64) {
	t.Helper()
	if got, ok := e.positionMetric(t, name, "reader", partition); !ok || got != want {
		t.Errorf("%s: %s of partition %d is %v, %t; want %v", when, name, partition, got, ok, want)
	}
}

func (e *env) look(t testing.TB) {
	t.Helper()
	if err := e.cluster.Look(testContext(t), topic); err != nil {
		t.Fatal(err)
	}
}

func TestLagIsWhatTheBrokerSays(t *testing.T) {
	e := setup(t, 2)
	e.look(t) // follows nothing yet
	producer := e.cluster.NewProducer(kafka.ProducerConfig{})
	if err := producer.ProduceTo(testContext(t), topic, 1, numbered(0, 10)); err != nil {
		t.Fatal(err)
	}
	position := e.cluster.Follow("reader", topic, 1, -1)
	other := e.cluster.Follow("reader", topic, 0, -1)
	defer other.Close()
	shown := prometheus.NewGauge(prometheus.GaugeOpts{})
	position.Show(shown)
	e.look(t)
	e.expectPosition(t, "before anything is read", "churn_lag_records", 1, 10)
	e.expectPosition(t, "nothing to read", "churn_lag_records", 0, 0)
	position.Advance(4)
	e.look(t)
	e.expectPosition(t, "read in part", "churn_lag_records", 1, 6)
	if err := producer.ProduceTo(testContext(t), topic, 1, numbered(10, 15)); err != nil {
		t.Fatal(err)
	}
	e.look(t)
	e.expectPosition(t, "though nothing is fetched", "churn_lag_records", 1, 11)
	if got := testutil.ToFloat64(shown); got != 11 {
		t.Errorf("the reader's own gauge shows %v", got)
	}
	position.Close()
	e.look(t)
	for _, name := range []string{"churn_lag_records", "churn_stuck_seconds", "churn_expiring_records"} {
		if _, there := e.positionMetric(t, name, "reader", 1); there {
			t.Errorf("%s has a partition that nobody follows", name)
		}
	}
	var none *kafka.Position // as outside of a group
	none.Advance(1)
	none.Show(shown)
	none.Close()
	if ctx := none.Watch(t.Context()); ctx != t.Context() {
		t.Error("a position that is none watches")
	}
}

func TestStandstill(t *testing.T) {
	e := setup(t, 1)
	e.cluster = connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}, Registerer: e.metrics, StuckAfter: time.Millisecond})
	if err := e.cluster.NewProducer(kafka.ProducerConfig{}).Produce(testContext(t), topic, numbered(0, 3)...); err != nil {
		t.Fatal(err)
	}
	position := e.cluster.Follow("reader", topic, 0, 0)
	defer position.Close()
	end := retry.Begin(position.Watch(t.Context()), "a schema nobody knows")
	var stuck []kafka.Standstill
	eventually(t, "a standstill", func() bool {
		e.look(t)
		stuck = e.cluster.Standstills()
		return len(stuck) > 0
	})
	s := stuck[0]
	if s.Reader != "reader" || s.Topic != topic || s.Partition != 0 || s.Offset != 0 || s.Lag != 3 || s.Why != "a schema nobody knows" {
		t.Errorf("standstill %+v", s)
	}
	if text := s.String(); !strings.Contains(text, topic+"/0 stands at offset 0 since ") || !strings.Contains(text, "3 records to go: a schema nobody knows") {
		t.Errorf("it says %q", text)
	}
	if got, _ := e.positionMetric(t, "churn_stuck_seconds", "reader", 0); got <= 0 {
		t.Errorf("stuck for %v s", got)
	}
	end()
	if stuck = e.cluster.Standstills(); stuck[0].Why != "" {
		t.Errorf("it still waits for %s", stuck[0].Why)
	}
	position.Advance(3)
	e.look(t)
	if stuck = e.cluster.Standstills(); len(stuck) > 0 {
		t.Errorf("at the end: %v", stuck)
	}
	e.expectPosition(t, "at the end", "churn_stuck_seconds", 0, 0)
}

// TestStandstillAtATransaction has a producer that never ends its transaction.
func TestStandstillAtATransaction(t *testing.T) {
	e := setup(t, 1)
	e.cluster = connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}, Registerer: e.metrics, StuckAfter: time.Millisecond})
	cl := e.kgo(t, kgo.TransactionalID("never-ends"))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(testContext(t), &kgo.Record{Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	go e.cluster.Tail(ctx, kafka.TailConfig{Topics: []string{topic}, Reader: "reader"}, func(context.Context, []kafka.Record) error { return nil })
	eventually(t, "the reason of the standstill", func() bool {
		e.look(t)
		stuck := e.cluster.Standstills()
		return len(stuck) > 0 && strings.Contains(stuck[0].Why, "transaction")
	})
}

func TestRecordsLostBeforeTheyAreRead(t *testing.T) {
	remove := func(t *testing.T, e *env, upTo int64) {
		t.Helper()
		if err := e.broker.Cluster().DeleteRecords(topic, 0, upTo); err != nil {
			t.Fatal(err)
		}
	}
	start := func(t *testing.T) *env {
		e := setup(t, 1)
		if err := e.cluster.NewProducer(kafka.ProducerConfig{}).Produce(testContext(t), topic, numbered(0, 100)...); err != nil {
			t.Fatal(err)
		}
		remove(t, e, 10)
		return e
	}
	t.Run("while the reader waits to begin", func(t *testing.T) {
		e := start(t)
		position := e.cluster.Follow("reader", topic, 0, -1)
		e.look(t)
		remove(t, e, 20)
		e.look(t)
		e.expectPosition(t, "not known where it stands", "churn_lost_records_total", 0, 0)
		position.Advance(-1)
		e.look(t)
		e.expectPosition(t, "nothing missed yet", "churn_lost_records_total", 0, 0)
		e.expectPosition(t, "nothing missed yet", "churn_lag_records", 0, 80)
		remove(t, e, 35)
		e.look(t)
		e.look(t)
		e.expectPosition(t, "retention ran", "churn_lost_records_total", 0, 15)
		e.expectPosition(t, "retention ran", "churn_lag_records", 0, 65)
		remove(t, e, 40) // and this before the next look
		f := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Offset: -1, Position: position})
		if got := fetchAll(t, f, 60); got[0].Offset != 40 {
			t.Errorf("reading began at %d", got[0].Offset)
		}
		e.expectPosition(t, "it began", "churn_lost_records_total", 0, 20)
		remove(t, e, 90) // fetched, if not dealt with
		e.look(t)
		e.expectPosition(t, "what was in hand", "churn_lost_records_total", 0, 20)
		if !strings.Contains(e.log.String(), "records left the log before they were read") {
			t.Errorf("the log says %s", e.log.String())
		}
	})
	t.Run("while the reader is away", func(t *testing.T) {
		e := start(t)
		position := e.cluster.Follow("reader", topic, 0, 30)
		position.Advance(30)
		remove(t, e, 50)
		f := e.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Offset: 30, Position: position})
		fetchAll(t, f, 50)
		e.look(t)
		e.expectPosition(t, "found by the reader itself", "churn_lost_records_total", 0, 20)
	})
}

func TestExpiringRecords(t *testing.T) {
	e := setup(t, 1)
	e.cluster = connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}, Registerer: e.metrics, ExpiryInterval: 1})
	set := func(name, value string) {
		t.Helper()
		cl := e.kgo(t)
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		r := kmsg.NewIncrementalAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = name, &value
		r.Configs = append(r.Configs, c)
		req.Resources = append(req.Resources, r)
		if _, err := req.RequestWith(testContext(t), cl); err != nil {
			t.Fatal(err)
		}
	}
	var records []kafka.Record
	for _, age := range []time.Duration{55 * time.Minute, 50 * time.Minute, 30 * time.Minute, time.Minute} {
		records = append(records, kafka.Record{Value: []byte("v"), Time: time.Now().Add(-age)})
	}
	producer := e.cluster.NewProducer(kafka.ProducerConfig{})
	for _, r := range records {
		if err := producer.Produce(testContext(t), topic, r); err != nil {
			t.Fatal(err)
		}
	}
	position := e.cluster.Follow("reader", topic, 0, 0)
	defer position.Close()
	for _, step := range []struct {
		name, setting, value string
		offset               int64
		want                 float64
	}{
		{"within an hour", "retention.ms", "3600000", 0, 2},
		{"one of them is read", "retention.ms", "3600000", 1, 1},
		{"within a day", "retention.ms", "86400000", 0, 0},
		{"all are old", "retention.ms", "61000", 0, 4},
		{"for ever", "retention.ms", "-1", 0, 0},
		{"compacted and deleted", "cleanup.policy", "compact,delete", 0, 0},
		{"both within an hour", "retention.ms", "3600000", 0, 2},
		{"compacted only", "cleanup.policy", "compact", 0, 0},
	} {
		set(step.setting, step.value)
		position.Advance(step.offset)
		e.look(t)
		e.expectPosition(t, step.name, "churn_expiring_records", 0, step.want)
	}
}

// TestLookAtAFrozenBroker: it takes connections, as a stopped process does, and
// answers nothing.
func TestLookAtAFrozenBroker(t *testing.T) {
	e := setup(t, 1)
	position := e.cluster.Follow("reader", topic, 0, -1)
	defer position.Close()
	e.look(t)
	thaw := make(chan struct{})
	frozen := make(chan struct{}, 100)
	e.broker.Cluster().Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		e.broker.Cluster().KeepControl()
		frozen <- struct{}{}
		<-thaw
		return nil, nil, false
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := e.cluster.Look(ctx, topic)
	if err == nil || !strings.Contains(err.Error(), "broker "+e.broker.Addr()+" does not answer") {
		t.Errorf("the look ended with %v", err)
	}
	close(thaw)
	e.look(t)
}

func TestLookWithoutABroker(t *testing.T) {
	e := setup(t, 1)
	e.broker.Close()
	if err := e.cluster.Look(testContext(t), topic); err == nil || !strings.Contains(err.Error(), e.broker.Addr()) {
		t.Errorf("the look ended with %v", err)
	}
}

// TestGroupFollowsWhatItIsGiven: from the assignment to the revocation, also
// where the worker waits for something else.
func TestGroupFollowsWhatItIsGiven(t *testing.T) {
	e := setup(t, 2)
	if err := e.cluster.NewProducer(kafka.ProducerConfig{}).ProduceTo(testContext(t), topic, 0, numbered(0, 7)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(testContext(t))
	done := make(chan error)
	go func() {
		done <- e.cluster.Consume(ctx, kafka.GroupConfig{Group: "g", Reader: "reader", Topics: []string{topic}},
			func(ctx context.Context, claim *kafka.Claim) error {
				defer retry.Begin(ctx, "the right moment")()
				<-ctx.Done()
				return nil
			})
	}()
	eventually(t, "its lag", func() bool {
		e.look(t)
		lag, _ := e.positionMetric(t, "churn_lag_records", "reader", 0)
		return lag == 7
	})
	e.expectPosition(t, "the other partition", "churn_lag_records", 1, 0)
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, there := e.positionMetric(t, "churn_lag_records", "reader", 0); there {
		t.Error("it still has a lag in a partition that it gave back")
	}
}

// TestLookForATopicThatIsGone: it is an error for who reads it, and none for who
// only might write to it.
func TestLookForATopicThatIsGone(t *testing.T) {
	e := setup(t, 1)
	if err := e.cluster.Look(testContext(t), topic, "gone"); err != nil {
		t.Error(err)
	}
	defer e.cluster.Follow("reader", "gone", 0, 0).Close()
	if err := e.cluster.Look(testContext(t), topic); err == nil || !strings.Contains(err.Error(), `topic "gone" partition 0`) {
		t.Errorf("the look ended with %v", err)
	}
}
