// Package customers keeps the customers of one partition: packed in memory, a
// record per customer, and in snapshots.
//
// It does no I/O: a snapshot is written to byte slices and read from an
// io.Reader.
package customers

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math"

	"github.com/churnstream/churnstream/internal/invariants"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// Table holds a Record per customer, by customer id. It is a hash table with
// open addressing over blocks in large chunks, none of which hold pointers: the
// garbage collector does not look into it, and a customer costs little more
// than the packed bytes.
//
// A block holds a record after its length. Blocks are multiples of a unit; one
// that is given back is kept for a record that needs as many units. Blocks
// never move, split or merge, so a walk over the chunks meets every record
// that does not change meanwhile.
//
// It is not safe for concurrent use.
type Table struct {
	packing packing
	levels  levels
	values  scoring.Vector // of the record being put, with the table's numbers
	packed  []byte         // the record being put
	scratch []byte         // an event id being unpacked
	checked checks

	seed   maphash.Seed
	slots  []slot // a power of two, at most three quarters full
	count  int
	chunks [][]byte
	// chunkBytes is a power of two, large enough for any record.
	chunkBytes int
	tail       int        // bytes of the last chunk in use
	free       [][]uint32 // positions of blocks given back, by units
}

// slot is a place in the hash table.
type slot struct {
	hash uint32
	at   uint32 // one more than the block's position in units; 0 = empty
}

const (
	unit          = 8
	minChunkBytes = 256 << 10
	minSlots      = 64
)

// NewTable returns an empty table for customers whose vectors are of a
// vocabulary.
func NewTable(v *scoring.Vocabulary) *Table {
	t := &Table{packing: newPacking(v.Spec()), levels: newLevels(v), seed: maphash.MakeSeed(), slots: make([]slot, minSlots), chunkBytes: minChunkBytes}
	for t.chunkBytes < t.packing.maxBytes()+binary.MaxVarintLen64+unit {
		t.chunkBytes *= 2
	}
	return t
}

// Len returns the number of customers.
func (t *Table) Len() int { return t.count }

// Put keeps the state that a score carries as its customer's record.
func (t *Table) Put(s *schemas.ChurnScore) { t.keep(s, math.MaxInt) }

// Accept is Put, unless a feature would come to have more levels than most among
// the customers, by this score: then it changes nothing and returns the feature.
// What it decides depends on the customers in the table alone.
func (t *Table) Accept(s *schemas.ChurnScore, most int) (full int, ok bool) { return t.keep(s, most) }

func (t *Table) keep(s *schemas.ChurnScore, most int) (full int, ok bool) {
	t.values = append(t.values[:0], s.Attributes...)
	t.levels.number(t.values, s.Levels)
	var before Record
	if t.count > 0 {
		before = t.Get(s.CustomerID)
	}
	if full, ok = t.levels.exchange(t.packing.levels(before, t.levels.before[:0]), t.values, most); !ok {
		return full, false
	}
	t.packed = t.packing.append(t.packed[:0], s, t.values)
	if invariants.Enabled {
		t.checkRecord(t.packed)
	}
	t.put(t.packed)
	return 0, true
}

// Unpack sets in s what a record of the table keeps of a score, and leaves the
// rest alone. It reuses the slices of s. Its byte slices are valid until the
// next call of Unpack, Put or Remove.
func (t *Table) Unpack(r Record, s *schemas.ChurnScore) {
	var err error
	if t.scratch, err = t.packing.unpack(r, s, t.scratch[:0]); err != nil {
		panic("customers: a record in memory: " + err.Error())
	}
	s.Levels = t.levels.vector(s.Attributes, s.Levels[:0])
}

// Levels returns how many levels of a categorical feature the customers have
// among them.
func (t *Table) Levels(feature int) int { return t.levels.held(feature) }

// Renumber has vectors come with the numbers that levels have got in the
// vocabulary since they were put. To be called before a model that has brought
// some is used.
func (t *Table) Renumber() { t.levels.renumber() }

// Bytes returns the memory in use.
func (t *Table) Bytes() int {
	n := len(t.slots)*8 + len(t.chunks)*t.chunkBytes + t.levels.bytes
	for _, positions := range t.free {
		n += 4 * cap(positions)
	}
	return n
}

// Get returns a customer's record, nil if there is none. It is valid until the
// next Put or Remove and must not be changed.
func (t *Table) Get(id []byte) Record {
	if at := t.slots[t.find(id, uint32(maphash.Bytes(t.seed, id)))].at; at != 0 {
		record, _ := t.record(at - 1)
		return record
	}
	return nil
}

// put sets a customer's record, which starts with the id and lies outside the
// table.
func (t *Table) put(record []byte) {
	id := Record(record).ID()
	hash := uint32(maphash.Bytes(t.seed, id))
	i := t.find(id, hash)
	need := units(len(record))
	if at := t.slots[i].at; at != 0 {
		if old, have := t.record(at - 1); have != need {
			t.give(at-1, have)
			t.slots[i].at = t.take(need) + 1
		} else {
			clear(old)
		}
		t.write(t.slots[i].at-1, record)
		return
	}
	at := t.take(need)
	t.write(at, record)
	t.slots[i] = slot{hash: hash, at: at + 1}
	if t.count++; t.count > len(t.slots)/4*3 {
		t.grow()
	}
	if invariants.Enabled {
		t.checkNow()
	}
}

// Remove forgets a customer, overwrites what was known, and reports whether
// anything was.
func (t *Table) Remove(id []byte) (was bool) {
	i := t.find(id, uint32(maphash.Bytes(t.seed, id)))
	at := t.slots[i].at
	if at == 0 {
		return false
	}
	record, have := t.record(at - 1)
	t.levels.release(t.packing.levels(record, t.levels.before[:0]))
	t.give(at-1, have)
	t.count--
	// Close the gap, so that no search ends at it too early: whatever may
	// stand here, as far as the next empty slot, moves up.
	mask := len(t.slots) - 1
	for j := (i + 1) & mask; t.slots[j].at != 0; j = (j + 1) & mask {
		home := int(t.slots[j].hash) & mask
		if (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = slot{}
	if invariants.Enabled {
		t.checkNow()
	}
	return true
}

// find returns the slot of a customer, or the empty one where it belongs.
func (t *Table) find(id []byte, hash uint32) int {
	mask := len(t.slots) - 1
	i := int(hash) & mask
	for ; t.slots[i].at != 0; i = (i + 1) & mask {
		if t.slots[i].hash == hash {
			if record, _ := t.record(t.slots[i].at - 1); bytes.Equal(record.ID(), id) {
				break
			}
		}
	}
	return i
}

func (t *Table) grow() {
	old := t.slots
	t.slots = make([]slot, 2*len(old))
	mask := len(t.slots) - 1
	for _, s := range old {
		if s.at == 0 {
			continue
		}
		i := int(s.hash) & mask
		for t.slots[i].at != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = s
	}
}

// units returns how many units the block of a record of n bytes takes.
func units(n int) int {
	width := 1
	for m := n; m >= 0x80; m >>= 7 {
		width++
	}
	return (width + n + unit - 1) / unit
}

// block returns the chunk from a position on.
func (t *Table) block(at uint32) []byte {
	perChunk := uint32(t.chunkBytes / unit)
	return t.chunks[at/perChunk][at%perChunk*unit:]
}

func (t *Table) record(at uint32) (record Record, have int) {
	b := t.block(at)
	n, width := binary.Uvarint(b)
	end := width + int(n)
	return b[width:end:end], (end + unit - 1) / unit
}

func (t *Table) write(at uint32, record []byte) {
	b := t.block(at)
	width := binary.PutUvarint(b, uint64(len(record)))
	copy(b[width:], record)
}

// give takes a block back. A block without a record starts with a zero and
// then its units; a chunk's unused end reads as one of no units.
func (t *Table) give(at uint32, have int) {
	b := t.block(at)
	clear(b[:have*unit])
	binary.PutUvarint(b[1:], uint64(have))
	for len(t.free) <= have {
		t.free = append(t.free, nil)
	}
	t.free[have] = append(t.free[have], at)
}

func (t *Table) take(need int) (at uint32) {
	if need < len(t.free) {
		if n := len(t.free[need]); n > 0 {
			at = t.free[need][n-1]
			t.free[need] = t.free[need][:n-1]
			clear(t.block(at)[:unit])
			return at
		}
	}
	if len(t.chunks) == 0 || t.tail+need*unit > t.chunkBytes {
		t.chunks = append(t.chunks, make([]byte, t.chunkBytes))
		t.tail = 0
	}
	at = uint32(((len(t.chunks)-1)*t.chunkBytes + t.tail) / unit)
	t.tail += need * unit
	return at
}

// Cursor is a place in a walk over a Table; the zero value is the start.
type Cursor struct{ chunk, at int }

// Next returns the next record of a walk, nil at its end. Between calls the
// table may change: a record that stays as it is is met once, one that changes
// once, twice or not at all.
func (t *Table) Next(from *Cursor) Record {
	for from.chunk < len(t.chunks) {
		chunk := t.chunks[from.chunk]
		end := len(chunk)
		if from.chunk == len(t.chunks)-1 {
			end = t.tail
		}
		for from.at < end {
			b := chunk[from.at:]
			n, width := binary.Uvarint(b)
			if n > 0 {
				stop := width + int(n)
				from.at += (stop + unit - 1) / unit * unit
				return b[width:stop:stop]
			}
			empty, _ := binary.Uvarint(b[1:])
			if empty == 0 {
				break
			}
			from.at += int(empty) * unit
		}
		if from.chunk == len(t.chunks)-1 {
			return nil // more may come after it
		}
		*from = Cursor{chunk: from.chunk + 1}
	}
	return nil
}
