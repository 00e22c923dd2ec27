package check_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/check"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

var update = flag.Bool("update", false, "write the golden file anew")

const (
	hour = 3_600_000
	day  = 24 * hour
)

// end is when the check is made: a Wednesday.
var end = time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC)

// stage is topics with what a check reads.
type stage struct {
	t       *testing.T
	set     *schemas.Set
	codec   *schemas.Codec
	cluster *kafka.Cluster
	out     *kafka.Producer
	feed    *models.Feed
}

func newStage(t *testing.T) *stage {
	t.Helper()
	set, err := schemas.Parse([]byte(`{"type":"record","name":"CustomerAttributes","fields":[
		{"name":"plan","type":["null","string"],"default":null,"feature":{"kind":"categorical"}},
		{"name":"visits","type":["null","double"],"default":null,"feature":{"kind":"numeric"}}
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	reg, err := embedded.StartRegistry(embedded.RegistryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	client, err := registry.New(registry.Config{URL: reg.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s := &stage{t: t, set: set, codec: schemas.NewCodec(set, client)}
	if err := s.codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.cluster, err = kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.cluster.Close)
	if err := s.cluster.EnsureTopics(t.Context(), topics.EmbeddedConfigs(3)...); err != nil {
		t.Fatal(err)
	}
	s.out = s.cluster.NewProducer(kafka.ProducerConfig{})
	return s
}

func (s *stage) produce(topic, key string, value []byte) {
	s.t.Helper()
	if err := s.out.Produce(s.t.Context(), topic, kafka.Record{Key: []byte(key), Value: value}); err != nil {
		s.t.Fatal(err)
	}
}

// publish publishes a version whose plan weighs so much.
func (s *stage) publish(version int64, stage schemas.Stage, weight float64) {
	s.t.Helper()
	payload, err := json.Marshal(scoring.Model{Intercept: -0.5, Features: []scoring.ModelFeature{
		{Name: "plan", Kind: "categorical", Levels: []string{"monthly", "yearly"}, LogOdds: []float64{weight, -weight}, Frequency: []float64{0.5, 0.5}},
		{Name: "visits", Kind: "numeric", LogOddsPerUnit: -0.2, EmpiricalQuantiles: []float64{0, 5, 10},
			Bins: []scoring.Bin{{Mean: 5, Std: 2, Min: 0, Max: 10, Frequency: 1}}},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256(payload)
	m := schemas.ModelVersion{Version: version, CreatedAt: end.UnixMilli() - 90*day, Stage: stage, Payload: string(payload),
		SHA256: hex.EncodeToString(sum[:]), FeatureFingerprint: s.set.Spec().Fingerprint(), MediumThreshold: 0.3, HighThreshold: 0.6,
		Horizon: 30 * day, TrainingRows: 1000,
		Baseline: []drift.Distribution{
			{Name: "plan", Bins: []string{"monthly", "yearly"}, Frequencies: []float64{0.9, 0.1}, Rows: 1000,
				ReasonRows: 1000, ReasonMean: 0, ReasonDeviation: 0.2},
			{Name: "visits", Bins: []string{"5", "+Inf"}, Frequencies: []float64{0.5, 0.5}, Rows: 1000},
			{Name: drift.Score, Bins: []string{"0.1", "0.2", "0.3", "0.4", "0.5", "+Inf"}, Frequencies: []float64{0.2, 0.2, 0.2, 0.1, 0.1, 0.2}, Rows: 1000},
		}}
	m.Metrics = evaluation.NoMetrics()
	m.Metrics.Rows, m.Metrics.Churners, m.Metrics.LogLoss = 250, 60, 0.41
	s.produce(schemas.TopicModels, fmt.Sprint(version), s.codec.AppendModel(nil, &m))
}

// versions follows the models until those there are are known.
func (s *stage) versions() *models.Feed {
	s.t.Helper()
	if s.feed == nil {
		s.feed = models.NewFeed(models.FeedConfig{Cluster: s.cluster, Codec: s.codec})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.feed.Run(ctx) }()
		s.t.Cleanup(func() { cancel(); <-done })
		<-s.feed.CaughtUp()
	}
	return s.feed
}

func (s *stage) vector(levels *scoring.Levels, plan string, visits float64) scoring.Vector {
	x := scoring.NewVector(2)
	x[0], x[1] = s.set.Vocabulary().Find(0, []byte(plan), levels), visits
	return x
}

// example is a customer who was observed so long before the end.
func (s *stage) example(levels *scoring.Levels, plan string, visits float64, before int64, version int64, probability float64, churned bool) schemas.LabelledExample {
	observed := end.UnixMilli() - before
	e := schemas.LabelledExample{AsOf: observed - 30*day - hour, ObservedAt: observed, LabelledAt: observed + hour, Horizon: 30 * day, Churned: churned,
		ModelVersion: version, Probability: probability, SourceOffset: 1, Attributes: s.vector(levels, plan, visits)}
	if version == 0 {
		e.AsOf, e.Probability, e.SourcePartition, e.SourceOffset = observed, scoring.Missing, -1, -1
	}
	return e
}

func (s *stage) examples(customer string, levels scoring.Levels, list ...schemas.LabelledExample) {
	s.t.Helper()
	s.produce(schemas.TopicExamples, customer, s.codec.AppendExamples(nil, &schemas.CustomerExamples{CustomerID: []byte(customer), Examples: list, Levels: levels}))
}

// fill writes what a company has: two months of examples under two versions, and
// for a customer the newest score.
func (s *stage) fill() {
	rng := rand.New(rand.NewPCG(1, 2))
	s.publish(1, schemas.StageRetired, 0.4)
	s.publish(2, schemas.StageChampion, 1)
	for i := range 400 {
		plan, truth := "monthly", 0.8
		if i%2 == 0 {
			plan, truth = "yearly", -1.5
		}
		visits := float64(rng.IntN(11))
		churned := rng.Float64() < 1/(1+math.Exp(0.8-truth+0.2*visits-1))
		version, weight := int64(1), 0.4
		if i >= 250 {
			version, weight = 2, 1
		}
		if plan == "yearly" {
			weight = -weight
		}
		probability := 1 / (1 + math.Exp(0.5-weight+0.2*visits))
		var levels scoring.Levels
		e := s.example(&levels, plan, visits, int64(400-i)*int64(58*day/400), version, probability, churned)
		s.examples(fmt.Sprintf("c%03d", i), levels, e)
		if i < 300 {
			score := s.codec.NewScore()
			score.CustomerID, score.EventID = fmt.Appendf(nil, "c%03d", i), []byte("e")
			score.OccurredAt, score.AsOf = end.UnixMilli()-day, end.UnixMilli()-day
			score.ModelVersion, score.Probability, score.SourceOffset = version, probability, int64(i)
			score.Attributes, score.Levels = e.Attributes, levels
			s.produce(schemas.TopicScores, fmt.Sprintf("c%03d", i), s.codec.AppendScore(nil, score))
		}
	}
}

func (s *stage) report(since time.Duration, cfg check.Config) *check.Report {
	s.t.Helper()
	versions := s.versions()
	data, err := check.Collect(s.t.Context(), check.Source{Cluster: s.cluster, Codec: s.codec}, end.Add(-since), end)
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.At = end
	r, err := check.Analyse(s.t.Context(), s.set, data, versions, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

const month = 30 * 24 * time.Hour

// The report of a small topic is as it was, to six digits: other processors round
// otherwise.
func TestReportAsJSON(t *testing.T) {
	s := newStage(t)
	s.fill()
	var b bytes.Buffer
	if err := s.report(month, check.Config{Worst: 3}).WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var report any
	if err := json.Unmarshal(b.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(rounded(report), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "report.json")
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(bytes.TrimSpace(want)) != string(got) {
		t.Errorf("the report is not that of %s; -update writes it anew:\n%s", path, got)
	}
}

func rounded(v any) any {
	switch v := v.(type) {
	case float64:
		if v == 0 {
			return v
		}
		scale := math.Pow(10, 5-math.Floor(math.Log10(math.Abs(v))))
		return json.Number(fmt.Sprintf("%g", math.Round(v*scale)/scale))
	case []any:
		for i := range v {
			v[i] = rounded(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = rounded(v[k])
		}
	}
	return v
}

func TestReport(t *testing.T) {
	s := newStage(t)
	s.fill()
	// A later record of a customer replaces the former; a tombstone erases; what is
	// not a labeler's is passed over; and examples without a score are in no figure.
	var levels scoring.Levels
	corrected := s.example(&levels, "monthly", 1, 2*day, 2, 0.01, true)
	corrected.Corrections = 1
	s.examples("c399", levels, corrected)
	s.produce(schemas.TopicExamples, "c398", nil)
	s.produce(schemas.TopicExamples, "c397", []byte("no frame"))
	levels = nil
	own := s.example(&levels, "yearly", 1, 3*day, 0, 0, true)
	s.examples("own", levels, own)
	levels = nil
	brandNew := s.example(&levels, "<b>brand & new</b>", 1, 4*day, 7, 0.5, false)
	s.examples("new", levels, brandNew)

	r := s.report(month, check.Config{Worst: 4, SegmentRows: 1})
	if r.Champion != 2 || len(r.Labels) != 1 || r.Labels[0] != "leaves within 30 days" {
		t.Errorf("champion %d, labels %q", r.Champion, r.Labels)
	}
	if r.Refused["churn.examples: bad_frame"] != 1 || len(r.Refused) != 1 {
		t.Errorf("refused %v", r.Refused)
	}
	if e := r.Examples; e.Unscored != 1 || e.Corrected != 1 || e.Examples != r.Overall.Rows+1 || e.Customers != e.Examples || e.Churners != r.Overall.Churners+1 {
		t.Errorf("examples %+v, overall %d rows", e, r.Overall.Rows)
	}
	var rows, weeks, inWeeks int64
	for _, v := range r.Versions {
		rows += v.Measured.Rows
	}
	for i, w := range r.Weeks {
		weeks += w.Rows
		for _, v := range w.Versions {
			inWeeks += v.Rows
		}
		if w.From.Weekday() != time.Monday || i > 0 && !w.From.After(r.Weeks[i-1].From) {
			t.Errorf("week %d begins %v", i, w.From)
		}
	}
	if rows != r.Overall.Rows || weeks != rows || inWeeks != rows {
		t.Errorf("%d rows, %d by version, %d by week, %d by both", r.Overall.Rows, rows, weeks, inWeeks)
	}
	if c := r.Overall.Confusion; c.TruePositives+c.FalseNegatives != r.Overall.Churners || c.FalsePositives+c.TrueNegatives != r.Overall.Rows-r.Overall.Churners {
		t.Errorf("confusion %+v", c)
	}
	if v := r.Versions[0]; v.Version != 7 || v.Stage != "" || v.Measured.Rows != 1 {
		t.Errorf("the version that is not known: %+v", v)
	}
	if v := r.Versions[1]; v.Version != 2 || !v.InUse || v.Stage != "CHAMPION" || v.HoldoutRows != 250 || v.Holdout["log_loss"].Value != 0.41 || v.Label != "leaves within 30 days" {
		t.Errorf("the champion: %+v", v)
	}
	if len(r.Segments) != 3 || r.Segments[2].Level != "<b>brand & new</b>" {
		t.Errorf("segments %+v", r.Segments)
	}
	// With fewer segments the other levels are together: none is left out.
	few := s.report(month, check.Config{SegmentRows: 1, SegmentLevels: 1}).Segments
	if len(few) != 2 || few[0].Level != r.Segments[0].Level || few[0].Rest || !few[1].Rest ||
		few[1].Rows != r.Segments[1].Rows+r.Segments[2].Rows || few[1].Churners != r.Segments[1].Churners+r.Segments[2].Churners {
		t.Errorf("one level and the others: %+v", few)
	}
	// The plan's frequency changed from 90 % to a half.
	if d := r.Drift; d == nil || d.Scores != 300 || !d.Features[0].Values.Exceeded() || d.Features[1].Values.Exceeded() {
		t.Errorf("drift %+v", d)
	}
	// The score's is that of what the champion says of all of them, whoever scored them.
	champion := s.feed.Champion()
	sample := drift.NewBaseline(s.set.Spec(), champion.Baseline, 0).Sample(s.set.Vocabulary())
	data, err := check.Collect(t.Context(), check.Source{Cluster: s.cluster, Codec: s.codec}, end.Add(-month), end)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data.Customers {
		sample.AddScore(champion.Predictor.Probability(data.Customers[i].Attributes))
	}
	if got, want := r.Drift.Score, sample.Score(); float64(got.Value) != want.Value || !(want.Value > 0) || want.Rows != 300 {
		t.Errorf("score drift %+v, want %+v", got, want)
	}
	if o := r.Outlook; o == nil || o.Customers != 300 || len(o.Figures) != 4 {
		t.Errorf("outlook %+v", o)
	}
	l := r.Loss
	sum, change := l.Base, float64(l.BaseChange)
	for _, f := range l.Features {
		sum += f.Value
		change += float64(f.Change)
	}
	if l.Version != 2 || l.Rows != r.Overall.Rows || l.Reference == 0 || math.Abs(sum-l.LogLoss) > 1e-9 || math.Abs(change-float64(l.Change)) > 1e-9 {
		t.Errorf("loss %+v: parts sum to %v, changes to %v", l, sum, change)
	}
	if len(r.Worst) != 4 || r.Worst[0].CustomerID != "c399" || !r.Worst[0].Churned || math.Abs(r.Worst[0].LogLoss+math.Log(0.01)) > 1e-12 {
		t.Fatalf("worst %+v", r.Worst)
	}
	for _, reason := range r.Worst[0].Reasons {
		// Of the two, only few visits speak against a churner in the model of version 2; the plan does not.
		if reason.Loss <= 0 {
			t.Errorf("%+v did not lead astray", reason)
		}
	}

	// Where nothing is from before, the newer half is compared with the older.
	whole := s.report(3*month, check.Config{})
	if l := whole.Loss; l.Reference != whole.Overall.Rows/2 || l.Rows != whole.Overall.Rows-l.Reference || !l.ReferenceFrom.Before(l.From) || !l.Change.Defined() {
		t.Errorf("loss by halves: %+v", l)
	}
	if l := s.report(time.Minute, check.Config{}).Loss; l != nil {
		t.Errorf("the loss of nothing: %+v", l)
	}

	if r := s.report(month, check.Config{}); len(r.Worst) != 0 {
		t.Errorf("worst %+v", r.Worst)
	}
}

// The same topics give the same report, whatever order partitions are read in.
func TestReportDependsOnTheDataAlone(t *testing.T) {
	s := newStage(t)
	s.fill()
	text := func() string {
		var b bytes.Buffer
		r := s.report(month, check.Config{Worst: 10})
		if err := errors.Join(r.WriteJSON(&b), r.WriteHTML(&b), r.WriteText(&b)); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if first, second := text(), text(); first != second {
		t.Error("two reports differ")
	}
}

func TestPage(t *testing.T) {
	s := newStage(t)
	s.fill()
	const evil = `"><script>alert('c')</script>&`
	var levels scoring.Levels
	e := s.example(&levels, "<i>plan</i>", 1, day, 2, 1, false)
	s.examples(evil, levels, e)
	for name, r := range map[string]*check.Report{
		"full":   s.report(month, check.Config{Worst: 5, SegmentRows: 1, Thresholds: check.Thresholds{MinExamples: 1_000_000}}),
		"sparse": s.report(36*time.Hour, check.Config{Worst: 5}),
		"empty":  s.report(time.Minute, check.Config{Worst: 5}),
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := r.WriteHTML(&b); err != nil {
				t.Fatal(err)
			}
			text := b.String()
			elements := wellFormed(t, text)
			if elements["script"]+elements["link"]+elements["img"]+elements["iframe"] > 0 || elements["i"] > 0 {
				t.Errorf("the page has %v", elements)
			}
			if m := regexp.MustCompile(`(?i)(href|src)=|@import|url\(`).FindString(text); m != "" {
				t.Errorf("the page refers to something else: %s", m)
			}
			if name == "empty" {
				return
			}
			if want := map[string]int{"full": 6, "sparse": 4}[name]; elements["svg"] != want {
				t.Errorf("%d pictures, want %d", elements["svg"], want)
			}
			if !strings.Contains(text, "&#34;&gt;&lt;script&gt;alert(&#39;c&#39;)&lt;/script&gt;&amp;") {
				t.Error("the customer is not named, or not escaped")
			}
			if name == "full" && !strings.Contains(text, "fewer than 1000000") {
				t.Error("the threshold is not said to be missed")
			}
		})
	}
}

// wellFormed fails the test unless every element is closed where it should be, and
// counts the elements.
func wellFormed(t *testing.T, text string) map[string]int {
	t.Helper()
	// As XML, in which what has no content is closed at once.
	d := xml.NewDecoder(strings.NewReader(regexp.MustCompile(`<meta[^>]*`).ReplaceAllString(text, "$0/")))
	elements := map[string]int{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return elements
		}
		if err != nil {
			line, column := d.InputPos()
			t.Fatalf("line %d, column %d: %v", line, column, err)
		}
		if e, ok := token.(xml.StartElement); ok {
			elements[e.Name.Local]++
		}
	}
}

func TestThresholds(t *testing.T) {
	s := newStage(t)
	s.fill()
	limit := func(x float64) *float64 { return &x }
	all := s.report(month, check.Config{}).Overall
	area := all.Figures["roc_auc"]
	if !area.Lower.Defined() || !(area.Lower < area.Value && area.Value < area.Upper) {
		t.Fatalf("area %+v", area)
	}
	above := float64(area.Value+area.Upper) / 2
	for name, c := range map[string]struct {
		since      time.Duration
		thresholds check.Thresholds
		met        bool
		why        string
	}{
		"none":                 {month, check.Thresholds{}, true, ""},
		"few":                  {month, check.Thresholds{MinExamples: 1000}, false, "fewer than 1000"},
		"met":                  {month, check.Thresholds{MinROCAUC: limit(0.5), MaxLogLoss: limit(0.9), MaxCalibrationError: limit(0.9)}, true, ""},
		"least":                {month, check.Thresholds{MinROCAUC: limit(above)}, false, "is below"},
		"least, by chance":     {month, check.Thresholds{MinROCAUC: limit(above), BeyondChance: true}, true, ""},
		"least beyond chance":  {month, check.Thresholds{MinROCAUC: limit(float64(area.Upper) + 0.001), BeyondChance: true}, false, "is below"},
		"greatest":             {month, check.Thresholds{MaxLogLoss: limit(0.01)}, false, "is above 0.010"},
		"not defined":          {time.Minute, check.Thresholds{MinROCAUC: limit(0.1)}, false, "not defined"},
		"greatest not defined": {time.Minute, check.Thresholds{MaxBrier: limit(1), BeyondChance: true}, false, "not defined"},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.report(c.since, check.Config{Thresholds: c.thresholds})
			why := ""
			for _, result := range r.Thresholds {
				why += result.Why
			}
			if r.Passed != c.met || !strings.Contains(why, c.why) || c.met != (why == "") {
				t.Errorf("passed %v: %+v", r.Passed, r.Thresholds)
			}
		})
	}
}

// Of a customer who has moved to another partition the newest score counts, whatever
// partition is read first; an erasure at the former home that is older than it does not
// reach it, and one at home does.
func TestCustomersWhoMovedOrWereErased(t *testing.T) {
	s := newStage(t)
	var levels scoring.Levels
	write := func(customer string, partition int, asOf int64) {
		t.Helper()
		r := kafka.Record{Key: []byte(customer), Partition: partition, Time: time.UnixMilli(asOf)}
		if asOf%2 == 0 {
			score := s.codec.NewScore()
			score.CustomerID, score.OccurredAt, score.AsOf, score.ScoredAt = r.Key, asOf, asOf, asOf
			score.ModelVersion, score.Probability, score.SourcePartition = 1, 0.5, int32(partition)
			score.Attributes = s.vector(&levels, "yearly", float64(partition))
			r.Value = s.codec.AppendScore(nil, score)
		} else {
			r.Headers = []kafka.Header{{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte("9")}}
		}
		if err := s.out.ProduceTo(t.Context(), schemas.TopicScores, partition, []kafka.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	at := end.UnixMilli() - day // even: a score; odd: an erasure
	write("moved up", 0, at)
	write("moved up", 2, at+2)
	write("moved down", 2, at)
	write("moved down", 0, at+2)
	write("came back", 0, at)
	write("came back", 0, at+1)
	write("came back", 2, at+2)
	write("came back elsewhere", 2, at)
	write("came back elsewhere", 2, at+1)
	write("came back elsewhere", 0, at+2)
	write("erased", 0, at)
	write("erased", 0, at+3)
	for range 5 {
		data, err := check.Collect(t.Context(), check.Source{Cluster: s.cluster, Codec: s.codec}, end.Add(-month), end)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		for _, c := range data.Customers {
			got[c.ID] = c.AsOf - at
		}
		want := map[string]int64{"moved up": 2, "moved down": 2, "came back": 2, "came back elsewhere": 2}
		if !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func TestCollectWants(t *testing.T) {
	s := newStage(t)
	if _, err := check.Collect(t.Context(), check.Source{Cluster: s.cluster, Codec: s.codec}, end, end); err == nil {
		t.Error("no time at all is accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := check.Collect(ctx, check.Source{Cluster: s.cluster, Codec: s.codec}, end.Add(-month), end); !errors.Is(err, context.Canceled) {
		t.Errorf("when it was interrupted: %v", err)
	}
}

// What somebody else than a partition's owner has written to churn.scores is not a
// customer's score, and it is counted.
func TestScoresOfOthers(t *testing.T) {
	s := newStage(t)
	id, err := s.cluster.TopicID(t.Context(), schemas.TopicScores)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := s.cluster.Fence(t.Context(), kafka.FenceConfig{TransactionalID: "scorer", Topic: schemas.TopicScores})
	if err != nil {
		t.Fatal(err)
	}
	appended := func(r kafka.Record) int64 {
		t.Helper()
		at, err := owner.Append(t.Context(), []kafka.Record{r})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	var levels scoring.Levels
	record := func(customer string, asOf int64) kafka.Record {
		score := s.codec.NewScore()
		score.CustomerID, score.OccurredAt, score.AsOf, score.ScoredAt = []byte(customer), asOf, asOf, asOf
		score.ModelVersion, score.Probability, score.Attributes = 1, 0.5, s.vector(&levels, "yearly", 1)
		return kafka.Record{Key: []byte(customer), Value: s.codec.AppendScore(nil, score)}
	}
	at := end.UnixMilli() - day
	since := appended(kafka.Record{Key: []byte(schemas.MarkerKey)})
	appended(record("scored", at))
	appended(kafka.Record{Key: []byte(schemas.ProgressKey), Value: s.codec.AppendScore(nil, s.codec.NewScore()),
		Headers: []kafka.Header{{Key: schemas.HeaderProgress, Value: s.codec.AppendProgress(nil, &schemas.Progress{
			ScoresTopicID: id.String(), Writers: []schemas.Writer{{ProducerID: owner.ProducerID(), Since: since}}})}}})
	erasure := kafka.Record{Key: []byte("scored"), Headers: []kafka.Header{
		{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte("9")}}}
	if err := s.out.ProduceTo(t.Context(), schemas.TopicScores, 0, []kafka.Record{record("made up", at), record("scored", at+1), erasure}); err != nil {
		t.Fatal(err)
	}
	data, err := check.Collect(t.Context(), check.Source{Cluster: s.cluster, Codec: s.codec}, end.Add(-month), end)
	if err != nil {
		t.Fatal(err)
	}
	if len(data.Customers) != 1 || data.Customers[0].ID != "scored" || data.Customers[0].AsOf != at {
		t.Errorf("customers %+v", data.Customers)
	}
	if n := data.Refused[schemas.TopicScores+": foreign"]; n != 3 {
		t.Errorf("refused %v", data.Refused)
	}
}

// A report without thresholds and examples says that nothing was judged.
func TestReportWithoutThresholds(t *testing.T) {
	var page, text strings.Builder
	r := &check.Report{Passed: true}
	if err := errors.Join(r.WriteHTML(&page), r.WriteText(&text)); err != nil {
		t.Fatal(err)
	}
	for _, said := range []string{page.String(), text.String()} {
		if !strings.Contains(said, "o thresholds were given, so nothing was judged") || strings.Contains(said, "thresholds are met") || strings.Contains(said, "()") {
			t.Errorf("said %s", said)
		}
	}
}

// A label of another horizon than a version's says nothing of what it predicted: it is
// in no figure, and counted. The champion's loss is over labels of the champion's
// horizon, whoever had scored them.
func TestLabelsOfAnotherHorizon(t *testing.T) {
	s := newStage(t)
	s.fill()
	s.publish(3, schemas.StageChallenger, 1)
	want := s.report(month, check.Config{SegmentRows: 1})
	add := func(customer string, before, version int64) {
		var levels scoring.Levels
		e := s.example(&levels, "weekly", 1, before, version, 0.999, false) // certain, and wrong
		e.Horizon = 7 * day
		s.examples(customer, levels, e)
	}
	for i := range int64(20) {
		add(fmt.Sprint("other ", i), (i+1)*day, 2)
		add(fmt.Sprint("before ", i), (i+31)*day, 1)
	}
	add("third", day, 3)
	got := s.report(month, check.Config{SegmentRows: 1})
	if got.Examples.OtherHorizon != 21 || len(got.Labels) != 2 {
		t.Errorf("examples %+v, labels %q", got.Examples, got.Labels)
	}
	if v := got.Versions[0]; v.Version != 3 || v.OtherHorizon != 1 || v.Measured.Rows != 0 {
		t.Errorf("a version without a label of its horizon: %+v", v)
	}
	if v := got.Versions[1]; v.Version != 2 || v.OtherHorizon != 20 {
		t.Errorf("the champion: %+v", v)
	}
	var text, html bytes.Buffer
	if err := errors.Join(got.WriteText(&text), got.WriteHTML(&html)); err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string]string{"21 of another horizon than the version's": text.String(),
		"nor are 21 whose label is of another horizon": html.String(), "of version 2 20": html.String()} {
		if !strings.Contains(b, what) {
			t.Errorf("%q is not said:\n%s", what, b)
		}
	}
	// All else is as without them.
	got.Versions = got.Versions[1:]
	got.Versions[0].OtherHorizon, got.Examples, got.Labels = 0, want.Examples, want.Labels
	var is, was bytes.Buffer
	if err := errors.Join(got.WriteJSON(&is), want.WriteJSON(&was)); err != nil {
		t.Fatal(err)
	}
	if is.String() != was.String() {
		t.Errorf("the others are in\n%s\nwhich was\n%s", is.String(), was.String())
	}
}
