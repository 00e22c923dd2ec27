package pace

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestScheduleKeepsItsRate(t *testing.T) {
	for _, rate := range []float64{0.3, 1, 7, 333, 50_000} {
		r := rand.New(rand.NewPCG(1, uint64(rate)))
		s := NewSchedule(rate, start)
		taken := 0
		now := start
		for now.Sub(start) < 10*time.Minute {
			// Whoever takes is late by up to 3 s, each time by another amount.
			now = s.Next().Add(time.Duration(r.Int64N(int64(3 * time.Second))))
			for {
				n := s.Take(now, 1000)
				taken += n
				if n < 1000 {
					break
				}
			}
			want := math.Floor(now.Sub(start).Seconds()*rate) + 1
			if got := float64(taken); math.Abs(got-want) > 1 {
				t.Fatalf("rate %v: %v items after %v, want %v", rate, got, now.Sub(start), want)
			}
		}
	}
}

func TestScheduleNextIsWhenTakeReleases(t *testing.T) {
	for _, rate := range []float64{0.001, 0.7, 3, 99.9, 12_345.678, 50_000} {
		s := NewSchedule(rate, start)
		for i := range 10_000 {
			next := s.Next()
			if n := s.Take(next.Add(-time.Nanosecond), 10); n != 0 {
				t.Fatalf("rate %v, item %d: released %d before it was due", rate, i, n)
			}
			if n := s.Take(next, 10); n != 1 {
				t.Fatalf("rate %v, item %d: released %d when due, want 1", rate, i, n)
			}
		}
	}
}

func TestScheduleCatchesUpWithinBounds(t *testing.T) {
	tests := []struct {
		stall time.Duration
		want  int // items at 100 per second
	}{
		{time.Second, 100},
		{5 * time.Second, 500},
		{time.Hour, 500},
	}
	for _, test := range tests {
		s := NewSchedule(100, start)
		if n := s.Take(start, 10); n != 1 {
			t.Fatalf("released %d at the start, want 1", n)
		}
		now := start.Add(test.stall)
		if n := s.Take(now, math.MaxInt); n < test.want || n > test.want+1 {
			t.Errorf("after a stall of %v: released %d at once, want %d", test.stall, n, test.want)
		}
		if n := s.Take(now.Add(time.Second), math.MaxInt); n < 99 || n > 101 {
			t.Errorf("in the second after a stall of %v: released %d, want 100", test.stall, n)
		}
	}
}

func TestScheduleWithoutRate(t *testing.T) {
	s := NewSchedule(0, start)
	for range 3 {
		if n := s.Take(start, 1000); n != 1000 {
			t.Fatalf("released %d, want 1000", n)
		}
		if s.Next().After(start) {
			t.Fatal("asks to wait")
		}
	}
}
