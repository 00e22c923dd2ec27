// Package trainer is the role that learns churn models from labelled customers
// and publishes them. It reads the labelled examples that the labeler makes of
// outcomes and scores, decides when a training is due, and publishes the result
// as a model version, champion or challenger.
//
// How a model is made of examples, and whether it is better than the one in
// use, is the business of package fitting, which does no I/O.
package trainer
