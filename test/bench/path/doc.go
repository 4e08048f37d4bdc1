// Package path measures what the pod path gains: throughput, processor time, and
// the time of a request and its response between two pods, of one node and of
// two, with the path and without it, through the host's stack.
//
// Both sides run in one process on one machine, in turns, and the figures are
// medians; the ratio is the path's figure by the stack's. The package owns its
// namespaces, cgroups and pins. Run it as root:
//
//	go test -bench . ./test/bench/path
package path
