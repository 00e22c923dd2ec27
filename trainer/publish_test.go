package trainer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// idle returns a trainer that does not run but can publish.
func (w *world) idle() *Trainer {
	w.t.Helper()
	tr, err := New(Config{Dependencies: w.dependencies()})
	if err != nil {
		w.t.Fatal(err)
	}
	return tr
}

// unpublished returns a usable version that knew the labels until a time, without
// what publish fills in.
func (w *world) unpublished(until int64) *schemas.ModelVersion {
	w.t.Helper()
	m, err := models.Describe(w.codec.Set(), &scoring.Model{Intercept: float64(until%100_000) / 1000, Features: []scoring.ModelFeature{
		{Name: "plan", Kind: "categorical", Levels: []string{"basic"}, LogOdds: []float64{0}, Frequency: []float64{1}},
		{Name: "region", Kind: "categorical", Levels: []string{"north"}, LogOdds: []float64{0}, Frequency: []float64{1}},
		{Name: "bill", Kind: "numeric", Bins: []scoring.Bin{{Max: 1, Mean: 0.5, Frequency: 1}}},
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	m.CreatedAt, m.Reason, m.LabelsUntil = until, "test", until
	return &m
}

// against is a verdict that names the champion it is about.
func against(v *models.Version) fitting.Verdict {
	if v == nil {
		return fitting.Verdict{Promote: true, Reason: "first"}
	}
	return fitting.Verdict{Promote: true, Reason: fmt.Sprint("better than ", v.Version)}
}

// A trainer that another takes over from between its reading and its appending
// publishes after the other's version, with a verdict about that one.
func TestStaleTrainerDoesNotPublishAfterAVersionItDoesNotKnow(t *testing.T) {
	w := newWorld(t)
	stale, newer := w.idle(), w.idle()
	var judged []string
	m := w.unpublished(100)
	verdict, err := stale.publish(w.ctx, m, func(v *models.Version) fitting.Verdict {
		judged = append(judged, against(v).Reason)
		if len(judged) == 1 {
			// It is holding the partition, and is slow.
			if _, err := newer.publish(w.ctx, w.unpublished(50), against); err != nil {
				t.Fatal(err)
			}
		}
		return against(v)
	})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(judged) != "[first better than 1]" || m.Version != 2 || verdict.Reason != "better than 1" {
		t.Errorf("judged %q, published version %d: %s", judged, m.Version, verdict.Reason)
	}
	if v := w.version(2); v.Reason != "better than 1; trained for: test" || w.version(1).LabelsUntil != 50 || len(w.feed.List()) != 2 {
		t.Errorf("version 2 is %s, version 1 knew labels until %d", v.Reason, w.version(1).LabelsUntil)
	}
}

func TestVersionThatKnewNoNewerLabelsIsDropped(t *testing.T) {
	w := newWorld(t)
	slow, fast := w.idle(), w.idle()
	first := true
	_, err := slow.publish(w.ctx, w.unpublished(100), func(v *models.Version) fitting.Verdict {
		if first {
			first = false
			if _, err := fast.publish(w.ctx, w.unpublished(101), against); err != nil {
				t.Fatal(err)
			}
		}
		return against(v)
	})
	if !errors.Is(err, errSuperseded) {
		t.Errorf("error %v", err)
	}
	if v := w.version(1); v.LabelsUntil != 101 || len(w.feed.List()) != 1 {
		t.Errorf("version 1 knew labels until %d, %d versions", v.LabelsUntil, len(w.feed.List()))
	}
}

// The version of an append whose answer got lost is in the topic: it is not
// published again.
func TestPublishFindsItsOwnVersion(t *testing.T) {
	w := newWorld(t)
	tr := w.idle()
	if _, err := tr.publish(w.ctx, w.unpublished(10), against); err != nil {
		t.Fatal(err)
	}
	m := w.unpublished(20)
	if _, err := tr.publish(w.ctx, m, against); err != nil {
		t.Fatal(err)
	}
	m.Reason = "test"
	if _, err := tr.publish(w.ctx, m, func(*models.Version) fitting.Verdict { t.Error("judged again"); return fitting.Verdict{} }); err != nil {
		t.Fatal(err)
	}
	if n := w.feed.Highest(); n != 2 || m.Version != 2 {
		t.Errorf("%d versions, ours is %d", n, m.Version)
	}
	// Another one with the same number is not ours.
	other := w.unpublished(30)
	other.Version = 2
	if _, err := tr.publish(w.ctx, other, against); err != nil || other.Version != 3 {
		t.Errorf("version %d, error %v", other.Version, err)
	}
}

func TestPublishEndsWithTheContext(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(w.ctx)
	_, err := w.idle().publish(ctx, w.unpublished(10), func(v *models.Version) fitting.Verdict { cancel(); return against(v) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// Many that publish at once: numbers are unique, and every version was judged
// against the one before it.
func TestTrainersPublishOneAfterAnother(t *testing.T) {
	w := newWorld(t)
	const trainers, each = 3, 4
	var group sync.WaitGroup
	var mu sync.Mutex
	published, dropped := 0, 0
	for k := range trainers {
		tr := w.idle()
		group.Go(func() {
			for i := range each {
				_, err := tr.publish(w.ctx, w.unpublished(int64(10*i+k+1)), against)
				mu.Lock()
				switch {
				case err == nil:
					published++
				case errors.Is(err, errSuperseded):
					dropped++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if published+dropped != trainers*each || published == 0 {
		t.Errorf("%d published, %d dropped", published, dropped)
	}
	t.Logf("%d published, %d dropped", published, dropped)
	last := w.version(int64(published))
	until := last.LabelsUntil + 1
	for number := last.Version; number > 0; number-- {
		v := w.version(number)
		want := fmt.Sprintf("better than %d; trained for: test", number-1)
		if number == 1 {
			want = "first; trained for: test"
		}
		if v.Reason != want || v.LabelsUntil >= until {
			t.Errorf("version %d: %s, knew labels until %d, the next one until %d", number, v.Reason, v.LabelsUntil, until)
		}
		until = v.LabelsUntil
	}
}

// Two trainers on the same labels: one publishes.
func TestTwoTrainers(t *testing.T) {
	w := newWorld(t)
	cfg := Config{MinLabels: 300, MinNewLabels: 300, MinInterval: time.Millisecond}
	one, _ := w.trainer(cfg)
	two, _ := w.trainer(cfg)
	w.load(0, 400)
	w.until("both have trained", func() bool {
		n := 0
		for _, tr := range []*Trainer{one, two} {
			for _, result := range []string{"champion", "challenger", "superseded"} {
				n += int(testutil.ToFloat64(tr.metrics.trainings.WithLabelValues(result)))
			}
			tr.mu.Lock()
			if tr.started.IsZero() && tr.newest == 1 {
				n++ // saw the other's version before it began
			}
			tr.mu.Unlock()
		}
		return n == 2
	})
	if v := w.version(1); v.LabelsSeen != 400 || len(w.feed.List()) != 1 {
		t.Errorf("version 1 has seen %d labels, %d versions", v.LabelsSeen, len(w.feed.List()))
	}
	// Each publication left a marker, which is no version.
	f := w.cluster.NewFetcher(kafka.FetcherConfig{Topic: schemas.TopicModels})
	records, err := f.Fetch(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if string(records[0].Key) != schemas.MarkerKey || records[0].Value != nil {
		t.Errorf("first record has key %q and %d bytes", records[0].Key, len(records[0].Value))
	}
}
