package fitting

import (
	"math"

	"fmt"
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

func TestDatasetKeepsTheNewestOfEachCustomerAndMoment(t *testing.T) {
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "plan", Kind: scoring.Categorical}, {Name: "bill"}})
	if err != nil {
		t.Fatal(err)
	}
	type key struct {
		customer uint64
		at       int64
	}
	type row struct {
		churned bool
		x       [2]float64
	}
	const max = 160
	d := NewDataset(scoring.NewVocabulary(spec), max)
	want := make(map[key]row)
	r := rand.New(rand.NewPCG(4, 4))
	check := func() {
		t.Helper()
		if d.Len() != len(want) {
			t.Fatalf("%d examples, want %d", d.Len(), len(want))
		}
		churners := 0
		x := scoring.NewVector(2)
		for i := range d.Len() {
			w, ok := want[key{d.customer[i] &^ 1, d.ObservedAt(i)}]
			d.Attributes(i, x)
			if !ok || w.churned != d.Churned(i) || w.x[1] != x[1] || (w.x[0] != x[0] && !(scoring.IsMissing(w.x[0]) && scoring.IsMissing(x[0]))) {
				t.Fatalf("example %d is %v %v, want %v", i, d.Churned(i), x, w)
			}
			if w.churned {
				churners++
			}
		}
		if churners != d.Churners() {
			t.Fatalf("%d churners, want %d", d.Churners(), churners)
		}
	}
	for step := range 3000 {
		k := key{CustomerHash([]byte{byte(r.IntN(40))}), int64(step/2 + r.IntN(200))}
		w := row{r.IntN(3) == 0, [2]float64{float64(r.IntN(step/8 + 1)), r.NormFloat64()}} // codes beyond a byte later on
		if r.IntN(10) == 0 {
			w.x[0] = scoring.Missing
		}
		_, known := want[k]
		if i, found := d.Find(k.customer, k.at); found != known || found && d.ObservedAt(i) != k.at {
			t.Fatalf("step %d: found %v at %d", step, found, i)
		}
		full := d.Len() >= max+max/16
		if added := d.Add(Example{k.customer, k.at, w.churned, w.x[:]}); added == known {
			t.Fatalf("step %d: added %v, known %v", step, added, known)
		}
		want[k] = w
		if full && !known { // it has shed the oldest
			keys := make([]key, 0, len(want))
			for o := range want {
				if o != k {
					keys = append(keys, o)
				}
			}
			slices.SortFunc(keys, func(a, b key) int {
				if a.at < b.at || a.at == b.at && a.customer < b.customer {
					return -1
				}
				return 1
			})
			for _, o := range keys[:len(keys)-max] {
				delete(want, o)
			}
		}
		if step%500 == 499 {
			n := 0
			for o := range want {
				if o.customer == k.customer {
					delete(want, o)
					n++
				}
			}
			if forgotten := d.Forget(k.customer, math.MaxInt64); forgotten != n {
				t.Fatalf("forgot %d, want %d", forgotten, n)
			}
		}
		if step%50 == 0 {
			check()
		}
	}
	copied := d.Clone()
	middle := d.ObservedAt(int(d.Ordered()[d.Len()/2]))
	d.DropBefore(middle)
	for o := range want {
		if o.at < middle {
			delete(want, o)
		}
	}
	check()
	if copied.Len() <= d.Len() {
		t.Error("the clone lost what the original lost")
	}
}

func TestDatasetTakes64BytesPerExample(t *testing.T) {
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
		d.Add(Example{CustomerHash(fmt.Append(nil, i)), int64(i), i%4 == 0, x})
	}
	used := float64(heap()-before) / n
	t.Logf("%.1f bytes per example", used)
	// Slices have room to grow by a quarter.
	if used > 64*1.25 {
		t.Errorf("%.1f bytes per example", used)
	}
	runtime.KeepAlive(d)
}

func telcoShape(t *testing.T) *scoring.Vocabulary {
	t.Helper()
	return synthetic(t, 1, 0, 1).Vocabulary()
}
