package schemas

import (
	"fmt"
	"time"
)

// Label says in words what a label with a horizon, in milliseconds, says of a
// customer, and what a model of such labels predicts: "leaves within 30 days".
// Without a horizon it is "leaves".
func Label(horizon int64) string {
	if horizon <= 0 {
		return "leaves"
	}
	for _, unit := range []struct {
		name   string
		length time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}, {"millisecond", time.Millisecond}} {
		switch n := horizon / unit.length.Milliseconds(); {
		case horizon%unit.length.Milliseconds() != 0:
		case n == 1:
			return "leaves within 1 " + unit.name
		default:
			return fmt.Sprintf("leaves within %d %ss", n, unit.name)
		}
	}
	panic("unreachable")
}
