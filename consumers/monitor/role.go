package monitor

import (
	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/internal/role"
)

// Role is the monitor as a part of a process.
var Role = role.Define(role.About{
	Name:  "monitor",
	Title: "Monitoring:",
	Help:  "Measure models by labelled examples, and export their quality.",
	Detail: `Reads churn.examples and churn.scores, and exports on /metrics, by model version, how good the scores were by what became of the customers, what is to be expected of the scores of today, and how these and the customers differ from those of the training. Any number of monitors come to the same figures.

Example:
  churnstream monitor --brokers kafka:9092 --registry http://registry:8081 --http 127.0.0.1:9103`,
}, func(on role.Dependencies, cfg Config) (role.Role, error) {
	cfg.Dependencies = on
	m, err := New(cfg)
	if err == nil && on.Handlers != nil {
		on.Handlers[quality.Path] = quality.Handler(m.Report)
	}
	return m, err
})
