package scorer

import (
	"errors"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

func (w *world) audit(from, to int64) (*Audit, error) {
	return RunAudit(w.t.Context(), AuditConfig{Cluster: w.cluster, Codec: w.process(nil).cfg.Codec, From: from, To: to})
}

// Events that nobody scored, though a marker says so, are found.
func TestAuditFindsWhatIsMissing(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	if _, err := w.audit(-1, -1); !errors.Is(err, ErrNotProcessed) {
		t.Errorf("before there is a marker: %v", err)
	}
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	codec := s.cfg.Codec
	again := w.months(codec, 0, 1)
	w.produce(schemas.TopicEvents, append(w.months(codec, 0, 5), append(again,
		kafka.Record{Key: []byte("customer1"), Value: []byte("junk")}, // 6
		kafka.Record{Key: []byte("customer1")},                        // 7
		kafka.Record{Key: []byte("nobody")},                           // 8
	)...)...)
	stop := w.run(s)
	w.caughtUp(9)
	stop(true)
	want := schemas.Sums{Scored: 5, Duplicates: 1, DeadLetters: 1, Erasures: 2}
	a, err := w.audit(-1, -1)
	if err != nil || !a.OK() || a.Found != want || a.From != 0 || a.To != 9 || a.Markers == 0 {
		t.Errorf("%+v, %v; want %+v", a, err, want)
	}
	if a, err = w.audit(5, 8); err != nil || !a.OK() || a.Found != (schemas.Sums{Duplicates: 1, DeadLetters: 1, Erasures: 1}) {
		t.Errorf("from 5 to 7: %+v, %v", a, err)
	}
	if _, err = w.audit(0, 10); !errors.Is(err, ErrNotProcessed) {
		t.Errorf("beyond what is processed: %v", err)
	}

	// An owner goes on without having scored 9 to 11, and says that it has.
	w.produce(schemas.TopicEvents, w.months(codec, 10, 3)...)
	p := w.progress()
	p.Next += 3
	p.Scored += 3
	w.own(markerRecord(codec, p))
	if a, err = w.audit(-1, -1); err != nil || a.OK() || a.Unaccounted != 3 || a.Contradictions != 1 || a.Found != want {
		t.Errorf("%+v, %v", a, err)
	}
	if all := strings.Join(a.Findings, "\n"); !strings.Contains(all, `offset 10: event "e11" of customer "customer11" has no score`) || !strings.Contains(all, "offsets 9 to 11: the markers say otherwise: scored 3, found 0") {
		t.Errorf("findings:\n%s", all)
	}
	// A dead letter is lost.
	w.produce(schemas.TopicEvents, kafka.Record{Key: []byte("customer1"), Value: []byte("junk")})
	p.Next++
	p.DeadLetters++
	w.own(markerRecord(codec, p))
	if a, err = w.audit(12, 13); err != nil || a.Unaccounted != 1 || !strings.Contains(strings.Join(a.Findings, "\n"), "offset 12: a record that cannot be read is not among the dead letters") {
		t.Errorf("%+v, %v", a, err)
	}
}

// Of events whose scores are compacted away, the markers' sums say what became
// of them.
func TestAuditAfterCompaction(t *testing.T) {
	t.Parallel() // most of it is waiting
	w := newWorld(t, attributes)
	s := w.process(func(cfg *Config) { cfg.StateDir = "" })
	for range 3 {
		for i := range 4 {
			_, end, err := w.cluster.Offsets(t.Context(), schemas.TopicEvents, 0)
			if err != nil {
				t.Fatal(err)
			}
			e := event(t, s.cfg.Codec, "anna", "", start+end, map[int]string{months: "1"}, nil)
			if i == 3 {
				e = event(t, s.cfg.Codec, "bert", "", start+end, map[int]string{months: "1"}, nil)
			}
			w.produce(schemas.TopicEvents, e)
		}
	}
	stop := w.run(s)
	w.caughtUp(12)
	stop(true)
	w.broker.Cluster().Compact()
	a, err := w.audit(-1, -1)
	if err != nil || !a.OK() || a.Found.Scored+a.Superseded != 12 || a.Superseded < 9 {
		t.Errorf("%+v, %v", a, err)
	}
}
