package schemas_test

import (
	"math"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
)

func TestLabel(t *testing.T) {
	for horizon, want := range map[time.Duration]string{
		0:                       "leaves",
		-time.Hour:              "leaves",
		30 * 24 * time.Hour:     "leaves within 30 days",
		24 * time.Hour:          "leaves within 1 day",
		36 * time.Hour:          "leaves within 36 hours",
		90 * time.Minute:        "leaves within 90 minutes",
		30 * time.Second:        "leaves within 30 seconds",
		1500 * time.Millisecond: "leaves within 1500 milliseconds",
	} {
		if got := schemas.Label(horizon.Milliseconds()); got != want {
			t.Errorf("%v: %q, want %q", horizon, got, want)
		}
	}
	if got := schemas.Label(math.MaxInt64); got != "leaves within 9223372036854775807 milliseconds" {
		t.Errorf("%q", got)
	}
}
