// Package usage measures what pods use of the node's disks: their emptyDir volumes, logs, writable layers and the files that the
// agent makes for them, in bytes and inodes.
//
// Where the kernel counts by project (Quotas), it is asked; else the tree is walked. The package owns the figures and the walks. One walk is under way at a time, in slices among which pods take turns, so
// that a pod with millions of files delays nobody else's figures. It reads what containers made by agent/confine, holds nothing that
// keeps a pod from ending, and decides nothing: who must go is the business of agent/pod and agent/eviction.
package usage
