// Package fitting makes churn models of labelled customers and decides whether
// one is better than the model in use. It reads and writes nothing: the role in
// package trainer feeds it from topics, a batch job can from a file.
//
// A Dataset keeps labelled examples in little memory. Fit sets the newest of
// them aside as a holdout, chooses the penalty, and makes a scoring.Model of the
// others, with its global importance and with the distributions that drift is
// measured against. Judge decides between the result and the champion on the
// same holdout rows, and says why in words.
//
// The parts can be used by themselves: Encode makes the design matrix of some
// examples, Design.Fit finds the optimum of L2-regularised logistic regression
// on it, Design.Strength the penalty that generalises best, and Weights.Model
// turns the optimum into a model of the raw attributes.
//
// Whatever is computed depends on the examples alone, neither on the order in
// which they came nor on the number of processors.
package fitting
