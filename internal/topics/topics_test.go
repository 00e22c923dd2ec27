package topics_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
)

func cluster(t *testing.T) (*kafka.Cluster, *kafkago.Client) {
	t.Helper()
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	c, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, &kafkago.Client{Addr: kafkago.TCP(broker.Addr()), Timeout: 10 * time.Second}
}

func alter(t *testing.T, client *kafkago.Client, topic, setting, value string) {
	t.Helper()
	_, err := client.IncrementalAlterConfigs(t.Context(), &kafkago.IncrementalAlterConfigsRequest{
		Resources: []kafkago.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafkago.ResourceTypeTopic, ResourceName: topic,
			Configs: []kafkago.IncrementalAlterConfigsRequestConfig{{Name: setting, Value: value, ConfigOperation: kafkago.ConfigOperationSet}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Topics as they are created pass.
func TestCreatedTopicsPass(t *testing.T) {
	c, _ := cluster(t)
	if err := c.EnsureTopics(t.Context(), topics.EmbeddedConfigs(2)...); err != nil {
		t.Fatal(err)
	}
	findings, err := topics.Check(t.Context(), c)
	if err != nil || len(findings) < 15 {
		t.Fatalf("%d findings, %v", len(findings), err)
	}
	for _, f := range findings {
		if !f.OK && f.Severity == topics.Loss {
			t.Errorf("%+v", f)
		}
	}
	if err := topics.Guard(t.Context(), c, slog.New(slog.DiscardHandler), nil); err != nil {
		t.Error(err)
	}
}

func TestGuard(t *testing.T) {
	for _, r := range []struct {
		name, topic, setting, value string
		refused                     bool
	}{
		{"scores that are deleted", schemas.TopicScores, "cleanup.policy", "delete", true},
		{"scores that are deleted too", schemas.TopicScores, "cleanup.policy", "compact,delete", true},
		{"events that are compacted", schemas.TopicEvents, "cleanup.policy", "compact", true},
		{"models that are deleted", schemas.TopicModels, "cleanup.policy", "delete", true},
		{"batches that are refused", schemas.TopicScores, "max.message.bytes", "100000", true},
		{"events for an hour", schemas.TopicEvents, "retention.ms", "3600000", false},
		{"events for ever", schemas.TopicEvents, "retention.ms", "-1", false},
		{"events by the producer's clock", schemas.TopicEvents, "message.timestamp.type", "CreateTime", false},
		{"outcomes for ever", schemas.TopicOutcomes, "retention.ms", "-1", false},
		{"examples that are deleted", schemas.TopicExamples, "cleanup.policy", "delete", true},
		{"outcomes by the producer's clock", schemas.TopicOutcomes, "message.timestamp.type", "CreateTime", false},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			c, client := cluster(t)
			if err := c.EnsureTopics(t.Context(), topics.EmbeddedConfigs(1)...); err != nil {
				t.Fatal(err)
			}
			alter(t, client, r.topic, r.setting, r.value)
			var log bytes.Buffer
			reg := prometheus.NewRegistry()
			err := topics.Guard(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil)), reg)
			if refused := errors.Is(err, topics.ErrSettings); refused != r.refused {
				t.Fatalf("error %v", err)
			}
			if r.refused && (!strings.Contains(err.Error(), r.topic+" has "+r.setting+"="+r.value) || !strings.Contains(err.Error(), "--add-config "+r.setting+"=")) {
				t.Errorf("the error does not say what to do: %v", err)
			}
			fine := r.value == "-1" && r.topic == schemas.TopicEvents
			warned := strings.Contains(log.String(), "setting="+r.setting+" ") && strings.Contains(log.String(), "topic="+r.topic)
			if warned != (!r.refused && !fine) {
				t.Errorf("log: %s", log.String())
			}
			problems := 0
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					if m.GetGauge().GetValue() == 0 {
						problems++
					}
				}
			}
			if fine && problems > 0 || !fine && problems != 1 {
				t.Errorf("%d settings are reported as wrong", problems)
			}
			if lint, err := testutil.GatherAndLint(reg); err != nil || len(lint) > 0 {
				t.Errorf("%v %v", lint, err)
			}
		})
	}
}

// Topics that are not there yet are no fault.
func TestGuardWithoutTopics(t *testing.T) {
	c, _ := cluster(t)
	if err := topics.Guard(t.Context(), c, slog.New(slog.DiscardHandler), prometheus.NewRegistry()); err != nil {
		t.Error(err)
	}
}

// What a broker does not say may not be so: that is a warning.
func TestRequireOfABrokerThatDoesNotSay(t *testing.T) {
	c, _ := cluster(t)
	if err := c.EnsureTopics(t.Context(), topics.EmbeddedConfigs(1)...); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	err := topics.Require(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry(),
		topics.AtLeast(schemas.TopicScores, topics.CompactionLag, time.Hour, "scores are missing"))
	if err != nil || !strings.Contains(log.String(), "does not say") || !strings.Contains(log.String(), "scores are missing") {
		t.Errorf("%v; logged %q", err, log.String())
	}
}
