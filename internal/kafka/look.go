package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Look asks the brokers once where the partitions that are followed start and
// end, all those of a broker in one request, and brings positions and metrics up
// to date. Brokers that lead other partitions of topics are asked for one of
// these, so that one that does not answer is noticed by those too who only
// write. Topics of that name that do not exist are left out.
//
// It returns an error when a broker does not answer before ctx ends, or when a
// partition has no leader; what other brokers answered is taken in all the same.
// It tries nothing again: the next look does.
func (c *Cluster) Look(ctx context.Context, topics ...string) error {
	positions := c.followed()
	names := slices.Clone(topics)
	for _, p := range positions {
		names = append(names, p.of.topic)
	}
	slices.Sort(names)
	meta, err := c.anyMetadata(ctx, slices.Compact(names))
	if err != nil {
		return err
	}
	leaders, err := leadersOf(meta)
	refused := map[string]error{}
	for _, t := range meta.Topics {
		if t.ErrorCode != 0 {
			refused[t.Name] = kafkago.Error(t.ErrorCode)
		}
	}
	asked := map[string][]*Position{} // by address
	for _, p := range positions {
		switch addr := leaders[p.of]; {
		case addr != "":
			asked[addr] = append(asked[addr], p)
		case err == nil:
			err = fmt.Errorf("topic %q partition %d: %w", p.of.topic, p.of.number, cmp.Or(refused[p.of.topic], ErrUnknownTopic))
		}
	}
	pings := map[string]partitionOf{}
	for of, addr := range leaders {
		if _, ok := asked[addr]; !ok {
			pings[addr] = of
		}
	}
	expiring := c.expirySettings(ctx, positions)

	var wg sync.WaitGroup
	var mu sync.Mutex
	note := func(e error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			err = e
		}
	}
	for addr, of := range pings {
		wg.Go(func() {
			if _, err := c.endsAt(ctx, addr, []partitionOf{of}, kafkago.ReadUncommitted, always(kafkago.LastOffset)); err != nil {
				note(err)
			}
		})
	}
	for addr, led := range asked {
		wg.Go(func() {
			if err := c.lookAt(ctx, addr, led, expiring); err != nil {
				note(err)
			}
		})
	}
	wg.Wait()
	return err
}

// leadersOf returns the address of the leader of every partition that has one,
// and an error if one has not.
func leadersOf(meta *metadata.Response) (leaders map[partitionOf]string, err error) {
	brokers := map[int32]string{}
	for _, b := range meta.Brokers {
		brokers[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	leaders = map[partitionOf]string{}
	for _, t := range meta.Topics {
		for _, p := range t.Partitions {
			if addr := brokers[p.LeaderID]; addr != "" {
				leaders[partitionOf{t.Name, int(p.PartitionIndex)}] = addr
			} else if err == nil {
				err = fmt.Errorf("topic %q partition %d: %w", t.Name, p.PartitionIndex, kafkago.LeaderNotAvailable)
			}
		}
	}
	return leaders, err
}

// lookAt asks a broker for the partitions it leads.
func (c *Cluster) lookAt(ctx context.Context, addr string, positions []*Position, expiring *expiry) error {
	partitions := make([]partitionOf, len(positions))
	for i, p := range positions {
		partitions[i] = p.of
	}
	// A position that was read before the end is asked for may look farther
	// from it than it is, never nearer.
	first, err := c.endsAt(ctx, addr, partitions, kafkago.ReadUncommitted, always(kafkago.FirstOffset))
	if err != nil {
		return err
	}
	ends, err := c.endsAt(ctx, addr, partitions, kafkago.ReadUncommitted, always(kafkago.LastOffset))
	if err != nil {
		return err
	}
	now := time.Now()
	for _, p := range positions {
		if f, ok := first[p.of]; ok {
			if e, ok := ends[p.of]; ok {
				p.look(f, e, now)
			}
		}
	}
	if err := c.lookForTransactions(ctx, addr, positions, ends); err != nil {
		return err
	}
	if err := missing(partitions, first, ends); err != nil || expiring == nil {
		return err
	}
	return c.lookAtExpiry(ctx, addr, positions, ends, expiring)
}

// lookForTransactions notes which readers stand still, without a reason of their
// own, because records of an open transaction come next.
func (c *Cluster) lookForTransactions(ctx context.Context, addr string, positions []*Position, ends map[partitionOf]int64) error {
	var partitions []partitionOf
	for _, p := range positions {
		if p.still(c.cfg.StuckAfter) {
			partitions = append(partitions, p.of)
		}
	}
	stable, err := c.endsAt(ctx, addr, partitions, kafkago.ReadCommitted, always(kafkago.LastOffset))
	if err != nil {
		return err
	}
	for _, p := range positions {
		readable, ok := stable[p.of]
		p.blocked.Store(ok && readable < ends[p.of] && p.offset.Load() >= readable)
	}
	return nil
}

func missing(partitions []partitionOf, answers ...map[partitionOf]int64) error {
	for _, p := range partitions {
		for _, a := range answers {
			if _, ok := a[p]; !ok {
				return fmt.Errorf("the broker does not say where %s/%d is", p.topic, p.number)
			}
		}
	}
	return nil
}

// always asks for the same time in every partition.
func always(timestamp int64) func(partitionOf) int64 {
	return func(partitionOf) int64 { return timestamp }
}

// endsAt asks a broker for the offset of each partition at a time, −1 being the
// end and −2 the start. Where no record is as late it answers −1. Partitions
// that it does not lead any more are left out; those that it refuses to speak of
// are an error.
func (c *Cluster) endsAt(ctx context.Context, addr string, partitions []partitionOf, level kafkago.IsolationLevel, timestamp func(partitionOf) int64) (map[partitionOf]int64, error) {
	if len(partitions) == 0 {
		return nil, nil
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, int8(level)
	topics := map[string]int{}
	for _, of := range partitions {
		i, ok := topics[of.topic]
		if !ok {
			i = len(req.Topics)
			topics[of.topic] = i
			t := kmsg.NewListOffsetsRequestTopic()
			t.Topic = of.topic
			req.Topics = append(req.Topics, t)
		}
		t := &req.Topics[i]
		// A broker refuses to answer twice for one partition.
		if slices.ContainsFunc(t.Partitions, func(p kmsg.ListOffsetsRequestTopicPartition) bool { return int(p.Partition) == of.number }) {
			continue
		}
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = int32(of.number), timestamp(of)
		t.Partitions = append(t.Partitions, p)
	}
	var res *kmsg.ListOffsetsResponse
	err := c.conns.do(ctx, addr, c.cfg.RequestTimeout, func(conn *conn) error {
		m, err := conn.exchange(req)
		if err == nil {
			res = m.(*kmsg.ListOffsetsResponse)
		}
		return err
	})
	if err != nil {
		return nil, answerless(ctx, addr, err)
	}
	offsets := map[partitionOf]int64{}
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			switch code := kafkago.Error(p.ErrorCode); code {
			case 0:
				offsets[partitionOf{t.Topic, int(p.Partition)}] = p.Offset
			case kafkago.NotLeaderForPartition, kafkago.UnknownTopicOrPartition, kafkago.LeaderNotAvailable,
				kafkago.FencedLeaderEpoch, kafkago.UnknownLeaderEpoch, kafkago.OffsetNotAvailable:
			default:
				return nil, fmt.Errorf("listing offsets of %s/%d: %w", t.Topic, p.Partition, code)
			}
		}
	}
	return offsets, nil
}

// answerless names the broker that did not answer. That a context ended says
// nothing to people.
func answerless(ctx context.Context, addr string, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return fmt.Errorf("broker %s does not answer", addr)
	}
	return err
}

// anyMetadata asks all brokers at the same time, so that one that is frozen
// keeps nobody from hearing the others, and returns the first answer.
func (c *Cluster) anyMetadata(ctx context.Context, topics []string) (*metadata.Response, error) {
	all := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if topics == nil {
		topics = []string{} // none, where nil is all
	}
	type answer struct {
		res *metadata.Response
		err error
	}
	answers := make(chan answer, len(c.cfg.Brokers))
	for _, addr := range c.cfg.Brokers {
		go func() {
			var a answer
			a.err = c.conns.do(ctx, addr, c.cfg.RequestTimeout, func(conn *conn) error {
				m, err := conn.RoundTrip(&metadata.Request{TopicNames: topics})
				if err == nil {
					a.res = m.(*metadata.Response)
				}
				return err
			})
			if a.err != nil {
				a.err = answerless(all, addr, a.err)
			}
			answers <- a
		}()
	}
	var err error
	for range c.cfg.Brokers {
		a := <-answers
		if a.err == nil {
			return a.res, nil
		}
		err = a.err
	}
	return nil, fmt.Errorf("asking for metadata: %w", err)
}

// expiryShare is the share of a topic's retention after which a record that
// still waits counts as expiring.
const expiryShare = 0.75

// expiry says from which time on records of topics are safe for a while.
type expiry struct {
	from map[string]int64 // topic to milliseconds since 1970
}

// expirySettings returns from when on records are safe, nil when it is not time
// to look at that, or not allowed.
func (c *Cluster) expirySettings(ctx context.Context, positions []*Position) *expiry {
	now := time.Now()
	c.positionsMu.Lock()
	due := now.Sub(c.lookedAtExpiry) >= c.cfg.ExpiryInterval
	c.positionsMu.Unlock()
	if !due {
		return nil
	}
	topics := map[string]bool{}
	for _, p := range positions {
		topics[p.of.topic] = true
	}
	if len(topics) == 0 {
		return nil
	}
	req := kmsg.NewPtrDescribeConfigsRequest()
	for topic := range topics {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
		r.ConfigNames = []string{"cleanup.policy", "retention.ms"}
		req.Resources = append(req.Resources, r)
	}
	res, err := exchangeAny[*kmsg.DescribeConfigsResponse](ctx, c, req)
	if err != nil {
		return nil // brokers that do not answer are noticed otherwise
	}
	c.positionsMu.Lock()
	c.lookedAtExpiry = now
	c.positionsMu.Unlock()
	e := &expiry{map[string]int64{}}
	for _, r := range res.Resources {
		settings := map[string]string{}
		for _, entry := range r.Configs {
			if entry.Value != nil {
				settings[entry.Name] = *entry.Value
			}
		}
		retention, err := strconv.ParseInt(settings["retention.ms"], 10, 64)
		if r.ErrorCode == 0 && err == nil && retention >= 0 && strings.Contains(settings["cleanup.policy"], "delete") {
			e.from[r.ResourceName] = now.UnixMilli() - int64(expiryShare*float64(retention))
		}
	}
	return e
}

// lookAtExpiry notes how many of the records that wait retention will delete
// before long.
func (c *Cluster) lookAtExpiry(ctx context.Context, addr string, positions []*Position, ends map[partitionOf]int64, expiring *expiry) error {
	var partitions []partitionOf
	var waiting []*Position
	for _, p := range positions {
		if _, ok := expiring.from[p.of.topic]; ok && p.behind() > 0 {
			partitions, waiting = append(partitions, p.of), append(waiting, p)
		} else {
			p.expiring.Set(0)
		}
	}
	safe, err := c.endsAt(ctx, addr, partitions, kafkago.ReadUncommitted, func(of partitionOf) int64 { return expiring.from[of.topic] })
	if err != nil {
		return err
	}
	for _, p := range waiting {
		from, ok := safe[p.of]
		if !ok {
			continue
		}
		if from < 0 {
			from = ends[p.of] // there is none as late
		}
		p.expiring.Set(float64(min(p.behind(), max(0, from-max(p.offset.Load(), 0)))))
	}
	return nil
}
