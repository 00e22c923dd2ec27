package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// TestTailOfEveryTopic writes a message of every kind and reads it back as
// JSON.
func TestTailOfEveryTopic(t *testing.T) {
	b := newBench(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	key := []byte("anna")
	score := b.codec.NewScore()
	score.CustomerID, score.EventID, score.OccurredAt, score.Probability, score.Risk = key, []byte("e1"), at.UnixMilli(), 0.75, schemas.RiskHigh
	score.Explanations = []schemas.Explanation{{Feature: 1, LIME: 0.25, SHAP: scoring.Missing}}
	score.Attributes[1] = 3
	letter := schemas.DeadLetter{Reason: "bad_frame", Topic: schemas.TopicEvents, Key: key, Value: []byte{0, 'x', 0xff}}
	cases := []struct {
		topic string
		value []byte
		want  string
	}{
		{schemas.TopicEvents, b.event("anna", "e1", at),
			`{"event_id":"e1","customer_id":"anna","occurred_at":"2026-01-02T03:04:05.006Z","changes":{"plan":"monthly","visits":3},"increments":{"visits":null},"source":"test"}`},
		{schemas.TopicScores, b.codec.AppendScore(nil, score),
			`"churn_probability":0.75,"previous_probability":null,"risk":"HIGH","expected_probability":0,"explanations":[{"feature":"visits","value":"3","lime":0.25,"shap":null}]`},
		{schemas.TopicOutcomes, b.codec.AppendOutcome(nil, &schemas.ChurnOutcome{CustomerID: "anna", Churned: true, ObservedAt: at.UnixMilli()}),
			`{"customer_id":"anna","churned":true,"observed_at":"2026-01-02T03:04:05.006Z","attributes":null,"source":""}`},
		{schemas.TopicModels, b.codec.AppendModel(nil, b.model()), `"stage":"CHAMPION","reason":"test","payload":"{\"`},
		{schemas.TopicDeadLetters, b.codec.AppendDeadLetter(nil, &letter), `"key":"anna","value":"\u0000xÿ","headers":[]`},
	}
	for i, c := range cases {
		t.Run(c.topic, func(t *testing.T) {
			b.t = t
			b.produce(c.topic, kafka.Record{Key: key, Value: c.value, Time: at, Headers: []kafka.Header{{Key: "h", Value: []byte("1")}, {Key: "h", Value: []byte{0xfe}}}})
			b.produce(c.topic, kafka.Record{Key: key, Time: at})
			out := b.command("tail", c.topic)
			if !strings.Contains(out, c.want) {
				t.Errorf("no %s in\n%s", c.want, out)
			}
			lines := b.lines(out)
			if len(lines) != 2 {
				t.Fatalf("%d lines:\n%s", len(lines), out)
			}
			if v, there := lines[1]["value"]; v != nil || !there {
				t.Errorf("the tombstone: %v", lines[1])
			}
			first := lines[0]
			if first["key"] != "anna" || first["timestamp"] != "2026-01-02T03:04:05.006Z" || first["offset"] != 0.0 || first["schema_id"] == nil ||
				fmt.Sprint(first["headers"]) != "[map[key:h value:1] map[key:h value_base64:/g==]]" {
				t.Errorf("record %d: %v", i, first)
			}
		})
	}
}

func TestTailChooses(t *testing.T) {
	b := newBench(t)
	const topic = "letters" // of two partitions; any topic will do
	err := b.cluster.EnsureTopics(b.ctx, kafka.TopicConfig{Name: topic, Partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 20 {
		key := []byte([]string{"anna", "bert"}[i%2])
		err := b.out.ProduceTo(b.ctx, topic, i%2, []kafka.Record{{Key: key, Value: fmt.Append(nil, i), Time: at.Add(time.Duration(i) * time.Second)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	values := func(out string) string {
		var all []string
		for _, l := range b.lines(out) {
			value, err := base64.StdEncoding.DecodeString(l["value_base64"].(string))
			if err != nil || l["error"] == "" {
				t.Errorf("line %v", l)
			}
			all = append(all, string(value))
		}
		return strings.Join(all, " ")
	}
	cases := []struct {
		args []string
		want string
	}{
		{nil, "10 11 12 13 14 15 16 17 18 19"},
		{[]string{"-n", "3"}, "17 18 19"},
		{[]string{"-n", "0"}, ""},
		{[]string{"-n", "100"}, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19"},
		{[]string{"--from-start"}, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19"},
		{[]string{"--from-start", "-n", "4"}, "0 1 2 3"},
		{[]string{"--from-start", "-n", "0"}, ""},
		{[]string{"--key", "bert", "-n", "3"}, "15 17 19"},
		{[]string{"--key", "bert", "--from-start", "--records", "2"}, "1 3"},
		{[]string{"--key", "bert", "--from-start", "--records", "3", "--follow"}, "1 3 5"},
		{[]string{"--key", "nobody"}, ""},
		{[]string{"--key", "nobody", "--from-start"}, ""},
	}
	for _, c := range cases {
		if got := values(b.command(append([]string{"tail", topic}, c.args...)...)); got != c.want {
			t.Errorf("%v: %s, want %s", c.args, got, c.want)
		}
	}
	if got := b.fails("tail", "no-such-topic"); !strings.Contains(got, "no-such-topic") {
		t.Errorf("no topic: %q", got)
	}
	if got := b.fails("tail", topic, "--records=-1"); !strings.Contains(got, "negative") {
		t.Errorf("-n=-1: %q", got)
	}
}

// Transactions leave gaps in the offsets: the last records are further back
// than their number.
func TestTailLooksPastGaps(t *testing.T) {
	b := newBench(t)
	partition := kafka.PartitionOf([]byte("anna"), 2)
	for i := range 5 {
		b.produce(schemas.TopicOutcomes, kafka.Record{Key: []byte("anna"), Value: fmt.Append(nil, i)})
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers), kgo.TransactionalID("upstream"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		r := &kgo.Record{Topic: schemas.TopicOutcomes, Partition: int32(partition), Key: []byte("anna"), Value: []byte("aborted")}
		if err := client.ProduceSync(b.ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.EndTransaction(b.ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	var offsets []any
	for _, l := range b.lines(b.command("tail", schemas.TopicOutcomes, "-n", "3")) {
		offsets = append(offsets, l["offset"])
	}
	if got := fmt.Sprint(offsets); got != "[2 3 4]" {
		t.Errorf("offsets %s", got)
	}
	if n := len(b.lines(b.command("tail", schemas.TopicOutcomes, "--from-start"))); n != 5 {
		t.Errorf("%d records from the start", n)
	}
}

func TestTailFollows(t *testing.T) {
	b := newBench(t)
	b.produce(schemas.TopicOutcomes, kafka.Record{Key: []byte("anna"), Value: []byte("before")})
	p := launch(t, b.args("tail", schemas.TopicOutcomes, "-n", "1", "--follow", "--key", "anna")...)
	p.find(`"offset":0,`)
	for range 3 {
		b.produce(schemas.TopicOutcomes, kafka.Record{Key: []byte("bert"), Value: []byte("not wanted")}, kafka.Record{Key: []byte("anna")})
		p.find(fmt.Sprintf(`"offset":%d,[^\n]*"value":null`, b.lastOffset("anna")))
	}
	if code, _ := p.interrupt(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n := strings.Count(p.output(), "\n"); n != 4 {
		t.Errorf("printed %d lines:\n%s", n, p.output())
	}
}

// lastOffset returns the offset of the last outcome in a key's partition.
func (b *bench) lastOffset(key string) int64 {
	b.t.Helper()
	_, end, err := b.cluster.Offsets(b.ctx, schemas.TopicOutcomes, kafka.PartitionOf([]byte(key), 2))
	if err != nil {
		b.t.Fatal(err)
	}
	return end - 1
}

func TestTailHelp(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run([]string{"tail", "--help"}, &out, &errs); code != 0 || !strings.Contains(out.String(), "churnstream tail churn.scores") {
		t.Errorf("%d\n%s", code, out.String())
	}
}
