package avro

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// maxDatumDepth bounds how deep a datum of a recursive type may nest.
const maxDatumDepth = 1000

// maxBlockCount bounds the count of one array or map block, as goavro's
// MaxBlockCount does.
const maxBlockCount = math.MaxInt32

// ErrNotFinite is matched by the error for a number that is not finite where
// one is read that has to be.
var ErrNotFinite = errors.New("a number is not finite")

// Reader reads Avro binary. The first failure is kept; from then on it reads
// zero values from no bytes, so that callers may check once at the end.
//
// A varint may be longer than it need be, and bits beyond the 64th are
// dropped: other decoders do so, and a record must not be poison here that is
// good elsewhere.
type Reader struct {
	buf []byte
	err error
}

// NewReader returns a Reader of a datum. What it reads points into that.
func NewReader(datum []byte) Reader { return Reader{buf: datum} }

// Err returns the first failure.
func (r *Reader) Err() error { return r.err }

// Len returns how many bytes are left; none after a failure.
func (r *Reader) Len() int { return len(r.buf) }

// Fail fails with err, unless it has failed before.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.buf = nil
}

// At puts the name of a field before what went wrong in it.
func (r *Reader) At(field string) { r.err = fmt.Errorf("%s: %w", field, r.err) }

// Finish fails if anything is left, and returns the first failure.
func (r *Reader) Finish() error {
	if len(r.buf) > 0 {
		r.fail("%d bytes are left over", len(r.buf))
	}
	return r.err
}

func (r *Reader) fail(format string, args ...any) { r.Fail(fmt.Errorf(format, args...)) }

func (r *Reader) short() { r.Fail(errShort) }

var errShort = errors.New("the record ends too early")

// Long reads a variable-length zig-zag integer.
func (r *Reader) Long() int64 {
	if len(r.buf) > 0 && r.buf[0] < 0x80 {
		u := r.buf[0]
		r.buf = r.buf[1:]
		return int64(u>>1) ^ -int64(u&1)
	}
	return r.longSlow()
}

func (r *Reader) longSlow() int64 {
	var u uint64
	var shift uint
	for i, b := range r.buf {
		u |= uint64(b&0x7f) << shift
		if b < 0x80 {
			r.buf = r.buf[i+1:]
			return int64(u>>1) ^ -int64(u&1)
		}
		shift += 7
	}
	r.short()
	return 0
}

// Int reads an Avro int, which keeps the low 32 bits of a longer number.
func (r *Reader) Int() int32 { return int32(r.Long()) }

// Boolean reads a boolean.
func (r *Reader) Boolean() bool {
	if len(r.buf) == 0 {
		r.short()
		return false
	}
	b := r.buf[0]
	if b > 1 {
		r.fail("byte %#x is no boolean", b)
		return false
	}
	r.buf = r.buf[1:]
	return b == 1
}

// Float reads a float.
func (r *Reader) Float() float32 {
	if len(r.buf) < 4 {
		r.short()
		return 0
	}
	x := math.Float32frombits(binary.LittleEndian.Uint32(r.buf))
	r.buf = r.buf[4:]
	return x
}

// Double reads a double.
func (r *Reader) Double() float64 {
	if len(r.buf) < 8 {
		r.short()
		return 0
	}
	x := math.Float64frombits(binary.LittleEndian.Uint64(r.buf))
	r.buf = r.buf[8:]
	return x
}

// Bytes reads a string or bytes; the result points into the input and cannot
// be appended to in place.
func (r *Reader) Bytes() []byte {
	if len(r.buf) > 0 {
		// Nearly all lengths are in one byte.
		if u := r.buf[0]; u&0x81 == 0 && int(u>>1) < len(r.buf) {
			n := 1 + int(u>>1)
			b := r.buf[1:n:n]
			r.buf = r.buf[n:]
			return b
		}
	}
	n := r.Long()
	if n < 0 {
		r.fail("length %d", n)
		return nil
	}
	return r.take(n)
}

func (r *Reader) take(n int64) []byte {
	if n > int64(len(r.buf)) {
		r.short()
		return nil
	}
	b := r.buf[:n:n]
	r.buf = r.buf[n:]
	return b
}

// Block reads how many items follow in an array or map; 0 ends it. The size in
// bytes that goes with a negative count is not needed.
func (r *Reader) Block() int64 {
	n := r.Long()
	if n < 0 {
		if n == math.MinInt64 {
			r.fail("block of %d items", n)
			return 0
		}
		n = -n
		r.Long()
	}
	if n > maxBlockCount {
		r.fail("block of %d items", n)
		return 0
	}
	if r.err != nil {
		return 0
	}
	return n
}

// index reads the position of an enum's symbol or a union's branch.
func (r *Reader) index(n int, of Kind) int {
	if len(r.buf) > 0 {
		// Nearly all are in one byte, and not negative.
		if u := r.buf[0]; u&0x81 == 0 && int(u>>1) < n {
			r.buf = r.buf[1:]
			return int(u >> 1)
		}
	}
	i := r.Long()
	if i < 0 || i >= int64(n) {
		r.fail("%s position %d of %d", of, i, n)
		return 0
	}
	return int(i)
}

// Skip reads over a value of a field that we do not have, in as many steps as
// it has bytes, to a small factor. A key that a map holds twice, at which some
// decoders stop, does no harm here.
func (r *Reader) Skip(t *Type) { r.skip(t, 0) }

func (r *Reader) skip(t *Type, depth int) {
	if r.err != nil || t.empty {
		return
	}
	if depth > maxDatumDepth {
		r.fail("values nest more than %d deep", maxDatumDepth)
		return
	}
	switch t.Kind {
	case Boolean:
		r.Boolean()
	case Int, Long:
		r.Long()
	case Float:
		r.take(4)
	case Double:
		r.take(8)
	case Bytes, String:
		r.Bytes()
	case Fixed:
		r.take(int64(t.Size))
	case Enum:
		r.index(len(t.Symbols), Enum)
	case Union:
		r.skip(t.Branches[r.index(len(t.Branches), Union)], depth+1)
	case Record:
		for _, f := range t.skips {
			if r.skip(f, depth+1); r.err != nil {
				return
			}
		}
	case Array, Map:
		for n := r.Block(); n != 0; n = r.Block() {
			if t.Kind == Array && t.Items.empty {
				continue // the count is not bounded by the input's length
			}
			for ; n > 0 && r.err == nil; n-- {
				if t.Kind == Map {
					r.Bytes()
				}
				r.skip(t.Items, depth+1)
			}
		}
	default:
		r.fail("unreadable type")
	}
}

// Branch returns the node of the value that follows: n itself or, for a
// union, the branch that the input names.
func (r *Reader) Branch(n *Node) *Node {
	if n.Kind == Union {
		n = n.Branches[r.index(len(n.Branches), Union)]
	}
	return n
}

// Unreadable fails because the value of a node is not what is read here.
func (r *Reader) Unreadable(n *Node) {
	problem := n.problem
	if problem == "" {
		problem = fmt.Sprintf("%s where it cannot be", n.Kind)
	}
	r.fail("%s", problem)
}

// Number reads any of the numeric types; ok is false for null. A number that
// is not finite is refused.
func (r *Reader) Number(n *Node) (x float64, ok bool) {
	n = r.Branch(n)
	switch n.Kind {
	case Null:
		return 0, false
	case Double:
		x = r.Double()
	case Float:
		x = float64(r.Float())
	case Long:
		return float64(n.time.of(r.Long())), true
	case Int:
		return float64(n.time.of(int64(r.Int()))), true
	case Decimal:
		x = r.decimal(n.Writer)
	default:
		r.Unreadable(n)
		return 0, false
	}
	if math.IsInf(x, 0) || math.IsNaN(x) {
		r.Fail(ErrNotFinite)
		return 0, false
	}
	return x, true
}

// Integer reads a long or an int; a time is in milliseconds, whatever it was
// written in.
func (r *Reader) Integer(n *Node) int64 {
	n = r.Branch(n)
	switch n.Kind {
	case Long:
		x := r.Long()
		if n.time.per != 0 {
			x = n.time.of(x)
		}
		return x
	case Int:
		return n.time.of(int64(r.Int()))
	}
	r.Unreadable(n)
	return 0
}

// Text reads a string or bytes that points into the input; ok is false for
// null.
func (r *Reader) Text(n *Node) (b []byte, ok bool) {
	n = r.Branch(n)
	switch n.Kind {
	case Null:
		return nil, false
	case String, Bytes:
		return r.Bytes(), true
	}
	r.Unreadable(n)
	return nil, false
}

// Bool reads a boolean along its node.
func (r *Reader) Bool(n *Node) bool {
	n = r.Branch(n)
	if n.Kind == Boolean {
		return r.Boolean()
	}
	r.Unreadable(n)
	return false
}

// Symbol reads an enum as the position of its symbol in our enum.
func (r *Reader) Symbol(n *Node) int {
	n = r.Branch(n)
	if n.Kind != Enum {
		r.Unreadable(n)
		return 0
	}
	i := r.index(len(n.Symbols), Enum)
	if r.err != nil {
		return 0
	}
	if n.Symbols[i] < 0 {
		r.fail("symbol %s is not known", n.Writer.Symbols[i])
		return 0
	}
	return n.Symbols[i]
}

// Record returns the node of the record that follows, nil after a failure.
func (r *Reader) Record(n *Node) *Node {
	n = r.Branch(n)
	if n.Kind != Record {
		r.Unreadable(n)
	}
	if r.err != nil {
		return nil
	}
	return n
}

// Array returns the node of the items of the array that follows, nil after a
// failure, when there is no block to read either.
func (r *Reader) Array(n *Node) *Node {
	n = r.Branch(n)
	if n.Kind != Array {
		r.Unreadable(n)
		return nil
	}
	return n.Items
}
