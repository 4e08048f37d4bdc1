package kinds

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheme"
)

// TestFieldsAreKubernetesOnes compares with the field labels that Kubernetes
// lets through for the kind.
func TestFieldsAreKubernetesOnes(t *testing.T) {
	want := map[*resource.Kind]int{Pods: 8, Events: 11, Nodes: 1, Namespaces: 2, ReplicationControllers: 1, Secrets: 1, Services: 2}
	for _, kind := range All() {
		if kind.Fields == nil {
			if want[kind] != 0 {
				t.Errorf("%s has no selectable fields", kind.Resource)
			}
			continue
		}
		set := kind.Fields(kind.New())
		if len(set) != want[kind] {
			t.Errorf("%s has %d selectable fields, want %d", kind.Resource, len(set), want[kind])
		}
		for name := range set {
			if kind == Namespaces && name == "name" {
				continue // Kubernetes selects by it, but lets no request ask for it.
			}
			if _, _, err := scheme.Scheme.ConvertFieldLabel(kind.GVK, name, ""); err != nil {
				t.Errorf("%s: %v", kind.Resource, err)
			}
		}
	}
}

func TestFieldValues(t *testing.T) {
	pod := &corev1.Pod{
		Spec:   corev1.PodSpec{NodeName: "node1", HostNetwork: true},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}},
	}
	set := Pods.Fields(pod)
	for name, want := range map[string]string{"spec.nodeName": "node1", "spec.hostNetwork": "true", "status.phase": "Running", "status.podIP": "10.0.0.1"} {
		if set[name] != want {
			t.Errorf("%s is %q, want %q", name, set[name], want)
		}
	}
	if got := Events.Fields(&corev1.Event{ReportingController: "agent"})["source"]; got != "agent" {
		t.Errorf("source of an event without one is %q, want its reporter", got)
	}
	if got := Nodes.Fields(&corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}})["spec.unschedulable"]; got != "true" {
		t.Errorf("spec.unschedulable is %q", got)
	}
}

func TestIndexes(t *testing.T) {
	owned := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{
		{UID: "other"}, {UID: "rc", Controller: ptr.To(true)},
	}}}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "a", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
	}}
	for _, tc := range []struct {
		kind  *resource.Kind
		index string
		obj   resource.Object
		want  []string
	}{
		{Pods, PodsByController, owned, []string{"rc"}},
		{Pods, PodsByController, &corev1.Pod{}, nil},
		{Pods, PodsByNode, owned, nil},
		{Pods, PodsByNode, &corev1.Pod{Spec: corev1.PodSpec{NodeName: "node1"}}, []string{"node1"}},
		{EndpointSlices, SlicesByService, slice, []string{"a/web"}},
		{EndpointSlices, SlicesByService, &discoveryv1.EndpointSlice{}, nil},
	} {
		if got := tc.kind.Indexes[tc.index](tc.obj); !slices.Equal(got, tc.want) {
			t.Errorf("index %s has %v, want %v", tc.index, got, tc.want)
		}
	}
}

func TestGracePeriod(t *testing.T) {
	running := func(change func(*corev1.Pod)) *corev1.Pod {
		pod := &corev1.Pod{
			Spec:   corev1.PodSpec{NodeName: "node1", TerminationGracePeriodSeconds: ptr.To[int64](30)},
			Status: corev1.PodStatus{Phase: corev1.PodRunning},
		}
		change(pod)
		return pod
	}
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		opts *metav1.DeleteOptions
		want int64
	}{
		"the pod's own":      {running(func(*corev1.Pod) {}), nil, 30},
		"the one asked for":  {running(func(*corev1.Pod) {}), &metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](5)}, 5},
		"negative":           {running(func(*corev1.Pod) {}), &metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](-5)}, 1},
		"none without node":  {running(func(p *corev1.Pod) { p.Spec.NodeName = "" }), nil, 0},
		"none once finished": {running(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), nil, 0},
	} {
		if got, graceful := Pods.GracePeriod(tc.pod, tc.opts); got != tc.want || !graceful {
			t.Errorf("%s: %d seconds, graceful %v; want %d", name, got, graceful, tc.want)
		}
	}
}
