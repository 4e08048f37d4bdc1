package life

import (
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// PodState is what is being done about the pod as a whole.
type PodState int

// The states of a pod, in the order in which it goes through them. It never goes
// back but from a ...BackOff.
const (
	// Active: its containers are started, and restarted.
	Active PodState = iota
	// Draining: it is to be deleted. Its containers run on while clients look
	// elsewhere; nothing is started any more, here or later.
	Draining
	// Ending: what still runs is stopped.
	Ending
	// Releasing: nothing runs. Network, namespaces and volumes are given back.
	Releasing
	// ReleaseBackOff: that failed, and is tried again.
	ReleaseBackOff
	// Ended: it has finished and holds nothing but its records, which stay until
	// its object is deleted.
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

// SetupState is how far that is which containers stand on.
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

// Config is what a life depends on beside the pod.
type Config struct {
	NodeIPs    []netip.Addr
	QOSClass   corev1.PodQOSClass
	MaxBackOff time.Duration // bounds the waits between attempts
	// RecursiveReadOnly says whether the runtime makes mounts read-only with all
	// below them. It is asked when a container has run; its answer never changes.
	RecursiveReadOnly func() bool
}

// Pod is the life of one pod.
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

	// containers in the order of the specification, init containers first. They
	// neither come nor go.
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
	// serving is what was last asked for the pod's address.
	serving servingState
	// published is the status that was last written; nil before the first.
	published *corev1.PodStatus
	// overwritten says that the API has another status than published.
	overwritten bool

	// Of the step under way:
	now     time.Time
	wake    time.Time // when the next step is due, at the latest; zero: none is
	actions []Action
}

// failure ends a pod from this side.
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

// New begins the life of a pod, or goes on with it: Adopted says what is there.
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

// Step applies what has happened, in order, and returns what is to be done now.
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

// advance does what the state asks for, and leaves the state when it is over.
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

// State is what is being done about the pod.
func (p *Pod) State() PodState { return p.state }

// Wake is when the next step is due if nothing happens before; zero if none is.
func (p *Pod) Wake() time.Time { return p.wake }

// Container returns one by its name; nil if the pod has none of it.
func (p *Pod) Container(name string) *Container {
	for _, c := range p.containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (p *Pod) do(a Action) { p.actions = append(p.actions, a) }

// due says whether a time has come. If not, a step is due then.
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

// becomeDraining begins the way of a deletion. A signal sent before clients have
// turned away would end programs to which nodes that do not know of the
// deletion still send connections. The pod stays in the service maps as what
// serves if nothing else does, so its readiness is still asked for; what would
// end its containers for their health is not.
func (p *Pod) becomeDraining() {
	p.state = Draining
	p.abandon()
	if p.gone || !p.started() {
		return // nobody to wait for
	}
	for _, c := range p.containers {
		p.endProbes(c, Liveness, Startup)
	}
	p.do(Drain{Limit: min(drainLimit, p.gracePeriod()/2)})
}

// drainLimit bounds what a deletion waits for others to look elsewhere: a control
// plane that is away must not keep pods alive. Usually the wait is some tens of
// milliseconds; a control plane whose disk is slow needs more.
const drainLimit = 2 * time.Second

// abandon gives up what is on its way, since nothing will be started any more.
// Only waits are given up: a start beyond its image takes no longer than a stop,
// and has things to leave behind.
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

// deletionAsked says whether the pod is to go from this node.
func (p *Pod) deletionAsked() bool { return p.gone || p.pod.DeletionTimestamp != nil }

// terminal says whether the API has the pod as finished, whoever decided that.
func (p *Pod) terminal() bool { return terminalPhase(p.pod.Status.Phase) }

func terminalPhase(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// Formatted names a pod as kubelet's messages do.
func Formatted(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// setServing asks for the pod's address to be in the service maps, or not.
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

// updateServing keeps the service maps in step with readiness: out at once,
// back in when ready again.
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
