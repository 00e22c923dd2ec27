package monitor

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// A window is the newest of the rows there are, whatever came in which order, until
// more was removed than it had in reserve; and then it says so.
func TestNewestInAnyOrder(t *testing.T) {
	const want = 5
	lacked := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 7))
		n := newest[*example]{room: want + 3}
		there := map[place]*example{}
		for range 200 {
			// Few times, so that many rows have the same.
			p := placeOf(rng.Int64N(6), strconv.Itoa(rng.IntN(8)))
			if rng.IntN(3) == 0 {
				delete(there, p)
				n.remove(&p)
			} else {
				e := &example{place: p}
				there[p] = e
				n.add(e)
			}
			all := make([]*example, 0, len(there))
			for _, e := range there {
				all = append(all, e)
			}
			slices.SortFunc(all, func(a, b *example) int { return a.compare(&b.place) })
			if n.lacks(want) {
				lacked++
				n = newest[*example]{room: want + 3} // read once more
				rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				for _, e := range all {
					n.add(e)
				}
				slices.SortFunc(all, func(a, b *example) int { return a.compare(&b.place) })
			}
			got := n.show(want, rows[*example]{})
			if !slices.Equal(got.rows, all[max(0, len(all)-want):]) {
				t.Fatalf("seed %d: %d rows, not the newest of %d", seed, len(got.rows), len(all))
			}
			if n.lacks(want) {
				t.Fatalf("seed %d: it still lacks rows", seed)
			}
		}
	}
	if lacked == 0 {
		t.Error("the windows never lacked a row: the test is too easy")
	}
}

// What has not changed is not copied.
func TestShownOnce(t *testing.T) {
	n := newest[*example]{room: 3}
	n.add(&example{place: placeOf(1, "ann")})
	first := n.show(2, rows[*example]{})
	if second := n.show(2, first); &second.rows[0] != &first.rows[0] {
		t.Error("copied though nothing has changed")
	}
	n.add(&example{place: placeOf(2, "ann")})
	if third := n.show(2, first); third.same(first) || len(third.rows) != 2 || len(first.rows) != 1 {
		t.Error("a change is not shown, or changes what was shown before")
	}
}

// Customers whose ids ascend do not come into the window in their order.
func TestTiesAreNotByID(t *testing.T) {
	n := newest[*example]{room: 500}
	for i := range 1000 {
		n.add(&example{place: placeOf(1, "customer-"+strconv.Itoa(10000+i))})
	}
	late := 0
	for _, e := range n.rows {
		if e.customer >= "customer-10500" {
			late++
		}
	}
	if late < 200 || late > 300 {
		t.Errorf("%d of 500 are of the second half of the ids", late)
	}
}
