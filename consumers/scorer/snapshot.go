package scorer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// A snapshot is the state of one partition in a file, so that a restart need
// not read the whole of churn.scores. It is only a cache: the topic stays the
// truth, and a snapshot that is missing, damaged or of something else costs a
// full restore and nothing more.
//
// The file starts with snapshotMagic, whose last byte is the version of the
// format. Blocks follow: the payload's length and a CRC-32C, 4 bytes each in
// little-endian order, then the payload. The checksum covers the one before
// it too, so that blocks cannot be lost or change places. The first byte of a
// payload is its kind; what follows are varints, and bytes behind their
// length:
//
//	header     fingerprint of the feature specification, topic, partition,
//	           offset reflected, watermark, time written, landmarks
//	levels     a feature and its levels, in the order of their numbers; more
//	           of a feature's levels may come in a later block
//	customers  packed records, see packing
//	end        the number of packed records; nothing follows
//
// Records may be newer than the offset reflected, since scoring goes on while
// they are written. The scores behind that offset are read again at restore
// and bring every customer to the same point.
const snapshotMagic = "churnst\x02"

const (
	blockHeader    = 1
	blockLevels    = 2
	blockCustomers = 3
	blockEnd       = 4

	// blockBytes is about how long a block of customers is made, and
	// maxBlockBytes what a reader accepts.
	blockBytes    = 64 << 10
	maxBlockBytes = 16 << 20
	maxLandmarks  = 8
	// snapshotSuffix ends the names of snapshots; temporary files have
	// another, so that they are never taken for one.
	snapshotSuffix  = ".snapshot"
	temporarySuffix = ".tmp"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errSnapshot is matched by every reason to refuse a snapshot.
var errSnapshot = errors.New("snapshot refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errSnapshot}, args...)...)
}

// landmark is a record of the output partition by which a log is recognised.
type landmark struct {
	offset int64
	hash   uint64
}

// snapshotHeader says what a snapshot is of.
type snapshotHeader struct {
	fingerprint string
	topic       string
	partition   int
	// reflected is the offset in the topic up to which, without it, all
	// records are in the state.
	reflected int64
	watermark int64
	written   time.Time
	landmarks []landmark
}

func (h *snapshotHeader) append(dst []byte) []byte {
	dst = append(dst, blockHeader)
	dst = appendText(dst, h.fingerprint)
	dst = appendText(dst, h.topic)
	dst = binary.AppendUvarint(dst, uint64(h.partition))
	dst = binary.AppendVarint(dst, h.reflected)
	dst = binary.AppendVarint(dst, h.watermark)
	dst = binary.AppendVarint(dst, h.written.UnixMilli())
	dst = binary.AppendUvarint(dst, uint64(len(h.landmarks)))
	for _, l := range h.landmarks {
		dst = binary.AppendVarint(dst, l.offset)
		dst = binary.LittleEndian.AppendUint64(dst, l.hash)
	}
	return dst
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// snapshotEncoder makes the blocks of a snapshot.
type snapshotEncoder struct {
	vocabulary *scoring.Vocabulary
	written    []int // levels written, by feature
	sum        uint32
	count      uint64
}

func newSnapshotEncoder(v *scoring.Vocabulary) *snapshotEncoder {
	return &snapshotEncoder{vocabulary: v, written: make([]int, v.Spec().Len())}
}

// start appends the beginning of the file.
func (e *snapshotEncoder) start(dst []byte, h *snapshotHeader) []byte {
	dst = append(dst, snapshotMagic...)
	at := len(dst)
	return e.seal(h.append(e.open(dst)), at)
}

// open leaves room for a block's length and checksum, which seal fills in.
func (e *snapshotEncoder) open(dst []byte) []byte { return append(dst, make([]byte, 8)...) }

func (e *snapshotEncoder) seal(dst []byte, at int) []byte {
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

// customers appends a block of the next packed records of a walk, behind the
// levels that are new since the last one, and reports whether the walk is over.
func (e *snapshotEncoder) customers(dst []byte, c *customers, from *cursor) (_ []byte, done bool) {
	// The levels of records are those known now at most: nothing is scored
	// meanwhile.
	for f := range e.written {
		if e.vocabulary.Spec().Feature(f).Kind == scoring.Categorical && e.vocabulary.Size(f) > e.written[f] {
			dst = e.levels(dst, f)
		}
	}
	at := len(dst)
	dst = append(e.open(dst), blockCustomers)
	for len(dst)-at < blockBytes {
		record := c.next(from)
		if record == nil {
			done = true
			break
		}
		dst = append(binary.AppendUvarint(dst, uint64(len(record))), record...)
		e.count++
	}
	return e.seal(dst, at), done
}

func (e *snapshotEncoder) levels(dst []byte, feature int) []byte {
	at := len(dst)
	dst = binary.AppendUvarint(append(e.open(dst), blockLevels), uint64(feature))
	size := e.vocabulary.Size(feature)
	for code := e.written[feature]; code < size; code++ {
		dst = appendText(dst, e.vocabulary.Level(feature, float64(code)))
	}
	e.written[feature] = size
	return e.seal(dst, at)
}

// end appends the last block.
func (e *snapshotEncoder) end(dst []byte) []byte {
	at := len(dst)
	return e.seal(binary.AppendUvarint(append(e.open(dst), blockEnd), e.count), at)
}

// snapshotReader reads a snapshot. Its errors match errSnapshot, whatever the
// bytes are, and it holds no more than one block in memory.
type snapshotReader struct {
	from   *bufio.Reader
	block  []byte
	sum    uint32
	header snapshotHeader
}

// openSnapshot reads the header.
func openSnapshot(from io.Reader) (*snapshotReader, error) {
	r := &snapshotReader{from: bufio.NewReaderSize(from, 64<<10)}
	var magic [len(snapshotMagic)]byte
	if _, err := io.ReadFull(r.from, magic[:]); err != nil {
		return nil, refuse("reading it: %w", err)
	}
	if string(magic[:]) != snapshotMagic {
		return nil, refuse("it is of another format or version")
	}
	in, kind, err := r.next()
	if err != nil {
		return nil, err
	}
	if kind != blockHeader {
		return nil, refuse("it does not start with a header")
	}
	h := &r.header
	h.fingerprint = string(in.bytes(in.length(1024)))
	h.topic = string(in.bytes(in.length(1024)))
	h.partition = in.length(math.MaxInt32)
	h.reflected = in.varint()
	h.watermark = in.varint()
	h.written = time.UnixMilli(in.varint())
	for range in.length(maxLandmarks) {
		h.landmarks = append(h.landmarks, landmark{offset: in.varint(), hash: in.uint64()})
	}
	if in.bad || len(in.data) > 0 || h.reflected < 0 {
		return nil, refuse("its header cannot be read")
	}
	return r, nil
}

// next reads a block. What it returns is valid until the next call.
func (r *snapshotReader) next() (in packedReader, kind byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r.from, head[:]); err != nil {
		return in, 0, refuse("it is cut off: %w", err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > maxBlockBytes {
		return in, 0, refuse("a block of %d bytes", n)
	}
	if int(n) > cap(r.block) {
		r.block = make([]byte, n)
	}
	r.block = r.block[:n]
	if _, err := io.ReadFull(r.from, r.block); err != nil {
		return in, 0, refuse("it is cut off: %w", err)
	}
	r.sum = blockSum(r.sum, r.block)
	if r.sum != binary.LittleEndian.Uint32(head[4:]) {
		return in, 0, refuse("a block is damaged")
	}
	return packedReader{data: r.block[1:]}, r.block[0], nil
}

// customers reads all that follows the header into a new table, with the
// levels' numbers of this process.
func (r *snapshotReader) customers(k *packing, v *scoring.Vocabulary) (*customers, error) {
	table := newCustomers(k.maxBytes())
	codes := make([][]float64, v.Spec().Len()) // this process's, by the snapshot's
	var s schemas.ChurnScore
	var scratch, packed []byte
	read := uint64(0)
	for {
		in, kind, err := r.next()
		if err != nil {
			return nil, err
		}
		switch kind {
		case blockLevels:
			f := in.length(len(codes))
			if f == len(codes) || in.bad || !k.categorical[f] {
				return nil, refuse("levels of a feature that has none")
			}
			for len(in.data) > 0 && !in.bad && len(codes[f]) < scoring.MaxLevels {
				level := in.bytes(in.length(scoring.MaxLevelBytes))
				if in.bad {
					break
				}
				code, err := v.Code(f, level)
				if err != nil {
					return nil, refuse("its levels: %w", err)
				}
				codes[f] = append(codes[f], code)
			}
			if in.bad || len(in.data) > 0 {
				return nil, refuse("its levels cannot be read")
			}
		case blockCustomers:
			for len(in.data) > 0 {
				record := in.bytes(in.length(k.maxBytes()))
				if scratch, err = k.unpack(record, &s, scratch[:0]); err != nil {
					return nil, refuse("record %d: %w", read, err)
				}
				for f, categorical := range k.categorical {
					if x := s.Attributes[f]; categorical && x >= 0 {
						if int(x) >= len(codes[f]) {
							return nil, refuse("record %d has a level that is not listed", read)
						}
						s.Attributes[f] = codes[f][int(x)]
					}
				}
				packed = k.append(packed[:0], &s)
				table.put(packed)
				read++
			}
		case blockEnd:
			count := in.uvarint()
			if _, err := r.from.ReadByte(); in.bad || len(in.data) > 0 || count != read || err != io.EOF {
				return nil, refuse("it does not end as it should")
			}
			return table, nil
		default:
			return nil, refuse("a block of kind %d", kind)
		}
	}
}

// snapshotPath returns where the snapshot of a partition lies.
func snapshotPath(dir, group string, partition int) string {
	// A group may be named as no file can be.
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '_'
	}, group)
	return filepath.Join(dir, fmt.Sprintf("%s-%d%s", name, partition, snapshotSuffix))
}

// snapshotFile writes a snapshot in a goroutine of its own, so that the worker
// never waits for the disk.
type snapshotFile struct {
	blocks chan []byte
	spare  chan []byte
	done   chan error // receives once, when all is written or given up
	size   int64      // of what was handed over
}

// blocksInFlight bounds the memory between a worker and its snapshot's file.
const blocksInFlight = 4

// createSnapshot starts writing a snapshot that will be at path once it is
// complete.
func createSnapshot(path string) *snapshotFile {
	f := &snapshotFile{
		blocks: make(chan []byte, blocksInFlight+1), // and the end
		spare:  make(chan []byte, blocksInFlight),
		done:   make(chan error, 1),
	}
	for range blocksInFlight {
		f.spare <- nil
	}
	go func() { f.done <- f.write(path) }()
	return f
}

// write writes what comes until the worker closes the channel: a file whose last
// block is empty is complete, any other is given up. It takes all blocks even
// when the disk fails, so that the worker is never held up.
func (f *snapshotFile) write(path string) error {
	out, failed := createTemporary(path)
	complete := false
	for block := range f.blocks {
		if complete = len(block) == 0; complete {
			continue
		}
		if failed == nil {
			_, failed = out.Write(block)
		}
		f.spare <- block
	}
	if failed == nil && !complete {
		failed = errGivenUp
	}
	if failed == nil {
		failed = commitSnapshot(out, path)
	}
	if failed != nil && out != nil {
		out.Close()
		os.Remove(out.Name())
	}
	return failed
}

func createTemporary(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	out, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+temporarySuffix)
	if err != nil {
		return nil, fmt.Errorf("creating a snapshot: %w", err)
	}
	return out, nil
}

var errGivenUp = errors.New("snapshot given up")

// commitSnapshot makes a complete file durable and visible, in this order: a
// crash leaves the old snapshot or the new one.
func commitSnapshot(out *os.File, path string) error {
	if err := out.Sync(); err != nil {
		return fmt.Errorf("writing a snapshot to disk: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("closing a snapshot: %w", err)
	}
	if err := os.Rename(out.Name(), path); err != nil {
		return fmt.Errorf("putting a snapshot in place: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("opening the state directory: %w", err)
	}
	defer dir.Close()
	// Some file systems cannot sync a directory; the snapshot is there.
	_ = dir.Sync()
	return nil
}

// room returns memory for the next block, or false while the disk is behind.
func (f *snapshotFile) room() ([]byte, bool) {
	select {
	case block := <-f.spare:
		return block[:0], true
	default:
		return nil, false
	}
}

// wait is room, waiting for it.
func (f *snapshotFile) wait() []byte { return (<-f.spare)[:0] }

func (f *snapshotFile) hand(block []byte) {
	f.size += int64(len(block))
	f.blocks <- block
}

func (f *snapshotFile) finish() {
	f.blocks <- nil
	close(f.blocks)
}

// giveUp removes what was written.
func (f *snapshotFile) giveUp() {
	close(f.blocks)
	<-f.done
}

// removeOldSnapshots deletes snapshots that are too old to be used, of
// partitions that went elsewhere: they hold customers who may have asked to be
// forgotten. It also deletes what crashes left behind.
func removeOldSnapshots(dir string, maxAge time.Duration, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("reading the state directory: %w", err)
	}
	var failed error
	for _, e := range entries {
		ours := strings.HasSuffix(e.Name(), snapshotSuffix) ||
			strings.Contains(e.Name(), snapshotSuffix+".") && strings.HasSuffix(e.Name(), temporarySuffix)
		if !ours {
			continue
		}
		if info, err := e.Info(); err != nil || now.Sub(info.ModTime()) < maxAge {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("removing an old snapshot: %w", err))
		}
	}
	return failed
}
