package benchmarks

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"

	"github.com/churnstream/churnstream/producers/replay"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// customersPerCase is how many customers the figures of a case are over.
const customersPerCase = 16

// Case is a model to measure and customers to measure it on. All values of the
// customers are known to the model.
type Case struct {
	// Name says in a few words what the model is.
	Name       string
	Predictor  *scoring.Predictor
	Vocabulary *scoring.Vocabulary
	Customers  []scoring.Vector
}

// newCase compiles a model for its own features, and draws customers from its
// marginals.
func newCase(name string, m *scoring.Model, rng *rand.Rand) (*Case, error) {
	var features []scoring.Feature
	for _, f := range m.Features {
		kind := scoring.Numeric
		if f.Kind == scoring.Categorical.String() {
			kind = scoring.Categorical
		}
		features = append(features, scoring.Feature{Name: f.Name, Kind: kind})
	}
	spec, err := scoring.NewSpec(features)
	if err != nil {
		return nil, fmt.Errorf("case %s: %w", name, err)
	}
	c := &Case{Name: name, Vocabulary: scoring.NewVocabulary(spec)}
	if c.Predictor, err = scoring.Compile(m, c.Vocabulary); err != nil {
		return nil, fmt.Errorf("case %s: %w", name, err)
	}
	draw, err := NewSampledLIME(c.Predictor, c.Vocabulary, 1)
	if err != nil {
		return nil, fmt.Errorf("case %s: %w", name, err)
	}
	for range customersPerCase {
		x := scoring.NewVector(spec.Len())
		for j := range x {
			f := &draw.features[j]
			x[j] = f.drawValue(f.drawLevel(rng), rng)
		}
		c.Customers = append(c.Customers, x)
	}
	return c, nil
}

// Synthetic returns a case with a made-up model of n features, of which a sixth
// are numeric, as in the Telco table. The log-odds spread by about 1.5 whatever
// n is. It is the same on every call.
func Synthetic(n int) (*Case, error) {
	rng := rand.New(rand.NewPCG(uint64(n), 8))
	spread := 1.5 / math.Sqrt(float64(n))
	m := &scoring.Model{Intercept: -1.2}
	for j := range n {
		f := scoring.ModelFeature{Name: fmt.Sprintf("f%d", j)}
		if j%6 == 5 {
			syntheticNumber(rng, &f, spread)
		} else {
			f.Kind = scoring.Categorical.String()
			f.Levels = []string{"a", "b", "c"}
			f.LogOdds = []float64{rng.NormFloat64() * spread, rng.NormFloat64() * spread, rng.NormFloat64() * spread}
			f.Frequency = []float64{0.5, 0.3, 0.2}
		}
		m.Features = append(m.Features, f)
	}
	return newCase("synthetic", m, rng)
}

// syntheticNumber makes f a linear number that is distributed exponentially,
// with a mean of 10.
func syntheticNumber(rng *rand.Rand, f *scoring.ModelFeature, spread float64) {
	f.Kind = scoring.Numeric.String()
	f.LogOddsPerUnit = rng.NormFloat64() * spread / 10
	const points = 1000
	for i := range points {
		f.EmpiricalQuantiles = append(f.EmpiricalQuantiles, -10*math.Log1p(-(float64(i)+0.5)/points))
	}
	const quarter = points / 4
	for b := range 4 {
		values := f.EmpiricalQuantiles[b*quarter:][:quarter]
		bin := scoring.Bin{Min: values[0], Max: values[quarter-1], Frequency: 0.25}
		for _, x := range values {
			bin.Mean += x / quarter
		}
		for _, x := range values {
			bin.Std += (x - bin.Mean) * (x - bin.Mean) / quarter
		}
		bin.Std = math.Sqrt(bin.Std)
		if b > 0 {
			f.Quartiles = append(f.Quartiles, bin.Min)
		}
		f.Bins = append(f.Bins, bin)
	}
	// A bin reaches from bound to bound, as the trainer notes it.
	for b := range 3 {
		f.Bins[b].Max = f.Quartiles[b]
	}
}

// FromFile returns a case with a model from a file, in the form that churnstream
// explain takes, and customers drawn from its marginals.
func FromFile(path string) (*Case, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("model to measure: %w", err)
	}
	m, err := scoring.ParseModel(data)
	if err != nil {
		return nil, fmt.Errorf("model to measure: %s: %w", path, err)
	}
	return newCase(path, m, rand.New(rand.NewPCG(1, 1)))
}

// Telco trains a model on the table that ships with the project, as the trainer
// would, and returns it with the first customers that it did not see.
func Telco(ctx context.Context, cfg fitting.Config) (*Case, error) {
	set := schemas.Telco()
	rows, err := replay.Load(set)
	if err != nil {
		return nil, fmt.Errorf("Telco case: %w", err)
	}
	d := fitting.NewDataset(set.Vocabulary(), len(rows))
	for _, r := range rows {
		d.Add(fitting.Example{
			Customer:   fitting.CustomerHash([]byte(r.CustomerID)),
			ObservedAt: r.ObservedAt,
			Churned:    r.Churned,
			Attributes: r.Attributes,
		})
	}
	cfg.ImportanceRows = -1
	trained, err := fitting.Fit(ctx, d, cfg)
	if err != nil {
		return nil, fmt.Errorf("Telco case: %w", err)
	}
	c := &Case{Name: "Telco", Predictor: trained.Predictor, Vocabulary: set.Vocabulary()}
	for _, i := range trained.Holdout {
		x := scoring.NewVector(set.Spec().Len())
		d.Attributes(int(i), x)
		if len(c.Predictor.Missing(nil, x)) == 0 && len(c.Customers) < customersPerCase {
			c.Customers = append(c.Customers, x)
		}
	}
	return c, nil
}

// text returns the value of feature j as people read it.
func (c *Case) text(j int, x float64) string {
	if c.Predictor.Spec().Feature(j).Kind == scoring.Categorical {
		return c.Vocabulary.Level(j, x)
	}
	return fmt.Sprintf("%g", math.Round(x*100)/100)
}
