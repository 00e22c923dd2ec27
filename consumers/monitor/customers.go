package monitor

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// scored is a customer's newest score in the window. Nothing of it changes but its
// reasons: a newer score is another one.
type scored struct {
	place       // by the moment it speaks of
	version     int64
	probability float64
	attributes  scoring.Vector
	levels      scoring.Levels // those in attributes
	// reasons are kept by the computer, once it has been asked for them.
	reasons     []float64
	explainedBy *models.Version
}

// customer is what is kept of every customer.
type customer struct {
	asOf, scoredAt  int64 // milliseconds since 1970
	sourceOffset    int64
	sourcePartition int32
	known           bool // false in a free slot
	probability     float64
	// money is what the customer pays, in millionths; 0 where that is not known.
	money int64
}

// standing says how new the customer's score is.
func (c *customer) standing() intake.Standing {
	return intake.Standing{AsOf: c.asOf, ScoredAt: c.scoredAt, SourceOffset: c.sourceOffset, SourcePartition: c.sourcePartition}
}

// customers is what churn.scores says: the newest score of each customer, in any
// order of the customers. It is safe for concurrent use.
type customers struct {
	limit   int
	moneyOf int // position of the feature that says what a customer pays; −1 for none

	mu     sync.Mutex
	slot   map[string]int32
	all    []customer
	free   []int32
	recent newest[*scored]
	// By thresholds, which are the champion's.
	thresholds scoring.Thresholds
	byRisk     [3]int64
	money      [3]sum
}

// sum is a whole number without bounds that matter: its value and what has flown
// over.
type sum struct{ high, low int64 }

const sumBase = 1 << 32

func (s *sum) add(n int64) {
	s.high += n / sumBase
	s.low += n % sumBase
}

func (s *sum) float() float64 {
	high, low := s.high+s.low/sumBase, s.low%sumBase
	return float64(high)*sumBase + float64(low)
}

func newCustomers(limit, moneyOf int) *customers {
	return &customers{
		limit: limit, moneyOf: moneyOf, slot: map[string]int32{},
		recent: newest[*scored]{room: 2 * limit},
	}
}

// take takes a score. It copies what it keeps.
func (c *customers) take(s *schemas.ChurnScore) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, known := c.slot[string(s.CustomerID)]
	var id string
	if known {
		of := &c.all[i]
		if !intake.StandingOf(s).Supersedes(of.standing()) {
			return
		}
		id = string(s.CustomerID)
		p := placeOf(of.asOf, id)
		c.recent.remove(&p)
	} else {
		id = string(s.CustomerID)
		if n := len(c.free); n > 0 {
			i, c.free = c.free[n-1], c.free[:n-1]
		} else {
			i = int32(len(c.all))
			c.all = append(c.all, customer{})
		}
		c.slot[id] = i
	}
	c.tally(&c.all[i], -1)
	c.all[i] = customer{
		asOf: s.AsOf, scoredAt: s.ScoredAt, sourceOffset: s.SourceOffset, sourcePartition: s.SourcePartition, known: true,
		probability: s.Probability, money: c.pays(s),
	}
	c.tally(&c.all[i], 1)
	c.place(id, s)
}

// place brings a score into the window if there is room for it.
func (c *customers) place(id string, s *schemas.ChurnScore) {
	p := placeOf(s.AsOf, id)
	if !c.recent.admits(&p) {
		c.recent.drop(&p)
		return
	}
	c.recent.add(&scored{
		place: p, version: s.ModelVersion, probability: s.Probability,
		attributes: slices.Clone(s.Attributes), levels: levelsIn(s.Attributes, s.Levels),
	})
}

const (
	moneyUnit = 1e6
	// maxMoney bounds what one customer pays, so that sums cannot overflow: beyond
	// it is no amount of money.
	maxMoney = 1e9
)

// pays returns what a customer pays, in millionths: whole numbers add up to the
// same sum in any order.
func (c *customers) pays(s *schemas.ChurnScore) int64 {
	if c.moneyOf < 0 {
		return 0
	}
	amount := s.Attributes[c.moneyOf]
	if !(amount > 0) {
		return 0
	}
	return int64(min(amount, maxMoney)*moneyUnit + 0.5)
}

// erase forgets a customer, unless what is known is from after a tombstone in
// another partition, in which the customer was at home before: partitions are
// read in no order.
func (c *customers) erase(id []byte, partition int, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, known := c.slot[string(id)]
	if !known {
		return
	}
	of := &c.all[i]
	if of.standing().Outlives(partition, at) {
		return
	}
	p := placeOf(of.asOf, string(id))
	c.recent.remove(&p)
	c.tally(of, -1)
	*of = customer{}
	delete(c.slot, string(id))
	c.free = append(c.free, i)
}

// tally counts a customer, or counts it off.
func (c *customers) tally(of *customer, sign int64) {
	if of.known {
		risk := c.thresholds.Risk(of.probability)
		c.byRisk[risk] += sign
		c.money[risk].add(sign * of.money)
	}
}

// lacks reports whether so many customers were erased that the window lacks some
// for whom it once had no room.
func (c *customers) lacks() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recent.lacks(c.limit)
}

// refill has the window filled up from all the scores that there are, which are
// then offered.
func (c *customers) refill() (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recent.forget()
	return func() {}
}

// offer has the window take a score if it still is its customer's newest.
func (c *customers) offer(s *schemas.ChurnScore) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, known := c.slot[string(s.CustomerID)]
	if !known {
		return
	}
	of := &c.all[i]
	if of.asOf == s.AsOf && of.sourcePartition == s.SourcePartition && of.sourceOffset == s.SourceOffset &&
		of.scoredAt == s.ScoredAt && of.probability == s.Probability {
		c.place(string(s.CustomerID), s)
	}
}

func (c *customers) count() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.slot))
}

// shownCustomers is what there is at a moment.
type shownCustomers struct {
	rows rows[*scored]
	// byRisk counts all customers by the champion's thresholds, money is what they
	// pay.
	byRisk [3]int64
	money  [3]float64
}

// show returns what there is now.
func (c *customers) show(before *shownCustomers, champion *models.Version) *shownCustomers {
	thresholds := scoring.Thresholds{Medium: scoring.DefaultMediumThreshold, High: scoring.DefaultHighThreshold}
	if champion != nil {
		thresholds = scoring.Thresholds{Medium: champion.MediumThreshold, High: champion.HighThreshold}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.thresholds != thresholds {
		c.thresholds, c.byRisk, c.money = thresholds, [3]int64{}, [3]sum{}
		for i := range c.all {
			c.tally(&c.all[i], 1)
		}
	}
	s := &shownCustomers{rows: c.recent.show(c.limit, before.rows), byRisk: c.byRisk}
	for risk := range c.money {
		s.money[risk] = c.money[risk].float() / moneyUnit
	}
	return s
}

// expect returns what the scores of each version let expect, newest first.
func expect(rows []*scored) []expected {
	byVersion := map[int64][]float64{}
	for _, s := range rows {
		byVersion[s.version] = append(byVersion[s.version], s.probability)
	}
	versions := slices.Sorted(maps.Keys(byVersion))
	slices.Reverse(versions)
	var all []expected
	for _, version := range versions[:min(len(versions), maxVersions)] {
		all = append(all, expected{version, evaluation.Expect(byVersion[version])})
	}
	return all
}
