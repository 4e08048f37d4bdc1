// Package eviction decides which pod has to go when a node runs short of memory, disk or processes, by kubelet's signals,
// thresholds and order. Decide is a function of what was measured; Monitor measures, and acts on what it says.
package eviction
