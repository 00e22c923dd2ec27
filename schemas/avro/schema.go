package avro

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
)

// ErrSchemaNotFound is matched by a registry's error for a schema id that it does
// not know.
var ErrSchemaNotFound = errors.New("schema not found")

// Kind is a kind of Avro type.
type Kind uint8

// The kinds. Decimal is a writer's decimal, in bytes or a fixed, that is read as
// a number, and Unreadable the part of a writer's type that the reader's cannot
// take; these two occur in nodes only.
const (
	Null Kind = iota
	Boolean
	Int
	Long
	Float
	Double
	Bytes
	String
	Fixed
	Enum
	Array
	Map
	Union
	Record
	Decimal
	Unreadable
)

var kindNames = [...]string{
	"null", "boolean", "int", "long", "float", "double", "bytes", "string",
	"fixed", "enum", "array", "map", "union", "record", "decimal", "unreadable",
}

// String returns the kind as schemas name it.
func (k Kind) String() string { return kindNames[k] }

var primitives = map[string]*Type{
	"null": {Kind: Null, empty: true}, "boolean": {Kind: Boolean}, "int": {Kind: Int}, "long": {Kind: Long},
	"float": {Kind: Float}, "double": {Kind: Double}, "bytes": {Kind: Bytes}, "string": {Kind: String},
}

const (
	// maxSchemaDepth bounds how deep types nest in a schema. Ours nest four
	// deep.
	maxSchemaDepth = 100
	// maxTypeName bounds the full name of a type, in bytes: every type in a
	// namespace has that in its name.
	maxTypeName = 512
)

// Type is a parsed Avro type. Named types are shared by reference, so it may be
// recursive. It must not be changed.
type Type struct {
	Kind     Kind
	Name     string   // full name of a record, enum or fixed
	Logical  string   // logical type of a primitive one or of a fixed; "" without
	Scale    int      // decimal: the digits after the point
	Size     int      // fixed
	Symbols  []string // enum
	Fallback string   // enum: the symbol for unknown ones, if declared
	Items    *Type    // array items or map values
	Branches []*Type  // union
	Fields   []Field  // record
	// empty says that a value takes no bytes, so that no count of such values
	// is bounded by the length of the input.
	empty bool
	// skips are the types to read over a record: those of its fields that take
	// bytes, and in place of a record with only one such field, that field's.
	// Every one of several takes a byte at least, so that reading over a datum
	// takes no more steps than it has bytes, to a small factor.
	skips []*Type
}

// Field is a field of a record.
type Field struct {
	Name    string
	Aliases []string
	Type    *Type
	Default json.RawMessage // nil without default
	// Properties are those of the field's own properties that were asked for.
	Properties map[string]json.RawMessage
}

// Index returns the position of the symbol in an enum, or −1.
func (t *Type) Index(symbol string) int {
	for i, s := range t.Symbols {
		if s == symbol {
			return i
		}
	}
	return -1
}

// Parse parses a schema. Nothing about it is trusted: producers register what
// they like. It takes time and memory in proportion to the text, and its errors
// do not show more than the start of a name. Of the properties of fields that
// are none of Avro's, those with the given names are kept.
func Parse(text []byte, properties ...string) (*Type, error) {
	return (&parser{properties: properties}).schema(text)
}

// ParseWriter is Parse for a schema that data were written with, in which names
// may be any text. Resolution does not compare the names of types, and registries
// and other implementations let pass what the specification does not: hyphens,
// "$", letters of all alphabets.
func ParseWriter(text []byte) (*Type, error) {
	return (&parser{anyName: true}).schema(text)
}

func (p *parser) schema(text []byte) (*Type, error) {
	// Into maps, for keys are compared as they are: a property "Name" is not
	// "name", but someone's own.
	var schema any
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, fmt.Errorf("not JSON: %.256s", err)
	}
	p.named = map[string]*Type{}
	t, err := p.parse(schema, "", 0)
	if err != nil {
		return nil, err
	}
	if err := p.markEmpty(); err != nil {
		return nil, err
	}
	return t, nil
}

type parser struct {
	properties []string
	anyName    bool
	named      map[string]*Type
	records    []*Type
}

// object is a type or a field written as an object.
type object map[string]any

// text returns a property that is a string, "" for one that is not there.
func (o object) text(key string) (string, error) {
	v := o[key]
	s, ok := v.(string)
	if v != nil && !ok {
		return "", fmt.Errorf("%s is not a string", key)
	}
	return s, nil
}

// json returns a property as it is, nil for one that is not there.
func (o object) json(key string) json.RawMessage {
	v, ok := o[key]
	if !ok {
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic("avro: JSON that was read cannot be written: " + err.Error())
	}
	return text
}

// texts returns a property that is an array of strings, nil for one that is
// not there.
func (o object) texts(key string) ([]string, error) {
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

func (p *parser) parse(schema any, namespace string, depth int) (*Type, error) {
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

func (p *parser) reference(name, namespace string) (*Type, error) {
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

func (p *parser) union(branches []any, namespace string, depth int) (*Type, error) {
	if len(branches) == 0 {
		return nil, errors.New("a union without types")
	}
	u := &Type{Kind: Union}
	seen := map[string]bool{}
	for _, branch := range branches {
		b, err := p.parse(branch, namespace, depth+1)
		if err != nil {
			return nil, fmt.Errorf("union: %w", err)
		}
		key := b.Kind.String()
		switch b.Kind {
		case Union:
			return nil, errors.New("a union directly inside a union")
		case Record, Enum, Fixed:
			key = b.Name
		}
		if seen[key] {
			return nil, fmt.Errorf("%.128s occurs twice in a union", key)
		}
		seen[key] = true
		u.Branches = append(u.Branches, b)
	}
	return u, nil
}

func (p *parser) object(o object, namespace string, depth int) (*Type, error) {
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
		t, property := &Type{Kind: Array}, "items"
		if typeName == "map" {
			t.Kind, property = Map, "values"
		}
		items, ok := o[property]
		if !ok {
			return nil, fmt.Errorf("%s without %s", typeName, property)
		}
		var err error
		if t.Items, err = p.parse(items, namespace, depth+1); err != nil {
			return nil, fmt.Errorf("%s of %s: %w", property, typeName, err)
		}
		return t, nil
	case "record", "error":
		return p.record(o, namespace, depth)
	case "enum":
		return p.enum(o, namespace)
	case "fixed":
		t := &Type{Kind: Fixed}
		if _, err := p.define(t, o, namespace); err != nil {
			return nil, err
		}
		size, ok := o["size"].(float64)
		if !ok || size < 0 || size > math.MaxInt32 || size != math.Trunc(size) {
			return nil, fmt.Errorf("fixed %.128s without a size", t.Name)
		}
		t.Size, t.empty = int(size), size == 0
		t.annotate(o)
		return t, nil
	}
	t, err := p.reference(typeName, namespace)
	if err == nil && primitives[typeName] == t {
		annotated := *t
		if annotated.annotate(o); annotated.Logical != "" {
			t = &annotated
		}
	}
	return t, err
}

// connectTimes are the logical types of what Debezium writes as a plain long or
// int, and says in a property of Kafka Connect what it is.
var connectTimes = map[string]string{
	"io.debezium.time.Timestamp":      "timestamp-millis",
	"io.debezium.time.MicroTimestamp": "timestamp-micros",
	"io.debezium.time.NanoTimestamp":  "timestamp-nanos",
	"io.debezium.time.Date":           "date",
}

// maxScale bounds the digits of a decimal after its point: no double has more
// than that before its first other than zero.
const maxScale = 400

// annotate sets the logical type that a type's properties name. A decimal
// without a scale that it can have is none, as the specification has it.
func (t *Type) annotate(o object) {
	logical, _ := o["logicalType"].(string)
	if logical == "" {
		connect, _ := o["connect.name"].(string)
		logical = connectTimes[connect]
	}
	if logical == "decimal" {
		scale := 0.0
		if given, ok := o["scale"]; ok {
			if scale, ok = given.(float64); !ok {
				return
			}
		}
		if t.Kind != Bytes && t.Kind != Fixed || scale < 0 || scale > maxScale || scale != math.Trunc(scale) {
			return
		}
		t.Scale = int(scale)
	}
	t.Logical = logical
}

func (p *parser) enum(o object, namespace string) (*Type, error) {
	t := &Type{Kind: Enum}
	_, err := p.define(t, o, namespace)
	if err != nil {
		return nil, err
	}
	if t.Symbols, err = o.texts("symbols"); err != nil {
		return nil, fmt.Errorf("enum %.128s: %w", t.Name, err)
	}
	if len(t.Symbols) == 0 {
		return nil, fmt.Errorf("enum %.128s without symbols", t.Name)
	}
	seen := make(map[string]bool, len(t.Symbols))
	for _, s := range t.Symbols {
		if err := p.checkName(s); err != nil {
			return nil, fmt.Errorf("enum %.128s: symbol %w", t.Name, err)
		}
		if seen[s] {
			return nil, fmt.Errorf("enum %.128s: symbol %.128s occurs twice", t.Name, s)
		}
		seen[s] = true
	}
	if def, ok := o["default"]; ok {
		if t.Fallback, ok = def.(string); !ok || !seen[t.Fallback] {
			return nil, fmt.Errorf("enum %.128s: the default is none of its symbols", t.Name)
		}
	}
	return t, nil
}

func (p *parser) record(o object, namespace string, depth int) (*Type, error) {
	t := &Type{Kind: Record}
	namespace, err := p.define(t, o, namespace)
	if err != nil {
		return nil, err
	}
	p.records = append(p.records, t)
	fields, ok := o["fields"].([]any)
	if !ok {
		return nil, fmt.Errorf("record %.128s without fields", t.Name)
	}
	seen := make(map[string]bool, len(fields))
	for _, f := range fields {
		o, ok := f.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("record %.128s: a field is not an object", t.Name)
		}
		field, err := p.field(o, namespace, depth)
		if err != nil {
			return nil, err
		}
		if seen[field.Name] {
			return nil, fmt.Errorf("record %.128s: field %.128s occurs twice", t.Name, field.Name)
		}
		seen[field.Name] = true
		t.Fields = append(t.Fields, field)
	}
	return t, nil
}

func (p *parser) field(o object, namespace string, depth int) (f Field, err error) {
	if f.Name, err = o.text("name"); err == nil {
		err = p.checkName(f.Name)
	}
	if err != nil {
		return f, fmt.Errorf("field %w", err)
	}
	typ, ok := o["type"]
	if !ok {
		return f, fmt.Errorf("field %.128s has no type", f.Name)
	}
	if f.Type, err = p.parse(typ, namespace, depth+1); err != nil {
		return f, fmt.Errorf("field %.128s: %w", f.Name, err)
	}
	if f.Aliases, err = o.texts("aliases"); err != nil {
		return f, fmt.Errorf("field %.128s: %w", f.Name, err)
	}
	f.Default = o.json("default")
	for _, name := range p.properties {
		if text := o.json(name); text != nil {
			if f.Properties == nil {
				f.Properties = map[string]json.RawMessage{}
			}
			f.Properties[name] = text
		}
	}
	return f, nil
}

// define gives a named type its full name, makes it known under it, and
// returns the namespace inside it.
func (p *parser) define(t *Type, o object, namespace string) (string, error) {
	name, err := o.text("name")
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.Kind, err)
	}
	given, err := o.text("namespace")
	if err != nil {
		return "", fmt.Errorf("%s %.128s: %w", t.Kind, name, err)
	}
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		name, namespace = name[i+1:], name[:i]
	} else if o["namespace"] != nil {
		namespace = given
	}
	if err := p.checkName(name); err != nil {
		return "", fmt.Errorf("%s: name %w", t.Kind, err)
	}
	if len(namespace)+1+len(name) > maxTypeName {
		return "", fmt.Errorf("%s %.128s: its name is longer than %d bytes", t.Kind, name, maxTypeName)
	}
	t.Name = name
	if namespace != "" {
		for part := range strings.SplitSeq(namespace, ".") {
			if err := p.checkName(part); err != nil {
				return "", fmt.Errorf("%s %.128s: namespace %w", t.Kind, name, err)
			}
		}
		t.Name = namespace + "." + name
	}
	if _, primitive := primitives[t.Name]; primitive {
		return "", fmt.Errorf("%s: name %q is reserved", t.Kind, t.Name)
	}
	if _, twice := p.named[t.Name]; twice {
		return "", fmt.Errorf("type %.128s is defined twice", t.Name)
	}
	p.named[t.Name] = t
	return namespace, nil
}

func (p *parser) checkName(s string) error {
	for i := 0; i < len(s) && !p.anyName; i++ {
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
func (p *parser) markEmpty() error {
	const (
		entered = 1
		left    = 2
	)
	state := map[*Type]int{}
	var visit func(t *Type) error
	visit = func(t *Type) error {
		switch {
		case t.Kind != Record || state[t] == left:
			return nil
		case state[t] == entered:
			return fmt.Errorf("record %.128s contains itself", t.Name)
		}
		state[t] = entered
		for i := range t.Fields {
			f := t.Fields[i].Type
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
