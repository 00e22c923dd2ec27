//go:build integration

package integration

import (
	"cmp"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
)

// noticed is within what /readyz has to say that something is down.
const noticed = 15 * time.Second

// down is every role as a process, on brokers and a registry that are processes
// too.
type down struct {
	t        *testing.T
	kafka    *Kafka
	registry *Process
	codec    *schemas.Codec
	roles    []*Role
}

// startDown starts it and returns when every role is ready, the scorer with a
// model.
func startDown(t *testing.T, brokers int) *down {
	d := &down{t: t, kafka: StartKafka(t, KafkaConfig{Brokers: brokers})}
	dir := t.TempDir()
	at := fmt.Sprintf("127.0.0.1:%d", FreePorts(t, 1)[0])
	d.registry = StartProcess(t, "registry", nil, installed(t, "bin", "churnstream-registry"), "--listen", at, "--data", filepath.Join(dir, "registry"))
	client, err := registry.New(registry.Config{URL: "http://" + at})
	if err != nil {
		t.Fatal(err)
	}
	d.codec = schemas.NewCodec(schemas.Telco(), client)
	Eventually(t, time.Minute, "a registry", func() error { return d.codec.Register(testContext(t)) })
	start := func(args ...string) *Role {
		all := append(args, "--brokers", d.kafka.Brokers(), "--registry", "http://"+at,
			"--replication", fmt.Sprint(brokers), "--partitions", "3")
		return newRole(t, "churnstream "+args[0], nil, fmt.Sprintf("127.0.0.1:%d", FreePorts(t, 1)[0]), all...)
	}
	if code := start("replay", "--rate", "0", "--history-share", "0.9", "--outcome-delay", "0s").ExitCode(); code != 0 {
		t.Fatalf("replay ended with %d", code)
	}
	for _, args := range [][]string{
		{"score"}, {"label", "--horizon", "0s", "--score-interval", "0s"}, {"train"}, {"monitor"}, {"sink", "--sqlite", filepath.Join(dir, "churn.db")}, {"serve"},
		{"simulate", "--rate", "5"}, // it only writes
	} {
		d.roles = append(d.roles, start(args...))
	}
	d.well()
	return d
}

// well waits until every role is ready.
func (d *down) well() (took time.Duration) {
	d.t.Helper()
	begin := time.Now()
	for _, r := range d.roles {
		r.WaitReady(2 * time.Minute)
	}
	return time.Since(begin)
}

// named waits until every role says that a part is down, and returns how long
// that took after begin, and what the first said.
func (d *down) named(begin time.Time, part string) (took time.Duration, why string) {
	d.t.Helper()
	for _, r := range d.roles {
		said := r.Unready(max(time.Second, noticed-time.Since(begin)), part, " since 20")
		why = cmp.Or(why, said)
		res, err := r.get("/readyz")
		if err != nil {
			d.t.Error(err)
			continue
		}
		res.Body.Close()
		if res.StatusCode != http.StatusServiceUnavailable {
			d.t.Errorf("%s answers %s", r.name, res.Status)
		}
	}
	took = time.Since(begin)
	if took > noticed {
		d.t.Errorf("%s: only after %v", part, took)
	}
	return took, why
}

// TestWhatIsDownIsNamed kills and freezes Kafka and the registry under every
// role. What is frozen takes connections and answers nothing.
func TestWhatIsDownIsNamed(t *testing.T) {
	d := startDown(t, 1)
	for _, fault := range []struct {
		name, part  string
		begin, mend func()
	}{
		{"Kafka frozen", "kafka", func() { d.kafka.Freeze(0) }, func() { d.kafka.Thaw(0) }},
		{"Kafka killed", "kafka", func() { d.kafka.Kill9(0) }, func() { d.kafka.Start(0) }},
		{"registry frozen", "registry", d.registry.Freeze, d.registry.Thaw},
		{"registry killed", "registry", d.registry.Kill9, d.registry.Start},
	} {
		begin := time.Now()
		fault.begin()
		took, why := d.named(begin, fault.part)
		fault.mend()
		back := d.well()
		t.Logf("%s: every role said so after %.1f s, and was ready %.1f s after the end; %s", fault.name, took.Seconds(), back.Seconds(), why)
	}
}

// TestOneOfThreeBrokersFrozen: for as long as others lead its partitions, nobody
// is held up by a broker that takes connections and answers nothing.
func TestOneOfThreeBrokersFrozen(t *testing.T) {
	d := startDown(t, 3)
	c, _ := d.kafka.Connect()
	victim := d.kafka.Leader(schemas.TopicEvents, 0)
	begin := time.Now()
	d.kafka.Freeze(victim)
	scored := ends(t, c, schemas.TopicScores)
	Eventually(t, time.Minute, "new leaders", func() error {
		if leader := d.kafka.Leader(schemas.TopicEvents, 0); leader == victim {
			return fmt.Errorf("it is still the one that is frozen")
		}
		return nil
	})
	moved := time.Since(begin)
	d.well()
	ready := time.Since(begin)
	Eventually(t, time.Minute, "scores meanwhile", func() error {
		if n := ends(t, c, schemas.TopicScores); n <= scored {
			return fmt.Errorf("there are %d, as before", n)
		}
		return nil
	})
	d.kafka.Thaw(victim)
	d.well()
	t.Logf("other leaders after %.1f s, every role ready after %.1f s, with the broker frozen", moved.Seconds(), ready.Seconds())
}

// TestWaitingEventsAreLag has events wait in every way before there is a model,
// and retention take some of them.
func TestWaitingEventsAreLag(t *testing.T) {
	p := StartPlatform(t, KafkaConfig{Settings: map[string]string{
		"log.retention.check.interval.ms": "1000", "log.initial.task.delay.ms": "1000", "log.segment.bytes": "1048576",
	}})
	c, _ := p.Connect()
	configs := topics.Configs(1, 1)
	for i := range configs {
		if configs[i].Name == schemas.TopicEvents { // for events that are old already
			configs[i].Configs["message.timestamp.type"] = "CreateTime"
		}
	}
	if err := c.EnsureTopics(testContext(t), configs...); err != nil {
		t.Fatal(err)
	}
	score := p.StartRole("score", "--stuck-after", "5s")
	score.Unready(time.Minute, "scorer", "no model")
	codec := p.Codec(schemas.Telco())
	const n = 2000
	records := make([]kafka.Record, n)
	for i := range records {
		e := codec.NewEvent()
		e.CustomerID = fmt.Appendf(nil, "customer-%d", i)
		records[i] = kafka.Record{Key: e.CustomerID, Value: codec.AppendEvent(nil, e), Time: time.Now().Add(-100 * time.Minute)}
	}
	if err := c.NewProducer(kafka.ProducerConfig{}).Produce(testContext(t), schemas.TopicEvents, records...); err != nil {
		t.Fatal(err)
	}
	Eventually(t, noticed, "the lag", func() error {
		for _, name := range []string{"churn_lag_records", "churn_scorer_lag_records"} {
			if lag, err := score.Metric(name); err != nil || lag != n {
				return fmt.Errorf("%s is %v, %v", name, lag, err)
			}
		}
		return nil
	})
	why := score.Unready(30*time.Second, "scorer standstill", schemas.TopicEvents+"/0 stands at offset 0")
	if !strings.Contains(why, fmt.Sprintf("%d records to go", n)) || !strings.Contains(why, "no model") {
		t.Errorf("it says %q", why)
	}
	keep := func(ms string) {
		t.Helper()
		client, done := p.client(time.Minute)
		defer done()
		res, err := client.IncrementalAlterConfigs(testContext(t), &kafkago.IncrementalAlterConfigsRequest{
			Resources: []kafkago.IncrementalAlterConfigsRequestResource{{
				ResourceType: kafkago.ResourceTypeTopic, ResourceName: schemas.TopicEvents,
				Configs: []kafkago.IncrementalAlterConfigsRequestConfig{{Name: "retention.ms", Value: ms}},
			}},
		})
		if err != nil || res.Resources[0].Error != nil {
			t.Fatalf("setting the retention: %v, %v", err, res)
		}
	}
	keep("7200000") // two hours, of which they have had more than three quarters
	Eventually(t, time.Minute, "the warning", func() error {
		if expiring, err := score.Metric("churn_expiring_records"); err != nil || expiring != n {
			return fmt.Errorf("%v expire, %v", expiring, err)
		}
		return nil
	})
	if lost, err := score.Metric("churn_lost_records_total"); err != nil || lost != 0 {
		t.Errorf("%v lost before retention ran, %v", lost, err)
	}
	keep("3600000")
	var lost float64
	Eventually(t, time.Minute, "the loss", func() (err error) {
		if lost, err = score.Metric("churn_lost_records_total"); err != nil || lost == 0 {
			return fmt.Errorf("%v are lost, %v", lost, err)
		}
		return nil
	})
	t.Logf("%s; lost to retention %v of %d", why, lost, n)
}
