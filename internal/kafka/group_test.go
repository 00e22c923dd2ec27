package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/kafka"
)

// quick is a group whose members notice each other soon.
func quick(topics ...string) kafka.GroupConfig {
	return kafka.GroupConfig{
		Group: "g", Topics: topics,
		HeartbeatInterval: 20 * time.Millisecond, SessionTimeout: 5 * time.Second, RebalanceTimeout: 5 * time.Second,
	}
}

// crew follows which partitions the workers of all members of a test work on.
type crew struct {
	t       *testing.T
	mu      sync.Mutex
	working map[string]string // partition: member
	starts  map[string]int    // of workers by partition, over all members
	ended   map[string]chan error
}

func newCrew(t *testing.T) *crew {
	return &crew{t: t, working: map[string]string{}, starts: map[string]int{}, ended: map[string]chan error{}}
}

// join starts a member of the group; its workers idle until they are asked to
// stop.
func (w *crew) join(ctx context.Context, name string, c *kafka.Cluster, cfg kafka.GroupConfig) {
	ended := make(chan error, 1)
	w.mu.Lock()
	w.ended[name] = ended
	w.mu.Unlock()
	go func() {
		ended <- c.Consume(ctx, cfg, func(ctx context.Context, claim *kafka.Claim) error {
			partition := fmt.Sprintf("%s/%d", claim.Topic, claim.Partition)
			w.mu.Lock()
			if other, ok := w.working[partition]; ok {
				w.t.Errorf("%s got %s while %s works on it", name, partition, other)
			}
			w.working[partition] = name
			w.starts[partition]++
			w.mu.Unlock()
			<-ctx.Done()
			w.mu.Lock()
			delete(w.working, partition)
			w.mu.Unlock()
			return ctx.Err()
		})
	}()
}

func (w *crew) partitions(name string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for partition, member := range w.working {
		if member == name {
			out = append(out, partition)
		}
	}
	slices.Sort(out)
	return out
}

func TestConsumeRebalances(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 4)
	if err := e.cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: "other", Partitions: 4}); err != nil {
		t.Fatal(err)
	}
	cfg := quick(topic, "other")
	w := newCrew(t)
	aCtx, stopA := context.WithCancel(ctx)
	bCtx, stopB := context.WithCancel(ctx)
	defer stopB()

	w.join(aCtx, "a", e.cluster, cfg)
	eventually(t, "a works on everything", func() bool { return len(w.partitions("a")) == 8 })
	if n := e.metric(t, "churn_kafka_assigned_partitions"); n != 8 {
		t.Errorf("%v partitions in the metrics", n)
	}
	w.join(bCtx, "b", connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}}), cfg)
	eventually(t, "both work on half", func() bool { return len(w.partitions("a")) == 4 && len(w.partitions("b")) == 4 })
	// Partitions of one number go together.
	for _, name := range []string{"a", "b"} {
		numbers := map[string]int{}
		for _, partition := range w.partitions(name) {
			_, number, _ := strings.Cut(partition, "/")
			numbers[number]++
		}
		if len(numbers) != 2 {
			t.Errorf("%s works on %v", name, w.partitions(name))
		}
	}

	// A member that leaves says so: the other need not wait for the session
	// timeout of five seconds.
	left := time.Now()
	stopA()
	if err := <-w.ended["a"]; err != nil {
		t.Error(err)
	}
	eventually(t, "b works on everything", func() bool { return len(w.partitions("b")) == 8 })
	if d := time.Since(left); d > 4*time.Second {
		t.Errorf("taking over took %v", d)
	}
	if n := e.metric(t, "churn_kafka_assigned_partitions"); n != 0 {
		t.Errorf("%v partitions in the metrics of the one that left", n)
	}
}

// started returns how often workers were started, over all partitions.
func (w *crew) started() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, starts := range w.starts {
		n += starts
	}
	return n
}

// Workers of partitions that stay where they are do not notice a rebalance.
func TestRebalanceStopsNoWorkerWithoutNeed(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 6)
	w := newCrew(t)
	w.join(ctx, "a", e.cluster, quick(topic))
	eventually(t, "a works on everything", func() bool { return len(w.partitions("a")) == 6 })
	w.join(ctx, "b", connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}}), quick(topic))
	eventually(t, "both work on half", func() bool { return len(w.partitions("a")) == 3 && len(w.partitions("b")) == 3 })
	cCtx, stopC := context.WithCancel(ctx)
	w.join(cCtx, "c", connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}}), quick(topic))
	eventually(t, "each works on a third", func() bool {
		return len(w.partitions("a")) == 2 && len(w.partitions("b")) == 2 && len(w.partitions("c")) == 2
	})
	if n := w.started(); n != 6+3+2 {
		t.Errorf("workers were started %d times, want 6 and those of the 3 and 2 partitions that moved", n)
	}
	stopC()
	eventually(t, "the others share what c had", func() bool { return len(w.partitions("a")) == 3 && len(w.partitions("b")) == 3 })
	if n := w.started(); n != 6+3+2+2 {
		t.Errorf("workers were started %d times after c left, want 2 more", n)
	}
}

// A static member that is started again within its session has its partitions
// back, and the other does not notice.
func TestStaticMemberComesBack(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 4)
	w := newCrew(t)
	member := func(id string) kafka.GroupConfig {
		cfg := quick(topic)
		cfg.InstanceID = id
		return cfg
	}
	w.join(ctx, "a", e.cluster, member("one"))
	eventually(t, "a works on everything", func() bool { return len(w.partitions("a")) == 4 })
	bCtx, stopB := context.WithCancel(ctx)
	w.join(bCtx, "b", connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}}), member("two"))
	eventually(t, "both work on half", func() bool { return len(w.partitions("a")) == 2 && len(w.partitions("b")) == 2 })
	had, starts := w.partitions("b"), w.started()
	stopB()
	if err := <-w.ended["b"]; err != nil {
		t.Error(err)
	}
	w.join(ctx, "b", connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}}), member("two"))
	eventually(t, "b works on what it had", func() bool { return slices.Equal(w.partitions("b"), had) })
	if n := w.started(); n != starts+2 {
		t.Errorf("%d workers were started, want b's 2", n-starts)
	}
}

func TestTwoProcessesOfOneInstance(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 2)
	w := newCrew(t)
	cfg := quick(topic)
	cfg.InstanceID = "one"
	w.join(ctx, "a", e.cluster, cfg)
	eventually(t, "a works on everything", func() bool { return len(w.partitions("a")) == 2 })
	go func() {
		err := connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}}).Consume(ctx, cfg,
			func(ctx context.Context, _ *kafka.Claim) error { <-ctx.Done(); return nil })
		if err != nil {
			t.Error(err)
		}
	}()
	if err := <-w.ended["a"]; !errors.Is(err, kafka.ErrInstanceTaken) {
		t.Errorf("error %v", err)
	}
}

// Partitions that are added while members run are worked on soon.
func TestConsumeNoticesNewPartitions(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 2)
	w := newCrew(t)
	cfg := quick(topic)
	cfg.TopicsInterval = 20 * time.Millisecond
	w.join(ctx, "a", e.cluster, cfg)
	w.join(ctx, "b", connect(t, kafka.Config{Brokers: []string{e.broker.Addr()}}), cfg)
	eventually(t, "both work", func() bool { return len(w.partitions("a")) == 1 && len(w.partitions("b")) == 1 })
	starts := w.started()
	growTopic(t, e, topic, 4)
	eventually(t, "both work on half", func() bool { return len(w.partitions("a")) == 2 && len(w.partitions("b")) == 2 })
	if n := w.started(); n != starts+2 {
		t.Errorf("%d workers were started, want those of the 2 new partitions", n-starts)
	}
}

// A member that the group has given up stops its workers before it joins anew.
func TestConsumeAfterTheGroupGaveUp(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 2)
	w := newCrew(t)
	w.join(ctx, "a", e.cluster, quick(topic))
	eventually(t, "a works on everything", func() bool { return len(w.partitions("a")) == 2 })
	starts := w.started()
	e.broker.Cluster().ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		res := req.ResponseKind().(*kmsg.HeartbeatResponse)
		res.ErrorCode = 25 // UNKNOWN_MEMBER_ID
		return res, nil, true
	})
	eventually(t, "a works on everything again", func() bool { return w.started() == starts+2 && len(w.partitions("a")) == 2 })
}

func growTopic(t *testing.T, e *env, topic string, partitions int) {
	t.Helper()
	if err := e.cluster.GrowTopic(t.Context(), topic, partitions); err != nil {
		t.Fatal(err)
	}
}

func TestCommit(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	done := errors.New("done")
	var stale *kafka.Claim
	run := func(want int64, commit int64) {
		t.Helper()
		err := e.cluster.Consume(ctx, quick(topic), func(ctx context.Context, claim *kafka.Claim) error {
			if claim.Topic != topic || claim.Partition != 0 || claim.Committed != want {
				t.Errorf("claim of %s/%d from %d, want from %d", claim.Topic, claim.Partition, claim.Committed, want)
			}
			if err := claim.Commit(commit); err != nil {
				t.Error(err)
			}
			stale = claim
			return done
		})
		if !errors.Is(err, done) {
			t.Error(err)
		}
	}
	run(-1, 5)
	run(5, 0)
	run(0, 7)
	// The claim has ended: it fails, and neither hangs nor panics.
	if err := stale.Commit(100); err == nil {
		t.Error("a claim that ended could commit")
	}
	run(7, 8)
}

// What a worker does after its context has ended still counts.
func TestCommitWhileStopping(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 1)
	stopCtx, stop := context.WithCancel(ctx)
	err := e.cluster.Consume(stopCtx, quick(topic), func(ctx context.Context, claim *kafka.Claim) error {
		stop()
		<-ctx.Done()
		return claim.Commit(3)
	})
	if err != nil {
		t.Error(err)
	}
	done := errors.New("done")
	err = e.cluster.Consume(ctx, quick(topic), func(_ context.Context, claim *kafka.Claim) error {
		if claim.Committed != 3 {
			t.Errorf("committed %d", claim.Committed)
		}
		return done
	})
	if !errors.Is(err, done) {
		t.Error(err)
	}
}

func TestConsumeEndsWithTheErrorOfAWorker(t *testing.T) {
	ctx := testContext(t)
	e := setup(t, 3)
	bad := errors.New("bad")
	var running atomic.Int32
	err := e.cluster.Consume(ctx, quick(topic), func(ctx context.Context, claim *kafka.Claim) error {
		running.Add(1)
		defer running.Add(-1)
		if claim.Partition == 1 {
			return fmt.Errorf("working: %w", bad)
		}
		<-ctx.Done()
		return nil
	})
	if !errors.Is(err, bad) {
		t.Errorf("error %v", err)
	}
	if n := running.Load(); n != 0 {
		t.Errorf("%d workers had not returned", n)
	}
}

// A worker that returns early does not bring the others down.
func TestConsumeGoesOnWithoutAWorker(t *testing.T) {
	ctx, stop := context.WithCancel(testContext(t))
	e := setup(t, 2)
	running := make(chan struct{}, 10)
	ended := make(chan error)
	go func() {
		ended <- e.cluster.Consume(ctx, quick(topic), func(ctx context.Context, claim *kafka.Claim) error {
			running <- struct{}{}
			if claim.Partition == 0 {
				return nil
			}
			// Several heartbeats long nobody asks this one to stop.
			select {
			case <-ctx.Done():
				t.Error("stopped")
			case <-time.After(100 * time.Millisecond):
				stop()
			}
			<-ctx.Done()
			return nil
		})
	}()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(running) != 2 {
		t.Errorf("%d workers started, want 2", len(running))
	}
}

// The errors a young or restarting cluster answers with pass.
func TestConsumeRetriesCoordinatorErrors(t *testing.T) {
	t.Parallel() // most of it is waiting
	ctx := testContext(t)
	e := setup(t, 1)
	codes := []int16{
		14, // COORDINATOR_LOAD_IN_PROGRESS
		27, // REBALANCE_IN_PROGRESS
	}
	var mu sync.Mutex
	e.broker.Cluster().ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		e.broker.Cluster().KeepControl()
		mu.Lock()
		defer mu.Unlock()
		if len(codes) == 0 {
			return nil, nil, false
		}
		res := req.ResponseKind().(*kmsg.JoinGroupResponse)
		res.ErrorCode, codes = codes[0], codes[1:]
		return res, nil, true
	})
	done := errors.New("done")
	err := e.cluster.Consume(ctx, quick(topic), func(context.Context, *kafka.Claim) error { return done })
	if !errors.Is(err, done) {
		t.Error(err)
	}
	if n := e.metric(t, "churn_kafka_retries_total"); n != 2 {
		t.Errorf("%v retries counted, want 2", n)
	}
	if n := e.metric(t, "churn_kafka_retrying"); n != 0 {
		t.Errorf("%v operations still being retried", n)
	}

	e.broker.Cluster().ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		res := req.ResponseKind().(*kmsg.JoinGroupResponse)
		res.ErrorCode = 24 // INVALID_GROUP_ID
		return res, nil, true
	})
	err = e.cluster.Consume(ctx, quick(topic), func(context.Context, *kafka.Claim) error { return done })
	if err == nil || errors.Is(err, done) {
		t.Errorf("a group we may not join: %v", err)
	}
	err = e.cluster.Consume(ctx, quick("typo"), func(context.Context, *kafka.Claim) error { return done })
	if !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("unknown topic: %v", err)
	}
}
