package fitting

import (
	"math"
	"slices"
	"sort"

	"github.com/churnstream/churnstream/scoring"
)

// MaxKnots bounds the knots of a feature.
const MaxKnots = 100

// between is a value between two knots: the hat function of column is 1 − share
// there, that of the next column share. A missing value is all of the column
// for missing, which follows those of the knots.
type between struct {
	column uint32
	share  float64
}

// knotsAt returns the least, the greatest, and between them the equally spaced
// quantiles of ascending values, n with both, equal ones once. None is
// interpolated: every knot is a value that occurs, so no hat function is 0 on
// all rows.
func knotsAt(values []float64, n int) []float64 {
	if len(values) == 0 {
		return nil
	}
	knots := make([]float64, n)
	for i := range knots {
		at := (i*len(values)+n-2)/(n-1) - 1 // ⌈i/(n−1)·len⌉ − 1
		knots[i] = values[max(at, 0)]
	}
	return slices.Compact(knots)
}

// locate returns where a value lies among the knots: 1 − share at knot i and
// share at the next.
func locate(knots []float64, v float64) (i int, share float64) {
	i = sort.SearchFloat64s(knots, v)
	switch {
	case i == 0:
		return 0, 0
	case i == len(knots):
		return i - 2, 1
	}
	return i - 1, (v - knots[i-1]) / (knots[i] - knots[i-1])
}

func (x *Design) addKnots(d *Dataset, j int, knots []float64) {
	e := encoded{feature: j, first: x.width, knots: knots, share: make([]float64, len(knots)), missing: -1}
	values := d.columns[j].numbers
	for _, r := range x.rows {
		if v := values[r]; !scoring.IsMissing(v) {
			i, share := locate(knots, v)
			e.share[i] += 1 - share
			e.share[i+1] += share
			e.present++
		}
	}
	for i := range e.share {
		e.share[i] /= float64(e.present)
	}
	// Rows where a hat function is 0 are counted, not visited.
	squares, zeros := make([]float64, len(knots)), make([]int, len(knots))
	for i := range zeros {
		zeros[i] = e.present
	}
	for _, r := range x.rows {
		if v := values[r]; !scoring.IsMissing(v) {
			i, share := locate(knots, v)
			left, right := 1-share-e.share[i], share-e.share[i+1]
			squares[i] += left * left
			squares[i+1] += right * right
			zeros[i]--
			zeros[i+1]--
		}
	}
	for i, mean := range e.share {
		x.std = append(x.std, math.Sqrt((squares[i]+float64(zeros[i])*mean*mean)/float64(e.present)))
	}
	x.width += len(knots)
	if e.present < len(x.rows) {
		e.missing = x.width
		x.std = append(x.std, 0)
		x.width++
	}
	x.features = append(x.features, e)
	x.hats++
}

func (x *Design) fillBetween(d *Dataset) {
	k := 0
	for _, e := range x.features {
		if e.knots == nil {
			continue
		}
		values := d.columns[e.feature].numbers
		for i, r := range x.rows {
			at := between{uint32(e.missing - 1), 1}
			if v := values[r]; !scoring.IsMissing(v) {
				knot, share := locate(e.knots, v)
				at = between{uint32(e.first + knot), share}
			}
			x.between[i*x.hats+k] = at
		}
		k++
	}
}
