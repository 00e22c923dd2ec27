package avro

import (
	"strings"
	"testing"
)

func TestInline(t *testing.T) {
	const (
		inner = `{"type":"record","name":"Inner","fields":[{"name":"n","type":"long","default":9007199254740993}]}`
		outer = `{"type":"record","name":"Outer","namespace":"a","fields":[{"name":"in","type":` + inner + `},{"name":"again","type":["null","Inner"]}]}`
		enum  = `{"type":"enum","name":"Colour","symbols":["RED"]}`
	)
	record := func(types ...string) string {
		fields := make([]string, len(types))
		for i, typ := range types {
			fields[i] = `{"name":"f` + string(rune('0'+i)) + `","type":` + typ + `}`
		}
		return `{"type":"record","name":"R","namespace":"a","fields":[` + strings.Join(fields, ",") + `]}`
	}
	for _, r := range []struct {
		name, schema string
		others       []string
		same         string // what the result parses like
	}{
		{"nothing to do", record(`"int"`), []string{outer}, record(`"int"`)},
		{"by its full name", record(`"a.Outer"`, `["null","a.Outer"]`), []string{outer}, record(outer, `["null","Outer"]`)},
		{"by its name", record(`{"type":"array","items":"Outer"}`), []string{outer}, record(`{"type":"array","items":` + outer + `}`)},
		{"without a namespace", record(`{"type":"map","values":"Colour"}`), []string{enum}, record(`{"type":"map","values":{"type":"enum","name":"Colour","namespace":"","symbols":["RED"]}}`)},
		{"a part before the whole", record(`"Inner"`, `"Outer"`), []string{outer},
			record(inner, `{"type":"record","name":"Outer","fields":[{"name":"in","type":"Inner"},{"name":"again","type":["null","Inner"]}]}`)},
		{"of others in others", record(`"b.B"`), []string{enum, `{"type":"record","name":"b.B","fields":[{"name":"c","type":"Colour"}]}`},
			record(`{"type":"record","name":"b.B","fields":[{"name":"c","type":{"type":"enum","name":"Colour","namespace":"","symbols":["RED"]}}]}`)},
		{"in a union at the top", `["null","a.Outer"]`, []string{outer}, `["null",` + outer + `]`},
		{"alone", `"a.Outer"`, []string{outer}, outer},
		{"recursive", record(`"T"`), []string{`{"type":"record","name":"T","namespace":"a","fields":[{"name":"t","type":["null","T"]}]}`},
			record(`{"type":"record","name":"T","fields":[{"name":"t","type":["null","T"]}]}`)},
	} {
		t.Run(r.name, func(t *testing.T) {
			others := make([][]byte, len(r.others))
			for i := range others {
				others[i] = []byte(r.others[i])
			}
			text, err := Inline([]byte(r.schema), others...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(text)
			if err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			want, err := Parse([]byte(r.same))
			if err != nil {
				t.Fatal(err)
			}
			if !alike(got, want, map[*Type]bool{}) {
				t.Errorf("%s\nis not\n%s", text, r.same)
			}
			if strings.Contains(r.same, "90071992547409") && !strings.Contains(string(text), "9007199254740993") {
				t.Errorf("a default is another number: %s", text)
			}
		})
	}
}

// alike compares types with the names in them.
func alike(a, b *Type, seen map[*Type]bool) bool {
	if seen[a] {
		return a.Name == b.Name
	}
	seen[a] = true
	if a.Kind != b.Kind || a.Name != b.Name || len(a.Fields) != len(b.Fields) || len(a.Branches) != len(b.Branches) {
		return false
	}
	for i := range a.Fields {
		if a.Fields[i].Name != b.Fields[i].Name || !alike(a.Fields[i].Type, b.Fields[i].Type, seen) {
			return false
		}
	}
	for i := range a.Branches {
		if !alike(a.Branches[i], b.Branches[i], seen) {
			return false
		}
	}
	return a.Items == nil || alike(a.Items, b.Items, seen)
}

// FuzzInline puts together whatever two producers registered. The result is
// bounded by both, and what needed nothing means what it meant.
func FuzzInline(f *testing.F) {
	f.Add(`{"type":"record","name":"a.R","fields":[{"name":"x","type":"T"}]}`, `{"type":"record","name":"T","namespace":"a","fields":[{"name":"t","type":["null","T"]}]}`)
	f.Add(`["T","U"]`, `[{"type":"fixed","name":"T","size":1},{"type":"enum","name":"U","symbols":["T"]}]`)
	f.Add(`{"type":"T"}`, `{"name":"T","type":"record","fields":[{"name":"a","type":{"type":"array","items":"T"}},{"type":1},2]}`)
	f.Add(`{"type":{"type":{"type":"a.b"}}}`, `{"name":"a.b","type":"enum"}`)
	f.Fuzz(func(t *testing.T, schema, other string) {
		if len(schema)+len(other) > 1<<14 {
			t.Skip("too long")
		}
		text, err := Inline([]byte(schema), []byte(other))
		if err != nil {
			return
		}
		// Escapes of JSON, and names and namespaces that were not written out.
		if len(text) > 6*(len(schema)+len(other))+(len(schema)+len(other))*len(other) {
			t.Fatalf("%d and %d bytes became %d", len(schema), len(other), len(text))
		}
		got, err := ParseWriter(text)
		want, wantErr := ParseWriter([]byte(schema))
		if wantErr == nil && err == nil && !alike(got, want, map[*Type]bool{}) {
			t.Fatalf("%s became %s", schema, text)
		}
	})
}
