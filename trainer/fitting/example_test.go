package fitting_test

import (
	"context"
	"fmt"
	"log"
	"math"
	"math/rand/v2"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// A table of customers becomes a model with its figures and its importance, and
// a second model is judged against it.
func Example() {
	spec, err := scoring.NewSpec([]scoring.Feature{
		{Name: "contract", Kind: scoring.Categorical},
		{Name: "tenure", Kind: scoring.Numeric, Unit: "months"},
	})
	if err != nil {
		log.Fatal(err)
	}
	vocabulary := scoring.NewVocabulary(spec)
	examples := fitting.NewDataset(vocabulary, 0)

	// Those on a monthly contract leave more often, and the less the longer they
	// have been customers.
	random := rand.New(rand.NewPCG(1, 1))
	for i := range 4000 {
		contract, tenure := "two years", 72*random.Float64()
		logOdds := -3.0
		if random.IntN(2) == 0 {
			contract, logOdds = "monthly", 1-tenure/24
		}
		code, err := vocabulary.CodeString(0, contract)
		if err != nil {
			log.Fatal(err)
		}
		examples.Add(fitting.Example{
			Customer:   fitting.CustomerHash(fmt.Appendf(nil, "customer %d", i)),
			ObservedAt: int64(i), // milliseconds; the newest are held out
			Churned:    random.Float64() < 1/(1+math.Exp(-logOdds)),
			Attributes: scoring.Vector{code, tenure},
		})
	}

	ctx := context.Background()
	champion, err := fitting.Fit(ctx, examples, fitting.Config{Knots: 5})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("fitted %d rows, held out %d: log loss %.2f, ROC AUC %.2f\n",
		len(champion.Training), champion.Metrics.Rows, champion.Metrics.LogLoss, champion.Metrics.ROCAUC)
	for _, g := range champion.Model.Importance {
		fmt.Printf("%s: mean |SHAP| %.2f\n", g.Feature, g.SHAP)
	}
	fmt.Println(fitting.Judge(champion, nil).Reason)

	// One that is penalised so much that it hardly distinguishes customers.
	timid, err := fitting.Fit(ctx, examples, fitting.Config{Strengths: []float64{1e-5}})
	if err != nil {
		log.Fatal(err)
	}
	verdict := fitting.Judge(timid, &fitting.Champion{Version: 1, Predictor: champion.Predictor})
	fmt.Printf("promote: %t; %s\n", verdict.Promote, verdict.Reason)
	// Output:
	// fitted 3000 rows, held out 1000: log loss 0.42, ROC AUC 0.81
	// contract: mean |SHAP| 0.17
	// tenure: mean |SHAP| 0.08
	// there was no champion; log loss 0.4192 on 1000 holdout rows
	// promote: false; not better: log loss 0.5312 against 0.4192 of version 1 on the same 1000 holdout rows (difference +0.112, 95 % interval +0.0828 to +0.143)
}
