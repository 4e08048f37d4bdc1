package pod

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/agent/runtime"
)

// publish writes the status if it differs from what was last written, or from what became of that.
func (w *worker) publish() {
	if w.gone {
		return
	}
	status := w.status()
	if last := w.latest.Load(); last != nil && !w.overruled && equality.Semantic.DeepEqual(*last, *status) {
		return
	}
	w.overruled = false
	w.latest.Store(status)
	w.writer.write(status)
}

// status is the pod's, as the kubelet would write it.
func (w *worker) status() *corev1.PodStatus {
	status := corev1.PodStatus{
		ObservedGeneration: w.pod.Generation,
		StartTime:          &metav1.Time{Time: w.startAt.Truncate(1e9)},
		QOSClass:           qosClass(w.pod),
		NominatedNodeName:  w.pod.Status.NominatedNodeName,
		Resize:             w.pod.Status.Resize,
	}
	for i := range w.pod.Spec.InitContainers {
		status.InitContainerStatuses = append(status.InitContainerStatuses, w.containerStatus(&w.pod.Spec.InitContainers[i]))
	}
	for i := range w.pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, w.containerStatus(&w.pod.Spec.Containers[i]))
	}
	w.keepTerminal(&status)
	if w.neverBegun() {
		status.InitContainerStatuses, status.ContainerStatuses = nil, nil
	}
	status.Phase = w.phase()
	switch {
	case w.failedWhole():
		status.Reason, status.Message = w.failed.reason, w.failed.message
	case isTerminal(w.pod):
		status.Phase = w.pod.Status.Phase // final, whoever decided it
		status.Reason, status.Message = w.pod.Status.Reason, w.pod.Status.Message
	}
	w.addAddresses(&status)
	status.Conditions = w.conditions(&status)
	return &status
}

// keepTerminal keeps the container statuses of a finished pod whose records
// are gone, instead of showing its containers as waiting.
func (w *worker) keepTerminal(status *corev1.PodStatus) {
	if !isTerminal(w.pod) {
		return
	}
	keep := func(list, old []corev1.ContainerStatus) {
		for i := range list {
			if list[i].State.Waiting == nil {
				continue
			}
			for _, o := range old {
				if o.Name == list[i].Name && o.State.Terminated != nil {
					list[i] = o
				}
			}
		}
	}
	keep(status.InitContainerStatuses, w.pod.Status.InitContainerStatuses)
	keep(status.ContainerStatuses, w.pod.Status.ContainerStatuses)
}

func (w *worker) addAddresses(status *corev1.PodStatus) {
	for _, ip := range w.pods.cfg.NodeIPs {
		status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	if len(status.HostIPs) > 0 {
		status.HostIP = status.HostIPs[0].IP
	}
	switch addrs := w.addresses(); {
	case w.pod.Spec.HostNetwork:
		for _, ip := range status.HostIPs {
			status.PodIPs = append(status.PodIPs, corev1.PodIP(ip))
		}
	case len(addrs) > 0:
		status.PodIPs = podIPs(addrs)
	default:
		status.PodIPs = w.pod.Status.PodIPs
	}
	if len(status.PodIPs) > 0 {
		status.PodIP = status.PodIPs[0].IP
	}
}

func podIPs(addrs []netip.Addr) (list []corev1.PodIP) {
	for _, addr := range addrs {
		list = append(list, corev1.PodIP{IP: addr.String()})
	}
	return list
}

// withAddresses is the pod as its own variables should see it: addresses are
// known here before the API server knows them.
func withAddresses(pod *corev1.Pod, s *setup, nodeIPs []netip.Addr) *corev1.Pod {
	placed := *pod
	placed.Status.HostIPs, placed.Status.PodIPs = nil, nil
	for _, ip := range nodeIPs {
		placed.Status.HostIPs = append(placed.Status.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	if len(placed.Status.HostIPs) > 0 {
		placed.Status.HostIP = placed.Status.HostIPs[0].IP
	}
	select {
	case <-s.network.done:
		if len(s.addrs) > 0 {
			placed.Status.PodIPs = podIPs(s.addrs)
		} else if pod.Spec.HostNetwork {
			for _, ip := range placed.Status.HostIPs {
				placed.Status.PodIPs = append(placed.Status.PodIPs, corev1.PodIP(ip))
			}
		}
	default: // nobody asked for it (needsAddress)
	}
	if len(placed.Status.PodIPs) > 0 {
		placed.Status.PodIP = placed.Status.PodIPs[0].IP
	}
	return &placed
}

func (w *worker) containerStatus(spec *corev1.Container) corev1.ContainerStatus {
	c := w.containers[spec.Name]
	no := false
	status := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, Started: &no}
	if c.current == nil {
		status.State.Waiting = w.waitingState(c)
		return status
	}
	status.ContainerID, status.ImageID, status.RestartCount = containerID(c.current), c.current.ImageID, int32(c.current.Attempt)
	status.Image = c.current.Image
	switch {
	case c.running():
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: seconds(c.current)}
		started := c.started
		status.Started, status.Ready = &started, c.ready && started
	case w.showsWait(c):
		status.State.Waiting = w.waitingState(c)
		status.LastTerminationState.Terminated = terminated(c.current)
	default:
		status.State.Terminated = terminated(c.current)
		status.Ready = c.role == roleInit && c.succeeded()
	}
	if status.LastTerminationState.Terminated == nil && c.last != nil {
		status.LastTerminationState.Terminated = terminated(c.last)
	}
	status.VolumeMounts = mountStatuses(spec, w.pods.cfg.Runtime.Features().RecursiveReadOnly)
	status.User = userStatus(c.current.User)
	if c.running() {
		status.AllocatedResources = spec.Resources.Requests
		status.Resources = &corev1.ResourceRequirements{Limits: spec.Resources.Limits, Requests: spec.Resources.Requests}
	}
	return status
}

// showsWait says whether an exited container is shown as waiting for its
// next attempt rather than as terminated.
func (w *worker) showsWait(c *containerState) bool {
	if w.finished() || w.gone || w.pod.DeletionTimestamp != nil {
		return false
	}
	return c.waiting != "" && w.mayRestart(c)
}

func (w *worker) waitingState(c *containerState) *corev1.ContainerStateWaiting {
	if c.waiting != "" {
		return &corev1.ContainerStateWaiting{Reason: c.waiting, Message: c.message}
	}
	if c.role == roleMain && len(w.pod.Spec.InitContainers) > 0 || c.role != roleMain {
		return &corev1.ContainerStateWaiting{Reason: reasonInitializing}
	}
	return &corev1.ContainerStateWaiting{Reason: reasonCreating}
}

func terminated(c *runtime.Container) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{
		ExitCode: int32(c.ExitCode), Reason: c.Reason, Message: c.Message,
		StartedAt: seconds(c), FinishedAt: metav1.NewTime(c.FinishedAt.Truncate(1e9)),
		ContainerID: containerID(c),
	}
}

func seconds(c *runtime.Container) metav1.Time { return metav1.NewTime(c.StartedAt.Truncate(1e9)) }

// phase sums up the containers.
func (w *worker) phase() corev1.PodPhase {
	if w.failedWhole() {
		return corev1.PodFailed
	}
	if w.failedInit() != nil {
		return corev1.PodFailed
	}
	var running, waiting, stopped, succeeded, mains int
	initializing := false
	for _, c := range w.containers {
		switch {
		case c.role == roleInit:
			initializing = initializing || !c.succeeded()
			continue
		case c.role == roleSidecar:
			initializing = initializing || c.current == nil
			continue
		}
		mains++
		switch {
		case c.running():
			running++
		case c.exited():
			stopped++
			if c.succeeded() {
				succeeded++
			}
		default:
			waiting++
		}
	}
	switch {
	case waiting > 0 || initializing && running == 0 && stopped == 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case !w.finished():
		return corev1.PodRunning
	case succeeded == mains:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

// conditions are those that belong to the node, and untouched all others.
func (w *worker) conditions(status *corev1.PodStatus) []corev1.PodCondition {
	terminal := status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed
	network := (w.setup != nil && w.setup.ready || w.started()) && !w.released && !terminal
	initialized := w.initializedCondition(status)
	containersReady := w.readyCondition(corev1.ContainersReady, status)
	ready := containersReady
	ready.Type = corev1.PodReady
	if ready.Status == corev1.ConditionTrue {
		if missing := w.missingGates(); len(missing) > 0 {
			ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(missing, ", ")
		}
	}
	own := []corev1.PodCondition{
		{Type: corev1.PodReadyToStartContainers, Status: boolStatus(network)},
		initialized, ready, containersReady,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	disruption, disrupted := w.disruption()
	if disrupted {
		own = append(own, disruption)
	}
	for i := range own {
		own[i].ObservedGeneration = w.pod.Generation
		w.stampCondition(&own[i])
	}
	for _, c := range w.pod.Status.Conditions {
		if !isOwn(c.Type) && !(disrupted && c.Type == disruption.Type) {
			own = append(own, c)
		}
	}
	return own
}

func isOwn(t corev1.PodConditionType) bool {
	switch t {
	case corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled:
		return true
	}
	return false
}

func boolStatus(b bool) corev1.ConditionStatus {
	if b {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

// stampCondition keeps the time of the last change.
func (w *worker) stampCondition(c *corev1.PodCondition) {
	sources := [][]corev1.PodCondition{w.pod.Status.Conditions}
	if last := w.latest.Load(); last != nil {
		sources = [][]corev1.PodCondition{last.Conditions, w.pod.Status.Conditions}
	}
	for _, list := range sources {
		for _, old := range list {
			if old.Type == c.Type {
				if old.Status == c.Status {
					c.LastTransitionTime = old.LastTransitionTime
				} else {
					c.LastTransitionTime = metav1.Now().Rfc3339Copy()
				}
				return
			}
		}
	}
	c.LastTransitionTime = metav1.Now().Rfc3339Copy()
}

func (w *worker) initializedCondition(status *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	var incomplete []string
	for i := range w.pod.Spec.InitContainers {
		state := w.containers[w.pod.Spec.InitContainers[i].Name]
		if state.role == roleInit && !state.succeeded() || state.role == roleSidecar && !state.started {
			incomplete = append(incomplete, state.name)
		}
	}
	switch {
	case status.Phase == corev1.PodSucceeded:
		c.Reason = "PodCompleted"
	case len(incomplete) > 0 && !w.mainsBegun():
		c.Status, c.Reason = corev1.ConditionFalse, "ContainersNotInitialized"
		c.Message = fmt.Sprintf("containers with incomplete status: %s", incomplete)
	}
	return c
}

func (w *worker) readyCondition(kind corev1.PodConditionType, status *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue}
	var unready []string
	for _, s := range status.InitContainerStatuses {
		if state := w.containers[s.Name]; state.role == roleSidecar && !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	for _, s := range status.ContainerStatuses {
		if !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	switch {
	case status.Phase == corev1.PodSucceeded:
		c.Status, c.Reason = corev1.ConditionFalse, "PodCompleted"
	case status.Phase == corev1.PodFailed:
		c.Status, c.Reason = corev1.ConditionFalse, "PodFailed"
	case len(unready) > 0:
		c.Status, c.Reason = corev1.ConditionFalse, "ContainersNotReady"
		c.Message = fmt.Sprintf("containers with unready status: %s", unready)
	}
	return c
}

func (w *worker) missingGates() []string {
	var missing []string
	for _, gate := range w.pod.Spec.ReadinessGates {
		state := "does not exist"
		for _, c := range w.pod.Status.Conditions {
			if c.Type == gate.ConditionType {
				state = ""
				if c.Status != corev1.ConditionTrue {
					state = fmt.Sprintf("is %q", c.Status)
				}
			}
		}
		if state == "does not exist" {
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		} else if state != "" {
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %s", gate.ConditionType, strings.Trim(strings.TrimPrefix(state, "is "), `"`)))
		}
	}
	return missing
}
