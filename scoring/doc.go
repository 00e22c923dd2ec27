// Package scoring turns customer attributes into churn probabilities and exact
// explanations. It is pure: no I/O, no clock, no goroutines, no package of this
// project.
//
// The life of a feature can be followed by its name: Spec lists the features,
// Vocabulary numbers the levels of categorical ones, Customer keeps a
// customer's current Vector, Model holds what training found, and Predictor,
// compiled from a Model, computes probabilities and explanations.
//
// Who has a model's payload and wants answers calls ParsePredictor and
// Predictor.ExplainByName, which take and give names. Who scores many customers
// keeps a Vector, a Workspace and slices for the weights per goroutine, and calls
// Probability, LIME and SHAP, which then allocate nothing.
package scoring
