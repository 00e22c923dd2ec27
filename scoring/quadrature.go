package scoring

import "math"

// Expected probabilities come from the characteristic function φ of the
// log-odds S, since ½·tanh(s/2) = ∫_0^∞ sin(st)/sinh(πt) dt:
//
//	E[σ(S)] = ½ + ∫_0^∞ Im φ(t)/sinh(πt) dt.
//
// The integrand is even and analytic but for poles at the multiples of i, so
// the midpoint rule t_k = (k+½)h converges geometrically, and Poisson's
// summation formula gives its error: with ω = 2π/h, for a fixed s,
//
//	Σ_{m≥1} (−1)^m ½·[tanh((s+mω)/2) + tanh((s−mω)/2)].
//
// Its leading part, which belongs to the poles ±i, is −2·sinh(s)/(e^ω+1). Its
// expectation needs E[e^S] and E[e^−S] only, and those are φ(∓i): adding the
// points ∓i to the rule removes it, and what remains is at most
// e^{−2(ω−|s|)}. So the expectation is off by at most
//
//	E[min(1, e^{−θ(ω−|S|)})] ≤ e^{−θω}·(E[e^{θS}] + E[e^{−θS}])
//
// with θ = 2, or any 0 < θ ≤ 1 without the two poles. Cutting the sum off at T
// costs at most (2/π)·e^{−πT}/(1−e^{−2πT}), as |φ| ≤ 1. Hence T and ω follow
// from the tolerance and the model alone, and T·ω/2π points are needed.
// Gauss–Legendre needs as many for narrow models and more for wide ones, has
// no such bound, and its points are not evenly spaced, which is what allows
// e^{itc} to be tabulated with one sine and cosine.

// A slice of 2n numbers, here and where the nodes are used, holds n complex
// ones: the real parts, then the imaginary parts.

// tolerance is the bound on each of the two errors of one expectation. An
// explanation is a difference of two, so it is within 4·tolerance < 1e-9.
const tolerance = 2e-10

// maxPoleBound is the greatest ω for which the poles are used: beyond it e^S
// might overflow.
const maxPoleBound = 250

// nodes are the points of the rule: n on the real axis, and the poles −i and
// +i after them if poles is set.
type nodes struct {
	omega float64 // 2π/h
	n     int
	poles bool
}

func newNodes(omega float64, poles bool) nodes {
	cut := math.Log(2/math.Pi/tolerance) / math.Pi
	return nodes{omega: omega, n: int(math.Ceil(cut * omega / (2 * math.Pi))), poles: poles}
}

// size is the number of points in all.
func (q nodes) size() int {
	if q.poles {
		return q.n + 2
	}
	return q.n
}

// add adds weight·e^{itc}, at every point t, to row.
func (q nodes) add(row []float64, c, weight float64) {
	h := 2 * math.Pi / q.omega
	s0, c0 := math.Sincos(c * h / 2)
	s1, c1 := 2*s0*c0, (c0-s0)*(c0+s0)
	a, b := weight*c0, weight*s0
	re, im := row[:q.size()], row[q.size():][:q.size()]
	for k := range q.n {
		re[k] += a
		im[k] += b
		a, b = a*c1-b*s1, a*s1+b*c1
	}
	if q.poles {
		e := math.Exp(c)
		re[q.n] += weight * e
		re[q.n+1] += weight / e
	}
}

// weights returns the rule's weights times e^{itb}, for an intercept b: then
// E[σ(S)] = ½ + Σ_k Im(weight_k · Π_j φ_j(t_k)).
func (q nodes) weights(b float64) []float64 {
	weights := make([]float64, 2*q.size())
	re, im := weights[:q.size()], weights[q.size():]
	h := 2 * math.Pi / q.omega
	for k := range q.n {
		t := (float64(k) + 0.5) * h
		s, c := math.Sincos(t * b)
		w := h / math.Sinh(math.Pi*t)
		re[k], im[k] = w*c, w*s
	}
	if q.poles {
		im[q.n] = math.Exp(b-q.omega) / (1 + math.Exp(-q.omega))
		im[q.n+1] = -math.Exp(-b-q.omega) / (1 + math.Exp(-q.omega))
	}
	return weights
}

// The log loss of a label y ∈ {0, 1} at log-odds s is
//
//	ln(1+e^s) − y·s = ln 2 + (½−y)·s + ln cosh(s/2),
//
// the last of which is the integral over s of ½·tanh(s/2), hence
//
//	ln cosh(s/2) = ∫_0^∞ (1−cos st)/(t·sinh πt) dt.
//
// At t = 0 the integrand is s²/2π and analytic; its poles are those above. The
// midpoint rule never asks at 0: the first point is h/2, where an expectation's
// rounding counts 4/πh-fold, 1e-15 for narrow models and 1e-13 for the widest.
// The rule's error at s is the integral of that above from 0 to s. Its leading
// part −2·(cosh(s)−1)/(e^ω+1) is removed by the same two poles, with equal signs,
// and what remains is at most ½·e^{−2(ω−|s|)}, or (1/θ)·e^{−θ(ω−|s|)} without them.
// Beyond T the integrand is T times smaller. So nodes that are close enough and
// reach far enough for probabilities are so for losses.

// lossWeights returns the weights, times e^{itb}, such that
// E[ln cosh(S/2)] = lossConstant + Σ_k Im(weight_k · Π_j φ_j(t_k)).
func (q nodes) lossWeights(b float64) []float64 {
	weights := q.weights(b)
	re, im := weights[:q.size()], weights[q.size():]
	h := 2 * math.Pi / q.omega
	for k := range q.n {
		t := (float64(k) + 0.5) * h
		re[k], im[k] = im[k]/t, -re[k]/t // Im(−iz) = −Re(z)
	}
	if q.poles {
		im[q.n+1] = -im[q.n+1]
	}
	return weights
}

// lossConstant is the rule's part of lossWeights' sum that needs no φ.
func (q nodes) lossConstant() float64 {
	h := 2 * math.Pi / q.omega
	sum := 0.0
	for k := q.n - 1; k >= 0; k-- {
		t := (float64(k) + 0.5) * h
		sum += h / (t * math.Sinh(math.Pi*t))
	}
	if q.poles {
		sum -= 2 * math.Exp(-q.omega) / (1 + math.Exp(-q.omega))
	}
	return sum
}

// logSum returns log(e^a + e^b).
func logSum(a, b float64) float64 {
	if a < b {
		a, b = b, a
	}
	if math.IsInf(a, -1) {
		return a
	}
	return a + math.Log1p(math.Exp(b-a))
}

// multiply sets dst to a·b, element by element; dst may be a or b.
func multiply(dst, a, b []float64) {
	n := len(dst) / 2
	dr, di := dst[:n], dst[n:][:n]
	ar, ai := a[:n], a[n:][:n]
	br, bi := b[:n], b[n:][:n]
	for k := range dr {
		x, y, u, v := ar[k], ai[k], br[k], bi[k]
		dr[k], di[k] = x*u-y*v, x*v+y*u
	}
}

// tripleImaginary returns the imaginary part of Σ_k a_k·b_k·c_k.
func tripleImaginary(a, b, c []float64) float64 {
	n := len(a) / 2
	ar, ai := a[:n], a[n:][:n]
	br, bi := b[:n], b[n:][:n]
	cr, ci := c[:n], c[n:][:n]
	sum := 0.0
	for k := range ar {
		x, y, u, v := ar[k], ai[k], br[k], bi[k]
		sum += (x*u-y*v)*ci[k] + (x*v+y*u)*cr[k]
	}
	return sum
}

func sum(xs []float64) float64 {
	s := 0.0
	for _, x := range xs {
		s += x
	}
	return s
}

// mix sets dst to a + q·d, element by element; dst may be a.
func mix(dst, a, d []float64, q float64) {
	a, d = a[:len(dst)], d[:len(dst)]
	for k := range dst {
		dst[k] = a[k] + q*d[k]
	}
}

// legendre returns the Legendre polynomials of degree n ≥ 1 and n−1 at x, by
// the three-term recurrence.
func legendre(n int, x float64) (p, before float64) {
	p, before = x, 1
	for d := 2; d <= n; d++ {
		p, before = (float64(2*d-1)*x*p-float64(d-1)*before)/float64(d), p
	}
	return p, before
}

// gaussLegendre returns the points and weights of the m-point Gauss–Legendre
// rule on [0, 1], exact for polynomials of degree 2m−1.
func gaussLegendre(m int) (at, weight []float64) {
	at, weight = make([]float64, m), make([]float64, m)
	for i := range (m + 1) / 2 {
		// The roots by Newton's method, from the usual estimate.
		x := math.Cos(math.Pi * (float64(i) + 0.75) / (float64(m) + 0.5))
		var slope float64
		for range 8 {
			p, before := legendre(m, x)
			slope = float64(m) * (before - x*p) / ((1 - x) * (1 + x))
			x -= p / slope
		}
		w := 1 / ((1 - x) * (1 + x) * slope * slope)
		at[i], at[m-1-i] = (1-x)/2, (1+x)/2
		weight[i], weight[m-1-i] = w, w
	}
	return at, weight
}
