package services

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/service"
)

// recorder keeps what it is told, and how often.
type recorder struct {
	mu       sync.Mutex
	services map[string]service.Service
	down     map[string]bool
	peers    []string
	sets     int
	synced   int // services there when Synced was called; -1: not called
	changed  chan struct{}
}

func (r *recorder) do(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *recorder) SetService(s service.Service)     { r.do(func() { r.services[s.Name] = s; r.sets++ }) }
func (r *recorder) DeleteService(name string)        { r.do(func() { delete(r.services, name) }) }
func (r *recorder) Synced()                          { r.do(func() { r.synced = len(r.services) }) }
func (r *recorder) SetNodeDown(node string, is bool) { r.do(func() { r.down[node] = is }) }
func (r *recorder) SyncRoutes(peers []podnet.Peer) error {
	r.do(func() {
		r.peers = nil
		for _, p := range peers {
			r.peers = append(r.peers, fmt.Sprint(p.Name, " ", p.PodCIDRs[0], " via ", p.NodeIPs[0]))
		}
		slices.Sort(r.peers)
	})
	return nil
}

// await returns when the condition holds; it is asked after every change.
func (r *recorder) await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		r.mu.Lock()
		ok := condition()
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-r.changed:
		case <-deadline:
			t.Fatalf("not within 30 s: %s; services %+v, down %v, peers %v", what, r.services, r.down, r.peers)
		}
	}
}

func svc(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: ports},
	}
}

func slice(name, owner string, port int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: owner}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To(port), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
}

func endpoint(ip string, ready, serving, terminating bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: ptr.To("n1"),
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}}
}

func node(name, cidr, ip string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidr},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		},
	}
}

var http = corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}

func TestChangesReachThePlane(t *testing.T) {
	client := fake.NewClientset(
		svc("web", "10.96.0.5", http), svc("other", "10.96.0.6", http), svc("headless", corev1.ClusterIPNone, http),
		slice("web-1", "web", 8080, endpoint("10.244.1.1", true, true, false)),
		node("me", "10.244.0.0/24", "192.0.2.10", corev1.ConditionFalse), node("n1", "10.244.1.0/24", "192.0.2.11", corev1.ConditionTrue),
	)
	r := &recorder{services: map[string]service.Service{}, down: map[string]bool{}, synced: -1, changed: make(chan struct{}, 1)}
	factory := informers.NewSharedInformerFactory(client, 0)
	w, err := New(factory, "me", r, r)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	factory.StartWithContext(ctx)
	defer func() {
		cancel()
		factory.Shutdown()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	r.await(t, "the initial services, then Synced", func() bool { return r.synced == 2 })
	r.await(t, "the route to the other node and none to this one", func() bool {
		return slices.Equal(r.peers, []string{"n1 10.244.1.0/24 via 192.0.2.11"})
	})
	if r.down["me"] {
		t.Error("this node counts as down for itself")
	}
	backends := func(name string) string {
		var s []string
		for _, b := range r.services[name].Backends {
			s = append(s, fmt.Sprintf("%s:%d %s %s", b.Addr, b.Port, b.Node, b.State))
		}
		return strings.Join(s, ", ")
	}
	r.await(t, "the backend", func() bool { return backends("ns/web:http") == "10.244.1.1:8080 n1 active" })

	slicesOf := client.DiscoveryV1().EndpointSlices("ns")
	update := func(s *discoveryv1.EndpointSlice) {
		t.Helper()
		if _, err := slicesOf.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r.mu.Lock()
	before := r.sets
	r.mu.Unlock()
	update(slice("web-1", "web", 8080, endpoint("10.244.1.1", false, true, true), endpoint("10.244.1.2", false, false, false), endpoint("10.244.1.3", true, true, false)))
	r.await(t, "all three states", func() bool {
		return backends("ns/web:http") == "10.244.1.1:8080 n1 terminating, 10.244.1.2:8080 n1 unready, 10.244.1.3:8080 n1 active"
	})
	r.mu.Lock()
	if got := r.sets - before; got != 1 {
		t.Errorf("one changed slice set %d services", got)
	}
	r.mu.Unlock()
	update(slice("web-1", "other", 8080, endpoint("10.244.1.3", true, true, false)))
	r.await(t, "the slice at its new service", func() bool {
		return backends("ns/web:http") == "" && backends("ns/other:http") == "10.244.1.3:8080 n1 active"
	})

	nodes := client.CoreV1().Nodes()
	if _, err := nodes.Update(ctx, node("n1", "10.244.1.0/24", "192.0.2.11", corev1.ConditionUnknown), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the node down", func() bool { return r.down["n1"] })
	if _, err := nodes.Update(ctx, node("n1", "10.244.1.0/24", "192.0.2.11", corev1.ConditionTrue), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the node up", func() bool { return !r.down["n1"] })
	if err := nodes.Delete(ctx, "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "no route and no node", func() bool { return len(r.peers) == 0 && r.down["n1"] })

	renamed := http
	renamed.Name = "web"
	if _, err := client.CoreV1().Services("ns").Update(ctx, svc("other", "10.96.0.6", renamed), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the renamed port", func() bool {
		_, old := r.services["ns/other:http"]
		_, now := r.services["ns/other:web"]
		return !old && now
	})
	if err := client.CoreV1().Services("ns").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the deleted service gone", func() bool { _, ok := r.services["ns/web:http"]; return !ok })
}

func TestTranslate(t *testing.T) {
	s := svc("dns", "10.96.0.10", corev1.ServicePort{Port: 53, Protocol: corev1.ProtocolUDP})
	s.Spec.ClusterIPs = []string{"10.96.0.10", "fd00::10"}
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	got := translate(s, nil)
	want := service.Frontend{Addr: netip.MustParseAddr("fd00::10"), Port: 53, Protocol: service.UDP, Scope: service.ScopeCluster}
	if len(got) != 1 || got[0].Name != "ns/dns" || got[0].AffinityTimeout != 3*time.Hour || len(got[0].Frontends) != 2 || got[0].Frontends[1] != want {
		t.Errorf("%+v", got)
	}
	s.Spec.Type = corev1.ServiceTypeExternalName
	if got := translate(s, nil); got != nil {
		t.Errorf("an external name became %+v", got)
	}
}
