// Package pod measures how long a pod takes from its creation until the API
// says that it runs, with its image on the host: through the scheduler and
// back, with its network, volumes and log.
//
// The baseline is a bare container of the same image and command, made and
// started by containerd's own client on the host's own containerd. Both are
// started in turns on one idle cluster of one host, which the benchmark makes
// and removes. Run it as root, after make build:
//
//	go test -bench . ./test/bench/pod
package pod
