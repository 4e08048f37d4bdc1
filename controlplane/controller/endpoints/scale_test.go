package endpoints_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// addPods makes ready pods of an app, several at a time.
func addPods(t testing.TB, r *resource.Registry, app string, count int) {
	t.Helper()
	var group sync.WaitGroup
	limit := make(chan struct{}, 16)
	for i := range count {
		limit <- struct{}{}
		group.Go(func() {
			defer func() { <-limit }()
			ip := fmt.Sprintf("10.244.%d.%d", i/250, i%250+1)
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("%s-%d", app, i), Labels: map[string]string{"app": app}},
				Spec:       corev1.PodSpec{NodeName: "node1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			}
			made, err := r.Create(t.Context(), kinds.Pods, pod, resource.CreateOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			setPod(t, r, made.GetName(), corev1.ConditionTrue, ip)
		})
	}
	group.Wait()
}

func setPod(t testing.TB, r *resource.Registry, name string, ready corev1.ConditionStatus, ip string) {
	t.Helper()
	_, err := r.Modify(t.Context(), kinds.Pods, "status", "default", name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		pod := current.DeepCopyObject().(*corev1.Pod)
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		if ip != "" {
			pod.Status.PodIP, pod.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
		}
		return pod, nil
	})
	if err != nil {
		t.Error(err)
	}
}

func sizes(r *resource.Registry, service string) (sizes []int, ready int) {
	for _, s := range resource.ByIndex[*discoveryv1.EndpointSlice](r, kinds.EndpointSlices, kinds.SlicesByService, "default/"+service) {
		sizes = append(sizes, len(s.Endpoints))
		for _, e := range s.Endpoints {
			if *e.Conditions.Ready {
				ready++
			}
		}
	}
	return sizes, ready
}

// slicesWritten counts the writes of slices from now on, until it is read.
func slicesWritten(t *testing.T, r *resource.Registry) (count func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var group sync.WaitGroup
	n, started := 0, make(chan struct{})
	group.Go(func() {
		initial := true
		_ = r.Cache(kinds.EndpointSlices).Follow(ctx, func(e watchcache.Event) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case e.InitialEventsEnd:
				initial = false
				close(started)
			case !initial && e.Object != nil:
				n++
			}
		})
	})
	<-started
	return func() int {
		cancel()
		group.Wait()
		return n
	}
}

// TestThousandEndpoints has them in ten slices, and writes the one slice that changes.
func TestThousandEndpoints(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	controlplanetest.Create(t, r, controlplanetest.Parse(t, `
apiVersion: v1
kind: Node
metadata: {name: node1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`)...)
	addPods(t, r, "web", 1000)
	await := func(ready int) {
		t.Helper()
		controlplanetest.Await(t, r, watched, func() string {
			sizes, got := sizes(r, "web")
			e := controlplanetest.List[*corev1.Endpoints](r, kinds.Endpoints, "default")
			if got == ready && len(e) == 1 && len(e[0].Subsets) == 1 && len(e[0].Subsets[0].Addresses) == ready {
				return ""
			}
			return fmt.Sprintf("%d of %v are ready, want %d", got, sizes, ready)
		})
	}
	await(1000)
	// As many slices as needed, or a few more since the pods came in one by one: never one over full.
	got, _ := sizes(r, "web")
	if slices.Max(got) > 100 || len(got) > 11 {
		t.Errorf("slices hold %v", got)
	}
	written := slicesWritten(t, r)
	setPod(t, r, "web-500", corev1.ConditionFalse, "")
	await(999)
	if n := written(); n != 1 {
		t.Errorf("one pod's change wrote %d slices", n)
	}
}

// TestMirrorLimit mirrors a thousand addresses of a subset and reports the rest.
func TestMirrorLimit(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "many", Annotations: map[string]string{"a": "b"}}, Subsets: []corev1.EndpointSubset{{Ports: []corev1.EndpointPort{{Port: 80}}}}}
	for i := range 1003 {
		e.Subsets[0].Addresses = append(e.Subsets[0].Addresses, corev1.EndpointAddress{IP: fmt.Sprintf("192.0.%d.%d", i/250, i%250)})
	}
	controlplanetest.Create(t, r, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "many"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, e)
	controlplanetest.Await(t, r, []*resource.Kind{kinds.EndpointSlices, kinds.Events}, func() string {
		got, _ := sizes(r, "many")
		for _, e := range controlplanetest.List[*corev1.Event](r, kinds.Events, "default") {
			if e.Reason == "TooManyAddressesToMirror" && strings.Contains(e.Message, "3 addresses were skipped") && slices.Equal(got, []int{1000}) {
				return ""
			}
		}
		return fmt.Sprintf("slices hold %v", got)
	})
	// A removed annotation is removed from the slice too; and all slices are deleted with the Endpoints.
	controlplanetest.Modify(t, r, kinds.Endpoints, "", "default", "many", func(e *corev1.Endpoints) {
		e.Annotations, e.Subsets[0].Addresses = nil, e.Subsets[0].Addresses[:2]
	})
	controlplanetest.Await(t, r, watched, func() string {
		list := controlplanetest.List[*discoveryv1.EndpointSlice](r, kinds.EndpointSlices, "default")
		if len(list) == 1 && len(list[0].Endpoints) == 2 && len(list[0].Annotations) == 0 {
			return ""
		}
		return fmt.Sprint(len(list), " slices")
	})
	if _, _, err := r.Delete(t.Context(), kinds.Endpoints, "default", "many", nil); err != nil {
		t.Fatal(err)
	}
	controlplanetest.Await(t, r, watched, func() string { return strings.TrimSpace(dump(r)) })
}
