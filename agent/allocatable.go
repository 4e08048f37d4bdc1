package agent

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skep-io/skep/agent/cgroup"
	"github.com/skep-io/skep/agent/eviction"
	"github.com/skep-io/skep/agent/node"
)

// Reserves are the node's resources that pods may not use.
type Reserves struct {
	Kube, System corev1.ResourceList
	Thresholds   []eviction.Threshold // hard ones keep memory and disk back
	PodPids      int64                // limit of processes and threads of one pod; negative: as many as all pods may have
}

// size is the node's capacity, and how much of it pods may request and use.
type size struct {
	capacity    corev1.ResourceList
	allocatable corev1.ResourceList // what the scheduler may give out
	pods        cgroup.Limits       // what all pods together may use: that can be more than they request
	podPids     int64               // 0: no limit per pod
}

// keptPids is the part of the host's process IDs that is reserved for the host if no reserve says how
// many.
const keptPids = 10 // a tenth

// measure returns the node's size. On a node that is only a cgroup of its machine, the cgroup's limits
// count.
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
	limit := node.Subtract(s.capacity, kube, r.System)
	memory, pids := limit[corev1.ResourceMemory], limit[node.ResourcePIDs]
	s.pods = cgroup.Limits{
		CPUShares: cgroup.Shares(limit.Cpu().MilliValue()), Memory: max(memory.Value(), 1), Pids: max(pids.Value(), 1),
	}
	if r.PodPids > 0 {
		// One pod must not use up the IDs of all pods.
		s.podPids = max(min(r.PodPids, s.pods.Pids/2), 1)
	}
	return s, nil
}

// wholeHost says whether the node is its whole machine, not only a cgroup of it.
func wholeHost(cfg Config) bool { return strings.Trim(cfg.HookCgroup, "/") == "" }
