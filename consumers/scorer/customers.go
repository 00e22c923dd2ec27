package scorer

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
)

// customers holds packed records by customer id. It is a hash table with open
// addressing over blocks in large chunks, none of which hold pointers: the
// garbage collector does not look into it, and a customer costs little more
// than the packed bytes.
//
// A block holds a record behind its length. Blocks are multiples of a unit;
// one that is given back is kept for a record that needs as many units. Blocks
// never move, split or merge, so a walk over the chunks meets every record
// that does not change meanwhile.
type customers struct {
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

// newCustomers returns an empty table for records of at most maxRecord bytes.
func newCustomers(maxRecord int) *customers {
	c := &customers{seed: maphash.MakeSeed(), slots: make([]slot, minSlots), chunkBytes: minChunkBytes}
	for c.chunkBytes < maxRecord+binary.MaxVarintLen64+unit {
		c.chunkBytes *= 2
	}
	return c
}

func (c *customers) len() int { return c.count }

// bytes returns the memory in use.
func (c *customers) bytes() int {
	n := len(c.slots)*8 + len(c.chunks)*c.chunkBytes
	for _, positions := range c.free {
		n += 4 * cap(positions)
	}
	return n
}

// get returns a customer's record, nil if there is none. It is valid until the
// next put or remove and must not be changed.
func (c *customers) get(id []byte) []byte {
	if at := c.slots[c.find(id, uint32(maphash.Bytes(c.seed, id)))].at; at != 0 {
		record, _ := c.record(at - 1)
		return record
	}
	return nil
}

// put sets a customer's record, which starts with the id and lies outside the
// table.
func (c *customers) put(record []byte) {
	id := packedID(record)
	hash := uint32(maphash.Bytes(c.seed, id))
	i := c.find(id, hash)
	need := units(len(record))
	if at := c.slots[i].at; at != 0 {
		if old, have := c.record(at - 1); have != need {
			c.give(at-1, have)
			c.slots[i].at = c.take(need) + 1
		} else {
			clear(old)
		}
		c.write(c.slots[i].at-1, record)
		return
	}
	at := c.take(need)
	c.write(at, record)
	c.slots[i] = slot{hash: hash, at: at + 1}
	if c.count++; c.count > len(c.slots)/4*3 {
		c.grow()
	}
}

// remove forgets a customer, overwrites what was known, and tells whether
// anything was.
func (c *customers) remove(id []byte) (was bool) {
	i := c.find(id, uint32(maphash.Bytes(c.seed, id)))
	at := c.slots[i].at
	if at == 0 {
		return false
	}
	_, have := c.record(at - 1)
	c.give(at-1, have)
	c.count--
	// Close the gap, so that no search ends at it too early: whatever may
	// stand here, as far as the next empty slot, moves up.
	mask := len(c.slots) - 1
	for j := (i + 1) & mask; c.slots[j].at != 0; j = (j + 1) & mask {
		home := int(c.slots[j].hash) & mask
		if (j-home)&mask >= (j-i)&mask {
			c.slots[i] = c.slots[j]
			i = j
		}
	}
	c.slots[i] = slot{}
	return true
}

// find returns the slot of a customer, or the empty one where it belongs.
func (c *customers) find(id []byte, hash uint32) int {
	mask := len(c.slots) - 1
	i := int(hash) & mask
	for ; c.slots[i].at != 0; i = (i + 1) & mask {
		if c.slots[i].hash == hash {
			if record, _ := c.record(c.slots[i].at - 1); bytes.Equal(packedID(record), id) {
				break
			}
		}
	}
	return i
}

func (c *customers) grow() {
	old := c.slots
	c.slots = make([]slot, 2*len(old))
	mask := len(c.slots) - 1
	for _, s := range old {
		if s.at == 0 {
			continue
		}
		i := int(s.hash) & mask
		for c.slots[i].at != 0 {
			i = (i + 1) & mask
		}
		c.slots[i] = s
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
func (c *customers) block(at uint32) []byte {
	perChunk := uint32(c.chunkBytes / unit)
	return c.chunks[at/perChunk][at%perChunk*unit:]
}

func (c *customers) record(at uint32) (record []byte, have int) {
	b := c.block(at)
	n, width := binary.Uvarint(b)
	end := width + int(n)
	return b[width:end:end], (end + unit - 1) / unit
}

func (c *customers) write(at uint32, record []byte) {
	b := c.block(at)
	width := binary.PutUvarint(b, uint64(len(record)))
	copy(b[width:], record)
}

// give takes a block back. A block without a record starts with a zero and
// tells its units; a chunk's unused end reads as one of no units.
func (c *customers) give(at uint32, have int) {
	b := c.block(at)
	clear(b[:have*unit])
	binary.PutUvarint(b[1:], uint64(have))
	for len(c.free) <= have {
		c.free = append(c.free, nil)
	}
	c.free[have] = append(c.free[have], at)
}

func (c *customers) take(need int) (at uint32) {
	if need < len(c.free) {
		if n := len(c.free[need]); n > 0 {
			at = c.free[need][n-1]
			c.free[need] = c.free[need][:n-1]
			clear(c.block(at)[:unit])
			return at
		}
	}
	if len(c.chunks) == 0 || c.tail+need*unit > c.chunkBytes {
		c.chunks = append(c.chunks, make([]byte, c.chunkBytes))
		c.tail = 0
	}
	at = uint32(((len(c.chunks)-1)*c.chunkBytes + c.tail) / unit)
	c.tail += need * unit
	return at
}

// cursor is a place in a walk over customers; the zero value is the start.
type cursor struct{ chunk, at int }

// next returns the next record of a walk, nil at its end. Between calls the
// table may change: a record that stays as it is is met once, one that changes
// once, twice or not at all.
func (c *customers) next(from *cursor) []byte {
	for from.chunk < len(c.chunks) {
		chunk := c.chunks[from.chunk]
		end := len(chunk)
		if from.chunk == len(c.chunks)-1 {
			end = c.tail
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
		if from.chunk == len(c.chunks)-1 {
			return nil // more may come behind
		}
		*from = cursor{chunk: from.chunk + 1}
	}
	return nil
}
