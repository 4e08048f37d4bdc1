package allocator_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// TestManyPorts makes, changes and deletes a service of 200 node ports: more
// records than etcd takes in a plain transaction.
func TestManyPorts(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16"))
	ports := func(protocol corev1.Protocol) (ports []corev1.ServicePort) {
		for i := range int32(200) {
			ports = append(ports, corev1.ServicePort{Name: fmt.Sprintf("p%d", i), Protocol: protocol, Port: 1000 + i})
		}
		return ports
	}
	service := create(t, r, newService("many", func(s *corev1.ServiceSpec) {
		s.Type, s.Ports = corev1.ServiceTypeNodePort, ports(corev1.ProtocolTCP)
	}))
	distinct := func(service *corev1.Service) int {
		held := map[int32]bool{0: true}
		for _, port := range service.Spec.Ports {
			held[port.NodePort] = true
		}
		return len(held) - 1
	}
	if got := distinct(service); got != 200 {
		t.Fatalf("200 ports have %d node ports", got)
	}
	checkRecords(t, r)
	taken := service.Spec.Ports[150].NodePort
	_, err := r.Create(t.Context(), kinds.Services, newService("late", func(s *corev1.ServiceSpec) {
		s.Type, s.Ports = corev1.ServiceTypeNodePort, ports(corev1.ProtocolTCP)
		s.Ports[77].NodePort = taken
	}), resource.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.ports[77].nodePort") || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("one of 200 ports is taken: %v", err)
	}
	updated, err := r.Modify(t.Context(), kinds.Services, "", "default", "many", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		service := current.DeepCopyObject().(*corev1.Service)
		service.Spec.Ports = ports(corev1.ProtocolUDP)
		for i := range service.Spec.Ports {
			service.Spec.Ports[i].NodePort = current.(*corev1.Service).Spec.Ports[i].NodePort
		}
		return service, nil
	})
	if err != nil || distinct(updated.(*corev1.Service)) != 200 {
		t.Fatalf("from TCP to UDP: %v", err)
	}
	checkRecords(t, r)
	if _, _, err := r.Delete(t.Context(), kinds.Services, "default", "many", nil); err != nil {
		t.Fatal(err)
	}
	checkRecords(t, r)
}

// TestNodePortOfTwoProtocols: one number may be held once for each protocol.
func TestNodePortOfTwoProtocols(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16"))
	ask := func(name string, ports ...corev1.ServicePort) error {
		_, err := r.Create(t.Context(), kinds.Services, newService(name, func(s *corev1.ServiceSpec) {
			s.Type, s.Ports = corev1.ServiceTypeNodePort, ports
		}), resource.CreateOptions{})
		return err
	}
	port := func(name string, protocol corev1.Protocol, nodePort int32) corev1.ServicePort {
		return corev1.ServicePort{Name: name, Protocol: protocol, Port: 53, NodePort: nodePort}
	}
	if err := ask("dns", port("a", "TCP", 30053), port("b", "UDP", 30053), port("c", "SCTP", 30053)); err != nil {
		t.Fatal(err)
	}
	if err := ask("tcp", port("a", "TCP", 30053)); !apierrors.IsInvalid(err) {
		t.Errorf("the same number of the same protocol: %v", err)
	}
	if err := ask("udp", port("a", "UDP", 30054)); err != nil {
		t.Fatal(err)
	}
	if err := ask("tcp", port("a", "TCP", 30054)); err != nil {
		t.Errorf("the same number of another protocol in another service: %v", err)
	}
	twice := []corev1.ServicePort{{Name: "a", Port: 1, NodePort: 30055}, {Name: "b", Port: 2, NodePort: 30055}}
	if err := ask("twice", twice...); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.ports[1].nodePort: Duplicate value: 30055") {
		t.Errorf("the same number twice in one service: %v", err)
	}
	checkRecords(t, r)
}

// TestBadServices are refused in Kubernetes' words; services that overlap on an
// external address are not: the conflict loop reports them.
func TestBadServices(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16"))
	for name, tc := range map[string]struct {
		change func(*corev1.ServiceSpec)
		want   string
	}{
		"port-range":   {func(s *corev1.ServiceSpec) { s.Ports[0].Port = 65536 }, "spec.ports[0].port: Invalid value: 65536: must be between 1 and 65535, inclusive"},
		"target-range": {func(s *corev1.ServiceSpec) { s.Ports[0].TargetPort.IntVal = -1 }, "spec.ports[0].targetPort: Invalid value: -1: must be between 1 and 65535, inclusive"},
		"port-name":    {func(s *corev1.ServiceSpec) { s.Ports[0].Name = "Web_1" }, "spec.ports[0].name: Invalid value: \"Web_1\""},
		"same-port": {func(s *corev1.ServiceSpec) {
			s.Ports = []corev1.ServicePort{{Name: "a", Port: 80}, {Name: "b", Port: 80}}
		}, "spec.ports[1]: Duplicate value"},
		"loopback-ip": {func(s *corev1.ServiceSpec) { s.ExternalIPs = []string{"127.0.0.1"} }, "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range"},
		"local-ip":    {func(s *corev1.ServiceSpec) { s.ExternalIPs = []string{"169.254.1.1"} }, "may not be in the link-local range"},
		"affinity-time": {func(s *corev1.ServiceSpec) {
			s.SessionAffinity = "ClientIP"
			s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32)}}
		}, "must be greater than 0"},
		"source-ranges": {func(s *corev1.ServiceSpec) {
			s.Type, s.LoadBalancerSourceRanges = "LoadBalancer", []string{"10.0.0.0/33"}
		}, "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0/33\""},
		"no-such-traffic": {func(s *corev1.ServiceSpec) { s.TrafficDistribution = new(string) }, "spec.trafficDistribution"},
	} {
		_, err := r.Create(t.Context(), kinds.Services, newService(name, tc.change), resource.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	external := func(s *corev1.ServiceSpec) { s.ExternalIPs = []string{"192.0.2.1"} }
	create(t, r, newService("one", external))
	create(t, r, newService("two", external))
}

func TestBadEndpoints(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16"))
	for ip, want := range map[string]string{
		"127.0.0.1":   "may not be in the loopback range (127.0.0.0/8, ::1/128)",
		"169.254.1.2": "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
		"224.0.0.5":   "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
		"0.0.0.0":     "may not be unspecified",
		"::1":         "may not be in the loopback range",
		"fe80::7":     "may not be in the link-local range",
		"10.96.0.1":   "", // a service's address: the agent tells of it
		"not an ip":   "must be a valid IP address",
	} {
		meta := metav1.ObjectMeta{Namespace: "default", Name: "web"}
		family := discoveryv1.AddressTypeIPv4
		if strings.Contains(ip, ":") {
			family = discoveryv1.AddressTypeIPv6
		}
		objects := map[*resource.Kind]resource.Object{
			kinds.Endpoints:      &corev1.Endpoints{ObjectMeta: meta, Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: ip}}, Ports: []corev1.EndpointPort{{Port: 80}}}}},
			kinds.EndpointSlices: &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: family, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ip}}}},
		}
		for k, obj := range objects {
			_, err := r.Create(t.Context(), k, obj, resource.CreateOptions{})
			if want == "" && err != nil || want != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s of %s: %v, want %q", k.Resource, ip, err, want)
			}
		}
	}
	over := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "over"}, AddressType: discoveryv1.AddressTypeIPv4}
	for i := range 1001 {
		over.Endpoints = append(over.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.1.%d.%d", i/250, i%250)}})
	}
	if _, err := r.Create(t.Context(), kinds.EndpointSlices, over, resource.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "must have at most 1000 items") {
		t.Errorf("1,001 endpoints in a slice: %v", err)
	}
}

// TestFamilyPolicyChanges changes a service from one family to two and back, in every way
// that the API has.
func TestFamilyPolicyChanges(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16", "fd00::/112"))
	single, prefer, require := corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack
	first := create(t, r, newService("web", nil))
	if len(first.Spec.ClusterIPs) != 1 || *first.Spec.IPFamilyPolicy != single {
		t.Fatalf("by default: %+v", first.Spec)
	}
	change := func(f func(*corev1.ServiceSpec)) (*corev1.Service, error) {
		obj, err := r.Modify(t.Context(), kinds.Services, "", "default", "web", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			service := current.DeepCopyObject().(*corev1.Service)
			f(&service.Spec)
			return service, nil
		})
		if err != nil {
			return nil, err
		}
		checkRecords(t, r)
		return obj.(*corev1.Service), nil
	}
	for _, policy := range []corev1.IPFamilyPolicy{prefer, require} {
		two, err := change(func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &policy })
		if err != nil || len(two.Spec.ClusterIPs) != 2 || two.Spec.ClusterIPs[0] != first.Spec.ClusterIP ||
			!slices.Equal(two.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}) {
			t.Fatalf("%s: %+v, %v", policy, two, err)
		}
		if _, err := change(func(s *corev1.ServiceSpec) { s.ClusterIPs = s.ClusterIPs[:1] }); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "must be 'SingleStack' to release the secondary cluster IP") {
			t.Errorf("%s, without its second address: %v", policy, err)
		}
		one, err := change(func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &single })
		if err != nil || !slices.Equal(one.Spec.ClusterIPs, first.Spec.ClusterIPs) || len(one.Spec.IPFamilies) != 1 {
			t.Fatalf("back from %s: %+v, %v", policy, one, err)
		}
	}
	if _, err := change(func(s *corev1.ServiceSpec) { s.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }); !apierrors.IsInvalid(err) {
		t.Errorf("another primary family: %v", err)
	}
	asked := "fd00::abcd"
	got, err := change(func(s *corev1.ServiceSpec) { s.IPFamilyPolicy, s.ClusterIPs = &require, append(s.ClusterIPs, asked) })
	if err != nil || got.Spec.ClusterIPs[1] != asked {
		t.Errorf("asked for %s: %+v, %v", asked, got, err)
	}
	six := create(t, r, newService("six", func(s *corev1.ServiceSpec) { s.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }))
	if len(six.Spec.ClusterIPs) != 1 || allocator.FamilyOf(six.Spec.ClusterIP) != corev1.IPv6Protocol {
		t.Errorf("a service of the other family: %+v", six.Spec)
	}
	loose := create(t, r, newService("loose", func(s *corev1.ServiceSpec) { s.ClusterIP, s.Selector = corev1.ClusterIPNone, nil }))
	if len(loose.Spec.IPFamilies) != 2 || *loose.Spec.IPFamilyPolicy != require {
		t.Errorf("a headless service without a selector: %+v", loose.Spec)
	}
}

// TestAnnotations: Skep's annotations accept only known values. A stored unknown value does not keep the object from being changed.
func TestAnnotations(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16"))
	annotated := func(name string, annotations map[string]string) *corev1.Service {
		service := newService(name, nil)
		service.Annotations = annotations
		return service
	}
	for _, tc := range []struct{ name, value, want string }{
		{"skep.io/selection", "fastest", `metadata.annotations[skep.io/selection]: Unsupported value: "fastest": supported values: "round-robin", "least-connections", "random", "maglev"`},
		{"skep.io/selection", "Random", `Unsupported value: "Random": supported values: `},
		{"skep.io/forwarding", "tunnel", `metadata.annotations[skep.io/forwarding]: Unsupported value: "tunnel": supported values: "dsr", "snat"`},
		{"skep.io/selection", "least-connections", ""},
		{"skep.io/selection", "", ""},
		{"skep.io/forwarding", "snat", ""},
	} {
		_, err := r.Create(t.Context(), kinds.Services, annotated("web", map[string]string{tc.name: tc.value}), resource.CreateOptions{DryRun: true})
		if tc.want == "" && err != nil || tc.want != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %q: %v, want %q", tc.name, tc.value, err, tc.want)
		}
	}
	old, bad := annotated("web", map[string]string{"skep.io/selection": "bygone"}), annotated("web", map[string]string{"skep.io/selection": "fastest"})
	if errs := kinds.Services.ValidateUpdate(bad, old); len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), `Unsupported value: "fastest"`) {
		t.Errorf("a new bad value: %v", errs)
	}
	for _, e := range kinds.Services.ValidateUpdate(old, old) {
		if strings.Contains(e.Field, "annotations") {
			t.Errorf("an old bad value: %v", e)
		}
	}
	warnings := kinds.Services.Warnings(annotated("web", map[string]string{"skep.io/selektion": "random", "skep.io/announced-by": "n1", "example.com/selection": "x"}))
	want := "metadata.annotations[skep.io/selektion]: a Service has no such annotation, it is ignored; there are skep.io/selection and skep.io/forwarding"
	if !slices.Equal(warnings, []string{want}) {
		t.Errorf("warnings %q, want %q", warnings, want)
	}
}
