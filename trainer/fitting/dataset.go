package fitting

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/churnstream/churnstream/scoring"
)

// Example is a labelled customer at one moment.
type Example struct {
	// Customer is the CustomerHash of the customer's identity.
	Customer uint64
	// ObservedAt is when the label was established, in milliseconds.
	ObservedAt int64
	// Churned is the label.
	Churned bool
	// Attributes are those from before ObservedAt; missing ones are allowed.
	Attributes scoring.Vector
}

// Dataset holds labelled examples of one specification, by column: numbers as
// float64, levels as their vocabulary code in one byte (two once a feature has
// 255 levels). With 16 categorical and 3 numeric features an example takes 56
// bytes and about 6 in the index.
//
// There is one example per customer and moment; a second one replaces the
// first. A level is kept if its number in the vocabulary is below MaxCodes, and
// is missing else. A Dataset is not safe for concurrent use.
type Dataset struct {
	vocabulary *scoring.Vocabulary
	max        int

	columns  []column
	observed []int64
	// customer holds the even customer hash, plus 1 if the customer churned.
	customer []uint64
	churners int
	// index is an open-addressing hash table of positions plus 1, 0 = empty.
	index []int32
}

// MaxCodes is how many numbers of a vocabulary there is room for.
const MaxCodes = 1<<16 - 1

// NewDataset returns an empty dataset that keeps the newest max examples (0:
// one million). It may hold a sixteenth more until it sheds. The levels of the
// examples' attributes are numbered by the vocabulary.
func NewDataset(vocabulary *scoring.Vocabulary, max int) *Dataset {
	if max <= 0 {
		max = 1_000_000
	}
	spec := vocabulary.Spec()
	d := &Dataset{vocabulary: vocabulary, max: max, columns: make([]column, spec.Len())}
	for j := range d.columns {
		d.columns[j].categorical = spec.Feature(j).Kind == scoring.Categorical
	}
	return d
}

// Limit returns how many examples are kept.
func (d *Dataset) Limit() int { return d.max }

// Spec returns the specification of the examples.
func (d *Dataset) Spec() *scoring.Spec { return d.vocabulary.Spec() }

// Vocabulary returns what numbers the levels of the examples' attributes.
func (d *Dataset) Vocabulary() *scoring.Vocabulary { return d.vocabulary }

// Renumber takes a new vocabulary, and gives it the levels that examples have.
func (d *Dataset) Renumber(v *scoring.Vocabulary) {
	x := scoring.NewVector(d.Spec().Len())
	for i := range d.observed {
		d.Attributes(i, x)
		v.Learn(x, d.vocabulary, nil, MaxCodes)
		for j := range d.columns {
			d.columns[j].set(i, x[j])
		}
	}
	d.vocabulary = v
}

// Len returns the number of examples.
func (d *Dataset) Len() int { return len(d.observed) }

// Churners returns the number of examples with a customer who churned.
func (d *Dataset) Churners() int { return d.churners }

// ObservedAt returns when example i was established.
func (d *Dataset) ObservedAt(i int) int64 { return d.observed[i] }

// Churned returns the label of example i.
func (d *Dataset) Churned(i int) bool { return d.customer[i]&1 == 1 }

// Attributes copies the attributes of example i to dst, whose length is the
// specification's.
func (d *Dataset) Attributes(i int, dst scoring.Vector) {
	for j := range d.columns {
		dst[j] = d.columns[j].value(i)
	}
}

// checkNumbers reports the first feature that has a number beyond
// scoring.MaxNumber in an example at one of the given positions.
func (d *Dataset) checkNumbers(rows []int32) error {
	for j := range d.columns {
		if d.columns[j].categorical {
			continue
		}
		for _, r := range rows {
			if v := d.columns[j].numbers[r]; math.Abs(v) > scoring.MaxNumber { // false for Missing
				return fmt.Errorf("%q of an example is %g, beyond ±%g: %w", d.Spec().Feature(j).Name, v, scoring.MaxNumber, ErrNotFinite)
			}
		}
	}
	return nil
}

// labels returns the labels of the examples at the given positions.
func (d *Dataset) labels(rows []int32) []bool {
	out := make([]bool, len(rows))
	for i, r := range rows {
		out[i] = d.Churned(int(r))
	}
	return out
}

// probabilities returns those that a predictor gives the examples at the given
// positions.
func (d *Dataset) probabilities(p *scoring.Predictor, rows []int32) []float64 {
	out := make([]float64, len(rows))
	x := scoring.NewVector(d.Spec().Len())
	for i, r := range rows {
		d.Attributes(int(r), x)
		out[i] = p.Probability(x)
	}
	return out
}

// Find returns the position of the customer's example of a moment, and whether
// there is one.
func (d *Dataset) Find(customer uint64, observedAt int64) (i int, found bool) {
	if len(d.index) == 0 {
		return 0, false
	}
	for s := d.slot(customer, observedAt); d.index[s] != 0; s = (s + 1) % len(d.index) {
		i = int(d.index[s]) - 1
		if d.observed[i] == observedAt && d.customer[i]&^1 == customer&^1 {
			return i, true
		}
	}
	return 0, false
}

// Add stores an example and reports whether it is a new one, not a replacement
// of the one that the customer had at that moment. Attributes must be of the
// dataset's specification.
func (d *Dataset) Add(e Example) (added bool) {
	if i, found := d.Find(e.Customer, e.ObservedAt); found {
		d.set(i, e)
		return false
	}
	if d.Len() >= d.max+d.max/16 {
		d.shed()
	}
	d.observed = append(d.observed, 0)
	d.customer = append(d.customer, 0)
	for j := range d.columns {
		d.columns[j].grow()
	}
	i := d.Len() - 1
	d.set(i, e)
	if 5*d.Len() > 4*len(d.index) {
		d.reindex()
	} else {
		d.insert(i)
	}
	return true
}

func (d *Dataset) set(i int, e Example) {
	d.churners -= int(d.customer[i] & 1)
	d.observed[i] = e.ObservedAt
	d.customer[i] = e.Customer &^ 1
	if e.Churned {
		d.customer[i]++
		d.churners++
	}
	for j := range d.columns {
		d.columns[j].set(i, e.Attributes[j])
	}
}

// Forget removes the examples of a customer that were established at or before
// a moment, in milliseconds, and returns how many there were.
func (d *Dataset) Forget(customer uint64, through int64) int {
	if !slices.ContainsFunc(d.customer, func(c uint64) bool { return c&^1 == customer&^1 }) {
		return 0
	}
	return d.keep(func(i int) bool { return d.customer[i]&^1 != customer&^1 || d.observed[i] > through })
}

// DropBefore removes the examples established before a moment, in
// milliseconds, and returns how many there were.
func (d *Dataset) DropBefore(observedAt int64) int {
	return d.keep(func(i int) bool { return d.observed[i] >= observedAt })
}

// Clone returns an independent copy.
func (d *Dataset) Clone() *Dataset {
	c := *d
	c.observed, c.customer, c.index = slices.Clone(d.observed), slices.Clone(d.customer), slices.Clone(d.index)
	c.columns = slices.Clone(d.columns)
	for j := range c.columns {
		k := &c.columns[j]
		k.numbers, k.narrow, k.wide = slices.Clone(k.numbers), slices.Clone(k.narrow), slices.Clone(k.wide)
	}
	return &c
}

// Ordered returns the positions of all examples from the oldest to the newest.
// Those of the same moment are ordered by the customer's hash, hence at
// random; the order depends on nothing but the examples themselves.
func (d *Dataset) Ordered() []int32 {
	order := make([]int32, d.Len())
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(d.observed[a], d.observed[b]), cmp.Compare(d.customer[a], d.customer[b]))
	})
	return order
}

// shed keeps the newest max examples. It sheds many at once, so that the cost
// per added example stays constant.
func (d *Dataset) shed() {
	order := d.Ordered()
	drop := make([]bool, d.Len())
	for _, i := range order[:d.Len()-d.max] {
		drop[i] = true
	}
	d.keep(func(i int) bool { return !drop[i] })
}

// keep removes the examples that stay does not want. It keeps their order.
func (d *Dataset) keep(stay func(i int) bool) (dropped int) {
	n := 0
	d.churners = 0
	for i := range d.observed {
		if !stay(i) {
			continue
		}
		d.observed[n], d.customer[n] = d.observed[i], d.customer[i]
		d.churners += int(d.customer[i] & 1)
		for j := range d.columns {
			d.columns[j].move(n, i)
		}
		n++
	}
	dropped = d.Len() - n
	if dropped > 0 {
		d.observed, d.customer = d.observed[:n], d.customer[:n]
		for j := range d.columns {
			d.columns[j].truncate(n)
		}
		d.reindex()
	}
	return dropped
}

func (d *Dataset) slot(customer uint64, observedAt int64) int {
	hi, _ := bits.Mul64(mix(customer&^1^mix(uint64(observedAt))), uint64(len(d.index)))
	return int(hi)
}

func (d *Dataset) insert(i int) {
	s := d.slot(d.customer[i], d.observed[i])
	for d.index[s] != 0 {
		s = (s + 1) % len(d.index)
	}
	d.index[s] = int32(i) + 1
}

func (d *Dataset) reindex() {
	d.index = make([]int32, 16+d.Len()*3/2)
	for i := range d.observed {
		d.insert(i)
	}
}
