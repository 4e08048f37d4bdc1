package usage

import (
	"time"
)

// Amount is an amount of disk use.
type Amount struct{ Bytes, Inodes uint64 }

// Add is the sum of two amounts.
func (a Amount) Add(b Amount) Amount { return Amount{a.Bytes + b.Bytes, a.Inodes + b.Inodes} }

// atLeast is the greater of each.
func (a Amount) atLeast(b Amount) Amount {
	return Amount{max(a.Bytes, b.Bytes), max(a.Inodes, b.Inodes)}
}

// Kind is the kind of a tree of a pod.
type Kind int

// The kinds. Memory is a volume in memory, which uses none of the disk.
const (
	Volume Kind = iota
	Memory
	Logs  // of a container
	Layer // a container's writable layer
	Files // the pod's own: /etc/hosts and the like, termination messages
)

// Key names a tree of a pod: Name is the volume's or container's.
type Key struct {
	Kind Kind
	Name string
}

// Tree is a folder that counts as disk use of a pod.
type Tree struct {
	Key
	Path string
	// Counted says that no process that writes there can change projects: the kernel's count is used if Quotas.Assign was called for
	// the folder.
	Counted bool
}

// Pod has the figures of one pod. A returned Pod is never changed.
type Pod struct {
	// At is when the figures were last complete. They may have grown since, if a walk under way has found more.
	At    time.Time
	Trees map[Key]Amount
	Rooms map[Key]Amount // sizes of volumes in memory
}

// Total is the pod's disk use, as kubelet counts it: without volumes in memory.
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
