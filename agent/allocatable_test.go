package agent

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/cgroup"
	"github.com/skep-io/skep/agent/eviction"
	"github.com/skep-io/skep/agent/node"
)

func TestMeasure(t *testing.T) {
	thresholds, err := eviction.Parse(eviction.Settings{Hard: eviction.DefaultHard})
	if err != nil {
		t.Fatal(err)
	}
	parse := func(text string) corev1.ResourceList {
		list, err := node.ParseReserved("--kube-reserved", text)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	cfg := Config{StateDir: t.TempDir(), HookCgroup: "/", Reserves: Reserves{Thresholds: thresholds, PodPids: 4096}}
	tree := cgroup.Open(cgroup.Root, "/skep")
	plain, err := measure(cfg, tree)
	if err != nil {
		t.Fatal(err)
	}
	amount := func(list corev1.ResourceList, name corev1.ResourceName) int64 {
		q := list[name]
		return q.Value()
	}
	capacity := plain.capacity
	memory, disk, pids := amount(capacity, corev1.ResourceMemory), amount(capacity, corev1.ResourceEphemeralStorage), amount(capacity, node.ResourcePIDs)
	if got := amount(plain.allocatable, corev1.ResourceMemory); got != memory-100<<20 {
		t.Errorf("allocatable memory %d of %d", got, memory)
	}
	if got := amount(plain.allocatable, corev1.ResourceEphemeralStorage); got != disk-disk/10 {
		t.Errorf("allocatable storage %d of %d", got, disk)
	}
	// The reserve for evictions is no limit: pods may use it, and then one is evicted.
	if plain.pods.Memory != memory || plain.pods.Pids != pids-pids/10 || plain.podPids != 4096 {
		t.Errorf("pods are limited to %+v, one to %d processes", plain.pods, plain.podPids)
	}
	cfg.Reserves.Kube, cfg.Reserves.System = parse("cpu=100m,memory=256Mi,pid=1000"), parse("memory=256Mi, pid=24")
	cfg.Reserves.PodPids = 1 << 40
	kept, err := measure(cfg, tree)
	if err != nil {
		t.Fatal(err)
	}
	if kept.pods.Memory != memory-512<<20 || kept.pods.Pids != pids-1024 || kept.podPids != (pids-1024)/2 {
		t.Errorf("pods are limited to %+v, one to %d processes", kept.pods, kept.podPids)
	}
	if got := kept.allocatable.Cpu().MilliValue(); got != capacity.Cpu().MilliValue()-100 {
		t.Errorf("allocatable CPU %d", got)
	}
	if got := amount(kept.allocatable, corev1.ResourceMemory); got != memory-612<<20 {
		t.Errorf("allocatable memory %d of %d", got, memory)
	}
	cfg.Reserves.System = parse("memory=100Ti")
	if _, err := measure(cfg, tree); err == nil || !strings.Contains(err.Error(), `Resource "memory" has a reservation of`) {
		t.Errorf("more reserved than there is: %v", err)
	}
	for text, want := range map[string]string{
		"gpu=1": `cannot reserve "gpu" resource`, "memory=-1": "cannot be negative", "memory": "give RESOURCE=QUANTITY", "cpu=x": "failed to parse quantity",
	} {
		if _, err := node.ParseReserved("--system-reserved", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
