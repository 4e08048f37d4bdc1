package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// controlPlane is a complete API server over a real etcd, for tests.
type controlPlane struct {
	dir      string
	url      string
	pki      *pki.PKI
	registry *resource.Registry
	server   *Server
	config   *rest.Config
	client   *kubernetes.Clientset
	stop     func()
}

var shared *controlPlane

func TestMain(m *testing.M) {
	if os.Getenv(floodEnv) != "" {
		if err := floodWithConnections(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "skep-apiserver")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		attackedDir = filepath.Join(dir, "attacked")
		if shared, err = start(dir, Config{Network: network}); err != nil {
			fmt.Fprintln(os.Stderr, "start the API server:", err)
			return 1
		}
		defer shared.stop()
		return m.Run()
	}())
}

var network = skepv1.Network{
	ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
	DNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Domain: "cluster.local",
}

// start starts etcd, a registry with all kinds and a server on a port that the kernel chooses.
func start(dir string, config Config) (*controlPlane, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	stop := func() { cancel(); group.Wait() }
	database, err := etcd.Start(ctx, etcd.Config{DataDir: dir})
	if err != nil {
		stop()
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		stop()
		return nil, err
	}
	p := &controlPlane{dir: dir, url: "https://" + listener.Addr().String()}
	p.stop = func() { stop(); database.Close() }
	p.pki, err = pki.Open(dir, pki.Options{Server: p.url, ServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}})
	if err != nil {
		p.stop()
		return nil, err
	}
	p.registry = kinds.NewRegistry(storage.NewEtcd(database.Client), kinds.Options{Cluster: allocator.Cluster{
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		PodCIDRs:     []allocator.PodRange{{Prefix: netip.MustParsePrefix("10.244.0.0/16"), NodeMask: 24}},
	}})
	config.Registry, config.PKI, config.Version = p.registry, p.pki, "test"
	if p.server, err = New(config); err != nil {
		p.stop()
		return nil, err
	}
	group.Go(func() { _ = p.registry.Run(ctx) })
	group.Go(func() {
		if err := p.server.Run(ctx, listener); err != nil {
			fmt.Fprintln(os.Stderr, "API server:", err)
		}
	})
	if err := p.connect(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// connect waits until the server is ready and makes the administrator's client from the kubeconfig that the server wrote.
func (p *controlPlane) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := p.registry.WaitForSync(ctx); err != nil {
		return err
	}
	if err := kinds.EnsureNamespaces(ctx, p.registry); err != nil {
		return err
	}
	var err error
	if p.config, err = clientcmd.BuildConfigFromFlags("", p.pki.KubeconfigPath()); err != nil {
		return err
	}
	p.config.QPS = -1
	p.client, err = kubernetes.NewForConfig(p.config)
	return err
}

// namespace makes a namespace for one test.
func namespace(t *testing.T) string {
	t.Helper()
	ns, err := shared.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

func configMap(name string, data ...string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{}}
	for i := 0; i+1 < len(data); i += 2 {
		cm.Data[data[i]] = data[i+1]
	}
	return cm
}

// raw sends a request as it is and returns the answer with its whole body.
func (p *controlPlane) raw(t *testing.T, config *rest.Config, method, path string, header http.Header, body string) (*http.Response, []byte) {
	t.Helper()
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, p.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return response, data
}

// anonymous is a client without a certificate.
func (p *controlPlane) anonymous() *rest.Config {
	return &rest.Config{Host: p.url, TLSClientConfig: rest.TLSClientConfig{CAData: p.pki.CA()}}
}

// node is the client of a node's agent, with the certificate that the join endpoint would give it.
func (p *controlPlane) node(t *testing.T, name string) (*rest.Config, tls.Certificate) {
	t.Helper()
	key, request := certificateRequest(t, name)
	from, _ := netip.ParseAddr(name) // of a node that is called like an address
	certificate, err := p.pki.SignNode(pki.NodeRequest{Name: name, CSR: request, From: from, Number: func() (string, error) {
		if number, ok := p.server.members.Number(name); ok {
			return number, nil
		}
		return p.server.members.Join(t.Context(), name, true)
	}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return &rest.Config{Host: p.url, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: p.pki.CA(), CertData: certificate, KeyData: key}}, pair
}
