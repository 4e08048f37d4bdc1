package usage

import (
	"time"
)

// Amount is what something uses of its disk.
type Amount struct{ Bytes, Inodes uint64 }

// Add sums two.
func (a Amount) Add(b Amount) Amount { return Amount{a.Bytes + b.Bytes, a.Inodes + b.Inodes} }

// atLeast is the greater of each.
func (a Amount) atLeast(b Amount) Amount {
	return Amount{max(a.Bytes, b.Bytes), max(a.Inodes, b.Inodes)}
}

// Kind is what a tree is to its pod.
type Kind int

// The kinds. Memory is a volume in memory, which uses none of the disk.
const (
	Volume Kind = iota
	Memory
	Logs  // of a container
	Layer // what a container has changed of its image
	Files // the pod's own: /etc/hosts and the like, termination messages
)

// Key names a tree of a pod: Name is the volume's or container's.
type Key struct {
	Kind Kind
	Name string
}

// Tree is a folder that uses room for a pod.
type Tree struct {
	Key
	Path string
	// Counted says that nobody who writes there can change projects: the kernel's count is believed if Quotas.Assign had it counted.
	Counted bool
}

// Pod is what is known of one pod. It is never changed once given out.
type Pod struct {
	// At is when the figures were complete. Meanwhile they may have grown, if a walk that is under way has found more.
	At    time.Time
	Trees map[Key]Amount
	Rooms map[Key]Amount // how much there is room for, in volumes in memory
}

// Total is all that the pod uses of the node's disks, as kubelet counts: without volumes in memory.
func (p Pod) Total() (sum Amount) {
	for key, amount := range p.Trees {
		if key.Kind != Memory {
			sum = sum.Add(amount)
		}
	}
	return sum
}

// Container is the container's writable layer and logs together.
func (p Pod) Container(name string) Amount {
	return p.Trees[Key{Layer, name}].Add(p.Trees[Key{Logs, name}])
}
