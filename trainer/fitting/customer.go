package fitting

import "github.com/churnstream/churnstream/scoring"

// CustomerHash reduces a customer's identity to 64 bits. Examples carry it
// instead of the identity; it is even, well mixed, and the same in every
// process, so that what is decided by it (ties, folds) is reproducible.
func CustomerHash(id []byte) uint64 {
	return mix(scoring.Hash(id)) &^ 1
}

// mix spreads every bit of h over all bits: the finaliser of MurmurHash3.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
