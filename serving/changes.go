package serving

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/problem"
	"github.com/churnstream/churnstream/schemas"
)

// Producer writes records and returns when they are acknowledged: each to the
// partition of its key, or one to every partition. kafka.Producer is one.
type Producer interface {
	Produce(ctx context.Context, topic string, records ...kafka.Record) error
	ProduceEverywhere(ctx context.Context, topic string, record kafka.Record) error
}

// guarded passes on the requests that may change something.
func (s *Server) guarded(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { s.guard.Protect(h).ServeHTTP(w, r) }
}

// published calls publish with a bounded time, and answers for it if it fails.
func (s *Server) published(w http.ResponseWriter, r *http.Request, what string, publish func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.PublishTimeout)
	defer cancel()
	err := publish(ctx)
	if err == nil {
		return true
	}
	s.log.Warn("a change that was asked for could not be published", "change", what, "error", err)
	s.problem(w, r, &problem.Details{Status: http.StatusServiceUnavailable,
		Detail:     "Kafka or the schema registry did not acknowledge the change in time. It may have been made or not; asking again does no harm.",
		RetryAfter: 10})
	return false
}

// erase starts the erasure of a customer, known or not: events of one who is
// not known here may be on their way.
//
// A tombstone among the events makes the scorer forget the customer and write
// tombstones to scores and outcomes, by which the others forget. Every partition
// gets one: nobody knows here whether all producers have put the customer's
// events where they belong.
func (s *Server) erase(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	switch {
	case id == "" || schemas.IsReservedKey(id):
		s.problem(w, r, problem.BadField("id", "No customer can have this id."))
		return
	case len(id) > schemas.MaxIDBytes:
		s.problem(w, r, problem.BadField("id", "The id has %d bytes; ids have %d at most.", len(id), schemas.MaxIDBytes))
		return
	}
	tombstone := kafka.Record{Key: []byte(id)}
	if !s.published(w, r, "erasure", func(ctx context.Context) error {
		if err := s.producer.ProduceEverywhere(ctx, schemas.TopicEvents, tombstone); err != nil {
			return fmt.Errorf("writing tombstones to %s: %w", schemas.TopicEvents, err)
		}
		return nil
	}) {
		return
	}
	// Not the id: the log would keep what is to be forgotten.
	s.log.Info("erasure of a customer requested", "from", r.RemoteAddr)
	s.accepted(w, r, struct {
		CustomerID string `json:"customer_id"`
		Status     string `json:"status"`
		Next       string `json:"next"`
	}{id, "accepted", "The scorer forgets the customer as soon as it reads the request, usually within a second; " +
		"scores, stores, training examples and this interface follow. A later event makes the customer known anew. " +
		"What Kafka holds of the customer stays in the log until compaction and retention remove it."})
}

// activate makes a version the champion.
func (s *Server) activate(w http.ResponseWriter, r *http.Request) {
	v, err := s.pathVersion(r)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	type answer struct {
		Version int64  `json:"version"`
		Status  string `json:"status"`
		Next    string `json:"next"`
	}
	if champion := s.models.Champion(); champion != nil && champion.Version == v.Version {
		s.answer(w, r, answer{v.Version, "active", "The version is the champion already."})
		return
	}
	if !s.published(w, r, "activation", func(ctx context.Context) error {
		return models.Activate(ctx, s.producer, s.codec, v, models.ByHand)
	}) {
		return
	}
	s.log.Info("activation of a model requested", "version", v.Version, "from", r.RemoteAddr)
	s.accepted(w, r, answer{v.Version, "accepted", "Scorers switch to the version within a second, without a restart. " +
		"The trainer's next model has to be better than this one."})
}

// retrain passes the request on to the trainer of this process.
func (s *Server) retrain(w http.ResponseWriter, r *http.Request) {
	if s.trainer == nil {
		s.problem(w, r, &problem.Details{Status: http.StatusNotFound,
			Detail: "No trainer runs in this process. Ask the process that runs it, at the address it was given with --http."})
		return
	}
	sw := &statusWriter{ResponseWriter: w}
	s.trainer.ServeHTTP(sw, r)
	if sw.status == http.StatusAccepted {
		s.asked.add(s.now())
	}
}

// moments are the latest times of something.
type moments struct {
	mu    sync.Mutex
	times []time.Time
}

// maxMoments bounds what is remembered.
const maxMoments = 20

func (m *moments) add(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.times = append(m.times, t)
	m.times = m.times[max(0, len(m.times)-maxMoments):]
}

func (m *moments) list() []time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.times)
}

// accepted answers 202.
func (s *Server) accepted(w http.ResponseWriter, r *http.Request, v any) {
	s.answerWith(w, r, http.StatusAccepted, v)
}

// pathVersion returns the version that the path names.
func (s *Server) pathVersion(r *http.Request) (*models.Version, error) {
	text := r.PathValue("version")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, problem.BadField("version", "A version is a whole number, not %q.", text)
	}
	if v := s.models.Get(n); v != nil {
		return v, nil
	}
	return nil, &problem.Details{Status: http.StatusNotFound, Detail: fmt.Sprintf("No model version %d is known.", n)}
}
