package deployment_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controller/deployment"
	"github.com/skep-io/skep/controlplane/controller/replication"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {team: blue}}
spec:
  replicas: %d
  revisionHistoryLimit: 1
  strategy: %s
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "i:1"}]}
`

const (
	rolling  = "{type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}"
	recreate = "{type: Recreate}"
)

// start runs the loops, and a kubelet that makes pods ready if ready returns true for their image.
func start(t *testing.T, r *resource.Registry, ready func(image string) bool) {
	recorder := event.NewRecorder(r, deployment.Component)
	controlplanetest.Go(t, recorder.Run)
	controlplanetest.Go(t, func(ctx context.Context) { _ = deployment.New(r, recorder).Run(ctx) })
	controlplanetest.Go(t, func(ctx context.Context) { _ = replication.NewReplicaSets(r, recorder, clock.RealClock{}).Run(ctx) })
	controlplanetest.Go(t, func(ctx context.Context) { runPods(ctx, t, r, ready) })
}

func create(t *testing.T, r *resource.Registry, replicas int, strategy string) *appsv1.Deployment {
	return controlplanetest.Create(t, r, controlplanetest.Parse(t, fmt.Sprintf(web, replicas, strategy))...)[0].(*appsv1.Deployment)
}

func change(t *testing.T, r *resource.Registry, f func(*appsv1.Deployment)) *appsv1.Deployment {
	return controlplanetest.Modify(t, r, kinds.Deployments, "", "default", "web", f)
}

func image(name string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = name }
}

// settled waits until the deployment reports that it is complete, with so many pods of an image and no others.
func settled(t *testing.T, r *resource.Registry, image string, replicas int) *appsv1.Deployment {
	t.Helper()
	var d *appsv1.Deployment
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods, kinds.ReplicaSets, kinds.Deployments}, func() string {
		var err error
		if d, err = resource.Get[*appsv1.Deployment](t.Context(), r, kinds.Deployments, "default", "web"); err != nil {
			return err.Error()
		}
		if got := images(r); !slices.Equal(got, slices.Repeat([]string{image}, replicas)) {
			return fmt.Sprintf("images of the pods: %v", got)
		}
		s := d.Status
		if s.ObservedGeneration != d.Generation || s.Replicas != int32(replicas) || s.UpdatedReplicas != int32(replicas) || s.AvailableReplicas != int32(replicas) || s.UnavailableReplicas != 0 {
			return fmt.Sprintf("generation %d, status %+v", d.Generation, s)
		}
		return ""
	})
	return d
}

func images(r *resource.Registry) (list []string) {
	for _, pod := range controlplanetest.List[*corev1.Pod](r, kinds.Pods, "default") {
		if controller.PodActive(pod) {
			list = append(list, pod.Spec.Containers[0].Image)
		}
	}
	slices.Sort(list)
	return list
}

func condition(d *appsv1.Deployment, kind appsv1.DeploymentConditionType) string {
	for _, c := range d.Status.Conditions {
		if c.Type == kind {
			return string(c.Status) + " " + c.Reason
		}
	}
	return ""
}

func sets(r *resource.Registry) []*appsv1.ReplicaSet {
	return controlplanetest.List[*appsv1.ReplicaSet](r, kinds.ReplicaSets, "default")
}

func TestRollsOutAndBack(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r, func(string) bool { return true })
	create(t, r, 3, rolling)
	d := settled(t, r, "i:1", 3)
	if got := condition(d, appsv1.DeploymentAvailable) + ", " + condition(d, appsv1.DeploymentProgressing); got != "True MinimumReplicasAvailable, True NewReplicaSetAvailable" {
		t.Errorf("conditions: %s", got)
	}
	set := sets(r)[0]
	if !strings.HasPrefix(set.Name, "web-") || set.Labels["pod-template-hash"] == "" || set.Annotations["team"] != "blue" || set.Annotations["deployment.kubernetes.io/revision"] != "1" {
		t.Errorf("set %s, labels %v, annotations %v", set.Name, set.Labels, set.Annotations)
	}
	change(t, r, image("i:2"))
	if d = settled(t, r, "i:2", 3); d.Annotations["deployment.kubernetes.io/revision"] != "2" {
		t.Errorf("annotations %v", d.Annotations)
	}
	// Back to the first template: its set is used again.
	change(t, r, image("i:1"))
	if d = settled(t, r, "i:1", 3); d.Annotations["deployment.kubernetes.io/revision"] != "3" {
		t.Errorf("annotations %v", d.Annotations)
	}
	for _, s := range sets(r) {
		if s.Name == set.Name && (s.UID != set.UID || s.Annotations["deployment.kubernetes.io/revision-history"] != "1") {
			t.Errorf("set of the first template: %v", s.Annotations)
		}
	}
	change(t, r, image("i:3"))
	settled(t, r, "i:3", 3)
	// Only one old set is kept.
	controlplanetest.Await(t, r, []*resource.Kind{kinds.ReplicaSets}, func() string {
		if n := len(sets(r)); n != 2 {
			return fmt.Sprintf("%d sets", n)
		}
		return ""
	})
}

// A template whose pods never become ready removes no working pods, and a rollback ends it.
func TestBrokenTemplateKeepsWhatWorks(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r, func(image string) bool { return image != "broken" })
	create(t, r, 3, rolling)
	settled(t, r, "i:1", 3)
	change(t, r, image("broken"))
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods}, func() string {
		if got := images(r); !slices.Equal(got, []string{"broken", "i:1", "i:1", "i:1"}) {
			return fmt.Sprint(got)
		}
		return ""
	})
	change(t, r, func(d *appsv1.Deployment) { d.Spec.Paused = true })
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Deployments}, func() string {
		d, err := resource.Get[*appsv1.Deployment](t.Context(), r, kinds.Deployments, "default", "web")
		if err != nil || condition(d, appsv1.DeploymentProgressing) != "Unknown DeploymentPaused" {
			return fmt.Sprintf("%+v, %v", d.Status.Conditions, err)
		}
		return ""
	})
	change(t, r, func(d *appsv1.Deployment) { d.Spec.Paused = false; image("i:1")(d) })
	settled(t, r, "i:1", 3)
}

func TestScales(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r, func(string) bool { return true })
	create(t, r, 2, rolling)
	settled(t, r, "i:1", 2)
	for _, replicas := range []int32{5, 1, 0, 3} {
		change(t, r, func(d *appsv1.Deployment) { d.Spec.Replicas = &replicas })
		settled(t, r, "i:1", int(replicas))
	}
}

// Recreate: at no time are there pods of both templates.
func TestRecreateNeverMixes(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r, func(string) bool { return true })
	create(t, r, 3, recreate)
	settled(t, r, "i:1", 3)
	mixed := make(chan string, 1)
	controlplanetest.Go(t, func(ctx context.Context) { watchImages(ctx, r, mixed) })
	change(t, r, image("i:2"))
	settled(t, r, "i:2", 3)
	select {
	case what := <-mixed:
		t.Error(what)
	default:
	}
}

// A matching set without an owner is adopted, whether or not it has the deployment's template; one whose labels are changed is released.
func TestAdoptsAndReleases(t *testing.T) {
	r := controlplanetest.Start(t)
	orphan := controlplanetest.Create(t, r, controlplanetest.Parse(t, `
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: before, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web, old: "yes"}}
  template:
    metadata: {labels: {app: web, old: "yes"}}
    spec: {containers: [{name: c, image: "i:0"}]}
`)...)[0].(*appsv1.ReplicaSet)
	start(t, r, func(string) bool { return true })
	d := create(t, r, 1, rolling)
	owned := func(want bool) {
		t.Helper()
		controlplanetest.Await(t, r, []*resource.Kind{kinds.ReplicaSets}, func() string {
			now, err := resource.Get[*appsv1.ReplicaSet](t.Context(), r, kinds.ReplicaSets, "default", orphan.Name)
			if err != nil || metav1.IsControlledBy(now, d) != want {
				return fmt.Sprintf("owners %v, %v", now.GetOwnerReferences(), err)
			}
			return ""
		})
	}
	owned(true)
	controlplanetest.Modify(t, r, kinds.ReplicaSets, "", "default", orphan.Name, func(set *appsv1.ReplicaSet) { set.Labels = nil })
	owned(false)
	settled(t, r, "i:1", 1)
}
