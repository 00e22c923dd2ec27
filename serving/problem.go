package serving

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/churnstream/churnstream/internal/problem"
	"github.com/churnstream/churnstream/schemas"
)

// problem answers with a problem; err that is none becomes an internal error,
// whose text stays in the log.
func (s *Server) problem(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem.Details
	if !errors.As(err, &p) {
		s.log.Error("request failed", "path", r.URL.Path, "error", err)
		p = &problem.Details{Status: http.StatusInternalServerError, Detail: "The server failed to answer. Its log says more."}
	}
	p.Write(w)
}

// noModel is the answer while there is nothing to score with.
func noModel() *problem.Details {
	return &problem.Details{
		Status:     http.StatusServiceUnavailable,
		Detail:     "No model yet: there is none until the trainer has published the first version.",
		RetryAfter: 10,
	}
}

// answer writes v as JSON.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, v any) {
	s.answerWith(w, r, http.StatusOK, v)
}

func (s *Server) answerWith(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		var unsupported *json.UnsupportedValueError
		if errors.As(err, &unsupported) {
			// Only a number beyond all measure in the request gets here.
			err = &problem.Details{Status: http.StatusUnprocessableEntity,
				Detail: "A number in the request is too large for the model."}
		}
		s.problem(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// bounded lets as many requests through at a time as may have their bodies in
// memory.
func (s *Server) bounded(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		timer := time.NewTimer(s.limits.BodyWait)
		defer timer.Stop()
		select {
		case s.bodies <- struct{}{}:
			defer func() { <-s.bodies }()
			h(w, r)
		case <-timer.C:
			s.problem(w, r, &problem.Details{Status: http.StatusServiceUnavailable,
				Detail: "Too many requests are under way.", RetryAfter: 1})
		case <-r.Context().Done():
			s.problem(w, r, &problem.Details{Status: http.StatusServiceUnavailable,
				Detail: "The server is about to end.", RetryAfter: 1})
		}
	}
}

// readJSON reads a whole request body of at most limit bytes that must be one
// JSON value.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, &problem.Details{Status: http.StatusUnsupportedMediaType,
			Detail: "The body must be JSON, with Content-Type: application/json."}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, &problem.Details{Status: http.StatusRequestEntityTooLarge,
				Detail: fmt.Sprintf("The body may have %d bytes at most.", tooLarge.Limit)}
		}
		return nil, &problem.Details{Status: http.StatusBadRequest, Detail: "The body could not be read to its end."}
	}
	// Unmarshal checks the whole text, so what trails the value is an error.
	var any json.RawMessage
	if err := json.Unmarshal(body, &any); err != nil {
		return nil, &problem.Details{Status: http.StatusBadRequest, Detail: "The body is not one JSON value: " + jsonFault(err) + "."}
	}
	return body, nil
}

func jsonFault(err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("%s, at byte %d", syntax, syntax.Offset)
	}
	return err.Error()
}

// members splits a JSON object, in which only the given names may occur.
// within names the object in error messages; it may be empty.
func members(body []byte, within string, known ...string) (map[string]json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil || all == nil {
		return nil, problem.BadField(within, "A JSON object is wanted here.")
	}
	for name := range all {
		if !slices.Contains(known, name) {
			return nil, problem.BadField(name, "There is no field %q.", name)
		}
	}
	return all, nil
}

// attributeProblem turns the error of reading attributes into an answer. The
// field is named as it stands in the request: within it, if that is not empty.
func attributeProblem(err error, within string) error {
	var field *schemas.FieldError
	if !errors.As(err, &field) {
		return err
	}
	if field.Field == "" {
		return problem.BadField(within, "%s.", sentenceStart(field.Problem))
	}
	name := field.Field
	if within != "" {
		name = within + "." + name
	}
	return problem.BadField(name, "%s %s.", name, field.Problem)
}

func sentenceStart(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
