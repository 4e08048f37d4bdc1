// Package pod runs the pods that the API server binds to this node.
//
// It owns what the node does for a pod: one worker per pod follows the pod's
// object, its containers' exits and its probes, and writes the pod's status and
// events. What is to be done, and when, is decided in package life alone. It
// never polls, and it never drives the kernel or containerd itself: packages
// runtime, volume, probe and the dataplane do.
//
// A worker is one goroutine that owns its pod's life. What takes time
// (pulling, creating, stopping) runs beside it and comes back to it as an
// event, so that a deletion is never stuck behind a pull. A worker that starts
// from nothing finds in package runtime what already lives, and goes on.
package pod
