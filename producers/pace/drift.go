package pace

import (
	"encoding/binary"
	"time"

	"github.com/churnstream/churnstream/scoring"
)

// maxFlip is the share of outcomes that are flipped once drift is complete: at
// one half, labels say nothing any more.
const maxFlip = 0.5

// Drift lets outcomes part from what was learnt from earlier ones: from After
// on they are flipped with a probability that rises from 0 to one half.
type Drift struct {
	// After is how long outcomes stay true; 0 means for ever.
	After time.Duration
	// Ramp is how long the rise takes; 0 means one minute.
	Ramp time.Duration
	// Seed selects the customers that are flipped.
	Seed int64
}

// Probability returns the probability that an outcome is flipped, elapsed after
// the start.
func (d Drift) Probability(elapsed time.Duration) float64 {
	if d.After <= 0 || elapsed <= d.After {
		return 0
	}
	ramp := d.Ramp
	if ramp <= 0 {
		ramp = time.Minute
	}
	return min(maxFlip*float64(elapsed-d.After)/float64(ramp), maxFlip)
}

// Flip reports whether a customer's outcome is flipped, elapsed after the
// start. The answer is the same each time, so a restart changes no outcome.
func (d Drift) Flip(customerID string, elapsed time.Duration) bool {
	p := d.Probability(elapsed)
	return p > 0 && float64(Hash(d.Seed, "drift", customerID)>>11)/(1<<53) < p
}

// Hash returns a hash that is uniform over its 64 bits and the same in every
// process. Purpose keeps draws for one customer independent of each other.
func Hash(seed int64, purpose, customerID string) uint64 {
	var number [8]byte
	binary.LittleEndian.PutUint64(number[:], uint64(seed))
	h := scoring.Hash(number[:], []byte(purpose), []byte{0xff}, []byte(customerID)) // no byte of UTF-8: purpose ends there
	// FNV leaves the high bits of short texts nearly alike; splitmix64's
	// finaliser (Stafford's variant 13) spreads them.
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
