package monitor

import (
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// metrics are the monitor's figures. They are rebuilt from Kafka at a start,
// so until the history is read they are not exported: a scrape in between
// would see counters fall and rise again.
type metrics struct {
	monitor  *Monitor
	caughtUp atomic.Bool

	outcomes      *prometheus.CounterVec
	unmatched     *prometheus.CounterVec
	historical    prometheus.Counter
	duplicates    prometheus.Counter
	skipped       *prometheus.CounterVec
	pending       prometheus.Gauge
	delay         prometheus.Histogram
	probability   prometheus.Histogram
	lag           *prometheus.GaugeVec
	caughtUpGauge prometheus.GaugeFunc

	window       *prometheus.Desc
	figures      []figure
	holdout      []figure
	info         *prometheus.Desc
	age          *prometheus.Desc
	featureDrift *prometheus.Desc
	scoreDrift   *prometheus.Desc
	driftScores  *prometheus.Desc
}

// figure is one of evaluation.Figures as a metric.
type figure struct {
	name string
	desc *prometheus.Desc
	of   func(*evaluation.Figures) *float64
}

// newFigures describes figures, all if none are named.
func newFigures(prefix, over string, names ...string) (list []figure) {
	for _, f := range evaluation.All {
		if len(names) == 0 || slices.Contains(names, f.Name) {
			list = append(list, figure{f.Name, prometheus.NewDesc(prefix+f.Name, f.Help+over, []string{"model_version"}, nil), f.Of})
		}
	}
	return list
}

// collect exports the figure of a model version, if it is defined.
func (f *figure) collect(ch chan<- prometheus.Metric, m *evaluation.Metrics, version string) {
	if x := *f.of(&m.Figures); !scoring.IsMissing(x) {
		ch <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, x, version)
	}
}

func newMetrics(m *Monitor) *metrics {
	x := &metrics{
		monitor: m,
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_outcomes_total",
			Help: "Outcomes joined with the score in force, by what the model version predicted (churn from probability 0.5 on) and what happened.",
		}, []string{"model_version", "predicted", "actual"}),
		unmatched: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_outcomes_unmatched_total",
			Help: "Outcomes for which no score was in force, by reason.",
		}, []string{"reason"}),
		historical: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_outcomes_historical_total",
			Help: "Outcomes with attributes of their own that no score preceded: history loaded from elsewhere.",
		}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_outcomes_duplicate_total",
			Help: "Outcomes left out because the customer's outcome of that time had been counted.",
		}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_monitor_skipped_total",
			Help: "Records that could not be read and were passed over.",
		}, []string{"topic", "reason"}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "churn_outcomes_pending",
			Help: "Outcomes that wait for a score.",
		}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "churn_score_age_at_outcome_seconds",
			Help: "Time from the moment that a score speaks of until its outcome was observed.",
			Buckets: []float64{1, 10, 60, 600, hour, 6 * hour, day, 3 * day, 7 * day, 14 * day,
				30 * day, 60 * day, 90 * day, 180 * day},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}),
		probability: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                           "churn_score_probability",
			Help:                           "Churn probabilities of the scores.",
			Buckets:                        prometheus.LinearBuckets(.1, .1, 10),
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_monitor_lag_records",
			Help: "Records of a partition that the monitor has not read yet.",
		}, []string{"topic", "partition"}),

		window: prometheus.NewDesc("churn_model_window_outcomes",
			"Outcomes in the window that the figures of a model version are computed over.", []string{"model_version"}, nil),
		figures: newFigures("churn_model_", ", over the latest outcomes joined with a score of the model version."),
		holdout: newFigures("churn_model_holdout_", ", on the rows held out at training.", "accuracy", "roc_auc", "log_loss"),
		info: prometheus.NewDesc("churn_model_info",
			"The newest model versions and their stage: champion, challenger or retired. Always 1.", []string{"model_version", "stage"}, nil),
		age: prometheus.NewDesc("churn_model_age_seconds",
			"Time since the champion was trained.", nil, nil),
		featureDrift: prometheus.NewDesc("churn_feature_psi",
			"Population stability index of a feature in recent scores against the champion's training.", []string{"feature"}, nil),
		scoreDrift: prometheus.NewDesc("churn_score_psi",
			"Population stability index of the probability in recent scores against the champion's training.", nil, nil),
		driftScores: prometheus.NewDesc("churn_drift_window_scores",
			"Recent scores that drift is measured on; with few of them the indices say little.", nil, nil),
	}
	x.caughtUpGauge = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "churn_monitor_caught_up",
		Help: "1 once the history is read and the monitor's figures are exported, 0 before.",
	}, func() float64 {
		if x.caughtUp.Load() {
			return 1
		}
		return 0
	})
	for _, reason := range []string{reasonNoScore, reasonLaterOnly, reasonForgotten, reasonErased, reasonTooMany} {
		x.unmatched.WithLabelValues(reason)
	}
	return x
}

const (
	hour = 3600
	day  = 24 * hour
)

// always are the collectors that show how the history is being read.
func (x *metrics) always() []prometheus.Collector {
	return []prometheus.Collector{x.caughtUpGauge, x.lag}
}

func (x *metrics) rebuilt() []prometheus.Collector {
	return []prometheus.Collector{x.outcomes, x.unmatched, x.historical, x.duplicates, x.skipped,
		x.pending, x.delay, x.probability}
}

// Describe implements prometheus.Collector.
func (x *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range append(x.always(), x.rebuilt()...) {
		c.Describe(ch)
	}
	for _, f := range append(x.figures, x.holdout...) {
		ch <- f.desc
	}
	for _, d := range []*prometheus.Desc{x.window, x.info, x.age, x.featureDrift, x.scoreDrift, x.driftScores} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (x *metrics) Collect(ch chan<- prometheus.Metric) {
	caughtUp := x.caughtUp.Load()
	for _, c := range x.always() {
		c.Collect(ch)
	}
	x.collectModels(ch)
	if !caughtUp {
		return
	}
	for _, c := range x.rebuilt() {
		c.Collect(ch)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	versions, d := x.monitor.computed()
	for i := range versions {
		v := &versions[i]
		label := strconv.FormatInt(v.Version, 10)
		gauge(x.window, float64(v.Metrics.Rows), label)
		for _, f := range x.figures {
			f.collect(ch, &v.Metrics, label)
		}
	}
	gauge(x.driftScores, float64(d.scores))
	spec := x.monitor.spec
	for i, psi := range d.feature {
		if !scoring.IsMissing(psi) {
			gauge(x.featureDrift, psi, spec.Feature(i).Name)
		}
	}
	if !scoring.IsMissing(d.score) {
		gauge(x.scoreDrift, d.score)
	}
}

// collectModels exports what is known of the models, the newest and the
// champion.
func (x *metrics) collectModels(ch chan<- prometheus.Metric) {
	champion := x.monitor.cfg.Models.Champion()
	for i, v := range x.monitor.cfg.Models.List() {
		isChampion := champion != nil && v.Version == champion.Version
		if i >= maxVersions && !isChampion {
			continue
		}
		stage := "challenger"
		switch {
		case isChampion:
			stage = "champion"
		case v.Stage != schemas.StageChallenger:
			stage = "retired" // another one has taken its place since
		}
		label := strconv.FormatInt(v.Version, 10)
		ch <- prometheus.MustNewConstMetric(x.info, prometheus.GaugeValue, 1, label, stage)
		for _, f := range x.holdout {
			f.collect(ch, &v.Metrics, label)
		}
	}
	if champion != nil {
		age := x.monitor.now().Sub(time.UnixMilli(champion.CreatedAt)).Seconds()
		ch <- prometheus.MustNewConstMetric(x.age, prometheus.GaugeValue, age)
	}
}
