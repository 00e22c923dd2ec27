package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
)

// What the roles refuse to start with, topics check shows.
func TestTopicsCheck(t *testing.T) {
	t.Parallel()
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	// A cluster of before there were examples.
	if err := cluster.EnsureTopics(t.Context(), slices.DeleteFunc(topics.EmbeddedConfigs(1), func(c kafka.TopicConfig) bool {
		return c.Name == schemas.TopicExamples
	})...); err != nil {
		t.Fatal(err)
	}
	check := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		code = run(append([]string{"topics", "check", "--brokers", broker.Addr()}, args...), &out, &errs)
		return code, out.String(), errs.String()
	}
	create := "kafka-topics --create --topic churn.examples --partitions 6 --replication-factor 1 --config cleanup.policy=compact --config delete.retention.ms=604800000\n"
	if code, out, errs := check(); code != 0 || !strings.Contains(out, "cleanup.policy") || strings.Contains(out, "WRONG") ||
		!strings.Contains(out, create) || strings.Count(out, "--create") != 1 {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if err := cluster.EnsureTopics(t.Context(), topics.EmbeddedConfigs(1)...); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := check(); code != 0 || strings.Contains(out, "--create") || !strings.Contains(out, schemas.TopicExamples) {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	// A labeler that looks further back, or waits longer, asks for more.
	const hundredDays = "≥ 8640000000   advice: outcomes may be deleted before they are labelled"
	if code, out, errs := check(); code != 0 || strings.Contains(out, "advice") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if code, out, errs := check("--horizon", "2160h", "--label-delay", "2400h"); code != 0 || !strings.Contains(out, "≥ 16502400000") ||
		!strings.Contains(strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(hundredDays), " ")) {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	client := &kafkago.Client{Addr: kafkago.TCP(broker.Addr()), Timeout: 10 * time.Second}
	if _, err := client.IncrementalAlterConfigs(t.Context(), &kafkago.IncrementalAlterConfigsRequest{
		Resources: []kafkago.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafkago.ResourceTypeTopic, ResourceName: schemas.TopicScores,
			Configs: []kafkago.IncrementalAlterConfigsRequestConfig{{Name: "cleanup.policy", Value: "delete", ConfigOperation: kafkago.ConfigOperationSet}},
		}},
	}); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := check(); code != 1 || !strings.Contains(out, "WRONG: the state of every customer") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	var out, errs bytes.Buffer
	code := run([]string{"score", "--brokers", broker.Addr(), "--registry", "http://127.0.0.1:1"}, &out, &errs)
	if code != 1 || !strings.Contains(errs.String(), "churn.scores has cleanup.policy=delete") {
		t.Errorf("the scorer: exit %d\n%s%s", code, out.String(), errs.String())
	}
}
