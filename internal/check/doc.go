// Package check reports how good the models were over a while, once: the monthly
// look at what was predicted and what became of it, as a page, as JSON and in a few
// lines. It reads labelled examples, model versions and scores from Kafka, and
// nothing else; it belongs to no consumer group and commits nothing.
//
// Collect reads, Analyse computes, and a Report is what is shown. Analyse is a
// function of what was collected: the same topics give the same report.
package check
