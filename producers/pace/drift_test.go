package pace

import (
	"math"
	"strconv"
	"testing"
	"time"
)

func TestDriftProbability(t *testing.T) {
	tests := []struct {
		name    string
		drift   Drift
		elapsed time.Duration
		want    float64
	}{
		{"never", Drift{}, time.Hour, 0},
		{"before", Drift{After: time.Minute}, 59 * time.Second, 0},
		{"at the start", Drift{After: time.Minute}, time.Minute, 0},
		{"half-way of a minute", Drift{After: time.Minute}, 90 * time.Second, 0.25},
		{"a tenth of an hour", Drift{After: time.Minute, Ramp: time.Hour}, 7 * time.Minute, 0.05},
		{"complete", Drift{After: time.Minute}, 2 * time.Minute, 0.5},
		{"long after", Drift{After: time.Minute}, 1000 * time.Hour, 0.5},
	}
	for _, test := range tests {
		if got := test.drift.Probability(test.elapsed); math.Abs(got-test.want) > 1e-12 {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestDriftFlipsTheShareItShould(t *testing.T) {
	const n = 20_000
	for seed := range int64(3) {
		d := Drift{After: time.Minute, Seed: seed}
		for _, elapsed := range []time.Duration{30, 65, 75, 90, 105, 120, 300} {
			elapsed *= time.Second
			flips := 0
			for i := range n {
				id := "C-" + strconv.Itoa(i)
				flip := d.Flip(id, elapsed)
				if flip != d.Flip(id, elapsed) {
					t.Fatal("another answer the second time")
				}
				if flip {
					flips++
				}
			}
			p := d.Probability(elapsed)
			if z := (float64(flips) - n*p) / math.Sqrt(n*p*(1-p)+1); math.Abs(z) > 4 {
				t.Errorf("seed %d, %v: %d of %d flipped, want a share of %v (z = %.1f)", seed, elapsed, flips, n, p, z)
			}
		}
	}
}

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
