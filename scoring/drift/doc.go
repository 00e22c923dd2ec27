// Package drift says how far customers, their scores and the reasons for these are
// from what a model was trained on, and from when on that means something.
//
// A model version carries a baseline: how each feature was distributed over the
// customers of its training, how its own scores were over those of its holdout, and
// the mean and standard deviation of each feature's Shapley value. NewBaseline makes
// it usable, a Sample counts customers against it, in any order, and what comes out
// is a Change each: a figure, and the threshold from which it is neither chance nor
// negligible.
//
// docs/drift.md derives bins, smoothing and thresholds.
package drift
