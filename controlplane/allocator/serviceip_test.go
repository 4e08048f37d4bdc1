package allocator_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func TestServiceAddresses(t *testing.T) {
	store := allocationEtcd(t)
	cluster := clusterWith("10.96.0.0/16")
	r := allocationRegistry(t, store, cluster)
	if err := kinds.EnsureServiceCIDR(t.Context(), r, cluster.ServiceCIDRs); err != nil {
		t.Fatal(err)
	}
	service := create(t, r, newService("any", nil))
	addr := netip.MustParseAddr(service.Spec.ClusterIP)
	if !slices.Equal(service.Spec.ClusterIPs, []string{addr.String()}) || *service.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack ||
		!slices.Equal(service.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv4Protocol}) {
		t.Errorf("got %+v", service.Spec)
	}
	if addr.Less(netip.MustParseAddr("10.96.1.1")) || !netip.MustParsePrefix("10.96.0.0/16").Contains(addr) {
		t.Errorf("%s is not of the dynamic band", addr)
	}
	record, err := r.Get(t.Context(), kinds.IPAddresses, "", addr.String(), "")
	if err != nil {
		t.Fatal(err)
	}
	ip := record.(*networkingv1.IPAddress)
	if *ip.Spec.ParentRef != (networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "any"}) ||
		ip.Labels[networkingv1.LabelIPAddressFamily] != "IPv4" || ip.Labels[networkingv1.LabelManagedBy] != "ipallocator.k8s.io" {
		t.Errorf("record is %+v", ip)
	}

	for name, tc := range map[string]struct{ ip, want string }{
		"taken":             {addr.String(), "provided IP is already allocated"},
		"outside":           {"10.97.0.1", "the provided network does not match the current range"},
		"network address":   {"10.96.0.0", "is not in the valid range. The range of valid IPs is 10.96.0.0/16"},
		"broadcast address": {"10.96.255.255", "is not in the valid range"},
	} {
		_, err := r.Create(t.Context(), kinds.Services, newService("asks", func(s *corev1.ServiceSpec) { s.ClusterIP = tc.ip }), resource.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "spec.clusterIPs") {
			t.Errorf("%s: %v, want one that says %q", name, err, tc.want)
		}
	}
	if got := create(t, r, newService("static", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.10" })); got.Spec.ClusterIP != "10.96.0.10" {
		t.Errorf("asked for 10.96.0.10, got %s", got.Spec.ClusterIP)
	}
	if got := create(t, r, newService("headless", func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone })); !slices.Equal(got.Spec.ClusterIPs, []string{"None"}) {
		t.Errorf("headless service got %v", got.Spec.ClusterIPs)
	}
	create(t, r, newService("external", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.org"
	}))
	if _, _, err := r.Delete(t.Context(), kinds.Services, "default", "any", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get(t.Context(), kinds.IPAddresses, "", addr.String(), ""); !apierrors.IsNotFound(err) {
		t.Errorf("the address of a deleted service: %v", err)
	}
	if got := create(t, r, newService("again", func(s *corev1.ServiceSpec) { s.ClusterIP = addr.String() })); got.Spec.ClusterIP != addr.String() {
		t.Errorf("a freed address was not given out: %s", got.Spec.ClusterIP)
	}
	checkRecords(t, r)
}

// TestDryRunAllocatesNothing also covers a create that fails for its name.
func TestDryRunAllocatesNothing(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/24"))
	if _, err := r.Create(t.Context(), kinds.Services, newService("a", nil), resource.CreateOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	create(t, r, newService("b", nil))
	if _, err := r.Create(t.Context(), kinds.Services, newService("b", nil), resource.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Fatalf("second service of one name: %v", err)
	}
	list, err := r.List(t.Context(), kinds.IPAddresses, "", resource.ListOptions{})
	if err != nil || len(list.Objects) != 1 {
		t.Fatalf("%d addresses are held, want 1 (%v)", len(list.Objects), err)
	}
}

func TestServiceTypeChanges(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16"))
	service := create(t, r, newService("web", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }))
	nodePort, ip := service.Spec.Ports[0].NodePort, service.Spec.ClusterIP
	if nodePort < allocator.FirstNodePort+allocator.StaticNodePorts || nodePort > allocator.LastNodePort {
		t.Errorf("node port %d is not of the dynamic band", nodePort)
	}
	change := func(change func(*corev1.ServiceSpec)) (*corev1.Service, error) {
		updated, err := r.Modify(t.Context(), kinds.Services, "", "default", "web", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			service := current.DeepCopyObject().(*corev1.Service)
			change(&service.Spec)
			return service, nil
		})
		if err != nil {
			return nil, err
		}
		checkRecords(t, r)
		return updated.(*corev1.Service), nil
	}
	must := func(f func(*corev1.ServiceSpec)) *corev1.Service {
		t.Helper()
		service, err := change(f)
		if err != nil {
			t.Fatal(err)
		}
		return service
	}
	if got := must(func(s *corev1.ServiceSpec) { s.Ports[0].NodePort = 30001 }); got.Spec.Ports[0].NodePort != 30001 {
		t.Errorf("node port is %d", got.Spec.Ports[0].NodePort)
	}
	if got := must(func(s *corev1.ServiceSpec) {
		s.Ports = []corev1.ServicePort{{Name: "a", Port: 53, Protocol: "UDP"}, {Name: "b", Port: 53, Protocol: "TCP"}}
	}); got.Spec.Ports[0].NodePort != got.Spec.Ports[1].NodePort {
		t.Errorf("UDP and TCP of one port have node ports %d and %d", got.Spec.Ports[0].NodePort, got.Spec.Ports[1].NodePort)
	}
	if got := must(func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeClusterIP }); got.Spec.Ports[0].NodePort != 0 || got.Spec.ClusterIP != ip {
		t.Errorf("as ClusterIP: %+v", got.Spec)
	}
	got := must(func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
	})
	if got.Spec.HealthCheckNodePort == 0 || got.Spec.Ports[0].NodePort == 0 {
		t.Errorf("as LoadBalancer: %+v", got.Spec)
	}
	if _, err := change(func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "10.96.0.77", []string{"10.96.0.77"} }); !apierrors.IsInvalid(err) {
		t.Errorf("the cluster IP was changed: %v", err)
	}
	if got := must(func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.org" }); got.Spec.ClusterIP != "" || len(got.Spec.IPFamilies) != 0 {
		t.Errorf("as ExternalName: %+v", got.Spec)
	}
	if got := must(func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeClusterIP, "" }); got.Spec.ClusterIP == "" {
		t.Errorf("as ClusterIP again: %+v", got.Spec)
	}
}

func TestNodePortsAskedFor(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16"))
	ask := func(name string, port int32) error {
		_, err := r.Create(t.Context(), kinds.Services, newService(name, func(s *corev1.ServiceSpec) {
			s.Type, s.Ports = corev1.ServiceTypeNodePort, []corev1.ServicePort{{Port: 80, NodePort: port}}
		}), resource.CreateOptions{})
		return err
	}
	if err := ask("a", 30080); err != nil {
		t.Fatal(err)
	}
	for port, want := range map[int32]string{
		30080: "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
		80:    "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
	} {
		if err := ask("b", port); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %s", port, err, want)
		}
	}
	if _, _, err := r.Delete(t.Context(), kinds.Services, "default", "a", nil); err != nil {
		t.Fatal(err)
	}
	if err := ask("c", 30080); err != nil {
		t.Errorf("a freed node port: %v", err)
	}
	checkRecords(t, r)
}

func TestDualStack(t *testing.T) {
	store := allocationEtcd(t)
	cluster := clusterWith("10.96.0.0/16")
	single := allocationRegistry(t, store, cluster)
	require, prefer := corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicyPreferDualStack
	if _, err := single.Create(t.Context(), kinds.Services, newService("no", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &require }), resource.CreateOptions{}); !apierrors.IsInvalid(err) ||
		!strings.Contains(err.Error(), "this cluster is not configured for dual-stack services") {
		t.Errorf("dual stack of a cluster that has one family: %v", err)
	}
	if err := kinds.EnsureServiceCIDR(t.Context(), single, cluster.ServiceCIDRs); err != nil {
		t.Fatal(err)
	}
	cluster = clusterWith("10.96.0.0/16", "fd00::/112")
	dual := allocationRegistry(t, store, cluster)
	if err := kinds.EnsureServiceCIDR(t.Context(), dual, cluster.ServiceCIDRs); err != nil {
		t.Fatalf("a second range: %v", err)
	}
	service := create(t, dual, newService("both", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &prefer }))
	if len(service.Spec.ClusterIPs) != 2 || allocator.FamilyOf(service.Spec.ClusterIPs[1]) != corev1.IPv6Protocol {
		t.Fatalf("got %v", service.Spec.ClusterIPs)
	}
	checkRecords(t, dual)
	one := corev1.IPFamilyPolicySingleStack
	updated, err := dual.Modify(t.Context(), kinds.Services, "", "default", "both", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		service := current.DeepCopyObject().(*corev1.Service)
		service.Spec.IPFamilyPolicy = &one
		return service, nil
	})
	if err != nil || len(updated.(*corev1.Service).Spec.ClusterIPs) != 1 {
		t.Fatalf("back to one family: %+v, %v", updated, err)
	}
	checkRecords(t, dual)
	cluster = clusterWith("10.50.0.0/16")
	other := allocationRegistry(t, store, cluster)
	if err := kinds.EnsureServiceCIDR(t.Context(), other, cluster.ServiceCIDRs); err == nil {
		t.Error("other ranges than the cluster was made with were accepted")
	}
}

// TestAddressesAgainstTwin makes and deletes services at random and compares
// every step with a set of addresses.
func TestAddressesAgainstTwin(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/27")) // 30 addresses
	random := rand.New(rand.NewPCG(1, 2))
	twin := map[string]string{} // address -> service
	for step := range 400 {
		name := fmt.Sprintf("s%d", step)
		switch random.IntN(4) {
		case 0:
			for ip, held := range twin {
				if _, _, err := r.Delete(t.Context(), kinds.Services, "default", held, nil); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				delete(twin, ip)
				break
			}
		case 1:
			ip := fmt.Sprintf("10.96.0.%d", random.IntN(33))
			last := netip.MustParseAddr(ip).As4()[3]
			allowed := twin[ip] == "" && last >= 1 && last <= 30
			_, err := r.Create(t.Context(), kinds.Services, newService(name, func(s *corev1.ServiceSpec) { s.ClusterIP = ip }), resource.CreateOptions{})
			if (err == nil) != allowed || err != nil && !apierrors.IsInvalid(err) {
				t.Fatalf("step %d: %s: %v, allowed %v", step, ip, err, allowed)
			}
			if allowed {
				twin[ip] = name
			}
		default:
			created, err := r.Create(t.Context(), kinds.Services, newService(name, nil), resource.CreateOptions{})
			if (err == nil) != (len(twin) < 30) {
				t.Fatalf("step %d: with %d held: %v", step, len(twin), err)
			}
			if err == nil {
				ip := created.(*corev1.Service).Spec.ClusterIP
				if twin[ip] != "" {
					t.Fatalf("step %d: %s was given to %s and to %s", step, ip, twin[ip], name)
				}
				twin[ip] = name
			}
		}
	}
	checkRecords(t, r)
}
