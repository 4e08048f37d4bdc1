package apiserver

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// claim sets an address and a port in a node's status.
func claim(t *testing.T, name, address, port string) {
	t.Helper()
	nodes := shared.client.CoreV1().Nodes()
	node, err := nodes.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	if port != "" {
		if _, err := fmt.Sscan(port, &node.Status.DaemonEndpoints.KubeletEndpoint.Port); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := nodes.UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// upgrade sends a request for a stream, which HTTP/2 does not have, or a plain one.
func (p *controlPlane) upgrade(t *testing.T, path string, stream bool) (*http.Response, []byte) {
	t.Helper()
	header, config := http.Header{}, rest.CopyConfig(p.config)
	if stream {
		header, config.NextProtos = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}}, []string{"http/1.1"}
	}
	return p.raw(t, config, "GET", path, header, "")
}

// CVE-2020-8562, CVE-2020-8555, CVE-2022-3294: a node leads the API server to loopback, to the cloud's metadata or elsewhere by
// what it writes into its own status.
func TestNodesLeadToNoAddressThatIsNotTheirs(t *testing.T) {
	ns := namespace(t)
	registerNode(t, "claims-1", "10250")
	makePod(t, ns, "p", "claims-1")
	for _, address := range []string{
		"127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:127.0.0.1", "255.255.255.255", "localhost", "metadata.internal", "",
	} {
		claim(t, "claims-1", address, "")
		for _, path := range []string{"/api/v1/nodes/claims-1/proxy/pods", "/api/v1/nodes/https:claims-1:6443/proxy/", "/api/v1/namespaces/" + ns + "/pods/p/log"} {
			response, body := shared.raw(t, shared.config, "GET", path, nil, "")
			if response.StatusCode != 400 || !strings.Contains(string(body), "address not allowed") {
				t.Errorf("%s at %q: %s %s, want 400 address not allowed", path, address, response.Status, body)
			}
		}
	}
}

// The server at the address that a node claims has to hold that node's certificate: another node, the API server itself and strangers are
// refused, on every path.
func TestAgentsProveWhichNodeTheyAre(t *testing.T) {
	ns := namespace(t)
	var asked atomic.Int32
	serveAgent(t, "honest-1", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	honest, err := shared.client.CoreV1().Nodes().Get(t.Context(), "honest-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stranger := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	stranger.Listener.Close()
	if stranger.Listener, err = net.Listen("tcp", net.JoinHostPort(hostAddress(t), "0")); err != nil {
		t.Fatal(err)
	}
	stranger.StartTLS()
	defer stranger.Close()
	_, strangersPort, _ := net.SplitHostPort(stranger.Listener.Addr().String())
	beside := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); fmt.Fprint(w, "beside") }))
	beside.Listener.Close()
	if beside.Listener, err = net.Listen("tcp", net.JoinHostPort(hostAddress(t), "0")); err != nil {
		t.Fatal(err)
	}
	beside.Start()
	defer beside.Close()
	_, besidePort, _ := net.SplitHostPort(beside.Listener.Addr().String())

	registerNode(t, "liar-1", "10250")
	makePod(t, ns, "p", "liar-1")
	for _, port := range []string{fmt.Sprint(honest.Status.DaemonEndpoints.KubeletEndpoint.Port), strangersPort} {
		claim(t, "liar-1", hostAddress(t), port)
		for _, path := range []string{
			"/api/v1/nodes/liar-1/proxy/pods", "/api/v1/nodes/liar-1:" + besidePort + "/proxy/", "/api/v1/namespaces/" + ns + "/pods/p/log",
			"/api/v1/namespaces/" + ns + "/pods/p/exec?command=x&stdout=1",
		} {
			response, body := shared.upgrade(t, path, strings.Contains(path, "exec"))
			if response.StatusCode < 400 || asked.Load() != 0 {
				t.Errorf("%s at port %s: %s %s, requests that arrived: %d; want an error before any", path, port, response.Status, body, asked.Load())
			}
		}
	}
	// A server beside the node's true agent is reached.
	response, body := shared.raw(t, shared.config, "GET", "/api/v1/nodes/honest-1:"+besidePort+"/proxy/", nil, "")
	if response.StatusCode != 200 || string(body) != "beside" {
		t.Errorf("beside the node's agent: %s %s", response.Status, body)
	}
}

// CVE-2020-8559, CVE-2020-8561, CVE-2018-1002105: an agent that redirects leads neither the API server nor a stream anywhere, and
// an upgrade that it refuses leaves no connection open to it.
func TestAgentsRedirectsAreNotFollowed(t *testing.T) {
	ns := namespace(t)
	var followed atomic.Int32
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer target.Close()
	serveAgent(t, "redirects-1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.URL+"/secret", http.StatusFound)
	}))
	makePod(t, ns, "p", "redirects-1")
	pod := "/api/v1/namespaces/" + ns + "/pods/p"
	for path, upgrade := range map[string]bool{
		"/api/v1/nodes/redirects-1/proxy/pods": false,
		pod + "/log":                           false,
		pod + "/exec?command=x&stdout=1":       true,
		pod + "/attach?stdout=1":               true,
		pod + "/portforward?ports=80":          true,
	} {
		response, body := shared.upgrade(t, path, upgrade)
		if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusSwitchingProtocols || followed.Load() != 0 {
			t.Errorf("%s: %s %s, followed %d times", path, response.Status, body, followed.Load())
		}
	}
}

// A node may have an address as its name: the certificate is verified against the name, not against that address.
func TestNodeThatIsCalledLikeAnAddress(t *testing.T) {
	serveAgent(t, "10.1.2.3", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, tls.VersionName(r.TLS.Version)) }))
	if response, body := shared.raw(t, shared.config, "GET", "/api/v1/nodes/10.1.2.3/proxy/pods", nil, ""); response.StatusCode != 200 || string(body) != "TLS 1.3" {
		t.Errorf("%s %s", response.Status, body)
	}
}
