package scoring

import "math"

// logCosh returns ln cosh(s/2), which is finite for every finite s.
func logCosh(s float64) float64 {
	s = math.Abs(s)
	return s/2 + math.Log1p(math.Exp(-s)) - math.Ln2
}

// LogLoss returns the log loss of a customer whose label is known: minus the
// natural logarithm of the probability that the model gave to what happened. It
// comes from the log-odds, so that it stays exact where the probability rounds to
// 0 or 1.
func (p *Predictor) LogLoss(x Vector, churned bool) float64 {
	s := p.LogOdds(x)
	if churned {
		s = -s
	}
	return max(s, 0) + math.Log1p(math.Exp(-math.Abs(s)))
}

// ExpectedLogLoss returns the mean log loss of a label over customers whose
// features are drawn independently, each as it was distributed at training: the
// base that LogLossSHAP explains the difference from. The two labels' differ by
// the mean log-odds.
func (p *Predictor) ExpectedLogLoss(churned bool) float64 {
	half := p.shap.centre / 2
	if churned {
		half = -half
	}
	return math.Ln2 + p.expectedLoss + half
}

// LogLossSHAP returns each feature's Shapley value of the log loss of a customer
// whose label is known, exactly: how much of the loss is due to the feature's
// value, where the other features' are known or are not. Above 0 the value led
// the model away from what happened. The background is that of SHAP. The values
// sum to LogLoss − ExpectedLogLoss. Those of the other label follow: a stayer's are
// a churner's plus Contributions.
//
// With S the log-odds and y the label, the loss is ln 2 + (½−y)·S + ln cosh(S/2).
// The values of the linear term are (½−y) times the contributions, those of the
// other come from the same integral as the probability's (see quadrature.go),
// with other weights.
//
// A missing or unknown value is one that contributes the mean. A feature without
// effect has value 0. The result has one value per feature, is within 1e-9, or
// what 16 digits of the greatest contribution allow, and is dst where that has
// room. Only of three or more values so extreme that they reach beyond twice
// MaxLogOdds without any outweighing the others is the division among them
// approximate; the sum holds there too.
func (p *Predictor) LogLossSHAP(dst []float64, x Vector, churned bool, w *Workspace) []float64 {
	dst = resize(dst, len(p.features))
	clear(dst)
	if len(p.active) == 0 {
		return dst
	}
	s := p.prepare(x, w)
	s.solve(&s.class.loss)
	s.addRemoved()
	if s.confused {
		share := (logCosh(p.LogOdds(x)) - p.expectedLoss - sum(s.value)) / float64(len(s.dominant))
		for _, i := range s.dominant {
			s.value[i] += share
		}
	}
	linear := 0.5
	if churned {
		linear = -0.5
	}
	for i, j := range p.active {
		dst[j] = s.value[i] + linear*(s.own[i]+s.removed[i])
	}
	return dst
}

// addRemoved adds to the values of ln cosh(S/2) what cutting back took from them.
//
// The dominant features d_1, …, d_k outweigh each other in this order, by so much
// that ln cosh(S/2) is |S|/2 − ln 2 wherever one of them is the customer's own, and
// S has the sign σ of the last one that is. So a set of own features lost
//
//	Σ_{i≤m} ½·σ_m·removed_i · [i and m are in it, and none of m+1, …, k].
//
// Each term is a game in which n features must be present and h = k−m absent.
// Its Shapley values are (n−1)!·h!/(n+h)! for the former and −n!·(h−1)!/(n+h)! for
// the latter.
func (s *shapScratch) addRemoved() {
	k := len(s.dominant)
	below := 0.0 // the removed of those before m
	for m, at := range s.dominant {
		half, removed := 0.5, s.removed[at]
		if s.own[at] < 0 {
			half = -0.5
		}
		h := float64(k - 1 - m)
		alone, pair := 1/(1+h), 1/((1+h)*(2+h))
		s.value[at] += half * (removed*alone + below*pair)
		for _, i := range s.dominant[:m] {
			s.value[i] += half * s.removed[i] * pair
		}
		for _, i := range s.dominant[m+1:] {
			s.value[i] -= half * (removed*alone + 2*below*pair) / h
		}
		below += removed
	}
}
