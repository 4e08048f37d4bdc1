// Package service measures what a service address costs: one connect() less
// one to the backend itself; connections per second, UDP request and response,
// and TCP throughput beside the same through the rules that kube-proxy would
// install; the time from an endpoint change to the maps; and what 50,000 services
// with 250,000 endpoints take.
//
// All sides of a ratio run in one process on one machine, in turns, and the
// figures are medians. Where rules are compared, each side has a network
// namespace of its own, so that one's rules do not slow down another's packets:
// "direct" has no proxy at all. The rules have the shape of kube-proxy 1.37 in
// its nftables and iptables modes. The package owns its namespaces, cgroups and
// pins, and never touches those of a running agent. Run it as root:
//
//	go test -bench . ./test/bench/service
package service
