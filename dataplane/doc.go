// Package dataplane is the root of the Go that drives the kernel: service holds
// the service tables and socket programs, flow and podpath the programs that see
// packets, sockets the closing of stale sockets, podnet the pods' interfaces and
// routes; pinned what outlives a process.
//
// Its packages own every map, link, program and pod interface of a node. They
// have small structs of their own for services, backends and pods and never
// import Kubernetes types, so that they can be used without the rest of Skep.
package dataplane
