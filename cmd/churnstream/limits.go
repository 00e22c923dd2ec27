package main

import (
	"fmt"
	"reflect"
	"time"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"

	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/settings"
	"github.com/churnstream/churnstream/serving"
)

// byteSize is a number of bytes, given as 1000000, 64KiB or 1MB.
type byteSize int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *byteSize) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n == 0 || n > 1<<40 {
		return fmt.Errorf("%q is not a number of bytes, like 1000000 or 64KiB", text)
	}
	*b = byteSize(n)
	return nil
}

// decodeBytes reads a setting that is a number of bytes.
func decodeBytes(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("bytes", &text); err != nil {
		return err
	}
	n, err := settings.ParseBytes(text)
	if err != nil {
		return err
	}
	target.SetInt(n)
	return nil
}

// httpLimits are the limits of a process's HTTP side.
type httpLimits struct {
	HTTPMaxConnections  int           `name:"http-max-connections" help:"HTTP connections open at a time; more wait to be accepted." default:"2048" group:"http"`
	HTTPHeaderTimeout   time.Duration `name:"http-header-timeout" help:"How long a client may take to send a request's header, and for the TLS handshake." default:"5s" group:"http"`
	HTTPBodyTimeout     time.Duration `name:"http-body-timeout" help:"How long it may take to send the body." default:"30s" group:"http"`
	HTTPAnswerTimeout   time.Duration `name:"http-answer-timeout" help:"Longest from a request's header to the end of the answer." default:"1m" group:"http"`
	HTTPIdleTimeout     time.Duration `name:"http-idle-timeout" help:"How long a connection may be without a request." default:"2m" group:"http"`
	HTTPHeaderBytes     byteSize      `name:"http-header-bytes" help:"Largest header of a request." default:"64KiB" group:"http"`
	HTTPScrapes         int           `name:"http-scrapes" help:"Scrapes of /metrics at a time." default:"4" group:"http"`
	HTTPScrapeTimeout   time.Duration `name:"http-scrape-timeout" help:"Longest that a scrape may take." default:"10s" group:"http"`
	HTTPShutdownTimeout time.Duration `name:"http-shutdown-timeout" help:"How long requests under way have when the process ends." default:"2s" group:"http"`
}

func (l *httpLimits) limits() ops.Limits {
	return ops.Limits{
		Connections: l.HTTPMaxConnections, HeaderTimeout: l.HTTPHeaderTimeout, BodyTimeout: l.HTTPBodyTimeout,
		AnswerTimeout: l.HTTPAnswerTimeout, IdleTimeout: l.HTTPIdleTimeout, HeaderBytes: int(l.HTTPHeaderBytes),
		Scrapes: l.HTTPScrapes, ScrapeTimeout: l.HTTPScrapeTimeout, Shutdown: l.HTTPShutdownTimeout,
	}
}

// serveFlags are the limits of the REST endpoint and the web application.
type serveFlags struct {
	ServeBodyBytes      byteSize      `help:"Largest body of /v1/explain and /v1/what-if." default:"64KiB" group:"serve"`
	ServeBatchBytes     byteSize      `help:"Largest body of /v1/score." default:"1MiB" group:"serve"`
	ServeBatchSize      int           `help:"Customers in one /v1/score." default:"1000" group:"serve"`
	ServePageSize       int           `help:"Customers on one page of /v1/customers." default:"500" group:"serve"`
	ServeBodies         int           `help:"Requests whose bodies are in memory at a time; more wait." default:"64" group:"serve"`
	ServeBodyWait       time.Duration `help:"How long they wait before they are told to come again." default:"5s" group:"serve"`
	ServePublishTimeout time.Duration `help:"How long a request that changes something waits for Kafka and the registry." default:"10s" group:"serve"`
	ServeStreams        int           `help:"Event streams to browsers open at a time." default:"1000" group:"serve"`
	ServeStreamTimeout  time.Duration `help:"How long a browser may take to receive a notice." default:"10s" group:"serve"`
}

func (f *serveFlags) limits() serving.Limits {
	return serving.Limits{
		BodyBytes: int64(f.ServeBodyBytes), BatchBytes: int64(f.ServeBatchBytes), Batch: f.ServeBatchSize, Page: f.ServePageSize,
		Bodies: f.ServeBodies, BodyWait: f.ServeBodyWait, PublishTimeout: f.ServePublishTimeout,
		Streams: f.ServeStreams, StreamWrite: f.ServeStreamTimeout,
	}
}
