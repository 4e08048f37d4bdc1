package pod

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Reasons that a container waits for, as the API's users know them.
const (
	reasonCreating      = "ContainerCreating"
	reasonInitializing  = "PodInitializing"
	reasonCrashLoop     = "CrashLoopBackOff"
	reasonConfigError   = "CreateContainerConfigError"
	reasonCreateError   = "CreateContainerError"
	reasonRunError      = "RunContainerError"
	reasonPostStart     = "PostStartHookError"
	reasonPull          = "ErrImagePull"
	reasonPullBackOff   = "ImagePullBackOff"
	reasonNeverPull     = "ErrImageNeverPull"
	reasonInvalidName   = "InvalidImageName"
	reasonInspect       = "ImageInspectError"
	reasonDeadline      = "DeadlineExceeded"
	messageDeadline     = "Pod was active on the node longer than the specified deadline"
	reasonFailedSandbox = "FailedCreatePodSandBox"
	reasonFailedMount   = "FailedMount"
	reasonBandwidth     = "BandwidthNotLimited"
)

// reconcile compares what should be with what is, begins what is missing and
// publishes the outcome. It runs after every event and never waits.
func (w *worker) reconcile() {
	w.checkDeadline()
	switch {
	case w.gone || w.pod.DeletionTimestamp != nil:
		w.reconcileDeletion()
	case w.finished():
		w.reconcileFinished()
	default:
		w.reconcileRunning()
	}
	w.updateServing()
	w.publish()
}

// checkDeadline fails the pod when its active deadline has passed.
func (w *worker) checkDeadline() {
	limit := w.pod.Spec.ActiveDeadlineSeconds
	if limit == nil || w.failed != nil || isTerminal(w.pod) {
		return
	}
	deadline := w.startAt.Add(time.Duration(*limit) * time.Second)
	if time.Now().Before(deadline) {
		w.at("deadline", deadline)
		return
	}
	w.failed = &podFailure{reason: reasonDeadline, message: messageDeadline}
	w.event(corev1.EventTypeNormal, reasonDeadline, messageDeadline)
}

// finished says whether nothing will run again.
func (w *worker) finished() bool {
	if w.failed != nil || isTerminal(w.pod) {
		return true
	}
	if c := w.failedInit(); c != nil {
		return true
	}
	for _, c := range w.containers {
		if c.role == roleMain && (!c.exited() || w.mayRestart(c)) {
			return false
		}
	}
	return true
}

// failedInit is an init container that failed for good.
func (w *worker) failedInit() *containerState {
	for _, c := range w.containers {
		if c.role == roleInit && c.exited() && c.current.ExitCode != 0 && !w.mayRestart(c) {
			return c
		}
	}
	return nil
}

// mayRestart says whether the policy allows another attempt after this exit.
func (w *worker) mayRestart(c *containerState) bool {
	if c.role == roleSidecar {
		return true
	}
	policy := w.pod.Spec.RestartPolicy
	if own := w.spec(c.name).RestartPolicy; own != nil {
		policy = corev1.RestartPolicy(*own)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return !c.succeeded()
	}
	// Always: but an init container that has succeeded is done.
	return c.role != roleInit || !c.succeeded()
}

// reconcileRunning starts what should run.
func (w *worker) reconcileRunning() {
	w.ensureSetup()
	for i := range w.pod.Spec.InitContainers {
		c := w.containers[w.pod.Spec.InitContainers[i].Name]
		w.reconcileContainer(c)
		if c.role == roleInit && !c.succeeded() && !w.mainsBegun() {
			return // the others wait for it
		}
		if c.role == roleSidecar && !c.started && !w.mainsBegun() {
			return
		}
	}
	for i := range w.pod.Spec.Containers {
		w.reconcileContainer(w.containers[w.pod.Spec.Containers[i].Name])
	}
}

// started says whether any container of the pod runs.
func (w *worker) started() bool {
	for _, c := range w.containers {
		if c.running() {
			return true
		}
	}
	return false
}

func (w *worker) mainsBegun() bool {
	for _, c := range w.containers {
		if c.role == roleMain && (c.current != nil || c.starting) {
			return true
		}
	}
	return false
}

// reconcileContainer begins the next attempt when it is due.
func (w *worker) reconcileContainer(c *containerState) {
	now := time.Now()
	switch {
	case c.running() || c.starting || c.stopping:
		return
	case c.role == roleInit && (c.succeeded() || w.mainsBegun()):
		return
	case c.exited() && !w.mayRestart(c):
		return
	}
	if c.exited() {
		failed := c.current.FinishedAt
		if wait := c.restart.remaining(failed, now); wait > 0 {
			w.holdRestart(c, now.Add(wait))
			return
		}
	}
	if wait := c.pull.remaining(c.pull.since, now); wait > 0 {
		w.holdPull(c, now, now.Add(wait))
		return
	}
	switch c.waiting {
	case reasonConfigError, reasonCreateError, reasonRunError, reasonCrashLoop:
		if wait := c.restart.remaining(c.restart.since, now); wait > 0 && !c.exited() {
			w.holdStart(c, now, now.Add(wait))
			return
		}
	}
	if w.setup == nil || w.setup.failed {
		return
	}
	if c.exited() {
		c.restart.next(c.current.FinishedAt, now)
	}
	w.beginStart(c)
}

// holdRestart shows the wait for a restart, once.
func (w *worker) holdRestart(c *containerState, until time.Time) {
	w.at("restart "+c.name, until)
	message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", c.restart.wait, c.name, w.formatted())
	if c.waiting == reasonCrashLoop && c.message == message {
		return
	}
	c.waiting, c.message = reasonCrashLoop, message
	w.containerEvent(c.name, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", c.name, w.formatted())
}

// startErrorShown is how long a failure to run is shown before the wait.
const startErrorShown = time.Second

// holdStart shows the wait for another try at a process that could not be
// started, once; what was wrong with it stays in the message.
func (w *worker) holdStart(c *containerState, now, until time.Time) {
	if shown := c.restart.since.Add(startErrorShown); c.waiting == reasonRunError && now.Before(shown) {
		w.at("restart "+c.name, shown)
		return
	}
	w.at("restart "+c.name, until)
	if c.waiting != reasonRunError {
		return
	}
	c.waiting = reasonCrashLoop
	c.message = fmt.Sprintf("back-off %s restarting failed container=%s pod=%s: %s", c.restart.wait, c.name, w.formatted(), c.message)
	w.containerEvent(c.name, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", c.name, w.formatted())
}

// pullErrorShown is how long the pull's own error is shown before the wait.
const pullErrorShown = time.Second

// holdPull shows the wait for the next pull, once.
func (w *worker) holdPull(c *containerState, now, until time.Time) {
	if c.waiting == reasonPull && now.Before(c.pull.since.Add(pullErrorShown)) {
		w.at("pull "+c.name, c.pull.since.Add(pullErrorShown))
		return
	}
	w.at("pull "+c.name, until)
	if c.waiting != reasonPull {
		return
	}
	image := w.spec(c.name).Image
	c.waiting, c.message = reasonPullBackOff, fmt.Sprintf("Back-off pulling image %q: %s", image, c.pullErr)
	w.containerEvent(c.name, corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", image)
	w.containerEvent(c.name, corev1.EventTypeWarning, "Failed", "Error: %s", reasonPullBackOff)
}

// reconcileFinished stops what still runs (a deadline, sidecars) and gives
// back what the pod held. Its containers' records and logs stay until it is
// deleted.
func (w *worker) reconcileFinished() {
	w.giveUpSetup()
	if w.stopAll(w.gracePeriod()) {
		w.releaseResources()
	}
}

// reconcileDeletion ends the pod: connections that would come to it, containers,
// then everything else, then the API object itself.
func (w *worker) reconcileDeletion() {
	if w.gone {
		w.withdraw()
	}
	w.giveUpSetup()
	if !w.drain() || !w.stopAll(w.gracePeriod()) {
		return
	}
	w.removeAll()
}

// giveUpSetup ends the wait for what the pod was to stand on, and with it that of
// containers which are being started.
func (w *worker) giveUpSetup() {
	if w.setup != nil {
		w.setup.giveUp()
	}
}

// gracePeriod is what the deletion says, else the pod.
func (w *worker) gracePeriod() time.Duration {
	seconds := int64(30)
	if s := w.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		seconds = *s
	}
	if s := w.pod.DeletionGracePeriodSeconds; s != nil && w.pod.DeletionTimestamp != nil {
		seconds = *s
	}
	grace := time.Duration(max(seconds, 1)) * time.Second
	if w.failed != nil && w.failed.grace > 0 {
		grace = min(grace, w.failed.grace)
	}
	return grace
}

func (w *worker) formatted() string {
	return fmt.Sprintf("%s_%s(%s)", w.key.Name, w.key.Namespace, w.uid)
}

// updateServing keeps the service maps in step with readiness: out at once,
// back in when ready again.
func (w *worker) updateServing() {
	if w.gone || w.pod.DeletionTimestamp != nil {
		return
	}
	ready := true
	for _, c := range w.containers {
		if c.role != roleInit && !(c.running() && c.ready) {
			ready = false
		}
	}
	if ready {
		w.restore()
	} else if w.started() {
		w.withdraw()
	}
}
