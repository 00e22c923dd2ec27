package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/churnstream/churnstream/internal/credentials"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/process"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
)

// connection holds the flags that every process shares: where Kafka and the
// registry are, and which schema describes the customers.
type connection struct {
	Kafka kafka.Config `embed:""`

	TLS     bool   `name:"tls" help:"Speak TLS to Kafka." advanced:""`
	TLSCA   string `name:"tls-ca" help:"PEM file with the authorities to trust instead of the system's." type:"existingfile" placeholder:"FILE" advanced:""`
	TLSCert string `name:"tls-cert" help:"PEM file with the client certificate." type:"existingfile" placeholder:"FILE" advanced:""`
	TLSKey  string `name:"tls-key" help:"PEM file with the client certificate's key." type:"existingfile" placeholder:"FILE" advanced:""`

	SASL             string `name:"sasl" help:"How to log in to Kafka: none, plain, scram-sha-256 or scram-sha-512." enum:"none,plain,scram-sha-256,scram-sha-512" default:"none" advanced:""`
	SASLUser         string `name:"sasl-user" help:"User to log in as. The password comes from CHURN_SASL_PASSWORD or --sasl-password-file." advanced:""`
	SASLPasswordFile string `name:"sasl-password-file" help:"File that holds the password." type:"existingfile" placeholder:"FILE" advanced:""`

	Registry             string        `name:"registry" help:"URL of the schema registry." default:"http://localhost:8081" placeholder:"URL"`
	RegistryUser         string        `name:"registry-user" help:"User of the schema registry. The password comes from CHURN_REGISTRY_PASSWORD or --registry-password-file." advanced:""`
	RegistryPasswordFile string        `name:"registry-password-file" help:"File that holds the registry's password." type:"existingfile" placeholder:"FILE" advanced:""`
	RegistryTLSCA        string        `name:"registry-tls-ca" help:"PEM file with the authorities to trust at an https registry instead of the system's." type:"existingfile" placeholder:"FILE" advanced:""`
	RegistryTLSCert      string        `name:"registry-tls-cert" help:"PEM file with the client certificate for it." type:"existingfile" placeholder:"FILE" advanced:""`
	RegistryTLSKey       string        `name:"registry-tls-key" help:"PEM file with the client certificate's key." type:"existingfile" placeholder:"FILE" advanced:""`
	RegistryTimeout      time.Duration `name:"registry-timeout" help:"Longest that one attempt at one request to the schema registry may take; it is tried again." default:"10s" advanced:""`

	ProbeInterval time.Duration `name:"probe-interval" help:"Time between two questions to Kafka and the registry, and longest that an answer may take, before they count as down." default:"3s" advanced:""`

	Schema       string        `name:"schema" help:"Avro schema (.avsc) of the customer attributes or events, if not the shipped Telco ones." type:"existingfile" placeholder:"FILE"`
	SchemaBytes  int           `name:"schema-bytes" help:"Longest schema of a writer, as the registry has it; records of longer ones are set aside." default:"256KiB" type:"bytes" advanced:""`
	MaxClockSkew time.Duration `name:"max-clock-skew" help:"How far the time of an event or outcome may be ahead of its record's in Kafka; what is further ahead is set aside. The same for every role." default:"24h" advanced:""`

	KeyFormat string `name:"key-format" help:"How upstream writes customer_id as the key of events and outcomes: plain, or as an avro or json string, framed or with the schema in a header. Every role has to have the same." enum:"plain,avro,json" default:"plain" advanced:""`

	CreateTopics bool `name:"create-topics" help:"Create the topics that do not exist." default:"true" negatable:"" advanced:""`
	Partitions   int  `name:"partitions" help:"Partitions of topics that are created." default:"6" unit:"partitions" advanced:""`
	Replication  int  `name:"replication" help:"Replicas of topics that are created." default:"1" unit:"replicas" advanced:""`
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

// login returns how to reach Kafka, with what is in files and the environment.
func (c *connection) login(log *slog.Logger) (kafka.Config, error) {
	cfg := c.Kafka
	var err error
	for _, broker := range cfg.Brokers {
		if err := credentials.RefuseUserinfo("--brokers", broker, "--sasl-user, and CHURN_SASL_PASSWORD or --sasl-password-file"); err != nil {
			return cfg, err
		}
	}
	files := credentials.TLS{Name: "tls", CA: c.TLSCA, Cert: c.TLSCert, Key: c.TLSKey}
	if c.TLS || files.Given() {
		if cfg.TLS, err = files.Config(); err != nil {
			return cfg, err
		}
	}
	if c.SASL != "none" && c.SASL != "" {
		password, err := credentials.Secret("CHURN_SASL_PASSWORD", c.SASLPasswordFile)
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
			credentials.WarnClear(log, "--sasl plain", cfg.Brokers...)
		}
	}
	return cfg, nil
}

// registry returns a client of the schema registry.
func (c *connection) registry(log *slog.Logger) (*registry.Client, error) {
	cfg := registry.Config{URL: c.Registry, Username: c.RegistryUser, Timeout: c.RegistryTimeout}
	const instead = "--registry-user, and CHURN_REGISTRY_PASSWORD or --registry-password-file"
	if err := credentials.RefuseUserinfo("--registry", c.Registry, instead); err != nil {
		return nil, err
	}
	var err error
	if cfg.Password, err = credentials.Secret("CHURN_REGISTRY_PASSWORD", c.RegistryPasswordFile); err != nil {
		return nil, fmt.Errorf("--registry-password-file: %w", err)
	}
	if cfg.Username == "" && cfg.Password != "" {
		return nil, errors.New("there is a password for the registry but no --registry-user")
	}
	files := credentials.TLS{Name: "registry-tls", CA: c.RegistryTLSCA, Cert: c.RegistryTLSCert, Key: c.RegistryTLSKey}
	if files.Given() {
		if !strings.Contains(c.Registry, "https://") {
			return nil, errors.New("--registry-tls-ca, -cert and -key need an https URL as --registry")
		}
		if cfg.TLS, err = files.Config(); err != nil {
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
				credentials.WarnClear(log, "--registry", host)
			}
		}
	}
	return client, nil
}

// codec returns the codec of the customers' schemas.
func (c *connection) codec(log *slog.Logger) (*schemas.Codec, error) {
	set, err := c.set()
	if err != nil {
		return nil, err
	}
	client, err := c.registry(log)
	if err != nil {
		return nil, err
	}
	codec := schemas.NewCodec(set, client)
	codec.MaxSchemaBytes = c.SchemaBytes
	if codec.Keys, err = schemas.ParseKeyFormat(c.KeyFormat); err != nil {
		return nil, fmt.Errorf("--key-format: %w", err)
	}
	codec.MaxClockSkew = c.MaxClockSkew
	return codec, nil
}

// process prepares a process that answers at the listener. It does no I/O yet
// but reading files.
func (c *connection) process(l *listener, log *slog.Logger) (*process.Process, error) {
	login, err := c.login(log)
	if err != nil {
		return nil, err
	}
	codec, err := c.codec(log)
	if err != nil {
		return nil, err
	}
	guard, err := l.guard()
	if err != nil {
		return nil, err
	}
	cfg := process.Config{Kafka: login, Codec: codec, RegistryURL: c.Registry, ProbeInterval: c.ProbeInterval, Guard: guard, Logger: log}
	if c.CreateTopics {
		cfg.Topics = topics.Configs(c.Partitions, c.Replication)
	}
	return process.New(cfg)
}

// answering holds the flags of commands that answer once.
type answering struct {
	connection `group:"connection"`
	Patience   time.Duration `name:"patience" help:"How long to wait for Kafka." default:"30s"`
}

// openWithCodec is open, with the codec of the customers' schemas.
func (c *answering) openWithCodec(ctx context.Context, topic string, log *slog.Logger) (*kafka.Cluster, *schemas.Codec, error) {
	codec, err := c.codec(log)
	if err != nil {
		return nil, nil, err
	}
	cluster, err := c.open(ctx, topic, log)
	return cluster, codec, err
}

// open connects to Kafka and makes sure that it answers and has the topic. It
// waits for a limited time: somebody is waiting in turn. Roles wait for as long
// as it takes.
func (c *answering) open(ctx context.Context, topic string, log *slog.Logger) (*kafka.Cluster, error) {
	cfg, err := c.login(log)
	if err != nil {
		return nil, err
	}
	cfg.Logger = log
	brokers := strings.Join(cfg.Brokers, ",")
	cluster, err := kafka.Connect(cfg)
	if err != nil {
		return nil, fmt.Errorf("--brokers %s: %w", brokers, err)
	}
	limited, cancel := context.WithTimeout(ctx, c.Patience)
	defer cancel()
	if _, err := cluster.Partitions(limited, topic); err != nil {
		cluster.Close()
		if limited.Err() != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("no answer from Kafka at %s for %v: is it up, and are --brokers and the login right? %w", brokers, c.Patience, err)
		}
		return nil, fmt.Errorf("looking for %s: %w", topic, err)
	}
	return cluster, nil
}
