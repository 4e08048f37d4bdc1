package networkpolicy_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/skep-io/skep/controlplane/admission"
	"github.com/skep-io/skep/controlplane/controller/networkpolicy"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func start(t *testing.T, r *resource.Registry) (stop func()) {
	t.Helper()
	recorder := event.NewRecorder(r, networkpolicy.Component)
	stopEvents := controlplanetest.Go(t, recorder.Run)
	stopLoop := controlplanetest.Go(t, func(ctx context.Context) { _ = networkpolicy.New(r, recorder).Run(ctx) })
	return func() {
		stopLoop()
		stopEvents()
	}
}

// A namespace has the condition that its policies are not enforced while it has one, also after a change of the leader; each policy's event
// is recorded once.
func TestNamespaceSaysThatPoliciesAreNotEnforced(t *testing.T) {
	r := controlplanetest.Start(t)
	policy := func(name string) {
		t.Helper()
		controlplanetest.Create(t, r, controlplanetest.Parse(t, fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: default}
spec: {podSelector: {}}
`, name))...)
	}
	await := func(want bool) {
		t.Helper()
		controlplanetest.Await(t, r, []*resource.Kind{kinds.Namespaces, kinds.Events}, func() string {
			ns, err := resource.Get[*corev1.Namespace](t.Context(), r, kinds.Namespaces, "", "default")
			if err != nil {
				return err.Error()
			}
			said := false
			for _, c := range ns.Status.Conditions {
				if c.Type == networkpolicy.Enforced {
					said = c.Status == corev1.ConditionFalse && c.Reason == networkpolicy.Reason && c.Message == admission.NetworkPolicyWarning
				}
			}
			if said != want {
				return fmt.Sprintf("conditions %+v, want it said: %v", ns.Status.Conditions, want)
			}
			return ""
		})
	}
	remove := func(name string) {
		t.Helper()
		if _, _, err := r.Delete(t.Context(), kinds.NetworkPolicies, "default", name, nil); err != nil {
			t.Fatal(err)
		}
	}
	policy("old") // the leader before has told of it
	stop := start(t, r)
	await(true)
	policy("one")
	policy("two")
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Events}, func() string {
		told := map[string]int32{}
		for _, e := range controlplanetest.List[*corev1.Event](r, kinds.Events, "default") {
			if e.Reason == networkpolicy.Reason && e.InvolvedObject.Kind == "NetworkPolicy" && e.Type == corev1.EventTypeWarning {
				told[e.InvolvedObject.Name] += e.Count
			}
		}
		if len(told) != 2 || told["one"] != 1 || told["two"] != 1 {
			return fmt.Sprintf("events %v", told)
		}
		return ""
	})
	remove("old")
	remove("one")
	controlplanetest.Modify(t, r, kinds.NetworkPolicies, "", "default", "two", func(p *networkingv1.NetworkPolicy) { p.Labels = map[string]string{"a": "b"} })
	await(true)
	// The last policy is deleted while there is no leader.
	stop()
	remove("two")
	start(t, r)
	await(false)
}
