package certificates

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skep-io/skep/agent/node"
	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/apiserver"
	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

const (
	month = 30 * 24 * time.Hour
	years = 25 // the authority's certificate lives for ten
)

// world is a control plane, an agent's identity and DNS' client, all of which see one clock.
type world struct {
	t         *testing.T
	dir       string
	clock     atomic.Int64
	authority *pki.PKI
	url, door string
	identity  *node.Identity
	agent     net.Listener
	dnsFiles  storage.TLSFiles
}

func (w *world) now() time.Time { return time.Unix(0, w.clock.Load()) }

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.clock.Store(time.Now().UnixNano())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	server, err := etcd.Start(ctx, etcd.Config{DataDir: w.dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); wg.Wait(); server.Close() })
	api, door := listen(t), listen(t)
	w.url, w.door = "https://"+api.Addr().String(), "https://"+door.Addr().String()
	w.authority, err = pki.Open(w.dir, pki.Options{Server: w.url, ServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Now: w.now})
	if err != nil {
		t.Fatal(err)
	}
	registry := kinds.NewRegistry(storage.NewEtcd(server.Client), kinds.Options{Cluster: allocator.Cluster{PodCIDRs: []allocator.PodRange{{Prefix: netip.MustParsePrefix("10.244.0.0/16"), NodeMask: 24}}}})
	apiServer, err := apiserver.New(apiserver.Config{Registry: registry, PKI: w.authority, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _ = registry.Run(ctx) })
	wg.Go(func() { _ = apiServer.Run(ctx, api) })
	wg.Go(func() {
		_ = etcd.ServeReadOnly(ctx, door, server.Reader(), etcd.ReadOnlyConfig{
			TLS: w.authority.ServerTLS(), ClientName: pki.DNSName, Prefixes: map[string]etcd.View{"/registry/services/": nil},
		})
	})
	w.startAgent(ctx, &wg, registry)
	w.dnsFiles = storage.TLSFiles{
		CAFile: filepath.Join(w.dir, "dns-ca.crt"), CertFile: filepath.Join(w.dir, "dns.crt"), KeyFile: filepath.Join(w.dir, "dns.key"), Now: w.now,
	}
	return w
}

func (w *world) startAgent(ctx context.Context, wg *sync.WaitGroup, registry *resource.Registry) {
	t := w.t
	t.Helper()
	address := hostAddress(t)
	var err error
	w.identity, err = node.OpenIdentity(ctx, node.IdentityConfig{
		Server: w.url, Token: w.joinToken(ctx, registry), NodeName: "node1", StateDir: t.TempDir(), Now: w.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.agent, err = net.Listen("tcp", netip.AddrPortFrom(address, 0).String()); err != nil {
		t.Fatal(err)
	}
	agent := &http.Server{
		TLSConfig: w.identity.ServerTLS(), ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprint(rw, "asked by ", r.TLS.VerifiedChains[0][0].Subject.CommonName)
		}),
	}
	wg.Go(func() { _ = agent.ServeTLS(w.agent, "", "") })
	t.Cleanup(func() { _ = agent.Close() })
	made, err := registry.Create(ctx, kinds.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}, resource.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	status := made.DeepCopyObject().(*corev1.Node)
	status.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address.String()}}
	status.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(w.agent.Addr().(*net.TCPAddr).Port)
	if _, err := registry.Update(ctx, kinds.Nodes, "status", status, resource.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// joinToken makes what a node joins with.
func (w *world) joinToken(ctx context.Context, registry *resource.Registry) string {
	t := w.t
	t.Helper()
	if err := registry.WaitForSync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := kinds.EnsureNamespaces(ctx, registry); err != nil {
		t.Fatal(err)
	}
	text, err := jointoken.New(w.authority.CA())
	if err != nil {
		t.Fatal(err)
	}
	token := jointoken.Token{ID: text.ID, Secret: text.Secret, Authentication: true}
	if _, err := registry.Create(ctx, kinds.Secrets, token.Object(), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// hostAddress is one of this host's that a node may have: no loopback address.
func hostAddress(t *testing.T) netip.Addr {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().IsGlobalUnicast() {
			return prefix.Addr()
		}
	}
	t.Fatal("this host has no address but loopback ones")
	return netip.Addr{}
}

// get reads a path of the API as the holder of a kubeconfig, and returns what it is warned of.
func (w *world) get(kubeconfig []byte, path string) (body []byte, warning string, err error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, "", err
	}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, "", err
	}
	tlsConfig.Time = w.now
	transport := &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Get(config.Host + path)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, resp.Header.Get("Warning"), err
}

func (w *world) kubeconfig() []byte {
	w.t.Helper()
	data, err := os.ReadFile(w.authority.KubeconfigPath())
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

// resolve reads a key at DNS' endpoint, over a new connection with credentials that were made in the first year.
func (w *world) resolve(dial grpc.DialOption) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{w.door}, DialOptions: []grpc.DialOption{dial}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	_, err = client.Get(ctx, "/registry/services/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	return err
}

// mountSecret does what a node does with the secret of cluster DNS.
func (w *world) mountSecret() {
	w.t.Helper()
	certificate, key := w.authority.DNSClient()
	for path, data := range map[string][]byte{w.dnsFiles.CAFile: w.authority.CA(), w.dnsFiles.CertFile: certificate, w.dnsFiles.KeyFile: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestEverythingConnectsForYears(t *testing.T) {
	w := newWorld(t)
	w.mountSecret()
	credentials, err := storage.Credentials(w.dnsFiles)
	if err != nil {
		t.Fatal(err)
	}
	first := w.kubeconfig()
	begin := w.now()
	for w.now().Before(begin.Add(years * 365 * 24 * time.Hour)) {
		w.clock.Add(int64(2 * month))
		at := w.now().Format(time.DateOnly)
		// What skepd, the agent and the node do by themselves.
		if err := w.authority.Renew(); err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		if err := w.identity.Renew(t.Context()); err != nil {
			t.Fatalf("%s: the node's certificate is not renewed: %v", at, err)
		}
		w.mountSecret()

		if err := w.resolve(grpc.WithTransportCredentials(credentials)); err != nil {
			t.Fatalf("%s: DNS cannot read: %v", at, err)
		}
		body, warning, err := w.get(w.kubeconfig(), "/skep/v1/certificates")
		if err != nil || warning != "" {
			t.Fatalf("%s: the administrator: %v, warned %q", at, err, warning)
		}
		var list skepv1.CertificateList
		if err := json.Unmarshal(body, &list); err != nil || len(list.Certificates) != 8 {
			t.Fatalf("%s: certificates are %s (%v)", at, body, err)
		}
		for _, c := range list.Certificates {
			if c.State != "valid" || c.Message != "" {
				t.Fatalf("%s: %s: %+v", at, c.Name, c)
			}
		}
		// From the API server to the agent, and from the agent to the API server.
		if answer, _, err := w.get(w.kubeconfig(), "/api/v1/nodes/node1/proxy/"); err != nil || !strings.Contains(string(answer), pki.APIServerName) {
			t.Fatalf("%s: the agent answers %q (%v)", at, answer, err)
		}
		w.agentReads(at)
	}
	// The kubeconfig of the first day stands for a copy: it is refused at last, and there were warnings before.
	if _, _, err := w.get(first, "/api/v1/nodes"); err == nil {
		t.Errorf("a certificate of %d years ago is still good", years)
	}
}

func (w *world) agentReads(at string) {
	w.t.Helper()
	certificate, err := tls.LoadX509KeyPair(w.identity.CertFile(), w.identity.KeyFile())
	if err != nil {
		w.t.Fatal(err)
	}
	config := &tls.Config{RootCAs: w.identity.Pool(), Certificates: []tls.Certificate{certificate}, Time: w.now, MinVersion: tls.VersionTLS12}
	resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}).Get(w.url + "/api/v1/services")
	if err != nil {
		w.t.Fatalf("%s: the agent cannot read: %v", at, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: the agent cannot read: %s", at, resp.Status)
	}
}

// A copy of the administrator's kubeconfig gets warnings before it expires.
func TestCopiesOfTheKubeconfigAreWarned(t *testing.T) {
	w := newWorld(t)
	copied := w.kubeconfig()
	if _, warning, err := w.get(copied, "/api/v1/nodes"); err != nil || warning != "" {
		t.Errorf("on the first day: %v, warned %q", err, warning)
	}
	w.clock.Add(int64(340 * 24 * time.Hour))
	if err := w.authority.Renew(); err != nil {
		t.Fatal(err)
	}
	_, warning, err := w.get(copied, "/api/v1/nodes")
	if err != nil || !strings.Contains(warning, "expires in 24 days") || !strings.Contains(warning, "admin.kubeconfig") {
		t.Errorf("near its end: %v, warned %q", err, warning)
	}
	if _, warning, err := w.get(w.kubeconfig(), "/api/v1/nodes"); err != nil || warning != "" {
		t.Errorf("the renewed one: %v, warned %q", err, warning)
	}
}
