package kafka

import (
	"testing"
	"time"
)

// TestOutageIsNoStandstill: a reader that cannot have moved on, because Kafka did
// not answer, does not count as standing still when it answers again.
func TestOutageIsNoStandstill(t *testing.T) {
	c, err := Connect(Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := c.Follow("reader", "topic", 0, 0)
	defer p.Close()
	p.Advance(5)
	now := time.Now().Add(-10 * time.Minute)
	look := func(after time.Duration, want bool) {
		t.Helper()
		now = now.Add(after)
		p.look(0, 10, now)
		if got := now.Sub(p.since) >= c.cfg.StuckAfter; got != want {
			t.Errorf("%v later: standing still %t, want %t", after, got, want)
		}
	}
	look(0, false)
	for range 19 {
		look(3*time.Second, false)
	}
	look(3*time.Second, true)
	look(2*time.Minute, false) // Kafka was down
	look(3*time.Second, false)
	for range 18 {
		look(3*time.Second, false)
	}
	look(3*time.Second, true)
	p.Advance(6)
	look(3*time.Second, false)
}
