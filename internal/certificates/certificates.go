// Package certificates issues certificates by an authority of its own, in PEM
// files, so that tests and trials on one machine can demand TLS.
package certificates

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// validity is how long certificates hold: longer than a trial, and not so long
// that anyone would rely on them.
const validity = 24 * time.Hour

// Authority issues certificates that are valid for a day on this machine's
// loopback addresses.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer

	// File is the PEM file with the authority's own certificate.
	File string
}

// Pair names the PEM files of a certificate and of its private key (PKCS #8).
type Pair struct{ Cert, Key string }

// New makes an authority that keeps its files in a directory that exists.
func New(dir string) (*Authority, error) {
	a := &Authority{dir: dir}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the authority's key: %w", err)
	}
	a.key = key
	template := template("churnstream test authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the authority's certificate: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("reading the authority's certificate: %w", err)
	}
	a.File, err = a.write("ca.pem", "CERTIFICATE", der)
	return a, err
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100)) // does not fail: crypto/rand does not
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity),
	}
}

// Server issues a certificate for a server on a loopback address.
func (a *Authority) Server(name string) (Pair, error) {
	return a.issue(name, x509.ExtKeyUsageServerAuth)
}

// Client issues a certificate for a client of that name.
func (a *Authority) Client(name string) (Pair, error) {
	return a.issue(name, x509.ExtKeyUsageClientAuth)
}

func (a *Authority) issue(name string, usage x509.ExtKeyUsage) (p Pair, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return p, fmt.Errorf("making the key of %s: %w", name, err)
	}
	template := template(name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	template.DNSNames = []string{"localhost"}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return p, fmt.Errorf("making the certificate of %s: %w", name, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return p, fmt.Errorf("encoding the key of %s: %w", name, err)
	}
	if p.Cert, err = a.write(name+".pem", "CERTIFICATE", der); err != nil {
		return p, err
	}
	p.Key, err = a.write(name+"-key.pem", "PRIVATE KEY", private)
	return p, err
}

func (a *Authority) write(name, kind string, der []byte) (string, error) {
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return "", fmt.Errorf("writing a certificate: %w", err)
	}
	return path, nil
}

// Pool holds the authority, for those who are to trust it.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Demanding is the configuration of a server that lets in nobody without a
// certificate of this authority.
func (a *Authority) Demanding(server Pair) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(server.Cert, server.Key)
	if err != nil {
		return nil, fmt.Errorf("loading the server's certificate: %w", err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.Pool(),
		MinVersion: tls.VersionTLS12,
	}, nil
}
