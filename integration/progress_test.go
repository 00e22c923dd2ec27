//go:build integration

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// accept says where the scorer is to go on, as churnstream progress accept does.
func (w *world) accept(from scorer.From) {
	w.t.Helper()
	_, _, err := scorer.Accept(testContext(w.t), scorer.AcceptConfig{
		Cluster: w.cluster, Codec: w.codec, Group: scorer.DefaultGroup, From: from,
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// refused waits until the scorer refuses the partition.
func (w *world) refused(reason string) {
	w.t.Helper()
	Eventually(w.t, time.Minute, "the partition being refused", func() error {
		families, err := w.metrics.Gather()
		if err != nil {
			return err
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "churn_scorer_refused_partitions" && m.GetGauge().GetValue() == 1 {
					for _, l := range m.GetLabel() {
						if l.GetName() == "reason" && l.GetValue() == reason {
							return nil
						}
					}
				}
			}
		}
		return fmt.Errorf("it is not, for %s", reason)
	})
}

// TestKafkaLosesEvents cuts off the end of the log of events on the broker's
// disk, as an unclean leader election does, and has others take the offsets, so
// that the log is longer than before.
func TestKafkaLosesEvents(t *testing.T) {
	w := startWorld(t, KafkaConfig{})
	for i := range 6 {
		w.send(w.event(fmt.Sprint("old", i), 1))
	}
	stop := w.startScorer(scorer.Config{})
	w.waitScores("old0:1@0", "old1:1@1", "old2:1@2", "old3:1@3", "old4:1@4", "old5:1@5")
	stop()

	w.Stop(0)
	segment := filepath.Join(w.PartitionDir(0, schemas.TopicEvents, 0), fmt.Sprintf("%020d.log", 0))
	data, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for kept < len(data) && binary.BigEndian.Uint64(data[kept:]) < 4 {
		kept += 12 + int(binary.BigEndian.Uint32(data[kept+8:]))
	}
	if err := os.Truncate(segment, int64(kept)); err != nil {
		t.Fatal(err)
	}
	// The broker looks at its segments as after a crash.
	if err := os.Remove(filepath.Join(filepath.Dir(filepath.Dir(segment)), ".kafka_cleanshutdown")); err != nil {
		t.Log(err)
	}
	w.Start(0)
	for i := range 4 {
		w.send(w.event(fmt.Sprint("new", i), 1))
	}
	if _, end, err := w.cluster.Offsets(testContext(t), schemas.TopicEvents, 0); err != nil || end != 8 {
		t.Fatalf("the log ends at %d, %v; want 8", end, err)
	}

	w.metrics = prometheus.NewRegistry() // of another process
	w.startScorer(scorer.Config{})
	w.refused("events_cut")
	if got, _ := w.scores(); len(got) != 6 {
		t.Errorf("scores while the partition is refused: %v", got)
	}
	w.accept("4")
	Eventually(t, time.Minute, "scores of the new events", func() error {
		got, _ := w.scores()
		for _, want := range []string{"new0:1@4", "new1:1@5", "new2:1@6", "new3:1@7"} {
			if !slices.Contains(got, want) {
				return fmt.Errorf("%v", got)
			}
		}
		return nil
	})
}

// TestTopicsMadeAnew deletes topics of a real Kafka under the scorer's feet.
func TestTopicsMadeAnew(t *testing.T) {
	w := startWorld(t, KafkaConfig{})
	recreate := func(topic string) {
		t.Helper()
		client, done := w.Kafka.client(10 * time.Second)
		defer done()
		res, err := client.DeleteTopics(testContext(t), &kafkago.DeleteTopicsRequest{Topics: []string{topic}})
		if err == nil {
			err = res.Errors[topic]
		}
		if err != nil {
			t.Fatal(err)
		}
		Eventually(t, time.Minute, "the topic to be gone", func() error {
			if _, err := w.cluster.Partitions(testContext(t), topic); !errors.Is(err, kafka.ErrUnknownTopic) {
				return fmt.Errorf("it is there (%w)", err)
			}
			return nil
		})
		ensureTopic(t, w.cluster, topic, 1, nil)
	}
	send := func(prefix string, n int) (events []kafka.Record) {
		for i := range n {
			events = append(events, w.event(fmt.Sprint(prefix, i), 1))
		}
		w.send(events...)
		return events
	}
	send("a", 5)
	stop := w.startScorer(scorer.Config{})
	w.waitScores("a0:1@0", "a1:1@1", "a2:1@2", "a3:1@3", "a4:1@4")
	stop() // with a note among the group's offsets, which knows of the scores
	recreate(schemas.TopicScores)
	w.metrics = prometheus.NewRegistry() // of another process
	stop = w.startScorer(scorer.Config{})
	w.refused("scores_replaced")
	w.accept(scorer.FromFirst)
	w.waitScores("a0:1@0", "a1:1@1", "a2:1@2", "a3:1@3", "a4:1@4")
	stop()

	recreate(schemas.TopicEvents)
	send("b", 9) // beyond the old end
	w.metrics = prometheus.NewRegistry()
	stop = w.startScorer(scorer.Config{})
	w.refused("events_replaced")
	stop()
	recreate(schemas.TopicScores)
	w.accept(scorer.FromFirst)
	w.metrics = prometheus.NewRegistry()
	w.startScorer(scorer.Config{})
	w.waitScores("b0:1@0", "b1:1@1", "b2:1@2", "b3:1@3", "b4:1@4", "b5:1@5", "b6:1@6", "b7:1@7", "b8:1@8")
}
