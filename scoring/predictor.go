package scoring

import (
	"fmt"
	"math"
	"sort"
)

// Predictor is a Model compiled against a Vocabulary: tables indexed by the
// numbers in a Vector. It is safe for concurrent use; what needs scratch takes
// a Workspace.
//
// A value that is missing or unknown to the model (a level the model was not
// trained with) contributes what the feature contributes on average over the
// training rows.
type Predictor struct {
	model               *Model
	spec                *Spec
	vocabulary          *Vocabulary
	intercept           float64
	features            []compiled
	expectedProbability float64
	expectedLoss        float64 // E[ln cosh(S/2)] over the background

	active []int // positions of the features that have an effect
	lime   limeTables
	shap   shapTables
}

// Workspace is scratch memory for one goroutine. It may be used with any
// Predictor; it grows when needed.
type Workspace struct {
	numbers       []float64
	contributions []float64
	rows          []int
}

// own returns n numbers of scratch that take does not touch.
func (w *Workspace) own(n int) []float64 {
	w.contributions = resize(w.contributions, n)
	return w.contributions
}

// take returns n numbers of scratch, of any value.
func (w *Workspace) take(n int) []float64 {
	w.numbers = resize(w.numbers, n)
	return w.numbers
}

// takeRows returns n row numbers of scratch, of any value.
func (w *Workspace) takeRows(n int) []int {
	if cap(w.rows) < n {
		w.rows = make([]int, n)
	}
	return w.rows[:n]
}

// MaxLogOdds bounds a model's log-odds over its training rows. No fitted model
// comes near; the bound limits the cost of explanations.
const MaxLogOdds = 1000

// maxContribution bounds a contribution, so that sums of extreme ones stay
// finite. It is far beyond where a probability can tell.
const maxContribution = 1e12

// compiled is one feature of a Predictor.
type compiled struct {
	categorical bool
	expected    float64 // mean contribution over the training rows
	// active is false when the feature has no effect: all contributions equal.
	active bool

	// byCode and levelOf belong to a categorical feature and are indexed by
	// code: the contribution, expected where the level is unknown; and the
	// position in the model's levels, −1 where unknown.
	byCode  []float64
	levelOf []int32

	// A numeric feature is linear, or has knots.
	slope              float64
	knots, knotLogOdds []float64
	quartiles          []float64

	// actionable allows BestChange to change the feature: to best, the level of
	// least contribution, or to a neighbour of a number's value among steps,
	// which ascend.
	actionable  bool
	best        float64
	bestLogOdds float64
	steps       []float64
}

// NewWorkspace returns scratch memory for one goroutine.
func (p *Predictor) NewWorkspace() *Workspace { return &Workspace{} }

// For returns a predictor with the same model for vectors of another vocabulary
// of the same specification.
func (p *Predictor) For(v *Vocabulary) *Predictor {
	if v == p.vocabulary {
		return p
	}
	other, err := Compile(p.model, v)
	if err != nil {
		panic("scoring: a model that was compiled cannot be: " + err.Error())
	}
	return other
}

// Model returns the model. It must not be changed.
func (p *Predictor) Model() *Model { return p.model }

// Spec returns the specification of the vectors the predictor takes.
func (p *Predictor) Spec() *Spec { return p.spec }

// Compile compiles a model for vectors of a vocabulary's specification. It adds
// the model's levels to the vocabulary. It fails, matching ErrModel, when the
// model is invalid, when its features are not those of the specification, or
// when its log-odds reach beyond MaxLogOdds. The model must not be changed
// afterwards.
func Compile(m *Model, v *Vocabulary) (*Predictor, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	spec := v.Spec()
	p := &Predictor{model: m, spec: spec, vocabulary: v, intercept: m.Intercept, features: make([]compiled, spec.Len())}
	byName := make(map[string]*ModelFeature, len(m.Features))
	for i := range m.Features {
		f := &m.Features[i]
		if _, ok := spec.Index(f.Name); !ok {
			return nil, fmt.Errorf("%w: feature %q is not in the specification", ErrModel, f.Name)
		}
		byName[f.Name] = f
	}
	marginals := make([]marginal, spec.Len())
	for j := range p.features {
		f := byName[spec.Feature(j).Name]
		if f == nil {
			return nil, fmt.Errorf("%w: feature %q of the specification is not in it", ErrModel, spec.Feature(j).Name)
		}
		if kind := spec.Feature(j).Kind.String(); f.Kind != kind {
			return nil, fmt.Errorf("%w: feature %q is %s, but %s in the specification", ErrModel, f.Name, f.Kind, kind)
		}
		if err := p.features[j].compile(f, j, v, &marginals[j]); err != nil {
			return nil, fmt.Errorf("%w: feature %q: %w", ErrModel, f.Name, err)
		}
	}
	low, high := p.intercept, p.intercept
	for j := range marginals {
		lo, hi := marginals[j].span()
		low += lo + p.features[j].expected
		high += hi + p.features[j].expected
	}
	if !(low >= -MaxLogOdds && high <= MaxLogOdds) {
		return nil, fmt.Errorf("%w: log-odds from %g to %g, at most ±%d are allowed", ErrModel, low, high, MaxLogOdds)
	}
	for j := range p.features {
		if p.features[j].active {
			p.active = append(p.active, j)
		}
	}
	if err := p.compileLIME(marginals); err != nil {
		return nil, err
	}
	p.compileSHAP(marginals)
	return p, nil
}

// compile fills in feature j from its part of a model.
func (f *compiled) compile(mf *ModelFeature, j int, v *Vocabulary, m *marginal) error {
	feature := v.Spec().Feature(j)
	f.categorical = feature.Kind == Categorical
	f.slope, f.knots, f.knotLogOdds, f.quartiles = mf.LogOddsPerUnit, mf.Knots, mf.KnotLogOdds, mf.Quartiles
	*m, f.expected = newMarginal(mf, f.contribution)

	f.actionable, f.bestLogOdds = feature.Actionable, math.Inf(1)
	if !f.categorical {
		f.active = f.slope != 0 || varies(f.knotLogOdds)
		first, last := math.Inf(1), math.Inf(-1)
		for _, b := range mf.Bins {
			if b.Frequency > 0 {
				first, last = min(first, b.Min), max(last, b.Max)
			}
		}
		f.steps = append(append(append(f.steps, first), f.quartiles...), last)
		sort.Float64s(f.steps)
		return nil
	}
	f.active = varies(mf.LogOdds)
	for i, level := range mf.Levels {
		code, err := v.CodeString(j, level)
		if err != nil {
			return err
		}
		for len(f.byCode) <= int(code) {
			f.byCode = append(f.byCode, f.expected)
			f.levelOf = append(f.levelOf, -1)
		}
		if other := f.levelOf[int(code)]; other >= 0 && mf.Frequency[other] >= mf.Frequency[i] {
			continue // the same but for white space, which earlier versions distinguished
		}
		f.byCode[int(code)] = mf.LogOdds[i]
		f.levelOf[int(code)] = int32(i)
		if mf.Frequency[i] > 0 && mf.LogOdds[i] < f.bestLogOdds {
			f.best, f.bestLogOdds = code, mf.LogOdds[i]
		}
	}
	return nil
}

// centre returns the mean log-odds over the training rows' marginals.
func (p *Predictor) centre() float64 {
	b := p.intercept
	for j := range p.features {
		b += p.features[j].expected
	}
	return b
}

func varies(xs []float64) bool {
	for _, x := range xs {
		if x != xs[0] {
			return true
		}
	}
	return false
}

// contribution returns c_j(x), expected where x is missing or unknown.
func (f *compiled) contribution(x float64) float64 {
	if f.categorical {
		if x >= 0 && x < float64(len(f.byCode)) { // false for Missing
			return f.byCode[int(x)]
		}
		return f.expected
	}
	if IsMissing(x) {
		return f.expected
	}
	if len(f.knots) == 0 {
		return min(max(f.slope*x, -maxContribution), maxContribution)
	}
	return f.interpolate(x)
}

func (f *compiled) interpolate(x float64) float64 {
	i := sort.SearchFloat64s(f.knots, x)
	switch i {
	case 0:
		return f.knotLogOdds[0]
	case len(f.knots):
		return f.knotLogOdds[i-1]
	}
	share := (x - f.knots[i-1]) / (f.knots[i] - f.knots[i-1])
	return f.knotLogOdds[i-1]*(1-share) + f.knotLogOdds[i]*share
}

// known reports whether the model knows the value.
func (f *compiled) known(x float64) bool {
	if f.categorical {
		return x >= 0 && x < float64(len(f.levelOf)) && f.levelOf[int(x)] >= 0
	}
	return !IsMissing(x)
}

// level returns the position of the value's level or bin in the marginal, or
// -1 if the value is missing or unknown.
func (f *compiled) level(x float64) int {
	switch {
	case !f.known(x):
		return -1
	case f.categorical:
		return int(f.levelOf[int(x)])
	}
	return sort.SearchFloat64s(f.quartiles, x)
}

// LogOdds returns the log-odds of churn. As everywhere, x has one value
// per feature of the specification.
func (p *Predictor) LogOdds(x Vector) float64 {
	s := p.intercept
	x = x[:len(p.features)]
	for j := range p.features {
		s += p.features[j].contribution(x[j])
	}
	return s
}

// Probability returns the probability of churn.
func (p *Predictor) Probability(x Vector) float64 { return sigmoid(p.LogOdds(x)) }

func sigmoid(s float64) float64 { return 1 / (1 + math.Exp(-s)) }

// ExpectedProbability returns the mean probability over customers whose
// features are drawn independently, each as it was distributed at training: the
// base that SHAP values explain the difference from.
func (p *Predictor) ExpectedProbability() float64 { return p.expectedProbability }

// Contributions returns what each feature adds to the log-odds, compared with
// its mean over the training rows; 0 where the value is missing or unknown. The
// result has one value per feature and is dst where that has room.
func (p *Predictor) Contributions(dst []float64, x Vector) []float64 {
	dst = resize(dst, len(p.features))
	for j := range p.features {
		dst[j] = p.features[j].contribution(x[j]) - p.features[j].expected
	}
	return dst
}

// Missing appends the positions of features whose value is missing or unknown
// to the model.
func (p *Predictor) Missing(dst []int, x Vector) []int {
	for j := range p.features {
		if !p.features[j].known(x[j]) {
			dst = append(dst, j)
		}
	}
	return dst
}

// BestChange finds the single change of an actionable feature after which the
// model predicts the lowest probability: another level that occurred in
// training, or for a number one step up or down, to the next of the least, the
// quartiles and the greatest of the training values. It returns the feature's
// position, its new value, and the probability then; ok is false when no change
// lowers the probability. Missing values are not changed, for nothing is known of
// what they are. The workspace may be nil.
//
// It is what the model would predict, not an effect to expect.
func (p *Predictor) BestChange(x Vector, _ *Workspace) (feature int, value, probability float64, ok bool) {
	gain := 0.0
	for j := range p.features {
		f := &p.features[j]
		if !f.actionable || IsMissing(x[j]) {
			continue
		}
		now := f.contribution(x[j])
		if f.categorical {
			if g := now - f.bestLogOdds; g > gain {
				feature, value, gain, ok = j, f.best, g, true
			}
			continue
		}
		up := sort.SearchFloat64s(f.steps, x[j])
		down := up - 1
		for up < len(f.steps) && f.steps[up] == x[j] {
			up++
		}
		for _, step := range [2]int{down, up} {
			if step < 0 || step == len(f.steps) {
				continue
			}
			if g := now - f.contribution(f.steps[step]); g > gain {
				feature, value, gain, ok = j, f.steps[step], g, true
			}
		}
	}
	if !ok {
		return 0, 0, 0, false
	}
	before := p.LogOdds(x)
	probability = sigmoid(before - gain)
	return feature, value, probability, probability < sigmoid(before)
}

// resize returns a slice of length n, dst's memory if it has room.
func resize(dst []float64, n int) []float64 {
	if cap(dst) < n {
		return make([]float64, n)
	}
	return dst[:n]
}

// TopByMagnitude appends the positions of the k weights of greatest magnitude,
// greatest first, equal ones by position; all of them if k is negative. It
// does not allocate where dst has room.
func TopByMagnitude(dst []int, weights []float64, k int) []int {
	if k < 0 || k > len(weights) {
		k = len(weights)
	}
	start := len(dst)
	for i, w := range weights {
		// Insertion into the best so far: k is small, and the last
		// comparison settles most.
		m := math.Abs(w)
		at := len(dst)
		for at > start && math.Abs(weights[dst[at-1]]) < m {
			at--
		}
		if at-start >= k {
			continue
		}
		if len(dst)-start < k {
			dst = append(dst, 0)
		}
		copy(dst[at+1:], dst[at:])
		dst[at] = i
	}
	return dst
}
