// Package evaluation measures probabilities against what became of the customers:
// the figures of a classifier with their confidence intervals, its curves, two
// models on the same examples, and what can be expected before there are labels.
//
// Everything here is a function of a set of examples. Whatever order they come in,
// and in whatever process, the answer is the same to the bit, so several monitors
// agree, and a restart changes nothing.
//
// A figure that is not defined is scoring.Missing: the area under the ROC curve of
// examples that are all of one class is not 0.5, and the precision of a model that
// predicts nobody's churn is not 0.
package evaluation
