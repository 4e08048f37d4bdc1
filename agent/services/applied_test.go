package services

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// A revision is reported only when the kernel's maps have it.
func TestAppliedRevision(t *testing.T) {
	s := slice("web-1", "web", 8080, ep("10.244.0.1", true, true, false))
	s.ResourceVersion = "7"
	client := fake.NewClientset(svc("web", "10.96.0.5", httpPort), s)
	_, r, _ := start(t, client, nil)
	r.await(t, "the first revision", func() bool { return r.applied == 7 })
	leave := make(chan struct{})
	r.do(func() { r.leave = leave })
	changed := s.DeepCopy()
	changed.ResourceVersion, changed.Endpoints[0].Conditions.Ready = "9", new(bool)
	if _, err := client.DiscoveryV1().EndpointSlices("ns").Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the change at the plane", func() bool {
		b := r.services["ns/web:http"].Backends
		return r.applied == 7 && (len(b) == 0 || b[0].State != 0)
	})
	close(leave)
	r.await(t, "the second revision", func() bool { return r.applied == 9 })
}

// kubernetes 43576: a pod ends only when all nodes have it out of their maps; those that do not are named.
func TestDrainAsksNodes(t *testing.T) {
	for _, c := range []struct {
		pending []string
		want    string
	}{
		{nil, ""},
		{[]string{"n1"}, "not taken out of the service maps by n1"},
		{[]string{"n1", "n2", "n3", "n4", "n5"}, "not taken out of the service maps by n1, n2, n3 and 2 others"},
	} {
		s := slice("web-1", "web", 8080, ep("10.244.0.1", false, true, true))
		s.ResourceVersion = "7"
		s.Endpoints[0].NodeName, s.Endpoints[0].TargetRef = new("me"), &corev1.ObjectReference{Kind: "Pod", UID: "u"}
		w, r, _ := start(t, fake.NewClientset(svc("web", "10.96.0.5", httpPort), s), nil)
		r.await(t, "the revision", func() bool { return r.applied == 7 })
		r.do(func() { r.pending = c.pending })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		result, restored := w.Drain(ctx, "u")
		restored()
		if !result.Endpoint || result.Problem != c.want {
			t.Errorf("%v pending: %+v, want %q", c.pending, result, c.want)
		}
	}
}

// An API server that does not answer delays a pod that ends for a short time, and the condition says so.
func TestDrainWithoutAnswer(t *testing.T) {
	s := slice("web-1", "web", 8080, ep("10.244.0.1", false, true, true))
	s.ResourceVersion = "7"
	s.Endpoints[0].NodeName, s.Endpoints[0].TargetRef = new("me"), &corev1.ObjectReference{Kind: "Pod", UID: "u"}
	w, r, _ := start(t, fake.NewClientset(svc("web", "10.96.0.5", httpPort), s), nil)
	r.await(t, "the revision", func() bool { return r.applied == 7 })
	r.do(func() { r.applied = 0 })
	result, restored := w.Drain(t.Context(), "u")
	restored()
	if !strings.Contains(result.Problem, "the API server did not say") {
		t.Errorf("%+v", result)
	}
}
