package trainer

import (
	"cmp"
	"math"
	"slices"

	"churnstream/scoring"
)

// Design is the design matrix of some examples of a Dataset: an intercept, one
// 0/1 column for each level of each categorical feature, and one column for
// each numeric feature, standardised to mean 0 and population standard
// deviation 1.
//
// It is sparse: of all the 0/1 columns a row keeps only, per feature, the
// position of its 1. The 0/1 columns are neither centred nor scaled in memory.
// Centring one only moves the intercept, which is not penalised, and scaling
// is applied to gradient and Hessian once they are summed, so the optimum is
// that of the standardised matrix.
//
// A missing value, or a level not kept, is a row that holds the feature's
// column means: it counts with the feature's expected contribution and is 0
// after standardisation. For a categorical feature one more column stands for
// that row; its gradient and Hessian are folded into those of the levels.
//
// Rows are in a fixed order and sums are taken over fixed blocks, so that
// results do not depend on the number of processors.
type Design struct {
	rows     []int32 // positions in the dataset, by fold
	foldEnds []int   // fold f is rows[foldEnds[f-1]:foldEnds[f]]

	features []encoded
	width    int // columns, with the intercept and those for missing
	cats     int // categorical features
	nums     int // numeric features, the last columns
	numbers  int // first column of the numeric features

	codes   []uint32  // rows × cats: the column that holds 1
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
	share       []float64 // of each level among the rows where it is present
	missing     int       // column of rows without a level; -1 if there are none
	present     int       // rows with a value
	mean, std   float64   // of a number
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
}

// Encode makes a design matrix of the given examples of d. The vocabulary
// must be the one that the examples' codes come from.
func Encode(d *Dataset, rows []int32, vocabulary *scoring.Vocabulary, cfg EncodeConfig) *Design {
	x := &Design{width: 1, std: []float64{1}}
	x.order(d, rows, max(cfg.Folds, 1))
	n := len(x.rows)
	for j := range d.columns {
		if d.columns[j].categorical {
			x.cats++
		} else {
			x.nums++
		}
	}
	maxLevels := min(cmp.Or(max(cfg.MaxLevels, 0), 100), 4000/max(x.cats, 1))
	for j := range d.columns {
		if d.columns[j].categorical {
			x.addLevels(d, j, vocabulary, max(maxLevels, 2))
		}
	}
	x.numbers = x.width
	x.numeric = make([]float64, n*x.nums)
	for j, k := 0, 0; j < len(d.columns); j++ {
		if !d.columns[j].categorical {
			x.addNumber(d, j, k)
			k++
		}
	}
	x.codes = make([]uint32, n*x.cats)
	k := 0
	for f := range x.features {
		if x.features[f].categorical {
			x.fillCodes(d, &x.features[f], k)
			k++
		}
	}
	x.churned = make([]bool, n)
	for i, r := range x.rows {
		x.churned[i] = d.Churned(int(r))
	}
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

func (x *Design) addLevels(d *Dataset, j int, vocabulary *scoring.Vocabulary, maxLevels int) {
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
	name := func(code int) string { return vocabulary.Level(j, float64(code-1)) }
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

// centre moves a constant from each categorical feature's levels to the
// intercept, which changes no prediction, such that the penalty is least. At
// the exact optimum there is nothing to move: the data say nothing about that
// direction, so it is where rounding errors gather.
func (x *Design) centre(v []float64) {
	for _, e := range x.features {
		sum, weights := 0.0, 0.0
		for l := range e.levels {
			s := x.std[e.first+l]
			sum += s * s * v[e.first+l]
			weights += s * s
		}
		if weights == 0 {
			continue
		}
		shift := sum / weights
		for l := range e.levels {
			v[e.first+l] -= shift
		}
		v[0] += shift
	}
	x.deriveMissing(v)
}
