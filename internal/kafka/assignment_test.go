package kafka

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// group plays the members of a group through the protocol, without a broker.
type group struct {
	generation int32
	counts     map[string]int
	members    map[string]*groupMember
}

func (g *group) add(id string) {
	g.members[id] = &groupMember{id: id, topics: slices.Collect(maps.Keys(g.counts)), generation: -1}
}

// rebalance lets all members join until nobody has to give anything up, and
// returns how many partitions changed hands or were taken up.
func (g *group) rebalance(t *testing.T) (moved int) {
	t.Helper()
	for round := 0; ; round++ {
		if round > 2 {
			t.Fatal("still not settled after three generations")
		}
		g.generation++
		given := assign(slices.Collect(maps.Values(g.members)), g.counts)
		again := false
		for id, m := range g.members {
			for topic, numbers := range m.owned {
				for _, n := range numbers {
					again = again || !slices.Contains(given[id][topic], n)
				}
			}
			for topic, numbers := range given[id] {
				for _, n := range numbers {
					if !slices.Contains(m.owned[topic], n) {
						moved++
					}
					for other, o := range g.members {
						if other != id && slices.Contains(o.owned[topic], n) {
							t.Fatalf("%s was given %s/%d while %s works on it", id, topic, n, other)
						}
					}
				}
			}
		}
		for id, m := range g.members {
			m.owned, m.generation = given[id], g.generation
		}
		if !again {
			return moved
		}
	}
}

// check holds what the members have against what a group promises.
func (g *group) check(t *testing.T) {
	t.Helper()
	numbers := 0
	for _, n := range g.counts {
		numbers = max(numbers, n)
	}
	seen := map[partitionOf]string{}
	for id, m := range g.members {
		var mine []int
		for topic, list := range m.owned {
			for _, n := range list {
				p := partitionOf{topic, n}
				if other, ok := seen[p]; ok {
					t.Errorf("%s/%d is both %s's and %s's", topic, n, id, other)
				}
				seen[p] = id
				mine = append(mine, n)
			}
		}
		slices.Sort(mine)
		if n := len(slices.Compact(mine)); n < numbers/len(g.members) || n > (numbers+len(g.members)-1)/len(g.members) {
			t.Errorf("%s has %d numbers of %d among %d members", id, n, numbers, len(g.members))
		}
	}
	for topic, count := range g.counts {
		for n := range count {
			if seen[partitionOf{topic, n}] == "" {
				t.Errorf("%s/%d is nobody's", topic, n)
			}
			for other, more := range g.counts {
				if n < more && seen[partitionOf{topic, n}] != seen[partitionOf{other, n}] {
					t.Errorf("number %d is split over members", n)
				}
			}
		}
	}
}

// Members come, go and restart, and topics grow, at random.
func TestAssignments(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			g := &group{counts: map[string]int{"events": 1 + r.IntN(13), "outcomes": 1 + r.IntN(13)}, members: map[string]*groupMember{}}
			g.add("m0")
			for step := 1; step < 15; step++ {
				switch id := fmt.Sprint("m", r.IntN(5)); {
				case g.members[id] == nil:
					g.add(id)
				case r.IntN(4) == 0:
					g.counts["events"]++
				case r.IntN(3) == 0: // lost what it had
					g.members[id].owned, g.members[id].generation = nil, -1
				case len(g.members) > 1:
					delete(g.members, id)
				}
				g.rebalance(t)
				g.check(t)
				if moved := g.rebalance(t); moved != 0 {
					t.Errorf("%d partitions moved though nothing had changed", moved)
				}
			}
		})
	}
}

// What one member more moves is what it gets.
func TestAssignmentSticks(t *testing.T) {
	g := &group{counts: map[string]int{"events": 12}, members: map[string]*groupMember{}}
	for i, want := range []int{12, 6, 4, 3} {
		g.add(fmt.Sprint("m", i))
		if moved := g.rebalance(t); moved != want {
			t.Errorf("member %d: %d partitions moved, want %d", i, moved, want)
		}
	}
	delete(g.members, "m1")
	if moved := g.rebalance(t); moved != 3 {
		t.Errorf("%d partitions moved when a member left that had 3", moved)
	}
}

// Of two that say they work on a partition, the one of the older generation has
// been given up in between.
func TestOwnerOfTheLatestGeneration(t *testing.T) {
	members := []*groupMember{
		{id: "old", topics: []string{"events"}, owned: map[string][]int{"events": {0, 1}}, generation: 3},
		{id: "new", topics: []string{"events"}, owned: map[string][]int{"events": {0, 1}}, generation: 5},
	}
	for range 2 {
		got := assign(members, map[string]int{"events": 2})
		if len(got["old"]["events"]) != 0 || !slices.Equal(got["new"]["events"], []int{0}) {
			t.Errorf("assigned %v", got)
		}
		slices.Reverse(members)
	}
}

func TestSubscriptionAndAssignmentRoundTrip(t *testing.T) {
	counts := map[string]int{"events": 6, "outcomes": 3}
	owned := map[string][]int{"events": {1, 4}, "outcomes": {1}}
	instance := "pod-1"
	m, err := readMember(&kmsg.JoinGroupResponseMember{
		MemberID: "m", InstanceID: &instance, ProtocolMetadata: subscriptionOf([]string{"events", "outcomes"}, owned, 7, counts),
	})
	if err != nil {
		t.Fatal(err)
	}
	if m.id != "m" || m.instance != instance || m.generation != 7 || !maps.EqualFunc(m.owned, owned, slices.Equal[[]int]) {
		t.Errorf("read %+v", m)
	}
	partitions, got, err := readAssignment(assignmentOf(owned, counts))
	if err != nil || !maps.EqualFunc(partitions, owned, slices.Equal[[]int]) || !maps.Equal(got, counts) {
		t.Errorf("read %v, %v, %v", partitions, got, err)
	}
	if partitions, got, err := readAssignment(nil); err != nil || len(partitions) != 0 || got != nil {
		t.Errorf("no assignment was read as %v, %v, %v", partitions, got, err)
	}
}

// Bytes of another client are refused, not believed.
func FuzzAssignment(f *testing.F) {
	counts := map[string]int{"events": 2}
	f.Add(subscriptionOf([]string{"events"}, map[string][]int{"events": {0}}, 1, counts))
	f.Add(assignmentOf(map[string][]int{"events": {0}}, counts))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if m, err := readMember(&kmsg.JoinGroupResponseMember{MemberID: "m", ProtocolMetadata: b}); err == nil {
			assign([]*groupMember{m}, counts)
		}
		_, _, _ = readAssignment(b)
	})
}

func TestSkipTags(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want int // bytes left, −1 for an error
	}{
		{"none", []byte{0, 9, 9}, 2},
		{"two", []byte{2, 0, 1, 7, 5, 2, 7, 7, 9}, 1},
		{"cut", []byte{1, 0, 3, 7}, -1},
		{"empty", nil, -1},
		{"endless", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0}, -1},
	} {
		rest, err := skipTags(c.in)
		if c.want < 0 != (err != nil) || err == nil && len(rest) != c.want {
			t.Errorf("%s: %d bytes left, %v", c.name, len(rest), err)
		}
	}
}
