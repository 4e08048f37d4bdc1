// Package life is the life of one pod as a state machine: events in, actions
// out.
//
// It owns every decision about a pod on its node: what starts next and when
// again, what stops in which order and how long it may take, what probes
// decide, when the pod's things are given back, and what its status is. It
// does nothing itself: no I/O, no goroutines, no clock of its own. Package pod
// carries its actions out and reports what became of them as events.
//
// States are named (Pod.state, Container.state) and change in methods called
// become... only. Reasons that users see (ContainerCreating, CrashLoopBackOff)
// are computed from states for the status and are read by no decision. README.md
// in package pod draws the states.
package life
