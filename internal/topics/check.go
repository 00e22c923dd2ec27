package topics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/metrics"
)

// Finding is how one setting of a topic is and should be.
type Finding struct {
	Topic, Setting string
	// Is is the setting's value, "" if the broker does not say.
	Is, Should string
	OK         bool
	// Severity is what follows if it is not OK, and Why says it.
	Severity Severity
	Why      string
}

// ErrSettings means that a topic is set such that state or events would be lost.
var ErrSettings = errors.New("a topic's settings would lose data")

// Check compares the settings of the topics that exist with what they should
// be. It waits while the cluster is down. What a broker does not say is taken
// as right.
func Check(ctx context.Context, cluster *kafka.Cluster) ([]Finding, error) {
	settings, err := cluster.TopicSettings(ctx, Names()...)
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, t := range all() {
		values := settings[t.name]
		if values == nil { // it does not exist, or may not be looked at
			continue
		}
		for _, r := range t.rules {
			findings = append(findings, r.find(t.name, values))
		}
	}
	return findings, nil
}

// Missing returns the topics that do not exist, as they are to be created. It waits
// while the cluster is down.
func Missing(ctx context.Context, cluster *kafka.Cluster, partitions, replication int) ([]kafka.TopicConfig, error) {
	settings, err := cluster.TopicSettings(ctx, Names()...)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(Configs(partitions, replication), func(c kafka.TopicConfig) bool {
		_, exists := settings[c.Name]
		return exists
	}), nil
}

// Guard checks the topics before a role works with them: what would lose data
// is an error that matches ErrSettings and says how to mend it, the rest is
// logged as warnings. Both are in the metric churn_topic_setting_ok.
func Guard(ctx context.Context, cluster *kafka.Cluster, log *slog.Logger, registerer prometheus.Registerer) error {
	findings, err := Check(ctx, cluster)
	if err != nil {
		return fmt.Errorf("checking the topics: %w", err)
	}
	return report(findings, log, registerer)
}

// report logs findings and shows them in the metric. What would lose data is the
// error.
func report(findings []Finding, log *slog.Logger, registerer prometheus.Registerer) error {
	fine := metrics.Register(registerer, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "churn_topic_setting_ok",
		Help: "1 if a setting of a topic was as it should be when this process started, else 0.",
	}, []string{"topic", "setting"}))
	var wrong []error
	for _, f := range findings {
		value := 0.0
		if f.OK {
			value = 1
		}
		fine.WithLabelValues(f.Topic, f.Setting).Set(value)
		switch {
		case f.OK:
		case f.Severity == Loss:
			wrong = append(wrong, fmt.Errorf("%w: %s has %s=%s, which should be %s, or else %s; set it with kafka-configs --alter --topic %s --add-config %s",
				ErrSettings, f.Topic, f.Setting, f.Is, f.Should, f.Why, f.Topic, f.remedy()))
		default:
			log.Warn("a topic's setting is not as it should be", "topic", f.Topic, "setting", f.Setting,
				"is", f.Is, "should", f.Should, "otherwise", f.Why)
		}
	}
	return errors.Join(wrong...)
}

// CompactionLag and Retention are names of settings.
const (
	CompactionLag = compactionLag
	Retention     = retention
)

// Requirement is what a role's own settings ask of a topic's.
type Requirement struct {
	topic string
	rule  rule
}

// AtLeast asks for a time; otherwise says what happens without it.
func AtLeast(topic, setting string, least time.Duration, otherwise string) Requirement {
	return Requirement{topic, atLeast(setting, 0, least, Advice, otherwise)}
}

// Require is Guard for what a role asks for beyond what all do: what is not as it
// should be is logged, and in the metric. It waits while the cluster is down.
func Require(ctx context.Context, cluster *kafka.Cluster, log *slog.Logger, registerer prometheus.Registerer, all ...Requirement) error {
	findings, err := Compare(ctx, cluster, all...)
	if err != nil {
		return fmt.Errorf("checking the topics: %w", err)
	}
	for _, f := range findings {
		if f.Is == "" { // nothing there to be set otherwise, so the metric does not say it
			log.Warn("the broker does not say how a topic is set, and may not know the setting",
				"topic", f.Topic, "setting", f.Setting, "should", f.Should, "otherwise", f.Why)
		}
	}
	return report(findings, log, registerer)
}

// Compare is Check for what a role asks for beyond what all do.
func Compare(ctx context.Context, cluster *kafka.Cluster, all ...Requirement) ([]Finding, error) {
	var names []string
	for _, r := range all {
		names = append(names, r.topic)
	}
	settings, err := cluster.TopicSettings(ctx, names...)
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, r := range all {
		values, exists := settings[r.topic]
		if !exists {
			continue
		}
		findings = append(findings, r.rule.find(r.topic, values))
	}
	return findings, nil
}

// find holds a rule against the settings of a topic.
func (r *rule) find(topic string, values map[string]string) Finding {
	value, said := values[r.setting]
	return Finding{
		Topic: topic, Setting: r.setting, Is: value, Should: r.should,
		OK: !said || r.ok(value), Severity: r.severity, Why: r.why,
	}
}

// remedy is the setting as kafka-configs takes it.
func (f *Finding) remedy() string {
	value := f.Should
	if n, found := cutNumber(f.Should); found {
		value = strconv.FormatInt(n, 10)
	}
	return f.Setting + "=" + value
}

func cutNumber(should string) (int64, bool) {
	var n int64
	_, err := fmt.Sscanf(should, "≥ %d", &n)
	return n, err == nil
}
