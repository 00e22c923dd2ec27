package serving

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

func plainScore(id string, offset int64, probability float64, risk schemas.Risk) *schemas.ChurnScore {
	return &schemas.ChurnScore{CustomerID: []byte(id), SourceOffset: offset, ScoredAt: 1000 * offset,
		Probability: probability, Previous: scoring.Missing, Risk: risk, ModelVersion: 1}
}

// Random scores and erasures must leave the read model as a plain map and a
// full sort have it.
func TestReadModelAgainstPlainMap(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		m := NewReadModel()
		m.refresh = 0
		type known struct {
			score   *schemas.ChurnScore
			history []float64
		}
		plain := map[string]*known{}
		for step := range int64(3000) {
			id := fmt.Sprintf("C%d", rnd.IntN(400))
			if rnd.IntN(10) == 0 {
				_, had := plain[id]
				if m.Erase([]byte(id)) != had {
					t.Fatalf("seed %d: erasing %s", seed, id)
				}
				delete(plain, id)
			} else {
				// Few different probabilities and times, so that there are ties.
				s := plainScore(id, step, float64(rnd.IntN(8))/8, schemas.Risk(rnd.IntN(3)))
				s.ScoredAt = step / 5
				if !m.Apply(s) {
					t.Fatalf("seed %d: a new score of %s was refused", seed, id)
				}
				k := plain[id]
				if k == nil {
					k = &known{}
					plain[id] = k
				}
				k.score, k.history = s, append(k.history, s.Probability)
				k.history = k.history[max(0, len(k.history)-historyLength):]
			}
			if step%500 != 499 {
				continue
			}
			var counts [3]int
			for _, k := range plain {
				counts[k.score.Risk]++
			}
			if m.Counts() != counts || m.Known() != len(plain) {
				t.Fatalf("seed %d: counts %v of %d, want %v of %d", seed, m.Counts(), m.Known(), counts, len(plain))
			}
			for _, q := range []Query{
				{Risk: AnyRisk, Limit: 30},
				{Risk: AnyRisk, Order: ByRecency, Limit: 7, Offset: 5},
				{Risk: schemas.RiskHigh, Limit: 10, Offset: 3},
				{Risk: schemas.RiskLow, Text: "c1", Limit: 1000},
				{Risk: AnyRisk, Text: "9", Order: ByRecency, Limit: 4, Offset: 2},
				{Risk: AnyRisk, Limit: 5, Offset: 5000},
			} {
				var want []string
				for id, k := range plain {
					if (q.Risk == AnyRisk || k.score.Risk == q.Risk) && strings.Contains(strings.ToLower(id), q.Text) {
						want = append(want, id)
					}
				}
				slices.SortFunc(want, func(a, b string) int {
					x, y := plain[a].score, plain[b].score
					if q.Order == ByProbability && x.Probability != y.Probability {
						return map[bool]int{true: -1, false: 1}[x.Probability > y.Probability]
					}
					if x.ScoredAt != y.ScoredAt {
						return int(y.ScoredAt - x.ScoredAt)
					}
					return strings.Compare(a, b)
				})
				page := m.List(q)
				if page.Total != len(want) {
					t.Fatalf("seed %d, %+v: total %d, want %d", seed, q, page.Total, len(want))
				}
				var got []string
				for _, c := range page.Customers {
					got = append(got, c.ID())
				}
				want = want[min(q.Offset, len(want)):min(q.Offset+q.Limit, len(want))]
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d, %+v:\n got %v\nwant %v", seed, q, got, want)
				}
			}
		}
		for id, k := range plain {
			c, history := m.Get(id)
			var got []float64
			for _, p := range history {
				got = append(got, p.Probability())
			}
			if c == nil || c.Probability != k.score.Probability || !slices.Equal(got, k.history) {
				t.Fatalf("seed %d: %s is %+v with %v, want %v", seed, id, c, got, k.history)
			}
		}
	}
}

func TestReadModelKeepsTheLatest(t *testing.T) {
	m := NewReadModel()
	apply := func(offset, version int64, probability float64) bool {
		s := plainScore("ann", offset, probability, schemas.RiskLow)
		s.ModelVersion = version
		return m.Apply(s)
	}
	for i, tc := range []struct {
		offset, version int64
		probability     float64
		want            bool
	}{
		{5, 1, 0.1, true},
		{5, 1, 0.2, false}, // the same again
		{4, 1, 0.3, false}, // older
		{5, 2, 0.4, true},  // the same event by another model
		{9, 1, 0.5, true},
	} {
		if got := apply(tc.offset, tc.version, tc.probability); got != tc.want {
			t.Errorf("%d: Apply = %v", i, got)
		}
	}
	if c, history := m.Get("ann"); c.Probability != 0.5 || len(history) != 3 {
		t.Errorf("probability %v after %d", c.Probability, len(history))
	}
	// Another source partition has its own offsets.
	s := plainScore("ann", 2, 0.7, schemas.RiskHigh)
	s.SourcePartition, s.AsOf = 3, s.AsOf+1
	if !m.Apply(s) {
		t.Error("a score of another partition was refused")
	}
}

func TestReadModelCopies(t *testing.T) {
	m := NewReadModel()
	s := plainScore("ann", 1, 0.3, schemas.RiskLow)
	s.Attributes = scoring.Vector{1, 2}
	s.Missing = []int{1}
	s.Explanations = []schemas.Explanation{{Feature: 1, LIME: 0.5}}
	m.Apply(s)
	s.CustomerID[0], s.Attributes[0], s.Missing[0], s.Explanations[0].LIME = 'x', 9, 0, 9
	c, _ := m.Get("ann")
	if c == nil || c.Attributes[0] != 1 || c.Missing[0] != 1 || c.Explanations[0].LIME != 0.5 {
		t.Errorf("customer %+v", c)
	}
}

// A list is selected at most once per second, but an erased customer leaves it at
// once.
func TestListsAreKeptForASecond(t *testing.T) {
	m := NewReadModel()
	now := time.Unix(1_700_000_000, 0)
	m.now = func() time.Time { return now }
	ids := func() string {
		var s string
		for _, c := range m.List(Query{Risk: AnyRisk, Limit: 10}).Customers {
			s += c.ID()
		}
		return s
	}
	m.Apply(plainScore("a", 1, 0.5, schemas.RiskLow))
	if got := ids(); got != "a" {
		t.Fatal(got)
	}
	m.Apply(plainScore("b", 2, 0.9, schemas.RiskLow))
	now = now.Add(listRefresh - 1)
	if got := ids(); got != "a" {
		t.Errorf("within the second: %s", got)
	}
	now = now.Add(1)
	if got := ids(); got != "ba" {
		t.Errorf("after the second: %s", got)
	}
	m.Erase([]byte("b"))
	if got := ids(); got != "a" {
		t.Errorf("after erasing b: %s", got)
	}
	for i := range 3 * maxLists {
		m.List(Query{Risk: AnyRisk, Text: fmt.Sprint(i), Limit: 1})
	}
	if n := len(m.byQuery); n > maxLists {
		t.Errorf("%d lists are kept", n)
	}
}

func TestReadModelConcurrently(t *testing.T) {
	m := NewReadModel()
	m.refresh = 0
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for w := range 3 {
		writers.Go(func() {
			for i := range 4000 {
				id := fmt.Sprintf("%d-%d", w, i%500)
				if i%50 == 49 {
					m.Erase([]byte(id))
				} else {
					m.Apply(plainScore(id, int64(i), float64(i%97)/97, schemas.Risk(i%3)))
				}
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				page := m.List(Query{Risk: AnyRisk, Limit: 50})
				if !slices.IsSortedFunc(page.Customers, byProbability) {
					t.Error("the list is out of order")
				}
				m.Get("1-7")
				m.Counts()
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	total := 0
	for _, n := range m.Counts() {
		total += n
	}
	if total != m.Known() || m.List(Query{Risk: AnyRisk}).Total != total {
		t.Errorf("%d by risk, %d known", total, m.Known())
	}
}

func TestRate(t *testing.T) {
	var r rate
	at := time.Unix(1_700_000_000, 0)
	for i := range 30 {
		r.add(at.Add(time.Duration(i)*time.Second), 5)
	}
	if got := r.perSecond(at.Add(30 * time.Second)); got != 5 {
		t.Errorf("rate %v, want 5", got)
	}
	if got := r.perSecond(at.Add(35 * time.Second)); got != 2.5 {
		t.Errorf("rate %v five silent seconds later, want 2.5", got)
	}
	if got := r.perSecond(at.Add(time.Hour)); got != 0 {
		t.Errorf("rate %v an hour later, want 0", got)
	}
}

func million(b *testing.B) *ReadModel {
	m := NewReadModel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 1_000_000 {
		p := rnd.Float64()
		s := plainScore(fmt.Sprintf("%04d-CUST-%d", i%9999, i), int64(i), p, schemas.Risk(3*p))
		m.Apply(s)
	}
	b.ResetTimer()
	return m
}

func BenchmarkSelectOfAMillion(b *testing.B) {
	m := million(b)
	for name, key := range map[string]listKey{
		"probability": {risk: AnyRisk},
		"recent":      {risk: AnyRisk, order: ByRecency},
		"high":        {risk: schemas.RiskHigh},
		"search":      {risk: AnyRisk, text: "77-cust"},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				m.selectFirst(key, 128)
			}
		})
	}
}

func BenchmarkListOfAMillion(b *testing.B) {
	m := million(b)
	for b.Loop() {
		m.List(Query{Risk: AnyRisk, Limit: 25})
	}
}

func BenchmarkApply(b *testing.B) {
	m := NewReadModel()
	s := plainScore("", 0, 0.5, schemas.RiskLow)
	s.Attributes = scoring.NewVector(19)
	s.Explanations = make([]schemas.Explanation, 5)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.CustomerID = fmt.Appendf(s.CustomerID[:0], "C%d", i%100_000)
		s.SourceOffset = int64(i)
		m.Apply(s)
	}
}

// Partitions are read in no order: the tombstone in a customer's former partition
// and the score of before may come last.
func TestFormerPartitionIsReadLast(t *testing.T) {
	m := NewReadModel()
	s := plainScore("c", 5, 0.5, schemas.RiskLow)
	s.SourcePartition, s.ScoredAt, s.ModelVersion = 3, 2000, 2
	m.Apply(s)
	for _, test := range []struct {
		partition int
		at        int64
		want      bool
	}{{1, 1999, true}, {1, 2000, false}, {3, 1999, false}} {
		if got := m.outlives([]byte("c"), test.partition, time.UnixMilli(test.at)); got != test.want {
			t.Errorf("a tombstone of partition %d at %d: %v", test.partition, test.at, got)
		}
	}
	if m.outlives([]byte("nobody"), 1, time.UnixMilli(0)) {
		t.Error("nobody outlives a tombstone")
	}
	before := plainScore("c", 5, 0.25, schemas.RiskLow)
	before.SourcePartition, before.ScoredAt, before.ModelVersion = 3, 1000, 1
	if m.Apply(before) {
		t.Error("the score that was made again under the model of today gave way to the one of before")
	}
}

// What speaks of a later moment takes the place of what is known of a customer,
// whatever its offset is in another partition.
func TestLaterMomentSupersedes(t *testing.T) {
	known := plainScore("c", 5, 0.5, schemas.RiskLow)
	known.AsOf, known.ModelVersion = 1000, 2
	for _, test := range []struct {
		name                string
		asOf, offset, model int64
		partition           int32
		want                bool
	}{
		{"the same again", 1000, 5, 2, 0, false},
		{"time that passed", 2000, 5, 2, 0, true},
		{"a later event", 2000, 6, 2, 0, true},
		{"a later event of the same moment", 1000, 6, 2, 0, true},
		{"an earlier event", 1000, 4, 2, 0, false},
		{"an earlier moment", 900, 5, 2, 0, false},
		{"an earlier moment under another model", 900, 5, 3, 0, false},
		{"a later model", 1000, 5, 3, 0, true},
		{"back to the model of before", 1000, 5, 1, 0, true},
		{"a later moment in another partition", 1001, 1, 2, 1, true},
		{"an earlier moment in another partition", 999, 9, 3, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := NewReadModel()
			m.Apply(known)
			s := plainScore("c", test.offset, 0.75, schemas.RiskHigh)
			s.AsOf, s.ModelVersion, s.SourcePartition = test.asOf, test.model, test.partition
			if got := m.Apply(s); got != test.want {
				t.Errorf("got %v", got)
			}
			if c, _ := m.Get("c"); (c.Probability == 0.75) != test.want {
				t.Errorf("the probability is %v", c.Probability)
			}
		})
	}
}
