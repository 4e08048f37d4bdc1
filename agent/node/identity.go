// Package node makes this host one of the cluster's nodes: it joins, and keeps the node's certificate, its Node object and
// its lease current.
//
// It owns the files in the state folder's "pki", the Node object of this name (labels that it sets, and the status), and the lease
// of this name. It does nothing about pods and changes nothing on the host.
package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/backoff"
)

// IdentityConfig names the node and the cluster that it joins.
type IdentityConfig struct {
	Server string // https://host:port
	// Servers returns the URLs of all servers, in the order in which they are tried; nil: Server is the only one.
	Servers  func() []string
	Token    string // needed only while there is no valid certificate
	NodeName string
	StateDir string
	// Now is the clock that the certificate is renewed by; nil means time.Now.
	Now func() time.Time
}

// Identity is the node's key and certificate, which it uses as a client of the API server and as a server for it.
type Identity struct {
	cfg  IdentityConfig
	dir  string
	key  *ecdsa.PrivateKey
	ca   []byte // PEM
	pool atomic.Pointer[x509.CertPool]
	cert atomic.Pointer[tls.Certificate]
}

// RefusedError is a refusal that a retry will not change.
type RefusedError struct {
	Reason string
	// Removed is set if the node was removed from the cluster.
	Removed bool
	// Unknown is set if the cluster has no record of the node's certificate.
	Unknown bool
}

func (e *RefusedError) Error() string { return e.Reason }

func isRefused(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused)
}

const (
	retryFirst = 200 * time.Millisecond
	retryMax   = 5 * time.Second
)

// OpenIdentity loads the node's certificate, or joins the cluster with the token to get one, and retries until the API server
// answers. A RefusedError says that it refused.
func OpenIdentity(ctx context.Context, cfg IdentityConfig) (*Identity, error) {
	if u, err := url.Parse(cfg.Server); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, &RefusedError{Reason: fmt.Sprintf("--server %q is not an https:// URL", cfg.Server)}
	}
	i := &Identity{cfg: cfg, dir: filepath.Join(cfg.StateDir, "pki")}
	if err := os.MkdirAll(i.dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the node's certificate: %w", err)
	}
	if err := i.loadKey(); err != nil {
		return nil, err
	}
	loadErr := i.load()
	if loadErr == nil {
		return i, nil
	}
	if cfg.Token == "" {
		return nil, &RefusedError{Reason: fmt.Sprintf("no usable node certificate (%v) and no --token: give a join token, which `skep token create` makes", loadErr)}
	}
	return i, i.JoinAnew(ctx)
}

// JoinAnew joins the cluster with the token, even if there is a certificate. It retries until the API server answers.
func (i *Identity) JoinAnew(ctx context.Context) error {
	join := backoff.Retry{
		First: retryFirst, Last: retryMax, Final: isRefused, Attrs: []any{"server", i.cfg.Server},
		Failing: "the cluster is not joined: the API server does not answer; trying again", Working: "the cluster is joined",
	}
	return join.Do(ctx, i.join)
}

// CertFile, KeyFile and CAFile are the files of the identity. The key never changes; the certificate is replaced by rename.
func (i *Identity) CertFile() string { return filepath.Join(i.dir, "node.crt") }
func (i *Identity) KeyFile() string  { return filepath.Join(i.dir, "node.key") }
func (i *Identity) CAFile() string   { return filepath.Join(i.dir, "ca.crt") }

// Pool has the cluster's certificate authority.
func (i *Identity) Pool() *x509.CertPool { return i.pool.Load() }

// ServerTLS serves with the node's current certificate and requires client certificates of the cluster's current authority.
func (i *Identity) ServerTLS() *tls.Config {
	first := i.pool.Load()
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		Time:       i.cfg.Now,
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  first,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return i.cert.Load(), nil
		},
	}
	renewed := config.Clone()
	renewed.NextProtos = []string{"h2", "http/1.1"} // as net/http has them
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pool := i.pool.Load()
		if pool.Equal(first) {
			return nil, nil
		}
		c := renewed.Clone()
		c.ClientCAs = pool
		return c, nil
	}
	return config
}

func (i *Identity) now() time.Time {
	if i.cfg.Now != nil {
		return i.cfg.Now()
	}
	return time.Now()
}

// Run renews the certificate in the last third of its validity until ctx ends.
func (i *Identity) Run(ctx context.Context) error {
	wait := time.Duration(0)
	for {
		if wait == 0 {
			wait = min(renewalTime(i.cert.Load().Leaf).Sub(i.now()), 24*time.Hour)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(wait, 0)):
		}
		wait = 0
		if err := i.Renew(ctx); err != nil && ctx.Err() == nil {
			slog.Warn("node certificate not renewed; trying again", "expires", i.cert.Load().Leaf.NotAfter, "err", err)
			wait = time.Minute
		} else if !i.now().Before(renewalTime(i.cert.Load().Leaf)) {
			wait = time.Hour // an older API server, or an authority that expires soon: a new certificate would be no better
		}
	}
}

// Renew renews the certificate if it is due.
func (i *Identity) Renew(ctx context.Context) error {
	if i.now().Before(renewalTime(i.cert.Load().Leaf)) {
		return nil
	}
	return i.renew(ctx)
}

// renewalTime is in the last third of a certificate's validity. A certificate of an earlier version, which has no membership ID, is
// renewed at once.
func renewalTime(c *x509.Certificate) time.Time {
	if c.Subject.SerialNumber == "" {
		return c.NotBefore
	}
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3)
}

func (i *Identity) loadKey() error {
	data, err := os.ReadFile(i.KeyFile())
	if err == nil {
		if block, _ := pem.Decode(data); block != nil {
			if i.key, err = x509.ParseECPrivateKey(block.Bytes); err == nil {
				return nil
			}
		}
		slog.Warn("the node's key cannot be read; making another", "file", i.KeyFile())
	}
	if i.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return fmt.Errorf("make the node's key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(i.key)
	if err != nil {
		return fmt.Errorf("encode the node's key: %w", err)
	}
	return writeFile(i.KeyFile(), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// load reads the identity of an earlier run if it still is this node's: same name and key, not expired, and of the
// cluster that the token names.
func (i *Identity) load() error {
	certPEM, err := os.ReadFile(i.CertFile())
	if err != nil {
		return err
	}
	caPEM, err := os.ReadFile(i.CAFile())
	if err != nil {
		return err
	}
	if hash, _ := parseToken(i.cfg.Token); hash != "" && !matchesHash(caPEM, hash) {
		return errors.New("it is another cluster's")
	}
	if err := i.use(certPEM, caPEM); err != nil {
		return fmt.Errorf("%s with %s: %w", i.CertFile(), filepath.Base(i.CAFile()), err)
	}
	return nil
}

func (i *Identity) use(certPEM, caPEM []byte) error {
	keyPEM, err := os.ReadFile(i.KeyFile())
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return errors.New("the authority's certificate cannot be read")
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: i.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return err
	}
	if want := "system:node:" + i.cfg.NodeName; cert.Leaf.Subject.CommonName != want {
		return fmt.Errorf("it is for %s, not %s", cert.Leaf.Subject.CommonName, want)
	}
	i.ca = caPEM
	i.pool.Store(pool)
	i.cert.Store(&cert)
	return nil
}

// join gets a certificate with the token. The authority's certificate comes over an unverified connection, so it is accepted only
// if its hash is the token's.
func (i *Identity) join(ctx context.Context) error {
	hash, err := parseToken(i.cfg.Token)
	if err != nil {
		return &RefusedError{Reason: err.Error()}
	}
	blind := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true,
	}}
	server, caPEM, err := i.request(ctx, blind, http.MethodGet, skepv1.PathCA, "", nil)
	if err != nil {
		return err
	}
	if !matchesHash(caPEM, hash) {
		return &RefusedError{Reason: fmt.Sprintf("%s is not the cluster of this join token: its certificate authority is another", server)}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(caPEM)
	return i.obtain(ctx, &tls.Config{RootCAs: pool, Time: i.cfg.Now, MinVersion: tls.VersionTLS12}, "Bearer "+i.cfg.Token)
}

// renew gets a new certificate with the one that is about to expire.
func (i *Identity) renew(ctx context.Context) error {
	return i.obtain(ctx, &tls.Config{RootCAs: i.pool.Load(), Time: i.cfg.Now, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*i.cert.Load()}}, "")
}

func (i *Identity) obtain(ctx context.Context, config *tls.Config, authorization string) error {
	csr, err := i.certificateRequest()
	if err != nil {
		return err
	}
	body, err := json.Marshal(skepv1.JoinRequest{NodeName: i.cfg.NodeName, CSR: string(csr)})
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	server, answer, err := i.request(ctx, client, http.MethodPost, skepv1.PathJoin, authorization, body)
	if err != nil {
		return err
	}
	var issued skepv1.JoinResponse
	if err := json.Unmarshal(answer, &issued); err != nil {
		return fmt.Errorf("join: unreadable answer of %s: %w", server, err)
	}
	if err := i.use([]byte(issued.Certificate), []byte(issued.CA)); err != nil {
		return fmt.Errorf("join: the certificate that %s issued is not usable: %w", server, err)
	}
	// The authority is written first: a certificate stored with another cluster's authority would never load again.
	if err := writeFile(i.CAFile(), []byte(issued.CA)); err != nil {
		return err
	}
	return writeFile(i.CertFile(), []byte(issued.Certificate))
}

// certificateRequest has the node's user name. The API server chooses the names in the certificate: the node's, which it expects
// when it connects to the agent, and the address that the request comes from.
func (i *Identity) certificateRequest() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + i.cfg.NodeName, Organization: []string{"system:nodes"}},
	}, i.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// request asks the servers one after the other until one answers, and returns which.
func (i *Identity) request(ctx context.Context, client *http.Client, method, path, authorization string, body []byte) (server string, answer []byte, err error) {
	servers := []string{i.cfg.Server}
	if i.cfg.Servers != nil {
		servers = i.cfg.Servers()
	}
	for _, server = range servers {
		if answer, err = request(ctx, client, method, server+path, authorization, body); err == nil || isRefused(err) {
			return server, answer, err
		}
	}
	return server, nil, err
}

func request(ctx context.Context, client *http.Client, method, url, authorization string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests:
		return nil, &RefusedError{Reason: fmt.Sprintf("%s refused: %s", req.URL.Host, statusMessage(answer))}
	case resp.StatusCode >= 300:
		return nil, fmt.Errorf("%s answered %s: %s", req.URL.Host, resp.Status, statusMessage(answer))
	}
	return answer, nil
}

// statusMessage is the message of a Status object, or the body as it is.
func statusMessage(body []byte) string {
	var status struct{ Message string }
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		return status.Message
	}
	return strings.TrimSpace(string(body[:min(len(body), 300)]))
}

// parseToken reads the hash of the cluster's authority from "skep2.HASH.ID.SECRET".
func parseToken(token string) (hash string, err error) {
	parts := strings.Split(strings.TrimSpace(token), ".")
	switch {
	case len(parts) == 4 && parts[0] == "skep2" && len(parts[1]) == hashDigits && parts[2] != "" && parts[3] != "":
		return parts[1], nil
	case len(parts) == 3 && parts[0] == "skep1" && len(parts[1]) == hashDigits:
		return parts[1], errOldToken // its hash still identifies the cluster
	}
	return "", errors.New("--token is not a join token: it looks like skep2.HASH.ID.SECRET, and `skep token create` makes one")
}

var errOldToken = errors.New("--token is of an earlier version, whose tokens no longer count: make another with `skep token create`")

// hashDigits is how many digits of the hash of the authority's certificate a token has.
const hashDigits = 32

func matchesHash(caPEM []byte, hash string) bool {
	block, _ := pem.Decode(caPEM)
	if block == nil {
		return false
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])[:hashDigits] == hash
}
