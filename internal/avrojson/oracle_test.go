package avrojson

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/linkedin/goavro/v2"

	"github.com/churnstream/churnstream/schemas/avro"
)

// oracle is a schema as goavro understands it.
type oracle struct {
	codec *goavro.Codec
	root  *avro.Type // for the order of fields and for logical types
}

// newOracle returns nil for a schema that goavro does not take.
func newOracle(text string) *oracle {
	var schema any
	if json.Unmarshal([]byte(text), &schema) != nil {
		return nil
	}
	s := parseSchema(text)
	if s.err != nil {
		return nil
	}
	codec, err := newGoavro(withoutLogicalTypes(schema))
	if err != nil {
		return nil
	}
	return &oracle{codec, s.generic.Type()}
}

// decode returns what Schema.Decode has to. ok is false where goavro cannot
// tell.
func (o *oracle) decode(datum []byte) (text []byte, taken, ok bool) {
	v, rest, err := o.codec.NativeFromBinary(datum)
	if err != nil {
		return nil, false, !strings.Contains(err.Error(), "MaxBlockCount")
	}
	return appendValue(nil, o.root, v), len(rest) == 0, true
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

// appendValue appends a value that goavro decoded, as JSON.
func appendValue(dst []byte, t *avro.Type, v any) []byte {
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
			dst = appendValue(dst, t.Items, v[i])
		}
		return append(dst, ']')
	case map[string]any:
		switch t.Kind {
		case avro.Union:
			for branch, v := range v {
				for _, c := range t.Branches {
					if c.Name == branch || c.Name == "" && c.Kind.String() == branch {
						return appendValue(dst, c, v)
					}
				}
			}
			return append(dst, "null"...)
		case avro.Map:
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
				dst = appendValue(dst, t.Items, v[k])
			}
			return append(dst, '}')
		}
		dst = append(dst, '{')
		for i, f := range t.Fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(AppendText(dst, f.Name), ':')
			dst = appendValue(dst, f.Type, v[f.Name])
		}
		return append(dst, '}')
	}
	return AppendText(dst, fmt.Sprint(v))
}
