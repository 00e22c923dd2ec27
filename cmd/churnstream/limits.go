package main

import (
	"fmt"
	"reflect"
	"time"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"

	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/settings"
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
