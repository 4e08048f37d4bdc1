package life

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Event is something that has happened. Late events, about an attempt or a state that has ended, change
// nothing.
type Event interface{ apply(p *Pod) }

type (
	// PodChanged: the API's object has changed. Overwritten says that its status is not the one last written.
	PodChanged struct {
		Pod         *corev1.Pod
		Overwritten bool
	}
	// PodGone: the API's object no longer exists.
	PodGone struct{}
	// ObjectsChanged: a ConfigMap or Secret that the pod uses has changed.
	ObjectsChanged struct{}
	// Adopted: attempts of the pod that an earlier agent left on the node, the older of a container before the
	// newer.
	Adopted struct{ Attempts map[string][]Attempt }
	// Evicted: the node ends the pod.
	Evicted struct {
		Message     string
		Annotations map[string]string
		Grace       time.Duration
		Disrupted   bool
	}
	// Rejected: the node does not run the pod.
	Rejected struct{ Reason, Message string }

	// AddressesAssigned: the pod has addresses of its own.
	AddressesAssigned struct{ Addrs []netip.Addr }
	// SetupReady and SetupFailed answer SetUp.
	SetupReady  struct{}
	SetupFailed struct{}

	// ImagePresent answers PullImage.
	ImagePresent struct{ Container string }
	// ContainerCreated answers CreateContainer.
	ContainerCreated struct{ Container, ID string }
	// ContainerStarted answers StartContainer.
	ContainerStarted struct {
		Container string
		Attempt   Attempt
	}
	// AttemptFailed answers PullImage, CreateContainer and StartContainer.
	AttemptFailed struct {
		Container string
		Failure   Failure
	}
	// AttemptAbandoned answers the same: this container did not fail, but the attempt was given up, or the
	// setup failed.
	AttemptAbandoned struct{ Container string }
	// ContainerExited: an attempt has ended.
	ContainerExited struct {
		Container, ID string
		Exit          Exit
	}
	// PreStopEnded answers RunPreStop, however the hook ended.
	PreStopEnded struct{ Container, ID string }
	// SignalFailed and KillFailed answer SignalContainer and KillContainer if these fail.
	SignalFailed stopFailure
	KillFailed   stopFailure

	// PostStartEnded answers RunPostStart.
	PostStartEnded struct {
		Container, ID string
		Failed        bool
	}
	// Probed: a probe's result has changed.
	Probed struct {
		Container, ID string
		Kind          ProbeKind
		OK            bool
	}

	// Drained answers Drain.
	Drained struct {
		Endpoint bool   // of a service; if not, there was nothing to wait for
		Problem  string // what was not so when the time was over; "": nothing
	}
	// VolumesRefreshed answers RefreshVolumes.
	VolumesRefreshed struct{}
	// Released answers Release.
	Released struct{ Err error }
	// ObjectRemoved answers Remove.
	ObjectRemoved struct{ Err error }
)

func (e PodChanged) apply(p *Pod) {
	p.pod = e.Pod
	p.overwritten = p.overwritten || e.Overwritten
	p.refreshVolumes()
}

func (PodGone) apply(p *Pod) { p.gone = true }

func (ObjectsChanged) apply(p *Pod) {
	p.refreshVolumes()
	for _, c := range p.containers {
		// A container that waits because its configuration was invalid is tried at once.
		if c.shownState() == StartFailed && c.failure.Kind == ConfigInvalid {
			c.restart.clear()
		}
	}
	if p.setup == SetupBackOff {
		p.setupWait.clear()
	}
}

func (e Adopted) apply(p *Pod) {
	for _, c := range p.containers {
		for _, a := range e.Attempts[c.Name] {
			c.becomeRunning(a)
		}
	}
	for _, list := range [][]corev1.ContainerStatus{p.pod.Status.InitContainerStatuses, p.pod.Status.ContainerStatuses} {
		for _, status := range list {
			c := p.Container(status.Name)
			if c == nil {
				continue
			}
			if n := int(status.RestartCount); c.attempt == nil && n >= c.next && status.ContainerID != "" {
				c.next = n + 1 // its record is lost (a new disk): do not count from zero
			}
			if c.running() && status.ContainerID == containerID(c.attempt) {
				c.ready = status.Ready
				c.started = status.Started != nil && *status.Started
			}
		}
	}
	for _, c := range p.containers {
		if c.running() {
			p.watchProbes(c)
		}
	}
}

func (e Evicted) apply(p *Pod) {
	if p.failed != nil || p.terminal() || p.published != nil && terminalPhase(p.published.Phase) {
		return
	}
	p.failed = &failure{reason: reasonEvicted, message: e.Message, disrupted: e.Disrupted, grace: e.Grace}
	p.do(Report{Type: corev1.EventTypeWarning, Reason: reasonEvicted, Message: e.Message, Annotations: e.Annotations})
}

func (e Rejected) apply(p *Pod) {
	if p.finished() || p.pod.DeletionTimestamp != nil {
		return
	}
	p.failed = &failure{reason: e.Reason, message: "Pod was rejected: " + e.Message, rejected: true}
	p.report("", corev1.EventTypeWarning, e.Reason, "%s", e.Message)
}

func (e AddressesAssigned) apply(p *Pod) { p.addrs = e.Addrs }

func (p *Pod) settingUp() bool { return p.setup == SettingUp || p.setup == SetupFailing }

func (SetupReady) apply(p *Pod) {
	if p.settingUp() {
		p.setup = SetupDone
		p.setupWait.clear()
	}
}

func (SetupFailed) apply(p *Pod) {
	if p.settingUp() {
		p.setup = SetupBackOff
		p.setupWait.next(p.now, p.now)
	}
}

func (e ImagePresent) apply(p *Pod) {
	switch c := p.Container(e.Container); {
	case c.state != Pulling:
	case p.state != Active:
		c.becomeIdle()
	default:
		c.becomeCreating()
		p.do(CreateContainer{Container: c.Name, Number: c.next})
	}
}

func (e ContainerCreated) apply(p *Pod) {
	switch c := p.Container(e.Container); {
	case c.state != Creating:
	case p.state != Active || p.setup != SettingUp && p.setup != SetupDone:
		p.do(DiscardContainer{Container: c.Name, ID: e.ID})
		c.becomeIdle()
	default:
		c.becomeStarting(e.ID)
		p.do(StartContainer{Container: c.Name, ID: e.ID})
	}
}

func (e ContainerStarted) apply(p *Pod) {
	c := p.Container(e.Container)
	if c.state != Starting || c.created != e.Attempt.ID {
		return
	}
	if c.previous != nil {
		p.do(ForgetContainer{c.previous.ID})
	}
	c.becomeRunning(e.Attempt)
	if c.running() {
		p.watchProbes(c)
		p.runPostStart(c)
	}
}

func (e AttemptFailed) apply(p *Pod) {
	if c := p.Container(e.Container); c.beginning() {
		c.becomeFailed(e.Failure, p.now)
	}
}

func (e AttemptAbandoned) apply(p *Pod) {
	c := p.Container(e.Container)
	if !c.beginning() {
		return
	}
	if c.state != Pulling && p.setup == SettingUp {
		p.setup = SetupFailing // else the setup would begin again at once, repeatedly
	}
	c.becomeIdle()
}

func (e ContainerExited) apply(p *Pod) {
	p.serving = unknown // an exit withdraws the address before it is an event
	switch c := p.Container(e.Container); {
	case c == nil:
	case c.state == Starting && c.created == e.ID:
		c.exit = &e.Exit // before its start is known to have succeeded
	case c.running() && c.attempt.ID == e.ID:
		p.endProbes(c, Startup, Liveness, Readiness)
		p.endPostStart(c)
		c.becomeExited(e.Exit)
	}
}

func (e PreStopEnded) apply(p *Pod) {
	if c := p.Container(e.Container); c.state == PreStopping && c.attempt.ID == e.ID {
		p.preStopEnded(c)
	}
}

type stopFailure struct {
	Container, ID string
	Err           error
}

func (e SignalFailed) apply(p *Pod) { p.stopFailed(Terminating, stopFailure(e)) }
func (e KillFailed) apply(p *Pod)   { p.stopFailed(Killing, stopFailure(e)) }

func (p *Pod) stopFailed(in State, e stopFailure) {
	c := p.Container(e.Container)
	if c.state != in || c.attempt.ID != e.ID {
		return
	}
	if c.stop.failed(p.now, e.Err) {
		p.report("", corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", e.Err)
		p.do(LogError{Message: "container not stopped; trying again", Container: c.Name, Err: e.Err})
	}
	c.becomeStopBackOff()
}

func (e PostStartEnded) apply(p *Pod) {
	c := p.Container(e.Container)
	if !c.hook || c.attempt.ID != e.ID {
		return
	}
	c.hook = false
	if e.Failed {
		p.stop(c, p.gracePeriod(), "FailedPostStartHook")
	}
}

func (e Drained) apply(p *Pod) {
	if p.state == Draining {
		if e.Endpoint {
			p.drained = &e
		}
		p.becomeEnding()
	}
}

func (e Released) apply(p *Pod) {
	switch {
	case p.state != Releasing:
	case e.Err == nil:
		p.becomeEnded()
	default:
		if p.clean.failed(p.now, e.Err) {
			p.report("", corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", e.Err)
			p.do(LogError{Message: "the pod's resources could not be released; trying again", Err: e.Err})
		}
		p.becomeReleaseBackOff()
	}
}

func (e ObjectRemoved) apply(p *Pod) {
	switch {
	case p.state != Removing:
	case e.Err == nil:
		p.becomeRemoved()
	default:
		if p.clean.failed(p.now, e.Err) {
			p.do(LogError{Message: "pod not removed yet; trying again", Err: e.Err})
		}
		p.becomeRemoveBackOff()
	}
}

// refreshVolumes brings configuration volumes up to date, one pass at a time.
func (p *Pod) refreshVolumes() {
	switch {
	case p.setup != SetupDone || p.state != Active || p.finished() || p.pod.DeletionTimestamp != nil || !hasContent(p.pod):
	case p.refresh != fresh:
		p.refresh = stale
	default:
		p.refresh = refreshing
		p.do(RefreshVolumes{})
	}
}

func (VolumesRefreshed) apply(p *Pod) {
	again := p.refresh == stale
	if p.refresh = fresh; again {
		p.refreshVolumes()
	}
}

func hasContent(pod *corev1.Pod) bool {
	for _, v := range pod.Spec.Volumes {
		if v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil {
			return true
		}
	}
	return false
}
