package loadbalancer_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller/loadbalancer"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

var watched = []*resource.Kind{kinds.Services, kinds.Events}

func start(t *testing.T, r *resource.Registry, pool string) (stop func()) {
	t.Helper()
	p, err := loadbalancer.ParsePool(pool)
	if err != nil {
		t.Fatal(err)
	}
	recorder := event.NewRecorder(r, loadbalancer.Component)
	stopEvents := controlplanetest.Go(t, recorder.Run)
	stopLoop := controlplanetest.Go(t, func(ctx context.Context) { _ = loadbalancer.New(r, recorder, p).Run(ctx) })
	return func() {
		stopLoop()
		stopEvents()
	}
}

func addNode(t *testing.T, r *resource.Registry, name, address string) {
	t.Helper()
	controlplanetest.Create(t, r, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}})
}

func setReady(t *testing.T, r *resource.Registry, name string, status corev1.ConditionStatus) {
	t.Helper()
	controlplanetest.Modify(t, r, kinds.Nodes, "status", "", name, func(n *corev1.Node) { n.Status.Conditions[0].Status = status })
}

func addService(t *testing.T, r *resource.Registry, name string, change func(*corev1.ServiceSpec)) {
	t.Helper()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	if change != nil {
		change(&service.Spec)
	}
	controlplanetest.Create(t, r, service)
}

func get(t *testing.T, r *resource.Registry, name string) *corev1.Service {
	t.Helper()
	service, err := resource.Get[*corev1.Service](t.Context(), r, kinds.Services, "default", name)
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// state is what users see of a service: its addresses, who announces them, what it lacks.
func state(s *corev1.Service) string {
	var parts []string
	for _, i := range s.Status.LoadBalancer.Ingress {
		if ptr.Deref(i.IPMode, "") != corev1.LoadBalancerIPModeVIP {
			parts = append(parts, "(no VIP)")
		}
		parts = append(parts, i.IP)
	}
	if by := s.Annotations[loadbalancer.AnnouncedBy]; by != "" {
		parts = append(parts, "at "+by)
	}
	if c := apimeta.FindStatusCondition(s.Status.Conditions, loadbalancer.Condition); c != nil {
		parts = append(parts, c.Reason)
	}
	return strings.Join(parts, " ")
}

func await(t *testing.T, r *resource.Registry, name string, want ...string) {
	t.Helper()
	controlplanetest.Await(t, r, watched, func() string {
		if got := state(get(t, r, name)); !slices.Contains(want, got) {
			return fmt.Sprintf("%s is %q, want %q", name, got, want)
		}
		return ""
	})
}

// awaitEvent waits for an event about a service whose message has a text in it.
func awaitEvent(t *testing.T, r *resource.Registry, service, reason, text string) {
	t.Helper()
	controlplanetest.Await(t, r, watched, func() string {
		var seen []string
		for _, e := range controlplanetest.List[*corev1.Event](r, kinds.Events, "default") {
			if e.InvolvedObject.Name != service {
				continue
			}
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return ""
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return fmt.Sprintf("no event %s with %q for %s, but %q", reason, text, service, seen)
	})
}

// checkRecords compares the records in etcd with the addresses that services show.
func checkRecords(t *testing.T, r *resource.Registry) {
	t.Helper()
	want, got := map[string]string{}, map[string]string{}
	list, err := r.List(t.Context(), kinds.Services, "", resource.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list.Objects {
		s := o.Value().(*corev1.Service)
		for _, i := range s.Status.LoadBalancer.Ingress {
			if other := want[i.IP]; other != "" {
				t.Errorf("%s is shown by %s and %s", i.IP, other, s.Name)
			}
			want[i.IP] = s.Namespace + "/" + s.Name
		}
	}
	kvs, _, err := r.Store().List(t.Context(), "/skep/loadbalancers/")
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		got[strings.TrimPrefix(kv.Key, "/skep/loadbalancers/")] = string(kv.Value)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("records say %v, services %v", got, want)
	}
}

func TestAddresses(t *testing.T) {
	r := controlplanetest.Start(t)
	addNode(t, r, "node1", "192.0.2.1") // an address of the pool
	start(t, r, "192.0.2.0/29")
	addService(t, r, "web", nil)
	await(t, r, "web", "192.0.2.2 at node1")
	awaitEvent(t, r, "web", "IPAllocated", "192.0.2.2")
	awaitEvent(t, r, "web", "AnnouncedBy", "Node node1 announces 192.0.2.2")
	addService(t, r, "class", func(s *corev1.ServiceSpec) { s.LoadBalancerClass = ptr.To(loadbalancer.Class) })
	await(t, r, "class", "192.0.2.3 at node1")
	addService(t, r, "asks", func(s *corev1.ServiceSpec) { s.LoadBalancerIP = "192.0.2.6" })
	await(t, r, "asks", "192.0.2.6 at node1")
	addService(t, r, "late", func(s *corev1.ServiceSpec) { s.LoadBalancerIP = "192.0.2.6" })
	await(t, r, "late", "LoadBalancerIPUnavailable")
	awaitEvent(t, r, "late", "LoadBalancerIPUnavailable", "192.0.2.6 is used by service default/asks")
	addService(t, r, "outside", func(s *corev1.ServiceSpec) { s.LoadBalancerIP = "198.51.100.1" })
	await(t, r, "outside", "LoadBalancerIPUnavailable")
	addService(t, r, "nodes", func(s *corev1.ServiceSpec) { s.LoadBalancerIP = "192.0.2.1" })
	awaitEvent(t, r, "nodes", "LoadBalancerIPUnavailable", "192.0.2.1 is used by node node1")
	checkRecords(t, r)

	// Services of other classes stay as they are.
	addService(t, r, "cloud", func(s *corev1.ServiceSpec) { s.LoadBalancerClass = ptr.To("example.org/cloud") })
	controlplanetest.Modify(t, r, kinds.Services, "status", "default", "cloud", func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.4", IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}}
	})
	// Addresses in their status, or that a service claims as external addresses, are not given to others.
	addService(t, r, "external", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalIPs = corev1.ServiceTypeClusterIP, []string{"192.0.2.5"}
	})
	addService(t, r, "full", nil)
	await(t, r, "full", "LoadBalancerPoolExhausted")
	awaitEvent(t, r, "full", "LoadBalancerPoolExhausted", "give skepd a larger pool")
	if got := state(get(t, r, "cloud")); got != "192.0.2.4" {
		t.Errorf("the service of another class is %q", got)
	}

	// An address that becomes free is given to a waiting service: by deletion, by a changed type, by another requested address.
	remove(t, r, "asks")
	await(t, r, "late", "192.0.2.6 at node1", "LoadBalancerIPUnavailable")
	controlplanetest.Modify(t, r, kinds.Services, "", "default", "class", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeClusterIP, nil
	})
	await(t, r, "class", "")
	controlplanetest.Await(t, r, watched, func() string {
		late, full := state(get(t, r, "late")), state(get(t, r, "full"))
		if late != "192.0.2.6 at node1" && full != "192.0.2.6 at node1" || late != "192.0.2.3 at node1" && full != "192.0.2.3 at node1" {
			if late != "LoadBalancerIPUnavailable" || full != "192.0.2.6 at node1" && full != "192.0.2.3 at node1" {
				return fmt.Sprintf("late is %q, full is %q", late, full)
			}
		}
		return ""
	})
	controlplanetest.Modify(t, r, kinds.Services, "", "default", "web", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.77" })
	await(t, r, "web", "LoadBalancerIPUnavailable")
	controlplanetest.Modify(t, r, kinds.Services, "", "default", "web", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.2" })
	await(t, r, "web", "192.0.2.2 at node1")
	remove(t, r, "cloud")
	remove(t, r, "external")
	checkRecords(t, r)
}

func remove(t *testing.T, r *resource.Registry, name string) {
	t.Helper()
	if _, _, err := r.Delete(t.Context(), kinds.Services, "default", name, nil); err != nil {
		t.Fatal(err)
	}
}

func TestNoPool(t *testing.T) {
	r := controlplanetest.Start(t)
	addNode(t, r, "node1", "10.0.0.1")
	stop := start(t, r, "192.0.2.0/29")
	addService(t, r, "given", nil)
	await(t, r, "given", "192.0.2.1 at node1")
	stop()
	start(t, r, "")
	addService(t, r, "web", nil)
	await(t, r, "web", "NoLoadBalancerPool")
	awaitEvent(t, r, "web", "NoLoadBalancerPool", "start it with --lb-cidr")
	// Another controller may serve it: then there is nothing to report, nor to announce.
	controlplanetest.Modify(t, r, kinds.Services, "status", "default", "web", func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.7", IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}}
	})
	await(t, r, "web", "198.51.100.7")
	// Addresses of an earlier pool stay, and a ready node announces them.
	addNode(t, r, "node2", "10.0.0.2")
	setReady(t, r, "node1", corev1.ConditionUnknown)
	await(t, r, "given", "192.0.2.1 at node2")
}

func TestPoolChanges(t *testing.T) {
	r := controlplanetest.Start(t)
	addNode(t, r, "node1", "10.0.0.1")
	stop := start(t, r, "192.0.2.0/29")
	for i := range 3 {
		addService(t, r, fmt.Sprintf("web%d", i), nil)
		await(t, r, fmt.Sprintf("web%d", i), fmt.Sprintf("192.0.2.%d at node1", i+1))
	}
	stop()
	// A status that somebody wrote: the record of the earlier address no longer counts.
	controlplanetest.Modify(t, r, kinds.Services, "status", "default", "web0", func(s *corev1.Service) { s.Status.LoadBalancer = corev1.LoadBalancerStatus{} })
	// On its own: beside web2, which the next pool moves, either may come first.
	stop = start(t, r, "192.0.2.0/29")
	await(t, r, "web0", "192.0.2.1 at node1")
	stop()
	start(t, r, "192.0.2.1-192.0.2.2,198.51.100.0/30")
	addService(t, r, "thief", func(s *corev1.ServiceSpec) { s.LoadBalancerIP = "192.0.2.2" })
	await(t, r, "thief", "LoadBalancerIPUnavailable")
	await(t, r, "web0", "192.0.2.1 at node1")
	await(t, r, "web1", "192.0.2.2 at node1")
	await(t, r, "web2", "198.51.100.1 at node1")
	checkRecords(t, r)
	remove(t, r, "web1")
	await(t, r, "thief", "192.0.2.2 at node1")
	checkRecords(t, r)
}

// TestAnnouncers follows services while nodes are added and deleted.
func TestAnnouncers(t *testing.T) {
	r := controlplanetest.Start(t)
	for i := range 3 {
		addNode(t, r, fmt.Sprintf("node%d", i), fmt.Sprintf("10.0.0.%d", i+1))
	}
	stop := start(t, r, "192.0.2.0/24")
	names := make([]string, 30)
	for i := range names {
		names[i] = fmt.Sprintf("web%02d", i)
		addService(t, r, names[i], nil)
	}
	settled := func(why string, nodes ...string) map[string]string {
		t.Helper()
		owners := map[string]string{}
		controlplanetest.Await(t, r, watched, func() string {
			clear(owners)
			for _, name := range names {
				owner := get(t, r, name).Annotations[loadbalancer.AnnouncedBy]
				if owners[name] = owner; !slices.Contains(nodes, owner) {
					return fmt.Sprintf("%s: %s is announced by %q, want one of %v", why, name, owner, nodes)
				}
			}
			return ""
		})
		count := map[string]int{}
		for _, owner := range owners {
			count[owner]++
		}
		for _, node := range nodes {
			if want := len(names) / len(nodes); count[node] != want {
				t.Errorf("%s: %v, want %d at each of %v", why, count, want, nodes)
			}
		}
		return owners
	}
	first := settled("all nodes are ready", "node0", "node1", "node2")
	setReady(t, r, "node0", corev1.ConditionUnknown)
	second := settled("node0 is silent", "node1", "node2")
	for name, owner := range first {
		if owner != "node0" && second[name] != owner {
			t.Errorf("%s moved from %s to %s, though %s is well", name, owner, second[name], owner)
		}
	}
	setReady(t, r, "node0", corev1.ConditionTrue)
	stop()
	controlplanetest.Modify(t, r, kinds.Services, "", "default", names[0], func(s *corev1.Service) { s.Annotations = nil })
	start(t, r, "192.0.2.0/24")
	await(t, r, names[0], state(get(t, r, names[0]))+" at node0") // the one with the fewest
	for name, owner := range second {
		if got := get(t, r, name).Annotations[loadbalancer.AnnouncedBy]; name != names[0] && got != owner {
			t.Errorf("another leader moved %s from %s to %s", name, owner, got)
		}
	}
	exclude := func(name string) {
		controlplanetest.Modify(t, r, kinds.Nodes, "", "", name, func(n *corev1.Node) {
			n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
		})
	}
	exclude("node0")
	setOutside(t, r, "node1", corev1.ConditionFalse)
	settled("one is excluded, another serves nobody outside", "node2")
	if _, _, err := r.Delete(t.Context(), kinds.Nodes, "", "node2", nil); err != nil {
		t.Fatal(err)
	}
	awaitEvent(t, r, names[3], "NotAnnounced", "without the label node.kubernetes.io/exclude-from-external-load-balancers")
	addNode(t, r, "node3", "10.0.0.9")
	settled("a node joins", "node3")
}

func TestAnnouncerOfLocalServices(t *testing.T) {
	r := controlplanetest.Start(t)
	for i := range 3 {
		addNode(t, r, fmt.Sprintf("node%d", i), fmt.Sprintf("10.0.0.%d", i+1))
	}
	start(t, r, "192.0.2.0/24")
	addService(t, r, "web", func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	if get(t, r, "web").Spec.HealthCheckNodePort == 0 {
		t.Error("no health check port was allocated")
	}
	awaitEvent(t, r, "web", "IPAllocated", "192.0.2.1")
	await(t, r, "web", "192.0.2.1") // nobody has an endpoint
	endpoint := func(node string, ready, serving, terminating bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{
			Addresses: []string{"10.244.0." + node[4:] + "7"}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		}
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{endpoint("node1", true, true, false), endpoint("node2", false, false, false)},
	}
	controlplanetest.Create(t, r, slice)
	await(t, r, "web", "192.0.2.1 at node1")
	for _, step := range []struct {
		endpoints []discoveryv1.Endpoint
		want      string
	}{
		{[]discoveryv1.Endpoint{endpoint("node1", true, true, false), endpoint("node2", true, true, false)}, "192.0.2.1 at node1"},
		{[]discoveryv1.Endpoint{endpoint("node1", false, true, true), endpoint("node2", true, true, false)}, "192.0.2.1 at node2"},
		{[]discoveryv1.Endpoint{endpoint("node1", false, true, true), endpoint("node2", false, false, false)}, "192.0.2.1 at node1"},
		{[]discoveryv1.Endpoint{endpoint("node1", false, false, true)}, "192.0.2.1"},
		{[]discoveryv1.Endpoint{endpoint("node2", true, true, false)}, "192.0.2.1 at node2"},
	} {
		controlplanetest.Modify(t, r, kinds.EndpointSlices, "", "default", "web-1", func(s *discoveryv1.EndpointSlice) { s.Endpoints = step.endpoints })
		await(t, r, "web", step.want)
	}
	setReady(t, r, "node2", corev1.ConditionUnknown)
	await(t, r, "web", "192.0.2.1")
	awaitEvent(t, r, "web", "NotAnnounced", "externalTrafficPolicy Local")
	controlplanetest.Modify(t, r, kinds.Services, "", "default", "web", func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	})
	await(t, r, "web", "192.0.2.1 at node0", "192.0.2.1 at node1")
}
