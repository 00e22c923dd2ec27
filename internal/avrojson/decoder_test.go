package avrojson

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"

	"github.com/linkedin/goavro/v2"

	"churnstream/schemas"
)

// shelfRegistry is a registry in memory: schemas by their index.
type shelfRegistry []string

func (r shelfRegistry) Schema(_ context.Context, id int) (string, error) {
	if id >= len(r) {
		return "", fmt.Errorf("%w: %d", schemas.ErrSchemaNotFound, id)
	}
	return r[id], nil
}

func quietDecoder(texts ...string) *Decoder {
	return NewDecoder(shelfRegistry(texts), slog.New(slog.DiscardHandler))
}

func framed(id uint32, datum []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, id), datum...)
}

const everyType = `{"type":"record","name":"R","namespace":"a.b","fields":[
	{"name":"z","type":"string"},
	{"name":"no","type":"null"},
	{"name":"flag","type":"boolean"},
	{"name":"i","type":"int"},
	{"name":"l","type":"long"},
	{"name":"f","type":"float"},
	{"name":"d","type":"double"},
	{"name":"raw","type":"bytes"},
	{"name":"four","type":{"type":"fixed","name":"Four","size":4}},
	{"name":"colour","type":{"type":"enum","name":"Colour","symbols":["RED","BLUE"]}},
	{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
	{"name":"micro","type":["null",{"type":"long","logicalType":"timestamp-micros"}]},
	{"name":"far","type":{"type":"long","logicalType":"timestamp-millis"}},
	{"name":"list","type":{"type":"array","items":["null","a.b.Colour",{"type":"record","name":"In","fields":[{"name":"x","type":"Four"}]}]}},
	{"name":"table","type":{"type":"map","values":["long","string"]}}
]}`

func TestDecode(t *testing.T) {
	d := quietDecoder("", everyType)
	// goavro takes times as numbers only where the schema does not call them
	// times.
	plain, err := newGoavro(withoutLogicalTypes(mustParse(t, everyType)))
	if err != nil {
		t.Fatal(err)
	}
	four := []byte{1, 2, 3, 0xff}
	datum, err := plain.BinaryFromNative(nil, map[string]any{
		"z": "Zoë \"\n", "no": nil, "flag": true, "i": -7, "l": int64(math.MinInt64), "f": float32(0.1), "d": math.Inf(-1),
		"raw": []byte("a\x00\xe9"), "four": four, "colour": "BLUE", "at": int64(1), "micro": goavro.Union("long", int64(1_500_000)),
		"far":   int64(math.MaxInt64),
		"list":  []any{nil, goavro.Union("a.b.Colour", "RED"), goavro.Union("a.b.In", map[string]any{"x": four})},
		"table": map[string]any{"b": goavro.Union("long", 2), "a": goavro.Union("string", "one")},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, id, err := d.Decode(t.Context(), framed(1, datum))
	if err != nil || id != 1 {
		t.Fatal(id, err)
	}
	want := `{"z":"Zoë \"\n","no":null,"flag":true,"i":-7,"l":-9223372036854775808,"f":0.1,"d":"-Infinity","raw":"a\u0000é",` +
		`"four":"\u0001\u0002\u0003ÿ","colour":"BLUE","at":"1970-01-01T00:00:00.001Z","micro":"1970-01-01T00:00:01.5Z","far":9223372036854775807,` +
		`"list":[null,"RED",{"x":"\u0001\u0002\u0003ÿ"}],"table":{"a":"one","b":2}}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if !json.Valid(text) {
		t.Error("not JSON")
	}

	// Cut off anywhere, it is refused, and what is before the cut is shown.
	schema := parseSchema(everyType)
	fields := 0
	for n := range datum {
		if _, _, err := d.Decode(t.Context(), framed(1, datum[:n])); err == nil {
			t.Fatalf("%d of %d bytes are taken", n, len(datum))
		}
		part := schema.DecodePart(datum[:n])
		if part == nil {
			if fields > 0 {
				t.Fatalf("%d bytes show nothing, fewer do", n)
			}
			continue
		}
		var m map[string]any
		if err := json.Unmarshal(part, &m); err != nil {
			t.Fatalf("%s: %v", part, err)
		}
		if len(m) < fields {
			t.Fatalf("%d bytes show %d fields, fewer bytes %d", n, len(m), fields)
		}
		fields = len(m)
	}
	if fields != 14 {
		t.Errorf("at most %d of 15 fields are shown", fields)
	}
	if _, _, err := d.Decode(t.Context(), framed(1, append(datum, 0))); err == nil || !strings.Contains(err.Error(), "1 bytes are left over") {
		t.Errorf("a byte too many: %v", err)
	}
}

func mustParse(t *testing.T, schema string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(schema), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Schemas that would make a few bytes take all memory or all of the stack are
// refused before anything is decoded.
func TestHostileSchemas(t *testing.T) {
	double := `{"type":"record","name":"R0","fields":[{"name":"x","type":"null"}]}`
	for i := range 40 {
		double = fmt.Sprintf(`{"type":"record","name":"R%d","fields":[{"name":"a","type":%s},{"name":"b","type":"R%d"}]}`, i+1, double, i)
	}
	wide := `{"type":"record","name":"W","fields":[{"name":"id","type":"long"}`
	for i := range 2_000 {
		wide += fmt.Sprintf(`,{"name":"f%d","type":"null"}`, i)
	}
	wide += `]}`
	cases := []struct{ name, schema, want string }{
		{"contains itself", `{"type":"record","name":"B","fields":[{"name":"c","type":"B"}]}`, "contains itself"},
		{"contains itself in a union", `{"type":"record","name":"B","fields":[{"name":"c","type":["null","B"]}]}`, "contains itself"},
		{"contains itself by its full name", `["null",{"type":"record","name":"a.B","fields":[{"name":"c","type":{"type":"array","items":"a.B"}}]}]`, "contains itself"},
		{"items of no bytes", `{"type":"array","items":"null"}`, "no bytes"},
		{"records of no bytes", `{"type":"array","items":{"type":"record","name":"E","fields":[]}}`, "no bytes"},
		{"a wide record, cut off", strings.Replace(wide, `"null"`, `"string"`, 2_000), ""},
		{"doubling", double, ""},
		{"wide items", `{"type":"array","items":` + wide + `}`, "could decode to more"},
		{"deep", strings.Repeat(`{"type":"array","items":`, 100) + `"int"` + strings.Repeat(`}`, 100), "deeper"},
		{"very deep", strings.Repeat(`[`, 20_000), "JSON"},
		{"defined twice", `["null",{"type":"enum","name":"E","symbols":["A"]},{"type":"record","name":"E","fields":[]}]`, "twice"},
		{"no such type", `{"type":"record","name":"B","fields":[{"name":"c","type":"D"}]}`, `unknown type "D"`},
		{"no type", `{"type":"record","name":"B","fields":[{"name":"c"}]}`, "where a type should be"},
		{"a huge fixed", `{"type":"fixed","name":"F","size":1e18}`, ""},
		{"a number", `17`, "where a type should be"},
		{"not JSON", `{`, "JSON"},
		{"empty", ``, "JSON"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := quietDecoder("", c.schema)
			datum := make([]byte, 1<<14)
			for i := range datum {
				datum[i] = 2
			}
			_, _, err := d.Decode(t.Context(), framed(1, datum))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
			s, datum, err := d.Schema(t.Context(), framed(1, datum))
			if err != nil {
				t.Fatal(err)
			}
			if part := s.DecodePart(datum); len(part) > 1<<20 {
				t.Errorf("%d bytes of what could be decoded", len(part))
			}
		})
	}
}

func TestUnknownAndUnframed(t *testing.T) {
	d := quietDecoder()
	for _, c := range []struct {
		value []byte
		want  string
	}{
		{[]byte{}, "not framed"}, {[]byte{0, 0, 0, 0}, "not framed"}, {[]byte("{}     "), "not framed"},
		{framed(9, nil), "schema not found"}, {framed(math.MaxUint32, nil), "schema not found"},
	} {
		_, _, err := d.Decode(t.Context(), c.value)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.value, err, c.want)
		}
	}
}

func TestAppendBytes(t *testing.T) {
	for _, c := range []struct {
		in   []byte
		want string
	}{
		{nil, `{"k":null}`}, {[]byte{}, `{"k":""}`}, {[]byte("ä\n"), `{"k":"ä\n"}`}, {[]byte{0xff}, `{"k_base64":"/w=="}`},
		{[]byte("\x1b\u0085"), `{"k":"\u001b\u0085"}`},
	} {
		got := string(append(AppendBytes([]byte{'{'}, "k", c.in), '}'))
		if got != c.want || !json.Valid([]byte(got)) {
			t.Errorf("%q: %s, want %s", c.in, got, c.want)
		}
	}
}

// Whatever schema and bytes come, the answer is JSON or an error.
func FuzzDecode(f *testing.F) {
	f.Add(everyType, []byte("\x02z\x01\x02\x02"))
	f.Add(schemas.Telco().Schema(schemas.TopicEvents), []byte("\x04e1\x08anna\x02"))
	f.Add(`{"type":"record","name":"B","fields":[{"name":"c","type":["null","B"]}]}`, []byte{2, 2, 2, 0})
	f.Add(`{"type":"array","items":"long"}`, []byte{0xfe, 0xff, 0xff, 0xff, 0x0f})
	f.Add(`{"type":"map","values":{"type":"array","items":"bytes"}}`, []byte{2, 2, 'a', 1, 2, 2, 'b', 0, 0})
	f.Add(`["null","string"]`, []byte{2, 4, 0xff, 0x1b})
	f.Add(`"long"`, framed(1, []byte{2}))
	f.Add(`"long"`, framed(2, []byte{2}))
	f.Add(`"long"`, []byte{1, 0, 0, 0, 1, 2})
	f.Fuzz(func(t *testing.T, schema string, datum []byte) {
		if len(schema) > 1<<14 || len(datum) > 1<<12 {
			t.Skip("too long")
		}
		d := quietDecoder("", schema)
		text, _, err := d.Decode(t.Context(), framed(1, datum))
		if err == nil && !json.Valid(text) {
			t.Fatalf("not JSON: %s", text)
		}
		s, _, _ := d.Schema(t.Context(), framed(1, datum))
		if part := s.DecodePart(datum); part != nil && !json.Valid(part) {
			t.Fatalf("not JSON: %s", part)
		}
		// The same bytes as a whole value, their frame among them.
		var undecodable *UndecodableError
		if text, _, err := d.Decode(t.Context(), datum); err == nil && !json.Valid(text) || err != nil && !errors.As(err, &undecodable) {
			t.Fatalf("%s, %v", text, err)
		}
	})
}
