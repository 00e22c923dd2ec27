package fitting

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"

	"gonum.org/v1/gonum/mat"
)

// SolverConfig says how to fit. Its zero value is usable.
type SolverConfig struct {
	// Tolerance ends the iteration: the greatest change of a coefficient in a
	// step, relative to the greatest coefficient where that exceeds 1 (0: 1e-9).
	Tolerance float64
	// MaxIterations bounds passes over the rows (0: 200).
	MaxIterations int
	// Workers bounds the goroutines of one fit (0: GOMAXPROCS).
	Workers int
}

// Fit minimises strength·Σ log loss + ½‖w‖² over the intercept, which is not
// penalised, and the weights w of the standardised columns, by Newton's method
// (iteratively reweighted least squares). A Hessian costs as much as several
// gradients, so one is kept for as long as it makes the gradient ten times
// smaller with each step. A step that does not lower the objective is halved.
//
// It fails with ErrTooFewLabels unless both classes are present, with
// ErrNotFinite where the rows are such that no figure of the fit is a number, and
// with ErrNotConverged. The penalty makes the optimum unique also where the classes
// can be separated or columns depend on each other.
func (x *Design) Fit(ctx context.Context, strength float64, cfg SolverConfig) (*Weights, error) {
	return x.fit(ctx, []span{{0, x.Rows()}}, strength, nil, cfg)
}

// span is a range of rows.
type span struct{ from, to int }

// problem is one fit under way. Vectors by column are as wide as the design;
// only the solver's have one element per free column.
type problem struct {
	x       *Design
	blocks  []span
	workers int
	n       float64
	lambda  float64 // penalty when the log loss is a mean

	partial []partial
	weight  []float64 // p·(1−p) of each row at the last point evaluated
}

// partial is what one block of rows adds.
type partial struct {
	loss     float64
	gradient []float64
	hessian  []float64 // upper triangle of width × width
}

func (x *Design) fit(ctx context.Context, spans []span, strength float64, start *Weights, cfg SolverConfig) (*Weights, error) {
	if !(strength > 0) || math.IsInf(strength, 1) {
		return nil, fmt.Errorf("fit: strength %v is not a positive number", strength)
	}
	if err := x.checkColumns(); err != nil {
		return nil, fmt.Errorf("fit: %w", err)
	}
	p, churners := x.newProblem(spans, cfg.Workers)
	if churners == 0 || churners == int(p.n) {
		return nil, fmt.Errorf("fit %d rows, %d of them churned: %w", int(p.n), churners, ErrTooFewLabels)
	}
	p.lambda = 1 / (strength * p.n)
	tolerance := cmp.Or(cfg.Tolerance, 1e-9)
	limit := cmp.Or(cfg.MaxIterations, 200)

	w := &Weights{Strength: strength, x: x, v: make([]float64, x.width)}
	if start != nil {
		copy(w.v, start.v)
	} else {
		rate := float64(churners) / p.n
		w.v[0] = math.Log(rate / (1 - rate))
	}
	v, g := w.v, make([]float64, x.width)
	f := p.evaluate(v, g)
	w.Iterations++
	if err := x.checkPoint(f, g); err != nil {
		return nil, fmt.Errorf("fit with strength %g: %w", strength, err)
	}
	trial, trialG := make([]float64, x.width), make([]float64, x.width)
	keptWeight := make([]float64, x.Rows())
	step := make([]float64, x.width)
	var newton factor
	for w.Iterations < limit {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		fresh := !newton.valid
		if fresh {
			if err := p.factorize(ctx, &newton); err != nil {
				return nil, fmt.Errorf("fit with strength %g: %w", strength, err)
			}
			w.Hessians++
		}
		newton.solve(p, g, step)
		slope := dot(g, step)
		// The weights belong to v; an evaluation overwrites them.
		p.weight, keptWeight = keptWeight, p.weight

		t, next, accepted := 1.0, 0.0, false
		for halvings := 0; w.Iterations < limit; halvings++ {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			for c := range v {
				trial[c] = v[c] + t*step[c]
			}
			x.deriveMissing(trial)
			next = p.evaluate(trial, trialG)
			w.Iterations++
			// Near the optimum the decrease is lost in rounding, that of 1 + e
			// where the loss is small.
			if next <= f+1e-4*t*slope+1e-14*max(math.Abs(f), 0.1) {
				accepted = true
				break
			}
			if !fresh || halvings == 40 {
				break // a new Hessian first
			}
			t /= 2
		}
		if !accepted {
			if fresh {
				return nil, fmt.Errorf("fit with strength %g after %d iterations: %w", strength, w.Iterations, ErrNotConverged)
			}
			p.weight, keptWeight = keptWeight, p.weight
			newton.valid = false
			continue
		}
		change, greatest := 0.0, 1.0
		for _, c := range x.free {
			s := x.std[c]
			change = max(change, math.Abs(trial[c]-v[c])*s)
			greatest = max(greatest, math.Abs(trial[c])*s)
		}
		newton.valid = t == 1 && norm(trialG, x) <= 0.1*norm(g, x)
		v, trial = trial, v
		g, trialG = trialG, g
		f = next
		// Below 1e-22 the slope is rounding in directions that only the penalty
		// determines.
		if t == 1 && (change <= tolerance*greatest || -slope <= 1e-22) {
			w.v = v
			x.centre(w.v)
			w.Objective = p.objective(w.v) * strength * p.n
			return w, nil
		}
	}
	return nil, fmt.Errorf("fit with strength %g after %d iterations: %w", strength, w.Iterations, ErrNotConverged)
}

// blockCount is how many blocks rows are summed in. It bounds the processors
// that can share a fit, and must not depend on how many there are.
const blockCount = 32

func (x *Design) newProblem(spans []span, workers int) (p *problem, churners int) {
	rows := 0
	for _, s := range spans {
		rows += s.to - s.from
		for i := s.from; i < s.to; i++ {
			if x.churned[i] {
				churners++
			}
		}
	}
	p = &problem{x: x, n: float64(rows), workers: workers, weight: make([]float64, x.Rows())}
	if p.workers <= 0 {
		p.workers = runtime.GOMAXPROCS(0)
	}
	// Wide designs have large Hessians: fewer blocks, to bound the memory.
	count := min(blockCount, max(1, 1<<24/(x.width*x.width)))
	size := max(1024, (rows+count-1)/count)
	for _, s := range spans {
		for from := s.from; from < s.to; from += size {
			p.blocks = append(p.blocks, span{from, min(from+size, s.to)})
		}
	}
	p.partial = make([]partial, len(p.blocks))
	for b := range p.partial {
		p.partial[b].gradient = make([]float64, x.width)
	}
	return p, churners
}

// each calls work for every block, on several goroutines.
func (p *problem) each(work func(b int)) {
	if p.workers == 1 || len(p.blocks) == 1 {
		for b := range p.blocks {
			work(b)
		}
		return
	}
	var next atomic.Int64
	var wait sync.WaitGroup
	for range min(p.workers, len(p.blocks)) {
		wait.Go(func() {
			for b := int(next.Add(1)) - 1; b < len(p.blocks); b = int(next.Add(1)) - 1 {
				work(b)
			}
		})
	}
	wait.Wait()
}

// evaluate returns the objective, mean log loss + λ/2·‖w‖², at v, sets its
// gradient by column of v, and keeps each row's weight.
func (p *problem) evaluate(v, gradient []float64) float64 {
	p.each(func(b int) { p.evaluateBlock(b, v) })
	clear(gradient)
	loss := 0.0
	for b := range p.partial {
		loss += p.partial[b].loss
		for c, g := range p.partial[b].gradient {
			gradient[c] += g
		}
	}
	p.x.foldGradient(gradient)
	for c := range gradient {
		gradient[c] /= p.n
	}
	penalty := 0.0
	for _, c := range p.x.free[1:] {
		w := v[c] * p.x.std[c]
		penalty += w * w
		gradient[c] += p.lambda * w * p.x.std[c]
	}
	return loss/p.n + p.lambda/2*penalty
}

// objective is evaluate for the value alone.
func (p *problem) objective(v []float64) float64 {
	return p.evaluate(v, make([]float64, len(v)))
}

func (p *problem) evaluateBlock(b int, v []float64) {
	x := p.x
	out := &p.partial[b]
	g := out.gradient
	clear(g)
	loss := 0.0
	product, factors := 1.0, 0
	vn, gn := v[x.numbers:], g[x.numbers:]
	for i := p.blocks[b].from; i < p.blocks[b].to; i++ {
		codes := x.codes[i*x.cats : (i+1)*x.cats]
		hats := x.between[i*x.hats : (i+1)*x.hats]
		numbers := x.numeric[i*x.nums : (i+1)*x.nums]
		eta := v[0]
		for _, c := range codes {
			eta += v[c]
		}
		for _, h := range hats {
			left := v[h.column]
			eta += left + h.share*(v[h.column+1]-left)
		}
		for k, z := range numbers {
			eta += vn[k] * z
		}
		// e ≤ 1: no overflow. log(1+eᶯ) = max(η, 0) + log(1+e); the logs are
		// taken of products of 512 factors, each at most 2.
		e := math.Exp(-math.Abs(eta))
		product *= 1 + e
		if factors++; factors == 512 {
			loss += math.Log(product)
			product, factors = 1, 0
		}
		residual := e / (1 + e)
		p.weight[i] = residual / (1 + e)
		// No η is added to the loss and taken off again: of a loss that is nearly
		// 0 nothing would be left but rounding.
		switch churned := x.churned[i]; {
		case churned && eta > 0:
			residual = -e / (1 + e)
		case churned:
			residual = -1 / (1 + e)
			loss -= eta
		case eta > 0:
			residual = 1 / (1 + e)
			loss += eta
		}
		g[0] += residual
		for _, c := range codes {
			g[c] += residual
		}
		for _, h := range hats {
			right := h.share * residual
			g[h.column] += residual - right
			g[h.column+1] += right
		}
		for k, z := range numbers {
			gn[k] += residual * z
		}
	}
	out.loss = loss + math.Log(product)
}

func (p *problem) hessianBlock(b int) {
	x := p.x
	width := x.width
	out := &p.partial[b]
	if out.hessian == nil {
		out.hessian = make([]float64, width*width)
	}
	h := out.hessian
	clear(h)
	for i := p.blocks[b].from; i < p.blocks[b].to; i++ {
		weight := p.weight[i]
		codes := x.codes[i*x.cats : (i+1)*x.cats]
		hats := x.between[i*x.hats : (i+1)*x.hats]
		numbers := x.numeric[i*x.nums : (i+1)*x.nums]
		row := h[:width]
		row[0] += weight
		for _, c := range codes {
			row[c] += weight
		}
		addDense(row, x.numbers, weight, hats, numbers)
		for a, ca := range codes {
			row := h[int(ca)*width : (int(ca)+1)*width]
			for _, c := range codes[a:] {
				row[c] += weight
			}
			addDense(row, x.numbers, weight, hats, numbers)
		}
		for a, at := range hats {
			left, right := weight*(1-at.share), weight*at.share
			upper := h[int(at.column)*width : (int(at.column)+1)*width]
			lower := h[(int(at.column)+1)*width : (int(at.column)+2)*width]
			addDense(upper, x.numbers, left, hats[a:], numbers)
			// Left of the diagonal nothing is kept.
			lower[at.column+1] += right * at.share
			addDense(lower, x.numbers, right, hats[a+1:], numbers)
		}
		for k, zk := range numbers {
			tail := h[(x.numbers+k)*width+x.numbers : (x.numbers+k+1)*width]
			wz := weight * zk
			for l := k; l < len(numbers); l++ {
				tail[l] += wz * numbers[l]
			}
		}
	}
}

// addDense adds weight times a row's hat functions and linear numbers, the
// latter from column first on, to a row of the Hessian.
func addDense(row []float64, first int, weight float64, hats []between, numbers []float64) {
	for _, h := range hats {
		right := h.share * weight
		row[h.column] += weight - right
		row[h.column+1] += right
	}
	tail := row[first:]
	for k, z := range numbers {
		tail[k] += weight * z
	}
}

// factor is the Cholesky factor of a Hessian in the scaled free columns.
type factor struct {
	valid bool
	chol  mat.Cholesky
	right *mat.VecDense
}

// factorize computes the Hessian at the last point evaluated. It fails with
// ErrNotFinite, or when ctx ends.
func (p *problem) factorize(ctx context.Context, f *factor) error {
	x := p.x
	p.each(p.hessianBlock)
	width := x.width
	h := make([]float64, width*width)
	for b := range p.partial {
		for k, s := range p.partial[b].hessian {
			h[k] += s
		}
	}
	for r := range width {
		for c := range r {
			h[r*width+c] = h[c*width+r]
		}
	}
	x.foldHessian(h)

	sym := mat.NewSymDense(len(x.free), nil)
	trace := 0.0
	for a, ca := range x.free {
		for b := a; b < len(x.free); b++ {
			cb := x.free[b]
			value := h[ca*width+cb] / (p.n * x.std[ca] * x.std[cb])
			if a == b && a > 0 {
				value += p.lambda
			}
			if math.IsNaN(value) || math.IsInf(value, 0) {
				return fmt.Errorf("the second derivative by %s and %s is %g: %w", x.column(ca), x.column(cb), value, ErrNotFinite)
			}
			if a == b {
				trace += value
			}
			sym.SetSym(a, b, value)
		}
	}
	// The penalty makes it positive definite; rounding can undo that where the
	// penalty is weak, and saturated probabilities can for the intercept. A
	// little more on the diagonal then still gives a descent direction.
	for extra := 0.0; ; extra = max(10*extra, 1e-14*trace, math.SmallestNonzeroFloat64) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if extra > 0 {
			for a := range x.free {
				sym.SetSym(a, a, sym.At(a, a)+extra)
			}
		}
		if f.chol.Factorize(sym) || extra > trace {
			break
		}
	}
	if f.right == nil {
		f.right = mat.NewVecDense(len(x.free), nil)
	}
	f.valid = true
	return nil
}

// solve sets step to −H⁻¹·gradient, by column.
func (f *factor) solve(p *problem, gradient, step []float64) {
	x := p.x
	for a, c := range x.free {
		f.right.SetVec(a, -gradient[c]/x.std[c])
	}
	// An ill-conditioned matrix is reported as an error, but solved: whether
	// the step is good shows in the objective.
	_ = f.chol.SolveVecTo(f.right, f.right)
	clear(step)
	for a, c := range x.free {
		step[c] = f.right.AtVec(a) / x.std[c]
	}
}

// norm is the greatest absolute element of a gradient in the scaled columns.
func norm(g []float64, x *Design) float64 {
	greatest := 0.0
	for _, c := range x.free {
		greatest = max(greatest, math.Abs(g[c])/x.std[c])
	}
	return greatest
}

func dot(a, b []float64) float64 {
	sum := 0.0
	for i, x := range a {
		sum += x * b[i]
	}
	return sum
}
