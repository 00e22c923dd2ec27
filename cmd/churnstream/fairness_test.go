package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/consumers/labeler"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/producers/replay"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/trainer"
)

// TestTrainingSetIsFair has customers who leave silently and customers who stay and
// are scored every day, labels that come 30 days late, a broker that has compacted
// the scores by then, and restarts of all roles in between: of what is trained on,
// the same share has left as of all outcomes.
func TestTrainingSetIsFair(t *testing.T) {
	t.Parallel() // most of it is waiting
	broker, err := embedded.StartBroker(embedded.BrokerConfig{CompactionInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	registry, err := embedded.StartRegistry(embedded.RegistryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	conn := &connection{Kafka: kafka.Config{Brokers: []string{broker.Addr()}}, Registry: registry.URL()}
	client, err := conn.process(&listener{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Cluster.Close)
	settings := topics.EmbeddedConfigs(3)
	for i := range settings {
		settings[i].Configs["message.timestamp.type"] = "CreateTime" // the past is written here
	}
	if err := client.Cluster.EnsureTopics(t.Context(), settings...); err != nil {
		t.Fatal(err)
	}
	codec := client.Codec
	if err := codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	customers, err := replay.Load(codec.Set())
	if err != nil {
		t.Fatal(err)
	}
	producer := client.Cluster.NewProducer(kafka.ProducerConfig{})
	write := func(topic string, records []kafka.Record) {
		t.Helper()
		if err := producer.Produce(t.Context(), topic, records...); err != nil {
			t.Fatal(err)
		}
	}

	// start runs labeler and trainer as one process does.
	state := t.TempDir()
	start := func() (value func(name string) float64, stop func()) {
		t.Helper()
		metrics := prometheus.NewRegistry()
		cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
		if err != nil {
			t.Fatal(err)
		}
		feed := models.NewFeed(models.FeedConfig{Cluster: cluster, Codec: codec})
		on := role.Dependencies{Cluster: cluster, Codec: codec, Models: feed, Registerer: metrics}
		labels, err := labeler.New(labeler.Config{Dependencies: on, LabelDelay: 31 * 24 * time.Hour, StateDir: state, Grace: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		train, err := trainer.New(trainer.Config{Dependencies: on, MinLabels: 400})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 3)
		for _, run := range []func(context.Context) error{feed.Run, labels.Run, train.Run} {
			go func() { done <- run(ctx) }()
		}
		value = func(name string) (sum float64) {
			families, err := metrics.Gather()
			if err != nil {
				t.Error(err)
			}
			for _, f := range families {
				if f.GetName() == name {
					for _, m := range f.GetMetric() {
						sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
					}
				}
			}
			return sum
		}
		return value, func() {
			cancel()
			for range 3 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			cluster.Close()
		}
	}

	const day = 24 * time.Hour
	first := time.Now().Add(-60*day - time.Hour)
	leaves := func(i int) bool { return i%4 == 0 }
	offset := int64(0)
	scored := func(i int, at time.Time) kafka.Record {
		s := codec.NewScore()
		s.CustomerID, s.EventID = []byte(customers[i].CustomerID), []byte("00000000-0000-0000-0000-000000000001")
		s.OccurredAt, s.AsOf, s.ScoredAt = at.UnixMilli(), at.UnixMilli(), at.UnixMilli()
		s.ModelVersion, s.Probability, s.ExpectedProbability, s.Previous = 1, 0.5, 0.5, math.NaN()
		copy(s.Attributes, customers[i].Attributes)
		s.SourceOffset = offset
		offset++
		return kafka.Record{Key: s.CustomerID, Value: codec.AppendScore(nil, s), Time: at}
	}
	value, stop := start()
	written := 0
	for d := range 60 {
		var records []kafka.Record
		for i := range 400 {
			if d == 0 || !leaves(i) {
				records = append(records, scored(i, first.Add(time.Duration(d)*day)))
			}
		}
		write(schemas.TopicScores, records)
		written += len(records)
		if d == 20 {
			stop()
			value, stop = start()
		}
	}
	until(t, "the labeler to have read the scores", func() bool { return value("churn_labeler_kept_scores") == float64(written) })
	left := func() (n int) {
		spans, err := client.Cluster.Spans(t.Context(), schemas.TopicScores)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range spans {
			err := client.Cluster.Read(t.Context(), s, func(all []kafka.Record, _ int64) error { n += len(all); return nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	broker.Cluster().Compact()
	until(t, "compaction", func() bool { return left() < written/4 })
	stop()

	value, stop = start()
	var outcomes []kafka.Record
	churned := 0
	for i := range 400 {
		at := first.Add(30*day + time.Duration(i)*time.Second)
		o := schemas.ChurnOutcome{CustomerID: customers[i].CustomerID, ObservedAt: at.UnixMilli(), Churned: leaves(i), Source: "test"}
		outcomes = append(outcomes, kafka.Record{Key: []byte(o.CustomerID), Value: codec.AppendOutcome(nil, &o), Time: time.Now()})
		if leaves(i) {
			churned++
		}
	}
	write(schemas.TopicOutcomes, outcomes[:150])
	until(t, "the first examples", func() bool { return value("churn_trainer_examples") > 0 })
	stop()
	value, stop = start()
	write(schemas.TopicOutcomes, outcomes[150:])
	until(t, "an example of every outcome", func() bool { return value("churn_trainer_examples") == 400 })
	until(t, "a model", func() bool { return value("churn_trainer_last_training_timestamp_seconds") > 0 })
	stop()

	var latest *models.Version
	answer := &answering{connection: *conn, Patience: time.Minute}
	err = answer.directory(t.Context(), slog.New(slog.DiscardHandler), func(d *directory) error {
		if latest = d.Champion(); latest == nil {
			return errors.New("there is no champion")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	of := latest.Model.BaseRate*float64(latest.TrainingRows) + float64(latest.Metrics.Churners)
	if latest.LabelsSeen != 400 || math.Abs(of-float64(churned)) > 1e-6 {
		t.Errorf("of %d examples %v have left, of 400 outcomes %d", latest.LabelsSeen, of, churned)
	}
	if latest.Horizon != (30 * day).Milliseconds() {
		t.Errorf("the model predicts that a customer %s", schemas.Label(latest.Horizon))
	}
}
