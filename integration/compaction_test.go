//go:build integration

package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// TestRestoreAfterCompaction has a real broker compact churn.scores, until of each
// customer one score is left and tombstones are gone, and a scorer restore its
// state from that.
func TestRestoreAfterCompaction(t *testing.T) {
	w := startWorld(t, KafkaConfig{Settings: map[string]string{
		"log.roll.ms": "500", "log.cleaner.backoff.ms": "200", "log.cleaner.min.cleanable.ratio": "0.01",
		"log.cleaner.delete.retention.ms": "200",
	}})
	ctx := testContext(t)
	want := map[string]float64{}
	stop := w.startScorer(scorer.Config{})
	const customers, rounds = 40, 8
	for round := range rounds {
		var events []kafka.Record
		for i := range customers {
			id := fmt.Sprintf("customer-%02d", i)
			want[id] = float64(round + i)
			events = append(events, w.event(id, want[id]))
		}
		w.send(events...)
	}
	for i := range 5 {
		id := fmt.Sprintf("customer-%02d", 7*i)
		w.send(kafka.Record{Key: []byte(id)})
		want[id] = scoring.Missing
	}
	Eventually(t, time.Minute, "scores of all", func() error {
		if scores, tombstones := w.scores(); len(scores) < customers*rounds || tombstones < 5+1 {
			return fmt.Errorf("%d scores, %d tombstones and markers", len(scores), tombstones)
		}
		return nil
	})
	stop()

	// Markers give the broker reason to begin new segments, of which it
	// compacts all but the last.
	former := w.former()
	began := time.Now()
	var left, tombstones int
	Eventually(t, 2*time.Minute, "compaction", func() error {
		if _, err := former.Append(ctx, []kafka.Record{{Key: []byte("\x00fence")}}); err != nil {
			return err
		}
		left, tombstones = 0, 0
		each(t, w.cluster, schemas.TopicScores, func(_ context.Context, r kafka.Record) error {
			switch {
			case schemas.IsReservedKey(r.Key):
			case r.Value != nil:
				left++
			default:
				tombstones++
			}
			return nil
		})
		if left > customers-5 || tombstones > 0 {
			return fmt.Errorf("%d scores and %d tombstones are left", left, tombstones)
		}
		return nil
	})
	t.Logf("of %d scores and 5 tombstones %d scores are left after %v", customers*rounds, left, time.Since(began).Round(100*time.Millisecond))

	// What the state is shows when something is added to it.
	w.metrics = prometheus.NewRegistry() // of another process
	w.startScorer(scorer.Config{})
	var events []kafka.Record
	for id := range want {
		events = append(events, w.increment(id, 1))
	}
	w.send(events...)
	got := map[string]float64{}
	Eventually(t, time.Minute, "scores of the events since", func() error {
		clear(got)
		s := w.codec.NewScore()
		each(t, w.cluster, schemas.TopicScores, func(ctx context.Context, r kafka.Record) error {
			if r.Value == nil || schemas.IsReservedKey(r.Key) {
				return nil
			}
			if err := w.codec.DecodeScore(ctx, r.Value, s); err != nil {
				return err
			}
			if s.SourceOffset >= customers*rounds+5 {
				got[string(s.CustomerID)] = s.Attributes[1]
			}
			return nil
		})
		if len(got) < len(want) {
			return fmt.Errorf("%d of %d", len(got), len(want))
		}
		return nil
	})
	for id, x := range want {
		if g := got[id]; g != x+1 && !(scoring.IsMissing(g) && scoring.IsMissing(x)) {
			t.Errorf("%s had %v, and has %v after one was added", id, x, g)
		}
	}
	if n := counter(t, w.metrics, "churn_scorer_foreign_records_total"); n != 0 {
		t.Errorf("%v foreign records were counted", n)
	}
}
