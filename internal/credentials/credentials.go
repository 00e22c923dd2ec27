// Package credentials reads what logs a process in: passwords, tokens and
// certificates. Secrets come from files or the environment, never from flags
// or addresses, which anybody on the machine can see.
package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/churnstream/churnstream/internal/files"
	"github.com/churnstream/churnstream/internal/ops"
)

const (
	maxSecretBytes = 64 << 10
	maxPEMBytes    = 4 << 20
)

// Secret returns what the file or, without one, the environment variable
// holds; files may end in a line break. A file without a secret in it is an
// error: whoever names one wants what it protects to be protected.
func Secret(variable, file string) (string, error) {
	if file == "" {
		return os.Getenv(variable), nil
	}
	data, err := files.Read(file, maxSecretBytes)
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return text, nil
}

// TLS are the PEM files of one connection with TLS. Their flags are Name with
// -ca, -cert and -key added.
type TLS struct {
	Name          string
	CA, Cert, Key string
}

// Given reports whether there is any file.
func (f TLS) Given() bool { return f.CA != "" || f.Cert != "" || f.Key != "" }

// Config reads the files.
func (f TLS) Config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		pem, err := files.Read(f.CA, maxPEMBytes)
		if err != nil {
			return nil, fmt.Errorf("--%s-ca: %w", f.Name, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--%s-ca %s: no certificate in PEM form in it", f.Name, f.CA)
		}
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, fmt.Errorf("--%s-cert and --%[1]s-key belong together", f.Name)
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("--%s-cert and --%[1]s-key: %w", f.Name, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// RefuseUserinfo refuses an address with a user or password in it, such as
// user:password@host:9000, without repeating it: messages end up in logs.
func RefuseUserinfo(flag, address, instead string) error {
	if strings.Contains(address, "@") {
		return fmt.Errorf("%s: %w; use %s", flag, errUserinfo, instead)
	}
	return nil
}

var errUserinfo = errors.New("an address holds no user or password, because flags can be seen in the list of processes")

// WarnClear warns that a password is sent as plain text, unless to this
// machine.
func WarnClear(log *slog.Logger, flag string, hosts ...string) {
	if slices.ContainsFunc(hosts, func(host string) bool { return !ops.LoopbackHost(strings.TrimSpace(host)) }) {
		log.Warn("a password is sent without TLS and can be read on the way", "to", hosts, "flag", flag)
	}
}
