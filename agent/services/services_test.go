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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/service"
)

// recorder keeps what it is called with, and how often.
type recorder struct {
	mu        sync.Mutex
	services  map[string]service.Service
	down      map[string]bool
	peers     []string
	addresses map[string]string
	noTunnels map[string]bool
	problems  chan map[string][]service.Problem
	owned     string
	sets      int
	synced    int // services there when Synced was called; -1: not called
	changed   chan struct{}
	leave     chan struct{}
	applied   uint64
	pending   []string // what Await answers
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
func (r *recorder) SetNodeAddresses(node string, addrs []netip.Addr) {
	r.do(func() { r.addresses[node] = fmt.Sprint(addrs) })
}
func (r *recorder) SetNodeUnwraps(node string, does bool) {
	r.do(func() { r.noTunnels[node] = !does })
}

// Flush waits for leave, if a test has set it.
func (r *recorder) Flush(ctx context.Context) error {
	r.mu.Lock()
	leave := r.leave
	r.mu.Unlock()
	if leave == nil {
		return nil
	}
	select {
	case <-leave:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *recorder) AwaitProblems(ctx context.Context) map[string][]service.Problem {
	select {
	case changed := <-r.problems:
		return changed
	case <-ctx.Done():
		return nil
	}
}
func (r *recorder) Own(addrs []netip.Addr) { r.do(func() { r.owned = fmt.Sprint(addrs) }) }
func (r *recorder) SyncRoutes(peers []podnet.Peer) error {
	r.do(func() {
		r.peers = nil
		for _, p := range peers {
			r.peers = append(r.peers, fmt.Sprint(p.Name, " ", p.PodCIDRs, " via ", p.NodeIPs))
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

func ep(ip string, ready, serving, terminating bool) discoveryv1.Endpoint {
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

var httpPort = corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}

// start runs a watcher of node "me" until the test ends.
func start(t *testing.T, client kubernetes.Interface, adopted <-chan struct{}) (*Watcher, *recorder, *events) {
	t.Helper()
	r := &recorder{
		services: map[string]service.Service{}, down: map[string]bool{}, addresses: map[string]string{}, noTunnels: map[string]bool{},
		synced: -1, changed: make(chan struct{}, 1), problems: make(chan map[string][]service.Problem),
	}
	e := &events{changed: make(chan struct{}, 1)}
	factory := informers.NewSharedInformerFactory(client, 0)
	w, err := New(Config{
		Factory: factory, Node: "me", Plane: r, Router: r, Announcer: r, Recorder: e, Adopted: adopted,
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		Applied:      func(revision uint64, _ bool) { r.do(func() { r.applied = revision }) },
		Await: func(ctx context.Context, revision uint64) ([]string, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if revision > r.applied {
				return nil, fmt.Errorf("revision %d is not in this node's maps yet, %d is", revision, r.applied)
			}
			return r.pending, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	factory.StartWithContext(ctx)
	t.Cleanup(func() {
		cancel()
		factory.Shutdown()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w, r, e
}

// events keeps those that were written, as "KIND NAME REASON: MESSAGE".
type events struct {
	mu      sync.Mutex
	list    []string
	changed chan struct{}
}

func (e *events) Event(obj runtime.Object, _, reason, message string) {
	name := "?"
	switch o := obj.(type) {
	case *corev1.Service:
		name = "Service " + o.Name
	case *corev1.ObjectReference:
		name = o.Kind + " " + o.Name
	}
	e.mu.Lock()
	e.list = append(e.list, name+" "+reason+": "+message)
	e.mu.Unlock()
	select {
	case e.changed <- struct{}{}:
	default:
	}
}
func (e *events) Eventf(obj runtime.Object, kind, reason, format string, args ...any) {
	e.Event(obj, kind, reason, fmt.Sprintf(format, args...))
}
func (e *events) AnnotatedEventf(obj runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	e.Eventf(obj, kind, reason, format, args...)
}
func (e *events) WithLogger(klog.Logger) record.EventRecorderLogger { return nil }

// await returns when an event with the text has been written.
func (e *events) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for e.count(text) == 0 {
		select {
		case <-e.changed:
		case <-deadline:
			t.Fatalf("no event %q within 30 s; have %q", text, e.list)
		}
	}
}

func (e *events) count(text string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, have := range e.list {
		if strings.Contains(have, text) {
			n++
		}
	}
	return n
}

func TestChangesReachThePlane(t *testing.T) {
	client := fake.NewClientset(
		svc("web", "10.96.0.5", httpPort), svc("other", "10.96.0.6", httpPort), svc("headless", corev1.ClusterIPNone, httpPort),
		slice("web-1", "web", 8080, ep("10.244.1.1", true, true, false)),
		node("me", "10.244.0.0/24", "192.0.2.10", corev1.ConditionFalse), node("n1", "10.244.1.0/24", "192.0.2.11", corev1.ConditionTrue),
	)
	ctx := context.Background()
	_, r, _ := start(t, client, nil)

	r.await(t, "the initial services, then Synced", func() bool { return r.synced == 2 })
	r.await(t, "the route to the other node and none to this one", func() bool {
		return slices.Equal(r.peers, []string{"n1 [10.244.1.0/24] via [192.0.2.11]"})
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
	update(slice("web-1", "web", 8080, ep("10.244.1.1", false, true, true), ep("10.244.1.2", false, false, false), ep("10.244.1.3", true, true, false)))
	r.await(t, "all three states", func() bool {
		return backends("ns/web:http") == "10.244.1.1:8080 n1 terminating, 10.244.1.2:8080 n1 unready, 10.244.1.3:8080 n1 active"
	})
	r.mu.Lock()
	if got := r.sets - before; got != 1 {
		t.Errorf("one changed slice set %d services", got)
	}
	r.mu.Unlock()
	update(slice("web-1", "other", 8080, ep("10.244.1.3", true, true, false)))
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

	renamed := httpPort
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
