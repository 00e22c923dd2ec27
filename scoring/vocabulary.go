package scoring

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// MaxLevels bounds the levels of one categorical feature, in a model and
	// among the customers of one partition, so that a producer that sends free
	// text cannot exhaust memory.
	MaxLevels = 10_000
	// MaxLevelBytes bounds the length of one level in bytes.
	MaxLevelBytes = 256
)

// ErrLevel is matched by the errors of Vocabulary.Code.
var ErrLevel = errors.New("categorical level")

// Vocabulary numbers the levels of the categorical features of one Spec in
// the order in which they are added, so that a Vector holds numbers only.
// Numbers never change and are private to the process: schemas, topics and
// models carry the levels themselves.
//
// White space around a level does not count: it is the same level without, wherever
// it comes from.
//
// Levels are never taken away, so those are added that have an end: the levels
// of models and of files, and not whatever a message brings. A Vector can have
// others too; see Find and Levels.
//
// It is safe for concurrent use; looking up a level that has been known for a
// while neither locks nor allocates.
type Vocabulary struct {
	spec      *Spec
	byFeature []levels
	// texts are levels that were found lately without a number, each in the
	// place of its hash, so that what comes again and again is one string.
	texts [1 << 12]atomic.Pointer[string]
	seed  maphash.Seed
}

// levels are those of one feature. Readers take what is settled without a lock;
// additions gather in fresh and are settled together, so that adding n levels
// copies each only a few times.
type levels struct {
	settled atomic.Pointer[map[string]uint32]
	names   atomic.Pointer[[]string]
	mu      sync.Mutex
	fresh   map[string]uint32 // guarded by mu
	// unsettled is set while there are fresh ones.
	unsettled atomic.Bool
}

// NewVocabulary returns an empty vocabulary for spec.
func NewVocabulary(spec *Spec) *Vocabulary {
	v := &Vocabulary{spec: spec, byFeature: make([]levels, spec.Len()), seed: maphash.MakeSeed()}
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
// is longer than MaxLevelBytes.
func (v *Vocabulary) Code(feature int, level []byte) (float64, error) {
	if c, ok := v.Known(feature, level); ok {
		return c, nil
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
	level = strings.ToValidUTF8(strings.TrimSpace(level), "\uFFFD")
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
	c := uint32(len(names))
	// Readers of the old slice header never look beyond its length.
	names = append(names, level)
	l.names.Store(&names)
	if l.fresh == nil {
		l.fresh = map[string]uint32{}
	}
	l.fresh[level] = c
	l.unsettled.Store(true)
	if settled := *l.settled.Load(); len(settled) < minFresh || len(l.fresh) >= max(minFresh, len(settled)/4) {
		l.settle()
	}
	return float64(c), nil
}

// settle lets readers see all levels without a lock, with mu held.
func (l *levels) settle() {
	settled := *l.settled.Load()
	next := make(map[string]uint32, len(settled)+len(l.fresh))
	maps.Copy(next, settled)
	maps.Copy(next, l.fresh)
	l.settled.Store(&next)
	l.fresh = nil
	l.unsettled.Store(false)
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
	level = strings.TrimSpace(level)
	if c, ok := (*l.settled.Load())[level]; ok {
		return float64(c), true
	}
	c, ok := l.late(level)
	return float64(c), ok
}

// late finds a level that may have been added since the others were settled,
// and settles it: whoever asks for what is not there asks again.
func (l *levels) late(level string) (uint32, bool) {
	if !l.unsettled.Load() {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.fresh) > 0 {
		l.settle()
	}
	c, ok := (*l.settled.Load())[level]
	return c, ok
}

// Find returns what stands in a Vector for a level: its number if it has one,
// else what Levels.Add returns for it. It does not add the level to the
// vocabulary. It allocates nothing for a level that has a number, or was found
// lately.
func (v *Vocabulary) Find(feature int, level []byte, others *Levels) float64 {
	if c, ok := v.Known(feature, level); ok {
		return c
	}
	level = bytes.TrimSpace(level)
	if c, ok := v.Known(feature, level); ok {
		return c
	}
	text := v.text(level)
	if c, ok := v.byFeature[feature].late(text); ok {
		return float64(c)
	}
	return others.Add(text)
}

// Known returns the number of a level without adding it, if the bytes are one,
// without white space around it: then they are UTF-8, and not empty. It may miss a
// level, which Find finds.
func (v *Vocabulary) Known(feature int, level []byte) (float64, bool) {
	c, ok := (*v.byFeature[feature].settled.Load())[string(level)]
	return float64(c), ok && len(level) > 0
}

// text returns a level as a string.
func (v *Vocabulary) text(level []byte) string {
	place := &v.texts[maphash.Bytes(v.seed, level)%uint64(len(v.texts))]
	if s := place.Load(); s != nil && *s == string(level) {
		return *s
	}
	s := string(level)
	if len(s) <= MaxLevelBytes {
		place.Store(&s)
	}
	return s
}

// Text returns the level that stands in a Vector with the given other levels;
// "" where there is none.
func (v *Vocabulary) Text(feature int, x float64, others Levels) string {
	if level, ok := others.At(x); ok {
		return level
	}
	return v.Level(feature, x)
}

// Renumber brings a Vector of another vocabulary of the same specification, or
// of an earlier time of this one, into the numbers of this one: all levels that
// have a number here get it, and the others are added to the levels given. It
// changes x.
func (v *Vocabulary) Renumber(x Vector, of *Vocabulary, theirs Levels, others *Levels) {
	for i, code := range x {
		if IsMissing(code) || code == Unknown || v.spec.Feature(i).Kind != Categorical || of == v && code >= 0 {
			continue
		}
		text := of.Text(i, code, theirs)
		if c, ok := v.Lookup(i, text); ok {
			x[i] = c
		} else {
			x[i] = others.Add(text)
		}
	}
}

// Learn brings a Vector of another vocabulary of the same specification into the
// numbers of this one, to which it adds the levels that are new. It is for who
// keeps vectors for long, and a vocabulary with them. A level that would get a
// number of most or more is Unknown then, and counted. It changes x.
func (v *Vocabulary) Learn(x Vector, of *Vocabulary, theirs Levels, most int) (leftOut int) {
	for i, code := range x {
		if IsMissing(code) || code == Unknown || v.spec.Feature(i).Kind != Categorical {
			continue
		}
		text := of.Text(i, code, theirs)
		c, ok := v.Lookup(i, text)
		if !ok && v.Size(i) < most {
			var err error
			c, err = v.CodeString(i, text)
			ok = err == nil
		}
		if x[i] = c; !ok || c >= float64(most) {
			x[i] = Unknown
			leftOut++
		}
	}
	return leftOut
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
// nobody need know, as in a question about a customer. No model knows it.
const Unknown = -1.0

// Levels are the levels in a Vector that the vocabulary has no number for, as
// many as the Vector has at most. They go where the Vector goes, and are
// forgotten with it. To a model they are as Unknown.
type Levels []string

// Add adds a level and returns what stands for it in the Vector.
func (l *Levels) Add(level string) float64 {
	*l = append(*l, level)
	return Unknown - float64(len(*l))
}

// At returns the level that stands in the Vector as x, if it is one of these.
func (l Levels) At(x float64) (level string, ok bool) {
	i := Unknown - 1 - x
	if !(i >= 0 && i < float64(len(l))) {
		return "", false
	}
	return l[int(i)], true
}

// Missing is the value of an attribute that is not known. No event can carry
// it: non-finite numbers are refused before they reach a Vector.
var Missing = math.NaN()

// IsMissing reports whether a slot of a Vector is Missing.
func IsMissing(x float64) bool { return x != x }

// Vector holds one value per feature of a Spec: the number itself for a
// numeric feature, the vocabulary's number of the level for a categorical one
// or the place it has in Levels, Missing where the value is not known.
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
