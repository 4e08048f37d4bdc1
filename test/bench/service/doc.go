// Package service measures what a service address costs: one connect() less
// one to the backend itself, connections per second, and the time from an
// endpoint change to the maps.
//
// Both sides of a ratio run in one process on one machine, in turns, and the
// figures are medians. It owns its network namespace, cgroups and pins, and
// never touches those of a running agent. Run it as root:
//
//	go test -bench . ./test/bench/service
package service
