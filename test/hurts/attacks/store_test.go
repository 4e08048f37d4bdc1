package attacks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/dataplane/sandbox"
)

// Whoever reads etcd's files or a snapshot of them finds no secret. Pods have theirs all the same.
func TestSecretsAtRest(t *testing.T) {
	s := newSpace(t)
	const secret, public = "correct-horse-battery-staple", "open-to-all-who-read-the-disk"
	s.Skep("create", "secret", "generic", "hidden", "--from-literal=password="+secret)
	s.Skep("create", "configmap", "shown", "--from-literal=text="+public)
	s.create(pod("reader", say("echo -n $PASSWORD | sha256sum"), func(p *corev1.Pod) {
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "hidden"}, Key: "password"},
		}}}
	}))
	snapshot := filepath.Join(t.TempDir(), "snapshot")
	s.Skep("etcd", "snapshot", snapshot)
	stored := readAll(t, filepath.Join(local.Dir, "skepd", "etcd"))
	for what, data := range map[string][]byte{"etcd's files": stored, "the snapshot": []byte(read(t, snapshot))} {
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("%s have the secret in plain text", what)
		}
		for _, part := range []string{public, "k8s:enc:aescbc:v1:first:"} {
			if !bytes.Contains(data, []byte(part)) {
				t.Errorf("%s do not have %q: are these the right ones?", what, part)
			}
		}
	}
	if got, want := s.awaitMessage("reader"), fmt.Sprintf("%x", sha256.Sum256([]byte(secret))); !strings.HasPrefix(got, want) {
		t.Errorf("the pod's secret has the sum %q, want %s", got, want)
	}
}

func readAll(t *testing.T, dir string) (all []byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		all = append(all, data...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// An attacker in cluster DNS has its certificate, and tries to read pods' environments and all secrets with it. It gives names and
// addresses only, and no writes.
func TestClusterDNSReadsNamesAlone(t *testing.T) {
	s := newSpace(t)
	const hidden = "value-of-a-variable"
	s.create(pod("holder", "sleep 1000", func(p *corev1.Pod) {
		p.Annotations = map[string]string{"a": hidden}
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PASSWORD", Value: hidden}}
	}))
	holder := s.awaitReady("holder")
	door := dnsDoor(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	eventually(t, "the pod's address at DNS' door", func() error {
		pods, err := door.Get(ctx, "/registry/pods/"+s.Name+"/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		if len(pods.Kvs) != 1 || bytes.Contains(pods.Kvs[0].Value, []byte(hidden)) {
			t.Fatalf("DNS sees of pods: %q", pods.Kvs)
		}
		if !bytes.Contains(pods.Kvs[0].Value, []byte(holder.Status.PodIP)) {
			return fmt.Errorf("it is not in %q", pods.Kvs[0].Value)
		}
		return nil
	})
	for _, prefix := range []string{"/registry/secrets/", "/registry/configmaps/", "/registry/minions/", "/registry/", "/skep/", ""} {
		if got, err := door.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(1)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("DNS reads %q: %v, %v, want PermissionDenied", prefix, got, err)
		}
	}
	if _, err := door.Put(ctx, "/registry/pods/"+s.Name+"/planted", "x"); err == nil {
		t.Error("DNS writes pods")
	}
}

// dnsDoor connects as cluster DNS does, with what its Secret holds.
func dnsDoor(t *testing.T) *clientv3.Client {
	t.Helper()
	secret, err := local.API.CoreV1().Secrets("kube-system").Get(t.Context(), "skep-dns-etcd", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(secret.Data["ca.crt"])
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{string(secret.Data["endpoints"])}, Logger: zap.NewNop(),
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// controlPlane is a skepd of a test's own, without nodes.
type controlPlane struct {
	*exec.Cmd
	said  bytes.Buffer
	ended chan struct{}
	api   kubernetes.Interface
}

// startControlPlane starts skepd on a data folder; it ends with the test.
func startControlPlane(t *testing.T, dir string, args ...string) *controlPlane {
	t.Helper()
	api, door := freeAddress(t), freeAddress(t)
	c := &controlPlane{ended: make(chan struct{})}
	c.Cmd = exec.Command(filepath.Join(local.Bin, "skepd"), append([]string{"--data-dir", dir, "--listen", api, "--dns-etcd-listen", door}, args...)...)
	c.Stdout, c.Stderr = &c.said, &c.said
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := sandbox.Start(c.Cmd); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(c.ended); _ = c.Wait() }()
	t.Cleanup(c.stop)
	eventually(t, "skepd", func() error {
		select {
		case <-c.ended:
			t.Fatalf("skepd has ended:\n%s", &c.said)
		default:
		}
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "admin.kubeconfig"))
		if err != nil {
			return err
		}
		config.QPS = -1
		if c.api, err = kubernetes.NewForConfig(config); err != nil {
			return err
		}
		if _, err := c.api.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context()); err != nil {
			return err
		}
		_, err = c.api.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return c
}

func (c *controlPlane) stop() {
	_ = c.Process.Signal(syscall.SIGTERM)
	<-c.ended
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The disk of the control plane fills while objects are written. skepd exits with an error that names the disk; with room again it
// has all that it has acknowledged, and accepts more.
func TestFullDiskUnderTheControlPlane(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=240m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 80<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(disk, "skepd")
	c := startControlPlane(t, dir)
	var written []string
	for i := 0; ; i++ {
		made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("filler-%d", i)}, Data: map[string]string{"x": strings.Repeat("x", 1000<<10)}}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := c.api.CoreV1().ConfigMaps("default").Create(ctx, made, metav1.CreateOptions{})
		cancel()
		if err != nil {
			break
		}
		written = append(written, made.Name)
	}
	select {
	case <-c.ended:
	case <-time.After(patience):
		t.Fatal("skepd goes on though it cannot write")
	}
	if said := c.said.String(); !strings.Contains(said, "no space left on device") || !strings.Contains(said, "the disk of "+filepath.Join(dir, "etcd")+" is full") {
		t.Errorf("after %d objects skepd ended with\n%s", len(written), said[max(0, len(said)-2000):])
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	c = startControlPlane(t, dir)
	for _, name := range written {
		if _, err := c.api.CoreV1().ConfigMaps("default").Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Fatalf("%s was acknowledged: %v", name, err)
		}
	}
	if _, err := c.api.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "after"}}, metav1.CreateOptions{}); err != nil || len(written) == 0 {
		t.Errorf("after %d objects and with room again: %v", len(written), err)
	}
}

// A stored pod becomes unreadable. It does not count as deleted: no watch reports it so, which would make its node stop it. It is
// counted and named, and the administrator can remove it.
func TestUnreadableObjectsAreNotGone(t *testing.T) {
	t.Parallel()
	store := startEtcd(t)
	c := startControlPlane(t, t.TempDir(), "--etcd-servers", store.Endpoints()[0])
	pods := c.api.CoreV1().Pods("default")
	create := func(name string) {
		t.Helper()
		if _, err := pods.Create(t.Context(), pod(name, "sleep 1000", nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("broken")
	w, err := pods.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if _, err := store.Put(t.Context(), "/registry/pods/default/broken", "k8s\x00\xff\xff\xff"); err != nil {
		t.Fatal(err)
	}
	create("after")
	for event := range w.ResultChan() {
		if event.Type == watch.Deleted {
			t.Fatal("watchers get an event that the pod is deleted")
		}
		if p, ok := event.Object.(*corev1.Pod); ok && p.Name == "after" {
			break
		}
	}
	if list, err := pods.List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 2 {
		t.Errorf("a list has %d pods (%v), want both", len(list.Items), err)
	}
	if _, err := pods.Get(t.Context(), "broken", metav1.GetOptions{}); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "corrupt object") {
		t.Errorf("the pod itself: %v, want kube-apiserver's error of a corrupt object", err)
	}
	metrics, err := c.api.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	counted := false
	for _, line := range strings.Split(string(metrics), "\n") {
		counted = counted || strings.HasPrefix(line, "skep_storage_unreadable_objects{") && strings.Contains(line, "pods") && strings.HasSuffix(line, " 1")
	}
	if err != nil || !counted {
		t.Errorf("it is not counted (%v)", err)
	}
	if err := pods.Delete(t.Context(), "broken", metav1.DeleteOptions{IgnoreStoreReadErrorWithClusterBreakingPotential: ptr.To(true)}); err != nil {
		t.Errorf("removed by the administrator: %v", err)
	}
	if _, err := pods.Get(t.Context(), "broken", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("once removed: %v", err)
	}
}

// startEtcd starts a stock etcd at a loopback address, which ends with the test.
func startEtcd(t *testing.T) *clientv3.Client {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.ZapLoggerBuilder = t.TempDir(), embed.NewZapLoggerBuilder(zap.NewNop())
	client, peer := url.URL{Scheme: "http", Host: freeAddress(t)}, url.URL{Scheme: "http", Host: freeAddress(t)}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(patience):
		t.Fatal("etcd is not ready")
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{client.String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The control plane is down for longer than any lease lasts. Load-balancer addresses answer, since no other node can have them.
func TestLoadBalancerAddressesOutliveTheControlPlane(t *testing.T) {
	s := newSpace(t)
	s.create(pod("web", "", func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "web"}
		p.Spec.Containers[0].Image, p.Spec.Containers[0].Command = "skep/echo:dev", []string{"/echo", "serve"}
	}))
	s.awaitReady("web")
	s.SkepIn(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"type":"LoadBalancer","selector":{"app":"web"},"ports":[{"port":7000}]}}`, "create", "-f", "-")
	s.Skep("wait", "service/web", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=60s")
	ip := s.Skep("get", "service", "web", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
	address := net.JoinHostPort(ip, "7000")
	eventually(t, "the address", func() error { return askOnce(address) })
	if err := local.KillControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := local.StartControlPlane(context.Background()); err != nil {
			t.Error(err)
		}
	})
	const lease = 5 * time.Second
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	asked, forgotten := 0, false
	for end := time.Now().Add(3 * lease); time.Now().Before(end); asked++ {
		if !forgotten && time.Until(end) < lease {
			forgetNeighbour(t, ip)
			forgotten = true
		}
		if err := askOnce(address); err != nil {
			t.Fatalf("request %d without a control plane: %v", asked, err)
		}
		<-pace.C
	}
	t.Logf("%d requests", asked)
}

// forgetNeighbour makes this machine ask again who has an address, as a new client does.
func forgetNeighbour(t *testing.T, address string) {
	t.Helper()
	known, err := netlink.NeighList(0, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range known {
		if n.IP.String() == address {
			if err := netlink.NeighDel(&n); err != nil {
				t.Fatal(err)
			}
		}
	}
}
