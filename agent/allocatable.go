package agent

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skep-io/skep/agent/cgroup"
	"github.com/skep-io/skep/agent/eviction"
	"github.com/skep-io/skep/agent/node"
)

// Reserves are what pods may not have of the node.
type Reserves struct {
	Kube, System corev1.ResourceList
	Thresholds   []eviction.Threshold // hard ones keep memory and disk back
	PodPids      int64                // processes and threads of one pod at most; negative for as many as all pods may have
}

// size is what the node has, and what of it pods may request and use.
type size struct {
	capacity    corev1.ResourceList
	allocatable corev1.ResourceList // what the scheduler may give out
	pods        cgroup.Limits       // what pods may use together: they can come to use more than they request
	podPids     int64               // 0: no limit of its own
}

// keptPids is the part of the host's processes that pods leave to it where no reserve says how many.
const keptPids = 10 // a tenth

// measure says how large the node is. A host that shares its machine is as large as its cgroup lets it be.
func measure(cfg Config, tree *cgroup.Tree) (s size, err error) {
	bounds := node.Bounds{Memory: -1, Pids: -1}
	if !wholeHost(cfg) {
		bounds = node.Bounds(tree.Bounds(cfg.Cgroup))
	}
	if s.capacity, err = node.Capacity(cfg.StateDir, bounds); err != nil {
		return s, err
	}
	r := cfg.Reserves
	kube := r.Kube.DeepCopy()
	if _, said := r.System[node.ResourcePIDs]; !said {
		if _, said := kube[node.ResourcePIDs]; !said {
			if kube == nil {
				kube = corev1.ResourceList{}
			}
			pids := s.capacity[node.ResourcePIDs]
			kube[node.ResourcePIDs] = *resource.NewQuantity(pids.Value()/keptPids, resource.DecimalSI)
		}
	}
	kept := eviction.Reserved(r.Thresholds, s.capacity)
	if err := node.CheckReserves(s.capacity, kube, r.System, kept); err != nil {
		return s, err
	}
	s.allocatable = node.Subtract(s.capacity, kube, r.System, kept)
	most := node.Subtract(s.capacity, kube, r.System)
	memory, pids := most[corev1.ResourceMemory], most[node.ResourcePIDs]
	s.pods = cgroup.Limits{
		CPUShares: cgroup.Shares(most.Cpu().MilliValue()), Memory: max(memory.Value(), 1), Pids: max(pids.Value(), 1),
	}
	if r.PodPids > 0 {
		// One pod cannot take those of all.
		s.podPids = max(min(r.PodPids, s.pods.Pids/2), 1)
	}
	return s, nil
}

// wholeHost says whether the node is all of its machine.
func wholeHost(cfg Config) bool { return strings.Trim(cfg.HookCgroup, "/") == "" }
