package fitting

import (
	"slices"

	"github.com/churnstream/churnstream/scoring"
)

// Weights are the optimum of a fit, by column of the standardised matrix.
type Weights struct {
	// Strength is C, the inverse of the penalty.
	Strength float64
	// Objective is C·Σ log loss + ½‖w‖² at the optimum.
	Objective float64
	// Iterations counts passes over the rows for a gradient, Hessians those
	// for a Hessian.
	Iterations, Hessians int

	// v are the coefficients of the columns as they are in memory: 0/1 and
	// standardised numbers, the intercept first.
	v []float64
	x *Design
}

// Intercept returns the intercept for standardised columns.
func (w *Weights) Intercept() float64 {
	b := w.v[0]
	for _, e := range w.x.features {
		for l, p := range e.share {
			b += p * w.v[e.first+l]
		}
	}
	return b
}

// Level returns the coefficient of a level's standardised column: 0 for a
// level that the fit does not know.
func (w *Weights) Level(feature int, code float64) float64 {
	for _, e := range w.x.features {
		if e.feature == feature && e.categorical {
			if l := slices.Index(e.levels, code); l >= 0 {
				return w.v[e.first+l] * w.x.std[e.first+l]
			}
		}
	}
	return 0
}

// Number returns the coefficient of a linear numeric feature's standardised
// column.
func (w *Weights) Number(feature int) float64 {
	for _, e := range w.x.features {
		if e.feature == feature && !e.categorical && e.knots == nil {
			return w.v[e.first]
		}
	}
	return 0
}

// Knots returns the knots of a piecewise-linear numeric feature and the
// coefficients of their standardised columns; nil for any other feature.
func (w *Weights) Knots(feature int) (knots, coefficients []float64) {
	for _, e := range w.x.features {
		if e.feature == feature {
			for k := range e.knots {
				coefficients = append(coefficients, w.v[e.first+k]*w.x.std[e.first+k])
			}
			return slices.Clone(e.knots), coefficients
		}
	}
	return nil, nil
}

// Model returns the model that the weights make on the scale of the raw
// attributes, with the distributions of the rows it was fitted on. Of the
// log-odds by level or knot, the mean weighted by the variances of their
// columns is 0; that of a level's is p·(1−p), where p is its share of the rows.
func (w *Weights) Model() *scoring.Model {
	x, d := w.x, w.x.data
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
				out.Levels = append(out.Levels, d.vocabulary.Level(e.feature, code))
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
