package flow

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// kubernetes 36500: the client's address is lost. Here it is kept, wherever the backend is.
func TestFromOutside(t *testing.T) {
	w := newWorld(t, 2)
	for _, c := range []struct {
		name string
		host int
		port uint16
	}{{"here", 0, 30080}, {"elsewhere", 1, 30081}} {
		pod := w.Hosts[c.host].NewPod(c.name)
		serve(t, pod)
		w.SetService(nodePort("t/"+c.name+":tcp", service.TCP, c.port, pod))
		w.SetService(nodePort("t/"+c.name+":udp", service.UDP, c.port, pod))
		for _, asked := range fabrictest.NodeIPs(0) {
			to := netip.AddrPortFrom(asked, c.port)
			t.Run(c.name+" "+asked.String(), func(t *testing.T) {
				tcp := dial(t, w.Outside, "tcp", to)
				changed := w.moved(0, func() {
					if seen := pump(t, tcp, 16<<20); seen.String() != tcp.LocalAddr().String() {
						t.Errorf("TCP: the backend saw %s, the client is %s", seen, tcp.LocalAddr())
					}
				})
				wanted := "delivered"
				if c.host == 1 {
					wanted = "encapsulated"
				}
				if changed[wanted] < 16<<20/1500 {
					t.Errorf("TCP: counters %v, want %s for every packet", changed, wanted)
				}
				udp := dial(t, w.Outside, "udp", to)
				for _, size := range []int{1, 1200, 4000, 20000} { // the last two in fragments
					if seen := echo(t, udp, size, 10); seen.String() != udp.LocalAddr().String() {
						t.Errorf("UDP: the backend saw %s, the client is %s", seen, udp.LocalAddr())
					}
				}
			})
		}
	}
}

// For a packet that does not fit the tunnel the client gets an error, and sends smaller packets from then on.
func TestPathMTU(t *testing.T) {
	w := newWorld(t, 2)
	pod := w.Hosts[1].NewPod("elsewhere")
	serve(t, pod)
	pod.Do(askForFullSegments)
	w.SetService(nodePort("t/tcp", service.TCP, 30080, pod))
	for _, asked := range fabrictest.NodeIPs(0) {
		conn := dial(t, w.Outside, "tcp", netip.AddrPortFrom(asked, 30080))
		changed := w.moved(0, func() { pump(t, conn, 4<<20) })
		if changed["too_big"] == 0 || changed["encapsulated"] == 0 {
			t.Errorf("to %s: counters %v, want ICMP about packets of 1500 bytes and then smaller ones", asked, changed)
		}
	}
}

// askForFullSegments has the pod advertise segments that leave no room for a tunnel.
func askForFullSegments() error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, route := range routes {
		if route.AdvMSS == 0 {
			continue
		}
		route.AdvMSS = 1460
		if err := netlink.RouteReplace(&route); err != nil {
			return err
		}
	}
	return nil
}

func TestRefusedFromOutside(t *testing.T) {
	w := newWorld(t, 1)
	w.SetService(nodePort("t/tcp", service.TCP, 30080))
	w.SetService(nodePort("t/udp", service.UDP, 30080))
	for _, asked := range fabrictest.NodeIPs(0) {
		to := netip.AddrPortFrom(asked, 30080)
		if _, err := tryDial(t, w.Outside, "tcp", to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("TCP to %s without backends: %v, want it refused", to, err)
		}
		conn := dial(t, w.Outside, "udp", to)
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("UDP to %s without backends: %v, want it refused", to, err)
		}
	}
}

func TestSNATFromOutside(t *testing.T) {
	w := newWorld(t, 2)
	pod := w.Hosts[1].NewPod("elsewhere")
	serve(t, pod)
	for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
		s := nodePort("t/"+protocol.String(), protocol, 30080, pod)
		s.SNAT = true
		w.SetService(s)
	}
	for i, asked := range fabrictest.NodeIPs(0) {
		to := netip.AddrPortFrom(asked, 30080)
		if seen := pump(t, dial(t, w.Outside, "tcp", to), 4<<20); seen.Addr() != fabrictest.NodeIPs(0)[i] {
			t.Errorf("TCP: the backend saw %s, want this node's address", seen)
		}
		if seen := echo(t, dial(t, w.Outside, "udp", to), 1000, 1); seen.Addr() != fabrictest.NodeIPs(0)[i] {
			t.Errorf("UDP: the backend saw %s, want this node's address", seen)
		}
	}
}

// Generic XDP does the same.
func TestGenericXDP(t *testing.T) {
	w := newWorld(t, 2)
	for i := range w.Hosts {
		w.open(i, func(o *Options) { o.GenericXDP = true })
	}
	here, elsewhere := w.Hosts[0].NewPod("here"), w.Hosts[1].NewPod("elsewhere")
	serve(t, here)
	serve(t, elsewhere)
	w.SetService(nodePort("t/here", service.TCP, 30080, here))
	w.SetService(nodePort("t/elsewhere", service.TCP, 30081, elsewhere))
	for _, asked := range fabrictest.NodeIPs(0) {
		for _, port := range []uint16{30080, 30081} {
			conn := dial(t, w.Outside, "tcp", netip.AddrPortFrom(asked, port))
			if seen := pump(t, conn, 1<<20); seen.String() != conn.LocalAddr().String() {
				t.Errorf("the backend saw %s, the client is %s", seen, conn.LocalAddr())
			}
		}
	}
	w.Hosts[0].Do(func() error {
		if mode := xdpMode(t, "eth0"); mode != "generic" {
			t.Errorf("eth0 has XDP in mode %s, want generic", mode)
		}
		return nil
	})
}

// The program is replaced under traffic, and nothing is lost.
func TestUpgradeUnderTraffic(t *testing.T) {
	w := newWorld(t, 2)
	pod := w.Hosts[1].NewPod("elsewhere")
	serve(t, pod)
	w.SetService(nodePort("t/tcp", service.TCP, 30080, pod))
	w.SetService(nodePort("t/udp", service.UDP, 30080, pod))
	to := netip.AddrPortFrom(fabrictest.NodeIPs(0)[0], 30080)
	stop, answered := make(chan struct{}), make(chan int)
	conn := dial(t, w.Outside, "udp", to)
	echo(t, conn, 100, 1)
	go func() {
		n := 0
		defer func() { answered <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if !answers(t, conn) {
				return
			}
			n++
		}
	}()
	tcp := dial(t, w.Outside, "tcp", to)
	for i := range 5 {
		for host := range w.Hosts {
			w.open(host, func(o *Options) { o.Limits.Fragments = uint32(1000 + i) }) // other maps: another program
		}
	}
	pump(t, tcp, 4<<20)
	close(stop)
	if n := <-answered; n < 10 {
		t.Errorf("%d datagrams answered, want every one while the program was replaced", n)
	}
}

// answers sends one datagram and fails the test unless its answer comes: nothing is sent again.
func answers(t *testing.T, conn net.Conn) bool {
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Error(err)
		return false
	}
	if _, err := conn.Read(make([]byte, 100)); err != nil {
		t.Errorf("a datagram was lost while the program was replaced: %v", err)
		return false
	}
	return true
}
