package models_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
	"github.com/churnstream/churnstream/scoring"
)

// world is a cluster with the topic of model versions.
type world struct {
	t       *testing.T
	ctx     context.Context
	cluster *kafka.Cluster
	codec   *schemas.Codec
	out     *kafka.Producer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	reg, err := embedded.StartRegistry(embedded.RegistryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reg.Close)
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	client, err := registry.New(registry.Config{URL: reg.URL()})
	if err != nil {
		t.Fatal(err)
	}
	codec := schemas.NewCodec(schemas.Telco(), client)
	if err := codec.Register(ctx); err != nil {
		t.Fatal(err)
	}
	err = cluster.EnsureTopics(ctx, kafka.TopicConfig{
		Name: schemas.TopicModels, Partitions: 1, Configs: map[string]string{"cleanup.policy": "compact"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t, ctx, cluster, codec, cluster.NewProducer(kafka.ProducerConfig{})}
}

// version returns a usable version.
func (w *world) version(number int64, stage schemas.Stage) schemas.ModelVersion {
	w.t.Helper()
	spec := w.codec.Set().Spec()
	m := scoring.Model{Intercept: float64(number%1000) / 100}
	for j := range spec.Len() {
		f := scoring.ModelFeature{Name: spec.Feature(j).Name, Kind: spec.Feature(j).Kind.String()}
		if spec.Feature(j).Kind == scoring.Categorical {
			f.Levels, f.LogOdds, f.Frequency = []string{"No", "Yes"}, []float64{0, 0.1}, []float64{0.5, 0.5}
		} else {
			f.LogOddsPerUnit = 0.01
			f.Bins = []scoring.Bin{{Mean: 1, Std: 1, Min: 0, Max: 2, Frequency: 1}}
			f.EmpiricalQuantiles = []float64{0, 1, 2}
		}
		m.Features = append(m.Features, f)
	}
	payload, err := json.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	return schemas.ModelVersion{
		Version: number, CreatedAt: 1_700_000_000_000, Stage: stage, Reason: "test",
		Payload: string(payload), SHA256: models.SHA256(string(payload)), FeatureFingerprint: spec.Fingerprint(),
		MediumThreshold: 0.3, HighThreshold: 0.6,
	}
}

func (w *world) publish(v schemas.ModelVersion) {
	w.t.Helper()
	w.write(string(models.Key(v.Version)), w.codec.AppendModel(nil, &v))
}

func (w *world) write(key string, value []byte) {
	w.t.Helper()
	if err := w.out.Produce(w.ctx, schemas.TopicModels, kafka.Record{Key: []byte(key), Value: value}); err != nil {
		w.t.Fatal(err)
	}
}

// run starts a feed and returns it when it has caught up.
func (w *world) run(registerer prometheus.Registerer) *models.Feed {
	w.t.Helper()
	feed := models.NewFeed(models.FeedConfig{Cluster: w.cluster, Codec: w.codec, Registerer: registerer})
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- feed.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	select {
	case <-feed.CaughtUp():
	case <-w.ctx.Done():
		w.t.Fatal("the feed does not catch up")
	}
	return feed
}

// until waits for a condition of a feed.
func (w *world) until(feed *models.Feed, what string, condition func() bool) {
	w.t.Helper()
	for {
		changed := feed.Changed()
		if condition() {
			return
		}
		select {
		case <-changed:
		case <-w.ctx.Done():
			w.t.Fatalf("still not: %s", what)
		}
	}
}

func describe(feed *models.Feed) string {
	var out []string
	for _, v := range feed.List() {
		out = append(out, fmt.Sprint(v.Version, " ", v.Stage))
	}
	champion := int64(0)
	if v := feed.Champion(); v != nil {
		champion = v.Version
	}
	return fmt.Sprintf("champion %d of [%s], highest %d", champion, strings.Join(out, ", "), feed.Highest())
}

func TestFeedFollowsTheChampion(t *testing.T) {
	w := newWorld(t)
	live := w.run(nil)
	if got := describe(live); got != "champion 0 of [], highest 0" {
		t.Fatal(got)
	}
	corrupt := func(number int64) schemas.ModelVersion {
		v := w.version(number, schemas.StageChampion)
		v.Payload = strings.Replace(v.Payload, "0.1", "9.1", 1)
		return v
	}
	foreign := func(number int64) schemas.ModelVersion {
		v := w.version(number, schemas.StageChampion)
		v.FeatureFingerprint = strings.Repeat("0", 64)
		return v
	}
	unusable := func(number int64) schemas.ModelVersion {
		v := w.version(number, schemas.StageChampion)
		v.Payload = `{"features":[]}`
		v.SHA256 = models.SHA256(v.Payload)
		return v
	}
	thresholds := func(number int64) schemas.ModelVersion {
		v := w.version(number, schemas.StageChampion)
		v.HighThreshold = 0.7 // the payload's is the default
		return v
	}
	misnamed := w.version(12, schemas.StageChampion)
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"a challenger alone", func() { w.publish(w.version(1, schemas.StageChallenger)) }, "champion 0 of [1 CHALLENGER], highest 1"},
		{"a champion", func() { w.publish(w.version(2, schemas.StageChampion)) }, "champion 2 of [2 CHAMPION, 1 CHALLENGER], highest 2"},
		{"a newer champion", func() { w.publish(w.version(3, schemas.StageChampion)) }, "champion 3 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 3"},
		{"rollback: an older version again", func() { w.publish(w.version(2, schemas.StageChampion)) }, "champion 2 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 3"},
		{"another hash", func() { w.publish(corrupt(4)) }, "champion 2 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 4"},
		{"thresholds that are not the payload's", func() { w.publish(thresholds(4)) }, "champion 2 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 4"},
		{"another specification", func() { w.publish(foreign(5)) }, "champion 2 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 5"},
		{"no model", func() { w.publish(unusable(6)) }, "champion 2 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 6"},
		{"no message", func() { w.write("7", []byte("junk")) }, "champion 2 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 7"},
		{"under another key", func() { w.write("8", w.codec.AppendModel(nil, &misnamed)) }, "champion 2 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 8"},
		{"a key that is no number", func() { w.write("x", nil) }, "champion 2 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 8"},
		{"a marker", func() { w.write(schemas.MarkerKey, nil) }, "champion 2 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 8"},
		{"another marker, with something in it", func() { w.write("\x00\x31", []byte("junk")) }, "champion 2 of [3 CHAMPION, 2 CHAMPION, 1 CHALLENGER], highest 8"},
		{"a champion retired", func() { w.publish(w.version(2, schemas.StageRetired)) }, "champion 3 of [3 CHAMPION, 2 RETIRED, 1 CHALLENGER], highest 8"},
		{"a challenger promoted", func() { w.publish(w.version(1, schemas.StageChampion)) }, "champion 1 of [3 CHAMPION, 2 RETIRED, 1 CHAMPION], highest 8"},
		{"a version removed", func() { w.write("1", nil) }, "champion 3 of [3 CHAMPION, 2 RETIRED], highest 8"},
	} {
		step.do()
		w.until(live, step.name+": "+step.want, func() bool { return describe(live) == step.want })
	}
	// One that starts now comes to the same conclusion.
	registry := prometheus.NewPedanticRegistry()
	late := w.run(registry)
	if got, want := describe(late), describe(live); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	expected := `
# HELP churn_models_champion_version Version of the champion, 0 while there is none.
# TYPE churn_models_champion_version gauge
churn_models_champion_version 3
# HELP churn_models_refused_total Records of model versions that were refused, by reason.
# TYPE churn_models_refused_total counter
churn_models_refused_total{reason="fingerprint"} 1
churn_models_refused_total{reason="payload"} 1
churn_models_refused_total{reason="sha256"} 1
churn_models_refused_total{reason="thresholds"} 1
churn_models_refused_total{reason="undecodable"} 1
churn_models_refused_total{reason="version"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(expected), "churn_models_champion_version", "churn_models_refused_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	v := late.Get(3)
	if v == nil || late.Get(4) != nil {
		t.Fatal("Get finds a refused version, or not a good one")
	}
	if x := scoring.NewVector(w.codec.Set().Spec().Len()); !(v.Predictor.Probability(x) > 0) || v.Model.Intercept != 0.03 {
		t.Errorf("version 3 predicts %v with intercept %v", v.Predictor.Probability(x), v.Model.Intercept)
	}
	if !slices.IsSortedFunc(late.List(), func(a, b *models.Version) int { return int(b.Version - a.Version) }) {
		t.Error("the list is not newest first")
	}
	// Feeds of one process share their metrics.
	models.NewFeed(models.FeedConfig{Cluster: w.cluster, Codec: w.codec, Registerer: registry})
}

// Numbers that nobody's version has neither count nor use up those to come.
func TestFeedBelievesNumbersWithinReach(t *testing.T) {
	w := newWorld(t)
	feed := w.run(nil)
	published := func(number int64) func() {
		return func() { w.publish(w.version(number, schemas.StageChampion)) }
	}
	// labels is one that claims to have seen so many.
	labels := func(seen int64) func() {
		return func() {
			v := w.version(8, schemas.StageChampion)
			v.LabelsSeen = seen
			w.publish(v)
		}
	}
	const half = 1 << 52
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"the greatest of 64 bits", published(math.MaxInt64), "champion 0 of [], highest 0"},
		{"withdrawn", func() { w.write("9223372036854775807", nil) }, "champion 0 of [], highest 0"},
		{"one less", published(math.MaxInt64 - 1), "champion 0 of [], highest 0"},
		{"the least", published(math.MinInt64), "champion 0 of [], highest 0"},
		{"none", published(0), "champion 0 of [], highest 0"},
		{"the greatest of JSON, out of reach", published(schemas.MaxModelVersion), "champion 0 of [], highest 0"},
		{"the first", published(1), "champion 1 of [1 CHAMPION], highest 1"},
		{"its key in another spelling", func() { w.write("+1", nil); w.write("01", nil) }, "champion 1 of [1 CHAMPION], highest 1"},
		{"more labels than can be", labels(math.MaxInt64), "champion 1 of [1 CHAMPION], highest 8"},
		{"fewer than none", labels(-1), "champion 1 of [1 CHAMPION], highest 8"},
		{"a date", published(20261130), "champion 20261130 of [20261130 CHAMPION, 1 CHAMPION], highest 20261130"},
		{"half of all", published(half), fmt.Sprintf("champion %d of [%[1]d CHAMPION, 20261130 CHAMPION, 1 CHAMPION], highest %[1]d", int64(half))},
		{"a leap beyond", published(half + 1001), fmt.Sprintf("champion %d of [%[1]d CHAMPION, 20261130 CHAMPION, 1 CHAMPION], highest %[1]d", int64(half))},
		{"a step beyond", published(half + 1000), fmt.Sprintf("champion %d of [%[1]d CHAMPION, %d CHAMPION, 20261130 CHAMPION, 1 CHAMPION], highest %[1]d", int64(half+1000), int64(half))},
	} {
		step.do()
		w.write(schemas.MarkerKey, nil)
		_, end, err := w.cluster.Offsets(w.ctx, schemas.TopicModels, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := feed.WaitFor(w.ctx, end-1); err != nil {
			t.Fatal(err)
		}
		if got := describe(feed); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
	if got, want := describe(w.run(nil)), describe(feed); got != want {
		t.Errorf("one that starts now: %s, want %s", got, want)
	}
}

// Versions are for ever in the topic, but not in memory.
func TestFeedKeepsTheNewestAndTheChampion(t *testing.T) {
	w := newWorld(t)
	w.publish(w.version(1, schemas.StageChampion))
	var records []kafka.Record
	const n = 250
	for number := int64(2); number <= n; number++ {
		v := w.version(number, schemas.StageChallenger)
		records = append(records, kafka.Record{Key: models.Key(number), Value: w.codec.AppendModel(nil, &v)})
	}
	if err := w.out.Produce(w.ctx, schemas.TopicModels, records...); err != nil {
		t.Fatal(err)
	}
	feed := w.run(nil)
	list := feed.List()
	if len(list) != 200 || list[0].Version != n || list[198].Version != n-198 || list[199].Version != 1 {
		t.Errorf("%d versions, the first %d, the last %d", len(list), list[0].Version, list[len(list)-1].Version)
	}
	if c := feed.Champion(); c == nil || c.Version != 1 || feed.Highest() != n || feed.Get(2) != nil {
		t.Errorf("champion %v, highest %d", c, feed.Highest())
	}
}

func TestWaitFor(t *testing.T) {
	w := newWorld(t)
	feed := w.run(nil)
	ended, cancel := context.WithCancel(w.ctx)
	cancel()
	if err := feed.WaitFor(ended, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for what does not come: %v", err)
	}
	w.publish(w.version(1, schemas.StageChampion))
	w.write("junk", []byte("junk"))
	w.write(schemas.MarkerKey, nil)
	for offset := range int64(3) {
		if err := feed.WaitFor(w.ctx, offset); err != nil {
			t.Fatal(err)
		}
		if feed.Get(1) == nil {
			t.Errorf("offset %d has been taken in, but version 1 has not", offset)
		}
	}
	if err := feed.WaitFor(ended, 3); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting beyond the end: %v", err)
	}
}

func TestFeedFailsWithoutTheTopic(t *testing.T) {
	feed := models.NewFeed(models.FeedConfig{Cluster: tailer(func() error { return kafka.ErrUnknownTopic }), Codec: nil})
	if err := feed.Run(t.Context()); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("error %v", err)
	}
}

type tailer func() error

func (f tailer) Tail(context.Context, kafka.TailConfig, func(context.Context, []kafka.Record) error) error {
	return f()
}
