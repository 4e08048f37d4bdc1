// Package scale measures a control plane with thousands of nodes: a skepd process, and hollow nodes in this one. A hollow node joins with a
// token, keeps its Node and lease by the agent's own code, watches what an agent watches over a connection of its own, and reports the pods
// that are bound to it as running. It runs no containers and keeps no service maps: what it receives is counted and dropped.
//
// Three sizes are measured in one run, the flags' and a quarter and a half of it, so that what grows with the cluster can be distinguished from what does
// not. Run it as root, after make build; `make scale` has 5,000 nodes, 150,000 pods and 10,000 services:
//
//	go test -bench . ./test/bench/scale -nodes 1000 -pods 30000 -services 2000
package scale
