package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/retry"
)

// leaveTimeout bounds the wait for a clean farewell.
const leaveTimeout = 10 * time.Second

// DefaultSessionTimeout is that of GroupConfig.
const DefaultSessionTimeout = 15 * time.Second

// GroupConfig configures Consume. Group and Topics are required.
type GroupConfig struct {
	// Group is the consumer group's name.
	Group string
	// InstanceID makes the member a static one (KIP-345): a process that is
	// started again under the same id within the session timeout gets its
	// partitions back at once, and the other members do not notice. A static
	// member does not leave the group when it stops. Two processes of one id
	// at a time put each other out. Default Config.InstanceID, by default none:
	// a dynamic member.
	InstanceID string
	// Reader is the name under which lag and standstill are reported; see
	// Cluster.Follow. Default Group.
	Reader string
	// Topics are read together: partitions of one number go to one member.
	Topics []string
	// SessionTimeout is how long a member that fell silent keeps its
	// partitions. Default DefaultSessionTimeout.
	SessionTimeout time.Duration
	// HeartbeatInterval is the time between signs of life, within which a
	// member also learns of a rebalance. Default 3 s.
	HeartbeatInterval time.Duration
	// RebalanceTimeout is how long the others wait for a member to join the
	// next generation. Default Config.RebalanceTimeout.
	RebalanceTimeout time.Duration
	// TopicsInterval is the time between two looks at the number of partitions
	// of the topics. Default 5 s.
	TopicsInterval time.Duration
	// OnAssigned is called when this member has become part of a generation,
	// with what it was given in addition to what it has, which may be nothing,
	// before the workers start. Default none.
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
	// Note is what was committed with it, "" for nothing.
	Note string
	// Position is where the worker says how far it has come. Until then it
	// counts as being at Committed.
	Position *Position

	member *member
	cancel context.CancelFunc
	done   chan struct{} // closed when the worker has returned
}

// ErrClaimEnded means that a claim is this member's no more.
var ErrClaimEnded = errors.New("the partition is not assigned to this member any more")

// Commit stores offset, the next to read, as the group's position in the
// partition. It makes one attempt, of a few seconds at most. It fails when the
// worker has returned, when a rebalance is under way, or when the broker does
// not answer; a later Commit makes up for one that failed.
func (cl *Claim) Commit(offset int64) error { return cl.CommitNote(offset, "") }

// CommitNote is Commit, with a note that the next Claim of the partition has.
// Brokers take 4 KiB by default.
func (cl *Claim) CommitNote(offset int64, note string) error {
	err := ErrClaimEnded
	select {
	case <-cl.done:
	default:
		// The last commit of a worker comes after its context has ended.
		err = cl.member.coordinator.commit(context.Background(), cl.member.identity(), cl.Topic, cl.Partition, groupOffset{offset, note})
	}
	if err != nil {
		return fmt.Errorf("committing offset %d of %s/%d: %w", offset, cl.Topic, cl.Partition, err)
	}
	return nil
}

// Consume joins a consumer group and runs worker in one goroutine for each
// partition assigned. At a rebalance workers go on, except those whose
// partition goes to another member: the context of these is cancelled, and the
// other member gets the partition when they have returned. A worker may finish
// its work in hand and commit after its context has ended.
//
// Consume returns nil when ctx ends: the workers have returned and the member,
// unless it is a static one, has left, so that others get its partitions at
// once. It returns the error of the first worker that failed while its context
// was alive. Errors of workers whose context had ended are logged; a worker that
// returns nil early leaves its partition idle until it is assigned anew. A
// worker that learns from a fenced write that it lost its partition should wait
// for its context to end rather than fail.
//
// Passing errors are retried. A topic that does not exist is ErrUnknownTopic; a
// static member whose id another process has taken ends with ErrInstanceTaken.
// Partitions that are added to a topic are assigned within TopicsInterval and a
// rebalance.
func (c *Cluster) Consume(ctx context.Context, cfg GroupConfig, worker func(ctx context.Context, claim *Claim) error) error {
	for _, topic := range cfg.Topics {
		// A member that joins for a topic that is not there gets nothing
		// and is not notified when it comes.
		if _, err := c.Partitions(ctx, topic); err != nil {
			return ignoreEnd(ctx, err)
		}
	}
	cfg.InstanceID = cmp.Or(cfg.InstanceID, c.cfg.InstanceID)
	cfg.Reader = cmp.Or(cfg.Reader, cfg.Group)
	cfg.SessionTimeout = cmp.Or(cfg.SessionTimeout, DefaultSessionTimeout)
	cfg.HeartbeatInterval = cmp.Or(cfg.HeartbeatInterval, 3*time.Second)
	cfg.RebalanceTimeout = cmp.Or(cfg.RebalanceTimeout, c.cfg.RebalanceTimeout)
	cfg.TopicsInterval = cmp.Or(cfg.TopicsInterval, defaultTopicsInterval)
	m := &member{
		c: c, cfg: cfg, worker: worker,
		coordinator: &coordinator{c: c, group: cfg.Group},
		id:          identity{instance: cfg.InstanceID, generation: -1},
		claims:      map[partitionOf]*Claim{},
	}
	ctx, m.fail = context.WithCancelCause(ctx)
	defer m.fail(nil)
	err := m.run(ctx)
	m.leave()
	var failed *workerError
	if errors.As(context.Cause(ctx), &failed) {
		return failed.err
	}
	return ignoreEnd(ctx, err)
}

// ErrInstanceTaken means that another process has joined the group under the
// instance id of this one.
var ErrInstanceTaken = errors.New("another process has taken the instance id; give every process its own")

// member is this process's part in a group. Its fields belong to the goroutine
// of run, except those that a mutex guards.
type member struct {
	c           *Cluster
	cfg         GroupConfig
	worker      func(ctx context.Context, claim *Claim) error
	fail        context.CancelCauseFunc
	coordinator *coordinator
	claims      map[partitionOf]*Claim
	// owned is the generation under which claims were given.
	owned int32

	mu sync.Mutex
	id identity
}

// workerError is the cause of the end that a worker brought about.
type workerError struct{ err error }

func (e *workerError) Error() string { return e.err.Error() }

func (m *member) identity() identity {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.id
}

func (m *member) become(change func(*identity)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.id)
}

// run takes part in one generation after the other until ctx ends or an error
// will not pass.
func (m *member) run(ctx context.Context) error {
	for {
		var given generation
		err := m.c.retry(ctx, "join_group", "joining group "+m.cfg.Group, func(ctx context.Context) (err error) {
			given, err = m.join(ctx)
			return m.judge(ctx, err)
		})
		if err != nil {
			return err
		}
		err = m.take(ctx, given)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := m.judge(ctx, err); errors.Is(err, ErrInstanceTaken) {
			return err
		}
	}
}

// judge draws the consequences of an error of the coordinator's. It returns it
// such that a retry tries again, unless it is one that will not pass.
func (m *member) judge(ctx context.Context, err error) error {
	var code kafkago.Error
	if err == nil || ctx.Err() != nil || !errors.As(err, &code) {
		return err
	}
	switch code {
	case kafkago.RebalanceInProgress:
	case kafkago.UnknownMemberId, kafkago.IllegalGeneration:
		// The group went on without this member: others may have its
		// partitions already.
		m.c.log.Warn("the group has given this member up; stopping its workers and joining anew", "group", m.cfg.Group, "error", err)
		m.become(func(id *identity) {
			if code == kafkago.UnknownMemberId {
				id.member = ""
			}
			id.generation = -1
		})
		m.revoke(m.all())
	case kafkago.FencedInstanceID:
		m.revoke(m.all())
		return retry.Permanent(fmt.Errorf("group %s, instance id %s: %w", m.cfg.Group, m.cfg.InstanceID, ErrInstanceTaken))
	case kafkago.InconsistentGroupProtocol:
		// A member of another kind, such as an older version of this program.
		err = fmt.Errorf("the group has members that assign partitions in another way, stop them first: %w", err)
	default:
		return err
	}
	return &againError{err}
}

// againError hides a broker's code, by which a retry would take it as final.
type againError struct{ err error }

func (e *againError) Error() string { return e.err.Error() }

// generation is what a member is given at a rebalance.
type generation struct {
	id         int32
	partitions map[string][]int
	// counts are the partition counts by topic that it rests on.
	counts map[string]int
}

// join makes one attempt at becoming part of the next generation.
func (m *member) join(ctx context.Context) (generation, error) {
	if len(m.claims) == 0 {
		// The others may take as long as a rebalance may.
		defer retry.Begin(ctx, "joining group "+m.cfg.Group)()
	}
	counts, err := m.counts(ctx)
	if err != nil {
		return generation{}, err
	}
	owned := map[string][]int{}
	for p := range m.claims {
		owned[p.topic] = append(owned[p.topic], p.number)
	}
	for _, numbers := range owned {
		slices.Sort(numbers)
	}
	subscription := subscriptionOf(m.cfg.Topics, owned, m.owned, counts)
	res, err := m.coordinator.join(ctx, &m.cfg, m.identity(), subscription)
	if errors.Is(err, kafkago.MemberIDRequired) { // KIP-394
		m.become(func(id *identity) { id.member = res.MemberID })
		res, err = m.coordinator.join(ctx, &m.cfg, m.identity(), subscription)
	}
	if err != nil {
		return generation{}, err
	}
	id := identity{member: res.MemberID, instance: m.cfg.InstanceID, generation: res.Generation}
	var assignments []kmsg.SyncGroupRequestGroupAssignment
	if res.LeaderID == res.MemberID && len(res.Members) > 0 {
		if assignments, err = leaderAssignments(res.Members, counts); err != nil {
			return generation{}, err
		}
	}
	// Until the assignment is there, the generation before is the one to
	// commit under.
	m.become(func(to *identity) { to.member = id.member })
	assignment, err := m.coordinator.sync(ctx, &m.cfg, id, assignments)
	if err != nil {
		return generation{}, err
	}
	given := generation{id: id.generation}
	if given.partitions, given.counts, err = readAssignment(assignment); err != nil {
		return generation{}, err
	}
	if given.counts == nil {
		given.counts = counts
	}
	m.become(func(to *identity) { *to = id })
	m.owned = id.generation
	return given, nil
}

// counts returns the number of partitions of each topic, now.
func (m *member) counts(ctx context.Context) (map[string]int, error) {
	meta, err := m.c.metadata(ctx, m.cfg.Topics...)
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, topic := range m.cfg.Topics {
		partitions, err := topicPartitions(meta, topic)
		if err != nil {
			return nil, err
		}
		counts[topic] = len(partitions)
	}
	return counts, nil
}

// take stops the workers of what went to others, starts those of what is new,
// and returns when it is time to join again: nil or the coordinator's word at a
// rebalance, another error when the member is out.
func (m *member) take(ctx context.Context, given generation) error {
	log := m.c.log.With("group", m.cfg.Group, "generation", given.id)
	m.c.metrics.generations.WithLabelValues(m.cfg.Group).Inc()
	pulse := m.beat(context.WithoutCancel(ctx))
	defer pulse.stop()

	added := map[string][]int{}
	kept := map[partitionOf]bool{}
	for topic, numbers := range given.partitions {
		for _, n := range numbers {
			p := partitionOf{topic, n}
			kept[p] = true
			if m.claims[p] == nil {
				added[topic] = append(added[topic], n)
			}
		}
	}
	var gone []*Claim
	for p, claim := range m.claims {
		if !kept[p] {
			gone = append(gone, claim)
		}
	}
	if len(gone) > 0 {
		log.Info("partitions revoked", "partitions", names(gone))
		m.revoke(gone)
	}
	claims, err := m.claim(ctx, added)
	if err != nil {
		return err
	}
	log.Info("partitions assigned", "new", names(claims), "partitions", names(m.all()))
	m.c.metrics.assigned.WithLabelValues(m.cfg.Group).Set(float64(len(m.claims)))
	if m.cfg.OnAssigned != nil {
		m.cfg.OnAssigned(claims)
	}
	for _, claim := range claims {
		m.start(ctx, claim)
	}
	if len(gone) > 0 {
		return nil // so that others get them
	}
	ticker := time.NewTicker(m.cfg.TopicsInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			// The last commits need a member that is alive.
			m.revoke(m.all())
			return ctx.Err()
		case err := <-pulse.ended:
			return err
		case <-ticker.C:
			counts, err := m.counts(ctx)
			if err == nil && !maps.Equal(counts, given.counts) {
				log.Info("the topics have another number of partitions now", "before", given.counts, "now", counts)
				return nil
			}
		}
	}
}

// claim asks where to go on in partitions and notes them as this member's.
func (m *member) claim(ctx context.Context, partitions map[string][]int) ([]*Claim, error) {
	if len(partitions) == 0 {
		return nil, nil
	}
	var offsets map[string]map[int]groupOffset
	err := m.c.retry(ctx, "fetch_offsets", "asking for the committed offsets of group "+m.cfg.Group, func(ctx context.Context) (err error) {
		offsets, err = m.coordinator.committed(ctx, partitions)
		return err
	})
	if err != nil {
		return nil, err
	}
	var claims []*Claim
	for topic, numbers := range partitions {
		for _, n := range numbers {
			committed, ok := offsets[topic][n]
			if !ok {
				committed = nowhere
			}
			claim := &Claim{Topic: topic, Partition: n, Committed: committed.offset, Note: committed.note, member: m, done: make(chan struct{})}
			claim.Position = m.c.Follow(m.cfg.Reader, topic, n, committed.offset)
			m.claims[partitionOf{topic, n}] = claim
			claims = append(claims, claim)
		}
	}
	return claims, nil
}

func (m *member) start(ctx context.Context, claim *Claim) {
	ctx, claim.cancel = context.WithCancel(claim.Position.Watch(ctx))
	go func() {
		defer close(claim.done)
		defer claim.cancel()
		err := m.worker(ctx, claim)
		switch {
		case ignoreEnd(ctx, err) == nil:
			// Until it is revoked the partition stays this member's, idle.
			<-ctx.Done()
		case ctx.Err() != nil:
			m.c.log.Warn("worker failed while stopping", "group", m.cfg.Group,
				"topic", claim.Topic, "partition", claim.Partition, "error", err)
		default:
			m.fail(&workerError{err})
		}
	}()
}

// all returns what this member works on.
func (m *member) all() []*Claim { return slices.Collect(maps.Values(m.claims)) }

// revoke stops the workers of claims and waits until they have returned.
func (m *member) revoke(claims []*Claim) {
	for _, claim := range claims {
		if claim.cancel != nil {
			claim.cancel()
		}
	}
	for _, claim := range claims {
		if claim.cancel != nil {
			<-claim.done
		}
		claim.Position.Close()
		delete(m.claims, partitionOf{claim.Topic, claim.Partition})
	}
	m.c.metrics.assigned.WithLabelValues(m.cfg.Group).Set(float64(len(m.claims)))
}

func names(claims []*Claim) []string {
	all := []string{}
	for _, claim := range claims {
		all = append(all, fmt.Sprintf("%s/%d", claim.Topic, claim.Partition))
	}
	slices.Sort(all)
	return all
}

// pulse is the heartbeat of one generation.
type pulse struct {
	// ended receives why the member has to join again: RebalanceInProgress
	// while it is still a member, else what the answer was, or that nobody
	// answered for as long as its session lasts.
	ended chan error
	stop  context.CancelFunc
}

// errSilence means that the coordinator could not be reached for so long that
// it must have given this member up.
var errSilence = fmt.Errorf("no answer within the session timeout: %w", kafkago.UnknownMemberId)

// beat sends heartbeats until the generation ends for this member or stop is
// called. At a rebalance it goes on, since stopping workers may take time.
func (m *member) beat(ctx context.Context) *pulse {
	p := &pulse{ended: make(chan error, 1)}
	ctx, p.stop = context.WithCancel(ctx)
	id := m.identity()
	report := func(err error) {
		select {
		case p.ended <- err:
		default: // there is a reason already
		}
	}
	go func() {
		ticker := time.NewTicker(m.cfg.HeartbeatInterval)
		defer ticker.Stop()
		answered := time.Now()
		failing := false
		defer func() {
			if failing {
				m.c.metrics.retrying.Dec()
			}
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			sent := time.Now()
			err := m.coordinator.heartbeat(ctx, id)
			if ctx.Err() != nil {
				return
			}
			var code kafkago.Error
			known := errors.As(err, &code)
			switch {
			case err == nil || known && code == kafkago.RebalanceInProgress:
				answered = sent
				if failing {
					failing = false
					m.c.metrics.retrying.Dec()
				}
				if err != nil {
					report(err)
				}
			case known && (code == kafkago.UnknownMemberId || code == kafkago.IllegalGeneration || code == kafkago.FencedInstanceID):
				report(err)
				return
			default:
				m.c.metrics.retries.WithLabelValues("heartbeat").Inc()
				if !failing {
					failing = true
					m.c.metrics.retrying.Inc()
					m.c.log.Warn("heartbeat failed", "group", m.cfg.Group, "error", err)
				}
				if time.Since(answered) > m.cfg.SessionTimeout {
					report(errSilence)
					return
				}
			}
		}
	}()
	return p
}

// leave stops what is still running and says farewell, so that the others need
// not wait for the session to end. A static member stays, for its successor.
func (m *member) leave() {
	m.revoke(m.all())
	id := m.identity()
	if id.member == "" || id.instance != "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if err := m.coordinator.leave(ctx, id); err != nil {
		m.c.log.Warn("leaving the group failed; its partitions wait for the session timeout", "group", m.cfg.Group, "error", err)
	}
}
