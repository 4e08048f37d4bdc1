package podpath_test

import (
	"fmt"
	"io"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// kubernetes 74839: packets outside the window, which connection tracking calls invalid, were not translated back, and
// their receiver reset the connection. Here they are translated as all others, from both ends and between nodes.
func TestPacketsOutsideTheWindowResetNothing(t *testing.T) {
	f := fabrictest.New(t, 2)
	f.OpenPaths()
	client := f.Hosts[0].NewPod("client")
	for k, server := range []*fabrictest.Pod{f.Hosts[0].NewPod("here"), f.Hosts[1].NewPod("elsewhere")} {
		s, frontends := serviceFor(fmt.Sprint("default/", server.ID), service.TCP, uint16(80+k), 8080, server)
		f.SetService(s)
		for i, frontend := range frontends {
			backend := netip.AddrPortFrom(server.Addrs[i], 8080)
			serve(t, server.Namespace, backend)
			conn := dial(t, client.Namespace, "tcp", frontend)
			seen := greeting(t, conn)
			before := counters(t, f.Hosts[0])
			for _, flags := range []byte{ack, syn | ack, ack | fin, rst} {
				out := packet{from: seen.String(), to: frontend.String(), protocol: protocolTCP, flags: flags, payload: 5}
				back := packet{from: backend.String(), to: seen.String(), protocol: protocolTCP, flags: flags, payload: 5}
				client.Do(func() error { return sendRaw(out) })
				server.Do(func() error { return sendRaw(back) })
			}
			if _, err := io.WriteString(conn, "still there"); err != nil {
				t.Errorf("%s on %s: %v", frontend, server.ID, err)
			}
			if _, err := io.ReadFull(conn, make([]byte, len("still there"))); err != nil {
				t.Errorf("%s on %s: %v", frontend, server.ID, err)
			}
			changed := moved(before, counters(t, f.Hosts[0]))
			reversed := changed["from_pod/event_reversed"] + changed["from_uplink/event_reversed"]
			if changed["from_pod/event_translated"] < 4 || reversed < 4 || changed["from_pod/reset"] != 0 || changed["from_pod/event_new_flow"] != 0 {
				t.Errorf("%s on %s: %v, want what was sent translated both ways", frontend, server.ID, changed)
			}
			conn.Close()
		}
	}
}

// sendRaw sends a packet as it is.
func sendRaw(p packet) error {
	_, to := p.ends()
	if to.Addr().Is4() {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(socket)
		return unix.Sendto(socket, p.ip(), 0, &unix.SockaddrInet4{Addr: to.Addr().As4()})
	}
	socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	return unix.Sendto(socket, p.ip(), 0, &unix.SockaddrInet6{Addr: to.Addr().As16()})
}
