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
		if c.running() || c.beginning() { // what is on its way is stopped when it has come about
			allEnded = false
			mainsEnded = mainsEnded && c.Role != Main
		}
	}
	grace := p.gracePeriod()
	for _, c := range p.containers {
		switch {
		case !c.running():
		case c.Role == Sidecar && !mainsEnded && c.state != StopBackOff: // one of that state was to be stopped before
		case c.state == Stopping:
			p.shortenStop(c, grace)
		default:
			p.stop(c, grace, "Stopping container "+c.Name)
		}
	}
	return allEnded
}

// stop stops one container that runs: hook, signal, grace, kill.
func (p *Pod) stop(c *Container, grace time.Duration, why string) {
	if c.state == Stopping || !c.running() {
		return
	}
	if !p.due(c.stop.at) { // it failed before, as it does at once while containerd is away
		c.becomeStopBackOff(grace, why)
		return
	}
	if p.state != Ending || !p.deletionAsked() {
		// It is replaced, or its pod has finished; a pod on its way out has been drained instead.
		p.endProbes(c, Startup, Liveness, Readiness)
		c.ready = false
		if c.Role != Init {
			p.setServing(withdrawn)
		}
	}
	p.endPostStart(c)
	p.report(c.Name, corev1.EventTypeNormal, "Killing", "%s", why)
	c.becomeStopping(grace, why, p.now)
	p.do(StopContainer{Container: c.Name, ID: c.attempt.ID, Grace: grace})
}

// shortenStop ends a grace period that a later deletion made shorter. It counts
// from now, as the kubelet does: the deletion's timestamp has no fractions of a
// second, and counting to it would take up to one away from the container.
func (p *Pod) shortenStop(c *Container, grace time.Duration) {
	if grace >= c.grace {
		return
	}
	c.grace = grace
	until := p.now.Add(grace)
	if !until.Before(c.deadline) {
		return
	}
	c.deadline = until
	p.do(ShortenStop{Container: c.Name, Grace: grace})
}

// gracePeriod is what the deletion says, else the pod; an eviction bounds both.
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

// finishedBefore says whether the pod had finished by itself before a time. What ended
// later may have been stopped, by an agent before this one too.
func (p *Pod) finishedBefore(t time.Time) bool {
	for _, c := range p.containers {
		if c.Role != Sidecar && c.exited() && !c.attempt.Exit.FinishedAt.Before(t) {
			return false
		}
	}
	return p.finished()
}
