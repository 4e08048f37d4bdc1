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
