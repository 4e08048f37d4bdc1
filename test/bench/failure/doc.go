// Package failure measures how long a host that is cut off from the network stays in the service maps of the others: from the cut
// until the last map of a kernel has it as down, over 20 cuts of hosts in turn, in a cluster of five that the benchmark makes and
// removes.
//
// The baselines are Kubernetes' constants, during which a lost node's endpoints stay: 50 s by default (node-monitor-grace-period), and
// 4 s where that is tuned as low as kubelets that report every second bear. Run it as root, after make build:
//
//	go test -bench . ./test/bench/failure
package failure
