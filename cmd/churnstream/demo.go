package main

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

	"github.com/churnstream/churnstream/consumers/monitor"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/producers/replay"
	"github.com/churnstream/churnstream/producers/simulator"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/trainer"
)

type demoCommand struct {
	Duration     time.Duration `help:"End after this long, with a summary; 0 runs until Ctrl-C." default:"0s"`
	Rate         float64       `help:"Customer events per second; 0 means as many as can be." default:"200"`
	DataDir      string        `help:"Directory for everything the demo stores. A second start with the same directory carries on. Without it a temporary one is used and removed." placeholder:"DIR"`
	HTTP         string        `name:"http" help:"Address of the web application, REST and metrics. Without it 127.0.0.1:8080, or a free port if that is taken." placeholder:"HOST:PORT"`
	OutcomeDelay time.Duration `help:"How long after its event a customer's outcome arrives." default:"2s"`
	DriftAfter   time.Duration `help:"After this long, outcomes begin to flip at a rising rate, as if customers had changed; 0 never." default:"0s"`

	scoreFlags
}

// Help is shown by churnstream demo --help.
func (demoCommand) Help() string {
	return `Starts a Kafka broker, a schema registry, an SQLite store and every role in this process, on loopback ports and real protocols. 60 % of a table of 7,043 real customers is published as labelled history, the trainer fits the first model from it, the other 40 % arrives as live events whose outcomes follow. When the table ends, a simulator goes on with new customers drawn from it.

Examples:
  churnstream demo
  churnstream demo --duration 1m --rate 2000
  churnstream demo --data-dir ./churn-data --drift-after 30s`
}

// demo is one run of the demonstration.
type demo struct {
	*demoCommand
	out       io.Writer
	dir       string
	broker    *embedded.Broker
	registry  *embedded.Registry
	platform  *platform
	url       string
	sqlite    string
	customer  string // file with an example customer
	monitor   *monitor.Monitor
	replay    *replay.Replay
	simulator *simulator.Simulator
	probe     *probe
}

func (c *demoCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) (err error) {
	dir, temporary := c.DataDir, c.DataDir == ""
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
	level := slog.LevelInfo
	if log.Enabled(ctx, slog.LevelDebug) {
		level = slog.LevelDebug
	}
	d := &demo{demoCommand: c, out: out, dir: dir, sqlite: filepath.Join(dir, "churn.db")}
	return d.run(ctx, slog.New(slog.NewTextHandler(logFile, &slog.HandlerOptions{Level: level})))
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

	c := &connection{Brokers: []string{d.broker.Addr()}, Registry: d.registry.URL(), Partitions: 6, Replication: 1}
	p, err := c.open(log)
	if err != nil {
		return err
	}
	d.platform = p
	defer p.cluster.Close()
	if err := p.cluster.EnsureTopics(ctx, topics.EmbeddedConfigs(c.Partitions)...); err != nil {
		return fmt.Errorf("creating topics: %w", err)
	}
	roles, err := d.roles()
	if err != nil {
		return err
	}
	sinks, closeStores, err := p.sinks(&sinkFlags{SQLite: d.sqlite})
	defer closeStores()
	if err != nil {
		return err
	}
	roles = append(roles, sinks...)
	serve, handler, err := p.serving(&serveFlags{})
	if err != nil {
		return err
	}
	roles = append(roles, serve)
	server, err := ops.NewServer(ops.Config{
		Addr: preferred(d.HTTP, "127.0.0.1:8080"), Gatherer: p.metrics, Readiness: p.ready, Handler: handler, Guard: p.guard, Logger: log,
	})
	if err != nil {
		return fmt.Errorf("--http %s: %w", d.HTTP, err)
	}
	d.url = "http://" + server.Addr()

	examples, err := replay.Load(p.set)
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
	if err := p.prepare(ctx, c); err != nil {
		return err
	}
	g.Go(func() error { return p.models.Run(services) })
	for _, r := range append(roles, task{"probe", d.probe.run}) {
		g.Go(func() error {
			if err := r.run(services); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			return nil
		})
	}

	started := time.Now()
	publishing, stopPublishing := context.WithCancel(ctx)
	defer stopPublishing()
	if d.Duration > 0 {
		publishing, stopPublishing = context.WithTimeout(ctx, d.Duration)
		defer stopPublishing()
	}
	context.AfterFunc(services, stopPublishing) // a role that failed ends the demo
	progress := d.startProgress(publishing)
	publishErr := d.publish(publishing)
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

// roles returns the scorer, the trainer and the monitor.
func (d *demo) roles() ([]task, error) {
	score, err := d.platform.scorer(&d.scoreFlags)
	if err != nil {
		return nil, err
	}
	train, err := d.platform.trainer(&trainFlags{trainer.Config{MinInterval: 10 * time.Second}})
	if err != nil {
		return nil, err
	}
	watch, m, err := d.platform.monitor(&monitorFlags{})
	if err != nil {
		return nil, err
	}
	d.monitor = m
	return []task{score, train, watch}, nil
}

// sources prepares what publishes events.
func (d *demo) sources(examples []schemas.ChurnOutcome) (err error) {
	p := d.platform
	d.replay, err = replay.New(replay.Config{
		Cluster: p.cluster, Codec: p.codec, Examples: examples,
		Rate: d.Rate, OutcomeDelay: d.OutcomeDelay, DriftAfter: d.DriftAfter,
		BeforeLive: d.awaitModel,
		Logger:     p.log, Registerer: p.metrics,
	})
	if err != nil {
		return err
	}
	d.simulator, err = simulator.New(simulator.Config{
		Cluster: p.cluster, Codec: p.codec, Population: examples,
		Rate: d.Rate, OutcomeDelay: d.OutcomeDelay, DriftAfter: d.DriftAfter, DriftFrom: time.Now(),
		Logger: p.log, Registerer: p.metrics,
	})
	if err != nil {
		return err
	}
	d.probe = &probe{cluster: p.cluster, codec: p.codec, log: p.log, started: time.Now()}
	return nil
}

// awaitModel lets live events begin once there is a model, as in a company
// that has trained one before it goes live.
func (d *demo) awaitModel(ctx context.Context) error {
	for {
		changed := d.platform.models.Changed()
		if d.platform.models.Champion() != nil {
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
	data, err := json.MarshalIndent(d.platform.set.AttributesToMap(example.Attributes), "", "  ")
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
	fmt.Fprintf(d.out, `churnstream: %d real customers, every part in this process.

  See     customers at risk   %s/
          metrics             %s/metrics
          log                 %s
  Ask     one customer        curl -s %s/v1/explain -H 'Content-Type: application/json' -d @%s
          scores on Kafka     kcat -b %s -t %s -C -o -3 -e -q -f '%%T %%k %%S bytes of Avro\n'
          scores as JSON      %s tail %s --brokers %s --registry %s
          scores in SQL       sqlite3 %s 'SELECT * FROM customers_at_risk LIMIT 10'

`, customers, d.url, d.url, filepath.Join(d.dir, "churnstream.log"), d.url, d.customer,
		d.broker.Addr(), schemas.TopicScores, os.Args[0], schemas.TopicScores, d.broker.Addr(), d.registry.URL(), d.sqlite)
}
