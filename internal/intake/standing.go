package intake

import (
	"time"

	"github.com/churnstream/churnstream/schemas"
)

// Standing says which of a customer's scores is the newest, to readers that take
// partitions in no order.
type Standing struct {
	AsOf, ScoredAt, SourceOffset int64 // times in milliseconds since 1970
	SourcePartition              int32
}

// StandingOf returns a score's.
func StandingOf(s *schemas.ChurnScore) Standing {
	return Standing{AsOf: s.AsOf, ScoredAt: s.ScoredAt, SourceOffset: s.SourceOffset, SourcePartition: s.SourcePartition}
}

// Supersedes reports whether a score takes the place of the newest so far: the
// later moment counts. Of one moment, it is the later event within a partition;
// across partitions, as when the customer's home has changed, only the time of
// scoring can be compared. Of one event it is the score that was written last: that
// of the model version in use.
func (s Standing) Supersedes(than Standing) bool {
	switch {
	case s.AsOf != than.AsOf:
		return s.AsOf > than.AsOf
	case s.SourcePartition != than.SourcePartition:
		return s.ScoredAt > than.ScoredAt
	case s.SourceOffset != than.SourceOffset:
		return s.SourceOffset > than.SourceOffset
	}
	return s.ScoredAt >= than.ScoredAt
}

// SameEvent reports whether both rest on one event and speak of one moment.
func (s Standing) SameEvent(as Standing) bool {
	return s.AsOf == as.AsOf && s.SourcePartition == as.SourcePartition && s.SourceOffset == as.SourceOffset
}

// Outlives reports whether a score is from after a tombstone in another partition,
// in which the customer was at home before.
func (s Standing) Outlives(partition int, at time.Time) bool {
	return int(s.SourcePartition) != partition && s.ScoredAt > at.UnixMilli()
}
