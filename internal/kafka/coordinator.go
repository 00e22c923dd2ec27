package kafka

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// coordinator is the broker that coordinates one group, whichever it is at the
// moment. It is safe for concurrent use.
type coordinator struct {
	c     *Cluster
	group string

	mu   sync.Mutex
	addr string // "" until it is known
}

// identity is what a request about a member says of it.
type identity struct {
	member     string // "" before the coordinator has given one
	instance   string // "" for a dynamic member
	generation int32
}

func (id identity) instancePointer() *string {
	if id.instance == "" {
		return nil
	}
	return &id.instance
}

// ask makes one exchange with the coordinator, which may take until limit.
func ask[R kmsg.Response](ctx context.Context, g *coordinator, limit time.Duration, req kmsg.Request) (res R, err error) {
	addr, err := g.address(ctx)
	if err != nil {
		return res, err
	}
	err = g.c.conns.do(ctx, addr, limit, func(conn *conn) error {
		m, err := conn.exchange(req)
		if err == nil {
			res = m.(R)
		}
		return err
	})
	if err != nil {
		g.forget(addr)
	}
	return res, err
}

// check turns an error code into an error, nil for none. After one that says so
// the coordinator is looked for anew.
func (g *coordinator) check(code int16) error {
	switch e := kafkago.Error(code); e {
	case 0:
		return nil
	case kafkago.NotCoordinatorForGroup, kafkago.GroupCoordinatorNotAvailable:
		g.forget("")
		return e
	default:
		return e
	}
}

// forget forgets the coordinator's address, if it is still this one; "" stands
// for any.
func (g *coordinator) forget(addr string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if addr == "" || g.addr == addr {
		g.addr = ""
	}
}

func (g *coordinator) address(ctx context.Context) (string, error) {
	g.mu.Lock()
	addr := g.addr
	g.mu.Unlock()
	if addr != "" {
		return addr, nil
	}
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.CoordinatorKey = g.group
	res, err := exchangeAny[*kmsg.FindCoordinatorResponse](ctx, g.c, req)
	if err == nil && res.ErrorCode != 0 {
		err = kafkago.Error(res.ErrorCode)
	}
	if err != nil {
		return "", fmt.Errorf("looking for the coordinator of group %q: %w", g.group, err)
	}
	addr = net.JoinHostPort(res.Host, strconv.Itoa(int(res.Port)))
	g.mu.Lock()
	g.addr = addr
	g.mu.Unlock()
	return addr, nil
}

// protocolType is that of all groups of consumers.
const protocolType = "consumer"

// join asks to be part of the next generation and waits until all others have
// done so too, or are given up.
func (g *coordinator) join(ctx context.Context, cfg *GroupConfig, id identity, subscription []byte) (*kmsg.JoinGroupResponse, error) {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group = g.group
	req.SessionTimeoutMillis = int32(cfg.SessionTimeout.Milliseconds())
	req.RebalanceTimeoutMillis = int32(cfg.RebalanceTimeout.Milliseconds())
	req.MemberID, req.InstanceID = id.member, id.instancePointer()
	req.ProtocolType = protocolType
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = assignmentProtocol, subscription
	req.Protocols = append(req.Protocols, p)
	res, err := ask[*kmsg.JoinGroupResponse](ctx, g, cfg.RebalanceTimeout+g.c.cfg.RequestTimeout, req)
	if err != nil {
		return nil, err
	}
	return res, g.check(res.ErrorCode)
}

// sync hands over the assignments, which only the leader has, and returns this
// member's.
func (g *coordinator) sync(ctx context.Context, cfg *GroupConfig, id identity, assignments []kmsg.SyncGroupRequestGroupAssignment) ([]byte, error) {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.Generation = g.group, id.generation
	req.MemberID, req.InstanceID = id.member, id.instancePointer()
	req.ProtocolType, req.Protocol = kmsg.StringPtr(protocolType), kmsg.StringPtr(assignmentProtocol)
	req.GroupAssignment = assignments
	res, err := ask[*kmsg.SyncGroupResponse](ctx, g, cfg.RebalanceTimeout+g.c.cfg.RequestTimeout, req)
	if err != nil {
		return nil, err
	}
	return res.MemberAssignment, g.check(res.ErrorCode)
}

func (g *coordinator) heartbeat(ctx context.Context, id identity) error {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.Generation = g.group, id.generation
	req.MemberID, req.InstanceID = id.member, id.instancePointer()
	res, err := ask[*kmsg.HeartbeatResponse](ctx, g, g.c.cfg.RequestTimeout, req)
	if err != nil {
		return err
	}
	return g.check(res.ErrorCode)
}

func (g *coordinator) leave(ctx context.Context, id identity) error {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = g.group, id.member // before version 3
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID, m.InstanceID = id.member, id.instancePointer()
	req.Members = append(req.Members, m)
	res, err := ask[*kmsg.LeaveGroupResponse](ctx, g, g.c.cfg.RequestTimeout, req)
	if err != nil {
		return err
	}
	return g.check(res.ErrorCode)
}

// groupOffset is what a group has committed of a partition.
type groupOffset struct {
	offset int64
	note   string
}

var nowhere = groupOffset{offset: -1}

// commit stores the group's position in one partition.
func (g *coordinator) commit(ctx context.Context, id identity, topic string, partition int, at groupOffset) error {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = g.group, id.generation
	req.MemberID, req.InstanceID = id.member, id.instancePointer()
	t, p := kmsg.NewOffsetCommitRequestTopic(), kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset = int32(partition), at.offset
	if at.note != "" {
		p.Metadata = &at.note
	}
	t.Topic, t.Partitions = topic, append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	res, err := ask[*kmsg.OffsetCommitResponse](ctx, g, g.c.cfg.RequestTimeout, req)
	if err != nil {
		return err
	}
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			if err := g.check(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

// committed returns the group's positions in partitions, where there are any.
func (g *coordinator) committed(ctx context.Context, partitions map[string][]int) (map[string]map[int]groupOffset, error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = g.group
	for topic, numbers := range partitions {
		t := kmsg.NewOffsetFetchRequestTopic()
		t.Topic = topic
		for _, n := range numbers {
			t.Partitions = append(t.Partitions, int32(n))
		}
		req.Topics = append(req.Topics, t)
	}
	res, err := ask[*kmsg.OffsetFetchResponse](ctx, g, g.c.cfg.RequestTimeout, req)
	if err != nil {
		return nil, err
	}
	if err := g.check(res.ErrorCode); err != nil {
		return nil, err
	}
	offsets := map[string]map[int]groupOffset{}
	for _, t := range res.Topics {
		offsets[t.Topic] = map[int]groupOffset{}
		for _, p := range t.Partitions {
			if err := g.check(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, err)
			}
			if p.Offset < 0 {
				continue
			}
			at := groupOffset{offset: p.Offset}
			if p.Metadata != nil {
				at.note = *p.Metadata
			}
			offsets[t.Topic][int(p.Partition)] = at
		}
	}
	return offsets, nil
}
