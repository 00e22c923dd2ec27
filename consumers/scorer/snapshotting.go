package scorer

import (
	"time"

	"github.com/churnstream/churnstream/schemas"
)

// snapshotPause bounds how long scoring stops at a time for a snapshot. A
// block of customers is written at least, which takes about a tenth of this.
const snapshotPause = 2 * time.Millisecond

// snapshotting is a worker's writing of snapshots, between its batches.
type snapshotting struct {
	last      time.Time // when the last one was begun, or the state restored
	reflected int64     // by the last one

	file    *snapshotFile // nil while none is being written
	encoder *snapshotEncoder
	from    cursor
	began   time.Time
	busy    time.Duration // that scoring stood still for it
	ended   bool          // all is handed over; the disk may be behind
}

// takeSnapshot begins a snapshot when one is due, and goes on with one that
// was begun, for snapshotPause at most. The state must be that of the topic.
func (p *partition) takeSnapshot() {
	s := &p.snapshot
	now := p.scorer.cfg.Now()
	switch {
	case p.scorer.cfg.StateDir == "":
		return
	case s.file == nil:
		// While the truth about a customer is still to be written, a restore
		// has to see what it is to be written behind.
		if now.Sub(s.last) < p.scorer.cfg.SnapshotInterval || p.state.reflected == s.reflected || len(p.repairs) > 0 {
			return
		}
		p.beginSnapshot(now)
	case s.ended:
		select {
		case err := <-s.file.done:
			p.endSnapshot(err)
		default:
		}
		return
	}
	began := time.Now()
	for !s.ended && time.Since(began) < snapshotPause {
		block, ok := s.file.room()
		if !ok {
			break // the disk is behind
		}
		p.snapshotBlock(block)
	}
	s.busy += time.Since(began)
}

func (p *partition) beginSnapshot(now time.Time) {
	s := &p.snapshot
	*s = snapshotting{
		last: now, reflected: p.state.reflected, began: now,
		file:    createSnapshot(p.snapshotPath()),
		encoder: newSnapshotEncoder(p.scorer.cfg.Codec.Set().Vocabulary()),
	}
	spec := p.scorer.cfg.Codec.Set().Spec()
	s.file.hand(s.encoder.start(s.file.wait(), &snapshotHeader{
		fingerprint: spec.Fingerprint(),
		topic:       schemas.TopicScores,
		partition:   p.number,
		reflected:   p.state.reflected,
		watermark:   p.state.watermark,
		written:     p.lastWrite,
		landmarks:   p.state.landmarks,
	}))
}

// snapshotBlock hands the next block over, in the memory given.
func (p *partition) snapshotBlock(block []byte) {
	s := &p.snapshot
	block, s.ended = s.encoder.customers(block, p.state.customers, &s.from)
	if s.ended {
		block = s.encoder.end(block)
	}
	s.file.hand(block)
	if s.ended {
		s.file.finish()
	}
}

// endSnapshot reports what became of a snapshot.
func (p *partition) endSnapshot(err error) {
	s := &p.snapshot
	took := p.scorer.cfg.Now().Sub(s.began)
	if err != nil {
		s.reflected = -1 // so that it is tried again
		p.scorer.metrics.failedSnapshots.Inc()
		p.log.Warn("the state could not be written to disk; a restart will read more of the topic", "error", err)
	} else {
		p.scorer.metrics.snapshots.Inc()
		p.scorer.metrics.snapshotPause.Observe(s.busy.Seconds())
		p.log.Debug("state written to disk", "customers", s.encoder.count, "bytes", s.file.size, "took", took, "scoring stopped for", s.busy)
	}
	s.file = nil
}

// finalSnapshot writes all of the state and waits for the disk.
func (p *partition) finalSnapshot() {
	if p.scorer.cfg.StateDir == "" || p.snapshot.reflected == p.state.reflected {
		return
	}
	p.beginSnapshot(p.scorer.cfg.Now())
	s := &p.snapshot
	for !s.ended {
		p.snapshotBlock(s.file.wait())
	}
	p.endSnapshot(<-s.file.done)
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
