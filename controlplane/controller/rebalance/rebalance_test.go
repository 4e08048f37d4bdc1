package rebalance_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controller/disruption"
	"github.com/skep-io/skep/controlplane/controller/rebalance"
	"github.com/skep-io/skep/controlplane/controller/replication"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheduler"
)

// start runs the loops that take part, and in the place of nodes one that says of pods that they are ready, and removes those that were deleted.
func start(t *testing.T, r *resource.Registry) {
	recorder := func(component string) *event.Recorder {
		recorder := event.NewRecorder(r, component)
		controlplanetest.Go(t, recorder.Run)
		return recorder
	}
	c := scheduler.DefaultConfiguration()
	for _, loop := range []interface{ Run(context.Context) error }{
		scheduler.New(r, c.NewRecorders(recorder), clock.RealClock{}, c),
		replication.New(r, recorder(replication.Component), clock.RealClock{}),
		disruption.New(r, recorder(disruption.Component), clock.RealClock{}),
		rebalance.New(r, recorder(rebalance.Component), c, rebalance.Pace{Settle: 200 * time.Millisecond, Look: 50 * time.Millisecond, Between: 10 * time.Millisecond, Timeout: time.Minute}),
	} {
		controlplanetest.Go(t, func(ctx context.Context) { _ = loop.Run(ctx) })
	}
	controlplanetest.Go(t, func(ctx context.Context) {
		for ctx.Err() == nil {
			for _, p := range controlplanetest.List[*corev1.Pod](r, kinds.Pods, "default") {
				if p.DeletionTimestamp != nil {
					_, _, _ = r.Delete(ctx, kinds.Pods, p.Namespace, p.Name, &metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))})
				} else if p.Spec.NodeName != "" && !controller.PodReady(p) {
					_, _ = r.Modify(ctx, kinds.Pods, "status", p.Namespace, p.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
						p := current.(*corev1.Pod).DeepCopy()
						p.Status.Phase = corev1.PodRunning
						p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
						return p, nil
					})
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func addNodes(t *testing.T, r *resource.Registry, names ...string) {
	for _, name := range names {
		controlplanetest.Create(t, r, controlplanetest.Parse(t, fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: %[1]s, labels: {kubernetes.io/hostname: %[1]s}}
status:
  allocatable: {cpu: "10", memory: 10Gi, pods: "100"}
  conditions: [{type: Ready, status: "True"}]
`, name))...)
	}
}

// ready counts the ready pods of a workload on each node, in order.
func ready(r *resource.Registry, app string) []int {
	on := map[string]int{}
	for _, n := range resource.ListAs[*corev1.Node](r, kinds.Nodes, "", nil) {
		on[n.Name] = 0
	}
	for _, p := range controlplanetest.List[*corev1.Pod](r, kinds.Pods, "default") {
		if p.Labels["app"] == app && controller.PodReady(p) && p.DeletionTimestamp == nil {
			on[p.Spec.NodeName]++
		}
	}
	var counts []int
	for _, n := range on {
		counts = append(counts, n)
	}
	slices.Sort(counts)
	return counts
}

func awaitReady(t *testing.T, r *resource.Registry, app string, want ...int) {
	t.Helper()
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods}, func() string {
		if got := ready(r, app); !slices.Equal(got, want) {
			return fmt.Sprintf("%s has %v ready pods on the nodes, want %v", app, got, want)
		}
		return ""
	})
}

// evicted counts the events of evictions, by workload.
func evicted(r *resource.Registry, prefix string) (n int) {
	for _, e := range controlplanetest.List[*corev1.Event](r, kinds.Events, "default") {
		if e.Reason == "Rebalanced" && len(e.InvolvedObject.Name) > len(prefix) && e.InvolvedObject.Name[:len(prefix)] == prefix {
			n++
		}
	}
	return n
}

// A node is added to three: the workload that asks for it moves to it, with as few evictions as that takes and never more than its budget allows,
// and then rests. A workload that does not ask stays, and so does one that would not be spread better.
func TestReplicasMoveToAddedNode(t *testing.T) {
	r := controlplanetest.Start(t)
	addNodes(t, r, "node1", "node2", "node3")
	start(t, r)
	for _, w := range []struct {
		name, annotation string
		replicas         int
	}{{"web", "true", 12}, {"quiet", "", 6}, {"few", "true", 3}} {
		controlplanetest.Create(t, r, controlplanetest.Parse(t, fmt.Sprintf(`
apiVersion: v1
kind: ReplicationController
metadata: {name: %[1]s, annotations: {skep.io/rebalance: %[2]q}}
spec:
  replicas: %[3]d
  selector: {app: %[1]s}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 10m, memory: 10Mi}}}]}
`, w.name, w.annotation, w.replicas))...)
	}
	controlplanetest.Create(t, r, controlplanetest.Parse(t, `
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 11, selector: {matchLabels: {app: web}}}
`)...)
	awaitReady(t, r, "web", 4, 4, 4)
	awaitReady(t, r, "quiet", 2, 2, 2)
	awaitReady(t, r, "few", 1, 1, 1)

	least := 12
	watched := controlplanetest.Go(t, func(ctx context.Context) {
		for ctx.Err() == nil {
			total := 0
			for _, n := range ready(r, "web") {
				total += n
			}
			least = min(least, total)
			time.Sleep(time.Millisecond)
		}
	})
	addNodes(t, r, "node4")
	awaitReady(t, r, "web", 3, 3, 3, 3)
	// It rests: the loop has looked at it again and again meanwhile.
	time.Sleep(time.Second)
	watched()
	if least < 11 {
		t.Errorf("at some moment %d pods of web were ready, and its budget asks for 11", least)
	}
	if n := evicted(r, "web-"); n != 3 {
		t.Errorf("%d pods of web were evicted, want 3", n)
	}
	if got := fmt.Sprint(ready(r, "web"), ready(r, "quiet"), ready(r, "few")); got != "[3 3 3 3] [0 2 2 2] [0 1 1 1]" {
		t.Errorf("pods of web, quiet and few are on the nodes as %s", got)
	}
}
