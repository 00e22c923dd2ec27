package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/churnstream/churnstream/consumers/sink"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/process"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/producers/pace"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
)

// bounds says of every label how many values it can have. A label that is not
// here has no bound that anybody has thought of.
var bounds = map[string]string{
	"age":             "6 classes of age of a score",
	"bin":             "10",
	"code":            "codes of HTTP answers that there are, about 15",
	"decile":          "10",
	"dependency":      "`kafka`, `registry`",
	"feature":         "features of the schema",
	"figure":          "figures that have an interval, 10 at most",
	"from":            "`topic`, `snapshot`, `memory`",
	"group":           "consumer groups of the process, one per role",
	"handler":         "endpoints, as patterns: `/v1/customers/{id}`, never a customer's own path",
	"label":           "`churn`, `stay`",
	"level":           "the most frequent levels of a categorical feature; see `docs/limits.md`",
	"method":          "methods of HTTP that an endpoint knows",
	"model_version":   "the champion and the newest versions, 20 at most",
	"operation":       "a fixed list",
	"partition":       "partitions of the topic",
	"predicted":       "`churn`, `stay`",
	"actual":          "`churn`, `stay`",
	"reader":          "roles, and stores of the sink",
	"reason":          "a fixed list",
	"result":          "a fixed list",
	"risk":            "`LOW`, `MEDIUM`, `HIGH`",
	"role":            "roles; of a shadow comparison `champion`, `challenger`",
	"segment_feature": "categorical features of the schema",
	"setting":         "settings of topics that matter, 10 at most",
	"source":          "`replay`, `simulator` and the like: one per producer",
	"stage":           "`champion`, `challenger`, `retired`",
	"store":           "stores of the sink: `clickhouse`, `sqlite`",
	"table":           "tables of the store",
	"topic":           "topics of churnstream",
	"unit":            "the unit of one feature",
}

// histograms are those that a role hands out through a collector of its own, and
// only when it has something to say, so that their type cannot be seen here.
var histograms = []string{"churn_monitor_compute_seconds"}

// series are those of one metric that some process exports.
type series struct {
	name, help string
	kind       dto.MetricType
	labels     []string
}

// recorder remembers which of what is registered are histograms.
type recorder struct {
	*prometheus.Registry
	kinds map[string]dto.MetricType
}

func (r recorder) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

func (r recorder) Register(c prometheus.Collector) error {
	// Metrics without labels have a value at once, which says their type.
	if _, ok := c.(*prometheus.HistogramVec); ok {
		for _, m := range described(c) {
			r.kinds[m.name] = dto.MetricType_HISTOGRAM
		}
	}
	return r.Registry.Register(c)
}

var description = regexp.MustCompile(`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"), .*constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// described returns what a collector may export, without types.
func described(c prometheus.Collector) (all []series) {
	descriptions := make(chan *prometheus.Desc)
	go func() {
		c.Describe(descriptions)
		close(descriptions)
	}()
	for d := range descriptions {
		parts := description.FindStringSubmatch(d.String())
		name, err := strconv.Unquote(parts[1])
		if err != nil {
			panic(err)
		}
		help, err := strconv.Unquote(parts[2])
		if err != nil {
			panic(err)
		}
		m := series{name: name, help: help}
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(parts[3], -1) {
			m.labels = append(m.labels, label[1])
		}
		if parts[4] != "" {
			m.labels = append(m.labels, strings.Split(parts[4], ",")...)
		}
		if strings.HasPrefix(m.name, "churn_") {
			all = append(all, m)
		}
	}
	return all
}

// complete returns what a registry may export, by name.
func (r recorder) complete(t *testing.T) map[string]series {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		r.kinds[f.GetName()] = f.GetType()
	}
	all := map[string]series{}
	for _, m := range described(r.Registry) {
		kind, known := r.kinds[m.name]
		switch {
		case known:
			m.kind = kind
		case slices.Contains(histograms, m.name):
			m.kind = dto.MetricType_HISTOGRAM
		case strings.HasSuffix(m.name, "_total"):
			m.kind = dto.MetricType_COUNTER
		default:
			m.kind = dto.MetricType_GAUGE
		}
		all[m.name] = m
	}
	return all
}

// section is what one kind of process exports beside what every process does.
type section struct {
	title   string
	metrics map[string]series
}

// exported makes every kind of process there is, and returns what they export.
func exported(t *testing.T) []section {
	t.Helper()
	broker, err := embedded.StartBroker(embedded.BrokerConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	reg := registrytest.New()
	begin := func() (*process.Process, recorder) {
		p, err := process.New(process.Config{
			Kafka:  kafka.Config{Brokers: []string{broker.Addr()}},
			Codec:  schemas.NewCodec(schemas.Telco(), reg),
			Topics: topics.EmbeddedConfigs(1),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p, recorder{p.Metrics, map[string]dto.MetricType{}}
	}
	p, every := begin()
	if err := p.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	shared := every.complete(t)
	sections := []section{{"Every process", shared}}
	add := func(title string, r recorder) {
		own := r.complete(t)
		maps.DeleteFunc(own, func(name string, _ series) bool { _, everywhere := shared[name]; return everywhere })
		sections = append(sections, section{title, own})
	}
	for _, d := range roles {
		p, r := begin()
		config := d.Config()
		if stores, ok := config.(*sink.StoresConfig); ok {
			stores.SQLite = filepath.Join(t.TempDir(), "churn.db")
		}
		made, err := d.New(role.Dependencies{
			Cluster: p.Cluster, Codec: p.Codec, Models: p.Models, Registerer: r,
		}, config)
		if err != nil {
			t.Fatalf("%s: %v", d.Name, err)
		}
		p.AddTask(d.Name, made) // to be closed with the process
		add("`churnstream "+d.Name+"`", r)
	}
	p, r := begin()
	pace.NewPublisher(nil, p.Codec, r)
	add("`churnstream replay` and `churnstream simulate`", r)
	return sections
}

const metricsDocument = "../../docs/metrics.md"

// docs/metrics.md is made of what the roles register; -update makes it anew.
func TestMetricsReferenceIsCurrent(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Metrics

<!-- Made by go test ./cmd/churnstream -run MetricsReference -update -->

What processes export on ` + "`/metrics`" + `, beside Go's ` + "`go_…` and `process_…`" + `. A process with
several roles exports the metrics of all of them, each once. A figure that is not
defined, such as the ROC AUC of one class, has no series: no 0 stands for it. Alerts on these
metrics are in [deploy/prometheus](../deploy/prometheus/rules.yml), what to do about
them in the [runbooks](runbooks.md), dashboards in [deploy/grafana](../deploy/grafana).

Histograms have classic buckets, and native ones where Prometheus asks for those.
`)
	used := map[string]bool{}
	var lint []*dto.MetricFamily
	for _, s := range exported(t) {
		fmt.Fprintf(&b, "\n## %s\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n", s.title)
		for _, name := range slices.Sorted(maps.Keys(s.metrics)) {
			m := s.metrics[name]
			labels := make([]string, len(m.labels))
			for i, label := range m.labels {
				labels[i] = "`" + label + "`"
				if used[label] = true; bounds[label] == "" {
					t.Errorf("%s has the label %s, of which it is not written down how many values it can have", name, label)
				}
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(m.kind.String()), strings.Join(labels, ", "), strings.ReplaceAll(m.help, "|", `\|`))
			lint = append(lint, &dto.MetricFamily{Name: &m.name, Help: &m.help, Type: &m.kind})
		}
	}
	b.WriteString("\n## Labels\n\nNo label holds what customers or clients choose, so the number of series is bounded.\n\n| label | values |\n|---|---|\n")
	for _, label := range slices.Sorted(maps.Keys(bounds)) {
		if used[label] {
			fmt.Fprintf(&b, "| `%s` | %s |\n", label, bounds[label])
		}
	}
	problems, err := promlint.NewWithMetricFamilies(lint).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("promlint: %s: %s", p.Metric, p.Text)
	}
	if *update {
		if err := os.WriteFile(metricsDocument, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if current, err := os.ReadFile(metricsDocument); err != nil || string(current) != b.String() {
		t.Errorf("%s is not what the roles register (%v); go test ./cmd/churnstream -run MetricsReference -update makes it anew", metricsDocument, err)
	}
}

// What rules, dashboards and documents speak of is in docs/metrics.md, which is
// held to be true above.
func TestMetricsThatAreSpokenOfExist(t *testing.T) {
	document, err := os.ReadFile(metricsDocument)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(churn_\\w+)` \\| (\\w+) \\|").FindAllStringSubmatch(string(document), -1) {
		there[row[1]] = true
		if row[2] == "histogram" {
			there[row[1]+"_bucket"], there[row[1]+"_sum"], there[row[1]+"_count"] = true, true, true
		}
	}
	// Tables, columns and schemas have names that begin in the same way.
	name := regexp.MustCompile(`\bchurn_[a-z0-9_]*[a-z0-9]\b`)
	for _, pattern := range []string{"deploy/clickhouse/churnstream.sql", "schemas/*.avsc"} {
		for _, file := range matching(t, pattern) {
			there[strings.TrimSuffix(filepath.Base(file), ".avsc")] = true
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, other := range name.FindAllString(string(text), -1) {
				there[other] = true
			}
		}
	}
	var files []string
	for _, pattern := range []string{"docs/*.md", "README.md", "deploy/prometheus/*", "deploy/grafana/*.md", "deploy/grafana/*/*"} {
		files = append(files, matching(t, pattern)...)
	}
	recorded := regexp.MustCompile(`\w+:churn_\w+:\w+`)
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.IsDir() {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(recorded.ReplaceAllString(string(text), ""), "\n") {
			for _, metric := range name.FindAllString(line, -1) {
				if !there[metric] {
					t.Errorf("%s:%d speaks of %s, which there is not", file, i+1, metric)
				}
			}
		}
	}
}

func matching(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob("../../" + pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
