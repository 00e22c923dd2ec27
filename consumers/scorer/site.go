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

// foreignRecord counts a record of the output partition that its owner has not
// written, and names it in the log unless many were named already.
func (s *site) foreignRecord(named *int, offset int64, problem string) {
	const most = 10
	s.metrics.foreign.Inc()
	if *named++; *named <= most {
		s.log.Warn("foreign record in the output topic", "topic", schemas.TopicScores, "offset", offset, "reason", problem)
	}
	if *named == most {
		s.log.Warn("more foreign records are only counted", "topic", schemas.TopicScores)
	}
}
