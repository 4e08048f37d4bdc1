package attacks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
	"github.com/skep-io/skep/controlplane/apiserver"
	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/leader"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/storage"
)

// serverOn is an API server on an etcd, with a clock of its own.
type serverOn struct {
	authority *pki.PKI
	url       string
	clock     atomic.Int64
}

func (s *serverOn) now() time.Time { return time.Unix(0, s.clock.Load()) }

// startServer runs an API server on an etcd until the test ends.
func startServer(t *testing.T, store *etcd.Server, m *etcd.Maintainer) *serverOn {
	t.Helper()
	s := &serverOn{}
	s.clock.Store(time.Now().UnixNano())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "https://" + listener.Addr().String()
	if s.authority, err = pki.Open(t.TempDir(), pki.Options{Server: s.url, ServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Now: s.now}); err != nil {
		t.Fatal(err)
	}
	registry := kinds.NewRegistry(storage.NewEtcd(store.Client), kinds.Options{Cluster: controlplanetest.SingleStack})
	server, err := apiserver.New(apiserver.Config{
		Registry: registry, PKI: s.authority, Version: "test", StoreTakesWrites: func(*http.Request) error { return m.Problem() },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = registry.Run(ctx) })
	group.Go(func() { _ = server.Run(ctx, listener) })
	group.Go(func() { _ = m.Run(ctx) })
	t.Cleanup(func() { cancel(); group.Wait() })
	if err := errors.Join(registry.WaitForSync(ctx), kinds.EnsureNamespaces(ctx, registry)); err != nil {
		t.Fatal(err)
	}
	return s
}

// client is the administrator's, by the kubeconfig as it is on the disk, with connections of its own and the server's clock.
func (s *serverOn) client(t *testing.T, kubeconfig []byte) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig.Time = s.now
	transport := &http.Transport{TLSClientConfig: tlsConfig}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: s.url, QPS: -1}, &http.Client{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (s *serverOn) kubeconfig(t *testing.T) []byte {
	t.Helper()
	return []byte(read(t, s.authority.KubeconfigPath()))
}

func startStore(t *testing.T, quota int64) *etcd.Server {
	t.Helper()
	server, err := etcd.Start(t.Context(), etcd.Config{DataDir: t.TempDir(), QuotaBytes: quota})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

// etcd's database has reached its quota by the history of one object, and refuses writes. skepd recovers it by itself.
func TestFullDatabaseComesBack(t *testing.T) {
	t.Parallel()
	store := startStore(t, 16<<20)
	s := startServer(t, store, store.Maintainer())
	maps := s.client(t, s.kubeconfig(t)).CoreV1().ConfigMaps("default")
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "changing"}}
	if _, err := maps.Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	change := func(n int) error {
		object.Data = map[string]string{"n": fmt.Sprint(n), "x": strings.Repeat("x", 512<<10)}
		_, err := maps.Update(t.Context(), object, metav1.UpdateOptions{})
		return err
	}
	last := 0
	for err := error(nil); ; last++ {
		if err = change(last); err != nil {
			if !strings.Contains(err.Error(), "database space exceeded") {
				t.Errorf("a full database is reported as %v", err)
			}
			break
		}
		if last > 1000 {
			t.Fatal("the database never becomes full")
		}
	}
	if kept, err := maps.Get(t.Context(), object.Name, metav1.GetOptions{}); err != nil || kept.Data["n"] != fmt.Sprint(last-1) {
		t.Errorf("what was acknowledged last is gone: %v", err)
	}
	pace := time.NewTicker(time.Second) // of a client; each refusal is a line of the log
	defer pace.Stop()
	eventually(t, "writes again", func() error { <-pace.C; return change(last) })
}

// A control loop ends by a bug. Its process exits with an error that names it, and another leads at once.
func TestDeadLoopsHoldNoLease(t *testing.T) {
	t.Parallel()
	registry := controlplanetest.Start(t)
	leading := make(chan struct{})
	die := make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- leader.Run(t.Context(), registry, "first", func(ctx context.Context) error {
			ctx, stop := controller.WithFailure(ctx)
			defer stop()
			queue := controller.NewQueue[string]("endpoints")
			close(leading)
			<-die
			queue.Add("default/web")
			queue.Run(ctx, 1, func(context.Context, string) error { panic("a bug") })
			return context.Cause(ctx)
		})
	}()
	<-leading
	second := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = leader.Run(ctx, registry, "second", func(ctx context.Context) error {
			close(second)
			<-ctx.Done()
			return nil
		})
	}()
	close(die)
	select {
	case err := <-first:
		if err == nil || !strings.Contains(err.Error(), `"endpoints" panicked: a bug`) {
			t.Errorf("the process ends with %v", err)
		}
	case <-ctx.Done():
		t.Fatal("the process whose loop died goes on")
	}
	select {
	case <-second:
	case <-ctx.Done():
		t.Error("nobody took over")
	}
	cancel()
	<-ended
}

// Years pass without a restart: the server's certificate, the administrator's kubeconfig and DNS' credentials are renewed in
// place, and for other copies there is a warning before they expire.
func TestCertificatesRenewWithoutARestart(t *testing.T) {
	out, err := local.Skep(t.Context(), "", "certificates")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, part := range []string{"EXPIRES", "admin.kubeconfig", "dns", "apiserver"} {
		if !strings.Contains(strings.ToLower(out), strings.ToLower(part)) {
			t.Errorf("skep certificates says nothing of %s:\n%s", part, out)
		}
	}

	store := startStore(t, 0)
	s := startServer(t, store, store.Maintainer())
	files := storage.TLSFiles{Now: s.now}
	dir := t.TempDir()
	files.CAFile, files.CertFile, files.KeyFile = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	mount := func() { // as the node does that cluster DNS runs on
		certificate, key := s.authority.DNSClient()
		for path, data := range map[string][]byte{files.CAFile: s.authority.CA(), files.CertFile: certificate, files.KeyFile: key} {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	mount()
	credentials, err := storage.Credentials(files)
	if err != nil {
		t.Fatal(err)
	}
	first := s.kubeconfig(t)
	for month := range 36 {
		s.clock.Add(int64(30 * 24 * time.Hour))
		if err := s.authority.Renew(); err != nil {
			t.Fatal(err)
		}
		mount()
		if _, err := s.client(t, s.kubeconfig(t)).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
			t.Fatalf("the administrator after %d months: %v", month+1, err)
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		secured, _, err := credentials.ClientHandshake(t.Context(), "127.0.0.1", conn)
		if err != nil {
			t.Fatalf("DNS after %d months: %v", month+1, err)
		}
		secured.Close()
	}
	if _, err := s.client(t, first).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err == nil {
		t.Error("a kubeconfig of three years ago is still good")
	}
}

// The PID of a container that has ended is reused by another process before the next container joins its namespace: that
// container does not see the host's processes.
func TestPIDsThatAreUsedAgain(t *testing.T) {
	t.Parallel()
	n := runtimetest.Start(t)
	ctx := t.Context()
	const image = "skep.test/busybox:1"
	if _, err := n.Import(ctx, runtimetest.Archive(t, image, runtimetest.Image(t, nil))); err != nil {
		t.Fatal(err)
	}
	start := func(name, namespace string, command ...string) (runtime.Container, error) {
		sandbox, _, err := n.CreateSandbox(runtime.SandboxConfig{PodUID: "shared", Hostname: "shared"})
		if err != nil {
			return runtime.Container{}, err
		}
		prepared, err := n.Prepare(ctx, "shared", image)
		if err != nil {
			return runtime.Container{}, err
		}
		c, err := n.Create(ctx, prepared, runtime.ContainerConfig{
			PodNamespace: "default", PodName: "shared", PodUID: "shared", Name: name, Sandbox: sandbox, PIDNS: namespace, Command: command,
			TerminationMessagePath: "/dev/termination-log",
		})
		if err != nil {
			return c, err
		}
		return n.Runtime.Start(ctx, c.ID)
	}
	first, err := start("first", "", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	namespace, err := n.PinPIDNamespace(first.ID)
	if err != nil {
		t.Fatal(err)
	}
	beside, err := start("beside", namespace, "sh", "-c", "cat /proc/1/cmdline > /dev/termination-log")
	if err != nil {
		t.Fatal(err)
	}
	if ended, err := n.WaitExit(ctx, beside.ID); err != nil || ended.Message != "sleep\x001000\x00" {
		t.Errorf("beside a container that runs, process 1 is %q (%v)", ended.Message, err)
	}
	if err := n.Stop(ctx, first.ID, 0); err != nil {
		t.Fatal(err)
	}
	takePID(t, first.Pid)
	late, err := start("late", namespace, "sh", "-c", "cat /proc/[0-9]*/cmdline > /dev/termination-log")
	if err == nil {
		ended, _ := n.WaitExit(ctx, late.ID)
		t.Errorf("a container joined a namespace that has ended, and sees %q", ended.Message)
	}
	if _, err := n.PinPIDNamespace(first.ID); err == nil {
		t.Error("another process's namespace was given out for the container's")
	}
}

// takePID starts a process of this machine with a given free PID.
func takePID(t *testing.T, pid int) {
	t.Helper()
	for range 1000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", fmt.Append(nil, pid-1), 0); err != nil {
			t.Fatal(err)
		}
		sleeper := exec.Command("sleep", "1000")
		if err := sleeper.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			return // another process may have got it first
		}
	}
	t.Fatalf("PID %d stays free", pid)
}
