package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/sysctl"
)

// rejection is why this node does not run a pod, in kubelet's words.
type rejection struct{ reason, message string }

// admission checks the pod before anything is created for it, and returns the first reason to reject it, or nil.
func (p *Pods) admission(pod *corev1.Pod) *rejection {
	for _, judge := range []func(*corev1.Pod) *rejection{p.admitPressed, admitSystem, p.admitSysctls, p.admitAppArmor, p.admitHostPorts} {
		if r := judge(pod); r != nil {
			return r
		}
	}
	return nil
}

// admitSystem rejects pods for another operating system.
func admitSystem(pod *corev1.Pod) *rejection {
	if pod.Spec.OS != nil && pod.Spec.OS.Name != corev1.Linux {
		return &rejection{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	return nil
}

func (p *Pods) admitAppArmor(pod *corev1.Pod) *rejection {
	return appArmorRejection(pod, p.cfg.Runtime.AppArmor())
}

func (p *Pods) admitSysctls(pod *corev1.Pod) *rejection {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	namespaces := sysctl.Pod{HostNetwork: pod.Spec.HostNetwork, HostIPC: pod.Spec.HostIPC, HostUsers: hostUsers(pod)}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if err := p.cfg.Sysctls.Check(s.Name, namespaces); err != nil {
			return &rejection{sysctl.Forbidden, fmt.Sprintf("forbidden sysctl: %v", err)}
		}
	}
	return nil
}

// admitHostPorts rejects new pods that want a port of the node's own programs. A pod that runs has its ports already, as far as
// they are free.
func (p *Pods) admitHostPorts(pod *corev1.Pod) *rejection {
	if len(pod.Status.ContainerStatuses) > 0 {
		return nil
	}
	if taken := p.cfg.HostPorts.HostPortTaken(pod); taken != "" {
		return &rejection{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: " + taken}
	}
	return nil
}

// hostUsers says whether the pod is in the node's user namespace.
func hostUsers(pod *corev1.Pod) bool { return pod.Spec.HostUsers == nil || *pod.Spec.HostUsers }

func sysctls(spec *corev1.PodSpec) (list []runtime.Sysctl) {
	if spec.SecurityContext == nil {
		return nil
	}
	for _, s := range spec.SecurityContext.Sysctls {
		list = append(list, runtime.Sysctl{Name: s.Name, Value: s.Value})
	}
	return list
}
