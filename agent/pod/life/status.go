package life

import (
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons as the API shows them, for the status and for events: no decision reads them.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonCrashLoop    = "CrashLoopBackOff"
	reasonPullBackOff  = "ImagePullBackOff"
	reasonDeadline     = "DeadlineExceeded"
	messageDeadline    = "Pod was active on the node longer than the specified deadline"
	reasonEvicted      = "Evicted"
)

// publish has the status written if it differs from the one last written, or if that was overwritten.
func (p *Pod) publish() {
	if p.gone {
		return
	}
	status := p.status()
	if p.published != nil && !p.overwritten && equality.Semantic.DeepEqual(p.published, status) {
		return
	}
	p.overwritten, p.published = false, status
	p.do(WriteStatus{status})
}

// status is the pod's, as the kubelet would write it.
func (p *Pod) status() *corev1.PodStatus {
	status := corev1.PodStatus{
		ObservedGeneration: p.pod.Generation,
		StartTime:          &metav1.Time{Time: p.startAt.Truncate(time.Second)},
		QOSClass:           p.cfg.QOSClass,
		NominatedNodeName:  p.pod.Status.NominatedNodeName,
		Resize:             p.pod.Status.Resize,
	}
	if !p.neverBegun() {
		for _, c := range p.containers {
			list, old := &status.InitContainerStatuses, p.pod.Status.InitContainerStatuses
			if c.Role == Main {
				list, old = &status.ContainerStatuses, p.pod.Status.ContainerStatuses
			}
			*list = append(*list, p.keepTerminated(p.containerStatus(c), old))
		}
	}
	status.Phase = p.phase()
	switch {
	case p.hasFailed():
		status.Reason, status.Message = p.failed.reason, p.failed.message
	case p.terminal():
		status.Phase = p.pod.Status.Phase // final, whoever decided it
		status.Reason, status.Message = p.pod.Status.Reason, p.pod.Status.Message
	}
	p.addAddresses(&status)
	status.Conditions = p.conditions(&status)
	return &status
}

// keepTerminated keeps the old status of a container of a finished pod if its record is missing, instead of showing it as
// waiting.
func (p *Pod) keepTerminated(status corev1.ContainerStatus, old []corev1.ContainerStatus) corev1.ContainerStatus {
	if !p.terminal() || status.State.Waiting == nil {
		return status
	}
	for _, o := range old {
		if o.Name == status.Name && o.State.Terminated != nil {
			return o
		}
	}
	return status
}

// neverBegun says whether nothing was ever created for the pod: the node rejected it, now or earlier.
func (p *Pod) neverBegun() bool {
	for _, c := range p.containers {
		if c.attempt != nil || c.beginning() {
			return false
		}
	}
	return p.failed != nil && p.failed.rejected ||
		p.terminal() && len(p.pod.Status.ContainerStatuses)+len(p.pod.Status.InitContainerStatuses) == 0
}

func (p *Pod) addAddresses(status *corev1.PodStatus) {
	for _, ip := range p.cfg.NodeIPs {
		status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	if len(status.HostIPs) > 0 {
		status.HostIP = status.HostIPs[0].IP
	}
	switch {
	case p.pod.Spec.HostNetwork:
		for _, ip := range status.HostIPs {
			status.PodIPs = append(status.PodIPs, corev1.PodIP(ip))
		}
	case len(p.addrs) > 0:
		status.PodIPs = PodIPs(p.addrs)
	default:
		status.PodIPs = p.pod.Status.PodIPs
	}
	if len(status.PodIPs) > 0 {
		status.PodIP = status.PodIPs[0].IP
	}
}

// PodIPs are addresses in the form of a status.
func PodIPs(addrs []netip.Addr) (list []corev1.PodIP) {
	for _, addr := range addrs {
		list = append(list, corev1.PodIP{IP: addr.String()})
	}
	return list
}

func (p *Pod) containerStatus(c *Container) corev1.ContainerStatus {
	spec, no := p.spec(c), false
	status := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, Started: &no}
	if c.attempt == nil {
		status.State.Waiting = p.waiting(c)
		return status
	}
	status.ContainerID, status.ImageID, status.RestartCount = containerID(c.attempt), c.attempt.ImageID, int32(c.attempt.Number)
	status.Image = c.attempt.Image
	switch reason, _ := p.shownReason(c); {
	case c.running():
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: seconds(c.attempt.StartedAt)}
		started := c.started
		status.Started, status.Ready = &started, c.ready && started
	case reason != "" && p.mayRestart(c) && !p.finished() && !p.deletionAsked():
		status.State.Waiting = p.waiting(c)
		status.LastTerminationState.Terminated = terminated(c.attempt)
	default:
		status.State.Terminated = terminated(c.attempt)
		status.Ready = c.Role == Init && c.succeeded()
	}
	if status.LastTerminationState.Terminated == nil && c.previous != nil {
		status.LastTerminationState.Terminated = terminated(c.previous)
	}
	status.VolumeMounts = mountStatuses(spec, p.cfg.RecursiveReadOnly)
	status.User = c.attempt.User
	if c.running() {
		status.AllocatedResources = spec.Resources.Requests
		status.Resources = &corev1.ResourceRequirements{Limits: spec.Resources.Limits, Requests: spec.Resources.Requests}
	}
	return status
}

// shownReason is why a container waits, if not just for its turn.
func (p *Pod) shownReason(c *Container) (reason, message string) {
	switch c.shownState() {
	case PullFailed, StartFailed:
		return c.failure.Kind.Reason(), c.failure.Message
	case PullBackOff:
		return reasonPullBackOff, fmt.Sprintf("Back-off pulling image %q: %s: %s", p.spec(c).Image, c.failure.Kind.Reason(), c.failure.Message)
	case RestartBackOff:
		return reasonCrashLoop, p.backOffMessage(c)
	case StartBackOff:
		return reasonCrashLoop, p.backOffMessage(c) + ": " + c.failure.Message
	}
	return "", ""
}

func (p *Pod) backOffMessage(c *Container) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", c.shownWait, c.Name, Formatted(p.pod))
}

func (p *Pod) waiting(c *Container) *corev1.ContainerStateWaiting {
	reason, message := p.shownReason(c)
	switch {
	case reason != "":
	case c.Role != Main || len(p.pod.Spec.InitContainers) > 0:
		reason = reasonInitializing
	default:
		reason = reasonCreating
	}
	return &corev1.ContainerStateWaiting{Reason: reason, Message: message}
}

func terminated(a *Attempt) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{
		ExitCode: int32(a.Exit.Code), Reason: a.Exit.Reason, Message: a.Exit.Message,
		StartedAt: seconds(a.StartedAt), FinishedAt: seconds(a.Exit.FinishedAt), ContainerID: containerID(a),
	}
}

func containerID(a *Attempt) string { return "containerd://" + a.ID }

func seconds(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

// hasFailed says whether this node ended the pod and none of its containers runs any more. As with the kubelet, it is not
// shown as failed before, since its requests count as free from then on.
func (p *Pod) hasFailed() bool { return p.failed != nil && !p.mayRun() }

// phase is the pod's phase by its containers' states.
func (p *Pod) phase() corev1.PodPhase {
	if p.hasFailed() || p.failedInit() != nil {
		return corev1.PodFailed
	}
	var running, waiting, stopped, succeeded, mains int
	initializing := false
	for _, c := range p.containers {
		switch {
		case c.Role == Init:
			initializing = initializing || !c.succeeded()
			continue
		case c.Role == Sidecar:
			initializing = initializing || c.attempt == nil
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
	case running > 0 || !p.finished() || p.failed != nil: // failed, but a container still runs or starts
		return corev1.PodRunning
	case succeeded == mains:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

// mountStatuses describe a container's mounts as they were made.
func mountStatuses(spec *corev1.Container, supported func() bool) (list []corev1.VolumeMountStatus) {
	for _, m := range spec.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if is, err := RecursiveReadOnly(&m, supported()); err == nil && is {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		list = append(list, s)
	}
	return list
}

// RecursiveReadOnly says whether what is mounted below a volume is read-only too.
func RecursiveReadOnly(m *corev1.VolumeMount, supported bool) (bool, error) {
	switch mode := m.RecursiveReadOnly; {
	case mode == nil || *mode == corev1.RecursiveReadOnlyDisabled:
		return false, nil
	case !m.ReadOnly:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", m.Name)
	case m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", m.Name, *m.MountPropagation)
	case *mode == corev1.RecursiveReadOnlyIfPossible:
		return supported, nil
	case *mode != corev1.RecursiveReadOnlyEnabled:
		return false, fmt.Errorf("unknown recursive read-only mode %q", *mode)
	case !supported:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", m.Name)
	}
	return true, nil
}
