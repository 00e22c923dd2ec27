package fitting

// CustomerHash reduces a customer's identity to 64 bits. Examples carry it
// instead of the identity; it is even, well mixed, and the same in every
// process, so that what is decided by it (ties, folds) is reproducible.
func CustomerHash(id []byte) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, b := range id {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return mix(h) &^ 1
}

// mix spreads every bit of h over all bits: the finaliser of MurmurHash3.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
