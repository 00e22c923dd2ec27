package schemas

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
)

// kind is a kind of Avro type.
type kind uint8

const (
	kindNull kind = iota
	kindBoolean
	kindInt
	kindLong
	kindFloat
	kindDouble
	kindBytes
	kindString
	kindFixed
	kindEnum
	kindArray
	kindMap
	kindUnion
	kindRecord
	// kindUnreadable marks the part of a writer's type that the reader's
	// cannot take; it occurs in nodes only.
	kindUnreadable
)

var kindNames = [...]string{
	"null", "boolean", "int", "long", "float", "double", "bytes", "string",
	"fixed", "enum", "array", "map", "union", "record", "unreadable",
}

func (k kind) String() string { return kindNames[k] }

var primitives = map[string]*avroType{
	"null": {kind: kindNull, empty: true}, "boolean": {kind: kindBoolean}, "int": {kind: kindInt}, "long": {kind: kindLong},
	"float": {kind: kindFloat}, "double": {kind: kindDouble}, "bytes": {kind: kindBytes}, "string": {kind: kindString},
}

const (
	// maxSchemaDepth bounds how deep types nest in a schema. Ours nest four
	// deep.
	maxSchemaDepth = 100
	// maxTypeName bounds the full name of a type, in bytes: every type in a
	// namespace has that in its name.
	maxTypeName = 512
)

// avroType is a parsed Avro type. Named types are shared by reference, so it
// may be recursive. Logical types are not kept: on the wire they are the type
// they annotate.
type avroType struct {
	kind     kind
	name     string      // full name of a record, enum or fixed
	size     int         // fixed
	symbols  []string    // enum
	fallback string      // enum: the symbol for unknown ones, if declared
	items    *avroType   // array items or map values
	branches []*avroType // union
	fields   []avroField // record
	// empty tells that a value takes no bytes, so that no count of such
	// values is bounded by the length of the input.
	empty bool
	// skips are the types to read over a record: those of its fields that take
	// bytes, and in place of a record with only one such field, that field's.
	// Every one of several takes a byte at least, so that reading over a datum
	// takes no more steps than it has bytes, to a small factor.
	skips []*avroType
}

type avroField struct {
	name    string
	aliases []string
	typ     *avroType
	def     json.RawMessage // nil without default
	feature json.RawMessage // our own property; nil without
}

// index returns the position of the symbol in an enum, or −1.
func (t *avroType) index(symbol string) int {
	for i, s := range t.symbols {
		if s == symbol {
			return i
		}
	}
	return -1
}

// parseAvro parses a schema. Nothing about it is trusted: producers register
// what they like. It takes time and memory in proportion to the text, and its
// errors do not show more than the start of a name.
func parseAvro(text []byte) (*avroType, error) {
	// Into maps, for keys are compared as they are: a property "Name" is not
	// "name", but someone's own.
	var schema any
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	p := avroParser{named: map[string]*avroType{}}
	t, err := p.parse(schema, "", 0)
	if err != nil {
		return nil, err
	}
	if err := p.markEmpty(); err != nil {
		return nil, err
	}
	return t, nil
}

type avroParser struct {
	named   map[string]*avroType
	records []*avroType
}

// avroObject is a type or a field written as an object.
type avroObject map[string]any

// text returns a property that is a string, "" for one that is not there.
func (o avroObject) text(key string) (string, error) {
	v := o[key]
	s, ok := v.(string)
	if v != nil && !ok {
		return "", fmt.Errorf("%s is not a string", key)
	}
	return s, nil
}

// json returns a property as it is, nil for one that is not there.
func (o avroObject) json(key string) json.RawMessage {
	v, ok := o[key]
	if !ok {
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic("schemas: JSON that was read cannot be written: " + err.Error())
	}
	return text
}

// texts returns a property that is an array of strings, nil for one that is
// not there.
func (o avroObject) texts(key string) ([]string, error) {
	if o[key] == nil {
		return nil, nil
	}
	items, ok := o[key].([]any)
	texts := make([]string, len(items))
	for i := range items {
		if ok {
			texts[i], ok = items[i].(string)
		}
	}
	if !ok {
		return nil, fmt.Errorf("%s is not an array of strings", key)
	}
	return texts, nil
}

func (p *avroParser) parse(schema any, namespace string, depth int) (*avroType, error) {
	if depth > maxSchemaDepth {
		return nil, fmt.Errorf("types nest more than %d deep", maxSchemaDepth)
	}
	switch s := schema.(type) {
	case string:
		return p.reference(s, namespace)
	case []any:
		return p.union(s, namespace, depth)
	case map[string]any:
		return p.object(s, namespace, depth)
	}
	return nil, errors.New("a type is a name, an object or an array")
}

func (p *avroParser) reference(name, namespace string) (*avroType, error) {
	if t, ok := primitives[name]; ok {
		return t, nil
	}
	if namespace != "" && !strings.Contains(name, ".") {
		if t, ok := p.named[namespace+"."+name]; ok {
			return t, nil
		}
	}
	if t, ok := p.named[name]; ok {
		return t, nil
	}
	return nil, fmt.Errorf("unknown type %.128q", name)
}

func (p *avroParser) union(branches []any, namespace string, depth int) (*avroType, error) {
	if len(branches) == 0 {
		return nil, errors.New("a union without types")
	}
	u := &avroType{kind: kindUnion}
	seen := map[string]bool{}
	for _, branch := range branches {
		b, err := p.parse(branch, namespace, depth+1)
		if err != nil {
			return nil, fmt.Errorf("union: %w", err)
		}
		key := b.kind.String()
		switch b.kind {
		case kindUnion:
			return nil, errors.New("a union directly inside a union")
		case kindRecord, kindEnum, kindFixed:
			key = b.name
		}
		if seen[key] {
			return nil, fmt.Errorf("%.128s occurs twice in a union", key)
		}
		seen[key] = true
		u.branches = append(u.branches, b)
	}
	return u, nil
}

func (p *avroParser) object(o avroObject, namespace string, depth int) (*avroType, error) {
	typ, ok := o["type"]
	if !ok {
		return nil, errors.New("an object without type")
	}
	typeName, ok := typ.(string)
	if !ok {
		return p.parse(typ, namespace, depth+1)
	}
	switch typeName {
	case "array", "map":
		t, property := &avroType{kind: kindArray}, "items"
		if typeName == "map" {
			t.kind, property = kindMap, "values"
		}
		items, ok := o[property]
		if !ok {
			return nil, fmt.Errorf("%s without %s", typeName, property)
		}
		var err error
		if t.items, err = p.parse(items, namespace, depth+1); err != nil {
			return nil, fmt.Errorf("%s of %s: %w", property, typeName, err)
		}
		return t, nil
	case "record", "error":
		return p.record(o, namespace, depth)
	case "enum":
		return p.enum(o, namespace)
	case "fixed":
		t := &avroType{kind: kindFixed}
		if _, err := p.define(t, o, namespace); err != nil {
			return nil, err
		}
		size, ok := o["size"].(float64)
		if !ok || size < 0 || size > math.MaxInt32 || size != math.Trunc(size) {
			return nil, fmt.Errorf("fixed %.128s without a size", t.name)
		}
		t.size, t.empty = int(size), size == 0
		return t, nil
	}
	return p.reference(typeName, namespace)
}

func (p *avroParser) enum(o avroObject, namespace string) (*avroType, error) {
	t := &avroType{kind: kindEnum}
	_, err := p.define(t, o, namespace)
	if err != nil {
		return nil, err
	}
	if t.symbols, err = o.texts("symbols"); err != nil {
		return nil, fmt.Errorf("enum %.128s: %w", t.name, err)
	}
	if len(t.symbols) == 0 {
		return nil, fmt.Errorf("enum %.128s without symbols", t.name)
	}
	seen := make(map[string]bool, len(t.symbols))
	for _, s := range t.symbols {
		if err := checkAvroName(s); err != nil {
			return nil, fmt.Errorf("enum %.128s: symbol %w", t.name, err)
		}
		if seen[s] {
			return nil, fmt.Errorf("enum %.128s: symbol %.128s occurs twice", t.name, s)
		}
		seen[s] = true
	}
	if def, ok := o["default"]; ok {
		if t.fallback, ok = def.(string); !ok || !seen[t.fallback] {
			return nil, fmt.Errorf("enum %.128s: the default is none of its symbols", t.name)
		}
	}
	return t, nil
}

func (p *avroParser) record(o avroObject, namespace string, depth int) (*avroType, error) {
	t := &avroType{kind: kindRecord}
	namespace, err := p.define(t, o, namespace)
	if err != nil {
		return nil, err
	}
	p.records = append(p.records, t)
	fields, ok := o["fields"].([]any)
	if !ok {
		return nil, fmt.Errorf("record %.128s without fields", t.name)
	}
	seen := make(map[string]bool, len(fields))
	for _, f := range fields {
		o, ok := f.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("record %.128s: a field is not an object", t.name)
		}
		field, err := p.field(o, namespace, depth)
		if err != nil {
			return nil, err
		}
		if seen[field.name] {
			return nil, fmt.Errorf("record %.128s: field %.128s occurs twice", t.name, field.name)
		}
		seen[field.name] = true
		t.fields = append(t.fields, field)
	}
	return t, nil
}

func (p *avroParser) field(o avroObject, namespace string, depth int) (f avroField, err error) {
	if f.name, err = o.text("name"); err == nil {
		err = checkAvroName(f.name)
	}
	if err != nil {
		return f, fmt.Errorf("field %w", err)
	}
	typ, ok := o["type"]
	if !ok {
		return f, fmt.Errorf("field %.128s has no type", f.name)
	}
	if f.typ, err = p.parse(typ, namespace, depth+1); err != nil {
		return f, fmt.Errorf("field %.128s: %w", f.name, err)
	}
	if f.aliases, err = o.texts("aliases"); err != nil {
		return f, fmt.Errorf("field %.128s: %w", f.name, err)
	}
	f.def, f.feature = o.json("default"), o.json("feature")
	return f, nil
}

// define gives a named type its full name, makes it known under it, and
// returns the namespace inside it.
func (p *avroParser) define(t *avroType, o avroObject, namespace string) (string, error) {
	name, err := o.text("name")
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.kind, err)
	}
	given, err := o.text("namespace")
	if err != nil {
		return "", fmt.Errorf("%s %.128s: %w", t.kind, name, err)
	}
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		name, namespace = name[i+1:], name[:i]
	} else if o["namespace"] != nil {
		namespace = given
	}
	if err := checkAvroName(name); err != nil {
		return "", fmt.Errorf("%s: name %w", t.kind, err)
	}
	if len(namespace)+1+len(name) > maxTypeName {
		return "", fmt.Errorf("%s %.128s: its name is longer than %d bytes", t.kind, name, maxTypeName)
	}
	t.name = name
	if namespace != "" {
		for part := range strings.SplitSeq(namespace, ".") {
			if err := checkAvroName(part); err != nil {
				return "", fmt.Errorf("%s %.128s: namespace %w", t.kind, name, err)
			}
		}
		t.name = namespace + "." + name
	}
	if _, primitive := primitives[t.name]; primitive {
		return "", fmt.Errorf("%s: name %q is reserved", t.kind, t.name)
	}
	if _, twice := p.named[t.name]; twice {
		return "", fmt.Errorf("type %.128s is defined twice", t.name)
	}
	p.named[t.name] = t
	return namespace, nil
}

func checkAvroName(s string) error {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || i > 0 && '0' <= c && c <= '9' {
			continue
		}
		return fmt.Errorf("%.40q is not an Avro name", s)
	}
	if s == "" {
		return errors.New("is empty")
	}
	return nil
}

// markEmpty finds the records whose values take no bytes, and how to skip the
// others. It refuses records that contain themselves without a union, array or
// map between: no value of theirs ends.
func (p *avroParser) markEmpty() error {
	const (
		entered = 1
		left    = 2
	)
	state := map[*avroType]int{}
	var visit func(t *avroType) error
	visit = func(t *avroType) error {
		switch {
		case t.kind != kindRecord || state[t] == left:
			return nil
		case state[t] == entered:
			return fmt.Errorf("record %.128s contains itself", t.name)
		}
		state[t] = entered
		for i := range t.fields {
			f := t.fields[i].typ
			if err := visit(f); err != nil {
				return err
			}
			switch {
			case f.empty:
			case len(f.skips) == 1:
				t.skips = append(t.skips, f.skips[0])
			default:
				t.skips = append(t.skips, f)
			}
		}
		t.empty = len(t.skips) == 0
		state[t] = left
		return nil
	}
	for _, t := range p.records {
		if err := visit(t); err != nil {
			return err
		}
	}
	return nil
}
