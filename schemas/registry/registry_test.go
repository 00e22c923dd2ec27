package registry

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
)

func newClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestClient(t *testing.T) {
	fake := srfake.New(srfake.WithGlobalCompat(sr.CompatNone))
	defer fake.Close()
	r := newClient(t, Config{URL: fake.URL()})
	ctx := t.Context()

	set := schemas.Telco()
	c := schemas.NewCodec(set, r)
	for range 2 { // a second time finds the same
		if err := c.Register(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, topic := range []string{
		schemas.TopicEvents, schemas.TopicScores, schemas.TopicOutcomes, schemas.TopicModels, schemas.TopicDeadLetters,
	} {
		subject := schemas.Subject(topic)
		s, ok := fake.GetSchema(subject, 1)
		if !ok || s.Schema.Schema != set.Schema(topic) {
			t.Errorf("%s is not registered", topic)
		}
		if _, ok := fake.GetSchema(subject, 2); ok {
			t.Errorf("%s is registered twice", topic)
		}
		text, err := r.Schema(ctx, s.ID)
		if err != nil || text != set.Schema(topic) {
			t.Errorf("%s: %v, %s", topic, err, text)
		}
		if level := r.client.Compatibility(ctx, subject)[0].Level; level != sr.CompatBackward {
			t.Errorf("%s: compatibility %s", topic, level)
		}
	}
	if _, err := r.Schema(ctx, 4711); !errors.Is(err, avro.ErrSchemaNotFound) {
		t.Errorf("unknown id: %v", err)
	}

	// Another codec reads what this one wrote.
	event := c.NewEvent()
	event.EventID, event.CustomerID, event.OccurredAt = []byte("e"), []byte("c"), 1_700_000_000_123
	event.Source = []byte("billing")
	for i := range event.Changes {
		if set.Spec().Feature(i).Kind == scoring.Numeric {
			event.Changes[i], event.Increments[i] = 42, 1
		}
	}
	value := c.AppendEvent(nil, event)
	reader := schemas.NewCodec(set, r)
	e := reader.NewEvent()
	if err := reader.DecodeEvent(ctx, value, e); err != nil || !bytes.Equal(c.AppendEvent(nil, e), value) {
		t.Errorf("%v: %+v", err, e)
	}
}

func TestKeepsStricterCompatibility(t *testing.T) {
	fake := srfake.New()
	defer fake.Close()
	if err := fake.SetCompat("s-value", sr.CompatFullTransitive); err != nil {
		t.Fatal(err)
	}
	r := newClient(t, Config{URL: fake.URL()})
	if _, err := r.Register(t.Context(), "s-value", `"string"`); err != nil {
		t.Fatal(err)
	}
	if level := r.client.Compatibility(t.Context(), "s-value")[0].Level; level != sr.CompatFullTransitive {
		t.Errorf("compatibility %s", level)
	}
}

func TestAuthentication(t *testing.T) {
	fake := srfake.New(srfake.WithAuth("Basic dXNlcjpzZWNyZXQ=")) // user:secret
	defer fake.Close()
	good := newClient(t, Config{URL: fake.URL(), Username: "user", Password: "secret"})
	if _, err := good.Register(t.Context(), "s-value", `"string"`); err != nil {
		t.Error(err)
	}
	bad := newClient(t, Config{URL: fake.URL(), Username: "user", Password: "guess"})
	_, err := bad.Register(t.Context(), "s-value", `"string"`)
	if err == nil || strings.Contains(err.Error(), "guess") {
		t.Errorf("error %v", err)
	}
	if _, err := bad.Schema(t.Context(), 1); err == nil || errors.Is(err, avro.ErrSchemaNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name, body             string
		status                 int
		notFound, incompatible bool
	}{
		{"not found", `{"error_code":40403,"message":"Schema not found"}`, 404, true, false},
		{"a proxy's page", `<html>not found</html>`, 404, false, false},
		{"broken", `{"error_code":50001,"message":"Error in the backend"}`, 500, false, false},
		{"forbidden", `{"error_code":40301}`, 403, false, false},
		{"not JSON", `schema`, 200, false, false},
		{"empty", `{}`, 200, false, false},
		{"endless", strings.Repeat(" ", maxResponse+1), 200, false, false},
		{"incompatible", `{"error_code":409,"message":"incompatible"}`, 409, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.incompatible && !strings.HasSuffix(r.URL.Path, "/versions") {
					switch r.Method {
					case http.MethodPut:
						_, _ = w.Write([]byte(`{"compatibility":"BACKWARD"}`))
					default:
						w.WriteHeader(404)
						_, _ = w.Write([]byte(`{"error_code":40401,"message":"Subject not found"}`))
					}
					return
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer server.Close()
			r := newClient(t, Config{URL: server.URL})
			if !c.incompatible {
				_, err := r.Schema(t.Context(), 1)
				if err == nil || errors.Is(err, avro.ErrSchemaNotFound) != c.notFound {
					t.Errorf("error %v", err)
				}
			}
			_, err := r.Register(t.Context(), "s-value", `"string"`)
			if err == nil || errors.Is(err, schemas.ErrIncompatible) != c.incompatible {
				t.Errorf("error %v", err)
			}
		})
	}
}

// What a registry, or a proxy before it, answers is shown on status pages and
// logged at each retry.
func TestErrorsAreShort(t *testing.T) {
	long := strings.Repeat("ä", 1<<20)
	for _, c := range []struct {
		name, body string
		status     int
		want       error
	}{
		{"a page", "<html>" + long, 502, nil},
		{"a message", `{"error_code":50001,"message":"` + long + `"}`, 500, nil},
		{"not found", `{"error_code":40403,"message":"` + long + `"}`, 404, avro.ErrSchemaNotFound},
		{"incompatible", `{"error_code":409,"message":"` + long + `"}`, 409, schemas.ErrIncompatible},
		{"a number", `{"id":` + strings.Repeat("9", 1<<20) + `,"schema":1}`, 200, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newClient(t, Config{URL: "http://registry"})
			r.transport.RegisterProtocol("http", answering(func(q *http.Request) (int, string) {
				switch {
				case c.want != schemas.ErrIncompatible || strings.HasSuffix(q.URL.Path, "/versions"):
					return c.status, c.body
				case q.Method == http.MethodPut:
					return 200, `{"compatibility":"BACKWARD"}`
				}
				return 404, `{"error_code":40401}`
			}))
			_, schemaErr := r.Schema(t.Context(), 1)
			_, registerErr := r.Register(t.Context(), "s-value", `"string"`)
			for _, err := range []error{schemaErr, registerErr} {
				if err == nil || len(err.Error()) > 1024 {
					t.Errorf("an error of %d bytes: %.2000v", len(fmt.Sprint(err)), err)
				}
				var answer *sr.ResponseError
				if c.status >= 300 && !errors.Is(err, avro.ErrSchemaNotFound) && !errors.As(err, &answer) {
					t.Errorf("it is no answer: %v", err)
				}
			}
			if c.want != nil && !errors.Is(errors.Join(schemaErr, registerErr), c.want) {
				t.Errorf("neither %v nor %v is %v", schemaErr, registerErr, c.want)
			}
		})
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://elsewhere/"+strings.Repeat("x", 2*maxHeader))
		w.WriteHeader(http.StatusFound)
	}))
	defer server.Close()
	r := newClient(t, Config{URL: server.URL})
	if _, err := r.Schema(t.Context(), 1); err == nil || len(err.Error()) > 1024 || strings.Contains(err.Error(), "xxx") {
		t.Errorf("a long header: %v", err)
	}
}

// answering answers requests with a status and a body.
type answering func(r *http.Request) (status int, body string)

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := a(r)
	return &http.Response{
		Status: http.StatusText(status), StatusCode: status, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: -1, Request: r,
	}, nil
}

// FuzzAnswer lets the registry answer anything. What comes of it is a
// schema and an id, or an error of few words.
func FuzzAnswer(f *testing.F) {
	f.Add(200, `{"schema":"\"string\"","id":1}`)
	f.Add(200, `{"subject":"s","version":1,"id":7,"schemaType":"PROTOBUF","schema":"syntax","references":[{"name":"a","subject":"b","version":1}]}`)
	f.Add(200, `{"compatibilityLevel":"FULL"}`)
	f.Add(200, `{"schema":"","id":-1}`)
	f.Add(200, `{"id":1e400,"schema":7}`)
	f.Add(200, `[`)
	f.Add(404, `{"error_code":40403,"message":"Schema not found"}`)
	f.Add(404, `{"error_code":40401,"message":"Subject not found"}`)
	f.Add(409, `{"error_code":409,"message":"incompatible"}`)
	f.Add(500, `{"error_code":50001,"message":"`+strings.Repeat("x", 2000)+`"}`)
	f.Add(502, `<html>`+strings.Repeat("\x80", 2000))
	var status int
	var body string
	r, err := New(Config{URL: "http://registry"})
	if err != nil {
		f.Fatal(err)
	}
	r.transport.RegisterProtocol("http", answering(func(*http.Request) (int, string) { return status, body }))
	f.Fuzz(func(t *testing.T, code int, text string) {
		if status, body = code, text; code < 200 || code > 999 || len(text) > 4096 || code/100 == 3 {
			t.Skip("no answer")
		}
		short := func(err error) {
			if n := len(err.Error()); n > 1024 {
				t.Errorf("an error of %d bytes: %v", n, err)
			}
		}
		schema, err := r.Schema(t.Context(), 1)
		if err != nil {
			short(err)
		} else if schema == "" || code >= 300 {
			t.Errorf("schema %q", schema)
		}
		id, err := r.Register(t.Context(), "s-value", `"string"`)
		if err != nil {
			short(err)
		} else if id <= 0 || code >= 300 {
			t.Errorf("id %d", id)
		}
	})
}

func TestTimeout(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	r := newClient(t, Config{URL: server.URL, Timeout: 20 * time.Millisecond})
	if _, err := r.Schema(t.Context(), 1); err == nil || errors.Is(err, avro.ErrSchemaNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"schema":"\"string\""}`))
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake that is to fail
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	r := newClient(t, Config{URL: server.URL, TLS: &tls.Config{RootCAs: roots}})
	if s, err := r.Schema(t.Context(), 1); err != nil || s != `"string"` {
		t.Errorf("%q, %v", s, err)
	}
	distrustful := newClient(t, Config{URL: server.URL, TLS: &tls.Config{RootCAs: x509.NewCertPool()}})
	if _, err := distrustful.Schema(t.Context(), 1); err == nil {
		t.Error("a certificate of an unknown authority was taken")
	}
}

func TestConfig(t *testing.T) {
	for _, u := range []string{"", "localhost:8081", "ftp://x", "http://", "http://user:hunter2@x:8081", "http://a:1,b", "http://[::1"} {
		if _, err := New(Config{URL: u}); err == nil {
			t.Errorf("%q was taken", u)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v gives the password away", err)
		}
	}
	if _, err := New(Config{URL: "http://a:8081, https://b"}); err != nil {
		t.Error(err)
	}
}

// register makes a schema with references known to a registry, and returns its
// id.
func register(t *testing.T, fake *srfake.Registry, subject, schema string, references ...sr.SchemaReference) int {
	t.Helper()
	id, _, err := fake.RegisterSchema(subject, sr.Schema{Schema: schema, References: references})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// An event whose attributes are registered under a subject of their own.
func TestReferences(t *testing.T) {
	fake := srfake.New(srfake.WithGlobalCompat(sr.CompatNone))
	defer fake.Close()
	r := newClient(t, Config{URL: fake.URL()})
	c := schemas.NewCodec(schemas.Telco(), r)
	if err := c.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	money := `{"type":"record","name":"Money","namespace":"crm","fields":[{"name":"tenure","type":["null","double"]}]}`
	register(t, fake, "Money", money)
	register(t, fake, "Attributes", `{"type":"record","name":"Attributes","namespace":"crm","fields":[{"name":"tenure","type":["null","double"]},{"name":"x","type":["null","Money"]}]}`,
		sr.SchemaReference{Name: "crm.Money", Subject: "Money", Version: 1})
	id := register(t, fake, "events-value", `{"type":"record","name":"E","namespace":"crm","fields":[{"name":"event_id","type":"string"},
		{"name":"customer_id","type":"string"},{"name":"occurred_at","type":"long"},{"name":"changes","type":"Attributes"},
		{"name":"increments","type":"crm.Money"}]}`,
		sr.SchemaReference{Name: "crm.Attributes", Subject: "Attributes", Version: 1}, sr.SchemaReference{Name: "crm.Money", Subject: "Money", Version: 1})
	datum := []byte{2, 'e', 2, 'c', 2}
	datum = append(datum, 2, 0, 0, 0, 0, 0, 0, 0, 0x40, 0) // changes: tenure 2, no x
	datum = append(datum, 0)                               // no increment
	value := append([]byte{0, 0, 0, byte(id >> 8), byte(id)}, datum...)
	e := c.NewEvent()
	if err := c.DecodeEvent(t.Context(), value, e); err != nil {
		t.Fatal(err)
	}
	if tenure, _ := c.Set().Spec().Index("tenure"); e.Changes[tenure] != 2 {
		t.Errorf("tenure is %v", e.Changes[tenure])
	}

	// By its GUID, in a header.
	s, err := r.client.SchemaByVersion(t.Context(), "events-value", 1)
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.SchemaByGUID(t.Context(), s.GUID)
	if byID, _ := r.Schema(t.Context(), id); err != nil || text != byID || strings.Contains(text, `"type":"Attributes"`) {
		t.Errorf("by GUID: %v, %s", err, text)
	}
	if _, err := r.SchemaByGUID(t.Context(), "00000000-0000-0000-0000-000000000001"); !errors.Is(err, avro.ErrSchemaNotFound) {
		t.Errorf("unknown GUID: %v", err)
	}
}

// subjectsAnswering is a registry that gives every subject the schema that fn makes.
func subjectsAnswering(t *testing.T, fn func(subject string) (status int, body string)) (*Client, *int) {
	t.Helper()
	asked := new(int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked++
		status, body := fn(strings.Split(strings.Trim(r.URL.Path, "/"), "/")[1])
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return newClient(t, Config{URL: server.URL}), asked
}

func referring(schema string, subjects ...string) string {
	var refs []string
	for _, s := range subjects {
		refs = append(refs, fmt.Sprintf(`{"name":"x","subject":%q,"version":1}`, s))
	}
	return fmt.Sprintf(`{"id":1,"version":1,"subject":"s","schema":%q,"references":[%s]}`, schema, strings.Join(refs, ","))
}

func TestReferencesAreBounded(t *testing.T) {
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprint("s", i)
	}
	for _, test := range []struct {
		name, want string
		most       int // requests
		answer     func(subject string) string
	}{
		{"in a circle", "refers to itself", 3, func(s string) string {
			return referring(`"int"`, map[string]string{"ids": "a", "a": "b", "b": "a"}[s])
		}},
		{"to itself", "refers to itself", 2, func(string) string { return referring(`"int"`, "a") }},
		{"ever deeper", "16 deep", 20, func(s string) string { return referring(`"int"`, s+"x") }},
		{"many", "more than 64 references", 66, func(s string) string {
			if s == "ids" {
				return referring(`"int"`, many...)
			}
			return referring(`"int"`)
		}},
		{"large", "1048576 bytes", 12, func(s string) string {
			if s == "ids" {
				return referring(`"int"`, many...)
			}
			return referring(`"` + strings.Repeat("x", 200_000) + `"`)
		}},
		{"no JSON", "not JSON", 2, func(s string) string {
			if s == "ids" {
				return referring(`"int"`, "a")
			}
			return referring(`syntax = "proto3";`)
		}},
		{"the latest", "which is none", 1, func(string) string {
			return `{"schema":"\"int\"","references":[{"name":"x","subject":"a","version":-1}]}`
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, asked := subjectsAnswering(t, func(s string) (int, string) { return http.StatusOK, test.answer(s) })
			_, err := r.Schema(t.Context(), 1)
			if poison, ok := schemas.AsPoison(err); !ok || !strings.Contains(poison.Detail, test.want) {
				t.Errorf("error %v, want poison with %q", err, test.want)
			}
			if *asked > test.most {
				t.Errorf("the registry was asked %d times", *asked)
			}
			// Such a schema is asked for once.
			c := schemas.NewCodec(schemas.Telco(), r)
			for range 2 {
				if err := c.DecodeEvent(t.Context(), []byte{0, 0, 0, 0, 1, 0}, c.NewEvent()); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v", err)
				}
			}
		})
	}
}

// A reference that is not there yet is waited for, and what was asked for once
// is remembered.
func TestReferencesThatAreNotThere(t *testing.T) {
	status := http.StatusNotFound
	r, asked := subjectsAnswering(t, func(s string) (int, string) {
		switch {
		case s == "ids":
			return http.StatusOK, referring(`"T"`, "a")
		case status != http.StatusOK:
			return status, `{"error_code":40402,"message":"Version not found."}`
		}
		return http.StatusOK, referring(`{"type":"fixed","name":"T","size":1}`)
	})
	if _, err := r.Schema(t.Context(), 1); err == nil || !errors.Is(err, avro.ErrSchemaNotFound) {
		t.Errorf("error %v", err)
	}
	status = http.StatusOK
	for range 3 {
		if text, err := r.Schema(t.Context(), 1); err != nil || !strings.Contains(text, "fixed") {
			t.Errorf("%v: %s", err, text)
		}
	}
	if *asked != 2+1+3 {
		t.Errorf("the registry was asked %d times", *asked)
	}
}
