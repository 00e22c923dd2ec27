// Package kafka is what the roles need of Apache Kafka, and no more: topics,
// committed records in order, consumer groups with one worker per partition,
// acknowledged writes, and writes that fence a partition's former owner.
//
// It stands on segmentio/kafka-go for connections, authentication, routing,
// consumer groups, administration and compression. Record batches it encodes
// and decodes itself, because kafka-go does not expose the last offset delta
// of a batch, without which a reader stalls on a batch whose last records
// were compacted away, and cannot fill in producer ids, epochs and sequences,
// without which a broker can neither fence nor deduplicate.
//
// Errors that pass (brokers away, leaders moving, coordinators loading) are
// retried inside with exponential backoff and jitter until the context ends,
// and show in the metrics; errors that do not pass are returned.
package kafka
