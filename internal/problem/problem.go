// Package problem answers HTTP requests with problem details (RFC 9457).
package problem

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// Details say why a request is refused. They are an error, so that what reads
// a request can fail with the answer to give.
type Details struct {
	// Status is the HTTP status, from which the title follows.
	Status int
	// Detail is one sentence or two for whoever sent the request.
	Detail string
	// Field is the part of the request that is wrong, such as
	// "customers[3].age" or "limit"; "" is none.
	Field string
	// RetryAfter is after how many seconds to try again; 0 says nothing of it.
	RetryAfter int
	// Challenge is for the header WWW-Authenticate of a 401.
	Challenge string
}

// Error returns the detail.
func (d *Details) Error() string { return d.Detail }

// BadField returns the problem of a request in which one field is wrong.
func BadField(field, format string, args ...any) *Details {
	return &Details{Status: http.StatusBadRequest, Field: field, Detail: fmt.Sprintf(format, args...)}
}

// Write answers with d as application/problem+json, not to be stored.
func (d *Details) Write(w http.ResponseWriter) {
	h := w.Header()
	if d.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(d.RetryAfter))
	}
	if d.Challenge != "" {
		h.Set("WWW-Authenticate", d.Challenge)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(d.Status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
		Field  string `json:"field,omitempty"`
	}{"about:blank", http.StatusText(d.Status), d.Status, d.Detail, d.Field}) // the client may be gone
}
