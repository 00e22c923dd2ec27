package serving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
)

var bearer = []string{"Authorization", "Bearer " + token}

// The endpoints that change something, as requests that would be taken.
var changing = []struct{ method, target string }{
	{"DELETE", "/v1/customers/ann"},
	{"POST", "/v1/models/1/activate"},
	{"POST", "/v1/retrain"},
}

func TestErase(t *testing.T) {
	st := newStage(t)
	for _, id := range []string{"ann", "not known here", "a/b", "ü", strings.Repeat("x", 256)} {
		st.out.records = nil
		w := st.do("DELETE", "/v1/customers/"+strings.NewReplacer("/", "%2F", " ", "%20").Replace(id), "", bearer...)
		if w.Code != http.StatusAccepted {
			t.Fatalf("%.20q: status %d: %s", id, w.Code, w.Body)
		}
		got := decode[struct {
			ID           string `json:"customer_id"`
			Status, Next string
		}](t, w)
		if got.ID != id || got.Status != "accepted" || got.Next == "" {
			t.Errorf("%.20q: %+v", id, got)
		}
		var topics []string
		for _, r := range st.out.records {
			topics = append(topics, r.Topic)
			if string(r.Key) != id || r.Value != nil {
				t.Errorf("%.20q: wrote %q = %q to %s", id, r.Key, r.Value, r.Topic)
			}
		}
		if fmt.Sprint(topics) != "[churn.customer-events, everywhere]" {
			t.Errorf("%.20q: wrote to %v", id, topics)
		}
	}
	st.out.records = nil
	for _, target := range []string{"/v1/customers/" + strings.Repeat("x", 257), "/v1/customers/%00fence"} {
		if w := st.do("DELETE", target, "", bearer...); w.Code != http.StatusBadRequest || decode[refusal](t, w).Field != "id" {
			t.Errorf("%.30s: status %d: %s", target, w.Code, w.Body)
		}
	}
	if len(st.out.records) > 0 {
		t.Errorf("wrote %v", st.out.records)
	}
}

func TestActivate(t *testing.T) {
	st := newStage(t)
	old := st.version(1, schemas.StageChallenger)
	old.Payload = gymModel
	st.models.add(old)
	st.models.add(st.version(2, schemas.StageChampion))
	type answer struct {
		Version      int64
		Status, Next string
	}
	w := st.do("POST", "/v1/models/1/activate", "", bearer...)
	if got := decode[answer](t, w); w.Code != http.StatusAccepted || got.Version != 1 || got.Status != "accepted" || got.Next == "" {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	if len(st.out.records) != 1 {
		t.Fatalf("%d records", len(st.out.records))
	}
	r := st.out.records[0]
	var v schemas.ModelVersion
	if err := st.codec.DecodeModel(t.Context(), r.Value, &v); err != nil {
		t.Fatal(err)
	}
	if r.Topic != schemas.TopicModels || string(r.Key) != "1" || v.Version != 1 || v.Stage != schemas.StageChampion || v.Payload != gymModel {
		t.Errorf("published %s %s: version %d, %v", r.Topic, r.Key, v.Version, v.Stage)
	}

	w = st.do("POST", "/v1/models/2/activate", "", bearer...)
	if got := decode[answer](t, w); w.Code != http.StatusOK || got.Status != "active" {
		t.Errorf("the champion: status %d: %s", w.Code, w.Body)
	}
	if w := st.do("POST", "/v1/models/3/activate", "", bearer...); w.Code != http.StatusNotFound {
		t.Errorf("an unknown version: status %d", w.Code)
	}
	if w := st.do("POST", "/v1/models/x/activate", "", bearer...); w.Code != http.StatusBadRequest {
		t.Errorf("no version: status %d", w.Code)
	}
	if len(st.out.records) != 1 {
		t.Errorf("%d records after all", len(st.out.records))
	}
}

func TestRetrain(t *testing.T) {
	st := newStage(t)
	if w := st.do("POST", "/v1/retrain", "", bearer...); w.Code != http.StatusNotFound || !strings.Contains(decode[refusal](t, w).Detail, "trainer") {
		t.Errorf("without a trainer: status %d: %s", w.Code, w.Body)
	}
	st.trainer = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(body)
	})
	if w := st.do("POST", "/v1/retrain", `{"reason":"drift"}`, bearer...); w.Code != http.StatusAccepted || w.Body.String() != `{"reason":"drift"}` {
		t.Errorf("with a trainer: status %d: %s", w.Code, w.Body)
	}
}

// No change without the token, and nobody is notified.
func TestChangesNeedTheToken(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(1, schemas.StageChallenger))
	st.trainer = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the trainer was asked") })
	for _, c := range changing {
		for _, header := range [][]string{nil, {"Authorization", "Bearer " + token + "!"}, {"Authorization", "Basic bGV0OmluCg=="}} {
			w := st.do(c.method, c.target, "", header...)
			if w.Code != http.StatusUnauthorized || !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") ||
				w.Header().Get("Content-Type") != "application/problem+json" || strings.Contains(w.Body.String(), token) {
				t.Errorf("%s %s with %v: status %d, %v, %s", c.method, c.target, header, w.Code, w.Header(), w.Body)
			}
		}
	}
	if len(st.out.records) > 0 {
		t.Errorf("wrote %v", st.out.records)
	}
	// Every endpoint with a method that may change something is in the list.
	for _, r := range st.endpoints() {
		switch r.method + " " + r.path {
		case "POST /v1/explain", "POST /v1/score", "POST /v1/what-if":
			continue // questions with a body
		}
		if r.method == http.MethodGet {
			continue
		}
		target := strings.NewReplacer("{id}", "ann", "{version}", "1").Replace(r.path)
		if w := st.do(r.method, target, ""); w.Code != http.StatusUnauthorized {
			t.Errorf("%s %s asks for no token: status %d", r.method, target, w.Code)
		}
	}
}

// Without a token changes are taken on a loopback listener, from this machine,
// and not for a page of another site or under another name.
func TestChangesWithoutAToken(t *testing.T) {
	for _, c := range []struct {
		name, listen, host string
		header             []string
		status             int
	}{
		{"loopback", "127.0.0.1:0", "", nil, 202},
		{"loopback by name", "127.0.0.1:0", "localhost", nil, 202},
		{"rebound name", "127.0.0.1:0", "churn.example", nil, 403},
		{"another site", "127.0.0.1:0", "", []string{"Origin", "https://evil.example"}, 403},
		{"cross-site", "127.0.0.1:0", "", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"all addresses", "0.0.0.0:0", "", nil, 403},
		{"all addresses, any token", "0.0.0.0:0", "", []string{"Authorization", "Bearer x"}, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := newStage(t)
			st.guard = ops.NewGuard("")
			st.models.add(st.version(1, schemas.StageChallenger))
			st.trainer = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusAccepted)
			})
			server, err := ops.NewServer(ops.Config{Addr: c.listen, Gatherer: prometheus.NewRegistry(), Handler: st.Handler()})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- server.Run(ctx) }()
			defer func() { cancel(); <-done }()
			_, port, _ := net.SplitHostPort(server.Addr())
			for _, change := range changing {
				r, err := http.NewRequest(change.method, "http://127.0.0.1:"+port+change.target, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Host = c.host
				for i := 0; i < len(c.header); i += 2 {
					r.Header.Set(c.header[i], c.header[i+1])
				}
				res, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != c.status || c.status == 403 && !strings.Contains(string(body), "Set a token") {
					t.Errorf("%s %s: status %d: %s", change.method, change.target, res.StatusCode, body)
				}
			}
			if n := len(st.out.records); (n > 0) != (c.status == 202) {
				t.Errorf("%d records written", n)
			}
		})
	}
}

// What Kafka does not acknowledge is not said to be done.
func TestUnpublishedChange(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(1, schemas.StageChallenger))
	st.out.err = errors.New("broker 7 at 10.1.2.3 says no")
	for _, c := range changing[:2] {
		w := st.do(c.method, c.target, "", bearer...)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "10.1.2.3") {
			t.Errorf("%s %s: status %d: %s", c.method, c.target, w.Code, w.Body)
		}
	}
}

// Requests with bodies beyond the bound are turned away, not queued for ever.
func TestBodiesAreBounded(t *testing.T) {
	st := newStage(t)
	st.models.add(st.version(1, schemas.StageChampion))
	for range cap(st.bodies) {
		st.bodies <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // as if the client had not the patience
	r, _ := http.NewRequestWithContext(ctx, "POST", "/v1/score", strings.NewReader("{}"))
	w := &statusWriter{ResponseWriter: nopWriter{}}
	st.bounded(func(http.ResponseWriter, *http.Request) { t.Error("let through") })(w, r)
	if w.status != http.StatusServiceUnavailable {
		t.Errorf("status %d", w.status)
	}
	<-st.bodies
	if w := st.do("POST", "/v1/explain", "{}"); w.Code != http.StatusOK {
		t.Errorf("with room: status %d", w.Code)
	}
	if len(st.bodies) != cap(st.bodies)-1 {
		t.Errorf("%d are counted", len(st.bodies))
	}
}

type nopWriter struct{}

func (nopWriter) Header() http.Header         { return http.Header{} }
func (nopWriter) Write(b []byte) (int, error) { return len(b), nil }
func (nopWriter) WriteHeader(int)             {}

// Readiness says how many customers are known until all are.
func TestReadiness(t *testing.T) {
	st := newStage(t)
	said := make(chan string, 16)
	s, err := New(st.config(role.Dependencies{
		Ready: func(name string, ready bool, why string) { said <- fmt.Sprintf("%s %v %s", name, ready, why) },
	}))
	if err != nil {
		t.Fatal(err)
	}
	next := func(want string) {
		t.Helper()
		select {
		case got := <-said:
			if got != want {
				t.Errorf("said %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("did not say %q", want)
		}
	}
	next("serving false reading churn.scores, 0 customers so far")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ann := st.scored("ann", `{}`)
	st.topic.records <- []kafka.Record{{Key: ann.CustomerID, Value: st.codec.AppendScore(nil, ann)}}
	next("serving false reading churn.scores, 1 customers so far")
	st.topic.records <- nil
	next("serving true ")
	bob := st.scored("bob", `{}`)
	st.topic.records <- []kafka.Record{{Key: bob.CustomerID, Value: st.codec.AppendScore(nil, bob)}}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(said) > 0 {
		t.Errorf("said %q once it was ready", <-said)
	}
}
