package schemas

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
)

var update = flag.Bool("update", false, "write the golden files anew")

// messageCase is a sample of one message with the functions for it.
type messageCase struct {
	kind   messageKind
	append func(c *Codec, dst []byte) []byte
	// decode decodes and returns a dump of what it got.
	decode func(c *Codec, value []byte) (string, error)
	want   string
}

func messageCases(t testing.TB, s *Set) []messageCase {
	ctx := context.Background()
	event, score, outcome, examples, model, letter :=
		sampleEvent(t, s), sampleScore(t, s), sampleOutcome(t, s), sampleExamples(t, s), sampleModel(), sampleDeadLetter()
	progress, labeler := sampleProgress(), sampleLabelerProgress()
	return []messageCase{
		{eventMessage,
			func(c *Codec, dst []byte) []byte { return c.AppendEvent(dst, event) },
			func(c *Codec, b []byte) (string, error) {
				e := c.NewEvent()
				err := c.DecodeEvent(ctx, b, e)
				return dump(e), err
			}, dump(event)},
		{scoreMessage,
			func(c *Codec, dst []byte) []byte { return c.AppendScore(dst, score) },
			func(c *Codec, b []byte) (string, error) {
				s := c.NewScore()
				err := c.DecodeScore(ctx, b, s)
				return dump(s), err
			}, dump(score)},
		{outcomeMessage,
			func(c *Codec, dst []byte) []byte { return c.AppendOutcome(dst, outcome) },
			func(c *Codec, b []byte) (string, error) {
				o := &ChurnOutcome{}
				err := c.DecodeOutcome(ctx, b, o)
				return dump(o), err
			}, dump(outcome)},
		{examplesMessage,
			func(c *Codec, dst []byte) []byte { return c.AppendExamples(dst, examples) },
			func(c *Codec, b []byte) (string, error) {
				m := &CustomerExamples{}
				err := c.DecodeExamples(ctx, b, m)
				m.Levels = nil // no level is new
				return dump(m), err
			}, dump(examples)},
		{modelMessage,
			func(c *Codec, dst []byte) []byte { return c.AppendModel(dst, model) },
			func(c *Codec, b []byte) (string, error) {
				m := &ModelVersion{}
				err := c.DecodeModel(ctx, b, m)
				return dump(m), err
			}, dump(model)},
		{deadLetterMessage,
			func(c *Codec, dst []byte) []byte { return c.AppendDeadLetter(dst, letter) },
			func(c *Codec, b []byte) (string, error) {
				d := &DeadLetter{}
				err := c.DecodeDeadLetter(ctx, b, d)
				return dump(d), err
			}, dump(letter)},
		{progressMessage,
			func(c *Codec, dst []byte) []byte { return c.AppendProgress(dst, progress) },
			func(c *Codec, b []byte) (string, error) {
				p := &Progress{}
				err := c.DecodeProgress(ctx, b, p)
				return dump(p), err
			}, dump(progress)},
		{labelerProgressMessage,
			func(c *Codec, dst []byte) []byte { return c.AppendLabelerProgress(dst, labeler) },
			func(c *Codec, b []byte) (string, error) {
				p := &LabelerProgress{}
				err := c.DecodeLabelerProgress(ctx, b, p)
				return dump(p), err
			}, dump(labeler)},
	}
}

func TestRoundTripAndGoldenFiles(t *testing.T) {
	s := ownSet(t)
	c, _ := newCodec(t, s)
	for _, m := range messageCases(t, s) {
		t.Run(messageTopics[m.kind], func(t *testing.T) {
			prefix := []byte("kept")
			value := m.append(c, prefix)
			if !bytes.HasPrefix(value, prefix) {
				t.Fatal("what was in dst is gone")
			}
			value = value[len(prefix):]
			got, err := m.decode(c, value)
			if err != nil {
				t.Fatal(err)
			}
			if got != m.want {
				t.Errorf("got  %s\nwant %s", got, m.want)
			}
			_, rest, err := goavroCodec(t, s.messages[m.kind].text).NativeFromBinary(value[frameLength:])
			if err != nil || len(rest) > 0 {
				t.Errorf("goavro: %v, %d bytes left", err, len(rest))
			}

			path := filepath.Join("testdata", strings.TrimSuffix(schemaFiles[m.kind], ".avsc")+".bin")
			if *update {
				if err := os.WriteFile(path, value, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(value, golden) {
				t.Errorf("bytes differ from %s:\n%x\n%x", path, value, golden)
			}
		})
	}
}

// A record cut short anywhere is refused, and one with a byte too many too.
func TestTruncatedAndTrailing(t *testing.T) {
	s := ownSet(t)
	c, _ := newCodec(t, s)
	for _, m := range messageCases(t, s) {
		value := m.append(c, nil)
		for n := range len(value) {
			_, err := m.decode(c, value[:n:n])
			want := ReasonUndecodable
			if n < frameLength {
				want = ReasonBadFrame
			}
			if got := reasonOf(err); got != want {
				t.Errorf("%s, first %d of %d bytes: reason %q, want %q", messageTopics[m.kind], n, len(value), got, want)
			}
		}
		if _, err := m.decode(c, append(value, 0)); reasonOf(err) != ReasonUndecodable {
			t.Errorf("%s, one byte more: %v", messageTopics[m.kind], err)
		}
	}
}

func TestPoisonReasons(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	ctx := t.Context()
	event := func(change func(e *CustomerEvent)) []byte {
		e := sampleEvent(t, s)
		change(e)
		return c.AppendEvent(nil, e)
	}
	long := bytes.Repeat([]byte{'x'}, MaxIDBytes+1)
	tenure, _ := s.Spec().Index("tenure")
	wrong := func(old, new string) []byte {
		id := registry.Add(strings.Replace(s.Schema(TopicEvents), old, new, 1))
		return binary.BigEndian.AppendUint32([]byte{magicByte}, uint32(id))
	}
	level := append([]byte{2}, avro.AppendBytes(nil, bytes.Repeat([]byte{'x'}, scoring.MaxLevelBytes+1))...)
	for _, r := range []struct {
		name   string
		value  []byte
		reason Reason
		detail string
	}{
		{"no value", nil, ReasonBadFrame, "0 bytes"},
		{"JSON", []byte(`{"event_id":""}`), ReasonBadFrame, "0x7b"},
		{"no datum", []byte{0, 0, 0, 0, 1}, ReasonUndecodable, "event_id"},
		{"unknown schema", []byte{0, 0, 0, 1, 0, 1}, ReasonUnknownSchema, "256"},
		{"impossible schema", []byte{0, 0xff, 0, 1, 0, 1}, ReasonUnknownSchema, ""},
		{"infinite change", event(func(e *CustomerEvent) { e.Changes[tenure] = math.Inf(1) }), ReasonInvalidValue, "changes: tenure"},
		{"infinite increment", event(func(e *CustomerEvent) { e.Increments[tenure] = math.Inf(-1) }), ReasonInvalidValue, "increments: tenure"},
		{"greatest double", event(func(e *CustomerEvent) { e.Changes[tenure] = math.MaxFloat64 }), ReasonInvalidValue, "changes: tenure: a number beyond ±1e+100"},
		{"least increment", event(func(e *CustomerEvent) { e.Increments[tenure] = -math.MaxFloat64 }), ReasonInvalidValue, "increments: tenure: a number beyond ±1e+100"},
		{"greatest allowed", event(func(e *CustomerEvent) { e.Changes[tenure], e.Increments[tenure] = 1e100, -1e100 }), "", ""},
		{"no customer", event(func(e *CustomerEvent) { e.CustomerID = nil }), ReasonNoCustomerID, ""},
		{"long customer", event(func(e *CustomerEvent) { e.CustomerID = long }), ReasonTooLarge, "customer_id"},
		{"long event id", event(func(e *CustomerEvent) { e.EventID = long }), ReasonTooLarge, "event_id"},
		{"long source", event(func(e *CustomerEvent) { e.Source = long }), ReasonTooLarge, "source"},
		{"longest allowed", event(func(e *CustomerEvent) { e.CustomerID = long[1:] }), "", ""},
		{"long level", append([]byte{0, 0, 0, 0, 1, 0, 2, 'c', 0}, level...), ReasonTooLarge, "changes: gender"},
		{"score's schema", []byte{0, 0, 0, 0, 2, 0}, ReasonUndecodable, "event_id"[:5]},
		{"schema of something else", append(binary.BigEndian.AppendUint32([]byte{0}, uint32(registry.Add(`"string"`))), 0), ReasonUndecodable, "string cannot be read as record"},
		{"schema that is none", append(binary.BigEndian.AppendUint32([]byte{0}, uint32(registry.Add(`syntax = "proto3";`))), 0), ReasonUndecodable, "not JSON"},
		{"text for a number", wrong(`{"name":"tenure","type":["null","double"]`, `{"name":"tenure","type":"string"`), ReasonUndecodable, "changes: field tenure: string cannot be read as double"},
		{"no customer_id", wrong(`"name":"customer_id"`, `"name":"customer"`), ReasonUndecodable, "customer_id is missing"},
	} {
		t.Run(r.name, func(t *testing.T) {
			err := c.DecodeEvent(ctx, r.value, c.NewEvent())
			if got := reasonOf(err); got != r.reason {
				t.Fatalf("reason %q (%v), want %q", got, err, r.reason)
			}
			if err != nil && !strings.Contains(err.Error(), r.detail) {
				t.Errorf("%v does not say %q", err, r.detail)
			}
		})
	}
}

// foreign encodes a native value with goavro under a new schema, framed.
func foreign(t *testing.T, r *registrytest.Registry, schema string, value any) []byte {
	t.Helper()
	datum, err := goavroCodec(t, schema).BinaryFromNative(nil, value)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{magicByte}, uint32(r.Add(schema))), datum...)
}

// What an evolved writer wrote is read in full.
func TestEvolvedWriter(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	// Values that stay what they are in a float or an int.
	event := sampleEvent(t, s)
	event.OccurredAt = 1_700_000_000
	event.Changes = attributes(t, s, map[string]string{"Contract": "One year", "MonthlyCharges": "42.5"})
	event.Increments = attributes(t, s, map[string]string{"tenure": "1", "TotalCharges": "70.25"})
	own := s.Schema(TopicEvents)
	v, _, err := goavroCodec(t, withoutLogicalTypes(t, own)).NativeFromBinary(c.AppendEvent(nil, event)[frameLength:])
	if err != nil {
		t.Fatal(err)
	}
	m := v.(native)
	m["extra"] = extraValue()
	got := c.NewEvent()
	if err := c.DecodeEvent(t.Context(), foreign(t, registry, evolved(t, own), widen(m)), got); err != nil {
		t.Fatal(err)
	}
	if dump(got) != dump(event) {
		t.Errorf("got  %s\nwant %s", dump(got), dump(event))
	}
}

func TestSchemaResolution(t *testing.T) {
	const head = `{"type":"record","name":"CustomerEvent","fields":[{"name":"event_id","type":"string"},` +
		`{"name":"customer_id","type":"string"},{"name":"occurred_at","type":"long"},`
	record := func(name, fields string) string {
		return `{"type":"record","name":"` + name + `","fields":[` + fields + `]}`
	}
	s := shop(t)
	c, registry := newCodec(t, s)
	full := func(changes native) native {
		return native{"event_id": "e", "customer_id": "c", "occurred_at": int64(5), "changes": changes, "increments": native{}}
	}
	const noIncrements = `{"name":"increments","type":{"type":"record","name":"I","fields":[]}}]}`
	for _, r := range []struct {
		name, changes string
		value         native
		want          map[string]any // non-missing attributes
		reason        Reason
	}{
		{"an additional attribute", `{"name":"new","type":["null","string"]},{"name":"country","type":["null","string"]}`,
			native{"new": native{"string": "x"}, "country": native{"string": "NL"}}, map[string]any{"country": "NL"}, ""},
		{"an attribute that is never null", `{"name":"orders","type":"int"}`,
			native{"orders": 3}, map[string]any{"orders": 3.0}, ""},
		{"int as long and as float", `{"name":"points","type":"int"},{"name":"rating","type":["int","null"]}`,
			native{"points": 3, "rating": native{"int": 4}}, map[string]any{"points": 3.0, "rating": 4.0}, ""},
		{"long as float", `{"name":"rating","type":["null","long"]}`,
			native{"rating": native{"long": 4}}, map[string]any{"rating": 4.0}, ""},
		{"long as int", `{"name":"orders","type":["null","long"]}`,
			native{"orders": native{"long": 4}}, nil, ReasonUndecodable},
		{"null as int, that could be long", `{"name":"orders","type":["null","long"]}`,
			native{"orders": nil}, map[string]any{}, ""},
		{"bytes as string", `{"name":"country","type":"bytes"}`,
			native{"country": []byte("NL")}, map[string]any{"country": "NL"}, ""},
		{"int as category", `{"name":"region","type":"int"}`,
			native{"region": -7}, map[string]any{"region": "-7"}, ""},
		{"symbols in another order", `{"name":"plan","type":{"type":"enum","name":"Plan","symbols":["GOLD","PLUS","FREE"]}}`,
			native{"plan": "FREE"}, map[string]any{"plan": "FREE"}, ""},
		{"unknown symbol", `{"name":"plan","type":{"type":"enum","name":"Plan","symbols":["GOLD","PLUS","FREE"]}}`,
			native{"plan": "GOLD"}, nil, ReasonUndecodable},
		{"enum for a string", `{"name":"country","type":{"type":"enum","name":"Country","symbols":["NL"]}}`,
			native{"country": "NL"}, nil, ReasonUndecodable},
		{"wider union, branch that fits", `{"name":"rating","type":["string","null","float"]}`,
			native{"rating": native{"float": 0.5}}, map[string]any{"rating": 0.5}, ""},
		{"wider union, branch that does not", `{"name":"rating","type":["string","null","float"]}`,
			native{"rating": native{"string": "good"}}, nil, ReasonUndecodable},
		{"none of the attributes", `{"name":"new","type":{"type":"array","items":{"type":"map","values":"double"}}}`,
			native{"new": []any{native{"a": 1.0}, native{}}}, map[string]any{}, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			schema := head + `{"name":"changes","type":` + record("A", r.changes) + `},` + noIncrements
			e := c.NewEvent()
			err := c.DecodeEvent(t.Context(), foreign(t, registry, schema, full(r.value)), e)
			if got := reasonOf(err); got != r.reason {
				t.Fatalf("reason %q (%v), want %q", got, err, r.reason)
			}
			if err != nil {
				return
			}
			if len(e.Source) != 0 || e.OccurredAt != 5 || string(e.CustomerID) != "c" {
				t.Errorf("got %+v", e)
			}
			for name, v := range s.AttributesToMap(e.Changes, e.Levels) {
				if v != r.want[name] {
					t.Errorf("%s is %v, want %v", name, v, r.want[name])
				}
			}
		})
	}
	t.Run("union of records", func(t *testing.T) {
		schema := head + `{"name":"changes","type":["null",` + record("A", `{"name":"country","type":"string"}`) + `]},` + noIncrements
		e := c.NewEvent()
		value := full(nil)
		value["changes"] = native{"A": native{"country": "BE"}}
		if err := c.DecodeEvent(t.Context(), foreign(t, registry, schema, value), e); err != nil || s.Text(0, e.Changes[0], e.Levels) != "BE" {
			t.Errorf("%v: %+v", err, e)
		}
		value["changes"] = nil
		if err := c.DecodeEvent(t.Context(), foreign(t, registry, schema, value), e); reasonOf(err) != ReasonUndecodable {
			t.Errorf("null for a record: %v", err)
		}
	})
}

// Attributes of every type, either way round in their unions, at the bounds of
// what the types hold.
func TestOtherCompanyRoundTrip(t *testing.T) {
	s := shop(t)
	c, _ := newCodec(t, s)
	at := func(name string) int { i, _ := s.Spec().Index(name); return i }
	for _, r := range []struct {
		feature string
		x, want float64
	}{
		{"orders", 12.5, 12}, {"orders", 13.5, 14}, {"orders", 1e12, math.MaxInt32}, {"orders", -1e12, math.MinInt32},
		{"points", 1e300, math.MaxInt64}, {"points", -1e300, math.MinInt64}, {"points", 1 << 53, 1 << 53},
		{"rating", 0.1, float64(float32(0.1))}, {"rating", 1e300, math.MaxFloat32}, {"rating", -1e300, -math.MaxFloat32},
		{"since", 1.7e12, 1.7e12},
	} {
		e := c.NewEvent()
		e.CustomerID = []byte("c")
		e.Changes = attributes(t, s, map[string]string{"country": "NL", "plan": "PLUS", "old_plan": "FREE", "region": "-12"})
		e.Changes[at(r.feature)] = r.x
		e.Increments[at(r.feature)] = r.x
		value := c.AppendEvent(nil, e)
		if _, rest, err := goavroCodec(t, s.Schema(TopicEvents)).NativeFromBinary(value[frameLength:]); err != nil || len(rest) > 0 {
			t.Fatalf("goavro: %v, %d bytes left", err, len(rest))
		}
		got := c.NewEvent()
		if err := c.DecodeEvent(t.Context(), value, got); err != nil {
			t.Fatal(err)
		}
		if got.Changes[at(r.feature)] != r.want || got.Increments[at(r.feature)] != r.want {
			t.Errorf("%s %v came back as %v and %v, want %v", r.feature, r.x, got.Changes[at(r.feature)], got.Increments[at(r.feature)], r.want)
		}
		for _, name := range []string{"country", "plan", "old_plan", "region"} {
			if got.Changes[at(name)] != e.Changes[at(name)] {
				t.Errorf("%s came back as %q", name, s.Text(at(name), got.Changes[at(name)], got.Levels))
			}
		}
	}
}

func TestDecodeReusesAndResets(t *testing.T) {
	s := ownSet(t)
	c, _ := newCodec(t, s)
	score := sampleScore(t, s)
	full := c.AppendScore(nil, score)
	bare := c.NewScore()
	bare.CustomerID = []byte("c")
	small := c.AppendScore(nil, bare)
	got := &ChurnScore{} // vectors are made where there are none
	if err := c.DecodeScore(t.Context(), full, got); err != nil {
		t.Fatal(err)
	}
	if err := c.DecodeScore(t.Context(), small, got); err != nil {
		t.Fatal(err)
	}
	if len(got.Explanations)+len(got.Missing)+len(got.AttributeAges)+len(got.RecentEvents) > 0 ||
		got.HasBestChange || got.BestChange != (BestChange{}) || !scoring.IsMissing(got.Previous) {
		t.Errorf("left over from the score before: %+v", got)
	}
	for i, x := range got.Attributes {
		if !scoring.IsMissing(x) {
			t.Errorf("attribute %d is left over", i)
		}
	}
	event, e := c.AppendEvent(nil, sampleEvent(t, s)), &CustomerEvent{}
	if err := c.DecodeEvent(t.Context(), event, e); err != nil || dump(e) != dump(sampleEvent(t, s)) {
		t.Errorf("into an empty event: %v, %s", err, dump(e))
	}
}

// Every number that comes in is held to one bound, and no score that was written
// before there was one is lost.
func TestNumbersBeyondTheBound(t *testing.T) {
	s := ownSet(t)
	c, _ := newCodec(t, s)
	tenure, _ := s.Spec().Index("tenure")
	for _, x := range []float64{math.MaxFloat64, -math.MaxFloat64, math.Nextafter(scoring.MaxNumber, math.Inf(1))} {
		o := sampleOutcome(t, s)
		o.Attributes = scoring.NewVector(s.Spec().Len())
		o.Attributes[tenure] = x
		if err := c.DecodeOutcome(t.Context(), c.AppendOutcome(nil, o), &ChurnOutcome{}); reasonOf(err) != ReasonInvalidValue || !strings.Contains(err.Error(), "attributes: tenure") {
			t.Errorf("outcome with %g: %v", x, err)
		}
		text := strconv.FormatFloat(x, 'g', -1, 64)
		if _, err := s.ParseText(tenure, text); err == nil || !strings.Contains(err.Error(), "tenure: must be from -1e+100 to 1e+100") {
			t.Errorf("table with %g: %v", x, err)
		}
		if _, err := s.AttributesFromJSON([]byte(`{"tenure":`+text+`}`), nil); err == nil || !strings.Contains(err.Error(), "tenure: must be from -1e+100 to 1e+100") {
			t.Errorf("JSON with %g: %v", x, err)
		}
		score, got := sampleScore(t, s), c.NewScore()
		score.Attributes[tenure] = x
		if err := c.DecodeScore(t.Context(), c.AppendScore(nil, score), got); err != nil || !scoring.IsMissing(got.Attributes[tenure]) {
			t.Errorf("score with %g: %v, %v", x, got.Attributes[tenure], err)
		}
	}
}

// The best change of a whole number can be to a quartile that is none.
func TestBestChangeToNoWholeNumber(t *testing.T) {
	s := shop(t)
	c, _ := newCodec(t, s)
	orders, _ := s.Spec().Index("orders")
	score, got := c.NewScore(), c.NewScore()
	score.CustomerID = []byte("c")
	score.HasBestChange, score.BestChange = true, BestChange{Feature: orders, Value: 2.5, Probability: 0.1}
	if err := c.DecodeScore(t.Context(), c.AppendScore(nil, score), got); err != nil || got.BestChange != score.BestChange {
		t.Errorf("%+v, %v", got.BestChange, err)
	}
}

// A score of a Set with other features keeps what both have.
func TestScoreOfOtherFeatures(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	value := c.AppendScore(nil, sampleScore(t, s))
	fewer, err := Parse([]byte(`{"type":"record","name":"A","fields":[{"name":"tenure","type":["null","double"]},{"name":"TechSupport","type":["null","string"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	other := NewCodec(fewer, registry)
	got := other.NewScore()
	if err := other.DecodeScore(t.Context(), value, got); err != nil {
		t.Fatal(err)
	}
	if len(got.Explanations) != 2 || got.Explanations[0].Feature != 0 || got.Explanations[1].Feature != 1 ||
		len(got.Missing) != 1 || got.Missing[0] != 1 || got.HasBestChange || got.Attributes[0] != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestEncodingWithoutAllocation(t *testing.T) {
	s := ownSet(t)
	c, _ := newCodec(t, s)
	ctx := t.Context()
	event, score := sampleEvent(t, s), sampleScore(t, s)
	eventBytes, scoreBytes := c.AppendEvent(nil, event), c.AppendScore(nil, score)
	e, sc := c.NewEvent(), c.NewScore()
	tenure, _ := s.Spec().Index("tenure")
	numeric := *score
	numeric.BestChange = BestChange{Feature: tenure, Value: 12.25, Probability: 0.5}
	numericBytes := c.AppendScore(nil, &numeric)
	outcome, model := sampleOutcome(t, s), sampleModel()
	dst := make([]byte, 0, 4096)
	for name, f := range map[string]func(){
		"DecodeEvent":   func() { _ = c.DecodeEvent(ctx, eventBytes, e) },
		"DecodeScore":   func() { _ = c.DecodeScore(ctx, scoreBytes, sc) },
		"DecodeScore 2": func() { _ = c.DecodeScore(ctx, numericBytes, sc) },
		"AppendEvent":   func() { _ = c.AppendEvent(dst, event) },
		"AppendScore":   func() { _ = c.AppendScore(dst, score) },
		"AppendOutcome": func() { _ = c.AppendOutcome(dst, outcome) },
		"AppendModel":   func() { _ = c.AppendModel(dst, model) },
	} {
		if n := testing.AllocsPerRun(100, f); n > 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func TestHostileInputIsBounded(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	nothings := func(count int64) []byte {
		return avro.AppendLong(nil, count)
	}
	const head = `{"type":"record","name":"E","fields":[{"name":"x","type":`
	tail := `},` + strings.TrimPrefix(s.Schema(TopicEvents)[strings.Index(s.Schema(TopicEvents), `{"name":"event_id"`):], "")
	event := c.AppendEvent(nil, sampleEvent(t, s))[frameLength:]
	bomb := `{"type":"record","name":"B0","fields":[]}`
	for i := range 60 {
		n := string(appendNumber(nil, float64(i)))
		inner := bomb
		bomb = `{"type":"record","name":"B` + string(appendNumber(nil, float64(i+1))) + `","fields":[{"name":"a","type":` + inner + `},{"name":"b","type":"B` + n + `"}]}`
	}
	for _, r := range []struct {
		name, extra string
		datum       []byte
		reason      Reason
	}{
		{"two thousand million nulls", `{"type":"array","items":"null"}`, append(append(nothings(math.MaxInt32), 0), event...), ""},
		{"a block of more", `{"type":"array","items":"null"}`, append(append(nothings(math.MaxInt32+1), 0), event...), ReasonUndecodable},
		{"the most negative block", `{"type":"array","items":"null"}`, append(append(nothings(math.MinInt64), 0), event...), ReasonUndecodable},
		{"records of nothing", `{"type":"array","items":{"type":"record","name":"N","fields":[{"name":"n","type":"null"}]}}`,
			append(append(nothings(math.MaxInt32), 0), event...), ""},
		{"more strings than bytes", `{"type":"array","items":"string"}`, append(nothings(math.MaxInt32), event...), ReasonUndecodable},
		{"block with its size", `{"type":"array","items":"int"}`, append([]byte{3, 4, 2, 4, 0}, event...), ""},
		{"a long string", `"string"`, append(nothings(math.MaxInt64), event...), ReasonUndecodable},
		{"a negative length", `"bytes"`, append(nothings(-1), event...), ReasonUndecodable},
		{"records that double", bomb, event, ""},
		{"deep nesting", `{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}`,
			append(bytes.Repeat([]byte{2}, 1_000_000), event...), ReasonUndecodable},
		{"some nesting", `{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}`,
			append(append(bytes.Repeat([]byte{2}, 100), 0), event...), ""},
		{"overlong numbers", `"long"`, append(append(bytes.Repeat([]byte{0x80}, 100), 0), event...), ""},
		{"endless number", `"long"`, bytes.Repeat([]byte{0xff}, 100), ReasonUndecodable},
	} {
		t.Run(r.name, func(t *testing.T) {
			id := registry.Add(head + r.extra + tail)
			value := append(binary.BigEndian.AppendUint32([]byte{magicByte}, uint32(id)), r.datum...)
			err := c.DecodeEvent(t.Context(), value, c.NewEvent())
			if got := reasonOf(err); got != r.reason {
				t.Errorf("reason %q (%v), want %q", got, err, r.reason)
			}
		})
	}
}

func TestUnknownSchemaIsAskedForSparingly(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	now := time.Unix(1_700_000_000, 0)
	c.now = func() time.Time { return now }
	decode := func(id uint32) error {
		value := c.AppendEvent(nil, sampleEvent(t, s))
		binary.BigEndian.PutUint32(value[1:], id)
		return c.DecodeEvent(t.Context(), value, c.NewEvent())
	}
	asked := 0
	expect := func(err error, reason Reason, calls int) {
		t.Helper()
		if got := reasonOf(err); got != reason {
			t.Errorf("reason %q, want %q", got, reason)
		}
		if got := registry.Lookups() - asked; got != calls {
			t.Errorf("%d calls, want %d", got, calls)
		}
		asked = registry.Lookups()
	}
	expect(decode(1), "", 0) // our own
	expect(decode(50), ReasonUnknownSchema, unknownTries)
	expect(decode(50), ReasonUnknownSchema, 0)
	expect(decode(51), ReasonUnknownSchema, 1) // a flood
	now = now.Add(unknownTTL)
	registry.Put(50, s.Schema(TopicEvents))
	expect(decode(50), "", 1)
	expect(decode(50), "", 0)
	expect(decode(51), ReasonUnknownSchema, unknownTries)
	for id := range uint32(2 * maxUnknown) {
		_ = decode(1000 + id)
	}
	if len(c.unknown) > maxUnknown {
		t.Errorf("%d unknown ids are remembered", len(c.unknown))
	}
}

// A registry that does not answer is no reason to drop a record.
func TestRegistryDown(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	value := c.AppendEvent(nil, sampleEvent(t, s))
	binary.BigEndian.PutUint32(value[1:], uint32(registry.Add(s.Schema(TopicEvents))))
	registry.Fail(errDown)
	err := c.DecodeEvent(t.Context(), value, c.NewEvent())
	if _, ok := AsPoison(err); ok || !errors.Is(err, errDown) {
		t.Errorf("error %v", err)
	}
	registry.Fail(nil)
	if err := c.DecodeEvent(t.Context(), value, c.NewEvent()); err != nil {
		t.Error(err)
	}

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	registry.Fail(errDown)
	c.lookup <- struct{}{} // someone is asking already, and waits
	binary.BigEndian.PutUint32(value[1:], 77)
	if err := c.DecodeEvent(cancelled, value, c.NewEvent()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	<-c.lookup
	if err := c.Register(t.Context()); !errors.Is(err, errDown) || !strings.Contains(err.Error(), "churn.customer-events-value") {
		t.Errorf("error %v", err)
	}
}

func TestAppendBeforeRegister(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it did not panic")
		}
	}()
	c := NewCodec(ownSet(t), registrytest.New())
	c.AppendEvent(nil, c.NewEvent())
}

func TestConcurrentDecoding(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	value := c.AppendEvent(nil, sampleEvent(t, s))
	var ids []int
	for range 20 {
		ids = append(ids, registry.Add(s.Schema(TopicEvents)))
	}
	want := dump(sampleEvent(t, s))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			value, e := bytes.Clone(value), c.NewEvent()
			for _, id := range ids {
				binary.BigEndian.PutUint32(value[1:], uint32(id))
				if err := c.DecodeEvent(t.Context(), value, e); err != nil || dump(e) != want {
					t.Errorf("%v: %s", err, dump(e))
				}
			}
		})
	}
	wg.Wait()
	if registry.Lookups() != len(ids) {
		t.Errorf("%d schemas were asked for %d times", len(ids), registry.Lookups())
	}
}
