//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// transaction writes records in one transaction and ends it as asked.
func transaction(t testing.TB, cl *kgo.Client, end kgo.TransactionEndTry, topic string, records ...kafka.Record) {
	t.Helper()
	begin(t, cl, topic, records...)
	if err := cl.EndTransaction(testContext(t), end); err != nil {
		t.Fatal(err)
	}
}

func begin(t testing.TB, cl *kgo.Client, topic string, records ...kafka.Record) {
	t.Helper()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		// One at a time, so that a transaction is many batches.
		if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTransactionalUpstream(t *testing.T) {
	w := startWorld(t, KafkaConfig{})
	ctx := testContext(t)
	first := foreign(t, w.Kafka, kgo.TransactionalID("upstream-1"))
	second := foreign(t, w.Kafka, kgo.TransactionalID("upstream-2"))

	t.Run("fetcher", func(t *testing.T) {
		const topic = "transactions"
		ensureTopic(t, w.cluster, topic, 1, nil)
		value := func(s string) kafka.Record { return kafka.Record{Key: []byte("k"), Value: []byte(s)} }
		plain := func(s string) {
			if err := w.producer.Produce(ctx, topic, value(s)); err != nil {
				t.Fatal(err)
			}
		}
		transaction(t, first, kgo.TryAbort, topic, value("aborted-1"), value("aborted-2"))
		plain("a")
		transaction(t, first, kgo.TryCommit, topic, value("b"), value("c"))
		// Two producers' transactions overlap, and end differently.
		begin(t, first, topic, value("aborted-3"))
		begin(t, second, topic, value("d"))
		plain("e")
		if err := first.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("aborted-4")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := first.EndTransaction(ctx, kgo.TryAbort); err != nil {
			t.Fatal(err)
		}

		// The second's is still open: nothing after its start may be read.
		if got := values(fetchTo(t, w.cluster, topic, 0, 3)); got != "a b c" {
			t.Fatalf("before the open transaction: %s", got)
		}
		_, end, err := w.cluster.Offsets(ctx, topic, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := w.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Offset: end, MaxWait: 300 * time.Millisecond})
		if records, err := f.Fetch(ctx); len(records) > 0 || err != nil {
			t.Errorf("from an open transaction: %s, %v", values(records), err)
		}
		if err := second.EndTransaction(ctx, kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
		transaction(t, first, kgo.TryAbort, topic, value("aborted-5"))
		transaction(t, first, kgo.TryCommit, topic, value("f"))
		transaction(t, second, kgo.TryAbort, topic, value("aborted-6"))

		got := fetchTo(t, w.cluster, topic, 0, 6)
		if values(got) != "a b c d e f" {
			t.Errorf("fetched %s", values(got))
		}
		// The end is reached over what is left out there.
		f = w.cluster.NewFetcher(kafka.FetcherConfig{Topic: topic, Offset: got[5].Offset + 1, MaxWait: 300 * time.Millisecond})
		Eventually(t, 30*time.Second, "reaching the end", func() error {
			records, err := f.Fetch(ctx)
			if err != nil || len(records) > 0 {
				t.Fatalf("%s, %v", values(records), err)
			}
			// A control record may still be on its way.
			if _, end, err = w.cluster.Offsets(ctx, topic, 0); err != nil {
				t.Fatal(err)
			}
			if f.Offset() != end {
				return fmt.Errorf("at %d of %d", f.Offset(), end)
			}
			return nil
		})
		t.Logf("6 committed records among 7 aborted ones and their control records; the log ends at %d", end)
	})

	t.Run("scorer", func(t *testing.T) {
		w.t = t // so that the scorer ends with this part
		w.score(scorer.Config{})
		w.send(w.event("anna", 1))
		transaction(t, first, kgo.TryAbort, schemas.TopicEvents, w.event("anna", 10), w.event("carl", 10))
		transaction(t, first, kgo.TryCommit, schemas.TopicEvents, w.event("bert", 2), w.event("anna", 3))
		transaction(t, second, kgo.TryAbort, schemas.TopicEvents, w.event("bert", 10))
		w.send(w.event("bert", 4))
		// Where control records come to stand is the coordinator's affair.
		offsets := regexp.MustCompile("@[0-9]+")
		Eventually(t, time.Minute, "scores of the committed events", func() error {
			scores, _ := w.scores()
			if got := offsets.ReplaceAllString(strings.Join(scores, " "), ""); got != "anna:1 bert:2 anna:3 bert:4" {
				return errors.New(got)
			}
			return nil
		})
		if first, end, err := w.cluster.Offsets(ctx, schemas.TopicDeadLetters, 0); err != nil || first != end {
			t.Errorf("dead letters from %d to %d, %v; want none", first, end, err)
		}
		scores, _ := w.scores()
		t.Logf("scored %v; the aborted events were not, and there are no dead letters", scores)
	})
}

// TestDamagedAnswers damages batches on their way from the broker.
func TestDamagedAnswers(t *testing.T) {
	k := StartKafka(t, KafkaConfig{Proxied: true})
	c, metrics := k.Connect()
	ensureTopic(t, c, "damaged", 1, nil)
	ctx := testContext(t)
	var sent []kafka.Record
	for i := range 50 {
		sent = append(sent, kafka.Record{Value: fmt.Appendf(nil, "value-%d", i)})
	}
	p := c.NewProducer(kafka.ProducerConfig{})
	if err := p.Produce(ctx, "damaged", sent[:25]...); err != nil {
		t.Fatal(err)
	}
	if err := p.Produce(ctx, "damaged", sent[25:]...); err != nil {
		t.Fatal(err)
	}

	// The second batch loses a bit; the first stays whole.
	var damaged atomic.Int64
	k.Proxy(0).OnAnswer(func(api int16, body []byte) bool {
		if api == apiFetch {
			if i := bytes.Index(body, []byte("value-40")); i >= 0 {
				body[i] ^= 0x04
				damaged.Add(1)
			}
		}
		return true
	})
	f := c.NewFetcher(kafka.FetcherConfig{Topic: "damaged", Offset: -1, MaxWait: 200 * time.Millisecond})
	records, err := f.Fetch(ctx)
	if err != nil || len(records) != 25 || values(records) != values(sent[:25]) {
		t.Fatalf("before the damage: %d records, %v: %s", len(records), err, values(records))
	}
	for damaged.Load() < 4 {
		short, cancel := context.WithTimeout(ctx, time.Second)
		records, err := f.Fetch(short)
		cancel()
		if len(records) > 0 {
			t.Fatalf("a damaged batch was decoded: %s", values(records))
		}
		if err == nil {
			t.Fatal("a damaged batch was passed over")
		}
	}
	counted := counter(t, metrics, "churn_kafka_corrupt_batches_total")
	if counted < 3 || f.Offset() != 25 {
		t.Errorf("%v damaged batches counted of %d, offset %d", counted, damaged.Load(), f.Offset())
	}
	k.Proxy(0).OnAnswer(nil)
	if records, err = f.Fetch(ctx); err != nil || values(records) != values(sent[25:]) {
		t.Errorf("when the damage is gone: %v: %s", err, values(records))
	}
	t.Logf("%d damaged answers: refused, %v counted, asked for again, none decoded; then the other 25 records came", damaged.Load(), counted)
}

// TestDamagedSegment damages a batch on the broker's disk, under a scorer.
func TestDamagedSegment(t *testing.T) {
	w := startWorld(t, KafkaConfig{})
	w.send(w.event("anna", 1))
	w.send(w.event("bert", 2))
	w.send(w.event("anna", 3))

	segment := filepath.Join(w.PartitionDir(0, schemas.TopicEvents, 0), fmt.Sprintf("%020d.log", 0))
	flip := func() {
		t.Helper()
		file, err := os.OpenFile(segment, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		data, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.LastIndex(data, []byte("ert")) // in the event, after the key
		if at < 0 {
			t.Fatal("the event is not in the segment")
		}
		if _, err := file.WriteAt([]byte{data[at-1] ^ 0x01}, int64(at-1)); err != nil {
			t.Fatal(err)
		}
	}
	flip()
	w.score(scorer.Config{})
	refused := func(n float64) func() error {
		return func() error {
			if got := counter(t, w.metrics, "churn_kafka_corrupt_batches_total"); got < n {
				return fmt.Errorf("%v damaged batches counted", got)
			}
			return nil
		}
	}
	Eventually(t, time.Minute, "the damage being noticed", refused(4))
	scores, _ := w.scores()
	if strings.Join(scores, " ") != "anna:1@0" {
		t.Errorf("with the second event damaged: %v", scores)
	}
	flip() // back
	w.waitScores("anna:1@0", "bert:2@1", "anna:3@2")
	if first, end, err := w.cluster.Offsets(testContext(t), schemas.TopicDeadLetters, 0); err != nil || first != end {
		t.Errorf("dead letters from %d to %d, %v", first, end, err)
	}
	scores, _ = w.scores()
	t.Logf("a flipped bit in the broker's segment stopped the partition before it, counted %v times; with the bit back: %v",
		counter(t, w.metrics, "churn_kafka_corrupt_batches_total"), slices.Clip(scores))
}
