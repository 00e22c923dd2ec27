package kafka

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	retries     *prometheus.CounterVec // operation
	retrying    prometheus.Gauge
	fetched     *prometheus.CounterVec // topic
	produced    *prometheus.CounterVec // topic
	corrupt     *prometheus.CounterVec // topic
	unreadable  *prometheus.CounterVec // topic
	resets      *prometheus.CounterVec // topic
	assigned    *prometheus.GaugeVec   // group
	generations *prometheus.CounterVec // group
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label}))
	}
	return &metrics{
		retries: counter("churn_kafka_retries_total",
			"Failed attempts that were retried, by operation.", "operation"),
		retrying: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "churn_kafka_retrying",
			Help: "Operations that failed and are being retried; 0 means that Kafka is well from here."})),
		fetched: counter("churn_kafka_fetched_records_total",
			"Records read.", "topic"),
		produced: counter("churn_kafka_produced_records_total",
			"Records written and acknowledged.", "topic"),
		unreadable: counter("churn_kafka_unreadable_batches_total",
			"Record batches set aside as a whole: their checksum is right, but they cannot be decoded or are larger than they may be.", "topic"),
		corrupt: counter("churn_kafka_corrupt_batches_total",
			"Record batches refused for a wrong checksum or form.", "topic"),
		resets: counter("churn_kafka_offset_resets_total",
			"Times a reader found its offset outside the log and moved to the log's nearer end.", "topic"),
		assigned: register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "churn_kafka_assigned_partitions",
			Help: "Partitions this member of a consumer group works on."}, []string{"group"})),
		generations: counter("churn_kafka_group_generations_total",
			"Generations of a consumer group this member took part in.", "group"),
	}
}

// register registers a collector, or returns the one that another Cluster of
// this process registered before. A nil registerer registers nothing.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	err := reg.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	if err != nil {
		panic(err) // two different metrics of one name: a programming error
	}
	return c
}
