package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	skepv1 "github.com/skep-io/skep/api/v1"
)

func testNetwork() skepv1.Network {
	return skepv1.Network{
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.98.0.0/16"), netip.MustParsePrefix("fd00:98::/112")},
		PodCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16"), netip.MustParsePrefix("fd00:200::/48")},
		DNS:          []netip.Addr{netip.MustParseAddr("10.98.0.10")},
		Domain:       "example.internal",
	}
}

// networkServer answers as a test sets, after the given number of refusals.
func networkServer(t *testing.T, busy int32, answer func(http.ResponseWriter)) *membership {
	t.Helper()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != skepv1.PathNetwork {
			t.Errorf("asked for %s", r.URL.Path)
		}
		if asked.Add(1) <= busy {
			http.Error(w, "busy", http.StatusBadGateway)
			return
		}
		answer(w)
	}))
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return &membership{cfg: Config{Server: server.URL, StateDir: t.TempDir()}, client: client}
}

func answerNetwork(n skepv1.Network) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(n)
	}
}

func TestNetworkIsAskedForAndKept(t *testing.T) {
	m := networkServer(t, 2, answerNetwork(testNetwork()))
	if err := m.learnNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !sameNetwork(m.network, testNetwork()) {
		t.Errorf("learnt %v", m.network)
	}
	// The next start needs no API server.
	again := &membership{cfg: m.cfg}
	if err := again.learnNetwork(t.Context()); err != nil || !sameNetwork(again.network, testNetwork()) {
		t.Errorf("kept %v, %v", again.network, err)
	}
	if err := m.keepNetwork(t.Context()); err != nil {
		t.Errorf("what has not changed: %v", err)
	}
}

func TestNetworkThatChanges(t *testing.T) {
	changed := testNetwork()
	changed.ServiceCIDRs[0] = netip.MustParsePrefix("10.99.0.0/16")
	m := networkServer(t, 0, answerNetwork(changed))
	m.network = testNetwork()
	if err := m.keepNetwork(t.Context()); err == nil || !strings.Contains(err.Error(), "10.99.0.0/16") || !strings.Contains(err.Error(), "starting again") {
		t.Errorf("the agent goes on with other ranges: %v", err)
	}
	if kept := readNetwork(m.cfg); kept == nil || !sameNetwork(*kept, changed) {
		t.Errorf("the next start has %v", kept)
	}
}

// The key of probes is in no message, and one server that is older than another does not take it away.
func TestProbeKeyOfTheNetwork(t *testing.T) {
	keyed := testNetwork()
	keyed.ProbeKey = []byte("0123456789abcdef")
	m := networkServer(t, 0, answerNetwork(keyed))
	m.network = testNetwork()
	err := m.keepNetwork(t.Context())
	if err == nil || !strings.Contains(err.Error(), "starting again") || strings.Contains(err.Error(), "0123") {
		t.Errorf("with a new key: %v", err)
	}
	if kept := readNetwork(m.cfg); kept == nil || !sameNetwork(*kept, keyed) {
		t.Errorf("the next start has another network")
	}
	if info, err := os.Stat(networkFile(m.cfg)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file with the key: %v, %v", info.Mode(), err)
	}
	older := networkServer(t, 0, answerNetwork(testNetwork()))
	older.network = keyed
	if err := older.keepNetwork(t.Context()); err != nil {
		t.Errorf("from a server without keys: %v", err)
	}
	if text := fmt.Sprintf("%v %+v %s", keyed, keyed, keyed.ProbeKey); strings.Contains(text, "0123") || strings.Contains(text, "48 49") {
		t.Errorf("printed: %s", text)
	}
}

func TestNetworkFileThatIsBroken(t *testing.T) {
	for _, content := range []string{"", "{", "{}", `{"serviceCIDRs":["10.98.0.1/16"],"podCIDRs":["10.200.0.0/16"]}`, `{"serviceCIDRs":["10.98.0.0/16"],"podCIDRs":[""]}`} {
		m := networkServer(t, 0, answerNetwork(testNetwork()))
		if err := os.WriteFile(networkFile(m.cfg), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.learnNetwork(t.Context()); err != nil || !sameNetwork(m.network, testNetwork()) {
			t.Errorf("with %q in the file: %v, %v", content, m.network, err)
		}
	}
}

func TestNetworkThatIsRefused(t *testing.T) {
	older := networkServer(t, 0, func(w http.ResponseWriter) { http.NotFound(w, nil) })
	if err := older.learnNetwork(t.Context()); err == nil || !strings.Contains(err.Error(), "if skepd is older than this agent, update it first") {
		t.Errorf("an API server without the path: %v", err)
	}
	other := networkServer(t, 0, answerNetwork(testNetwork()))
	other.cfg.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	if err := other.learnNetwork(t.Context()); err == nil || !strings.Contains(err.Error(), "--service-cidr [10.96.0.0/16]: the cluster has [10.98.0.0/16 fd00:98::/112]") {
		t.Errorf("a flag that differs from the cluster: %v", err)
	}
}

func TestDNSByFlagComesFirst(t *testing.T) {
	m := &membership{network: testNetwork()}
	if servers, domain := m.dns(); len(servers) != 1 || servers[0] != testNetwork().DNS[0] || domain != "example.internal" {
		t.Errorf("%v, %q", servers, domain)
	}
	m.cfg.ClusterDNS, m.cfg.ClusterDomain = []netip.Addr{netip.MustParseAddr("192.0.2.53")}, "other.internal"
	if servers, domain := m.dns(); len(servers) != 1 || servers[0] != m.cfg.ClusterDNS[0] || domain != "other.internal" {
		t.Errorf("%v, %q", servers, domain)
	}
}
