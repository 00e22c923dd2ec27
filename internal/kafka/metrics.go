package kafka

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/metrics"
)

type counters struct {
	retries     *prometheus.CounterVec // operation
	retrying    prometheus.Gauge
	fetched     *prometheus.CounterVec // topic
	produced    *prometheus.CounterVec // topic
	corrupt     *prometheus.CounterVec // topic
	unreadable  *prometheus.CounterVec // topic
	resets      *prometheus.CounterVec // topic
	ahead       *prometheus.CounterVec // topic
	assigned    *prometheus.GaugeVec   // group
	generations *prometheus.CounterVec // group

	// Of large batches.
	memory, memoryLimit, waiting prometheus.Gauge

	// By reader, topic and partition.
	lag, stuck, expiring *prometheus.GaugeVec
	lost                 *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *counters {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return metrics.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label}))
	}
	position := []string{"reader", "topic", "partition"}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return metrics.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, position))
	}
	single := func(name, help string) prometheus.Gauge {
		return metrics.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
	}
	return &counters{
		memory:      single("churn_kafka_memory_bytes", "Memory taken by large batches of records, of all partitions together."),
		memoryLimit: single("churn_kafka_memory_limit_bytes", "Memory that large batches may take together."),
		waiting:     single("churn_kafka_memory_waiting", "Readers of partitions that wait for memory for a large batch."),
		lag: gauge("churn_lag_records",
			"Records of a partition from a reader's position to the end that the broker gives, whatever the reader waits for."),
		stuck: gauge("churn_stuck_seconds",
			"Time for which a reader has had records to read in a partition and has not moved on; 0 when there is none."),
		expiring: gauge("churn_expiring_records",
			"Records that a reader has still to read and that are older than three quarters of their topic's retention.ms."),
		lost: metrics.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "churn_lost_records_total",
			Help: "Records that left the log before a reader had fetched them."}, position)),
		retries: counter("churn_kafka_retries_total",
			"Failed attempts that were retried, by operation.", "operation"),
		retrying: metrics.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "churn_kafka_retrying",
			Help: "Operations that failed and are being retried; 0 means that Kafka is well from here."})),
		fetched: counter("churn_kafka_fetched_records_total",
			"Records read.", "topic"),
		produced: counter("churn_kafka_produced_records_total",
			"Records written and acknowledged.", "topic"),
		unreadable: counter("churn_kafka_unreadable_batches_total",
			"Record batches set aside as a whole: their checksum is right, but they cannot be decoded or are larger than they may be.", "topic"),
		corrupt: counter("churn_kafka_corrupt_batches_total",
			"Record batches refused for a wrong checksum or form.", "topic"),
		ahead: counter("churn_kafka_batches_ahead_total",
			"Record batches read whose timestamps are ahead of this process's clock by more than a day.", "topic"),
		resets: counter("churn_kafka_offset_resets_total",
			"Times a reader found its offset outside the log and moved to the log's nearer end.", "topic"),
		assigned: metrics.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "churn_kafka_assigned_partitions",
			Help: "Partitions this member of a consumer group works on."}, []string{"group"})),
		generations: counter("churn_kafka_group_generations_total",
			"Generations of a consumer group this member took part in.", "group"),
	}
}
