package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/consumers/monitor"
	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/consumers/sink"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/serving"
	"github.com/churnstream/churnstream/trainer"
)

// The flags of each role, shared by its own subcommand, run and demo.
type (
	scoreFlags struct {
		scorer.Config `group:"score"`
	}
	trainFlags struct {
		trainer.Config `group:"train"`
	}
	monitorFlags struct {
		monitor.Config `group:"monitor"`
	}
	serveFlags struct {
		serving.Config `group:"serve"`
	}
	sinkFlags struct {
		Group                  string        `name:"sink-group" help:"Consumer group of the sinks, if not churn-sink- and the store's kind. A group that is new writes all that the topics hold, which changes nothing that is there." group:"sink"`
		MaxRows                int           `name:"sink-rows" help:"Rows of a partition that are written at once." default:"10000" group:"sink"`
		MaxBytes               byteSize      `name:"sink-bytes" help:"Records of a partition, in bytes, that are written at once." default:"32MiB" group:"sink"`
		MaxDelay               time.Duration `name:"sink-delay" help:"How long a row waits for more." default:"1s" group:"sink"`
		SessionTimeout         time.Duration `name:"sink-session-timeout" help:"After how long without a sign of life a sink's partitions go to others." default:"15s" group:"sink"`
		ClickHouseTimeout      time.Duration `name:"clickhouse-timeout" help:"Longest that connecting or one write may take; it is tried again. Migrations and tidying up may take a day." default:"1m" group:"sink"`
		SQLite                 string        `name:"sqlite" help:"SQLite file to write to." placeholder:"FILE" group:"sink"`
		ClickHouse             string        `name:"clickhouse" help:"ClickHouse servers to write to; one is used at a time." placeholder:"HOST:PORT,…" group:"sink"`
		ClickHouseProtocol     string        `name:"clickhouse-protocol" help:"Speak to it by native (usually port 9000) or http (8123)." enum:"native,http" default:"native" group:"sink"`
		ClickHouseRetention    int           `name:"clickhouse-retention-days" help:"Days to keep scores in ClickHouse; 0 leaves that to the table." default:"0" group:"sink"`
		ClickHouseDatabase     string        `name:"clickhouse-database" help:"Its database." default:"default" group:"sink"`
		ClickHouseUser         string        `name:"clickhouse-user" help:"User to log in as. The password comes from CHURN_CLICKHOUSE_PASSWORD or --clickhouse-password-file." default:"default" group:"sink"`
		ClickHousePasswordFile string        `name:"clickhouse-password-file" help:"File that holds the password." type:"existingfile" placeholder:"FILE" group:"sink"`
		ClickHouseTLS          bool          `name:"clickhouse-tls" help:"Speak TLS to ClickHouse." group:"sink"`
		ClickHouseTLSCA        string        `name:"clickhouse-tls-ca" help:"PEM file with the authorities to trust instead of the system's." type:"existingfile" placeholder:"FILE" group:"sink"`
		ClickHouseTLSCert      string        `name:"clickhouse-tls-cert" help:"PEM file with the client certificate." type:"existingfile" placeholder:"FILE" group:"sink"`
		ClickHouseTLSKey       string        `name:"clickhouse-tls-key" help:"PEM file with the client certificate's key." type:"existingfile" placeholder:"FILE" group:"sink"`
	}
)

// task is a component that runs until its context ends.
type task struct {
	name string
	run  func(context.Context) error
}

// dependencies are what every role is given.
func (p *platform) dependencies() role.Dependencies {
	return role.Dependencies{
		Cluster: p.cluster, Codec: p.codec, Models: p.models, Guard: p.guard,
		Ready: p.ready.Set, Logger: p.log, Registerer: p.metrics, Handlers: p.handlers,
	}
}

func (p *platform) scorer(f *scoreFlags) (task, error) {
	s, err := scorer.Role.New(p.dependencies(), &f.Config)
	if err != nil {
		return task{}, err
	}
	return task{"score", s.Run}, nil
}

func (p *platform) trainer(f *trainFlags) (task, error) {
	t, err := trainer.Role.New(p.dependencies(), &f.Config)
	if err != nil {
		return task{}, err
	}
	return task{"train", t.Run}, nil
}

func (p *platform) monitor(f *monitorFlags) (task, *monitor.Monitor, error) {
	m, err := monitor.Role.New(p.dependencies(), &f.Config)
	if err != nil {
		return task{}, nil, err
	}
	return task{"monitor", m.Run}, m.(*monitor.Monitor), nil
}

// sinks returns one role per store that the flags name, and closes the stores
// through the returned function.
func (p *platform) sinks(f *sinkFlags) (roles []task, closeStores func(), err error) {
	var stores []sink.Store
	closeStores = func() {
		for _, s := range stores {
			if err := s.Close(); err != nil {
				p.log.Warn("closing a store", "error", err)
			}
		}
	}
	add := func(name string, store sink.Store) error {
		stores = append(stores, store)
		s, err := sink.New(sink.Config{
			Cluster: p.cluster, Codec: p.codec, Store: store, Group: f.Group, Ready: p.ready.Set,
			MaxRows: f.MaxRows, MaxBytes: int(f.MaxBytes), MaxDelay: f.MaxDelay, SessionTimeout: f.SessionTimeout,
			Logger: p.log, Registerer: p.metrics,
		})
		if err != nil {
			return err
		}
		roles = append(roles, task{"sink " + name, s.Run})
		return nil
	}
	if f.Group != "" && f.SQLite != "" && f.ClickHouse != "" {
		return nil, closeStores, errors.New("--sink-group is the group of one store, as members of a group share the work; run a sink for each store")
	}
	if f.SQLite != "" {
		store, err := sink.OpenSQLite(f.SQLite, p.set)
		if err != nil {
			return nil, closeStores, fmt.Errorf("--sqlite %s: %w", f.SQLite, err)
		}
		if err := add("sqlite", store); err != nil {
			return nil, closeStores, err
		}
	}
	if f.ClickHouse != "" {
		cfg, err := f.clickHouse(p.log)
		if err != nil {
			return nil, closeStores, err
		}
		store, err := sink.OpenClickHouse(cfg, p.set)
		if err != nil {
			return nil, closeStores, fmt.Errorf("--clickhouse: %w", err)
		}
		if err := add("clickhouse", store); err != nil {
			return nil, closeStores, err
		}
	}
	if len(roles) == 0 {
		return nil, closeStores, errors.New("the sink needs --clickhouse HOST:PORT or --sqlite FILE")
	}
	return roles, closeStores, nil
}

// clickHouse says how to reach ClickHouse.
func (f *sinkFlags) clickHouse(log *slog.Logger) (cfg sink.ClickHouseConfig, err error) {
	const credentials = "--clickhouse-user, and CHURN_CLICKHOUSE_PASSWORD or --clickhouse-password-file"
	if err := refuseUserinfo("--clickhouse", f.ClickHouse, credentials); err != nil {
		return cfg, err
	}
	cfg = sink.ClickHouseConfig{
		Addr: f.ClickHouse, Protocol: f.ClickHouseProtocol, Database: f.ClickHouseDatabase, Username: f.ClickHouseUser,
		Timeout: f.ClickHouseTimeout, RetentionDays: f.ClickHouseRetention,
	}
	if cfg.Password, err = secret("CHURN_CLICKHOUSE_PASSWORD", f.ClickHousePasswordFile); err != nil {
		return cfg, fmt.Errorf("--clickhouse-password-file: %w", err)
	}
	files := tlsFlags{"clickhouse-tls", f.ClickHouseTLSCA, f.ClickHouseTLSCert, f.ClickHouseTLSKey}
	if f.ClickHouseTLS || files.given() {
		if cfg.TLS, err = files.config(); err != nil {
			return cfg, err
		}
	} else if cfg.Password != "" {
		warnClear(log, "--clickhouse", strings.Split(f.ClickHouse, ",")...)
	}
	return cfg, nil
}

// serving returns the role and what it answers. If there is to be a trainer in
// this process it must exist already, or requests for a training are not
// passed on to it.
func (p *platform) serving(f *serveFlags) (task, http.Handler, error) {
	s, err := serving.Role.New(p.dependencies(), &f.Config)
	if err != nil {
		return task{}, nil, err
	}
	return task{"serve", s.Run}, p.handlers["/"], nil
}

// trainerHandler answers for a trainer without a server of its own.
func (p *platform) trainerHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(role.RetrainPath, p.guard.Protect(p.handlers[role.RetrainPath]))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "/metrics\n/healthz\n/readyz\n/v1/retrain\n")
	})
	return mux
}

// run opens the HTTP side, prepares the platform and runs the roles until one
// fails or ctx ends.
func (p *platform) run(ctx context.Context, c *connection, l listener, handler http.Handler, roles ...task) error {
	if (l.HTTPTLSCert == "") != (l.HTTPTLSKey == "") {
		return errors.New("--http-tls-cert and --http-tls-key belong together")
	}
	server, err := ops.NewServer(ops.Config{
		Addr: l.HTTP, Gatherer: p.metrics, Readiness: p.ready, Handler: handler, Guard: p.guard,
		CertFile: l.HTTPTLSCert, KeyFile: l.HTTPTLSKey, Limits: l.limits(), Logger: p.log,
	})
	if err != nil {
		return fmt.Errorf("--http %s: %w", l.HTTP, err)
	}
	p.log.Info("listening", "url", server.URL()+"/", "serving", "/metrics, /healthz, /readyz")
	p.ready.Set("models", false, "reading "+schemas.TopicModels)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		if err := p.prepare(ctx, c); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		g.Go(func() error { return p.models.Run(ctx) })
		g.Go(func() error {
			select {
			case <-p.models.CaughtUp():
				p.ready.Set("models", true, "")
			case <-ctx.Done():
			}
			return nil
		})
		for _, r := range roles {
			g.Go(func() error {
				if err := r.run(ctx); err != nil {
					return fmt.Errorf("%s: %w", r.name, err)
				}
				return nil
			})
		}
		return nil
	})
	err = g.Wait()
	p.cluster.Close()
	return err
}

type scoreCommand struct {
	connection
	listener
	scoreFlags
}

// Help is shown by churnstream score --help.
func (scoreCommand) Help() string {
	return `Consumes churn.customer-events and produces churn.scores, a score for every event. Start as many as there are partitions: they share the work.

Example:
  churnstream score --brokers kafka-1:9092,kafka-2:9092 --registry http://registry:8081 --http 127.0.0.1:9101`
}

func (c *scoreCommand) Run(ctx context.Context, log *slog.Logger) error {
	return runRoles(ctx, log, &c.connection, c.listener, []string{"score"}, &roleFlags{scoreFlags: c.scoreFlags})
}

type trainCommand struct {
	connection
	listener
	trainFlags
}

// Help is shown by churnstream train --help.
func (trainCommand) Help() string {
	return `Consumes churn.outcomes, fits a model when there are enough new labels, and publishes it to churn.models: as champion when it is better than the one in use on the same holdout, else as challenger with the reason. Run one.

Example:
  churnstream train --brokers kafka:9092 --registry http://registry:8081 --min-new-labels 5000`
}

func (c *trainCommand) Run(ctx context.Context, log *slog.Logger) error {
	return runRoles(ctx, log, &c.connection, c.listener, []string{"train"}, &roleFlags{trainFlags: c.trainFlags})
}

type monitorCommand struct {
	connection
	listener
	monitorFlags
}

// Help is shown by churnstream monitor --help.
func (monitorCommand) Help() string {
	return `Joins every outcome with the score that was in force, and exports accuracy, calibration and drift by model version on /metrics.

Example:
  churnstream monitor --brokers kafka:9092 --registry http://registry:8081 --http 127.0.0.1:9103 --lead-time 168h`
}

func (c *monitorCommand) Run(ctx context.Context, log *slog.Logger) error {
	return runRoles(ctx, log, &c.connection, c.listener, []string{"monitor"}, &roleFlags{monitorFlags: c.monitorFlags})
}

type sinkCommand struct {
	connection
	listener
	sinkFlags
}

// Help is shown by churnstream sink --help.
func (sinkCommand) Help() string {
	return `Writes the topics to tables: churn_scores, churn_outcomes and model_versions, with the views churn_scores_latest, customers_at_risk and model_accuracy_daily.

Examples:
  churnstream sink --brokers kafka:9092 --registry http://registry:8081 --clickhouse clickhouse:9000
  churnstream sink --brokers kafka:9092 --registry http://registry:8081 --sqlite churn.db`
}

func (c *sinkCommand) Run(ctx context.Context, log *slog.Logger) error {
	return runRoles(ctx, log, &c.connection, c.listener, []string{"sink"}, &roleFlags{sinkFlags: c.sinkFlags})
}

type serveCommand struct {
	connection
	HTTP string `name:"http" help:"Address of the web application and the REST endpoint." default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
	web
	serveFlags
}

// Help is shown by churnstream serve --help.
func (serveCommand) Help() string {
	return `Serves the customers at risk as a web application, and scores, explanations and what-if as REST; the endpoints are described at /openapi.json.

Example:
  churnstream serve --brokers kafka:9092 --registry http://registry:8081 --http 127.0.0.1:8080`
}

func (c *serveCommand) Run(ctx context.Context, log *slog.Logger) error {
	return runRoles(ctx, log, &c.connection, listener{c.HTTP, c.web}, []string{"serve"}, &roleFlags{serveFlags: c.serveFlags})
}

// roleNames are the roles in the order in which a process makes them.
var roleNames = []string{"score", "train", "monitor", "sink", "serve"}

type runCommand struct {
	connection
	HTTP  string   `name:"http" help:"Address for /metrics, /healthz, /readyz and what the roles serve." default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
	Roles []string `help:"Roles to run: score, train, monitor, sink, serve." required:"" placeholder:"ROLE,…"`
	web
	scoreFlags
	trainFlags
	monitorFlags
	sinkFlags
	serveFlags
}

// Help is shown by churnstream run --help.
func (runCommand) Help() string {
	return `Example:
  churnstream run --roles score,sink --brokers kafka:9092 --registry http://registry:8081 --sqlite churn.db`
}

func (c *runCommand) Run(ctx context.Context, log *slog.Logger) error {
	for _, r := range c.Roles {
		if !slices.Contains(roleNames, r) {
			return fmt.Errorf("--roles: there is no role %q; choose from %s", r, strings.Join(roleNames, ", "))
		}
	}
	return runRoles(ctx, log, &c.connection, listener{c.HTTP, c.web}, c.Roles, &roleFlags{c.scoreFlags, c.trainFlags, c.monitorFlags, c.sinkFlags, c.serveFlags})
}

type roleFlags struct {
	scoreFlags
	trainFlags
	monitorFlags
	sinkFlags
	serveFlags
}

// runRoles runs the named roles in this process.
func runRoles(ctx context.Context, log *slog.Logger, c *connection, l listener, names []string, f *roleFlags) error {
	p, err := c.open(log)
	if err != nil {
		return err
	}
	if p.guard, err = l.guard(); err != nil {
		return err
	}
	var roles []task
	var handler http.Handler
	// In this order, whatever that of the names is: serving passes requests on
	// to the trainer.
	for _, name := range roleNames {
		if !slices.Contains(names, name) {
			continue
		}
		var r task
		switch name {
		case "score":
			r, err = p.scorer(&f.scoreFlags)
		case "train":
			r, err = p.trainer(&f.trainFlags)
			handler = p.trainerHandler()
		case "monitor":
			r, _, err = p.monitor(&f.monitorFlags)
		case "sink":
			sinks, closeStores, err := p.sinks(&f.sinkFlags)
			defer closeStores()
			if err != nil {
				return err
			}
			roles = append(roles, sinks...)
			continue
		case "serve":
			r, handler, err = p.serving(&f.serveFlags)
		}
		if err != nil {
			return err
		}
		roles = append(roles, r)
	}
	return p.run(ctx, c, l, handler, roles...)
}
