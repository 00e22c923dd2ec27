// Package serving answers questions about churn: a REST interface that scores
// and explains any set of attributes with the current model, and a web
// application of the customers at risk. Both read a materialised view of
// churn.scores, the ReadModel.
//
// Nothing here knows a feature by its name: forms, tables and documents follow
// the feature specification.
package serving

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/problem"
	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/internal/settings"
	"github.com/churnstream/churnstream/schemas"
)

// Config says what a Server needs. The zero value of a setting is its default.
type Config struct {
	role.Dependencies `kong:"-"`

	// Monitor is where a monitor in another process answers.
	Monitor string `name:"monitor" help:"URL of the monitor whose figures the page shows, such as http://monitor:9103; without it, of the one in this process." placeholder:"URL"`
	// Limits bounds the requests.
	Limits Limits `embed:""`

	// Tailer is where churn.scores is read. Default: Cluster.
	Tailer Tailer `kong:"-"`
	// Producer writes what is asked for: erasures and activations. Default:
	// one of Cluster.
	Producer Producer `kong:"-"`
}

// Server answers the REST and web requests.
type Server struct {
	tailer    Tailer
	owners    *intake.Owners // nil where the tailer cannot be asked
	codec     *schemas.Codec
	set       *schemas.Set
	models    role.Models
	producer  Producer
	guard     *ops.Guard
	trainer   http.Handler
	quality   reporter // nil where there is no monitor to ask
	asked     moments  // when a training was asked for here
	ready     func(name string, ready bool, why string)
	log       *slog.Logger
	customers *ReadModel
	metrics   *serverMetrics
	intake    *intake.Intake
	handler   http.Handler
	openapi   []byte
	pages     *pages
	limits    Limits

	progressMu sync.Mutex
	streams    atomic.Int64
	// bodies holds a token for each request whose body is in memory.
	bodies  chan struct{}
	stopped chan struct{}
	stop    sync.Once
	now     func() time.Time
	// tick is the shortest time between two notices to a browser.
	tick time.Duration
}

type serverMetrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	records  *prometheus.CounterVec
}

// New returns a server that does nothing until its handler is asked or Run is
// called.
func New(cfg Config) (*Server, error) {
	if err := cfg.Dependencies.Complete(); err != nil {
		return nil, fmt.Errorf("serving: %w", err)
	}
	if err := settings.Complete(&cfg); err != nil {
		return nil, fmt.Errorf("serving: %w", err)
	}
	if cfg.Tailer == nil {
		cfg.Tailer = cfg.Cluster
	}
	if cfg.Producer == nil {
		cfg.Producer = cfg.Cluster.NewProducer(kafka.ProducerConfig{})
	}
	limits := cfg.Limits
	limits.Page = min(limits.Page, maxDepth)
	s := &Server{
		limits:    limits,
		tailer:    cfg.Tailer,
		codec:     cfg.Codec,
		set:       cfg.Codec.Set(),
		models:    cfg.Models,
		producer:  cfg.Producer,
		guard:     cfg.Guard,
		trainer:   cfg.Handlers[role.RetrainPath],
		quality:   newReporter(cfg.Handlers[quality.Path], cfg.Monitor),
		ready:     cfg.Ready,
		log:       cfg.Logger,
		customers: NewReadModel(),
		stopped:   make(chan struct{}),
		bodies:    make(chan struct{}, limits.Bodies),
		now:       time.Now,
		tick:      time.Second,
	}
	var err error
	// What is known can be served while the registry is down, so the intake does
	// not report readiness.
	s.intake = intake.New(intake.Config{Logger: s.log, Registerer: cfg.Registerer})
	if log, ok := cfg.Tailer.(intake.ScoresLog); ok {
		s.owners = intake.NewOwners(s.intake, log, s.codec)
	}
	if s.metrics, err = newServerMetrics(cfg.Registerer, s.customers); err != nil {
		return nil, fmt.Errorf("registering the metrics of serving: %w", err)
	}
	if s.openapi, err = openAPIDocument(s.set.Spec(), limits); err != nil {
		return nil, err
	}
	if s.pages, err = parsePages(s); err != nil {
		return nil, err
	}
	s.handler = s.routes()
	s.progress()
	return s, nil
}

func newServerMetrics(reg prometheus.Registerer, customers *ReadModel) (*serverMetrics, error) {
	m := &serverMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_http_requests_total",
			Help: "HTTP requests answered.",
		}, []string{"handler", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "churn_http_request_duration_seconds",
			Help:                            "Time to answer HTTP requests; event streams are not in it.",
			Buckets:                         []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 2.5},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"handler", "method"}),
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "churn_serving_records_total",
			Help: "Records of churn.scores read into the read model, by result.",
		}, []string{"result"}),
	}
	if reg == nil {
		return m, nil
	}
	collectors := []prometheus.Collector{m.requests, m.duration, m.records,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "churn_customers_known",
			Help: "Customers with a score, also those who have left since, until they are erased.",
		}, func() float64 { return float64(customers.Known()) }),
	}
	for r := schemas.RiskLow; r <= schemas.RiskHigh; r++ {
		collectors = append(collectors, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "churn_customers_at_risk",
			Help:        "Customers by the risk of their latest score. Those who have left since count too, until they are erased.",
			ConstLabels: prometheus.Labels{"risk": r.String()},
		}, func() float64 { return float64(customers.Counts()[r]) }))
	}
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Run keeps the read model up to date until ctx ends, and returns nil then.
// Open event streams end with it, so that a listener can shut down.
func (s *Server) Run(ctx context.Context) error {
	defer s.stop.Do(func() { close(s.stopped) })
	err := s.follow(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("following %s: %w", schemas.TopicScores, err)
	}
	return nil
}

// progress says whether all customers are known.
func (s *Server) progress() {
	s.progressMu.Lock() // or what was so a moment ago might be said last
	defer s.progressMu.Unlock()
	if s.customers.isCaughtUp() {
		s.ready("serving", true, "")
		return
	}
	s.ready("serving", false, fmt.Sprintf("reading %s, %d customers so far", schemas.TopicScores, s.customers.Known()))
}

// Customers returns the read model.
func (s *Server) Customers() *ReadModel { return s.customers }

// CaughtUp is closed once the read model holds everything that was in
// churn.scores at the start. Until then answers about customers are
// incomplete, and the server should not count as ready.
func (s *Server) CaughtUp() <-chan struct{} { return s.customers.CaughtUp() }

// Handler serves the web application at "/", the REST interface at "/v1/",
// its description at "/openapi.json", and what pages need at "/static/",
// "/fragment/" and "/events".
func (s *Server) Handler() http.Handler { return s.handler }

// route is one endpoint with one method; GET answers HEAD too.
type route struct {
	method string
	path   string // a pattern of http.ServeMux
	handle http.HandlerFunc
	// endless marks event streams, whose duration says nothing.
	endless bool
}

func (s *Server) endpoints() []route {
	return []route{
		{method: http.MethodPost, path: "/v1/explain", handle: s.bounded(s.explain)},
		{method: http.MethodPost, path: "/v1/score", handle: s.bounded(s.score)},
		{method: http.MethodPost, path: "/v1/what-if", handle: s.bounded(s.whatIf)},
		{method: http.MethodGet, path: "/v1/customers", handle: s.complete(s.listCustomers)},
		{method: http.MethodGet, path: "/v1/customers/{id}", handle: s.complete(s.getCustomer)},
		{method: http.MethodDelete, path: "/v1/customers/{id}", handle: s.guarded(s.erase)},
		{method: http.MethodGet, path: "/v1/models", handle: s.listModels},
		{method: http.MethodGet, path: "/v1/models/{version}", handle: s.getModel},
		{method: http.MethodPost, path: "/v1/models/{version}/activate", handle: s.guarded(s.activate)},
		{method: http.MethodGet, path: quality.Path, handle: s.getQuality},
		{method: http.MethodPost, path: "/v1/retrain", handle: s.guarded(s.retrain)},
		{method: http.MethodGet, path: "/openapi.json", handle: s.getOpenAPI},

		{method: http.MethodGet, path: "/{$}", handle: s.pageCustomers},
		{method: http.MethodGet, path: "/customers/{id}", handle: s.pageCustomer},
		{method: http.MethodGet, path: "/model", handle: s.pageModel},
		{method: http.MethodGet, path: "/fragment/customers", handle: s.fragmentCustomers},
		{method: http.MethodGet, path: "/fragment/model", handle: s.fragmentModel},
		{method: http.MethodGet, path: "/events", handle: s.events, endless: true},
		{method: http.MethodGet, path: "/static/{file}", handle: s.getStatic},
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	allowed := map[string][]string{}
	for _, r := range s.endpoints() {
		mux.Handle(r.method+" "+r.path, s.instrument(r.path, r.endless, r.handle))
		allowed[r.path] = append(allowed[r.path], r.method)
		if r.method == http.MethodGet {
			allowed[r.path] = append(allowed[r.path], http.MethodHead)
		}
	}
	for path, methods := range allowed {
		allow := strings.Join(methods, ", ")
		mux.Handle(path, s.instrument(path, false, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Allow", allow)
			s.problem(w, req, &problem.Details{
				Status: http.StatusMethodNotAllowed,
				Detail: fmt.Sprintf("This resource answers %s, not %s.", allow, req.Method),
			})
		}))
	}
	mux.Handle("/", s.instrument("other", false, s.notFound))
	return mux
}

// statusWriter remembers the status for the metrics.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap serves http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// instrument counts and times requests, sets the headers every answer has, and
// turns a panic into an answer.
func (s *Server) instrument(name string, endless bool, h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		sw := &statusWriter{ResponseWriter: w}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.log.Error("request failed", "handler", name, "panic", p, "stack", string(debug.Stack()))
				if sw.status == 0 {
					s.problem(sw, r, &problem.Details{Status: http.StatusInternalServerError,
						Detail: "The server failed to answer. Its log says more."})
				}
			}
			if sw.status == 0 {
				sw.status = http.StatusOK
			}
			s.metrics.requests.WithLabelValues(name, methodLabel(r.Method), strconv.Itoa(sw.status)).Inc()
			if !endless {
				s.metrics.duration.WithLabelValues(name, methodLabel(r.Method)).Observe(time.Since(start).Seconds())
			}
		}()
		secure(w.Header())
		h(sw, r)
	})
}

// methodLabel keeps made-up methods from becoming label values.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut,
		http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

// secure sets headers by which a browser loads nothing but our own files, and
// keeps what it has seen to itself.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; "+
		"img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	// Customer data is for the one who asked, not for a cache on the way.
	h.Set("Cache-Control", "no-store")
}
