package flow

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// counted is what a node has counted of a service, and of its backends together.
type counted struct{ connections, refused, backends uint64 }

func countedOf(t *testing.T, plane *service.Plane, name string) (c counted) {
	t.Helper()
	dump, err := plane.Dump()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range dump.Services {
		if s.Name == name {
			c.connections += s.Connections
			c.refused += s.Refused
		}
	}
	for _, b := range dump.Backends {
		if b.Service == name {
			c.backends += b.Connections
		}
	}
	return c
}

// A connection is counted by the node that chooses its backend, and not by the one that it was sent to.
func TestConnectionsFromOutsideAreCountedOnce(t *testing.T) {
	const connections = 9
	w := newWorld(t, 2)
	pods := []*fabrictest.Pod{w.Hosts[0].NewPod("here"), w.Hosts[1].NewPod("elsewhere")}
	for _, pod := range pods {
		serveName(t, pod, nil)
	}
	for i, asked := range fabrictest.NodeIPs(0) {
		name := fmt.Sprint("t/", i)
		port := uint16(30080 + i)
		w.SetService(nodePort(name, service.TCP, port, pods...))
		c := &caller{t: t, w: w, to: netip.AddrPortFrom(asked, port), open: map[string][]net.Conn{}}
		for range connections {
			c.dial()
		}
		if len(c.open) != 2 {
			t.Errorf("%s: pods %v answered, want both", asked, c.open)
		}
		if got, want := countedOf(t, w.Hosts[0].Plane, name), (counted{connections: connections, backends: connections}); got != want {
			t.Errorf("%s: the node asked counted %+v, want %+v", asked, got, want)
		}
		if got := countedOf(t, w.Hosts[1].Plane, name); got != (counted{}) {
			t.Errorf("%s: the other backend's node counted %+v, want nothing", asked, got)
		}
	}
}

// A node counts a connection that another node has sent only if the chosen backend is not here.
func TestConnectionsFromTunnelsAreCountedWhereTheyAreChosen(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		s.set(external("t/tcp", service.TCP, a.vip, backend(a.pod, "node1")), external("t/none", service.TCP, port(a.vip, 81), backend(a.far, "node2")))
		end := a.pod.Addr().AsSlice()
		chosen := uint16(end[len(end)-2])<<8 | uint16(end[len(end)-1])
		for i, c := range []struct {
			what    string
			hint    uint16
			class   uint8
			to      netip.AddrPort
			service string
			want    counted
		}{
			{"its backend is here", chosen, 0, a.vip, "t/tcp", counted{}},
			{"another backend is here", chosen + 1, 0, a.vip, "t/tcp", counted{connections: 1, backends: 1}},
			{"its backend is here, sent on", chosen, 0x0c, a.vip, "t/tcp", counted{}},
			{"none is here", chosen, 0, port(a.vip, 81), "t/none", counted{connections: 1, backends: 1}},
			{"none is here, sent on", chosen, 0x0c, port(a.vip, 81), "t/none", counted{refused: 1}},
		} {
			before := countedOf(t, s.plane, c.service)
			s.run(tunnel(peer4, node4, c.hint, c.class, tcp(port(a.client, uint16(i+1)), c.to, tcpSYN)).arriving())
			after := countedOf(t, s.plane, c.service)
			got := counted{after.connections - before.connections, after.refused - before.refused, after.backends - before.backends}
			if got != c.want {
				t.Errorf("%s: counted %+v, want %+v", c.what, got, c.want)
			}
		}
	})
}
