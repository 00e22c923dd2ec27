//go:build integration

package integration

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// TestGrowing gives the topics more partitions under load, first twice as many and
// then one more, so that customers move between partitions that are at work too;
// a scorer is killed meanwhile. Every event has its score once, and every
// customer one state with all that was added, in Kafka and in ClickHouse.
func TestGrowing(t *testing.T) {
	f := startFaults(t, 1)
	// Events that are forwarded come after newer ones, which may be more than are
	// remembered to know one that comes again.
	f.load.mu.Lock()
	f.load.once = true
	f.load.mu.Unlock()
	// What is added to has to come first: a customer's first event is not to be
	// forwarded after the second one.
	Eventually(t, recovery, "an event of every customer", func() error {
		for customer, history := range f.load.expectations() {
			if len(history) == 0 {
				return fmt.Errorf("none of %s", customer)
			}
		}
		return nil
	})
	f.settled("before", time.Now())
	registry := f.sink.args[slices.Index(f.sink.args, "--registry")+1]
	schema := filepath.Join(t.TempDir(), "customers.avsc")
	if err := os.WriteFile(schema, []byte(faultsTable), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := f.cluster.Partitions(testContext(t), schemas.TopicEvents)
	if err != nil {
		t.Fatal(err)
	}
	for i, to := range []int{2 * n, 2*n + 1} {
		begin := time.Now()
		grown := make(chan string, 1)
		go func() {
			grown <- run(t, nil, Program(t), "topics", "grow", fmt.Sprint(to), "--brokers", f.kafka.Brokers(), "--registry", registry, "--schema", schema, "--wait", "2m")
		}()
		if i == 1 {
			victim := f.scorers[f.rng.IntN(len(f.scorers))]
			victim.Kill9()
			victim.Start()
		}
		if out := <-grown; !strings.Contains(out, "every customer is at home") {
			t.Fatalf("topics grow: %s", out)
		}
		f.note("%d partitions: every customer at home after %v", to, time.Since(begin).Round(100*time.Millisecond))
		f.settled(fmt.Sprintf("with %d partitions", to), time.Now())
	}
	f.load.end()
	f.scored(f.load.sent())

	want := f.load.expectations()
	events := map[string]bool{}
	for _, history := range want {
		for _, e := range history {
			events[e.event] = false
		}
	}
	latest := map[string]*schemas.ChurnScore{}
	moved, forwarded := 0, 0
	each(t, f.cluster, schemas.TopicScores, func(ctx context.Context, r kafka.Record) error {
		if r.Value == nil || schemas.IsReservedKey(r.Key) {
			return nil
		}
		s := f.codec.NewScore()
		if err := f.codec.DecodeScore(ctx, r.Value, s); err != nil {
			return err
		}
		if int(s.SourcePartition) != r.Partition {
			moved++
		} else if s.Trigger == schemas.TriggerEvent {
			if done, known := events[string(s.EventID)]; done || !known {
				t.Errorf("a score too many, of event %s in partition %d", s.EventID, r.Partition)
			}
			events[string(s.EventID)] = true
		}
		if known := latest[string(r.Key)]; known == nil || known.AsOf <= s.AsOf {
			latest[string(r.Key)] = s
		}
		return nil
	})
	for _, id := range slices.Sorted(maps.Keys(events)) {
		if !events[id] {
			t.Errorf("event %s has no score", id)
		}
	}
	each(t, f.cluster, schemas.TopicEvents, func(_ context.Context, r kafka.Record) error {
		if r.Header(schemas.HeaderForwardedPartition) != nil {
			forwarded++
		}
		return nil
	})
	stored := map[string]float64{}
	Eventually(t, recovery, "the latest scores in ClickHouse", func() error {
		rows, err := f.rows.Query(testContext(t), "SELECT customer_id, ifNull(tenure, -1) FROM churn_scores_latest")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			var x float64
			if err := rows.Scan(&id, &x); err != nil {
				return err
			}
			stored[id] = x
		}
		for customer, history := range want {
			if n := len(history); n > 0 && stored[customer] != history[n-1].values[tenure] {
				return fmt.Errorf("%s has a tenure of %v in ClickHouse, want %v", customer, stored[customer], history[n-1].values[tenure])
			}
		}
		return rows.Err()
	})
	for customer, history := range want {
		if n := len(history); n > 0 && latest[customer].Attributes[tenure] != history[n-1].values[tenure] {
			t.Errorf("%s has a tenure of %v, want %v", customer, latest[customer].Attributes[tenure], history[n-1].values[tenure])
		}
	}
	if moved == 0 {
		t.Error("nobody has moved")
	}
	var sums schemas.Sums
	for p := range 2*n + 1 {
		Eventually(t, 2*time.Minute, "an account of every event", func() error {
			a, err := scorer.RunAudit(testContext(t), scorer.AuditConfig{Cluster: f.cluster, Codec: f.codec, Partition: p, From: -1, To: -1})
			switch last := end(t, f.cluster, schemas.TopicEvents, p); {
			case err != nil:
				return err
			case a.To < last:
				return fmt.Errorf("partition %d is marked up to %d of %d", p, a.To, last)
			case !a.OK():
				return fmt.Errorf("partition %d: %v", p, a.Findings)
			}
			sums.Scored += a.Found.Scored
			sums.Forwarded += a.Found.Forwarded
			return nil
		})
	}
	f.note("%d events, each scored once; %d states moved; %d events forwarded; the audit finds %d scored and %d forwarded",
		len(events), moved, forwarded, sums.Scored, sums.Forwarded)
	for _, line := range f.report {
		t.Log(line)
	}
}
