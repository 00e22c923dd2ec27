package evaluation_test

import (
	"fmt"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// The figures of some labelled scores.
func Example() {
	var examples []evaluation.Example
	for i := range 400 {
		examples = append(examples, evaluation.Example{
			Customer:    scoring.Hash(fmt.Appendf(nil, "customer %d", i)),
			Probability: float64(i%10)/10 + 0.05,
			Churned:     i*7%13 < i%10,
		})
	}
	m := evaluation.Evaluate(examples)
	fmt.Printf("%d examples, %d churners\n", m.Rows, m.Churners)
	fmt.Printf("ROC AUC %.2f, from %.2f to %.2f\n", m.ROCAUC, m.Lower.ROCAUC, m.Upper.ROCAUC)
	top := evaluation.Rank(examples).Deciles()[1]
	fmt.Printf("the first %d have %.0f %% of the churners\n", top.Rows, 100*top.Gain)
	// Output:
	// 400 examples, 139 churners
	// ROC AUC 0.78, from 0.73 to 0.82
	// the first 80 have 37 % of the churners
}
