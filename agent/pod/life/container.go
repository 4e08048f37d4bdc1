package life

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Role of a container in its pod's life.
type Role int

// Init containers run to completion, one after the other; a sidecar is one that stays.
const (
	Init Role = iota
	Sidecar
	Main
)

// State of a container.
type State int

// The states of a container. Between attempts it is in one of the first seven.
const (
	// Waiting: for its turn, or for the setup. Nothing has failed.
	Waiting State = iota
	// Exited: an attempt has run. The restart policy decides at once what follows: the next attempt, RestartBackOff, or nothing.
	Exited
	// RestartBackOff: the next attempt waits, since several have exited.
	RestartBackOff
	// PullFailed: the image could not be pulled. The error is shown, the next attempt waits.
	PullFailed
	// PullBackOff: the same, and the wait is shown.
	PullBackOff
	// StartFailed: it could not be configured, created or started. The error is
	// shown, the next attempt waits.
	StartFailed
	// StartBackOff: the same, and the wait is shown.
	StartBackOff

	// Pulling, Creating, Starting: an attempt has begun and does not run yet.
	Pulling
	Creating
	Starting

	Running

	// PreStopping: it is being stopped, and its preStop hook runs. It stays in this state until the hook or the grace period
	// ends, even if its process exits before.
	PreStopping
	// Terminating: the stop signal is sent. It has the rest of the grace period to exit.
	Terminating
	// Killing: it is killed, since the grace period is over.
	Killing
	// StopBackOff: it runs, and could not be signalled or killed. That is tried again.
	StopBackOff
	states // their number
)

func (s State) String() string {
	return [...]string{"Waiting", "Exited", "RestartBackOff", "PullFailed", "PullBackOff", "StartFailed", "StartBackOff",
		"Pulling", "Creating", "Starting", "Running", "PreStopping", "Terminating", "Killing", "StopBackOff"}[s]
}

// Attempt is one run of a container.
type Attempt struct {
	ID             string
	Number         int // from 0; restarts before it
	Image, ImageID string
	User           *corev1.ContainerUser
	StartedAt      time.Time
	Exit           *Exit // nil while it runs
}

// Exit is how an attempt ended.
type Exit struct {
	Code            int
	Reason, Message string
	FinishedAt      time.Time
}

// ProbeKind is the question that a probe asks.
type ProbeKind string

// The kinds, as events name them.
const (
	Liveness  ProbeKind = "Liveness"
	Readiness ProbeKind = "Readiness"
	Startup   ProbeKind = "Startup"
)

// Container is what is known of one container of the pod.
type Container struct {
	Name string
	Role Role

	state State

	// attempt is the newest that was started; nil before the first.
	// From Running on it runs, but in PreStopping it may have just exited; in Exited
	// and RestartBackOff it has exited; in all others it is nil or has exited.
	attempt *Attempt
	// previous is the attempt before that, which has exited; nil if there is none.
	previous *Attempt
	// next is the number of the next attempt, above those of all before.
	next int

	// resumed is the state in which the attempt under way began, which is shown until the attempt runs or has failed. Valid in
	// Pulling, Creating, Starting.
	resumed State
	// created is the container that was made for the attempt. Valid in Starting.
	created string
	// exit is that of created, if it is reported before the start is. Nil except in Starting.
	exit *Exit
	// failure is why the last attempt was not started. Valid in PullFailed,
	// PullBackOff, StartFailed, StartBackOff, and while one of these is resumed.
	failure Failure
	// shownWait is the back-off that was shown last. Valid in RestartBackOff and StartBackOff, and while one of these is resumed.
	shownWait time.Duration

	// restart is the back-off after attempts that exited or could not be started, pull that after failed pulls.
	restart, pull backoff

	// started and ready are the results of startup and readiness probes, or true without such a probe. False unless the newest
	// attempt runs; ready does not imply started: the status shows ready if both are true.
	started, ready bool
	// probes are the kinds that are being probed. None unless the newest attempt runs.
	probes map[ProbeKind]bool
	// hook says that the postStart hook is under way. False unless Running.
	hook bool

	// deadline is when the grace period ends, the shortest that was requested. It never moves later. Valid from PreStopping on.
	deadline time.Time
	// signalledAt is when the stop signal was last sent. Valid in Terminating, Killing and StopBackOff.
	signalledAt time.Time
	// stop is the wait after failed signals and kills of the attempt.
	stop retry
}

// State is the container's state.
func (c *Container) State() State { return c.state }

// FailureKind is what failed in an attempt before its process ran.
type FailureKind int

// The kinds; the first four are of the image.
const (
	ImageNameInvalid FailureKind = iota
	ImageInspect
	ImageNeverPull
	ImagePull
	ConfigInvalid
	CreateFailed
	RunFailed
)

func (k FailureKind) image() bool { return k <= ImagePull }

// Reason is the kind as the API shows it.
func (k FailureKind) Reason() string {
	return [...]string{"InvalidImageName", "ImageInspectError", "ErrImageNeverPull", "ErrImagePull",
		"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}[k]
}

// Failure is an attempt that was not started.
type Failure struct {
	Kind    FailureKind
	Message string
}

// running says whether the newest attempt runs, being stopped or not.
func (c *Container) running() bool { return c.attempt != nil && c.attempt.Exit == nil }

// stopping says whether the container is being stopped.
func (c *Container) stopping() bool { return c.state >= PreStopping }

// killAt is when the container is killed: at the end of the grace period, but not earlier than leastAfterSignal after the stop
// signal, also if the preStop hook used up the grace period.
func (c *Container) killAt() time.Time {
	if least := c.signalledAt.Add(leastAfterSignal); least.After(c.deadline) {
		return least
	}
	return c.deadline
}

// leastAfterSignal is kubelet's minimum between signal and kill.
const leastAfterSignal = 2 * time.Second

// exited says whether the newest attempt that ran has exited, also if another has begun since.
func (c *Container) exited() bool { return c.attempt != nil && c.attempt.Exit != nil }

func (c *Container) succeeded() bool { return c.exited() && c.attempt.Exit.Code == 0 }

// beginning says whether an attempt has begun and does not run yet.
func (c *Container) beginning() bool {
	return c.state == Pulling || c.state == Creating || c.state == Starting
}

// shownState is the state for the status: while an attempt begins, the state before it.
func (c *Container) shownState() State {
	if c.beginning() {
		return c.resumed
	}
	return c.state
}

func (c *Container) becomePulling() { c.state, c.resumed = Pulling, c.state }

func (c *Container) becomeCreating() { c.state = Creating }

func (c *Container) becomeStarting(id string) { c.state, c.created, c.exit = Starting, id, nil }

// becomeRunning takes over the attempt that was started, unless it has ended since.
func (c *Container) becomeRunning(a Attempt) {
	if a.Exit == nil {
		a.Exit = c.exit
	}
	c.previous, c.attempt, c.next = c.attempt, &a, a.Number+1
	c.state, c.exit, c.stop = Running, nil, retry{}
	c.pull.clear()
	if a.Exit != nil {
		c.state = Exited
	}
}

// becomeIdle ends an attempt that was given up without a failure.
func (c *Container) becomeIdle() {
	c.state, c.exit = Waiting, nil
	if c.exited() {
		c.state = Exited
	}
}

func (c *Container) becomeFailed(f Failure, now time.Time) {
	c.failure, c.exit = f, nil
	switch {
	case f.Kind.image():
		c.state = PullFailed
		c.pull.next(now, now)
	default:
		c.state = StartFailed
		if !c.exited() { // else it was counted when this attempt began
			c.restart.next(now, now)
		}
	}
}

func (c *Container) becomePullBackOff() { c.state = PullBackOff }

func (c *Container) becomeStartBackOff() { c.state, c.shownWait = StartBackOff, c.restart.wait }

func (c *Container) becomeRestartBackOff() { c.state, c.shownWait = RestartBackOff, c.restart.wait }

func (c *Container) becomePreStopping() { c.state = PreStopping }

func (c *Container) becomeTerminating(now time.Time) { c.state, c.signalledAt = Terminating, now }

func (c *Container) becomeKilling() { c.state = Killing }

func (c *Container) becomeStopBackOff() { c.state = StopBackOff }

// becomeExited records the exit of the newest attempt. While the preStop hook runs, the state stays.
func (c *Container) becomeExited(exit Exit) {
	a := *c.attempt
	a.Exit = &exit
	c.attempt = &a
	c.started, c.ready = false, false
	if c.state != PreStopping {
		c.state = Exited
	}
}
