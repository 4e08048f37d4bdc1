package hurts

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

// What does not pass the socket hook (virtual machines, sandboxes with a stack of their own, other cgroups) sends packets to
// the service's address itself, and reached no backend where only sockets were handled. cilium 14563.
func TestPerPacketFallback(t *testing.T) {
	f := fabrictest.New(t, 2)
	f.OpenPaths()
	client := f.Hosts[0].NewPod("client") // in no cgroup that the hooks are attached to
	here, elsewhere := f.Hosts[0].NewPod("here"), f.Hosts[1].NewPod("elsewhere")
	frontends := []netip.AddrPort{netip.MustParseAddrPort("10.96.0.7:80"), netip.MustParseAddrPort("[fd00:10:96::7]:80")}
	for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
		s := service.Service{Name: "default/web:" + strings.ToLower(protocol.String())}
		for i, frontend := range frontends {
			s.Frontends = append(s.Frontends, service.Frontend{Addr: frontend.Addr(), Port: frontend.Port(), Protocol: protocol})
			for _, pod := range []*fabrictest.Pod{here, elsewhere} {
				s.Backends = append(s.Backends, pod.Backend(pod.Addrs[i], 8080))
				answer(t, pod, protocol, netip.AddrPortFrom(pod.Addrs[i], 8080))
			}
		}
		f.SetService(s)
		for i, frontend := range frontends {
			reached := map[string]bool{}
			for range 8 {
				reached[askBy(t, client, protocol, frontend)] = true
			}
			for _, pod := range []*fabrictest.Pod{here, elsewhere} {
				if name := netip.AddrPortFrom(pod.Addrs[i], 8080).String(); !reached[name] {
					t.Errorf("%s %s reached %v, never %s", protocol, frontend, reached, name)
				}
			}
		}
	}
	d, err := f.Hosts[0].Plane.Dump()
	if err != nil {
		t.Fatal(err)
	}
	if d.Counters["reversed"] != 0 {
		t.Error("a socket hook took part: the test proves nothing")
	}
}

// answer serves the pod's own name.
func answer(t *testing.T, pod *fabrictest.Pod, protocol service.Protocol, at netip.AddrPort) {
	t.Helper()
	pod.Do(func() error {
		if protocol == service.UDP {
			conn, err := net.ListenPacket("udp", at.String())
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				for buffer := make([]byte, 64); ; {
					_, from, err := conn.ReadFrom(buffer)
					if err != nil {
						return
					}
					fmt.Fprint(addressed{conn, from}, at)
				}
			}()
			return nil
		}
		listener, err := net.Listen("tcp", at.String())
		if err != nil {
			return err
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(conn, at)
				conn.Close()
			}
		}()
		return nil
	})
}

type addressed struct {
	net.PacketConn
	to net.Addr
}

func (a addressed) Write(b []byte) (int, error) { return a.WriteTo(b, a.to) }

// askBy returns the name of the backend that answers a new connection of the pod, whose peer has to be the service.
func askBy(t *testing.T, pod *fabrictest.Pod, protocol service.Protocol, to netip.AddrPort) (name string) {
	t.Helper()
	pod.Do(func() error {
		conn, err := net.DialTimeout(strings.ToLower(protocol.String()), to.String(), lab.Deadline)
		if err != nil {
			return err
		}
		defer conn.Close()
		if got := conn.RemoteAddr().String(); got != to.String() {
			return fmt.Errorf("asked for %s, got %s", to, got)
		}
		conn.SetDeadline(time.Now().Add(lab.Deadline))
		if protocol == service.UDP {
			if name, err = lab.Exchange(conn); err != nil {
				return err
			}
			return nil
		}
		answer, err := io.ReadAll(conn)
		name = string(answer)
		return err
	})
	return name
}

// The same as TestSelfThroughService, for a pod that passes no socket hook. kubernetes 20475.
func TestSelfThroughServiceByThePacket(t *testing.T) {
	f := fabrictest.New(t, 1)
	f.OpenPaths()
	pod := f.Hosts[0].NewPod("self")
	frontends := []netip.AddrPort{netip.MustParseAddrPort("10.96.0.7:80"), netip.MustParseAddrPort("[fd00:10:96::7]:80")}
	for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
		s := service.Service{Name: "default/self:" + strings.ToLower(protocol.String())}
		for i, frontend := range frontends {
			s.Frontends = append(s.Frontends, service.Frontend{Addr: frontend.Addr(), Port: frontend.Port(), Protocol: protocol})
			s.Backends = append(s.Backends, pod.Backend(pod.Addrs[i], 8080))
			answer(t, pod, protocol, netip.AddrPortFrom(pod.Addrs[i], 8080))
		}
		f.SetService(s)
		for i, frontend := range frontends {
			if name, want := askBy(t, pod, protocol, frontend), netip.AddrPortFrom(pod.Addrs[i], 8080).String(); name != want {
				t.Errorf("%s %s: answered by %q, want %s", protocol, frontend, name, want)
			}
		}
	}
}
