package monitor

import (
	"cmp"
	"slices"

	"github.com/churnstream/churnstream/scoring"
)

// place is where a row stands in a window: by time, and rows of one time in an
// order that has nothing to do with who the customers are. No two rows of a window
// have the same place, so a window is the same however its rows arrived.
type place struct {
	at       int64 // milliseconds since 1970
	hash     uint64
	customer string
}

func placeOf(at int64, customer string) place {
	return place{at: at, hash: scoring.Hash([]byte(customer)), customer: customer}
}

// mix is the finalizer of SplitMix64: hashes of ids that differ in their last
// letter differ little otherwise.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

func (p *place) compare(other *place) int {
	if p.at != other.at {
		return cmp.Compare(p.at, other.at)
	}
	return cmp.Or(cmp.Compare(mix(p.hash), mix(other.hash)), cmp.Compare(p.customer, other.customer))
}

func (p *place) where() *place { return p }

// placed is a row of a window.
type placed interface{ where() *place }

// newest holds the newest of the rows that were added and not removed: all that
// are newer than the newest that it had no room for. It has room for more rows
// than anybody looks at, so that as many may be removed before some are missed.
type newest[R placed] struct {
	room int
	rows []R // ascending
	// dropped is the newest place of a row that was left out; nil while none was.
	dropped *place
	changes uint64 // counts additions and removals
}

// find returns where a place is or would be.
func (n *newest[R]) find(p *place) (int, bool) {
	if k := len(n.rows); k == 0 || n.rows[k-1].where().compare(p) < 0 {
		return k, false // as most are
	}
	return slices.BinarySearchFunc(n.rows, p, func(r R, p *place) int { return r.where().compare(p) })
}

// admits reports whether a row of a place would be among the newest.
func (n *newest[R]) admits(p *place) bool {
	if n.dropped != nil && n.dropped.compare(p) >= 0 {
		return false
	}
	return len(n.rows) < n.room || n.rows[0].where().compare(p) <= 0
}

// drop notes that a row was left out that is not admitted.
func (n *newest[R]) drop(p *place) {
	if n.dropped == nil || n.dropped.compare(p) < 0 {
		n.dropped = p
	}
}

// add adds a row, which takes the place of the one that is there. It reports
// whether the row is among the newest.
func (n *newest[R]) add(r R) bool {
	p := r.where()
	if !n.admits(p) {
		n.drop(p)
		return false
	}
	n.changes++
	i, there := n.find(p)
	switch {
	case there:
		n.rows[i] = r
	case len(n.rows) < n.room:
		n.rows = slices.Insert(n.rows, i, r)
	default:
		n.dropped = n.rows[0].where()
		copy(n.rows, n.rows[1:i])
		n.rows[i-1] = r
	}
	return true
}

// remove removes the row at a place, if it is among the newest.
func (n *newest[R]) remove(p *place) (removed bool) {
	i, there := n.find(p)
	if there {
		n.rows = slices.Delete(n.rows, i, i+1)
		n.changes++
	}
	return there
}

// forget has rows taken again that there was no room for.
func (n *newest[R]) forget() { n.dropped = nil }

// rows are the newest of a window at a moment, ascending. They are not changed any
// more.
type rows[R placed] struct {
	of      *newest[R]
	changes uint64
	rows    []R
}

// same reports whether they are the rows of one moment.
func (r rows[R]) same(other rows[R]) bool { return r.of == other.of && r.changes == other.changes }

// show returns the newest k rows, or those shown before if none has changed since.
func (n *newest[R]) show(k int, before rows[R]) rows[R] {
	if before.of == n && before.changes == n.changes {
		return before
	}
	return rows[R]{n, n.changes, slices.Clone(n.rows[max(0, len(n.rows)-k):])}
}

// lacks reports whether there were more rows than are known, so that the newest
// k are not.
func (n *newest[R]) lacks(k int) bool { return n.dropped != nil && len(n.rows) < k }
