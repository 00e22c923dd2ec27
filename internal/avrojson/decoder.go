// Package avrojson shows Avro of any schema as JSON: fields in the order of
// the schema, unions without their wrapping, timestamps as RFC 3339, bytes as
// Avro's own JSON has them (a character for each), and control characters
// escaped, so that what a stranger wrote cannot steer the terminal it is shown
// on. goavro decodes; what it takes is bounded whatever the schema says.
package avrojson

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/linkedin/goavro/v2"

	"churnstream/internal/kafka"
	"churnstream/schemas"
)

// What is read here may come from anywhere, under any schema: these bound
// what decoding it takes.
const (
	// maxDecoded bounds the values that a record may decode to. Without it a
	// few bytes under a hostile schema could become millions of them.
	maxDecoded = 1 << 24
	// maxSchemaDepth bounds how deep types may nest.
	maxSchemaDepth = 64
	// maxBlockItems bounds what goavro allocates for the items of a block
	// before it has seen one.
	maxBlockItems = 1 << 16
)

// goavro has this limit for the whole process. The roles do not use it: they
// decode with the codec of schemas.
func init() { goavro.MaxBlockCount = maxBlockItems }

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
		err := kafka.Retry(ctx, d.log, "asking the registry for a schema", func(ctx context.Context) (err error) {
			if id > math.MaxInt32 {
				return kafka.Permanent(fmt.Errorf("%w: id %d", schemas.ErrSchemaNotFound, id))
			}
			text, err = d.registry.Schema(ctx, int(id))
			if errors.Is(err, schemas.ErrSchemaNotFound) {
				return kafka.Permanent(err)
			}
			return err
		})
		switch {
		case err == nil:
			s = parseSchema(text)
		case errors.Is(err, schemas.ErrSchemaNotFound):
			s = &Schema{err: fmt.Errorf("%w in the registry: id %d", schemas.ErrSchemaNotFound, id)}
		default:
			return nil, nil, err
		}
		s.id = id
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
	id    uint32
	err   error // why it cannot be used
	codec *goavro.Codec
	root  *avroType
	json  any // without logical types
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
	var parsed any
	if err := json.Unmarshal([]byte(text), &parsed); err != nil {
		s.err = fmt.Errorf("the schema is not JSON: %w", err)
		return s
	}
	p := &typeParser{named: map[string]*avroType{}}
	if s.root, s.err = p.parse(parsed, "", 0); s.err != nil {
		s.err = fmt.Errorf("the schema: %w", s.err)
		return s
	}
	s.json = withoutLogicalTypes(parsed)
	s.codec, s.err = newGoavro(s.json)
	return s
}

// newGoavro compiles a schema. Logical types are rendered here: goavro would
// turn times that it cannot hold into others.
func newGoavro(schema any) (*goavro.Codec, error) {
	text, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	codec, err := goavro.NewCodec(string(text))
	if err != nil {
		return nil, fmt.Errorf("the schema: %w", err)
	}
	return codec, nil
}

func withoutLogicalTypes(schema any) any {
	switch s := schema.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, v := range s {
			switch k {
			case "type", "items", "values", "fields":
				out[k] = withoutLogicalTypes(v)
			case "name", "namespace", "symbols", "size":
				out[k] = v
			}
		}
		return out
	case []any:
		out := make([]any, len(s))
		for i := range s {
			out[i] = withoutLogicalTypes(s[i])
		}
		return out
	}
	return schema
}

// Decode returns a value without its frame as JSON. The error is an
// *UndecodableError.
func (s *Schema) Decode(datum []byte) ([]byte, error) {
	if s.err != nil {
		return nil, &UndecodableError{s.err}
	}
	if s.root.exceeds(datum) {
		return nil, &UndecodableError{fmt.Errorf("%d bytes could decode to more than %d values under the schema", len(datum), maxDecoded)}
	}
	v, rest, err := s.codec.NativeFromBinary(datum)
	if err != nil {
		return nil, &UndecodableError{err}
	}
	if len(rest) > 0 {
		return nil, &UndecodableError{fmt.Errorf("%d bytes are left over behind the record", len(rest))}
	}
	return appendValue(nil, s.root, v), nil
}

// DecodePart decodes what of a damaged record can be: its first fields, or
// the whole if only bytes are left over behind it. It returns nil if there is
// nothing to show.
func (s *Schema) DecodePart(datum []byte) []byte {
	if s.err != nil || s.root.kind != "record" || s.root.exceeds(datum) {
		return nil
	}
	schema, _ := s.json.(map[string]any)
	fields, _ := schema["fields"].([]any)
	first := maps.Clone(schema)
	var part any
	// If the first n fields can be decoded, fewer can be, too.
	n := sort.Search(len(fields), func(n int) bool {
		first["fields"] = fields[:n+1]
		codec, err := newGoavro(first)
		if err != nil {
			return true
		}
		v, _, err := codec.NativeFromBinary(datum)
		if err == nil {
			part = v
		}
		return err != nil
	})
	if n == 0 {
		return nil
	}
	root := *s.root
	root.fields = root.fields[:n]
	return appendValue(nil, &root, part)
}

// avroType is a node of a schema: what is needed to show its values in the
// order of the schema, without the wrapping of unions, and to bound them.
type avroType struct {
	kind    string // record, array, map, union, or a primitive's or "enum", "fixed"
	name    string // by which goavro names a union's branch
	logical string
	fields  []avroField
	items   *avroType
	choices []*avroType

	// bytes is the least that a value takes. values is how many a value is at
	// most, but for the items of its arrays and maps; those are perByte at
	// most for each byte.
	bytes, values, perByte int
}

// exceeds tells whether a datum could decode to more than maxDecoded values.
func (t *avroType) exceeds(datum []byte) bool {
	return t.values > maxDecoded || len(datum) > 0 && t.perByte > (maxDecoded-t.values)/len(datum)
}

type avroField struct {
	name string
	typ  *avroType
}

type typeParser struct {
	named map[string]*avroType // a type whose definition is not read to its end is there as nil
}

var errRecursive = errors.New("a type contains itself")

func (p *typeParser) parse(schema any, namespace string, depth int) (*avroType, error) {
	if depth > maxSchemaDepth {
		return nil, fmt.Errorf("types nest deeper than %d", maxSchemaDepth)
	}
	switch s := schema.(type) {
	case string:
		return p.reference(s, namespace)
	case []any:
		return p.union(s, namespace, depth)
	case map[string]any:
		return p.object(s, namespace, depth)
	}
	return nil, fmt.Errorf("%T where a type should be", schema)
}

var primitiveBytes = map[string]int{"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}

func (p *typeParser) reference(name, namespace string) (*avroType, error) {
	if n, ok := primitiveBytes[name]; ok {
		return &avroType{kind: name, name: name, bytes: n, values: 1}, nil
	}
	for _, full := range []string{fullName(name, namespace), name} {
		if t, ok := p.named[full]; ok {
			if t == nil {
				return nil, fmt.Errorf("%s: %w", full, errRecursive)
			}
			return t, nil
		}
	}
	return nil, fmt.Errorf("unknown type %q", name)
}

func fullName(name, namespace string) string {
	if namespace == "" || strings.Contains(name, ".") {
		return name
	}
	return namespace + "." + name
}

func (p *typeParser) union(branches []any, namespace string, depth int) (*avroType, error) {
	u := &avroType{kind: "union", name: "union", bytes: math.MaxInt32}
	for _, b := range branches {
		t, err := p.parse(b, namespace, depth+1)
		if err != nil {
			return nil, err
		}
		u.choices = append(u.choices, t)
		u.bytes = min(u.bytes, t.bytes)
		u.values = max(u.values, t.values)
		u.perByte = max(u.perByte, t.perByte)
	}
	u.bytes, u.values = saturate(u.bytes, 1), saturate(u.values, 1)
	return u, nil
}

// saturate adds without overflow.
func saturate(a, b int) int { return min(a+b, math.MaxInt32) }

func (p *typeParser) object(s map[string]any, namespace string, depth int) (*avroType, error) {
	kind, ok := s["type"].(string)
	if !ok {
		return p.parse(s["type"], namespace, depth+1)
	}
	t := &avroType{kind: kind, name: kind, values: 1}
	t.logical, _ = s["logicalType"].(string)
	switch kind {
	case "array", "map":
		key := "items"
		if kind == "map" {
			key = "values"
		}
		var err error
		if t.items, err = p.parse(s[key], namespace, depth+1); err != nil {
			return nil, err
		}
		least := t.items.bytes
		if kind == "map" {
			least = saturate(least, 1) // the key's length
		}
		if least == 0 {
			return nil, fmt.Errorf("items of an %s take no bytes", kind)
		}
		t.bytes = 1
		t.perByte = max(t.items.perByte, t.items.values/least+1)
		return t, nil
	case "record", "error", "enum", "fixed":
		name, _ := s["name"].(string)
		if given, ok := s["namespace"].(string); ok {
			namespace = given
		}
		t.name = fullName(name, namespace)
		if i := strings.LastIndexByte(t.name, '.'); i >= 0 {
			namespace = t.name[:i]
		}
		if _, taken := p.named[t.name]; taken {
			return nil, fmt.Errorf("type %s is defined twice", t.name)
		}
		p.named[t.name] = nil
		switch kind {
		case "enum":
			t.bytes = 1
		case "fixed":
			size, _ := s["size"].(float64)
			t.bytes = int(min(max(size, 0), math.MaxInt32))
		default:
			t.kind = "record"
			fields, _ := s["fields"].([]any)
			for _, f := range fields {
				field, _ := f.(map[string]any)
				name, _ := field["name"].(string)
				of, err := p.parse(field["type"], namespace, depth+1)
				if err != nil {
					return nil, err
				}
				t.fields = append(t.fields, avroField{name, of})
				t.bytes, t.values = saturate(t.bytes, of.bytes), saturate(t.values, of.values)
				t.perByte = max(t.perByte, of.perByte)
			}
		}
		p.named[t.name] = t
		return t, nil
	}
	of, err := p.reference(kind, namespace)
	if err != nil {
		return nil, err
	}
	if t.logical != "" {
		typed := *of
		typed.logical = t.logical
		return &typed, nil
	}
	return of, nil
}

// appendValue appends a value that goavro decoded, as JSON.
func appendValue(dst []byte, t *avroType, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case int32:
		return appendInteger(dst, t, int64(v))
	case int64:
		return appendInteger(dst, t, v)
	case float32:
		return appendNumber(dst, float64(v), 32)
	case float64:
		return appendNumber(dst, v, 64)
	case string:
		return AppendText(dst, v)
	case []byte:
		// As Avro's own JSON has it: a character for each byte.
		latin := make([]rune, len(v))
		for i, b := range v {
			latin[i] = rune(b)
		}
		return AppendText(dst, string(latin))
	case []any:
		dst = append(dst, '[')
		for i := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendValue(dst, t.items, v[i])
		}
		return append(dst, ']')
	case map[string]any:
		switch t.kind {
		case "union":
			for branch, v := range v {
				for _, c := range t.choices {
					if c.name == branch {
						return appendValue(dst, c, v)
					}
				}
			}
			return append(dst, "null"...)
		case "map":
			keys := make([]string, 0, len(v))
			for k := range v {
				keys = append(keys, k)
			}
			slices.Sort(keys)
			dst = append(dst, '{')
			for i, k := range keys {
				if i > 0 {
					dst = append(dst, ',')
				}
				dst = append(AppendText(dst, k), ':')
				dst = appendValue(dst, t.items, v[k])
			}
			return append(dst, '}')
		}
		dst = append(dst, '{')
		for i, f := range t.fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(AppendText(dst, f.name), ':')
			dst = appendValue(dst, f.typ, v[f.name])
		}
		return append(dst, '}')
	}
	return AppendText(dst, fmt.Sprint(v))
}

func appendInteger(dst []byte, t *avroType, n int64) []byte {
	var at time.Time
	switch t.logical {
	case "timestamp-millis":
		at = time.UnixMilli(n)
	case "timestamp-micros":
		at = time.UnixMicro(n)
	default:
		return strconv.AppendInt(dst, n, 10)
	}
	if at = at.UTC(); at.Year() < 0 || at.Year() > 9999 {
		return strconv.AppendInt(dst, n, 10)
	}
	return AppendText(dst, at.Format(time.RFC3339Nano))
}

func appendNumber(dst []byte, x float64, bits int) []byte {
	switch { // as Java's Avro writes what JSON has no numbers for
	case math.IsNaN(x):
		return append(dst, `"NaN"`...)
	case math.IsInf(x, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(x, -1):
		return append(dst, `"-Infinity"`...)
	}
	return strconv.AppendFloat(dst, x, 'g', -1, bits)
}

// AppendText appends a JSON string, with control characters of all kinds
// escaped. What is not UTF-8 becomes U+FFFD.
func AppendText(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, '\\', 'n')
		case r == '\t':
			dst = append(dst, '\\', 't')
		case r < ' ' || r >= 0x7f && r < 0xa0:
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default: // utf8.RuneError for what is not UTF-8
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// AppendBytes appends the members name and value to an object: the bytes
// as text where they are UTF-8, else under name_base64.
func AppendBytes(dst []byte, name string, b []byte) []byte {
	switch {
	case b == nil:
		return append(append(AppendText(dst, name), ':'), "null"...)
	case utf8.Valid(b):
		return AppendText(append(AppendText(dst, name), ':'), string(b))
	}
	dst = append(AppendText(dst, name+"_base64"), ':')
	text, _ := json.Marshal(b)
	return append(dst, text...)
}
