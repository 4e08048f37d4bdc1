package life

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// startAll starts what should run: init containers one after the other,
// sidecars until they have started, and then the main containers at once.
func (p *Pod) startAll() {
	p.ensureSetup()
	begun := p.mainsBegun()
	for _, c := range p.containers {
		p.ensureStarted(c)
		switch {
		case c.Role == Init && !c.succeeded() && !begun, c.Role == Sidecar && !c.started && !begun:
			return // the others wait for it
		}
	}
}

// ensureSetup begins the setup once, and again after a failure and its back-off.
func (p *Pod) ensureSetup() {
	switch p.setup {
	case SettingUp, SetupFailing, SetupDone:
		return
	case SetupBackOff:
		if wait := p.setupWait.remaining(p.setupWait.since, p.now); wait > 0 {
			p.due(p.now.Add(wait))
			return
		}
	}
	p.setup = SettingUp
	p.do(SetUp{})
}

// errorShown is how long a failure is shown before the wait that follows it.
const errorShown = time.Second

// ensureStarted begins the next attempt when it is due.
func (p *Pod) ensureStarted(c *Container) {
	switch {
	case c.beginning() || c.running() || c.stopping():
		return
	case c.Role == Init && (c.succeeded() || p.mainsBegun()):
		return
	case c.exited() && !p.mayRestart(c):
		return
	}
	if c.exited() {
		if wait := c.restart.remaining(c.attempt.Exit.FinishedAt, p.now); wait > 0 {
			p.waitForRestart(c, p.now.Add(wait))
			return
		}
	}
	if wait := c.pull.remaining(c.pull.since, p.now); wait > 0 {
		p.waitForPull(c, p.now.Add(wait))
		return
	}
	if (c.state == StartFailed || c.state == StartBackOff) && !c.exited() {
		if wait := c.restart.remaining(c.restart.since, p.now); wait > 0 {
			p.waitForStart(c, p.now.Add(wait))
			return
		}
	}
	if p.setup != SettingUp && p.setup != SetupDone {
		return
	}
	if c.exited() {
		c.restart.next(c.attempt.Exit.FinishedAt, p.now)
	}
	c.becomePulling()
	p.do(PullImage{c.Name})
}

// waitForRestart shows the wait for a restart, once.
func (p *Pod) waitForRestart(c *Container, until time.Time) {
	p.due(until)
	if c.state == RestartBackOff && c.shownWait == c.restart.wait {
		return
	}
	c.becomeRestartBackOff()
	p.reportRestartBackOff(c)
}

// waitForStart shows the wait for another try at a process that could not be started, once. Errors
// from before the process existed are shown throughout.
func (p *Pod) waitForStart(c *Container, until time.Time) {
	if c.state == StartFailed && c.failure.Kind == RunFailed {
		if !p.due(c.restart.since.Add(errorShown)) {
			return
		}
		c.becomeStartBackOff()
		p.reportRestartBackOff(c)
	}
	p.due(until)
}

func (p *Pod) reportRestartBackOff(c *Container) {
	p.report(c.Name, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", c.Name, Formatted(p.pod))
}

// waitForPull shows the wait for the next pull, once.
func (p *Pod) waitForPull(c *Container, until time.Time) {
	if c.state == PullFailed && c.failure.Kind == ImagePull {
		if !p.due(c.pull.since.Add(errorShown)) {
			return
		}
		c.becomePullBackOff()
		p.report(c.Name, corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", p.spec(c).Image)
		p.report(c.Name, corev1.EventTypeWarning, "Failed", "Error: %s", reasonPullBackOff)
	}
	p.due(until)
}

// mayRestart says whether the policy allows another attempt after this exit.
func (p *Pod) mayRestart(c *Container) bool {
	if c.Role == Sidecar {
		return true
	}
	policy := p.pod.Spec.RestartPolicy
	if own := p.spec(c).RestartPolicy; own != nil {
		policy = corev1.RestartPolicy(*own)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return !c.succeeded()
	}
	// Always: but an init container that has succeeded is done.
	return c.Role != Init || !c.succeeded()
}

// finished says whether nothing will run again.
func (p *Pod) finished() bool {
	if p.failed != nil || p.terminal() || p.failedInit() != nil {
		return true
	}
	for _, c := range p.containers {
		if c.Role == Main && (!c.exited() || p.mayRestart(c)) {
			return false
		}
	}
	return true
}

// failedInit is an init container that failed and will not run again.
func (p *Pod) failedInit() *Container {
	for _, c := range p.containers {
		if c.Role == Init && c.exited() && !c.succeeded() && !p.mayRestart(c) {
			return c
		}
	}
	return nil
}

// started says whether any container runs.
func (p *Pod) started() bool {
	for _, c := range p.containers {
		if c.running() {
			return true
		}
	}
	return false
}

// mayRun says whether a container of the pod runs, or is about to.
func (p *Pod) mayRun() bool {
	for _, c := range p.containers {
		if c.running() || c.beginning() {
			return true
		}
	}
	return false
}

func (p *Pod) mainsBegun() bool {
	for _, c := range p.containers {
		if c.Role == Main && (c.attempt != nil || c.beginning()) {
			return true
		}
	}
	return false
}

// spec is the container's specification.
func (p *Pod) spec(c *Container) *corev1.Container { return ContainerSpec(p.pod, c.Name) }

// ContainerSpec is the specification of a container of a pod; nil if the pod has none of that name.
func ContainerSpec(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
