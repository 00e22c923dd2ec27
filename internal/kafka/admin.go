package kafka

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/retry"
)

// TopicID is what distinguishes a topic from another of the same name: one that was
// deleted and created anew has another id (KIP-516). The zero value is that of
// a broker that knows no ids.
type TopicID [16]byte

// String returns the id as 32 hexadecimal digits, "" for the zero value.
func (id TopicID) String() string {
	if id == (TopicID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// ParseTopicID is the reverse of String.
func ParseTopicID(s string) (TopicID, error) {
	if s == "" {
		return TopicID{}, nil
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(TopicID{}) {
		return TopicID{}, fmt.Errorf("topic id %q: not 32 hexadecimal digits", s)
	}
	return TopicID(b), nil
}

// TopicID returns the id of a topic. It waits while the cluster is down and
// fails with ErrUnknownTopic when the cluster has no such topic.
func (c *Cluster) TopicID(ctx context.Context, topic string) (TopicID, error) {
	var id TopicID
	err := c.retry(ctx, "metadata", fmt.Sprintf("asking for the id of topic %q", topic), func(ctx context.Context) error {
		req := kmsg.NewPtrMetadataRequest()
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &topic
		req.Topics = append(req.Topics, t)
		res, err := exchangeAny[*kmsg.MetadataResponse](ctx, c, req)
		if err != nil {
			return err
		}
		if len(res.Topics) != 1 {
			return fmt.Errorf("an answer about %d topics", len(res.Topics))
		}
		switch code := kafkago.Error(res.Topics[0].ErrorCode); code {
		case 0:
			id = res.Topics[0].TopicID
			return nil
		case kafkago.UnknownTopicOrPartition:
			return retry.Permanent(ErrUnknownTopic)
		default:
			return code
		}
	})
	return id, err
}

// ErrMorePartitions means that a topic has more partitions than it was to get.
// Partitions cannot be taken away.
var ErrMorePartitions = errors.New("the topic has more partitions already")

// GrowTopic adds partitions to a topic until it has as many as given, and
// returns when each has a leader. It waits while the cluster is down. A topic
// that has them already is left as it is; one that has more is
// ErrMorePartitions, one that does not exist ErrUnknownTopic.
func (c *Cluster) GrowTopic(ctx context.Context, topic string, partitions int) error {
	asked := false
	return c.retry(ctx, "create_partitions", fmt.Sprintf("adding partitions to topic %q", topic), func(ctx context.Context) error {
		meta, err := c.metadata(ctx, topic)
		if err != nil {
			return err
		}
		there, err := topicPartitions(meta, topic)
		switch {
		case errors.Is(err, ErrUnknownTopic):
			return retry.Permanent(err)
		case err != nil:
			return err
		case len(there) == partitions:
			return led(topic, there)
		case len(there) > partitions:
			return retry.Permanent(fmt.Errorf("topic %q: %w: %d, not %d", topic, ErrMorePartitions, len(there), partitions))
		}
		res, err := c.client.CreatePartitions(ctx, &kafkago.CreatePartitionsRequest{
			Topics: []kafkago.TopicPartitionsConfig{{Name: topic, Count: int32(partitions)}},
		})
		if err == nil {
			err = res.Errors[topic]
		}
		if err == nil || asked && errors.Is(err, kafkago.InvalidPartitionNumber) {
			// They are there, but not yet in what this broker knows.
			asked = true
			err = fmt.Errorf("topic %q: %w", topic, kafkago.LeaderNotAvailable)
		}
		return err
	})
}

// TopicSettings returns the settings of topics, by topic and by Kafka's names,
// those included that are the broker's defaults. Topics that do not exist are
// left out; those whose settings this user may not see have nil, which is logged.
// It waits while the cluster is down.
func (c *Cluster) TopicSettings(ctx context.Context, topics ...string) (map[string]map[string]string, error) {
	settings := map[string]map[string]string{}
	err := c.retry(ctx, "describe_configs", "asking for the settings of topics", func(ctx context.Context) error {
		req := kmsg.NewPtrDescribeConfigsRequest()
		for _, topic := range topics {
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
			req.Resources = append(req.Resources, r)
		}
		res, err := exchangeAny[*kmsg.DescribeConfigsResponse](ctx, c, req)
		if err != nil {
			return err
		}
		clear(settings)
		for _, r := range res.Resources {
			switch code := kafkago.Error(r.ErrorCode); code {
			case 0:
			case kafkago.UnknownTopicOrPartition:
				continue
			case kafkago.TopicAuthorizationFailed:
				c.log.Warn("this user may not look at a topic's settings, which go unchecked; allow DescribeConfigs", "topic", r.ResourceName)
				settings[r.ResourceName] = nil
				continue
			default:
				return fmt.Errorf("topic %q: %w", r.ResourceName, code)
			}
			settings[r.ResourceName] = map[string]string{}
			for _, entry := range r.Configs {
				if entry.Value != nil {
					settings[r.ResourceName][entry.Name] = *entry.Value
				}
			}
		}
		return nil
	})
	return settings, err
}

// GroupMembers returns how many members a consumer group has at the moment, 0
// also for one that does not exist. It waits while the cluster is down, but fails
// with ErrNotAllowed when this user may not look at the group.
func (c *Cluster) GroupMembers(ctx context.Context, group string) (int, error) {
	n := 0
	g := &coordinator{c: c, group: group}
	err := c.retry(ctx, "describe_groups", fmt.Sprintf("asking for the members of group %q", group), func(ctx context.Context) error {
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Groups = []string{group}
		res, err := ask[*kmsg.DescribeGroupsResponse](ctx, g, c.cfg.RequestTimeout, req)
		if err != nil {
			return notAllowed(err)
		}
		if len(res.Groups) != 1 {
			return fmt.Errorf("an answer about %d groups", len(res.Groups))
		}
		n = len(res.Groups[0].Members)
		err = g.check(res.Groups[0].ErrorCode)
		if errors.Is(err, kafkago.GroupIdNotFound) {
			n, err = 0, nil
		}
		return notAllowed(err)
	})
	return n, err
}

// ErrNotAllowed means that this user has not the right to what was asked for.
var ErrNotAllowed = errors.New("not allowed")

func notAllowed(err error) error {
	if errors.Is(err, kafkago.GroupAuthorizationFailed) {
		return retry.Permanent(fmt.Errorf("%w: %w", ErrNotAllowed, err))
	}
	return err
}

// exchangeAny makes one exchange with any broker that answers.
func exchangeAny[R kmsg.Response](ctx context.Context, c *Cluster, req kmsg.Request) (res R, err error) {
	err = errors.New("no brokers")
	for _, i := range rand.Perm(len(c.cfg.Brokers)) {
		err = c.conns.do(ctx, c.cfg.Brokers[i], c.cfg.RequestTimeout, func(conn *conn) error {
			m, err := conn.exchange(req)
			if err == nil {
				res = m.(R)
			}
			return err
		})
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return res, err
}

// EpochEnd returns the offset at which the partition's log ends as of a leader
// epoch, so far as its leader of today knows (KIP-101): a log that a reader has
// read beyond it, under that epoch, has been cut off since. It is −1 when the
// leader cannot say. It waits while the cluster is down.
func (c *Cluster) EpochEnd(ctx context.Context, topic string, partition int, epoch int32) (end int64, err error) {
	what := fmt.Sprintf("asking for the end of leader epoch %d of %s/%d", epoch, topic, partition)
	err = c.retry(ctx, "offset_for_leader_epoch", what, func(ctx context.Context) error {
		leader, err := c.leader(ctx, topic, partition)
		if err != nil {
			return err
		}
		p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		p.Partition, p.LeaderEpoch = int32(partition), epoch
		t := kmsg.NewOffsetForLeaderEpochRequestTopic()
		t.Topic, t.Partitions = topic, append(t.Partitions, p)
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.ReplicaID, req.Topics = -1, append(req.Topics, t)
		return c.conns.do(ctx, leader, c.cfg.RequestTimeout, func(conn *conn) error {
			m, err := conn.exchange(req)
			if err != nil {
				return err
			}
			res := m.(*kmsg.OffsetForLeaderEpochResponse)
			if len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 {
				return errAnswer
			}
			a := res.Topics[0].Partitions[0]
			if a.ErrorCode != 0 {
				return kafkago.Error(a.ErrorCode)
			}
			end = a.EndOffset
			return nil
		})
	})
	return end, err
}
