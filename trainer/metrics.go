package trainer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/trainer/fitting"
)

type metrics struct {
	labels, repeated                prometheus.Counter
	unjoined, leftOut               prometheus.Counter
	examples, pending, fresh        prometheus.Gauge
	trainings, deadLetters          *prometheus.CounterVec
	badScores                       *prometheus.CounterVec
	duration                        prometheus.Histogram
	candidateLogLoss, championLoss  prometheus.Gauge
	candidateAUC, trainingRows      prometheus.Gauge
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
		labels:   counter("labels_total", "Distinct labels read since the start of the process, repetition after a restart included."),
		repeated: counter("repeated_labels_total", "Outcomes that repeated or corrected an earlier one of the same customer and moment, or came from before an erasure."),
		badScores: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_trainer_scores_passed_over_total",
			Help: "Scores passed over because they could not be read or cannot be a scorer's, by reason.",
		}, []string{"reason"}),
		examples: gauge("examples", "Labelled examples in memory."),
		pending:  gauge("pending_outcomes", "Outcomes that wait for the score they belong to."),
		unjoined: counter("unjoined_outcomes_total", "Outcomes dropped because no score came for them."),
		leftOut:  counter("levels_left_out_total", "Levels of examples and snapshots taken for missing, because their feature had more than can be kept."),
		fresh:    gauge("new_labels", "Labels since the newest model version."),
		trainings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_trainer_trainings_total",
			Help: "Trainings by result: champion, challenger, superseded by another trainer, or failed.",
		}, []string{"result"}),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_trainer_dead_letters_total",
			Help: "Outcomes that became dead letters, by reason.",
		}, []string{"reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "churn_trainer_duration_seconds",
			Help:                        "Time from the start of a training to its published version.",
			Buckets:                     prometheus.ExponentialBuckets(0.05, 2, 14),
			NativeHistogramBucketFactor: 1.1,
		}),
		candidateLogLoss:  gauge("candidate_log_loss", "Holdout log loss of the model trained last."),
		championLoss:      gauge("champion_log_loss", "Log loss of the champion on the same rows, at the last training."),
		candidateAUC:      gauge("candidate_roc_auc", "Holdout area under the ROC curve of the model trained last."),
		trainingRows:      gauge("training_rows", "Rows that the last model was fitted on."),
		lastTraining:      gauge("last_training_timestamp_seconds", "When the last model version was published."),
		failing:           gauge("failing", "1 from a training that failed until one succeeds."),
		lastTrainedLabels: gauge("trained_labels", "Labels that the last training had seen."),
	}
	for _, result := range []string{"champion", "challenger", "superseded", "failed"} {
		m.trainings.WithLabelValues(result)
	}
	if registerer != nil {
		registerer.MustRegister(m.labels, m.repeated, m.badScores, m.examples, m.pending, m.unjoined, m.leftOut, m.fresh,
			m.trainings, m.deadLetters, m.duration, m.candidateLogLoss, m.championLoss, m.candidateAUC,
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
	m.candidateAUC.Set(v.Metrics.ROCAUC)
	if verdict.ChampionMetrics != nil {
		m.championLoss.Set(verdict.ChampionMetrics.LogLoss)
	}
	m.trainingRows.Set(float64(v.TrainingRows))
	m.lastTraining.Set(float64(v.CreatedAt) / 1000)
	m.lastTrainedLabels.Set(float64(v.LabelsSeen))
}
