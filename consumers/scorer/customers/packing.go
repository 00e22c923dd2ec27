package customers

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// packing writes what is worth keeping of a customer's latest score, which is
// all there is to know of the customer, in as few bytes as is quick to do:
//
//	customer id     length and bytes
//	source          partition as an uvarint, offset as a varint
//	occurred at     varint
//	as of           what it is later than occurred at, as a varint
//	model version   8 bytes: scoring again under another does not move it
//	probability     8 bytes
//	event id        length and bytes; or a zero and 16 bytes for a UUID
//	recent events   count and 8 bytes each
//	presence        a bit for each feature
//	values          of those present: a number in 8 bytes, a level as an uvarint
//	ages            a zero if all are 0; else a one and, for each feature
//	                present, the difference to the one before as a varint
//
// A level is one more than its number in the table, so that packed records mean
// nothing elsewhere without the table's levels.
type packing struct {
	categorical []bool
}

var errPacked = errors.New("not a packed customer")

const uuidLength = 36

func newPacking(spec *scoring.Spec) packing {
	k := packing{categorical: make([]bool, spec.Len())}
	for i := range k.categorical {
		k.categorical[i] = spec.Feature(i).Kind == scoring.Categorical
	}
	return k
}

// maxBytes bounds the length of a packed record.
func (k *packing) maxBytes() int {
	n := len(k.categorical)
	return 2*(binary.MaxVarintLen64+schemas.MaxIDBytes) + 4*binary.MaxVarintLen64 + 2*8 +
		1 + 8*scoring.RecentEvents + (n+7)/8 + n*2*binary.MaxVarintLen64 + 1
}

// append packs a score's state, as it comes from scoring or from the topic, with
// values in place of its attributes: the same with the table's numbers.
func (k *packing) append(dst []byte, s *schemas.ChurnScore, values scoring.Vector) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(len(s.CustomerID))), s.CustomerID...)
	dst = binary.AppendUvarint(dst, uint64(s.SourcePartition))
	dst = binary.AppendVarint(dst, s.SourceOffset)
	dst = binary.AppendVarint(dst, s.OccurredAt)
	dst = binary.AppendVarint(dst, s.AsOf-s.OccurredAt)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(s.ModelVersion))
	dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(s.Probability))
	dst = appendEventID(dst, s.EventID)
	recent := s.RecentEvents[:min(len(s.RecentEvents), scoring.RecentEvents)]
	dst = append(dst, byte(len(recent)))
	for _, h := range recent {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(h))
	}
	presence := len(dst)
	for range (len(k.categorical) + 7) / 8 {
		dst = append(dst, 0)
	}
	for i, x := range values {
		if scoring.IsMissing(x) {
			continue
		}
		dst[presence+i/8] |= 1 << (i % 8)
		if k.categorical[i] {
			dst = binary.AppendUvarint(dst, uint64(x+1))
		} else {
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(x))
		}
	}
	if len(s.AttributeAges) == 0 {
		return append(dst, 0)
	}
	dst = append(dst, 1)
	last := int64(0)
	for i, x := range values {
		if scoring.IsMissing(x) {
			continue
		}
		age := int64(0)
		if i < len(s.AttributeAges) {
			age = s.AttributeAges[i]
		}
		dst = binary.AppendVarint(dst, age-last)
		last = age
	}
	return dst
}

// unpack is the reverse of append: the attributes are with the table's numbers. It reuses the slices of s, sets what append
// keeps, and leaves the rest alone. Byte slices of s point into record, but a
// UUID is appended to scratch, which is returned.
func (k *packing) unpack(record []byte, s *schemas.ChurnScore, scratch []byte) ([]byte, error) {
	in := packedReader{data: record}
	s.CustomerID = in.bytes(in.length(schemas.MaxIDBytes))
	s.SourcePartition = int32(in.length(math.MaxInt32))
	s.SourceOffset = in.varint()
	s.OccurredAt = in.varint()
	s.AsOf = s.OccurredAt + in.varint()
	s.ModelVersion = int64(in.uint64())
	s.Probability = in.number()
	s.EventID, scratch = in.eventID(scratch)
	s.RecentEvents = s.RecentEvents[:0]
	for range in.length(scoring.RecentEvents) {
		s.RecentEvents = append(s.RecentEvents, int64(in.uint64()))
	}
	presence := in.bytes((len(k.categorical) + 7) / 8)
	if in.bad {
		return scratch, errPacked
	}
	s.Attributes = s.Attributes[:0]
	for i, categorical := range k.categorical {
		x := scoring.Missing
		switch {
		case presence[i/8]&(1<<(i%8)) == 0:
		case categorical:
			x = float64(in.uvarint()) - 1
			in.bad = in.bad || x < 0 || x > lastNumber
		default:
			x = in.number()
			in.bad = in.bad || !(math.Abs(x) <= scoring.MaxNumber) // also Missing, which has no presence
		}
		s.Attributes = append(s.Attributes, x)
	}
	s.AttributeAges = s.AttributeAges[:0]
	if in.length(1) == 1 {
		last := int64(0)
		for _, x := range s.Attributes {
			age := int64(0)
			if !scoring.IsMissing(x) {
				last += in.varint()
				age = last
			}
			s.AttributeAges = append(s.AttributeAges, age)
		}
	}
	if in.bad || len(in.data) > 0 || s.SourceOffset < 0 || len(s.CustomerID) == 0 {
		return scratch, errPacked
	}
	return scratch, nil
}

// levels appends, for each feature in turn, one more than the number of the
// level that a record has of it, 0 for none and for a number; nothing for a
// record that is nil.
func (k *packing) levels(r Record, dst []uint32) []uint32 {
	if r == nil {
		return dst
	}
	in := r.afterID()
	in.uvarint()    // source partition
	in.uvarint()    // source offset
	in.uvarint()    // occurred at
	in.uvarint()    // as of
	in.bytes(2 * 8) // model version, probability
	switch n := in.length(schemas.MaxIDBytes + 1); n {
	case 0:
		in.bytes(16)
	default:
		in.bytes(n - 1)
	}
	in.bytes(8 * in.length(scoring.RecentEvents))
	presence := in.bytes((len(k.categorical) + 7) / 8)
	for i, categorical := range k.categorical {
		level := uint32(0)
		switch {
		case presence[i/8]&(1<<(i%8)) == 0:
		case categorical:
			level = uint32(in.uvarint())
		default:
			in.bytes(8)
		}
		dst = append(dst, level)
	}
	return dst
}

// Record is a packed customer. Its methods read one field each.
type Record []byte

// ID returns the customer id.
func (r Record) ID() []byte {
	n, width := binary.Uvarint(r)
	return r[width : width+int(n)]
}

// afterID returns a reader of what follows the customer id.
func (r Record) afterID() packedReader {
	n, width := binary.Uvarint(r)
	return packedReader{data: r[width+int(n):]}
}

// Source returns the partition and the offset of the event that the latest score
// rests on. The partition is another one than the record is of if the customer
// has moved.
func (r Record) Source() (partition int32, offset int64) {
	in := r.afterID()
	return int32(in.uvarint()), in.varint()
}

// AsOf returns the moment that the latest score speaks of.
func (r Record) AsOf() int64 {
	in := r.afterSource()
	return in.varint() + in.varint()
}

// ModelVersion returns the model version of the latest score.
func (r Record) ModelVersion() int64 {
	in := r.afterSource()
	in.varint() // occurred at
	in.varint() // as of
	return int64(in.uint64())
}

func (r Record) afterSource() packedReader {
	in := r.afterID()
	in.uvarint()
	in.varint()
	return in
}

// appendEventID writes a UUID in its usual spelling as 16 bytes after a zero,
// anything else as its length plus one and itself.
func appendEventID(dst, id []byte) []byte {
	start := len(dst)
	if len(id) == uuidLength {
		dst = append(dst, 0)
		for i := 0; i < len(id); {
			if i == 8 || i == 13 || i == 18 || i == 23 {
				if id[i] != '-' {
					break
				}
				i++
				continue
			}
			high, low := hexDigit(id[i]), hexDigit(id[i+1])
			if high|low > 15 {
				break
			}
			dst = append(dst, high<<4|low)
			i += 2
		}
		if len(dst)-start == 17 {
			return dst
		}
		dst = dst[:start]
	}
	dst = binary.AppendUvarint(dst, uint64(len(id))+1)
	return append(dst, id...)
}

// hexDigit returns the value of a lower-case digit, above 15 if it is none.
func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// packedReader reads packed fields. After one that does not fit, bad is set
// and everything read is zero.
type packedReader struct {
	data []byte
	bad  bool
}

func (r *packedReader) fail() {
	r.bad = true
	r.data = nil
}

func (r *packedReader) bytes(n int) []byte {
	if n < 0 || n > len(r.data) {
		r.fail()
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

func (r *packedReader) uvarint() uint64 {
	if len(r.data) > 0 && r.data[0] < 0x80 {
		x := r.data[0]
		r.data = r.data[1:]
		return uint64(x)
	}
	x, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.data = r.data[n:]
	return x
}

func (r *packedReader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// length reads a count or length of at most limit.
func (r *packedReader) length(limit int) int {
	n := r.uvarint()
	if n > uint64(limit) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *packedReader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *packedReader) number() float64 { return math.Float64frombits(r.uint64()) }

func (r *packedReader) eventID(scratch []byte) (id, grown []byte) {
	const digits = "0123456789abcdef"
	n := r.length(schemas.MaxIDBytes + 1)
	if n > 0 {
		return r.bytes(n - 1), scratch
	}
	start := len(scratch)
	for i, b := range r.bytes(16) {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			scratch = append(scratch, '-')
		}
		scratch = append(scratch, digits[b>>4], digits[b&15])
	}
	return scratch[start:], scratch
}
