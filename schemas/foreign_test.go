package schemas

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
)

// read decodes an event written under a schema that is only text to goavro.
func read(t *testing.T, c *Codec, r *registrytest.Registry, schema string, datum []byte) (*CustomerEvent, error) {
	t.Helper()
	e := c.NewEvent()
	return e, c.DecodeEvent(t.Context(), underSchema(r.Add(schema), datum), e)
}

// replaced returns text with old replaced, which has to be in it.
func replaced(t *testing.T, text, old, new string) string {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("%s is not in %s", old, text)
	}
	return strings.ReplaceAll(text, old, new)
}

// Resolution does not compare names, so whatever a registry took for one is one.
func TestNamesOfWriters(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	want := sampleEvent(t, s)
	datum := c.AppendEvent(nil, want)[frameLength:]
	for _, r := range []struct{ name, old, new string }{
		{"a hyphen in a namespace", `"namespace":"churnstream"`, `"namespace":"crm.customer-events"`},
		{"a Java class in another", `"namespace":"churnstream"`, `"namespace":"com.acme.Events$"`},
		{"an umlaut in a type", `"name":"CustomerIncrements"`, `"name":"Beträge"`},
		{"a digit first", `"name":"CustomerAttributes"`, `"name":"4 all"`},
		{"a field of other letters", `{"name":"event_id"`, `{"name":"Kündigung-1","type":{"type":"enum","name":"Ja/Nein","symbols":["nö","ja!"]}},{"name":"event_id"`},
	} {
		t.Run(r.name, func(t *testing.T) {
			d := datum
			if strings.Contains(r.new, "Kündigung") {
				d = append([]byte{2}, datum...)
			}
			got, err := read(t, c, registry, replaced(t, s.Schema(TopicEvents), r.old, r.new), d)
			if err != nil || dump(got) != dump(want) {
				t.Errorf("%v\ngot  %s\nwant %s", err, dump(got), dump(want))
			}
		})
	}
	if _, err := Parse([]byte(`{"type":"record","name":"A","fields":[{"name":"Kündigung","type":["null","double"]}]}`)); err == nil {
		t.Error("a schema of our own has a name that Avro does not have")
	}
}

// Several types of event in one topic, as Confluent describes it.
func TestUnionAtTheTop(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	want := sampleEvent(t, s)
	datum := c.AppendEvent(nil, want)[frameLength:]
	own := s.Schema(TopicEvents)
	const ping = `{"type":"record","name":"Ping","namespace":"crm","fields":[{"name":"x","type":"int"}]}`
	for _, r := range []struct {
		name, schema string
		datum        []byte
		problem      string
	}{
		{"null or event", `["null",` + own + `]`, append([]byte{2}, datum...), ""},
		{"ping or event", `[` + ping + `,` + own + `]`, append([]byte{2}, datum...), ""},
		{"event or ping", `[` + own + `,` + ping + `]`, append([]byte{0}, datum...), ""},
		{"null", `["null",` + own + `]`, []byte{0}, "null was written"},
		{"ping", `[` + ping + `,` + own + `]`, []byte{0, 2}, "crm.Ping was written"},
		{"no such branch", `[` + ping + `,` + own + `]`, []byte{4, 2}, "union position 2 of 2"},
		{"none of ours", `["null",` + ping + `]`, []byte{2, 2}, "event_id is missing"},
		{"nothing", `["null",` + own + `]`, nil, "too early"},
	} {
		t.Run(r.name, func(t *testing.T) {
			got, err := read(t, c, registry, r.schema, r.datum)
			if r.problem != "" {
				if reasonOf(err) != ReasonUndecodable || !strings.Contains(err.Error(), r.problem) {
					t.Errorf("error %v, want %q", err, r.problem)
				}
			} else if err != nil || dump(got) != dump(want) {
				t.Errorf("%v\ngot  %s\nwant %s", err, dump(got), dump(want))
			}
		})
	}
}

func TestIncrementsMayBeLeftOut(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	schema := eventSchema("", noChanges)
	schema = replaced(t, schema, `,{"name":"increments","type":{"type":"record","name":"I","fields":[]}}`, "")
	got, err := read(t, c, registry, schema, eventDatum)
	if err != nil || len(got.Increments) != s.Spec().Len() || !scoring.IsMissing(got.Increments[4]) {
		t.Errorf("%v: %s", err, dump(got))
	}
}

func TestDecimalsAreNumbers(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	tenure, _ := s.Spec().Index("tenure")
	const (
		inBytes = `{"type":"bytes","logicalType":"decimal","precision":64,"scale":2,"connect.name":"org.apache.kafka.connect.data.Decimal"}`
		fixed   = `{"type":"fixed","name":"D","size":4,"logicalType":"decimal","precision":9,"scale":2}`
	)
	for _, r := range []struct {
		typ    string
		datum  []byte
		want   float64
		reason Reason
	}{
		{inBytes, []byte{4, 0x1d, 0x65}, 75.25, ""},
		{`["null",` + inBytes + `]`, []byte{2, 4, 0x1d, 0x65}, 75.25, ""},
		{`["null",` + inBytes + `]`, []byte{0}, math.NaN(), ""},
		{fixed, []byte{0xff, 0xff, 0xff, 0xff}, -0.01, ""},
		{`{"type":"bytes","logicalType":"decimal","precision":4}`, []byte{4, 0x1d, 0x65}, 7525, ""},
		{inBytes, []byte{0}, 0, ReasonInvalidValue},
		{inBytes, append(avro.AppendLong(nil, 129), make([]byte, 129)...), 0, ReasonInvalidValue},
		{inBytes, []byte{6, 1, 2}, 0, ReasonUndecodable},
		{`{"type":"bytes","logicalType":"decimal","precision":4,"scale":-1}`, []byte{4, 0x1d, 0x65}, 0, ReasonUndecodable},
		{`{"type":"bytes","logicalType":"decimal","precision":4,"scale":"2"}`, []byte{4, 0x1d, 0x65}, 0, ReasonUndecodable},
		{`"bytes"`, []byte{4, 0x1d, 0x65}, 0, ReasonUndecodable},
	} {
		for field, x := range map[string]func(*CustomerEvent) scoring.Vector{
			"changes":    func(e *CustomerEvent) scoring.Vector { return e.Changes },
			"increments": func(e *CustomerEvent) scoring.Vector { return e.Increments },
		} {
			record := `{"type":"record","name":"X","fields":[{"name":"tenure","type":` + r.typ + `}]}`
			schema := eventSchema("", record)
			if field == "increments" {
				schema = replaced(t, eventSchema("", noChanges), `{"type":"record","name":"I","fields":[]}`, record)
			}
			got, err := read(t, c, registry, schema, append(eventDatum[:len(eventDatum):len(eventDatum)], r.datum...))
			switch {
			case reasonOf(err) != r.reason:
				t.Errorf("%s %s, % x: error %v, want reason %q", field, r.typ, r.datum, err, r.reason)
			case err == nil && dump(x(got)[tenure]) != dump(r.want):
				t.Errorf("%s %s, % x: %v, want %v", field, r.typ, r.datum, x(got)[tenure], r.want)
			case err != nil && r.reason == ReasonInvalidValue && !strings.Contains(err.Error(), field+": tenure: a decimal"):
				t.Errorf("error %v does not name the field", err)
			}
		}
	}
	// Bytes that are a number are no text.
	_, err := read(t, c, registry, eventSchema("", `{"type":"record","name":"X","fields":[{"name":"Contract","type":`+inBytes+`}]}`), append(eventDatum[:len(eventDatum):len(eventDatum)], 2, 'x'))
	if reasonOf(err) != ReasonUndecodable {
		t.Errorf("a decimal as a level: %v", err)
	}
}

// FuzzDecimal holds decimals against exact fractions.
func FuzzDecimal(f *testing.F) {
	set, err := Parse([]byte(`{"type":"record","name":"A","fields":[{"name":"x","type":["null","double"]}]}`))
	if err != nil {
		f.Fatal(err)
	}
	registry := registrytest.New()
	c := NewCodec(set, registry)
	for _, seed := range []string{"1d65", "00", "80", "ff", "7fffffffffffffff", "8000000000000000", "20000000000001",
		"0020000000000001", "ffffffffffffffffff", "7f" + strings.Repeat("ff", 127), strings.Repeat("80", 40)} {
		b, _ := hex.DecodeString(seed)
		for _, scale := range []uint16{0, 2, 22, 23, 330, 400} {
			f.Add(b, scale)
		}
	}
	f.Fuzz(func(t *testing.T, unscaled []byte, scale uint16) {
		scale %= 401
		id := 1000 + int(scale)
		registry.Put(id, eventSchema("", fmt.Sprintf(`{"type":"record","name":"X","fields":[{"name":"x","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":%d}}]}`, scale)))
		e := c.NewEvent()
		err := c.DecodeEvent(context.Background(), underSchema(id, avro.AppendBytes(eventDatum[:len(eventDatum):len(eventDatum)], unscaled)), e)
		if len(unscaled) == 0 || len(unscaled) > 128 {
			if reasonOf(err) != ReasonInvalidValue {
				t.Fatalf("%d bytes: %v", len(unscaled), err)
			}
			return
		}
		n := new(big.Int).SetBytes(unscaled)
		if unscaled[0]&0x80 != 0 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(unscaled))))
		}
		want, _ := new(big.Rat).SetFrac(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)).Float64()
		if math.Abs(want) > scoring.MaxNumber {
			if reasonOf(err) != ReasonInvalidValue {
				t.Fatalf("%v / 10^%d: %v, %v", n, scale, e.Changes[0], err)
			}
		} else if err != nil || e.Changes[0] != want {
			t.Fatalf("%v / 10^%d: %v, %v, want %v", n, scale, e.Changes[0], err, want)
		}
	})
}

// Times are what their logical types say, in events as in outcomes, and within
// what other consumers can read.
func TestTimesOfWriters(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	long := func(logical string) string { return `{"type":"long","logicalType":"` + logical + `"}` }
	for _, r := range []struct {
		typ    string
		number int64
		want   int64
		reason Reason
	}{
		{`"long"`, 1_700_000_000_123, 1_700_000_000_123, ""},
		{long("timestamp-millis"), 1_700_000_000_123, 1_700_000_000_123, ""},
		{long("timestamp-micros"), 1_700_000_000_123_999, 1_700_000_000_123, ""},
		{long("timestamp-nanos"), 1_700_000_000_123_999_999, 1_700_000_000_123, ""},
		{long("local-timestamp-millis"), 1_700_000_000_123, 1_700_000_000_123, ""},
		{long("local-timestamp-micros"), 1_700_000_000_123_999, 1_700_000_000_123, ""},
		{long("local-timestamp-nanos"), 1_700_000_000_123_999_999, 1_700_000_000_123, ""},
		{long("timestamp-micros"), -1, -1, ""},
		{long("timestamp-micros"), -1000, -1, ""},
		{long("timestamp-micros"), -1001, -2, ""},
		{`{"type":"int","logicalType":"date"}`, 19675, 1_699_920_000_000, ""},
		{`{"type":"long","connect.name":"io.debezium.time.MicroTimestamp"}`, 1_700_000_000_123_999, 1_700_000_000_123, ""},
		{`{"type":"long","connect.name":"io.debezium.time.NanoTimestamp"}`, 1_700_000_000_123_999_999, 1_700_000_000_123, ""},
		{`["null",` + long("timestamp-micros") + `]`, 1_700_000_000_123_999, 1_700_000_000_123, ""},
		{long("timestamp-millis"), minTime, minTime, ""},
		{long("timestamp-millis"), maxTime, maxTime, ""},
		{long("timestamp-micros"), maxTime*1000 + 999, maxTime, ""},
		{long("timestamp-millis"), minTime - 1, 0, ReasonInvalidValue},
		{long("timestamp-millis"), maxTime + 1, 0, ReasonInvalidValue},
		{long("timestamp-millis"), math.MinInt64, 0, ReasonInvalidValue},
		{long("timestamp-millis"), math.MaxInt64, 0, ReasonInvalidValue},
		{`"long"`, 1_700_000_000_123_456, 0, ReasonInvalidValue},
		{long("timestamp-micros"), math.MinInt64, 0, ReasonInvalidValue},
		{long("time-micros"), 1, 0, ReasonUndecodable},
		{`{"type":"int","logicalType":"time-millis"}`, 1, 0, ReasonUndecodable},
	} {
		number := avro.AppendLong(nil, r.number)
		if strings.HasPrefix(r.typ, "[") {
			number = append([]byte{2}, number...)
		}
		event := replaced(t, eventSchema("", noChanges), `{"name":"occurred_at","type":"long"}`, `{"name":"occurred_at","type":`+r.typ+`}`)
		e, err := read(t, c, registry, event, append([]byte{2, 'e', 2, 'c'}, number...))
		if reasonOf(err) != r.reason || err == nil && e.OccurredAt != r.want {
			t.Errorf("event, %s %d: %d, %v, want %d, %q", r.typ, r.number, e.OccurredAt, err, r.want, r.reason)
		}
		if r.reason == ReasonInvalidValue && !strings.Contains(err.Error(), "occurred_at: ") {
			t.Errorf("error %v does not name the field", err)
		}
		outcome := `{"type":"record","name":"O","fields":[{"name":"customer_id","type":"string"},{"name":"churned","type":"boolean"},{"name":"observed_at","type":` + r.typ + `}]}`
		var o ChurnOutcome
		err = c.DecodeOutcome(t.Context(), underSchema(registry.Add(outcome), append([]byte{2, 'c', 1}, number...)), &o)
		if reasonOf(err) != r.reason || err == nil && o.ObservedAt != r.want {
			t.Errorf("outcome, %s %d: %d, %v, want %d, %q", r.typ, r.number, o.ObservedAt, err, r.want, r.reason)
		}
	}
}

// Nothing but white space says that a level is not known, which in a change
// leaves it as it is.
func TestLevelsAreTrimmed(t *testing.T) {
	s := ownSet(t)
	c, _ := newCodec(t, s)
	contract, _ := s.Spec().Index("Contract")
	for text, want := range map[string]string{
		"": "", " ": "", "\t\r\n": "", "\u00a0": "", "Two year": "Two year", "Two year ": "Two year", " Two year\u2003": "Two year", "é": "é",
	} {
		e := sampleEvent(t, s)
		e.Changes[contract] = e.Levels.Add(text) // as another producer's
		got := c.NewEvent()
		if err := c.DecodeEvent(t.Context(), c.AppendEvent(nil, e), got); err != nil || s.Text(contract, got.Changes[contract], got.Levels) != want {
			t.Errorf("event, %q: %q, %v", text, s.Text(contract, got.Changes[contract], got.Levels), err)
		} else if want == "" && !scoring.IsMissing(got.Changes[contract]) {
			t.Errorf("event, %q: a level", text)
		}
		outcome := sampleOutcome(t, s)
		outcome.Attributes[contract] = outcome.Levels.Add(text)
		var o ChurnOutcome
		if err := c.DecodeOutcome(t.Context(), c.AppendOutcome(nil, outcome), &o); err != nil || s.Text(contract, o.Attributes[contract], o.Levels) != want {
			t.Errorf("outcome, %q: %q, %v", text, s.Text(contract, o.Attributes[contract], o.Levels), err)
		}
		quoted, err := json.Marshal(map[string]string{"Contract": text})
		if err != nil {
			t.Fatal(err)
		}
		var levels scoring.Levels
		if x, err := s.AttributesFromJSON(quoted, &levels); err != nil || s.Text(contract, x[contract], levels) != want {
			t.Errorf("JSON, %s: %v", quoted, err)
		}
		if x, err := s.ParseText(contract, text); err != nil || s.Text(contract, x, nil) != want {
			t.Errorf("text, %q: %q, %v", text, s.Text(contract, x, nil), err)
		}
	}
}

// What is not UTF-8 cannot be read by others in what is written of it.
func TestTextIsUTF8(t *testing.T) {
	s := ownSet(t)
	c, _ := newCodec(t, s)
	contract, _ := s.Spec().Index("Contract")
	bad := []byte("caf\xe9")
	for field, change := range map[string]func(*CustomerEvent){
		"event_id":          func(e *CustomerEvent) { e.EventID = bad },
		"customer_id":       func(e *CustomerEvent) { e.CustomerID = bad },
		"source":            func(e *CustomerEvent) { e.Source = bad },
		"changes: Contract": func(e *CustomerEvent) { e.Changes[contract] = e.Levels.Add(string(bad)) },
	} {
		e := sampleEvent(t, s)
		change(e)
		err := c.DecodeEvent(t.Context(), c.AppendEvent(nil, e), c.NewEvent())
		if reasonOf(err) != ReasonInvalidValue || !strings.Contains(err.Error(), field+": not valid UTF-8") {
			t.Errorf("%s: %v", field, err)
		}
	}
	// A score may have been written before.
	score := sampleScore(t, s)
	score.Attributes[contract], score.OccurredAt = score.Levels.Add(string(bad)), math.MaxInt64
	got := c.NewScore()
	if err := c.DecodeScore(t.Context(), c.AppendScore(nil, score), got); err != nil {
		t.Fatal(err)
	}
	if text := s.Text(contract, got.Attributes[contract], got.Levels); text != "caf\ufffd" || got.OccurredAt != maxTime {
		t.Errorf("a score's level is %q, its time %d", text, got.OccurredAt)
	}
	// Dead letters and models are written so that others can read them.
	letter := sampleDeadLetter()
	letter.Detail, letter.Headers[0].Key, letter.Timestamp, letter.FailedAt = string(bad), string(bad), math.MaxInt64, math.MinInt64
	var l DeadLetter
	if err := c.DecodeDeadLetter(t.Context(), c.AppendDeadLetter(nil, letter), &l); err != nil {
		t.Fatal(err)
	}
	if !utf8.ValidString(l.Detail) || !utf8.ValidString(l.Headers[0].Key) || l.Timestamp != maxTime || l.FailedAt != minTime {
		t.Errorf("%s", dump(&l))
	}
}

// Confluent's serializers can name the schema in a header, by id or by GUID.
func TestSchemaInAHeader(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	registry.PutGUID("00112233-4455-6677-8899-aabbccddeeff", s.Schema(TopicEvents))
	want := sampleEvent(t, s)
	framed := c.AppendEvent(nil, want)
	datum := framed[frameLength:]
	header := func(text string) []byte {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, r := range []struct {
		name          string
		header, value []byte
		reason        Reason
	}{
		{"no header", nil, framed, ""},
		{"id", header("0000000001"), datum, ""},
		{"GUID", header("0100112233445566778899aabbccddeeff"), datum, ""},
		{"GUID in the value", nil, append(header("0100112233445566778899aabbccddeeff"), datum...), ""},
		{"id and frame", header("0000000001"), framed, ReasonUndecodable},
		{"unknown id", header("0000001000"), datum, ReasonUnknownSchema},
		{"unknown GUID", header("01ff112233445566778899aabbccddeeff"), datum, ReasonUnknownSchema},
		{"GUID of zeros", header("0100000000000000000000000000000000"), datum, ReasonBadFrame},
		{"empty", []byte{}, datum, ReasonBadFrame},
		{"short id", header("000000"), datum, ReasonBadFrame},
		{"long id", header("000000000100"), datum, ReasonBadFrame},
		{"short GUID", header("0100112233"), datum, ReasonBadFrame},
		{"other magic", header("0200000001"), datum, ReasonBadFrame},
		{"short GUID in the value", nil, header("0100112233"), ReasonBadFrame},
	} {
		t.Run(r.name, func(t *testing.T) {
			got := c.NewEvent()
			value, err := r.value, error(nil)
			if r.header != nil {
				value, err = AppendFramed(nil, r.header, value)
			}
			if err == nil {
				err = c.DecodeEvent(t.Context(), value, got)
			}
			if reasonOf(err) != r.reason || err == nil && dump(got) != dump(want) {
				t.Errorf("%v, want %q: %s", err, r.reason, dump(got))
			}
		})
	}
	lookups := registry.Lookups()
	value, _ := AppendFramed(nil, header("0100112233445566778899aabbccddeeff"), datum)
	if err := c.DecodeEvent(t.Context(), value, c.NewEvent()); err != nil || registry.Lookups() != lookups {
		t.Errorf("%v, asked the registry %d times more", err, registry.Lookups()-lookups)
	}
}

// FuzzFramed joins whatever header with whatever value.
func FuzzFramed(f *testing.F) {
	codec, _ := newCodec(f, ownSet(f))
	datum := codec.AppendEvent(nil, sampleEvent(f, codec.Set()))[frameLength:]
	f.Add([]byte{0, 0, 0, 0, 1}, datum)
	f.Add([]byte{1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, datum)
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, header, value []byte) {
		framed, err := AppendFramed(nil, header, value)
		if err != nil {
			if reasonOf(err) != ReasonBadFrame {
				t.Fatal(err)
			}
			return
		}
		if _, rest, ok := CutFrame(framed); !ok || string(rest) != string(value) {
			t.Fatalf("%x and %x became %x", header, value, framed)
		}
		if err := codec.DecodeEvent(context.Background(), framed, codec.NewEvent()); err != nil {
			if _, poison := AsPoison(err); !poison {
				t.Fatal(err)
			}
		}
	})
}
