package fitting

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// Example is a labelled customer at one moment.
type Example struct {
	// Customer is the CustomerHash of the customer's identity.
	Customer uint64
	// ObservedAt is when the customer left, or up to when it is known that they have
	// not, and LabelledAt when that came to be known or was corrected last, in
	// milliseconds.
	ObservedAt, LabelledAt int64
	// Horizon is how long after the decision ObservedAt is, in milliseconds: the
	// label says whether the customer left within it. 0 is unknown.
	Horizon int64
	// Churned is the label.
	Churned bool
	// Attributes are those at the decision; missing ones are allowed.
	Attributes scoring.Vector
}

// Dataset holds labelled examples of one specification, by column: numbers as
// float64, levels as their vocabulary code in one byte (two once a feature has
// 255 levels). With 16 categorical and 3 numeric features an example takes 65
// bytes and about 9 in the index.
//
// There is one example per customer and moment; a second one replaces the
// first. A level is kept if its number in the vocabulary is below MaxCodes, and
// is missing else. A Dataset is not safe for concurrent use.
type Dataset struct {
	vocabulary *scoring.Vocabulary
	max        int

	columns            []column
	observed, labelled []int64
	// customer holds the even customer hash, plus 1 if the customer churned.
	customer []uint64
	// horizon holds positions in horizons, of which there are rarely two beside
	// the first, which is 0 for unknown; plus fresh.
	horizon  []uint8
	horizons []horizonCount
	// decisive is how many of the newest labels say which horizon is learnt; asked
	// is the position of that horizon, if askedKnown; else it has to be counted.
	decisive   int
	asked      uint8
	askedKnown bool

	// heads holds, by hash of the customer, the first of a chain of positions
	// that goes on in next; positions are kept plus 1, 0 = none.
	heads, next []int32
	// shedThrough is the newest example that was shed: older ones are refused,
	// so that those which come again with every record of their customer need
	// not be shed again.
	shedThrough moment
}

// moment orders examples: by time, then by the customer's hash.
type moment struct {
	observedAt int64
	customer   uint64
}

func (a moment) compare(b moment) int {
	return cmp.Or(cmp.Compare(a.observedAt, b.observedAt), cmp.Compare(a.customer, b.customer))
}

// horizonCount is a horizon with the numbers of its examples.
type horizonCount struct {
	milliseconds              int64
	examples, churners, fresh int
}

// fresh marks an example that no training has seen.
const fresh = 1 << 7

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
	d := &Dataset{
		vocabulary: vocabulary, max: max, columns: make([]column, spec.Len()),
		horizons: make([]horizonCount, 1), shedThrough: moment{math.MinInt64, 0}, decisive: 999,
	}
	for j := range d.columns {
		d.columns[j].categorical = spec.Feature(j).Kind == scoring.Categorical
	}
	return d
}

// DecideBy has the horizon that is learnt be the one that most of the newest so many
// labels have, 999 at first. Of 2n−1 labels with two horizons, one that takes the
// place of another has n by then.
func (d *Dataset) DecideBy(labels int) { d.decisive, d.askedKnown = max(1, labels), false }

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
func (d *Dataset) Churners() (n int) {
	for _, h := range d.horizons {
		n += h.churners
	}
	return n
}

// ObservedAt returns when example i was established.
func (d *Dataset) ObservedAt(i int) int64 { return d.observed[i] }

// Horizon returns the horizon of example i.
func (d *Dataset) Horizon(i int) int64 { return d.horizons[d.horizon[i]&^fresh].milliseconds }

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

// scored returns the examples at the given positions with the probabilities that a
// predictor gives them.
func (d *Dataset) scored(p *scoring.Predictor, rows []int32) []evaluation.Example {
	out := make([]evaluation.Example, len(rows))
	for i, probability := range d.probabilities(p, rows) {
		r := int(rows[i])
		out[i] = evaluation.Example{Customer: d.customer[r] &^ 1, Probability: probability, Churned: d.Churned(r)}
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

// Census is how many examples a dataset has for a training.
type Census struct {
	// Horizon is the one that most of the newest labels have; see DecideBy.
	Horizon int64
	// Examples are those of this horizon, which a model can be learnt from;
	// Churners those of them who churned; Fresh those that were added or
	// corrected and not Seen since.
	Examples, Churners, Fresh int
	// Others are the examples of other horizons: their labels answer another
	// question.
	Others int
}

// Census counts the examples.
func (d *Dataset) Census() Census {
	h := d.horizons[d.question()]
	return Census{
		Horizon: h.milliseconds, Examples: h.examples, Churners: h.churners, Fresh: h.fresh,
		Others: d.Len() - h.examples,
	}
}

// question returns the position of the horizon that most of the newest labels have,
// of equals that of the newest label. Newest are those that came to be known last:
// when the customer was observed is what a client says, and may be ahead. One label
// decides nothing, as a few that answer another question must not keep the others
// from being learnt.
func (d *Dataset) question() uint8 {
	if !d.askedKnown {
		d.asked, d.askedKnown = d.countQuestion(), true
	}
	return d.asked
}

func (d *Dataset) countQuestion() uint8 {
	for k := range d.horizons {
		if d.horizons[k].examples == d.Len() {
			return uint8(k) // as nearly always
		}
	}
	newest := d.newestLabels(d.decisive)
	var votes [fresh]int
	for _, i := range newest {
		votes[d.horizon[i]&^fresh]++
	}
	asked, most := uint8(0), 0
	for _, i := range newest {
		if h := d.horizon[i] &^ fresh; votes[h] > most {
			asked, most = h, votes[h]
		}
	}
	return asked
}

// newestLabels returns the positions of the n newest labels, from the newest on.
func (d *Dataset) newestLabels(n int) []int32 {
	newestFirst := func(a, b int32) int {
		return cmp.Or(cmp.Compare(d.labelled[b], d.labelled[a]), d.moment(int(b)).compare(d.moment(int(a))))
	}
	var newest []int32
	// Those that came last are mostly the newest, and once there are n of them,
	// most of the others are passed over at once.
	least := int64(math.MinInt64)
	for i := d.Len() - 1; i >= 0; i-- {
		if d.labelled[i] < least {
			continue
		}
		if newest = append(newest, int32(i)); len(newest) >= 2*n {
			slices.SortFunc(newest, newestFirst)
			newest = newest[:n]
			least = d.labelled[newest[n-1]]
		}
	}
	slices.SortFunc(newest, newestFirst)
	return newest[:min(n, len(newest))]
}

// Seen says that a training has seen the examples labelled at or before a moment,
// in milliseconds.
func (d *Dataset) Seen(labelledAt int64) {
	for i, at := range d.labelled {
		if h := d.horizon[i]; at <= labelledAt && h&fresh != 0 {
			d.horizon[i] = h &^ fresh
			d.horizons[h&^fresh].fresh--
		}
	}
}

// count counts an example, or with -1 no more.
func (d *Dataset) count(i, by int) {
	h := &d.horizons[d.horizon[i]&^fresh]
	h.examples += by
	h.churners += by * int(d.customer[i]&1)
	h.fresh += by * int(d.horizon[i]/fresh)
	d.askedKnown = false
}

// LabelledThrough returns the greatest LabelledAt of all examples, 0 without
// any.
func (d *Dataset) LabelledThrough() int64 {
	newest := int64(0)
	for _, at := range d.labelled {
		newest = max(newest, at)
	}
	return newest
}

func (d *Dataset) moment(i int) moment { return moment{d.observed[i], d.customer[i] &^ 1} }

// Find returns the position of the customer's example of a moment, and whether
// there is one. A position is good until the next change.
func (d *Dataset) Find(customer uint64, observedAt int64) (i int, found bool) {
	if len(d.heads) == 0 {
		return 0, false
	}
	for at := d.heads[d.slot(customer)]; at != 0; at = d.next[at-1] {
		if i = int(at) - 1; d.observed[i] == observedAt && d.customer[i]&^1 == customer&^1 {
			return i, true
		}
	}
	return 0, false
}

// Change is what Replace did.
type Change struct {
	// Added are new examples, Corrected those that had another label, Removed
	// those that are no more.
	Added, Corrected, Removed int
}

// Replace has a customer's examples be those given, and says how they differ from
// what they were. All examples are the customer's.
func (d *Dataset) Replace(customer uint64, examples []Example) (c Change) {
	for gone := true; gone && len(d.heads) > 0; { // a chain changes as examples are removed
		gone = false
		for at := d.heads[d.slot(customer)]; at != 0; at = d.next[at-1] {
			i := int(at) - 1
			if d.customer[i]&^1 != customer&^1 ||
				slices.ContainsFunc(examples, func(e Example) bool { return e.ObservedAt == d.observed[i] }) {
				continue
			}
			d.remove(i)
			c.Removed++
			gone = true
			break
		}
	}
	for _, e := range examples {
		i, found := d.Find(customer, e.ObservedAt)
		corrected := found && d.corrects(i, e)
		switch added := d.Add(e); {
		case added:
			c.Added++
		case corrected:
			c.Corrected++
		}
	}
	return c
}

// corrects reports whether an example's label is another than that of example i.
// The same label is nothing new to learn, whatever is said of when it came: who
// bounds that by a clock may say something else of it every time.
func (d *Dataset) corrects(i int, e Example) bool { return d.Churned(i) != e.Churned }

// Add stores an example and reports whether it is a new one: not a replacement
// of the one that the customer had at that moment, and not older than those
// that had no room. Attributes must be of the dataset's specification.
func (d *Dataset) Add(e Example) (added bool) {
	if i, found := d.Find(e.Customer, e.ObservedAt); found {
		unseen := d.horizon[i]&fresh != 0 || d.corrects(i, e)
		d.count(i, -1)
		d.set(i, e, unseen)
		return false
	}
	if d.Len() >= d.max+d.max/16 {
		d.shed()
	}
	if (moment{e.ObservedAt, e.Customer &^ 1}).compare(d.shedThrough) <= 0 {
		return false
	}
	d.observed, d.labelled = append(d.observed, 0), append(d.labelled, 0)
	d.customer = append(d.customer, 0)
	d.horizon, d.next = append(d.horizon, 0), append(d.next, 0)
	for j := range d.columns {
		d.columns[j].grow()
	}
	i := d.Len() - 1
	d.set(i, e, true)
	if d.Len() > len(d.heads) {
		d.reindex()
	} else {
		d.insert(i)
	}
	return true
}

// set writes an example to a position, whose former one is not counted any more.
func (d *Dataset) set(i int, e Example, unseen bool) {
	d.observed[i], d.labelled[i] = e.ObservedAt, e.LabelledAt
	d.horizon[i] = d.numbered(e.Horizon)
	if unseen {
		d.horizon[i] |= fresh
	}
	d.customer[i] = e.Customer &^ 1
	if e.Churned {
		d.customer[i]++
	}
	for j := range d.columns {
		d.columns[j].set(i, e.Attributes[j])
	}
	d.count(i, 1)
}

// numbered returns the position of a horizon in horizons. One that no example has
// any more gives its position to the next. If there is none left, a horizon counts as
// unknown.
func (d *Dataset) numbered(horizon int64) uint8 {
	unused := 0
	for k := range d.horizons {
		if d.horizons[k].milliseconds == horizon {
			return uint8(k)
		}
		if k > 0 && d.horizons[k].examples == 0 {
			unused = k
		}
	}
	switch {
	case unused > 0:
		d.horizons[unused].milliseconds = horizon
	case len(d.horizons) < fresh:
		unused = len(d.horizons)
		d.horizons = append(d.horizons, horizonCount{milliseconds: horizon})
	}
	return uint8(unused)
}

// Forget removes the examples of a customer that were established at or before
// a moment, in milliseconds, and returns how many there were.
func (d *Dataset) Forget(customer uint64, through int64) (removed int) {
	if len(d.heads) == 0 {
		return 0
	}
	for at := d.heads[d.slot(customer)]; at != 0; {
		i := int(at) - 1
		at = d.next[i]
		if d.customer[i]&^1 == customer&^1 && d.observed[i] <= through {
			d.remove(i)
			removed++
			at = d.heads[d.slot(customer)] // the last example has moved
		}
	}
	return removed
}

// DropBefore removes the examples established before a moment, in
// milliseconds, and returns how many there were.
func (d *Dataset) DropBefore(observedAt int64) int {
	return d.keep(func(i int) bool { return d.observed[i] >= observedAt })
}

// Clone returns an independent copy.
func (d *Dataset) Clone() *Dataset {
	c := *d
	c.observed, c.labelled, c.customer = slices.Clone(d.observed), slices.Clone(d.labelled), slices.Clone(d.customer)
	c.horizon, c.horizons = slices.Clone(d.horizon), slices.Clone(d.horizons)
	c.heads, c.next = slices.Clone(d.heads), slices.Clone(d.next)
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
	slices.SortFunc(order, func(a, b int32) int { return d.moment(int(a)).compare(d.moment(int(b))) })
	return order
}

// usable returns the positions of the examples that a model is learnt from, from
// the oldest to the newest: the newest as many as there is room for, and of
// those the ones that have the horizon of most of the newest labels.
func (d *Dataset) usable() []int32 {
	order := d.Ordered()
	order = order[max(0, len(order)-d.max):]
	of := d.question()
	return slices.DeleteFunc(order, func(i int32) bool { return d.horizon[i]&^fresh != of })
}

// shed keeps the newest max examples. It sheds many at once, so that the cost
// per added example stays constant.
func (d *Dataset) shed() {
	order := d.Ordered()
	drop := make([]bool, d.Len())
	for _, i := range order[:d.Len()-d.max] {
		drop[i] = true
	}
	d.shedThrough = d.moment(int(order[d.Len()-d.max-1]))
	d.keep(func(i int) bool { return !drop[i] })
}

// keep removes the examples that stay does not want. It keeps their order.
func (d *Dataset) keep(stay func(i int) bool) (dropped int) {
	n := 0
	for i := range d.observed {
		if !stay(i) {
			d.count(i, -1)
			continue
		}
		d.move(n, i)
		n++
	}
	dropped = d.Len() - n
	if dropped > 0 {
		d.truncate(n)
		d.reindex()
	}
	return dropped
}

// remove removes example i. The last one takes its position.
func (d *Dataset) remove(i int) {
	d.count(i, -1)
	*d.link(i) = d.next[i]
	if last := d.Len() - 1; i != last {
		*d.link(last) = int32(i) + 1
		d.next[i] = d.next[last]
		d.move(i, last)
	}
	d.truncate(d.Len() - 1)
}

// link returns what leads to example i in its chain.
func (d *Dataset) link(i int) *int32 {
	at := &d.heads[d.slot(d.customer[i])]
	for *at != int32(i)+1 {
		at = &d.next[*at-1]
	}
	return at
}

// move copies example from to another's position. The index is the caller's.
func (d *Dataset) move(to, from int) {
	d.observed[to], d.labelled[to] = d.observed[from], d.labelled[from]
	d.customer[to], d.horizon[to] = d.customer[from], d.horizon[from]
	for j := range d.columns {
		d.columns[j].move(to, from)
	}
}

// truncate leaves the first n examples.
func (d *Dataset) truncate(n int) {
	d.observed, d.labelled = d.observed[:n], d.labelled[:n]
	d.customer, d.horizon, d.next = d.customer[:n], d.horizon[:n], d.next[:n]
	for j := range d.columns {
		d.columns[j].truncate(n)
	}
}

func (d *Dataset) slot(customer uint64) int {
	hi, _ := bits.Mul64(mix(customer&^1), uint64(len(d.heads)))
	return int(hi)
}

func (d *Dataset) insert(i int) {
	head := &d.heads[d.slot(d.customer[i])]
	d.next[i], *head = *head, int32(i)+1
}

func (d *Dataset) reindex() {
	d.heads = make([]int32, 16+d.Len()*5/4)
	for i := range d.observed {
		d.insert(i)
	}
}
