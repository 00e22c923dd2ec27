package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
)

// TestProgress has scorers leave an account of events, audits it, takes the
// scores away from them, and has them go on by what the operator says.
func TestProgress(t *testing.T) {
	t.Parallel() // most of it is waiting
	b := newBench(t)
	b.publishModel()
	if out := b.fails("audit"); !strings.Contains(out, "not processed yet") {
		t.Errorf("audit before there is anything:\n%s", out)
	}
	if out := b.command("progress", "show"); strings.Count(out, "no marker yet") != 2 {
		t.Errorf("progress before there is any:\n%s", out)
	}
	at := time.Now().UTC().Truncate(time.Millisecond)
	const n = 20
	for i := range n {
		id := fmt.Sprint("customer", i)
		b.produce(schemas.TopicEvents, kafka.Record{Key: []byte(id), Value: b.event(id, fmt.Sprint("e", i), at)})
	}
	b.produce(schemas.TopicEvents, kafka.Record{Key: []byte("customer0"), Value: []byte("junk")})
	score := launch(t, b.args("score", "--http", "127.0.0.1:0")...)
	scored := func(p *child, n float64) {
		t.Helper()
		url := p.url()
		until(t, "the scores", func() bool { return metric(get(t, url+"/metrics"), `churn_scorer_events_total{result="scored"}`) == n })
	}
	scored(score, n)
	if code, _ := score.interrupt(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	// sums adds up two columns of a table, counted from 0.
	sums := func(table string, columns [2]int) (sums [2]int) {
		for _, row := range strings.Split(strings.TrimSpace(table), "\n")[1:] {
			for i, column := range columns {
				n, err := strconv.Atoi(strings.Fields(row)[column])
				if err != nil {
					t.Fatalf("%v in\n%s", err, table)
				}
				sums[i] += n
			}
		}
		return sums
	}
	if table := b.command("progress", "show"); !strings.Contains(table, "churn-scorer") {
		t.Errorf("progress:\n%s", table)
	} else if got := sums(table, [2]int{5, 7}); got != [2]int{n, 1} {
		t.Errorf("%v scored and dead letters in\n%s", got, table)
	}
	if table := b.command("audit"); strings.Contains(table, "offset ") {
		t.Errorf("audit:\n%s", table)
	} else if got := sums(table, [2]int{3, 5}); got != [2]int{n, 1} {
		t.Errorf("%v scored and dead letters in\n%s", got, table)
	}

	client := &kafkago.Client{Addr: kafkago.TCP(b.brokers), Timeout: time.Minute}
	if _, err := client.DeleteTopics(b.ctx, &kafkago.DeleteTopicsRequest{Topics: []string{schemas.TopicScores}}); err != nil {
		t.Fatal(err)
	}
	if err := b.cluster.EnsureTopics(b.ctx, topics.EmbeddedConfigs(2)...); err != nil {
		t.Fatal(err)
	}
	score = launch(t, b.args("score", "--http", "127.0.0.1:0")...)
	url := score.url()
	until(t, "the scorer to refuse both partitions", func() bool {
		return strings.Contains(get(t, url+"/readyz"), "not scoring partitions [0 1]")
	})
	if page := get(t, url+"/readyz"); !strings.Contains(page, "churnstream progress accept --partition 0 --from first") {
		t.Errorf("not ready: %s", page)
	}
	if out := b.fails("progress", "accept", "--partition", "0", "--from", "next"); !strings.Contains(out, "no marker of progress") {
		t.Errorf("from where nothing says:\n%s", out)
	}
	if out := b.fails("progress", "accept", "--partition", "0", "--from", "1000"); !strings.Contains(out, "so nobody can go on at 1000") {
		t.Errorf("from beyond the end:\n%s", out)
	}
	for _, p := range []string{"0", "1"} {
		if out := b.command("progress", "accept", "--partition", p, "--from", "first"); !strings.Contains(out, "partition "+p+": scorers of the group churn-scorer go on at offset 0") {
			t.Errorf("accepted:\n%s", out)
		}
	}
	scored(score, n)
	until(t, "readiness", func() bool { return !strings.Contains(get(t, url+"/readyz"), "not scoring") })
	if code, _ := score.interrupt(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	b.command("audit")
}
