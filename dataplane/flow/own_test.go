package flow

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// bothWays runs a test with the pod path's programs attached by tcx and by clsact.
func bothWays(t *testing.T, test func(t *testing.T, w *world)) {
	for name, clsact := range map[string]bool{"chosen": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			for _, h := range w.Hosts {
				h.OpenPath(func(o *podpath.Options) { o.Clsact = clsact })
			}
			test(t, w)
		})
	}
}

// inHost is a service at a port of every node's addresses whose backend is in a host's own network, at another port.
func inHost(name string, protocol service.Protocol, port, target uint16, host *fabrictest.Host) service.Service {
	s := nodePort(name, protocol, port)
	for _, addr := range fabrictest.NodeIPs(host.Index) {
		s.Backends = append(s.Backends, service.Backend{Addr: addr, Port: target, Node: host.Name})
	}
	return s
}

func seen(t *testing.T, h *fabrictest.Host, counter string) uint64 {
	t.Helper()
	all, err := h.Path.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return all[counter]
}

// A backend in the host's own network answers by the host's stack, and the client gets the answer from the address that it asked.
func TestBackendInTheHostsNetwork(t *testing.T) {
	bothWays(t, func(t *testing.T, w *world) {
		for i, c := range []struct {
			name string
			host int
			snat bool
		}{{"here", 0, false}, {"elsewhere", 1, false}, {"elsewhere by SNAT", 1, true}} {
			port, target := uint16(30080+i), uint16(8080+i)
			h := w.Hosts[c.host]
			serveAt(t, h.Namespace, target, fabrictest.NodeIPs(c.host)...)
			for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
				s := inHost(fmt.Sprint("t/", i, ":", protocol), protocol, port, target, h)
				s.SNAT = c.snat
				w.SetService(s)
			}
			for _, asked := range fabrictest.NodeIPs(0) {
				to := netip.AddrPortFrom(asked, port)
				t.Run(c.name+" "+asked.String(), func(t *testing.T) { w.askHost(t, h, to, asked, c.snat) })
			}
		}
	})
}

// askHost connects to a backend in h's network through a frontend of the first host, whose address is asked.
func (w *world) askHost(t *testing.T, h *fabrictest.Host, to netip.AddrPort, asked netip.Addr, snat bool) {
	check := func(what string, conn net.Conn, client netip.AddrPort) {
		t.Helper()
		if snat && client.Addr() != asked {
			t.Errorf("%s: the backend saw %s, want the node's address", what, client)
		}
		if !snat && client.String() != conn.LocalAddr().String() {
			t.Errorf("%s: the backend saw %s, the client is %s", what, client, conn.LocalAddr())
		}
	}
	before := seen(t, h, "to_uplink/event_reversed")
	tcp := dial(t, w.Outside, "tcp", to)
	check("TCP", tcp, pump(t, tcp, 8<<20))
	udp := dial(t, w.Outside, "udp", to)
	for _, size := range []int{1, 1200, 4000, 20000} { // the last two in fragments
		if snat && size > 1200 {
			break
		}
		check("UDP", udp, echo(t, udp, size, 10))
	}
	if !snat && seen(t, h, "to_uplink/event_reversed") == before {
		t.Error("no answer was translated at the uplink")
	}
}

// If no socket listens in the host's network, the host's own refusal quotes the packet that the client sent.
func TestRefusedByTheHost(t *testing.T) {
	bothWays(t, func(t *testing.T, w *world) {
		for i, h := range w.Hosts {
			for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
				w.SetService(inHost(fmt.Sprint("t/", i, ":", protocol), protocol, uint16(30080+i), 9, h))
			}
			for _, asked := range fabrictest.NodeIPs(0) {
				to := netip.AddrPortFrom(asked, uint16(30080+i))
				if _, err := tryDial(t, w.Outside, "tcp", to); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("TCP to %s, closed on %s: %v, want it refused", to, h.Name, err)
				}
				errorsBefore := seen(t, h, "to_uplink/event_error")
				conn := dial(t, w.Outside, "udp", to)
				if _, err := conn.Write(make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("UDP to %s, closed on %s: %v, want it refused", to, h.Name, err)
				}
				if n := seen(t, h, "to_uplink/event_error") - errorsBefore; n != 1 {
					t.Errorf("UDP to %s: %d errors translated on %s, want 1", to, n, h.Name)
				}
			}
		}
	})
}

func narrow(name string, mtu int) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(link, mtu)
}

// The host's error has the MTU of a pod's interface, and quotes the packet that the client sent.
func TestHostTellsWhatFits(t *testing.T) {
	w := newWorld(t, 2)
	for i, h := range w.Hosts {
		pod := h.NewPod(fmt.Sprint("narrow", i))
		serve(t, pod)
		mtu := 1400 - i*100 // less than the client's by then
		h.Do(func() error { return narrow(pod.HostInterface, mtu) })
		pod.Do(func() error { return errors.Join(narrow("eth0", mtu), askForFullSegments()) })
		port := uint16(30080 + i)
		w.SetService(nodePort(fmt.Sprint("t/", i), service.TCP, port, pod))
		for _, asked := range fabrictest.NodeIPs(0) {
			before := seen(t, h, "to_uplink/event_error")
			pump(t, dial(t, w.Outside, "tcp", netip.AddrPortFrom(asked, port)), 4<<20)
			if seen(t, h, "to_uplink/event_error") == before {
				t.Errorf("to %s by %s: no error was translated", h.Name, asked)
			}
		}
	}
}

// The host's own packets, also from a port that a backend has, and to clients that ask it directly, are not changed.
func TestHostsOwnConnections(t *testing.T) {
	w := newWorld(t, 1)
	h := w.Hosts[0]
	serveAt(t, h.Namespace, 8080, fabrictest.NodeIPs(0)...)
	outside := []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:9::9")}
	serveAt(t, w.Outside, 7, outside...)
	w.SetService(inHost("t/tcp", service.TCP, 30080, 8080, h))
	w.SetService(inHost("t/udp", service.UDP, 30080, 8080, h))
	w.SetService(inHost("t/free", service.TCP, 30081, 8081, h))
	for i, own := range fabrictest.NodeIPs(0) {
		for _, port := range []uint16{30080, 8080, 30080, 8080} {
			to := netip.AddrPortFrom(own, port)
			pump(t, dial(t, w.Outside, "tcp", to), 1<<20)
			echo(t, dial(t, w.Outside, "udp", to), 1000, 1)
		}
		// Refused, but from now on the port has a backend's bit.
		if _, err := tryDial(t, w.Outside, "tcp", netip.AddrPortFrom(own, 30081)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("connect to a port where nobody listens: %v", err)
		}
		from := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, 8081)), Timeout: deadline}
		var conn net.Conn
		h.Do(func() (err error) {
			conn, err = from.Dial("tcp", netip.AddrPortFrom(outside[i], 7).String())
			return err
		})
		conn.SetDeadline(time.Now().Add(deadline))
		if seen := pump(t, conn, 1<<20); seen != netip.AddrPortFrom(own, 8081) {
			t.Errorf("the host is seen at %s", seen)
		}
		conn.Close()
		// An address of this node is recognized as its own without the node's name too.
		s := inHost("t/nameless", service.TCP, 30082, 8080, h)
		for k := range s.Backends {
			s.Backends[k].Node = ""
		}
		w.SetService(s)
		pump(t, dial(t, w.Outside, "tcp", netip.AddrPortFrom(own, 30082)), 1<<20)
	}
}

// The programs are replaced during a connection to the host's network, and it goes on.
func TestHostsBackendsSurviveARestart(t *testing.T) {
	w := newWorld(t, 2)
	for i, h := range w.Hosts {
		serveAt(t, h.Namespace, 8080, fabrictest.NodeIPs(i)...)
		w.SetService(inHost(fmt.Sprint("t/", i), service.TCP, uint16(30080+i), 8080, h))
		conn := dial(t, w.Outside, "tcp", netip.AddrPortFrom(fabrictest.NodeIPs(0)[0], uint16(30080+i)))
		done := make(chan error, 1)
		go func() {
			_, err := tryPump(conn, 32<<20)
			done <- err
		}()
		for k := range 6 {
			w.open(i, nil)
			h.UseFlows(w.flows[i])
			h.OpenPath(func(o *podpath.Options) { o.Clsact = k%2 == 0 })
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A process of a host asks another node's port, and the chosen backend is a pod of its own host: the answer does not pass the other node.
func TestHostReachesItsOwnPodThroughAnotherNode(t *testing.T) {
	bothWays(t, func(t *testing.T, w *world) {
		h := w.Hosts[1]
		pod := h.NewPod("own")
		serve(t, pod)
		for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
			w.SetService(nodePort("t/own:"+protocol.String(), protocol, 30080, pod))
		}
		for _, asked := range fabrictest.NodeIPs(0) {
			before := seen(t, h, "from_pod/host")
			to := netip.AddrPortFrom(asked, 30080)
			tcp := dial(t, h.Namespace, "tcp", to)
			if client := pump(t, tcp, 8<<20); client.String() != tcp.LocalAddr().String() {
				t.Errorf("%s: TCP: the backend saw %s, the client is %s", asked, client, tcp.LocalAddr())
			}
			udp := dial(t, h.Namespace, "udp", to)
			for _, size := range []int{1, 1200} {
				if client := echo(t, udp, size, 10); client.String() != udp.LocalAddr().String() {
					t.Errorf("%s: UDP: the backend saw %s, the client is %s", asked, client, udp.LocalAddr())
				}
			}
			if seen(t, h, "from_pod/host") == before {
				t.Errorf("%s: no answer went to the host by its uplink: the test proves nothing", asked)
			}
		}
	})
}
