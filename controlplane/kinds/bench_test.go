package kinds

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/resource"
)

func benchmarkPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "nginx"}}},
	}
}

// BenchmarkPodCreate is the cost of the rules for a create of a pod.
func BenchmarkPodCreate(b *testing.B) {
	for b.Loop() {
		pod := benchmarkPod()
		Pods.Default(pod)
		Pods.PrepareForCreate(pod)
		if errs := Pods.ValidateCreate(pod); len(errs) > 0 {
			b.Fatal(errs.ToAggregate())
		}
	}
}

// BenchmarkPodStatusUpdate is their cost for an agent's report.
func BenchmarkPodStatusUpdate(b *testing.B) {
	old := benchmarkPod()
	Pods.Default(old)
	Pods.PrepareForCreate(old)
	old.ResourceVersion = "1"
	for b.Loop() {
		pod := old.DeepCopy()
		pod.Status.Phase = corev1.PodRunning
		Pods.Status.PrepareForUpdate(pod, old)
		if errs := Pods.Status.Validate(pod, old); len(errs) > 0 {
			b.Fatal(errs.ToAggregate())
		}
	}
}

// BenchmarkTable prints a list of 100 pods.
func BenchmarkTable(b *testing.B) {
	objects := make([]resource.Object, 100)
	for i := range objects {
		objects[i] = benchmarkPod()
	}
	for b.Loop() {
		if _, err := Pods.Table(objects, metav1.TableOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
