package storage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// TLSFiles name PEM files: the CA that signed the server's certificate, empty for the
// system's CAs, and a client's own certificate and key, both or neither.
type TLSFiles struct {
	CAFile, CertFile, KeyFile string
	// Now is the clock that certificates are checked by; nil means time.Now.
	Now func() time.Time
}

// Credentials are TLS credentials for etcd that read the files again for each connection,
// so that renewed certificates are used without a restart. If the files cannot be read,
// for example because only one of a pair is new, those read before stay in use.
func Credentials(files TLSFiles) (credentials.TransportCredentials, error) {
	cfg, err := files.load()
	if err != nil {
		return nil, err
	}
	return &fileCredentials{TransportCredentials: credentials.NewTLS(cfg), files: files, last: cfg}, nil
}

// fileCredentials adds reading the files to credentials.NewTLS.
type fileCredentials struct {
	credentials.TransportCredentials
	files TLSFiles

	mu   sync.Mutex
	last *tls.Config
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *fileCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(c.current()).ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials.
func (c *fileCredentials) Clone() credentials.TransportCredentials {
	return &fileCredentials{TransportCredentials: c.TransportCredentials.Clone(), files: c.files, last: c.current()}
}

func (c *fileCredentials) current() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	cfg, err := c.files.load()
	if err != nil {
		slog.Warn("Certificate files for etcd cannot be read; the previous ones stay in use", "err", err)
		return c.last
	}
	c.last = cfg
	return cfg
}

func (f TLSFiles) load() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Time: f.Now}
	if f.CAFile != "" {
		pem, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA of etcd: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", f.CAFile)
		}
	}
	if (f.CertFile == "") != (f.KeyFile == "") {
		return nil, errors.New("a client certificate for etcd needs both its certificate file and its key file")
	}
	if f.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate for etcd: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}
