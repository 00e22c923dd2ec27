package scoring

import (
	"cmp"
	"slices"
)

// RecentEvents is how many of a customer's last events are remembered, so that
// an event that arrives twice counts once. A duplicate is recognised as long as
// fewer than this many other events of the customer lie between the two.
const RecentEvents = 4

// HashEvent returns the hash under which an event is remembered: 64-bit FNV-1a
// of the event's identity, with 1 in place of 0, which means "no event". It is
// part of what scores carry and so never changes.
func HashEvent(id []byte) int64 {
	return cmp.Or(int64(Hash(id)), 1)
}

// Change is what one event does to a customer.
type Change struct {
	// EventHash is HashEvent of the event's identity; 0 for a change without
	// one, which then is never taken for a duplicate.
	EventHash int64
	// OccurredAt is when the change happened, in milliseconds since 1970 UTC.
	OccurredAt int64
	// Set holds new values and Add amounts to add to numeric ones; Missing
	// leaves an attribute alone. Either may be nil. A value that is both set
	// and added to is set first.
	Set, Add Vector
}

// Applied says what Customer.Apply did with a change.
type Applied struct {
	// Applied is false for a duplicate, which changes nothing.
	Applied bool
	// LateAttributes counts values and amounts that came too late: the
	// attribute was set at a later time already.
	LateAttributes int
	// BaselessIncrements counts amounts for attributes that were never set.
	// They are dropped: what they should be added to is not known.
	BaselessIncrements int
	// Saturated counts attributes to which more was added than MaxNumber
	// holds. They stay at MaxNumber, or at −MaxNumber.
	Saturated int
}

// Customer is the state of one customer: the current attributes, when each was
// set, the last few events, and the last probability.
//
// Attributes are kept by last-writer-wins on the time at which a change
// occurred, each by itself; of two changes at the same time, the one that
// arrives later wins. An amount to add counts unless the attribute was set at a
// later time, since that value contains it; it leaves the set time alone.
//
// Values, Probability, Ages and RecentEvents are the whole state: a customer
// restored from them behaves as the original does.
type Customer struct {
	// Values are the current attributes.
	Values Vector
	// Probability is the last churn probability, Missing before the first.
	// Apply leaves it alone.
	Probability float64

	// setAt is when all present attributes were set, as long as no two were set
	// at different times; most customers never need a time per attribute.
	setAt  int64
	differ bool
	times  []int64 // by attribute; holds while differ is set

	recent [RecentEvents]int64 // newest first, 0 = none
}

// NewCustomer returns a customer of whom nothing is known yet, with the given
// number of features.
func NewCustomer(features int) *Customer {
	return &Customer{Values: NewVector(features), Probability: Missing}
}

// Apply makes a change. It allocates only when set times differ for the first
// time since NewCustomer, however often the customer is restored.
func (c *Customer) Apply(ch *Change) Applied {
	if ch.EventHash != 0 {
		for _, h := range c.recent {
			if h == ch.EventHash {
				return Applied{}
			}
		}
		copy(c.recent[1:], c.recent[:RecentEvents-1])
		c.recent[0] = ch.EventHash
	}
	result := Applied{Applied: true}
	if !c.differ && ch.OccurredAt != c.setAt {
		c.moveSharedTime(ch)
	}
	for i, v := range ch.Set {
		if IsMissing(v) {
			continue
		}
		if c.setLater(i, ch.OccurredAt) {
			result.LateAttributes++
			continue
		}
		c.Values[i] = v
		if c.differ {
			c.times[i] = ch.OccurredAt
		}
	}
	for i, v := range ch.Add {
		switch {
		case IsMissing(v):
		case IsMissing(c.Values[i]):
			result.BaselessIncrements++
		case c.setLater(i, ch.OccurredAt):
			result.LateAttributes++
		default:
			sum := c.Values[i] + v
			c.Values[i] = min(max(sum, -MaxNumber), MaxNumber)
			if c.Values[i] != sum {
				result.Saturated++
			}
		}
	}
	return result
}

// setLater reports whether attribute i was set at a later time than t.
func (c *Customer) setLater(i int, t int64) bool {
	if IsMissing(c.Values[i]) {
		return false
	}
	if c.differ {
		return c.times[i] > t
	}
	return c.setAt > t
}

// moveSharedTime prepares the shared set time for a change at another time:
// it moves there if the change sets all that is present, stays if the change
// sets nothing, and else gives way to a time for each attribute.
func (c *Customer) moveSharedTime(ch *Change) {
	setsAny, setsAll := false, true
	for i, old := range c.Values {
		sets := i < len(ch.Set) && !IsMissing(ch.Set[i]) && !c.setLater(i, ch.OccurredAt)
		setsAny = setsAny || sets
		setsAll = setsAll && (sets || IsMissing(old))
	}
	switch {
	case !setsAny:
	case setsAll:
		c.setAt = ch.OccurredAt
	default:
		c.splitTimes(len(c.Values))
		for i := range c.times {
			c.times[i] = c.setAt
		}
	}
}

// splitTimes prepares a time for each of n attributes, in the memory there is.
func (c *Customer) splitTimes(n int) {
	c.times = slices.Grow(c.times[:0], n)[:n]
	c.differ = true
}

// Ages appends how long before occurredAt each attribute was set (in
// milliseconds; negative if later), in the order of the features and 0 where
// the value is missing. It appends nothing when all attributes were set at
// occurredAt.
func (c *Customer) Ages(dst []int64, occurredAt int64) []int64 {
	start, differ := len(dst), false
	for i, v := range c.Values {
		age := int64(0)
		if !IsMissing(v) {
			age = occurredAt - c.setAt
			if c.differ {
				age = occurredAt - c.times[i]
			}
		}
		differ = differ || age != 0
		dst = append(dst, age)
	}
	if !differ {
		return dst[:start]
	}
	return dst
}

// RecentEvents appends the hashes of the last events, newest first.
func (c *Customer) RecentEvents(dst []int64) []int64 {
	for _, h := range c.recent {
		if h != 0 {
			dst = append(dst, h)
		}
	}
	return dst
}

// Restore sets the whole state from what a score carries: the attributes, the
// time of its event, the ages as Ages gives them, the hashes as RecentEvents
// gives them, and the probability. The arguments are copied, into the memory
// that the customer has; values may be the customer's own Values. It allocates
// only where that memory is too small.
func (c *Customer) Restore(values Vector, occurredAt int64, ages, recent []int64, probability float64) {
	c.Values = append(c.Values[:0], values...)
	c.Probability = probability
	c.recent = [RecentEvents]int64{}
	copy(c.recent[:], recent)
	c.setAt, c.differ = occurredAt, false
	first := true
	for i, age := range ages {
		if i >= len(values) || IsMissing(values[i]) {
			continue
		}
		at := occurredAt - age
		if first {
			c.setAt, first = at, false
		} else if at != c.setAt {
			c.splitTimes(len(values))
			break
		}
	}
	if !c.differ {
		return
	}
	for i := range c.times {
		c.times[i] = occurredAt
		if i < len(ages) {
			c.times[i] -= ages[i]
		}
	}
}
