package scorer

import (
	"slices"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// homes says at which partition a customer is at home, and was.
type homes struct {
	now    int     // partitions
	former []int64 // partitions before, ascending
}

func homesOf(p *schemas.Progress) homes {
	return homes{now: int(p.Partitions), former: p.Former}
}

// is reports whether a partition is the home of a key.
func (h homes) is(partition int, key []byte) bool {
	return h.now <= 1 || kafka.PartitionOf(key, h.now) == partition
}

// was reports whether a partition has been the home of a key that has another
// one now.
func (h homes) was(partition int, key []byte) bool {
	return len(h.former) > 0 && !h.is(partition, key) &&
		slices.ContainsFunc(h.former, func(n int64) bool { return kafka.PartitionOf(key, int(n)) == partition })
}

// formerly returns the numbers of partitions there were, with one more, in a
// slice of its own: markers in hand share the one given.
func formerly(former []int64, n int64) []int64 {
	at, found := slices.BinarySearch(former, n)
	if found {
		return former
	}
	return slices.Insert(slices.Clone(former), at, n)
}

// gives reports whether customers may have moved from one partition to another.
func (h homes) gives(from, to int) bool {
	return slices.ContainsFunc(h.former, func(n int64) bool {
		return from < int(n) && (to-from)%gcd(int(n), h.now) == 0
	})
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
