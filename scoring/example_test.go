package scoring_test

import (
	"fmt"
	"log"
	"maps"
	"os"

	"github.com/churnstream/churnstream/scoring"
)

// payload is a model's JSON, as churnstream models show --payload prints it.
func payload() []byte {
	data, err := os.ReadFile("testdata/model.json")
	if err != nil {
		log.Fatal(err)
	}
	return data
}

// predictor is the model of the examples, compiled.
func predictor() *scoring.Predictor {
	p, err := scoring.ParsePredictor(payload())
	if err != nil {
		log.Fatal(err)
	}
	return p
}

// vector is the customer of the examples, as numbers.
func vector(p *scoring.Predictor) scoring.Vector {
	x, err := p.Vector(map[string]any{"Contract": "Month-to-month", "InternetService": "Fiber optic", "tenure": 3})
	if err != nil {
		log.Fatal(err)
	}
	return x
}

// Whoever has a model's payload needs nothing else to explain a customer.
func Example() {
	explain := func(payload []byte) error {
		predictor, err := scoring.ParsePredictor(payload) // once; safe for concurrent use
		if err != nil {
			return fmt.Errorf("reading the model: %w", err)
		}
		customer := map[string]any{"Contract": "Month-to-month", "InternetService": "Fiber optic", "tenure": 3}
		answer, err := predictor.ExplainByName(customer)
		if err != nil {
			return fmt.Errorf("explaining: %w", err)
		}
		fmt.Printf("%.3f %s %v %+.3f\n", answer.Probability, answer.Risk, answer.Top(2), answer.LIME["Contract"])
		return nil
	}
	if err := explain(payload()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 0.692 HIGH [InternetService tenure] +0.200
}

func ExampleParseModel() {
	model, err := scoring.ParseModel(payload())
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range model.Features {
		fmt.Println(f.Name, f.Kind, f.Levels)
	}
	_, err = scoring.ParseModel([]byte(`{"features": [{"name": "tenure", "kind": "ordinal"}]}`))
	fmt.Println(err)
	// Output:
	// Contract categorical [Month-to-month One year Two year]
	// InternetService categorical [DSL Fiber optic No]
	// tenure numeric []
	// model: feature "tenure": kind "ordinal" is neither categorical nor numeric
}

func ExampleModel_Spec() {
	model, err := scoring.ParseModel(payload())
	if err != nil {
		log.Fatal(err)
	}
	spec, err := model.Spec()
	if err != nil {
		log.Fatal(err)
	}
	position, ok := spec.Index("tenure")
	fmt.Println(spec.Len(), position, ok, spec.Feature(position).Kind)
	// Output:
	// 3 2 true numeric
}

// A specification of one's own says which features a company can change, which
// BestChange needs.
func ExampleCompile() {
	model, err := scoring.ParseModel(payload())
	if err != nil {
		log.Fatal(err)
	}
	spec, err := scoring.NewSpec([]scoring.Feature{
		{Name: "Contract", Kind: scoring.Categorical, Actionable: true},
		{Name: "InternetService", Kind: scoring.Categorical},
		{Name: "tenure", Kind: scoring.Numeric, Unit: "months"},
	})
	if err != nil {
		log.Fatal(err)
	}
	vocabulary := scoring.NewVocabulary(spec)
	p, err := scoring.Compile(model, vocabulary)
	if err != nil {
		log.Fatal(err)
	}
	x := vector(p)
	feature, value, probability, ok := p.BestChange(x, nil)
	fmt.Printf("%.3f\n", p.Probability(x))
	fmt.Printf("%s=%s %.3f %v\n", spec.Feature(feature).Name, vocabulary.Level(feature, value), probability, ok)
	// Output:
	// 0.692
	// Contract=Two year 0.312 true
}

func ExamplePredictor_LIME() {
	p := predictor()
	x, w := vector(p), p.NewWorkspace() // one workspace per goroutine
	weights := p.LIME(nil, x, w)
	for _, i := range scoring.TopByMagnitude(nil, weights, 2) {
		fmt.Printf("%s %+.4f\n", p.Spec().Feature(i).Name, weights[i])
	}
	// Output:
	// InternetService +0.2081
	// tenure +0.2044
}

// Shapley values sum to the probability less the expected one.
func ExamplePredictor_SHAP() {
	p := predictor()
	x, w := vector(p), p.NewWorkspace()
	sum := p.ExpectedProbability()
	fmt.Printf("expected %.4f\n", sum)
	for i, value := range p.SHAP(nil, x, w) {
		fmt.Printf("%s %+.4f\n", p.Spec().Feature(i).Name, value)
		sum += value
	}
	fmt.Printf("sum %.4f, probability %.4f\n", sum, p.Probability(x))
	// Output:
	// expected 0.2557
	// Contract +0.1080
	// InternetService +0.1355
	// tenure +0.1929
	// sum 0.6921, probability 0.6921
}

func ExamplePredictor_WhatIf() {
	p := predictor()
	contract, _ := p.Spec().Index("Contract")
	changed, err := p.Vector(map[string]any{"Contract": "Two year"})
	if err != nil {
		log.Fatal(err)
	}
	before, after := p.WhatIf(vector(p), map[int]float64{contract: changed[contract]}, nil)
	fmt.Printf("%.3f, with two years %.3f\n", before.Probability, after.Probability)
	// Output:
	// 0.692, with two years 0.312
}

// By name, a what-if is a second question.
func ExamplePredictor_ExplainByName() {
	p := predictor()
	customer := map[string]any{"Contract": "Month-to-month", "InternetService": "Satellite", "tenure": nil}
	before, err := p.ExplainByName(customer)
	if err != nil {
		log.Fatal(err)
	}
	changed := maps.Clone(customer)
	changed["Contract"] = "Two year"
	after, err := p.ExplainByName(changed)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.3f %s, with two years %.3f %s\n", before.Probability, before.Risk, after.Probability, after.Risk)
	fmt.Println("missing", before.Missing, "unknown", before.Unknown)

	_, err = p.ExplainByName(map[string]any{"tenure": "three"})
	fmt.Println(err)
	_, err = p.ExplainByName(map[string]any{"contract": "Two year"})
	fmt.Println(err)
	// Output:
	// 0.305 MEDIUM, with two years 0.081 LOW
	// missing [tenure] unknown [InternetService]
	// attribute "tenure": "three" is not a number
	// attribute "contract" is not a feature of the model
}

// The customer stayed, though the model said otherwise: what led it there.
func ExamplePredictor_LogLossSHAP() {
	p := predictor()
	x, churned := vector(p), false
	values := p.LogLossSHAP(nil, x, churned, p.NewWorkspace())
	sum := p.ExpectedLogLoss(churned)
	fmt.Printf("expected %.4f\n", sum)
	for j, v := range values {
		fmt.Printf("%s %+.4f\n", p.Spec().Feature(j).Name, v)
		sum += v
	}
	fmt.Printf("loss %.4f, which is %.4f\n", sum, p.LogLoss(x, churned))
	// Output:
	// expected 0.3360
	// Contract +0.2059
	// InternetService +0.2625
	// tenure +0.3736
	// loss 1.1780, which is 1.1780
}

// Two months' losses, divided among the features: base and features sum to the change.
func ExampleAttribution() {
	p := predictor()
	w := p.NewWorkspace()
	month := func(stayed, left int) *scoring.Attribution {
		a := scoring.NewAttribution(p.Spec().Len())
		for i := range stayed + left {
			churned := i >= stayed
			a.Add(p.LogLossSHAP(nil, vector(p), churned, w), p.ExpectedLogLoss(churned))
		}
		return a
	}
	before, now := month(30, 70), month(60, 40)
	fmt.Printf("log loss %.3f, then %.3f\n", before.LogLoss(), now.LogLoss())
	fmt.Printf("base %+.3f\n", now.Base()-before.Base())
	for j := range p.Spec().Len() {
		fmt.Printf("%s %+.3f\n", p.Spec().Feature(j).Name, now.Feature(j)-before.Feature(j))
	}
	// Output:
	// log loss 0.611, then 0.854
	// base -0.413
	// Contract +0.166
	// InternetService +0.204
	// tenure +0.286
}
