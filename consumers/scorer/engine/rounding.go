package engine

import (
	"math"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// rounding rounds attributes as a score on the wire holds them: a state kept in memory
// must not know more digits than one read back from the topic. Only
// attributes of type int, long and float lose any.
type rounding struct {
	single, whole32, whole64 []int // features
}

func newRounding(set *schemas.Set) rounding {
	var r rounding
	spec := set.Spec()
	for i := range spec.Len() {
		if spec.Feature(i).Kind != scoring.Numeric {
			continue
		}
		// Which texts a type takes shows which type it is.
		takes := func(text string) bool { _, err := set.ParseText(i, text); return err == nil }
		switch {
		case takes("1e99"):
		case takes("0.5"):
			r.single = append(r.single, i)
		case takes("1e10"):
			r.whole64 = append(r.whole64, i)
		default:
			r.whole32 = append(r.whole32, i)
		}
	}
	return r
}

// apply rounds as writing to the topic and reading back would, and returns how
// many values the type could not hold; its greatest or least is there instead.
func (r *rounding) apply(x scoring.Vector) (saturated int) {
	bound := func(i int, least, most float64) float64 {
		if x[i] < least || x[i] > most {
			saturated++
		}
		return min(max(x[i], least), most) // Missing stays Missing
	}
	for _, i := range r.single {
		x[i] = float64(float32(bound(i, -math.MaxFloat32, math.MaxFloat32)))
	}
	for _, i := range r.whole32 {
		x[i] = math.RoundToEven(bound(i, math.MinInt32, math.MaxInt32))
	}
	for _, i := range r.whole64 {
		x[i] = math.RoundToEven(bound(i, math.MinInt64, math.MaxInt64))
	}
	return saturated
}
