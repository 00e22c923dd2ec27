// Package trainer learns churn models from labelled customers and publishes
// them.
//
// The parts, each testable by itself: a Dataset keeps labelled examples in
// little memory; a Design encodes some of them for fitting; Design.Fit finds
// the optimum of L2-regularised logistic regression, Design.Strength the
// penalty that generalises best; Train makes a scoring.Model of that; Judge
// decides between it and the champion on the same holdout rows. Trainer is the
// role that feeds all this from topics and publishes the result.
package trainer
