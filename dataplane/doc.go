// Package dataplane is the root of the Go that drives the kernel: service holds
// the service tables and socket programs, flow and podpath the programs that see
// packets, sockets the closing of what is left, podnet the pods' interfaces and
// routes; pinned keeps what outlives a process.
//
// Its packages own every map, link, program and pod interface of a node. They
// know services, backends and pods as small structs of their own and never
// import Kubernetes types, so that they can be used without the rest of Skep.
package dataplane
