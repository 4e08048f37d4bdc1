package loadbalancer_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
)

// A service that claims a load-balancer address as an external one does not get it.
func TestAddressStaysWhenAnotherClaimsIt(t *testing.T) {
	r := controlplanetest.Start(t)
	addNode(t, r, "node1", "198.51.100.1")
	start(t, r, "192.0.2.0/29")
	addService(t, r, "web", nil)
	await(t, r, "web", "192.0.2.1 at node1", "192.0.2.0 at node1")
	held := state(get(t, r, "web"))
	addr := get(t, r, "web").Status.LoadBalancer.Ingress[0].IP
	addService(t, r, "thief", func(s *corev1.ServiceSpec) { s.Type, s.ExternalIPs = corev1.ServiceTypeClusterIP, []string{addr} })
	// Each change queues a sync; the loop must have done the last before it gave a third service its address.
	for port := range int32(5) {
		controlplanetest.Modify(t, r, kinds.Services, "", "default", "web", func(s *corev1.Service) { s.Spec.Ports[0].Port = 100 + port })
		name := fmt.Sprintf("next%d", port)
		addService(t, r, name, nil)
		controlplanetest.Await(t, r, watched, func() string { return map[bool]string{false: name + " has no address"}[state(get(t, r, name)) != ""] })
		if got := state(get(t, r, "web")); got != held {
			t.Fatalf("after change %d it is %q, was %q", port, got, held)
		}
	}
}
