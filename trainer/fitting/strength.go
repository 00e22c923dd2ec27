package fitting

import (
	"context"
	"fmt"
	"math"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// DefaultStrengths returns the ten values of C from 1e-4 to 1e4, evenly spaced
// by logarithm.
func DefaultStrengths() []float64 {
	s := make([]float64, 10)
	for i := range s {
		s[i] = math.Pow(10, -4+8*float64(i)/9)
	}
	return s
}

// Strength returns the one of the given strengths whose fit has the lowest log
// loss on rows left out: those of each fold in turn, with all other folds to
// learn from. Of equals it takes the first, so strengths should ascend.
// losses holds each one's mean log loss.
//
// A fold that cannot be fitted, for want of a class in the others, is left
// out; without any that can, the error matches ErrTooFewLabels.
func (x *Design) Strength(ctx context.Context, strengths []float64) (best float64, losses []float64, err error) {
	sums := make([][]float64, len(x.foldEnds)) // by fold and strength; nil = left out
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for f := range x.foldEnds {
		group.Go(func() error {
			var err error
			sums[f], err = x.foldLosses(ctx, f, strengths)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, nil, fmt.Errorf("cross-validation: %w", err)
	}
	rows := 0
	losses = make([]float64, len(strengths))
	for f := range sums {
		if sums[f] == nil {
			continue
		}
		from, to := x.fold(f)
		rows += to - from
		for s, sum := range sums[f] {
			losses[s] += sum
		}
	}
	if rows == 0 {
		return 0, nil, fmt.Errorf("cross-validation of %d rows in %d folds: %w", x.Rows(), len(x.foldEnds), ErrTooFewLabels)
	}
	lowest := 0
	for s := range losses {
		losses[s] /= float64(rows)
		if losses[s] < losses[lowest] {
			lowest = s
		}
	}
	return strengths[lowest], losses, nil
}

func (x *Design) fold(f int) (from, to int) {
	if f > 0 {
		from = x.foldEnds[f-1]
	}
	return from, x.foldEnds[f]
}

// foldLosses returns the sum of the log loss over fold f of the fit on the
// others, for each strength; nil if the others lack a class.
func (x *Design) foldLosses(ctx context.Context, f int, strengths []float64) ([]float64, error) {
	from, to := x.fold(f)
	others := []span{{0, from}, {to, x.Rows()}}
	if p, churners := x.newProblem(others, 1); from == to || churners == 0 || churners == int(p.n) {
		return nil, nil
	}
	left, _ := x.newProblem([]span{{from, to}}, 1)
	losses := make([]float64, len(strengths))
	var w *Weights
	for s, strength := range strengths {
		var err error
		// To compare losses, coefficients need not be exact.
		w, err = x.fit(ctx, others, strength, w, SolverConfig{Tolerance: 1e-4, Workers: 1})
		if err != nil {
			return nil, fmt.Errorf("fold %d: %w", f, err)
		}
		losses[s] = left.objective(w.v) * left.n
	}
	return losses, nil
}
