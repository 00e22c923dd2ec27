package scorer

import (
	"time"

	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/schemas"
)

// snapshotPause bounds how long scoring stops at a time for a snapshot. A
// block of customers is written at least, which takes about a tenth of this.
const snapshotPause = 2 * time.Millisecond

// snapshotting writes snapshots of a worker's state, between its batches.
type snapshotting struct {
	*site
	last      time.Time // when the last one was begun, or the state restored
	reflected int64     // by the last one

	file    *snapshotFile // nil while none is being written
	encoder *customers.SnapshotEncoder
	from    customers.Cursor
	began   time.Time
	busy    time.Duration // that scoring stood still for it
	ended   bool          // all is handed over; the disk may lag
}

// step begins a snapshot when one is due, and goes on with one that was begun,
// for snapshotPause at most. The state must be that of the topic, which was last
// written to at a time. None is begun while customers wait to be repaired: a
// restore has to see the records that the valid one is to be written after; nor
// while scores are counted again, which stand before what a restore would read.
func (s *snapshotting) step(state *state, written time.Time, repairs bool) {
	now := s.cfg.Now()
	switch {
	case s.cfg.StateDir == "":
		return
	case s.file == nil:
		if now.Sub(s.last) < s.cfg.SnapshotInterval || state.reflected == s.reflected || repairs || len(state.ahead) > 0 {
			return
		}
		s.begin(state, written, now)
	case s.ended:
		select {
		case err := <-s.file.done:
			s.end(err)
		default:
		}
		return
	}
	began := time.Now()
	for !s.ended && time.Since(began) < snapshotPause {
		block, ok := s.file.room()
		if !ok {
			break // the disk lags
		}
		s.block(state, block)
	}
	s.busy += time.Since(began)
}

// begin begins a snapshot of a state that was last written to at a time.
func (s *snapshotting) begin(state *state, written, now time.Time) {
	vocabulary := s.cfg.Codec.Set().Vocabulary()
	*s = snapshotting{
		site: s.site,
		last: now, reflected: state.reflected, began: now,
		file:    createSnapshot(s.snapshotPath()),
		encoder: customers.NewSnapshotEncoder(),
	}
	s.file.hand(s.encoder.Start(s.file.wait(), &customers.SnapshotHeader{
		Fingerprint: vocabulary.Spec().Fingerprint(),
		Topic:       schemas.TopicScores,
		Partition:   s.partition,
		Reflected:   state.reflected,
		Watermark:   state.watermark,
		Written:     written,
		Landmarks:   state.landmarks,
		Progress:    state.progress,
	}))
}

// block hands the next block over, in the memory given.
func (s *snapshotting) block(state *state, block []byte) {
	block, s.ended = s.encoder.Customers(block, state.customers, &s.from)
	if s.ended {
		block = s.encoder.End(block)
	}
	s.file.hand(block)
	if s.ended {
		s.file.finish()
	}
}

// end reports what became of a snapshot.
func (s *snapshotting) end(err error) {
	took := s.cfg.Now().Sub(s.began)
	if err != nil {
		s.reflected = -1 // so that it is tried again
		s.metrics.failedSnapshots.Inc()
		s.log.Warn("the state could not be written to disk; a restart will read more of the topic", "error", err)
	} else {
		s.metrics.snapshots.Inc()
		s.metrics.snapshotPause.Observe(s.busy.Seconds())
		s.log.Debug("state written to disk", "customers", s.encoder.Count(), "bytes", s.file.size, "took", took, "scoring stopped for", s.busy)
	}
	s.file = nil
}

// final writes all of the state and waits for the disk.
func (s *snapshotting) final(state *state, written time.Time) {
	if s.cfg.StateDir == "" || s.reflected == state.reflected || len(state.ahead) > 0 {
		return
	}
	s.begin(state, written, s.cfg.Now())
	for !s.ended {
		s.block(state, s.file.wait())
	}
	s.end(<-s.file.done)
}

// giveUp ends a snapshot whose rest will not be written. One that is wholly
// handed over is waited for.
func (s *snapshotting) giveUp() {
	if s.file == nil {
		return
	}
	if s.ended {
		if err := <-s.file.done; err != nil {
			s.reflected = -1
		}
	} else {
		s.file.giveUp()
		s.reflected = -1
	}
	s.file = nil
}
