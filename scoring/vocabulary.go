package scoring

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"sync"
	"sync/atomic"
)

const (
	// MaxLevels bounds the levels of one categorical feature, so that a
	// producer that sends free text cannot exhaust memory.
	MaxLevels = 10_000
	// MaxLevelBytes bounds the length of one level in bytes.
	MaxLevelBytes = 256
)

// ErrLevel is matched by the errors of Vocabulary.Code.
var ErrLevel = errors.New("categorical level")

// Vocabulary numbers the levels of the categorical features of one Spec in
// the order in which they are first seen, so that a Vector holds numbers only.
// Numbers never change and are private to the process: schemas, topics and
// models carry the levels themselves.
//
// It is safe for concurrent use; looking up a level that has been known for a
// while neither locks nor allocates.
type Vocabulary struct {
	spec      *Spec
	byFeature []levels
}

// levels are those of one feature. Readers take what is settled without a lock;
// additions gather in fresh and are settled together, so that adding n levels
// copies each only a few times.
type levels struct {
	settled atomic.Pointer[map[string]uint32]
	names   atomic.Pointer[[]string]
	mu      sync.Mutex
	fresh   map[string]uint32 // guarded by mu
}

// NewVocabulary returns an empty vocabulary for spec.
func NewVocabulary(spec *Spec) *Vocabulary {
	v := &Vocabulary{spec: spec, byFeature: make([]levels, spec.Len())}
	for i := range v.byFeature {
		v.byFeature[i].settled.Store(&map[string]uint32{})
		v.byFeature[i].names.Store(&[]string{})
	}
	return v
}

// Spec returns the specification the vocabulary belongs to.
func (v *Vocabulary) Spec() *Spec { return v.spec }

// Code returns the number of a level of a feature as it stands in a Vector,
// adding the level if it is new. It fails, matching ErrLevel, when the level
// is longer than MaxLevelBytes or the feature has MaxLevels already.
func (v *Vocabulary) Code(feature int, level []byte) (float64, error) {
	if c, ok := (*v.byFeature[feature].settled.Load())[string(level)]; ok {
		return float64(c), nil
	}
	return v.add(feature, string(level))
}

// CodeString is Code for a string.
func (v *Vocabulary) CodeString(feature int, level string) (float64, error) {
	if c, ok := (*v.byFeature[feature].settled.Load())[level]; ok {
		return float64(c), nil
	}
	return v.add(feature, level)
}

// minFresh is how many levels may be looked up under the lock before they are
// settled even if there are few others.
const minFresh = 8

func (v *Vocabulary) add(feature int, level string) (float64, error) {
	if len(level) > MaxLevelBytes {
		return 0, fmt.Errorf("%w of %s: %d bytes, at most %d are allowed",
			ErrLevel, v.spec.Feature(feature).Name, len(level), MaxLevelBytes)
	}
	l := &v.byFeature[feature]
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.lookup(level); ok {
		return float64(c), nil
	}
	names := *l.names.Load()
	if len(names) >= MaxLevels {
		return 0, fmt.Errorf("%w of %s: %q would be one more than the %d allowed",
			ErrLevel, v.spec.Feature(feature).Name, level, MaxLevels)
	}
	c := uint32(len(names))
	// Readers of the old slice header never look beyond its length.
	names = append(names, level)
	l.names.Store(&names)
	if l.fresh == nil {
		l.fresh = map[string]uint32{}
	}
	l.fresh[level] = c
	if settled := *l.settled.Load(); len(settled) < minFresh || len(l.fresh) >= max(minFresh, len(settled)/4) {
		next := make(map[string]uint32, len(settled)+len(l.fresh))
		maps.Copy(next, settled)
		maps.Copy(next, l.fresh)
		l.settled.Store(&next)
		l.fresh = nil
	}
	return float64(c), nil
}

// lookup finds a level, with mu held.
func (l *levels) lookup(level string) (uint32, bool) {
	if c, ok := (*l.settled.Load())[level]; ok {
		return c, true
	}
	c, ok := l.fresh[level]
	return c, ok
}

// Lookup returns the number of a level without adding it.
func (v *Vocabulary) Lookup(feature int, level string) (float64, bool) {
	l := &v.byFeature[feature]
	if c, ok := (*l.settled.Load())[level]; ok {
		return float64(c), true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.fresh[level]
	return float64(c), ok
}

// Level returns the level with the given number, or "" if there is none.
func (v *Vocabulary) Level(feature int, code float64) string {
	names := *v.byFeature[feature].names.Load()
	if !(code >= 0 && code < float64(len(names))) {
		return ""
	}
	return names[int(code)]
}

// Size returns how many levels of a feature are known.
func (v *Vocabulary) Size(feature int) int { return len(*v.byFeature[feature].names.Load()) }

// Unknown stands in a Vector for a level that the vocabulary does not have and
// need not learn, as in a question about a customer. No model knows it.
const Unknown = -1.0

// Missing is the value of an attribute that is not known. No event can carry
// it: non-finite numbers are refused before they reach a Vector.
var Missing = math.NaN()

// IsMissing reports whether a slot of a Vector is Missing.
func IsMissing(x float64) bool { return x != x }

// Vector holds one value per feature of a Spec: the number itself for a
// numeric feature, the vocabulary's number of the level for a categorical one,
// Missing where the value is not known.
type Vector []float64

// NewVector returns a vector of n missing values.
func NewVector(n int) Vector {
	x := make(Vector, n)
	x.Clear()
	return x
}

// Clear makes every value missing.
func (x Vector) Clear() {
	for i := range x {
		x[i] = Missing
	}
}
