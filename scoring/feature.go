package scoring

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// MaxNumber bounds the magnitude of a numeric attribute, wherever one comes in:
// whatever has more is no amount of anything, but a stand-in for "not known"
// such as the greatest double. Up to it sums, squares and variances stay finite
// over any number of rows.
const MaxNumber = 1e100

// Kind says how a feature's values are read.
type Kind uint8

const (
	// Numeric features hold floating-point numbers from −MaxNumber to MaxNumber.
	Numeric Kind = iota
	// Categorical features hold one of a set of named levels.
	Categorical
)

// String returns the kind as it is written in a schema: "numeric" or
// "categorical".
func (k Kind) String() string {
	if k == Categorical {
		return "categorical"
	}
	return "numeric"
}

// parseKind is the reverse of String.
func parseKind(name string) (Kind, error) {
	switch name {
	case Numeric.String():
		return Numeric, nil
	case Categorical.String():
		return Categorical, nil
	}
	return 0, fmt.Errorf("kind %q is neither categorical nor numeric", name)
}

// Feature describes one customer attribute that a model may use.
type Feature struct {
	// Name is the attribute's field name in every schema.
	Name string
	// Kind distinguishes numbers from levels.
	Kind Kind
	// Label is the name people read; it defaults to Name.
	Label string
	// Unit is the unit people read, such as "months"; it may be empty.
	Unit string
	// Actionable marks what a company can change for a customer.
	Actionable bool
}

// Spec is an ordered, immutable list of features. Position i of every Vector
// belongs to feature i.
type Spec struct {
	features    []Feature
	index       map[string]int
	fingerprint string
}

// ErrSpec is matched by every error about a feature specification.
var ErrSpec = errors.New("feature specification")

// NewSpec returns the specification of the given features, in their order.
// It fails when there is none, or when a name is empty or used twice.
func NewSpec(features []Feature) (*Spec, error) {
	if len(features) == 0 {
		return nil, fmt.Errorf("%w: no features", ErrSpec)
	}
	s := &Spec{
		features: append([]Feature(nil), features...),
		index:    make(map[string]int, len(features)),
	}
	h := sha256.New()
	for i := range s.features {
		f := &s.features[i]
		if f.Name == "" {
			return nil, fmt.Errorf("%w: feature %d has no name", ErrSpec, i)
		}
		if _, twice := s.index[f.Name]; twice {
			return nil, fmt.Errorf("%w: feature %q occurs twice", ErrSpec, f.Name)
		}
		if f.Label == "" {
			f.Label = f.Name
		}
		s.index[f.Name] = i
		fmt.Fprintf(h, "%q %s\n", f.Name, f.Kind)
	}
	s.fingerprint = hex.EncodeToString(h.Sum(nil))
	return s, nil
}

// Len returns the number of features.
func (s *Spec) Len() int { return len(s.features) }

// Feature returns feature i. The pointed-to value must not be changed.
func (s *Spec) Feature(i int) *Feature { return &s.features[i] }

// Index returns the position of the feature with the given name.
func (s *Spec) Index(name string) (int, bool) {
	i, ok := s.index[name]
	return i, ok
}

// Fingerprint identifies names, kinds and order of the features. Models and
// snapshots carry it, so that those of another specification are refused.
func (s *Spec) Fingerprint() string { return s.fingerprint }
