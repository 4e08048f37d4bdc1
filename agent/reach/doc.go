// Package reach finds out within half a second that another host cannot be reached, and takes its backends out of this node's service
// maps, without the control plane. Each node probes a few others, whose kernels answer; it tells what it finds in signed statements; two
// such statements are a verdict (package witness), which goes to every node and is verified there. README.md draws the way.
//
// It never says whether another node's agent is alive, evicts no pod, and changes no Node object but for this node's public key.
package reach
