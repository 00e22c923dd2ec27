package scoring

import (
	"math"
	"testing"
	"time"
)

// BenchmarkTelco is the reference model on the reference customers, if they
// are there.
func BenchmarkTelco(b *testing.B) {
	ref := loadReference(b)
	m, err := ParseModel(ref.data)
	if err != nil {
		b.Fatal(err)
	}
	p, v := compileModel(b, m)
	var xs []Vector
	for _, c := range ref.Cases {
		xs = append(xs, vectorOf(b, v, c.Customer))
	}
	dst, w := make([]float64, len(m.Features)), p.NewWorkspace()
	for name, f := range map[string]func(x Vector){
		"Probability": func(x Vector) { p.Probability(x) },
		"LIME":        func(x Vector) { p.LIME(dst, x, w) },
		"SHAP":        func(x Vector) { p.SHAP(dst, x, w) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				f(xs[i%len(xs)])
				i++
			}
		})
	}
}

// BenchmarkApply is a monthly bill: two increments and a set value.
func BenchmarkApply(b *testing.B) {
	c := NewCustomer(19)
	all := Change{EventHash: 1, OccurredAt: 1, Set: NewVector(19)}
	for j := range all.Set {
		all.Set[j] = float64(j)
	}
	c.Apply(&all)
	bill := Change{OccurredAt: 2, Set: NewVector(19), Add: NewVector(19)}
	bill.Add[4], bill.Add[18], bill.Set[17] = 1, 70, 70
	b.ReportAllocs()
	for b.Loop() {
		bill.EventHash++
		bill.OccurredAt++
		c.Apply(&bill)
	}
}

// reportRatio times rounds of n calls of f and of base by turns, and reports the
// time per call of each and the ratio of the fastest rounds.
func reportRatio(b *testing.B, n int, f, base func(i int)) {
	fastest := [2]time.Duration{math.MaxInt64, math.MaxInt64}
	for b.Loop() {
		for k, call := range [2]func(int){f, base} {
			start := time.Now()
			for i := range n {
				call(i)
			}
			fastest[k] = min(fastest[k], time.Since(start))
		}
	}
	b.ReportMetric(0, "ns/op") // of both together: means nothing
	b.ReportMetric(float64(fastest[0].Nanoseconds())/float64(n), "ns/call")
	b.ReportMetric(float64(fastest[1].Nanoseconds())/float64(n), "ns/SHAP")
	b.ReportMetric(float64(fastest[0])/float64(fastest[1]), "×SHAP")
}
