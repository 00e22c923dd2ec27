// Package avrojson shows Avro of any schema as JSON: fields in the order of
// the schema, unions without their wrapping, timestamps as RFC 3339, bytes as
// Avro's own JSON has them (a character for each), and control characters
// escaped, so that what a stranger wrote cannot steer the terminal it is shown
// on. It decodes as goavro does, but straight into JSON: whatever the schema
// says, it takes no more than the JSON does, and that is bounded.
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

	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// What is read here may come from anywhere, under any schema: these bound
// what decoding it takes.
const (
	// maxSchemaBytes bounds the text of a schema. Of maxSchemas that are
	// remembered, all are forgotten when there are more, or when their texts
	// are longer than maxSchemasBytes together.
	maxSchemaBytes  = 1 << 20
	maxSchemas      = 1024
	maxSchemasBytes = 16 << 20
	// maxSchemaDepth bounds how deep types may nest, and maxTypeName the full
	// name of one, in bytes: every type in a namespace has that in its name.
	maxSchemaDepth = 64
	maxTypeName    = 512
)

// Registry is where schemas are looked up. The error for an id that it does
// not know matches schemas.ErrSchemaNotFound.
type Registry interface {
	Schema(ctx context.Context, id int) (string, error)
}

// Decoder decodes values in the Confluent wire format, of any schema that the
// registry knows. It is not safe for concurrent use.
type Decoder struct {
	registry Registry
	log      *slog.Logger
	known    map[uint32]*Schema
	bytes    int // of the texts of known
}

// NewDecoder returns a Decoder that logs to log while the registry is down.
func NewDecoder(registry Registry, log *slog.Logger) *Decoder {
	return &Decoder{registry: registry, log: log, known: map[uint32]*Schema{}}
}

// ErrFrame is matched for a value that does not start with byte 0 and a
// schema id.
var ErrFrame = errors.New("not framed: it does not start with byte 0 and a schema id")

// UndecodableError is a value that cannot be decoded, for a reason that lies
// in the value or its schema.
type UndecodableError struct{ Err error }

// Error returns the reason.
func (e *UndecodableError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *UndecodableError) Unwrap() error { return e.Err }

// Schema returns the schema that a value was written with, and the value
// without its frame. It waits while the registry is down. A schema that is not
// known, or cannot be used, is one that decodes nothing. The error matches
// ErrFrame, or says that ctx ended.
func (d *Decoder) Schema(ctx context.Context, value []byte) (s *Schema, datum []byte, err error) {
	if len(value) < 5 || value[0] != 0 {
		return nil, nil, ErrFrame
	}
	id := binary.BigEndian.Uint32(value[1:])
	s, ok := d.known[id]
	if !ok {
		var text string
		err := retry.Do(ctx, d.log, "asking the registry for a schema", func(ctx context.Context) (err error) {
			if id > math.MaxInt32 {
				return retry.Permanent(fmt.Errorf("%w: id %d", schemas.ErrSchemaNotFound, id))
			}
			text, err = d.registry.Schema(ctx, int(id))
			if errors.Is(err, schemas.ErrSchemaNotFound) {
				return retry.Permanent(err)
			}
			return err
		})
		switch {
		case err == nil:
			s = parseSchema(text)
			d.bytes += len(text)
		case errors.Is(err, schemas.ErrSchemaNotFound):
			s = &Schema{err: fmt.Errorf("%w in the registry: id %d", schemas.ErrSchemaNotFound, id)}
		default:
			return nil, nil, err
		}
		s.id = id
		if len(d.known) >= maxSchemas || d.bytes > maxSchemasBytes {
			clear(d.known)
			d.bytes = len(text)
		}
		d.known[id] = s
	}
	return s, value[5:], nil
}

// Decode returns a framed value as JSON, and the id of its schema, 0 if there
// is no frame. The error is an *UndecodableError, or says that ctx ended.
func (d *Decoder) Decode(ctx context.Context, value []byte) (text []byte, id uint32, err error) {
	s, datum, err := d.Schema(ctx, value)
	if errors.Is(err, ErrFrame) {
		return nil, 0, &UndecodableError{err}
	}
	if err != nil {
		return nil, 0, err
	}
	text, err = s.Decode(datum)
	return text, s.id, err
}

// Schema is a schema of the registry.
type Schema struct {
	id   uint32
	err  error // why it cannot be used
	root *avroType
}

// ID returns the schema's id.
func (s *Schema) ID() uint32 { return s.id }

// Name returns the full name of the type, "" if Err is not nil.
func (s *Schema) Name() string {
	if s.err != nil {
		return ""
	}
	return s.root.name
}

// Err returns why nothing can be decoded by the schema: the registry does not
// know it, or it is no schema, or one that is refused.
func (s *Schema) Err() error { return s.err }

func parseSchema(text string) *Schema {
	s := &Schema{}
	if len(text) > maxSchemaBytes {
		s.err = fmt.Errorf("the schema is %d bytes long, at most %d are allowed", len(text), maxSchemaBytes)
		return s
	}
	var parsed any
	if err := json.Unmarshal([]byte(text), &parsed); err != nil {
		s.err = fmt.Errorf("the schema is not JSON: %.256s", err)
		return s
	}
	p := &typeParser{named: map[string]*avroType{}}
	if s.root, s.err = p.parse(parsed, ""); s.err != nil {
		s.err = fmt.Errorf("the schema: %w", s.err)
	}
	return s
}

// Decode returns a value without its frame as JSON, of at most 64 MiB. The
// error is an *UndecodableError.
func (s *Schema) Decode(datum []byte) ([]byte, error) {
	if s.err != nil {
		return nil, &UndecodableError{s.err}
	}
	d := decoding{in: datum}
	d.value(s.root)
	if len(d.in) > 0 {
		d.fail(fmt.Errorf("%d bytes are left over behind the record", len(d.in)))
	}
	if d.err != nil {
		return nil, &UndecodableError{d.err}
	}
	return d.out, nil
}

// DecodePart decodes what of a damaged record can be: its first fields, or
// the whole if only bytes are left over behind it. It returns nil if there is
// nothing to show.
func (s *Schema) DecodePart(datum []byte) []byte {
	if s.err != nil || s.root.kind != "record" {
		return nil
	}
	d := decoding{in: datum, out: []byte{'{'}}
	var part []byte
	for i := range s.root.fields {
		if d.field(s.root, i); d.err != nil {
			break
		}
		part = d.out
	}
	if part == nil {
		return nil
	}
	return append(part, '}')
}

// avroType is a node of a schema. It does not contain itself.
type avroType struct {
	kind    string // record, array, map, union, enum, fixed, or a primitive's
	name    string // full name, or kind where it has none
	logical string
	fields  []avroField
	items   *avroType // of an array, or the values of a map
	choices []*avroType
	symbols [][]byte // as JSON
	size    int      // of a fixed
	depth   int      // how deep types nest in it
}

// holds makes t a type with inner ones in it.
func (t *avroType) holds(inner *avroType) error {
	if t.depth = max(t.depth, inner.depth+1); t.depth > maxSchemaDepth {
		return fmt.Errorf("types nest deeper than %d", maxSchemaDepth)
	}
	return nil
}

type avroField struct {
	name  string
	label []byte // the name as it stands in JSON
	typ   *avroType
}

type typeParser struct {
	named map[string]*avroType // a type whose definition is not read to its end is there as nil
}

var errRecursive = errors.New("a type contains itself")

func (p *typeParser) parse(schema any, namespace string) (*avroType, error) {
	switch s := schema.(type) {
	case string:
		return p.reference(s, namespace)
	case []any:
		return p.union(s, namespace)
	case map[string]any:
		return p.object(s, namespace)
	}
	return nil, fmt.Errorf("%T where a type should be", schema)
}

func (p *typeParser) reference(name, namespace string) (*avroType, error) {
	switch name {
	case "null", "boolean", "int", "long", "float", "double", "bytes", "string":
		return &avroType{kind: name, name: name}, nil
	}
	for _, full := range []string{fullName(name, namespace), name} {
		if t, ok := p.named[full]; ok {
			if t == nil {
				return nil, fmt.Errorf("%.128s: %w", full, errRecursive)
			}
			return t, nil
		}
	}
	return nil, fmt.Errorf("unknown type %.128q", name)
}

func fullName(name, namespace string) string {
	if namespace == "" || strings.Contains(name, ".") {
		return name
	}
	return namespace + "." + name
}

func (p *typeParser) union(branches []any, namespace string) (*avroType, error) {
	u := &avroType{kind: "union", name: "union"}
	for _, b := range branches {
		t, err := p.parse(b, namespace)
		if err != nil {
			return nil, err
		}
		if err := u.holds(t); err != nil {
			return nil, err
		}
		u.choices = append(u.choices, t)
	}
	return u, nil
}

func (p *typeParser) object(s map[string]any, namespace string) (*avroType, error) {
	kind, ok := s["type"].(string)
	if !ok {
		return p.parse(s["type"], namespace)
	}
	logical, _ := s["logicalType"].(string)
	switch kind {
	case "array", "map":
		items := s["items"]
		if kind == "map" {
			items = s["values"]
		}
		t := &avroType{kind: kind, name: kind}
		var err error
		if t.items, err = p.parse(items, namespace); err != nil {
			return nil, err
		}
		return t, t.holds(t.items)
	case "record", "error", "enum", "fixed":
		return p.definition(s, kind, namespace)
	}
	t, err := p.reference(kind, namespace)
	if err != nil || logical == "" {
		return t, err
	}
	typed := *t
	typed.logical = logical
	return &typed, nil
}

// definition reads a type that has a name.
func (p *typeParser) definition(s map[string]any, kind, namespace string) (*avroType, error) {
	name, _ := s["name"].(string)
	if given, ok := s["namespace"].(string); ok {
		namespace = given
	}
	t := &avroType{kind: kind, name: fullName(name, namespace)}
	if len(t.name) > maxTypeName {
		return nil, fmt.Errorf("the name of type %.128s is longer than %d bytes", t.name, maxTypeName)
	}
	if i := strings.LastIndexByte(t.name, '.'); i >= 0 {
		namespace = t.name[:i]
	}
	if _, taken := p.named[t.name]; taken {
		return nil, fmt.Errorf("type %.128s is defined twice", t.name)
	}
	p.named[t.name] = nil
	switch kind {
	case "enum":
		symbols, _ := s["symbols"].([]any)
		for _, symbol := range symbols {
			text, _ := symbol.(string)
			t.symbols = append(t.symbols, AppendText(nil, text))
		}
	case "fixed":
		size, ok := s["size"].(float64)
		if !ok || size < 0 || size > math.MaxInt32 || size != math.Trunc(size) {
			return nil, fmt.Errorf("fixed %.128s without a size", t.name)
		}
		t.size = int(size)
	default:
		t.kind = "record"
		fields, _ := s["fields"].([]any)
		for _, f := range fields {
			field, _ := f.(map[string]any)
			name, _ := field["name"].(string)
			typ, err := p.parse(field["type"], namespace)
			if err != nil {
				return nil, err
			}
			if err := t.holds(typ); err != nil {
				return nil, err
			}
			t.fields = append(t.fields, avroField{name, append(AppendText(nil, name), ':'), typ})
		}
	}
	p.named[t.name] = t
	return t, nil
}
