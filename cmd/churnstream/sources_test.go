package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// writeTable writes three labelled customers and returns the flags that read
// them.
func writeTable(t *testing.T) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "customers.csv")
	if err := os.WriteFile(path, []byte("id,plan,visits,left\nann,monthly,3,yes\nbob,yearly,?,no\ncid,yearly,8,no\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--table", path, "--id-column", "id", "--label-column", "left", "--label-value", "yes", "--missing", "?"}
}

// TestSimulate publishes customers drawn from a table until it is stopped.
func TestSimulate(t *testing.T) {
	t.Parallel() // most of it is waiting
	b := newBench(t)
	ctx, stop := context.WithCancel(b.ctx)
	defer stop()
	reading, enough := context.WithCancel(b.ctx)
	defer enough()
	args := append([]string{"simulate", "--rate", "500", "--outcome-delay", "10ms", "--http", "127.0.0.1:0"}, writeTable(t)...)
	var out, errs bytes.Buffer
	done := make(chan int, 1)
	go func() {
		defer enough()
		done <- runContext(ctx, b.args(args...), &out, &errs)
	}()

	// It goes on for as long as it is let: until every row of the table has
	// been drawn, and left or stayed. Numbers are drawn near those of a row.
	rows := map[string]bool{"monthly": false, "yearly": false, "yearly, visits unknown": false}
	near := map[string]float64{"monthly": 3, "yearly": 8}
	churned := map[bool]bool{}
	of := map[string]bool{} // customers with an event
	var mu sync.Mutex
	seen := func() bool {
		for _, drawn := range rows {
			if !drawn {
				return false
			}
		}
		return churned[true] && churned[false]
	}
	err := b.cluster.Tail(reading, kafka.TailConfig{Topics: []string{schemas.TopicEvents, schemas.TopicOutcomes}},
		func(ctx context.Context, records []kafka.Record) error {
			mu.Lock()
			defer mu.Unlock()
			for i := range records {
				r := &records[i]
				if r.Topic == schemas.TopicOutcomes {
					var o schemas.ChurnOutcome
					if err := b.codec.DecodeOutcome(ctx, r.Value, &o); err != nil {
						return err
					}
					churned[o.Churned] = true
					continue
				}
				e := b.codec.NewEvent()
				if err := b.codec.DecodeEvent(ctx, r.Value, e); err != nil {
					return err
				}
				if string(r.Key) != string(e.CustomerID) {
					return fmt.Errorf("key %q of customer %q", r.Key, e.CustomerID)
				}
				if of[string(e.CustomerID)] {
					continue
				}
				of[string(e.CustomerID)] = true
				attributes := b.set.AttributesToMap(e.Changes, e.Levels)
				row := fmt.Sprint(attributes["plan"])
				visits, known := attributes["visits"].(float64)
				if !known {
					row += ", visits unknown"
				}
				if _, is := rows[row]; !is || known && math.Abs(visits-near[row]) > 3 {
					return fmt.Errorf("customer %s is of no row: %v", e.CustomerID, attributes)
				}
				rows[row] = true
			}
			if seen() {
				enough()
			}
			return nil
		})
	if err != nil || !seen() {
		t.Errorf("drawn %v, churned %v, error %v", rows, churned, err)
	}
	stop()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d, %s", code, errs.String())
	}
}

// A table has to be described, and read.
func TestSourcesUsage(t *testing.T) {
	table := writeTable(t)
	for _, command := range []string{"simulate", "replay"} {
		for _, c := range []struct {
			args []string
			want string
		}{
			{table[:2], "--table needs --id-column, --label-column and --label-value"},
			{[]string{"--table", "nowhere.csv"}, "nowhere.csv"},
			{table, "--table " + table[1]}, // of other attributes than the shipped
			{[]string{"--rate", "-1"}, "rate"},
		} {
			var out, errs bytes.Buffer
			code := run(append([]string{command, "--brokers", "127.0.0.1:1", "--http", "127.0.0.1:0"}, c.args...), &out, &errs)
			if code == 0 || !strings.Contains(errs.String(), c.want) {
				t.Errorf("%s %v: exit code %d, %s", command, c.args, code, errs.String())
			}
		}
	}
}
