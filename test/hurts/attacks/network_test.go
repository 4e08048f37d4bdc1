package attacks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// discard is a port at which no pod listens: a pod counts the datagrams that arrive there, and none is answered.
const discard = 9

// A stranger, or a pod, wraps a packet as nodes do for each other, with the address of another pod as its source, or of a client that
// loadBalancerSourceRanges allows. It reaches no pod and is counted; what a pod and a client really send arrives.
func TestForgedWrappedPackets(t *testing.T) {
	s := newSpace(t)
	first, second := s.node("node1"), s.node("node2")
	on := func(node string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeName, p.Labels = node, map[string]string{"app": p.Name} }
	}
	s.create(pod("victim", "sleep 1000", on(first.Name)))
	s.create(pod("peer", "sleep 1000", on(second.Name)))
	victim, peer := s.awaitReady("victim"), s.awaitReady("peer")
	victimIP, peerIP := netip.MustParseAddr(victim.Status.PodIP), netip.MustParseAddr(peer.Status.PodIP)
	balanced := s.balanced("victim", "203.0.113.7/32")
	received := func() int { return datagramsToNowhere(s, victim) }
	inVictim, inPeer := s.inPod(victim), s.inPod(peer)

	before := received()
	inPeer(func() error { return sendUDP(netip.AddrPortFrom(victimIP, discard), []byte("honest")) })
	eventually(t, "a datagram of the other pod", func() error {
		if got := received(); got == before {
			return errors.New("none has come")
		}
		return nil
	})

	forged := datagram(peerIP, netip.AddrPortFrom(victimIP, discard))
	client := datagram(netip.MustParseAddr("203.0.113.7"), balanced)
	frame := append(append(overlayAddress(t, first), 0x0e, 1, 2, 3, 4, 5, 8, 0), forged...)
	vxlan := append([]byte{8, 0, 0, 0, 0, 0, 83, 0}, frame...)
	outside := func(f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	for _, attack := range []struct {
		name    string
		from    func(func() error)
		send    func() error
		at      *cluster.Node
		counter string
	}{
		{"VXLAN from outside", outside, func() error { return sendUDP(netip.AddrPortFrom(first.Addr, 8472), vxlan) }, first, `program="from_uplink",reason="wrapped_forged"`},
		{"IP in IP from outside", outside, func() error { return sendIPIP(first.Addr, forged) }, first, `reason="foreign_tunnel"`},
		{"IP in IP from outside as a client", outside, func() error { return sendIPIP(first.Addr, client) }, first, `reason="foreign_tunnel"`},
		{"VXLAN from a pod of another node", inPeer, func() error { return sendUDP(netip.AddrPortFrom(first.Addr, 8472), vxlan) }, second, `program="from_pod",reason="wrapped"`},
		{"IP in IP from a pod of another node", inPeer, func() error { return sendIPIP(first.Addr, client) }, second, `program="from_pod",reason="wrapped"`},
		{"VXLAN from a pod of the node", inVictim, func() error { return sendUDP(netip.AddrPortFrom(first.Addr, 8472), vxlan) }, first, `program="from_pod",reason="wrapped"`},
		{"IP in IP from a pod of the node", inVictim, func() error { return sendIPIP(first.Addr, client) }, first, `program="from_pod",reason="wrapped"`},
	} {
		reached, dropped := received(), counted(t, attack.at.Name, attack.counter)
		const packets = 3
		for range packets {
			attack.from(attack.send)
		}
		eventually(t, attack.name+" to be counted by "+attack.counter, func() error {
			if got := received(); got != reached {
				t.Fatalf("%s: %d datagrams have reached the pod", attack.name, got-reached)
			}
			if got := counted(t, attack.at.Name, attack.counter); got < dropped+packets {
				return fmt.Errorf("%d of %d are counted", got-dropped, packets)
			}
			return nil
		})
	}
}

func (s *space) node(name string) *cluster.Node {
	s.Helper()
	n, err := local.Node(name)
	if err != nil {
		s.Fatal(err)
	}
	return n
}

// balanced makes a service of UDP for the pods of a name, at a load-balancer address for clients from ranges.
func (s *space) balanced(app string, ranges ...string) netip.AddrPort {
	s.Helper()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": app}, LoadBalancerSourceRanges: ranges,
		Ports: []corev1.ServicePort{{Port: discard, Protocol: corev1.ProtocolUDP}},
	}}
	if _, err := local.API.CoreV1().Services(s.Name).Create(s.Context(), service, metav1.CreateOptions{}); err != nil {
		s.Fatal(err)
	}
	s.Skep("wait", "service/"+app, "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=60s")
	return netip.AddrPortFrom(netip.MustParseAddr(s.Skep("get", "service", app, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")), discard)
}

// datagramsToNowhere are those that have arrived at the pod for a port at which no socket listens.
func datagramsToNowhere(s *space, p *corev1.Pod) int {
	s.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/snmp", s.processOf(p)))
	if err != nil {
		s.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	for i, line := range lines {
		if names := strings.Fields(line); len(names) > 0 && names[0] == "Udp:" {
			var noPorts int
			if _, err := fmt.Sscan(strings.Fields(lines[i+1])[slices.Index(names, "NoPorts")], &noPorts); err != nil {
				s.Fatal(err)
			}
			return noPorts
		}
	}
	s.Fatalf("no counters of UDP in %s", data)
	return 0
}

// processOf is the first process of the pod's first container.
func (s *space) processOf(p *corev1.Pod) int {
	s.Helper()
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	pid, err := s.node(p.Spec.NodeName).ContainerProcess(id)
	if err != nil {
		s.Fatal(err)
	}
	return pid
}

// counted sums a node's metrics of program outcomes with the labels.
func counted(t *testing.T, node, labels string) (sum int) {
	t.Helper()
	raw, err := local.API.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + node + "/proxy/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if strings.HasPrefix(line, "skep_program_outcomes_total{") && strings.Contains(line, labels) {
			var n float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &n); err != nil {
				t.Fatal(err)
			}
			sum += int(n)
		}
	}
	return sum
}

// overlayAddress is the link address of the node's end of the overlay, which follows from its address and so is no secret.
func overlayAddress(t *testing.T, n *cluster.Node) (address net.HardwareAddr) {
	t.Helper()
	err := n.InNetwork(func() error {
		link, err := net.InterfaceByName("skep-vxlan4")
		if err == nil {
			address = link.HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatalf("the overlay of %s: %v", n.Name, err)
	}
	return slices.Clone(address)
}

// inPod runs functions in the network of a pod.
func (s *space) inPod(p *corev1.Pod) func(func() error) {
	s.Helper()
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", s.processOf(p)))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { namespace.Close() })
	return func(f func() error) {
		s.Helper()
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and not unlocked: the thread ends with its goroutine
			if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
			done <- f()
		}()
		if err := <-done; err != nil {
			s.Fatal(err)
		}
	}
}

func sendUDP(to netip.AddrPort, data []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, data, 0, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
}

func sendIPIP(to netip.Addr, inner []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IPIP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, inner, 0, &unix.SockaddrInet4{Addr: to.As4()})
}

// datagram is a UDP datagram over IPv4, without a checksum of its own.
func datagram(from netip.Addr, to netip.AddrPort) []byte {
	payload := "forged"
	b := []byte{0x45, 0, 0, byte(28 + len(payload)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	b = append(append(b, from.AsSlice()...), to.Addr().AsSlice()...)
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	b = binary.BigEndian.AppendUint16(b, 40000)
	b = binary.BigEndian.AppendUint16(b, to.Port())
	return append(append(b, 0, byte(8+len(payload)), 0, 0), payload...)
}

// CVE-2020-8554: a service takes the address of the API server, of a node, a pod or another service, and with it their connections.
func TestServicesTakeNoAddressOfTheCluster(t *testing.T) {
	s := newSpace(t)
	s.create(pod("web", "sleep 1000", nil))
	web := s.awaitReady("web")
	services := local.API.CoreV1().Services(s.Name)
	with := func(name, address string) error {
		_, err := services.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "thief"}, Ports: []corev1.ServicePort{{Port: 6443}}, ExternalIPs: []string{address},
		}}, metav1.CreateOptions{})
		return err
	}
	server := apiServer(t)
	for address, why := range map[string]string{
		server.Hostname():              "it is the address of the API server",
		s.node("node1").Addr.String():  "it is the address of node node1",
		web.Status.PodIP:               "it is in the range of pod addresses",
		"10.96.0.1":                    "it is in the range of service addresses",
		s.node("node2").Addr6.String(): "it is the address of node node2",
		"::ffff:" + web.Status.HostIP:  "",
		"127.0.0.1":                    "may not be in the loopback range",
		"169.254.169.254":              "may not be in the link-local range",
	} {
		if err := with("thief", address); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), why) {
			t.Errorf("externalIPs %s: %v, want Invalid: %s", address, err, why)
		}
	}
	if err := with("honest", "203.0.113.77"); err != nil {
		t.Error(err)
	}
	// By the status of an existing service, too.
	patch := fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}`, server.Hostname())
	s.Skep("patch", "service", "honest", "-p", `{"spec":{"type":"LoadBalancer"}}`)
	s.WantIn(s.Refused("", "patch", "service", "honest", "--subresource=status", "-p", patch), "it is the address of the API server")
}

func apiServer(t *testing.T) *url.URL {
	t.Helper()
	config, err := local.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	server, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// CVE-2020-8562, CVE-2022-3294: a node says that it is at an address of the control plane's own, so that requests to the node's proxy
// go there with the API server's rights.
func TestNodesLeadToNoAddressOfTheControlPlane(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	asked := make(chan struct{}, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
			asked <- struct{}{}
		}
	}()
	nodes := local.API.CoreV1().Nodes()
	liar, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "liar"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteNode(t, "liar") })
	liar.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(listener.Addr().(*net.TCPAddr).Port)
	for _, address := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "169.254.169.254", "0.0.0.0"} {
		liar.ResourceVersion = ""
		liar.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
		if _, err := nodes.UpdateStatus(t.Context(), liar, metav1.UpdateOptions{}); err != nil {
			if !apierrors.IsInvalid(err) {
				t.Errorf("%s: %v", address, err)
			}
			continue
		}
		answer, err := local.API.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/liar/proxy/pods").DoRaw(t.Context())
		if !apierrors.IsBadRequest(err) || !strings.Contains(string(answer), "address not allowed") {
			t.Errorf("a node at %s: %v, %s, want BadRequest: address not allowed", address, err, answer)
		}
	}
	select {
	case <-asked:
		t.Error("the API server has connected to its own loopback")
	default:
	}
	if _, err := local.API.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/node1/proxy/pods").DoRaw(t.Context()); err != nil {
		t.Errorf("a node at its own address: %v", err)
	}
}

// A policy that is stored and not enforced deceives its author, who is warned at once and for as long as it exists.
func TestNetworkPoliciesSayThatTheyDoNotHold(t *testing.T) {
	s := newSpace(t)
	config, err := local.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	warnings := &warned{}
	config.WarningHandler = warnings
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	policies := client.NetworkingV1().NetworkPolicies(s.Name)
	if _, err := policies.Create(t.Context(), &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(warnings.texts) != 1 || !strings.Contains(warnings.texts[0], "not enforce") {
		t.Errorf("the warnings are %q", warnings.texts)
	}
	s.Skep("wait", "namespace/"+s.Name, "--for=condition=skep.io/NetworkPoliciesEnforced=False", "--timeout=60s")
	if err := policies.Delete(t.Context(), "deny", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the condition to go with the policy", func() error {
		if said := s.Skep("get", "namespace", s.Name, "-o", "jsonpath={.status.conditions}"); strings.Contains(said, `"status":"False"`) && strings.Contains(said, "NetworkPoliciesEnforced") {
			return errors.New(said)
		}
		return nil
	})
}

type warned struct{ texts []string }

var _ rest.WarningHandler = &warned{}

func (w *warned) HandleWarningHeader(code int, _ string, text string) {
	if code == http.StatusOK || code == 299 {
		w.texts = append(w.texts, text)
	}
}
