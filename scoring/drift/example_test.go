package drift_test

import (
	"fmt"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
)

// Nine in ten customers of the training renewed by themselves. Of 40 now, nobody
// does; but that 40 are not spread as the training was says nothing.
func ExampleSample() {
	spec, err := scoring.NewSpec([]scoring.Feature{{Name: "auto_renew"}, {Name: "age"}})
	if err != nil {
		panic(err)
	}
	var renew, age []float64
	for i := range 2000 {
		renew = append(renew, float64(min(i%10, 1)))
		age = append(age, float64(18+i%60))
	}
	baseline := drift.NewBaseline(spec, []drift.Distribution{drift.Numbers("auto_renew", renew), drift.Numbers("age", age)}, 0)

	sample := baseline.Sample(scoring.NewVocabulary(spec))
	for i := range 40 {
		sample.Add(scoring.Vector{0, float64(20 + 7*i%45)}, nil)
	}
	for j := range spec.Len() {
		c := sample.Feature(j)
		fmt.Printf("%s: %.2f, means something from %.2f on: %t\n", spec.Feature(j).Name, c.Value, c.Threshold, c.Exceeded())
	}
	for _, b := range sample.FeatureBins(0) {
		fmt.Printf("%s: %.0f %% of the training, %.0f %% now\n", b.Label, 100*b.Expected, 100*b.Actual)
	}
	// Output:
	// auto_renew: 5.85, means something from 0.25 on: true
	// age: 0.39, means something from 0.69 on: false
	// = 0: 10 % of the training, 100 % now
	// = 1: 90 % of the training, 0 % now
}
