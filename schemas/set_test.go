package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// The shipped files are what the derivation makes of the shipped event, to the
// byte but for white space, so that they cannot drift apart.
func TestShippedSchemasAreTheDerivedOnes(t *testing.T) {
	for k, file := range schemaFiles {
		shipped, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		if err := json.Compact(&want, shipped); err != nil {
			t.Fatal(err)
		}
		if got := Telco().Schema(messageTopics[k]); got != want.String() {
			t.Errorf("%s is not what is derived from customer_event.avsc:\nderived %s\nshipped %s", file, got, want.String())
		}
		goavroCodec(t, string(shipped))
	}
	if got := Telco().Schema("some.topic"); got != "" {
		t.Errorf("schema of a foreign topic: %s", got)
	}
}

var schemaFiles = [messageKinds]string{
	"customer_event.avsc", "churn_score.avsc", "churn_outcome.avsc", "churn_examples.avsc", "model_version.avsc", "dead_letter.avsc",
	"scorer_progress.avsc", "labeler_progress.avsc",
}

// Decoders name fields by their positions in our schemas.
func TestFieldPositions(t *testing.T) {
	for k, want := range [messageKinds][]string{
		{eventEventID: "event_id", eventCustomerID: "customer_id", eventOccurredAt: "occurred_at",
			eventChanges: "changes", eventIncrements: "increments", eventSource: "source"},
		scoreFields[:],
		{outcomeCustomerID: "customer_id", outcomeChurned: "churned", outcomeObservedAt: "observed_at",
			outcomeAttributes: "attributes", outcomeSource: "source"},
		{examplesCustomerID: "customer_id", examplesExamples: "examples"},
		{modelVersion: "version", modelCreatedAt: "created_at", modelStage: "stage", modelReason: "reason",
			modelPayload: "payload", modelSHA256: "sha256", modelMetrics: "metrics",
			modelChampionMetrics: "champion_metrics", modelTrainingStart: "training_start",
			modelTrainingEnd: "training_end", modelTrainingRows: "training_rows", modelLabelsSeen: "labels_seen",
			modelFingerprint: "feature_fingerprint", modelMediumThreshold: "medium_threshold",
			modelHighThreshold: "high_threshold", modelBaseline: "baseline",
			modelHorizon: "horizon", modelLabelsUntil: "labels_until"},
		{deadLetterReason: "reason", deadLetterDetail: "detail", deadLetterTopic: "topic",
			deadLetterPartition: "partition", deadLetterOffset: "offset", deadLetterTimestamp: "timestamp",
			deadLetterKey: "key", deadLetterValue: "value", deadLetterHeaders: "headers",
			deadLetterFailedAt: "failed_at", deadLetterFailedBy: "failed_by",
			deadLetterOriginalBytes: "original_bytes", deadLetterValueSHA256: "value_sha256"},
		{progressGroup: "group", progressEventsTopicID: "events_topic_id", progressScoresTopicID: "scores_topic_id",
			progressPartition: "source_partition", progressSince: "since_offset", progressNext: "next_offset", progressLeaderEpoch: "leader_epoch",
			progressScored: "scored", progressDuplicates: "duplicates", progressDeadLetters: "dead_letters",
			progressErasures: "erasures", progressNoRecord: "no_record", progressForwarded: "forwarded", progressWriters: "writers", progressCustomers: "customers",
			progressPartitions: "partitions", progressFormer: "former_partitions", progressMoving: "moving", progressOrigins: "origins"},
		{labelerGroup: "group", labelerExamplesTopicID: "examples_topic_id", labelerOutcomesTopicID: "outcomes_topic_id",
			labelerPartition: "partition", labelerPartitions: "partitions", labelerPositions: "positions", labelerSums: "sums", labelerWriters: "writers",
			labelerHorizon: "horizon"},
	} {
		checkFields(t, Telco().messages[k].typ, want)
	}
	at := func(k messageKind, position int) *avro.Type {
		typ := Telco().messages[k].typ.Fields[position].Type
		for typ.Kind == avro.Array || typ.Kind == avro.Union {
			if typ.Kind == avro.Array {
				typ = typ.Items
			} else {
				typ = typ.Branches[1]
			}
		}
		return typ
	}
	checkFields(t, at(scoreMessage, scoreExplanations), []string{explanationFeature: "feature",
		explanationValue: "value", explanationLIME: "lime", explanationSHAP: "shap"})
	checkFields(t, at(scoreMessage, scoreBestChange), []string{changeFeature: "feature",
		changeValue: "value", changeProbability: "churn_probability"})
	metrics := []string{metricsRows: "rows", metricsAccuracy: "accuracy", metricsPrecision: "precision",
		metricsRecall: "recall", metricsF1: "f1", metricsROCAUC: "roc_auc", metricsLogLoss: "log_loss",
		metricsBrier: "brier", metricsCalibrationError: "calibration_error", metricsTopDecileLift: "top_decile_lift",
		metricsPRAUC: "pr_auc", metricsLogLossSkill: "log_loss_skill", metricsChurners: "churners", metricsLower: "lower", metricsUpper: "upper"}
	checkFields(t, at(modelMessage, modelMetrics), metrics)
	checkFields(t, at(modelMessage, modelChampionMetrics), metrics)
	var figures []string
	for _, f := range evaluation.All {
		figures = append(figures, f.Name)
	}
	for _, bound := range []int{metricsLower, metricsUpper} {
		checkFields(t, at(modelMessage, modelMetrics).Fields[bound].Type.Branches[1], figures)
	}
	checkFields(t, at(modelMessage, modelBaseline), []string{baselineName: "name", baselineBins: "bins",
		baselineFrequencies: "frequencies", baselineRows: "rows", baselineMissing: "missing", baselineReasonRows: "reason_rows",
		baselineReasonMean: "reason_mean", baselineReasonDeviation: "reason_deviation"})
	checkFields(t, at(deadLetterMessage, deadLetterHeaders), []string{headerKey: "key", headerValue: "value"})
	checkFields(t, at(progressMessage, progressWriters), []string{"producer_id", "since_offset"})
	checkFields(t, at(progressMessage, progressOrigins), []string{"partition", "next_offset"})
	checkFields(t, at(labelerProgressMessage, labelerPositions),
		[]string{positionPartition: "partition", positionNext: "next_offset", positionWaiting: "waiting"})
	checkFields(t, at(labelerProgressMessage, labelerSums), []string{sumResult: "result", sumChurned: "churned", sumOutcomes: "outcomes"})
	checkFields(t, at(labelerProgressMessage, labelerWriters), []string{"producer_id", "since_offset"})
	for i, s := range at(scoreMessage, scoreRisk).Symbols {
		if Risk(i).String() != s {
			t.Errorf("risk %d is %s, in the schema %s", i, Risk(i), s)
		}
	}
	for i, s := range at(scoreMessage, scoreTrigger).Symbols {
		if Trigger(i).String() != s {
			t.Errorf("trigger %d is %s, in the schema %s", i, Trigger(i), s)
		}
	}
	for i, s := range at(modelMessage, modelStage).Symbols {
		if Stage(i).String() != s {
			t.Errorf("stage %d is %s, in the schema %s", i, Stage(i), s)
		}
	}
}

func checkFields(t *testing.T, record *avro.Type, want []string) {
	t.Helper()
	var got []string
	for i := range record.Fields {
		f := &record.Fields[i]
		got = append(got, f.Name)
		// What decoders leave where a writer has no such field.
		switch string(f.Default) {
		case "", "null", `""`, "[]", "{}", "0", "false", `"EVENT"`:
		default:
			t.Errorf("%s.%s: decoders do not know of default %s", record.Name, f.Name, f.Default)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("fields of %s are\n%q, not\n%q", record.Name, got, want)
	}
}

func TestTelcoSpec(t *testing.T) {
	spec := Telco().Spec()
	if spec.Len() != 19 {
		t.Fatalf("%d features", spec.Len())
	}
	var numeric []string
	for i := range spec.Len() {
		if spec.Feature(i).Kind == scoring.Numeric {
			numeric = append(numeric, spec.Feature(i).Name)
		}
	}
	if want := []string{"tenure", "MonthlyCharges", "TotalCharges"}; !reflect.DeepEqual(numeric, want) {
		t.Errorf("numeric features %q, want %q", numeric, want)
	}
	i, _ := spec.Index("MonthlyCharges")
	want := scoring.Feature{Name: "MonthlyCharges", Kind: scoring.Numeric, Label: "Monthly charges", Unit: "USD", Actionable: true}
	if got := *spec.Feature(i); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if first, second := Telco(), Telco(); first != second {
		t.Error("two Telco sets")
	}
}

const shopSchema = `{
  "type": "record", "name": "Shopper", "namespace": "com.example.shop", "doc": "A <shopper>.",
  "fields": [
    {"name": "country", "type": ["null", "string"]},
    {"name": "plan", "type": [{"type": "enum", "name": "Plan", "symbols": ["FREE", "PLUS"]}, "null"],
     "feature": {"label": "Plan", "actionable": true}},
    {"name": "old_plan", "type": ["null", "Plan"], "default": null},
    {"name": "region", "type": ["null", "int"], "feature": {"kind": "categorical"}},
    {"name": "orders", "type": ["null", "int"], "feature": {"unit": "orders"}},
    {"name": "points", "type": ["long", "null"]},
    {"name": "rating", "type": ["null", "float"]},
    {"name": "since", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "feature": {"kind": "numeric"}}
  ]
}`

func shop(t testing.TB) *Set {
	t.Helper()
	s, err := Parse([]byte(shopSchema))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseOtherCompany(t *testing.T) {
	s := shop(t)
	var names, kinds []string
	for i := range s.Spec().Len() {
		names = append(names, s.Spec().Feature(i).Name)
		kinds = append(kinds, s.Spec().Feature(i).Kind.String()[:3])
	}
	if got, want := strings.Join(names, " "), "country plan old_plan region orders points rating since"; got != want {
		t.Errorf("features %s, want %s", got, want)
	}
	if got, want := strings.Join(kinds, " "), "cat cat cat cat num num num num"; got != want {
		t.Errorf("kinds %s, want %s", got, want)
	}
	for k, topic := range messageTopics {
		goavroCodec(t, s.Schema(topic))
		same := s.Schema(topic) == Telco().Schema(topic)
		if carries := messageKind(k) <= examplesMessage; same == carries {
			t.Errorf("%s: schema is the Telco one: %t", topic, same)
		}
	}
	if want := `"fields":[{"name":"orders","type":["null","int"],"default":null},{"name":"points","type":["null","long"],"default":null},` +
		`{"name":"rating","type":["null","float"],"default":null},{"name":"since","type":["null","long"],"default":null}]`; !strings.Contains(s.Schema(TopicEvents), want) {
		t.Errorf("increments are not %s in %s", want, s.Schema(TopicEvents))
	}

	// The same from an event with these attributes, and from a file.
	event := `{"type":"record","name":"ShopEvent","namespace":"com.example.shop","fields":[{"name":"id","type":"string"},{"name":"changes","type":` +
		strings.Replace(shopSchema, `"namespace": "com.example.shop", `, "", 1) + `}]}`
	path := filepath.Join(t.TempDir(), "shop.avsc")
	if err := os.WriteFile(path, []byte(event), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if other.Spec().Fingerprint() != s.Spec().Fingerprint() {
		t.Error("an event and its attributes make different specifications")
	}
	// As what was derived parses to the same again.
	again, err := Parse([]byte(s.Schema(TopicEvents)))
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range messageTopics {
		if again.Schema(topic) != s.Schema(topic) {
			t.Errorf("%s: derived from the derived:\n%s\n%s", topic, again.Schema(topic), s.Schema(topic))
		}
	}
}

func TestParseErrors(t *testing.T) {
	field := func(f string) string {
		return `{"type":"record","name":"A","fields":[{"name":"ok","type":["null","string"]},` + f + `]}`
	}
	for _, c := range []struct{ name, avsc, want string }{
		{"not JSON", `{"type"`, "not JSON"},
		{"empty", ``, "not JSON"},
		{"not a record", `"string"`, "record"},
		{"enum", `{"type":"enum","name":"A","symbols":["B"]}`, "record"},
		{"no fields", `{"type":"record","name":"A","fields":[]}`, "no features"},
		{"event without attributes", `{"type":"record","name":"A","fields":[{"name":"customer_id","type":"string"}]}`, "customer_id"},
		{"not nullable", field(`{"name":"age","type":"int"}`), "field age: its type must be a union"},
		{"three branches", field(`{"name":"age","type":["null","int","string"]}`), "field age: its type must be a union"},
		{"no null", field(`{"name":"age","type":["int","string"]}`), "field age: its type must be a union"},
		{"boolean", field(`{"name":"vip","type":["null","boolean"]}`), "field vip: type boolean"},
		{"array", field(`{"name":"tags","type":["null",{"type":"array","items":"string"}]}`), "field tags: type array"},
		{"default", field(`{"name":"plan","type":["string","null"],"default":"x"}`), "field plan: its default must be null"},
		{"numeric string", field(`{"name":"plan","type":["null","string"],"feature":{"kind":"numeric"}}`), "field plan: type string cannot be numeric"},
		{"categorical double", field(`{"name":"age","type":["null","double"],"feature":{"kind":"categorical"}}`), "field age: type double cannot be categorical"},
		{"unknown kind", field(`{"name":"age","type":["null","int"],"feature":{"kind":"ordinal"}}`), `field age: property feature: kind "ordinal"`},
		{"misspelt property", field(`{"name":"age","type":["null","int"],"feature":{"actionabel":true}}`), "field age: property feature"},
		{"feature of wrong type", field(`{"name":"age","type":["null","int"],"feature":"numeric"}`), "field age: property feature"},
		{"twice", field(`{"name":"ok","type":["null","int"]}`), "ok occurs twice"},
		{"bad name", field(`{"name":"a-b","type":["null","int"]}`), `"a-b" is not an Avro name`},
		{"unknown type", field(`{"name":"age","type":["null","Foo"]}`), `field age: union: unknown type "Foo"`},
		{"clash with our types", field(`{"name":"risk","type":["null",{"type":"enum","name":"churnstream.Risk","symbols":["A"]}]}`), "Risk"},
		{"type defined outside the record", `{"type":"record","name":"E","fields":[
			{"name":"plan","type":{"type":"enum","name":"Plan","symbols":["A"]}},
			{"name":"changes","type":{"type":"record","name":"A","fields":[{"name":"plan","type":["null","Plan"]}]}}]}`, "Plan"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.avsc))
			if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := FromFile(filepath.Join(t.TempDir(), "none.avsc")); !errors.Is(err, ErrSchema) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}

func TestText(t *testing.T) {
	s := shop(t)
	for _, c := range []struct{ feature, text, want string }{
		{"country", "NL", "NL"},
		{"country", "", ""},
		{"plan", "PLUS", "PLUS"},
		{"region", "007", "7"},
		{"region", "+7", "7"},
		{"orders", "12", "12"},
		{"orders", "1e2", "100"},
		{"rating", "0.1", "0.1"},
		{"rating", "-0", "0"},
		{"rating", "1e-7", "1e-07"},
		{"rating", "0.000001", "0.000001"},
		{"points", "9007199254740992", "9007199254740992"},
		{"points", "1e17", "100000000000000000"}, // what an event may hold, text may
	} {
		i, _ := s.Spec().Index(c.feature)
		x, err := s.ParseText(i, c.text)
		if err != nil {
			t.Errorf("%s %q: %v", c.feature, c.text, err)
		} else if got := s.Text(i, x, nil); got != c.want {
			t.Errorf("%s %q: text is %q, want %q", c.feature, c.text, got, c.want)
		}
	}
	for _, c := range []struct{ feature, text, want string }{
		{"plan", "GOLD", `must be one of ["FREE" "PLUS"]`},
		{"plan", "free", "must be one of"},
		{"region", "north", "whole number"},
		{"region", "2147483648", "whole number"},
		{"orders", "1.5", "whole number"},
		{"orders", "2147483648", "must be from -2147483648 to 2147483647"},
		{"points", "9223372036854775808", "must be from"},
		{"rating", "1e39", "must be from"},
		{"rating", "1e400", "too large"},
		{"rating", "NaN", "must be a number"},
		{"rating", "Inf", "must be a number"},
		{"rating", "0x1p3", "must be a number"},
		{"rating", "1_000", "must be a number"},
		{"rating", "-", "must be a number"},
		{"country", strings.Repeat("x", scoring.MaxLevelBytes+1), "longer than 256"},
	} {
		i, _ := s.Spec().Index(c.feature)
		_, err := s.ParseText(i, c.text)
		var f *FieldError
		if !errors.As(err, &f) || f.Field != c.feature || !strings.Contains(f.Problem, c.want) {
			t.Errorf("%s %q: error %v, want one with %q", c.feature, c.text, err, c.want)
		}
	}
}

func TestAttributesFromJSON(t *testing.T) {
	s := shop(t)
	for feature, level := range map[string]string{"country": "NL", "region": "7"} {
		i, _ := s.Spec().Index(feature)
		if _, err := s.ParseText(i, level); err != nil { // as events would
			t.Fatal(err)
		}
	}
	var levels scoring.Levels
	x, err := s.AttributesFromJSON([]byte(` {"rating": 4.5, "orders": "12", "plan": "PLUS", "country": "NL",
		"old_plan": null, "region": 7, "points": 1e3} `), &levels)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"country": "NL", "plan": "PLUS", "old_plan": nil, "region": "7",
		"orders": 12.0, "points": 1000.0, "rating": 4.5, "since": nil}
	if got := s.AttributesToMap(x, levels); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	country, _ := s.Spec().Index("country")
	if x, err := s.AttributesFromJSON([]byte(`{"country":"Atlantis"}`), &levels); err != nil || s.Text(country, x[country], levels) != "Atlantis" || s.Vocabulary().Size(country) != 1 {
		t.Errorf("a level nobody has brought: %v, %v, %d levels known", x, err, s.Vocabulary().Size(country))
	}
	// Empty text is what is not known, as in an event or a table.
	x, err = s.AttributesFromJSON([]byte(`{"country": "", "orders": " ", "plan": "\u00a0", "points": " 7 ", "region": " 7"}`), &levels)
	if got := s.AttributesToMap(x, levels); err != nil || !reflect.DeepEqual(got, map[string]any{"country": nil, "plan": nil,
		"old_plan": nil, "region": "7", "orders": nil, "points": 7.0, "rating": nil, "since": nil}) {
		t.Errorf("white space: %v, %v", got, err)
	}
	if x, err := s.AttributesFromJSON([]byte(`{}`), &levels); err != nil || len(x) != 8 || !scoring.IsMissing(x[0]) {
		t.Errorf("empty object: %v, %v", x, err)
	}

	for _, c := range []struct{ json, field, want string }{
		{`{"colour": "red"}`, "colour", "not an attribute"},
		{`{"Plan": "PLUS"}`, "Plan", "not an attribute"},
		{`{"plan": "PLUS", "plan": "PLUS"}`, "plan", "twice"},
		{`{"plan": null, "plan": "PLUS"}`, "plan", "twice"},
		{`{"plan": 1}`, "plan", "must be a string, not a number"},
		{`{"country": 0}`, "country", "must be a string, not a number"},
		{`{"country": true}`, "country", "must be a string, not true or false"},
		{`{"country": ["NL"]}`, "country", "must be a string, not an object or array"},
		{`{"country": {"string": "NL"}}`, "country", "must be a string, not an object or array"},
		{`{"plan": "GOLD"}`, "plan", "must be one of"},
		{`{"region": 1.5}`, "region", "whole number"},
		{`{"rating": false}`, "rating", "must be a number"},
		{`{"rating": "many"}`, "rating", "must be a number"},
		{`{"rating": "NaN"}`, "rating", "must be a number"},
		{`{"rating": "Infinity"}`, "rating", "must be a number"},
		{`{"rating": 1e999}`, "rating", "too large"},
		{`{"rating": "1e999"}`, "rating", "too large"},
		{`{"orders": 0.5}`, "orders", "whole number"},
		{`[]`, "", "one JSON object"},
		{`null`, "", "one JSON object"},
		{``, "", "one JSON object"},
		{`{"plan": "PLUS"`, "", "one JSON object"},
		{`{"plan": "PLUS"} {}`, "", "one JSON object"},
		{`{"plan" "PLUS"}`, "", "one JSON object"},
		{`{"plan": "PLUS",}`, "", "one JSON object"},
		{`{"rating": NaN}`, "", "one JSON object"},
		{"{\"country\": \"\xff\"}", "", "UTF-8"},
	} {
		_, err := s.AttributesFromJSON([]byte(c.json), &levels)
		var f *FieldError
		if !errors.As(err, &f) || f.Field != c.field || !strings.Contains(f.Problem, c.want) {
			t.Errorf("%s: error %v, want one of field %q with %q", c.json, err, c.field, c.want)
		}
	}
}

// What the map says in JSON is read as the same vector again.
func TestAttributesJSONRoundTrip(t *testing.T) {
	for _, s := range []*Set{ownSet(t), shop(t)} {
		x := scoring.NewVector(s.Spec().Len())
		for i, c := range s.columns {
			text := []string{"Yes", "0.5", "2"}[i%3]
			if c.typ.Kind == avro.Enum {
				text = c.typ.Symbols[len(c.typ.Symbols)-1]
			}
			x[i], _ = s.ParseText(i, text) // an error leaves 0, a value too
		}
		for i := range x {
			if s.columns[i].categorical && s.Vocabulary().Size(i) == 0 {
				x[i] = scoring.Missing
			}
		}
		text, err := json.Marshal(s.AttributesToMap(x, nil))
		if err != nil {
			t.Fatal(err)
		}
		var levels scoring.Levels
		got, err := s.AttributesFromJSON(text, &levels)
		if err != nil {
			t.Fatal(err)
		}
		for i := range x {
			if math.Float64bits(got[i]) != math.Float64bits(x[i]) && !(scoring.IsMissing(got[i]) && scoring.IsMissing(x[i])) {
				t.Errorf("%s: %v, was %v", s.Spec().Feature(i).Name, got[i], x[i])
			}
		}
	}
}

// Decoding teaches the vocabulary nothing, whatever comes, and what it does not
// have goes with the message.
func TestDecodingDoesNotLearn(t *testing.T) {
	s, other := ownSet(t), ownSet(t)
	c, registry := newCodec(t, s)
	writer := NewCodec(other, registry)
	if err := writer.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, got := writer.NewEvent(), c.NewEvent()
	e.CustomerID = []byte("c")
	sum := func() (n int) {
		for i := range s.spec.Len() {
			n += s.vocabulary.Size(i)
		}
		return n
	}
	before := sum()
	var value []byte
	for i := range scoring.MaxLevels + 10 {
		e.Levels = e.Levels[:0]
		e.Changes[0] = e.Levels.Add("level " + strconv.Itoa(i))
		value = writer.AppendEvent(value[:0], e)
		if err := c.DecodeEvent(t.Context(), value, got); err != nil {
			t.Fatal(err)
		}
		if text := s.Text(0, got.Changes[0], got.Levels); text != e.Levels[0] {
			t.Fatalf("%q became %q", e.Levels[0], text)
		}
		if again := c.AppendEvent(nil, got); !bytes.Equal(again, value) {
			t.Fatalf("written again as %x, want %x", again, value)
		}
	}
	if n := sum(); n != before {
		t.Errorf("%d levels are known, %d before", n, before)
	}
	// A level that comes again and again is one string, and costs nothing.
	if n := testing.AllocsPerRun(100, func() {
		if err := c.DecodeEvent(t.Context(), value, got); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%g allocations", n)
	}
}
