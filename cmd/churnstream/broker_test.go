package main

import (
	"net"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
)

// TestBrokerKeepsItsData starts a broker again on the directory of one before:
// topics, records and schemas are there still.
func TestBrokerKeepsItsData(t *testing.T) {
	t.Parallel() // most of it is waiting
	dir := t.TempDir()
	start := func(partitions string) (p *child, cluster *kafka.Cluster, codec *schemas.Codec) {
		t.Helper()
		p = launch(t, "broker", "--listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--data-dir", dir, "--partitions", partitions)
		m := p.find(`Kafka at (\S+), schema registry at (\S+)`)
		cluster, err := kafka.Connect(kafka.Config{Brokers: []string{m[1]}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		client, err := registry.New(registry.Config{URL: m[2]})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return p, cluster, schemas.NewCodec(schemas.Telco(), client)
	}

	p, cluster, codec := start("3")
	for _, topic := range topics.EmbeddedConfigs(3) {
		n, err := cluster.Partitions(t.Context(), topic.Name)
		if err != nil || n != topic.Partitions {
			t.Errorf("%s has %d partitions, want %d: %v", topic.Name, n, topic.Partitions, err)
		}
	}
	if err := codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	event := codec.NewEvent()
	event.CustomerID, event.EventID, event.OccurredAt = []byte("ann"), []byte("e1"), 1_700_000_000_000
	producer := cluster.NewProducer(kafka.ProducerConfig{})
	if err := producer.Produce(t.Context(), schemas.TopicEvents, kafka.Record{Key: []byte("ann"), Value: codec.AppendEvent(nil, event)}); err != nil {
		t.Fatal(err)
	}
	if code, _ := p.interrupt(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	// The number of partitions is that of the topics there are.
	_, cluster, codec = start("5")
	spans, err := cluster.Spans(t.Context(), schemas.TopicEvents)
	if err != nil || len(spans) != 3 {
		t.Fatalf("%d partitions after a restart, want 3: %v", len(spans), err)
	}
	found := 0
	for _, span := range spans {
		err := cluster.Read(t.Context(), span, func(records []kafka.Record, _ int64) error {
			for i := range records {
				got := codec.NewEvent()
				if err := codec.DecodeEvent(t.Context(), records[i].Value, got); err != nil {
					return err
				}
				if string(got.CustomerID) != "ann" || got.OccurredAt != event.OccurredAt {
					t.Errorf("read %+v", got)
				}
				found++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found != 1 {
		t.Errorf("%d events after a restart, want 1", found)
	}
}

// An address that is taken is named.
func TestBrokerAddressTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct{ broker, registry, what string }{
		{taken.Addr().String(), "127.0.0.1:0", "broker"},
		{"127.0.0.1:0", taken.Addr().String(), "registry"},
	} {
		var out, errs strings.Builder
		code := run([]string{"broker", "--listen", c.broker, "--registry-listen", c.registry}, &out, &errs)
		if code != 1 || !strings.Contains(errs.String(), c.what) || !strings.Contains(errs.String(), taken.Addr().String()) {
			t.Errorf("%s: exit code %d, %s", c.what, code, errs.String())
		}
	}
}
