//go:build integration

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// TestFullPass runs every role as a process, on three brokers and ClickHouse,
// over a part of the real table, and kills the scorer, the sink, ClickHouse and
// a broker on the way.
func TestFullPass(t *testing.T) {
	p := StartPlatform(t, KafkaConfig{Brokers: 3})
	store := StartClickHouse(t, ClickHouseConfig{})
	c, _ := p.Connect()
	codec := p.Codec(schemas.Telco())
	rows := store.Connect()

	p.StartRole("label", "--horizon", "1s", "--score-interval", "0s")
	p.StartRole("train")
	score := p.StartRole("score")
	sink := p.StartRole("sink", "--clickhouse", store.Addr())
	replay := p.StartRole("replay", "--rate", "60", "--outcome-delay", "1s", "--history-share", "0.6")
	score.WaitReady(time.Minute)
	sink.WaitReady(time.Minute)

	written := func() int { return int(ends(t, c, schemas.TopicScores)) }
	inStore := func() int {
		n, err := store.Count(rows, "SELECT count() FROM churn_scores FINAL")
		if err != nil {
			return -1
		}
		return int(n)
	}
	// more waits until count has grown by n.
	more := func(limit time.Duration, what string, count func() int, n int) time.Duration {
		t.Helper()
		from := count()
		return Eventually(t, limit, what, func() error {
			if got := count(); got < from+n {
				return fmt.Errorf("%d more", got-from)
			}
			return nil
		})
	}
	more(time.Minute, "scores in ClickHouse", inStore, 300)

	score.Kill9()
	sink.Kill9()
	at := ends(t, c, schemas.TopicEvents)
	Eventually(t, time.Minute, "events while scorer and sink are dead", func() error {
		if n := ends(t, c, schemas.TopicEvents); n < at+200 {
			return fmt.Errorf("%d", n-at)
		}
		return nil
	})
	begin := time.Now()
	score.Start()
	sink.Start()
	// The markers of six partitions come before the scores.
	more(time.Minute, "scores after the scorer was killed", written, 7)
	t.Logf("scorer killed with -9: scores again %v after it was started anew", time.Since(begin).Round(10*time.Millisecond))
	more(time.Minute, "rows after the sink was killed", inStore, 1)
	t.Logf("sink killed with -9: rows again %v after it was started anew", time.Since(begin).Round(10*time.Millisecond))

	more(time.Minute, "rows", inStore, 300)
	store.Kill9()
	more(time.Minute, "scores while ClickHouse is dead", written, 50)
	store.Start()
	took := more(time.Minute, "rows after ClickHouse was killed", inStore, 1)
	t.Logf("ClickHouse killed with -9: the scorer went on, rows again %v after ClickHouse was back", took.Round(10*time.Millisecond))

	leader := p.Leader(schemas.TopicScores, 0)
	begin = time.Now()
	p.Kill9(leader)
	more(time.Minute, "scores of the first partition after its leader was killed", func() int { return int(end(t, c, schemas.TopicScores, 0)) }, 5)
	t.Logf("broker %d of three killed with -9: new scores on the partition it led %v later", leader, time.Since(begin).Round(10*time.Millisecond))
	p.Start(leader)

	if !replay.Running() { // as on a machine that is very busy
		t.Log("the replay was over before the last kill, so that was not in its middle")
	}
	if code := replay.ExitCode(); code != 0 {
		t.Fatalf("replay ended with %d", code)
	}
	events := Events(t, c, codec)
	var scores []Score
	distinct := map[Event]bool{}
	for _, e := range events {
		distinct[e] = true
	}
	if len(distinct) < 2500 {
		t.Errorf("only %d events", len(distinct))
	}
	Eventually(t, time.Minute, "a score for every event", func() error {
		if scores = Scores(t, c, codec); len(scores) < len(distinct) {
			return fmt.Errorf("%d of %d", len(scores), len(distinct))
		}
		return nil
	})
	repeated := CheckScores(t, events, scores)

	Eventually(t, time.Minute, "all scores in ClickHouse", func() error {
		if n := inStore(); n < len(scores) {
			return fmt.Errorf("%d of %d", n, len(scores))
		}
		return nil
	})
	stored := storedScores(t, rows)
	for _, s := range scores {
		if stored[s] != 1 {
			t.Errorf("score %+v is %d times in ClickHouse", s, stored[s])
			break
		}
	}
	if n := inStore(); n != len(scores) || len(stored) != len(scores) {
		t.Errorf("ClickHouse has %d rows, %d different, for %d scores", n, len(stored), len(scores))
	}
	outcomes, left, versions := map[string]bool{}, 0, map[string]bool{}
	var o schemas.ChurnOutcome
	each(t, c, schemas.TopicOutcomes, func(ctx context.Context, r kafka.Record) error {
		if err := codec.DecodeOutcome(ctx, r.Value, &o); err != nil {
			return err
		}
		if id := fmt.Sprint(strings.Clone(o.CustomerID), o.ObservedAt); !outcomes[id] {
			outcomes[id] = true
			if o.Churned {
				left++
			}
		}
		return nil
	})
	each(t, c, schemas.TopicModels, func(_ context.Context, r kafka.Record) error {
		versions[string(r.Key)] = true
		return nil
	})
	// Every outcome has become an example: none of the real customers is unmatched.
	for table, want := range map[string]int{
		"churn_outcomes FINAL": len(outcomes), "churn_examples FINAL": len(outcomes), "training_set WHERE churned": left, "model_versions FINAL": len(versions),
	} {
		Eventually(t, time.Minute, table, func() error {
			n, err := store.Count(rows, "SELECT count() FROM "+table)
			if err == nil && int(n) != want {
				err = fmt.Errorf("%d rows, want %d", n, want)
			}
			return err
		})
	}
	raw, err := store.Count(rows, "SELECT count() FROM churn_scores")
	if err != nil {
		t.Error(err)
	}
	letters := ends(t, c, schemas.TopicDeadLetters)
	if letters != 0 {
		t.Errorf("%d dead letters", letters)
	}
	t.Logf("%d events (%d of them written twice by their producer), %d scores, each event exactly one; ClickHouse has the same %d rows with FINAL (%d without), %d outcomes, %d model versions; %d dead letters",
		len(distinct), repeated, len(scores), len(stored), raw, len(outcomes), len(versions), letters)
}

// ends returns the sum of a topic's end offsets.
func ends(t testing.TB, c *kafka.Cluster, topic string) int64 {
	t.Helper()
	ctx := testContext(t)
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for partition := range n {
		sum += end(t, c, topic, partition)
	}
	return sum
}

func end(t testing.TB, c *kafka.Cluster, topic string, partition int) int64 {
	t.Helper()
	_, end, err := c.Offsets(testContext(t), topic, partition)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// storedScores reads the scores in ClickHouse.
func storedScores(t testing.TB, conn driver.Conn) map[Score]int {
	t.Helper()
	rows, err := conn.Query(testContext(t), `SELECT event_id, customer_id, source_partition, source_offset, model_version, churn_probability FROM churn_scores FINAL`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	stored := map[Score]int{}
	for rows.Next() {
		var s Score
		var partition int32
		if err := rows.Scan(&s.EventID, &s.Customer, &partition, &s.Source.Offset, &s.ModelVersion, &s.Probability); err != nil {
			t.Fatal(err)
		}
		s.Source.Partition = int(partition)
		stored[s]++
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return stored
}
