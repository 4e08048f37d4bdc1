package node

import (
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
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// issuer signs what it is asked for over real TLS, as the API server's join does.
type issuer struct {
	t      *testing.T
	server *httptest.Server
	key    *ecdsa.PrivateKey
	ca     *x509.Certificate
	life   time.Duration // of issued certificates
	// unnumbered is set where certificates carry no number, as those of earlier versions.
	unnumbered bool
	asked      []string // authorizations, or the client certificate's name
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t, life: time.Hour}
	var err error
	if i.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	i.ca = ca
	i.ca = i.sign(ca, i.key)
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := i.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "api"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, serverKey)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /skep/v1/ca", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(i.caPEM()) })
	mux.HandleFunc("POST /skep/v1/join", i.join)
	i.server = httptest.NewUnstartedServer(mux)
	pool := x509.NewCertPool()
	pool.AddCert(i.ca)
	i.server.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: serverKey}},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: pool,
	}
	i.server.StartTLS()
	t.Cleanup(i.server.Close)
	return i
}

func (i *issuer) sign(template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	return i.signPublic(template, &key.PublicKey)
}

func (i *issuer) signPublic(template *x509.Certificate, public any) *x509.Certificate {
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-i.life), time.Now().Add(i.life)
	der, err := x509.CreateCertificate(rand.Reader, template, i.ca, public, i.key)
	if err != nil {
		i.t.Error(err)
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Error(err)
	}
	return cert
}

func (i *issuer) caPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.ca.Raw})
}

func (i *issuer) token() string {
	sum := sha256.Sum256(i.ca.Raw)
	return "skep2." + hex.EncodeToString(sum[:])[:32] + ".abcdef.secret"
}

func (i *issuer) join(w http.ResponseWriter, r *http.Request) {
	who := r.Header.Get("Authorization")
	if who == "" && len(r.TLS.PeerCertificates) > 0 {
		who = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	i.asked = append(i.asked, who)
	if who != "Bearer "+i.token() && who != "system:node:n1" {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"kind":"Status","message":"the join token is unknown"}`))
		return
	}
	var q struct{ NodeName, CSR string }
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		i.t.Error(err)
	}
	block, _ := pem.Decode([]byte(q.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		i.t.Error(err)
		return
	}
	cert := i.signPublic(&x509.Certificate{
		Subject: i.subject(csr.Subject), DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, csr.PublicKey)
	_ = json.NewEncoder(w).Encode(map[string]string{
		"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})), "ca": string(i.caPEM()),
	})
}

// subject numbers the membership as the API server does, but for certificates of an earlier version.
func (i *issuer) subject(s pkix.Name) pkix.Name {
	if !i.unnumbered {
		s.SerialNumber = "1"
	}
	return s
}

// A certificate from before memberships had numbers is renewed at once, not when its time is over.
func TestUnnumberedCertificateIsRenewedAtOnce(t *testing.T) {
	i, dir := newIssuer(t), t.TempDir()
	i.unnumbered = true
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	identity, err := OpenIdentity(ctx, i.config(dir))
	if err != nil {
		t.Fatal(err)
	}
	i.unnumbered = false
	done := make(chan error, 1)
	go func() { done <- identity.Run(ctx) }()
	for identity.cert.Load().Leaf.Subject.SerialNumber == "" {
		if ctx.Err() != nil {
			t.Fatal("not renewed")
		}
		<-time.NewTimer(5 * time.Millisecond).C
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func (i *issuer) config(dir string) IdentityConfig {
	return IdentityConfig{Server: i.server.URL, Token: i.token(), NodeName: "n1", StateDir: dir}
}

func TestJoinOnceAndKeepTheCertificate(t *testing.T) {
	i, dir, ctx := newIssuer(t), t.TempDir(), context.Background()
	first, err := OpenIdentity(ctx, i.config(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{first.CertFile(), first.KeyFile(), first.CAFile()} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info, err)
		}
	}
	cfg := i.config(dir)
	cfg.Token = "" // no longer needed
	second, err := OpenIdentity(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(i.asked) != 1 || !second.cert.Load().Leaf.Equal(first.cert.Load().Leaf) {
		t.Errorf("asked %v; the same certificate: %v", i.asked, second.cert.Load().Leaf.Equal(first.cert.Load().Leaf))
	}
}

func TestRenewalShowsTheOldCertificate(t *testing.T) {
	i, dir := newIssuer(t), t.TempDir()
	i.life = 2 * time.Second // half of it is over: renewed in less than a second
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	identity, err := OpenIdentity(ctx, i.config(dir))
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(identity.CertFile())
	if err != nil {
		t.Fatal(err)
	}
	i.life = time.Hour
	done := make(chan error, 1)
	go func() { done <- identity.Run(ctx) }()
	for {
		now, err := os.ReadFile(identity.CertFile())
		if err != nil {
			t.Fatal(err)
		}
		if string(now) != string(before) {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("not renewed within 30 s")
		}
		<-time.NewTimer(5 * time.Millisecond).C
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(i.asked) != 2 || i.asked[1] != "system:node:n1" {
		t.Errorf("asked %v", i.asked)
	}
}

func TestRefusals(t *testing.T) {
	i, other := newIssuer(t), newIssuer(t)
	for name, c := range map[string]struct {
		change func(*IdentityConfig)
		want   string
	}{
		"another cluster": {func(c *IdentityConfig) { c.Token = other.token() }, "is not the cluster of this join token"},
		"wrong secret":    {func(c *IdentityConfig) { c.Token += "x" }, "refused: the join token is unknown"},
		"no token":        {func(c *IdentityConfig) { c.Token = "" }, "no --token"},
		"no join token":   {func(c *IdentityConfig) { c.Token = "abc" }, "it looks like skep2.HASH.ID.SECRET"},
		"an old token": {func(c *IdentityConfig) {
			hash, _ := parseToken(c.Token)
			c.Token = "skep1." + hash + ".secret"
		}, "of an earlier version"},
		"no https": {func(c *IdentityConfig) { c.Server = "http://x" }, "is not an https:// URL"},
	} {
		cfg := i.config(t.TempDir())
		c.change(&cfg)
		_, err := OpenIdentity(context.Background(), cfg)
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(cfg.StateDir, "pki", "node.crt")); err == nil {
			t.Errorf("%s: a certificate was written", name)
		}
	}
}

func TestJoinWaitsForTheServer(t *testing.T) {
	i := newIssuer(t)
	cfg := i.config(t.TempDir())
	cfg.Server = "https://127.0.0.1:1" // nobody listens there
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if _, err := OpenIdentity(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want to be still trying", err)
	}
}

func TestDamagedCertificateIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node.crt", "node.key", "ca.crt"} {
		if err := os.WriteFile(filepath.Join(dir, "pki", name), []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := OpenIdentity(t.Context(), IdentityConfig{Server: "https://127.0.0.1:1", NodeName: "n", StateDir: dir})
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "pki", "node.crt")) || !strings.Contains(err.Error(), "--token") {
		t.Errorf("error %v: want one that names the file and says what to do", err)
	}
}
