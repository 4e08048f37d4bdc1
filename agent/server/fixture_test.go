package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skep-io/skep/agent/logs"
	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

const image = "skep.test/busybox:1"

// authority signs certificates for one test.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.key, a.cert = a.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return a
}

func (a *authority) issue(template *x509.Certificate, parent *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	signer := a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert
}

func (a *authority) pair(name string, groups ...string) (certPEM, keyPEM []byte) {
	key, cert := a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, a.cert)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// onePod answers for what the runtime has of one pod.
type onePod struct {
	node *runtimetest.Node
	pod  *corev1.Pod
}

func (o *onePod) Find(namespace, name, container string) (newest runtime.Container, p *corev1.Pod, err error) {
	if namespace != o.pod.Namespace || name != o.pod.Name {
		return newest, nil, pod.ErrNotFound
	}
	for _, c := range o.node.Containers() {
		if c.Name == container && c.Attempt >= newest.Attempt {
			newest = c
		}
	}
	if newest.ID == "" {
		return newest, o.pod, pod.ErrNotFound
	}
	return newest, o.pod, nil
}

func (o *onePod) List() []pod.PodState {
	return []pod.PodState{{Pod: o.pod, Status: corev1.PodStatus{Phase: corev1.PodRunning}}}
}

type someStats struct{}

func (someStats) Summary(context.Context) (*statsapi.Summary, error) {
	return &statsapi.Summary{Node: statsapi.NodeStats{NodeName: "n"}}, nil
}

// fixture is a server over a real containerd with one pod.
type fixture struct {
	t    *testing.T
	ca   *authority
	node *runtimetest.Node
	url  string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() }) // after the node's own, which still closes logs
	f := &fixture{t: t, ca: newAuthority(t), node: runtimetest.Start(t)}

	ready := make(chan struct{})
	running.Go(func() {
		if err := logs.Serve(ctx, f.node.Config.RunDir, "test", slog.Default(), func() { close(ready) }); err != nil {
			t.Error(err)
		}
	})
	<-ready
	l, err := logs.New(ctx, logs.Config{StateDir: f.node.Config.StateDir, RunDir: f.node.Config.RunDir, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	f.node.Disconnect()
	f.node.Config.Logs = l
	f.node.Connect()

	certPEM, keyPEM := f.ca.pair("system:node:n", "system:nodes")
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(f.ca.cert)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector())
	s, err := New(Config{
		Listen: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert},
		Pods: &onePod{f.node, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pod", UID: "uid"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}, {Name: "late"}}},
		}},
		Runtime: f.node, Stats: someStats{}, Metrics: registry, Containers: prometheus.NewRegistry(), Resources: prometheus.NewRegistry(), Probes: prometheus.NewRegistry(), Health: func() error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	f.url = "https://" + s.Addr().String()
	return f
}

func (f *fixture) config(name string, groups ...string) *rest.Config {
	certPEM, keyPEM := f.ca.pair(name, groups...)
	return &rest.Config{Host: f.url, TLSClientConfig: rest.TLSClientConfig{CAData: f.ca.pem(), CertData: certPEM, KeyData: keyPEM}}
}

func (f *fixture) apiserver() *rest.Config { return f.config("skep:apiserver", "system:masters") }

func (f *fixture) do(config *rest.Config, method, path string, body io.Reader) (int, string) {
	f.t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		f.t.Fatal(err)
	}
	req, err := http.NewRequest(method, f.url+path, body)
	if err != nil {
		f.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (f *fixture) load() {
	f.t.Helper()
	code, text := f.do(f.apiserver(), "POST", "/images/load", runtimetest.Archive(f.t, image, runtimetest.Image(f.t, nil)))
	if code != 200 || !strings.Contains(text, image) {
		f.t.Fatalf("load image: %d %s", code, text)
	}
}

// run starts attempt number attempt of the container "main".
func (f *fixture) run(attempt int, tty bool, script string) runtime.Container {
	f.t.Helper()
	return f.start(runtime.ContainerConfig{Attempt: attempt, TTY: tty, Command: []string{"sh", "-c", script}})
}

// start runs the container "main" with what cfg says of its command and streams.
func (f *fixture) start(cfg runtime.ContainerConfig) runtime.Container {
	f.t.Helper()
	ctx := context.Background()
	sandbox, _, err := f.node.CreateSandbox(runtime.SandboxConfig{PodUID: "uid", Hostname: "pod"})
	if err != nil {
		f.t.Fatal(err)
	}
	ns, err := netns.GetFromPath(sandbox.NetNS)
	if err != nil {
		f.t.Fatal(err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		f.t.Fatal(err)
	}
	defer inside.Close()
	if err := inside.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}); err != nil { // as the pod network does
		f.t.Fatal(err)
	}
	prepared, err := f.node.Prepare(ctx, "uid", image)
	if err != nil {
		f.t.Fatal(err)
	}
	cfg.PodNamespace, cfg.PodName, cfg.PodUID, cfg.Name, cfg.Sandbox = "default", "pod", "uid", "main", sandbox
	cfg.Security = runtime.Security{AllowPrivilegeEscalation: true}
	c, err := f.node.Create(ctx, prepared, cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	if c, err = f.node.Runtime.Start(ctx, c.ID); err != nil {
		f.t.Fatal(err)
	}
	return c
}
