package kafka

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"
	"unsafe"

	"github.com/segmentio/kafka-go/compress"
)

// Compression is the codec of the record batches written. Batches of every
// codec are read.
type Compression int8

// The codecs of Kafka, by their codes in a batch's attributes.
const (
	NoCompression Compression = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

// ParseCompression returns the codec of that name: "none" or "", "gzip",
// "snappy", "lz4" or "zstd".
func ParseCompression(name string) (Compression, error) {
	switch name {
	case "", "none":
		return NoCompression, nil
	case "gzip":
		return Gzip, nil
	case "snappy":
		return Snappy, nil
	case "lz4":
		return LZ4, nil
	case "zstd":
		return Zstd, nil
	}
	return 0, fmt.Errorf("compression %q: not one of none, gzip, snappy, lz4, zstd", name)
}

// String returns the codec's name, as ParseCompression reads it.
func (c Compression) String() string {
	switch c {
	case Gzip:
		return "gzip"
	case Snappy:
		return "snappy"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return "none"
}

// UnmarshalText is ParseCompression.
func (c *Compression) UnmarshalText(text []byte) (err error) {
	*c, err = ParseCompression(string(text))
	return err
}

// The layout of a record batch, magic 2: the position of each header field.
// https://kafka.apache.org/documentation/#recordbatch
const (
	atLength          = 8 // counts from atLeaderEpoch
	atLeaderEpoch     = 12
	atMagic           = 16
	atCRC             = 17
	atAttributes      = 21 // the checksum covers what starts here
	atLastOffsetDelta = 23
	atFirstTimestamp  = 27
	atMaxTimestamp    = 35
	atProducerID      = 43
	atProducerEpoch   = 51
	atBaseSequence    = 53
	atCount           = 57
	atRecords         = 61

	attrCompression   = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
)

const (
	// largestBatch is the default of Config.LargestBatch. Brokers take batches
	// of 1 MiB by default, compressed.
	largestBatch = 64 << 20
	// ordinaryBatch is what a decoder may use, and keeps for the next batches.
	ordinaryBatch = 2 << 20
	// ordinaryWindow is what decompressors need for what they look back at, as
	// producers write by themselves.
	ordinaryWindow = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	// errPartial means that the bytes end before the batch does.
	errPartial = errors.New("record batch is cut off")
	// errCorrupt is matched by every other reason to refuse a batch.
	errCorrupt = errors.New("corrupt record batch")
	// errOldFormat means a message format from before Kafka 0.11.
	errOldFormat = errors.New("message format of before Kafka 0.11 is not supported: produce the records to a new topic")
	// errLarge means that a batch needs more memory than the decoder has room
	// for. It is no fault of the batch.
	errLarge = errors.New("record batch is large")
)

// batch is a view of one encoded record batch.
type batch struct {
	data []byte
}

func (b batch) baseOffset() int64   { return int64(binary.BigEndian.Uint64(b.data)) }
func (b batch) attributes() uint16  { return binary.BigEndian.Uint16(b.data[atAttributes:]) }
func (b batch) lastOffset() int64   { return b.baseOffset() + int64(b.lastDelta()) }
func (b batch) lastDelta() int32    { return int32(binary.BigEndian.Uint32(b.data[atLastOffsetDelta:])) }
func (b batch) producerID() int64   { return int64(binary.BigEndian.Uint64(b.data[atProducerID:])) }
func (b batch) epoch() int16        { return int16(binary.BigEndian.Uint16(b.data[atProducerEpoch:])) }
func (b batch) leaderEpoch() int32  { return int32(binary.BigEndian.Uint32(b.data[atLeaderEpoch:])) }
func (b batch) count() int          { return int(int32(binary.BigEndian.Uint32(b.data[atCount:]))) }
func (b batch) firstTime() int64    { return int64(binary.BigEndian.Uint64(b.data[atFirstTimestamp:])) }
func (b batch) maxTime() int64      { return int64(binary.BigEndian.Uint64(b.data[atMaxTimestamp:])) }
func (b batch) transactional() bool { return b.attributes()&attrTransactional != 0 }
func (b batch) control() bool       { return b.attributes()&attrControl != 0 }

// splitBatch returns the first batch of data, its checksum verified, and what
// follows it. The error is errPartial, errOldFormat or matches errCorrupt.
func splitBatch(data []byte) (b batch, rest []byte, err error) {
	if len(data) <= atMagic {
		return b, nil, errPartial
	}
	length := int32(binary.BigEndian.Uint32(data[atLength:]))
	magic := data[atMagic]
	switch {
	case magic < 2:
		return b, nil, errOldFormat
	case magic > 2:
		return b, nil, fmt.Errorf("%w: unknown format %d", errCorrupt, magic)
	case length < atRecords-atLeaderEpoch:
		return b, nil, fmt.Errorf("%w: length %d", errCorrupt, length)
	case int64(length) > int64(len(data)-atLeaderEpoch):
		return b, nil, errPartial
	}
	end := atLeaderEpoch + int(length)
	b.data = data[:end:end]
	want := binary.BigEndian.Uint32(data[atCRC:])
	if got := crc32.Checksum(b.data[atAttributes:], castagnoli); got != want {
		return b, nil, fmt.Errorf("%w at offset %d: checksum %08x, want %08x", errCorrupt, b.baseOffset(), got, want)
	}
	if b.baseOffset() < 0 || b.lastDelta() < 0 || b.count() < 0 {
		return b, nil, fmt.Errorf("%w at offset %d: last offset delta %d, %d records", errCorrupt, b.baseOffset(), b.lastDelta(), b.count())
	}
	return b, data[end:], nil
}

// abort reports whether a control batch ends its producer's transaction by
// aborting it: its record's key is a version and a type, both int16, and the
// type of an abort is 0.
func (b batch) abort() bool {
	d := decoder{limit: 64 << 10} // it holds a few bytes
	records, err := d.decode(nil, b, 0, Record{})
	return err == nil && len(records) > 0 && len(records[0].Key) >= 4 &&
		binary.BigEndian.Uint16(records[0].Key[2:]) == 0
}

// decoder decodes batches into records whose keys, values and headers are
// views of the batch or of the decoder's own memory, which reset gives free.
// Once warm it allocates nothing.
type decoder struct {
	limit int // of a decompressed batch, of its records and of their headers; 0 is largestBatch
	// room is that of the arena, and headerRoom of headers; 0 is as much as
	// limit allows.
	room, headerRoom int
	slots            chan struct{} // of decompressions at a time; nil for any number

	arena   []byte   // decompressed batches
	headers []Header // of all records
	names   map[string]string
}

// maxNames bounds the header names remembered to avoid allocating them again.
const maxNames = 64

func (d *decoder) reset() {
	d.arena = d.arena[:0]
	if cap(d.arena) > 2*ordinaryBatch {
		d.arena = nil
	}
	clear(d.headers)
	d.headers = d.headers[:0]
	if cap(d.headers)*headerBytes > 2*ordinaryBatch {
		d.headers = nil
	}
}

// headerBytes is what a header takes in memory besides its bytes.
const headerBytes = int(unsafe.Sizeof(Header{}))

// large returns what a batch takes in memory, and what its decompressor needs
// for a time, if one of these is more than is ordinary; 0 and 0 for any other. The
// error, which matches errCorrupt, is that of a batch that is larger than any may
// be.
func (d *decoder) large(b batch) (size, window int, err error) {
	limit := cmp.Or(d.limit, largestBatch)
	records := b.count() * recordBytes
	if records > limit {
		return 0, 0, fmt.Errorf("%w at offset %d: %d records take more than %d bytes", errCorrupt, b.baseOffset(), b.count(), limit)
	}
	code := compress.Compression(b.attributes() & attrCompression)
	if code == compress.Zstd {
		if window, err = zstdWindow(b.data[atRecords:]); err != nil {
			return 0, 0, fmt.Errorf("%w at offset %d: zstd: %w", errCorrupt, b.baseOffset(), err)
		}
		if window <= ordinaryWindow {
			window = 0
		}
	}
	if records > ordinaryBatch {
		size = records
	}
	return size, window, nil
}

// measure decompresses a batch into nothing, and returns how large it becomes.
func (d *decoder) measure(b batch) (size int, err error) {
	var scratch [32 << 10]byte
	err = d.each(b, func(in io.Reader) (int, error) {
		n, err := in.Read(scratch[:])
		size += n
		return size, err
	})
	return size, err
}

// decode appends the records of b from offset from on to dst; prototype gives
// their topic and partition. An error matches errCorrupt, and dst comes back
// as it was.
func (d *decoder) decode(dst []Record, b batch, from int64, prototype Record) ([]Record, error) {
	n, headers := len(dst), len(d.headers)
	dst, err := d.records(dst, b, from, prototype)
	if err != nil {
		d.headers = d.headers[:headers]
		return dst[:n], err
	}
	return dst, nil
}

// records is decode, but that an error leaves what was decoded before it.
func (d *decoder) records(dst []Record, b batch, from int64, prototype Record) ([]Record, error) {
	payload, err := d.decompress(b)
	if err != nil {
		return dst, err
	}
	base, first, last := b.baseOffset(), b.firstTime(), int64(b.lastDelta())
	appendTime := b.attributes()&attrLogAppendTime != 0
	headers, limit := len(d.headers), cmp.Or(d.limit, largestBatch)
	in := reader{data: payload}
	for i := range b.count() {
		size := in.varint()
		if in.bad || size < 0 || size > int64(len(in.data)) {
			return dst, fmt.Errorf("%w at offset %d: record %d of %d is cut off", errCorrupt, base, i, b.count())
		}
		record := reader{data: in.data[:size:size]}
		in.data = in.data[size:]

		record.bytes(1) // attributes, unused
		timestamp := first + record.varint()
		delta := record.varint()
		r := prototype
		r.Offset = base + delta
		if appendTime {
			timestamp = b.maxTime()
		}
		r.Time = time.UnixMilli(timestamp)
		r.Key = record.nullable()
		r.Value = record.nullable()
		r.Headers = d.readHeaders(&record)
		switch {
		case (len(d.headers)-headers)*headerBytes > limit:
			return dst, fmt.Errorf("%w at offset %d: headers that take more than %d bytes", errCorrupt, base, limit)
		case d.headerRoom > 0 && len(d.headers)*headerBytes > d.headerRoom:
			return dst, errLarge
		}
		if record.bad || len(record.data) > 0 || delta < 0 || delta > last {
			return dst, fmt.Errorf("%w at offset %d: record %d of %d", errCorrupt, base, i, b.count())
		}
		if r.Offset >= from {
			dst = append(dst, r)
		}
	}
	if len(in.data) > 0 {
		return dst, fmt.Errorf("%w at offset %d: bytes after the last record", errCorrupt, base)
	}
	return dst, nil
}

func (d *decoder) readHeaders(in *reader) []Header {
	n := in.varint()
	if n < 0 || n > int64(len(in.data)) { // a header takes two bytes at least
		in.bad = true
	}
	if in.bad || n == 0 {
		return nil
	}
	start := len(d.headers)
	for i := range n {
		name, value := in.nullable(), in.nullable()
		if i < maxHeaders {
			d.headers = append(d.headers, Header{Key: d.name(name), Value: value})
		}
	}
	return d.headers[start:len(d.headers):len(d.headers)]
}

func (d *decoder) name(b []byte) string {
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(d.names) < maxNames {
		if d.names == nil {
			d.names = map[string]string{}
		}
		d.names[s] = s
	}
	return s
}

// decompress returns the records of b, still encoded.
func (d *decoder) decompress(b batch) ([]byte, error) {
	payload := b.data[atRecords:]
	if b.attributes()&attrCompression == 0 {
		return payload, nil
	}
	start := len(d.arena)
	err := d.each(b, func(in io.Reader) (int, error) {
		if len(d.arena) == cap(d.arena) {
			if d.room > 0 && len(d.arena) >= d.room {
				return 0, errLarge
			}
			// Records decoded before keep what they point into: the old
			// memory, if this moves the arena.
			d.arena = append(d.arena, 0)[:len(d.arena)]
		}
		n, err := in.Read(d.arena[len(d.arena):cap(d.arena)])
		d.arena = d.arena[:len(d.arena)+n]
		return len(d.arena) - start, err
	})
	if err != nil {
		d.arena = d.arena[:start]
		return nil, err
	}
	return d.arena[start:len(d.arena):len(d.arena)], nil
}

// each has step read what a batch decompresses to, until its end; step returns
// how much it has read so far.
func (d *decoder) each(b batch, step func(io.Reader) (int, error)) error {
	payload := b.data[atRecords:]
	code := compress.Compression(b.attributes() & attrCompression)
	if code == compress.None {
		return nil
	}
	codec := code.Codec()
	if codec == nil {
		return fmt.Errorf("%w at offset %d: unknown compression %d", errCorrupt, b.baseOffset(), code)
	}
	limit := cmp.Or(d.limit, largestBatch)
	var err error
	switch code { // whose codecs trust the sizes that the data claims
	case compress.Snappy:
		err = checkSnappy(payload, limit)
	case compress.Zstd:
		var window int
		if window, err = zstdWindow(payload); err == nil && window > 2*limit {
			err = fmt.Errorf("zstd: a window of %d bytes, at most %d are allowed", window, 2*limit)
		}
	}
	if err != nil {
		return fmt.Errorf("%w at offset %d: %w", errCorrupt, b.baseOffset(), err)
	}
	if d.slots != nil {
		d.slots <- struct{}{}
		defer func() { <-d.slots }()
	}
	in := codec.NewReader(bytes.NewReader(payload))
	defer in.Close()
	for {
		size, err := step(in)
		if size > limit {
			err = fmt.Errorf("it becomes more than %d bytes", limit)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case errors.Is(err, errLarge):
			return err
		default:
			return fmt.Errorf("%w at offset %d: decompressing %s: %w", errCorrupt, b.baseOffset(), codec.Name(), err)
		}
	}
}

// zstdWindow returns how far back the frames of zstd data say that they look:
// decompressors allocate that much, however small the data are. RFC 8878.
func zstdWindow(data []byte) (window int, err error) {
	cut := errors.New("a frame is cut off")
	little := func(n int) (v uint64, ok bool) {
		if len(data) < n {
			return 0, false
		}
		for i := range n {
			v |= uint64(data[i]) << (8 * i)
		}
		data = data[n:]
		return v, true
	}
	for len(data) > 0 {
		magic, ok := little(4)
		if ok && magic&^0xf == 0x184d2a50 { // a frame to be passed over
			n, ok := little(4)
			if !ok || n > uint64(len(data)) {
				return 0, cut
			}
			data = data[n:]
			continue
		}
		if !ok || magic != 0xfd2fb528 {
			return 0, errors.New("it is no frame")
		}
		descriptor, ok := little(1)
		if !ok {
			return 0, cut
		}
		size, single := uint64(0), descriptor&0x20 != 0
		if !single {
			d, ok := little(1)
			if !ok {
				return 0, cut
			}
			size = 1 << (10 + d>>3)
			size += size / 8 * (d & 7)
		}
		if _, ok := little([]int{0, 1, 2, 4}[descriptor&3]); !ok { // dictionary
			return 0, cut
		}
		width := []int{0, 2, 4, 8}[descriptor>>6]
		if width == 0 && single {
			width = 1
		}
		content, ok := little(width)
		if !ok {
			return 0, cut
		}
		if width == 2 {
			content += 256
		}
		if single {
			size = content
		}
		window = max(window, int(min(size, math.MaxInt)))
		for last := false; !last; {
			header, ok := little(3)
			if !ok {
				return 0, cut
			}
			last = header&1 != 0
			n := header >> 3
			if header>>1&3 == 1 { // one byte, n times
				n = 1
			}
			if n > uint64(len(data)) {
				return 0, cut
			}
			data = data[n:]
		}
		if descriptor&4 != 0 { // checksum
			if _, ok := little(4); !ok {
				return 0, cut
			}
		}
	}
	return window, nil
}

// checkSnappy refuses snappy data that claims to hold more than it can.
func checkSnappy(data []byte, limit int) error {
	claims := func(block []byte) error {
		n, size := binary.Uvarint(block)
		// Snappy's best is 64 bytes for an element of three.
		if size <= 0 || n > uint64(limit) || n > uint64(len(block))*64 {
			return fmt.Errorf("snappy block of %d bytes claims %d", len(block), n)
		}
		return nil
	}
	// Java's and kafka-go's writers frame the blocks: a header of 16 bytes,
	// then blocks with 4-byte lengths. Others write one bare block.
	if !bytes.HasPrefix(data, []byte("\x82SNAPPY\x00")) {
		return claims(data)
	}
	if len(data) < 16 {
		return errors.New("snappy header is cut off")
	}
	for data = data[16:]; len(data) > 0; {
		if len(data) < 4 || uint64(binary.BigEndian.Uint32(data)) > uint64(len(data)-4) {
			return errors.New("snappy frame is cut off")
		}
		n := int(binary.BigEndian.Uint32(data))
		if err := claims(data[4 : 4+n]); err != nil {
			return err
		}
		data = data[4+n:]
	}
	return nil
}

// reader reads the fields of a record. After a field that does not fit, bad
// is set and everything read is zero.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.bad = true
		r.data = nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) bytes(n int64) []byte {
	if n < 0 || n > int64(len(r.data)) {
		r.bad = true
		r.data = nil
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

// nullable reads bytes preceded by their length, −1 for nil.
func (r *reader) nullable() []byte {
	n := r.varint()
	if n == -1 || r.bad {
		return nil
	}
	return r.bytes(n)
}

// producerState goes into a batch's header; without one a batch is not
// idempotent.
type producerState struct {
	id       int64
	epoch    int16
	sequence int32
}

var noProducer = producerState{id: -1, epoch: -1, sequence: -1}

// encoder encodes batches into memory it uses again.
type encoder struct {
	frame   []byte
	scratch []byte
}

// abandon leaves the memory of the last batch to whoever may still read it. A
// request that failed may be on its way all the same: kafka-go's transport goes
// on writing it when its caller has given up.
func (e *encoder) abandon() { e.frame = nil }

// encode returns records as one batch, preceded by its size in 4 bytes as in
// a produce request. It is valid until the next call, or for good after abandon.
func (e *encoder) encode(records []Record, compression Compression, producer producerState, now time.Time) ([]byte, error) {
	const prefix = 4
	e.frame = append(e.frame[:0], make([]byte, prefix+atRecords)...)
	first, latest := timestamp(records[0], now), int64(0)
	body := &e.frame
	if compression != NoCompression {
		e.scratch = e.scratch[:0]
		body = &e.scratch
	}
	for i, r := range records {
		t := timestamp(r, now)
		latest = max(latest, t)
		*body = appendRecord(*body, r, t-first, int64(i))
	}
	if compression != NoCompression {
		codec := compress.Compression(compression).Codec()
		if codec == nil {
			return nil, fmt.Errorf("encoding records: unknown compression %d", compression)
		}
		out := codec.NewWriter((*appender)(&e.frame))
		_, err := out.Write(e.scratch)
		if err = errors.Join(err, out.Close()); err != nil {
			return nil, fmt.Errorf("encoding records: compressing with %s: %w", codec.Name(), err)
		}
	}
	binary.BigEndian.PutUint32(e.frame, uint32(len(e.frame)-prefix))
	b := e.frame[prefix:]
	binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-atLeaderEpoch))
	binary.BigEndian.PutUint32(b[atLeaderEpoch:], 0xffff_ffff)
	b[atMagic] = 2
	binary.BigEndian.PutUint16(b[atAttributes:], uint16(compression))
	binary.BigEndian.PutUint32(b[atLastOffsetDelta:], uint32(len(records)-1))
	binary.BigEndian.PutUint64(b[atFirstTimestamp:], uint64(first))
	binary.BigEndian.PutUint64(b[atMaxTimestamp:], uint64(latest))
	binary.BigEndian.PutUint64(b[atProducerID:], uint64(producer.id))
	binary.BigEndian.PutUint16(b[atProducerEpoch:], uint16(producer.epoch))
	binary.BigEndian.PutUint32(b[atBaseSequence:], uint32(producer.sequence))
	binary.BigEndian.PutUint32(b[atCount:], uint32(len(records)))
	binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[atAttributes:], castagnoli))
	return e.frame, nil
}

func timestamp(r Record, now time.Time) int64 {
	if r.Time.IsZero() {
		return now.UnixMilli()
	}
	return r.Time.UnixMilli()
}

func appendRecord(dst []byte, r Record, timeDelta, offsetDelta int64) []byte {
	size := 1 + varintSize(timeDelta) + varintSize(offsetDelta) +
		nullableSize(r.Key) + nullableSize(r.Value) + varintSize(int64(len(r.Headers)))
	for _, h := range r.Headers {
		size += varintSize(int64(len(h.Key))) + len(h.Key) + nullableSize(h.Value)
	}
	dst = binary.AppendVarint(dst, int64(size))
	dst = append(dst, 0)
	dst = binary.AppendVarint(dst, timeDelta)
	dst = binary.AppendVarint(dst, offsetDelta)
	dst = appendNullable(dst, r.Key)
	dst = appendNullable(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = binary.AppendVarint(dst, int64(len(h.Key)))
		dst = append(dst, h.Key...)
		dst = appendNullable(dst, h.Value)
	}
	return dst
}

// recordBound returns the most bytes a record can take in a batch.
func recordBound(r Record) int {
	n := 3*binary.MaxVarintLen64 + 1 + nullableSize(r.Key) + nullableSize(r.Value) + varintSize(int64(len(r.Headers)))
	for _, h := range r.Headers {
		n += varintSize(int64(len(h.Key))) + len(h.Key) + nullableSize(h.Value)
	}
	return n
}

// fitBatch returns how many of records, one at least, fit a batch of limit
// bytes. Compression is not counted on.
func fitBatch(records []Record, limit int) int {
	size := atRecords
	for i := range records {
		size += recordBound(records[i])
		if size > limit && i > 0 {
			return i
		}
	}
	return len(records)
}

func varintSize(v int64) int {
	u := uint64(v<<1) ^ uint64(v>>63)
	n := 1
	for ; u >= 0x80; u >>= 7 {
		n++
	}
	return n
}

func nullableSize(b []byte) int {
	if b == nil {
		return 1
	}
	return varintSize(int64(len(b))) + len(b)
}

func appendNullable(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}

type appender []byte

func (a *appender) Write(b []byte) (int, error) {
	*a = append(*a, b...)
	return len(b), nil
}
