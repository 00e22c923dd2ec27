package drift

import (
	"math"
	"slices"
	"strconv"

	"github.com/churnstream/churnstream/scoring"
)

// Score is the name under which a baseline holds the distribution of the churn
// probability itself.
const Score = "churn_probability"

// Distribution is how the values of one feature, or a model's probabilities, were
// spread over customers, as a model version carries it.
type Distribution struct {
	// Name is the feature's, or Score.
	Name string
	// Bins are the levels of a categorical feature; of a number the upper bounds of
	// its bins as decimal text, the last one "+Inf".
	Bins []string
	// Frequencies are the shares of the rows in each bin. What they lack to 1 is
	// missing, or at a level that is not among the bins.
	Frequencies []float64
	// Rows is how many rows were counted, and Missing how many of them had no value.
	// Rows is 0 where that was not noted, as in versions from before it was.
	Rows, Missing int64
	// ReasonMean and ReasonDeviation are mean and standard deviation of the
	// feature's Shapley values of the probability, over ReasonRows rows; 0 rows
	// where that was not noted.
	ReasonRows                  int64
	ReasonMean, ReasonDeviation float64
}

const (
	// parts is into how many bins of equal share numbers are sorted.
	parts = 10
	// leastRows is how many rows a bin has at least, if there are as many.
	leastRows = 5
)

// Numbers returns the distribution of numbers, among them Missing ones; one without
// bins if there are none. It sorts the slice.
//
// The bins are deciles, but for what these do badly. A value that a tenth of the
// rows have or more gets a bin of its own. Whatever no row had has a bin that
// nothing is in: below the least, above the greatest, and between two values with
// bins of their own; there new values show, however the old ones were spread.
func Numbers(name string, values []float64) Distribution {
	d := Distribution{Name: name, Rows: int64(len(values))}
	if len(values) == 0 {
		return d
	}
	slices.Sort(values) // NaN comes first
	for len(values) > 0 && scoring.IsMissing(values[0]) {
		values = values[1:]
		d.Missing++
	}
	add := func(bound float64, rows int) {
		d.Bins = append(d.Bins, strconv.FormatFloat(bound, 'g', -1, 64))
		d.Frequencies = append(d.Frequencies, float64(rows)/float64(d.Rows))
	}
	below := func(x float64) float64 { return math.Nextafter(x, math.Inf(-1)) }
	if len(values) == 0 {
		add(math.Inf(1), 0)
		return d
	}
	part := max(float64(len(values))/parts, leastRows)
	add(below(values[0]), 0)
	bound := below(values[0]) // of the last bin
	collected := 0            // rows since then
	for i := 0; i < len(values); {
		x, end := values[i], i
		for end < len(values) && values[end] == x {
			end++
		}
		rows := end - i
		i = end
		if float64(rows) >= part {
			if below(x) > bound {
				add(below(x), collected)
			}
			add(x, rows)
			bound, collected = x, 0
			continue
		}
		collected += rows
		// Half a bin more is better than half a bin less, also at the end.
		rest := len(values) - end
		if float64(collected) >= part && (rest == 0 || float64(rest) >= part/2) {
			add(x, collected)
			bound, collected = x, 0
		}
	}
	if greatest := values[len(values)-1]; bound < greatest {
		add(greatest, collected)
	}
	add(math.Inf(1), 0)
	return d
}

// Levels returns the distribution of a categorical feature: how many of the rows
// have each level, and how many have none. The others are at further levels.
func Levels(name string, levels []string, counts []int64, missing, rows int64) Distribution {
	d := Distribution{Name: name, Bins: slices.Clone(levels), Rows: rows, Missing: missing}
	for _, c := range counts {
		d.Frequencies = append(d.Frequencies, float64(c)/float64(max(rows, 1)))
	}
	return d
}
