package fitting

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/churnstream/churnstream/scoring"
)

// Design is the design matrix of some examples of a Dataset: an intercept, one
// 0/1 column per level of each categorical feature, and per numeric feature
// either one column or, where it is piecewise linear, one per knot. All are standardised to mean 0 and population standard deviation 1.
//
// A knot's column holds the knot's hat function (the linear B-spline): 1 at the
// knot, falling to 0 at its neighbours, linear between, and constant beyond the
// outer knots. A combination of them is any continuous function that is linear
// between knots, and its values at the knots are the coefficients. As with
// levels, the columns of a feature sum to 1.
//
// It is sparse: of all the 0/1 columns a row keeps only, per feature, the
// position of its 1, and of the hat functions the two that are not 0. These
// columns are neither centred nor scaled in memory. Centring one only moves the
// intercept, which is not penalised, and scaling is applied to gradient and
// Hessian once they are summed, so the optimum is that of the standardised
// matrix.
//
// A missing value, or a level not kept, is a row that holds the feature's
// column means: it counts with the feature's expected contribution and is 0
// after standardisation. For features with levels or knots one more column
// stands for that row; its gradient and Hessian are folded into those of the
// others.
//
// Rows are in a fixed order and sums are taken over fixed blocks, so that
// results do not depend on the number of processors.
type Design struct {
	data     *Dataset
	rows     []int32 // positions in the dataset, by fold
	foldEnds []int   // fold f is rows[foldEnds[f-1]:foldEnds[f]]

	features []encoded
	width    int // columns, with the intercept and those for missing
	cats     int // categorical features
	hats     int // numeric features with knots
	nums     int // linear numeric features, the last columns
	numbers  int // first column of the linear numeric features

	codes   []uint32  // rows × cats: the column that holds 1
	between []between // rows × hats
	numeric []float64 // rows × nums, standardised
	churned []bool

	// std is each column's standard deviation over the rows where its feature
	// is present, 1 for the intercept, 0 for a column left out of the fit:
	// constant ones, and those for missing.
	std  []float64
	free []int // columns in the fit
}

// encoded is how one feature of the specification became columns.
type encoded struct {
	feature     int // position in the specification
	categorical bool
	first       int       // its first column
	levels      []float64 // codes of the levels, sorted by name
	knots       []float64 // of a piecewise-linear number, ascending
	share       []float64 // mean of each level's or knot's column over the rows with a value
	missing     int       // column of rows without a value; -1 if there are none
	present     int       // rows with a value
	mean, std   float64   // of a linear number
}

// EncodeConfig says how examples become a Design. Its zero value is usable.
type EncodeConfig struct {
	// Folds is the number of cross-validation folds, 0 or 1 for none. A
	// customer's rows are all in the same fold, which the hash decides.
	Folds int
	// MaxLevels bounds the levels of one feature (0: 100, less where features
	// have more than 4,000 levels together: the Hessian is quadratic in them).
	// Of more, the most frequent are kept, and the others count like missing.
	MaxLevels int
	// Knots makes numeric features piecewise linear, with that many knots at
	// equally spaced quantiles of the values: with 5 at the least value, the
	// quartiles and the greatest. Quantiles that coincide are one knot; a
	// feature without two different values stays linear. 0 or 1: all numeric
	// features are linear. It is bounded by MaxKnots, and by less where a
	// specification has more than 2,000 knots together.
	Knots int
}

// Encode makes a design matrix of the examples of d at the given positions. It
// refers to d, which must not change for as long as the matrix is in use.
func Encode(d *Dataset, rows []int32, cfg EncodeConfig) *Design {
	x := &Design{data: d, width: 1, std: []float64{1}}
	x.order(d, rows, max(cfg.Folds, 1))
	n := len(x.rows)
	numeric := 0
	for j := range d.columns {
		if d.columns[j].categorical {
			x.cats++
		} else {
			numeric++
		}
	}
	maxLevels := min(cmp.Or(max(cfg.MaxLevels, 0), 100), 4000/max(x.cats, 1))
	for j := range d.columns {
		if d.columns[j].categorical {
			x.addLevels(d, j, max(maxLevels, 2))
		}
	}
	var linear []int
	count := min(cfg.Knots, MaxKnots, 2000/max(numeric, 1))
	for j := range d.columns {
		if d.columns[j].categorical {
			continue
		}
		var knots []float64
		if count > 1 {
			knots = knotsAt(d.sorted(j, x.rows), count)
		}
		if len(knots) < 2 {
			linear = append(linear, j)
			continue
		}
		x.addKnots(d, j, knots)
	}
	x.between = make([]between, n*x.hats)
	x.fillBetween(d)
	x.numbers, x.nums = x.width, len(linear)
	x.numeric = make([]float64, n*x.nums)
	for k, j := range linear {
		x.addNumber(d, j, k)
	}
	x.codes = make([]uint32, n*x.cats)
	k := 0
	for f := range x.features {
		if x.features[f].categorical {
			x.fillCodes(d, &x.features[f], k)
			k++
		}
	}
	x.churned = d.labels(x.rows)
	for c, s := range x.std {
		if s > 0 {
			x.free = append(x.free, c)
		}
	}
	return x
}

// order sorts the rows by fold, within a fold as they came.
func (x *Design) order(d *Dataset, rows []int32, folds int) {
	fold := func(r int32) int { return int(mix(d.customer[r]>>1) % uint64(folds)) }
	x.foldEnds = make([]int, folds)
	for _, r := range rows {
		x.foldEnds[fold(r)]++
	}
	next := make([]int, folds)
	sum := 0
	for f, n := range x.foldEnds {
		next[f] = sum
		sum += n
		x.foldEnds[f] = sum
	}
	x.rows = make([]int32, len(rows))
	for _, r := range rows {
		f := fold(r)
		x.rows[next[f]] = r
		next[f]++
	}
}

func (x *Design) addLevels(d *Dataset, j, maxLevels int) {
	e := encoded{feature: j, categorical: true, first: x.width, missing: -1}
	var counts []int
	for _, r := range x.rows {
		code := int(d.columns[j].code(int(r)))
		for code >= len(counts) {
			counts = append(counts, 0)
		}
		counts[code]++
	}
	var known []int
	for code, n := range counts {
		if code > 0 && n > 0 {
			known = append(known, code)
		}
	}
	name := func(code int) string { return d.vocabulary.Level(j, float64(code-1)) }
	if len(known) > maxLevels {
		slices.SortFunc(known, func(a, b int) int {
			return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(name(a), name(b)))
		})
		known = known[:maxLevels]
	}
	slices.SortFunc(known, func(a, b int) int { return cmp.Compare(name(a), name(b)) })
	for _, code := range known {
		e.present += counts[code]
	}
	for _, code := range known {
		p := float64(counts[code]) / float64(e.present)
		e.levels = append(e.levels, float64(code-1))
		e.share = append(e.share, p)
		x.std = append(x.std, math.Sqrt(p*(1-p)))
	}
	x.width += len(known)
	if e.present < len(x.rows) {
		e.missing = x.width
		x.std = append(x.std, 0)
		x.width++
	}
	x.features = append(x.features, e)
}

func (x *Design) fillCodes(d *Dataset, e *encoded, k int) {
	column := []uint32{uint32(e.missing)} // by code, 0 for missing
	for l, code := range e.levels {
		for int(code)+1 >= len(column) {
			column = append(column, uint32(e.missing))
		}
		column[int(code)+1] = uint32(e.first + l)
	}
	for i, r := range x.rows {
		code := int(d.columns[e.feature].code(int(r)))
		if code >= len(column) {
			code = 0
		}
		x.codes[i*x.cats+k] = column[code]
	}
}

func (x *Design) addNumber(d *Dataset, j, k int) {
	e := encoded{feature: j, first: x.width, missing: -1}
	values := d.columns[j].numbers
	sum := 0.0
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, r := range x.rows {
		if v := values[r]; !scoring.IsMissing(v) {
			e.present++
			sum += v
			lowest, highest = min(lowest, v), max(highest, v)
		}
	}
	if lowest < highest { // else constant, whatever rounding makes of it
		e.mean = sum / float64(e.present)
		squares := 0.0
		for _, r := range x.rows {
			if v := values[r]; !scoring.IsMissing(v) {
				squares += (v - e.mean) * (v - e.mean)
			}
		}
		e.std = math.Sqrt(squares / float64(e.present))
	} else if e.present > 0 {
		e.mean = lowest
	}
	if e.std > 0 {
		x.std = append(x.std, 1)
		for i, r := range x.rows {
			if v := values[r]; !scoring.IsMissing(v) {
				x.numeric[i*x.nums+k] = (v - e.mean) / e.std
			}
		}
	} else {
		x.std = append(x.std, 0)
	}
	x.width++
	x.features = append(x.features, e)
}

// checkColumns reports the first column of which mean or standard deviation is
// not finite.
func (x *Design) checkColumns() error {
	for i := range x.features {
		e := &x.features[i]
		for _, s := range append([]float64{e.mean, e.std}, e.share...) {
			if math.IsNaN(s) || math.IsInf(s, 0) {
				return fmt.Errorf("mean or standard deviation of %s is %g: %w", x.column(e.first), s, ErrNotFinite)
			}
		}
	}
	return nil
}

// checkPoint reports an objective or a gradient that is not finite, by the first
// column concerned.
func (x *Design) checkPoint(objective float64, gradient []float64) error {
	for c, g := range gradient {
		if math.IsNaN(g) || math.IsInf(g, 0) {
			return fmt.Errorf("the derivative by %s is %g: %w", x.column(c), g, ErrNotFinite)
		}
	}
	if math.IsNaN(objective) || math.IsInf(objective, 0) {
		return fmt.Errorf("the objective is %g: %w", objective, ErrNotFinite)
	}
	return nil
}

// column names the feature of a column in errors.
func (x *Design) column(c int) string {
	name := "the intercept"
	for i := range x.features {
		if e := &x.features[i]; e.first <= c {
			name = strconv.Quote(x.data.Spec().Feature(e.feature).Name)
		}
	}
	return name
}

// Rows returns the number of rows.
func (x *Design) Rows() int { return len(x.rows) }

// deriveMissing sets the coefficients of the columns for missing values: the
// feature's expected contribution.
func (x *Design) deriveMissing(v []float64) {
	for _, e := range x.features {
		if e.missing >= 0 {
			v[e.missing] = dot(e.share, v[e.first:e.first+len(e.share)])
		}
	}
}

// foldGradient moves what the columns for missing values got to the levels.
func (x *Design) foldGradient(g []float64) {
	for _, e := range x.features {
		if e.missing >= 0 {
			for l, p := range e.share {
				g[e.first+l] += p * g[e.missing]
			}
			g[e.missing] = 0
		}
	}
}

// foldHessian is foldGradient for both sides of a symmetric matrix.
func (x *Design) foldHessian(h []float64) {
	width := x.width
	for _, e := range x.features {
		if e.missing < 0 {
			continue
		}
		for l, p := range e.share {
			to, from := h[(e.first+l)*width:], h[e.missing*width:]
			for c := range width {
				to[c] += p * from[c]
			}
		}
		for r := range width {
			row := h[r*width : (r+1)*width]
			for l, p := range e.share {
				row[e.first+l] += p * row[e.missing]
			}
		}
	}
}

// centre moves a constant from each feature's levels or knots to the
// intercept, which changes no prediction, such that the penalty is least. At
// the exact optimum there is nothing to move: the data say nothing about that
// direction, so it is where rounding errors gather.
func (x *Design) centre(v []float64) {
	for _, e := range x.features {
		sum, weights := 0.0, 0.0
		for l := range e.share {
			s := x.std[e.first+l]
			sum += s * s * v[e.first+l]
			weights += s * s
		}
		if weights == 0 {
			continue
		}
		shift := sum / weights
		for l := range e.share {
			v[e.first+l] -= shift
		}
		v[0] += shift
	}
	x.deriveMissing(v)
}
