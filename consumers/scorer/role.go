package scorer

import "github.com/churnstream/churnstream/internal/role"

// Role is the scorer as a part of a process.
var Role = role.Define(role.About{
	Name:  "score",
	Title: "Scoring:",
	Help:  "Score customer events.",
	Detail: `Consumes churn.customer-events and produces churn.scores, a score for every event. Start as many as there are partitions: they share the work.

Examples:
  churnstream score --brokers kafka-1:9092,kafka-2:9092 --registry http://registry:8081 --http 127.0.0.1:9101
  churnstream score --explain both --reasons -1 --state-dir /var/lib/churnstream`,
}, func(on role.Dependencies, cfg Config) (role.Role, error) {
	cfg.Dependencies = on
	if cfg.Reasons == 0 { // asked for: New would take it for not given
		cfg.Explain = ExplainNone
	}
	return New(cfg)
})
