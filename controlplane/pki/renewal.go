package pki

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"
)

// warnBefore is how long before it expires a certificate that is not renewed automatically is warned of.
const warnBefore = 60 * 24 * time.Hour

// Certificate is one that the authority keeps, with the time of its renewal.
type Certificate struct {
	Name    string
	Subject string
	// Path is its file.
	Path                string
	NotBefore, NotAfter time.Time
	// Renewal is the time from which on it is renewed.
	Renewal time.Time
}

// Certificates are those that the authority keeps in the data folder, itself first.
func (p *PKI) Certificates() []Certificate {
	describe := func(name, path string, c *x509.Certificate) Certificate {
		return Certificate{
			Name: name, Subject: c.Subject.CommonName, Path: path, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Renewal: renewal(c),
		}
	}
	return []Certificate{
		describe("authority", p.path("ca.crt"), p.ca.Load().leaf),
		describe("API server", p.path("apiserver.crt"), p.serving.Load().leaf),
		describe("API server to agents", p.path("apiserver-agent-client.crt"), p.client.Load().leaf),
		describe("administrator's kubeconfig", p.KubeconfigPath(), p.admin.Load().leaf),
		describe("cluster DNS to etcd", p.path("skep-dns.crt"), p.dns.Load().leaf),
		describe("authority of etcd's members", p.path(peerAuthority+".crt"), p.peerCA.Load().leaf),
		describe("etcd to its other members", p.path(peerFile+".crt"), p.peer.Load().leaf),
	}
}

// renewal is when a third of a certificate's lifetime remains.
func renewal(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

// Ending returns how long a client's certificate is still valid, and whether to warn of its end: nothing renews the copies that people made
// of the administrator's kubeconfig.
func (p *PKI) Ending(c *x509.Certificate) (left time.Duration, soon bool) {
	left = c.NotAfter.Sub(p.now())
	return left, left < warnBefore
}

// Now is the time on the clock that certificates are made and checked by.
func (p *PKI) Now() time.Time { return p.now() }

// OnRenewal has f called after certificates were renewed. f must not block.
func (p *PKI) OnRenewal(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.renewed = append(p.renewed, f)
}

// Renew renews what is about to expire, as Run does every hour.
func (p *PKI) Renew() error {
	before := p.generation()
	if err := p.refresh(); err != nil {
		return err
	}
	if before == p.generation() {
		return nil
	}
	slog.Info("Certificates renewed", "dir", p.dir, "authorityUntil", p.ca.Load().leaf.NotAfter.UTC(), "othersUntil", p.serving.Load().leaf.NotAfter.UTC())
	p.mu.Lock()
	listeners := p.renewed
	p.mu.Unlock()
	for _, f := range listeners {
		f()
	}
	return nil
}

// generation distinguishes one set of certificates from another.
func (p *PKI) generation() [6]string {
	var g [6]string
	for i, pair := range []*pair{p.ca.Load(), p.serving.Load(), p.client.Load(), p.admin.Load(), p.dns.Load(), p.peer.Load()} {
		g[i] = pair.leaf.SerialNumber.String()
	}
	return g
}

// anchorLifetime is longer than any skepd runs.
const anchorLifetime = 100 * 365 * 24 * time.Hour

// anchorOf is a certificate of the authority's key that only this process uses, as its root. The authority's own certificate expires and is
// renewed with the same key; certificates that it signed, and TLS configurations, which are made once, stay valid through that.
func anchorOf(ca *pair) (*x509.CertPool, error) {
	anchor, err := anchorCertificate(ca)
	if err != nil {
		return nil, fmt.Errorf("make the anchor of trust: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(anchor)
	return pool, nil
}

func anchorCertificate(ca *pair) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: ca.leaf.SerialNumber, Subject: ca.leaf.Subject, SubjectKeyId: ca.leaf.SubjectKeyId,
		NotBefore: ca.leaf.NotBefore, NotAfter: ca.leaf.NotBefore.Add(anchorLifetime),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
