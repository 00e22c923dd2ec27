package monitor

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// TestMemoryPerCustomer holds what docs/limits.md says of the monitor's memory.
func TestMemoryPerCustomer(t *testing.T) {
	if testing.Short() {
		t.Skip("60,000 customers")
	}
	const n, examples = 60_000, 4
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	v, c := newEvidence(10), newCustomers(10, -1)
	x := scoring.Vector{1, 2, 3}
	before := heap()
	record := recordOf("")
	for range examples {
		record.Examples = append(record.Examples, exampleAt(1, 1, .5, true))
	}
	for i := range n {
		record.CustomerID = []byte("customer-" + strconv.Itoa(i))
		for k := range record.Examples {
			record.Examples[k].ObservedAt = int64(k + 1)
		}
		v.take(record)
	}
	between := heap()
	for i := range n {
		c.take(&schemas.ChurnScore{CustomerID: []byte("customer-" + strconv.Itoa(i)), AsOf: 1, ModelVersion: 1, Probability: .5, Attributes: x})
	}
	after := heap()
	ofExamples, ofScores := float64(between-before)/n, float64(after-between)/n
	t.Logf("%.0f bytes per customer with %d examples, %.0f per customer with a score", ofExamples, examples, ofScores)
	if ofExamples > 230 || ofScores > 170 {
		t.Error("that is more than docs/limits.md says")
	}
	runtime.KeepAlive(v)
	runtime.KeepAlive(c)
}
