package fitting

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"github.com/churnstream/churnstream/scoring"
)

func TestPredictorReproducesTheFit(t *testing.T) {
	for _, problem := range []struct {
		missing float64
		knots   int
	}{{0, 0}, {0.1, 0}, {0, 5}, {0.1, 5}, {0, 100}} {
		missing := problem.missing
		t.Run(fmt.Sprintf("missing=%g,knots=%d", missing, problem.knots), func(t *testing.T) {
			d := synthetic(t, 4000, missing, 21)
			rows := d.Ordered()
			w, err := Encode(d, rows, EncodeConfig{Folds: 5, Knots: problem.knots}).Fit(context.Background(), 1, SolverConfig{})
			if err != nil {
				t.Fatal(err)
			}
			model := w.Model()
			payload, err := json.Marshal(model)
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := scoring.ParseModel(payload)
			if err != nil {
				t.Fatal(err)
			}
			p, err := scoring.Compile(parsed, d.Vocabulary())
			if err != nil {
				t.Fatal(err)
			}
			oracle := newDense(d, rows, problem.knots)
			coefficients := oracle.coefficients(w)
			// A missing number counts with its mean, which scoring takes from
			// the thousand quantiles in the model.
			tolerance := 1e-9
			if missing > 0 {
				tolerance = 2e-3
			}
			x := scoring.NewVector(d.Spec().Len())
			worst := 0.0
			for i, r := range rows {
				d.Attributes(int(r), x)
				worst = max(worst, math.Abs(p.LogOdds(x)-oracle.logOdds(coefficients, i)))
			}
			t.Logf("log-odds off by at most %.1e", worst)
			if worst > tolerance {
				t.Errorf("log-odds off by %g", worst)
			}
		})
	}
}
