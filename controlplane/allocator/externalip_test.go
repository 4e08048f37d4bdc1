package allocator_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func external(ips ...string) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) { s.ExternalIPs = ips }
}

// CVE-2020-8554: a service redirects connections of others to the API server, to nodes, pods or services.
func TestExternalAddressesOfTheClusterAreRefused(t *testing.T) {
	config := clusterWith("10.96.0.0/16", "fd00:96::/112")
	config.APIServers = []netip.Addr{netip.MustParseAddr("192.0.2.100")}
	r := allocationRegistry(t, allocationEtcd(t), config)
	set := func(ips ...string) error {
		_, err := r.Modify(t.Context(), kinds.Services, "", "default", "web", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			service := current.DeepCopyObject().(*corev1.Service)
			service.Spec.ExternalIPs = ips
			return service, nil
		})
		return err
	}
	create(t, r, newService("web", external("203.0.113.7", "192.0.2.11")))
	node, err := r.Create(t.Context(), kinds.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, resource.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Modify(t.Context(), kinds.Nodes, "status", "", node.GetName(), resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		n := current.DeepCopyObject().(*corev1.Node)
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.11"}, {Type: corev1.NodeExternalIP, Address: "2001:db8::11"}}
		return n, nil
	}); err != nil {
		t.Fatal(err)
	}
	for ip, why := range map[string]string{
		"192.0.2.100": "it is the address of the API server", "192.0.2.11": "it is the address of node n1", "2001:db8::11": "it is the address of node n1",
		"10.244.3.4": "it is in the range of pod addresses, 10.244.0.0/16", "10.96.0.10": "it is in the range of service addresses, 10.96.0.0/16",
		"fd00:96::10": "it is in the range of service addresses, fd00:96::/112",
	} {
		_, err := r.Create(t.Context(), kinds.Services, newService("thief", external("203.0.113.9", ip)), resource.CreateOptions{})
		want := "spec.externalIPs[1]: Invalid value: \"" + ip + "\": may not be an external address: " + why
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("create with %s: %v, want %s", ip, err, want)
		}
		if ip == "192.0.2.11" {
			continue // web has it since before
		}
		if err := set("203.0.113.7", ip); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("update to %s: %v, want %s", ip, err, want)
		}
	}
	// Stored addresses stay, so that the rest of the service can be changed.
	if err := set("192.0.2.11", "203.0.113.8"); err != nil {
		t.Errorf("update beside an address that was stored: %v", err)
	}
}

// As Kubernetes' admission plugin DenyServiceExternalIPs.
func TestExternalAddressesForbidden(t *testing.T) {
	client := allocationEtcd(t)
	before := allocationRegistry(t, client, clusterWith("10.96.0.0/16"))
	create(t, before, newService("web", external("203.0.113.7", "203.0.113.8")))
	config := clusterWith("10.96.0.0/16")
	config.DenyExternalIPs = true
	r := allocationRegistry(t, client, config)
	const denied = "Use of external IPs is denied by admission control"
	if _, err := r.Create(t.Context(), kinds.Services, newService("other", external("203.0.113.9")), resource.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), denied) {
		t.Errorf("create: %v", err)
	}
	for _, c := range []struct {
		ips    []string
		denied bool
	}{{[]string{"203.0.113.7", "203.0.113.9"}, true}, {[]string{"203.0.113.8", "203.0.113.7"}, false}, {[]string{"203.0.113.7"}, false}, {nil, false}, {[]string{"203.0.113.7"}, true}} {
		obj, err := r.Modify(t.Context(), kinds.Services, "", "default", "web", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			service := current.DeepCopyObject().(*corev1.Service)
			service.Spec.ExternalIPs = c.ips
			return service, nil
		})
		if apierrors.IsForbidden(err) != c.denied || !c.denied && (err != nil || !slices.Equal(obj.(*corev1.Service).Spec.ExternalIPs, c.ips)) {
			t.Errorf("update to %v: %v, want it denied: %v", c.ips, err, c.denied)
		}
	}
	create(t, r, newService("plain", func(*corev1.ServiceSpec) {}))
}
