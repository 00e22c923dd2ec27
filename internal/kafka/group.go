package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/retry"
)

const (
	// joinBackoff is the wait before joining a group again after an error.
	joinBackoff = time.Second
	// leaveTimeout bounds the wait for a clean farewell: a member that is
	// just joining cannot be interrupted.
	leaveTimeout = 10 * time.Second
)

// DefaultSessionTimeout is that of GroupConfig.
const DefaultSessionTimeout = 15 * time.Second

// GroupConfig configures Consume. Group and Topics are required.
type GroupConfig struct {
	// Group is the consumer group's name.
	Group string
	// Topics are read together: with equal partition counts, partitions of
	// one number go to one member.
	Topics []string
	// SessionTimeout is how long a member that fell silent keeps its
	// partitions. Default DefaultSessionTimeout.
	SessionTimeout time.Duration
	// HeartbeatInterval is the time between signs of life, within which a
	// member also learns that it has to stop its workers. Default 3 s.
	HeartbeatInterval time.Duration
	// RebalanceTimeout is how long the others wait for a member's workers to
	// stop. Default Config.RebalanceTimeout.
	RebalanceTimeout time.Duration
	// OnAssigned is called when this member has become part of a generation,
	// with what it was given, before the workers start. Default none.
	OnAssigned func(claims []*Claim)
}

// Claim is one partition assigned to this member of a group, for as long as
// its worker's context lives.
type Claim struct {
	Topic     string
	Partition int
	// Committed is the group's committed offset, the next to read, at the
	// time of assignment; −1 when there is none. As an offset of a
	// FetcherConfig −1 means the first record.
	Committed int64

	generation *kafkago.Generation
}

// Commit stores offset, the next to read, as the group's position in the
// partition. It makes one attempt, of a few seconds at most. It fails when the
// claim has ended, or when the broker does not answer; a later Commit makes
// up for one that failed.
func (cl *Claim) Commit(offset int64) error {
	err := cl.generation.CommitOffsets(map[string]map[int]int64{cl.Topic: {cl.Partition: offset}})
	if err != nil {
		return fmt.Errorf("committing offset %d of %s/%d: %w", offset, cl.Topic, cl.Partition, err)
	}
	return nil
}

// Consume joins a consumer group and runs worker in one goroutine for each
// partition assigned. At a rebalance the context of every worker is
// cancelled; when all have returned, the member joins again and workers start
// anew with the new assignment. A worker may finish its work in hand and
// commit after its context has ended, within the RebalanceTimeout.
//
// Consume returns nil when ctx ends: the workers have returned and the member
// has left, so that others get its partitions at once. It returns the error
// of the first worker that failed while its context was alive. Errors of
// workers whose context had ended are logged; a worker that returns nil early
// leaves its partition idle until the next rebalance. A worker that learns
// from a fenced write that it lost its partition should wait for its context
// to end rather than fail.
//
// Passing errors are retried. A topic that does not exist is ErrUnknownTopic.
// Partitions added later are noticed at the next rebalance.
func (c *Cluster) Consume(ctx context.Context, cfg GroupConfig, worker func(ctx context.Context, claim *Claim) error) error {
	for _, topic := range cfg.Topics {
		// A member that joins for a topic that is not there gets nothing
		// and is never told when it comes.
		if _, err := c.Partitions(ctx, topic); err != nil {
			return ignoreEnd(ctx, err)
		}
	}
	group, err := kafkago.NewConsumerGroup(kafkago.ConsumerGroupConfig{
		ID:      cfg.Group,
		Brokers: c.cfg.Brokers,
		Dialer: &kafkago.Dialer{
			ClientID:      c.cfg.ClientID,
			Timeout:       c.cfg.DialTimeout,
			TLS:           c.cfg.TLS,
			SASLMechanism: c.cfg.SASL,
		},
		Topics:            cfg.Topics,
		GroupBalancers:    []kafkago.GroupBalancer{balancer{}},
		SessionTimeout:    cmp.Or(cfg.SessionTimeout, DefaultSessionTimeout),
		HeartbeatInterval: cmp.Or(cfg.HeartbeatInterval, 3*time.Second),
		RebalanceTimeout:  cmp.Or(cfg.RebalanceTimeout, c.cfg.RebalanceTimeout),
		JoinGroupBackoff:  joinBackoff,
		StartOffset:       kafkago.FirstOffset,
		Timeout:           c.cfg.RequestTimeout,
	})
	if err != nil {
		return fmt.Errorf("joining group %q: %w", cfg.Group, err)
	}
	m := &member{c: c, cfg: cfg, group: group, worker: worker}
	ctx, m.fail = context.WithCancelCause(ctx)
	err = m.run(ctx)
	m.fail(nil)
	return err
}

// balancer is kafka-go's range assignment of partitions in order. Without the
// order, which metadata do not have, partitions of one number in different
// topics would go to different members.
type balancer struct{ kafkago.RangeGroupBalancer }

func (b balancer) AssignGroups(members []kafkago.GroupMember, partitions []kafkago.Partition) kafkago.GroupMemberAssignments {
	partitions = slices.Clone(partitions)
	slices.SortFunc(partitions, func(a, b kafkago.Partition) int { return cmp.Compare(a.ID, b.ID) })
	return b.RangeGroupBalancer.AssignGroups(members, partitions)
}

type member struct {
	c      *Cluster
	cfg    GroupConfig
	group  *kafkago.ConsumerGroup
	worker func(ctx context.Context, claim *Claim) error
	fail   context.CancelCauseFunc
}

// workerError is the cause of the end that a worker brought about.
type workerError struct{ err error }

func (e *workerError) Error() string { return e.err.Error() }

func (m *member) run(ctx context.Context) error {
	left := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(left)
		m.group.Close()
	})
	defer func() {
		if stop() { // an error of the group's, ctx is alive
			m.group.Close()
			return
		}
		select {
		case <-left:
		case <-time.After(leaveTimeout):
			m.c.log.Warn("leaving the group takes too long, going on", "group", m.cfg.Group)
		}
	}()
	stopped := make(chan struct{})
	close(stopped)
	for {
		generation, err := m.next(ctx)
		<-stopped
		if ctx.Err() != nil {
			var failed *workerError
			if errors.As(context.Cause(ctx), &failed) {
				return failed.err
			}
			return nil
		}
		if err != nil {
			return err
		}
		stopped = m.start(ctx, generation)
	}
}

// next waits for the next generation. The errors that the group reports on
// the way do not stop it from joining on, so neither do they stop us, except
// those that will not pass.
func (m *member) next(ctx context.Context) (*kafkago.Generation, error) {
	var limit retry.Limit
	failures := 0
	defer func() {
		if failures > 0 {
			m.c.metrics.retrying.Dec()
		}
	}()
	for {
		generation, err := m.group.Next(ctx)
		if err == nil {
			if failures > 0 {
				m.c.log.Info("recovered", "doing", "joining group", "group", m.cfg.Group, "failures", failures)
			}
			return generation, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if hopeless(err) {
			return nil, fmt.Errorf("joining group %q: %w", m.cfg.Group, err)
		}
		if failures == 0 {
			m.c.metrics.retrying.Inc()
		}
		failures++
		m.c.metrics.retries.WithLabelValues("join_group").Inc()
		if limit.Allow() {
			m.c.log.Warn("failed, trying again", "doing", "joining group", "group", m.cfg.Group, "failures", failures, "error", err)
		}
	}
}

// hopeless reports whether an error of a group says that it will never be
// joined like this.
func hopeless(err error) bool {
	var code kafkago.Error
	if !errors.As(err, &code) {
		return errors.Is(err, kafkago.ErrGroupClosed)
	}
	switch code {
	case kafkago.UnsupportedSASLMechanism, kafkago.InvalidGroupId, kafkago.InvalidSessionTimeout,
		kafkago.InconsistentGroupProtocol, kafkago.UnsupportedVersion:
		return true
	}
	return false
}

// start starts the workers of a generation and returns a channel that is
// closed when all have returned.
func (m *member) start(ctx context.Context, generation *kafkago.Generation) chan struct{} {
	log := m.c.log.With("group", m.cfg.Group, "generation", generation.ID)
	m.c.metrics.generations.WithLabelValues(m.cfg.Group).Inc()
	assigned := m.c.metrics.assigned.WithLabelValues(m.cfg.Group)

	var claims []*Claim
	var names []string
	for topic, assignments := range generation.Assignments {
		for _, a := range assignments {
			claims = append(claims, &Claim{Topic: topic, Partition: a.ID, Committed: max(a.Offset, -1), generation: generation})
			names = append(names, fmt.Sprintf("%s/%d", topic, a.ID))
		}
	}
	slices.Sort(names)
	log.Info("partitions assigned", "partitions", names)
	assigned.Set(float64(len(claims)))
	if m.cfg.OnAssigned != nil {
		m.cfg.OnAssigned(claims)
	}

	var workers sync.WaitGroup
	for _, claim := range claims {
		workers.Add(1)
		generation.Start(func(generationCtx context.Context) {
			defer workers.Done()
			if generationCtx.Err() != nil {
				return // ended before it began; the group does not wait for us
			}
			m.work(ctx, generationCtx, claim)
		})
	}
	stopped := make(chan struct{})
	go func() {
		workers.Wait()
		assigned.Set(0)
		if len(claims) > 0 {
			log.Info("partitions revoked", "partitions", names)
		}
		close(stopped)
	}()
	return stopped
}

func (m *member) work(ctx, generationCtx context.Context, claim *Claim) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(generationCtx, cancel)()

	err := m.worker(ctx, claim)
	switch {
	case ignoreEnd(ctx, err) == nil:
	case ctx.Err() != nil:
		m.c.log.Warn("worker failed while stopping", "group", m.cfg.Group,
			"topic", claim.Topic, "partition", claim.Partition, "error", err)
	default:
		m.fail(&workerError{err})
	}
	// The group takes the return of one worker for the end of all.
	<-generationCtx.Done()
}
