package fitting

import (
	"slices"
	"sort"
	"strconv"

	"github.com/churnstream/churnstream/scoring"
)

// ScoreBaseline is the name under which a baseline holds the distribution of the
// churn probability itself.
const ScoreBaseline = "churn_probability"

// Distribution is how the values of a feature, or the churn probabilities, were
// spread over the training rows.
type Distribution struct {
	// Name is the feature's, or ScoreBaseline.
	Name string
	// Bins are the levels of a categorical feature; of a number the upper
	// bounds of its bins as decimal text, the last one "+Inf".
	Bins []string
	// Frequencies are the shares of the rows in each bin.
	Frequencies []float64
}

// baseline returns the distributions that drift is measured against: levels of
// a categorical feature, deciles of a number and of the probability.
func baseline(d *Dataset, rows []int32, m *scoring.Model, probabilities []float64) []Distribution {
	var out []Distribution
	for j, f := range m.Features {
		if f.Kind == scoring.Categorical.String() {
			out = append(out, Distribution{
				Name: f.Name, Bins: slices.Clone(f.Levels), Frequencies: slices.Clone(f.Frequency),
			})
			continue
		}
		out = append(out, deciles(f.Name, d.sorted(j, rows)))
	}
	slices.Sort(probabilities)
	return append(out, deciles(ScoreBaseline, probabilities))
}

// deciles describes ascending values by decile: upper bounds, of which equal
// ones are one, and the share of the values up to each and above the one
// before.
func deciles(name string, values []float64) Distribution {
	out := Distribution{Name: name}
	before := 0
	add := func(bound string, end int) {
		out.Bins = append(out.Bins, bound)
		out.Frequencies = append(out.Frequencies, float64(end-before)/float64(max(len(values), 1)))
		before = end
	}
	for q := 1; q <= 9; q++ {
		bound := quantile(values, float64(q)/10)
		end := sort.Search(len(values), func(i int) bool { return values[i] > bound })
		if end > before && end < len(values) {
			add(strconv.FormatFloat(bound, 'g', -1, 64), end)
		}
	}
	add("+Inf", len(values))
	if len(values) == 0 {
		out.Frequencies[0] = 1
	}
	return out
}
