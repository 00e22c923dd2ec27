package customers

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/churnstream/churnstream/schemas"
)

// checks is what the checks of invariants reuse, so that they do not change
// what is allocated.
type checks struct {
	score   schemas.ChurnScore
	scratch []byte
	again   []byte
	levels  []uint32
	counts  [][]int // by feature and number
	changes int
}

// checkRecord panics unless a record says after unpacking and packing what it
// said before.
func (t *Table) checkRecord(record []byte) {
	k := &t.checked
	var err error
	if k.scratch, err = t.packing.unpack(record, &k.score, k.scratch[:0]); err != nil {
		panic(fmt.Sprintf("customers: packed %x cannot be unpacked", record))
	}
	if k.again = t.packing.append(k.again[:0], &k.score, k.score.Attributes); !bytes.Equal(k.again, record) {
		panic(fmt.Sprintf("customers: packed %x is %x after unpacking", record, k.again))
	}
}

// checkNow panics if the table does not hold together. It looks after ever more
// changes, so that looking costs no more than they do.
func (t *Table) checkNow() {
	k := &t.checked
	if k.changes++; k.changes < len(t.slots) {
		return
	}
	k.changes = 0
	used := 0
	for len(k.counts) < len(t.levels.features) {
		k.counts = append(k.counts, nil)
	}
	for f := range t.levels.features {
		n := len(t.levels.features[f].levels)
		k.counts[f] = slices.Grow(k.counts[f][:0], n)[:n]
		clear(k.counts[f])
	}
	for _, s := range t.slots {
		if s.at == 0 {
			continue
		}
		used++
		record, _ := t.record(s.at - 1)
		if i := t.find(record.ID(), s.hash); t.slots[i] != s {
			panic(fmt.Sprintf("customers: %q is not found in its slot", record.ID()))
		}
		k.levels = t.packing.levels(record, k.levels[:0])
		for f, n := range k.levels {
			if n > 0 {
				k.counts[f][n-1]++
			}
		}
	}
	walked := 0
	for at := (Cursor{}); t.Next(&at) != nil; {
		walked++
	}
	if used != t.count || walked != t.count {
		panic(fmt.Sprintf("customers: %d are counted, %d in slots, %d on a walk", t.count, used, walked))
	}
	for f := range t.levels.features {
		have, held := &t.levels.features[f], 0
		for n, customers := range k.counts[f] {
			if have.levels[n].customers != customers {
				panic(fmt.Sprintf("customers: feature %d: level %q is counted %d times, and had %d times", f, have.levels[n].name, have.levels[n].customers, customers))
			}
			if customers > 0 {
				held++
			}
		}
		if have.held != held || held != len(have.byName) || held+len(have.free) != len(have.levels) {
			panic(fmt.Sprintf("customers: feature %d: %d levels are counted, %d had, %d named, %d numbered, %d free",
				f, have.held, held, len(have.byName), len(have.levels), len(have.free)))
		}
	}
}
