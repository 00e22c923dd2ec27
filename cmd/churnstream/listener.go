package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/churnstream/churnstream/internal/credentials"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/process"
)

// listener holds the flags of a process's HTTP side. Commands say the address
// they listen on by default.
type listener struct {
	HTTP          string     `name:"http" help:"Address for /metrics, /healthz, /readyz and what the process serves. Port 0 takes a free one." default:"${http}" placeholder:"HOST:PORT"`
	HTTPTokenFile string     `name:"http-token-file" help:"File that holds the bearer token without which nothing can be changed by HTTP; or set CHURN_HTTP_TOKEN. Without a token, changes are taken from this machine only, and not at all when --http is not a loopback address." type:"existingfile" placeholder:"FILE" advanced:""`
	HTTPTLSCert   string     `name:"http-tls-cert" help:"PEM file with the certificate to serve HTTPS with." type:"existingfile" placeholder:"FILE" advanced:""`
	HTTPTLSKey    string     `name:"http-tls-key" help:"PEM file with the certificate's key." type:"existingfile" placeholder:"FILE" advanced:""`
	Limits        ops.Limits `embed:""`
}

// guard returns what decides who may change something by HTTP.
func (l *listener) guard() (*ops.Guard, error) {
	token, err := credentials.Secret("CHURN_HTTP_TOKEN", l.HTTPTokenFile)
	if err != nil {
		return nil, fmt.Errorf("--http-token-file: %w", err)
	}
	return ops.NewGuard(token), nil
}

// run listens, and runs what was added to the process until one of it fails or
// ctx ends.
func (l *listener) run(ctx context.Context, p *process.Process) error {
	defer p.Close()
	if (l.HTTPTLSCert == "") != (l.HTTPTLSKey == "") {
		return errors.New("--http-tls-cert and --http-tls-key belong together")
	}
	server, err := p.Listen(ops.Config{Addr: l.HTTP, CertFile: l.HTTPTLSCert, KeyFile: l.HTTPTLSKey, Limits: l.Limits})
	if err != nil {
		return fmt.Errorf("--http %s: %w", l.HTTP, err)
	}
	return p.Run(ctx, server)
}
