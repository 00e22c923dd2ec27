package ops

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/churnstream/churnstream/internal/settings"
)

// Config configures NewServer.
type Config struct {
	// Addr is the host:port to listen on. Default "127.0.0.1:0": a free port,
	// reachable from this machine only.
	Addr string
	// Gatherer provides the metrics. Default prometheus.DefaultGatherer.
	Gatherer prometheus.Gatherer
	// Readiness is what /readyz answers. Default: always ready.
	Readiness *Readiness
	// Handler answers everything but GET of /metrics, /healthz and /readyz.
	// Default: a list of those at /, and not found elsewhere.
	Handler http.Handler
	// CertFile and KeyFile are PEM files with the server's certificate and
	// its key; both or none. Default none: plain HTTP. They are read once.
	CertFile, KeyFile string
	// Guard decides who may read what Handler answers; see
	// Guard.CheckReading. Default: everybody.
	Guard *Guard
	// Limits bounds what clients may do.
	Limits Limits
	// Logger takes the log. Default none.
	Logger *slog.Logger
}

// Server serves /metrics, /healthz, /readyz and an application's handler on
// one address. /healthz answers 200 as long as the process can answer at all;
// /readyz answers 200 or 503, with each part's state as JSON.
type Server struct {
	listener net.Listener
	tls      bool
	http     *http.Server
	log      *slog.Logger
	shutdown time.Duration
	// cancel ends the contexts of all requests.
	cancel context.CancelFunc
	close  sync.Once
}

// NewServer listens on cfg.Addr; connections wait until Run serves them. It
// fails when the address cannot be had or the certificate not be read. A server
// that other machines can reach without TLS is warned of in the log.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Gatherer == nil {
		cfg.Gatherer = prometheus.DefaultGatherer
	}
	if cfg.Readiness == nil {
		cfg.Readiness = NewReadiness()
	}
	if cfg.Handler == nil {
		cfg.Handler = http.HandlerFunc(contents)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := settings.Complete(&cfg.Limits); err != nil {
		return nil, fmt.Errorf("limits of HTTP: %w", err)
	}
	var tlsConfig *tls.Config
	if cfg.CertFile != "" || cfg.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the server's certificate: %w", err)
		}
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w; choose another address with --http HOST:PORT (port 0 takes a free one)", cfg.Addr, err)
	}
	if !loopback(listener.Addr()) && tlsConfig == nil {
		cfg.Logger.Warn("listening beyond this machine without TLS: what is asked and answered, tokens included, can be read on the way",
			"address", listener.Addr().String())
	}
	base, cancel := context.WithCancel(context.Background())
	return &Server{
		listener: bound(listener, cfg.Limits.Connections),
		tls:      tlsConfig != nil,
		log:      cfg.Logger,
		shutdown: cfg.Limits.Shutdown,
		cancel:   cancel,
		http: &http.Server{
			Handler:           boundBody(cfg.Limits.BodyTimeout, routes(&cfg)),
			TLSConfig:         tlsConfig,
			BaseContext:       func(net.Listener) context.Context { return withListener(base, listener.Addr()) },
			ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
			ReadHeaderTimeout: cfg.Limits.HeaderTimeout,
			WriteTimeout:      cfg.Limits.AnswerTimeout,
			IdleTimeout:       cfg.Limits.IdleTimeout,
			MaxHeaderBytes:    cfg.Limits.HeaderBytes,
			HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxHTTP2Streams},
		},
	}, nil
}

// Addr returns the host:port that the server listens on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// URL returns the address as a URL, without a slash at its end.
func (s *Server) URL() string {
	if s.tls {
		return "https://" + s.Addr()
	}
	return "http://" + s.Addr()
}

// Close frees the address of a server that was never run. After Run it has no
// effect.
func (s *Server) Close() error {
	var err error
	s.close.Do(func() {
		s.cancel()
		err = s.listener.Close()
	})
	return err
}

// Run serves until ctx ends. Requests under way then get a quarter of
// Limits.Shutdown to finish, after which their contexts are cancelled, so that
// event streams end; after the whole of it connections are cut. A server runs
// once.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	served := make(chan error, 1)
	go func() {
		if s.tls {
			served <- s.http.ServeTLS(s.listener, "", "")
			return
		}
		served <- s.http.Serve(s.listener)
	}()
	select {
	case err := <-served:
		return fmt.Errorf("serving HTTP on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	hurry := time.AfterFunc(s.shutdown/4, s.cancel)
	defer hurry.Stop()
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.shutdown)
	defer cancel()
	if err := s.http.Shutdown(deadline); err != nil {
		s.log.Warn("cutting HTTP connections that did not finish", "error", err)
		s.http.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving HTTP on %s: %w", s.Addr(), err)
	}
	return nil
}

func routes(cfg *Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{
		ErrorLog: metricsLog{cfg.Logger},
		// One part's broken metric must not blind whoever looks at the rest.
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: cfg.Limits.Scrapes,
		Timeout:             cfg.Limits.ScrapeTimeout,
		EnableOpenMetrics:   true,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		noStore(w, "text/plain; charset=utf-8")
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		ready, checks := cfg.Readiness.Ready()
		noStore(w, "application/json")
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(struct {
			Ready  bool             `json:"ready"`
			Checks map[string]Check `json:"checks"`
		}{ready, checks})
	})
	if cfg.Guard == nil {
		mux.Handle("/", cfg.Handler)
	} else {
		mux.Handle("/", cfg.Guard.ProtectReading(cfg.Handler))
	}
	return mux
}

func noStore(w http.ResponseWriter, contentType string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
}

func contents(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	noStore(w, "text/plain; charset=utf-8")
	io.WriteString(w, "/metrics\n/healthz\n/readyz\n")
}

// boundBody limits how long a client may take to send a request's body. The
// server's own ReadTimeout would also end event streams, whose requests have
// none.
func boundBody(limit time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// Not supported by the writers of some tests; nothing is lost there.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(limit))
		}
		next.ServeHTTP(w, r)
	})
}

// metricsLog writes the errors of promhttp to a structured log.
type metricsLog struct{ log *slog.Logger }

func (l metricsLog) Println(v ...any) {
	l.log.Error("gathering metrics", "error", fmt.Sprint(v...))
}
