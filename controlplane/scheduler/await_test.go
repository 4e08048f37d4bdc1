package scheduler_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func deleteNow(zero *int64) *metav1.DeleteOptions {
	return &metav1.DeleteOptions{GracePeriodSeconds: zero}
}

func awaitPod(t *testing.T, r *resource.Registry, name string, is func(*corev1.Pod) bool) {
	t.Helper()
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods}, func() string {
		p, err := resource.Get[*corev1.Pod](t.Context(), r, kinds.Pods, "default", name)
		if err != nil {
			return err.Error()
		}
		if is(p) {
			return ""
		}
		return fmt.Sprintf("node %q, conditions %v", p.Spec.NodeName, p.Status.Conditions)
	})
}

func awaitNode(t *testing.T, r *resource.Registry, name, node string) {
	t.Helper()
	awaitPod(t, r, name, func(p *corev1.Pod) bool { return p.Spec.NodeName == node })
}

func awaitUnschedulable(t *testing.T, r *resource.Registry, name, message string) {
	t.Helper()
	awaitPod(t, r, name, func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable && c.Message == message {
				return true
			}
		}
		return false
	})
}

func awaitEvent(t *testing.T, r *resource.Registry, pod, reason, message string) {
	t.Helper()
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Events}, func() string {
		var seen []string
		for _, e := range controlplanetest.List[*corev1.Event](r, kinds.Events, "default") {
			if e.InvolvedObject.Name == pod && e.Reason == reason && e.Message == message && e.Source.Component == "default-scheduler" {
				return ""
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return fmt.Sprintf("events are %q", seen)
	})
}
