package podpath_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// skb is the part of struct __sk_buff that a test run reads: the interface.
type skb struct {
	_       [10]uint32
	Ifindex uint32
	_       [37]uint32
}

// run gives a frame to a program at an interface of the host; at an uplink's ingress as one for that interface's link address, since
// others are not looked at.
func run(t testing.TB, h *fabrictest.Host, program string, index int, frame []byte) (verdict uint32, out []byte) {
	t.Helper()
	if program != "from_uplink" {
		return runAsIs(t, h, program, index, frame)
	}
	var mac net.HardwareAddr
	h.Do(func() error {
		device, err := net.InterfaceByIndex(index)
		mac = device.HardwareAddr
		return err
	})
	verdict, out = runAsIs(t, h, program, index, slices.Concat(mac, frame[6:]))
	if bytes.HasPrefix(out, mac) {
		copy(out, frame[:6])
	}
	return verdict, out
}

func runAsIs(t testing.TB, h *fabrictest.Host, program string, index int, frame []byte) (verdict uint32, out []byte) {
	t.Helper()
	out = make([]byte, len(frame)+256)
	context := skb{Ifindex: uint32(index)}
	h.Do(func() (err error) {
		options := &ebpf.RunOptions{Data: frame, DataOut: out, Context: context}
		verdict, err = h.Path.Programs()[program].Run(options)
		out = options.DataOut
		return err
	})
	return verdict, out
}

// A frame for another host, which a switch floods or a promiscuous interface gets, is left to the stack, which drops it.
func TestFramesForOtherHosts(t *testing.T) {
	s := newScene(t)
	frame := packet{from: "10.244.2.1:22", to: s.client.Addr4().String() + ":1000", protocol: protocolTCP, flags: ack}.frame()
	if verdict, _ := runAsIs(t, s.host, "from_uplink", s.client.Index, frame); verdict != podpath.VerdictStack {
		t.Errorf("for another host: verdict %d, want the stack (%d)", int32(verdict), podpath.VerdictStack)
	}
	if verdict, _ := run(t, s.host, "from_uplink", s.client.Index, frame); verdict != podpath.VerdictRedirect {
		t.Errorf("for this host: verdict %d, want it redirected to the pod (%d)", int32(verdict), podpath.VerdictRedirect)
	}
}

// scene is one node with the pods and services of the tables.
type scene struct {
	host           *fabrictest.Host
	client, server *fabrictest.Pod
}

func newScene(t *testing.T) *scene {
	f := fabrictest.New(t, 2)
	f.OpenPaths()
	h := f.Hosts[0]
	s := &scene{host: h, client: h.NewPod("client"), server: h.NewPod("server")}
	for _, protocol := range []service.Protocol{service.TCP, service.UDP, service.SCTP} {
		full, _ := serviceFor("default/full:"+protocol.String(), protocol, 80, 8080, s.server)
		f.SetService(full)
		self, _ := serviceFor("default/self:"+protocol.String(), protocol, 81, 8080, s.client)
		f.SetService(self)
		none, _ := serviceFor("default/none:"+protocol.String(), protocol, 82, 8080)
		f.SetService(none)
		same, _ := serviceFor("default/same:"+protocol.String(), protocol, 83, 83, s.server)
		f.SetService(same)
	}
	return s
}

// row is one packet and what becomes of it. Addresses are written as names, which stand for those of one family.
type row struct {
	name    string
	program string // and the pod at whose interface it runs
	packet  packet
	verdict uint32
	out     string // "": as it was
	moved   string
}

var names = map[string][2]string{
	"CLIENT":   {"10.244.1.1", "fd00:10:244:1::1"},
	"SERVER":   {"10.244.1.2", "fd00:10:244:1::2"},
	"REMOTE":   {"10.244.2.9", "fd00:10:244:2::9"},
	"SERVICE":  {"10.96.0.7", "fd00:10:96::7"},
	"OUTSIDE":  {"203.0.113.9", "2001:db8:9::9"},
	"BALANCER": {"198.51.100.7", "2001:db8:7::7"},
	"NODE":     {"192.0.2.11", "2001:db8:2::11"},
	"HAIRPIN":  {"169.254.1.1", "fd73:6b65:7000::1"},
	"ICMP":     {"ICMP 3/3", "ICMPv6 1/4"},
}

// named replaces names by a family's addresses; before a port IPv6 needs brackets.
func named(text string, family int) string {
	for name, addrs := range names {
		addr := addrs[family]
		if strings.Contains(addr, "::") {
			text = strings.ReplaceAll(text, name+":", "["+addr+"]:")
		}
		text = strings.ReplaceAll(text, name, addr)
	}
	return text
}

func (p packet) named(family int) packet {
	p.from, p.to = named(p.from, family), named(p.to, family)
	if p.about != nil {
		about := p.about.named(family)
		p.about = &about
	}
	if p.protocol == protocolICMP && family == 1 {
		p.protocol = protocolICMPv6
	}
	return p
}

// The rows run in order: later ones depend on the state that earlier ones leave.
var table = []row{
	{"to a pod here", "from_pod client", packet{from: "CLIENT:1000", to: "SERVER:22", protocol: protocolTCP, flags: syn}, podpath.VerdictRedirect,
		"CLIENT:1000 > SERVER:22 TCP flags 0x2 seq 1000 ack 2000 hops 63", "peer"},
	{"to a pod elsewhere", "from_pod client", packet{from: "CLIENT:1000", to: "REMOTE:22", protocol: protocolTCP, flags: syn}, podpath.VerdictRedirect,
		"CLIENT:1000 > REMOTE:22 TCP flags 0x2 seq 1000 ack 2000 hops 63", "neighbour_node"},
	{"outside", "from_pod client", packet{from: "CLIENT:1000", to: "OUTSIDE:22", protocol: protocolTCP, flags: syn}, podpath.VerdictStack, "", "stack"},
	{"to the host", "from_pod client", packet{from: "CLIENT:1000", to: "NODE:22", protocol: protocolTCP, flags: syn}, podpath.VerdictStack, "", "stack"},
	{"another pod's source", "from_pod client", packet{from: "SERVER:1000", to: "REMOTE:22", protocol: protocolTCP, flags: syn}, podpath.VerdictDrop, "", "forged"},
	{"a source outside", "from_pod client", packet{from: "OUTSIDE:1000", to: "SERVER:22", protocol: protocolUDP}, podpath.VerdictDrop, "", "forged"},
	{"no hops left", "from_pod client", packet{from: "CLIENT:1000", to: "SERVER:22", protocol: protocolUDP, hops: 1}, podpath.VerdictStack, "", "hops_spent"},

	{"a service", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:80", protocol: protocolTCP, flags: syn}, podpath.VerdictRedirect,
		"CLIENT:1000 > SERVER:8080 TCP flags 0x2 seq 1000 ack 2000 hops 63", "event_new_flow event_translated peer"},
	{"again", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:80", protocol: protocolTCP, flags: syn}, podpath.VerdictRedirect,
		"CLIENT:1000 > SERVER:8080 TCP flags 0x2 seq 1000 ack 2000 hops 63", "event_translated peer"},
	{"its answer", "from_pod server", packet{from: "SERVER:8080", to: "CLIENT:1000", protocol: protocolTCP, flags: syn | ack}, podpath.VerdictRedirect,
		"SERVICE:80 > CLIENT:1000 TCP flags 0x12 seq 1000 ack 2000 hops 63", "event_reversed peer"},
	{"its answer from the stack", "to_pod client", packet{from: "SERVER:8080", to: "CLIENT:1000", protocol: protocolTCP, flags: ack, payload: 9}, podpath.VerdictStack,
		"SERVICE:80 > CLIENT:1000 TCP flags 0x10 seq 1000 ack 2000 hops 64", "event_reversed delivered"},
	{"another service by one port at the same backend", "from_pod client", packet{from: "CLIENT:1001", to: "SERVICE:83", protocol: protocolUDP}, podpath.VerdictRedirect,
		"CLIENT:1001 > SERVER:83 UDP hops 63", "event_new_flow event_translated peer"},

	{"datagram without a checksum", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:80", protocol: protocolUDP, payload: 5}, podpath.VerdictRedirect,
		"CLIENT:1000 > SERVER:8080 UDP hops 63", "event_new_flow event_translated peer"},
	{"error about it", "from_pod server", packet{from: "SERVER:0", to: "CLIENT:0", protocol: protocolICMP,
		about: &packet{from: "CLIENT:1000", to: "SERVER:8080", protocol: protocolUDP, payload: 5}}, podpath.VerdictRedirect,
		"SERVICE > CLIENT ICMP about (CLIENT:1000 > SERVICE:80 UDP hops 64) hops 63", "event_error event_reversed peer"},
	{"error about an answer", "from_pod client", packet{from: "CLIENT:0", to: "SERVICE:0", protocol: protocolICMP,
		about: &packet{from: "SERVICE:80", to: "CLIENT:1000", protocol: protocolUDP, payload: 5}}, podpath.VerdictRedirect,
		"CLIENT > SERVER ICMP about (SERVER:8080 > CLIENT:1000 UDP hops 64) hops 63", "event_error peer"},

	{"itself", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:81", protocol: protocolTCP, flags: syn}, podpath.VerdictRedirect,
		"HAIRPIN:1000 > CLIENT:8080 TCP flags 0x2 seq 1000 ack 2000 hops 63", "event_hairpin event_new_flow event_translated peer"},
	{"its own answer", "from_pod client", packet{from: "CLIENT:8080", to: "HAIRPIN:1000", protocol: protocolTCP, flags: syn | ack}, podpath.VerdictRedirect,
		"SERVICE:81 > CLIENT:1000 TCP flags 0x12 seq 1000 ack 2000 hops 63", "event_reversed peer"},

	{"no backend, SYN", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:82", protocol: protocolTCP, flags: syn, payload: 100}, podpath.VerdictRedirect,
		"SERVICE:82 > CLIENT:1000 TCP flags 0x14 seq 0 ack 1101 hops 64", "reset"},
	{"no backend, data", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:82", protocol: protocolTCP, flags: ack, payload: 100}, podpath.VerdictRedirect,
		"SERVICE:82 > CLIENT:1000 TCP flags 0x4 seq 2000 ack 0 hops 64", "reset"},
	{"no backend, reset", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:82", protocol: protocolTCP, flags: rst}, podpath.VerdictDrop, "", "unanswered"},
	{"no backend, datagram", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:82", protocol: protocolUDP, payload: 1000}, podpath.VerdictRedirect,
		"SERVICE > CLIENT ICMP about (CLIENT:1000 > SERVICE:82 UDP hops 64) hops 64", "unreachable"},

	{"SCTP to its own port", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:83", protocol: protocolSCTP, payload: 20}, podpath.VerdictRedirect,
		"CLIENT:1000 > SERVER:83 SCTP hops 63", "event_new_flow event_translated peer"},
	{"SCTP's answer", "from_pod server", packet{from: "SERVER:83", to: "CLIENT:1000", protocol: protocolSCTP, payload: 20}, podpath.VerdictRedirect,
		"SERVICE:83 > CLIENT:1000 SCTP hops 63", "event_reversed peer"},
	{"SCTP to another port", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:80", protocol: protocolSCTP, payload: 20}, podpath.VerdictDrop,
		"", "event_new_flow sctp_port"},

	{"a fragment before its first", "from_pod client", packet{from: "CLIENT:2000", to: "SERVICE:80", protocol: protocolUDP, payload: 100, fragment: 2}, podpath.VerdictStack,
		"", "event_fragment_unknown stack"},
	{"the first fragment", "from_pod client", packet{from: "CLIENT:2000", to: "SERVICE:80", protocol: protocolUDP, payload: 100, fragment: 1}, podpath.VerdictRedirect,
		"CLIENT:2000 > SERVER:8080 UDP hops 63 fragment", "event_new_flow event_translated peer"},

	{"a later fragment", "from_pod client", packet{from: "CLIENT:2000", to: "SERVICE:80", protocol: protocolUDP, payload: 100, fragment: 2}, podpath.VerdictRedirect,
		"CLIENT:30840 > SERVER:30840 UDP hops 63 fragment", "event_translated peer"},

	{"from a pod elsewhere", "from_uplink client", packet{from: "REMOTE:22", to: "CLIENT:1000", protocol: protocolTCP, flags: ack}, podpath.VerdictRedirect,
		"REMOTE:22 > CLIENT:1000 TCP flags 0x10 seq 1000 ack 2000 hops 63", "peer"},
	{"from outside, the stack's business", "from_uplink client", packet{from: "OUTSIDE:22", to: "CLIENT:1000", protocol: protocolTCP, flags: ack}, podpath.VerdictStack, "", "stack"},
	{"from outside, through XDP", "from_uplink server", packet{from: "OUTSIDE:3000", to: "SERVER:8080", protocol: protocolTCP, flags: syn}, podpath.VerdictRedirect,
		"OUTSIDE:3000 > SERVER:8080 TCP flags 0x2 seq 1000 ack 2000 hops 63", "peer"},
	{"to the host from outside", "from_uplink client", packet{from: "OUTSIDE:22", to: "NODE:1000", protocol: protocolTCP, flags: ack}, podpath.VerdictStack, "", "stack"},
	{"answer outside", "from_pod server", packet{from: "SERVER:8080", to: "OUTSIDE:3000", protocol: protocolTCP, flags: syn | ack}, podpath.VerdictRedirect,
		"NODE:30080 > OUTSIDE:3000 TCP flags 0x12 seq 1000 ack 2000 hops 63", "direct event_reversed"},
	{"error outside", "from_pod server", packet{from: "SERVER:0", to: "OUTSIDE:0", protocol: protocolICMP,
		about: &packet{from: "OUTSIDE:3000", to: "SERVER:8080", protocol: protocolTCP, flags: syn}}, podpath.VerdictRedirect,
		"NODE > OUTSIDE ICMP about (OUTSIDE:3000 > NODE:30080 TCP hops 64) hops 63", "direct event_error event_reversed"},

	{"the host's answer", "to_uplink client", packet{from: "NODE:8080", to: "OUTSIDE:3001", protocol: protocolTCP, flags: ack, payload: 300}, podpath.VerdictStack,
		"BALANCER:81 > OUTSIDE:3001 TCP flags 0x10 seq 1000 ack 2000 hops 64", "direct event_reversed"},
	{"its datagram", "to_uplink client", packet{from: "NODE:8080", to: "OUTSIDE:3001", protocol: protocolUDP, payload: 3}, podpath.VerdictStack,
		"BALANCER:81 > OUTSIDE:3001 UDP hops 64", "direct event_reversed"},
	{"its datagram's first fragment", "to_uplink client", packet{from: "NODE:8080", to: "OUTSIDE:3001", protocol: protocolUDP, payload: 100, fragment: 1}, podpath.VerdictStack,
		"BALANCER:81 > OUTSIDE:3001 UDP hops 64 fragment", "direct event_reversed"},
	{"its datagram's later fragment", "to_uplink client", packet{from: "NODE:8080", to: "OUTSIDE:3001", protocol: protocolUDP, payload: 100, fragment: 2}, podpath.VerdictStack,
		"BALANCER:30840 > OUTSIDE:30840 UDP hops 64 fragment", "direct event_reversed"},
	{"its error", "to_uplink client", packet{from: "NODE:0", to: "OUTSIDE:0", protocol: protocolICMP,
		about: &packet{from: "OUTSIDE:3001", to: "NODE:8080", protocol: protocolUDP, payload: 9}}, podpath.VerdictStack,
		"BALANCER > OUTSIDE ICMP about (OUTSIDE:3001 > BALANCER:81 UDP hops 64) hops 64", "direct event_error event_reversed"},
	{"its error about a pod's packet", "to_uplink client", packet{from: "NODE:0", to: "OUTSIDE:0", protocol: protocolICMP,
		about: &packet{from: "OUTSIDE:3000", to: "SERVER:8080", protocol: protocolTCP, flags: ack, payload: 20}}, podpath.VerdictStack,
		"NODE > OUTSIDE ICMP about (OUTSIDE:3000 > NODE:30080 TCP hops 64) hops 64", "direct event_error event_reversed"},
	{"its own packet from that port", "to_uplink client", packet{from: "NODE:8080", to: "OUTSIDE:3002", protocol: protocolTCP, flags: ack}, podpath.VerdictStack, "", "stack"},
	{"its own packet from another port", "to_uplink client", packet{from: "NODE:1000", to: "OUTSIDE:3001", protocol: protocolTCP, flags: ack}, podpath.VerdictStack, "", "stack"},
	{"its own error", "to_uplink client", packet{from: "NODE:0", to: "OUTSIDE:0", protocol: protocolICMP,
		about: &packet{from: "OUTSIDE:3002", to: "NODE:8080", protocol: protocolUDP, payload: 9}}, podpath.VerdictStack, "", "stack"},
	{"its own protocol", "to_uplink client", packet{from: "NODE:0", to: "OUTSIDE:0", protocol: protocolGRE, payload: 8}, podpath.VerdictStack, "", "stack"},
}

func TestPacketTable(t *testing.T) {
	s := newScene(t)
	for family, suffix := range []string{"IPv4", "IPv6"} {
		s.putFlows(t, family)
		for _, r := range table {
			t.Run(suffix+"/"+r.name, func(t *testing.T) { s.check(t, family, r) })
		}
	}
}

// putFlows writes XDP's entries of flows from outside to a pod and to a backend in the host's own network.
func (s *scene) putFlows(t *testing.T, family int) {
	t.Helper()
	at := func(text string) netip.AddrPort { return netip.MustParseAddrPort(named(text, family)) }
	if err := errors.Join(
		s.host.Path.PutReverseFlow(at("OUTSIDE:3000"), at("NODE:30080"), at("SERVER:8080"), protocolTCP, false),
		s.host.Path.PutReverseFlow(at("OUTSIDE:3001"), at("BALANCER:81"), at("NODE:8080"), protocolTCP, true),
		s.host.Path.PutReverseFlow(at("OUTSIDE:3001"), at("BALANCER:81"), at("NODE:8080"), protocolUDP, true)); err != nil {
		t.Fatal(err)
	}
}

// A datagram may have no checksum in IPv4; it must not get a wrong one.
func TestDatagramWithoutChecksum(t *testing.T) {
	s := newScene(t)
	s.check(t, 0, row{"to a service", "from_pod client", packet{from: "CLIENT:1000", to: "SERVICE:80", protocol: protocolUDP, payload: 5, noChecksum: true},
		podpath.VerdictRedirect, "CLIENT:1000 > SERVER:8080 UDP no checksum hops 63", "event_new_flow event_translated peer"})
	s.check(t, 0, row{"its answer", "from_pod server", packet{from: "SERVER:8080", to: "CLIENT:1000", protocol: protocolUDP, payload: 5, noChecksum: true},
		podpath.VerdictRedirect, "SERVICE:80 > CLIENT:1000 UDP no checksum hops 63", "event_reversed peer"})
}

func TestPacketsThatAreNone(t *testing.T) {
	s := newScene(t)
	good := packet{from: "10.244.1.1:1000", to: "10.244.1.2:22", protocol: protocolTCP, flags: syn}.frame()
	change := func(at int, value byte) []byte {
		b := bytes.Clone(good)
		b[at] = value
		return b
	}
	arp := func(mac net.HardwareAddr, sender string) []byte {
		b := slices.Concat(macB, macA, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, mac, netip.MustParseAddr(sender).AsSlice(), make([]byte, 6), []byte{192, 0, 2, 11})
		return append(b, make([]byte, 18)...)
	}
	router := func(kind byte) []byte {
		from, to := netip.MustParseAddrPort("[fe80::2]:0"), netip.MustParseAddrPort("[ff02::1]:0")
		body := withChecksum(append([]byte{kind}, make([]byte, 15)...), 2, pseudo(from, to, protocolICMPv6, 16))
		return packet{from: from.String(), to: to.String(), protocol: protocolICMPv6, hops: 255, raw: body}.frame()
	}
	deep := packet{from: "[fd00:10:244:1::1]:1000", to: "[fd00:10:244:1::2]:22", protocol: protocolUDP, options: 5}
	deepIn, passing := deep, deep
	deepIn.from, deepIn.to, passing.from = "[2001:db8:9::9]:1", "[2001:db8:2::11]:8472", "[2001:db8:9::9]:1"
	solicitation := packet{from: "[fe80::2]:0", to: "[ff02::1:ff00:1]:0", protocol: protocolICMPv6, hops: 255}.frame()
	for _, c := range []struct {
		name, program string
		frame         []byte
		verdict       uint32
		moved         string
	}{
		{"ARP", "from_pod", arp(s.client.PodMAC, "10.244.1.1"), podpath.VerdictStack, "not_ip"},
		{"ARP under another pod's address", "from_pod", arp(s.client.PodMAC, "10.244.1.2"), podpath.VerdictDrop, "link_refused"},
		{"ARP under the node's address", "from_pod", arp(s.client.PodMAC, "192.0.2.11"), podpath.VerdictDrop, "link_refused"},
		{"ARP with another's MAC", "from_pod", arp(macB, "10.244.1.1"), podpath.VerdictDrop, "link_refused"},
		{"ARP that is none", "from_pod", change(13, 6), podpath.VerdictDrop, "link_refused"},
		{"another protocol", "from_pod", change(12, 0x88), podpath.VerdictDrop, "link_refused"},
		{"ARP from the uplink", "from_uplink", change(13, 6), podpath.VerdictStack, "not_ip"},
		// CVE-2020-10749: a pod that advertises itself as a router.
		{"router advertisement", "from_pod", router(134), podpath.VerdictDrop, "link_refused"},
		{"router solicitation", "from_pod", router(133), podpath.VerdictDrop, "link_refused"},
		{"redirect", "from_pod", router(137), podpath.VerdictDrop, "link_refused"},
		{"IPv4 in IPv6's clothes", "from_pod", packet{from: "[::ffff:10.244.1.1]:1000", to: "[::ffff:10.244.1.2]:22", protocol: protocolUDP}.frame(), podpath.VerdictDrop, "malformed"},
		{"more headers than are looked through", "from_pod", deep.frame(), podpath.VerdictDrop, "malformed"},
		{"the same from the uplink, to the host", "from_uplink", deepIn.frame(), podpath.VerdictDrop, "malformed"},
		{"the same from the uplink", "from_uplink", passing.frame(), podpath.VerdictStack, "malformed"},
		{"neighbour solicitation", "from_pod", solicitation, podpath.VerdictStack, "neighbour"},
		{"neighbour solicitation to the pod", "to_pod", solicitation, podpath.VerdictStack, "neighbour"},
		{"a header longer than the packet", "from_pod", change(14, 0x4f), podpath.VerdictDrop, "malformed"},
		{"another version", "from_pod", change(14, 0x65), podpath.VerdictDrop, "malformed"},
		{"cut short", "from_pod", good[:40], podpath.VerdictDrop, "malformed"},
		{"cut short, to the pod", "to_pod", good[:40], podpath.VerdictStack, "malformed"},
		{"cut short, from the uplink", "from_uplink", good[:40], podpath.VerdictStack, "malformed"},
	} {
		before := counters(t, s.host)
		verdict, out := run(t, s.host, c.program, s.client.Index, c.frame)
		if verdict != c.verdict || !bytes.Equal(out, c.frame) {
			t.Errorf("%s: verdict %d, want %d; packet out %x", c.name, int32(verdict), int32(c.verdict), out)
		}
		wantMovedBeside(t, c.name, before, counters(t, s.host), neighbourTalk, c.program+"/"+c.moved)
	}
}

func (s *scene) check(t *testing.T, family int, r row) {
	program, at, _ := strings.Cut(r.program, " ")
	index := s.client.Index
	if at == "server" {
		index = s.server.Index
	}
	in := r.packet.named(family)
	before := counters(t, s.host)
	verdict, out := run(t, s.host, program, index, in.frame())
	if verdict != r.verdict {
		t.Errorf("verdict %d, want %d", int32(verdict), int32(r.verdict))
	}
	want := named(r.out, family)
	if r.out == "" {
		want = show(in.frame())
	}
	if before, _, cut := strings.Cut(want, " fragment"); cut { // where it begins does not change
		was := show(in.frame())
		want = before + was[strings.Index(was, " fragment"):]
	}
	if got := show(out); got != want {
		t.Errorf("packet out\n got %s\nwant %s", got, want)
	}
	var moving []string
	for _, name := range strings.Fields(r.moved) {
		moving = append(moving, program+"/"+name)
	}
	wantMovedBeside(t, fmt.Sprint(r.name), before, counters(t, s.host), neighbourTalk, moving...)
}
