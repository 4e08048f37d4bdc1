// Package pod runs the pods that the API server binds to this node.
//
// One worker per pod follows the pod's object, its containers' exits and its probes, and writes the
// pod's status and events. Package life alone decides what is done, and when. This package never
// polls, and never calls the kernel or containerd itself: packages runtime, volume, probe and the
// dataplane do.
//
// A worker is one goroutine that owns its pod's state. What takes time (pulling, creating,
// stopping) runs in other goroutines and ends with an event to the worker, so that a deletion never
// waits for a pull. A worker of a new agent finds the pod's running containers in package runtime,
// and continues from there.
package pod
