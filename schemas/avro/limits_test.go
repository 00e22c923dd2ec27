package avro

import (
	"fmt"
	"strings"
	"testing"
)

// list returns what item makes of 0 to n−1, with commas between.
func list(n int, item func(i int) string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = item(i)
	}
	return strings.Join(items, ",")
}

// Nothing is looked at for an item but what takes a byte of it.
func TestSkippingIsBounded(t *testing.T) {
	nulls := list(2000, func(i int) string { return fmt.Sprintf(`{"name":"n%d","type":"null"}`, i) })
	chain := `{"type":"record","name":"R0","fields":[` + nulls + `,{"name":"a","type":"boolean"}]}`
	wrap := list(900, func(i int) string {
		return fmt.Sprintf(`{"type":"record","name":"R%d","fields":[{"name":"a","type":"R%d"},{"name":"n","type":"null"}]}`, i+1, i)
	})
	typ, err := Parse([]byte(`{"type":"record","name":"E","fields":[{"name":"defs","type":["null",` + chain + `,` + wrap + `]},` +
		`{"name":"x","type":{"type":"array","items":"R900"}},{"name":"y","type":{"type":"record","name":"Z","fields":[` + nulls + `]}},` +
		`{"name":"pair","type":{"type":"record","name":"P","fields":[{"name":"a","type":"R5"},{"name":"y","type":"Z"},{"name":"b","type":"R7"}]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	boolean := primitives["boolean"]
	if items := typ.Fields[1].Type.Items; len(items.skips) != 1 || items.skips[0] != boolean {
		t.Errorf("an item is skipped by %d types, %v", len(items.skips), items.skips)
	}
	if !typ.Fields[2].Type.empty || len(typ.skips) != 3 {
		t.Errorf("a record of nulls is skipped as one of %d types", len(typ.skips))
	}
	if pair := typ.Fields[3].Type; len(pair.skips) != 2 || pair.skips[0] != boolean || pair.skips[1] != boolean {
		t.Errorf("a pair is skipped by %v", pair.skips)
	}
}
