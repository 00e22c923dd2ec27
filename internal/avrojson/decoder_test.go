package avrojson

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/linkedin/goavro/v2"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
)

// quietDecoder returns a decoder of the schemas with the given texts, whose ids
// are their positions.
func quietDecoder(texts ...string) *Decoder {
	registry := registrytest.New()
	for id, text := range texts {
		registry.Put(id, text)
	}
	return NewDecoder(registry, slog.New(slog.DiscardHandler))
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

// Names of writers are any text, a schema may be named in a header or by its GUID,
// and a decimal is shown as a number.
func TestDecodeOfForeignWriters(t *testing.T) {
	const schema = `{"type":"record","name":"Kündigung","namespace":"crm.customer-events","fields":[
		{"name":"Monats-Betrag","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
		{"name":"ja/nein","type":["null",{"type":"enum","name":"J$","symbols":["nö","ja!"]}]},
		{"name":"other","type":{"type":"fixed","name":"D","size":2,"logicalType":"decimal","precision":3,"scale":3}},
		{"name":"whole","type":{"type":"bytes","logicalType":"decimal","precision":3}},
		{"name":"none","type":{"type":"bytes","logicalType":"decimal","precision":3}}]}`
	registry := registrytest.New()
	registry.Put(1, schema)
	registry.PutGUID("00112233-4455-6677-8899-aabbccddeeff", schema)
	datum := []byte{4, 0x1d, 0x65, 2, 2, 0xff, 0xfb, 2, 0x80, 0}
	id, guid := []byte{0, 0, 0, 0, 1}, []byte("\x01\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff")
	d := NewDecoder(registry, slog.New(slog.DiscardHandler))
	for name, c := range map[string]struct {
		header, value []byte
		schema        string
	}{
		"id":             {nil, slices.Concat(id, datum), "1"},
		"GUID":           {nil, slices.Concat(guid, datum), "00112233-4455-6677-8899-aabbccddeeff"},
		"id in header":   {id, datum, "1"},
		"GUID in header": {guid, datum, "00112233-4455-6677-8899-aabbccddeeff"},
	} {
		text, of, err := d.Decode(t.Context(), c.header, c.value)
		if want := `{"Monats-Betrag":75.25,"ja/nein":"ja!","other":-0.005,"whole":-128,"none":""}`; err != nil || string(text) != want || of.String() != c.schema {
			t.Errorf("%s: schema %s, %v, %s", name, of, err, text)
		}
	}
	for name, c := range map[string]struct{ header, value []byte }{
		"none":               {nil, datum},
		"junk in the header": {[]byte("junk"), slices.Concat(id, datum)},
		"too long a header":  {slices.Concat(id, id), datum},
	} {
		if _, _, err := d.Decode(t.Context(), c.header, c.value); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecode(t *testing.T) {
	d := quietDecoder("", everyType)
	// goavro takes times as numbers only where the schema does not call them
	// times.
	plain := newOracle(everyType).codec
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
	text, id, err := d.Decode(t.Context(), nil, framed(1, datum))
	if err != nil || id.String() != "1" {
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
		if _, _, err := d.Decode(t.Context(), nil, framed(1, datum[:n])); err == nil {
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
	if _, _, err := d.Decode(t.Context(), nil, framed(1, append(datum, 0))); err == nil || !strings.Contains(err.Error(), "1 bytes are left over") {
		t.Errorf("a byte too many: %v", err)
	}
}

// No schema makes a few bytes take all memory or all of the stack.
func TestHostileSchemas(t *testing.T) {
	double := `{"type":"record","name":"R0","fields":[{"name":"x","type":"null"}]}`
	for i := range 40 {
		double = fmt.Sprintf(`{"type":"record","name":"R%d","fields":[{"name":"%s","type":%s},{"name":"b","type":"R%d"}]}`, i+1, strings.Repeat("a", 500), double, i)
	}
	wide := `{"type":"record","name":"W","fields":[{"name":"id","type":"long"}`
	for i := range 2_000 {
		wide += fmt.Sprintf(`,{"name":"%s%d","type":"null"}`, strings.Repeat("f", 50), i)
	}
	wide += `]}`
	long := strings.Repeat("x", 100_000)
	cases := []struct{ name, schema, want string }{
		{"contains itself", `{"type":"record","name":"B","fields":[{"name":"c","type":"B"}]}`, "contains itself"},
		{"contains itself in a union", `{"type":"record","name":"B","fields":[{"name":"c","type":["null","B"]}]}`, "contains itself"},
		{"contains itself by its full name", `["null",{"type":"record","name":"a.B","fields":[{"name":"c","type":{"type":"array","items":"a.B"}}]}]`, "contains itself"},
		{"items of no bytes", `{"type":"array","items":"null"}`, "too early"},
		{"records of no bytes", `{"type":"array","items":{"type":"record","name":"E","fields":[]}}`, "too early"},
		{"long field names", `{"type":"array","items":{"type":"record","name":"E","fields":[{"name":"` + long + `","type":"int"}]}}`, "too early"},
		{"long symbols", `{"type":"array","items":{"type":"enum","name":"E","symbols":["A","` + long + `"]}}`, "too early"},
		{"long names of damaged fields", strings.Replace(wide, `"`+strings.Repeat("f", 50)+`0","type":"null"`, `"`+long+`","type":"boolean"`, 1), "is no boolean"},
		{"a long name", `{"type":"fixed","name":"` + long + `","size":1}`, "longer than 512 bytes"},
		{"a long namespace", `{"type":"record","name":"R","namespace":"` + long + `","fields":[{"name":"x","type":` + double + `}]}`, "longer than 512 bytes"},
		{"a long unknown type", `["null","` + long + `"]`, "unknown type"},
		{"a long schema", `["null","` + strings.Repeat("x", maxSchemaBytes) + `"]`, "1048587 bytes long"},
		{"a long number", strings.Replace(wide, `"null"`, strings.Repeat("1", 100_000), 1), "JSON"},
		{"a wide record, cut off", strings.Replace(wide, `"null"`, `"string"`, 2_000), ""},
		{"doubling", double, "larger than 64 MiB"},
		{"wide items", `{"type":"array","items":` + wide + `}`, "larger than 64 MiB"},
		{"deep", strings.Repeat(`{"type":"array","items":`, 101) + `"int"` + strings.Repeat(`}`, 101), "nest more than 100 deep"},
		{"very deep", strings.Repeat(`[`, 20_000), "JSON"},
		{"defined twice", `["null",{"type":"enum","name":"E","symbols":["A"]},{"type":"record","name":"E","fields":[]}]`, "twice"},
		{"no such type", `{"type":"record","name":"B","fields":[{"name":"c","type":"D"}]}`, `unknown type "D"`},
		{"no type", `{"type":"record","name":"B","fields":[{"name":"c"}]}`, "field c has no type"},
		{"a huge fixed", `{"type":"fixed","name":"F","size":1e18}`, "without a size"},
		{"a fixed of less than nothing", `{"type":"fixed","name":"F","size":-1}`, "without a size"},
		{"no symbols", `{"type":"enum","name":"E"}`, "without symbols"},
		{"no branches", `[]`, "a union without types"},
		{"a number", `17`, "a type is a name"},
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
			_, _, err := d.Decode(t.Context(), nil, framed(1, datum))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %.2000v, want %q in it", err, c.want)
			} else if len(err.Error()) > 10_000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			s, datum, err := d.Schema(t.Context(), nil, framed(1, datum))
			if err != nil {
				t.Fatal(err)
			}
			if part := s.DecodePart(datum); len(part) > 1<<20 {
				t.Errorf("%d bytes of what could be decoded", len(part))
			}
		})
	}
}

// What values there are decides, not what there could be.
func TestBoundedJSON(t *testing.T) {
	items := func(schema string) string { return `{"type":"array","items":` + schema + `}` }
	record := func(name, typ string) string {
		return `{"type":"record","name":"R","fields":[{"name":"` + name + `","type":` + typ + `}]}`
	}
	huge := binary.AppendVarint(nil, math.MaxInt32)
	text := func(b byte, n int) []byte {
		return append(binary.AppendVarint(nil, int64(n)), bytes.Repeat([]byte{b}, n)...)
	}
	numbers := func(n int) []byte {
		return append(append(binary.AppendVarint(nil, int64(n)), bytes.Repeat([]byte{2}, n)...), 0)
	}
	keys := func(n int) []byte {
		datum := binary.AppendVarint(nil, int64(n))
		for i := range n {
			datum = append(datum, 4, byte('a'+i/26), byte('a'+i%26))
		}
		return append(datum, 0)
	}
	for _, c := range []struct {
		name, schema string
		datum        []byte
		want         int // bytes of JSON, 0 if it is refused
	}{
		{"a million numbers", items(`"long"`), numbers(1 << 20), 2<<20 + 1},
		{"a long text beside items", record("x", `["null",`+items(`["null","string"]`)+`,"string"]`), append([]byte{4}, text('a', 4<<20)...), 4<<20 + 8},
		{"a record of nothing, often", items(`{"type":"record","name":"E","fields":[]}`), append(binary.AppendVarint(nil, 1000), 0), 3001},
		{"two thousand million nulls", items(`"null"`), append(bytes.Clone(huge), 0), 0},
		{"a long name to each number", items(record(strings.Repeat("x", 200_000), `"long"`)), numbers(1000), 0},
		{"a long symbol to each number", items(`{"type":"enum","name":"E","symbols":["A","` + strings.Repeat("x", 200_000) + `"]}`), numbers(1000), 0},
		{"control characters", `"string"`, text(1, 12<<20), 0},
		{"a map of long names", `{"type":"map","values":` + record(strings.Repeat("x", 600_000), `"null"`) + `}`,
			keys(200), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := parseSchema(c.schema)
			got, err := s.Decode(c.datum)
			if c.want == 0 && (err == nil || !strings.Contains(err.Error(), "larger than 64 MiB")) || c.want > 0 && err != nil {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if len(got) != c.want {
				t.Errorf("%d bytes, want %d", len(got), c.want)
			}
		})
	}
}

// However many schemas a topic brings, few are remembered.
func TestForgottenSchemas(t *testing.T) {
	texts := slices.Repeat([]string{`"long"`}, 3*maxSchemas)
	d := quietDecoder(texts...)
	for id := range texts {
		if text, _, err := d.Decode(t.Context(), nil, framed(uint32(id), []byte{2})); err != nil || string(text) != "1" {
			t.Fatalf("schema %d: %s, %v", id, text, err)
		}
		if len(d.known) > maxSchemas {
			t.Fatalf("%d schemas are remembered", len(d.known))
		}
	}
	large := slices.Repeat([]string{`"long"` + strings.Repeat(" ", maxSchemaBytes-6)}, 20)
	d = quietDecoder(large...)
	for id := range large {
		if _, _, err := d.Decode(t.Context(), nil, framed(uint32(id), []byte{2})); err != nil {
			t.Fatal(err)
		}
		if d.bytes > maxSchemasBytes+maxSchemaBytes {
			t.Fatalf("%d bytes of schemas are remembered", d.bytes)
		}
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
		_, _, err := d.Decode(t.Context(), nil, c.value)
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

// Whatever schema and bytes come, the answer is JSON or an error, and what
// goavro's would be.
func FuzzDecode(f *testing.F) {
	// What goavro allocates for the items of a block before it has seen one: the
	// oracle's data are not read over beforehand.
	most := goavro.MaxBlockCount
	goavro.MaxBlockCount = 1 << 16
	f.Cleanup(func() { goavro.MaxBlockCount = most })
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
		text, _, err := d.Decode(t.Context(), nil, framed(1, datum))
		if err == nil && !json.Valid(text) {
			t.Fatalf("not JSON: %s", text)
		}
		if o := newOracle(schema); o != nil {
			want, taken, ok := o.decode(datum)
			if ok && taken != (err == nil) || err == nil && ok && !bytes.Equal(text, want) {
				t.Fatalf("%s, %v\ngoavro: %t, %s", text, err, taken, want)
			}
		}
		s, _, _ := d.Schema(t.Context(), nil, framed(1, datum))
		if part := s.DecodePart(datum); part != nil && !json.Valid(part) {
			t.Fatalf("not JSON: %s", part)
		}
		// The same bytes as a whole value, their frame among them.
		var undecodable *UndecodableError
		if text, _, err := d.Decode(t.Context(), nil, datum); err == nil && !json.Valid(text) || err != nil && !errors.As(err, &undecodable) {
			t.Fatalf("%s, %v", text, err)
		}
	})
}
