package schemas

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

func newClient(t *testing.T, cfg RegistryConfig) *RegistryClient {
	t.Helper()
	r, err := NewRegistry(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestRegistryClient(t *testing.T) {
	fake := srfake.New(srfake.WithGlobalCompat(sr.CompatNone))
	defer fake.Close()
	r := newClient(t, RegistryConfig{URL: fake.URL()})
	ctx := t.Context()

	c := NewCodec(ownSet(t), r)
	for range 2 { // a second time finds the same
		if err := c.Register(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for k, topic := range messageTopics {
		s, ok := fake.GetSchema(Subject(topic), 1)
		if !ok || s.Schema.Schema != c.Set().Schema(topic) {
			t.Errorf("%s is not registered", topic)
		}
		if _, ok := fake.GetSchema(Subject(topic), 2); ok {
			t.Errorf("%s is registered twice", topic)
		}
		text, err := r.Schema(ctx, int((*c.frames[k].Load())[4]))
		if err != nil || text != c.Set().Schema(topic) {
			t.Errorf("%s: %v, %s", topic, err, text)
		}
		if level := r.client.Compatibility(ctx, Subject(topic))[0].Level; level != sr.CompatBackward {
			t.Errorf("%s: compatibility %s", topic, level)
		}
	}
	if _, err := r.Schema(ctx, 4711); !errors.Is(err, ErrSchemaNotFound) {
		t.Errorf("unknown id: %v", err)
	}

	// Another codec reads what this one wrote.
	value := c.AppendEvent(nil, sampleEvent(t, c.Set()))
	reader := NewCodec(c.Set(), r)
	e := reader.NewEvent()
	if err := reader.DecodeEvent(ctx, value, e); err != nil || dump(e) != dump(sampleEvent(t, c.Set())) {
		t.Errorf("%v: %s", err, dump(e))
	}
}

func TestRegistryKeepsStricterCompatibility(t *testing.T) {
	fake := srfake.New()
	defer fake.Close()
	if err := fake.SetCompat("s-value", sr.CompatFullTransitive); err != nil {
		t.Fatal(err)
	}
	r := newClient(t, RegistryConfig{URL: fake.URL()})
	if _, err := r.Register(t.Context(), "s-value", `"string"`); err != nil {
		t.Fatal(err)
	}
	if level := r.client.Compatibility(t.Context(), "s-value")[0].Level; level != sr.CompatFullTransitive {
		t.Errorf("compatibility %s", level)
	}
}

func TestRegistryAuthentication(t *testing.T) {
	fake := srfake.New(srfake.WithAuth("Basic dXNlcjpzZWNyZXQ=")) // user:secret
	defer fake.Close()
	good := newClient(t, RegistryConfig{URL: fake.URL(), Username: "user", Password: "secret"})
	if _, err := good.Register(t.Context(), "s-value", `"string"`); err != nil {
		t.Error(err)
	}
	bad := newClient(t, RegistryConfig{URL: fake.URL(), Username: "user", Password: "guess"})
	_, err := bad.Register(t.Context(), "s-value", `"string"`)
	if err == nil || strings.Contains(err.Error(), "guess") {
		t.Errorf("error %v", err)
	}
	if _, err := bad.Schema(t.Context(), 1); err == nil || errors.Is(err, ErrSchemaNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestRegistryAnswers(t *testing.T) {
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
		{"endless", strings.Repeat(" ", maxRegistryResponse+1), 200, false, false},
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
			r := newClient(t, RegistryConfig{URL: server.URL})
			if !c.incompatible {
				_, err := r.Schema(t.Context(), 1)
				if err == nil || errors.Is(err, ErrSchemaNotFound) != c.notFound {
					t.Errorf("error %v", err)
				}
			}
			_, err := r.Register(t.Context(), "s-value", `"string"`)
			if err == nil || errors.Is(err, ErrIncompatible) != c.incompatible {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestRegistryTimeout(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	r := newClient(t, RegistryConfig{URL: server.URL, Timeout: 20 * time.Millisecond})
	if _, err := r.Schema(t.Context(), 1); err == nil || errors.Is(err, ErrSchemaNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestRegistryTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"schema":"\"string\""}`))
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake that is to fail
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	r := newClient(t, RegistryConfig{URL: server.URL, TLS: &tls.Config{RootCAs: roots}})
	if s, err := r.Schema(t.Context(), 1); err != nil || s != `"string"` {
		t.Errorf("%q, %v", s, err)
	}
	distrustful := newClient(t, RegistryConfig{URL: server.URL, TLS: &tls.Config{RootCAs: x509.NewCertPool()}})
	if _, err := distrustful.Schema(t.Context(), 1); err == nil {
		t.Error("a certificate of an unknown authority was taken")
	}
}

func TestRegistryConfig(t *testing.T) {
	for _, u := range []string{"", "localhost:8081", "ftp://x", "http://", "http://user:hunter2@x:8081", "http://a:1,b", "http://[::1"} {
		if _, err := NewRegistry(RegistryConfig{URL: u}); err == nil {
			t.Errorf("%q was taken", u)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v gives the password away", err)
		}
	}
	if _, err := NewRegistry(RegistryConfig{URL: "http://a:8081, https://b"}); err != nil {
		t.Error(err)
	}
}
