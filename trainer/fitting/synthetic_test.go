package fitting

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/churnstream/churnstream/scoring"
)

// synthetic makes a dataset with the Telco table's shape, 16 categorical and 3
// numeric features, in which some features depend on others, labelled by a
// logistic model. missing is the share of values left out.
func synthetic(tb testing.TB, rows int, missing float64, seed uint64) *Dataset {
	tb.Helper()
	levels := []int{2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2, 4}
	var features []scoring.Feature
	for j := range levels {
		features = append(features, scoring.Feature{Name: fmt.Sprintf("c%02d", j), Kind: scoring.Categorical})
		if j%6 == 5 {
			features = append(features, scoring.Feature{Name: fmt.Sprintf("n%d", j), Kind: scoring.Numeric})
		}
	}
	features = append(features, scoring.Feature{Name: "n99", Kind: scoring.Numeric})
	spec, err := scoring.NewSpec(features)
	if err != nil {
		tb.Fatal(err)
	}
	vocabulary := scoring.NewVocabulary(spec)
	r := rand.New(rand.NewPCG(seed, 1))
	d := NewDataset(vocabulary, rows)
	x := scoring.NewVector(spec.Len())
	for i := range rows {
		eta, k := -1.2, 0
		shared := r.Float64()
		tenure := 0.0
		for j := range x {
			if spec.Feature(j).Kind == scoring.Categorical {
				u := r.Float64()
				if k >= 6 && k <= 11 && shared < 0.3 {
					u = 0 // as "No internet service" in six features at once
				}
				// Codes run against the order of names.
				level := int(u * u * float64(levels[k]))
				x[j], err = vocabulary.CodeString(j, fmt.Sprintf("level %d", level))
				if err != nil {
					tb.Fatal(err)
				}
				eta += 0.3 * float64(level) * math.Sin(float64(j))
				k++
			} else {
				switch j {
				case spec.Len() - 1:
					x[j] = tenure*70 + 30*r.NormFloat64() // nearly determined by another
				default:
					x[j] = math.Floor(72 * r.Float64())
					tenure = x[j]
					eta -= x[j] / 50
				}
			}
		}
		for j := range x {
			if missing > 0 && r.Float64() < missing {
				x[j] = scoring.Missing
			}
		}
		d.Add(Example{
			Customer:   CustomerHash(fmt.Appendf(nil, "customer-%d", i)),
			ObservedAt: int64(i / 7),
			Churned:    r.Float64() < 1/(1+math.Exp(-eta)),
			Attributes: x,
		})
	}
	return d
}
