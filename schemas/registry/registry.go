// Package registry is a client of a Confluent-compatible schema registry over
// HTTP.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/avro"
)

// Config says how to reach a schema registry.
type Config struct {
	// URL is the registry's address, such as "https://registry.example:8081".
	// Several, separated by commas, are tried in turn. It is required.
	URL string
	// Username and Password are for basic authentication; both empty: none.
	Username, Password string
	// TLS configures https connections; nil means the system's roots.
	TLS *tls.Config
	// Timeout bounds one request; 0 means 10 s.
	Timeout time.Duration
}

const (
	// maxResponse bounds the body of a registry's answer in bytes, and
	// maxHeader its header.
	maxResponse = 4 << 20
	maxHeader   = 64 << 10
	// maxError bounds what an error shows of an answer, in bytes.
	maxError = 512
)

// Client talks to a Confluent-compatible schema registry. It is safe
// for concurrent use, and implements schemas.Registry. Its errors show at most 512
// bytes of what the registry answered.
type Client struct {
	client     *sr.Client
	transport  *http.Transport
	references references
}

var _ schemas.Registry = (*Client)(nil)

// New returns a client. It does not connect yet.
func New(cfg Config) (*Client, error) {
	var urls []string
	for _, text := range strings.Split(cfg.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil {
			return nil, errors.New("schema registry: the URL cannot be parsed") // without the URL: it may hold a password
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("schema registry: %q is not an http or https URL", u.Redacted())
		}
		if u.User != nil {
			return nil, fmt.Errorf("schema registry: give user name and password apart from the URL %s", u.Redacted())
		}
		urls = append(urls, u.String())
	}
	timeout := cfg.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = cfg.TLS
	transport.MaxResponseHeaderBytes = maxHeader
	opts := []sr.ClientOpt{
		sr.URLs(urls...),
		sr.UserAgent("churnstream"),
		sr.HTTPClient(&http.Client{Transport: boundedTransport{transport}, Timeout: timeout}),
	}
	if cfg.Username != "" || cfg.Password != "" {
		opts = append(opts, sr.BasicAuth(cfg.Username, cfg.Password))
	}
	client, err := sr.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("schema registry: %w", err)
	}
	return &Client{client: client, transport: transport}, nil
}

// Close closes idle connections.
func (r *Client) Close() { r.transport.CloseIdleConnections() }

// Schema returns the schema with the given id, with the types in it that the
// schemas define that it refers to. The error matches avro.ErrSchemaNotFound
// only if the registry itself says that it has no such schema; a mere status 404,
// as from a proxy before it, is a passing error, so that a wrong address does not
// turn every record into a dead letter.
func (r *Client) Schema(ctx context.Context, id int) (string, error) {
	s, err := r.client.SchemaByID(ctx, id)
	return r.answer(ctx, s, err, fmt.Sprintf("id %d", id))
}

// SchemaByGUID is Schema for a GUID, which registries have since Confluent
// Platform 8.
func (r *Client) SchemaByGUID(ctx context.Context, guid string) (string, error) {
	s, err := r.client.SchemaByGUID(ctx, guid)
	return r.answer(ctx, s.Schema, err, "GUID "+guid)
}

func (r *Client) answer(ctx context.Context, s sr.Schema, err error, name string) (string, error) {
	switch {
	case err != nil && errorCode(err) == sr.ErrSchemaNotFound.Code:
		return "", fmt.Errorf("schema registry: %w: %s", avro.ErrSchemaNotFound, name)
	case err != nil:
		return "", fmt.Errorf("schema registry: %w", shortened(err))
	case s.Schema == "":
		return "", fmt.Errorf("schema registry: no schema in the answer for %s", name)
	}
	return r.whole(ctx, s)
}

// Register makes schema the latest of subject with compatibility BACKWARD (or
// stricter, if the subject is so already), and returns its id. A schema that
// the subject has already is only looked up, which takes no write permission.
// The error matches schemas.ErrIncompatible if the registry refuses the schema as such.
func (r *Client) Register(ctx context.Context, subject, schema string) (int, error) {
	s := sr.Schema{Schema: schema, Type: sr.TypeAvro}
	found, err := r.client.LookupSchema(ctx, subject, s)
	if err == nil {
		return checkID(found.ID)
	}
	switch errorCode(err) {
	case sr.ErrSubjectNotFound.Code, sr.ErrSchemaNotFound.Code:
	default:
		return 0, fmt.Errorf("schema registry: looking the schema of %s up: %w", subject, shortened(err))
	}
	if err := r.ensureBackward(ctx, subject); err != nil {
		return 0, err
	}
	id, err := r.client.RegisterSchema(ctx, subject, s, -1, -1)
	if err != nil {
		var answer *sr.ResponseError
		if errors.As(err, &answer) && answer.StatusCode == http.StatusConflict {
			return 0, fmt.Errorf("schema registry: %s: %w: %w", subject, schemas.ErrIncompatible, shortened(err))
		}
		return 0, fmt.Errorf("schema registry: registering the schema of %s: %w", subject, shortened(err))
	}
	return checkID(id)
}

func checkID(id int) (int, error) {
	if id <= 0 {
		return 0, fmt.Errorf("schema registry: id %d in the answer", id)
	}
	return id, nil
}

func (r *Client) ensureBackward(ctx context.Context, subject string) error {
	now := r.client.Compatibility(ctx, subject)[0]
	switch {
	case now.Err == nil:
		switch now.Level {
		case sr.CompatBackward, sr.CompatBackwardTransitive, sr.CompatFull, sr.CompatFullTransitive:
			return nil
		}
	case errorCode(now.Err) == 0:
		return fmt.Errorf("schema registry: asking for the compatibility of %s: %w", subject, shortened(now.Err))
	}
	set := r.client.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatBackward}, subject)[0]
	if set.Err != nil {
		return fmt.Errorf("schema registry: setting the compatibility of %s: %w", subject, shortened(set.Err))
	}
	return nil
}

// errorCode returns the error code in a registry's answer, 0 for any other
// error.
func errorCode(err error) int {
	var answer *sr.ResponseError
	if errors.As(err, &answer) {
		return answer.ErrorCode
	}
	return 0
}

// shortError is an error of the registry's client, whose text can be all of an
// answer, with the start of that text.
type shortError struct {
	text string
	err  error
}

func shortened(err error) error { return &shortError{schemas.Clip(err.Error(), maxError), err} }

func (e *shortError) Error() string { return e.text }
func (e *shortError) Unwrap() error { return e.err }

// boundedTransport refuses bodies that are larger than maxResponse.
type boundedTransport struct{ base http.RoundTripper }

func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer.Body = &boundedBody{ReadCloser: answer.Body, left: maxResponse}
	return answer, nil
}

type boundedBody struct {
	io.ReadCloser
	left int
}

var errResponseTooLarge = fmt.Errorf("the answer is larger than %d bytes", maxResponse)

func (b *boundedBody) Read(p []byte) (int, error) {
	if len(p) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if n > b.left {
		return 0, errResponseTooLarge
	}
	b.left -= n
	return n, err
}
