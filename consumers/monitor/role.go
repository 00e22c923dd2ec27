package monitor

import "github.com/churnstream/churnstream/internal/role"

// Role is the monitor as a part of a process.
var Role = role.Define(role.About{
	Name:  "monitor",
	Title: "Monitoring:",
	Help:  "Compare scores with outcomes and export the models' quality.",
	Detail: `Joins every outcome with the score that was in force, and exports accuracy, calibration and drift by model version on /metrics.

Example:
  churnstream monitor --brokers kafka:9092 --registry http://registry:8081 --http 127.0.0.1:9103 --lead-time 168h`,
}, func(on role.Dependencies, cfg Config) (role.Role, error) {
	cfg.Dependencies = on
	return New(cfg)
})
