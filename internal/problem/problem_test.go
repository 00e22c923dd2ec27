package problem_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/churnstream/churnstream/internal/problem"
)

func TestWrite(t *testing.T) {
	for name, c := range map[string]struct {
		details *problem.Details
		body    string
		headers map[string]string
	}{
		"a field": {
			problem.BadField("limit", "%q is <not> a number.", "x"),
			`{"type":"about:blank","title":"Bad Request","status":400,"detail":"\"x\" is <not> a number.","field":"limit"}` + "\n",
			map[string]string{"Retry-After": "", "Www-Authenticate": ""},
		},
		"not now": {
			&problem.Details{Status: http.StatusServiceUnavailable, Detail: "Later.", RetryAfter: 10},
			`{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"Later."}` + "\n",
			map[string]string{"Retry-After": "10"},
		},
		"no token": {
			&problem.Details{Status: http.StatusUnauthorized, Challenge: "Bearer"},
			`{"type":"about:blank","title":"Unauthorized","status":401}` + "\n",
			map[string]string{"Www-Authenticate": "Bearer"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			c.details.Write(w)
			if w.Code != c.details.Status || w.Body.String() != c.body {
				t.Errorf("%d %s; want %d %s", w.Code, w.Body, c.details.Status, c.body)
			}
			c.headers["Content-Type"], c.headers["Cache-Control"] = "application/problem+json", "no-store"
			for header, want := range c.headers {
				if got := w.Header().Get(header); got != want {
					t.Errorf("%s: %q, want %q", header, got, want)
				}
			}
		})
	}
	var details *problem.Details
	if err := error(problem.BadField("a", "b")); !errors.As(err, &details) || err.Error() != "b" {
		t.Errorf("as an error: %v", err)
	}
}
