package drift

import (
	"math"
	"strconv"
	"strings"

	"github.com/churnstream/churnstream/scoring"
)

// Baseline is what a Sample is compared with. It does not change, and is safe for
// concurrent use.
type Baseline struct {
	spec     *scoring.Spec
	features []bins // by position; without rows where the baseline says nothing
	score    bins
	compared int // features that have bins
	reasons  []reason
	explains int // features that have reasons
}

// bins are those of one distribution. After the ones it names comes one for levels
// that it does not name, which numbers never use, and one for what is missing.
type bins struct {
	known  bool
	labels []string
	bounds []float64      // of numbers
	levels map[string]int // of a categorical feature
	counts []float64
	rows   float64
	// missing is the bin of missing values, −1 where they are passed over since the
	// baseline does not say how many it had.
	missing int
}

type reason struct {
	rows, mean, deviation float64
}

// NewBaseline reads the distributions of a model version. Those of features that
// the specification does not have, or that cannot be read, are left out: no drift
// rather than a wrong one. Distributions from before rows were noted count as of
// the given number of rows, those that the version was trained on; they have no
// reasons.
func NewBaseline(spec *scoring.Spec, list []Distribution, rows int64) *Baseline {
	b := &Baseline{spec: spec, features: make([]bins, spec.Len()), reasons: make([]reason, spec.Len())}
	for i := range list {
		d := &list[i]
		if d.Name == Score {
			b.score, _ = readBins(d, false, rows)
			continue
		}
		j, ok := spec.Index(d.Name)
		if !ok {
			continue
		}
		if b.features[j], ok = readBins(d, spec.Feature(j).Kind == scoring.Categorical, rows); ok {
			b.compared++
		}
		if d.ReasonRows > 1 && finite(d.ReasonMean, d.ReasonDeviation) && d.ReasonDeviation >= 0 {
			b.reasons[j] = reason{float64(d.ReasonRows), d.ReasonMean, d.ReasonDeviation}
			b.explains++
		}
	}
	return b
}

func readBins(d *Distribution, categorical bool, rows int64) (bins, bool) {
	if len(d.Bins) != len(d.Frequencies) || len(d.Bins) == 0 {
		return bins{}, false
	}
	b := bins{known: true, rows: float64(max(rows, 1))}
	rest := 1.0
	if d.Rows > 0 {
		b.rows = float64(d.Rows)
	}
	for _, f := range d.Frequencies {
		if !(f >= 0 && f <= 1) {
			return bins{}, false
		}
		b.counts = append(b.counts, count(f, b.rows))
		rest -= f
	}
	missing := float64(d.Missing)
	if !(missing >= 0 && missing <= b.rows) || rest < -1e-6 {
		return bins{}, false
	}
	others := count(max(rest, 0), b.rows)
	b.missing = len(d.Bins) + 1
	if d.Rows <= 0 {
		// Of values that were there alone, or with the missing among the others.
		if b.missing = -1; others > 0 {
			b.missing = len(d.Bins)
		}
	}
	if categorical {
		b.levels = make(map[string]int, len(d.Bins))
		for i, level := range d.Bins {
			level = strings.TrimSpace(level)
			b.labels = append(b.labels, level)
			if same, twice := b.levels[level]; twice { // earlier versions distinguished white space
				b.counts[same], b.counts[i] = b.counts[same]+b.counts[i], 0
				continue
			}
			b.levels[level] = i
		}
		b.labels = append(b.labels, "other", "missing")
		b.counts = append(b.counts, max(others-missing, 0), missing)
		return b, true
	}
	for i, text := range d.Bins {
		bound, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(bound) || i > 0 && bound <= b.bounds[i-1] {
			return bins{}, false
		}
		b.bounds = append(b.bounds, bound)
	}
	b.labels = append(numberLabels(b.bounds), "other", "missing")
	if b.missing == len(d.Bins) {
		b.counts = append(b.counts, others, 0)
	} else {
		b.counts = append(b.counts, 0, others)
	}
	return b, true
}

// count returns how many rows a share stands for: a whole number, but for
// rounding.
func count(share, rows float64) float64 {
	c := share * rows
	if whole := math.Round(c); math.Abs(c-whole) < 1e-6*max(1, c) {
		return whole
	}
	return c
}

// numberLabels says what is in the bins of a number.
func numberLabels(bounds []float64) []string {
	text := func(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }
	labels := make([]string, len(bounds))
	for i, bound := range bounds {
		next := math.Nextafter(bound, math.Inf(1)) + 0 // not −0
		switch {
		case i > 0 && math.Nextafter(bounds[i-1], math.Inf(1)) == bound:
			labels[i] = "= " + text(bound)
		case math.IsInf(bound, 1) && i == 0:
			labels[i] = "any"
		case math.IsInf(bound, 1):
			labels[i] = "> " + text(bounds[i-1])
		case len(strconv.FormatFloat(next, 'g', -1, 64)) < len(strconv.FormatFloat(bound, 'g', -1, 64)):
			labels[i] = "< " + text(next) // made by Numbers, of a value with a bin of its own
		default:
			labels[i] = "≤ " + text(bound)
		}
	}
	return labels
}

func finite(xs ...float64) bool {
	for _, x := range xs {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return false
		}
	}
	return true
}
