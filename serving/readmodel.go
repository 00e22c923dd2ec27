package serving

import (
	"bytes"
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

const (
	// historyLength is how many probabilities of a customer are kept.
	historyLength = 20
	// listRefresh is how old a list may be before it is selected anew.
	listRefresh = time.Second
	// maxLists bounds the number of lists kept at a time.
	maxLists = 64
	// maxDepth bounds offset + limit of a list.
	maxDepth = 10_000
	// scanChunk is how many customers are looked at between two moments in
	// which writers may go on: well under a millisecond.
	scanChunk = 8192
)

// Customer is a customer's latest score as the read model keeps it: without the
// event's id and what only the scorer goes on from. It never changes: a newer
// score is another Customer.
type Customer struct{ schemas.ChurnScore }

// ID returns the customer's id.
func (c *Customer) ID() string { return string(c.CustomerID) }

// newCustomer copies what it keeps of a score, but for the customer's id, which
// the caller has or copies.
func newCustomer(s *schemas.ChurnScore) *Customer {
	c := &Customer{*s}
	c.EventID, c.AttributeAges, c.RecentEvents = nil, nil, nil
	c.Risk = min(s.Risk, schemas.RiskHigh)
	c.Levels = slices.Clone(s.Levels)
	c.Explanations, c.Missing, c.Attributes = slices.Clone(s.Explanations), nil, slices.Clone(s.Attributes)
	if len(s.Missing) > 0 {
		c.Missing = slices.Clone(s.Missing)
	}
	return c
}

// supersedes reports whether c takes the place of the customer's score so far,
// unlike one that is older or the same.
func (c *Customer) supersedes(old *Customer) bool {
	mine, before := c.standing(), old.standing()
	return mine.Supersedes(before) && (c.ModelVersion != old.ModelVersion || !mine.SameEvent(before))
}

func (c *Customer) standing() intake.Standing {
	return intake.Standing{AsOf: c.AsOf, ScoredAt: c.ScoredAt, SourceOffset: c.SourceOffset, SourcePartition: c.SourcePartition}
}

// Point is one past probability of a customer. Points are kept small: times to
// the second, probabilities to six digits.
type Point struct {
	seconds     uint32
	probability float32
}

// At returns when the score was computed, to the second.
func (p Point) At() time.Time { return time.Unix(int64(p.seconds), 0).UTC() }

// Probability returns the probability, rounded to six decimals.
func (p Point) Probability() float64 {
	return math.Round(float64(p.probability)*1e6) / 1e6
}

// Order is the order of a list.
type Order uint8

const (
	// ByProbability lists the highest probability first.
	ByProbability Order = iota
	// ByRecency lists the latest score first.
	ByRecency
)

// AnyRisk is the risk filter that lets everyone pass.
const AnyRisk = schemas.Risk(math.MaxUint8)

// Query selects customers. The zero value asks for nobody at low risk; see
// AnyRisk and Limit.
type Query struct {
	// Risk keeps the customers at one risk, or everyone with AnyRisk.
	Risk schemas.Risk
	// Text keeps the customers whose id contains it, ASCII letters compared
	// without regard to case.
	Text string
	// Order is the order of the list.
	Order Order
	// Limit and Offset cut out a page. Customers beyond position 10,000
	// cannot be listed.
	Limit, Offset int
}

// Page is a part of a list.
type Page struct {
	// Customers is shared and must not be changed.
	Customers []*Customer
	// Total is how many customers the query selects on all pages.
	Total int
}

// ReadModel is the materialised view of churn.scores: the latest score of every
// customer, with a short history. It is safe for concurrent use.
//
// What lists are selected by is kept in columns, one element per customer, so
// that a list of the first few of a million customers is one pass over a few
// megabytes, a piece at a time. Lists are kept for a second.
type ReadModel struct {
	mu     sync.RWMutex
	slot   map[string]uint32
	free   []uint32 // slots of erased customers
	counts [3]int

	// Columns, by slot. latest is nil in a free slot, and its id "".
	ids         []string
	probability []float64
	scoredAt    []int64
	latest      []*Customer
	history     [][]Point // oldest first

	generation atomic.Uint64 // counts the changes
	arrivals   rate
	caughtUp   chan struct{}
	once       sync.Once

	lists   sync.Mutex
	byQuery map[listKey]*list

	now     func() time.Time
	refresh time.Duration
}

type listKey struct {
	risk  schemas.Risk
	order Order
	text  string
}

// list is the head of a sorted selection.
type list struct {
	mu         sync.Mutex // held while selecting, so that one request does it
	depth      int        // how many customers were asked for; 0 = never filled
	at         time.Time
	generation uint64
	customers  []*Customer
	total      int
}

// NewReadModel returns an empty read model.
func NewReadModel() *ReadModel {
	return &ReadModel{
		slot:     map[string]uint32{},
		byQuery:  map[listKey]*list{},
		caughtUp: make(chan struct{}),
		now:      time.Now,
		refresh:  listRefresh,
	}
}

// Apply takes over a score; it copies what it keeps. It reports false for a
// score that is older than, or the same as, what is known of the customer: the
// one that speaks of the later moment is newer, and of those the one with the
// higher source position. The identity of a score is its source position, its
// model version and its moment.
func (m *ReadModel) Apply(s *schemas.ChurnScore) bool {
	c := newCustomer(s)
	point := Point{seconds: uint32(min(max(s.ScoredAt/1000, 0), math.MaxUint32)), probability: float32(s.Probability)}

	m.mu.Lock()
	defer m.mu.Unlock()
	i, known := m.slot[string(s.CustomerID)]
	if known {
		old := m.latest[i]
		// A paused former owner of a partition may have written after its
		// successor began.
		if !c.supersedes(old) {
			return false
		}
		c.CustomerID = old.CustomerID
		m.counts[old.Risk]--
		h := m.history[i]
		if len(h) == historyLength {
			copy(h, h[1:])
			h[historyLength-1] = point
		} else {
			m.history[i] = append(h, point)
		}
	} else {
		if n := len(m.free); n > 0 {
			i, m.free = m.free[n-1], m.free[:n-1]
		} else {
			i = uint32(len(m.latest))
			m.ids = append(m.ids, "")
			m.probability = append(m.probability, 0)
			m.scoredAt = append(m.scoredAt, 0)
			m.latest = append(m.latest, nil)
			m.history = append(m.history, nil)
		}
		c.CustomerID = bytes.Clone(s.CustomerID)
		m.ids[i] = string(s.CustomerID)
		m.slot[m.ids[i]] = i
		m.history[i] = []Point{point}
	}
	m.probability[i], m.scoredAt[i], m.latest[i] = c.Probability, c.ScoredAt, c
	m.counts[c.Risk]++
	m.generation.Add(1)
	return true
}

// outlives reports whether what is known of a customer is from after a tombstone
// in another partition, in which the customer was at home before: partitions are
// read in no order.
func (m *ReadModel) outlives(id []byte, partition int, at time.Time) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	i, known := m.slot[string(id)]
	return known && m.latest[i].standing().Outlives(partition, at)
}

// Erase forgets a customer, and reports whether there was one to forget.
func (m *ReadModel) Erase(id []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, known := m.slot[string(id)]
	if !known {
		return false
	}
	m.counts[m.latest[i].Risk]--
	delete(m.slot, m.ids[i])
	m.ids[i] = ""
	m.latest[i], m.history[i] = nil, nil
	m.free = append(m.free, i)
	m.generation.Add(1)

	// Whoever asked to be forgotten is not to be found in a kept list either.
	m.lists.Lock()
	clear(m.byQuery)
	m.lists.Unlock()
	return true
}

// Get returns a customer with the probabilities of the last scores, oldest
// first and the latest included, or nil.
func (m *ReadModel) Get(id string) (*Customer, []Point) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	i, known := m.slot[id]
	if !known {
		return nil, nil
	}
	return m.latest[i], slices.Clone(m.history[i])
}

// Counts returns the number of customers by risk.
func (m *ReadModel) Counts() [3]int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.counts
}

// Known returns the number of customers.
func (m *ReadModel) Known() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.slot)
}

// Generation returns a number that grows with every change.
func (m *ReadModel) Generation() uint64 { return m.generation.Load() }

// Rate returns how many scores per second arrived lately. What is read to catch
// up does not count.
func (m *ReadModel) Rate() float64 { return m.arrivals.perSecond(m.now()) }

// CaughtUp is closed once everything that was in the topic at the start has
// been read.
func (m *ReadModel) CaughtUp() <-chan struct{} { return m.caughtUp }

func (m *ReadModel) isCaughtUp() bool {
	select {
	case <-m.caughtUp:
		return true
	default:
		return false
	}
}

// List answers a query. The answer may be a second old, but never shows an
// erased customer.
func (m *ReadModel) List(q Query) Page {
	offset := min(max(q.Offset, 0), maxDepth)
	end := min(offset+min(max(q.Limit, 0), maxDepth), maxDepth)
	key := listKey{risk: q.Risk, order: q.Order, text: lower(q.Text)}

	m.lists.Lock()
	l := m.byQuery[key]
	if l == nil {
		if len(m.byQuery) >= maxLists {
			clear(m.byQuery)
		}
		l = &list{}
		m.byQuery[key] = l
	}
	m.lists.Unlock()

	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := l.generation == m.Generation() || m.now().Sub(l.at) < m.refresh
	if l.depth < end || l.depth == 0 || !fresh {
		// Somewhat deeper than asked for, so that the next page is there too.
		l.depth = min(max(end, 2*end, 128), maxDepth)
		l.at = m.now()
		l.generation = m.Generation()
		l.customers, l.total = m.selectFirst(key, l.depth)
	}
	n := len(l.customers)
	return Page{Customers: l.customers[min(offset, n):min(end, n)], Total: l.total}
}

// selectFirst returns the first n customers of a list, and how many there are
// in all.
func (m *ReadModel) selectFirst(key listKey, n int) (first []*Customer, total int) {
	before := byProbability
	if key.order == ByRecency {
		before = byRecency
	}
	// Candidates gather until there are twice as many as wanted, then the
	// worse half goes. From then on most customers fail against the last of
	// the better half, mostly by one comparison in a column.
	var last *Customer
	prune := func() {
		slices.SortFunc(first, before)
		if len(first) >= n {
			first = slices.Delete(first, n, len(first))
			last = first[n-1]
		}
	}
	m.mu.RLock()
	slots := len(m.latest)
	if key.text == "" {
		total = len(m.slot)
		if key.risk != AnyRisk {
			total = m.counts[key.risk]
		}
	}
	m.mu.RUnlock()
	// From the last slot to the first: in a topic read for the first time the
	// latest scores come last, and the sooner the best are seen the less there
	// is to sort.
	for end := slots; end > 0; end -= scanChunk {
		m.mu.RLock()
		for i := end - 1; i >= max(end-scanChunk, 0); i-- {
			if last != nil && key.text == "" && // else all must be counted
				(key.order == ByProbability && m.probability[i] < last.Probability ||
					key.order == ByRecency && m.scoredAt[i] < last.ScoredAt) {
				continue
			}
			if key.text != "" && !containsFold(m.ids[i], key.text) {
				continue
			}
			c := m.latest[i]
			if c == nil || key.risk != AnyRisk && c.Risk != key.risk {
				continue
			}
			if key.text != "" {
				total++
			}
			if last != nil && before(last, c) < 0 {
				continue
			}
			if first = append(first, c); len(first) == 2*n {
				prune()
			}
		}
		m.mu.RUnlock()
	}
	prune()
	return first, total
}

func byProbability(a, b *Customer) int {
	return cmp.Or(
		cmp.Compare(b.Probability, a.Probability),
		cmp.Compare(b.ScoredAt, a.ScoredAt),
		bytes.Compare(a.CustomerID, b.CustomerID))
}

func byRecency(a, b *Customer) int {
	return cmp.Or(cmp.Compare(b.ScoredAt, a.ScoredAt), bytes.Compare(a.CustomerID, b.CustomerID))
}

// containsFold reports whether s contains sub, which must be in lower case as
// far as ASCII goes. It allocates nothing, unlike lowering s.
func containsFold(s, sub string) bool {
	for i := 0; i+len(sub) <= len(s); i++ {
		j := 0
		for j < len(sub) && lowerByte(s[i+j]) == sub[j] {
			j++
		}
		if j == len(sub) {
			return true
		}
	}
	return false
}

func lower(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = lowerByte(b[i])
	}
	return string(b)
}

func lowerByte(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

// rate counts arrivals by second over the last few seconds.
type rate struct {
	mu     sync.Mutex
	second [rateWindow + 1]int64
	count  [rateWindow + 1]int
}

// rateWindow is over how many whole seconds a rate is taken.
const rateWindow = 10

func (r *rate) add(now time.Time, n int) {
	s := now.Unix()
	i := s % int64(len(r.second))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.second[i] != s {
		r.second[i], r.count[i] = s, 0
	}
	r.count[i] += n
}

// perSecond leaves out the second that is still running.
func (r *rate) perSecond(now time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, s := 0, now.Unix()
	for i, at := range r.second {
		if at < s && at >= s-rateWindow {
			n += r.count[i]
		}
	}
	return float64(n) / rateWindow
}

// Tailer reads every partition of some topics from the first record on, each
// partition in order. kafka.Cluster is one.
type Tailer interface {
	Tail(ctx context.Context, cfg kafka.TailConfig, handle func(context.Context, []kafka.Record) error) error
}

// follow keeps the read model up to date until ctx ends.
func (s *Server) follow(ctx context.Context) error {
	scores := intake.Scores(s.codec, s.owners)
	scores.Poison = s.intake.PassOver(func(_ string, reason schemas.Reason) {
		result := "undecodable"
		if reason == schemas.ReasonForeign || reason == schemas.ReasonKeyMismatch {
			result = "foreign"
		}
		s.metrics.records.WithLabelValues(result).Inc()
	})
	handle := intake.Handle(s.intake, scores, s.take)
	return s.tailer.Tail(ctx, kafka.TailConfig{
		Topics: []string{schemas.TopicScores},
		Reader: "serving",
		OnCaughtUp: func() {
			s.customers.once.Do(func() { close(s.customers.caughtUp) })
			s.progress()
			s.log.Info("read model caught up", "customers", s.customers.Known())
		},
	}, func(ctx context.Context, records []kafka.Record) error {
		err := handle(ctx, records)
		if !s.customers.isCaughtUp() {
			s.progress()
		}
		return err
	})
}

// take brings a score into the read model, or takes a customer out of it.
func (s *Server) take(_ context.Context, r *kafka.Record, score *schemas.ChurnScore) error {
	result := ""
	switch {
	case score == nil && s.customers.outlives(r.Key, r.Partition, r.Time):
		result = "stale"
	case score == nil && s.customers.Erase(r.Key):
		result = "erased"
	case score == nil:
		return nil
	case s.customers.Apply(score):
		result = "applied"
		if s.customers.isCaughtUp() {
			s.customers.arrivals.add(s.customers.now(), 1)
		}
	default:
		result = "stale"
	}
	s.metrics.records.WithLabelValues(result).Inc()
	return nil
}
