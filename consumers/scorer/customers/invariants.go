package customers

import (
	"bytes"
	"fmt"

	"github.com/churnstream/churnstream/schemas"
)

// checks is what the checks of invariants reuse, so that they do not change
// what is allocated.
type checks struct {
	score   schemas.ChurnScore
	scratch []byte
	again   []byte
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
	if k.again = t.packing.append(k.again[:0], &k.score); !bytes.Equal(k.again, record) {
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
	for _, s := range t.slots {
		if s.at == 0 {
			continue
		}
		used++
		record, _ := t.record(s.at - 1)
		if i := t.find(record.ID(), s.hash); t.slots[i] != s {
			panic(fmt.Sprintf("customers: %q is not found in its slot", record.ID()))
		}
	}
	walked := 0
	for at := (Cursor{}); t.Next(&at) != nil; {
		walked++
	}
	if used != t.count || walked != t.count {
		panic(fmt.Sprintf("customers: %d are counted, %d in slots, %d on a walk", t.count, used, walked))
	}
}
