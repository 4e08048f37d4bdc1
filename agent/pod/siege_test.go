package pod_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/agent/cgroup"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// A fork bomb and a memory hog without requests, and pods that fill the node's disk in different ways, run beside a service that
// must not lose one request. As on a node, the resources of all pods together are limited, so that the test's machine is not at
// risk: all start within that limit, and the fillers end by themselves.
func TestServiceBesideForkBombMemoryHogAndDiskFillers(t *testing.T) {
	const all, onePod, memory = 400, 100, 192 << 20
	c := newCluster(t, nil)
	c.startWith(func(cfg *podConfig) {
		cfg.PodPidsLimit, cfg.MemoryCapacity, cfg.DiskInterval = onePod, memory, 50*time.Millisecond
	}, func() {})
	if err := c.node.Cgroups().LimitPods(cgroup.Limits{CPUShares: 2048, Memory: memory, Pids: all}); err != nil {
		t.Fatal(err)
	}
	if got := c.node.Cgroups().Bounds(filepath.Join(c.node.Config.CgroupParent, "kubepods")); got != (cgroup.Bounds{Memory: memory, Pids: all}) {
		t.Fatalf("pods are bounded by %+v: no bomb is started", got)
	}
	address := freeLoopback(t)
	limits := map[corev1.ResourceName]string{"cpu": "500m", "memory": "32Mi"}
	c.create(newPod("service", func(s *corev1.PodSpec) {
		s.HostNetwork = true
		// The server makes a process a request, as many that are hurt by bombs do.
		s.Containers[0] = container("main", "echo alive > /index.html; exec httpd -f -h / -p "+address)
		s.Containers[0].Resources = resources(limits, limits)
	}))
	c.await("service", "ready", isReady)
	service, _, err := c.pods.Find("default", "service", "")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func() error {
		response, err := client.Get("http://" + address + "/")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", response.Status)
		}
		return nil
	}
	runtimetest.Eventually(t, "the service", func() bool { return ask() == nil })
	ctx, cancel := context.WithCancel(context.Background())
	var asked, lost atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pace := time.NewTicker(5 * time.Millisecond); ctx.Err() == nil; <-pace.C {
			asked.Add(1)
			if err := ask(); err != nil {
				lost.Add(1)
				t.Errorf("request %d: %v", asked.Load(), err)
			}
		}
	}()
	defer func() {
		cancel()
		<-done
	}()
	c.create(newPod("bomb", func(s *corev1.PodSpec) {
		s.Containers[0] = container("main", "(while true; do sleep 1000 & done); exec sleep 1000") // stays at its bound
		s.RestartPolicy = corev1.RestartPolicyNever
	}))
	c.create(newPod("hog", func(s *corev1.PodSpec) {
		s.Containers[0] = container("main", "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done")
		s.RestartPolicy = corev1.RestartPolicyNever
	}))
	c.await("hog", "end by the kernel", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) > 0 && s[0].State.Terminated != nil && s[0].State.Terminated.Reason == "OOMKilled"
	})
	bombed := filepath.Join(c.node.Config.CgroupParent, "kubepods/besteffort/poduid-bomb")
	runtimetest.Eventually(t, "the bomb's bound to be met", func() bool { return processes(bombed) >= onePod-1 })
	c.createDiskFillers()
	for name := range diskFillers {
		if p := c.evicted(name); p.Status.Reason != "Evicted" {
			t.Errorf("%s: %s: %s", name, p.Status.Reason, p.Status.Message)
		}
	}
	before := asked.Load()
	if got := processes(bombed); got > onePod {
		t.Errorf("the bomb has %d processes", got)
	}
	runtimetest.Eventually(t, "requests beside both", func() bool { return asked.Load() > before+20 })
	cancel()
	<-done
	if now, ok := c.node.Container(service.ID); !ok || now.Pid != service.Pid {
		t.Errorf("the service's container is %+v, was %d", now, service.Pid)
	}
	t.Logf("%d requests, %d lost", asked.Load(), lost.Load())
	c.deleteGracefully("bomb", time.Second)
	runtimetest.Eventually(t, "the bomb's end", func() bool { return !contains(c.node.PodUIDs(), "uid-bomb") })
}

// diskFillers are scripts that write where a container can.
var diskFillers = map[string]string{
	"volume": "dd if=/dev/zero of=/v/file bs=1M count=200", "hosts": "dd if=/dev/zero of=/etc/hosts bs=1M count=200",
}

func (c *cluster) createDiskFillers() {
	for name, script := range diskFillers {
		c.create(newPod(name, func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			s.Volumes[0].EmptyDir.SizeLimit = ptr.To(resource.MustParse("16Mi"))
			s.Containers[0] = container("main", script+"; exec sleep 1000")
			s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
			limitStorage(&s.Containers[0], "24Mi")
			needCPU(&s.Containers[0])
			s.RestartPolicy = corev1.RestartPolicyNever
		}))
	}
}

// processes is how many a cgroup and those below it have.
func processes(path string) (n int) {
	for _, dir := range []string{"pids", ""} {
		if data, err := os.ReadFile(filepath.Join(cgroup.Root, dir, path, "pids.current")); err == nil {
			_, _ = fmt.Sscan(string(data), &n)
			return n
		}
	}
	return n
}

// freeLoopback is a loopback address at which no socket listens.
func freeLoopback(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
