package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
)

type brokerCommand struct {
	Listen         string `help:"Address of the broker." default:"127.0.0.1:19092" placeholder:"HOST:PORT"`
	RegistryListen string `help:"Address of the schema registry." default:"127.0.0.1:18081" placeholder:"HOST:PORT"`
	DataDir        string `help:"Directory to store everything in; without it everything is in memory." placeholder:"DIR"`
	Partitions     int    `help:"Partitions of the topics." default:"6"`
}

// Help is shown by churnstream broker --help.
func (brokerCommand) Help() string {
	return `An embedded broker that speaks Kafka's protocol, and a schema registry, with all topics created. For development and tests: it keeps one copy of the data, on this machine. It knows no min.compaction.lag.ms: compaction of churn.scores leaves the last score of a customer within a minute, so a labeler that is not at work meanwhile, or whose state is lost, finds no score of the time of a decision.

Example:
  churnstream broker --data-dir ./churn-data
  churnstream run --roles score,train,monitor,serve --brokers 127.0.0.1:19092 --registry http://127.0.0.1:18081`
}

func (c *brokerCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	dir := func(name string) string {
		if c.DataDir == "" {
			return ""
		}
		return filepath.Join(c.DataDir, name)
	}
	broker, err := embedded.StartBroker(embedded.BrokerConfig{Addr: c.Listen, Dir: dir("kafka"), Logger: log})
	if err != nil {
		return fmt.Errorf("starting the broker: %w", err)
	}
	defer broker.Close()
	registry, err := embedded.StartRegistry(embedded.RegistryConfig{Addr: c.RegistryListen, Dir: dir("registry"), Logger: log})
	if err != nil {
		return fmt.Errorf("starting the schema registry: %w", err)
	}
	defer registry.Close()
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}, Logger: log})
	if err != nil {
		return err
	}
	defer cluster.Close()
	if err := cluster.EnsureTopics(ctx, topics.EmbeddedConfigs(c.Partitions)...); err != nil {
		return fmt.Errorf("creating topics: %w", err)
	}
	fmt.Fprintf(out, "Kafka at %s, schema registry at %s\n\n  churnstream score --brokers %[1]s --registry %[2]s\n  churnstream tail %[3]s --brokers %[1]s --registry %[2]s\n\nCtrl-C ends both.\n",
		broker.Addr(), registry.URL(), schemas.TopicScores)
	<-ctx.Done()
	return nil
}
