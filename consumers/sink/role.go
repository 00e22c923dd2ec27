package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/internal/credentials"
	"github.com/churnstream/churnstream/internal/role"
)

// Role is the sink as a part of a process: one Sink per store.
var Role = role.Define(role.About{
	Name:  "sink",
	Title: "Stores:",
	Help:  "Write scores, outcomes, examples and models to ClickHouse or SQLite.",
	Detail: `Writes the topics to tables: churn_scores, churn_outcomes, churn_examples and model_versions, with the views churn_scores_latest, customers_at_risk, training_set, churn_examples_latest, model_accuracy_daily and model_calibration.

Examples:
  churnstream sink --brokers kafka:9092 --registry http://registry:8081 --clickhouse clickhouse:9000
  churnstream sink --brokers kafka:9092 --registry http://registry:8081 --sqlite churn.db`,
}, func(on role.Dependencies, cfg StoresConfig) (role.Role, error) { return Open(on, cfg) })

// StoresConfig says which stores to write to, at least one, and how.
type StoresConfig struct {
	// SQLite is a file; "" is none.
	SQLite string `name:"sqlite" help:"SQLite file to write to." placeholder:"FILE"`
	// ClickHouse is a server if it has an address.
	ClickHouse ClickHouseConfig `embed:""`

	ClickHousePasswordFile string `name:"clickhouse-password-file" help:"File that holds the password." type:"existingfile" placeholder:"FILE"`
	ClickHouseTLS          bool   `name:"clickhouse-tls" help:"Speak TLS to ClickHouse."`
	ClickHouseTLSCA        string `name:"clickhouse-tls-ca" help:"PEM file with the authorities to trust instead of the system's." type:"existingfile" placeholder:"FILE" advanced:""`
	ClickHouseTLSCert      string `name:"clickhouse-tls-cert" help:"PEM file with the client certificate." type:"existingfile" placeholder:"FILE" advanced:""`
	ClickHouseTLSKey       string `name:"clickhouse-tls-key" help:"PEM file with the client certificate's key." type:"existingfile" placeholder:"FILE" advanced:""`

	// Sink says how each is written to.
	Sink Config `embed:""`
}

// Stores writes to several stores, each at its own pace.
type Stores struct {
	sinks []*Sink
	log   *slog.Logger
}

// Open opens the stores. It connects to none yet.
func Open(on role.Dependencies, cfg StoresConfig) (*Stores, error) {
	if err := on.Complete(); err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	if cfg.SQLite == "" && cfg.ClickHouse.Addr == "" {
		return nil, errors.New("the sink needs --clickhouse HOST:PORT or --sqlite FILE")
	}
	if cfg.Sink.Group != "" && cfg.SQLite != "" && cfg.ClickHouse.Addr != "" {
		return nil, errors.New("--sink-group is the group of one store, as members of a group share the work; run a sink for each store")
	}
	s := &Stores{log: on.Logger}
	if err := s.open(on, cfg); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stores) open(on role.Dependencies, cfg StoresConfig) error {
	add := func(store Store) error {
		cfg := cfg.Sink
		cfg.Dependencies, cfg.Store = on, store
		sink, err := New(cfg)
		if err != nil {
			return errors.Join(err, store.Close())
		}
		s.sinks = append(s.sinks, sink)
		return nil
	}
	if cfg.SQLite != "" {
		store, err := OpenSQLite(cfg.SQLite, on.Codec.Set())
		if err != nil {
			return fmt.Errorf("--sqlite %s: %w", cfg.SQLite, err)
		}
		if err := add(store); err != nil {
			return err
		}
	}
	if cfg.ClickHouse.Addr != "" {
		if err := cfg.login(on.Logger); err != nil {
			return err
		}
		store, err := OpenClickHouse(cfg.ClickHouse, on.Codec.Set())
		if err != nil {
			return fmt.Errorf("--clickhouse: %w", err)
		}
		if err := add(store); err != nil {
			return err
		}
	}
	return nil
}

// login adds to ClickHouse what is in files and the environment.
func (c *StoresConfig) login(log *slog.Logger) (err error) {
	server := &c.ClickHouse
	const instead = "--clickhouse-user, and CHURN_CLICKHOUSE_PASSWORD or --clickhouse-password-file"
	if err := credentials.RefuseUserinfo("--clickhouse", server.Addr, instead); err != nil {
		return err
	}
	if server.Password, err = credentials.Secret("CHURN_CLICKHOUSE_PASSWORD", c.ClickHousePasswordFile); err != nil {
		return fmt.Errorf("--clickhouse-password-file: %w", err)
	}
	files := credentials.TLS{Name: "clickhouse-tls", CA: c.ClickHouseTLSCA, Cert: c.ClickHouseTLSCert, Key: c.ClickHouseTLSKey}
	if c.ClickHouseTLS || files.Given() {
		if server.TLS, err = files.Config(); err != nil {
			return err
		}
	} else if server.Password != "" {
		credentials.WarnClear(log, "--clickhouse", strings.Split(server.Addr, ",")...)
	}
	return nil
}

// Run writes until ctx ends, and returns nil then. The caller closes the stores
// after it.
func (s *Stores) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, sink := range s.sinks {
		g.Go(func() error {
			if err := sink.Run(ctx); err != nil {
				return fmt.Errorf("%s: %w", sink.cfg.Store.Name(), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// Close closes the stores.
func (s *Stores) Close() error {
	var errs []error
	for _, sink := range s.sinks {
		errs = append(errs, sink.cfg.Store.Close())
	}
	return errors.Join(errs...)
}
