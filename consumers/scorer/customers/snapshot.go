package customers

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// A snapshot is the state of one partition in a file, so that a restart need
// not read the whole of churn.scores. It is only a cache: the topic decides, and
// a snapshot that is missing, damaged or of something else costs a full restore
// and nothing more.
//
// The file starts with snapshotMagic, whose last byte is the version of the
// format. Blocks follow: the payload's length and a CRC-32C, 4 bytes each in
// little-endian order, then the payload. The checksum covers the one before
// it too, so that blocks cannot be lost or change places. The first byte of a
// payload is its kind; what follows are varints, and bytes after their length:
//
//	header     fingerprint of the feature specification, topic, partition,
//	           offset reflected, watermark, time written, landmarks, progress
//	levels     a feature, and numbers with their levels, which what follows
//	           has; a number may get another level in a later block
//	customers  packed records, see packing
//	end        the number of packed records; nothing follows
//
// Records may be newer than the offset reflected, since scoring goes on while
// they are written. The scores from that offset on are read again at restore
// and bring every customer to the same point.
const snapshotMagic = "churnst\x06"

const (
	blockHeader    = 1
	blockLevels    = 2
	blockCustomers = 3
	blockEnd       = 4

	// blockBytes is about how long a block of customers is made, and
	// maxBlockBytes what a reader accepts.
	blockBytes    = 64 << 10
	maxBlockBytes = 16 << 20
	// MaxLandmarks is how many landmarks a snapshot holds at most.
	MaxLandmarks = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrRefused is matched by every reason to refuse a snapshot.
var ErrRefused = errors.New("snapshot refused")

// Refuse returns an error that matches ErrRefused.
func Refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
}

// Landmark is a record of the output partition by which a log is recognised.
type Landmark struct {
	Offset int64
	Hash   uint64
}

// SnapshotHeader says what a snapshot is of.
type SnapshotHeader struct {
	// Fingerprint is that of the feature specification.
	Fingerprint string
	// Topic and Partition are of the scores.
	Topic     string
	Partition int
	// Reflected is the offset in the topic up to which, without it, all
	// records are in the state.
	Reflected int64
	// Watermark is the highest source offset whose effect is in the state.
	Watermark int64
	Written   time.Time
	// Landmarks are at most MaxLandmarks records before Reflected.
	Landmarks []Landmark
	// Progress is how far the events are processed, with MaxWriters writers at
	// most.
	Progress schemas.Progress
}

// maxPartitions bounds the lists of a header that go by partitions.
const maxPartitions = 1 << 20

// MaxWriters is how many writers of the output partition a snapshot holds at
// most.
const MaxWriters = 256

func (h *SnapshotHeader) append(dst []byte) []byte {
	dst = append(dst, blockHeader)
	dst = appendText(dst, h.Fingerprint)
	dst = appendText(dst, h.Topic)
	dst = binary.AppendUvarint(dst, uint64(h.Partition))
	dst = binary.AppendVarint(dst, h.Reflected)
	dst = binary.AppendVarint(dst, h.Watermark)
	dst = binary.AppendVarint(dst, h.Written.UnixMilli())
	dst = binary.AppendUvarint(dst, uint64(len(h.Landmarks)))
	for _, l := range h.Landmarks {
		dst = binary.AppendVarint(dst, l.Offset)
		dst = binary.LittleEndian.AppendUint64(dst, l.Hash)
	}
	p := &h.Progress
	dst = appendText(dst, p.Group)
	dst = appendText(dst, p.EventsTopicID)
	dst = appendText(dst, p.ScoresTopicID)
	for _, n := range progressNumbers(p) {
		dst = binary.AppendVarint(dst, *n)
	}
	dst = binary.AppendVarint(dst, int64(p.LeaderEpoch))
	dst = binary.AppendVarint(dst, p.Customers)
	dst = binary.AppendUvarint(dst, uint64(len(p.Writers)))
	for _, w := range p.Writers {
		dst = binary.AppendVarint(dst, w.ProducerID)
		dst = binary.AppendVarint(dst, w.Since)
	}
	dst = binary.AppendVarint(dst, int64(p.Partitions))
	dst = binary.AppendUvarint(dst, uint64(len(p.Former)))
	for _, n := range p.Former {
		dst = binary.AppendVarint(dst, n)
	}
	moving := uint64(0)
	if p.Moving {
		moving = 1
	}
	dst = binary.AppendUvarint(dst, moving)
	dst = binary.AppendUvarint(dst, uint64(len(p.Origins)))
	for _, o := range p.Origins {
		dst = binary.AppendVarint(dst, int64(o.Partition))
		dst = binary.AppendVarint(dst, o.Next)
	}
	return dst
}

// progressNumbers are the offsets and the sums of p.
func progressNumbers(p *schemas.Progress) [8]*int64 {
	return [...]*int64{&p.Since, &p.Next, &p.Scored, &p.Duplicates, &p.DeadLetters, &p.Erasures, &p.NoRecord, &p.Forwarded}
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// SnapshotEncoder makes the blocks of a snapshot: those of Start, of Customers
// until it is done, and of End, to be written one after another.
type SnapshotEncoder struct {
	named uint64 // how often a number was given, as far as that is written
	sum   uint32
	count uint64
}

// NewSnapshotEncoder returns an encoder of one snapshot.
func NewSnapshotEncoder() *SnapshotEncoder { return &SnapshotEncoder{} }

// Start appends the beginning of the file.
func (e *SnapshotEncoder) Start(dst []byte, h *SnapshotHeader) []byte {
	dst = append(dst, snapshotMagic...)
	at := len(dst)
	return e.seal(h.append(e.open(dst)), at)
}

// open leaves room for a block's length and checksum, which seal fills in.
func (e *SnapshotEncoder) open(dst []byte) []byte { return append(dst, make([]byte, 8)...) }

func (e *SnapshotEncoder) seal(dst []byte, at int) []byte {
	payload := dst[at+8:]
	e.sum = blockSum(e.sum, payload)
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(dst[at+4:], e.sum)
	return dst
}

func blockSum(before uint32, payload []byte) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], before)
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, payload)
}

// Count returns how many customers were written.
func (e *SnapshotEncoder) Count() uint64 { return e.count }

// Customers appends a block of the next records of a walk, after the levels
// that are new since the last one, and reports whether the walk is over. A
// block takes about 64 KiB.
func (e *SnapshotEncoder) Customers(dst []byte, t *Table, from *Cursor) (_ []byte, done bool) {
	// The levels of records are those known now at most: nothing is scored
	// meanwhile.
	if l := &t.levels; l.renamed > e.named {
		for f := range l.features {
			dst = e.levels(dst, f, l.features[f].levels)
		}
		e.named = l.renamed
	}
	at := len(dst)
	dst = append(e.open(dst), blockCustomers)
	for len(dst)-at < blockBytes {
		record := t.Next(from)
		if record == nil {
			done = true
			break
		}
		dst = append(binary.AppendUvarint(dst, uint64(len(record))), record...)
		e.count++
	}
	return e.seal(dst, at), done
}

// levels appends blocks of the levels of a feature that are new since the last
// time.
func (e *SnapshotEncoder) levels(dst []byte, feature int, list []level) []byte {
	at := -1
	for n := range list {
		if list[n].named <= e.named {
			continue // as before, or none
		}
		if at >= 0 && len(dst)-at >= blockBytes {
			dst, at = e.seal(dst, at), -1
		}
		if at < 0 {
			at = len(dst)
			dst = binary.AppendUvarint(append(e.open(dst), blockLevels), uint64(feature))
		}
		dst = appendText(binary.AppendUvarint(dst, uint64(n)), list[n].name)
	}
	if at < 0 {
		return dst
	}
	return e.seal(dst, at)
}

// End appends the last block.
func (e *SnapshotEncoder) End(dst []byte) []byte {
	at := len(dst)
	return e.seal(binary.AppendUvarint(append(e.open(dst), blockEnd), e.count), at)
}

// SnapshotReader reads a snapshot. Its errors match ErrRefused, whatever the
// bytes are, and it holds no more than one block in memory.
type SnapshotReader struct {
	from   *bufio.Reader
	block  []byte
	sum    uint32
	header SnapshotHeader
}

// Header returns what the snapshot is of.
func (r *SnapshotReader) Header() *SnapshotHeader { return &r.header }

// OpenSnapshot reads the header.
func OpenSnapshot(from io.Reader) (*SnapshotReader, error) {
	r := &SnapshotReader{from: bufio.NewReaderSize(from, 64<<10)}
	var magic [len(snapshotMagic)]byte
	if _, err := io.ReadFull(r.from, magic[:]); err != nil {
		return nil, Refuse("reading it: %w", err)
	}
	if string(magic[:]) != snapshotMagic {
		return nil, Refuse("it is of another format or version")
	}
	in, kind, err := r.next()
	if err != nil {
		return nil, err
	}
	if kind != blockHeader {
		return nil, Refuse("it does not start with a header")
	}
	h := &r.header
	h.Fingerprint = string(in.bytes(in.length(1024)))
	h.Topic = string(in.bytes(in.length(1024)))
	h.Partition = in.length(math.MaxInt32)
	h.Reflected = in.varint()
	h.Watermark = in.varint()
	h.Written = time.UnixMilli(in.varint())
	for range in.length(MaxLandmarks) {
		h.Landmarks = append(h.Landmarks, Landmark{Offset: in.varint(), Hash: in.uint64()})
	}
	p := &h.Progress
	p.Group = string(in.bytes(in.length(1024)))
	p.EventsTopicID = string(in.bytes(in.length(64)))
	p.ScoresTopicID = string(in.bytes(in.length(64)))
	for _, n := range progressNumbers(p) {
		*n = in.varint()
	}
	p.LeaderEpoch = int32(in.varint())
	p.Customers = in.varint()
	p.Partition = int32(h.Partition)
	for range in.length(MaxWriters) {
		p.Writers = append(p.Writers, schemas.Writer{ProducerID: in.varint(), Since: in.varint()})
	}
	p.Partitions = int32(in.varint())
	for range in.length(maxPartitions) {
		p.Former = append(p.Former, in.varint())
	}
	p.Moving = in.length(1) == 1
	for range in.length(maxPartitions) {
		p.Origins = append(p.Origins, schemas.Origin{Partition: int32(in.varint()), Next: in.varint()})
	}
	if in.bad || len(in.data) > 0 || h.Reflected < 0 {
		return nil, Refuse("its header cannot be read")
	}
	return r, nil
}

// next reads a block. What it returns is valid until the next call.
func (r *SnapshotReader) next() (in packedReader, kind byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r.from, head[:]); err != nil {
		return in, 0, Refuse("it is cut off: %w", err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > maxBlockBytes {
		return in, 0, Refuse("a block of %d bytes", n)
	}
	if int(n) > cap(r.block) {
		r.block = make([]byte, n)
	}
	r.block = r.block[:n]
	if _, err := io.ReadFull(r.from, r.block); err != nil {
		return in, 0, Refuse("it is cut off: %w", err)
	}
	r.sum = blockSum(r.sum, r.block)
	if r.sum != binary.LittleEndian.Uint32(head[4:]) {
		return in, 0, Refuse("a block is damaged")
	}
	return packedReader{data: r.block[1:]}, r.block[0], nil
}

// Table reads all that follows the header into a new table, for vectors of the
// vocabulary.
func (r *SnapshotReader) Table(v *scoring.Vocabulary) (*Table, error) {
	t := NewTable(v)
	k := &t.packing
	names := make([]map[uint64]string, v.Spec().Len()) // by the snapshot's number
	var s schemas.ChurnScore
	var scratch []byte
	read := uint64(0)
	for {
		in, kind, err := r.next()
		if err != nil {
			return nil, err
		}
		switch kind {
		case blockLevels:
			f := in.length(len(names))
			if f == len(names) || in.bad || !k.categorical[f] {
				return nil, Refuse("levels of a feature that has none")
			}
			if names[f] == nil {
				names[f] = map[uint64]string{}
			}
			for len(in.data) > 0 && !in.bad {
				n := in.uvarint()
				names[f][n] = string(in.bytes(in.length(scoring.MaxLevelBytes)))
			}
			if in.bad {
				return nil, Refuse("its levels cannot be read")
			}
		case blockCustomers:
			for len(in.data) > 0 {
				record := in.bytes(in.length(k.maxBytes()))
				if scratch, err = k.unpack(record, &s, scratch[:0]); err != nil {
					return nil, Refuse("record %d: %w", read, err)
				}
				s.Levels = s.Levels[:0]
				for f, categorical := range k.categorical {
					if x := s.Attributes[f]; categorical && !scoring.IsMissing(x) {
						name, listed := names[f][uint64(x)]
						if !listed {
							return nil, Refuse("record %d has a level that is not listed", read)
						}
						s.Attributes[f] = s.Levels.Add(name)
					}
				}
				t.Put(&s)
				read++
			}
		case blockEnd:
			count := in.uvarint()
			if _, err := r.from.ReadByte(); in.bad || len(in.data) > 0 || count != read || err != io.EOF {
				return nil, Refuse("it does not end as it should")
			}
			return t, nil
		default:
			return nil, Refuse("a block of kind %d", kind)
		}
	}
}
