package trainer

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// ScoreBaseline is the name under which a version's baseline holds the
// distribution of the churn probability itself.
const ScoreBaseline = "churn_probability"

// TrainConfig says how a model is made of examples. Its zero value is usable.
type TrainConfig struct {
	// Holdout is the share of the examples, the newest, that a model is
	// measured on and not trained on (0: 0.25).
	Holdout float64
	// Folds is the number of cross-validation folds (0: 5).
	Folds int
	// Strengths are the values of C to choose from, ascending (nil:
	// DefaultStrengths). With a single one there is no cross-validation.
	Strengths []float64
	// MaxLevels and Knots are those of EncodeConfig. Knots pay off where
	// churn does not rise or fall evenly with a number, and cost a few percent
	// more time: of the Telco table, 9 lower the log loss by 0.0075.
	MaxLevels, Knots int
	// Thresholds sort probabilities into risks (zero: those of scoring).
	Thresholds scoring.Thresholds
	// ImportanceRows bounds the training rows that global importance is
	// computed over (0: 10,000; negative: no importance). Of more rows, that
	// many are taken, evenly spaced in time: the means are then estimates, with
	// the standard error of a sample of that size, 1 % of a standard deviation
	// for 10,000. A row costs as much as one customer's explanations, some 25 µs
	// with 19 features.
	ImportanceRows int
}

// Candidate is a trained model, before it is judged.
type Candidate struct {
	Model     *scoring.Model
	Predictor *scoring.Predictor
	// Baseline is how features and score were distributed over the training
	// rows.
	Baseline []schemas.BaselineDistribution
	// Strength is the chosen C.
	Strength float64
	// Training and Holdout are the examples' positions in the dataset, from
	// the oldest to the newest.
	Training, Holdout []int32

	vocabulary *scoring.Vocabulary
}

// Train makes a model of the examples in d: it sets the newest aside, chooses
// the penalty by cross-validation on the others, and fits those with it.
// Examples of the same moment are in the order of their customers' hashes, so
// undated history is split at random.
//
// The model is not fitted again on all examples: the figures measured on the
// holdout are those of the very model that is published.
//
// The vocabulary is the one the examples' codes come from. The error matches
// ErrTooFewLabels where more labels may help.
func Train(ctx context.Context, d *Dataset, vocabulary *scoring.Vocabulary, cfg TrainConfig) (*Candidate, error) {
	order := d.Ordered()
	held := int(math.Round(cmp.Or(cfg.Holdout, 0.25) * float64(len(order))))
	if held < 1 || held >= len(order) {
		return nil, fmt.Errorf("train on %d examples: %w", len(order), ErrTooFewLabels)
	}
	c := &Candidate{Training: order[:len(order)-held], Holdout: order[len(order)-held:], vocabulary: vocabulary}

	strengths := cfg.Strengths
	if strengths == nil {
		strengths = DefaultStrengths()
	}
	x := Encode(d, c.Training, vocabulary, EncodeConfig{Folds: cmp.Or(cfg.Folds, 5), MaxLevels: cfg.MaxLevels, Knots: cfg.Knots})
	c.Strength = strengths[0]
	if len(strengths) > 1 {
		var err error
		if c.Strength, _, err = x.Strength(ctx, strengths); err != nil {
			return nil, err
		}
	}
	w, err := x.Fit(ctx, c.Strength, FitConfig{})
	if err != nil {
		return nil, err
	}
	c.Model = w.Model(d, vocabulary)
	c.Model.Thresholds = cfg.Thresholds
	c.Model.Thresholds = c.Model.RiskThresholds()
	c.Model.About = fmt.Sprintf("L2-regularised logistic regression with C %.4g on %d labelled rows", c.Strength, x.Rows())
	if x.hats > 0 {
		c.Model.About += ", numbers piecewise linear"
	}
	if c.Predictor, err = scoring.Compile(c.Model, vocabulary); err != nil {
		return nil, fmt.Errorf("compile the trained model: %w", err)
	}
	if cfg.ImportanceRows >= 0 {
		c.addImportance(d, cmp.Or(cfg.ImportanceRows, 10_000))
	}
	c.Baseline = baseline(d, c.Training, c.Model, c.probabilities(d, c.Training))
	return c, nil
}

// probabilities returns the model's for the given examples.
func (c *Candidate) probabilities(d *Dataset, rows []int32) []float64 {
	return probabilities(c.Predictor, d, rows)
}

func probabilities(p *scoring.Predictor, d *Dataset, rows []int32) []float64 {
	out := make([]float64, len(rows))
	x := scoring.NewVector(d.Spec().Len())
	for i, r := range rows {
		d.Attributes(int(r), x)
		out[i] = p.Probability(x)
	}
	return out
}

// Model returns the model that the weights make on the scale of the raw
// attributes, with the distributions of the rows it was fitted on. Of the
// log-odds by level or knot, the mean weighted by the variances of their
// columns is 0; that of a level's is p·(1−p), where p is its share of the rows.
func (w *Weights) Model(d *Dataset, vocabulary *scoring.Vocabulary) *scoring.Model {
	x := w.x
	m := &scoring.Model{Intercept: w.v[0], Features: make([]scoring.ModelFeature, d.Spec().Len())}
	for _, churned := range x.churned {
		if churned {
			m.BaseRate += 1 / float64(x.Rows())
		}
	}
	quantiles := quantileCount(x.hats + x.nums)
	for _, e := range x.features {
		f := d.Spec().Feature(e.feature)
		out := scoring.ModelFeature{Name: f.Name, Kind: f.Kind.String()}
		switch {
		case e.categorical && e.present == 0:
			// A model needs a level of every feature.
			out.Levels, out.LogOdds, out.Frequency = []string{"(none)"}, []float64{0}, []float64{1}
		case e.categorical:
			for l, code := range e.levels {
				out.Levels = append(out.Levels, vocabulary.Level(e.feature, code))
				out.LogOdds = append(out.LogOdds, w.v[e.first+l])
				out.Frequency = append(out.Frequency, e.share[l])
			}
		default:
			if e.knots != nil {
				out.Knots = slices.Clone(e.knots)
				out.KnotLogOdds = slices.Clone(w.v[e.first : e.first+len(e.knots)])
			}
			if e.std > 0 {
				out.LogOddsPerUnit = w.v[e.first] / e.std
				m.Intercept -= out.LogOddsPerUnit * e.mean
			}
			values := d.sorted(e.feature, x.rows)
			out.Quartiles, out.Bins = quartileBins(values)
			out.EmpiricalQuantiles = midQuantiles(values, quantiles)
		}
		m.Features[e.feature] = out
	}
	return m
}

// quantileCount bounds the quantiles of each number where a model has many
// numbers, so that it fits into a record.
func quantileCount(numbers int) int {
	return min(1000, max(50, 20_000/max(numbers, 1)))
}

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

// baseline returns the distributions that drift is measured against: levels of
// a categorical feature, deciles of a number and of the probability.
func baseline(d *Dataset, rows []int32, m *scoring.Model, probabilities []float64) []schemas.BaselineDistribution {
	var out []schemas.BaselineDistribution
	for j, f := range m.Features {
		if f.Kind == scoring.Categorical.String() {
			out = append(out, schemas.BaselineDistribution{
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
func deciles(name string, values []float64) schemas.BaselineDistribution {
	out := schemas.BaselineDistribution{Name: name}
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
