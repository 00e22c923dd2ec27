package pace

import (
	"math"
	"time"
)

// maxBehind bounds how much of a schedule is caught up after a stall, so that
// an hour's outage is not followed by an hour's events at once.
const maxBehind = 5 * time.Second

// Schedule releases items at a rate. Item k is due at start + k/rate whatever
// happened to the items before it, so lateness never adds up. After a stall
// items are released at once until the schedule is met again; what was due more
// than five seconds before is skipped, and the schedule moved on by as much.
type Schedule struct {
	rate  float64 // items per second; 0 without limit
	start time.Time
	taken float64 // items released since start: whole, exact up to 2^53
}

// NewSchedule returns a schedule of rate items per second from start on. A rate
// of 0 or less releases items without limit.
func NewSchedule(rate float64, start time.Time) *Schedule {
	return &Schedule{rate: max(rate, 0), start: start}
}

// Take releases the items due at now, at most limit, and returns how many.
func (s *Schedule) Take(now time.Time, limit int) int {
	if s.rate == 0 {
		return limit
	}
	if late := now.Sub(s.Next()) - maxBehind; late > 0 {
		s.start = s.start.Add(late)
	}
	if now.Before(s.Next()) {
		return 0
	}
	// The least that is due is one item: Next says so, whatever rounding says.
	due := math.Floor(now.Sub(s.start).Seconds()*s.rate) + 1 - s.taken
	n := min(max(int(due), 1), limit)
	s.taken += float64(n)
	return n
}

// Next returns when the next item is due.
func (s *Schedule) Next() time.Time {
	if s.rate == 0 {
		return s.start
	}
	return s.start.Add(time.Duration(math.Ceil(s.taken / s.rate * float64(time.Second))))
}
