package replication

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestRankForDeletion(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	pod := func(name string, change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
		p.Spec.NodeName = name // a node of its own
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
		change(p)
		return p
	}
	// From the first to be deleted to the last, each for the one reason in its name.
	pods := []*corev1.Pod{
		pod("1-unassigned", func(p *corev1.Pod) { p.Spec.NodeName = "" }),
		pod("2-pending", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }),
		pod("3-unknown", func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown }),
		pod("4-not-ready", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }),
		pod("5-cheap", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} }),
		pod("6-doubled-a", func(p *corev1.Pod) { p.Spec.NodeName = "shared" }),
		pod("6-doubled-b", func(p *corev1.Pod) { p.Spec.NodeName = "shared" }),
		pod("7-ready-lately", func(p *corev1.Pod) {
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Minute))
		}),
		pod("8-restarted", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} }),
		pod("9-young", func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-time.Minute)) }),
		pod("a-plain", func(*corev1.Pod) {}),
		pod("b-dear", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "7"} }),
	}
	want := names(pods)
	slices.Reverse(pods)
	rankForDeletion(pods, now)
	if got := names(pods); !slices.Equal(got, want) {
		t.Errorf("order is\n%v, want\n%v", got, want)
	}
}

func names(pods []*corev1.Pod) (list []string) {
	for _, p := range pods {
		list = append(list, p.Name)
	}
	return list
}
