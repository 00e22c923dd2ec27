package labeler

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the labeler's figures.
type metrics struct {
	examples    *prometheus.CounterVec // label
	corrections prometheus.Counter
	duplicates  prometheus.Counter
	unmatched   *prometheus.CounterVec // reason, label
	skipped     *prometheus.CounterVec // reason
	letters     *prometheus.CounterVec // reason
	erased      prometheus.Counter
	delay       prometheus.Histogram
	lastOutcome prometheus.Gauge
	waiting     *prometheus.GaugeVec // partition
	wait        *prometheus.GaugeVec // partition
	kept        *prometheus.GaugeVec // partition
	bytes       *prometheus.GaugeVec // partition
	refused     *prometheus.GaugeVec // partition, reason
	rebuilt     prometheus.Counter
	foreign     prometheus.Counter
	refenced    prometheus.Counter
	disk        prometheus.Gauge
}

// labelOf is the value of the label called label.
func labelOf(churned bool) string {
	if churned {
		return "churn"
	}
	return "stay"
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		examples:    counters("churn_labeler_examples_total", "Labelled examples made, by label.", "label"),
		corrections: counter("churn_labeler_corrections_total", "Examples whose label a later outcome has changed."),
		duplicates:  counter("churn_labeler_duplicates_total", "Outcomes that said again what an example says, or less than it."),
		unmatched: counters("churn_labeler_unmatched_total",
			"Outcomes of which no example was made, by reason and label: no_score (the customer has none), not_watched (none is from before the decision), forgotten (it is no longer kept), too_late (written longer after the observation than --label-delay), erased, too_many_wait, too_old (there are as many newer examples of the customer as are kept).",
			"reason", "label"),
		skipped: counters("churn_labeler_skipped_scores_total", "Scores passed over because they cannot be read, or because no scorer has written them.", "reason"),
		letters: counters("churn_labeler_dead_letters_total", "Outcomes that the labeler made dead letters of.", "reason"),
		erased:  counter("churn_labeler_erasures_total", "Tombstones among scores and outcomes that erased a customer."),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                           "churn_label_delay_seconds",
			Help:                           "Time from the observation of an outcome until it was written.",
			Buckets:                        []float64{1, 60, 600, 3600, 6 * 3600, 86400, 3 * 86400, 7 * 86400, 14 * 86400, 30 * 86400, 60 * 86400},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}),
		lastOutcome: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "churn_labeler_last_outcome_timestamp_seconds",
			Help: "When the newest outcome was written that this process has settled; 0 before the first.",
		}),
		waiting:  gauges("churn_labeler_waiting_outcomes", "Outcomes that wait for a score, by partition of the examples.", "partition"),
		wait:     gauges("churn_labeler_oldest_wait_seconds", "How long ago the outcome was read that has waited for a score for the longest time, by partition of the examples; 0 if none waits.", "partition"),
		kept:     gauges("churn_labeler_kept_scores", "Scores kept for outcomes to come, by partition of the examples.", "partition"),
		bytes:    gauges("churn_labeler_store_bytes", "What the kept scores and examples of a partition take on disk.", "partition"),
		refused:  gauges("churn_labeler_refused_partitions", "1 while no examples are made for a partition until somebody has mended what is wrong, by reason.", "partition", "reason"),
		rebuilt:  counter("churn_labeler_rebuilt_stores_total", "Times the state of a partition on disk was built anew from Kafka because it was missing, damaged or of something else."),
		foreign:  counter("churn_labeler_foreign_records_total", "Records found in churn.examples that the owner of the partition has not written."),
		refenced: counter("churn_labeler_fenced_total", "Times a shard lost the ownership of its partition of the examples."),
	}
	m.disk = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "churn_labeler_disk_failing",
		Help: "Writes of the state to disk that fail and are tried until they do not; 0 when the disk is well.",
	})
	for _, churned := range []bool{false, true} { // so that there are series to look at
		m.examples.WithLabelValues(labelOf(churned))
		for _, reason := range reasons {
			m.unmatched.WithLabelValues(reason, labelOf(churned))
		}
	}
	if reg != nil {
		reg.MustRegister(m.examples, m.corrections, m.duplicates, m.unmatched, m.skipped, m.letters, m.erased, m.delay, m.lastOutcome,
			m.waiting, m.wait, m.kept, m.bytes, m.refused, m.rebuilt, m.foreign, m.refenced, m.disk)
	}
	return m
}

// settled counts what has become of outcomes.
func (m *metrics) settled(t tally) {
	for k, n := range t {
		switch k.result {
		case resultExample:
			m.examples.WithLabelValues(labelOf(k.churned)).Add(float64(n))
		case resultCorrection:
			m.corrections.Add(float64(n))
		case resultDuplicate:
			m.duplicates.Add(float64(n))
		default:
			m.unmatched.WithLabelValues(k.result, labelOf(k.churned)).Add(float64(n))
		}
	}
}

// gauges are those of a partition.
func (m *metrics) gauges() []*prometheus.GaugeVec {
	return []*prometheus.GaugeVec{m.waiting, m.wait, m.kept, m.bytes}
}

// forget removes a partition: another labeler reports it now.
func (m *metrics) forget(partition int) {
	of := prometheus.Labels{"partition": strconv.Itoa(partition)}
	for _, vec := range append(m.gauges(), m.refused) {
		vec.DeletePartialMatch(of)
	}
}
