package life

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The twin has no states. It computes each answer about the pod from all that has happened in the
// world.

// leaving says whether the pod ends with all its containers, by deletion, and clients have turned
// to other pods.
func (w *world) leaving() bool {
	return w.gone || w.deleted && w.drained
}

// mainsBusy says whether a main container runs or is about to.
func (w *world) mainsBusy() bool {
	return slices.ContainsFunc(w.containers, func(b *box) bool { return b.role == Main && (b.alive() || b.pending != "") })
}

func (w *world) twinMayRestart(b *box) bool {
	policy := w.pod.Spec.RestartPolicy
	switch {
	case b.role == Sidecar:
		return true
	case policy == corev1.RestartPolicyNever:
		return false
	}
	return !b.succeeded() || policy == corev1.RestartPolicyAlways && b.role == Main
}

func (w *world) twinFinished() bool {
	if w.evicted || w.expired() {
		return true
	}
	done := true
	for _, b := range w.containers {
		if b.role == Init && b.ended() && !b.succeeded() && !w.twinMayRestart(b) {
			return true
		}
		done = done && (b.role != Main || b.ended() && !w.twinMayRestart(b))
	}
	return done
}

// expired says whether the pod's active deadline passed before it had finished.
func (w *world) expired() bool {
	limit := w.pod.Spec.ActiveDeadlineSeconds
	return w.overdue || limit != nil && !w.finished && !w.now.Before(start.Add(time.Duration(*limit)*time.Second))
}

// twinWanted says whether an attempt must have begun by now.
func (w *world) twinWanted(b *box) bool {
	if w.deleted || w.gone || w.finished || w.twinFinished() || b.alive() || b.stopping != "" || w.now.Before(w.twinDue(b)) {
		return false
	}
	if b.ended() && !w.twinMayRestart(b) || !w.setUp && (!w.pending["setup"] || w.setupFailing) {
		return false
	}
	begun := false
	for _, other := range w.containers {
		begun = begun || other.role == Main && (other.pending != "" || len(other.runs) > 0) && other != b
	}
	begun = begun || b.role == Main && len(b.runs) > 0
	if begun {
		return b.role != Init
	}
	for _, other := range w.containers {
		switch {
		case other == b:
			return !(b.role == Init && b.succeeded())
		case other.role == Init && !other.succeeded(), other.role == Sidecar && !other.twinStarted():
			return false
		}
	}
	return true
}

func (b *box) twinStarted() bool {
	return b.alive() && (b.spec.StartupProbe == nil || b.results[Startup])
}

func (b *box) twinReady() bool {
	return b.twinStarted() && !b.stopped && (b.spec.ReadinessProbe == nil || b.results[Readiness])
}

// twinDue is when the waits after all failures so far are over.
func (w *world) twinDue(b *box) time.Time {
	var wait, pull time.Duration
	var since, pullSince time.Time
	count := func(wait *time.Duration, since *time.Time, failed, at time.Time) {
		if failed.Sub(*since) > 10*time.Minute {
			*wait = 0
		}
		*wait, *since = min(max(2**wait, 10*time.Second), 5*time.Minute), at
	}
	var last begin
	for _, e := range b.begins {
		if e.lifted {
			wait = 0
			continue
		}
		last = e
		if e.after != nil {
			count(&wait, &since, e.after.ended, e.at)
		}
		switch {
		case e.started:
			pull = 0
		case e.failedAt.IsZero():
		case e.failure.Kind == ImagePull:
			count(&pull, &pullSince, e.failedAt, e.failedAt)
		case e.after == nil:
			count(&wait, &since, e.failedAt, e.failedAt)
		}
	}
	var due time.Time
	if b.ended() {
		if ended := b.newest().ended; wait > 0 && ended.Sub(since) <= 10*time.Minute {
			due = ended.Add(wait)
		}
	} else if !last.failedAt.IsZero() && last.failure.Kind != ImagePull && wait > 0 {
		due = since.Add(wait)
	}
	if pull > 0 {
		due = maxTime(due, pullSince.Add(pull))
	}
	return due
}

// twinGrace is the grace period that is asked for now.
func (w *world) twinGrace() time.Duration {
	grace := 30 * time.Second
	if w.deleted {
		grace = time.Duration(max(*w.pod.DeletionGracePeriodSeconds, 1)) * time.Second
	}
	if w.evicted {
		grace = min(grace, time.Second)
	}
	return grace
}

// twinKillDue is when a container that is being stopped is to be killed.
func (b *box) twinKillDue() time.Time {
	if b.signalledAt.IsZero() {
		return maxTime(b.graceEnd, b.newest().StartedAt.Add(time.Hour)) // not before the signal
	}
	return maxTime(b.graceEnd, b.signalledAt.Add(2*time.Second))
}

// twinStopDue is when the wait after a signal or kill that failed is over.
func (b *box) twinStopDue() time.Time {
	n := len(b.unstopped)
	if n == 0 {
		return time.Time{}
	}
	return b.unstopped[n-1].Add(min(time.Second<<(n-1), 30*time.Second))
}

func (w *world) twinMayBegin(b *box) {
	if !w.twinWanted(b) {
		w.fault("%s begins, and should not (due %s)", b.name, w.twinDue(b).Sub(start))
	}
}

func (w *world) twinPhase() corev1.PodPhase {
	var running, succeeded, mains, some int
	busy := false
	for _, b := range w.containers {
		busy = busy || b.alive() || b.pending != ""
		if b.role == Init && b.ended() && !b.succeeded() && !w.twinMayRestart(b) {
			return corev1.PodFailed
		}
		if b.role != Main {
			continue
		}
		mains++
		if len(b.runs) > 0 {
			some++
		}
		if b.alive() {
			running++
		}
		if b.succeeded() {
			succeeded++
		}
	}
	switch {
	case (w.evicted || w.expired()) && !busy:
		return corev1.PodFailed
	case some < mains:
		return corev1.PodPending
	case running > 0 || !w.twinFinished() || w.evicted || w.expired():
		return corev1.PodRunning
	case succeeded == mains:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

// check compares the machine with the twin.
func (w *world) check() {
	before := w.finished
	w.overdue = w.expired()
	w.finished = w.finished || w.twinFinished()
	if w.deleted && !w.drained {
		w.drained = !slices.ContainsFunc(w.containers, (*box).alive)
	}
	status := w.statuses[len(w.statuses)-1]
	ready, some := true, false
	for _, b := range w.containers {
		c := w.p.Container(b.name)
		if err := c.broken(); err != "" {
			w.fault("%s, %s: %s", b.name, c.state, err)
		}
		if wanted := w.twinWanted(b); wanted && b.pending == "" {
			w.fault("%s should begin and does not (%s)", b.name, c.state)
		}
		if b.alive() != c.running() {
			w.fault("%s runs: %t, the machine says %s", b.name, b.alive(), c.state)
		}
		toStop := b.alive() && (b.results[Liveness] == false && hasKey(b.results, Liveness) || b.stopped ||
			w.leaving() && (b.role != Sidecar || !w.mainsBusy()))
		if toStop && b.stopping == "" && !w.now.Before(b.twinStopDue()) {
			w.fault("%s should be stopping and is %s", b.name, c.state)
		}
		if !b.graceEnd.IsZero() && (w.leaving() || w.finished) { // a later deletion may leave less time
			b.graceEnd = minTime(b.graceEnd, w.now.Add(w.twinGrace()))
		}
		if b.stopping == "prestop" && !w.now.Before(b.graceEnd) || b.stopping == "signal" && !w.now.Before(b.twinKillDue()) {
			w.fault("%s: %s goes on though the time is over", b.name, b.stopping)
		}
		if b.pending == "pull" && !b.givenUp && (w.deleted || w.gone || w.finished) {
			w.fault("%s waits for an image that nobody needs", b.name)
		}
		if b.role != Init {
			ready, some = ready && b.twinReady(), some || b.alive()
		}
		if s := containerStatusOf(status, b.name); s != nil && !w.gone {
			w.checkStatus(b, s)
		}
		some = some || b.alive()
	}
	if !w.deleted && !w.gone && (ready && w.address == "out" || !ready && some && w.address != "out") {
		w.fault("ready %t, and the address is %q", ready, w.address)
	}
	if n := len(w.statuses); n > 1 && before {
		if was := w.statuses[n-2].Phase; (was == corev1.PodSucceeded || was == corev1.PodFailed) && was != status.Phase {
			w.fault("phase %s after %s", status.Phase, was)
		}
	}
	if phase := w.twinPhase(); !w.gone && !w.p.terminal() && phase != status.Phase {
		w.fault("phase %s, the twin says %s", status.Phase, phase)
	}
}

func hasKey[K comparable, V any](m map[K]V, k K) bool { _, ok := m[k]; return ok }

func containerStatusOf(s *corev1.PodStatus, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func (w *world) checkStatus(b *box, s *corev1.ContainerStatus) {
	if n := max(0, len(b.runs)-1); int(s.RestartCount) != n {
		w.fault("%s has restarted %d times, the status says %d", b.name, n, s.RestartCount)
	}
	switch {
	case b.alive() != (s.State.Running != nil):
		w.fault("%s runs: %t, the status says %s", b.name, b.alive(), shownContainer(*s))
	case b.alive() && b.twinReady() != s.Ready:
		w.fault("%s is ready: %t, the status says %t", b.name, b.twinReady(), s.Ready)
	case b.ended() && s.State.Terminated == nil && (w.finished || w.deleted || !w.twinMayRestart(b)):
		w.fault("%s has ended for good, the status says %s", b.name, shownContainer(*s))
	case len(b.runs) == 0 && s.State.Waiting == nil:
		w.fault("%s never ran, the status says %s", b.name, shownContainer(*s))
	}
}

// broken names an invariant of its fields that a container breaks.
func (c *Container) broken() string {
	switch s := c.state; {
	case s >= Running && s != PreStopping && !c.running(), s == PreStopping && c.attempt == nil,
		(s == Exited || s == RestartBackOff) && !c.exited(), s < Running && c.running():
		return "attempt does not fit the state"
	case c.previous != nil && c.previous.Exit == nil:
		return "previous attempt has not exited"
	case c.exit != nil && s != Starting:
		return "exit is known of nothing"
	case c.attempt != nil && c.next <= c.attempt.Number:
		return "next number is not above"
	case (c.started || c.ready || len(c.probes) > 0) && !c.running():
		return "probed, and does not run"
	case c.hook && s != Running:
		return "hook beside nothing"
	}
	return ""
}
