package schemas

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/churnstream/churnstream/schemas/avro"
)

func underSchema(id int, datum []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{magicByte}, uint32(id)), datum...)
}

// eventSchema is a writer's schema of events with another type of changes, and
// with more fields before those that we read.
func eventSchema(more, changes string) string {
	return `{"type":"record","name":"E","fields":[` + more + `{"name":"event_id","type":"string"},{"name":"customer_id","type":"string"},` +
		`{"name":"occurred_at","type":"long"},{"name":"changes","type":` + changes + `},` +
		`{"name":"increments","type":{"type":"record","name":"I","fields":[]}}]}`
}

// eventDatum is what such a schema writes of an event, after the other fields
// and before the changes.
var eventDatum = []byte{2, 'e', 2, 'c', 10}

const noChanges = `{"type":"record","name":"C","fields":[]}`

// list is n items as text, separated by commas.
func list(n int, item func(i int) string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = item(i)
	}
	return strings.Join(items, ",")
}

func TestClip(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""}, {"12345678", "12345678"}, {"123456789", "12345…"}, {"äääää", "ää…"}, {"1234€6789", "1234…"},
		{strings.Repeat("\x80", 9), "…"}, {"12\xff456789", "1245…"},
	} {
		if got := Clip(c.in, 8); got != c.want {
			t.Errorf("%q became %q, want %q", c.in, got, c.want)
		}
	}
}

// A dead letter has to be small enough to be written, whatever names a schema
// has.
func TestDetailIsBounded(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	c.MaxSchemaBytes = 4 << 20
	long := strings.Repeat("x", 1_200_000)
	deep := func(inner string) string {
		for range 90 {
			inner = `{"type":"record","name":"R` + fmt.Sprint(len(inner)) + `","fields":[{"name":"` + long[:10_000] + `","type":` + inner + `}]}`
		}
		return inner
	}
	for _, r := range []struct {
		name, schema string
		datum        []byte
		want         string
	}{
		{"an unknown type", eventSchema(`{"name":"x","type":"`+long+`"},`, noChanges), nil, "unknown type"},
		{"a field without a name", eventSchema(`{"name":"","type":{"type":"`+long+`"}},`, noChanges), nil, "is empty"},
		{"a field of an unknown type", eventSchema(`{"name":"`+long+`","type":"y"},`, noChanges), nil, "unknown type"},
		{"a type twice", eventSchema(`{"name":"x","type":[`+strings.Repeat(`{"type":"fixed","name":"`+long+`","size":1},`, 2)+`"int"]},`, noChanges), nil, "longer than 512 bytes"},
		{"a type in a long namespace", eventSchema(`{"name":"x","type":{"type":"fixed","name":"X","namespace":"`+long+`","size":1}},`, noChanges), nil, "longer than 512 bytes"},
		{"a type twice in a union", eventSchema(`{"name":"x","type":[{"type":"fixed","name":"`+long[:510]+`","size":1},"`+long[:510]+`"]},`, noChanges), nil, "twice in a union"},
		{"a record in itself", eventSchema(`{"name":"x","type":{"type":"record","name":"`+long[:510]+`","fields":[{"name":"y","type":"`+long[:510]+`"}]}},`, noChanges), nil, "contains itself"},
		{"a symbol twice", eventSchema(`{"name":"x","type":{"type":"enum","name":"X","symbols":["`+long+`","`+long+`"]}},`, noChanges), nil, "occurs twice"},
		{"deep", eventSchema(`{"name":"x","type":`+deep(`"y"`)+`},`, noChanges), nil, "xxx"},
		{"a number that is too large", eventSchema(`{"name":"x","type":"int","default":`+strings.Repeat("1", 1_000_000)+`},`, noChanges), nil, "not JSON"},
		{"damage in a field that is read over", eventSchema(`{"name":"`+long+`","type":"boolean"},`, noChanges), []byte{7}, "xxx…: byte 0x7 is no boolean"},
		{"damage in an attribute", eventSchema("", `{"type":"record","name":"C","fields":[{"name":"`+long+`","type":"boolean"}]}`),
			append(eventDatum, 7), "xxx…: byte 0x7 is no boolean"},
		{"a branch that cannot be read", eventSchema("", `[{"type":"record","name":"C","fields":[{"name":"tenure","type":[{"type":"record","name":"`+long[:510]+`","fields":[]}]}]},`+
			`{"type":"record","name":"D","fields":[]}]`), append(eventDatum, 0), "record cannot be read as double"},
	} {
		t.Run(r.name, func(t *testing.T) {
			err := c.DecodeEvent(t.Context(), underSchema(registry.Add(r.schema), r.datum), c.NewEvent())
			poison, ok := AsPoison(err)
			if !ok {
				t.Fatalf("not poison: %.1000v", err)
			}
			if len(poison.Detail) > maxDetail || !utf8.ValidString(poison.Detail) || !strings.Contains(poison.Detail, r.want) {
				t.Errorf("%d bytes, %.2000q, want %q in it", len(poison.Detail), poison.Detail, r.want)
			}
		})
	}
	t.Run("a symbol that is not known", func(t *testing.T) {
		schema := strings.Replace(s.Schema(TopicScores), `"symbols":["LOW","MEDIUM","HIGH"]`, `"symbols":["`+long+`"]`, 1)
		value := c.AppendScore(nil, sampleScore(t, s))
		value = underSchema(registry.Add(schema), value[frameLength:])
		err := c.DecodeScore(t.Context(), value, c.NewScore())
		if poison, ok := AsPoison(err); !ok || len(poison.Detail) > maxDetail || !strings.HasPrefix(poison.Detail, "risk: ") {
			t.Errorf("%.2000v", err)
		}
	})
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// What a schema takes is in proportion to its text, however often its types
// meet.
func TestResolutionIsBounded(t *testing.T) {
	s := ownSet(t)
	define := func(n int) string {
		return list(n, func(i int) string { return fmt.Sprintf(`{"type":"enum","name":"n%d","symbols":["A"]}`, i) })
	}
	use := func(n int) string { return list(n, func(i int) string { return fmt.Sprintf(`"n%d"`, i) }) }
	shared := `{"type":"record","name":"S","fields":[` + list(s.Spec().Len(), func(i int) string {
		return `{"name":"` + s.Spec().Feature(i).Name + `","type":["null","string","double",` + use(200) + `]}`
	}) + `]}`
	defined := `{"type":"record","name":"D","fields":[{"name":"d","type":[` + define(200) + `]}]},` + shared
	for _, r := range []struct{ name, schema, want string }{
		{"a union of events", `[` + defined + `,` + list(60, func(i int) string {
			return strings.NewReplacer(`"name":"E"`, fmt.Sprintf(`"name":"E%d"`, i), `"name":"I"`, fmt.Sprintf(`"name":"I%d"`, i)).Replace(eventSchema("", `"S"`))
		}) + `]`, ""},
		{"changes that share a type", eventSchema("", `[`+defined+`,`+list(300, func(i int) string {
			return fmt.Sprintf(`{"type":"record","name":"C%d","fields":[{"name":"tenure","type":["null","double",%s]},{"name":"x","type":"S"}]}`, i, use(200))
		})+`]`), ""},
		{"increments of the same type", strings.Replace(eventSchema("", `{"type":"record","name":"C","fields":[{"name":"d","type":[`+define(200)+`]},`+shared[len(`{"type":"record","name":"S","fields":[`):]),
			`"type":{"type":"record","name":"I","fields":[]}`, `"type":"C"`, 1), ""},
		{"a long namespace", strings.Replace(eventSchema("", `[`+list(4000, func(i int) string {
			return fmt.Sprintf(`{"type":"enum","name":"T%d","symbols":["A"]}`, i)
		})+`,`+noChanges+`]`), `"name":"E"`, `"name":"E","namespace":"`+strings.Repeat("x", 500)+`"`, 1), ""},
		{"a longer namespace", strings.Replace(eventSchema("", `[`+list(4000, func(i int) string {
			return fmt.Sprintf(`{"type":"enum","name":"T%d","symbols":["A"]}`, i)
		})+`,`+noChanges+`]`), `"name":"E"`, `"name":"E","namespace":"`+strings.Repeat("x", 100_000)+`"`, 1), "longer than 512 bytes"},
		{"long names of fields that fail", eventSchema("", `[`+list(40, func(i int) string {
			return fmt.Sprintf(`{"type":"record","name":"C%d","fields":[{"name":"tenure","type":{"type":"record","name":"F%d","fields":[{"name":"%s","type":"int"}]}}]}`,
				i, i, strings.Repeat("x", 5000))
		})+`,`+noChanges+`]`), ""},
		{"deep", eventSchema(`{"name":"x","type":`+strings.Repeat(`{"type":"array","items":`, 90)+
			`{"type":"enum","name":"X","symbols":[`+list(30_000, func(i int) string { return fmt.Sprintf(`"s%d"`, i) })+`]}`+strings.Repeat(`}`, 90)+`},`, noChanges), ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			var err error
			took := allocated(func() { _, err = compile(r.schema, s.messages[eventMessage].typ) })
			if r.want == "" && err != nil || r.want != "" && (err == nil || !strings.Contains(err.Error(), r.want)) {
				t.Errorf("error %v, want %q", err, r.want)
			}
			if took > 64*uint64(len(r.schema))+1<<20 {
				t.Errorf("a schema of %d bytes took %d", len(r.schema), took)
			}
		})
	}
}

// Time is bounded where our own schema is so large that each of many small
// records takes long to compare with it.
func TestResolutionHasABudget(t *testing.T) {
	s, err := Parse([]byte(`{"type":"record","name":"A","fields":[` + list(4000, func(i int) string {
		return fmt.Sprintf(`{"name":"a%d","type":["null","double"]}`, i)
	}) + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	own := s.messages[eventMessage]
	if _, err := compile(own.text, own.typ); err != nil {
		t.Errorf("our own: %v", err)
	}
	hostile := eventSchema("", `[`+list(4000, func(i int) string {
		return fmt.Sprintf(`{"type":"record","name":"C%d","fields":[]}`, i)
	})+`]`)
	if _, err := compile(hostile, own.typ); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("error %v", err)
	}
}

// Nothing is looked at for an item that is read but what takes a byte of it.
func TestReadingIsBounded(t *testing.T) {
	nulls := list(2000, func(i int) string { return fmt.Sprintf(`{"name":"n%d","type":"null"}`, i) })
	s := ownSet(t)
	schema := strings.Replace(s.Schema(TopicScores), `{"name":"feature",`, nulls+`,{"name":"feature",`, 1)
	root, err := compile(schema, s.messages[scoreMessage].typ)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(root.Fields, func(f avro.NodeField) bool { return f.Position == scoreExplanations })
	explanation := root.Fields[i].Node.Items
	if len(explanation.Writer.Fields) != 2004 || len(explanation.Fields) != 4 {
		t.Errorf("%d of an explanation's %d fields are looked at", len(explanation.Fields), len(explanation.Writer.Fields))
	}
}

func TestSkippedItems(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	nulls := list(2000, func(i int) string { return fmt.Sprintf(`{"name":"n%d","type":"null"}`, i) })
	for _, r := range []struct {
		name, items string
		item        []byte
	}{
		{"wide", `{"type":"record","name":"W","fields":[` + nulls + `,{"name":"a","type":"int"}]}`, []byte{2}},
		{"two in one", `{"type":"record","name":"W","fields":[{"name":"p","type":{"type":"record","name":"P","fields":[{"name":"a","type":"int"},` + nulls + `]}},{"name":"q","type":"P"}]}`, []byte{2, 4}},
		{"in a union", `["null",{"type":"record","name":"W","fields":[` + nulls + `,{"name":"next","type":["null","W"]}]}]`, []byte{2, 2, 2, 0}},
		{"in a map", `{"type":"map","values":{"type":"record","name":"W","fields":[` + nulls + `,{"name":"a","type":"string"}]}}`, []byte{2, 2, 'k', 2, 'v', 0}},
	} {
		t.Run(r.name, func(t *testing.T) {
			const n = 200
			datum := binary.AppendVarint(nil, n)
			for range n {
				datum = append(datum, r.item...)
			}
			datum = append(append(datum, 0), eventDatum...)
			schema := eventSchema(`{"name":"x","type":{"type":"array","items":`+r.items+`}},`, noChanges)
			e := c.NewEvent()
			id := registry.Add(schema)
			if err := c.DecodeEvent(t.Context(), underSchema(id, datum), e); err != nil || string(e.CustomerID) != "c" {
				t.Errorf("%v, customer %q", err, e.CustomerID)
			}
			if _, rest, err := goavroCodec(t, schema).NativeFromBinary(datum); err != nil || len(rest) > 0 {
				t.Errorf("goavro: %v", err)
			}
			for cut := range 20 {
				if err := c.DecodeEvent(t.Context(), underSchema(id, datum[:len(datum)*cut/20]), e); reasonOf(err) != ReasonUndecodable {
					t.Errorf("cut short: %v", err)
				}
			}
		})
	}
}

// Someone's own property is not one of Avro's, though it differs from it only
// in case.
func TestPropertiesOfOthers(t *testing.T) {
	s := ownSet(t)
	c, registry := newCodec(t, s)
	schema := s.Schema(TopicEvents)
	for _, r := range []struct{ old, new string }{
		{`{"name":"customer_id",`, `{"name":"customer_id","Name":"Customer id","Type":"int","ALIASES":7,"Default":[],"Feature":1,`},
		{`{"type":"record","name":"CustomerIncrements",`, `{"type":"record","name":"CustomerIncrements","Fields":[],"NAME":"The increments","Namespace":3,"TYPE":"enum","Symbols":1,`},
	} {
		changed := strings.Replace(schema, r.old, r.new, 1)
		if changed == schema {
			t.Fatalf("no %s in %s", r.old, schema)
		}
		schema = changed
	}
	value := c.AppendEvent(nil, sampleEvent(t, s))[frameLength:]
	if _, _, err := goavroCodec(t, schema).NativeFromBinary(value); err != nil {
		t.Fatal(err)
	}
	got := c.NewEvent()
	if err := c.DecodeEvent(t.Context(), underSchema(registry.Add(schema), value), got); err != nil || dump(got) != dump(sampleEvent(t, s)) {
		t.Errorf("%v, %s", err, dump(got))
	}
}

func TestLongSchema(t *testing.T) {
	s := ownSet(t)
	padded := func(n int) string {
		text := s.Schema(TopicEvents)
		return text + strings.Repeat(" ", n-len(text))
	}
	own := len(s.Schema(TopicEvents))
	for _, r := range []struct {
		name       string
		max, bytes int
		want       string
	}{
		{"default", 0, 256 << 10, ""},
		{"default, one more", 0, 256<<10 + 1, "it is 262145 bytes long, at most 262144 are allowed"},
		{"set", 3 << 20, 3 << 20, ""},
		{"set, one more", 3 << 20, 3<<20 + 1, "at most 3145728 are allowed"},
		{"set too low", 1, 2 * own, ""},
		{"set too low, one more", 1, 2*own + 1, fmt.Sprintf("at most %d are allowed", 2*own)},
	} {
		t.Run(r.name, func(t *testing.T) {
			c, registry := newCodec(t, s)
			c.MaxSchemaBytes = r.max
			value := underSchema(registry.Add(padded(r.bytes)), c.AppendEvent(nil, sampleEvent(t, s))[frameLength:])
			for range 2 {
				err := c.DecodeEvent(t.Context(), value, c.NewEvent())
				if r.want == "" && err != nil || r.want != "" && (reasonOf(err) != ReasonTooLarge || !strings.Contains(err.Error(), r.want)) {
					t.Errorf("error %v, want %q", err, r.want)
				}
			}
			if registry.Lookups() != 1 {
				t.Errorf("the registry was asked %d times", registry.Lookups())
			}
		})
	}
}

// However many schemas there are, few of others are remembered, and our own
// always are.
func TestForgottenSchemas(t *testing.T) {
	s := ownSet(t)
	event := sampleEvent(t, s)
	for _, r := range []struct {
		name              string
		schemas           int
		text              func(i int) string
		want              Reason
		mostPlans, mostOf int // plans, and bytes of their schemas
	}{
		{"good", 2*maxPlans + 10, func(int) string { return s.Schema(TopicEvents) }, "", maxPlans, maxPlans * len(s.Schema(TopicEvents))},
		{"bad", 2*maxPlans + 10, func(int) string { return "" }, ReasonUndecodable, maxPlans, 0},
		{"long", 3 * maxPlansText, func(i int) string {
			return s.Schema(TopicEvents) + strings.Repeat(" ", defaultSchemaBytes-len(s.Schema(TopicEvents)))
		}, "", maxPlansText, maxPlansText * defaultSchemaBytes},
	} {
		t.Run(r.name, func(t *testing.T) {
			c, registry := newCodec(t, s)
			own := c.AppendEvent(nil, event)
			for i := range r.schemas {
				value := underSchema(registry.Add(r.text(i)), own[frameLength:])
				for range 2 {
					if err := c.DecodeEvent(t.Context(), value, c.NewEvent()); reasonOf(err) != r.want {
						t.Fatalf("schema %d: %v", i, err)
					}
				}
				others, bytes := 0, 0
				for _, p := range c.plans[eventMessage].Load().byID {
					if !p.own {
						others++
						bytes += p.bytes
					}
				}
				if others > r.mostPlans || bytes > r.mostOf {
					t.Fatalf("%d schemas of %d bytes are remembered", others, bytes)
				}
			}
			if registry.Lookups() != r.schemas {
				t.Errorf("the registry was asked %d times", registry.Lookups())
			}
			if err := c.DecodeEvent(t.Context(), own, c.NewEvent()); err != nil || registry.Lookups() != r.schemas {
				t.Errorf("our own was forgotten: %v", err)
			}
			// What was forgotten is asked for again.
			first := underSchema(int(messageKinds)+1, own[frameLength:])
			if err := c.DecodeEvent(t.Context(), first, c.NewEvent()); reasonOf(err) != r.want || registry.Lookups() != r.schemas+1 {
				t.Errorf("the first again: %v", err)
			}
		})
	}
}
