package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// Every host of this cluster lacks something: tcx, native XDP by its flag, native XDP as its driver has none.
func TestFallbacks(t *testing.T) {
	s := newSite(t, "fb", cluster.Options{
		Nodes: 3, NoDNS: true, NoDriverXDP: []string{"node3"},
		NodeArgs: map[string][]string{
			"node1": {"--clsact"},
			"node2": {"--generic-xdp", "--uplink", "eth0"},
		},
	})
	nodes := []string{"node1", "node2", "node3"}
	var names []string
	for _, node := range nodes {
		names = append(names, runPod(t, s.api, node).Name)
	}
	s.Skep("label", "pods", "--all", "app=echo")
	s.serveEcho()
	for node, want := range map[string]string{"node1": "native", "node2": "generic", "node3": "generic"} {
		if got := s.xdp(node); got != want {
			t.Errorf("%s has XDP %s, want %s", node, got, want)
		}
	}
	for node, want := range map[string]bool{"node1": true, "node2": false, "node3": false} {
		if got := s.hasClsact(node); got != want {
			t.Errorf("%s has clsact at its interfaces: %v, want %v", node, got, want)
		}
	}
	for _, node := range nodes {
		for _, addr := range []netip.Addr{s.node(node).Addr, s.node(node).Addr6} {
			s.wantServed(addr, true, names)
		}
		s.wantServedInside(node)
	}
	for _, addr := range s.balancers() {
		s.wantServed(addr, false, names)
	}
	s.Skep("dataplane", "verify")
	if out := s.Skep("services"); strings.Contains(out, "Warning") {
		t.Errorf("nothing is wrong, but:\n%s", out)
	}
	t.Run("Occupied", func(t *testing.T) { s.occupied(t, names) })
}

// serveEcho exposes the pods by every kind of address.
func (s *site) serveEcho() {
	s.Helper()
	s.SkepIn(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"echo"},"spec":{"type":"LoadBalancer",
		"ipFamilyPolicy":"RequireDualStack","selector":{"app":"echo"},"ports":[
		{"name":"tcp","port":7000},{"name":"udp","port":7000,"protocol":"UDP"},{"name":"web","port":8080}]}}`, "apply", "-f", "-")
	s.Skep("wait", "service/echo", "--for=jsonpath={.status.loadBalancer.ingress[1].ip}", "--timeout=60s")
}

// port is one of the echo service's, from outside by node port.
func (s *site) port(name string, nodePort bool) string {
	s.Helper()
	field := map[bool]string{true: "nodePort", false: "port"}[nodePort]
	return strings.TrimSpace(s.Skep("get", "service", "echo", "-o", "jsonpath={.spec.ports[?(@.name=='"+name+"')]."+field+"}"))
}

func (s *site) balancers() (addrs []netip.Addr) {
	s.Helper()
	for text := range strings.FieldsSeq(s.Skep("get", "service", "echo", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")) {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

// wantServed asks the service from this machine, which is outside the cluster, until every pod has answered, and then for more
// than fits into a packet.
func (s *site) wantServed(addr netip.Addr, nodePort bool, names []string) {
	s.Helper()
	s.wantAnswers(addr, nodePort, names)
	at := net.JoinHostPort(addr.String(), s.port("web", nodePort))
	for range names {
		if err := fetch(at, 1<<20); err != nil {
			s.Errorf("from outside: %v", err)
		}
	}
}

// wantAnswers asks over TCP and UDP until these pods have answered.
func (s *site) wantAnswers(addr netip.Addr, nodePort bool, names []string) {
	s.Helper()
	for _, network := range []string{"tcp", "udp"} {
		at := net.JoinHostPort(addr.String(), s.port(network, nodePort))
		var answered []string
		s.within(network+" "+at, func() error {
			who, err := ask(network, at)
			if err == nil && !slices.Contains(answered, who) {
				answered = append(answered, who)
			}
			for _, name := range names {
				if !slices.ContainsFunc(answered, func(who string) bool { return strings.Contains(who, name) }) {
					return errors.Join(err, fmt.Errorf("%s never answered, but %q", name, answered))
				}
			}
			return nil
		})
	}
}

// wantAllAnswered waits until all of these pods answer, and then fails if a request is lost.
func (s *site) wantAllAnswered(addr netip.Addr, nodePort bool, names []string) {
	s.Helper()
	s.wantServed(addr, nodePort, names)
	for _, network := range []string{"tcp", "udp"} {
		at := net.JoinHostPort(addr.String(), s.port(network, nodePort))
		for range 4 * len(names) {
			if _, err := ask(network, at); err != nil {
				s.Errorf("%s %s: %v", network, at, err)
			}
		}
	}
}

// wantServedInside asks the service from a node's pod.
func (s *site) wantServedInside(node string) {
	s.Helper()
	address := strings.TrimSpace(s.Skep("get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"))
	s.within("services from the pod on "+node, func() error {
		out, err := s.run("exec", node, "--", "/echo", "client", "--count", "30", "--quiet", address)
		if err == nil && !strings.Contains(out, "tally 10/10/10, 0 failed") {
			err = errors.New("the pods did not answer in turn")
		}
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// xdp is how a host's eth0 has XDP attached.
func (s *site) xdp(node string) (mode string) {
	s.Helper()
	s.on(node, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		const attachedGeneric = 2 // XDP_ATTACHED_SKB
		switch xdp := eth0.Attrs().Xdp; {
		case xdp == nil || !xdp.Attached:
			mode = "none"
		case xdp.AttachMode == attachedGeneric:
			mode = "generic"
		default:
			mode = "native"
		}
		return nil
	})
	return mode
}

// hasClsact says whether packets at a host's eth0 pass Skep's filters.
func (s *site) hasClsact(node string) (yes bool) {
	s.Helper()
	s.on(node, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		filters, err := netlink.FilterList(eth0, netlink.HANDLE_MIN_INGRESS)
		yes = slices.ContainsFunc(filters, func(f netlink.Filter) bool {
			b, ok := f.(*netlink.BpfFilter)
			return ok && b.Name == "skep_from_uplink"
		})
		return err
	})
	return yes
}

// on does something in a host's network.
func (s *site) on(node string, do func() error) {
	s.Helper()
	if err := s.node(node).InNetwork(do); err != nil {
		s.Fatalf("%s: %v", node, err)
	}
}

// occupied attaches another tool's program to a node's uplink. The node's condition says so, it announces no addresses, and
// its pods keep working; when the program is detached, all is as before.
func (s *site) occupied(t *testing.T, names []string) {
	s = &site{T: t, Cluster: s.Cluster, api: s.api}
	const node = "node1" // whose driver runs XDP
	links, err := s.node(node).HostPath("/sys/fs/bpf/skep/flow/links")
	if err != nil {
		t.Fatal(err)
	}
	pins, err := filepath.Glob(filepath.Join(links, "*-native"))
	if err != nil || len(pins) != 1 {
		t.Fatalf("pinned links of %s: %v, %v, want one", node, pins, err)
	}
	ours, err := link.LoadPinnedLink(pins[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ours.Detach(), ours.Close()); err != nil {
		t.Fatal(err)
	}
	tool := s.attachTool(node)
	s.touchUplink(node, "taken")
	said := s.awaitCondition(node, "skep.io/ServesOutside", corev1.ConditionFalse)
	s.WantIn(said.Message, "eth0: another tool's XDP program is there", "node ports, external and load-balancer addresses")
	s.WantIn(s.Skep("services"), "Warning: node node1 does not serve clients outside at its uplink eth0: another tool's XDP program")
	s.WantIn(s.Skep("get", "--raw", "/api/v1/nodes/node1/proxy/metrics"), `skep_uplink_serves{uplink="eth0",xdp="none"} 0`)
	s.within("event about the uplink", func() error {
		out := s.Skep("get", "events", "-A", "--field-selector", "involvedObject.kind=Node,reason=UplinksFailed", "-o", "jsonpath={.items[*].message}")
		if !strings.Contains(out, "another tool's XDP program") {
			return fmt.Errorf("none: %s", out)
		}
		return nil
	})
	s.wantServedInside(node)
	// This node would not unwrap what other nodes wrap for its pods.
	for _, addr := range s.balancers() {
		s.wantAllAnswered(addr, false, names)
	}
	for _, through := range []string{"node2", "node3"} {
		for _, addr := range []netip.Addr{s.node(through).Addr, s.node(through).Addr6} {
			s.wantAllAnswered(addr, true, names)
		}
	}
	s.Skep("dataplane", "verify")

	if err := tool.Close(); err != nil {
		t.Fatal(err)
	}
	s.touchUplink(node, "free")
	said = s.awaitCondition(node, "skep.io/ServesOutside", corev1.ConditionTrue)
	s.WantIn(said.Message, "eth0: native XDP")
	s.wantServed(s.node(node).Addr, true, names)
}

// attachTool puts another tool's XDP program at a host's eth0.
func (s *site) attachTool(node string) (attached link.Link) {
	s.Helper()
	const pass = 2
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()}})
	if err != nil {
		s.Fatal(err)
	}
	defer program.Close()
	s.on(node, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		attached, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: eth0.Attrs().Index})
		return err
	})
	return attached
}

// touchUplink changes an unused property of a host's eth0, so that the agent checks its interfaces again.
func (s *site) touchUplink(node, alias string) {
	s.Helper()
	s.on(node, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetAlias(eth0, alias)
	})
}
