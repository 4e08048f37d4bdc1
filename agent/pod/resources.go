package pod

import (
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/skep-io/skep/agent/cgroup"
	"github.com/skep-io/skep/agent/runtime"
)

// The kernel's units for CPU time.
const (
	quotaPeriod = 100000 // microseconds
	minQuota    = 1000
)

// quotaOf returns 0, which means no limit, for no CPU.
func quotaOf(milliCPU int64) int64 {
	if milliCPU <= 0 {
		return 0
	}
	return max(milliCPU*quotaPeriod/1000, minQuota)
}

// resources turns requests and limits into the settings of a container.
func (w *worker) resources(pod *corev1.Pod, spec *corev1.Container) runtime.Resources {
	res := runtime.Resources{CPUPeriod: quotaPeriod, OOMScoreAdj: oomScore(pod, spec, w.pods.cfg.MemoryCapacity)}
	request, requested := spec.Resources.Requests[corev1.ResourceCPU]
	limit, limited := spec.Resources.Limits[corev1.ResourceCPU]
	if !requested && limited {
		request = limit
	}
	res.CPUShares = cgroup.Shares(request.MilliValue())
	res.CPUQuota = quotaOf(limit.MilliValue())
	if memory, ok := spec.Resources.Limits[corev1.ResourceMemory]; ok {
		res.MemoryLimit = memory.Value()
	}
	return res
}

// podLimits are what the containers of a pod may use together: the sum of their limits, if each has one, or the pod's own limits
// (kubelet's ResourceConfigForPod). pids is the node's limit of processes per pod.
func podLimits(pod *corev1.Pod, pids int64) cgroup.Limits {
	limits := cgroup.Limits{CPUShares: cgroup.MinShares, Pids: pids}
	class := qosClass(pod)
	if class == corev1.PodQOSBestEffort {
		return limits
	}
	limits.CPUShares = cgroup.Shares(requestedCPU(pod))
	total := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	if class == corev1.PodQOSGuaranteed || allLimited(pod, corev1.ResourceCPU) {
		limits.CPUQuota, limits.CPUPeriod = quotaOf(total.Cpu().MilliValue()), quotaPeriod
	}
	if class == corev1.PodQOSGuaranteed || allLimited(pod, corev1.ResourceMemory) {
		limits.Memory = total.Memory().Value()
	}
	return limits
}

// requestedCPU is the pod's CPU request, in thousandths.
func requestedCPU(pod *corev1.Pod) int64 {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	return requests.Cpu().MilliValue()
}

// allLimited says whether every container of the pod has a limit of the resource.
func allLimited(pod *corev1.Pod, name corev1.ResourceName) bool {
	if pod.Spec.Resources != nil {
		if limit := pod.Spec.Resources.Limits[name]; !limit.IsZero() {
			return true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			if limit := c.Resources.Limits[name]; limit.IsZero() {
				return false
			}
		}
	}
	return true
}

// shareBurstable sets the CPU shares of all burstable pods together to the sum of their requests.
func (p *Pods) shareBurstable() {
	var milli int64
	for _, obj := range p.informer.GetStore().List() {
		if pod := obj.(*corev1.Pod); !isTerminal(pod) && qosClass(pod) == corev1.PodQOSBurstable {
			milli += requestedCPU(pod)
		}
	}
	if err := p.cfg.Runtime.Cgroups().ShareBurstable(cgroup.Shares(milli)); err != nil {
		slog.Warn("CPU shares of burstable pods not set", "err", err)
	}
}

// kubelet's scores at the ends of the scale; the agent, containerd and shims have lower ones (-999, -998), and are killed later.
const (
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// oomScore makes the kernel kill, when memory is short, best-effort containers first, then those that use more than they request,
// and guaranteed ones last. It is kubelet's (pkg/kubelet/qos), in parts of a thousand of the node's memory.
func oomScore(pod *corev1.Pod, spec *corev1.Container, capacity int64) int {
	if pod.Spec.PriorityClassName == nodeCritical && isCritical(pod) {
		return oomGuaranteed
	}
	switch qosClass(pod) {
	case corev1.PodQOSGuaranteed:
		return oomGuaranteed
	case corev1.PodQOSBestEffort:
		return oomBestEffort
	}
	if capacity <= 0 {
		return oomBestEffort - 1
	}
	// What the pod requests beyond its containers' requests is divided evenly among them.
	var extra int64
	if resourcehelper.IsPodLevelRequestsSet(pod) {
		sum := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
		rest := pod.Spec.Resources.Requests.Memory().Value() - sum.Memory().Value()
		extra = max(rest, 0) / int64(len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
	}
	request := spec.Resources.Requests.Memory().Value()
	if isSidecar(pod, spec) {
		// A sidecar is not killed before those that it serves.
		least := pod.Spec.Containers[0].Resources.Requests.Memory().Value()
		for _, c := range pod.Spec.Containers {
			least = min(least, c.Resources.Requests.Memory().Value())
		}
		request = max(request, least)
	}
	score := int(oomBestEffort - oomBestEffort*(request+extra)/capacity)
	return min(max(score, oomBestEffort+oomGuaranteed), oomBestEffort-1)
}

const (
	nodeCritical     = "system-node-critical"
	criticalPriority = 2_000_000_000 // system-cluster-critical and above
)

// isCritical says whether the cluster itself may depend on the pod.
func isCritical(pod *corev1.Pod) bool {
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= criticalPriority
}

func isSidecar(pod *corev1.Pod, spec *corev1.Container) bool {
	if spec.RestartPolicy == nil || *spec.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		return false
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == spec.Name {
			return true
		}
	}
	return false
}

// qosClass is the class that the API server set, which is final, or follows from requests and limits.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	guaranteed, any := true, false
	judge := func(r *corev1.ResourceRequirements) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, hasRequest := r.Requests[name]
			limit, hasLimit := r.Limits[name]
			any = any || hasRequest && !request.IsZero() || hasLimit && !limit.IsZero()
			if !hasLimit || limit.IsZero() || hasRequest && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		judge(pod.Spec.Resources)
	} else {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				judge(&list[i].Resources)
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
