package avro

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/linkedin/goavro/v2"
)

const (
	// maxValues bounds how many values a Generic decodes a datum into, those
	// that take no bytes among them. A union's counts for unionValues more:
	// goavro makes a map of it.
	maxValues   = 1 << 21
	unionValues = 4
)

// ErrTooManyValues is matched by the error for a datum of more values than a
// Generic decodes.
var ErrTooManyValues = fmt.Errorf("more than %d values", maxValues)

var errDuplicateKey = errors.New("a key occurs twice in a map")

// Generic decodes data of one type, whatever that is, into Go values: for
// where any record is shown and speed does not matter. goavro does the work,
// which trusts what it is given: it allocates what a count asks for, goes as
// deep as the data say, and writes a type's full name out wherever the type is
// used, and takes no names but those of the specification. So the schema it gets is
// written anew, with short names for types, fields and symbols and without what does not decide about the bytes, and data are read over by a
// Reader first. A Generic is safe for concurrent use.
type Generic struct {
	root      *Type
	codec     *goavro.Codec
	names     map[*Type]string // of named types, as goavro knows them
	branches  map[*Type]map[string]int
	open      map[*Type]bool // types whose definition is being written
	recursive *Type          // one that contains itself
}

// NewGeneric returns a Generic for a type. One that contains itself is refused:
// goavro would follow it as deep as the data go.
func NewGeneric(t *Type) (*Generic, error) {
	g := &Generic{root: t, names: map[*Type]string{}, branches: map[*Type]map[string]int{}, open: map[*Type]bool{}}
	schema := g.appendSchema(nil, t)
	if g.recursive != nil {
		return nil, fmt.Errorf("type %.128s contains itself", g.recursive.Name)
	}
	var err error
	if g.codec, err = goavro.NewCodec(string(schema)); err != nil {
		return nil, fmt.Errorf("goavro: %.256s", err)
	}
	return g, nil
}

// Type returns the type.
func (g *Generic) Type() *Type { return g.root }

// appendSchema appends the schema of t for goavro.
func (g *Generic) appendSchema(dst []byte, t *Type) []byte {
	switch t.Kind {
	case Array:
		return append(g.appendSchema(append(dst, `{"type":"array","items":`...), t.Items), '}')
	case Map:
		return append(g.appendSchema(append(dst, `{"type":"map","values":`...), t.Items), '}')
	case Union:
		branches := make(map[string]int, len(t.Branches))
		g.branches[t] = branches
		dst = append(dst, '[')
		for i, b := range t.Branches {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = g.appendSchema(dst, b)
			name := b.Kind.String()
			if short, ok := g.names[b]; ok {
				name = short
			}
			branches[name] = i
		}
		return append(dst, ']')
	case Record, Enum, Fixed:
		return g.appendNamed(dst, t)
	}
	return strconv.AppendQuote(dst, t.Kind.String())
}

func (g *Generic) appendNamed(dst []byte, t *Type) []byte {
	if name, ok := g.names[t]; ok {
		if g.open[t] {
			g.recursive = t
		}
		return strconv.AppendQuote(dst, name)
	}
	name := "T" + strconv.Itoa(len(g.names))
	g.names[t] = name
	dst = append(append(append(dst, `{"name":"`...), name...), `","type":"`...)
	switch {
	case t.Kind == Enum:
		dst = append(dst, `enum","symbols":[`...)
		for i := range t.Symbols {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = strconv.AppendQuote(dst, shortName(i))
		}
		return append(dst, `]}`...)
	case t.Kind == Fixed && t.Size > 0:
		return append(strconv.AppendInt(append(dst, `fixed","size":`...), int64(t.Size), 10), '}')
	}
	// A fixed of no bytes is a record of no fields, for goavro has no such fixed.
	g.open[t] = true
	dst = append(dst, `record","fields":[`...)
	for i := range t.Fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(strconv.AppendQuote(append(dst, `{"name":`...), shortName(i)), `,"type":`...)
		dst = append(g.appendSchema(dst, t.Fields[i].Type), '}')
	}
	delete(g.open, t)
	return append(dst, `]}`...)
}

// Decode decodes a datum that has to be a value of the type and nothing else.
// The value is goavro's: nil, bool, int32, int64, float32, float64, []byte (for
// a fixed, too), string, []any for an array, map[string]any for a map. What the
// values of unions, records and enums are, Branch, Field and Symbol have.
func (g *Generic) Decode(datum []byte) (any, error) {
	c := counter{Reader: NewReader(datum), left: maxValues}
	c.value(g.root)
	if err := c.Finish(); err != nil {
		return nil, err
	}
	v, rest, err := g.codec.NativeFromBinary(datum)
	switch {
	case err != nil && strings.Contains(err.Error(), "duplicate key"):
		return nil, errDuplicateKey
	case err != nil:
		return nil, fmt.Errorf("goavro: %.256s", err)
	case len(rest) > 0:
		return nil, fmt.Errorf("goavro: %d bytes are left over", len(rest))
	}
	return v, nil
}

// Branch returns which branch of the union u a value is of, and the value.
func (g *Generic) Branch(u *Type, v any) (*Type, any) {
	name := Null.String()
	if wrapped, ok := v.(map[string]any); ok {
		for name, v = range wrapped { // it is one
		}
	}
	return u.Branches[g.branches[u][name]], v
}

// shortName is what goavro knows a field or a symbol by, from its position.
func shortName(i int) string { return "N" + strconv.Itoa(i) }

// Field returns the value of field i in that of a record.
func (g *Generic) Field(v any, i int) any {
	record, _ := v.(map[string]any)
	return record[shortName(i)]
}

// Symbol returns the symbol of the enum t that a value is, "" for a value of
// another type.
func (g *Generic) Symbol(t *Type, v any) string {
	name, _ := v.(string)
	i, err := strconv.Atoi(strings.TrimPrefix(name, "N"))
	if err != nil || i < 0 || i >= len(t.Symbols) {
		return ""
	}
	return t.Symbols[i]
}

// Prefix returns a Generic of the first fields of a record that can be read of
// a damaged datum, and their bytes; nil if there are none.
func (g *Generic) Prefix(datum []byte) (*Generic, []byte) {
	t := g.root
	if t.Kind != Record {
		return nil, nil
	}
	c := counter{Reader: NewReader(datum), left: maxValues}
	whole, rest := 0, len(datum)
	for i := range t.Fields {
		if c.value(t.Fields[i].Type); c.Err() != nil {
			break
		}
		whole, rest = i+1, c.Len()
	}
	if whole == 0 {
		return nil, nil
	}
	prefix, err := NewGeneric(&Type{Kind: Record, Name: t.Name, Fields: t.Fields[:whole]})
	if err != nil {
		return nil, nil
	}
	return prefix, datum[:len(datum)-rest]
}

// counter reads over a datum and counts its values. Unlike Skip, it looks at
// each that takes no bytes: it stands for what is then made of them.
type counter struct {
	Reader
	left int // values
}

func (c *counter) value(t *Type) {
	if c.left--; c.left < 0 {
		c.Fail(ErrTooManyValues)
	}
	if c.Err() != nil {
		return
	}
	switch t.Kind {
	case Union:
		c.left -= unionValues
		c.value(t.Branches[c.index(len(t.Branches), Union)])
	case Record:
		for i := range t.Fields {
			if c.value(t.Fields[i].Type); c.Err() != nil {
				c.At(fmt.Sprintf("%.128s", t.Fields[i].Name))
				return
			}
		}
	case Array, Map:
		for n := c.Block(); n != 0; n = c.Block() {
			for ; n > 0 && c.Err() == nil; n-- {
				if t.Kind == Map {
					c.Bytes()
				}
				c.value(t.Items)
			}
		}
	default:
		c.Skip(t)
	}
}
