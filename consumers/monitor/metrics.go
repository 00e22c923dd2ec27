package monitor

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// metrics are the monitor's figures. They are made of what the topics say, so
// until these are read they are not exported: a scrape in between would see
// counters fall and rise again.
type metrics struct {
	monitor *Monitor

	skipped       *prometheus.CounterVec
	refills       *prometheus.CounterVec
	computing     prometheus.Histogram
	caughtUpGauge prometheus.GaugeFunc

	outcomes     *prometheus.Desc
	window       *prometheus.Desc
	otherHorizon *prometheus.Desc
	figures      figureDescs
	holdout      figureDescs
	judged       figureDescs // of the champion
	judgedRows   *prometheus.Desc
	expected     figureDescs
	calibration  [2]*prometheus.Desc // predicted, observed
	gain, lift   *prometheus.Desc
	ageLogLoss   *prometheus.Desc
	ageExamples  *prometheus.Desc
	segmentRows  *prometheus.Desc
	segmentShare *prometheus.Desc
	segment      []segmentDesc
	shadow       shadowDescs
	loss         lossDescs
	info         *prometheus.Desc
	age          *prometheus.Desc
	drift        driftDescs
	byRisk       *prometheus.Desc
	money        *prometheus.Desc
	moneyFeature *prometheus.Desc
}

// figureDescs are the figures of evaluation.All with their intervals.
type figureDescs struct {
	of           []figureDesc
	lower, upper *prometheus.Desc
}

type figureDesc struct {
	evaluation.Figure
	desc *prometheus.Desc
}

// newFigures makes a metric of each figure that is wanted, all where none is named.
func newFigures(prefix, over string, wanted ...string) figureDescs {
	bound := func(which, end string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+"figure_"+which, "The "+end+" end of the figure's 95 % interval, resampling customers,"+over, []string{"model_version", "figure"}, nil)
	}
	d := figureDescs{lower: bound("lower", "lower"), upper: bound("upper", "upper")}
	for _, f := range evaluation.All {
		for _, name := range wanted {
			if name == f.Name {
				d.of = append(d.of, figureDesc{f, prometheus.NewDesc(prefix+f.Name, f.Help+over, []string{"model_version"}, nil)})
			}
		}
		if len(wanted) == 0 {
			d.of = append(d.of, figureDesc{f, prometheus.NewDesc(prefix+f.Name, f.Help+over, []string{"model_version"}, nil)})
		}
	}
	return d
}

type segmentDesc struct {
	desc *prometheus.Desc
	of   func(*evaluation.Figures) float64
}

type shadowDescs struct{ logLoss, examples, difference, lower, upper *prometheus.Desc }

// driftDescs are figures, each with the threshold from which it means something.
type driftDescs struct {
	features, reasons, scores [2]*prometheus.Desc
	rows                      *prometheus.Desc
}

type lossDescs struct{ shapley, change, segmentChange, total *prometheus.Desc }

func newMetrics(m *Monitor) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	const (
		version  = "model_version"
		overThem = " over the newest examples with a score of the model version and a label of its horizon."
		before   = " that is expected of the newest scores of the model version before there are labels. It cannot see a change in what makes customers leave."
		ofSeg    = " of the champion's newest examples with a level of a feature."
	)
	x := &metrics{
		monitor: m,
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_monitor_skipped_total",
			Help: "Records that could not be read and were passed over.",
		}, []string{"topic", "reason"}),
		refills: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_monitor_refills_total",
			Help: "Times that a topic was read once more, since more was erased than the windows had in reserve.",
		}, []string{"topic"}),
		computing: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                           "churn_monitor_compute_seconds",
			Help:                           "Time that it took to compute the figures anew.",
			Buckets:                        []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}),
		outcomes: desc("churn_outcomes_total",
			"Labelled examples, by what the score in force had predicted (churn from probability 0.5 on) and what happened, of whatever horizon the label is. A corrected label stays where it was counted first; see churn_labeler_corrections_total. After a restart they are counted anew, from what the topic has by then.",
			version, "predicted", "actual"),
		window: desc("churn_model_window_outcomes",
			"Examples in the window that the figures of a model version are computed over.", version),
		otherHorizon: desc("churn_model_other_horizon_examples",
			"Newest examples with a score of the model version that are in none of its figures, as their labels are of another horizon than the version's.", version),
		figures: newFigures("churn_model_", overThem),
		holdout: newFigures("churn_model_holdout_", " on the rows held out at training."),
		judged: newFigures("churn_champion_", " of what the champion would have said of the newest examples that are new to it, whoever scored them.",
			"roc_auc", "log_loss", "log_loss_skill", "calibration_error", "pr_auc", "brier"),
		judgedRows: desc("churn_champion_examples", "Newest examples of the champion's horizon that are new to it, which what it is judged by is over.", version),
		expected:   newFigures("churn_model_expected_", before, "accuracy", "roc_auc", "log_loss", "brier"),
		calibration: [2]*prometheus.Desc{
			desc("churn_model_calibration_predicted", "Mean probability of the examples with one in a tenth of the range,"+overThem, version, "bin"),
			desc("churn_model_calibration_observed", "Churn rate of the examples with a probability in a tenth of the range,"+overThem, version, "bin"),
		},
		gain:         desc("churn_model_gain", "Share of all churners that is among the tenths of examples with the highest probability,"+overThem, version, "decile"),
		lift:         desc("churn_model_lift", "Churn rate among the tenths of examples with the highest probability, over that of all,"+overThem, version, "decile"),
		ageLogLoss:   desc("churn_age_log_loss", "Mean negative log-likelihood, natural logarithm, by how old the score was at the decision, at most,"+overThem, version, "age"),
		ageExamples:  desc("churn_age_examples", "Examples by how old the score was at the decision, at most, in the window of the model version.", version, "age"),
		segmentRows:  desc("churn_segment_examples", "Number"+ofSeg, "feature", "level"),
		segmentShare: desc("churn_segment_churn_share", "Share of churners"+ofSeg, "feature", "level"),
		shadow: shadowDescs{
			logLoss:    desc("churn_shadow_log_loss", "Mean negative log-likelihood, natural logarithm, of what the champion and the newest challenger would have said of the newest examples that are new to both.", "role", version),
			examples:   desc("churn_shadow_examples", "Newest examples that are new to both the champion and the challenger.", version),
			difference: desc("churn_shadow_log_loss_difference", "Log loss of the challenger minus that of the champion, on the examples that are new to both.", version),
			lower:      desc("churn_shadow_log_loss_difference_lower", "The lower end of the difference's 95 % interval, resampling customers.", version),
			upper:      desc("churn_shadow_log_loss_difference_upper", "The upper end of the difference's 95 % interval, resampling customers.", version),
		},
		loss: lossDescs{
			shapley:       desc("churn_loss_shapley", "Mean Shapley value of a feature in the champion's log loss on the newest examples: how much of the loss is due to its values. Above 0 they led the model away from what happened.", "feature"),
			change:        desc("churn_loss_shapley_change", "Mean Shapley value of a feature in the champion's log loss on the newest examples minus that on as many examples before them.", "feature"),
			segmentChange: desc("churn_loss_shapley_segment_change", "As churn_loss_shapley_change, of the examples with a level of a feature, or with any of its rare ones: the greatest changes, 50 at most.", "feature", "segment_feature", "level"),
			total:         desc("churn_loss_change", "Log loss of the champion on the newest examples minus that on as many examples before them, whoever had scored them."),
		},
		info: desc("churn_model_info", "The newest model versions and their stage: champion, challenger or retired. Always 1.", version, "stage"),
		age:  desc("churn_model_age_seconds", "Time since the champion was trained."),
		drift: driftDescs{
			features: [2]*prometheus.Desc{
				desc("churn_feature_psi", "Population stability index of a feature among the customers with the newest scores, against the champion's training.", "feature"),
				desc("churn_feature_psi_threshold", "What churn_feature_psi must exceed to be neither chance, with as many customers, nor negligible.", "feature"),
			},
			scores: [2]*prometheus.Desc{
				desc("churn_score_psi", "Population stability index of the probabilities that a model version gives to the customers with the newest scores, against its own holdout.", version),
				desc("churn_score_psi_threshold", "What churn_score_psi must exceed to be neither chance nor negligible.", version),
			},
			reasons: [2]*prometheus.Desc{
				desc("churn_reason_drift", "Change of a feature's mean Shapley value in the newest scores against the champion's training, in standard deviations; above 0 it speaks more for churn than it did.", "feature"),
				desc("churn_reason_drift_threshold", "What churn_reason_drift must exceed, up or down, to be neither chance nor negligible.", "feature"),
			},
			rows: desc("churn_drift_window_scores", "Customers with the newest scores that drift and expected figures are of; with few of them these say little."),
		},
		byRisk:       desc("churn_customers_by_risk", "Customers by their newest score, by the champion's thresholds. Those who have left since count too, until they are erased.", "risk"),
		money:        desc("churn_money_at_risk", "Sum of what the customers at high risk pay; see churn_money_feature_info. Those who have left since count too, as in churn_customers_by_risk."),
		moneyFeature: desc("churn_money_feature_info", "The feature that says what a customer pays, and its unit. Always 1.", "feature", "unit"),
	}
	for _, name := range []string{"log_loss", "log_loss_skill", "roc_auc", "calibration_error"} {
		for _, f := range evaluation.All {
			if f.Name == name {
				x.segment = append(x.segment, segmentDesc{desc("churn_segment_"+name, f.Help+ofSeg, "feature", "level"),
					func(of *evaluation.Figures) float64 { return *f.Of(of) }})
			}
		}
	}
	x.caughtUpGauge = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "churn_monitor_caught_up",
		Help: "1 once the topics are read and the monitor's figures are exported, 0 before.",
	}, func() float64 {
		if m.caughtUp.Load() {
			return 1
		}
		return 0
	})
	for _, topic := range []string{schemas.TopicExamples, schemas.TopicScores} {
		x.refills.WithLabelValues(topic)
	}
	return x
}

// collectors are the metrics that others keep.
func (x *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{x.caughtUpGauge, x.skipped, x.refills, x.computing}
}

// Describe implements prometheus.Collector.
func (x *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range x.collectors() {
		c.Describe(ch)
	}
	for _, d := range []figureDescs{x.figures, x.holdout, x.judged, x.expected} {
		for _, f := range d.of {
			ch <- f.desc
		}
		ch <- d.lower
		ch <- d.upper
	}
	for _, s := range x.segment {
		ch <- s.desc
	}
	for _, d := range []*prometheus.Desc{x.outcomes, x.window, x.judgedRows, x.otherHorizon, x.calibration[0], x.calibration[1], x.gain, x.lift,
		x.ageLogLoss, x.ageExamples, x.segmentRows, x.segmentShare,
		x.shadow.logLoss, x.shadow.examples, x.shadow.difference, x.shadow.lower, x.shadow.upper,
		x.loss.shapley, x.loss.change, x.loss.segmentChange, x.loss.total,
		x.drift.features[0], x.drift.features[1], x.drift.scores[0], x.drift.scores[1], x.drift.reasons[0], x.drift.reasons[1], x.drift.rows,
		x.info, x.age, x.byRisk, x.money, x.moneyFeature} {
		ch <- d
	}
}

// gauges sends metrics of numbers that are defined.
type gauges chan<- prometheus.Metric

func (g gauges) set(d *prometheus.Desc, v float64, labels ...string) {
	if !scoring.IsMissing(v) {
		g <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
}

func (g gauges) figures(d figureDescs, version string, figures, lower, upper *evaluation.Figures) {
	for _, f := range d.of {
		g.set(f.desc, *f.Of(figures), version)
		g.set(d.lower, *f.Of(lower), version, f.Name)
		g.set(d.upper, *f.Of(upper), version, f.Name)
	}
}

// change sends a change and its threshold, if there was something to compare.
func (g gauges) change(d [2]*prometheus.Desc, c drift.Change, labels ...string) {
	if defined(c) {
		g.set(d[0], c.Value, labels...)
		g.set(d[1], c.Threshold, labels...)
	}
}

// Collect implements prometheus.Collector.
func (x *metrics) Collect(ch chan<- prometheus.Metric) {
	g := gauges(ch)
	if !x.monitor.caughtUp.Load() {
		for _, c := range x.collectors() {
			c.Collect(ch)
		}
		x.models(g, x.monitor.cfg.Models.Champion(), x.monitor.cfg.Models.List())
		return
	}
	r := x.monitor.computer.result()
	for _, c := range x.collectors() {
		c.Collect(ch)
	}
	x.models(g, r.champion, r.models)
	x.outcomesOf(ch, r)
	for _, v := range r.versions {
		version := number(v.version)
		g.set(x.window, float64(len(v.measured)), version)
		g.set(x.otherHorizon, float64(v.others()), version)
		g.figures(x.figures, version, &v.metrics.Figures, &v.metrics.Lower, &v.metrics.Upper)
		for i, bin := range v.calibration {
			g.set(x.calibration[0], bin.Predicted, version, number(int64(i)))
			g.set(x.calibration[1], bin.Observed, version, number(int64(i)))
		}
		for i, d := range v.deciles {
			g.set(x.gain, d.Gain, version, number(int64(i)+1))
			g.set(x.lift, d.Lift, version, number(int64(i)+1))
		}
		for i := range v.ages {
			g.set(x.ageExamples, float64(v.ages[i].rows), version, ages[i].name)
			g.set(x.ageLogLoss, v.ages[i].logLoss, version, ages[i].name)
		}
	}
	if c := r.judged; c != nil {
		version := number(r.champion.Version)
		g.set(x.judgedRows, float64(len(c.rows)), version)
		g.figures(x.judged, version, &c.metrics.Figures, &c.metrics.Lower, &c.metrics.Upper)
	}
	for i := range r.expected {
		e := &r.expected[i]
		g.figures(x.expected, number(e.version), &e.Figures, &e.Lower, &e.Upper)
	}
	spec := x.monitor.spec
	for i := range r.segments {
		s := &r.segments[i]
		feature := spec.Feature(s.feature).Name
		g.set(x.segmentRows, float64(len(s.Rows)), feature, s.Level)
		g.set(x.segmentShare, s.share, feature, s.Level)
		for _, d := range x.segment {
			g.set(d.desc, d.of(&s.figures), feature, s.Level)
		}
	}
	if s := r.shadow; s != nil {
		challenger := number(s.challenger.Version)
		g.set(x.shadow.examples, float64(s.Rows), challenger)
		g.set(x.shadow.logLoss, s.Comparison.Champion, "champion", number(s.champion.Version))
		g.set(x.shadow.logLoss, s.Comparison.Challenger, "challenger", challenger)
		g.set(x.shadow.difference, s.Difference, challenger)
		g.set(x.shadow.lower, s.Lower, challenger)
		g.set(x.shadow.upper, s.Upper, challenger)
	}
	if a := r.loss; a != nil {
		for i, value := range a.features {
			g.set(x.loss.shapley, value, spec.Feature(i).Name)
			g.set(x.loss.change, a.changes[i], spec.Feature(i).Name)
		}
		g.set(x.loss.total, a.change)
		for i := range a.bySegment {
			s := &a.bySegment[i]
			g.set(x.loss.segmentChange, s.change, spec.Feature(s.feature).Name, spec.Feature(s.segment).Name, s.level)
		}
	}
	for i, change := range r.drift.features {
		g.change(x.drift.features, change, spec.Feature(i).Name)
		g.change(x.drift.reasons, r.drift.reasons[i], spec.Feature(i).Name)
	}
	for _, s := range r.drift.scores {
		g.change(x.drift.scores, s.Change, number(s.version))
	}
	g.set(x.drift.rows, float64(len(r.customers.rows.rows)))
	for risk, n := range r.customers.byRisk {
		g.set(x.byRisk, float64(n), scoring.Risk(risk).String())
	}
	if x.monitor.moneyOf >= 0 {
		f := spec.Feature(x.monitor.moneyOf)
		g.set(x.money, r.customers.money[scoring.RiskHigh])
		g.set(x.moneyFeature, 1, f.Name, f.Unit)
	}
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// outcomesOf exports the counters of the newest versions, all of a version's, so
// that rates are defined from the first example on.
func (x *metrics) outcomesOf(ch chan<- prometheus.Metric, r *result) {
	said := func(c cell, of cell) string {
		if c&of != 0 {
			return "churn"
		}
		return "stay"
	}
	for _, v := range r.shown.counted {
		for i, n := range v.counts {
			c := cell(i)
			ch <- prometheus.MustNewConstMetric(x.outcomes, prometheus.CounterValue, float64(n),
				number(v.version), said(c, predictedChurn), said(c, churned))
		}
	}
}

// models exports what is known of the models, the newest and the champion.
func (x *metrics) models(g gauges, champion *models.Version, all []*models.Version) {
	for i, v := range all {
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
		version := number(v.Version)
		g.set(x.info, 1, version, stage)
		g.figures(x.holdout, version, &v.Metrics.Figures, &v.Metrics.Lower, &v.Metrics.Upper)
	}
	if champion != nil {
		g.set(x.age, x.monitor.now().Sub(time.UnixMilli(champion.CreatedAt)).Seconds())
	}
}
