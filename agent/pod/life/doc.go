// Package life is the life cycle of one pod as a state machine: events in, actions out.
//
// It makes every decision about a pod on its node: what starts next and what is restarted when,
// what stops in which order and how long that may take, what follows from probes, when the pod's
// resources are released, and what its status is. It does nothing itself: no I/O, no goroutines, no
// clock. Package pod carries out its actions and reports their results as events.
//
// States are named (Pod.state, Container.state) and change in methods called become... only.
// Reasons that users see (ContainerCreating, CrashLoopBackOff) are computed from states for the
// status; no decision reads them. README.md in package pod has a diagram of the states.
package life
