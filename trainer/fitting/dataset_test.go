package fitting

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/churnstream/churnstream/scoring"
)

func TestCustomerHashIsStable(t *testing.T) {
	// Holdouts and folds depend on it: it must not change from one release to
	// the next.
	for id, want := range map[string]uint64{"": 0xefd01f60ba992926, "C-00001": 0x47b6552c1033eae2} {
		got := CustomerHash([]byte(id))
		if got&1 != 0 {
			t.Errorf("%q: odd hash %x", id, got)
		}
		if got != want {
			t.Errorf("%q: hash %#x, want %#x", id, got, want)
		}
	}
}

// A dataset does what a map of maps does, only smaller.
func TestDatasetHoldsWhatCustomersHave(t *testing.T) {
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "plan", Kind: scoring.Categorical}, {Name: "bill"}})
	if err != nil {
		t.Fatal(err)
	}
	const limit = 160
	d := NewDataset(scoring.NewVocabulary(spec), limit)
	const decisive = 25
	d.DecideBy(decisive)
	type key = moment
	type row struct {
		Example
		fresh bool
	}
	want := make(map[key]row)
	shedThrough := key{math.MinInt64, 0}
	r := rand.New(rand.NewPCG(4, 4))
	ordered := func() []key { return slices.SortedFunc(maps.Keys(want), key.compare) }
	check := func() {
		t.Helper()
		if d.Len() != len(want) {
			t.Fatalf("%d examples, want %d", d.Len(), len(want))
		}
		through := int64(0)
		x := scoring.NewVector(2)
		for i := range d.Len() {
			w, ok := want[d.moment(i)]
			d.Attributes(i, x)
			if !ok || w.Churned != d.Churned(i) || w.Horizon != d.Horizon(i) || w.Attributes[1] != x[1] || (w.Attributes[0] != x[0] && !(scoring.IsMissing(w.Attributes[0]) && scoring.IsMissing(x[0]))) {
				t.Fatalf("example %d is %v %v, want %v", i, d.Churned(i), x, w)
			}
			through = max(through, w.LabelledAt)
			if at, found := d.Find(d.customer[i], d.ObservedAt(i)); !found || at != i {
				t.Fatalf("example %d is found at %d, %t", i, at, found)
			}
		}
		if got := d.LabelledThrough(); got != through {
			t.Fatalf("labelled through %d, want %d", got, through)
		}
		var census Census
		keys := ordered()
		newest := slices.SortedFunc(maps.Keys(want), func(a, b key) int {
			return cmp.Or(cmp.Compare(want[b].LabelledAt, want[a].LabelledAt), b.compare(a))
		})
		votes, most := map[int64]int{}, 0
		for _, k := range newest[:min(decisive, len(newest))] {
			votes[want[k].Horizon]++
		}
		for _, k := range newest {
			if h := want[k].Horizon; votes[h] > most {
				census.Horizon, most = h, votes[h]
			}
		}
		churners := 0
		for _, w := range want {
			if w.Churned {
				churners++
			}
			switch {
			case w.Horizon != census.Horizon:
				census.Others++
				continue
			case w.Churned:
				census.Churners++
			}
			census.Examples++
			if w.fresh {
				census.Fresh++
			}
		}
		if got := d.Census(); got != census || d.Churners() != churners {
			t.Fatalf("census %+v, %d churners, want %+v, %d", got, d.Churners(), census, churners)
		}
		var usable []key
		for _, k := range keys[max(0, len(keys)-limit):] {
			if want[k].Horizon == census.Horizon {
				usable = append(usable, k)
			}
		}
		for i, p := range d.usable() {
			if i >= len(usable) || d.moment(int(p)) != usable[i] {
				t.Fatalf("usable example %d is %v of %v", i, d.moment(int(p)), usable)
			}
		}
	}
	for step := range 3000 {
		customer := CustomerHash([]byte{byte(r.IntN(40))})
		var examples []Example
		for at := int64(step/2 + r.IntN(200)); len(examples) < r.IntN(6); at += 1 + int64(r.IntN(20)) {
			e := Example{
				Customer: customer, ObservedAt: at, LabelledAt: at + int64(step), Horizon: int64(step/1000 + r.IntN(2)), Churned: r.IntN(3) == 0,
				Attributes: scoring.Vector{float64(r.IntN(step/8 + 1)), r.NormFloat64()}, // codes beyond a byte later on
			}
			if r.IntN(10) == 0 {
				e.Attributes[0] = scoring.Missing
			}
			examples = append(examples, e)
		}
		// Some are as they were, some have another label, some are no more.
		for _, k := range ordered() {
			if w := want[k]; k.customer == customer && r.IntN(3) > 0 && !slices.ContainsFunc(examples, func(e Example) bool { return e.ObservedAt == k.observedAt }) {
				if e := w.Example; r.IntN(3) == 0 {
					e.Churned = !e.Churned
					examples = append(examples, e)
				} else {
					examples = append(examples, e)
				}
			}
		}
		var change Change
		for k := range want {
			if k.customer == customer && !slices.ContainsFunc(examples, func(e Example) bool { return e.ObservedAt == k.observedAt }) {
				delete(want, k)
				change.Removed++
			}
		}
		for _, e := range examples {
			k := key{e.ObservedAt, e.Customer}
			before, known := want[k]
			corrected := known && before.Churned != e.Churned
			if !known && len(want) >= limit+limit/16 {
				keys := ordered()
				for _, o := range keys[:len(keys)-limit] {
					delete(want, o)
					shedThrough = o
				}
			}
			switch {
			case known && corrected:
				change.Corrected++
			case !known && k.compare(shedThrough) <= 0:
				continue
			case !known:
				change.Added++
			}
			want[k] = row{e, before.fresh || !known || corrected}
		}
		if got := d.Replace(customer, examples); got != change {
			t.Fatalf("step %d: replaced %+v, want %+v", step, got, change)
		}
		switch step % 500 {
		case 120:
			at := int64(step + r.IntN(1000))
			d.Seen(at)
			for k, w := range want {
				w.fresh = w.fresh && w.LabelledAt > at
				want[k] = w
			}
		case 499:
			n := 0
			for k := range want {
				if k.customer == customer {
					delete(want, k)
					n++
				}
			}
			if forgotten := d.Forget(customer, math.MaxInt64); forgotten != n {
				t.Fatalf("forgot %d, want %d", forgotten, n)
			}
		}
		if step%20 == 0 {
			check()
		}
	}
	copied := d.Clone()
	middle := d.ObservedAt(int(d.Ordered()[d.Len()/2]))
	d.DropBefore(middle)
	for k := range want {
		if k.observedAt < middle {
			delete(want, k)
		}
	}
	check()
	if copied.Len() <= d.Len() {
		t.Error("the clone lost what the original lost")
	}
}

// However many horizons there are, each example has its own, or counts as one
// of an unknown horizon.
func TestDatasetOfManyHorizons(t *testing.T) {
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "bill"}})
	if err != nil {
		t.Fatal(err)
	}
	d := NewDataset(scoring.NewVocabulary(spec), 0)
	const n = 400
	for i := range int64(n) {
		d.Add(Example{Customer: CustomerHash(fmt.Append(nil, i)), ObservedAt: i, Horizon: 1000 + i, Attributes: scoring.Vector{1}})
	}
	for i := range n {
		if want := int64(1000 + i); i >= fresh-1 && d.Horizon(i) != 0 || i < fresh-1 && d.Horizon(i) != want {
			t.Errorf("example %d has horizon %d", i, d.Horizon(i))
		}
	}
	d.Forget(CustomerHash([]byte("5")), math.MaxInt64)
	d.Add(Example{Customer: 2, ObservedAt: n, Horizon: 7, Attributes: scoring.Vector{1}})
	d.DecideBy(1)
	if c := d.Census(); c.Horizon != 7 || c.Examples != 1 || c.Others != n-1 {
		t.Errorf("census %+v", c)
	}
}

func TestDatasetTakes75BytesPerExample(t *testing.T) {
	vocabulary := telcoShape(t)
	const n = 200_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	d := NewDataset(vocabulary, n)
	x := scoring.NewVector(vocabulary.Spec().Len())
	for i := range n {
		for j := range x {
			x[j] = float64(i % 4)
		}
		d.Add(Example{Customer: CustomerHash(fmt.Append(nil, i)), ObservedAt: int64(i), Churned: i%4 == 0, Attributes: x})
	}
	used := float64(heap()-before) / n
	t.Logf("%.1f bytes per example", used)
	// Slices have room to grow by a quarter.
	if used > 75*1.25 {
		t.Errorf("%.1f bytes per example", used)
	}
	runtime.KeepAlive(d)
}

func telcoShape(t *testing.T) *scoring.Vocabulary {
	t.Helper()
	return synthetic(t, 1, 0, 1).Vocabulary()
}

// A few labels of another horizon do not decide what is learnt, however far ahead
// their customers are said to have been observed; half of the newest do.
func TestMostOfTheNewestLabelsDecide(t *testing.T) {
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "bill"}})
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * 3_600_000
	d := NewDataset(scoring.NewVocabulary(spec), 0)
	d.DecideBy(199)
	add := func(from, n int, horizon, ahead int64) {
		for i := from; i < from+n; i++ {
			d.Add(Example{Customer: CustomerHash(fmt.Append(nil, i)), ObservedAt: int64(i) + ahead, LabelledAt: int64(i), Horizon: horizon, Attributes: scoring.Vector{1}})
		}
	}
	expect := func(want Census) {
		t.Helper()
		if c := d.Census(); c != want {
			t.Errorf("census %+v, want %+v", c, want)
		}
		if n := len(d.usable()); n != want.Examples {
			t.Errorf("%d examples are usable, want %d", n, want.Examples)
		}
	}
	add(0, 1264, 30*day, 0)
	add(1264, 70, 7*day, day)
	expect(Census{Horizon: 30 * day, Examples: 1264, Fresh: 1264, Others: 70})
	add(1334, 29, 7*day, -2000) // one short of half
	expect(Census{Horizon: 30 * day, Examples: 1264, Fresh: 1264, Others: 99})
	add(1363, 1, 7*day, -2000)
	expect(Census{Horizon: 7 * day, Examples: 100, Fresh: 100, Others: 1264})
	d.DecideBy(10_000) // all there are
	expect(Census{Horizon: 30 * day, Examples: 1264, Fresh: 1264, Others: 100})
}
