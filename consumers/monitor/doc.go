// Package monitor measures models: by labelled examples, which say what became of
// customers, and before there are labels by the newest scores.
//
// It reads churn.examples and churn.scores, and joins nothing. Figures are over
// windows: of each model version the newest examples by the time they were
// observed, and the customers with the newest scores by the moment these speak of,
// each once. Rows of the same time are ordered by a hash of the customer's id. So
// the windows, and all that is computed of them, are functions of what is in the
// topics: whatever the order in which partitions are read, after any restart, and
// with any number of monitors, the figures are the same to the bit. A customer's
// next record takes the place of the one before, with all corrections, and a
// tombstone takes the customer out.
//
// A version's figures are of its own scores. The champion is judged by what it would
// have said of the newest examples that are new to it, whoever scored them, so from
// its first day on, and after a return by what is now.
//
// A window has rows in reserve, for as many may be erased. If more are, the topic
// is read once more, since what there was no room for was forgotten.
//
// Of every customer, a few numbers are kept, so memory grows with the customers.
// Nothing is written to Kafka and no consumer group is joined.
package monitor
