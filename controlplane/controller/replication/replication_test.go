package replication_test

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controller/replication"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func start(t *testing.T, r *resource.Registry) (stop func()) {
	recorder := event.NewRecorder(r, replication.Component)
	controlplanetest.Go(t, recorder.Run)
	return controlplanetest.Go(t, func(ctx context.Context) { _ = replication.New(r, recorder, clock.RealClock{}).Run(ctx) })
}

const web = `
apiVersion: v1
kind: ReplicationController
metadata: {name: web}
spec:
  replicas: %d
  selector: {app: web}
  template:
    metadata: {labels: {app: web, tier: front}}
    spec: {containers: [{name: c, image: i}]}
`

func createWeb(t *testing.T, r *resource.Registry, replicas int) *corev1.ReplicationController {
	return controlplanetest.Create(t, r, controlplanetest.Parse(t, fmt.Sprintf(web, replicas))...)[0].(*corev1.ReplicationController)
}

func active(r *resource.Registry) (pods []*corev1.Pod) {
	for _, p := range controlplanetest.List[*corev1.Pod](r, kinds.Pods, "default") {
		if controller.PodActive(p) {
			pods = append(pods, p)
		}
	}
	return pods
}

// settled waits until the controller's status has so many pods, and as many exist and are
// owned by it, none of them with a name in gone.
func settled(t *testing.T, r *resource.Registry, rc *corev1.ReplicationController, replicas int, gone ...string) []*corev1.Pod {
	t.Helper()
	var pods []*corev1.Pod
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods, kinds.ReplicationControllers}, func() string {
		pods = nil
		for _, p := range active(r) {
			if slices.Contains(gone, p.Name) {
				return p.Name + " still counts"
			}
			if metav1.IsControlledBy(p, rc) {
				pods = append(pods, p)
			}
		}
		now, err := resource.Get[*corev1.ReplicationController](t.Context(), r, kinds.ReplicationControllers, "default", rc.Name)
		if err != nil {
			return err.Error()
		}
		if len(pods) == replicas && int(now.Status.Replicas) == replicas && now.Status.ObservedGeneration == now.Generation {
			return ""
		}
		return fmt.Sprintf("%d pods, status %+v, want %d", len(pods), now.Status, replicas)
	})
	return pods
}

func setReplicas(t *testing.T, r *resource.Registry, n int32) {
	t.Helper()
	controlplanetest.Modify(t, r, kinds.ReplicationControllers, "", "default", "web", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = &n })
}

func TestScaleUpReplaceAndScaleDown(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	rc := createWeb(t, r, 20)
	pods := settled(t, r, rc, 20)
	for _, p := range pods {
		if !strings.HasPrefix(p.Name, "web-") || !ptr.Deref(p.OwnerReferences[0].BlockOwnerDeletion, false) || p.Labels["tier"] != "front" {
			t.Fatalf("pod is not made from the template: %v %v %v", p.Name, p.OwnerReferences, p.Labels)
		}
	}
	if all := active(r); len(all) != 20 {
		t.Fatalf("%d pods were made for 20", len(all))
	}
	// One pod ends, one is deleted: both are replaced.
	controlplanetest.Modify(t, r, kinds.Pods, "status", "default", pods[0].Name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	if _, _, err := r.Delete(t.Context(), kinds.Pods, "default", pods[1].Name, nil); err != nil {
		t.Fatal(err)
	}
	settled(t, r, rc, 20, pods[0].Name, pods[1].Name)
	// Pods that are not ready are deleted first.
	ready := map[string]bool{}
	for _, p := range pods[2:5] {
		ready[p.Name] = true
		controlplanetest.Modify(t, r, kinds.Pods, "status", "default", p.Name, func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		})
	}
	controlplanetest.Await(t, r, []*resource.Kind{kinds.ReplicationControllers}, func() string {
		now, _ := resource.Get[*corev1.ReplicationController](t.Context(), r, kinds.ReplicationControllers, "default", "web")
		if now.Status.ReadyReplicas == 3 && now.Status.AvailableReplicas == 3 && now.Status.FullyLabeledReplicas == 20 {
			return ""
		}
		return fmt.Sprintf("status %+v", now.Status)
	})
	setReplicas(t, r, 3)
	for _, p := range settled(t, r, rc, 3) {
		if !ready[p.Name] {
			t.Errorf("%s is kept, which was never ready", p.Name)
		}
	}
	awaitEvents(t, r, map[string]int{"SuccessfulCreate": 22, "SuccessfulDelete": 17})
}

// awaitEvents counts the controller's events; client-go's correlation may have counted up and cut some.
func awaitEvents(t *testing.T, r *resource.Registry, atMost map[string]int) {
	t.Helper()
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Events}, func() string {
		got := map[string]int{}
		for _, e := range controlplanetest.List[*corev1.Event](r, kinds.Events, "default") {
			if e.InvolvedObject.Kind == "ReplicationController" && e.Source.Component == replication.Component {
				got[e.Reason] += int(e.Count)
			}
		}
		for reason, n := range atMost {
			if got[reason] == 0 || got[reason] > n {
				return fmt.Sprintf("events %v, want some of each and at most %v", got, atMost)
			}
		}
		return ""
	})
}

func TestAdoptsAndReleases(t *testing.T) {
	for _, first := range []string{"pods first", "controller first"} {
		t.Run(first, func(t *testing.T) {
			r := controlplanetest.Start(t)
			orphans := controlplanetest.Parse(t, `
apiVersion: v1
kind: Pod
metadata: {name: mine, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: db}}
spec: {containers: [{name: c, image: i}]}
`)
			var rc *corev1.ReplicationController
			if first == "pods first" {
				controlplanetest.Create(t, r, orphans...)
				rc = createWeb(t, r, 3)
				start(t, r)
			} else {
				start(t, r)
				rc = createWeb(t, r, 3)
				settled(t, r, rc, 3)
				controlplanetest.Create(t, r, orphans...)
				// The fourth that matches is one too many; make it wanted.
				setReplicas(t, r, 4)
				settled(t, r, rc, 4)
				setReplicas(t, r, 3)
			}
			settled(t, r, rc, 3)
			if other, err := resource.Get[*corev1.Pod](t.Context(), r, kinds.Pods, "default", "other"); err != nil || len(other.OwnerReferences) != 0 {
				t.Errorf("a pod that does not match was touched: %v %v", other, err)
			}
			victim := settled(t, r, rc, 3)[0].Name
			controlplanetest.Modify(t, r, kinds.Pods, "", "default", victim, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "quarantine"} })
			controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods}, func() string {
				p, err := resource.Get[*corev1.Pod](t.Context(), r, kinds.Pods, "default", victim)
				if err == nil && len(p.OwnerReferences) == 0 && p.DeletionTimestamp == nil {
					return ""
				}
				return fmt.Sprintf("%v %v", p, err)
			})
			settled(t, r, rc, 3)
		})
	}
}

// However often the loop is stopped in its work, there are never more pods than requested.
func TestNeverTooManyOverRestarts(t *testing.T) {
	r := controlplanetest.Start(t)
	var rc *corev1.ReplicationController
	for round := range 6 {
		stop := start(t, r)
		if rc == nil {
			rc = createWeb(t, r, 60)
		}
		controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods}, func() string {
			if n := len(active(r)); n < 10*(round+1) {
				return fmt.Sprintf("%d pods", n)
			}
			return ""
		})
		stop()
		if n := len(controlplanetest.List[*corev1.Pod](r, kinds.Pods, "default")); n > 60 {
			names := []string{}
			for _, p := range active(r) {
				names = append(names, p.Name)
			}
			sort.Strings(names)
			t.Fatalf("%d pods were made for 60: %v", n, names)
		}
	}
	start(t, r)
	settled(t, r, rc, 60)
	if n := len(controlplanetest.List[*corev1.Pod](r, kinds.Pods, "default")); n != 60 {
		t.Errorf("%d pods were made for 60", n)
	}
}

const webSet = `
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchExpressions: [{key: app, operator: In, values: [web]}]}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
`

// A ReplicaSet keeps its pods as a ReplicationController does, and neither loop touches the other's.
func TestReplicaSetKeepsItsOwnPods(t *testing.T) {
	r := controlplanetest.Start(t)
	rc := createWeb(t, r, 2)
	start(t, r)
	settled(t, r, rc, 2)
	recorder := event.NewRecorder(r, replication.ReplicaSetsComponent)
	controlplanetest.Go(t, recorder.Run)
	controlplanetest.Go(t, func(ctx context.Context) { _ = replication.NewReplicaSets(r, recorder, clock.RealClock{}).Run(ctx) })
	set := controlplanetest.Create(t, r, controlplanetest.Parse(t, webSet)...)[0].(*appsv1.ReplicaSet)
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods, kinds.ReplicaSets}, func() string {
		owners := map[string]int{}
		for _, p := range active(r) {
			owners[string(metav1.GetControllerOf(p).UID)]++
		}
		if owners[string(set.UID)] != 3 || owners[string(rc.UID)] != 2 || len(owners) != 2 {
			return fmt.Sprintf("pods by owner: %v", owners)
		}
		now, err := resource.Get[*appsv1.ReplicaSet](t.Context(), r, kinds.ReplicaSets, set.Namespace, set.Name)
		if err != nil || now.Status.Replicas != 3 || now.Status.FullyLabeledReplicas != 3 || now.Status.ObservedGeneration != now.Generation {
			return fmt.Sprintf("status %+v, %v", now.Status, err)
		}
		return ""
	})
	settled(t, r, rc, 2)
	for _, p := range active(r) {
		if ref := metav1.GetControllerOf(p); ref.UID == set.UID && (ref.Kind != "ReplicaSet" || ref.APIVersion != "apps/v1") {
			t.Errorf("pod %s is owned by %+v", p.Name, ref)
		}
	}
}
