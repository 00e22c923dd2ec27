// Package avrojson shows Avro of any schema as JSON: fields in the order of
// the schema, unions without their wrapping, timestamps as RFC 3339, bytes as
// Avro's own JSON has them (a character for each), and control characters
// escaped, so that what a stranger wrote cannot steer the terminal it is shown
// on. goavro's own JSON has none of these. Whatever the schema and the data
// say, what it takes is bounded.
package avrojson

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"

	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/avro"
)

// What is read here may come from anywhere, under any schema: these bound
// what decoding it takes.
const (
	// maxSchemaBytes bounds the text of a schema. Of maxSchemas that are
	// remembered, all are forgotten when there are more, or when their texts
	// are longer than maxSchemasBytes together: goavro keeps up to 35 times the
	// text.
	maxSchemaBytes  = 1 << 20
	maxSchemas      = 1024
	maxSchemasBytes = 4 << 20
)

// Registry is where schemas are looked up. The error for one that it does not
// know matches avro.ErrSchemaNotFound.
type Registry interface {
	Schema(ctx context.Context, id int) (string, error)
	SchemaByGUID(ctx context.Context, guid string) (string, error)
}

// Decoder decodes values in the Confluent wire format, of any schema that the
// registry knows. It is not safe for concurrent use.
type Decoder struct {
	registry Registry
	log      *slog.Logger
	known    map[schemas.SchemaName]*Schema
	bytes    int // of the texts of known
}

// NewDecoder returns a Decoder that logs to log while the registry is down.
func NewDecoder(registry Registry, log *slog.Logger) *Decoder {
	return &Decoder{registry: registry, log: log, known: map[schemas.SchemaName]*Schema{}}
}

// ErrFrame is matched for a value that does not start with byte 0 and a schema
// id, or byte 1 and a GUID.
var ErrFrame = errors.New("not framed: it does not start with byte 0 and a schema id")

// UndecodableError is a value that cannot be decoded, for a reason that lies
// in the value or its schema.
type UndecodableError struct{ Err error }

// Error returns the reason.
func (e *UndecodableError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *UndecodableError) Unwrap() error { return e.Err }

// Schema returns the schema that a value was written with, and the value
// without its frame, which the record's schemas.ValueSchemaHeader may have: nil if
// there is none. It waits while the registry is down. A schema that is not
// known, or cannot be used, is one that decodes nothing. The error matches
// ErrFrame, or says that ctx ended.
func (d *Decoder) Schema(ctx context.Context, header, value []byte) (s *Schema, datum []byte, err error) {
	frame := value
	if header != nil {
		frame = header
	}
	name, datum, ok := schemas.CutFrame(frame)
	switch {
	case !ok, header != nil && len(datum) > 0:
		return nil, nil, ErrFrame
	case header != nil:
		datum = value
	}
	s, ok = d.known[name]
	if !ok {
		var text string
		var unusable error
		err := retry.Do(ctx, d.log, "asking the registry for a schema", func(ctx context.Context) (err error) {
			switch {
			case name.HasGUID():
				text, err = d.registry.SchemaByGUID(ctx, name.String())
			case name.ID > math.MaxInt32:
				err = avro.ErrSchemaNotFound
			default:
				text, err = d.registry.Schema(ctx, int(name.ID))
			}
			if poison, ok := schemas.AsPoison(err); ok { // its references cannot be used
				unusable = poison
				return nil
			}
			if errors.Is(err, avro.ErrSchemaNotFound) {
				return retry.Permanent(err)
			}
			return err
		})
		switch {
		case unusable != nil:
			s = &Schema{err: fmt.Errorf("the schema: %w", unusable)}
		case err == nil:
			s = parseSchema(text)
			d.bytes += len(text)
		case errors.Is(err, avro.ErrSchemaNotFound):
			s = &Schema{err: fmt.Errorf("%w in the registry: %s", avro.ErrSchemaNotFound, name)}
		default:
			return nil, nil, err
		}
		s.name = name
		if len(d.known) >= maxSchemas || d.bytes > maxSchemasBytes {
			clear(d.known)
			d.bytes = len(text)
		}
		d.known[name] = s
	}
	return s, datum, nil
}

// Decode returns a value as JSON, and the name of its schema, the zero value if
// there is no frame; see Schema. The error is an *UndecodableError, or says that ctx ended.
func (d *Decoder) Decode(ctx context.Context, header, value []byte) (text []byte, name schemas.SchemaName, err error) {
	s, datum, err := d.Schema(ctx, header, value)
	if errors.Is(err, ErrFrame) {
		return nil, name, &UndecodableError{err}
	}
	if err != nil {
		return nil, name, err
	}
	text, err = s.Decode(datum)
	return text, s.name, err
}

// Schema is a schema of the registry.
type Schema struct {
	name    schemas.SchemaName
	err     error // why it cannot be used
	generic *avro.Generic
}

// ID returns the schema's id or GUID.
func (s *Schema) ID() schemas.SchemaName { return s.name }

// Name returns the full name of the type, or its kind where it has none, "" if
// Err is not nil.
func (s *Schema) Name() string {
	if s.err != nil {
		return ""
	}
	if t := s.generic.Type(); t.Name == "" {
		return t.Kind.String()
	}
	return s.generic.Type().Name
}

// Err returns why nothing can be decoded by the schema: the registry does not
// know it, or it is no schema, or one that is refused.
func (s *Schema) Err() error { return s.err }

func parseSchema(text string) *Schema {
	if len(text) > maxSchemaBytes {
		return &Schema{err: fmt.Errorf("the schema is %d bytes long, at most %d are allowed", len(text), maxSchemaBytes)}
	}
	t, err := avro.ParseWriter([]byte(text))
	if err != nil {
		return &Schema{err: fmt.Errorf("the schema: %w", err)}
	}
	generic, err := avro.NewGeneric(t)
	if err != nil {
		return &Schema{err: fmt.Errorf("the schema: %w", err)}
	}
	return &Schema{generic: generic}
}

// Decode returns a value without its frame as JSON, of at most 64 MiB. The
// error is an *UndecodableError.
func (s *Schema) Decode(datum []byte) ([]byte, error) {
	if s.err != nil {
		return nil, &UndecodableError{s.err}
	}
	v, err := s.generic.Decode(datum)
	if errors.Is(err, avro.ErrTooManyValues) {
		err = errTooLarge
	}
	if err != nil {
		return nil, &UndecodableError{err}
	}
	w := writer{generic: s.generic}
	if w.value(s.generic.Type(), v); w.err != nil {
		return nil, &UndecodableError{w.err}
	}
	return w.out, nil
}

// DecodePart decodes what of a damaged record can be: its first fields, or
// the whole if only bytes are left over after it. It returns nil if there is
// nothing to show.
func (s *Schema) DecodePart(datum []byte) []byte {
	if s.err != nil {
		return nil
	}
	generic, datum := s.generic.Prefix(datum)
	if generic == nil {
		return nil
	}
	v, err := generic.Decode(datum)
	if err != nil {
		return nil
	}
	w := writer{generic: generic, partial: true}
	if w.value(generic.Type(), v); w.err != nil {
		return nil
	}
	return w.out
}
