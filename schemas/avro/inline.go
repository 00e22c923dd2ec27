package avro

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Inline returns a schema with the types that it uses and others define: each in
// the place where it is used first, so that the text stands by itself. It is at
// most as long as all of them together, but for some bytes per type. Names that
// nobody defines stay as they are, and so does what else is wrong.
func Inline(schema []byte, others ...[]byte) ([]byte, error) {
	in := inliner{others: map[string]object{}, defined: map[string]bool{}}
	for _, text := range others {
		other, err := decodeSchema(text)
		if err != nil {
			return nil, err
		}
		if _, err := in.collect(other, "", 0); err != nil {
			return nil, err
		}
	}
	v, err := decodeSchema(schema)
	if err != nil {
		return nil, err
	}
	if v, err = in.expand(v, "", 0); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func decodeSchema(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // defaults stay as they are
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("not JSON: %.256s", err)
	}
	if d.More() {
		return nil, errors.New("not JSON: something follows it")
	}
	return v, nil
}

type inliner struct {
	others  map[string]object // that others define, by full name
	defined map[string]bool   // so far in the result
}

// collect finds the types that are defined in a schema of others.
func (in *inliner) collect(v any, namespace string, depth int) (any, error) {
	if o, ok := v.(map[string]any); ok && isNamed(o) {
		name := ""
		name, namespace = fullName(o, namespace)
		if len(name) > maxTypeName {
			return nil, fmt.Errorf("the name %.128s is longer than %d bytes", name, maxTypeName)
		}
		in.others[name] = o
	}
	return inside(v, namespace, depth, in.collect)
}

// expand puts definitions of others in place of names.
func (in *inliner) expand(v any, namespace string, depth int) (any, error) {
	switch s := v.(type) {
	case string:
		if _, ok := primitives[s]; ok {
			return s, nil
		}
		for _, name := range []string{namespace + "." + s, s} {
			if name != s && (namespace == "" || strings.Contains(s, ".")) {
				continue
			}
			if in.defined[name] {
				return s, nil
			}
			if o, ok := in.others[name]; ok {
				// It is placed in another namespace than it was in, perhaps.
				dot := strings.LastIndexByte(name, '.')
				o["name"], o["namespace"] = name[dot+1:], name[:max(dot, 0)]
				return in.expand(map[string]any(o), "", depth)
			}
		}
		return s, nil
	case map[string]any:
		if !isNamed(s) {
			break
		}
		name := ""
		name, namespace = fullName(s, namespace)
		if _, ok := in.others[name]; ok && in.defined[name] {
			return name, nil // inside the definition of another, but used before
		}
		in.defined[name] = true
	}
	return inside(v, namespace, depth, in.expand)
}

// inside replaces the types inside a type by what fn returns for them.
func inside(v any, namespace string, depth int, fn func(any, string, int) (any, error)) (any, error) {
	if depth > maxSchemaDepth {
		return nil, fmt.Errorf("types nest more than %d deep", maxSchemaDepth)
	}
	var err error
	replace := func(o map[string]any, key string) {
		if inner, ok := o[key]; ok && err == nil {
			o[key], err = fn(inner, namespace, depth+1)
		}
	}
	switch v := v.(type) {
	case []any:
		for i := range v {
			if v[i], err = fn(v[i], namespace, depth+1); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		switch typ, _ := v["type"].(string); typ {
		case "array":
			replace(v, "items")
		case "map":
			replace(v, "values")
		case "record", "error":
			fields, _ := v["fields"].([]any)
			for _, f := range fields {
				if f, ok := f.(map[string]any); ok {
					replace(f, "type")
				}
			}
		case "enum", "fixed":
		default:
			replace(v, "type")
		}
	}
	return v, err
}

// isNamed says whether an object defines a type with a name.
func isNamed(o object) bool {
	switch typ, _ := o["type"].(string); typ {
	case "record", "error", "enum", "fixed":
		_, ok := o["name"].(string)
		return ok
	}
	return false
}

// fullName returns the full name of a type that is defined in a namespace, and
// the namespace inside it.
func fullName(o object, namespace string) (name, inner string) {
	name, _ = o["name"].(string)
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name, name[:i]
	}
	if given, ok := o["namespace"].(string); ok {
		namespace = given
	}
	if namespace == "" {
		return name, ""
	}
	return namespace + "." + name, namespace
}
