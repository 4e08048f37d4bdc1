package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/clustertest"
)

func TestNodesAndPodsHaveBothFamilies(t *testing.T) {
	s := newSpace(t)
	list, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hostIPs := map[string][]string{}
	for _, n := range list.Items {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				hostIPs[n.Name] = append(hostIPs[n.Name], a.Address)
			}
		}
		wantFamilies(t, "addresses of "+n.Name, hostIPs[n.Name])
		if len(n.Spec.PodCIDRs) != 2 || n.Spec.PodCIDRs[0] != n.Spec.PodCIDR {
			t.Errorf("%s has pod ranges %v beside %s, want two", n.Name, n.Spec.PodCIDRs, n.Spec.PodCIDR)
		}
	}
	s.SkepIn(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"self"},"spec":{"containers":[{"name":"c","image":"skep/echo:dev","env":[
		{"name":"POD_IPS","valueFrom":{"fieldRef":{"fieldPath":"status.podIPs"}}},
		{"name":"HOST_IPS","valueFrom":{"fieldRef":{"fieldPath":"status.hostIPs"}}}]}]}}`, "apply", "-f", "-")
	pod := s.Await("the pod", clustertest.AllReady(1))[0]
	podIPs := addressesOf(pod)
	wantFamilies(t, "addresses of the pod", podIPs)
	var addresses []string
	for _, ip := range pod.Status.HostIPs {
		addresses = append(addresses, ip.IP)
	}
	if !slices.Equal(addresses, hostIPs[pod.Spec.NodeName]) {
		t.Errorf("the pod's host has %v, the pod says %v", hostIPs[pod.Spec.NodeName], addresses)
	}
	s.WantIn(s.Skep("exec", "self", "--", "/echo", "env"), "POD_IPS="+strings.Join(podIPs, ",")+"\n", "HOST_IPS="+strings.Join(addresses, ",")+"\n")
	s.WantIn(s.Skep("exec", "self", "--", "/echo", "cat", "/etc/hosts"), podIPs[0]+"\tself\n", podIPs[1]+"\tself\n")
}

func addressesOf(pod corev1.Pod) (list []string) {
	for _, ip := range pod.Status.PodIPs {
		list = append(list, ip.IP)
	}
	return list
}

// wantFamilies fails unless there is an IPv4 address and then an IPv6 one.
func wantFamilies(t *testing.T, what string, addrs []string) {
	t.Helper()
	var families []string
	for _, text := range addrs {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		families = append(families, fmt.Sprint(addr.BitLen()))
	}
	if strings.Join(families, " ") != "32 128" {
		t.Fatalf("%s: %v, want one of each family (the machine needs IPv6: net.ipv6.conf.all.disable_ipv6 = 0)", what, addrs)
	}
}

func TestDualStackService(t *testing.T) {
	s := newSpace(t)
	pods := s.echoAndClient()
	// A service of one family becomes one of both in place, and keeps its address.
	before := strings.TrimSpace(s.Skep("get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"))
	s.Skep("patch", "service", "echo", "-p", `{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`)
	addrs := strings.Fields(s.Skep("get", "service", "echo", "-o", "jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}"))
	wantFamilies(t, "addresses of the service", addrs)
	if addrs[0] != before {
		t.Errorf("the service's address changed from %s to %s", before, addrs[0])
	}
	out := s.untilLooked("echo", 2)
	s.WantIn(out, addrs[0], addrs[1])
	s.WantIn(s.Skep("exec", "client", "--", "/echo", "lookup", "--ptr", addrs[1]), "echo."+s.Name+".svc.cluster.local.")
	for _, addr := range addrs {
		for _, protocol := range []string{"tcp", "udp"} {
			s.untilInTurn(addr, protocol)
		}
	}
	for _, pod := range pods {
		for _, addr := range addressesOf(pod) {
			if pod.Labels["app"] == "echo" {
				s.WantIn(s.ask("--count", "1", addr), pod.Name)
			}
		}
	}
	s.SkepIn(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"six"},"spec":{"ipFamilies":["IPv6"],"selector":{"app":"echo"},"ports":[{"name":"tcp","port":7000}]}}`, "apply", "-f", "-")
	if out := s.untilLooked("six", 1); !strings.Contains(out, ":") {
		t.Errorf("a service of IPv6 only has the address %s", out)
	}
	s.untilInTurn("six", "tcp")
	s.SkepIn(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"both"},"spec":{"clusterIP":"None","ipFamilyPolicy":"PreferDualStack","selector":{"app":"echo"},"ports":[{"name":"tcp","port":7000}]}}`, "apply", "-f", "-")
	out = s.untilLooked("both", 6)
	for _, pod := range pods {
		if pod.Labels["app"] == "echo" {
			s.WantIn(out, addressesOf(pod)...)
		}
	}
}

// untilInTurn asks an address until all three echo pods answer in turn.
func (s *space) untilInTurn(addr, protocol string) {
	s.Helper()
	var out string
	for range 100 {
		out, _ = local.Skep(s.Context(), "", "-n", s.Name, "exec", "client", "--", "/echo", "client", "--quiet", "--protocol", protocol, "--count", "6", addr)
		if strings.Contains(out, "tally 2/2/2, 0 failed") {
			return
		}
	}
	s.Fatalf("three pods never answered in turn at %s over %s:\n%s", addr, protocol, out)
}

// A host behind a router shares no link with the others: its pods are reached through VXLAN.
func TestPodsAcrossARouter(t *testing.T) {
	c := newSite(t, "vx", cluster.Options{Nodes: 2, Routed: []string{"node2"}, NoDNS: true})
	on, api := c.Skep, c.api
	pods := map[string]*corev1.Pod{}
	for _, node := range []string{"node1", "node2"} {
		pods[node] = runPod(t, api, node)
	}
	on("expose", "pod", "node2", "--port", "7000", "--overrides", `{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`)
	targets := strings.Fields(on("get", "service", "node2", "-o", "jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}"))
	for _, addr := range append(targets, addressesOf(*pods["node2"])...) {
		out := ""
		for range 100 { // the maps may be a moment behind
			var err error
			if out, err = c.run("exec", "node1", "--", "/echo", "client", "--count", "5", addr); err == nil {
				break
			}
		}
		if !strings.Contains(out, "tally 5, 0 failed") {
			t.Errorf("from the pod on node1 to %s: %s", addr, out)
		}
	}
	// From outside, through a node port of the node before the router: wrapped on the way there, answered directly.
	on("patch", "service", "node2", "-p", `{"spec":{"type":"NodePort","ports":[{"port":7000,"name":"raw"},{"port":8080,"name":"web"}]}}`)
	port := strings.TrimSpace(on("get", "service", "node2", "-o", `jsonpath={.spec.ports[?(@.name=="web")].nodePort}`))
	near, err := c.Node("node1")
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []netip.Addr{near.Addr, near.Addr6} {
		err := errors.New("not tried")
		for i := 0; i < 100 && err != nil; i++ { // the maps may be a moment behind
			err = fetch(net.JoinHostPort(addr.String(), port), 1<<20)
		}
		if err != nil {
			t.Errorf("from this machine to the pod behind the router: %v", err)
		}
	}
	// More than a packet each way, over both families and from the host too.
	for _, addr := range addressesOf(*pods["node2"]) {
		if err := near.InNetwork(func() error { return fetch(net.JoinHostPort(addr, "8080"), 1<<20) }); err != nil {
			t.Errorf("from node1 to the pod behind the router: %v", err)
		}
	}
}

// fetch reads a megabyte or so over a plain HTTP connection.
func fetch(addr string, size int) error {
	conn, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET /bytes?n=%d HTTP/1.0\r\n\r\n", size); err != nil {
		return err
	}
	buf, got := make([]byte, 1<<16), 0
	for {
		n, err := conn.Read(buf)
		got += n
		if err != nil {
			if got < size {
				return fmt.Errorf("%d bytes of %d from %s: %w", got, size, addr, err)
			}
			return nil
		}
	}
}

// runPod starts an echo pod on a node and returns when it is ready.
func runPod(t *testing.T, api kubernetes.Interface, node string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"on": node}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "skep/echo:dev"}}},
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	created, err := api.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := api.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + node, ResourceVersion: created.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		if now, ok := event.Object.(*corev1.Pod); ok && clustertest.Ready(*now) {
			wantFamilies(t, "addresses of the pod on "+node, addressesOf(*now))
			return now
		}
	}
	t.Fatal(errors.Join(fmt.Errorf("the pod on %s never became ready", node), ctx.Err()))
	return nil
}
