package pod

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/runtime"
)

// specHash tells one definition of a container from another.
func specHash(spec *corev1.Container) string {
	data, err := json.Marshal(spec)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// security merges the pod's and the container's security contexts; the
// container's wins.
func security(pod *corev1.Pod, spec *corev1.Container) runtime.Security {
	s := runtime.Security{AllowPrivilegeEscalation: true}
	if p := pod.Spec.SecurityContext; p != nil {
		s.RunAsUser, s.RunAsGroup = p.RunAsUser, p.RunAsGroup
		s.RunAsNonRoot = p.RunAsNonRoot != nil && *p.RunAsNonRoot
		s.SupplementalGroups = append(s.SupplementalGroups, p.SupplementalGroups...)
		if p.FSGroup != nil {
			s.SupplementalGroups = append(s.SupplementalGroups, *p.FSGroup)
		}
		s.DefaultSeccomp = isRuntimeDefault(p.SeccompProfile)
	}
	c := spec.SecurityContext
	if c == nil {
		return s
	}
	if c.RunAsUser != nil {
		s.RunAsUser = c.RunAsUser
	}
	if c.RunAsGroup != nil {
		s.RunAsGroup = c.RunAsGroup
	}
	if c.RunAsNonRoot != nil {
		s.RunAsNonRoot = *c.RunAsNonRoot
	}
	if c.SeccompProfile != nil {
		s.DefaultSeccomp = isRuntimeDefault(c.SeccompProfile)
	}
	if c.AllowPrivilegeEscalation != nil {
		s.AllowPrivilegeEscalation = *c.AllowPrivilegeEscalation
	}
	s.Privileged = c.Privileged != nil && *c.Privileged
	s.ReadOnlyRootfs = c.ReadOnlyRootFilesystem != nil && *c.ReadOnlyRootFilesystem
	s.UnmaskedProc = c.ProcMount != nil && *c.ProcMount == corev1.UnmaskedProcMount
	if c.Capabilities != nil {
		for _, name := range c.Capabilities.Add {
			s.AddCapabilities = append(s.AddCapabilities, string(name))
		}
		for _, name := range c.Capabilities.Drop {
			s.DropCapabilities = append(s.DropCapabilities, string(name))
		}
	}
	return s
}

func isRuntimeDefault(p *corev1.SeccompProfile) bool {
	return p != nil && p.Type == corev1.SeccompProfileTypeRuntimeDefault
}

// The kernel's units for CPU time.
const (
	sharesPerCPU = 1024
	minShares    = 2
	maxShares    = 262144
	quotaPeriod  = 100000 // microseconds
	minQuota     = 1000
)

// resources turns requests and limits into cgroup settings.
func (w *worker) resources(pod *corev1.Pod, spec *corev1.Container) runtime.Resources {
	res := runtime.Resources{CPUPeriod: quotaPeriod, PidsLimit: w.pods.cfg.PidsLimit, OOMScoreAdj: w.oomScore(pod, spec)}
	request, limited := spec.Resources.Requests[corev1.ResourceCPU]
	limit, hasLimit := spec.Resources.Limits[corev1.ResourceCPU]
	if !limited && hasLimit {
		request = limit
	}
	res.CPUShares = uint64(min(max(request.MilliValue()*sharesPerCPU/1000, minShares), maxShares))
	if milli := limit.MilliValue(); hasLimit && milli > 0 {
		res.CPUQuota = max(milli*quotaPeriod/1000, minQuota)
	}
	if memory, ok := spec.Resources.Limits[corev1.ResourceMemory]; ok {
		res.MemoryLimit = memory.Value()
	}
	return res
}

// oomScore makes the kernel kill, under pressure, what asked for least
// first: best-effort pods, then those above their requests.
func (w *worker) oomScore(pod *corev1.Pod, spec *corev1.Container) int {
	switch qosClass(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	request := spec.Resources.Requests[corev1.ResourceMemory]
	allocatable := w.pods.cfg.Allocatable()[corev1.ResourceMemory]
	total := allocatable.Value()
	if total == 0 {
		return 999
	}
	score := int(1000 - 1000*request.Value()/total)
	return min(max(score, 3), 999)
}

func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	guaranteed, any := true, false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				request, hasRequest := c.Resources.Requests[name]
				limit, hasLimit := c.Resources.Limits[name]
				any = any || hasRequest || hasLimit
				if !hasLimit || hasRequest && request.Cmp(limit) != 0 {
					guaranteed = false
				}
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
