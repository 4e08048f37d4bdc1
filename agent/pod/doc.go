// Package pod runs the pods that the API server binds to this node.
//
// It owns the decision what should run now: one worker per pod follows the
// pod's specification, its containers' exits, its probes and its timers, and
// writes the pod's status and events. It never polls, and it never drives the
// kernel or containerd itself: packages runtime, volume, probe and the
// dataplane do.
//
// A worker is one goroutine that owns all state of its pod. What takes time
// (pulling, creating, stopping) runs beside it and hands its result back to
// it, so that a deletion is never stuck behind a pull. A worker that starts
// from nothing finds in package runtime what already lives, and goes on.
package pod
