package avrojson

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/churnstream/churnstream/schemas/avro"
)

// maxJSON bounds the JSON of a value, in bytes. Without it a few bytes under a
// hostile schema could become any number: an array's items need take none, and
// a single one chooses a symbol of any length.
const maxJSON = 64 << 20

var errTooLarge = fmt.Errorf("it is larger than %d MiB as JSON, or %w", maxJSON>>20, avro.ErrTooManyValues)

// writer writes decoded values as JSON. It stops at the first failure.
type writer struct {
	generic *avro.Generic
	out     []byte
	err     error
	// partial leaves the fields of the outermost record out for which there is
	// no room.
	partial bool
}

// value writes a value of type t.
func (w *writer) value(t *avro.Type, v any) {
	if len(w.out) > maxJSON {
		w.err = errTooLarge
	}
	if w.err != nil {
		return
	}
	switch v := v.(type) {
	case bool:
		w.out = strconv.AppendBool(w.out, v)
	case int32:
		w.out = appendInteger(w.out, t, int64(v))
	case int64:
		w.out = appendInteger(w.out, t, v)
	case float32:
		w.out = appendNumber(w.out, float64(v), 32)
	case float64:
		w.out = appendNumber(w.out, v, 64)
	case string:
		if t.Kind == avro.Enum {
			v = w.generic.Symbol(t, v)
		}
		w.text([]byte(v), utf8.DecodeRune)
	case []byte:
		if t.Logical == "decimal" && len(v) > 0 && len(v) <= maxDecimal {
			w.out = appendDecimal(w.out, v, t.Scale)
			return
		}
		w.text(v, latin)
	case []any:
		w.out = append(w.out, '[')
		for i := range v {
			if i > 0 {
				w.out = append(w.out, ',')
			}
			if w.value(t.Items, v[i]); w.err != nil {
				return
			}
		}
		w.out = append(w.out, ']')
	default: // nil, a union's value, or a map[string]any
		w.composite(t, v)
	}
}

// composite writes what goavro has as a map or as nil.
func (w *writer) composite(t *avro.Type, v any) {
	switch members, _ := v.(map[string]any); t.Kind {
	case avro.Union:
		w.value(w.generic.Branch(t, v))
	case avro.Fixed: // of no bytes
		w.out = append(w.out, `""`...)
	case avro.Map: // in the order of the keys: that on the wire means nothing
		w.out = append(w.out, '{')
		for i, key := range slices.Sorted(maps.Keys(members)) {
			if w.member(i, key, t.Items, members[key]); w.err != nil {
				return
			}
		}
		w.out = append(w.out, '}')
	case avro.Record:
		w.out = append(w.out, '{')
		partial := w.partial
		w.partial = false
		for i := range t.Fields {
			f := &t.Fields[i]
			end := len(w.out)
			if w.member(i, f.Name, f.Type, w.generic.Field(v, i)); w.err != nil && partial && i > 0 {
				w.out, w.err = w.out[:end], nil
				break
			} else if w.err != nil {
				return
			}
		}
		w.out = append(w.out, '}')
	default:
		w.out = append(w.out, "null"...)
	}
}

func (w *writer) member(i int, name string, t *avro.Type, v any) {
	if i > 0 {
		w.out = append(w.out, ',')
	}
	w.text([]byte(name), utf8.DecodeRune)
	w.out = append(w.out, ':')
	w.value(t, v)
}

// text writes bytes as a string of the runes that next finds in them.
func (w *writer) text(b []byte, next func([]byte) (rune, int)) {
	w.out = append(w.out, '"')
	for len(b) > 0 {
		r, n := next(b)
		w.out = appendRune(w.out, r)
		if b = b[n:]; len(w.out) > maxJSON {
			w.err = errTooLarge
			return
		}
	}
	w.out = append(w.out, '"')
}

// maxDecimal bounds the bytes of a decimal that is shown as a number.
const maxDecimal = 128

// appendDecimal appends an unscaled number in two's complement over ten to the
// power of scale, exactly.
func appendDecimal(dst, unscaled []byte, scale int) []byte {
	n := new(big.Int).SetBytes(unscaled)
	if unscaled[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(unscaled))))
	}
	digits := n.Text(10)
	if digits[0] == '-' {
		dst, digits = append(dst, '-'), digits[1:]
	}
	if missing := scale + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	point := len(digits) - scale
	dst = append(dst, digits[:point]...)
	if scale > 0 {
		dst = append(append(dst, '.'), digits[point:]...)
	}
	return dst
}

// latin takes a byte for a rune, as Avro's own JSON has bytes.
func latin(b []byte) (rune, int) { return rune(b[0]), 1 }

func appendInteger(dst []byte, t *avro.Type, n int64) []byte {
	var at time.Time
	switch t.Logical {
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
	dst = append(dst, '"')
	for _, r := range s {
		dst = appendRune(dst, r)
	}
	return append(dst, '"')
}

func appendRune(dst []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r == '\n':
		return append(dst, '\\', 'n')
	case r == '\t':
		return append(dst, '\\', 't')
	case r < ' ' || r >= 0x7f && r < 0xa0:
		return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
	}
	return utf8.AppendRune(dst, r) // utf8.RuneError for what is not UTF-8
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
