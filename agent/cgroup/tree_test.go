package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// place is a mount of cgroups that a test writes itself: the kernel's files appear with the folders, as in the real one.
type place struct {
	testing.TB
	root string
}

// v2 is a tree whose root has the controllers. Folders below are made beforehand with the files that the kernel would make.
func v2(t *testing.T, folders ...string) *place {
	p := &place{t, t.TempDir()}
	p.write("cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc")
	p.write("cgroup.subtree_control", "memory pids")
	for _, f := range folders {
		at := ""
		for part := range strings.SplitSeq(strings.Trim(f, "/"), "/") {
			at = filepath.Join(at, part)
			for name, value := range map[string]string{
				"cgroup.controllers": "cpuset cpu io memory pids", "cgroup.subtree_control": "", "cpu.weight": "100", "cpu.max": "max 100000",
				"memory.max": "max", "memory.current": "0", "pids.max": "max",
			} {
				p.write(filepath.Join(at, name), value)
			}
		}
	}
	return p
}

func (p *place) write(name, value string) {
	p.Helper()
	path := filepath.Join(p.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		p.Fatal(err)
	}
}

func (p *place) wants(files map[string]string) {
	p.Helper()
	for name, want := range files {
		data, err := os.ReadFile(filepath.Join(p.root, name))
		if got := strings.TrimSpace(string(data)); err != nil || !strings.HasPrefix(got, want) {
			p.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestUnifiedHost(t *testing.T) {
	p := v2(t, "skep/kubepods/burstable/poduid1", "skep/kubepods/besteffort")
	tree := Open(p.root, "/skep")
	if !tree.Unified() {
		t.Error("not taken for a host with v2 only")
	}
	if err := tree.LimitPods(Limits{CPUShares: 2048, Memory: 1 << 30, Pids: 1000}); err != nil {
		t.Fatal(err)
	}
	path, err := tree.EnsurePod("uid1", corev1.PodQOSBurstable, Limits{CPUShares: 102, CPUQuota: 50000, CPUPeriod: 100000, Pids: 100})
	if err != nil || path != "/skep/kubepods/burstable/poduid1" {
		t.Fatalf("pod at %q, %v", path, err)
	}
	if err := tree.ShareBurstable(1024); err != nil {
		t.Fatal(err)
	}
	p.wants(map[string]string{
		"skep/kubepods/cpu.weight":                   "174",
		"skep/kubepods/memory.max":                   "1073741824",
		"skep/kubepods/pids.max":                     "1000",
		"skep/kubepods/besteffort/cpu.weight":        "1",
		"skep/kubepods/besteffort/memory.max":        "max",
		"skep/kubepods/burstable/cpu.weight":         "100",
		"skep/kubepods/burstable/poduid1/cpu.weight": "17",
		"skep/kubepods/burstable/poduid1/cpu.max":    "50000 100000",
		"skep/kubepods/burstable/poduid1/memory.max": "max",
		"skep/kubepods/burstable/poduid1/pids.max":   "100",
		// Each level above the pod hands its controllers down.
		"cgroup.subtree_control":                         "+",
		"skep/cgroup.subtree_control":                    "+",
		"skep/kubepods/burstable/cgroup.subtree_control": "+",
	})
}

// The kernel kills in a v2 cgroup whose limit is set below what it uses.
func TestUnifiedLimitBelowUse(t *testing.T) {
	p := v2(t, "skep/kubepods/burstable", "skep/kubepods/besteffort")
	p.write("skep/kubepods/memory.current", "2000000")
	if err := Open(p.root, "/skep").LimitPods(Limits{CPUShares: 2, Memory: 1000000}); err == nil || !strings.Contains(err.Error(), "2000000 bytes are in use") {
		t.Errorf("error %v", err)
	}
	p.wants(map[string]string{"skep/kubepods/memory.max": "max"})
}

// Some hosts have v1 for some controllers, and the others in the v2 tree beside it.
func TestHybridHost(t *testing.T) {
	p := v2(t)
	for _, name := range []string{"cgroup.controllers", "cgroup.subtree_control"} {
		if err := os.Rename(filepath.Join(p.root, name), filepath.Join(p.root, "x")); err != nil {
			t.Fatal(err)
		}
	}
	p.write("unified/cgroup.controllers", "pids")
	p.write("unified/cgroup.subtree_control", "pids")
	p.write("memory/cgroup.procs", "")
	p.write("memory/skep/kubepods/podu/memory.limit_in_bytes", "9223372036854771712")
	p.write("unified/skep/kubepods/podu/pids.max", "max")
	tree := Open(p.root, "/skep")
	if tree.Unified() {
		t.Error("taken for a host with v2 only")
	}
	if _, err := tree.EnsurePod("u", corev1.PodQOSGuaranteed, Limits{CPUShares: 2, Memory: 5 << 20, Pids: 7}); err != nil {
		t.Fatal(err)
	}
	p.wants(map[string]string{"memory/skep/kubepods/podu/memory.limit_in_bytes": "5242880", "unified/skep/kubepods/podu/pids.max": "7"})
	if b := tree.Bounds("/skep/kubepods/podu"); b.Memory != 5<<20 || b.Pids != 7 {
		t.Errorf("bounds %+v", b)
	}
	if b := tree.Bounds("/skep"); b.Memory != -1 || b.Pids != -1 {
		t.Errorf("bounds of what has none %+v", b)
	}
}

// On this machine, whatever it has.
func TestRealKernel(t *testing.T) {
	parent := fmt.Sprintf("/skep-cgroup-test-%d", os.Getpid())
	tree := Open(Root, parent)
	t.Cleanup(func() {
		for _, path := range []string{"kubepods/burstable", "kubepods/besteffort", "kubepods", ""} {
			for _, root := range tree.hierarchies() {
				_ = os.Remove(filepath.Join(root, parent, path))
			}
		}
	})
	if err := tree.LimitPods(Limits{CPUShares: 2048, Memory: 1 << 30, Pids: 500}); err != nil {
		t.Fatal(err)
	}
	limits := Limits{CPUShares: 102, CPUQuota: 50000, CPUPeriod: 100000, Memory: 64 << 20, Pids: 100}
	for range 2 { // an agent that starts again finds them
		if _, err := tree.EnsurePod("a", corev1.PodQOSBurstable, limits); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tree.EnsurePod("b", corev1.PodQOSBestEffort, Limits{CPUShares: MinShares}); err != nil {
		t.Fatal(err)
	}
	if got := tree.Bounds(parent + "/kubepods/burstable/poda"); got != (Bounds{64 << 20, 100}) {
		t.Errorf("bounds of the pod %+v", got)
	}
	if got := tree.Bounds(parent + "/kubepods/besteffort/podb"); got != (Bounds{1 << 30, 500}) {
		t.Errorf("a pod without limits has %+v, want those of all pods", got)
	}
	if got := fmt.Sprint(tree.Pods()); got != "[a b]" {
		t.Errorf("pods %s", got)
	}
	for _, uid := range []string{"a", "b"} {
		if err := tree.RemovePod(uid); err != nil {
			t.Error(err)
		}
	}
	if got := tree.Pods(); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestEarlierPodsStayWhereTheyAre(t *testing.T) {
	p := v2(t, "skep/pods/old", "skep/kubepods/burstable", "skep/kubepods/besteffort")
	tree := Open(p.root, "/skep")
	if path, err := tree.EnsurePod("old", corev1.PodQOSBurstable, Limits{CPUShares: 2, Memory: 1 << 20}); err != nil || path != "/skep/pods/old" {
		t.Errorf("%s, %v", path, err)
	}
	p.wants(map[string]string{"skep/pods/old/memory.max": "1048576"})
	if got := tree.Pods(); len(got) != 1 || got[0] != "old" {
		t.Errorf("pods %v", got)
	}
}

func TestWeights(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 102: 17, 1024: 100, 262144: 10000, 1 << 30: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight of %d shares: %d, want %d", shares, got, want)
		}
	}
}
