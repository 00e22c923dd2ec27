// Package process runs roles in one process: with one connection to Kafka and
// the registry, one feed of the models, one set of metrics and one HTTP
// listener.
package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
)

// Config says what a process is connected to.
type Config struct {
	// Kafka says where the brokers are. Logger, Registerer and OnFailure are
	// the process's own.
	Kafka kafka.Config
	// Codec knows the schemas. Required.
	Codec *schemas.Codec
	// RegistryURL is named in reports of readiness.
	RegistryURL string
	// ProbeInterval is the time between two questions to Kafka and to the
	// registry; see ops.Probe. Default ops.DefaultProbeInterval.
	ProbeInterval time.Duration
	// WaitPatience is how long a role may wait for something until it counts as
	// not ready. Default 10 s.
	WaitPatience time.Duration
	// Topics are created if they do not exist. Without any they must exist.
	Topics []kafka.TopicConfig
	// Guard decides who may ask for changes by HTTP. Default: one without a
	// token.
	Guard *ops.Guard
	// Logger takes the log. Default none.
	Logger *slog.Logger
}

// Process is what the roles of one process share.
type Process struct {
	Cluster *kafka.Cluster
	Codec   *schemas.Codec
	Models  *models.Feed
	Metrics *prometheus.Registry
	Ready   *ops.Readiness
	Log     *slog.Logger

	cfg      Config
	health   *health
	handlers map[string]http.Handler
	tasks    []task
	// waiting is true until Kafka has answered for the first time.
	waiting atomic.Bool
}

type task struct {
	name string
	role role.Role
}

// New prepares a process. It does no I/O.
func New(cfg Config) (*Process, error) {
	if cfg.Codec == nil {
		return nil, errors.New("no codec")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Guard == nil {
		cfg.Guard = ops.NewGuard("")
	}
	cfg.ProbeInterval = cmp.Or(cfg.ProbeInterval, ops.DefaultProbeInterval)
	cfg.WaitPatience = cmp.Or(cfg.WaitPatience, 10*time.Second)
	p := &Process{
		Codec: cfg.Codec, Metrics: prometheus.NewRegistry(), Ready: ops.NewReadiness(), Log: cfg.Logger,
		cfg: cfg, handlers: map[string]http.Handler{},
	}
	p.Metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	cfg.Kafka.Logger, cfg.Kafka.Registerer = p.Log, p.Metrics
	cfg.Kafka.OnFailure = func(err error) {
		if p.waiting.Load() {
			p.Ready.Set("kafka", false, p.awaitedKafka()+": "+err.Error())
		}
	}
	var err error
	if p.Cluster, err = kafka.Connect(cfg.Kafka); err != nil {
		return nil, fmt.Errorf("--brokers %s: %w", strings.Join(cfg.Kafka.Brokers, ","), err)
	}
	p.health = newHealth(p)
	p.Models = models.NewFeed(models.FeedConfig{Cluster: p.Cluster, Codec: p.Codec, Logger: p.Log, Registerer: p.Metrics})
	return p, nil
}

func (p *Process) brokers() string { return strings.Join(p.cfg.Kafka.Brokers, ",") }

func (p *Process) awaitedKafka() string { return "waiting for Kafka at " + p.brokers() }

// Add makes a role of its settings, to be run by Run. Roles that answer by HTTP
// for others are added after them.
func (p *Process) Add(d *role.Definition, config any) (role.Role, error) {
	r, err := d.New(role.Dependencies{
		Cluster: p.Cluster, Codec: p.Codec, Models: p.Models, Ready: p.Ready.Set,
		Logger: p.Log.With("role", d.Name), Registerer: p.Metrics, Guard: p.cfg.Guard, Handlers: p.handlers,
	}, config)
	if err != nil {
		return nil, err
	}
	p.AddTask(d.Name, r)
	return r, nil
}

// AddTask has Run run something that is no role, such as a source of events.
func (p *Process) AddTask(name string, r role.Role) { p.tasks = append(p.tasks, task{name, r}) }

// Close closes the connections and what roles have opened.
func (p *Process) Close() {
	for _, t := range p.tasks {
		if c, ok := t.role.(io.Closer); ok {
			if err := c.Close(); err != nil {
				p.Log.Warn("closing", "role", t.name, "error", err)
			}
		}
	}
	p.Cluster.Close()
}

// Listen opens the HTTP side: metrics, health, readiness, and what the roles
// answer. Of cfg, the address, certificate and limits count.
func (p *Process) Listen(cfg ops.Config) (*ops.Server, error) {
	cfg.Gatherer, cfg.Readiness, cfg.Handler, cfg.Guard, cfg.Logger = p.Metrics, p.Ready, p.handler(), p.cfg.Guard, p.Log
	return ops.NewServer(cfg)
}

// handler answers for the roles.
func (p *Process) handler() http.Handler {
	if pages := p.handlers["/"]; pages != nil || len(p.handlers) == 0 {
		return pages
	}
	mux := http.NewServeMux()
	contents := "/metrics\n/healthz\n/readyz\n"
	for _, path := range slices.Sorted(maps.Keys(p.handlers)) {
		h := p.handlers[path]
		protected := p.cfg.Guard.Protect(h)
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet || r.Method == http.MethodHead {
				h.ServeHTTP(w, r) // changes nothing
				return
			}
			protected.ServeHTTP(w, r)
		})
		contents += path + "\n"
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, contents)
	})
	return mux
}

// Prepare waits until Kafka and the registry answer, creates missing topics
// and registers the schemas.
func (p *Process) Prepare(ctx context.Context) error {
	p.Ready.Set("kafka", false, p.awaitedKafka())
	p.waiting.Store(true)
	if len(p.cfg.Topics) > 0 {
		if err := p.Cluster.EnsureTopics(ctx, p.cfg.Topics...); err != nil {
			return fmt.Errorf("creating topics: %w", err)
		}
	} else if _, err := p.Cluster.Partitions(ctx, schemas.TopicModels); err != nil { // which every role may read
		return fmt.Errorf("looking for the topics: %w", err)
	}
	if err := topics.Guard(ctx, p.Cluster, p.Log, p.Metrics); err != nil {
		return err
	}
	p.waiting.Store(false)
	p.Ready.Set("kafka", true, "")
	close(p.health.kafka)
	awaited := "waiting for the schema registry at " + cmp.Or(p.cfg.RegistryURL, "its address")
	p.Ready.Set("registry", false, awaited)
	if err := retry.Do(ctx, p.Log, "registering the schemas", func(ctx context.Context) error {
		err := p.Codec.Register(ctx)
		if err != nil {
			p.Ready.Set("registry", false, awaited+": "+err.Error())
		}
		return err
	}); err != nil {
		return fmt.Errorf("registering the schemas: %w", err)
	}
	p.Ready.Set("registry", true, "")
	close(p.health.schemas)
	return nil
}

// Run serves, prepares, and runs what was added until one of it fails or ctx
// ends. A process runs once.
func (p *Process) Run(ctx context.Context, server *ops.Server) error {
	p.Log.Info("listening", "url", server.URL()+"/", "serving", "/metrics, /healthz, /readyz")
	p.Ready.Set("models", false, "reading "+schemas.TopicModels)
	g, ctx := errgroup.WithContext(ctx)
	p.health.run(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		if err := p.Prepare(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		p.Start(ctx, g)
		return nil
	})
	return g.Wait()
}

// Start runs the feed of the models and what was added, after Prepare.
func (p *Process) Start(ctx context.Context, g *errgroup.Group) {
	p.health.run(ctx)
	g.Go(func() error { return p.Models.Run(p.health.watched(ctx, "models")) })
	g.Go(func() error {
		select {
		case <-p.Models.CaughtUp():
			p.Ready.Set("models", true, "")
		case <-ctx.Done():
		}
		return nil
	})
	for _, t := range p.tasks {
		g.Go(func() error {
			if err := t.role.Run(p.health.watched(ctx, t.name)); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			return nil
		})
	}
}
