package kafka

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// assignmentProtocol names the way in which our groups assign partitions, so
// that members of another way cannot join: they would not know that a partition
// may be worked on across a rebalance.
//
// It is that of KIP-429, incremental cooperative rebalancing: members keep
// working while they join, each says what it works on, and a partition that is
// to change hands is given to nobody until the member that has it has stopped
// and joined once more. Partitions stay where they are as far as balance allows.
// Partitions of one number go to the same member in all topics.
const assignmentProtocol = "cooperative-by-number"

// userData is what members and assignments carry beyond what Kafka defines.
type userData struct {
	// Partitions are the partition counts by topic that the member has seen,
	// so that a subscription differs when they do, or that the assignment
	// rests on.
	Partitions map[string]int `json:"partitions"`
}

// groupMember is a member as the leader sees it.
type groupMember struct {
	id, instance string
	topics       []string
	owned        map[string][]int
	generation   int32
}

// order is by what outlives a restart, where there is such.
func (m *groupMember) order(other *groupMember) int {
	return cmp.Or(cmp.Compare(m.instance, other.instance), cmp.Compare(m.id, other.id))
}

// encode writes user data; maps come out sorted.
func (u userData) encode() []byte {
	b, err := json.Marshal(u)
	if err != nil {
		panic("kafka: user data of a group: " + err.Error()) // it cannot fail
	}
	return b
}

// subscriptionOf returns what a member says of itself when it joins.
func subscriptionOf(topics []string, owned map[string][]int, generation int32, counts map[string]int) []byte {
	s := kmsg.NewConsumerMemberMetadata()
	s.Version, s.Topics, s.Generation = 2, topics, generation
	s.UserData = userData{counts}.encode()
	for _, topic := range slices.Sorted(maps.Keys(owned)) {
		o := kmsg.NewConsumerMemberMetadataOwnedPartition()
		o.Topic, o.Partitions = topic, numbers32(owned[topic])
		s.OwnedPartitions = append(s.OwnedPartitions, o)
	}
	return s.AppendTo(nil)
}

func readMember(m *kmsg.JoinGroupResponseMember) (*groupMember, error) {
	s := kmsg.NewConsumerMemberMetadata()
	if err := s.ReadFrom(m.ProtocolMetadata); err != nil {
		return nil, fmt.Errorf("subscription of member %q: %w", m.MemberID, err)
	}
	member := &groupMember{id: m.MemberID, topics: s.Topics, owned: map[string][]int{}, generation: s.Generation}
	if m.InstanceID != nil {
		member.instance = *m.InstanceID
	}
	for _, o := range s.OwnedPartitions {
		member.owned[o.Topic] = numbers(o.Partitions)
	}
	return member, nil
}

// leaderAssignments returns the assignments of all members, encoded.
func leaderAssignments(joined []kmsg.JoinGroupResponseMember, counts map[string]int) ([]kmsg.SyncGroupRequestGroupAssignment, error) {
	members := make([]*groupMember, len(joined))
	for i := range joined {
		var err error
		if members[i], err = readMember(&joined[i]); err != nil {
			return nil, err
		}
	}
	var all []kmsg.SyncGroupRequestGroupAssignment
	for id, partitions := range assign(members, counts) {
		to := kmsg.NewSyncGroupRequestGroupAssignment()
		to.MemberID, to.MemberAssignment = id, assignmentOf(partitions, counts)
		all = append(all, to)
	}
	return all, nil
}

func assignmentOf(partitions map[string][]int, counts map[string]int) []byte {
	a := kmsg.NewConsumerMemberAssignment()
	a.UserData = userData{counts}.encode()
	for _, topic := range slices.Sorted(maps.Keys(partitions)) {
		t := kmsg.NewConsumerMemberAssignmentTopic()
		t.Topic, t.Partitions = topic, numbers32(partitions[topic])
		a.Topics = append(a.Topics, t)
	}
	return a.AppendTo(nil)
}

// readAssignment returns a member's partitions and the partition counts that
// they were dealt out by. No bytes are no partitions.
func readAssignment(b []byte) (partitions map[string][]int, counts map[string]int, err error) {
	if len(b) == 0 {
		return nil, nil, nil
	}
	a := kmsg.NewConsumerMemberAssignment()
	if err := a.ReadFrom(b); err != nil {
		return nil, nil, fmt.Errorf("assignment: %w", err)
	}
	var data userData
	if err := json.Unmarshal(a.UserData, &data); err != nil {
		return nil, nil, fmt.Errorf("assignment: %w", err)
	}
	partitions = map[string][]int{}
	for _, t := range a.Topics {
		partitions[t.Topic] = numbers(t.Partitions)
	}
	return partitions, data.Partitions, nil
}

func numbers32(numbers []int) []int32 {
	out := make([]int32, len(numbers))
	for i, n := range numbers {
		out[i] = int32(n)
	}
	return out
}

func numbers(numbers []int32) []int {
	out := make([]int, len(numbers))
	for i, n := range numbers {
		out[i] = int(n)
	}
	return out
}

// assign deals out the partitions of topics, of which counts gives the number,
// and returns them by member id and topic. Every member gets an entry. The
// result depends on the arguments alone, not on their order.
func assign(members []*groupMember, counts map[string]int) map[string]map[string][]int {
	members = slices.SortedFunc(slices.Values(members), (*groupMember).order)
	owners := ownersByPartition(members)
	targets := spread(members, owners, counts)
	result := map[string]map[string][]int{}
	for _, m := range members {
		result[m.id] = map[string][]int{}
	}
	for _, topic := range slices.Sorted(maps.Keys(counts)) {
		subscribed := slices.DeleteFunc(slices.Clone(members), func(m *groupMember) bool { return !slices.Contains(m.topics, topic) })
		for n := range counts[topic] {
			m := targets[n]
			if !slices.Contains(subscribed, m) {
				if len(subscribed) == 0 {
					continue
				}
				m = subscribed[n%len(subscribed)]
			}
			if owner := owners[partitionOf{topic, n}]; owner != nil && owner != m {
				continue // until its owner has stopped
			}
			result[m.id][topic] = append(result[m.id][topic], n)
		}
	}
	return result
}

type partitionOf struct {
	topic  string
	number int
}

// ownersByPartition returns who works on what. Of several who say that they do,
// it is the one of the latest generation.
func ownersByPartition(members []*groupMember) map[partitionOf]*groupMember {
	owners := map[partitionOf]*groupMember{}
	for _, m := range members {
		for topic, numbers := range m.owned {
			for _, n := range numbers {
				p := partitionOf{topic, n}
				if other := owners[p]; other == nil || m.generation > other.generation {
					owners[p] = m
				}
			}
		}
	}
	return owners
}

// spread returns for each partition number the member that is to have it: as
// evenly as can be, and with that as many as can be where they are.
func spread(members []*groupMember, owners map[partitionOf]*groupMember, counts map[string]int) []*groupMember {
	numbers := 0
	for _, n := range counts {
		numbers = max(numbers, n)
	}
	targets := make([]*groupMember, numbers)
	if len(members) == 0 {
		return targets
	}
	topics := slices.Sorted(maps.Keys(counts))
	fair, extra := numbers/len(members), numbers%len(members) // extra members get one more
	have := map[*groupMember]int{}
	keep := func(limit int) {
		for n := range targets {
			if targets[n] != nil {
				continue
			}
			for _, topic := range topics {
				if m := owners[partitionOf{topic, n}]; m != nil {
					if have[m] < limit && (limit == fair || extra > 0) {
						targets[n] = m
						if have[m]++; have[m] > fair {
							extra--
						}
					}
					break
				}
			}
		}
	}
	keep(fair)
	keep(fair + 1)
	for _, limit := range []int{fair, fair + 1} {
		for _, m := range members {
			for n := 0; n < numbers && have[m] < limit; n++ {
				if targets[n] == nil {
					targets[n] = m
					have[m]++
				}
			}
		}
	}
	return targets
}
