package life

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// watchProbes begins the probes of a running container and, where it has none, sets what they would
// find. The startup probe comes first and alone.
func (p *Pod) watchProbes(c *Container) {
	spec := p.spec(c)
	c.started = c.started || spec.StartupProbe == nil
	if !c.started {
		p.watch(c, Startup, false)
		return
	}
	if spec.LivenessProbe != nil {
		p.watch(c, Liveness, true)
	}
	if spec.ReadinessProbe == nil {
		c.ready = true
		return
	}
	p.watch(c, Readiness, c.ready)
}

func (p *Pod) watch(c *Container, kind ProbeKind, initial bool) {
	c.probes[kind] = true
	p.do(WatchProbe{Container: c.Name, Attempt: *c.attempt, Kind: kind, Initial: initial})
}

func (p *Pod) endProbes(c *Container, kinds ...ProbeKind) {
	for _, kind := range kinds {
		if c.probes[kind] {
			delete(c.probes, kind)
			p.do(EndProbe{Container: c.Name, Kind: kind})
		}
	}
}

// apply applies a probe's result, unless it is about an earlier attempt or a probe that was ended.
func (e Probed) apply(p *Pod) {
	if e.Kind == Readiness {
		p.serving = unknown // a failure withdraws the address before it is an event
	}
	c := p.Container(e.Container)
	if !c.running() || c.attempt.ID != e.ID || !c.probes[e.Kind] {
		return
	}
	spec := p.spec(c)
	switch e.Kind {
	case Readiness:
		c.ready = e.OK
	case Startup:
		p.endProbes(c, Startup)
		if c.started = e.OK; e.OK {
			p.watchProbes(c)
			return
		}
		p.stopUnhealthy(c, "startup", spec.StartupProbe)
	case Liveness:
		if !e.OK {
			p.stopUnhealthy(c, "liveness", spec.LivenessProbe)
		}
	}
}

// stopUnhealthy stops a container because a probe failed. Its exit is then handled like any other.
func (p *Pod) stopUnhealthy(c *Container, kind string, probe *corev1.Probe) {
	grace := p.gracePeriod()
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
	}
	why := fmt.Sprintf("Container %s failed %s probe", c.Name, kind)
	if p.pod.Spec.RestartPolicy != corev1.RestartPolicyNever || c.Role == Sidecar {
		why += ", will be restarted"
	}
	p.stop(c, grace, why)
}

func (p *Pod) runPostStart(c *Container) {
	if spec := p.spec(c); spec.Lifecycle != nil && spec.Lifecycle.PostStart != nil {
		c.hook = true
		p.do(RunPostStart{Container: c.Name, ID: c.attempt.ID})
	}
}

// endPostStart cancels the hook: its container has ended, or is to be stopped.
func (p *Pod) endPostStart(c *Container) {
	if c.hook {
		c.hook = false
		p.do(EndPostStart{c.Name})
	}
}
