package services

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSlimKeepsWhatNodesRead(t *testing.T) {
	s := newSlimmer("me", newLatency().annotations)
	made := func(node string) *discoveryv1.EndpointSlice {
		e := ep("10.244.0.1", true, true, false)
		e.NodeName, e.Zone, e.TargetRef = new(node), new("z"), &corev1.ObjectReference{Kind: "Pod", Name: "web-1", UID: "uid-1"}
		out := slice("web-1", "web", 8080, e)
		out.OwnerReferences = []metav1.OwnerReference{{Kind: "Service", Name: "web"}}
		return out
	}
	here, there, again := made("me"), made("other"), made("other")
	for _, obj := range []*discoveryv1.EndpointSlice{here, there, again} {
		if got, err := s.slim(obj); err != nil || got != any(obj) {
			t.Fatalf("%v, %v", got, err)
		}
		e := obj.Endpoints[0]
		if obj.Labels[discoveryv1.LabelServiceName] != "web" || e.Addresses[0] != "10.244.0.1" || !*e.Conditions.Ready || !*e.Conditions.Serving || *e.Conditions.Terminating || *e.Zone != "z" {
			t.Errorf("lost what nodes read: %+v", obj)
		}
	}
	if ref := here.Endpoints[0].TargetRef; ref == nil || ref.UID != "uid-1" {
		t.Errorf("this node's pod is %+v: its drain would not be seen", ref)
	}
	if there.Endpoints[0].TargetRef != nil || there.OwnerReferences != nil {
		t.Errorf("kept what no node reads: %+v", there)
	}
	if there.Endpoints[0].NodeName != again.Endpoints[0].NodeName || *again.Endpoints[0].NodeName != "other" {
		t.Error("two endpoints of a node do not share its name")
	}
	web := svc("web", "10.96.0.5", httpPort)
	web.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: "{}", "skep.io/selection": "random"}
	if _, err := s.slim(web); err != nil || len(web.Annotations) != 1 || web.Annotations["skep.io/selection"] != "random" {
		t.Errorf("annotations %v, %v", web.Annotations, err)
	}
}
