package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// event is about the pod as a whole.
func (w *worker) event(kind, reason, format string, args ...any) {
	w.pods.cfg.Recorder.Eventf(w.reference(""), kind, reason, format, args...)
}

// containerEvent names the container by its field in the specification.
func (w *worker) containerEvent(name, kind, reason, format string, args ...any) {
	w.pods.cfg.Recorder.Eventf(w.reference(w.fieldPath(name)), kind, reason, format, args...)
}

func (w *worker) reference(field string) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: w.key.Namespace, Name: w.key.Name,
		UID: w.ref.UID, ResourceVersion: w.ref.ResourceVersion, FieldPath: field,
	}
}

func (w *worker) fieldPath(name string) string {
	if c := w.containers[name]; c != nil && c.role != roleMain {
		return fmt.Sprintf("spec.initContainers{%s}", name)
	}
	return fmt.Sprintf("spec.containers{%s}", name)
}
