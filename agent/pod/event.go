package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/pod/life"
)

// event writes an event about the pod as a whole.
func (w *worker) event(kind, reason, format string, args ...any) {
	w.containerEvent("", kind, reason, format, args...)
}

// containerEvent writes an event about a container, named by its field in the specification.
func (w *worker) containerEvent(name, kind, reason, format string, args ...any) {
	w.pods.cfg.Recorder.Eventf(w.reference(name), kind, reason, format, args...)
}

// report writes an event that the state machine asks for.
func (w *worker) report(r life.Report) {
	if r.Annotations == nil {
		w.containerEvent(r.Container, r.Type, r.Reason, "%s", r.Message)
		return
	}
	w.pods.cfg.Recorder.AnnotatedEventf(w.reference(r.Container), r.Annotations, r.Type, r.Reason, "%s", r.Message)
}

func (w *worker) reference(container string) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: w.key.Namespace, Name: w.key.Name,
		UID: w.ref.UID, ResourceVersion: w.ref.ResourceVersion,
	}
	if container == "" {
		return ref
	}
	ref.FieldPath = fmt.Sprintf("spec.containers{%s}", container)
	for i := range w.ref.Spec.InitContainers {
		if w.ref.Spec.InitContainers[i].Name == container {
			ref.FieldPath = fmt.Sprintf("spec.initContainers{%s}", container)
		}
	}
	return ref
}
