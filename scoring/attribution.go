package scoring

import (
	"math"
	"math/bits"
)

// Attribution is the mean log loss of a model on a set of examples, divided among
// its features: a base, which is what the labels would cost if nothing were known
// of the customers, and the mean of LogLossSHAP for each feature. Base and
// features sum to the mean log loss.
//
//	loss = base + Σ_j feature_j
//
// So does the difference between two sets, say last month's examples and those of
// the month before: the features that it belongs to are those that cost, or
// saved, what the loss changed by. The base changes with the share of churners
// alone, by minus the mean log-odds times the change of the share.
//
// Sums are kept as integers in units of 2^-44, so that they depend on what was
// added but not on the order, and what was removed leaves no trace. They hold
// 1e9 examples of the greatest loss there is. Its memory is 16 bytes a feature.
type Attribution struct {
	examples int64
	base     exactSum
	features []exactSum
}

// NewAttribution returns the attribution of no examples, for a model with the
// given number of features.
func NewAttribution(features int) *Attribution {
	return &Attribution{features: make([]exactSum, features)}
}

// Add adds an example: the values of LogLossSHAP, and ExpectedLogLoss of the
// example's label. It panics where the number of values is not that of the
// features.
func (a *Attribution) Add(values []float64, base float64) { a.add(values, base, 1) }

// Remove takes away an example that was added with the same arguments.
func (a *Attribution) Remove(values []float64, base float64) { a.add(values, base, -1) }

func (a *Attribution) add(values []float64, base float64, sign float64) {
	if len(values) != len(a.features) {
		panic("scoring: an Attribution needs one value per feature")
	}
	a.examples += int64(sign)
	a.base.add(sign * base)
	for j, v := range values {
		a.features[j].add(sign * v)
	}
}

// Merge adds the examples of another attribution of the same model. It panics
// where the numbers of features differ.
func (a *Attribution) Merge(b *Attribution) {
	if len(b.features) != len(a.features) {
		panic("scoring: Attributions of models with different features")
	}
	a.examples += b.examples
	a.base.merge(b.base)
	for j := range a.features {
		a.features[j].merge(b.features[j])
	}
}

// Reset makes it that of no examples.
func (a *Attribution) Reset() {
	a.examples, a.base = 0, exactSum{}
	clear(a.features)
}

// Examples returns how many there are.
func (a *Attribution) Examples() int64 { return a.examples }

// Features returns the mean loss due to each feature, Missing without examples.
// The result is dst where that has room.
func (a *Attribution) Features(dst []float64) []float64 {
	dst = resize(dst, len(a.features))
	for j := range dst {
		dst[j] = a.mean(a.features[j])
	}
	return dst
}

// Feature returns the mean loss due to one feature, Missing without examples.
func (a *Attribution) Feature(j int) float64 { return a.mean(a.features[j]) }

// Base returns the mean expected loss of the labels, Missing without examples.
func (a *Attribution) Base() float64 { return a.mean(a.base) }

// LogLoss returns the mean log loss, Missing without examples. No probability is
// kept away from 0 or 1, unlike in Metrics.
func (a *Attribution) LogLoss() float64 {
	total := a.base
	for _, f := range a.features {
		total.merge(f)
	}
	return a.mean(total)
}

func (a *Attribution) mean(s exactSum) float64 {
	if a.examples <= 0 {
		return Missing
	}
	return s.float() / float64(a.examples)
}

// exactSum is a sum in units of 2^-44, as a two's complement integer of 128 bits.
// What is added is rounded to a unit, so that the order makes no difference.
type exactSum struct {
	high int64
	low  uint64
}

const exactUnit = 0x1p-44

// add adds a number of magnitude below 2^82.
func (s *exactSum) add(x float64) {
	units := math.RoundToEven(math.Abs(x) / exactUnit) // exact but for the rounding
	high := math.Floor(units * 0x1p-64)
	b := exactSum{int64(high), uint64(units - high*0x1p64)}
	if x < 0 {
		b = exactSum{^b.high, ^b.low}
		b.merge(exactSum{0, 1})
	}
	s.merge(b)
}

func (s *exactSum) merge(b exactSum) {
	low, carry := bits.Add64(s.low, b.low, 0)
	s.low, s.high = low, s.high+b.high+int64(carry)
}

func (s exactSum) float() float64 {
	if s.high < 0 { // its magnitude, so that no digits are lost
		s.low, s.high = ^s.low, ^s.high
		s.merge(exactSum{0, 1})
		return -s.float()
	}
	return (float64(s.high)*0x1p64 + float64(s.low)) * exactUnit
}
