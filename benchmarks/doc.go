// Package benchmarks measures exact explanations against the sampling they
// replace: what each costs for how many features, and how far the sampled
// weights scatter from run to run. The command in benchmarks/report prints all
// of it and draws the picture of docs/explanations.md.
package benchmarks
