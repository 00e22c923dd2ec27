package scorer

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"churnstream/scoring"
)

// metrics are the scorer's figures.
type metrics struct {
	scored       prometheus.Counter
	duplicates   prometheus.Counter
	erased       prometheus.Counter
	letters      *prometheus.CounterVec
	late         prometheus.Counter
	baseless     prometheus.Counter
	missing      []prometheus.Counter // by feature
	latency      prometheus.Histogram
	lag          *prometheus.GaugeVec
	customers    *prometheus.GaugeVec
	restoring    *prometheus.GaugeVec
	restored     prometheus.Histogram
	foreign      prometheus.Counter
	refenced     prometheus.Counter
	modelVersion prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, spec *scoring.Spec) *metrics {
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "churn_scorer_events_total",
		Help: "Customer events by what became of them: scored, duplicate (had its effect before) or erased (a customer's erasure).",
	}, []string{"result"})
	missing := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "churn_scorer_missing_features_total",
		Help: "Scores in which a feature was missing or had a level the model does not know, so that it counted with its expected contribution.",
	}, []string{"feature"})
	m := &metrics{
		scored:     events.WithLabelValues("scored"),
		duplicates: events.WithLabelValues("duplicate"),
		erased:     events.WithLabelValues("erased"),
		letters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_scorer_dead_letters_total",
			Help: "Records set aside as dead letters by the scorer.",
		}, []string{"reason"}),
		late: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_late_attributes_total",
			Help: "Attribute changes that arrived after a newer value and were left out.",
		}),
		baseless: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_baseless_increments_total",
			Help: "Increments to attributes whose value was not known, which stay missing.",
		}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                           "churn_event_to_score_seconds",
			Help:                           "Time from an event's occurrence until its score was acknowledged by the broker.",
			Buckets:                        []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_scorer_lag_records",
			Help: "Records of a partition of churn.customer-events not processed yet.",
		}, []string{"partition"}),
		customers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_scorer_customers",
			Help: "Customers whose state a worker holds.",
		}, []string{"partition"}),
		restoring: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_scorer_restore_remaining_records",
			Help: "Records of a partition of churn.scores still to be read before its worker can score.",
		}, []string{"partition"}),
		restored: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "churn_scorer_restore_seconds",
			Help:    "Time a worker took to rebuild its state.",
			Buckets: prometheus.ExponentialBuckets(.01, 4, 8),
		}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_foreign_records_total",
			Help: "Records found in churn.scores that no scorer can have written.",
		}),
		refenced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_fenced_total",
			Help: "Times a worker lost the ownership of its output partition.",
		}),
		modelVersion: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "churn_scorer_model_version",
			Help: "Model version in use; 0 while there is none.",
		}),
	}
	for i := range spec.Len() {
		m.missing = append(m.missing, missing.WithLabelValues(spec.Feature(i).Name))
	}
	if reg != nil {
		reg.MustRegister(events, missing, m.letters, m.late, m.baseless, m.latency, m.lag,
			m.customers, m.restoring, m.restored, m.foreign, m.refenced, m.modelVersion)
	}
	return m
}

func label(partition int) string { return strconv.Itoa(partition) }
