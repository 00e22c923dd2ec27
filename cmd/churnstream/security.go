package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/churnstream/churnstream/internal/ops"
)

// web holds the flags that protect a process's HTTP side.
type web struct {
	HTTPTokenFile string `name:"http-token-file" help:"File that holds the bearer token without which nothing can be changed by HTTP; or set CHURN_HTTP_TOKEN. Without a token, changes are taken from this machine only, and not at all when --http is not a loopback address." type:"existingfile" placeholder:"FILE" group:"http"`
	HTTPTLSCert   string `name:"http-tls-cert" help:"PEM file with the certificate to serve HTTPS with." type:"existingfile" placeholder:"FILE" group:"http"`
	HTTPTLSKey    string `name:"http-tls-key" help:"PEM file with the certificate's key." type:"existingfile" placeholder:"FILE" group:"http"`
	httpLimits
}

// guard returns what decides who may change something by HTTP.
func (w *web) guard() (*ops.Guard, error) {
	token, err := secret("CHURN_HTTP_TOKEN", w.HTTPTokenFile)
	if err != nil {
		return nil, fmt.Errorf("--http-token-file: %w", err)
	}
	return ops.NewGuard(token), nil
}

// secret returns what the file or, without one, the environment variable
// holds; files may end in a line break. A file without a secret in it is an
// error: whoever names one wants what it protects to be protected.
func secret(variable, file string) (string, error) {
	if file == "" {
		return os.Getenv(variable), nil
	}
	data, err := readFile(file, maxSecretBytes)
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return text, nil
}

const (
	maxSecretBytes = 64 << 10
	maxPEMBytes    = 4 << 20
)

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, err
}

// tlsFlags are the files of one connection with TLS. Their flags are name with
// -ca, -cert and -key added.
type tlsFlags struct {
	name          string
	ca, cert, key string
}

func (f *tlsFlags) given() bool { return f.ca != "" || f.cert != "" || f.key != "" }

// config reads the files.
func (f *tlsFlags) config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pem, err := readFile(f.ca, maxPEMBytes)
		if err != nil {
			return nil, fmt.Errorf("--%s-ca: %w", f.name, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--%s-ca %s: no certificate in PEM form in it", f.name, f.ca)
		}
	}
	if (f.cert == "") != (f.key == "") {
		return nil, fmt.Errorf("--%s-cert and --%[1]s-key belong together", f.name)
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("--%s-cert and --%[1]s-key: %w", f.name, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// refuseUserinfo refuses an address with a user or password in it, such as
// user:password@host:9000, without repeating it: messages end up in logs.
func refuseUserinfo(flag, address, instead string) error {
	if strings.Contains(address, "@") {
		return fmt.Errorf("%s: %w; use %s", flag, errUserinfo, instead)
	}
	return nil
}

var errUserinfo = errors.New("an address holds no user or password, because flags can be seen in the list of processes")

// warnClear warns that a password is sent as plain text, unless to this
// machine.
func warnClear(log *slog.Logger, flag string, hosts ...string) {
	if slices.ContainsFunc(hosts, func(host string) bool { return !ops.LoopbackHost(strings.TrimSpace(host)) }) {
		log.Warn("a password is sent without TLS and can be read on the way", "to", hosts, "flag", flag)
	}
}
