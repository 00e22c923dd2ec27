package pace

import (
	"math"
	"strconv"
	"testing"
)

func TestHashDrawsAreIndependent(t *testing.T) {
	const n = 20_000
	both := 0
	for i := range n {
		id := strconv.Itoa(i)
		if Hash(1, "drift", id)>>63 == 1 && Hash(1, "order", id)>>63 == 1 {
			both++
		}
	}
	if z := (float64(both) - n/4) / math.Sqrt(n*3.0/16); math.Abs(z) > 4 {
		t.Errorf("two draws agree in %d of %d, want a quarter (z = %.1f)", both, n, z)
	}
	if Hash(1, "ab", "c") == Hash(1, "a", "bc") {
		t.Error("purpose and customer run into each other")
	}
	// Restarts rely on the hash being the same for ever.
	if got, want := Hash(7, "order", "C-00001"), uint64(0xa71c9630082a8087); got != want {
		t.Errorf("hash %#x, want %#x", got, want)
	}
}
