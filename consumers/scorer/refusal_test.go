package scorer

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
)

// months are n events of one customer each.
func (w *world) months(codec *schemas.Codec, from, n int) (out []kafka.Record) {
	for i := from; i < from+n; i++ {
		out = append(out, event(w.t, codec, fmt.Sprint("customer", i), fmt.Sprint("e", i), start+int64(i), map[int]string{months: fmt.Sprint(i)}, nil))
	}
	return out
}

// accept has the world's topics accepted.
func (w *world) accept(from From) *schemas.Progress {
	w.t.Helper()
	p, _, err := Accept(w.t.Context(), AcceptConfig{Cluster: w.cluster, Codec: w.process(nil).cfg.Codec, Group: DefaultGroup, From: from})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (s *Scorer) whyRefused() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused[0]
}

func (w *world) recreateEvents() {
	w.t.Helper()
	if err := w.broker.Cluster().DeleteTopic(schemas.TopicEvents); err != nil {
		w.t.Fatal(err)
	}
	if err := w.cluster.EnsureTopics(w.t.Context(), kafka.TopicConfig{Name: schemas.TopicEvents, Partitions: 1}); err != nil {
		w.t.Fatal(err)
	}
}

// What others commit under the scorer's group is not where it goes on.
func TestForeignCommitsLoseNothing(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, 0))
	const n = 40
	send := func(from int) {
		for i := range n {
			s.sendEvent(s.event(fmt.Sprint("customer", i), fmt.Sprint("e", from+i), start+int64(from+i), map[int]string{months: "1"}, nil))
		}
	}
	steal := func() {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		committed := make(chan error, partitions)
		done := make(chan error, 1)
		go func() {
			done <- s.cluster.Consume(ctx, kafka.GroupConfig{Group: DefaultGroup, Topics: []string{schemas.TopicEvents}}, func(ctx context.Context, c *kafka.Claim) error {
				_, end, err := s.cluster.Offsets(ctx, c.Topic, c.Partition)
				if err == nil {
					err = c.Commit(end)
				}
				committed <- err
				return err
			})
		}()
		for range partitions {
			if err := <-committed; err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	send(0)
	steal()
	stop := s.start()
	s.scores(n)
	stop()
	send(n)
	steal()
	s.start()
	s.scores(2 * n)
}

// The output topic is deleted while there is no scorer, or under one, and comes
// back empty.
func TestScoresReplaced(t *testing.T) {
	t.Parallel() // most of it is waiting
	const n = 10
	for _, c := range []struct {
		name     string
		snapshot bool // else the commit says so
		running  bool
	}{
		{"known by a snapshot", true, false},
		{"known by the group's note", false, false},
		{"under a scorer", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			w := newWorld(t, attributes)
			s := w.process(func(cfg *Config) {
				if !c.snapshot {
					cfg.StateDir = ""
				}
			})
			w.produce(schemas.TopicEvents, w.months(s.cfg.Codec, 0, n)...)
			stop := w.run(s)
			w.caughtUp(n)
			if !c.running {
				stop(true)
				s = w.process(func(cfg *Config) {
					if !c.snapshot {
						cfg.StateDir = ""
					}
				})
			}
			note := w.note.Load().(string)
			w.recreateScores()
			if !c.running {
				if c.snapshot {
					note = ""
				}
				w.work(s, claim{note: note, committed: n, commit: w.commit})
			}
			w.refused(reasonScoresReplaced)
			if why := s.whyRefused(); !strings.Contains(why, "churnstream progress accept --partition 0 --from first") {
				t.Errorf("the way out is not in %q", why)
			}
			if got := w.records(schemas.TopicScores); len(got) != 0 {
				t.Errorf("%d scores while it is refused", len(got))
			}
			w.committed.Store(-1)
			w.accept(FromFirst)
			w.caughtUp(n)
			if got := w.records(schemas.TopicScores); len(got) != n {
				t.Errorf("%d scores of %d events", len(got), n)
			}
		})
	}
}

// The topic of events is made anew and filled beyond the end of the old one.
func TestEventsReplaced(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	w.produce(schemas.TopicEvents, w.months(s.cfg.Codec, 0, 6)...)
	stop := w.run(s)
	w.caughtUp(6)
	stop(true)
	w.recreateEvents()
	w.produce(schemas.TopicEvents, w.months(s.cfg.Codec, 100, 15)...)
	w.run(w.process(func(cfg *Config) { cfg.StateDir = "" }))
	w.refused(reasonEventsReplaced)
	if n := len(w.records(schemas.TopicScores)); n != 6 {
		t.Errorf("%d scores while it is refused", n)
	}
	w.committed.Store(-1)
	w.accept(FromFirst)
	w.caughtUp(15)
	last := latest(w.records(schemas.TopicScores))
	for i := 100; i < 115; i++ {
		if _, ok := last[fmt.Sprint("customer", i)]; !ok {
			t.Errorf("customer%d has no score", i)
		}
	}
}

// Kafka loses the last events by an unclean election, and others take their
// offsets.
func TestEventsCut(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	w.produce(schemas.TopicEvents, w.months(s.cfg.Codec, 0, 6)...)
	stop := w.run(s)
	w.caughtUp(6)
	stop(true)
	w.produce(schemas.TopicEvents, w.months(s.cfg.Codec, 100, 3)...)
	// The leader of today has the former one's events up to offset 4 only.
	w.broker.Cluster().ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		res := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		p := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
		p.LeaderEpoch, p.EndOffset = 0, 4
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic, rt.Partitions = schemas.TopicEvents, append(rt.Partitions, p)
		res.Topics = append(res.Topics, rt)
		return res, nil, true
	})
	again := w.process(func(cfg *Config) { cfg.StateDir = "" })
	again.sourcePatience = 0
	w.run(again)
	w.refused(reasonEventsCut)
	if why := again.whyRefused(); !strings.Contains(why, "--from 4") {
		t.Errorf("the way out is not in %q", why)
	}
	w.committed.Store(-1)
	w.accept("4")
	w.caughtUp(9)
	// The scores of what is lost are not believed; all else is scored.
	for id, offset := range map[string]int64{"customer3": 3, "customer100": 6, "customer102": 8} {
		if got := score(t, s.cfg.Codec, latest(w.records(schemas.TopicScores))[id]); got.SourceOffset != offset {
			t.Errorf("%s rests on the event at %d, want %d", id, got.SourceOffset, offset)
		}
	}
	if p := w.progress(); p.Since != 4 || p.Unaccounted() != 0 {
		t.Errorf("progress %+v", p)
	}
}

// Two groups on the same topics: the second waits and names the first, and takes
// over when that is gone.
func TestSecondGroup(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newStack(t)
	s.models.set(modelVersion(t, s.set, 1, 0))
	send := func(n int) {
		for i := range 10 {
			s.sendEvent(s.event(fmt.Sprint("customer", i), fmt.Sprint("e", n, i), start+int64(n+i), map[int]string{months: "1"}, nil))
		}
	}
	stop := s.start()
	send(0)
	s.scores(10)
	readiness := make(chan string, 100)
	reg := prometheus.NewRegistry()
	second, err := New(Config{
		Dependencies: role.Dependencies{Cluster: s.cluster, Codec: s.codec, Models: s.models, Logger: quiet(), Registerer: reg,
			Ready: func(_ string, ready bool, why string) {
				select {
				case readiness <- strconv.FormatBool(ready) + " " + why:
				default:
				}
			}},
		Group: "another", CommitInterval: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	second.refusalPause = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- second.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	deadline := time.After(20 * time.Second)
	for refused := false; !refused; {
		select {
		case why := <-readiness:
			refused = strings.HasPrefix(why, "false not scoring partitions") && strings.Contains(why, "the group "+DefaultGroup+", which has 1 members")
		case <-deadline:
			t.Fatal("the second group is not refused")
		}
	}
	send(10)
	s.scores(20)
	stop()
	send(20)
	s.scores(30)
	if n := testutil.ToFloat64(second.metrics.foreign); n != 0 {
		t.Errorf("the second group found %v foreign records", n)
	}
}

// Records that no scorer has written, once markers say who has written what.
func TestForeignRecordsOfADifferentProducer(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	codec := s.cfg.Codec
	w.produce(schemas.TopicEvents, w.months(codec, 0, 4)...)
	stop := w.run(s)
	w.caughtUp(4)
	stop(true)
	written := w.records(schemas.TopicScores)
	headers := func(offset string) []kafka.Header {
		return []kafka.Header{{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte(offset)}}
	}
	ahead := score(t, codec, written[1])
	ahead.SourceOffset, ahead.Attributes[months] = 7, 99
	far := score(t, codec, written[1])
	far.SourceOffset = 1 << 60
	p := w.progress()
	p.Next = 8
	forged := markerRecord(codec, p)
	w.produce(schemas.TopicScores,
		kafka.Record{Key: []byte("customer0"), Value: []byte("garbage"), Headers: headers("3")},
		kafka.Record{Key: []byte("customer1"), Value: codec.AppendScore(nil, ahead), Headers: headers("7")},
		kafka.Record{Key: []byte("customer1"), Value: codec.AppendScore(nil, far), Headers: headers("1152921504606846976")},
		kafka.Record{Key: []byte("customer2"), Headers: headers("3")},
		kafka.Record{Key: []byte("nobody"), Value: []byte("garbage"), Headers: headers("3")},
		forged,
		kafka.Record{Key: progressKey, Value: []byte("garbage")},
		kafka.Record{Key: progressKey})
	w.produce(schemas.TopicEvents, w.months(codec, 4, 6)...)
	w.committed.Store(-1)
	stop = w.run(w.process(func(cfg *Config) { cfg.StateDir = "" }))
	w.caughtUp(10)
	if n := testutil.ToFloat64(w.metrics.orphans.WithLabelValues("0")); n != 1 {
		t.Errorf("%v orphaned customers", n)
	}
	stop(true)
	last := latest(w.records(schemas.TopicScores))
	for i := range 10 {
		r := last[fmt.Sprint("customer", i)]
		if r.Value == nil || r.ProducerID < 0 || score(t, codec, r).SourceOffset != int64(i) || score(t, codec, r).Attributes[months] != float64(i) {
			t.Errorf("customer%d has %+v", i, r)
		}
	}
	if n := testutil.ToFloat64(w.metrics.repaired); n != 3 {
		t.Errorf("%v customers were repaired", n)
	}
	if p := w.progress(); p.Scored != 10 || p.Next != 10 || p.Unaccounted() != 0 {
		t.Errorf("progress %+v", p)
	}
}

// A scorer of before left no markers, and something under the name of one.
func TestUnreadableBeforeTheFirstMarker(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	headers := []kafka.Header{{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte("0")}}
	w.produce(schemas.TopicScores, kafka.Record{Key: []byte("customer0"), Value: []byte("garbage"), Headers: headers})
	w.produce(schemas.TopicEvents, w.months(s.cfg.Codec, 0, 3)...)
	w.run(s)
	w.refused(reasonUnreadable)
	// Whatever is valid there settles it.
	w.produce(schemas.TopicScores, kafka.Record{Key: []byte("customer0"), Headers: headers})
	w.caughtUp(3)
}

// Retention, or somebody, deletes scores that compaction would have kept.
func TestStatesLost(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	noFiles := func(cfg *Config) { cfg.StateDir = "" }
	s := w.process(noFiles)
	codec := s.cfg.Codec
	w.produce(schemas.TopicEvents, append(w.months(codec, 0, 6), kafka.Record{Key: []byte("customer5")})...)
	stop := w.run(s)
	w.caughtUp(7)
	stop(true)
	if p := w.progress(); p.Customers != 5 {
		t.Errorf("the marker speaks of %d customers, want 5", p.Customers)
	}
	if err := w.broker.Cluster().DeleteRecords(schemas.TopicScores, 0, w.records(schemas.TopicScores)[2].Offset); err != nil {
		t.Fatal(err)
	}
	w.produce(schemas.TopicEvents, w.months(codec, 10, 1)...)
	s = w.process(noFiles)
	w.run(s)
	w.refused(reasonStatesLost)
	if why := s.whyRefused(); !strings.Contains(why, "speaks of 5 customers, and 3 are there") || !strings.Contains(why, "--from next") {
		t.Errorf("refused: %s", why)
	}
	w.committed.Store(-1)
	w.accept(FromNext)
	w.caughtUp(8)
	if p := w.progress(); p.Since != 0 || p.Unaccounted() != 0 {
		t.Errorf("progress %+v", p)
	}
}

// What an owner has written can never be read again.
func TestEraseUnreadable(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	noFiles := func(cfg *Config) { cfg.StateDir = "" }
	s := w.process(noFiles)
	w.produce(schemas.TopicEvents, w.months(s.cfg.Codec, 0, 3)...)
	stop := w.run(s)
	w.caughtUp(3)
	stop(true)
	damaged := w.records(schemas.TopicScores)[1]
	damaged.Value = damaged.Value[:7]
	w.own(damaged)
	w.produce(schemas.TopicEvents, w.months(s.cfg.Codec, 3, 1)...)
	w.run(w.process(noFiles))
	w.refused(reasonUnreadable)
	w.committed.Store(-1)
	p, erased, err := Accept(t.Context(), AcceptConfig{
		Cluster: w.cluster, Codec: s.cfg.Codec, Group: DefaultGroup, From: FromNext, EraseUnreadable: true,
	})
	if err != nil || p.Next != 3 || len(erased) != 1 || erased[0] != "customer1" {
		t.Errorf("accepted %+v, erased %v, %v", p, erased, err)
	}
	w.caughtUp(4)
	last := latest(w.records(schemas.TopicScores))
	if last["customer1"].Value != nil || last["customer0"].Value == nil || last["customer3"].Value == nil {
		t.Errorf("left are %v", last)
	}
}
