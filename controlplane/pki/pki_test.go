package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func testOptions() Options {
	return Options{Server: "https://198.18.0.1:6443", SANs: []string{"198.18.0.1", "api.example.test"},
		ServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}
}

func mustOpen(t *testing.T, dir string, o Options) *PKI {
	t.Helper()
	p, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func request(t *testing.T, names []string, addresses ...string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:admin", Organization: []string{MastersGroup}}, DNSNames: names}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("CERTIFICATE REQUEST", der)
}

func TestOpenKeepsWhatItMade(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, dir, testOptions())
	before := map[string]string{}
	for _, file := range []string{"pki/ca.crt", "pki/ca.key", "pki/apiserver.crt", "pki/apiserver.key", "admin.kubeconfig"} {
		before[file] = read(t, filepath.Join(dir, file))
	}
	mustOpen(t, dir, testOptions())
	for file, want := range before {
		if read(t, filepath.Join(dir, file)) != want {
			t.Errorf("%s changed when the authority was opened again", file)
		}
	}
	for _, file := range []string{"pki/ca.key", "pki/apiserver.key", "pki/admin.key", "pki/skep-dns.key", "admin.kubeconfig"} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", file, info.Mode().Perm())
		}
	}
}

func TestServingCertificateNames(t *testing.T) {
	p := mustOpen(t, t.TempDir(), testOptions())
	certificate, err := p.ServerTLS().GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local", "127.0.0.1", "::1", "10.96.0.1", "198.18.0.1", "api.example.test"} {
		if _, err := certificate.Leaf.Verify(x509.VerifyOptions{Roots: p.Pool(), DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if certificate.Leaf.VerifyHostname("elsewhere.test") == nil {
		t.Error("the certificate serves a name nobody asked for")
	}
}

func TestRepair(t *testing.T) {
	dir := t.TempDir()
	p := mustOpen(t, dir, testOptions())
	oldServing, _ := p.ServerTLS().GetCertificate(nil)
	for _, file := range []string{"pki/ca.crt", "pki/apiserver.key", "pki/admin.crt", "pki/skep-dns.crt", "admin.kubeconfig"} {
		t.Run(strings.ReplaceAll(file, "/", "-"), func(t *testing.T) {
			if err := os.Remove(filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
			q := mustOpen(t, dir, testOptions())
			if read(t, filepath.Join(dir, file)) == "" {
				t.Error("not written again")
			}
			if _, err := oldServing.Leaf.Verify(x509.VerifyOptions{Roots: q.Pool(), DNSName: "localhost"}); err != nil {
				t.Errorf("a certificate from before is no longer trusted: %v", err)
			}
		})
	}
	if err := os.WriteFile(filepath.Join(dir, "pki/apiserver.crt"), []byte("torn"), 0o644); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir, testOptions())
	if err := os.Remove(filepath.Join(dir, "pki/ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, testOptions()); err == nil || !strings.Contains(err.Error(), "ca.key is missing") {
		t.Errorf("Open without the CA's key: %v, want an error that says what to do", err)
	}
}

func TestNewNamesAndAgeRenew(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, dir, testOptions())
	served := read(t, filepath.Join(dir, "pki/apiserver.crt"))
	admin := read(t, filepath.Join(dir, "pki/admin.crt"))
	more := testOptions()
	more.SANs = append(more.SANs, "later.test")
	mustOpen(t, dir, more)
	if read(t, filepath.Join(dir, "pki/apiserver.crt")) == served {
		t.Error("a new SAN did not renew the serving certificate")
	}
	if read(t, filepath.Join(dir, "pki/admin.crt")) != admin {
		t.Error("a new SAN renewed the administrator's certificate")
	}
	ca := read(t, filepath.Join(dir, "pki/ca.crt"))
	more.Now = func() time.Time { return time.Now().Add(leafLifetime * 3 / 4) }
	mustOpen(t, dir, more)
	if read(t, filepath.Join(dir, "pki/admin.crt")) == admin {
		t.Error("a certificate near its end was not renewed")
	}
	if read(t, filepath.Join(dir, "pki/ca.crt")) != ca {
		t.Error("the CA was renewed though most of its life is left")
	}
	config, err := clientcmd.LoadFromFile(filepath.Join(dir, "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	if string(config.AuthInfos["skep-admin"].ClientCertificateData) != read(t, filepath.Join(dir, "pki/admin.crt")) {
		t.Error("the kubeconfig does not hold the renewed certificate")
	}
}

func TestSignNode(t *testing.T) {
	p := mustOpen(t, t.TempDir(), testOptions())
	from := netip.MustParseAddr("198.18.0.11")
	signed, err := p.SignNode(NodeRequest{Name: "node1", CSR: request(t, []string{"node1"}, "198.18.0.11"), From: from})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(signed)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Subject.CommonName != "system:node:node1" || leaf.Subject.Organization[0] != NodesGroup || len(leaf.Subject.Organization) != 1 || leaf.IsCA {
		t.Errorf("subject %v, CA %v: the request decided who the node is", leaf.Subject, leaf.IsCA)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		for _, name := range []string{"node1", "198.18.0.11"} {
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: p.Pool(), DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Error(err)
			}
		}
	}
}

// A node's certificate names only that node: with another's name or address it could impersonate the API server.
func TestSignNodeRefusesNamesOfOthers(t *testing.T) {
	options := testOptions()
	options.Reserved = func() []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("10.244.0.0/16")}
	}
	p := mustOpen(t, t.TempDir(), options)
	from := netip.MustParseAddr("198.18.0.11")
	for what, r := range map[string]struct {
		name string
		csr  []byte
		from netip.Addr
	}{
		"another node's name":            {"node1", request(t, []string{"node2"}), from},
		"a name below the node's":        {"node1", request(t, []string{"node1.example.test"}), from},
		"localhost":                      {"node1", request(t, []string{"localhost"}), from},
		"the service's name":             {"node1", request(t, []string{"kubernetes"}), from},
		"a node called as the service":   {"kubernetes", request(t, nil), from},
		"a node called as the server":    {"api.example.test", request(t, nil), from},
		"a node called localhost":        {"localhost", request(t, nil), from},
		"a node called as an address":    {"198.18.0.12", request(t, nil), from},
		"a node called as the server's":  {"198.18.0.1", request(t, nil), netip.MustParseAddr("198.18.0.1")},
		"the server's address":           {"node1", request(t, nil, "198.18.0.1"), from},
		"the server's address, from it":  {"node1", request(t, nil, "198.18.0.1"), netip.MustParseAddr("198.18.0.1")},
		"the same, as IPv6 writes it":    {"node1", request(t, nil, "::ffff:198.18.0.1"), netip.MustParseAddr("::ffff:198.18.0.1")},
		"another's address":              {"node1", request(t, nil, "198.18.0.12"), from},
		"the service's address, from it": {"node1", request(t, nil, "10.96.0.1"), netip.MustParseAddr("10.96.0.1")},
		"a pod's address, from it":       {"node1", request(t, nil, "10.244.1.7"), netip.MustParseAddr("10.244.1.7")},
		"loopback, from it":              {"node1", request(t, nil, "127.0.0.1"), netip.MustParseAddr("127.0.0.1")},
		"no address":                     {"node1", request(t, nil, "0.0.0.0"), from},
		"a bad node name":                {"Node_1", request(t, nil), from},
		"no request":                     {"node1", []byte("hello"), from},
		"a certificate":                  {"node1", p.CA(), from},
		"a request that is cut":          {"node1", encodePEM("CERTIFICATE REQUEST", []byte{1, 2, 3}), from},
		"a name with a path in it":       {"../../ca", request(t, nil), from},
	} {
		if signed, err := p.SignNode(NodeRequest{Name: r.name, CSR: r.csr, From: r.from}); err == nil {
			t.Errorf("%s was signed: %s", what, signed)
		}
	}
	// The certificate omits the address that a node connects from if it is not the node's own, as for a node on the API server's host.
	for _, from := range []string{"198.18.0.1", "::ffff:198.18.0.1", "127.0.0.1", "::1", "10.96.0.1", "10.244.3.4"} {
		signed, err := p.SignNode(NodeRequest{Name: "node1", CSR: request(t, nil), From: netip.MustParseAddr(from)})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(signed)
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil || len(leaf.IPAddresses) > 0 || len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != "node1" {
			t.Errorf("from %s: a certificate for %v and %v (%v)", from, leaf.DNSNames, leaf.IPAddresses, err)
		}
	}
}

// Every skepd of a cluster derives the same key of probes from the authority's key, and no other cluster has it.
func TestProbeKey(t *testing.T) {
	key := func(p *PKI) string {
		key, err := p.ProbeKey()
		if err != nil || len(key) != probeKeySize {
			t.Fatalf("a key of %d bytes, %v", len(key), err)
		}
		return string(key)
	}
	dir := t.TempDir()
	want := key(mustOpen(t, dir, testOptions()))
	if err := os.Remove(filepath.Join(dir, "pki", "ca.crt")); err != nil {
		t.Fatal(err)
	}
	if key(mustOpen(t, dir, testOptions())) != want {
		t.Error("with a new certificate of the authority, the key of probes is another")
	}
	if key(mustOpen(t, t.TempDir(), testOptions())) == want {
		t.Error("another authority has the same key of probes")
	}
}
