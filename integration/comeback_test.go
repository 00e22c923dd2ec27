//go:build integration

package integration

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// growth follows the ends of the partitions of churn.scores.
type growth struct {
	mu    sync.Mutex
	last  []time.Time     // when a partition grew last
	pause []time.Duration // the longest time between two growths
	stop  chan struct{}
	done  chan struct{}
}

func followGrowth(t testing.TB, c *kafka.Cluster) *growth {
	t.Helper()
	n, err := c.Partitions(testContext(t), schemas.TopicScores)
	if err != nil {
		t.Fatal(err)
	}
	p := &growth{last: make([]time.Time, n), pause: make([]time.Duration, n), stop: make(chan struct{}), done: make(chan struct{})}
	ends := make([]int64, n)
	for i := range n {
		p.last[i], ends[i] = time.Now(), end(t, c, schemas.TopicScores, i)
	}
	go func() {
		defer close(p.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
			}
			for i := range n {
				_, end, err := c.Offsets(t.Context(), schemas.TopicScores, i)
				if err != nil || end <= ends[i] {
					continue
				}
				now := time.Now()
				p.mu.Lock()
				p.pause[i] = max(p.pause[i], now.Sub(p.last[i]))
				p.last[i], ends[i] = now, end
				p.mu.Unlock()
			}
		}
	}()
	t.Cleanup(p.end)
	return p
}

func (p *growth) end() {
	select {
	case <-p.done:
	default:
		close(p.stop)
		<-p.done
	}
}

// since returns when the slowest partition grew for the first time after a
// moment; ok is false while one has not.
func (p *growth) since(begin time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.last {
		if t.Before(begin) {
			return false
		}
	}
	return true
}

// reset forgets the pauses so far and returns the longest.
func (p *growth) reset() (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.pause {
		longest = max(longest, p.pause[i])
		p.pause[i] = 0
	}
	return longest
}

// A scorer with an instance id that is killed with -9 and started again within
// its session has its partitions back without a rebalance: the others do not
// notice. So a rolling restart moves nothing either.
func TestComingBack(t *testing.T) {
	p := StartPlatform(t, KafkaConfig{Brokers: 3})
	c, _ := p.Connect()
	codec := p.Codec(schemas.Telco())
	label := p.StartRole("label", "--horizon", "1s", "--score-interval", "0s")
	train := p.StartRole("train")
	var scorers []*Role
	for i := range 3 {
		name := fmt.Sprintf("scorer-%d", i)
		scorers = append(scorers, p.StartRole("score", "--instance-id", name, "--state-dir", filepath.Join(t.TempDir(), name)))
	}
	replay := p.StartRole("replay", "--rate", "0", "--outcome-delay", "1s", "--history-share", "0.6")
	for _, s := range append(scorers, label, train) {
		s.WaitReady(2 * time.Minute)
	}
	if code := replay.ExitCode(); code != 0 {
		t.Fatalf("replay ended with %d", code)
	}
	simulate := p.StartRole("simulate", "--rate", "300")
	follow := followGrowth(t, c)
	begin := time.Now()
	Eventually(t, time.Minute, "scores on every partition", func() error {
		if !follow.since(begin) {
			return fmt.Errorf("not on all")
		}
		return nil
	})
	generations := func(s *Role) float64 {
		t.Helper()
		n, err := s.Metric("churn_kafka_group_generations_total")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	follow.reset()
	const session = 15 * time.Second // the default of --session-timeout
	others := []float64{generations(scorers[1]), generations(scorers[2])}
	scorers[0].Kill9()
	begin = time.Now()
	scorers[0].Start()
	took := Eventually(t, time.Minute, "scores on every partition after a scorer was killed", func() error {
		if !follow.since(begin) {
			return fmt.Errorf("not on all")
		}
		return nil
	})
	t.Logf("one of three scorers killed with -9 and started again: scores on all its partitions %v later; longest pause of a partition %v",
		took.Round(10*time.Millisecond), follow.reset().Round(10*time.Millisecond))
	if took >= session {
		t.Errorf("that took as long as a session")
	}
	for i, s := range scorers[1:] {
		if n := generations(s); n != others[i] {
			t.Errorf("the others took part in a rebalance: %v generations, before %v", n, others[i])
		}
	}

	for _, s := range scorers {
		s.Stop()
		s.Start()
		begin = time.Now()
		Eventually(t, time.Minute, "scores on every partition during a rolling restart", func() error {
			if !follow.since(begin) {
				return fmt.Errorf("not on all")
			}
			return nil
		})
	}
	t.Logf("rolling restart of three scorers: longest pause of a partition %v", follow.reset().Round(10*time.Millisecond))

	// So does a sink.
	sink := p.StartRole("sink", "--sqlite", filepath.Join(t.TempDir(), "churn.db"), "--instance-id", "sink-0")
	sink.WaitReady(time.Minute)
	sink.Kill9()
	begin = time.Now()
	sink.Start()
	took = Eventually(t, time.Minute, "rows of a sink that was killed", func() error {
		rows, err := sink.Metric("churn_sink_rows_total")
		if err == nil && rows == 0 {
			err = fmt.Errorf("none yet")
		}
		return err
	})
	t.Logf("a sink killed with -9 and started again: rows %v later", took.Round(10*time.Millisecond))
	if took >= session {
		t.Errorf("that took as long as a session")
	}

	// A dynamic member comes, and takes what it gets without stopping the rest.
	fourth := p.StartRole("score")
	fourth.WaitReady(time.Minute)
	begin = time.Now()
	Eventually(t, time.Minute, "scores on every partition after a fourth scorer came", func() error {
		if !follow.since(begin) {
			return fmt.Errorf("not on all")
		}
		return nil
	})
	t.Logf("a fourth scorer came: longest pause of a partition %v", follow.reset().Round(10*time.Millisecond))
	follow.end()
	simulate.Stop()

	events := Events(t, c, codec)
	distinct := map[Event]bool{}
	for _, e := range events {
		distinct[e] = true
	}
	var scores []Score
	Eventually(t, time.Minute, "a score for every event", func() error {
		if scores = Scores(t, c, codec); len(scores) < len(distinct) {
			return fmt.Errorf("%d of %d", len(scores), len(distinct))
		}
		return nil
	})
	CheckScores(t, events, scores)
	t.Logf("%d events, each scored exactly once", len(distinct))
}
