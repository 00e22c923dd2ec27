package pacetest

import (
	"testing"

	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// Cluster starts a broker with the topics of events and outcomes, 6 partitions
// each, and connects to it.
func Cluster(tb testing.TB) *kafka.Cluster {
	tb.Helper()
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(broker.Close)
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(cluster.Close)
	err = cluster.EnsureTopics(tb.Context(),
		kafka.TopicConfig{Name: schemas.TopicEvents, Partitions: 6},
		kafka.TopicConfig{Name: schemas.TopicOutcomes, Partitions: 6})
	if err != nil {
		tb.Fatal(err)
	}
	return cluster
}
