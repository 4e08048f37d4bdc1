package services

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
)

func freePort(t *testing.T) (net.Listener, int32) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	return l, int32(l.Addr().(*net.TCPAddr).Port)
}

func localBalancer(port int32) *corev1.Service {
	s := svc("web", "10.96.0.5", httpPort)
	s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, port
	return s
}

func TestHealthCheckPort(t *testing.T) {
	holder, port := freePort(t)
	local := slice("web-1", "web", 8080, ep("10.244.0.1", true, true, false))
	local.Endpoints[0].NodeName = new("me")
	client := fake.NewClientset(localBalancer(port), local)
	_, _, events := start(t, client, nil)
	events.await(t, "Service web "+servicespec.ReasonHealthPort) // another process has the port
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	ask := func() (code int, answer healthAnswer) {
		for deadline := time.Now().Add(bindRetry + 20*time.Second); ; {
			response, err := nethttp.Get(fmt.Sprintf("http://127.0.0.1:%d/any/path", port))
			if err == nil {
				defer response.Body.Close()
				data, err := io.ReadAll(response.Body)
				if err == nil {
					err = json.Unmarshal(data, &answer)
				}
				if err != nil {
					t.Fatal(err)
				}
				return response.StatusCode, answer
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	if code, answer := ask(); code != 200 || answer.LocalEndpoints != 1 || answer.Service.Namespace != "ns" || answer.Service.Name != "web" || !answer.ServiceProxyHealthy {
		t.Errorf("%d %+v", code, answer)
	}
	local.Endpoints[0].Conditions.Ready = new(bool)
	if _, err := client.DiscoveryV1().EndpointSlices("ns").Update(context.Background(), local, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		if code, answer := ask(); code == 503 && answer.LocalEndpoints == 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("still %d %+v", code, answer)
		}
	}
}

// What this node alone cannot do is reported once, as long as it holds; what the control plane reports is not reported by every node.
func TestProblemsAreReportedOnce(t *testing.T) {
	client := fake.NewClientset(svc("web", "10.96.0.5", httpPort))
	_, r, events := start(t, client, nil)
	full := service.Problem{Service: "ns/web:http", Reason: "all 64 backends are in use: raise the limit"}
	lost := service.Problem{Service: "ns/web:http", Owner: "ns/other", Reason: "frontend 10.96.0.5:80/TCP belongs to ns/other, which is older"}
	for _, problems := range [][]service.Problem{{full, lost}, {full}, {full, lost}, nil, {full}} {
		r.problems <- map[string][]service.Problem{"ns/web:http": problems}
	}
	last := service.Problem{Service: "ns/web:http", Reason: "the last"}
	r.problems <- map[string][]service.Problem{"ns/web:http": {last}}
	events.await(t, "Service web "+servicespec.ReasonNotInstalled+": ns/web:http: the last")
	if n := events.count("Service web " + servicespec.ReasonNotInstalled + ": ns/web:http: " + full.Reason); n != 2 {
		t.Errorf("reported %d times what began twice", n)
	}
	if n := events.count(lost.Reason); n != 0 {
		t.Errorf("reported %d times what the control plane reports", n)
	}
}

func TestAnnouncedAddresses(t *testing.T) {
	s := localBalancer(0)
	s.Annotations = map[string]string{servicespec.AnnouncedByAnnotation: "me"}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}}
	client := fake.NewClientset(s)
	_, r, _ := start(t, client, nil)
	r.await(t, "the address to be ours", func() bool { return r.owned == "[203.0.113.7]" })
	s.Annotations[servicespec.AnnouncedByAnnotation] = "n1"
	if _, err := client.CoreV1().Services("ns").Update(context.Background(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the address to be another's", func() bool { return r.owned == "[]" })
}

// Host ports of running pods must be set before the plane removes services that are not set.
func TestSyncedWaitsForHostPorts(t *testing.T) {
	adopted := make(chan struct{})
	w, r, _ := start(t, fake.NewClientset(svc("web", "10.96.0.5", httpPort)), adopted)
	r.await(t, "the service", func() bool { return len(r.services) == 1 })
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{HostPort: 8080, ContainerPort: 80}}}},
	}}
	w.SetHostPorts(pod, []netip.Addr{netip.MustParseAddr("10.244.0.2")})
	r.mu.Lock()
	if r.synced != -1 {
		t.Error("synced before the pods were adopted")
	}
	r.mu.Unlock()
	close(adopted)
	r.await(t, "Synced, with the host port", func() bool { return r.synced == 2 })
	w.DeleteHostPorts(pod)
	r.await(t, "the host port gone", func() bool { return len(r.services) == 1 })
}

func TestDrainEndsWithTheEndpoint(t *testing.T) {
	s := slice("web-1", "web", 8080, ep("10.244.0.1", true, true, false))
	s.Endpoints[0].NodeName, s.Endpoints[0].TargetRef = new("me"), &corev1.ObjectReference{Kind: "Pod", UID: "u"}
	client := fake.NewClientset(svc("web", "10.96.0.5", httpPort), s)
	w, r, _ := start(t, client, nil)
	state := func(want service.State) func() bool {
		return func() bool {
			b := r.services["ns/web:http"].Backends
			return len(b) == 1 && b[0].State == want
		}
	}
	r.await(t, "the backend", state(service.Active))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	drained := make(chan func(), 1)
	go func() {
		result, restored := w.Drain(ctx, "u")
		if !result.Endpoint || result.Problem != "" {
			t.Errorf("drained as %+v", result)
		}
		drained <- restored
	}()
	r.await(t, "the backend to be the last choice before the API says so", state(service.Terminating))
	select {
	case <-drained:
		t.Fatal("drained although the endpoint is ready")
	default:
	}
	s.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: new(bool), Serving: new(true), Terminating: new(true)}
	if _, err := client.DiscoveryV1().EndpointSlices("ns").Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	restored := <-drained
	if ctx.Err() != nil {
		t.Fatal("the change of the endpoint did not end the drain")
	}
	restored()
	r.await(t, "what the API says", state(service.Terminating))
}

// A node that is deleted is down. If it joins again, and is ready at once, it is not.
func TestNodeThatJoinsAgain(t *testing.T) {
	again := node("n1", "10.244.1.0/24", "192.0.2.11", corev1.ConditionTrue)
	client := fake.NewClientset(again)
	_, r, _ := start(t, client, nil)
	r.await(t, "the node", func() bool { return len(r.peers) == 1 && !r.down["n1"] })
	if err := client.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "its mark", func() bool { return r.down["n1"] })
	if _, err := client.CoreV1().Nodes().Create(t.Context(), again, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the end of the mark", func() bool { return !r.down["n1"] })
}

// A node on which no uplink has a program accepts no tunnels, and is otherwise like the others. It accepts tunnels again when its
// status says so, or it is another node.
func TestNodesThatTakeNoTunnels(t *testing.T) {
	says := func(status corev1.ConditionStatus) *corev1.Node {
		n := node("n1", "10.244.1.0/24", "192.0.2.11", corev1.ConditionTrue)
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: servicespec.ServesOutside, Status: status})
		return n
	}
	client := fake.NewClientset(says(corev1.ConditionFalse), node("n2", "10.244.2.0/24", "192.0.2.12", corev1.ConditionTrue))
	_, r, _ := start(t, client, nil)
	r.await(t, "both nodes at their addresses", func() bool {
		return r.addresses["n1"] == "[192.0.2.11]" && r.addresses["n2"] == "[192.0.2.12]" && len(r.peers) == 2
	})
	is := func(noTunnels bool) func() bool {
		return func() bool { now, known := r.noTunnels["n1"]; return known && now == noTunnels }
	}
	r.await(t, "one that accepts no tunnels", is(true))
	r.await(t, "one that says nothing and does", func() bool { now, known := r.noTunnels["n2"]; return known && !now })
	for _, c := range []struct {
		status    corev1.ConditionStatus
		noTunnels bool
	}{{corev1.ConditionTrue, false}, {corev1.ConditionFalse, true}, {corev1.ConditionUnknown, false}, {corev1.ConditionFalse, true}} {
		if _, err := client.CoreV1().Nodes().Update(t.Context(), says(c.status), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		r.await(t, "what follows from "+string(c.status), is(c.noTunnels))
	}
	if err := client.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "nothing kept of a node that is gone", is(false))
}
