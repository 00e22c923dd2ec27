// Package labeler makes labelled examples: it joins what became of customers with
// the scores in force at the decisions, and writes what was known then, with the
// label, to churn.examples.
//
// A shard is a partition of churn.examples and works for the customers of whom that
// is the partition, by the murmur2 hash of their id. The consumer group distributes
// the shards over the processes. Scores and outcomes may lie anywhere, since their
// producers may have other partitioners and their topics get more partitions: so
// every process reads all of both, once, in the order of their record times, and
// hands to each of its shards the records of the shard's customers.
//
// The partition of examples is the shard's state and its progress: a flush is one
// append of a few records, the examples of the customers concerned and a marker
// that says how far the outcomes are settled. So no outcome is settled twice or not
// at all, whatever ends between two appends. The scores that outcomes may still ask
// for lie on disk, with a copy of the examples and the positions that belong to
// them; what is missing there is read from Kafka again.
package labeler
