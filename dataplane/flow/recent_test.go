package flow

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/service"
)

// recents calls change with each recent flow, and returns how many there are.
func (s *stage) recents(t *testing.T, change func(*bpf.UplinkRecent)) (known int) {
	t.Helper()
	recent := s.flows.maps.ByName[bpf.UplinkMapSkepRecent]
	keys, sets := make([]uint32, recent.MaxEntries()), make([]bpf.UplinkRecentSet, recent.MaxEntries())
	if n, err := recent.BatchLookup(&ebpf.MapBatchCursor{}, keys, sets, nil); n != len(keys) {
		t.Fatalf("read %d sets of recent flows, want %d: %v", n, len(keys), err)
	}
	for i := range sets {
		before := sets[i]
		for _, one := range []*bpf.UplinkRecent{&sets[i].First, &sets[i].Second} {
			if one.Until != 0 {
				known++
				change(one)
			}
		}
		if sets[i] == before {
			continue
		}
		if err := recent.Put(keys[i], &sets[i]); err != nil {
			t.Fatal(err)
		}
	}
	return known
}

// forgetRecent makes the program look up the next packet of every flow in the flow table.
func (s *stage) forgetRecent(t *testing.T) {
	t.Helper()
	s.recents(t, func(one *bpf.UplinkRecent) { *one = bpf.UplinkRecent{} })
}

// holdRecent makes every flow that was seen a moment ago stay so for ever, and fails unless there are that many.
func (s *stage) holdRecent(t *testing.T, want int) {
	t.Helper()
	if known := s.recents(t, func(one *bpf.UplinkRecent) { one.Until = math.MaxUint64 }); known != want {
		t.Fatalf("%d flows are remembered as recent, want %d", known, want)
	}
}

// held gives the program a packet until its flow is recent, and keeps it so.
func (s *stage) held(t *testing.T, frame []byte) {
	t.Helper()
	s.forgetRecent(t)
	s.run(frame)
	s.run(frame)
	s.holdRecent(t, 1)
}

// A recent flow needs no lookup in the flow table, and yet nothing about it is out of date.
func TestRecentFlowsSeeChanges(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		first, second := two(a)
		here, far := external("t/here", service.TCP, a.vip, first), external("t/far", service.TCP, port(a.vip, 81), backend(a.far, "node2"))
		s.set(here, far)
		toHere, toFar := tcp(a.client, a.vip, tcpACK), tcp(a.client, port(a.vip, 81), tcpACK)
		reset := func(p packet) []byte {
			r := tcp(p.to, p.from, tcpRST)
			r.seq, r.ack, r.df, r.closed = p.ack, 0, false, true
			return answered(r)
		}
		gone := []string{"reset", "event_flow_gone"}

		s.held(t, toHere.arriving())
		s.forgetFlows(t)
		delivered := step{"the flow table forgot it", toHere.arriving(), xdpPass, tcp(a.client, a.pod, tcpACK).arriving(), []string{"delivered"}}
		s.check(t, delivered)
		s.check(t, step{"its end asks the flow table", tcp(a.client, a.vip, tcpRST|tcpACK).arriving(), xdpDrop, nil, []string{"no_flow"}})
		s.holdRecent(t, 0)

		for node, p := range map[string]packet{"node1": toHere, "node2": toFar} {
			s.held(t, p.arriving())
			s.plane.SetNodeDown(node, true)
			s.set()
			s.check(t, step{node + " is down", p.arriving(), xdpTX, reset(p), gone})
			s.plane.SetNodeDown(node, false)
			s.set()
		}

		s.held(t, toHere.arriving())
		here.Backends = []service.Backend{second}
		s.set(here)
		s.check(t, step{"backend replaced", toHere.arriving(), xdpTX, reset(toHere), gone})
		s.held(t, toFar.arriving())
		s.plane.DeleteService("t/far")
		s.set()
		s.check(t, step{"service deleted", toFar.arriving(), xdpTX, reset(toFar), gone})
		s.plane.DeleteService("t/here")
		s.set()
	})
}

// forgetFlows empties the flow table.
func (s *stage) forgetFlows(t *testing.T) {
	t.Helper()
	flows, err := s.flows.maps.flows.All()
	if err != nil {
		t.Fatal(err)
	}
	for key := range flows {
		if err := s.flows.maps.flows.Delete(key); err != nil {
			t.Fatal(err)
		}
	}
}

// A record that another backend has now is not mistaken for the one of a recent flow.
func TestRecentFlowsKnowTheirBackendBySerial(t *testing.T) {
	s := newStage(t)
	s.set(external("t/here", service.TCP, vip4, backend(pod4, "node1")))
	frame := tcp(client4, vip4, tcpACK).arriving()
	s.held(t, frame)
	s.recents(t, func(one *bpf.UplinkRecent) { one.Serial++ })
	if _, _, moved := s.run(frame); moved["delivered"] != 1 {
		t.Fatalf("counters %v", moved)
	}
	s.recents(t, func(one *bpf.UplinkRecent) {
		if one.Until == math.MaxUint64 {
			t.Error("an entry of another backend was used: it was not asked for anew")
		}
	})
}

// Packets for no frontend are recognized without a lookup, until there is a frontend for them.
func TestRecentlyPassedPacketsFindNewFrontends(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		at := udp(a.client, a.nodePort, "x")
		pass := step{"nobody's", at.arriving(), xdpPass, nil, []string{"no_service"}}
		made := []string{"delivered", "event_flow_made"}
		for _, frontend := range []netip.AddrPort{a.nodePort, netip.AddrPortFrom(a.any, a.nodePort.Port())} {
			s.held(t, at.arriving())
			s.check(t, pass)
			s.holdRecent(t, 1)
			s.set(external("t/new", service.UDP, frontend, backend(a.pod, "node1")))
			s.check(t, step{"frontend " + frontend.String(), at.arriving(), xdpPass, udp(a.client, a.pod, "x").arriving(), made})
			s.plane.DeleteService("t/new")
			s.set()
			s.forgetFlows(t)
		}
		s.forgetRecent(t)
		answer := udp(a.client, port(a.nodePort, 61001), "x")
		s.check(t, step{"what may be an answer to this node", answer.arriving(), xdpPass, nil, []string{"no_service"}})
		s.holdRecent(t, 0)
	})
}

// A tunnel's ends are looked up again before long, and a node that has left the cluster is refused.
func TestRecentFlowsInsideTunnels(t *testing.T) {
	s := newStage(t)
	s.set(external("t/here", service.TCP, vip4, backend(pod4, "node1")))
	inside := tcp(client4, vip4, tcpACK)
	s.held(t, tunnel(peer4, node4, 7, 0, inside).arriving())
	counts := []string{"delivered", "event_decapsulated"}
	out := tcp(client4, pod4, tcpACK).arriving()
	s.check(t,
		step{"from a node", tunnel(peer4, node4, 7, 0, inside).arriving(), xdpPass, out, counts},
		step{"from a stranger", tunnel(router4, node4, 7, 0, inside).arriving(), xdpPass, nil, []string{"foreign_tunnel"}},
		step{"for another", tunnel(peer4, third4, 7, 0, inside).arriving(), xdpPass, nil, []string{"foreign_tunnel"}},
	)
}

// The shortcut does to every packet what the general way does, byte for byte and counter for counter.
func TestShortcutIsNoDetour(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		s.Do(s.meetSixth)
		frontends := map[uint16]service.Backend{80: backend(a.pod, "node1"), 81: backend(a.far, "node2"), 82: backend(a.far, "node6")}
		for number, b := range frontends {
			for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
				s.set(external(fmt.Sprintf("t/%s%d", protocol, number), protocol, port(a.vip, number), b))
			}
		}
		for number := range uint16(4) {
			to := port(a.vip, 80+number)
			for range 2 { // the first goes by the stack
				s.run(tcp(a.client, to, tcpACK).arriving())
			}
			s.changeHops(t, func(hop *bpf.UplinkHop) { hop.Expires = math.MaxUint64 })
			for _, size := range []int{0, 1, 34, 600} {
				payload := bytes.Repeat([]byte{0xa5}, size)
				unsummed := udp(a.client, to, string(payload))
				unsummed.noSum = a.client.Addr().Is4()
				plain := tcp(a.client, to, tcpACK)
				plain.payload = payload
				dying := plain
				dying.hops = 2
				for name, p := range map[string]packet{"TCP": plain, "TTL 2": dying, "UDP": udp(a.client, to, string(payload)), "unsummed": unsummed} {
					frames := map[string][]byte{
						"":         p.arriving(),
						" padded":  append(p.arriving(), make([]byte, 6)...),
						" in IPv4": tunnel(peer4, node4, 7, 0, p).arriving(),
						" in IPv6": tunnel(peer6, node6, 7, 0, p).arriving(),
					}
					if to.Port() != 80 {
						delete(frames, " in IPv4")
						delete(frames, " in IPv6")
					}
					for how, frame := range frames {
						s.sameBothWays(t, fmt.Sprintf("%s%s to %s with %d bytes", name, how, to, len(payload)), frame)
					}
				}
			}
		}
	})
}

func (s *stage) sameBothWays(t *testing.T, name string, frame []byte) {
	t.Helper()
	s.run(frame) // the flow is made, and its neighbour primed
	s.forgetRecent(t)
	verdict, out, moved := s.run(frame)
	s.holdRecent(t, 1)
	gotVerdict, got, gotMoved := s.run(frame)
	s.recents(t, func(one *bpf.UplinkRecent) {
		if one.Until != math.MaxUint64 {
			t.Errorf("%s: the shortcut was not taken", name)
		}
	})
	for _, counts := range []map[string]uint64{moved, gotMoved} {
		delete(counts, "event_hop_lookup")
	}
	if verdict != gotVerdict || !maps.Equal(moved, gotMoved) {
		t.Errorf("%s: verdict %d, counters %v; by the shortcut %d, %v", name, verdict, moved, gotVerdict, gotMoved)
	}
	if !bytes.Equal(out, got) {
		t.Log(name)
		diffFrames(t, got, out)
	}
}

// changeHops lets change have every next hop that is known.
func (s *stage) changeHops(t *testing.T, change func(*bpf.UplinkHop)) {
	t.Helper()
	hops := s.flows.maps.ByName[bpf.UplinkMapSkepHops]
	for i := range hops.MaxEntries() {
		var of []bpf.UplinkHop // each CPU
		if err := hops.Lookup(i, &of); err != nil {
			t.Fatal(err)
		}
		known := false
		for cpu := range of {
			if of[cpu].Expires != 0 {
				known = true
				change(&of[cpu])
			}
		}
		if !known {
			continue
		}
		if err := hops.Put(i, of); err != nil {
			t.Fatal(err)
		}
	}
}

// sixth is the address of node6, which has IPv6 alone.
var sixth = netip.MustParseAddr("2001:db8:2::16")

// meetSixth makes its link address known.
func (s *stage) meetSixth() error {
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: s.index, IP: sixth.AsSlice(),
		HardwareAddr: peerMAC[:], State: netlink.NUD_PERMANENT})
}

// Each CPU has a part of its own, of the size that the program expects.
func TestRecentFlowsOfEveryCPU(t *testing.T) {
	s := newStage(t)
	s.set(external("t/here", service.TCP, vip4, backend(pod4, "node1")))
	spec, err := bpf.LoadUplink()
	if err != nil {
		t.Fatal(err)
	}
	each := spec.Maps[bpf.UplinkMapSkepRecent].MaxEntries
	recent := s.flows.maps.ByName[bpf.UplinkMapSkepRecent]
	if sets := recent.MaxEntries(); sets < each*uint32(runtime.NumCPU()) || sets%each != 0 {
		t.Fatalf("%d sets for %d CPUs, want %d of each", sets, runtime.NumCPU(), each)
	}
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	frame, known := tcp(client4, vip4, tcpACK).arriving(), 0
	for cpu := range int(recent.MaxEntries() / each) {
		if !allowed.IsSet(cpu) {
			continue
		}
		s.Do(func() error {
			var one unix.CPUSet
			one.Set(cpu)
			if err := unix.SchedSetaffinity(0, &one); err != nil {
				return fmt.Errorf("run on CPU %d: %w", cpu, err)
			}
			for range 2 {
				if _, err := s.program.Run(&ebpf.RunOptions{Data: bytes.Clone(frame),
					Context: xdpContext{DataEnd: uint32(len(frame)), IngressIfindex: uint32(s.index)}}); err != nil {
					return err
				}
			}
			return nil
		})
		known++
		s.holdRecent(t, known)
	}
}
