package podpath_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// fewFlows are flow maps as package flow would share them, smaller.
type fewFlows struct{ flows *ebpf.Map }

func (f fewFlows) Maps() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{bpf.PodMapSkepFlows: f.flows}
}

// More flows than there is room for: the oldest are evicted, and every packet finds its backend.
func TestMoreFlowsThanRoom(t *testing.T) {
	const room, clients = 256, 4096
	spec, err := bpf.LoadPod()
	if err != nil {
		t.Fatal(err)
	}
	small := spec.Maps[bpf.PodMapSkepFlows]
	small.MaxEntries = room
	flows, err := ebpf.NewMap(small)
	if err != nil {
		t.Fatal(err)
	}
	defer flows.Close()
	f := fabrictest.New(t, 1)
	h := f.Hosts[0]
	h.UseFlows(fewFlows{flows})
	f.OpenPaths()
	client, server := h.NewPod("client"), h.NewPod("server")
	s, frontends := serviceFor("default/udp:udp", service.UDP, 80, 8080, server)
	f.SetService(s)
	serveUDP(t, server.Namespace, netip.AddrPortFrom(server.Addr4(), 8080))
	conn := dial(t, client.Namespace, "udp", frontends[0])
	echoUDP(t, conn, 10)
	before := counters(t, h)
	for i := range clients {
		p := packet{from: fmt.Sprint("10.244.1.1:", 10000+i), to: "10.96.0.7:80", protocol: protocolUDP}
		if verdict, _ := run(t, h, "from_pod", client.Index, p.frame()); verdict != podpath.VerdictRedirect {
			t.Fatalf("client %d: verdict %d", i, int32(verdict))
		}
	}
	wantMovedBeside(t, "many clients", before, counters(t, h), neighbourTalk, "from_pod/peer", "from_pod/event_new_flow", "from_pod/event_translated")
	before = counters(t, h)
	echoUDP(t, conn, 10) // its own flow was among the oldest
	wantMovedBeside(t, "the first client again", before, counters(t, h), neighbourTalk,
		"from_pod/peer", "from_pod/event_new_flow", "from_pod/event_translated", "from_pod/event_reversed")
}

// No room for another line of traffic: that is counted, and the packets pass.
func TestTrafficFull(t *testing.T) {
	f := fabrictest.New(t, 1)
	f.OpenPaths()
	h := f.Hosts[0]
	client, server := h.NewPod("client"), h.NewPod("server")
	s, frontends := serviceFor("default/udp:udp", service.UDP, 80, 8080, server)
	f.SetService(s)
	if err := h.Path.FillTraffic(); err != nil {
		t.Fatal(err)
	}
	serveUDP(t, server.Namespace, netip.AddrPortFrom(server.Addr4(), 8080))
	before := counters(t, h)
	echoUDP(t, dial(t, client.Namespace, "udp", frontends[0]), 10)
	wantMovedBeside(t, "without room for traffic", before, counters(t, h), neighbourTalk, "from_pod/event_traffic_full",
		"from_pod/peer", "from_pod/event_new_flow", "from_pod/event_translated", "from_pod/event_reversed")
}

// No room for another pod: its attachment returns an error, other pods are not affected, and once there is room it succeeds.
func TestPodsFull(t *testing.T) {
	f := fabrictest.New(t, 1)
	f.OpenPaths()
	h := f.Hosts[0]
	client, server := h.NewPod("client"), h.NewPod("server")
	serve(t, server.Namespace, netip.AddrPortFrom(server.Addr4(), 8080))
	empty, err := h.Path.FillPods()
	if err != nil {
		t.Fatal(err)
	}
	late := []netip.Addr{netip.MustParseAddr("10.244.1.250")}
	if err := h.Try(func() error { return h.Path.Attach(client.Index, append(late, client.Addrs...), client.PodMAC) }); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("attach without room: %v, want an error that says that the map is full", err)
	}
	ask(t, client.Namespace, "tcp", netip.AddrPortFrom(server.Addr4(), 8080))
	if err := empty(); err != nil {
		t.Fatal(err)
	}
	h.Do(func() error { return h.Path.Attach(client.Index, append(late, client.Addrs...), client.PodMAC) })
}

// More fragmented datagrams than there is room for: the oldest are lost, which is counted, and new ones pass.
func TestMoreFragmentedDatagramsThanRoom(t *testing.T) {
	s := newScene(t)
	at := func(port int, fragment int) []byte {
		return packet{from: fmt.Sprint("10.244.1.1:", port), to: "10.96.0.7:80", protocol: protocolUDP, payload: 100, fragment: fragment, id: uint16(port)}.frame()
	}
	later := func(port int) uint32 {
		verdict, _ := run(t, s.host, "from_pod", s.client.Index, at(port, 2))
		return verdict
	}
	for port := 1; port <= 20000; port++ {
		if verdict, _ := run(t, s.host, "from_pod", s.client.Index, at(port, 1)); verdict != podpath.VerdictRedirect {
			t.Fatalf("first fragment %d: verdict %d", port, int32(verdict))
		}
	}
	before := counters(t, s.host)
	if verdict := later(1); verdict != podpath.VerdictStack {
		t.Errorf("a later fragment of the oldest datagram: verdict %d", int32(verdict))
	}
	wantMovedBeside(t, "the oldest datagram", before, counters(t, s.host), neighbourTalk, "from_pod/event_fragment_unknown", "from_pod/stack")
	before = counters(t, s.host)
	if verdict := later(20000); verdict != podpath.VerdictRedirect {
		t.Errorf("a later fragment of the newest datagram: verdict %d", int32(verdict))
	}
	wantMovedBeside(t, "the newest datagram", before, counters(t, s.host), neighbourTalk, "from_pod/event_translated", "from_pod/peer")
}
