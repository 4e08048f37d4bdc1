// Package pki owns the cluster's certificate authority and what is made from it in a control plane's data folder: the API
// server's serving certificate, its client certificate towards the agents, the administrator's kubeconfig, the DNS server's
// client certificate and node certificates; and a second authority that signs only the certificates between the members of etcd. A file that is missing, unreadable as a pair, wrong for the current options or about to expire
// is made again; only the authorities' keys are never replaced, since every node trusts it.
//
// It never listens, dials or decides what an identity may do.
package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skep-io/skep/durable"
)

// Identities that the authority issues certificates for beside nodes.
const (
	AdminName     = "skep:admin"
	APIServerName = "skep:apiserver"
	DNSName       = "skep-dns"
	MastersGroup  = "system:masters"
	NodesGroup    = "system:nodes"
	NodePrefix    = "system:node:"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 365 * 24 * time.Hour
	renewCheck   = time.Hour
)

// Options say what the certificates must name.
type Options struct {
	// Server is the URL that the administrator's kubeconfig names, as https://198.18.0.1:6443.
	Server string
	// SANs are the host names and addresses, beside the fixed ones, that clients reach the API server by.
	SANs []string
	// ServiceIPs are the addresses of the service default/kubernetes: the first address of every service range.
	ServiceIPs []netip.Addr
	// Reserved are addresses that no node's certificate may name beside those above: the ranges of services and of pods, and etcd.
	// It may be nil.
	Reserved func() []netip.Prefix
	// Peers are the addresses at which the etcd of other servers reaches this one's.
	Peers []netip.Addr
	// Servers are the addresses of the cluster's other servers at the moment, which no node's certificate may name either; it may be nil.
	Servers func() []netip.Addr
	// ClusterDomain is the suffix of service names; empty means cluster.local.
	ClusterDomain string
	// Now is the clock by which certificates are made and renewed; nil means time.Now.
	Now func() time.Time
}

// PKI is an opened authority. Its methods may be called from any goroutine.
type PKI struct {
	dir     string
	options Options
	now     func() time.Time

	mu      sync.Mutex // held while files are written
	ca      atomic.Pointer[pair]
	serving atomic.Pointer[pair]
	client  atomic.Pointer[pair]
	dns     atomic.Pointer[pair]
	admin   atomic.Pointer[pair]
	anchor  atomic.Pointer[x509.CertPool]
	peerCA  atomic.Pointer[pair]
	peer    atomic.Pointer[pair]
	peers   atomic.Pointer[x509.CertPool] // trusts peerCA's key
	renewed []func()                      // under mu
}

// Open reads the authority below dir (a control plane's data folder), makes what is missing and returns it. It fails where only a person
// can help: with an unreadable folder, or a CA certificate whose key is missing.
func Open(dir string, options Options) (*PKI, error) {
	if options.ClusterDomain == "" {
		options.ClusterDomain = "cluster.local"
	}
	p := &PKI{dir: dir, options: options, now: options.Now}
	if p.now == nil {
		p.now = time.Now
	}
	if err := os.MkdirAll(filepath.Join(dir, "pki"), 0o700); err != nil {
		return nil, fmt.Errorf("make the certificate folder: %w", err)
	}
	if err := p.refresh(); err != nil {
		return nil, err
	}
	return p, nil
}

// Run renews certificates before they expire, until ctx ends.
func (p *PKI) Run(ctx context.Context) error {
	ticker := time.NewTicker(renewCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := p.Renew(); err != nil {
				slog.Error("Certificates could not be renewed; the current ones stay in use", "dir", p.dir, "err", err)
			}
		}
	}
}

// refresh makes every file as the options require. The order matters: the CA comes first, since the later ones are signed by it or name it.
func (p *PKI) refresh() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ca, err := p.openCA("ca", "skep-ca")
	if err != nil {
		return err
	}
	anchor, err := anchorOf(ca)
	if err != nil {
		return err
	}
	p.ca.Store(ca)
	p.anchor.Store(anchor)
	serving, err := p.openLeaf(ca, "apiserver", p.servingTemplate())
	if err != nil {
		return err
	}
	client, err := p.openLeaf(ca, "apiserver-agent-client", clientTemplate(APIServerName, MastersGroup))
	if err != nil {
		return err
	}
	dns, err := p.openLeaf(ca, "skep-dns", clientTemplate(DNSName, ""))
	if err != nil {
		return err
	}
	admin, err := p.openLeaf(ca, "admin", clientTemplate(AdminName, MastersGroup))
	if err != nil {
		return err
	}
	p.serving.Store(serving)
	p.client.Store(client)
	p.dns.Store(dns)
	p.admin.Store(admin)
	if err := p.refreshPeer(); err != nil {
		return err
	}
	return p.writeKubeconfig(admin)
}

// CA returns the authority's certificate in PEM.
func (p *PKI) CA() []byte { return p.ca.Load().certPEM }

// Pool returns a pool that trusts the authority's key and nothing else, through renewals of its certificate.
func (p *PKI) Pool() *x509.CertPool { return p.anchor.Load() }

// ServerTLS returns the configuration with which the API server and the filtered etcd endpoint listen: with the current serving
// certificate, and client certificates verified if a client sends one.
func (p *PKI) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		Time:       p.now,
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  p.Pool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &p.serving.Load().tls, nil
		},
	}
}

// DNSClient returns the certificate and key, in PEM, by which the DNS server reads the filtered etcd endpoint.
func (p *PKI) DNSClient() (certificate, key []byte) {
	dns := p.dns.Load()
	return dns.certPEM, dns.keyPEM
}

// KubeconfigPath is the path of the administrator's kubeconfig.
func (p *PKI) KubeconfigPath() string { return filepath.Join(p.dir, "admin.kubeconfig") }

// TokenPath is the path of the first nodes' join token.
func (p *PKI) TokenPath() string { return filepath.Join(p.dir, "join-token") }

// WriteToken writes the join token of the first nodes for the administrator.
func (p *PKI) WriteToken(token string) error {
	return writeFile(p.TokenPath(), []byte(token+"\n"), 0o600)
}

func (p *PKI) path(file string) string { return filepath.Join(p.dir, "pki", file) }

// writeFile writes a file and syncs it: a key that a node already trusts must survive a power cut.
func writeFile(path string, data []byte, mode os.FileMode) error {
	return durable.WriteFile(path, data, mode)
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
