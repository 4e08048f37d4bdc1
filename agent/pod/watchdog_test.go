package pod_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skep-io/skep/agent/logs"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// TestMain is the log writer too: the test starts it as a process of its own, which it can stop.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SKEP_TEST_LOG_WRITER"); dir != "" {
		if err := logs.Serve(context.Background(), dir, "test", slog.Default(), logs.Ready); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Each dependency of the node is cut in turn: it accepts requests and never answers. Other pods are started, stopped and probed
// meanwhile, a pod that waits reports for what within bounded time, everything works once the dependency answers again, and
// nothing is left over.
func TestWatchdog(t *testing.T) {
	said := recordLog(t)
	w := &watchdog{t: t, said: said}
	w.start()
	for _, cut := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"a dead mount", w.deadMount},
		{"netlink", w.netlink},
		{"a registry", w.registry},
		{"DNS", w.dns},
		{"a probe", w.probe},
		{"the log writer", w.logWriter},
		{"containerd", w.containerd},
		{"the API server", w.apiServer},
	} {
		before := w.probes.Load()
		if !t.Run(cut.name, cut.run) {
			return
		}
		runtimetest.Eventually(t, "probes of the pod that runs all the time, after "+cut.name, func() bool { return w.probes.Load() > before })
	}
	w.noneLeft()
}

type watchdog struct {
	*cluster
	t       *testing.T
	said    *logText
	probes  atomic.Int64 // of a pod that runs all the time
	skepd   int          // its process
	threads int          // goroutines before the first cut
	made    int          // pods of others
}

func (w *watchdog) start() {
	t := w.t
	client, skepd := startControlPlaneProcess(t)
	w.skepd = skepd
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	w.cluster = newClusterOn(t, client, func(n *runtimetest.Node) {
		n.Daemon.Patience = 6 * time.Second
		n.Config.PullStall = 2 * time.Second
		l, err := logs.New(ctx, logs.Config{
			StateDir: n.Config.StateDir, RunDir: n.Config.RunDir, Command: []string{"env", "SKEP_TEST_LOG_WRITER=" + n.Config.RunDir, os.Args[0]}, Version: "test", Patience: 3 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		n.Config.Logs = l
		running.Go(func() { _ = l.Run(ctx) })
		t.Cleanup(func() { // after the node's own, which closes logs and removes the folder with the writer's socket
			cancel()
			running.Wait()
			for _, pid := range processesWith("SKEP_TEST_LOG_WRITER="+n.Config.RunDir, os.Args[0]) {
				signal(t, pid, syscall.SIGKILL)
			}
		})
	})
	w.startWith(func(cfg *podConfig) { cfg.Patience, cfg.MaxBackOff = 2*time.Second, time.Second }, func() {})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { w.probes.Add(1) }))
	t.Cleanup(server.Close)
	port := intstr.FromInt32(int32(server.Listener.Addr().(*net.TCPAddr).Port)) //nolint:gosec // a port fits
	w.create(bound("steady", func(s *corev1.PodSpec) {
		s.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Host: "127.0.0.1", Port: port, Scheme: corev1.URISchemeHTTP},
		}}
	}))
	w.await("steady", "ready", isReady)
	w.others(t)
	w.threads = goruntime.NumGoroutine()
}

// others starts and stops a pod that has nothing to do with what is cut, and sees that one that runs is probed.
func (w *watchdog) others(t *testing.T) {
	t.Helper()
	before := w.probes.Load()
	w.made++
	pod := fmt.Sprintf("other%d", w.made)
	w.create(bound(pod, nil))
	w.await(pod, "ready", isReady)
	w.remove(pod)
	runtimetest.Eventually(t, "probes of the pod that runs all the time", func() bool { return w.probes.Load() > before })
}

// remove deletes a pod and waits until nothing of it remains on the node.
func (w *watchdog) remove(pod string) {
	w.t.Helper()
	uid := string(w.get(pod).UID)
	w.delete(pod)
	w.awaitGone(pod)
	runtimetest.Eventually(w.t, "removal from the node of "+pod, func() bool { return !contains(w.node.PodUIDs(), uid) })
}

// deadMount is a hostPath on a mount whose server does not answer: a FUSE file system without a server.
func (w *watchdog) deadMount(t *testing.T) {
	path := t.TempDir()
	revive := mountDead(t, path)
	defer revive()
	kind := corev1.HostPathDirectory
	for _, v := range []corev1.HostPathVolumeSource{{Path: path, Type: &kind}, {Path: path}} {
		for _, pod := range []string{"dead", "dead-deleted"} {
			w.create(bound(pod, func(s *corev1.PodSpec) {
				s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &v}}}
				s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
			}))
		}
		if v.Type != nil {
			w.awaitEvent("Warning FailedMount", `"v"`, "timed out waiting for hostPath "+path)
		} else {
			w.awaitEvent("Warning Failed ", `"v"`, "timed out waiting for hostPath "+path)
		}
		w.others(t)
		w.remove("dead-deleted") // it has mounted nothing
		if v.Type != nil {
			w.remove("dead")
		}
	}
	revive()
	w.await("dead", "ready once the mount is gone", isReady)
	w.remove("dead")
}

// netlink that does not answer holds up the start of a pod and its end, and nothing of those that are connected.
func (w *watchdog) netlink(t *testing.T) {
	w.create(bound("connected", nil))
	w.await("connected", "ready", isReady)
	answer := w.network.cut()
	defer answer()
	w.create(bound("unconnected", nil))
	w.awaitEvent("Warning FailedCreatePodSandBox", "timed out waiting for the pod's network (netlink)")
	w.delete("connected")
	w.awaitEvent("Warning FailedKillPod", "timed out waiting for the end of the pod's network (netlink)")
	w.create(bound("host", func(s *corev1.PodSpec) { s.HostNetwork = true })) // needs no interface
	w.await("host", "ready", isReady)
	answer()
	w.awaitGone("connected")
	w.await("unconnected", "ready once netlink answers", isReady)
	w.remove("unconnected")
	w.remove("host")
}

// registry accepts connections and never answers.
func (w *watchdog) registry(t *testing.T) {
	var cut atomic.Bool
	good := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if cut.Load() {
			<-r.Context().Done()
			return
		}
		good.ServeHTTP(rw, r)
	}))
	defer server.Close()
	defer server.CloseClientConnections()
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host+"/box:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, runtimetest.Image(t, nil)); err != nil {
		t.Fatal(err)
	}
	cut.Store(true)
	w.create(bound("pulls", func(s *corev1.PodSpec) { s.Containers[0].Image = ref.String() }))
	w.awaitEvent("Warning Failed Failed to pull image", "pull stalled: "+host+" has sent nothing for ")
	w.others(t)
	cut.Store(false)
	w.await("pulls", "ready once the registry answers", isReady)
	w.remove("pulls")
}

// dns accepts questions and never answers.
func (w *watchdog) dns(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", silent.LocalAddr().String())
	}}
	defer func() { net.DefaultResolver = before }()
	w.create(bound("resolves", func(s *corev1.PodSpec) { s.Containers[0].Image = "registry.skep.test/box:1" }))
	w.awaitEvent("Warning Failed Failed to pull image", "pull stalled: the DNS server that was asked for registry.skep.test has sent nothing for ")
	w.others(t)
	w.remove("resolves")
}

// probe is a command that never ends, and leaves children that do not either.
func (w *watchdog) probe(t *testing.T) {
	w.create(bound("probed", func(s *corev1.PodSpec) {
		s.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{
			Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "test -e /well && exit 0; sleep 1000 & sleep 1000"}},
		}}
	}))
	w.awaitEvent("Warning Unhealthy Readiness probe", "timed out after 1s")
	w.others(t)
	running, _, err := w.cluster.pods.Find("default", "probed", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("/proc", strconv.Itoa(running.Pid), "root", "well"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.await("probed", "ready once the command ends", isReady)
	w.remove("probed")
}

// logWriter is stopped: containers that print would wait for it.
func (w *watchdog) logWriter(t *testing.T) {
	pid := processWith(t, "SKEP_TEST_LOG_WRITER="+w.node.Config.RunDir, os.Args[0])
	signal(t, pid, syscall.SIGSTOP)
	w.create(bound("prints", func(s *corev1.PodSpec) { s.Containers[0] = container("main", "echo well; sleep 1000") }))
	w.said.await(t, "the log writer does not answer; killing it")
	w.await("prints", "ready once there is another log writer", isReady)
	w.remove("prints")
}

// containerd is stopped. Nothing starts or stops without it; pods run on and are probed, and another takes its place.
func (w *watchdog) containerd(t *testing.T) {
	w.create(bound("leaves", nil))
	w.await("leaves", "ready", isReady)
	data, err := os.ReadFile(filepath.Join(w.node.Daemon.State, "containerd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	steady, _, err := w.cluster.pods.Find("default", "steady", "")
	if err != nil {
		t.Fatal(err)
	}
	signal(t, pid, syscall.SIGSTOP)
	before := w.probes.Load()
	w.create(bound("comes", nil))
	w.delete("leaves")
	runtimetest.Eventually(t, "probes while containerd is stopped", func() bool { return w.probes.Load() > before+1 })
	w.said.await(t, "containerd does not answer; killing it, to start it again")
	w.awaitGone("leaves")
	w.await("comes", "ready", isReady)
	if now, ok := w.node.Container(steady.ID); !ok || now.Pid != steady.Pid {
		t.Errorf("the pod that runs all the time is %+v now", now)
	}
	w.remove("comes")
}

// apiServer is stopped, and etcd in it. Pods run on, are probed, and start again when they crash; what happened is reported later.
func (w *watchdog) apiServer(t *testing.T) {
	w.create(bound("crashes", nil))
	w.await("crashes", "ready", isReady)
	crashing, _, err := w.cluster.pods.Find("default", "crashes", "")
	if err != nil {
		t.Fatal(err)
	}
	signal(t, w.skepd, syscall.SIGSTOP)
	resume := sync.OnceFunc(func() { signal(t, w.skepd, syscall.SIGCONT) })
	defer resume()
	before := w.probes.Load()
	signal(t, crashing.Pid, syscall.SIGKILL)
	runtimetest.Eventually(t, "the restart of a container", func() bool {
		again, _, err := w.cluster.pods.Find("default", "crashes", "")
		return err == nil && again.ID != crashing.ID && again.Pid != 0
	})
	runtimetest.Eventually(t, "probes while the API server is stopped", func() bool { return w.probes.Load() > before+1 })
	w.said.await(t, "pod status not written")
	resume()
	w.await("crashes", "the restart in its status", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	w.others(t)
	w.remove("crashes")
}

// noneLeft ends the last pod and looks for what the cuts have left: threads that wait, mounts, processes.
func (w *watchdog) noneLeft() {
	t := w.t
	runtimetest.Eventually(t, "the end of all that waited", func() bool { return goruntime.NumGoroutine() <= w.threads+5 })
	w.remove("steady")
	runtimetest.Eventually(t, "an empty node", func() bool { return len(w.node.PodUIDs()) == 0 && len(w.network.Attachments()) == 0 })
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, filepath.Join(w.node.Config.RunDir, "pods")) || strings.Contains(line, filepath.Join(w.node.Config.StateDir, "pods")) ||
			strings.Contains(line, "skep-test-dead") {
			t.Errorf("mount left: %s", line)
		}
	}
	runtimetest.Eventually(t, "the end of all shims", func() bool { return len(processesWith("containerd-shim", w.node.Daemon.State)) == 0 })
}

func (c *cluster) delete(pod string) {
	c.t.Helper()
	if err := c.client.CoreV1().Pods("default").Delete(context.Background(), pod, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
}
