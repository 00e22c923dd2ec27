package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
)

// FieldError is an attribute that is not as the schema has it.
type FieldError struct {
	// Field is the attribute's name; "" where the error is about the object
	// as a whole.
	Field string
	// Problem says what is wrong, in words that follow the name.
	Problem string
}

// Error returns the field and its problem.
func (e *FieldError) Error() string {
	if e.Field == "" {
		return e.Problem
	}
	return e.Field + ": " + e.Problem
}

// Text returns the value of a feature as people read it: the level, or the
// shortest decimal that stands for the number; "" for a missing value. The
// levels are those that go with the vector.
func (s *Set) Text(feature int, x float64, levels scoring.Levels) string {
	if scoring.IsMissing(x) {
		return ""
	}
	if s.columns[feature].categorical {
		return s.vocabulary.Text(feature, x, levels)
	}
	return string(appendNumber(nil, x))
}

// appendNumber appends the shortest decimal that stands for x, with an
// exponent only for the very small and the very large.
func appendNumber(dst []byte, x float64) []byte {
	if x == 0 {
		return append(dst, '0') // and not −0
	}
	format := byte('f')
	if a := math.Abs(x); a < 1e-6 || a >= 1e21 {
		format = 'e'
	}
	return strconv.AppendFloat(dst, x, format, -1, 64)
}

// ParseText reads a feature's value from text, the reverse of Text. White space
// around it does not count, and nothing else is a missing value. A level that is
// new is added to the vocabulary. Errors are *FieldError.
func (s *Set) ParseText(feature int, text string) (float64, error) {
	x, problem := s.parseText(feature, text, nil)
	if problem != "" {
		return 0, &FieldError{s.spec.Feature(feature).Name, problem}
	}
	return x, nil
}

// parseText returns what is wrong with text, or "". A level that the vocabulary
// does not have is added to others; to the vocabulary if others is nil.
func (s *Set) parseText(feature int, text string, others *scoring.Levels) (x float64, problem string) {
	if text = strings.TrimSpace(text); text == "" {
		return scoring.Missing, ""
	}
	if s.columns[feature].categorical {
		return s.parseLevel(feature, text, others)
	}
	return s.columns[feature].parseNumber(text)
}

// parseNumber reads a number of a numeric column.
func (c *column) parseNumber(text string) (x float64, problem string) {
	for i := 0; i < len(text); i++ {
		// ParseFloat takes more: names of infinities, hexadecimal, underscores.
		switch b := text[i]; {
		case '0' <= b && b <= '9', b == '.', b == '-', b == '+', b == 'e', b == 'E':
		default:
			return 0, "must be a number"
		}
	}
	x, err := strconv.ParseFloat(text, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, "is too large a number"
	case err != nil:
		return 0, "must be a number"
	}
	if least, most, whole := c.bounds(); x < least || x > most {
		return 0, fmt.Sprintf("must be from %s to %s", appendNumber(nil, least), appendNumber(nil, most))
	} else if whole && x != math.Trunc(x) {
		return 0, "must be a whole number"
	}
	return x, ""
}

// anyNumber is a column of doubles.
var anyNumber = &column{typ: &avro.Type{Kind: avro.Double}}

// bounds returns what the numbers of a numeric column may be: those of its type
// in Avro, within the bound of all numbers.
func (c *column) bounds() (least, most float64, whole bool) {
	switch c.typ.Kind {
	case avro.Int:
		return math.MinInt32, math.MaxInt32, true
	case avro.Long:
		// The greatest float64 below 2⁶³. Beyond 2⁵³ not every whole number is
		// a float64; the nearest is taken.
		return math.MinInt64, 1<<63 - 1<<10, true
	case avro.Float:
		return -math.MaxFloat32, math.MaxFloat32, false
	}
	return -scoring.MaxNumber, scoring.MaxNumber, false
}

func (s *Set) parseLevel(feature int, text string, others *scoring.Levels) (x float64, problem string) {
	c := &s.columns[feature]
	switch {
	case !utf8.ValidString(text):
		return 0, "is not UTF-8 text"
	case len(text) > scoring.MaxLevelBytes:
		return 0, fmt.Sprintf("must not be longer than %d bytes", scoring.MaxLevelBytes)
	case c.typ.Kind == avro.Enum:
		i := c.typ.Index(text)
		if i < 0 {
			return 0, fmt.Sprintf("must be one of %q", c.typ.Symbols)
		}
		return float64(i), ""
	case c.typ.Kind == avro.Int || c.typ.Kind == avro.Long:
		bits := 32
		if c.typ.Kind == avro.Long {
			bits = 64
		}
		n, err := strconv.ParseInt(text, 10, bits)
		if err != nil {
			return 0, "must be a whole number"
		}
		text = strconv.FormatInt(n, 10) // one spelling only: no +1, no 01
	}
	if others != nil {
		return s.vocabulary.Find(feature, []byte(text), others), ""
	}
	x, err := s.vocabulary.CodeString(feature, text)
	if err != nil {
		return 0, err.Error()
	}
	return x, ""
}

// AttributesFromJSON reads a flat JSON object of attributes. A numeric
// attribute is a number, or a string that holds one; a categorical one is a
// string, or a whole number where the schema's type is int or long. White space
// around a string does not count. null, a string of nothing else, and attributes
// that are not there are missing. Anything else is refused: unknown
// names (case matters), names that occur twice, true and false, nested values,
// numbers that are not finite or do not fit the schema's type.
//
// A level that the vocabulary does not have is added to the levels that go with
// the vector, so that nobody teaches it by asking; nil if they are not wanted.
// Errors are *FieldError.
func (s *Set) AttributesFromJSON(data []byte, levels *scoring.Levels) (scoring.Vector, error) {
	if levels == nil {
		levels = new(scoring.Levels)
	}
	notJSON := &FieldError{"", "the attributes must be one JSON object"}
	if !utf8.Valid(data) {
		return nil, &FieldError{"", "the attributes must be in UTF-8"}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, notJSON
	}
	x := scoring.NewVector(s.spec.Len())
	seen := make([]bool, s.spec.Len())
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, notJSON
		}
		name, ok := t.(string)
		if !ok {
			return nil, notJSON
		}
		i, ok := s.spec.Index(name)
		switch {
		case !ok:
			return nil, &FieldError{name, "is not an attribute of the schema"}
		case seen[i]:
			return nil, &FieldError{name, "occurs twice"}
		}
		seen[i] = true
		v, err := d.Token()
		if err != nil {
			return nil, notJSON
		}
		var problem string
		if x[i], problem = s.fromJSON(i, v, levels); problem != "" {
			return nil, &FieldError{name, problem}
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, notJSON
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, notJSON
	}
	return x, nil
}

func (s *Set) fromJSON(feature int, v json.Token, levels *scoring.Levels) (x float64, problem string) {
	c := &s.columns[feature]
	wanted := "must be a number"
	if c.categorical {
		wanted = "must be a string"
	}
	switch v := v.(type) {
	case nil:
		return scoring.Missing, ""
	case string:
		return s.parseText(feature, v, levels)
	case json.Number:
		if c.categorical && c.typ.Kind != avro.Int && c.typ.Kind != avro.Long {
			return 0, wanted + ", not a number"
		}
		return s.parseText(feature, v.String(), levels)
	case bool:
		return 0, wanted + ", not true or false"
	}
	return 0, wanted + ", not an object or array"
}

// AttributesToMap returns the attributes by name for JSON: numbers as float64,
// levels as string, nil where missing.
func (s *Set) AttributesToMap(x scoring.Vector, levels scoring.Levels) map[string]any {
	m := make(map[string]any, len(x))
	for i, v := range x {
		name := s.spec.Feature(i).Name
		switch {
		case scoring.IsMissing(v):
			m[name] = nil
		case s.columns[i].categorical:
			m[name] = s.vocabulary.Text(i, v, levels)
		default:
			m[name] = v
		}
	}
	return m
}
