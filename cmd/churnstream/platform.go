package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
)

// connection holds the flags that every process shares: where Kafka and the
// registry are, and which schema describes the customers.
type connection struct {
	Brokers []string `help:"Kafka brokers to start from." default:"localhost:9092" placeholder:"HOST:PORT,…" group:"connection"`

	TLS     bool   `name:"tls" help:"Speak TLS to Kafka." group:"connection"`
	TLSCA   string `name:"tls-ca" help:"PEM file with the authorities to trust instead of the system's." type:"existingfile" placeholder:"FILE" group:"connection"`
	TLSCert string `name:"tls-cert" help:"PEM file with the client certificate." type:"existingfile" placeholder:"FILE" group:"connection"`
	TLSKey  string `name:"tls-key" help:"PEM file with the client certificate's key." type:"existingfile" placeholder:"FILE" group:"connection"`

	SASL             string `name:"sasl" help:"How to log in to Kafka: none, plain, scram-sha-256 or scram-sha-512." enum:"none,plain,scram-sha-256,scram-sha-512" default:"none" group:"connection"`
	SASLUser         string `name:"sasl-user" help:"User to log in as. The password comes from CHURN_SASL_PASSWORD or --sasl-password-file." group:"connection"`
	SASLPasswordFile string `name:"sasl-password-file" help:"File that holds the password." type:"existingfile" placeholder:"FILE" group:"connection"`

	Registry             string `help:"URL of the schema registry." default:"http://localhost:8081" placeholder:"URL" group:"connection"`
	RegistryUser         string `help:"User of the schema registry. The password comes from CHURN_REGISTRY_PASSWORD or --registry-password-file." group:"connection"`
	RegistryPasswordFile string `help:"File that holds the registry's password." type:"existingfile" placeholder:"FILE" group:"connection"`
	RegistryTLSCA        string `name:"registry-tls-ca" help:"PEM file with the authorities to trust at an https registry instead of the system's." type:"existingfile" placeholder:"FILE" group:"connection"`
	RegistryTLSCert      string `name:"registry-tls-cert" help:"PEM file with the client certificate for it." type:"existingfile" placeholder:"FILE" group:"connection"`
	RegistryTLSKey       string `name:"registry-tls-key" help:"PEM file with the client certificate's key." type:"existingfile" placeholder:"FILE" group:"connection"`

	KafkaTimeout    time.Duration `help:"Longest that one attempt at one request to Kafka may take; it is tried again." default:"10s" group:"connection"`
	RegistryTimeout time.Duration `help:"The same of the schema registry." default:"10s" group:"connection"`

	KafkaDialTimeout      time.Duration `help:"Longest that connecting to a broker may take, with TLS and login." default:"5s" group:"connection"`
	KafkaRebalanceTimeout time.Duration `help:"How long the members of a consumer group wait for each other to hand over partitions." default:"1m" group:"connection"`
	KafkaFetchBytes       byteSize      `help:"What is asked of a partition at a time." default:"1MiB" group:"connection"`
	KafkaBatchBytes       byteSize      `help:"Largest batch of records written, before compression; keep it below the topics' max.message.bytes." default:"1000000" group:"connection"`
	KafkaCompression      string        `help:"Compression of the batches written: none, gzip, snappy, lz4 or zstd. All are read." enum:"none,gzip,snappy,lz4,zstd" default:"none" group:"connection"`
	KafkaLargestBatch     byteSize      `help:"Largest batch in memory: one that is read, decompressed, or a single record that is written. What is larger is set aside." default:"64MiB" group:"connection"`

	SchemaBytes byteSize `help:"Longest schema of a writer, as the registry has it; records of longer ones are set aside." default:"256KiB" group:"connection"`

	Schema       string `help:"Avro schema (.avsc) of the customer attributes or events, if not the shipped Telco ones." type:"existingfile" placeholder:"FILE" group:"connection"`
	CreateTopics bool   `help:"Create the topics that do not exist." default:"true" negatable:"" group:"connection"`
	Partitions   int    `help:"Partitions of topics that are created." default:"6" group:"connection"`
	Replication  int    `help:"Replicas of topics that are created." default:"1" group:"connection"`
}

// listener holds the flags of a process's HTTP side.
type listener struct {
	HTTP string `name:"http" help:"Address for /metrics, /healthz, /readyz and what the role serves. Port 0 takes a free one." default:"127.0.0.1:0" placeholder:"HOST:PORT"`
	web
}

func (c *connection) set() (*schemas.Set, error) {
	if c.Schema == "" {
		return schemas.Telco(), nil
	}
	set, err := schemas.FromFile(c.Schema)
	if err != nil {
		return nil, fmt.Errorf("--schema: %w", err)
	}
	return set, nil
}

func (c *connection) kafkaConfig(log *slog.Logger) (kafka.Config, error) {
	cfg := kafka.Config{
		Brokers: c.Brokers, ClientID: "churnstream",
		DialTimeout: c.KafkaDialTimeout, RequestTimeout: c.KafkaTimeout, RebalanceTimeout: c.KafkaRebalanceTimeout,
		FetchBytes: int(c.KafkaFetchBytes), BatchBytes: int(c.KafkaBatchBytes), LargestBatch: int(c.KafkaLargestBatch),
		Logger: log,
	}
	var err error
	if cfg.Compression, err = kafka.ParseCompression(c.KafkaCompression); err != nil {
		return cfg, fmt.Errorf("--kafka-compression: %w", err)
	}
	for _, broker := range c.Brokers {
		if err := refuseUserinfo("--brokers", broker, "--sasl-user, and CHURN_SASL_PASSWORD or --sasl-password-file"); err != nil {
			return cfg, err
		}
	}
	files := tlsFlags{"tls", c.TLSCA, c.TLSCert, c.TLSKey}
	if c.TLS || files.given() {
		if cfg.TLS, err = files.config(); err != nil {
			return cfg, err
		}
	}
	if c.SASL != "none" && c.SASL != "" {
		password, err := secret("CHURN_SASL_PASSWORD", c.SASLPasswordFile)
		if err != nil {
			return cfg, fmt.Errorf("--sasl-password-file: %w", err)
		}
		if c.SASLUser == "" || password == "" {
			return cfg, errors.New("--sasl needs --sasl-user, and the password in CHURN_SASL_PASSWORD or --sasl-password-file")
		}
		cfg.SASL, err = kafka.SASL(c.SASL, c.SASLUser, password)
		if err != nil {
			return cfg, fmt.Errorf("--sasl: %w", err)
		}
		if c.SASL == "plain" && cfg.TLS == nil {
			warnClear(log, "--sasl plain", c.Brokers...)
		}
	}
	return cfg, nil
}

// registry returns a client of the schema registry.
func (c *connection) registry(log *slog.Logger) (*registry.Client, error) {
	cfg := registry.Config{URL: c.Registry, Username: c.RegistryUser, Timeout: c.RegistryTimeout}
	const credentials = "--registry-user, and CHURN_REGISTRY_PASSWORD or --registry-password-file"
	if err := refuseUserinfo("--registry", c.Registry, credentials); err != nil {
		return nil, err
	}
	var err error
	if cfg.Password, err = secret("CHURN_REGISTRY_PASSWORD", c.RegistryPasswordFile); err != nil {
		return nil, fmt.Errorf("--registry-password-file: %w", err)
	}
	if cfg.Username == "" && cfg.Password != "" {
		return nil, errors.New("there is a password for the registry but no --registry-user")
	}
	if files := (&tlsFlags{"registry-tls", c.RegistryTLSCA, c.RegistryTLSCert, c.RegistryTLSKey}); files.given() {
		if !strings.Contains(c.Registry, "https://") {
			return nil, errors.New("--registry-tls-ca, -cert and -key need an https URL as --registry")
		}
		if cfg.TLS, err = files.config(); err != nil {
			return nil, err
		}
	}
	client, err := registry.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("--registry: %w", err)
	}
	if cfg.Password != "" {
		for _, address := range strings.Split(c.Registry, ",") {
			if rest, clear := strings.CutPrefix(strings.TrimSpace(address), "http://"); clear {
				host, _, _ := strings.Cut(rest, "/")
				warnClear(log, "--registry", host)
			}
		}
	}
	return client, nil
}

// platform is what the roles of one process share.
type platform struct {
	log     *slog.Logger
	set     *schemas.Set
	cluster *kafka.Cluster
	codec   *schemas.Codec
	metrics *prometheus.Registry
	ready   *ops.Readiness
	models  *models.Feed
	guard   *ops.Guard
	// waiting is true until Kafka has answered for the first time.
	waiting atomic.Bool
	// handlers is what roles answer by HTTP, by path.
	handlers map[string]http.Handler
}

// open prepares the platform. It does no I/O yet but reading files; see start.
func (c *connection) open(log *slog.Logger) (*platform, error) {
	p := &platform{log: log, metrics: prometheus.NewRegistry(), ready: ops.NewReadiness(), handlers: map[string]http.Handler{}}
	p.metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	var err error
	if p.set, err = c.set(); err != nil {
		return nil, err
	}
	if p.guard, err = new(web).guard(); err != nil {
		return nil, err
	}
	kafkaConfig, err := c.kafkaConfig(log)
	if err != nil {
		return nil, err
	}
	kafkaConfig.Registerer = p.metrics
	awaited := "waiting for Kafka at " + strings.Join(c.Brokers, ",")
	kafkaConfig.OnFailure = func(err error) {
		if p.waiting.Load() {
			p.ready.Set("kafka", false, awaited+": "+err.Error())
		}
	}
	if p.cluster, err = kafka.Connect(kafkaConfig); err != nil {
		return nil, fmt.Errorf("--brokers %s: %w", strings.Join(c.Brokers, ","), err)
	}
	registry, err := c.registry(log)
	if err != nil {
		return nil, err
	}
	p.codec = schemas.NewCodec(p.set, registry)
	p.codec.MaxSchemaBytes = int(c.SchemaBytes)
	p.models = models.NewFeed(models.FeedConfig{Cluster: p.cluster, Codec: p.codec, Logger: log, Registerer: p.metrics})
	return p, nil
}

// prepare waits until Kafka and the registry answer, creates missing topics
// and registers the schemas.
func (p *platform) prepare(ctx context.Context, c *connection) error {
	p.ready.Set("kafka", false, "waiting for Kafka at "+strings.Join(c.Brokers, ","))
	p.waiting.Store(true)
	if c.CreateTopics {
		if err := p.cluster.EnsureTopics(ctx, topics.Configs(c.Partitions, c.Replication)...); err != nil {
			return fmt.Errorf("creating topics: %w", err)
		}
	} else if _, err := p.cluster.Partitions(ctx, schemas.TopicScores); err != nil {
		return fmt.Errorf("looking for the topics: %w", err)
	}
	if err := topics.Guard(ctx, p.cluster, p.log, p.metrics); err != nil {
		return err
	}
	p.waiting.Store(false)
	p.ready.Set("kafka", true, "")
	awaited := "waiting for the schema registry at " + c.Registry
	p.ready.Set("registry", false, awaited)
	if err := retry.Do(ctx, p.log, "registering the schemas", func(ctx context.Context) error {
		err := p.codec.Register(ctx)
		if err != nil {
			p.ready.Set("registry", false, awaited+": "+err.Error())
		}
		return err
	}); err != nil {
		return fmt.Errorf("registering the schemas: %w", err)
	}
	p.ready.Set("registry", true, "")
	return nil
}

// answering holds the flags of commands that answer once.
type answering struct {
	connection
	Patience time.Duration `help:"How long to wait for Kafka." default:"30s"`
}

// reach makes sure that Kafka answers and has the topic. It waits for a limited
// time: somebody is waiting in turn. Roles wait for as long as it takes.
func (p *platform) reach(ctx context.Context, c *answering, topic string) error {
	limited, cancel := context.WithTimeout(ctx, c.Patience)
	defer cancel()
	_, err := p.cluster.Partitions(limited, topic)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("no answer from Kafka at %s for %v: is it up, and are --brokers and the login right? %w", strings.Join(c.Brokers, ","), c.Patience, err)
	}
	if err != nil {
		return fmt.Errorf("looking for %s: %w", topic, err)
	}
	return nil
}
