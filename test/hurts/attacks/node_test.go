package attacks

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// A hook or a probe leaves a child that keeps its output open: neither the probes nor the end of the pod wait for it.
func TestChildrenThatAreLeftBehind(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	leave := corev1.ExecAction{Command: []string{"sh", "-c", "sleep 1000 & echo left"}}
	s.create(pod("parent", "trap 'exit 0' TERM; while true; do sleep 0.1; done", func(p *corev1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](600)
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &leave}, TimeoutSeconds: 1, PeriodSeconds: 1, SuccessThreshold: 3}
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &leave}, PreStop: &corev1.LifecycleHandler{Exec: &leave}}
	}))
	s.awaitReady("parent") // after the third probe
	if err := local.API.CoreV1().Pods(s.Name).Delete(t.Context(), "parent", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Await("the pod's end, long before its grace period", func(pods []corev1.Pod) bool { return len(pods) == 0 })
}

// A registry accepts connections and does not answer. Pulls from others go on, and pods that wait for it can be deleted.
func TestRegistryThatStalls(t *testing.T) {
	s := newSpace(t)
	n := s.node("node1")
	var stalled atomic.Int32
	leave := make(chan struct{})
	silent := serveOn(t, n, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		stalled.Add(1)
		select {
		case <-r.Context().Done():
		case <-leave:
		}
	}))
	defer close(leave)
	good := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	serving := serveOn(t, n, good)
	push(t, good, serving+"/app:1")
	pull := func(image string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = n.Name, image, corev1.PullAlways
		}
	}
	const waiting = 40 // more than the pulls of all registries at a time
	for i := range waiting {
		s.create(pod(fmt.Sprintf("waits-%d", i), "sleep 1000", pull(fmt.Sprintf("%s/slow%d:1", silent, i))))
	}
	eventually(t, "requests to the silent registry", func() error {
		if stalled.Load() < 4 {
			return fmt.Errorf("%d came", stalled.Load())
		}
		return nil
	})
	s.create(pod("served", "sleep 1000", pull(serving+"/app:1")))
	s.awaitReady("served")
	if err := local.API.CoreV1().Pods(s.Name).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Await("the end of pods that wait for an image", func(pods []corev1.Pod) bool { return len(pods) == 0 })
}

// serveOn serves HTTP at a loopback address of the host, which its containerd takes for a registry without TLS, and returns it.
func serveOn(t *testing.T, n *cluster.Node, handler http.Handler) (address string) {
	t.Helper()
	var listener net.Listener
	if err := n.InNetwork(func() (err error) {
		listener, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: patience}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-ended })
	return listener.Addr().String()
}

// direct answers requests by a handler of this process.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	d.ServeHTTP(recorder, r)
	response := recorder.Result()
	response.Request = r
	return response, nil
}

func push(t *testing.T, to http.Handler, image string) {
	t.Helper()
	shell, err := tarball.ImageFromPath(filepath.Join(local.Bin, "images", "shell.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, shell, remote.WithTransport(direct{to})); err != nil {
		t.Fatal(err)
	}
}

// CVE-2020-8557: pods fill the node's disk, by a volume, by their own layer and by their hosts file, and one writes logs again and
// again. The first are evicted with kubelet's messages; of the other's logs those of one ended attempt are kept.
func TestPodsThatFillTheDisk(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.create(pod("restarts", "echo attempt", func(p *corev1.Pod) { p.Spec.RestartPolicy, p.Spec.NodeName = corev1.RestartPolicyAlways, "node1" }))
	limited := func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("4Mi")}
	}
	fill := func(path string) string { return "dd if=/dev/zero of=" + path + " bs=1M count=8; exec sleep 1000" }
	s.create(pod("volume", fill("/v/file"), func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("4Mi"))}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	}))
	s.create(pod("layer", fill("/file"), func(p *corev1.Pod) {
		limited(p)
		roomy := container("roomy", "sleep 1000")
		roomy.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("100Mi")}
		p.Spec.Containers = append(p.Spec.Containers, roomy)
	}))
	s.create(pod("hosts", fill("/etc/hosts"), limited))
	s.create(pod("modest", "dd if=/dev/zero of=/file bs=1M count=2; exec sleep 1000", limited))
	for pod, message := range map[string]string{
		"volume": `Usage of EmptyDir volume "v" exceeds the limit "4Mi".`, "layer": `Container main exceeded its local ephemeral storage limit "4Mi".`,
		"hosts": `Pod ephemeral local storage usage exceeds the total limit of containers 4Mi.`,
	} {
		if reason, said := s.awaitFailed(pod); reason != "Evicted" || !strings.Contains(said, message) {
			t.Errorf("%s: %s: %s, want Evicted: %s", pod, reason, said, message)
		}
	}
	if p := s.awaitReady("modest"); p.Status.Phase != corev1.PodRunning {
		t.Errorf("a pod within its limit is %s", p.Status.Phase)
	}
	p := s.awaitPod("restarts", "started three times", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount >= 2
	})
	eventually(t, "logs of earlier attempts to go", func() error {
		var logs []string
		err := filepath.WalkDir(filepath.Join(s.node("node1").StateDir(), "pods", string(p.UID)), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".log") && !entry.IsDir() {
				logs = append(logs, filepath.Base(path))
			}
			return nil // removal meanwhile is what is waited for
		})
		if err == nil && (len(logs) == 0 || len(logs) > 2) {
			err = fmt.Errorf("there are %q", logs)
		}
		return err
	})
}

// A fork bomb and a memory hog run beside a service that does not lose one request. They end at their own limits; when memory is
// short on the node, the agent, containerd and skepd are killed last. The bomb is small, so that a failure does not harm the machine.
func TestServiceBesideForkBombAndMemoryHog(t *testing.T) {
	s := newSpace(t)
	one := resource.MustParse("32Mi")
	s.create(pod("web", "", func(p *corev1.Pod) {
		p.Labels, p.Spec.NodeName = map[string]string{"app": "web"}, "node1"
		p.Spec.Containers[0].Image, p.Spec.Containers[0].Command = "skep/echo:dev", []string{"/echo", "serve"}
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: one, corev1.ResourceCPU: resource.MustParse("100m")}
	}))
	web := s.awaitReady("web")
	n := s.node("node1")
	ask := func() error {
		return n.InNetwork(func() error { return askOnce(net.JoinHostPort(web.Status.PodIP, "7000")) })
	}
	eventually(t, "the service", ask)
	stop, done := make(chan struct{}), make(chan struct{})
	var asked atomic.Int64
	go func() {
		defer close(done)
		for pace := time.NewTicker(10 * time.Millisecond); ; <-pace.C {
			select {
			case <-stop:
				return
			default:
			}
			asked.Add(1)
			if err := ask(); err != nil {
				t.Errorf("request %d: %v", asked.Load(), err)
			}
		}
	}()
	on := func(p *corev1.Pod) { p.Spec.NodeName = n.Name }
	s.create(pod("bomb", say("i=0; while [ $i -lt 400 ]; do sleep 1000 & i=$((i+1)); done; echo has $i children"), on))
	s.create(pod("hog", "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done", func(p *corev1.Pod) {
		on(p)
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: one}
	}))
	if said := s.awaitMessage("bomb"); !strings.Contains(said, "can't fork: Resource temporarily unavailable") {
		t.Errorf("the bomb says %q", said)
	}
	hog := s.awaitPod("hog", "ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if state := hog.Status.ContainerStatuses[0].State.Terminated; state == nil || state.Reason != "OOMKilled" || state.ExitCode != 137 {
		t.Errorf("the hog ended as %+v", state)
	}
	before := asked.Load()
	eventually(t, "requests beside both", func() error {
		if asked.Load() < before+20 {
			return errors.New("too few")
		}
		return nil
	})
	close(stop)
	<-done
	if p := s.awaitReady("web"); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the service has started again: %+v", p.Status.ContainerStatuses[0])
	}
	t.Logf("%d requests", asked.Load())

	s.create(pod("best", "sleep 1000", on))
	best := oomScore(t, s.processOf(s.awaitReady("best")))
	if service := oomScore(t, s.processOf(web)); best != 1000 || service >= best || service < 2 {
		t.Errorf("out-of-memory scores: %d for a pod without requests, %d for one with", best, service)
	}
	for _, pid := range daemons(t, n) {
		if score := oomScore(t, pid); score > 0 {
			t.Errorf("%s has the out-of-memory score %d", read(t, fmt.Sprintf("/proc/%d/comm", pid)), score)
		}
	}
}

func askOnce(address string) error {
	conn, err := net.DialTimeout("tcp4", address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, "?"); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 64))
	return err
}

func oomScore(t *testing.T, pid int) (score int) {
	t.Helper()
	if _, err := fmt.Sscan(read(t, fmt.Sprintf("/proc/%d/oom_score_adj", pid)), &score); err != nil {
		t.Fatal(err)
	}
	return score
}

// daemons are the host's processes beside pods: its agent, containerd, and the log writer.
func daemons(t *testing.T, n *cluster.Node) (pids []int) {
	t.Helper()
	for _, field := range strings.Fields(read(t, filepath.Join(n.CgroupPath(), "system", "cgroup.procs"))) {
		var pid int
		if _, err := fmt.Sscan(field, &pid); err != nil {
			t.Fatal(err)
		}
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && (strings.HasPrefix(string(comm), "skep-agent") || string(comm) == "containerd\n") {
			pids = append(pids, pid)
		}
	}
	if len(pids) < 2 {
		t.Fatalf("found processes %v of the agent and containerd on %s", pids, n.Name)
	}
	return pids
}
