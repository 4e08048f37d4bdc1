package pod

import (
	"errors"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/runtime"
)

// users are the pod's own IDs; 0 for a pod in the node's user namespace.
func (w *worker) users(pod *corev1.Pod) (runtime.Users, error) {
	if err := w.usersRefused(pod); err != nil || hostUsers(pod) {
		return 0, err
	}
	return w.pods.cfg.Runtime.AllocateUsers(w.uid)
}

// usersRefused says why the pod cannot have the IDs of its own that it asks for. The pod never runs with the node's IDs
// instead.
func (w *worker) usersRefused(pod *corev1.Pod) error {
	switch {
	case hostUsers(pod):
		return nil
	case pod.Spec.HostNetwork || pod.Spec.HostIPC || pod.Spec.HostPID:
		return errors.New("can't set `spec.hostUsers: false` beside hostNetwork, hostPID or hostIPC")
	case !w.pods.cfg.Runtime.Features().UserNamespaces:
		return errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
	}
	return nil
}

// sharedPIDNamespace is that of the pod's first main container, if it
// runs: there is no pause container to hold a shared PID namespace, so the
// containers that start after it share its namespace.
func (w *worker) sharedPIDNamespace(pod *corev1.Pod, name string) string {
	first := pod.Spec.Containers[0].Name
	if name == first {
		return ""
	}
	for _, c := range w.pods.containersOf(w.uid) {
		if c.Name != first || c.State != runtime.Running {
			continue
		}
		path, err := w.pods.cfg.Runtime.PinPIDNamespace(c.ID)
		if err == nil {
			return path
		}
		w.log().Warn("PID namespace of the pod's first container cannot be shared", "container", c.ID, "err", err)
	}
	w.containerEvent(name, corev1.EventTypeWarning, "ProcessNamespaceNotShared",
		"shareProcessNamespace: container %s is not running, so %s starts with a PID namespace of its own", first, name)
	return ""
}
