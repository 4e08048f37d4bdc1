package kinds

import (
	"strings"
	"testing"

	"github.com/skep-io/skep/controlplane/resource"
)

func TestKeysAreThoseOfKubernetes(t *testing.T) {
	want := map[*resource.Kind]string{
		ConfigMaps: "configmaps/ns/x", Endpoints: "services/endpoints/ns/x", Events: "events/ns/x", Namespaces: "namespaces/x",
		Nodes: "minions/x", Pods: "pods/ns/x", PodTemplates: "podtemplates/ns/x", ReplicationControllers: "controllers/ns/x", Secrets: "secrets/ns/x",
		ServiceAccounts: "serviceaccounts/ns/x", Services: "services/specs/ns/x", Deployments: "deployments/ns/x",
		ReplicaSets: "replicasets/ns/x", Leases: "leases/ns/x", EndpointSlices: "endpointslices/ns/x",
		IngressClasses: "ingressclasses/x", Ingresses: "ingress/ns/x", IPAddresses: "ipaddresses/x",
		NetworkPolicies: "networkpolicies/ns/x", ServiceCIDRs: "servicecidrs/x", PriorityClasses: "priorityclasses/x",
		PodDisruptionBudgets: "poddisruptionbudgets/ns/x",
	}
	for _, k := range All() {
		if got := k.Key("ns", "x"); got != "/registry/"+want[k] {
			t.Errorf("key of %s: %s, want /registry/%s", k.Resource, got, want[k])
		}
		for _, other := range All() {
			if other != k && strings.HasPrefix(other.Prefix(), k.Prefix()) {
				t.Errorf("objects of %s are stored among those of %s", other.Resource, k.Resource)
			}
		}
	}
}
