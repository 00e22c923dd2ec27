package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/churnstream/churnstream/schemas/avro"
)

const (
	attributesName = "CustomerAttributes"
	incrementsName = "CustomerIncrements"
	ourNamespace   = "churnstream"
)

// property is a property of a JSON object, its value as it was written.
type property struct {
	key   string
	value json.RawMessage
}

// object is a JSON object whose properties keep their order, so that a schema
// taken from a file reads as it was written.
type object []property

func (o *object) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return errors.New("not an object")
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		p := property{key: t.(string)} // what else Token returns for a key is an error
		if o.get(p.key) != nil {
			return fmt.Errorf("property %q occurs twice", p.key)
		}
		if err := d.Decode(&p.value); err != nil {
			return err
		}
		*o = append(*o, p)
	}
	_, err := d.Token()
	return err
}

func (o object) MarshalJSON() ([]byte, error) {
	buf := []byte{'{'}
	for i, p := range o {
		if i > 0 {
			buf = append(buf, ',')
		}
		key, err := json.Marshal(p.key)
		if err != nil {
			return nil, err
		}
		buf = append(append(buf, key...), ':')
		buf = append(buf, p.value...)
	}
	return append(buf, '}'), nil
}

func (o object) get(key string) json.RawMessage {
	for i := range o {
		if o[i].key == key {
			return o[i].value
		}
	}
	return nil
}

func (o object) text(key string) string {
	var s string
	if v := o.get(key); v != nil {
		_ = json.Unmarshal(v, &s) // a property of another type is as good as none
	}
	return s
}

// set gives a property a value in its place, or at the end.
func (o *object) set(key string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	for i := range *o {
		if (*o)[i].key == key {
			(*o)[i].value = text
			return nil
		}
	}
	*o = append(*o, property{key, text})
	return nil
}

// attributesRecord returns the record of the attributes in what was given to
// Parse, under our name for it and with a default for every field that can
// have one, so that attributes can be added later.
func attributesRecord(avsc []byte) (json.RawMessage, error) {
	if !json.Valid(avsc) {
		var v any
		return nil, fmt.Errorf("not JSON: %w", json.Unmarshal(avsc, &v))
	}
	// Parsed whole first: an error in the file as given is then named as such.
	if _, err := avro.Parse(avsc); err != nil {
		return nil, err
	}
	var record object
	if err := json.Unmarshal(avsc, &record); err != nil {
		return nil, fmt.Errorf("the schema must be that of a record: %w", err)
	}
	notRecord := errors.New("the schema must be that of a record of attributes, or of an event with such a record in its field changes")
	if record.text("type") != "record" {
		return nil, notRecord
	}
	namespace := record.text("namespace")
	if changes, err := fieldType(record, "changes"); err != nil {
		return nil, err
	} else if changes != nil {
		record = nil
		if err := json.Unmarshal(changes, &record); err != nil {
			return nil, fmt.Errorf("field changes: its type must be the record of the attributes: %w", err)
		}
	}
	if record.text("type") != "record" {
		return nil, notRecord
	}
	if own := record.get("namespace"); own == nil && namespace != "" && namespace != ourNamespace {
		if err := record.set("namespace", namespace); err != nil {
			return nil, err
		}
	}
	if record.text("name") != attributesName {
		if err := record.set("name", attributesName); err != nil {
			return nil, err
		}
	}
	var fields []object
	if err := json.Unmarshal(record.get("fields"), &fields); err != nil {
		return nil, fmt.Errorf("fields: %w", err)
	}
	for i := range fields {
		var branches []json.RawMessage
		if fields[i].get("default") != nil || json.Unmarshal(fields[i].get("type"), &branches) != nil {
			continue
		}
		if len(branches) > 0 && string(branches[0]) == `"null"` {
			if err := fields[i].set("default", nil); err != nil {
				return nil, err
			}
		}
	}
	if err := record.set("fields", fields); err != nil {
		return nil, err
	}
	return compact(record)
}

// fieldType returns the type of a record's field as it is written, nil if it
// has no such field.
func fieldType(record object, name string) (json.RawMessage, error) {
	var fields []object
	if err := json.Unmarshal(record.get("fields"), &fields); err != nil {
		return nil, fmt.Errorf("fields: %w", err)
	}
	for _, f := range fields {
		// An attribute may be called so too; only an event's is a record.
		if f.text("name") == name && firstByte(f.get("type")) == '{' {
			return f.get("type"), nil
		}
	}
	return nil, nil
}

// derive sets the schemas of all messages: the shipped ones with the record of
// the attributes, and that of their increments, replaced.
func (s *Set) derive(attributes json.RawMessage) error {
	increments, err := s.incrementsRecord()
	if err != nil {
		return err
	}
	for k, shipped := range [messageKinds][]byte{
		customerEventSchema, churnScoreSchema, churnOutcomeSchema, churnExamplesSchema, modelVersionSchema, deadLetterSchema, progressSchema, labelerProgressSchema,
	} {
		text, err := substitute(shipped, attributes, increments)
		if err != nil {
			return fmt.Errorf("deriving the schema of %s: %w", messageTopics[k], err)
		}
		m := message{text: string(text)}
		if m.typ, err = avro.Parse(text); err != nil {
			return fmt.Errorf("the schema of %s, with these attributes: %w", messageTopics[k], err)
		}
		s.messages[k] = m
	}
	return nil
}

// incrementsRecord returns the record of the numeric attributes' increments.
func (s *Set) incrementsRecord() (json.RawMessage, error) {
	fields := []object{}
	for _, i := range s.numeric {
		var f object
		for _, p := range []struct {
			key   string
			value any
		}{
			{"name", s.spec.Feature(i).Name},
			{"type", []string{"null", s.columns[i].typ.Kind.String()}},
			{"default", nil},
		} {
			if err := f.set(p.key, p.value); err != nil {
				return nil, err
			}
		}
		fields = append(fields, f)
	}
	// Name and words are the shipped ones.
	record, err := findRecord(customerEventSchema, incrementsName)
	if err != nil {
		return nil, err
	}
	var o object
	if err := json.Unmarshal(record, &o); err != nil {
		return nil, err
	}
	if err := o.set("fields", fields); err != nil {
		return nil, err
	}
	return compact(o)
}

// substitute returns a shipped schema, compacted, with the two records in
// place of its own.
func substitute(shipped []byte, attributes, increments json.RawMessage) ([]byte, error) {
	text, err := compact(json.RawMessage(shipped))
	if err != nil {
		return nil, err
	}
	for _, r := range []struct {
		name string
		text json.RawMessage
	}{{attributesName, attributes}, {incrementsName, increments}} {
		old, err := findRecord(text, r.name)
		if err != nil {
			return nil, err
		}
		if old != nil {
			text = bytes.Replace(text, old, r.text, 1)
		}
	}
	return text, nil
}

// findRecord returns the definition of the record with the given name inside
// a schema, as it is written there, or nil.
func findRecord(schema json.RawMessage, name string) (json.RawMessage, error) {
	switch firstByte(schema) {
	case '{':
		var o object
		if err := json.Unmarshal(schema, &o); err != nil {
			return nil, err
		}
		if o.text("type") == "record" && o.text("name") == name {
			return bytes.TrimSpace(schema), nil
		}
		for _, p := range o {
			if found, err := findRecord(p.value, name); found != nil || err != nil {
				return found, err
			}
		}
	case '[':
		var a []json.RawMessage
		if err := json.Unmarshal(schema, &a); err != nil {
			return nil, err
		}
		for _, v := range a {
			if found, err := findRecord(v, name); found != nil || err != nil {
				return found, err
			}
		}
	}
	return nil, nil
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

func compact(v any) (json.RawMessage, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if err := json.Compact(&buf, text); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
