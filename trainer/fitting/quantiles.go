package fitting

import (
	"math"
	"slices"
	"sort"

	"github.com/churnstream/churnstream/scoring"
)

// sorted returns the values of a numeric feature that are present, ascending.
func (d *Dataset) sorted(feature int, rows []int32) []float64 {
	values := make([]float64, 0, len(rows))
	for _, r := range rows {
		if v := d.columns[feature].numbers[r]; !scoring.IsMissing(v) {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	return values
}

// quantile returns the q-quantile of ascending values, linear between them, to
// the bit as NumPy's percentile computes it: models are compared with those of
// Python's lime. It is 0 without values.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	at := q * float64(len(values)-1)
	low := min(int(at), len(values)-1)
	high := min(low+1, len(values)-1)
	t, a, b := at-float64(low), values[low], values[high]
	if t >= 0.5 {
		return b - (b-a)*(1-t)
	}
	return a + (b-a)*t
}

// midQuantiles returns n equally spaced mid-quantiles, at (i+½)/n: the least
// value that is not exceeded by that share of the values. None is interpolated,
// so all of them occur.
func midQuantiles(values []float64, n int) []float64 {
	if len(values) == 0 {
		return nil
	}
	out := make([]float64, n)
	for i := range out {
		at := math.Ceil((float64(i)+0.5)/float64(n)*float64(len(values))) - 1
		out[i] = values[min(max(int(at), 0), len(values)-1)]
	}
	return out
}

// quartileBins describes ascending values by quartile, as the discretizer of
// Python's lime does: a value equal to a bound belongs to the bin below it,
// equal bounds are one, and a bin reaches from bound to bound. A bound without
// values between it and its neighbour is left out.
func quartileBins(values []float64) (bounds []float64, bins []scoring.Bin) {
	if len(values) == 0 {
		return nil, []scoring.Bin{{Frequency: 1}}
	}
	lowest, highest := values[0], values[len(values)-1]
	var ends []int // number of values up to each bound
	for _, q := range []float64{0.25, 0.5, 0.75} {
		bound := quantile(values, q)
		end := sort.Search(len(values), func(i int) bool { return values[i] > bound })
		before := 0
		if len(ends) > 0 {
			before = ends[len(ends)-1]
		}
		if end > before && end < len(values) {
			bounds, ends = append(bounds, bound), append(ends, end)
		}
	}
	from := 0
	for b, end := range append(ends, len(values)) {
		bin := scoring.Bin{Min: lowest, Max: highest, Frequency: float64(end-from) / float64(len(values))}
		if b > 0 {
			bin.Min = bounds[b-1]
		}
		if b < len(bounds) {
			bin.Max = bounds[b]
		}
		bin.Mean, bin.Std = meanStd(values[from:end])
		bins = append(bins, bin)
		from = end
	}
	return bounds, bins
}

// meanStd returns the mean and the population standard deviation.
func meanStd(values []float64) (mean, std float64) {
	for _, v := range values {
		mean += v
	}
	mean /= float64(len(values))
	for _, v := range values {
		std += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(std / float64(len(values)))
}
