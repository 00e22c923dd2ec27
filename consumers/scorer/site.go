package scorer

import (
	"log/slog"

	"github.com/churnstream/churnstream/schemas"
)

// site is where a worker works: what its parts have in common.
type site struct {
	*Scorer
	partition int
	log       *slog.Logger
	gauges    gauges
}

func newSite(s *Scorer, partition int) *site {
	return &site{Scorer: s, partition: partition, log: s.log.With("partition", partition), gauges: s.metrics.of(partition)}
}

// snapshotPath returns where the snapshot of the partition lies.
func (s *site) snapshotPath() string { return snapshotPath(s.cfg.StateDir, s.cfg.Group, s.partition) }

// logAt returns what logs about records of the partition in a topic, with both
// before the offset: the order in which everybody logs and searches for them.
func (s *site) logAt(topic string) *slog.Logger {
	return s.Scorer.log.With("topic", topic, "partition", s.partition)
}

// foreignRecord counts a record of the output partition that its owner has not
// written, and names it in the log unless many were named already.
func (s *site) foreignRecord(named *int, offset int64, problem string) {
	const most = 10
	s.metrics.foreign.Inc()
	if *named++; *named <= most {
		s.logAt(schemas.TopicScores).Warn("foreign record in the output topic", "offset", offset, "reason", problem)
	}
	if *named == most {
		s.logAt(schemas.TopicScores).Warn("more foreign records are only counted")
	}
}
