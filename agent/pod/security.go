package pod

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/runtime"
)

// Reasons of events about a pod's security.
const reasonSELinux = "SELinuxNotEnforced"

// security merges the pod's and the container's security contexts; the container's wins. A setting that this node does not
// support is an error: none is ignored.
func security(pod *corev1.Pod, spec *corev1.Container) (runtime.Security, error) {
	s := runtime.Security{AllowPrivilegeEscalation: true, AppArmor: appArmor(pod, spec)}
	p, c := pod.Spec.SecurityContext, spec.SecurityContext
	if p == nil {
		p = &corev1.PodSecurityContext{}
	}
	if c == nil {
		c = &corev1.SecurityContext{}
	}
	s.RunAsUser, s.RunAsGroup = firstSet(c.RunAsUser, p.RunAsUser), firstSet(c.RunAsGroup, p.RunAsGroup)
	s.RunAsNonRoot = isTrue(firstSet(c.RunAsNonRoot, p.RunAsNonRoot))
	s.SupplementalGroups = append(s.SupplementalGroups, p.SupplementalGroups...)
	if p.FSGroup != nil {
		s.SupplementalGroups = append(s.SupplementalGroups, *p.FSGroup)
	}
	if policy := p.SupplementalGroupsPolicy; policy != nil {
		switch *policy {
		case corev1.SupplementalGroupsPolicyMerge:
		case corev1.SupplementalGroupsPolicyStrict:
			s.StrictGroups = true
		default:
			return s, fmt.Errorf("unsupported supplementalGroupsPolicy: %s", *policy)
		}
	}
	if c.AllowPrivilegeEscalation != nil {
		s.AllowPrivilegeEscalation = *c.AllowPrivilegeEscalation
	}
	s.Privileged, s.ReadOnlyRootfs = isTrue(c.Privileged), isTrue(c.ReadOnlyRootFilesystem)
	if c.Capabilities != nil {
		for _, name := range c.Capabilities.Add {
			s.AddCapabilities = append(s.AddCapabilities, string(name))
		}
		for _, name := range c.Capabilities.Drop {
			s.DropCapabilities = append(s.DropCapabilities, string(name))
		}
	}
	var err error
	if s.Seccomp, err = seccomp(firstSet(c.SeccompProfile, p.SeccompProfile)); err != nil {
		return s, err
	}
	s.UnmaskedProc, err = unmasked(pod, c.ProcMount)
	return s, err
}

// confinement is the container's security, or an error if this node does not support it.
func (w *worker) confinement(pod *corev1.Pod, spec *corev1.Container) (runtime.Security, error) {
	s, err := security(pod, spec)
	if err == nil {
		err = w.checkSELinux(pod, spec)
	}
	return s, err
}

// firstSet is the container's value if set, else the pod's.
func firstSet[T any](container, pod *T) *T {
	if container != nil {
		return container
	}
	return pod
}

func isTrue(b *bool) bool { return b != nil && *b }

func seccomp(p *corev1.SeccompProfile) (runtime.Profile, error) {
	switch {
	case p == nil || p.Type == corev1.SeccompProfileTypeUnconfined:
		return runtime.Profile{}, nil
	case p.Type == corev1.SeccompProfileTypeRuntimeDefault:
		return runtime.Profile{Kind: runtime.RuntimeDefault}, nil
	case p.Type != corev1.SeccompProfileTypeLocalhost:
		return runtime.Profile{}, fmt.Errorf("unknown seccomp profile type %q", p.Type)
	case p.LocalhostProfile == nil || *p.LocalhostProfile == "":
		return runtime.Profile{}, errors.New("localhostProfile must be set if seccompProfile type is Localhost")
	}
	return runtime.Profile{Kind: runtime.Localhost, Name: *p.LocalhostProfile}, nil
}

// unmasked says whether the container sees all of /proc. A container could escape through it unless the pod has its own user
// namespace.
func unmasked(pod *corev1.Pod, mount *corev1.ProcMountType) (bool, error) {
	switch {
	case mount == nil || *mount == corev1.DefaultProcMount:
		return false, nil
	case *mount != corev1.UnmaskedProcMount:
		return false, fmt.Errorf("unknown procMount %q", *mount)
	case hostUsers(pod):
		return false, errors.New("procMount: Unmasked needs hostUsers: false")
	}
	return true, nil
}

// appArmorProfile is the container's, from its field, the pod's old annotation, or the pod's field; nil if none is set.
func appArmorProfile(pod *corev1.Pod, spec *corev1.Container) *corev1.AppArmorProfile {
	if spec.SecurityContext != nil && spec.SecurityContext.AppArmorProfile != nil {
		return spec.SecurityContext.AppArmorProfile
	}
	value := pod.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+spec.Name]
	name, localhost := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	switch {
	case value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case localhost:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.AppArmorProfile
	}
	return nil
}

func appArmor(pod *corev1.Pod, spec *corev1.Container) runtime.Profile {
	p := appArmorProfile(pod, spec)
	switch {
	case p == nil || p.Type == corev1.AppArmorProfileTypeUnconfined:
		return runtime.Profile{}
	case p.Type == corev1.AppArmorProfileTypeRuntimeDefault:
		return runtime.Profile{Kind: runtime.RuntimeDefault}
	case p.LocalhostProfile != nil:
		return runtime.Profile{Kind: runtime.Localhost, Name: *p.LocalhostProfile}
	}
	return runtime.Profile{Kind: runtime.Localhost} // a name that no profile has
}

// appArmorRejection rejects, in kubelet's words, a pod whose AppArmor profile this host cannot enforce; absent says why the
// host has no AppArmor, nil if it has.
func appArmorRejection(pod *corev1.Pod, absent error) *rejection {
	if pod.Status.Phase != corev1.PodPending && pod.Status.Phase != "" {
		return nil // it runs, or is over
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			p := appArmorProfile(pod, &list[i])
			switch {
			case p == nil || p.Type == corev1.AppArmorProfileTypeUnconfined:
				continue
			case absent != nil:
				return &rejection{"AppArmor", fmt.Sprintf("Cannot enforce AppArmor: %v", absent)}
			case p.Type == corev1.AppArmorProfileTypeLocalhost && (p.LocalhostProfile == nil || strings.TrimSpace(*p.LocalhostProfile) == ""):
				return &rejection{"AppArmor", fmt.Sprintf("Cannot enforce AppArmor: invalid empty AppArmor profile name: %q", p)}
			}
		}
	}
	return nil
}

// checkSELinux reports that a container's labels have no effect on a host without SELinux, as with kubelet and containerd, and
// refuses them on a host with SELinux: the agent sets no labels.
func (w *worker) checkSELinux(pod *corev1.Pod, spec *corev1.Container) error {
	var options *corev1.SELinuxOptions
	if spec.SecurityContext != nil {
		options = spec.SecurityContext.SELinuxOptions
	}
	if options == nil && pod.Spec.SecurityContext != nil {
		options = pod.Spec.SecurityContext.SELinuxOptions
	}
	if options == nil {
		return nil
	}
	if w.pods.cfg.Runtime.SELinux() {
		return errors.New("seLinuxOptions: this node's agent sets no SELinux labels")
	}
	w.containerEvent(spec.Name, corev1.EventTypeWarning, reasonSELinux, "seLinuxOptions have no effect: SELinux is not enabled on this host")
	return nil
}
