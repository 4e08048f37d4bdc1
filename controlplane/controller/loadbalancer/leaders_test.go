package loadbalancer_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
)

// TestTwoLeaders runs two loops at once, which must never happen: even so no address is given twice.
func TestTwoLeaders(t *testing.T) {
	r := controlplanetest.Start(t)
	addNode(t, r, "node1", "10.0.0.1")
	start(t, r, "192.0.2.0/26")
	start(t, r, "192.0.2.0/26")
	for i := range 40 {
		addService(t, r, fmt.Sprintf("web%02d", i), nil)
	}
	controlplanetest.Await(t, r, watched, func() string {
		for _, s := range controlplanetest.List[*corev1.Service](r, kinds.Services, "default") {
			if len(s.Status.LoadBalancer.Ingress) != 1 {
				return s.Name + " has no address"
			}
		}
		return ""
	})
	checkRecords(t, r)
}
