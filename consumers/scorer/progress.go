package scorer

import (
	"slices"
	"time"

	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// progressKey is the key of the marker that says how far events are processed.
var progressKey = []byte(schemas.ProgressKey)

// progressEvents is how many offsets of the events the marker in the output
// partition may be behind, which bounds what is read again after a crash. A
// marker that is to be found is sought from the end of the partition.
const progressEvents = 5000

// skip accounts for offsets of the events, up to one, that hold no record of
// their own.
func (s *state) skip(to int64) {
	s.progress.NoRecord += to - s.progress.Next
	s.progress.Next = to
}

// done notes that an event is dealt with and counted.
func (s *state) done(r *kafka.Record) {
	s.progress.Next = r.Offset + 1
	s.progress.LeaderEpoch = r.LeaderEpoch
	s.watermark = max(s.watermark, r.Offset)
}

// ledger says when the progress of a worker is to be written down.
type ledger struct {
	*site
	written  schemas.Progress // in the latest marker
	at       time.Time        // when that was
	outdated bool             // whether it must be repeated
}

// due reports whether a marker belongs at the end of what is written next. What
// yields no score leaves no other trace in the output topic.
func (l *ledger) due(p *schemas.Progress) bool {
	switch {
	case l.outdated:
		return true
	case p.Next == l.written.Next:
		return false
	}
	return unscored(p) != unscored(&l.written) || p.Next-l.written.Next >= progressEvents ||
		l.cfg.Now().Sub(l.at) >= l.cfg.ProgressInterval
}

func unscored(p *schemas.Progress) int64 {
	return p.Duplicates + p.DeadLetters + p.Erasures + p.Forwarded
}

// wrote notes that a marker is written.
func (l *ledger) wrote(p *schemas.Progress) {
	l.written, l.at, l.outdated = *p, l.cfg.Now(), false
	l.show(p)
}

// show exports the sums.
func (l *ledger) show(p *schemas.Progress) {
	for i, n := range [...]int64{p.Scored, p.Duplicates, p.DeadLetters, p.Erasures, p.NoRecord, p.Forwarded} {
		l.gauges.offsets[i].Set(float64(n))
	}
	l.gauges.unaccounted.Set(float64(p.Unaccounted()))
}

// writers are the owners of an output partition so far, each up to where the
// next begins.
type writers []schemas.Writer

// wrote reports whether one of them has written a record; known is false for
// records from before the first of them.
func (w writers) wrote(r *kafka.Record) (yes, known bool) { return intake.Wrote(w, r) }

// with returns the writers with one that owns the partition from an offset on.
func (w writers) with(producerID, since int64) writers {
	if n := len(w); n > 0 && w[n-1].ProducerID == producerID {
		return w
	}
	w = append(slices.Clone(w), schemas.Writer{ProducerID: producerID, Since: since})
	// The oldest are given up: what they wrote is judged as what is older.
	return w[max(0, len(w)-customers.MaxWriters):]
}
