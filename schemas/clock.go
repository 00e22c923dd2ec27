package schemas

import "time"

// DefaultClockSkew is the default of Codec.MaxClockSkew.
const DefaultClockSkew = 24 * time.Hour

// CheckClock says why a message is poison whose time, that of a field, is
// further ahead of its record's than MaxClockSkew; nil if it is not. Both are in
// milliseconds.
//
// It asks no clock, so that the answer follows from the record alone. A record's
// time is the broker's where the topic has LogAppendTime, as those that we create
// have, and else what its producer says. A record without one, before Kafka 0.10
// or of a producer that leaves it out, is held to nothing.
func (c *Codec) CheckClock(field string, at, written int64) *PoisonError {
	most := c.MaxClockSkew
	if most <= 0 {
		most = DefaultClockSkew
	}
	if written < 0 || at-most.Milliseconds() <= written {
		return nil
	}
	text := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }
	return poison(ReasonAheadOfClock, "%s: %s is ahead of its record's time, %s, by more than %s: a clock is wrong, it stands for no time, or its unit is another",
		field, text(at), text(written), most)
}
