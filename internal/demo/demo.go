// Package demo runs everything in one process on real customers: a broker, a
// registry, an SQLite store, every role, and the sources of events.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/consumers/labeler"
	"github.com/churnstream/churnstream/consumers/monitor"
	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/consumers/sink"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/process"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/producers/pace"
	"github.com/churnstream/churnstream/producers/replay"
	"github.com/churnstream/churnstream/producers/simulator"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
	"github.com/churnstream/churnstream/serving"
	"github.com/churnstream/churnstream/trainer"
)

// Config says how a demonstration goes.
type Config struct {
	// Duration ends it, with a summary; 0 goes on until ctx ends.
	Duration time.Duration
	// Rate is in customer events per second; 0 is as many as can be.
	Rate float64
	// DataDir is a directory for everything that is stored. One of an earlier
	// demonstration is carried on. "" is a temporary one that is removed.
	DataDir string
	// HTTP is the address of the web application, REST and metrics. Without
	// it 127.0.0.1:8080, or a free port if that is taken.
	HTTP string
	// OutcomeDelay is how long after its event a customer's outcome arrives.
	OutcomeDelay time.Duration
	// DriftAfter is how long after the first live event what makes customers
	// leave changes; 0 is never.
	DriftAfter time.Duration
	// Scorer says how scores are made.
	Scorer scorer.Config
	// Level is the least severe of the lines in the log.
	Level slog.Level
	// Out takes what is shown. Required.
	Out io.Writer
}

// demo is one run of the demonstration.
type demo struct {
	Config
	dir       string
	broker    *embedded.Broker
	registry  *embedded.Registry
	process   *process.Process
	url       string
	sqlite    string
	customer  string // file with an example customer
	monitor   *monitor.Monitor
	drift     *pace.Drift // nil is none
	news      chan string // lines for the reader
	replay    *replay.Replay
	simulator *simulator.Simulator
	probe     *probe
	produce   func(context.Context) error // publish
}

// Run runs a demonstration. It ends when ctx does, and prints a summary then.
func Run(ctx context.Context, cfg Config) (err error) {
	dir, temporary := cfg.DataDir, cfg.DataDir == ""
	if temporary {
		if dir, err = os.MkdirTemp("", "churnstream-demo-"); err != nil {
			return fmt.Errorf("making a directory for the demo: %w", err)
		}
	} else if err = os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	// The terminal is for the reader; the log has a file of its own.
	logPath := filepath.Join(dir, "churnstream.log")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer logFile.Close()
	defer func() {
		switch {
		case err != nil:
			err = fmt.Errorf("%w\nThe log is in %s", err, logPath)
		case temporary:
			_ = os.RemoveAll(dir)
		}
	}()
	return newDemo(cfg, dir).run(ctx, slog.New(slog.NewTextHandler(logFile, &slog.HandlerOptions{Level: cfg.Level})))
}

func newDemo(cfg Config, dir string) *demo {
	d := &demo{Config: cfg, dir: dir, sqlite: filepath.Join(dir, "churn.db"), news: make(chan string, 100)}
	d.produce = d.publish
	return d
}

// preferred returns a listening address: the one asked for, else the usual
// one, else, if another program has that, any free port.
func preferred(asked, usual string) string {
	if asked != "" {
		return asked
	}
	l, err := net.Listen("tcp", usual)
	if err != nil {
		host, _, _ := net.SplitHostPort(usual)
		return net.JoinHostPort(host, "0")
	}
	l.Close()
	return usual
}

func (d *demo) run(ctx context.Context, log *slog.Logger) (err error) {
	if d.broker, err = embedded.StartBroker(embedded.BrokerConfig{Addr: preferred("", "127.0.0.1:19092"), Dir: filepath.Join(d.dir, "kafka")}); err != nil {
		return fmt.Errorf("starting the embedded broker: %w", err)
	}
	defer d.broker.Close()
	if d.registry, err = embedded.StartRegistry(embedded.RegistryConfig{Addr: preferred("", "127.0.0.1:18081"), Dir: filepath.Join(d.dir, "registry")}); err != nil {
		return fmt.Errorf("starting the embedded schema registry: %w", err)
	}
	defer d.registry.Close()

	client, err := registry.New(registry.Config{URL: d.registry.URL()})
	if err != nil {
		return fmt.Errorf("speaking to the embedded schema registry: %w", err)
	}
	p, err := process.New(process.Config{
		Kafka: kafka.Config{Brokers: []string{d.broker.Addr()}},
		Codec: schemas.NewCodec(schemas.Telco(), client), RegistryURL: d.registry.URL(),
		Topics: topics.EmbeddedConfigs(6), Logger: log,
	})
	if err != nil {
		return err
	}
	d.process = p
	defer p.Close()
	if err := d.addRoles(); err != nil {
		return err
	}
	server, err := p.Listen(ops.Config{Addr: preferred(d.HTTP, "127.0.0.1:8080")})
	if err != nil {
		return fmt.Errorf("--http %s: %w", d.HTTP, err)
	}
	defer server.Close()
	d.url = server.URL()

	examples, err := replay.Load(p.Codec.Set())
	if err != nil {
		return fmt.Errorf("loading the customers: %w", err)
	}
	if err := d.writeCustomer(examples[0]); err != nil {
		return err
	}
	if err := d.sources(examples); err != nil {
		return err
	}
	d.welcome(len(examples))

	// The services outlive the sources of events, so that at the end what was
	// published is scored and counted.
	services, stopServices := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServices()
	g, services := errgroup.WithContext(services)
	g.Go(func() error { return server.Run(services) })
	if err := p.Prepare(ctx); err != nil {
		return err
	}
	p.Start(services, g)

	started := time.Now()
	publishing, stopPublishing := context.WithCancel(ctx)
	defer stopPublishing()
	if d.Duration > 0 {
		publishing, stopPublishing = context.WithTimeout(ctx, d.Duration)
		defer stopPublishing()
	}
	context.AfterFunc(services, stopPublishing) // a role that failed ends the demo
	progress := d.startProgress(publishing)
	publishErr := d.produce(publishing)
	took := time.Since(started)
	patience := 5 * time.Second
	if ctx.Err() != nil {
		patience = time.Second // Ctrl-C: what is not scored by then is scored at the next start
	}
	if publishErr == nil {
		d.drain(services, patience)
	}
	progress.stop()
	stopServices()
	if err := errors.Join(publishErr, g.Wait()); err != nil {
		return err
	}
	d.summary(took)
	return nil
}

// addRoles adds all roles to the process.
func (d *demo) addRoles() error {
	// Here nothing is far off: who leaves does so within the delay of the outcomes.
	// The decision is then at a customer's first event, whose score speaks of it.
	labelling := labeler.Role.Config().(*labeler.Config)
	labelling.Horizon, labelling.LabelDelay, labelling.ScoreInterval = d.OutcomeDelay, time.Hour, 0
	labelling.StateDir = filepath.Join(d.dir, "labels")
	// Who watches asks for trainings as soon as a version has fallen, when there is
	// little to learn from. Once there is more, the next one comes by itself.
	training := trainer.Role.Config().(*trainer.Config)
	training.MinInterval, training.MinNewLabels, training.Settle = 5*time.Second, 3_000, 200*time.Millisecond
	monitoring := monitor.Role.Config().(*monitor.Config)
	monitoring.Window = 2000
	for _, r := range []struct {
		*role.Definition
		config any
	}{
		{scorer.Role, &d.Scorer},
		{labeler.Role, labelling},
		{trainer.Role, training},
		{monitor.Role, monitoring},
		{sink.Role, &sink.StoresConfig{SQLite: d.sqlite}},
		{serving.Role, serving.Role.Config()},
	} {
		made, err := d.process.Add(r.Definition, r.config)
		if err != nil {
			return err
		}
		if m, ok := made.(*monitor.Monitor); ok {
			d.monitor = m
		}
	}
	return nil
}

// sources prepares what publishes events.
func (d *demo) sources(examples []schemas.ChurnOutcome) (err error) {
	p := d.process
	d.drift = pace.NewDrift(p.Codec.Set().Spec(), examples, d.DriftAfter, 0)
	d.replay, err = replay.New(replay.Config{
		Cluster: p.Cluster, Codec: p.Codec, Examples: examples,
		Rate: d.Rate, OutcomeDelay: d.OutcomeDelay, Drift: d.drift,
		BeforeLive: d.awaitModel,
		Logger:     p.Log, Registerer: p.Metrics,
	})
	if err != nil {
		return err
	}
	d.simulator, err = simulator.New(simulator.Config{
		Cluster: p.Cluster, Codec: p.Codec, Population: examples,
		Rate: d.Rate, OutcomeDelay: d.OutcomeDelay, Drift: d.drift,
		Logger: p.Log, Registerer: p.Metrics,
	})
	if err != nil {
		return err
	}
	d.probe = &probe{cluster: p.Cluster, codec: p.Codec, log: p.Log, started: time.Now()}
	p.AddTask("probe", d.probe)
	p.AddTask("watch", &watch{
		report: d.monitor.Report, champion: p.Models.Champion, changes: d.drift.At, ask: askTrainer(d.url), say: d.tell, now: time.Now,
	})
	return nil
}

// tell has a line shown to the reader, with the time.
func (d *demo) tell(text string) {
	select {
	case d.news <- time.Now().Format(time.TimeOnly) + "  " + text:
	default: // nobody shows lines any more
	}
}

// awaitModel lets live events begin once there is a model, as in a company
// that has trained one before it goes live.
func (d *demo) awaitModel(ctx context.Context) error {
	for {
		changed := d.process.Models.Changed()
		if d.process.Models.Champion() != nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// publish runs the sources until ctx ends.
func (d *demo) publish(ctx context.Context) error {
	if err := d.replay.Run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("replaying the customers: %w", err)
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := d.simulator.Run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("simulating customers: %w", err)
	}
	return nil
}

// published returns how many events the sources published in this run.
func (d *demo) published() int64 {
	return d.replay.Stats().Events + d.simulator.Stats().Events
}

// drain waits until everything published has a score, at most for patience.
func (d *demo) drain(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for d.probe.scores() < d.published() && retry.Sleep(ctx, 20*time.Millisecond) {
	}
}

// writeCustomer keeps one customer as JSON, for a first request.
func (d *demo) writeCustomer(example schemas.ChurnOutcome) error {
	data, err := json.MarshalIndent(d.process.Codec.Set().AttributesToMap(example.Attributes, nil), "", "  ")
	if err != nil {
		return fmt.Errorf("encoding an example customer: %w", err)
	}
	d.customer = filepath.Join(d.dir, "customer.json")
	if err := os.WriteFile(d.customer, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing an example customer: %w", err)
	}
	return nil
}

func (d *demo) welcome(customers int) {
	fmt.Fprintf(d.Out, `churnstream: %d real customers, every part in this process.

  See     customers at risk   %s/
          how good it is now  %s/model
          metrics             %s/metrics
          log                 %s
  Ask     one customer        curl -s %s/v1/explain -H 'Content-Type: application/json' -d @%s
          scores on Kafka     kcat -b %s -t %s -C -o -3 -e -q -f '%%T %%k %%S bytes of Avro\n'
          scores as JSON      %s tail %s --brokers %s --registry %s
          scores in SQL       sqlite3 %s 'SELECT * FROM customers_at_risk LIMIT 10'

`, customers, d.url, d.url, d.url, filepath.Join(d.dir, "churnstream.log"), d.url, d.customer,
		d.broker.Addr(), schemas.TopicScores, os.Args[0], schemas.TopicScores, d.broker.Addr(), d.registry.URL(), d.sqlite)
	if d.drift != nil {
		fmt.Fprintf(d.Out, "%v after the first event, what makes customers leave changes. Watch %s/model, or read on.\n\n", d.DriftAfter, d.url)
	}
}
