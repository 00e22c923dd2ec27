package quality

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/churnstream/churnstream/internal/problem"
)

// Handler answers requests with the report that it returns, which must not change
// any more. It is safe for concurrent use if what it calls is.
type Handler func() *Report

// Report returns the report. It never fails.
func (h Handler) Report(context.Context) (*Report, error) { return h(), nil }

// ServeHTTP answers GET and HEAD.
func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		(&problem.Details{Status: http.StatusMethodNotAllowed, Detail: "This resource is only read."}).Write(w)
		return
	}
	text, err := json.Marshal(h())
	if err != nil {
		(&problem.Details{Status: http.StatusInternalServerError, Detail: "The report could not be written."}).Write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
	_, _ = w.Write(append(text, '\n')) // the client may be gone
}

const (
	// patience is how long a monitor may take to answer.
	patience = 2 * time.Second
	// maxReport bounds an answer, in bytes. One of 20 versions and 100 features
	// has some 100 KB.
	maxReport = 4 << 20
)

// Client asks a monitor in another process.
type Client struct {
	url    string
	client *http.Client
}

// NewClient returns a client of the monitor that listens at a URL, such as
// http://monitor:9103.
func NewClient(url string) *Client {
	return &Client{url: strings.TrimSuffix(url, "/") + Path, client: &http.Client{Timeout: patience}}
}

// Report asks for the report.
func (c *Client) Report(ctx context.Context) (*Report, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the monitor: %w", err)
	}
	answer, err := c.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the monitor: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking the monitor: %s answers %s", c.url, answer.Status)
	}
	r := new(Report)
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxReport)).Decode(r); err != nil {
		return nil, fmt.Errorf("reading the monitor's answer: %w", err)
	}
	return r, nil
}
