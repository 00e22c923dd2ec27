package scorer

import (
	"sync"
	"time"

	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// state is what a worker knows: its partition of churn.scores, in memory.
type state struct {
	customers *customers.Table
	// dirty is set while the customers are ahead of what was acknowledged.
	dirty bool
	// watermark is the highest source offset whose effect is in the state.
	watermark int64
	// complete is the watermark at which every customer was known, −1 if the
	// state was never brought to the end of the topic.
	complete int64
	// reflected is the offset in churn.scores up to which, without it, all
	// records are in the state; 0 for one that reflects nothing yet.
	reflected int64
	// landmarks are the last few records that are in the state, oldest first,
	// by which the log is known again.
	landmarks []customers.Landmark
	// progress is how far the events are processed.
	progress schemas.Progress
	// ahead are the offsets from progress.Next on of events whose scores are in
	// the state already.
	ahead map[int64]struct{}
	// asOf is when the state was known to reflect all of the partition.
	asOf time.Time
}

func newState(v *scoring.Vocabulary) *state {
	return &state{customers: customers.NewTable(v), watermark: -1, complete: -1}
}

// remember makes a record a landmark.
func (s *state) remember(offset int64, r *kafka.Record) {
	if len(s.landmarks) == customers.MaxLandmarks {
		s.landmarks = append(s.landmarks[:0], s.landmarks[1:]...)
	}
	s.landmarks = append(s.landmarks, customers.Landmark{Offset: offset, Hash: recordHash(r)})
}

// recordHash distinguishes records. It leaves the timestamp out, which a broker
// may set.
func recordHash(r *kafka.Record) uint64 {
	texts := [][]byte{r.Key, {0}, r.Value}
	for _, header := range r.Headers {
		texts = append(texts, []byte(header.Key), header.Value)
	}
	return scoring.Hash(texts...)
}

// lostStates keeps the states of partitions that went to other scorers, since
// most come back at the next rebalance and then need only what was written
// meanwhile.
type lostStates struct {
	limit int // customers

	mu     sync.Mutex
	states map[int]*state
	count  int
}

// keep takes a state that its worker has done with. Those that were lost
// longest ago make room for it. It reports whether the state was kept.
func (l *lostStates) keep(partition int, s *state) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(partition)
	n := s.customers.Len()
	if n > l.limit {
		return false
	}
	for l.count+n > l.limit {
		oldest := -1
		for p, other := range l.states {
			if oldest < 0 || other.asOf.Before(l.states[oldest].asOf) {
				oldest = p
			}
		}
		l.drop(oldest)
	}
	if l.states == nil {
		l.states = map[int]*state{}
	}
	l.states[partition] = s
	l.count += n
	return true
}

// take returns a partition's state and forgets it; nil if there is none.
func (l *lostStates) take(partition int) *state {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.states[partition]
	l.drop(partition)
	return s
}

// expire drops the states that were lost before a time.
func (l *lostStates) expire(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, s := range l.states {
		if s.asOf.Before(before) {
			l.drop(p)
		}
	}
}

func (l *lostStates) drop(partition int) {
	if s := l.states[partition]; s != nil {
		l.count -= s.customers.Len()
		delete(l.states, partition)
	}
}
