package eviction

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// Amount is an amount of disk use.
type Amount struct{ Bytes, Inodes int64 }

// Disk is a pod's disk use: writable layers are on the images' disk, the rest (volumes, logs, the pod's own files) on that of the
// agent's state. Both may be one file system.
type Disk struct{ State, Images Amount }

// Pod is a candidate for eviction, and what it uses.
type Pod struct {
	*corev1.Pod
	Memory, Processes int64
	// NotMeasured says that memory and processes of a running pod are unknown, DiskNotMeasured the same of its disk use.
	NotMeasured, DiskNotMeasured bool
	Disk                         Disk
	Containers                   []Container
}

// Container is what one of the pod's containers uses.
type Container struct {
	Name         string
	Memory, Disk int64 // bytes
}

// Resources that are short, by kubelet's names.
const (
	resourceInodes corev1.ResourceName = "inodes"
	resourcePids   corev1.ResourceName = "pids"
)

func (s Signal) resource() corev1.ResourceName {
	switch s {
	case MemoryAvailable, AllocatableMemory:
		return corev1.ResourceMemory
	case PIDAvailable:
		return resourcePids
	case NodeFsInodesFree, ImageFsInodesFree:
		return resourceInodes
	}
	return corev1.ResourceEphemeralStorage
}

// use is how much the pod uses of the signal's resource. If images have a file system of their own, only the use of the one that
// is short counts.
func (p *Pod) use(s Signal, ownImages bool) (amount int64, measured bool) {
	switch s {
	case MemoryAvailable, AllocatableMemory:
		return p.Memory, !p.NotMeasured
	case PIDAvailable:
		return p.Processes, !p.NotMeasured
	}
	var a Amount
	if !ownImages || s == NodeFsAvailable || s == NodeFsInodesFree {
		a = p.Disk.State
	}
	if !ownImages || s == ImageFsAvailable || s == ImageFsInodesFree {
		a.Bytes, a.Inodes = a.Bytes+p.Disk.Images.Bytes, a.Inodes+p.Disk.Images.Inodes
	}
	if s.resource() == resourceInodes {
		return a.Inodes, !p.DiskNotMeasured
	}
	return a.Bytes, !p.DiskNotMeasured
}

// requested is the pod's request of a resource; inodes and processes cannot be requested.
func requested(pod *corev1.Pod, name corev1.ResourceName) int64 {
	if name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage {
		return 0
	}
	list := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{
		SkipContainerLevelResources: resourcehelper.IsPodLevelResourcesSet(pod), ExcludeOverhead: true,
	})
	sum := list[name]
	if overhead, ok := pod.Spec.Overhead[name]; ok && !sum.IsZero() {
		sum.Add(overhead)
	}
	return sum.Value()
}

// Rank sorts pods in the order of eviction, which is kubelet's: first those that use more than they request, then by priority,
// then by how much more they use. Pods that could not be measured come before all others; for processes, only before those of the
// same priority.
func Rank(s Signal, ownImages bool, pods []Pod) {
	type rank struct {
		unknown, exceeds bool
		priority         int32
		over             int64
	}
	first := func(a, b bool) int { // true before false
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	of := func(p *Pod) rank {
		used, known := p.use(s, ownImages)
		over := used - requested(p.Pod, s.resource())
		return rank{!known, s != PIDAvailable && over > 0, corev1helpers.PodPriority(p.Pod), over}
	}
	slices.SortStableFunc(pods, func(x, y Pod) int {
		a, b := of(&x), of(&y)
		if s == PIDAvailable {
			return cmp.Or(cmp.Compare(a.priority, b.priority), first(a.unknown, b.unknown), cmp.Compare(b.over, a.over))
		}
		return cmp.Or(first(a.unknown, b.unknown), first(a.exceeds, b.exceeds), cmp.Compare(a.priority, b.priority), cmp.Compare(b.over, a.over))
	})
}
