package scoring

// Hash returns the 64-bit FNV-1a hash of some texts, one after the other. It is
// the same in every process and for ever: what scores carry and how customers
// are divided depends on it. The library's hash/fnv is not used because its
// state goes to the heap.
func Hash(texts ...[]byte) uint64 {
	h := uint64(14695981039346656037)
	for _, text := range texts {
		for _, b := range text {
			h = (h ^ uint64(b)) * 1099511628211
		}
	}
	return h
}
