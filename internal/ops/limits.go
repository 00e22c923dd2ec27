package ops

import (
	"cmp"
	"time"
)

// Limits bounds what clients of a Server may do. The zero value of each is its
// default.
type Limits struct {
	// Connections bounds those open at a time; more wait to be accepted.
	// Default 2048.
	Connections int
	// HeaderTimeout is how long a client may take to send a request's header,
	// and for the TLS handshake. Default 5 s.
	HeaderTimeout time.Duration
	// BodyTimeout is how long it may take to send the body. Default 30 s.
	BodyTimeout time.Duration
	// AnswerTimeout is the time from a request's header to the end of the
	// answer. Event streams, which have no end, set a deadline of their own
	// for each write. Default 1 min.
	AnswerTimeout time.Duration
	// IdleTimeout is how long a connection may be without a request. Default
	// 2 min.
	IdleTimeout time.Duration
	// HeaderBytes is the largest header of a request. Default 64 KiB.
	HeaderBytes int
	// Scrapes bounds those of /metrics at a time, ScrapeTimeout the time for
	// one. Default 4, and 10 s, which is Prometheus' own.
	Scrapes       int
	ScrapeTimeout time.Duration
	// Shutdown is the time for requests to end when the server does, a quarter
	// of it before their contexts are cancelled. Default 2 s.
	Shutdown time.Duration
}

// maxHTTP2Streams bounds the requests under way on one HTTP/2 connection.
const maxHTTP2Streams = 64

// orDefaults returns the limits with what is not given, or makes no sense,
// filled in.
func (l Limits) orDefaults() Limits {
	return Limits{
		Connections:   cmp.Or(max(l.Connections, 0), 2048),
		HeaderTimeout: cmp.Or(max(l.HeaderTimeout, 0), 5*time.Second),
		BodyTimeout:   cmp.Or(max(l.BodyTimeout, 0), 30*time.Second),
		AnswerTimeout: cmp.Or(max(l.AnswerTimeout, 0), time.Minute),
		IdleTimeout:   cmp.Or(max(l.IdleTimeout, 0), 2*time.Minute),
		HeaderBytes:   cmp.Or(max(l.HeaderBytes, 0), 64<<10),
		Scrapes:       cmp.Or(max(l.Scrapes, 0), 4),
		ScrapeTimeout: cmp.Or(max(l.ScrapeTimeout, 0), 10*time.Second),
		Shutdown:      cmp.Or(max(l.Shutdown, 0), 2*time.Second),
	}
}
