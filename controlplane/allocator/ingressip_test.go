package allocator_test

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

type prefixes []netip.Prefix

func (p prefixes) Contains(addr netip.Addr) bool { return p[0].Contains(addr) }
func (p prefixes) String() string                { return p[0].String() }

// CVE-2020-8554 by the status: anybody who may write it could redirect connections of others.
func TestLoadBalancerAddressesInAStatus(t *testing.T) {
	client := allocationEtcd(t)
	config := clusterWith("10.96.0.0/16")
	config.APIServers = []netip.Addr{netip.MustParseAddr("192.0.2.100")}
	without := allocationRegistry(t, client, config)
	balanced := func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeLoadBalancer }
	create(t, without, newService("web", balanced))
	create(t, without, newService("other", balanced))
	create(t, without, newService("cloud", func(s *corev1.ServiceSpec) {
		balanced(s)
		s.LoadBalancerClass = ptr.To("example.org/cloud")
	}))
	node, err := without.Create(t.Context(), kinds.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, resource.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := without.Modify(t.Context(), kinds.Nodes, "status", "", node.GetName(), resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		n := current.DeepCopyObject().(*corev1.Node)
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.11"}}
		return n, nil
	}); err != nil {
		t.Fatal(err)
	}
	config.LoadBalancerPool = prefixes{netip.MustParsePrefix("203.0.113.0/25")}
	with := allocationRegistry(t, client, config)
	show := func(r *resource.Registry, name, ip string, mode corev1.LoadBalancerIPMode) error {
		_, err := r.Modify(t.Context(), kinds.Services, "status", "default", name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			service := current.DeepCopyObject().(*corev1.Service)
			service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip, IPMode: &mode}}
			return service, nil
		})
		return err
	}
	const vip, proxy = corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy
	for _, c := range []struct {
		r           *resource.Registry
		service, ip string
		mode        corev1.LoadBalancerIPMode
		refused     string // part of why; "": it is not
	}{
		{without, "web", "192.0.2.100", vip, "it is the address of the API server"},
		{without, "web", "192.0.2.11", vip, "it is the address of node n1"},
		{without, "web", "10.244.3.4", vip, "it is in the range of pod addresses"},
		{without, "web", "10.96.0.10", vip, "it is in the range of service addresses"},
		{without, "web", "192.0.2.11", proxy, ""},                           // a balancer that answers there by itself,
		{without, "web", "192.0.2.11", vip, "it is the address of node n1"}, // which is no excuse for nodes to
		{without, "web", "198.51.100.7", vip, ""},                           // an external controller
		{with, "cloud", "192.0.2.11", vip, "it is the address of node n1"},
		{with, "cloud", "203.0.113.7", vip, "it is of the pool that skepd gives addresses from (--lb-cidr 203.0.113.0/25)"},
		{with, "cloud", "198.51.100.7", vip, ""}, // a controller of another class
		{with, "web", "198.51.100.8", vip, "it is not of the pool (--lb-cidr 203.0.113.0/25)"},
		{with, "web", "198.51.100.7", vip, ""}, // stored before there was a pool
		{with, "web", "203.0.113.7", vip, ""},
		{with, "web", "203.0.113.7", vip, ""},
		{with, "other", "203.0.113.7", vip, "it is the address of service default/web"},
	} {
		err := show(c.r, c.service, c.ip, c.mode)
		want := "status.loadBalancer.ingress[0].ip: Invalid value: \"" + c.ip + "\": may not be a load-balancer address of this service: "
		if c.refused == "" && err != nil || c.refused != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s %s of %s: %v, want it refused: %q", c.mode, c.ip, c.service, err, c.refused)
		}
	}
}
