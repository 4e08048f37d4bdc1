// Package runtime drives containerd for one node: its private daemon, images,
// the namespaces that make up a pod, and containers with their tasks.
//
// It owns everything in containerd's namespace "skep", the namespace pins and shared memory under
// <run-dir>/pods, and the container records under <state-dir>/pods/<uid>/containers. It sends
// nothing to the API server and does not decide whether a container should run: package pod does.
//
// A pod has no pause container. Its network, IPC and UTS namespaces are created on a locked thread
// and pinned by bind mounts, and every container joins them by path. Containers keep running
// without the agent: one that starts again finds its containers by their labels and adopts them.
package runtime
