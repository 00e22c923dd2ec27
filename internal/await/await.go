// Package await has tests wait for conditions, where nothing announces them.
package await

import (
	"fmt"
	"testing"
	"time"
)

const (
	// limit is how long a condition may take to hold on a machine that is busy.
	limit = 3 * time.Minute
	// Conditions are looked at soon at first, and then less and less often.
	minPause, maxPause = time.Millisecond, 20 * time.Millisecond
)

// Until waits until a condition holds, and fails the test if it does not in time.
// what says what is waited for; details, if any, are shown in the failure.
func Until(tb testing.TB, what string, condition func() bool, details ...func() string) {
	tb.Helper()
	begin := time.Now()
	for pause := minPause; !condition(); pause = min(2*pause, maxPause) {
		if time.Since(begin) > limit {
			for _, detail := range details {
				what += fmt.Sprintf("; %s", detail())
			}
			tb.Fatalf("waited %v in vain for %s", limit, what)
		}
		time.Sleep(pause)
	}
}
