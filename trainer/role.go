package trainer

import "github.com/churnstream/churnstream/internal/role"

// Role is the trainer as a part of a process.
var Role = role.Define(role.About{
	Name:  "train",
	Title: "Training:",
	Help:  "Train models from labelled examples and publish those that are good enough.",
	Detail: `Consumes churn.examples, fits a model when there are enough new labels, and publishes it to churn.models: as champion when it is better than the one in use on the same holdout, else as challenger with the reason. Run one.

Example:
  churnstream train --brokers kafka:9092 --registry http://registry:8081 --min-new-labels 5000`,
}, func(on role.Dependencies, cfg Config) (role.Role, error) {
	cfg.Dependencies = on
	t, err := New(cfg)
	if err != nil {
		return nil, err
	}
	if on.Handlers != nil {
		on.Handlers[role.RetrainPath] = t.RetrainHandler("") // whoever serves it guards it
	}
	return t, nil
})
