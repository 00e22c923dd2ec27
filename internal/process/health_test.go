package process_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/consumers/monitor"
	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/consumers/sink"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/process"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/serving"
	"github.com/churnstream/churnstream/trainer"
)

// freezing is a registry that may stop to answer.
type freezing struct {
	*registrytest.Registry
	frozen atomic.Bool
}

func (r *freezing) Schema(ctx context.Context, id int) (string, error) {
	if r.frozen.Load() {
		<-ctx.Done()
		return "", ctx.Err()
	}
	return r.Registry.Schema(ctx, id)
}

// world is what a process depends on.
type world struct {
	t        *testing.T
	dir      string
	addr     string
	broker   *embedded.Broker
	registry *freezing
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), registry: &freezing{Registry: registrytest.New()}}
	w.start()
	t.Cleanup(func() { w.broker.Close() })
	return w
}

func (w *world) start() {
	w.t.Helper()
	var err error
	if w.broker, err = embedded.StartBroker(embedded.BrokerConfig{Addr: w.addr, Dir: w.dir}); err != nil {
		w.t.Fatal(err)
	}
	w.addr = w.broker.Addr()
}

// freeze has the broker take connections and answer nothing.
func (w *world) freeze() (thaw func()) {
	thawed := make(chan struct{})
	cluster := w.broker.Cluster() // another broker may take its place meanwhile
	cluster.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		<-thawed
		return nil, nil, false
	})
	return func() { close(thawed) }
}

// run runs a role until the test ends. A nil definition is something that does
// nothing, as a process that only writes while it has nothing to write.
func (w *world) run(d *role.Definition, config any, change func(*process.Config)) *process.Process {
	w.t.Helper()
	cfg := process.Config{
		Kafka:         kafka.Config{Brokers: []string{w.addr}, StuckAfter: 50 * time.Millisecond, RequestTimeout: time.Second},
		Codec:         schemas.NewCodec(schemas.Telco(), w.registry),
		Topics:        topics.EmbeddedConfigs(2),
		ProbeInterval: 60 * time.Millisecond,
		WaitPatience:  100 * time.Millisecond,
	}
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if change != nil {
		change(&cfg)
	}
	p, err := process.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	if d == nil {
		p.AddTask("idle", idle{})
	} else if _, err := p.Add(d, config); err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.t.Context())
	g, ctx := errgroup.WithContext(ctx)
	if err := p.Prepare(ctx); err != nil {
		w.t.Fatal(err)
	}
	p.Start(ctx, g)
	w.t.Cleanup(func() {
		stop()
		if err := g.Wait(); err != nil {
			w.t.Error(err)
		}
		p.Close()
	})
	return p
}

type idle struct{}

func (idle) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// says waits until a check of a process is not ready for a reason with words.
func (w *world) says(p *process.Process, check string, words ...string) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s not ready because of %q", check, words), p, func() bool {
		ready, checks := p.Ready.Ready()
		c, there := checks[check]
		if ready || !there || c.Ready {
			return false
		}
		for _, word := range words {
			if !strings.Contains(c.Why, word) {
				return false
			}
		}
		return true
	})
}

func (w *world) until(what string, p *process.Process, condition func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			_, checks := p.Ready.Ready()
			w.t.Fatalf("never: %s; the checks are %v", what, checks)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// every is what runs as a process, by name.
func every(t *testing.T) map[string]func() (*role.Definition, any) {
	return map[string]func() (*role.Definition, any){
		"score":   func() (*role.Definition, any) { return scorer.Role, scorer.Role.Config() },
		"train":   func() (*role.Definition, any) { return trainer.Role, trainer.Role.Config() },
		"monitor": func() (*role.Definition, any) { return monitor.Role, monitor.Role.Config() },
		"sink": func() (*role.Definition, any) {
			config := sink.Role.Config().(*sink.StoresConfig)
			config.SQLite = filepath.Join(t.TempDir(), "churn.db")
			return sink.Role, config
		},
		"serve":                func() (*role.Definition, any) { return serving.Role, serving.Role.Config() },
		"one that writes only": func() (*role.Definition, any) { return nil, nil },
	}
}

// TestWhatIsDownIsNamed stops and freezes what every role depends on, while
// there is nothing to do.
func TestWhatIsDownIsNamed(t *testing.T) {
	for name, made := range every(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			d, config := made()
			p := w.run(d, config, func(c *process.Config) { c.RegistryURL = "http://registry:1" })
			well := func() {
				t.Helper()
				w.until("all well", p, func() bool {
					ready, checks := p.Ready.Ready()
					if name == "score" { // it waits for a model
						delete(checks, "scorer")
						delete(checks, "score waiting")
						ready = true
						for _, c := range checks {
							ready = ready && c.Ready
						}
					}
					return ready
				})
			}
			well()
			thaw := w.freeze()
			w.says(p, "kafka", w.addr, "does not answer", "since 20")
			thaw()
			well()
			w.broker.Close()
			w.says(p, "kafka", w.addr, "since 20")
			w.start()
			well()

			w.registry.frozen.Store(true)
			w.says(p, "registry", "http://registry:1", "since 20")
			w.registry.frozen.Store(false)
			well()
			w.registry.Fail(errors.New("connection refused"))
			w.says(p, "registry", "connection refused")
			w.registry.Fail(nil)
			well()
		})
	}
}

// lag returns the value of churn_lag_records.
func lag(t *testing.T, p *process.Process, reader, topic string) float64 {
	t.Helper()
	return metric(t, p, "churn_lag_records", reader, topic)
}

// metric returns the sum of a metric of a reader's partitions of a topic.
func metric(t *testing.T, p *process.Process, name, reader, topic string) float64 {
	t.Helper()
	families, err := p.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["reader"] == reader && labels["topic"] == topic {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestEventsWaitForAModel: they are lag, and the partition is named with why. What
// retention takes meanwhile is counted.
func TestEventsWaitForAModel(t *testing.T) {
	w := newWorld(t)
	p := w.run(scorer.Role, scorer.Role.Config(), nil)
	e := p.Codec.NewEvent()
	e.CustomerID = []byte("anna")
	if err := p.Cluster.NewProducer(kafka.ProducerConfig{}).ProduceTo(t.Context(), schemas.TopicEvents, 1,
		slices.Repeat([]kafka.Record{{Key: e.CustomerID, Value: p.Codec.AppendEvent(nil, e)}}, 10)); err != nil {
		t.Fatal(err)
	}
	w.says(p, "scorer standstill", schemas.TopicEvents+"/1 stands at offset 0 since 20", "10 records to go", "no model")
	w.says(p, "score waiting", "no model")
	if got := lag(t, p, "scorer", schemas.TopicEvents); got != 10 {
		t.Errorf("the lag is %v", got)
	}
	if err := w.broker.Cluster().DeleteRecords(schemas.TopicEvents, 1, 4); err != nil {
		t.Fatal(err)
	}
	w.until("the loss counted", p, func() bool {
		return metric(t, p, "churn_lost_records_total", "scorer", schemas.TopicEvents) == 4 && lag(t, p, "scorer", schemas.TopicEvents) == 6
	})
}

// TestRecordsWaitForTheRegistry writes a record under a schema that is asked for
// while the registry is down, in every role that follows the topic.
func TestRecordsWaitForTheRegistry(t *testing.T) {
	for name, topic := range map[string]string{
		"train": schemas.TopicExamples, "monitor": schemas.TopicScores, "sink": schemas.TopicScores, "serve": schemas.TopicScores,
		"one that writes only": schemas.TopicModels, // which every process follows
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			d, config := every(t)[name]()
			p := w.run(d, config, nil)
			w.until("ready", p, func() bool { ready, _ := p.Ready.Ready(); return ready })
			w.registry.Fail(errors.New("connection refused"))
			id := w.registry.Add(schemas.Telco().Schema(topic) + " ")
			if err := p.Cluster.NewProducer(kafka.ProducerConfig{}).ProduceTo(t.Context(), topic, 0,
				[]kafka.Record{{Key: []byte("anna"), Value: []byte{0, 0, 0, 0, byte(id), 1}}}); err != nil {
				t.Fatal(err)
			}
			reader := map[string]string{"train": "trainer", "sink": "sink sqlite", "serve": "serving", "one that writes only": "models"}[name]
			if reader == "" {
				reader = name
			}
			w.says(p, reader+" standstill", topic+"/0 stands at offset 0", fmt.Sprintf("schema %d", id), "connection refused")
			if got := lag(t, p, reader, topic); got != 1 {
				t.Errorf("the lag is %v", got)
			}
			w.registry.Fail(nil)
			w.until("ready again", p, func() bool {
				ready, _ := p.Ready.Ready()
				return ready && lag(t, p, reader, topic) == 0
			})
		})
	}
}
