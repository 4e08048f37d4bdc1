package hurts

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/flow"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

// Clients of a node that did not have the backend were seen with that node's address, and could be neither distinguished nor
// refused. Here the backend sees the client, whichever node it asks. kubernetes 36500.
func TestClientIPIsKept(t *testing.T) {
	f := fabrictest.New(t, 2)
	f.Router.Do(func() error { return errors.Join(sandbox.LikeWire(f.Hosts[0].Name), sandbox.LikeWire(f.Hosts[1].Name)) })
	for _, h := range f.Hosts {
		openFlows(t, h)
	}
	f.OpenPaths()
	pod := f.Hosts[1].NewPod("server")
	s := service.Service{Name: "default/web:http"}
	for i, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		s.Frontends = append(s.Frontends, service.Frontend{Addr: any, Port: 30080, Protocol: service.TCP, Scope: service.ScopeExternal})
		s.Backends = append(s.Backends, pod.Backend(pod.Addrs[i], 8080))
		tellClients(t, pod, netip.AddrPortFrom(pod.Addrs[i], 8080))
	}
	f.SetService(s)
	for host, where := range []string{"at a node without the backend", "at its own node"} {
		for _, node := range fabrictest.NodeIPs(host) {
			asked := netip.AddrPortFrom(node, 30080).String()
			f.Outside.Do(func() error {
				conn, err := net.DialTimeout("tcp", asked, lab.Deadline)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", asked, where, err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(lab.Deadline))
				seen, err := lab.ReadName(conn)
				if client := conn.LocalAddr().String(); err != nil || seen != client {
					return fmt.Errorf("%s, %s: the client %s was seen at %q, %v", asked, where, client, seen, err)
				}
				return nil
			})
		}
	}
}

func openFlows(t *testing.T, h *fabrictest.Host) {
	t.Helper()
	pins := filepath.Join(h.Pins, "flow")
	var flows *flow.Flows
	h.Do(func() (err error) {
		flows, err = flow.Open(flow.Options{
			PinDir: pins, Plane: h.Plane, Uplinks: []string{"eth0"}, NodeIPs: fabrictest.NodeIPs(h.Index),
		})
		return err
	})
	t.Cleanup(func() {
		if err := errors.Join(flows.Close(), h.Try(func() error { return flow.Remove(pins) })); err != nil {
			t.Error(err)
		}
	})
	h.UseFlows(flows)
}

// tellClients answers every connection with the address that it comes from.
func tellClients(t *testing.T, pod *fabrictest.Pod, at netip.AddrPort) {
	t.Helper()
	var listener net.Listener
	pod.Do(func() (err error) {
		listener, err = net.Listen("tcp", at.String())
		return err
	})
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, conn.RemoteAddr())
			conn.Close()
		}
	}()
}
