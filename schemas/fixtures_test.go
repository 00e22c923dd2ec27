package schemas

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/linkedin/goavro/v2"

	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// ownSet returns the Telco schemas with a vocabulary of their own.
func ownSet(t testing.TB) *Set {
	t.Helper()
	s, err := Parse(customerEventSchema)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newCodec returns a registered codec for set; the ids are 1 to 6.
func newCodec(t testing.TB, set *Set) (*Codec, *registrytest.Registry) {
	t.Helper()
	r := registrytest.New()
	c := NewCodec(set, r)
	c.pause = 0
	if err := c.Register(context.Background()); err != nil {
		t.Fatal(err)
	}
	return c, r
}

// attributes returns a vector of the values given as text by name.
func attributes(t testing.TB, s *Set, values map[string]string) scoring.Vector {
	t.Helper()
	x := scoring.NewVector(s.Spec().Len())
	for name, text := range values {
		i, ok := s.Spec().Index(name)
		if !ok {
			t.Fatalf("no attribute %s", name)
		}
		v, err := s.ParseText(i, text)
		if err != nil {
			t.Fatal(err)
		}
		x[i] = v
	}
	return x
}

var customer = map[string]string{
	"gender": "Female", "SeniorCitizen": "No", "Partner": "Yes", "Dependents": "No", "tenure": "1",
	"PhoneService": "No", "MultipleLines": "No phone service", "InternetService": "DSL",
	"OnlineSecurity": "No", "OnlineBackup": "Yes", "DeviceProtection": "No", "TechSupport": "No",
	"StreamingTV": "No", "StreamingMovies": "No", "Contract": "Month-to-month", "PaperlessBilling": "Yes",
	"PaymentMethod": "Electronic check", "MonthlyCharges": "29.85", "TotalCharges": "29.85",
}

func sampleEvent(t testing.TB, s *Set) *CustomerEvent {
	return &CustomerEvent{
		EventID:    []byte("0b2c1a9e-6f3d-4a57-9c1e-2f1d3b4a5c6d"),
		CustomerID: []byte("7590-VHVEG"),
		OccurredAt: 1_700_000_000_123,
		Changes:    attributes(t, s, map[string]string{"Contract": "One year", "PaperlessBilling": "No", "MonthlyCharges": "42.3"}),
		Increments: attributes(t, s, map[string]string{"tenure": "1", "TotalCharges": "70.35"}),
		Source:     []byte("billing"),
	}
}

func sampleScore(t testing.TB, s *Set) *ChurnScore {
	x := attributes(t, s, customer)
	at := func(name string) int {
		i, ok := s.Spec().Index(name)
		if !ok {
			t.Fatalf("no attribute %s", name)
		}
		return i
	}
	x[at("TechSupport")] = scoring.Missing
	contract := at("Contract")
	year, err := s.ParseText(contract, "Two year")
	if err != nil {
		t.Fatal(err)
	}
	return &ChurnScore{
		CustomerID:          []byte("7590-VHVEG"),
		EventID:             []byte("0b2c1a9e-6f3d-4a57-9c1e-2f1d3b4a5c6d"),
		OccurredAt:          1_700_000_000_123,
		ScoredAt:            1_700_000_000_456,
		ModelVersion:        7,
		Probability:         0.6431,
		Previous:            0.25,
		Risk:                RiskHigh,
		ExpectedProbability: 0.2654,
		Explanations: []Explanation{
			{Feature: contract, LIME: 0.11, SHAP: 0.125},
			{Feature: at("tenure"), LIME: 0.07, SHAP: scoring.Missing},
			{Feature: at("MonthlyCharges"), LIME: scoring.Missing, SHAP: -0.0625},
			{Feature: at("TechSupport"), LIME: 0, SHAP: 0},
		},
		Missing:         []int{at("TechSupport")},
		Attributes:      x,
		AttributeAges:   []int64{0, 86_400_000, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5},
		RecentEvents:    []int64{-4_611_686_018_427_387_904, 12},
		SourcePartition: 3,
		SourceOffset:    123_456_789,
		HasBestChange:   true,
		BestChange:      BestChange{Feature: contract, Value: year, Probability: 0.31},
		AsOf:            1_700_086_400_000,
		Trigger:         TriggerTime,
	}
}

func sampleOutcome(t testing.TB, s *Set) *ChurnOutcome {
	return &ChurnOutcome{
		CustomerID: "7590-VHVEG", Churned: true, ObservedAt: 1_700_000_000_789,
		Attributes: attributes(t, s, customer), Source: "crm",
	}
}

func sampleExamples(t testing.TB, s *Set) *CustomerExamples {
	return &CustomerExamples{
		CustomerID: []byte("7590-VHVEG"),
		Examples: []LabelledExample{
			{AsOf: 1_690_000_000_789, ObservedAt: 1_690_000_000_789, LabelledAt: 1_695_000_000_000, Horizon: 2_592_000_000,
				Probability: scoring.Missing, SourcePartition: -1, SourceOffset: -1, Attributes: attributes(t, s, customer)},
			{AsOf: 1_697_000_000_456, ObservedAt: 1_700_000_000_789, LabelledAt: 1_702_000_000_000, Horizon: 2_592_000_000,
				Churned: true, Corrections: 1, ModelVersion: 7, Probability: 0.625, SourcePartition: 3, SourceOffset: 4711,
				Attributes: scoring.NewVector(s.Spec().Len())},
		},
	}
}

func sampleModel() *ModelVersion {
	champion := evaluation.NoMetrics()
	champion.Rows, champion.Accuracy, champion.LogLoss = 1409, 0.8, 0.42
	return &ModelVersion{
		Version: 7, CreatedAt: 1_700_000_000_000, Stage: StageChampion, Reason: "lower log loss",
		Payload: `{"intercept":-1.5}`, SHA256: "9f86d081",
		Metrics: HoldoutMetrics{
			Rows: 1409, Churners: 374,
			Figures: evaluation.Figures{
				Accuracy: 0.81, Precision: 0.66, Recall: 0.55, F1: 0.6, ROCAUC: 0.845, PRAUC: 0.65, LogLoss: 0.41,
				LogLossSkill: 0.29, Brier: 0.135, CalibrationError: 0.02, TopDecileLift: 2.75,
			},
			Lower: evaluation.Figures{
				Accuracy: 0.79, Precision: 0.61, Recall: 0.5, F1: 0.56, ROCAUC: 0.825, PRAUC: 0.61, LogLoss: 0.39,
				LogLossSkill: 0.25, Brier: 0.125, CalibrationError: 0.01, TopDecileLift: scoring.Missing,
			},
			Upper: evaluation.Undefined(),
		},
		ChampionMetrics: &champion,
		TrainingStart:   1_600_000_000_000, TrainingEnd: 1_690_000_000_000, TrainingRows: 5634, LabelsSeen: 7043,
		FeatureFingerprint: "abc", MediumThreshold: 0.3, HighThreshold: 0.6,
		Baseline: []BaselineDistribution{
			{Name: "Contract", Bins: []string{"Month-to-month", "One year", "Two year"}, Frequencies: []float64{0.55, 0.21, 0.24}},
			{Name: "tenure", Bins: []string{"9", "29", "55", "+Inf"}, Frequencies: []float64{0.25, 0.25, 0.25, 0.25},
				Rows: 5000, Missing: 12, ReasonRows: 2000, ReasonMean: 0.031, ReasonDeviation: 0.12},
			{Name: "empty"},
		},
		Horizon: 2_592_000_000, LabelsUntil: 1_690_000_100_000,
	}
}

func sampleDeadLetter() *DeadLetter {
	return &DeadLetter{
		Reason: ReasonBadFrame, Detail: "it starts with byte 0x7b, not 0", Topic: TopicEvents, Partition: 2,
		Offset: 99, Timestamp: 1_700_000_000_000, Key: []byte{}, Value: []byte(`{"not":"avro"}`),
		Headers: []Header{{Key: "trace", Value: []byte{1, 2, 3}}}, FailedAt: 1_700_000_000_001, FailedBy: "score",
		OriginalBytes: 2_000_000, ValueSHA256: "00ff",
	}
}

func sampleLabelerProgress() *LabelerProgress {
	return &LabelerProgress{
		Group: "churn-labeler", ExamplesTopicID: "00112233445566778899aabbccddeeff", OutcomesTopicID: "ffeeddccbbaa99887766554433221100",
		Partition: 2, Partitions: 6,
		Positions: []OutcomesPosition{{Partition: 0, Next: 1200, Waiting: []int64{1188, 1190}}, {Partition: 1, Next: 7}},
		Sums:      []OutcomeSum{{"example", false, 900}, {"example", true, 300}, {"no_score", true, 4}},
		Writers:   []Writer{{ProducerID: 1000, Since: 0}, {ProducerID: 1001, Since: 950}},
		Horizon:   30 * 86_400_000,
	}
}

func sampleProgress() *Progress {
	return &Progress{
		Group: "churn-scorer", EventsTopicID: "000102030405060708090a0b0c0d0e0f", ScoresTopicID: "f0e0d0c0b0a090807060504030201000",
		Partition: 3, Since: 1_000, Next: 123_456_789, LeaderEpoch: 7,
		Sums:       Sums{Scored: 123_455_700, Duplicates: 55, DeadLetters: 3, Erasures: 1, NoRecord: 30, Forwarded: 12},
		Writers:    []Writer{{ProducerID: 4_000, Since: 17}, {ProducerID: 9_223_372_036_854_775_807, Since: 40_000}},
		Partitions: 6, Former: []int64{2, 3}, Moving: true, Origins: []Origin{{Partition: 0, Next: 7}, {Partition: 2, Next: 1 << 40}},
		Customers: 77,
	}
}

// evolved returns what another version of a schema could look like: the fields
// of every record in reverse order after a new one of every kind of type,
// unions the other way round, strings as bytes, doubles as floats, longs as
// ints.
func evolved(t testing.TB, schema string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(schema), &v); err != nil {
		t.Fatal(err)
	}
	definitions := map[string]map[string]any{}
	var collect func(v any)
	collect = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, v := range v {
				collect(v)
			}
		case map[string]any:
			if name, ok := v["name"].(string); ok && (v["fields"] != nil || v["symbols"] != nil) {
				definitions[name] = v
			}
			for _, v := range v {
				collect(v)
			}
		}
	}
	collect(v)
	narrow := map[string]string{"string": "bytes", "double": "float", "long": "int"}
	defined := map[string]bool{}
	first := true
	var turn func(v any) any
	turn = func(v any) any {
		switch v := v.(type) {
		case string:
			if d := definitions[v]; d != nil && !defined[v] {
				return turn(d)
			}
			if n, ok := narrow[v]; ok {
				return n
			}
			return v
		case []any:
			branches := make([]any, len(v))
			for i, b := range v {
				branches[len(v)-1-i] = turn(b)
			}
			return branches
		case map[string]any:
			name, _ := v["name"].(string)
			switch v["type"] {
			case "record":
				if defined[name] {
					return name
				}
				defined[name] = true
				fields := []any{}
				if first {
					first = false
					fields = append(fields, map[string]any{"name": "extra", "type": json.RawMessage(extraType)})
				}
				own := v["fields"].([]any)
				for i := len(own) - 1; i >= 0; i-- {
					f := own[i].(map[string]any)
					fields = append(fields, map[string]any{"name": f["name"], "type": turn(f["type"])})
				}
				return map[string]any{"type": "record", "name": name, "fields": fields}
			case "enum":
				if defined[name] {
					return name
				}
				defined[name] = true
				symbols := append([]any{"OTHER"}, v["symbols"].([]any)...)
				return map[string]any{"type": "enum", "name": name, "symbols": symbols}
			case "array":
				return map[string]any{"type": "array", "items": turn(v["items"])}
			}
			return turn(v["type"])
		}
		return v
	}
	text, err := json.Marshal(turn(v))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const extraType = `{"type":"record","name":"Extra","fields":[
	{"name":"list","type":["null","Extra"]},
	{"name":"map","type":{"type":"map","values":"long"}},
	{"name":"fixed","type":{"type":"fixed","name":"Four","size":4}},
	{"name":"enum","type":{"type":"enum","name":"Colour","symbols":["RED","BLUE"]}},
	{"name":"nothings","type":{"type":"array","items":"null"}},
	{"name":"flag","type":"boolean"},{"name":"float","type":"float"},{"name":"double","type":"double"},
	{"name":"int","type":"int"},{"name":"bytes","type":"bytes"}]}`

// extraValue is a value of extraType, as goavro takes it.
func extraValue() any {
	inner := map[string]any{
		"list": nil, "map": map[string]any{"a": int64(1)}, "fixed": []byte("abcd"), "enum": "BLUE",
		"nothings": []any{nil, nil}, "flag": true, "float": float32(1), "double": 2.0, "int": int32(3), "bytes": []byte("x"),
	}
	outer := map[string]any{}
	for k, v := range inner {
		outer[k] = v
	}
	outer["list"] = map[string]any{"Extra": inner}
	return outer
}

func goavroCodec(t testing.TB, schema string) *goavro.Codec {
	t.Helper()
	c, err := goavro.NewCodec(schema)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// withoutLogicalTypes makes goavro answer with numbers instead of times.
func withoutLogicalTypes(t testing.TB, schema string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(schema), &v); err != nil {
		t.Fatal(err)
	}
	stripLogicalTypes(v)
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func stripLogicalTypes(v any) {
	switch v := v.(type) {
	case []any:
		for _, v := range v {
			stripLogicalTypes(v)
		}
	case map[string]any:
		delete(v, "logicalType")
		for _, v := range v {
			stripLogicalTypes(v)
		}
	}
}

// dump writes a message with every difference visible: missing values, nil
// and empty slices.
func dump(v any) string {
	if m, ok := v.(*ModelVersion); ok {
		copied := *m
		copied.ChampionMetrics = nil
		text := fmt.Sprintf("%#v", copied)
		if m.ChampionMetrics != nil {
			text += fmt.Sprintf("%#v", *m.ChampionMetrics)
		}
		return text
	}
	return fmt.Sprintf("%#v", v)
}

func reasonOf(err error) Reason {
	if p, ok := AsPoison(err); ok {
		return p.Reason
	}
	if err != nil {
		return Reason("not poison: " + err.Error())
	}
	return ""
}

var errDown = errors.New("registry is down")
