// Package memory measures what a node's agent holds in memory with many services: the processes named skep-agent of a local
// cluster of one host, whose API server has the services, with five endpoints each.
//
// "RSS" counts a program's pages of files and shared maps as well; "anonymous" is the process's own memory. The figures
// compare with the 170 MB that kube-proxy was measured to take with 10,000 services. The package owns its cluster. Run it as
// root, after make build:
//
//	go test -bench . ./test/bench/memory
package memory
