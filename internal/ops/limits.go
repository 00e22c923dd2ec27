package ops

import "time"

// Limits bounds what clients of a Server may do. The zero value of each is its
// default.
type Limits struct {
	// Connections bounds those open at a time; more wait to be accepted.
	Connections int `name:"http-max-connections" help:"HTTP connections open at a time; more wait to be accepted." default:"2048" unit:"connections" advanced:""`
	// HeaderTimeout is how long a client may take to send a request's header,
	// and for the TLS handshake.
	HeaderTimeout time.Duration `name:"http-header-timeout" help:"How long a client may take to send a request's header, and for the TLS handshake." default:"5s" advanced:""`
	// BodyTimeout is how long it may take to send the body.
	BodyTimeout time.Duration `name:"http-body-timeout" help:"How long it may take to send the body." default:"30s" advanced:""`
	// AnswerTimeout is the time from a request's header to the end of the
	// answer. Event streams, which have no end, set a deadline of their own
	// for each write.
	AnswerTimeout time.Duration `name:"http-answer-timeout" help:"Longest from a request's header to the end of the answer." default:"1m" advanced:""`
	// IdleTimeout is how long a connection may be without a request.
	IdleTimeout time.Duration `name:"http-idle-timeout" help:"How long a connection may be without a request." default:"2m" advanced:""`
	// HeaderBytes is the largest header of a request.
	HeaderBytes int `name:"http-header-bytes" help:"Largest header of a request." default:"64KiB" type:"bytes" advanced:""`
	// Scrapes bounds those of /metrics at a time, ScrapeTimeout the time for
	// one; its default is Prometheus' own.
	Scrapes       int           `name:"http-scrapes" help:"Scrapes of /metrics at a time." default:"4" unit:"scrapes" advanced:""`
	ScrapeTimeout time.Duration `name:"http-scrape-timeout" help:"Longest that a scrape may take." default:"10s" advanced:""`
	// Shutdown is the time for requests to end when the server does, a quarter
	// of it before their contexts are cancelled.
	Shutdown time.Duration `name:"http-shutdown-timeout" help:"How long requests under way have when the process ends." default:"2s" advanced:""`
}

// maxHTTP2Streams bounds the requests under way on one HTTP/2 connection.
const maxHTTP2Streams = 64
