package trainer

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/churnstream/churnstream/internal/problem"
)

// RetrainHandler returns a handler that takes POST requests for a training. It
// answers 202 when there will be one and problem details (RFC 9457) else: 409
// when too few labels have come, 503 while the topics are still being read.
//
// The body may be empty, {"reason": "…"}, or what Alertmanager posts to a
// webhook; of the latter, alerts that are resolved are answered 204 and ask for
// nothing.
//
// With a token, requests must carry it as "Authorization: Bearer …".
func (t *Trainer) RetrainHandler(token string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse := func(status int, detail string) { (&problem.Details{Status: status, Detail: detail}).Write(w) }
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			refuse(http.StatusMethodNotAllowed, "Only POST is allowed.")
			return
		}
		if !authorized(r, token) {
			(&problem.Details{Status: http.StatusUnauthorized, Detail: "The bearer token is missing or wrong.", Challenge: "Bearer"}).Write(w)
			return
		}
		var body struct {
			Reason       string
			Status       string
			CommonLabels struct{ Alertname string } `json:"commonLabels"`
		}
		data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, t.cfg.MaxRequestBytes))
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			refuse(http.StatusRequestEntityTooLarge, "The body is too large.")
			return
		}
		if err != nil {
			refuse(http.StatusBadRequest, "The body could not be read.")
			return
		}
		if len(strings.TrimSpace(string(data))) > 0 {
			if err := json.Unmarshal(data, &body); err != nil {
				refuse(http.StatusBadRequest, "The body is not a JSON object with a reason or an alert.")
				return
			}
		}
		if body.Status == "resolved" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		reason := body.Reason
		if body.Status == "firing" {
			reason = "alert " + cmp.Or(body.CommonLabels.Alertname, "of several names")
		}
		if len(reason) > 200 {
			reason = strings.ToValidUTF8(reason[:200], "")
		}
		switch err := t.Retrain(r.Context(), reason); {
		case errors.Is(err, ErrNotReady):
			(&problem.Details{Status: http.StatusServiceUnavailable, Detail: err.Error(), RetryAfter: 5}).Write(w)
		case err != nil:
			refuse(http.StatusConflict, err.Error())
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusAccepted)
			_, _ = io.WriteString(w, `{"status":"accepted"}`+"\n")
		}
	})
}

func authorized(r *http.Request, token string) bool {
	if token == "" {
		return true
	}
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	// Hashes have equal lengths, so the time taken reveals nothing.
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(token))
	return ok && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}
