package avrojson

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxJSON bounds the JSON of a value, in bytes. Without it a few bytes under a
// hostile schema could become any number: an array's items need take none, and
// a single one chooses a symbol of any length.
const maxJSON = 64 << 20

var (
	errTooLarge = fmt.Errorf("it is larger than %d MiB as JSON", maxJSON>>20)
	errShort    = errors.New("the record ends too early")
)

// decoding is a datum that is being written as JSON. The first failure is
// kept; from then on it reads zero values from no bytes. Every value adds to
// the JSON, so that its bound is one of the time, too.
type decoding struct {
	in  []byte // what is left of the datum
	out []byte
	err error
}

func (d *decoding) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.in = nil
}

// value reads a value of type t.
func (d *decoding) value(t *avroType) {
	if len(d.out) > maxJSON {
		d.fail(errTooLarge)
	}
	if d.err != nil {
		return
	}
	switch t.kind {
	case "null":
		d.out = append(d.out, "null"...)
	case "boolean":
		switch b := d.take(1); {
		case b == nil:
		case b[0] > 1:
			d.fail(fmt.Errorf("byte %#x is no boolean", b[0]))
		default:
			d.out = strconv.AppendBool(d.out, b[0] == 1)
		}
	case "int":
		d.out = appendInteger(d.out, t, int64(int32(d.long())))
	case "long":
		d.out = appendInteger(d.out, t, d.long())
	case "float":
		if b := d.take(4); b != nil {
			d.out = appendNumber(d.out, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), 32)
		}
	case "double":
		if b := d.take(8); b != nil {
			d.out = appendNumber(d.out, math.Float64frombits(binary.LittleEndian.Uint64(b)), 64)
		}
	case "string":
		d.text(d.take(d.long()), utf8.DecodeRune)
	case "bytes":
		d.text(d.take(d.long()), latin)
	case "fixed":
		d.text(d.take(int64(t.size)), latin)
	case "enum":
		if i := d.index(len(t.symbols), "symbol"); d.err == nil {
			d.out = append(d.out, t.symbols[i]...)
		}
	case "union":
		if i := d.index(len(t.choices), "branch"); d.err == nil {
			d.value(t.choices[i])
		}
	case "array":
		d.array(t)
	case "map":
		d.object(t)
	case "record":
		d.out = append(d.out, '{')
		for i := range t.fields {
			if d.field(t, i); d.err != nil {
				return
			}
		}
		d.out = append(d.out, '}')
	}
}

// field reads field i of a record.
func (d *decoding) field(t *avroType, i int) {
	f := &t.fields[i]
	if i > 0 {
		d.out = append(d.out, ',')
	}
	d.out = append(d.out, f.label...)
	if d.value(f.typ); d.err != nil {
		d.err = fmt.Errorf("%.128s: %w", f.name, d.err)
	}
}

func (d *decoding) array(t *avroType) {
	d.out = append(d.out, '[')
	first := true
	for n := d.block(); n != 0; n = d.block() {
		for ; n > 0 && d.err == nil; n-- {
			if !first {
				d.out = append(d.out, ',')
			}
			first = false
			d.value(t.items)
		}
	}
	d.out = append(d.out, ']')
}

// object reads a map. Its members come in the order of their keys, for that on
// the wire means nothing.
func (d *decoding) object(t *avroType) {
	type member struct {
		key      []byte
		from, to int // in d.out
	}
	var members []member
	start := len(d.out)
	for n := d.block(); n != 0; n = d.block() {
		for ; n > 0 && d.err == nil; n-- {
			m := member{from: len(d.out), key: d.take(d.long())}
			d.text(m.key, utf8.DecodeRune)
			d.out = append(d.out, ':')
			d.value(t.items)
			m.to = len(d.out)
			members = append(members, m)
		}
	}
	if d.err != nil {
		return
	}
	slices.SortFunc(members, func(a, b member) int { return bytes.Compare(a.key, b.key) })
	sorted := []byte{'{'}
	for i, m := range members {
		if i > 0 {
			if bytes.Equal(m.key, members[i-1].key) {
				d.fail(errors.New("a key occurs twice in a map"))
			}
			sorted = append(sorted, ',')
		}
		sorted = append(sorted, d.out[m.from:m.to]...)
	}
	d.out = append(append(d.out[:start], sorted...), '}')
}

// text writes bytes as a string of the runes that next finds in them.
func (d *decoding) text(b []byte, next func([]byte) (rune, int)) {
	d.out = append(d.out, '"')
	for len(b) > 0 && d.err == nil {
		r, n := next(b)
		d.out = appendRune(d.out, r)
		if b = b[n:]; len(d.out) > maxJSON {
			d.fail(errTooLarge)
		}
	}
	d.out = append(d.out, '"')
}

// latin takes a byte for a rune, as Avro's own JSON has bytes.
func latin(b []byte) (rune, int) { return rune(b[0]), 1 }

// long reads a variable-length zig-zag integer. Bits beyond the 64th are
// dropped.
func (d *decoding) long() int64 {
	var u uint64
	for i, b := range d.in {
		u |= uint64(b&0x7f) << (7 * uint(i))
		if b < 0x80 {
			d.in = d.in[i+1:]
			return int64(u>>1) ^ -int64(u&1)
		}
	}
	d.fail(errShort)
	return 0
}

// take reads n bytes; it returns nil after a failure.
func (d *decoding) take(n int64) []byte {
	switch {
	case n < 0:
		d.fail(fmt.Errorf("length %d", n))
	case n > int64(len(d.in)):
		d.fail(errShort)
	}
	if d.err != nil {
		return nil
	}
	b := d.in[:n]
	d.in = d.in[n:]
	return b
}

// block reads how many items follow in an array or map; 0 ends it. The size in
// bytes that goes with a negative count is not needed.
func (d *decoding) block() int64 {
	n := d.long()
	if n < 0 {
		d.long()
		if n = -n; n < 0 {
			d.fail(fmt.Errorf("block of %d items", n))
		}
	}
	if d.err != nil {
		return 0
	}
	return n
}

func (d *decoding) index(n int, of string) int64 {
	i := d.long()
	if i < 0 || i >= int64(n) {
		d.fail(fmt.Errorf("%s %d of %d", of, i, n))
	}
	return i
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
