package sink

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
)

// A server that is killed, that freezes, whose disk is full and whose tables
// refuse rows, while scores keep coming: the sink waits, says so, and in the
// end each score is there once.
func TestSinkOutlivesItsServer(t *testing.T) {
	for _, protocol := range []string{"native", "http"} {
		t.Run(protocol, func(t *testing.T) { testOutlives(t, protocol) })
	}
}

func testOutlives(t *testing.T, protocol string) {
	server := ownServer(t)
	stack := newStack(t)
	s := server.open(t, stack.set, protocol)
	ch := s.Store.(*ClickHouse)
	ch.timeout = 2 * time.Second // a frozen server is found out by the clock
	reg := prometheus.NewRegistry()
	var ready atomic.Bool
	stack.start(t, Config{
		Store: s, MaxRows: 500,
		Dependencies: role.Dependencies{Registerer: reg, Ready: func(_ string, ok bool, _ string) { ready.Store(ok) }},
	})
	metric := func(name string) float64 {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				m := f.GetMetric()[0]
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		t.Fatalf("no metric %s", name)
		return 0
	}

	// Every customer's risk goes up and down.
	const customers = 200
	var offset int64
	latest := map[string]float64{}
	examples := map[string][]int64{} // by when they were observed
	produce := func(n int) {
		t.Helper()
		var records []kafka.Record
		for range n {
			id := fmt.Sprintf("c%03d", offset%customers)
			p := []float64{0.25, 0.75, 0.5}[(offset/customers+offset)%3]
			records = append(records, stack.score(t, id, offset, p))
			latest[id] = p
			offset++
		}
		stack.produce(t, schemas.TopicScores, records...)
		records = records[:0]
		for i := range n / 20 {
			id := fmt.Sprintf("c%03d", (offset+int64(i))%customers)
			examples[id] = append(examples[id], 1767225600000+offset+int64(i))
			records = append(records, stack.examples(id, 0.5, nil, examples[id][max(len(examples[id])-5, 0):]...))
		}
		stack.produce(t, schemas.TopicExamples, records...)
	}
	stored := func() bool { return stack.lag(t, "churn-sink-clickhouse") == 0 }
	check := func(after string) {
		t.Helper()
		eventually(t, "all stored after "+after, stored)
		if metric("churn_sink_store_up") != 1 || !ready.Load() {
			t.Errorf("after %s the sink does not say that the store is up", after)
		}
		expectRows(t, s.ask(t, "SELECT count(), uniqExact(source_offset), max(source_offset) FROM churn_scores FINAL"),
			fmt.Sprintf("%d | %d | %d", offset, offset, offset-1))
		var all, atRisk []string
		for _, id := range slices.Sorted(maps.Keys(latest)) {
			all = append(all, fmt.Sprintf("%s | %v", id, latest[id]))
			if latest[id] > 0.6 {
				atRisk = append(atRisk, id)
			}
		}
		expectRows(t, s.ask(t, "SELECT customer_id, churn_probability FROM churn_scores_latest ORDER BY customer_id"), all...)
		expectRows(t, s.ask(t, "SELECT customer_id FROM customers_at_risk"), atRisk...)
		var known []string
		for _, id := range slices.Sorted(maps.Keys(examples)) {
			known = append(known, fmt.Sprintf("%s | %d", id, len(examples[id])))
		}
		expectRows(t, s.ask(t, "SELECT customer_id, count() FROM training_set GROUP BY customer_id ORDER BY customer_id"), known...)
	}
	exec := func(statement string) {
		t.Helper()
		if _, err := s.db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}

	produce(2000)
	check("the start")
	for _, fault := range []struct {
		name       string
		begin, end func()
	}{
		{name: "kill -9", begin: server.kill, end: func() {
			if err := server.start(); err != nil {
				t.Fatal(err)
			}
		}},
		{
			name:  "a freeze",
			begin: func() { server.signal(t, syscall.SIGSTOP) },
			end:   func() { server.signal(t, syscall.SIGCONT) },
		},
		{
			name: "a full disk",
			begin: func() {
				exec("ALTER TABLE churn_scores MODIFY SETTING min_free_disk_bytes_to_perform_insert = 1000000000000000")
			},
			end: func() { exec("ALTER TABLE churn_scores RESET SETTING min_free_disk_bytes_to_perform_insert") },
		},
		{
			// The scores go in, what is derived from them does not.
			name:  "a table that refuses rows",
			begin: func() { exec("ALTER TABLE churn_scores_current ADD CONSTRAINT readonly CHECK source_offset < 0") },
			end:   func() { exec("ALTER TABLE churn_scores_current DROP CONSTRAINT readonly") },
		},
	} {
		t.Run(fault.name, func(t *testing.T) {
			retries := metric("churn_sink_retries_total")
			// Many small writes, so that the fault meets one on its way.
			for range 20 {
				produce(100)
			}
			start := time.Now()
			fault.begin()
			for range 20 {
				produce(100)
			}
			eventually(t, "the sink trying again", func() bool { return metric("churn_sink_retries_total") > retries+1 })
			// A write that began before the fault may be the last to be heard of.
			eventually(t, "the sink saying that the store is down", func() bool {
				return metric("churn_sink_store_up") == 0 && !ready.Load()
			})
			if stored() {
				t.Error("offsets of rows that were refused are committed")
			}
			down := time.Since(start)
			start = time.Now()
			fault.end()
			check(fault.name)
			t.Logf("down for %v, all stored %v later, %v writes tried again", down.Round(time.Millisecond),
				time.Since(start).Round(time.Millisecond), metric("churn_sink_retries_total")-retries)
		})
	}
	if n, err := testutil.GatherAndCount(reg, "churn_sink_dead_letters_total"); n > 0 || err != nil {
		t.Errorf("%d dead letters (%v)", n, err)
	}
}

// TestStoreDownIsAStandstill: rows that wait for the store are lag, and the
// partition is named with what the store says.
func TestStoreDownIsAStandstill(t *testing.T) {
	stack := newStack(t)
	var err error
	if stack.cluster, err = kafka.Connect(kafka.Config{Brokers: []string{stack.broker}, StuckAfter: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stack.cluster.Close)
	store := &failing{Store: openTestSQLite(t, stack.set)}
	store.writes.Store(1 << 40)
	stop := stack.start(t, Config{Store: store})
	stack.produce(t, schemas.TopicScores, stack.score(t, "anna", 0, 0.5), stack.score(t, "anna", 1, 0.6))
	var stuck []kafka.Standstill
	eventually(t, "the standstill", func() bool {
		if err := stack.cluster.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		stuck = stack.cluster.Standstills()
		return len(stuck) > 0 && stuck[0].Why != "" && stuck[0].Lag == 2
	})
	if s := stuck[0]; s.Reader != "sink sqlite" || s.Topic != schemas.TopicScores || s.Lag != 2 || !strings.Contains(s.Why, "no space left on device") {
		t.Errorf("it is %+v", s)
	}
	store.writes.Store(0)
	eventually(t, "no standstill", func() bool {
		if err := stack.cluster.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		return len(stack.cluster.Standstills()) == 0
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}
