package schemas

import (
	"encoding/binary"
	"fmt"
	"math"
)

// maxDatumDepth bounds how deep a datum of a recursive type may nest.
const maxDatumDepth = 1000

// maxBlockCount bounds the count of one array or map block, as goavro's
// MaxBlockCount does.
const maxBlockCount = math.MaxInt32

// input reads Avro binary. The first failure is kept; from then on it reads
// zero values from no bytes, so that callers may check once at the end.
//
// A varint may be longer than it need be, and bits beyond the 64th are
// dropped: other decoders do so, and a record must not be poison here that is
// good elsewhere.
type input struct {
	buf []byte
	err *PoisonError
}

func (in *input) fail(reason Reason, format string, args ...any) {
	if in.err == nil {
		in.err = poison(reason, format, args...)
	}
	in.buf = nil
}

func (in *input) short() { in.fail(ReasonUndecodable, "the record ends too early") }

// long reads a variable-length zig-zag integer.
func (in *input) long() int64 {
	if len(in.buf) > 0 && in.buf[0] < 0x80 {
		u := in.buf[0]
		in.buf = in.buf[1:]
		return int64(u>>1) ^ -int64(u&1)
	}
	return in.longSlow()
}

func (in *input) longSlow() int64 {
	var u uint64
	var shift uint
	for i, b := range in.buf {
		u |= uint64(b&0x7f) << shift
		if b < 0x80 {
			in.buf = in.buf[i+1:]
			return int64(u>>1) ^ -int64(u&1)
		}
		shift += 7
	}
	in.short()
	return 0
}

// int reads an Avro int, which keeps the low 32 bits of a longer number.
func (in *input) int() int32 { return int32(in.long()) }

func (in *input) boolean() bool {
	if len(in.buf) == 0 {
		in.short()
		return false
	}
	b := in.buf[0]
	if b > 1 {
		in.fail(ReasonUndecodable, "byte %#x is no boolean", b)
		return false
	}
	in.buf = in.buf[1:]
	return b == 1
}

func (in *input) float32() float32 {
	if len(in.buf) < 4 {
		in.short()
		return 0
	}
	x := math.Float32frombits(binary.LittleEndian.Uint32(in.buf))
	in.buf = in.buf[4:]
	return x
}

func (in *input) float64() float64 {
	if len(in.buf) < 8 {
		in.short()
		return 0
	}
	x := math.Float64frombits(binary.LittleEndian.Uint64(in.buf))
	in.buf = in.buf[8:]
	return x
}

// bytes reads a string or bytes; the result points into the input and cannot
// be appended to in place.
func (in *input) bytes() []byte {
	n := in.long()
	if n < 0 {
		in.fail(ReasonUndecodable, "length %d", n)
		return nil
	}
	return in.take(n)
}

func (in *input) take(n int64) []byte {
	if n > int64(len(in.buf)) {
		in.short()
		return nil
	}
	b := in.buf[:n:n]
	in.buf = in.buf[n:]
	return b
}

// block reads how many items follow in an array or map; 0 ends it. The size in
// bytes that goes with a negative count is not needed.
func (in *input) block() int64 {
	n := in.long()
	if n < 0 {
		if n == math.MinInt64 {
			in.fail(ReasonUndecodable, "block of %d items", n)
			return 0
		}
		n = -n
		in.long()
	}
	if n > maxBlockCount {
		in.fail(ReasonUndecodable, "block of %d items", n)
		return 0
	}
	if in.err != nil {
		return 0
	}
	return n
}

// index reads the position of an enum's symbol or a union's branch.
func (in *input) index(n int, of kind) int {
	i := in.long()
	if i < 0 || i >= int64(n) {
		in.fail(ReasonUndecodable, "%s position %d of %d", of, i, n)
		return 0
	}
	return int(i)
}

// skip reads over a value of a field that we do not have, in as many steps as
// it has bytes, to a small factor. A key that a map holds twice, at which some
// decoders stop, does no harm here.
func (in *input) skip(t *avroType, depth int) {
	if in.err != nil || t.empty {
		return
	}
	if depth > maxDatumDepth {
		in.fail(ReasonUndecodable, "values nest more than %d deep", maxDatumDepth)
		return
	}
	switch t.kind {
	case kindBoolean:
		in.boolean()
	case kindInt, kindLong:
		in.long()
	case kindFloat:
		in.take(4)
	case kindDouble:
		in.take(8)
	case kindBytes, kindString:
		in.bytes()
	case kindFixed:
		in.take(int64(t.size))
	case kindEnum:
		in.index(len(t.symbols), kindEnum)
	case kindUnion:
		in.skip(t.branches[in.index(len(t.branches), kindUnion)], depth+1)
	case kindRecord:
		for _, f := range t.skips {
			if in.skip(f, depth+1); in.err != nil {
				return
			}
		}
	case kindArray, kindMap:
		for n := in.block(); n != 0; n = in.block() {
			if t.kind == kindArray && t.items.empty {
				continue // the count is not bounded by the input's length
			}
			for ; n > 0 && in.err == nil; n-- {
				if t.kind == kindMap {
					in.bytes()
				}
				in.skip(t.items, depth+1)
			}
		}
	default:
		in.fail(ReasonUndecodable, "unreadable type")
	}
}

// resolved returns the node of the value that follows: n itself or, for a
// union, the branch that the input names.
func (in *input) resolved(n *node) *node {
	if n.kind == kindUnion {
		n = n.branches[in.index(len(n.branches), kindUnion)]
	}
	return n
}

func (in *input) unreadable(n *node) {
	problem := n.problem
	if problem == "" {
		problem = fmt.Sprintf("%s where it cannot be", n.kind)
	}
	in.fail(ReasonUndecodable, "%s", problem)
}

// number reads any of the numeric types; ok is false for null. A number that
// is not finite is refused.
func (in *input) number(n *node) (x float64, ok bool) {
	n = in.resolved(n)
	switch n.kind {
	case kindNull:
		return 0, false
	case kindDouble:
		x = in.float64()
	case kindFloat:
		x = float64(in.float32())
	case kindLong:
		return float64(in.long()), true
	case kindInt:
		return float64(in.int()), true
	default:
		in.unreadable(n)
		return 0, false
	}
	if math.IsInf(x, 0) || math.IsNaN(x) {
		in.fail(ReasonInvalidValue, "a number is not finite")
		return 0, false
	}
	return x, true
}

// integer reads a long or an int.
func (in *input) integer(n *node) int64 {
	n = in.resolved(n)
	switch n.kind {
	case kindLong:
		return in.long()
	case kindInt:
		return int64(in.int())
	}
	in.unreadable(n)
	return 0
}

// text reads a string or bytes that points into the input; ok is false for
// null.
func (in *input) text(n *node) (b []byte, ok bool) {
	n = in.resolved(n)
	switch n.kind {
	case kindNull:
		return nil, false
	case kindString, kindBytes:
		return in.bytes(), true
	}
	in.unreadable(n)
	return nil, false
}

func (in *input) truth(n *node) bool {
	n = in.resolved(n)
	if n.kind == kindBoolean {
		return in.boolean()
	}
	in.unreadable(n)
	return false
}

// symbol reads an enum as the position of its symbol in our enum.
func (in *input) symbol(n *node) int {
	n = in.resolved(n)
	if n.kind != kindEnum {
		in.unreadable(n)
		return 0
	}
	i := in.index(len(n.symbols), kindEnum)
	if in.err != nil {
		return 0
	}
	if n.symbols[i] < 0 {
		in.fail(ReasonUndecodable, "symbol %s is not known", n.writer.symbols[i])
		return 0
	}
	return n.symbols[i]
}
