package life

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// stopAll stops every container and says whether all have ended. Sidecars
// outlive the main containers, as the pod API promises.
func (p *Pod) stopAll() (allEnded bool) {
	allEnded, mainsEnded := true, true
	for _, c := range p.containers {
		if c.running() || c.beginning() { // an attempt that begins is stopped once it runs
			allEnded = false
			mainsEnded = mainsEnded && c.Role != Main
		}
	}
	grace := p.gracePeriod()
	for _, c := range p.containers {
		switch {
		case c.stopping():
			p.shortenStop(c, grace)
		case c.Role != Sidecar || mainsEnded:
			p.stop(c, grace, "Stopping container "+c.Name)
		}
	}
	return allEnded
}

// stop begins to stop one container that runs: its preStop hook, the stop signal and, at the end of
// the grace period, the kill.
func (p *Pod) stop(c *Container, grace time.Duration, why string) {
	if c.stopping() || !c.running() {
		return
	}
	if p.state != Ending || !p.deletionAsked() {
		// The container is replaced, or its pod has finished; a pod that is deleted was drained
		// instead.
		p.endProbes(c, Startup, Liveness, Readiness)
		c.ready = false
		if c.Role != Init {
			p.setServing(withdrawn)
		}
	}
	p.endPostStart(c)
	p.report(c.Name, corev1.EventTypeNormal, "Killing", "%s", why)
	c.deadline = p.now.Add(grace)
	if spec := p.spec(c); spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil {
		c.becomePreStopping()
		p.do(RunPreStop{Container: c.Name, ID: c.attempt.ID})
		p.continueStop(c)
		return
	}
	p.signal(c)
}

// continueStop continues a stop when its next step is due.
func (p *Pod) continueStop(c *Container) {
	switch {
	case c.state == PreStopping && p.due(c.deadline):
		p.do(EndPreStop{c.Name})
		p.preStopEnded(c)
	case c.state == StopBackOff && p.due(c.stop.at) && p.now.Before(c.killAt()):
		p.signal(c)
	case c.state == StopBackOff && p.due(c.stop.at), c.state == Terminating && p.due(c.killAt()):
		c.becomeKilling()
		p.do(KillContainer{Container: c.Name, ID: c.attempt.ID})
	}
}

func (p *Pod) preStopEnded(c *Container) {
	if c.exited() {
		c.state = Exited
		return
	}
	p.signal(c)
}

func (p *Pod) signal(c *Container) {
	c.becomeTerminating(p.now)
	p.do(SignalContainer{Container: c.Name, ID: c.attempt.ID})
	p.due(c.killAt())
}

// shortenStop shortens the grace period as a later deletion says. It counts from now, as the
// kubelet does: the deletion's timestamp has no fractions of a second, and counting to it would
// give the container up to a second less.
func (p *Pod) shortenStop(c *Container, grace time.Duration) {
	if until := p.now.Add(grace); until.Before(c.deadline) {
		c.deadline = until
		p.continueStop(c)
	}
}

// gracePeriod is the deletion's, else the pod's; an eviction bounds both.
func (p *Pod) gracePeriod() time.Duration {
	seconds := int64(30)
	if s := p.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		seconds = *s
	}
	if s := p.pod.DeletionGracePeriodSeconds; s != nil && p.pod.DeletionTimestamp != nil {
		seconds = *s
	}
	grace := time.Duration(max(seconds, 1)) * time.Second
	if p.failed != nil && p.failed.grace > 0 {
		grace = min(grace, p.failed.grace)
	}
	return grace
}

// checkDeadline fails the pod when its active deadline has passed.
func (p *Pod) checkDeadline() {
	limit := p.pod.Spec.ActiveDeadlineSeconds
	if limit == nil || p.failed != nil || p.terminal() {
		return
	}
	deadline := p.startAt.Add(time.Duration(*limit) * time.Second)
	if p.finishedBefore(deadline) || !p.due(deadline) {
		return
	}
	p.failed = &failure{reason: reasonDeadline, message: messageDeadline}
	p.report("", corev1.EventTypeNormal, reasonDeadline, messageDeadline)
}

// finishedBefore says whether the pod had finished by itself before a time. A container that ended
// later may have been stopped, also by an earlier agent.
func (p *Pod) finishedBefore(t time.Time) bool {
	for _, c := range p.containers {
		if c.Role != Sidecar && c.exited() && !c.attempt.Exit.FinishedAt.Before(t) {
			return false
		}
	}
	return p.finished()
}
