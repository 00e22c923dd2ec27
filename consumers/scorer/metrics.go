package scorer

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/scoring"
)

// metrics are the scorer's figures.
type metrics struct {
	scored       prometheus.Counter
	duplicates   prometheus.Counter
	erased       prometheus.Counter
	letters      *prometheus.CounterVec
	late         prometheus.Counter
	baseless     prometheus.Counter
	saturated    prometheus.Counter
	missing      []prometheus.Counter // by feature
	latency      prometheus.Histogram
	lag          *prometheus.GaugeVec
	customers    *prometheus.GaugeVec
	levels       *prometheus.GaugeVec
	categorical  []string // features with levels, "" for others
	restoring    *prometheus.GaugeVec
	restored     *prometheus.HistogramVec
	restoreReads prometheus.Counter
	foreign      prometheus.Counter
	repaired     prometheus.Counter
	rescored     prometheus.Counter
	misplaced    prometheus.Counter
	moved        prometheus.Counter
	forwarded    prometheus.Counter
	refenced     prometheus.Counter
	refused      *prometheus.GaugeVec // partition, reason
	offsets      *prometheus.GaugeVec // partition, result
	unaccounted  *prometheus.GaugeVec
	orphans      *prometheus.GaugeVec
	modelVersion prometheus.Gauge

	snapshots, failedSnapshots prometheus.Counter
	refusedSnapshots           prometheus.Counter
	snapshotPause              prometheus.Histogram
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
	snapshots := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "churn_scorer_snapshots_total",
		Help: "Snapshots of a partition's state, by what became of them: written or failed.",
	}, []string{"result"})
	m := &metrics{
		scored:     events.WithLabelValues("scored"),
		duplicates: events.WithLabelValues("duplicate"),
		erased:     events.WithLabelValues("erased"),
		letters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_scorer_dead_letters_total",
			Help: "Records that the scorer made dead letters of.",
		}, []string{"reason"}),
		late: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_late_attributes_total",
			Help: "Attribute changes that arrived after a newer value and were left out.",
		}),
		baseless: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_baseless_increments_total",
			Help: "Increments to attributes whose value was not known, which stay missing.",
		}),
		saturated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_saturated_attributes_total",
			Help: "Attributes to which more was added than they hold, which stay at the bound.",
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
		levels: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_scorer_levels",
			Help: "Levels of a categorical feature that the customers of a partition have among them; at 10,000 an event that brings another is a dead letter.",
		}, []string{"partition", "feature"}),
		restoring: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_scorer_restore_remaining_records",
			Help: "Records of a partition of churn.scores still to be read before its worker can score.",
		}, []string{"partition"}),
		restored: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "churn_scorer_restore_seconds",
			Help:    "Time a worker took to rebuild its state, by what it started from: topic (all of churn.scores), snapshot (on disk) or memory (of a partition that came back).",
			Buckets: prometheus.ExponentialBuckets(.01, 4, 8),
		}, []string{"from"}),
		restoreReads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_restore_records_total",
			Help: "Records of churn.scores read to rebuild states.",
		}),
		snapshots:       snapshots.WithLabelValues("written"),
		failedSnapshots: snapshots.WithLabelValues("failed"),
		refusedSnapshots: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_snapshots_refused_total",
			Help: "Snapshots on disk that were damaged, too old or of something else, so that all of churn.scores was read.",
		}),
		snapshotPause: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "churn_scorer_snapshot_pause_seconds",
			Help:    "Time for which one snapshot of a partition stopped its scoring, in sum over its short pauses.",
			Buckets: prometheus.ExponentialBuckets(.001, 4, 8),
		}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_foreign_records_total",
			Help: "Records found in churn.scores that the owner of the partition has not written, or that follow newer ones.",
		}),
		repaired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_repaired_customers_total",
			Help: "Customers whose valid record was written once more, after one that its owner has not written.",
		}),
		rescored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_rescored_customers_total",
			Help: "Customers scored again because the model changed.",
		}),
		moved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_moved_customers_total",
			Help: "Customers taken over from other partitions, since the topics have more of them.",
		}),
		forwarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_forwarded_events_total",
			Help: "Events forwarded to the partition where their customer is at home since the topics have more of them. It stops to grow when all producers know.",
		}),
		misplaced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_misplaced_events_total",
			Help: "Customer events that lie in another partition than their key belongs to. They are scored where they lie.",
		}),
		refenced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "churn_scorer_fenced_total",
			Help: "Times a worker lost the ownership of its output partition.",
		}),
		refused: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_scorer_refused_partitions",
			Help: "1 while a partition is not scored until somebody decides what is to become of it, by reason.",
		}, []string{"partition", "reason"}),
		offsets: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_scorer_progress_offsets",
			Help: "Offsets of a partition of churn.customer-events processed since its scores carry markers, by what became of them: scored, duplicate, dead_letter, erasure, no_record (control records, aborted transactions, what had left the log) or forwarded (to the customer's new partition).",
		}, []string{"partition", "result"}),
		unaccounted: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_scorer_unaccounted_offsets",
			Help: "Processed offsets of a partition of churn.customer-events less those of which is known what became of them; 0 unless something is wrong.",
		}, []string{"partition"}),
		orphans: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_scorer_orphaned_customers",
			Help: "Keys under which a partition of churn.scores holds only what its owners have not written, as of the latest restore: customers who are made up, or whose own scores compaction has removed since.",
		}, []string{"partition"}),
		modelVersion: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "churn_scorer_model_version",
			Help: "Model version in use; 0 while there is none.",
		}),
	}
	for i := range spec.Len() {
		f := spec.Feature(i)
		m.missing = append(m.missing, missing.WithLabelValues(f.Name))
		m.categorical = append(m.categorical, "")
		if f.Kind == scoring.Categorical {
			m.categorical[i] = f.Name
		}
	}
	if reg != nil {
		reg.MustRegister(events, missing, m.letters, m.late, m.baseless, m.saturated, m.latency, m.lag,
			m.customers, m.levels, m.restoring, m.restored, m.restoreReads, m.foreign, m.repaired, m.rescored, m.misplaced, m.moved, m.forwarded, m.refenced,
			m.refused, m.offsets, m.unaccounted, m.orphans,
			m.modelVersion, snapshots, m.refusedSnapshots, m.snapshotPause)
	}
	return m
}

// gauges are the figures of one partition.
type gauges struct {
	lag, customers, restoring, unaccounted, orphans prometheus.Gauge
	offsets                                         [len(results)]prometheus.Gauge
	levels                                          []prometheus.Gauge // by feature, nil for those without levels
}

// results are what can become of an offset, in the order of schemas.Sums.
var results = [...]string{"scored", "duplicate", "dead_letter", "erasure", "no_record", "forwarded"}

func (m *metrics) of(partition int) gauges {
	name := strconv.Itoa(partition)
	g := gauges{
		lag:       m.lag.WithLabelValues(name),
		customers: m.customers.WithLabelValues(name),
		restoring: m.restoring.WithLabelValues(name),
		levels:    make([]prometheus.Gauge, len(m.categorical)),

		unaccounted: m.unaccounted.WithLabelValues(name),
		orphans:     m.orphans.WithLabelValues(name),
	}
	for i, feature := range m.categorical {
		if feature != "" {
			g.levels[i] = m.levels.WithLabelValues(name, feature)
		}
	}
	for _, reason := range reasons { // so that there are series to look at
		m.refused.WithLabelValues(name, reason)
	}
	for i, result := range results {
		g.offsets[i] = m.offsets.WithLabelValues(name, result)
	}
	return g
}

// hold shows what a table holds.
func (g *gauges) hold(t *customers.Table) {
	g.customers.Set(float64(t.Len()))
	for i, gauge := range g.levels {
		if gauge != nil {
			gauge.Set(float64(t.Levels(i)))
		}
	}
}

// forget removes a partition: another scorer reports it now.
func (m *metrics) forget(partition int) {
	name := strconv.Itoa(partition)
	m.lag.DeleteLabelValues(name)
	m.customers.DeleteLabelValues(name)
	m.levels.DeletePartialMatch(prometheus.Labels{"partition": name})
	m.restoring.DeleteLabelValues(name)
	m.unaccounted.DeleteLabelValues(name)
	m.orphans.DeleteLabelValues(name)
	m.refused.DeletePartialMatch(prometheus.Labels{"partition": name})
	for _, result := range results {
		m.offsets.DeleteLabelValues(name, result)
	}
}
