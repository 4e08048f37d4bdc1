package life

import (
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// PodState is the state of the pod as a whole.
type PodState int

// The states of a pod, in the order in which it goes through them. It never goes back, except from
// a ...BackOff.
const (
	// Active: its containers are started, and restarted.
	Active PodState = iota
	// Draining: it is to be deleted. Its containers keep running while clients turn to other pods;
	// from here on, nothing is started any more.
	Draining
	// Ending: what still runs is stopped.
	Ending
	// Releasing: nothing runs. Network, namespaces and volumes are released.
	Releasing
	// ReleaseBackOff: that failed, and is tried again.
	ReleaseBackOff
	// Ended: it has finished. Only its records remain, until its object is deleted.
	Ended
	// Removing: its object is deleted, then its records.
	Removing
	// RemoveBackOff: that failed, and is tried again.
	RemoveBackOff
	// Removed: there is nothing of it on this node.
	Removed
	podStates // their number
)

func (s PodState) String() string {
	return [...]string{"Active", "Draining", "Ending", "Releasing", "ReleaseBackOff", "Ended", "Removing", "RemoveBackOff", "Removed"}[s]
}

// SetupState is the progress of the pod's setup: namespaces, network and volumes.
type SetupState int

// The states of the setup.
const (
	SetupNone SetupState = iota
	SettingUp
	SetupFailing // a part of it has failed, the others are still under way
	SetupDone
	SetupBackOff // it failed, and is tried again while the pod is Active
)

func (s SetupState) String() string {
	return [...]string{"SetupNone", "SettingUp", "SetupFailing", "SetupDone", "SetupBackOff"}[s]
}

// Config is what the state machine depends on beside the pod.
type Config struct {
	NodeIPs    []netip.Addr
	QOSClass   corev1.PodQOSClass
	MaxBackOff time.Duration // bounds the waits between attempts
	// RecursiveReadOnly says whether the runtime makes mounts read-only with all below them. It is
	// called when a container has run; its result never changes.
	RecursiveReadOnly func() bool
}

// Pod is the state machine of one pod.
type Pod struct {
	cfg Config

	// pod is the newest from the API, shared with others: never changed.
	pod *corev1.Pod
	// gone says that the API's object no longer exists. It stays so.
	gone  bool
	state PodState

	// setup is SettingUp or SetupDone whenever an attempt of a container begins;
	// SetupNone from Ended on.
	setup SetupState
	// setupWait is the wait after failed setups.
	setupWait backoff
	// addrs are the pod's own; none on the node's network, or before it has one.
	addrs []netip.Addr

	// containers in the order of the specification, init containers first. The list never changes.
	containers []*Container

	// startAt is when this node first saw the pod, by its status.
	startAt time.Time
	// failed is why this node ends the pod by itself; nil if it does not. The
	// first reason stays.
	failed *failure
	// clean is the wait between failures of Release, or of Remove.
	clean retry
	// refresh of volumes.
	refresh refreshState
	// serving is what was last requested for the pod's address.
	serving servingState
	// drained is how the drain of an endpoint ended; nil before, and for other pods.
	drained *Drained
	// published is the status that was last written; nil before the first.
	published *corev1.PodStatus
	// overwritten says that the API's status is not published.
	overwritten bool

	// Of the step under way:
	now     time.Time
	wake    time.Time // when the next step is due, at the latest; zero: no step is due
	actions []Action
}

// failure is why this node ends a pod.
type failure struct {
	reason, message string
	rejected        bool          // by this node, before it began
	disrupted       bool          // for the node's sake
	grace           time.Duration // bounds the pod's own; 0: it does not
}

type refreshState int

const (
	fresh      refreshState = iota
	refreshing              // under way
	stale                   // under way, and needed once more
)

type servingState int

const (
	unknown servingState = iota // others may have withdrawn the address
	serving
	withdrawn
)

// New returns the state machine of a pod, new or adopted: event Adopted has the containers of the
// latter.
func New(cfg Config, pod *corev1.Pod, now time.Time) *Pod {
	p := &Pod{
		cfg: cfg, pod: pod, startAt: now,
		setupWait: backoff{limit: min(cfg.MaxBackOff, 2*time.Minute)},
	}
	if pod.Status.StartTime != nil {
		p.startAt = pod.Status.StartTime.Time
	}
	for i := range pod.Spec.InitContainers {
		role := Init
		if policy := pod.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			role = Sidecar
		}
		p.add(pod.Spec.InitContainers[i].Name, role)
	}
	for i := range pod.Spec.Containers {
		p.add(pod.Spec.Containers[i].Name, Main)
	}
	return p
}

func (p *Pod) add(name string, role Role) {
	p.containers = append(p.containers, &Container{
		Name: name, Role: role, probes: map[ProbeKind]bool{},
		restart: backoff{limit: p.cfg.MaxBackOff}, pull: backoff{limit: p.cfg.MaxBackOff},
	})
}

// Step applies events in order, and returns the actions to carry out now.
func (p *Pod) Step(now time.Time, events ...Event) []Action {
	p.now, p.wake, p.actions = now, time.Time{}, nil
	for _, e := range events {
		e.apply(p)
	}
	p.checkDeadline()
	for before := podStates; before != p.state; {
		before = p.state
		for _, c := range p.containers {
			p.continueStop(c)
		}
		p.advance()
	}
	p.updateServing()
	p.publish()
	return p.actions
}

// advance emits the actions of the state, and changes to the next state when they are done.
func (p *Pod) advance() {
	switch p.state {
	case Active:
		switch {
		case p.deletionAsked():
			p.becomeDraining()
		case p.finished():
			p.abandon()
			p.becomeEnding()
		default:
			p.startAll()
		}
	case Draining:
		if p.gone || !p.started() {
			p.becomeEnding()
		}
	case Ending:
		if p.gone {
			p.setServing(withdrawn)
		}
		if p.stopAll() {
			p.becomeReleasing()
		}
	case ReleaseBackOff:
		if p.due(p.clean.at) {
			p.becomeReleasing()
		}
	case Ended:
		if p.deletionAsked() {
			p.becomeRemoving()
		}
	case RemoveBackOff:
		if p.due(p.clean.at) {
			p.becomeRemoving()
		}
	}
}

// State is the pod's state.
func (p *Pod) State() PodState { return p.state }

// Wake is when the next step is due if nothing happens before; zero if none is.
func (p *Pod) Wake() time.Time { return p.wake }

// Container returns a container by name; nil if the pod has none of that name.
func (p *Pod) Container(name string) *Container {
	for _, c := range p.containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (p *Pod) do(a Action) { p.actions = append(p.actions, a) }

// due says whether a time has come. If not, a step is scheduled for then.
func (p *Pod) due(at time.Time) bool {
	if !p.now.Before(at) {
		return true
	}
	if p.wake.IsZero() || at.Before(p.wake) {
		p.wake = at
	}
	return false
}

func (p *Pod) report(container, kind, reason, format string, args ...any) {
	p.do(Report{Container: container, Type: kind, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// becomeDraining begins a deletion. A signal sent before clients have turned to other pods would
// end programs to which nodes that have not seen the deletion yet still send connections. The pod
// stays in the service maps as a backend of last resort, so readiness probes go on; liveness and
// startup probes, which would stop its containers, end.
func (p *Pod) becomeDraining() {
	p.state = Draining
	p.abandon()
	if p.gone || !p.started() {
		return // no client to wait for
	}
	for _, c := range p.containers {
		p.endProbes(c, Liveness, Startup)
	}
	p.do(Drain{Limit: min(drainLimit, p.gracePeriod()/2)})
}

// drainLimit bounds how long a deletion waits for other nodes to stop sending: a control plane that
// does not answer must not keep pods running. Usually the wait is some tens of milliseconds; a
// control plane whose disk is slow needs more.
const drainLimit = 2 * time.Second

// abandon gives up attempts that have begun, since nothing will be started any more. Only waits are
// given up: once the image is there, a start takes no longer than a stop, and giving it up would
// leave parts of it behind.
func (p *Pod) abandon() {
	if p.setup != SetupNone {
		p.do(AbandonSetup{})
	}
	for _, c := range p.containers {
		if c.state == Pulling {
			p.do(AbandonPull{c.Name})
		}
	}
}

func (p *Pod) becomeEnding() { p.state = Ending }

func (p *Pod) becomeReleasing() {
	p.state = Releasing
	p.do(Release{})
}

func (p *Pod) becomeReleaseBackOff() { p.state = ReleaseBackOff }

func (p *Pod) becomeEnded() { p.state, p.setup, p.clean = Ended, SetupNone, retry{} }

func (p *Pod) becomeRemoving() {
	p.state = Removing
	p.do(Remove{ObjectGone: p.gone, Status: p.status()})
}

func (p *Pod) becomeRemoveBackOff() { p.state = RemoveBackOff }

func (p *Pod) becomeRemoved() { p.state = Removed }

// deletionAsked says whether the pod is to be removed from this node.
func (p *Pod) deletionAsked() bool { return p.gone || p.pod.DeletionTimestamp != nil }

// terminal says whether the API's pod has a final phase, whoever set it.
func (p *Pod) terminal() bool { return terminalPhase(p.pod.Status.Phase) }

func terminalPhase(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// Formatted names a pod as kubelet's messages do.
func Formatted(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// setServing requests that the pod's address be added to or removed from the service maps.
func (p *Pod) setServing(s servingState) {
	if p.serving == s {
		return
	}
	p.serving = s
	if s == serving {
		p.do(RestoreAddress{})
	} else {
		p.do(WithdrawAddress{})
	}
}

// updateServing updates the service maps by readiness: removed at once, added again when ready.
func (p *Pod) updateServing() {
	if p.deletionAsked() {
		return
	}
	ready := true
	for _, c := range p.containers {
		if c.Role != Init && !(c.running() && c.ready) {
			ready = false
		}
	}
	if ready {
		p.setServing(serving)
	} else if p.started() {
		p.setServing(withdrawn)
	}
}
