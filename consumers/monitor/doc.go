// Package monitor measures the models in use: it joins what became of
// customers with what had been predicted, and compares customers and scores of
// today with those of the training.
//
// The score that counts for an outcome is the one that was in force: of the
// customer's scores that had been written when the outcome was written, the
// one with the latest as_of not after the outcome's observed_at minus the lead
// time. If there is none, the first such score written within a grace
// period counts. An outcome that was redriven was written when it was at first.
// Both topics are read side by side in the order of their
// record times, so a restart, which reads them again from their start, comes
// to the same figures as long as nothing was compacted away or deleted in
// between. That order needs scores and outcomes of a customer in partitions of
// the same number, and record times that are about those of writing, which is
// what producers set by default.
//
// What is kept of a customer is a few probabilities with their times. Nothing
// is written to Kafka and no consumer group is joined.
package monitor
