package trainer

import (
	"cmp"
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

// CustomerHash reduces a customer's identity to 64 bits. Examples carry it
// instead of the identity; it is even, well mixed, and the same in every
// process, so that what is decided by it (ties, folds) is reproducible.
func CustomerHash(id []byte) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, b := range id {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return mix(h) &^ 1
}

// mix spreads every bit of h over all bits: the finaliser of MurmurHash3.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Dataset holds labelled examples of one specification, by column: numbers as
// float64, levels as their vocabulary code in one byte (two once a feature has
// 255 levels). With 16 categorical and 3 numeric features an example takes 56
// bytes and about 6 in the index.
//
// There is one example for a customer and moment; a second one replaces the
// first. A Dataset is not safe for concurrent use.
type Dataset struct {
	spec *scoring.Spec
	max  int

	columns  []column
	observed []int64
	// customer holds the even customer hash, plus 1 if the customer churned.
	customer []uint64
	churners int
	// index is an open-addressing hash table of positions plus 1, 0 = empty.
	index []int32
}

// column holds one feature: numbers, or codes plus 1 with 0 for missing. Of
// the three slices one is in use.
type column struct {
	categorical bool
	numbers     []float64
	narrow      []uint8
	wide        []uint16
}

// NewDataset returns an empty dataset for spec that keeps the newest max
// examples (0: one million). It may hold a sixteenth more until it sheds.
func NewDataset(spec *scoring.Spec, max int) *Dataset {
	if max <= 0 {
		max = 1_000_000
	}
	d := &Dataset{spec: spec, max: max, columns: make([]column, spec.Len())}
	for j := range d.columns {
		d.columns[j].categorical = spec.Feature(j).Kind == scoring.Categorical
	}
	return d
}

// Limit returns how many examples are kept.
func (d *Dataset) Limit() int { return d.max }

// Spec returns the specification of the examples.
func (d *Dataset) Spec() *scoring.Spec { return d.spec }

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

// Has tells whether there is an example of the customer at that moment.
func (d *Dataset) Has(customer uint64, observedAt int64) bool {
	_, found := d.find(customer, observedAt)
	return found
}

// Add stores an example and tells whether it is a new one, not a replacement
// of the one that the customer had at that moment. Attributes must be of the
// dataset's specification.
func (d *Dataset) Add(e Example) (added bool) {
	if i, found := d.find(e.Customer, e.ObservedAt); found {
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

func (d *Dataset) find(customer uint64, observedAt int64) (i int, found bool) {
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

func (c *column) value(i int) float64 {
	if !c.categorical {
		return c.numbers[i]
	}
	if code := c.code(i); code > 0 {
		return float64(code - 1)
	}
	return scoring.Missing
}

// code returns the vocabulary code plus 1 of a categorical value, 0 if it is
// missing.
func (c *column) code(i int) uint16 {
	if c.wide != nil {
		return c.wide[i]
	}
	return uint16(c.narrow[i])
}

func (c *column) grow() {
	switch {
	case !c.categorical:
		c.numbers = append(c.numbers, 0)
	case c.wide != nil:
		c.wide = append(c.wide, 0)
	default:
		c.narrow = append(c.narrow, 0)
	}
}

func (c *column) set(i int, x float64) {
	if !c.categorical {
		c.numbers[i] = x
		return
	}
	code := uint16(0)
	if !scoring.IsMissing(x) {
		code = uint16(x) + 1
	}
	if code > 255 && c.wide == nil {
		c.wide = make([]uint16, len(c.narrow), cap(c.narrow))
		for k, v := range c.narrow {
			c.wide[k] = uint16(v)
		}
		c.narrow = nil
	}
	if c.wide != nil {
		c.wide[i] = code
	} else {
		c.narrow[i] = uint8(code)
	}
}

func (c *column) move(to, from int) {
	switch {
	case !c.categorical:
		c.numbers[to] = c.numbers[from]
	case c.wide != nil:
		c.wide[to] = c.wide[from]
	default:
		c.narrow[to] = c.narrow[from]
	}
}

func (c *column) truncate(n int) {
	switch {
	case !c.categorical:
		c.numbers = c.numbers[:n]
	case c.wide != nil:
		c.wide = c.wide[:n]
	default:
		c.narrow = c.narrow[:n]
	}
}
