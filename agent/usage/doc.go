// Package usage measures what pods use of the node's disks: their emptyDir volumes, logs, writable layers and the files that the
// agent makes for them, in bytes and inodes.
//
// If the kernel counts a tree by project (Quotas), its count is read; else the tree is walked. One walk runs at a time, in time slices
// among which pods take turns, so that a pod with millions of files does not delay others' figures. It opens files of containers by
// agent/confine, holds nothing that keeps a pod from ending, and decides nothing: agent/pod and agent/eviction decide which pods are
// evicted.
package usage
