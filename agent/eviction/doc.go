// Package eviction decides which pod is evicted when a node runs short of memory, disk or processes, by kubelet's
// signals, thresholds and order. Pressure and Rank decide by measurements; Monitor measures and evicts.
package eviction
