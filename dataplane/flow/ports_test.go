package flow

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// A client's port that has a flow to a backend already, by another frontend, is translated to another port towards it.
func TestOneClientPortAtTwoFrontends(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		second := port(a.vip, 81)
		for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
			s.set(external("t/first-"+protocol.String(), protocol, a.vip, backend(a.pod, "node1")),
				external("t/second-"+protocol.String(), protocol, second, backend(a.pod, "node1")))
		}
		for name, question := range map[string]packet{"TCP": tcp(a.client, a.vip, tcpSYN), "UDP": udp(a.client, a.vip, "x")} {
			direct := question
			direct.to = a.pod
			s.check(t, step{name, question.arriving(), xdpPass, direct.arriving(), []string{"delivered", "event_flow_made"}})
			other := question
			other.to = second
			_, out, moved := s.run(other.arriving())
			seen := sourcePort(other, out)
			if moved["delivered"] != 1 || moved["event_flow_made"] != 1 || seen < 61000 {
				t.Fatalf("%s at the second frontend: port %d, counters %v, want it delivered from a port past 61000", name, seen, moved)
			}
			direct.from = port(a.client, seen)
			s.check(t, step{name + " again", other.arriving(), xdpPass, direct.arriving(), []string{"delivered"}})
			direct.from = a.client
			s.check(t, step{name + " at the first again", question.arriving(), xdpPass, direct.arriving(), []string{"delivered"}})
		}
	})
}

// Clients that reuse ports, or ask two addresses from one socket, lose nothing and get each answer from the address that they asked.
func TestOneSocketAtTwoFrontends(t *testing.T) {
	w := newWorld(t, 2)
	pods := []*fabrictest.Pod{w.Hosts[0].NewPod("here"), w.Hosts[1].NewPod("elsewhere")}
	for i, pod := range pods {
		serve(t, pod)
		for _, first := range []uint16{30080, 30090} {
			at := first + uint16(i)
			w.SetService(nodePort(fmt.Sprintf("t/at-%d", at), service.UDP, at, pod))
		}
	}
	for _, asked := range fabrictest.NodeIPs(0) {
		var conn net.PacketConn
		w.Outside.Do(func() (err error) {
			conn, err = net.ListenPacket("udp", ":0")
			return err
		})
		defer conn.Close()
		for i, pod := range pods {
			for range 3 {
				for _, first := range []uint16{30080, 30090} {
					to := netip.AddrPortFrom(asked, first+uint16(i))
					if from, err := askFrom(conn, to); err != nil || from != to {
						t.Errorf("%s of pod %s, after its other frontend from the same port: answer of %s, %v", to, pod.ID, from, err)
					}
				}
			}
		}
	}
}

// askFrom sends a datagram and returns the source of the answer.
func askFrom(conn net.PacketConn, to netip.AddrPort) (netip.AddrPort, error) {
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return netip.AddrPort{}, err
	}
	if _, err := conn.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(to)); err != nil {
		return netip.AddrPort{}, err
	}
	_, from, err := conn.ReadFrom(make([]byte, 256))
	if err != nil {
		return netip.AddrPort{}, err
	}
	at := from.(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

// The source port of SNAT does not depend on the client's address alone, as affinity does.
func TestOneClientWithAffinityHasManyPorts(t *testing.T) {
	s := newStage(t)
	s.route(t, netip.PrefixFrom(far4.Addr(), 32), peer4)
	snat := external("t/snat", service.UDP, vip4, backend(far4, "node2"))
	snat.SNAT, snat.AffinityTimeout = true, time.Hour
	s.set(snat)
	for n := range uint16(1000) {
		if _, _, moved := s.run(udp(port(client4, 1024+n), vip4, "x").arriving()); moved["translated_out"]+moved["handed_over"] != 1 {
			t.Fatalf("after %d connections of one client: counters %v", n, moved)
		}
	}
}

// Next hops of one network do not evict each other: else each packet would look up its own in the kernel, and go by the stack.
func TestNextHopsOfOneNetwork(t *testing.T) {
	s := newStage(t)
	hosts := []string{"192.0.2.12", "192.0.2.16", "192.0.2.20", "192.0.2.24", "2001:db8:2::12", "2001:db8:2::16", "2001:db8:2::20", "2001:db8:2::24"}
	s.Do(func() error {
		for _, host := range hosts {
			err := netlink.NeighSet(&netlink.Neigh{LinkIndex: s.index, IP: netip.MustParseAddr(host).AsSlice(), HardwareAddr: peerMAC[:], State: netlink.NUD_PERMANENT})
			if err != nil {
				return err
			}
		}
		return nil
	})
	for i, host := range hosts {
		name, at := fmt.Sprint("host", i), port(vip4, 100+uint16(i))
		s.plane.SetNodeAddresses(name, []netip.Addr{netip.MustParseAddr(host)})
		s.set(external("t/"+name, service.UDP, at, backend(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 9, byte(i)}), 8080), name)))
		s.prime(t, udp(client4, at, "x").arriving())
	}
	for range 3 {
		for i, host := range hosts {
			if _, _, moved := s.run(udp(client4, port(vip4, 100+uint16(i)), "x").arriving()); moved["encapsulated"] != 1 {
				t.Errorf("to %s, after the others: counters %v, want it encapsulated at once", host, moved)
			}
		}
	}
}
