package labeler

import (
	"time"

	"github.com/churnstream/churnstream/internal/role"
)

// Role is the labeler as a part of a process.
var Role = role.Define(role.About{
	Name:  "label",
	Title: "Labelling:",
	Help:  "Make labelled examples of scores and outcomes.",
	Detail: `Consumes churn.scores and churn.outcomes and produces churn.examples: what was known of a customer at a decision, and whether the customer left within --horizon. Models are trained and measured on these. Start up to as many as churn.examples has partitions: they share the work.

Examples:
  churnstream label --brokers kafka:9092 --registry http://registry:8081 --label-state-dir /var/lib/churnstream
  churnstream topics check --horizon 2160h --label-delay 720h
  churnstream label --horizon 2160h --label-delay 720h

Longer times than the defaults need a longer min.compaction.lag.ms of churn.scores, set before the labeler is started: scores that compaction has removed do not come back. topics check, given the same times, says how long.`,
}, func(on role.Dependencies, cfg Config) (role.Role, error) {
	cfg.Dependencies = on
	// What was asked for: New would take a zero for not given.
	for _, d := range []*time.Duration{&cfg.Horizon, &cfg.ScoreInterval, &cfg.Grace} {
		if *d == 0 {
			*d = None
		}
	}
	return New(cfg)
})
