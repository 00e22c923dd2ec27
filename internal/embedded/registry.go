package embedded

import (
	"bytes"
	"cmp"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/churnstream/churnstream/internal/ops"
)

const (
	registryFile = "registry.json"
	// maxSchemaBytes bounds the body of a request, maxSchemas the registrations.
	maxSchemaBytes = 1 << 20
	maxSchemas     = 10_000
)

// RegistryConfig configures StartRegistry. The zero value is a registry in
// memory on a free loopback port.
type RegistryConfig struct {
	// Addr is the host:port to listen on. Default "127.0.0.1:0", a free port.
	Addr string
	// Dir keeps the schemas, in registry.json. It is made if missing.
	// Default "": they are in memory.
	Dir string
	// Username and Password must be given by clients, as HTTP basic
	// authentication. Default "": everybody is let in.
	Username, Password string
	// TLS makes it serve HTTPS. Default nil: HTTP.
	TLS *tls.Config
	// Logger receives failures to write the file. Default none.
	Logger *slog.Logger
}

// Registry is a running embedded schema registry with Confluent's REST
// interface. Its global compatibility level is BACKWARD. Schemas can be
// added, not deleted: messages in the topics name them by their ids.
type Registry struct {
	fake   *srfake.Registry
	server *http.Server
	url    string
	file   string // "" in memory
	lock   *dirLock
	log    *slog.Logger
	done   chan struct{}
	close  sync.Once

	mu      sync.Mutex // serialises requests
	schemas []registered
	unsaved bool // schemas has what could not be written to the file yet
}

// registered is one line of registry.json.
type registered struct {
	Subject string    `json:"subject"`
	Version int       `json:"version"`
	ID      int       `json:"id"`
	Schema  sr.Schema `json:"schema"`
}

// StartRegistry starts a registry that is ready to be used when it returns.
// Schemas found in Dir have the ids they had. Errors match ErrAddressInUse,
// ErrDirectoryInUse or ErrForeignDirectory where they apply.
func StartRegistry(cfg RegistryConfig) (*Registry, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	r := &Registry{
		fake: srfake.NewRegistry(srfake.WithGlobalCompat(sr.CompatBackward)),
		log:  cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
		done: make(chan struct{}),
	}
	if err := r.load(cfg.Dir); err != nil {
		r.lock.release()
		return nil, fmt.Errorf("starting embedded registry: %w", err)
	}
	ln, err := listen("tcp", cfg.Addr)
	if err != nil {
		r.lock.release()
		return nil, fmt.Errorf("starting embedded registry: %w", err)
	}
	r.url = "http://" + ln.Addr().String()
	if cfg.TLS != nil {
		ln = tls.NewListener(ln, cfg.TLS)
		r.url = "https://" + ln.Addr().String()
	}

	mux := http.NewServeMux()
	mux.Handle("/", r.fake.Handler())
	mux.HandleFunc("POST /subjects/{subject}/versions", r.register)
	r.server = &http.Server{
		Handler:           http.MaxBytesHandler(demandLogin(cfg.Username, cfg.Password, refusePages(ln.Addr(), refuseRest(r.caughtUp(mux)))), maxSchemaBytes),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
	go r.serve(ln)
	return r, nil
}

// demandLogin lets in who gives the user and password, or everybody if there
// is no user.
func demandLogin(username, password string, next http.Handler) http.Handler {
	if username == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, pass, _ := r.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(user), []byte(username))&subtle.ConstantTimeCompare([]byte(pass), []byte(password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="schema registry"`)
			refuse(w, http.StatusUnauthorized, 40101, "user or password is wrong")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (r *Registry) serve(ln net.Listener) {
	defer close(r.done)
	if err := r.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		r.log.Error("embedded registry stopped", "error", err)
	}
}

// URL returns the registry's base URL.
func (r *Registry) URL() string { return r.url }

// Close stops the registry. It may be called more than once.
func (r *Registry) Close() {
	r.close.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if r.server.Shutdown(ctx) != nil {
			r.server.Close()
		}
		<-r.done
		r.lock.release()
	})
}

// register answers POST /subjects/{subject}/versions. A new schema is on disk
// before the caller learns its id.
func (r *Registry) register(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body) // from memory
	req.Body = io.NopCloser(bytes.NewReader(body))
	if len(r.schemas) >= maxSchemas {
		refuse(w, http.StatusInsufficientStorage, 50701, fmt.Sprintf("this registry keeps %d schemas at most", maxSchemas))
		return
	}
	answer := &recorder{header: http.Header{}, status: http.StatusOK}
	r.fake.Handler().ServeHTTP(answer, req)
	if answer.status == http.StatusOK {
		if err := r.keep(req.PathValue("subject"), body, answer.body.Bytes()); err != nil {
			r.log.Error("keeping schema", "error", err)
			refuse(w, http.StatusInternalServerError, 50001, "the schema could not be stored")
			return
		}
	}
	for name, values := range answer.header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.status)
	w.Write(answer.body.Bytes())
}

// keep adds a registration to the file unless it is there already.
func (r *Registry) keep(subject string, request, answer []byte) error {
	entry := registered{Subject: subject, Version: 1}
	var id struct {
		ID int `json:"id"`
	}
	if err := errors.Join(json.Unmarshal(request, &entry.Schema), json.Unmarshal(answer, &id)); err != nil {
		return fmt.Errorf("reading back a registration: %w", err)
	}
	entry.ID = id.ID
	for _, s := range r.schemas {
		if s.Subject != subject {
			continue
		}
		if s.ID == entry.ID {
			return nil
		}
		entry.Version = max(entry.Version, s.Version+1)
	}
	r.schemas = append(r.schemas, entry)
	return r.write()
}

// write brings the file up to date.
func (r *Registry) write() error {
	if r.file == "" {
		return nil
	}
	r.unsaved = true
	data, err := json.MarshalIndent(r.schemas, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding schemas: %w", err)
	}
	if err := writeFile(r.file, data); err != nil {
		return err
	}
	r.unsaved = false
	return nil
}

// caughtUp answers one request at a time, and none while a schema is in memory
// alone: whoever learnt its id would write messages that nobody could read after
// a restart.
func (r *Registry) caughtUp(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			refuse(w, http.StatusRequestEntityTooLarge, 41301, "the schema is too large")
			return
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.unsaved {
			if err := r.write(); err != nil {
				r.log.Error("keeping schemas", "error", err)
				refuse(w, http.StatusInternalServerError, 50001, "the schemas could not be stored")
				return
			}
		}
		next.ServeHTTP(w, req)
	})
}

// load reads the schemas of dir back, in the order they were registered.
func (r *Registry) load(dir string) error {
	if dir == "" {
		return nil
	}
	lock, err := openDir(dir, "registry.lock", registryFile)
	if err != nil {
		return err
	}
	r.lock = lock
	r.file = filepath.Join(dir, registryFile)
	data, err := os.ReadFile(r.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading schemas: %w", err)
	}
	if err := json.Unmarshal(data, &r.schemas); err != nil {
		return fmt.Errorf("reading %s: %w", r.file, err)
	}
	seen := map[int]bool{}
	for _, s := range r.schemas {
		if err := r.seed(s, seen[s.ID]); err != nil {
			return fmt.Errorf("reading %s: subject %q version %d id %d: %w", r.file, s.Subject, s.Version, s.ID, err)
		}
		seen[s.ID] = true
	}
	return nil
}

func (r *Registry) seed(s registered, known bool) (err error) {
	// SeedSchema panics on what a damaged file can hold.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	if !known {
		r.fake.SeedSchema(s.Subject, s.Version, s.ID, s.Schema)
		return nil
	}
	// SeedSchema takes an id only once; an equal schema under another subject
	// gets the same id by registering it again.
	id, version, err := r.fake.RegisterSchema(s.Subject, s.Schema)
	if err == nil && (id != s.ID || version != s.Version) {
		err = fmt.Errorf("came back as version %d id %d", version, id)
	}
	return err
}

// writeFile replaces a file so that a crash leaves the old or the new one.
func writeFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".registry-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// refuseRest refuses what would change schemas without the file.
func refuseRest(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.Method == http.MethodDelete:
			refuse(w, http.StatusMethodNotAllowed, 40501, "this registry keeps every schema")
		case strings.HasPrefix(req.URL.Path, "/contexts"):
			refuse(w, http.StatusNotFound, 40401, "this registry has no contexts")
		default:
			next.ServeHTTP(w, req)
		}
	})
}

// refusePages refuses what a page of another site has a browser on this machine
// send: by its origin, or, to a loopback address, by a name that was made to
// resolve to it.
func refusePages(listener net.Addr, next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusForbidden, 40301, "pages of other sites may change nothing here")
	}))
	protected := protection.Handler(next)
	if !ops.LoopbackHost(listener.String()) {
		return protected
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !ops.LoopbackHost(req.Host) {
			refuse(w, http.StatusForbidden, 40302, "this registry is addressed as localhost or by a loopback address")
			return
		}
		protected.ServeHTTP(w, req)
	})
}

func refuse(w http.ResponseWriter, status, code int, message string) {
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error_code": code, "message": message})
}

// recorder holds an answer back until it is known to be on disk.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
