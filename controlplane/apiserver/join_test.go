package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/jointoken"
)

// certificateRequest makes a key and a request for the node's name, both in PEM.
func certificateRequest(t *testing.T, name string) (key, request []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		DNSNames: []string{name},
	}, private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func joinBody(t *testing.T, name string, csr []byte) string {
	t.Helper()
	body, err := json.Marshal(skepv1.JoinRequest{NodeName: name, CSR: string(csr)})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// makeToken stores a join token and returns its text.
func makeToken(t *testing.T, token jointoken.Token) string {
	t.Helper()
	text, err := jointoken.New(shared.pki.CA())
	if err != nil {
		t.Fatal(err)
	}
	token.ID, token.Secret = text.ID, text.Secret
	if _, err := shared.client.CoreV1().Secrets(metav1.NamespaceSystem).Create(t.Context(), token.Object(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// joined is the client of a host that joined with a token.
func joined(t *testing.T, name, token string) *rest.Config {
	t.Helper()
	key, csr := certificateRequest(t, name)
	response, body := shared.raw(t, shared.anonymous(), "POST", skepv1.PathJoin, bearer(token), joinBody(t, name, csr))
	var answer skepv1.JoinResponse
	if err := json.Unmarshal(body, &answer); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("join %s: %s: %s", name, response.Status, body)
	}
	return &rest.Config{Host: shared.url, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: []byte(answer.CA), CertData: []byte(answer.Certificate), KeyData: key}}
}

func TestJoin(t *testing.T) {
	p := shared
	_, ca := p.raw(t, p.anonymous(), "GET", skepv1.PathCA, nil, "")
	if string(ca) != string(p.pki.CA()) {
		t.Fatalf("%s answers %q", skepv1.PathCA, ca)
	}
	key, csr := certificateRequest(t, "join-1")
	response, body := p.raw(t, p.anonymous(), "POST", skepv1.PathJoin, bearer(makeToken(t, jointoken.Token{})), joinBody(t, "join-1", csr))
	var joined skepv1.JoinResponse
	if err := json.Unmarshal(body, &joined); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("join: %s: %s", response.Status, body)
	}
	config := &rest.Config{Host: p.url, TLSClientConfig: rest.TLSClientConfig{CAData: []byte(joined.CA), CertData: []byte(joined.Certificate), KeyData: key}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("the certificate does not open what a node may read: %v", err)
	}
	// The certificate serves as the agent's server certificate too.
	pair, err := tls.X509KeyPair([]byte(joined.Certificate), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: p.pki.Pool(), DNSName: "join-1"}); err != nil {
		t.Error(err)
	}
	// A node can renew its own certificate with the one that it has, and no other.
	if response, body := p.raw(t, config, "POST", skepv1.PathJoin, nil, joinBody(t, "join-1", csr)); response.StatusCode != http.StatusOK {
		t.Errorf("renewal: %s: %s", response.Status, body)
	}
	if response, body := p.raw(t, config, "POST", skepv1.PathJoin, nil, joinBody(t, "join-2", csr)); response.StatusCode != http.StatusForbidden {
		t.Errorf("another node's certificate: %s: %s", response.Status, body)
	}
}

func TestJoinRefuses(t *testing.T) {
	p := shared
	_, csr := certificateRequest(t, "join-3")
	token := makeToken(t, jointoken.Token{Expires: time.Now().Add(time.Hour)})
	for what, tt := range map[string]struct {
		header http.Header
		body   string
		method string
		code   int
	}{
		"no token":              {nil, joinBody(t, "join-3", csr), "POST", 401},
		"a wrong token":         {bearer(token[:len(token)-2] + "zz"), joinBody(t, "join-3", csr), "POST", 401},
		"an empty token":        {bearer(""), joinBody(t, "join-3", csr), "POST", 401},
		"no JSON":               {bearer(token), "{", "POST", 400},
		"no request":            {bearer(token), joinBody(t, "join-3", nil), "POST", 400},
		"a name not in the CSR": {bearer(token), joinBody(t, "join-4", csr), "POST", 400},
		"no name":               {bearer(token), joinBody(t, "", csr), "POST", 400},
		"GET":                   {bearer(token), "", "GET", 405},
		"a huge body":           {bearer(token), string(make([]byte, maxBody+1)), "POST", 413},
	} {
		if response, body := p.raw(t, p.anonymous(), tt.method, skepv1.PathJoin, tt.header, tt.body); response.StatusCode != tt.code {
			t.Errorf("%s: %s: %s; want %d", what, response.Status, body, tt.code)
		}
	}
}
