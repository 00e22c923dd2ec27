package trainer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

type metrics struct {
	labels, corrected, removed      prometheus.Counter
	leftOut                         prometheus.Counter
	examples, otherHorizon, fresh   prometheus.Gauge
	trainings, passedOver           *prometheus.CounterVec
	duration                        prometheus.Histogram
	candidateLogLoss, championLoss  prometheus.Gauge
	candidateAUC                    *prometheus.GaugeVec // absent where it is not defined
	trainingRows                    prometheus.Gauge
	lastTraining, lastTrainedLabels prometheus.Gauge
	failing                         prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "churn_trainer_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "churn_trainer_" + name, Help: help})
	}
	m := &metrics{
		labels:       counter("labels_total", "Examples that were new, since the start of the process, repetition after a restart included."),
		corrected:    counter("corrected_labels_total", "Examples whose label was corrected."),
		removed:      counter("removed_labels_total", "Examples that customers had no longer: of erased customers, and older ones than are kept of a customer."),
		leftOut:      counter("levels_left_out_total", "Levels of examples taken for missing, because their feature had more than can be kept."),
		examples:     gauge("examples", "Labelled examples that a training would use."),
		otherHorizon: gauge("other_horizon_examples", "Labelled examples that no training uses, as their labels are of another horizon than most of the newest."),
		fresh:        gauge("new_labels", "Labels that came or were corrected since the newest model version."),
		passedOver: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_trainer_examples_passed_over_total",
			Help: "Records of examples passed over because they could not be read or cannot be a labeler's, by reason.",
		}, []string{"reason"}),
		trainings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_trainer_trainings_total",
			Help: "Trainings by result: champion, challenger, superseded by another trainer, or failed.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "churn_trainer_duration_seconds",
			Help:                        "Time from the start of a training to its published version.",
			Buckets:                     prometheus.ExponentialBuckets(0.05, 2, 14),
			NativeHistogramBucketFactor: 1.1,
		}),
		candidateLogLoss: gauge("candidate_log_loss", "Holdout log loss of the model trained last."),
		championLoss:     gauge("champion_log_loss", "Log loss of the champion on the same rows, at the last training."),
		candidateAUC: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_trainer_candidate_roc_auc",
			Help: "Holdout area under the ROC curve of the model trained last; absent where all were of one class.",
		}, nil),
		trainingRows:      gauge("training_rows", "Rows that the last model was fitted on."),
		lastTraining:      gauge("last_training_timestamp_seconds", "When the last model version was published."),
		failing:           gauge("failing", "1 from a training that failed until one succeeds."),
		lastTrainedLabels: gauge("trained_labels", "Labels that the last training had seen, its holdout included."),
	}
	for _, result := range []string{"champion", "challenger", "superseded", "failed"} {
		m.trainings.WithLabelValues(result)
	}
	if registerer != nil {
		registerer.MustRegister(m.labels, m.corrected, m.removed, m.leftOut, m.examples, m.otherHorizon, m.fresh,
			m.trainings, m.passedOver, m.duration, m.candidateLogLoss, m.championLoss, m.candidateAUC,
			m.trainingRows, m.lastTraining, m.lastTrainedLabels, m.failing)
	}
	return m
}

// failed shows a training that failed.
func (m *metrics) failed() {
	m.trainings.WithLabelValues("failed").Inc()
	m.failing.Set(1)
}

// published shows a training that led to a version.
func (m *metrics) published(v *schemas.ModelVersion, verdict fitting.Verdict, took time.Duration) {
	result := "challenger"
	if v.Stage == schemas.StageChampion {
		result = "champion"
	}
	m.trainings.WithLabelValues(result).Inc()
	m.failing.Set(0)
	m.duration.Observe(took.Seconds())
	m.candidateLogLoss.Set(v.Metrics.LogLoss)
	m.candidateAUC.Reset()
	if !scoring.IsMissing(v.Metrics.ROCAUC) {
		m.candidateAUC.WithLabelValues().Set(v.Metrics.ROCAUC)
	}
	if verdict.ChampionMetrics != nil {
		m.championLoss.Set(verdict.ChampionMetrics.LogLoss)
	}
	m.trainingRows.Set(float64(v.TrainingRows))
	m.lastTraining.Set(float64(v.CreatedAt) / 1000)
	m.lastTrainedLabels.Set(float64(v.LabelsSeen))
}
