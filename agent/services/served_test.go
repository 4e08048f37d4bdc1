package services

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
)

func podAt(protocol corev1.Protocol, host string, port uint16) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "1"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: int32(port), HostIP: host, Protocol: protocol}},
		}}},
	}
}

// CVE-2020-8554, by way of a host port: a pod gets the connections to the node's own agent, to the API server or to whatever else
// listens on the node.
func TestHostPortsOfTheNodesOwnPrograms(t *testing.T) {
	_, r, _ := start(t, fake.NewClientset(), nil)
	w := &Watcher{cfg: Config{Node: "me", Plane: r, OwnPorts: []uint16{10250, 6443}, Listening: sockets.Listening}, hostPorts: map[string]*podPorts{}}
	w.reporter = newReporter(record.NewFakeRecorder(100), nil, nil)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	datagrams, err := net.ListenPacket("udp4", "127.0.0.1:9999")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	for _, c := range []struct {
		pod   *corev1.Pod
		taken string
	}{
		{podAt("TCP", "", 10250), "is for this node's own programs"},
		{podAt("TCP", "192.0.2.11", 6443), "is for this node's own programs"},
		{podAt("UDP", "", 6443), ""},
		{podAt("", "", port), "by a program of this node"},
		{podAt("TCP", "0.0.0.0", port), "is served at 127.0.0.1:"},
		{podAt("TCP", "192.0.2.11", port), ""}, // another address than the program's
		{podAt("UDP", "", 9999), "0.0.0.0:9999/UDP is served at 127.0.0.1:9999 by a program of this node"},
	} {
		at := c.pod.Spec.Containers[0].Ports[0]
		if got := w.HostPortTaken(c.pod); c.taken == "" && got != "" || !strings.Contains(got, c.taken) {
			t.Errorf("host port %s:%d/%s: %q, want %q", at.HostIP, at.HostPort, at.Protocol, got, c.taken)
		}
		w.SetHostPorts(c.pod, []netip.Addr{netip.MustParseAddr("10.244.1.7")})
		if ports := w.hostPorts["1"]; (len(ports.names) == 0) != (c.taken != "") {
			t.Errorf("host port %s:%d/%s: the data plane has %q", at.HostIP, at.HostPort, at.Protocol, ports.names)
		}
		w.DeleteHostPorts(c.pod)
	}
	listener.Close()
	if got := w.HostPortTaken(podAt("TCP", "", port)); got != "" {
		t.Errorf("once nobody listens: %q", got)
	}
	host := podAt("TCP", "", 10250)
	host.Spec.HostNetwork = true
	if got := w.HostPortTaken(host); got != "" {
		t.Errorf("a pod in the host's network: %q", got)
	}
}

// A program of the node that begins to listen where a pod has a host port gets its clients, and the pod has them back once it has
// stopped: nothing of the node's own is ever shadowed by a pod for longer than a look.
func TestHostPortsMakeRoomForPrograms(t *testing.T) {
	_, r, _ := start(t, fake.NewClientset(), nil)
	w := &Watcher{cfg: Config{Node: "me", Plane: r, Listening: sockets.Listening}, hostPorts: map[string]*podPorts{}}
	events := record.NewFakeRecorder(100)
	w.reporter = newReporter(events, nil, nil)
	has := func(name string) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, has := r.services[name]
		return has
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := listener.Addr().String()
	listener.Close()
	port := netip.MustParseAddrPort(at).Port()
	w.SetHostPorts(podAt("TCP", "", port), []netip.Addr{netip.MustParseAddr("10.244.1.7")})
	name := fmt.Sprintf("host-port/ns/p::%d/TCP", port)
	if !has(name) {
		t.Fatalf("the data plane has %v, not %s", r.services, name)
	}
	for range 2 {
		if listener, err = net.Listen("tcp4", at); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			w.compareListeners()
		}
		if has(name) {
			t.Error("the port leads to the pod although a program of the node listens there")
		}
		listener.Close()
		for range 2 {
			w.compareListeners()
		}
		if !has(name) {
			t.Error("the port does not lead to the pod again")
		}
		for _, want := range []string{"Warning NotInstalled", "Normal Installed"} {
			select {
			case event := <-events.Events:
				if !strings.HasPrefix(event, want) || !strings.Contains(event, name) {
					t.Errorf("event %q, want %s", event, want)
				}
			default:
				t.Errorf("no event %s", want)
			}
		}
	}
	if len(events.Events) > 0 {
		t.Errorf("an event too many: %s", <-events.Events)
	}
}

func BenchmarkCompareListeners(b *testing.B) {
	w := &Watcher{cfg: Config{Node: "me", Plane: &recorder{services: map[string]service.Service{}, changed: make(chan struct{}, 1)}, Listening: sockets.Listening}, hostPorts: map[string]*podPorts{}}
	w.reporter = newReporter(record.NewFakeRecorder(100), nil, nil)
	w.SetHostPorts(podAt("TCP", "", 81), []netip.Addr{netip.MustParseAddr("10.244.1.7")})
	for b.Loop() {
		w.compareListeners()
	}
}

// An endpoint at a node's overlay port would have every node send in its own name what a client has made up.
func TestEndpointsWhereNodesUnwrap(t *testing.T) {
	if servicespec.OverlayPort != podnet.VXLANPort {
		t.Fatalf("endpoints are compared with port %d, the overlay's is %d", servicespec.OverlayPort, podnet.VXLANPort)
	}
	v := &view{
		node: "me", draining: func(string) bool { return false }, reserved: func(netip.Addr) string { return "" },
		inside: func(netip.Addr) string { return "" },
		host: func(addr netip.Addr) string {
			return map[string]string{"192.0.2.12": "n2"}[addr.String()]
		},
	}
	for protocol, want := range map[corev1.Protocol]string{"UDP": "10.244.2.5:8472", "TCP": "192.0.2.12:8472 10.244.2.5:8472"} {
		slices := parseSlices(t, `
metadata: {name: manual, namespace: ns}
addressType: IPv4
endpoints: [{addresses: [192.0.2.12]}, {addresses: [10.244.2.5]}]
ports: [{port: 8472, protocol: `+string(protocol)+`, name: ""}]`)
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{{Port: 53, Protocol: protocol}}},
		}
		got := v.translate(svc, slices)
		var backends []string
		for _, b := range got.services[0].Backends {
			backends = append(backends, netip.AddrPortFrom(b.Addr, b.Port).String())
		}
		if strings.Join(backends, " ") != want {
			t.Errorf("%s: endpoints %q, want %s", protocol, backends, want)
		}
		if warned := strings.Join(got.warnings, "; "); protocol == "UDP" != strings.Contains(warned, "endpoint 192.0.2.12:8472 of port 53 is ignored: node n2 decapsulates what arrives there, as from other nodes") {
			t.Errorf("%s: warnings %q", protocol, warned)
		}
	}
}
