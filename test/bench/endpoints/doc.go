// Package endpoints measures how long a change of endpoints takes from the API to the kernel's maps: a real control plane with
// its etcd, a node's watcher over HTTPS, and a real plane, with 10,000 services and 50 changes a second.
//
// The control plane runs in the same process as the watcher, so the two share processors, as on a one-node cluster. Its etcd
// writes to memory: what a disk adds is the disk's. The package owns its namespaces, cgroup and pins, and listens on loopback
// only. Run it as root:
//
//	go test -bench . ./test/bench/endpoints
package endpoints
