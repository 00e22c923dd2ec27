package pace

import (
	"encoding/binary"

	"github.com/churnstream/churnstream/scoring"
)

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
