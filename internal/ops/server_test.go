package ops

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// start runs a server until the test ends or stop is called, which returns
// what Run returned.
func start(t *testing.T, cfg Config) (s *Server, stop func() error) {
	t.Helper()
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = func() error {
		cancel()
		select {
		case err := <-done:
			done <- err
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("Run did not return")
			return nil
		}
	}
	t.Cleanup(func() { stop() })
	return s, stop
}

func logger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestRoutes(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "churn_test_total", Help: "For the test."})
	reg.MustRegister(c)
	c.Add(3)
	ready := NewReadiness()
	ready.Set("kafka", true, "")
	s, stop := start(t, Config{
		Gatherer:  reg,
		Readiness: ready,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "application "+r.Method+" "+r.URL.Path)
		}),
	})
	for _, c := range []struct {
		path, body string
		status     int
	}{
		{"/healthz", "ok\n", 200},
		{"/readyz", `{"ready":true,"checks":{"kafka":{"ready":true}}}` + "\n", 200},
		{"/metrics", "churn_test_total 3\n", 200},
		{"/", "application GET /", 200},
		{"/v1/score", "application GET /v1/score", 200},
	} {
		status, body := get(t, "http://"+s.Addr()+c.path)
		if status != c.status || !strings.Contains(body, c.body) {
			t.Errorf("GET %s answers %d %q, want %d %q", c.path, status, body, c.status, c.body)
		}
	}
	ready.Set("monitor", false, "reading the history")
	status, body := get(t, "http://"+s.Addr()+"/readyz")
	want := `{"ready":false,"checks":{"kafka":{"ready":true},"monitor":{"ready":false,"why":"reading the history"}}}` + "\n"
	if status != 503 || body != want {
		t.Errorf("/readyz answers %d %s, want 503 %s", status, body, want)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestWithoutApplication(t *testing.T) {
	s, _ := start(t, Config{Gatherer: prometheus.NewRegistry()})
	if status, body := get(t, "http://"+s.Addr()+"/"); status != 200 || !strings.Contains(body, "/readyz") {
		t.Errorf("/ answers %d %q", status, body)
	}
	if status, _ := get(t, "http://"+s.Addr()+"/else"); status != 404 {
		t.Errorf("/else answers %d, want 404", status)
	}
	if status, body := get(t, "http://"+s.Addr()+"/readyz"); status != 200 || body != "{\"ready\":true,\"checks\":{}}\n" {
		t.Errorf("/readyz answers %d %q", status, body)
	}
}

func TestAddressInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := taken.Addr().String()
	_, err = NewServer(Config{Addr: addr})
	if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "--http") {
		t.Errorf("got %v, want an error that names %s and --http", err, addr)
	}
}

func TestCloseFreesTheAddress(t *testing.T) {
	s, err := NewServer(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := NewServer(Config{Addr: s.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// TestShutdown has an event stream and a slow request under way: the stream
// must end and the request must finish.
func TestShutdown(t *testing.T) {
	streaming := make(chan struct{})
	slow := make(chan struct{})
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, ": hello\n\n")
		w.(http.Flusher).Flush()
		close(streaming)
		<-r.Context().Done()
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		close(slow)
		<-release
		if r.Context().Err() == nil {
			io.WriteString(w, "finished")
		}
	})
	s, stop := start(t, Config{Gatherer: prometheus.NewRegistry(), Handler: mux})
	answer := make(chan string, 1)
	for _, path := range []string{"/stream", "/slow"} {
		go func() {
			res, err := http.Get("http://" + s.Addr() + path)
			if err != nil {
				answer <- err.Error()
				return
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			if path == "/slow" {
				answer <- string(body)
			}
		}()
	}
	<-streaming
	<-slow
	s.http.RegisterOnShutdown(func() { close(release) })
	began := time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > defaultLimits(t).Shutdown {
		t.Errorf("shutdown took %v", took)
	}
	if got := <-answer; got != "finished" {
		t.Errorf("the slow request got %q", got)
	}
}

func TestHeadersAreBounded(t *testing.T) {
	s, _ := start(t, Config{Gatherer: prometheus.NewRegistry()})
	for size, want := range map[int]int{defaultLimits(t).HeaderBytes / 2: 200, 2 * defaultLimits(t).HeaderBytes: http.StatusRequestHeaderFieldsTooLarge} {
		r, err := http.NewRequest("GET", s.URL()+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Large", strings.Repeat("x", size))
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("a header of %d bytes: status %d, want %d", size, res.StatusCode, want)
		}
	}
}

func TestTLS(t *testing.T) {
	cert, key, pool := certificate(t)
	s, _ := start(t, Config{Gatherer: prometheus.NewRegistry(), CertFile: cert, KeyFile: key})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	res, err := client.Get(s.URL() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("got %s", res.Status)
	}
	if _, err := NewServer(Config{CertFile: cert}); err == nil {
		t.Error("a certificate without a key was taken")
	}
}

func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER), pool
}
