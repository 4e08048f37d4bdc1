package scheduler_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheduler"
)

func start(t *testing.T, r *resource.Registry) (stop func()) {
	return startWith(t, r, clock.RealClock{}, scheduler.DefaultConfiguration())
}

func startWith(t *testing.T, r *resource.Registry, clock clock.WithTicker, c *scheduler.Configuration) (stop func()) {
	recorders := c.NewRecorders(func(component string) *event.Recorder {
		recorder := event.NewRecorder(r, component)
		controlplanetest.Go(t, recorder.Run)
		return recorder
	})
	return controlplanetest.Go(t, func(ctx context.Context) { _ = scheduler.New(r, recorders, clock, c).Run(ctx) })
}

func node(name string, cpu int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: %s}
status:
  allocatable: {cpu: "%d", memory: 8Gi, pods: "1000"}
  conditions: [{type: Ready, status: "True"}]
`, name, cpu)
}

func pod(name string, cpu string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  containers: [{name: c, image: i, resources: {requests: {cpu: %s}}}]
`, name, cpu)
}

// A pod that fits nowhere has the reason in its condition, and is bound as soon as there is room: when a node is added, and when a pod is
// deleted.
func TestUnschedulableUntilThereIsRoom(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	controlplanetest.Create(t, r, controlplanetest.Parse(t, node("small", 1))...)
	controlplanetest.Create(t, r, controlplanetest.Parse(t, pod("big", "2"))...)
	awaitUnschedulable(t, r, "big", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	awaitEvent(t, r, "big", "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")

	controlplanetest.Create(t, r, controlplanetest.Parse(t, node("large", 2))...)
	awaitNode(t, r, "big", "large")
	awaitEvent(t, r, "big", "Scheduled", "Successfully assigned default/big to large")

	controlplanetest.Create(t, r, controlplanetest.Parse(t, pod("next", "1500m"))...)
	awaitUnschedulable(t, r, "next", "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.")
	zero := int64(0)
	if _, _, err := r.Delete(t.Context(), kinds.Pods, "default", "big", deleteNow(&zero)); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, r, "next", "large")
}

// A restarted scheduler counts the bound pods, and none of its bindings overcommits a host.
func TestRestartKeepsCapacity(t *testing.T) {
	r := controlplanetest.Start(t)
	for i := range 4 {
		controlplanetest.Create(t, r, controlplanetest.Parse(t, node(fmt.Sprintf("node%d", i), 5))...)
	}
	stop := start(t, r)
	for i := range 15 {
		controlplanetest.Create(t, r, controlplanetest.Parse(t, pod(fmt.Sprintf("pod%d", i), "1"))...)
	}
	stop()
	start(t, r)
	for i := range 10 {
		controlplanetest.Create(t, r, controlplanetest.Parse(t, pod(fmt.Sprintf("late%d", i), "1"))...)
	}
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods}, func() string {
		perNode, told := map[string]int{}, 0
		for _, p := range controlplanetest.List[*corev1.Pod](r, kinds.Pods, "default") {
			if p.Spec.NodeName != "" {
				perNode[p.Spec.NodeName]++
			} else if len(p.Status.Conditions) > 0 {
				told++
			}
		}
		for name, n := range perNode {
			if n > 5 {
				t.Fatalf("%s has %d pods of 1 cpu on 5 cpus", name, n)
			}
		}
		if len(perNode) == 4 && perNode["node0"]+perNode["node1"]+perNode["node2"]+perNode["node3"] == 20 && told == 5 {
			return ""
		}
		return fmt.Sprintf("pods are placed %v, and %d were told that there is no room; want 5 each and 5", perNode, told)
	})
}
