package evaluation

import (
	"slices"

	"github.com/churnstream/churnstream/scoring"
)

const (
	// lanes is how many resamples are drawn with one random number.
	lanes = 5
	// resamples is how many there are; a multiple of lanes.
	resamples = 1000
	// mostUndefined is in how many of them a figure may be undefined, and have
	// an interval all the same.
	mostUndefined = resamples / 100
	// tail is the share of the resamples beyond either end of an interval.
	tail = 0.025
)

// Intervals returns the ends of the 95 % intervals of the figures, by a bootstrap
// over customers: the rows of one customer are taken together or not at all, since
// they are alike. In a resample, a customer counts as often as a Poisson variable
// of mean 1 says (Chamandy, Muralidharan, Najmi and Naidu, "Estimating uncertainty
// for massive data streams", 2012), and the ends are the 2.5 and 97.5 percentiles
// of 1,000 resamples. What a customer counts is a hash of the customer and the
// resample: nothing depends on order or process, one more example changes an
// interval by little, and two models are resampled alike.
//
// An interval is not defined where the figure is not, or where it is not in more
// than one of a hundred resamples; four churners or fewer have no recall interval.
// With fewer than some 20 customers intervals are too narrow.
//
// Noise adds to the calibration error, in resamples once more than in the
// examples. Its interval is moved by the difference of the mean over resamples,
// and is one of the measured figure: also where there is no miscalibration the
// figure is above 0.
//
// The time is linear in the examples, which are sorted once for all resamples: some
// 50 ms of a core for 5,000 of them (BenchmarkIntervals), a tenth of what the area alone
// takes where every resample is sorted.
func (r *Ranking) Intervals() (lower, upper Figures) {
	lower, upper = Undefined(), Undefined()
	if r.Len() == 0 {
		return lower, upper
	}
	values := make([][]float64, len(All))
	for k := range values {
		values[k] = make([]float64, 0, resamples)
	}
	var weights [lanes][]uint8
	for lane := range weights {
		weights[lane] = make([]uint8, r.Len())
	}
	drawn := make([][lanes]uint8, len(r.customers))
	for block := range uint64(resamples / lanes) {
		for c, customer := range r.customers {
			drawn[c] = draw(customer, block)
		}
		var totals [lanes]int64
		for i, c := range r.customer {
			for lane, w := range drawn[c] {
				weights[lane][i] = w
				totals[lane] += int64(w)
			}
		}
		for lane := range weights {
			f := r.figures(weights[lane], totals[lane])
			for k := range All {
				if x := *All[k].Of(&f); !scoring.IsMissing(x) {
					values[k] = append(values[k], x)
				}
			}
		}
	}
	m := r.Metrics()
	for k := range All {
		at := *All[k].Of(&m.Figures)
		if scoring.IsMissing(at) {
			continue
		}
		low, high, mean := interval(values[k])
		if All[k].Name == "calibration_error" {
			low, high = max(low-(mean-at), 0), min(high-(mean-at), 1)
		}
		*All[k].Of(&lower), *All[k].Of(&upper) = low, high
	}
	return lower, upper
}

// interval returns percentiles and the mean of the values of resamples, of which
// those are missing where there is none. It sorts them.
func interval(values []float64) (low, high, mean float64) {
	if len(values) < resamples-mostUndefined {
		return scoring.Missing, scoring.Missing, scoring.Missing
	}
	slices.Sort(values)
	for _, v := range values {
		mean += v / float64(len(values))
	}
	return quantile(values, tail), quantile(values, 1-tail), mean
}

// quantile is linear between ascending values.
func quantile(values []float64, q float64) float64 {
	at := q * float64(len(values)-1)
	i := min(int(at), len(values)-1)
	j := min(i+1, len(values)-1)
	return values[i] + (values[j]-values[i])*(at-float64(i))
}

// draw returns how often a customer counts in the resamples of a block.
func draw(customer, block uint64) (counts [lanes]uint8) {
	bits := mix(customer ^ mix(block+1))
	for lane := range counts {
		counts[lane] = poisson[bits>>(12*lane)&(1<<12-1)]
	}
	return counts
}

// mix is the finalizer of splitmix64, a bijection without visible structure.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// poisson has the quantiles of a Poisson variable of mean 1 at 2¹² levels: how many
// of these, its distribution function in 4096ths, a level is not below. They are
// rounded such that the mean over the levels is 1 as well; the variance is 1.0005.
var poisson = func() (table [1 << 12]uint8) {
	for _, first := range [...]int{1507, 3014, 3767, 4018, 4081, 4093} {
		for level := first; level < len(table); level++ {
			table[level]++
		}
	}
	return table
}()
