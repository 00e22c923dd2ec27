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

var primitives = map[string]kind{
	"null": kindNull, "boolean": kindBoolean, "int": kindInt, "long": kindLong,
	"float": kindFloat, "double": kindDouble, "bytes": kindBytes, "string": kindString,
}

// maxSchemaDepth bounds how deep types nest in a schema. Ours nest four deep.
const maxSchemaDepth = 100

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
}

type avroField struct {
	name       string
	aliases    []string
	typ        *avroType
	hasDefault bool
	def        any             // as encoding/json reads it
	feature    json.RawMessage // our own property; nil without
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
// what they like.
func parseAvro(text []byte) (*avroType, error) {
	p := avroParser{named: map[string]*avroType{}}
	t, err := p.parse(text, "", 0)
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

func (p *avroParser) parse(text json.RawMessage, namespace string, depth int) (*avroType, error) {
	if depth > maxSchemaDepth {
		return nil, fmt.Errorf("types nest more than %d deep", maxSchemaDepth)
	}
	switch firstByte(text) {
	case '"':
		var name string
		if err := json.Unmarshal(text, &name); err != nil {
			return nil, err
		}
		return p.reference(name, namespace)
	case '[':
		return p.union(text, namespace, depth)
	case '{':
		return p.object(text, namespace, depth)
	}
	if !json.Valid(text) {
		return nil, errors.New("not JSON")
	}
	return nil, errors.New("a type is a name, an object or an array")
}

func firstByte(text json.RawMessage) byte {
	for _, c := range text {
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		}
		return c
	}
	return 0
}

func (p *avroParser) reference(name, namespace string) (*avroType, error) {
	if k, ok := primitives[name]; ok {
		return &avroType{kind: k, empty: k == kindNull}, nil
	}
	if namespace != "" && !strings.Contains(name, ".") {
		if t, ok := p.named[namespace+"."+name]; ok {
			return t, nil
		}
	}
	if t, ok := p.named[name]; ok {
		return t, nil
	}
	return nil, fmt.Errorf("unknown type %q", name)
}

func (p *avroParser) union(text json.RawMessage, namespace string, depth int) (*avroType, error) {
	var texts []json.RawMessage
	if err := json.Unmarshal(text, &texts); err != nil {
		return nil, err
	}
	if len(texts) == 0 {
		return nil, errors.New("a union without types")
	}
	u := &avroType{kind: kindUnion}
	seen := map[string]bool{}
	for _, text := range texts {
		b, err := p.parse(text, namespace, depth+1)
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
			return nil, fmt.Errorf("%s occurs twice in a union", key)
		}
		seen[key] = true
		u.branches = append(u.branches, b)
	}
	return u, nil
}

// avroObject has the properties of all types written as objects.
type avroObject struct {
	Type      json.RawMessage    `json:"type"`
	Name      string             `json:"name"`
	Namespace *string            `json:"namespace"`
	Fields    *[]avroObjectField `json:"fields"`
	Symbols   []string           `json:"symbols"`
	Default   json.RawMessage    `json:"default"`
	Items     json.RawMessage    `json:"items"`
	Values    json.RawMessage    `json:"values"`
	Size      *float64           `json:"size"`
}

type avroObjectField struct {
	Name    string          `json:"name"`
	Type    json.RawMessage `json:"type"`
	Aliases []string        `json:"aliases"`
	Default json.RawMessage `json:"default"`
	Feature json.RawMessage `json:"feature"`
}

func (p *avroParser) object(text json.RawMessage, namespace string, depth int) (*avroType, error) {
	var o avroObject
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, err
	}
	if firstByte(o.Type) != '"' {
		if o.Type == nil {
			return nil, errors.New("an object without type")
		}
		return p.parse(o.Type, namespace, depth+1)
	}
	var typeName string
	if err := json.Unmarshal(o.Type, &typeName); err != nil {
		return nil, err
	}
	switch typeName {
	case "array", "map":
		t := &avroType{kind: kindArray}
		items, property := o.Items, "items"
		if typeName == "map" {
			t.kind, items, property = kindMap, o.Values, "values"
		}
		if items == nil {
			return nil, fmt.Errorf("%s without %s", typeName, property)
		}
		var err error
		if t.items, err = p.parse(items, namespace, depth+1); err != nil {
			return nil, fmt.Errorf("%s of %s: %w", property, typeName, err)
		}
		return t, nil
	case "record", "error":
		return p.record(&o, namespace, depth)
	case "enum":
		t := &avroType{kind: kindEnum, symbols: o.Symbols}
		if _, err := p.define(t, &o, namespace); err != nil {
			return nil, err
		}
		if len(o.Symbols) == 0 {
			return nil, fmt.Errorf("enum %s without symbols", t.name)
		}
		seen := make(map[string]bool, len(o.Symbols))
		for _, s := range o.Symbols {
			if err := checkAvroName(s); err != nil {
				return nil, fmt.Errorf("enum %s: symbol %w", t.name, err)
			}
			if seen[s] {
				return nil, fmt.Errorf("enum %s: symbol %s occurs twice", t.name, s)
			}
			seen[s] = true
		}
		if o.Default != nil {
			if err := json.Unmarshal(o.Default, &t.fallback); err != nil || t.index(t.fallback) < 0 {
				return nil, fmt.Errorf("enum %s: the default is none of its symbols", t.name)
			}
		}
		return t, nil
	case "fixed":
		t := &avroType{kind: kindFixed}
		if _, err := p.define(t, &o, namespace); err != nil {
			return nil, err
		}
		if o.Size == nil || *o.Size < 0 || *o.Size > math.MaxInt32 || *o.Size != math.Trunc(*o.Size) {
			return nil, fmt.Errorf("fixed %s without a size", t.name)
		}
		t.size = int(*o.Size)
		return t, nil
	}
	return p.reference(typeName, namespace)
}

func (p *avroParser) record(o *avroObject, namespace string, depth int) (*avroType, error) {
	t := &avroType{kind: kindRecord}
	namespace, err := p.define(t, o, namespace)
	if err != nil {
		return nil, err
	}
	p.records = append(p.records, t)
	if o.Fields == nil {
		return nil, fmt.Errorf("record %s without fields", t.name)
	}
	seen := make(map[string]bool, len(*o.Fields))
	for _, f := range *o.Fields {
		if err := checkAvroName(f.Name); err != nil {
			return nil, fmt.Errorf("record %s: field %w", t.name, err)
		}
		if seen[f.Name] {
			return nil, fmt.Errorf("record %s: field %s occurs twice", t.name, f.Name)
		}
		seen[f.Name] = true
		if f.Type == nil {
			return nil, fmt.Errorf("field %s has no type", f.Name)
		}
		field := avroField{name: f.Name, aliases: f.Aliases, hasDefault: f.Default != nil, feature: f.Feature}
		if field.typ, err = p.parse(f.Type, namespace, depth+1); err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
		if f.Default != nil {
			if err := json.Unmarshal(f.Default, &field.def); err != nil {
				return nil, fmt.Errorf("field %s: %w", f.Name, err)
			}
		}
		t.fields = append(t.fields, field)
	}
	return t, nil
}

// define gives a named type its full name, makes it known under it, and
// returns the namespace inside it.
func (p *avroParser) define(t *avroType, o *avroObject, namespace string) (string, error) {
	name := o.Name
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		name, namespace = name[i+1:], name[:i]
	} else if o.Namespace != nil {
		namespace = *o.Namespace
	}
	if err := checkAvroName(name); err != nil {
		return "", fmt.Errorf("%s: name %w", t.kind, err)
	}
	t.name = name
	if namespace != "" {
		for _, part := range strings.Split(namespace, ".") {
			if err := checkAvroName(part); err != nil {
				return "", fmt.Errorf("%s %s: namespace %w", t.kind, name, err)
			}
		}
		t.name = namespace + "." + name
	}
	if _, primitive := primitives[t.name]; primitive {
		return "", fmt.Errorf("%s: name %q is reserved", t.kind, t.name)
	}
	if _, twice := p.named[t.name]; twice {
		return "", fmt.Errorf("type %s is defined twice", t.name)
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

// markEmpty finds the types whose values take no bytes, and refuses records
// that contain themselves without a union, array or map between: no value of
// theirs ends.
func (p *avroParser) markEmpty() error {
	const (
		entered = 1
		left    = 2
	)
	state := map[*avroType]int{}
	var visit func(t *avroType) error
	visit = func(t *avroType) error {
		switch t.kind {
		case kindNull:
			t.empty = true
		case kindFixed:
			t.empty = t.size == 0
		case kindRecord:
			switch state[t] {
			case entered:
				return fmt.Errorf("record %s contains itself", t.name)
			case left:
				return nil
			}
			state[t] = entered
			t.empty = true
			for i := range t.fields {
				if err := visit(t.fields[i].typ); err != nil {
					return err
				}
				t.empty = t.empty && t.fields[i].typ.empty
			}
			state[t] = left
		}
		return nil
	}
	for _, t := range p.records {
		if err := visit(t); err != nil {
			return err
		}
	}
	for _, t := range p.named {
		if err := visit(t); err != nil {
			return err
		}
	}
	return nil
}
