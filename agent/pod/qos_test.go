package pod_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skep-io/skep/agent/cgroup"
	"github.com/skep-io/skep/agent/runtime"
)

func resources(requests, limits map[corev1.ResourceName]string) corev1.ResourceRequirements {
	parse := func(m map[corev1.ResourceName]string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for name, value := range m {
			l[name] = resource.MustParse(value)
		}
		return l
	}
	return corev1.ResourceRequirements{Requests: parse(requests), Limits: parse(limits)}
}

// Each pod's cgroup is below its class, limited as a whole; a pod that ran before there were classes keeps its
// cgroup.
func TestPodCgroups(t *testing.T) {
	c := newCluster(t, nil)
	c.startWith(func(cfg *podConfig) { cfg.PodPidsLimit, cfg.MemoryCapacity = 77, 4<<30 }, func() {
		if _, _, err := c.node.CreateSandbox(runtime.SandboxConfig{PodUID: "uid-earlier", Hostname: "earlier"}); err != nil {
			t.Fatal(err)
		}
		if err := c.node.Cgroups().RemovePod("uid-earlier"); err != nil {
			t.Error(err)
		}
		earlier := filepath.Join(c.node.Config.CgroupParent, "pods", "uid-earlier")
		for _, root := range []string{"cpu", "memory", "pids", ""} {
			if dir := filepath.Join(cgroup.Root, root); exists(filepath.Join(dir, "cgroup.procs")) {
				if err := os.MkdirAll(filepath.Join(dir, earlier), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.create(newPod("earlier", nil))
	})
	all := cgroup.Limits{CPUShares: 2048, Memory: 1 << 30, Pids: 500}
	if err := c.node.Cgroups().LimitPods(all); err != nil {
		t.Fatal(err)
	}
	// Without the right to set scores below its own, the agent sets the lowest that it may.
	privileged, shim := mayLowerOOMScore(), -998
	if !privileged {
		shim = oomScoreOf(t, os.Getpid()) + 1
	}
	limits := map[corev1.ResourceName]string{"cpu": "500m", "memory": "64Mi"}
	half := map[corev1.ResourceName]string{"cpu": "250m", "memory": "1Gi"}
	c.create(newPod("guaranteed", func(s *corev1.PodSpec) {
		s.Containers[0].Resources = resources(limits, limits)
		s.Containers = append(s.Containers, container("second", "sleep 1000"))
		s.Containers[1].Resources = resources(limits, limits)
	}))
	c.create(newPod("burstable", func(s *corev1.PodSpec) { s.Containers[0].Resources = resources(half, nil) }))
	c.create(newPod("best", nil))
	for name, want := range map[string]struct {
		path   string
		bounds cgroup.Bounds
		oom    int
	}{
		"guaranteed": {"kubepods/poduid-guaranteed", cgroup.Bounds{Memory: 128 << 20, Pids: 77}, -997},
		"burstable":  {"kubepods/burstable/poduid-burstable", cgroup.Bounds{Memory: 1 << 30, Pids: 77}, 750},
		"best":       {"kubepods/besteffort/poduid-best", cgroup.Bounds{Memory: 1 << 30, Pids: 77}, 1000},
		"earlier":    {"pods/uid-earlier", cgroup.Bounds{Memory: -1, Pids: 77}, 1000},
	} {
		c.await(name, "ready", isReady)
		running, _, err := c.pods.Find("default", name, "")
		if err != nil {
			t.Fatal(err)
		}
		parent := filepath.Join(c.node.Config.CgroupParent, want.path)
		if running.CgroupPath != filepath.Join(parent, running.ID) {
			t.Errorf("%s lives in %s, want it below %s", name, running.CgroupPath, parent)
		}
		if got := c.node.Cgroups().Bounds(parent); got != want.bounds {
			t.Errorf("%s has %+v, want %+v", name, got, want.bounds)
		}
		if !privileged {
			want.oom = max(want.oom, oomScoreOf(t, os.Getpid()))
		}
		// What is run in it later is no better off, and neither inherits from the shim.
		if got := oomScoreOf(t, running.Pid); got != want.oom {
			t.Errorf("%s has the out-of-memory score %d, want %d", name, got, want.oom)
		}
		var out bytes.Buffer
		if _, err := c.node.Exec(context.Background(), running.ID, []string{"cat", "/proc/self/oom_score_adj"}, runtime.ExecOptions{Stdout: &out}); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(out.String()); got != fmt.Sprint(want.oom) {
			t.Errorf("what runs beside it in %s has %s, want %d", name, got, want.oom)
		}
		if got := oomScoreOf(t, parentOf(t, running.Pid)); got != shim {
			t.Errorf("the shim of %s has %d, want %d", name, got, shim)
		}
	}
	if file := filepath.Join(cgroup.Root, "cpu", c.node.Config.CgroupParent, "kubepods/burstable/cpu.shares"); exists(file) {
		if data, _ := os.ReadFile(file); strings.TrimSpace(string(data)) != "256" {
			t.Errorf("burstable pods share %s", data)
		}
	}
}

func mayLowerOOMScore() bool {
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	return err == nil && has == 1
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func oomScoreOf(t *testing.T, pid int) (score int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(data), &score); err != nil {
		t.Fatal(err)
	}
	return score
}

func parentOf(t *testing.T, pid int) (parent int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	if _, err := fmt.Sscan(string(data[bytes.LastIndexByte(data, ')')+1:]), &state, &parent); err != nil {
		t.Fatal(err)
	}
	return parent
}
