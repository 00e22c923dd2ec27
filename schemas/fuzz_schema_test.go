package schemas

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/linkedin/goavro/v2"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
)

// FuzzSchema feeds the parser of writers' schemas with whatever a producer
// could register, and reads an event under it. What goavro takes is taken, too,
// with the same values, or refused for a reason that is known.
func FuzzSchema(f *testing.F) {
	goavro.MaxBlockCount = maxFuzzInput
	set := ownSet(f)
	codec, registry := newCodec(f, set)
	own := set.messages[eventMessage]
	event := codec.AppendEvent(nil, sampleEvent(f, set))[frameLength:]
	f.Add(own.text, event)
	f.Add(evolved(f, own.text), event)
	f.Add(extraType, event)
	f.Add(`["null",{"type":"record","name":"a.B","fields":[{"name":"c","type":"a.B"}]}]`, event)

	changed := append(slices.Clone(eventDatum), 2, 4, 0) // with a tenure of 2
	tenure := `{"name":"tenure","type":["null","int"]}`
	shared := `{"type":"record","name":"S","fields":[` + tenure + `,{"name":"x","type":["null",{"type":"enum","name":"T","symbols":["A"]}]}]}`
	nulls := list(100, func(i int) string { return fmt.Sprintf(`{"name":"n%d","type":"null"}`, i) })
	for _, seed := range []struct {
		schema string
		datum  []byte
	}{
		{`[` + shared + `,` + eventSchema("", `"S"`) + `]`, append([]byte{2}, changed...)},
		{eventSchema("", `["null",`+shared+`,{"type":"record","name":"C","fields":[`+tenure+`,{"name":"y","type":"S"}]}]`), append(slices.Clone(eventDatum), 4, 2, 4, 0, 2, 0)},
		{strings.Replace(eventSchema("", shared), `"type":{"type":"record","name":"I","fields":[]}`, `"type":"S"`, 1), append(changed, 2, 6, 0)},
		{eventSchema(`{"name":"x","type":{"type":"array","items":{"type":"record","name":"W","fields":[`+nulls+`,{"name":"a","type":"int"}]}}},`, shared), append([]byte{4, 2, 4, 0}, changed...)},
		{eventSchema(`{"name":"x","type":["null",{"type":"record","name":"A","fields":[{"name":"a","type":{"type":"record","name":"B","fields":[{"name":"b","type":["null","A"]}]}}]}]},`, shared), append([]byte{2, 2, 0}, changed...)},
		{strings.ReplaceAll(eventSchema("", shared), `"name":`, `"Name":"Customer id","Type":1,"name":`), changed},
		{strings.ReplaceAll(eventSchema("", shared), `{"name":"customer_id","type":"string"}`, `{"name":"customer_id","type":["int",{"type":"string"},"bytes"]}`), []byte{2, 'e', 2, 2, 'c', 10, 2, 4, 0}},
		{strings.ReplaceAll(eventSchema("", shared), `"name":"E"`, `"name":"E","namespace":"a.b"`), changed},
	} {
		f.Add(seed.schema, seed.datum)
	}

	f.Fuzz(func(t *testing.T, schema string, datum []byte) {
		if len(schema) > maxFuzzInput*4 || len(datum) > maxFuzzInput {
			t.Skip("too long")
		}
		set.vocabulary = scoring.NewVocabulary(set.spec)
		codec.plans[eventMessage].Store(&plans{})
		registry.Put(100, schema)
		got := codec.NewEvent()
		err := codec.DecodeEvent(t.Context(), underSchema(100, datum), got)
		poison, ok := AsPoison(err)
		if err != nil && !ok {
			t.Fatalf("not poison: %v", err)
		}

		reference, err := goavro.NewCodec(plainSchema(schema))
		if err != nil {
			return
		}
		w, err := avro.ParseWriter([]byte(schema))
		if err != nil {
			if !knownRefusal(err.Error()) {
				t.Fatalf("refused, but goavro takes it: %v", err)
			}
			return
		}
		if values(w, map[*avro.Type]int{}) > maxFuzzInput {
			t.Skip("more values than goavro can hold")
		}
		value, rest, err := reference.NativeFromBinary(datum)
		switch {
		case err != nil:
			if poison == nil && !strings.Contains(err.Error(), "duplicate key") && !strings.Contains(err.Error(), "MaxBlockCount") {
				t.Fatalf("accepted, but goavro: %v", err)
			}
			return
		case len(rest) > 0:
			if poison == nil {
				t.Fatalf("accepted with %d bytes left over", len(rest))
			}
			return
		}
		read, ok := asRead(t, w, own.typ, value).(native)
		if !ok {
			if poison == nil {
				t.Fatal("accepted, but it is no record")
			}
			return
		}
		o := newOracle(set)
		want := o.event(read)
		switch {
		case poison == nil && len(o.reasons) > 0:
			t.Fatalf("accepted in spite of %v", o.reasons)
		case poison == nil && dump(numbered(set, got)) != dump(want):
			t.Fatalf("got  %s\nwant %s", dump(numbered(set, got)), dump(want))
		case poison != nil && !o.reasons[poison.Reason] && !knownRefusal(poison.Detail):
			t.Fatalf("refused (%v), but goavro takes it and the values allow only %v", poison, o.reasons)
		}
	})
}

// plainSchema makes goavro answer with numbers instead of times.
func plainSchema(schema string) string {
	var v any
	if json.Unmarshal([]byte(schema), &v) != nil {
		return schema
	}
	stripLogicalTypes(v)
	text, err := json.Marshal(v)
	if err != nil {
		return schema
	}
	return string(text)
}

// knownRefusal reports whether a schema, or a value under it, is refused although
// goavro takes it, for a reason that is meant.
func knownRefusal(detail string) bool {
	for _, reason := range []string{
		"does not fit churn.customer-events: field ", // a field is not there, or of another type
		"cannot be read as", "where it cannot be", "is not used by any message",
		"nest more than", "contains itself",
		// goavro does not look into these.
		"occurs twice", "is defined twice", "its name is longer than", "the default is none of its symbols", "without a size", "aliases is not", "is reserved",
		// To goavro a field is a type, so that "type":"array" can stand beside
		// its name.
		`unknown type "`,
	} {
		if strings.Contains(detail, reason) {
			return true
		}
	}
	return false
}

// values returns how many values one of type t holds at least, as a measure of
// what goavro makes of a few bytes.
func values(t *avro.Type, known map[*avro.Type]int) int {
	if n, ok := known[t]; ok {
		return n
	}
	known[t] = 1 // within itself there is a union or an array
	n := 1
	for i := range t.Fields {
		n = min(n+values(t.Fields[i].Type, known), 1<<30)
	}
	for _, b := range t.Branches {
		n = max(n, values(b, known)+1)
	}
	if t.Items != nil {
		n = max(n, values(t.Items, known)+1)
	}
	known[t] = n
	return n
}

// asRead turns what goavro decoded under w into what it would be under r: the
// oracle knows our own types only.
func asRead(t *testing.T, w, r *avro.Type, v any) any {
	if w.Kind == avro.Union {
		wrapped, ok := v.(native)
		if !ok {
			w = &avro.Type{Kind: avro.Null}
		}
		for name, inner := range wrapped {
			i := slices.IndexFunc(w.Branches, func(b *avro.Type) bool { return b.Name == name || b.Name == "" && b.Kind.String() == name })
			if i < 0 {
				t.Skipf("goavro has a type %s", name) // it takes an empty namespace for none
			}
			w, v = w.Branches[i], inner
		}
	}
	if r.Kind == avro.Union {
		for _, b := range r.Branches {
			if v != nil && b.Kind != avro.Null {
				return native{"": asRead(t, w, b, v)}
			}
		}
		return nil
	}
	fields, ok := v.(native)
	if w.Kind != avro.Record || r.Kind != avro.Record || !ok {
		return v
	}
	read := native{}
	positions := w.Positions()
	for i := range r.Fields {
		rf := &r.Fields[i]
		if j := rf.In(positions); j >= 0 {
			read[rf.Name] = asRead(t, w.Fields[j].Type, rf.Type, fields[w.Fields[j].Name])
		}
	}
	return read
}
