package podpath_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
)

// serve answers TCP connections in the pod with the address that it sees the client at, then with all that it is sent.
func serve(t *testing.T, ns *fabrictest.Namespace, addr netip.AddrPort) {
	t.Helper()
	var listener net.Listener
	ns.Do(func() (err error) {
		listener, err = net.Listen("tcp", addr.String())
		return err
	})
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, c.RemoteAddr())
				io.Copy(c, c)
			}()
		}
	}()
}

// serveUDP answers datagrams in the pod with the address that it sees the client at and what was sent.
func serveUDP(t *testing.T, ns *fabrictest.Namespace, addr netip.AddrPort) {
	t.Helper()
	var conn net.PacketConn
	ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", addr.String())
		return err
	})
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			conn.WriteTo(append([]byte(from.String()+"\n"), buffer[:n]...), from)
		}
	}()
}

func dial(t *testing.T, ns *fabrictest.Namespace, network string, to netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := tryDial(t, ns, network, to)
	if err != nil {
		t.Fatalf("connect to %s: %v", to, err)
	}
	return conn
}

func tryDial(t *testing.T, ns *fabrictest.Namespace, network string, to netip.AddrPort) (conn net.Conn, err error) {
	t.Helper()
	ns.Do(func() error {
		conn, err = net.DialTimeout(network, to.String(), fabrictest.Deadline)
		return nil
	})
	if err == nil {
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(fabrictest.Deadline))
	}
	return conn, err
}

// ask returns the address that the server at the other end sees the client at.
func ask(t *testing.T, ns *fabrictest.Namespace, network string, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	conn := dial(t, ns, network, to)
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
	}
	var seen string
	if _, err := fmt.Fscanln(oneByOne{conn, network}, &seen); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("answer of %s: %v", to, err)
	}
	conn.Close()
	return netip.MustParseAddrPort(seen)
}

// oneByOne leaves a stream's later bytes unread; a datagram is read whole.
type oneByOne struct {
	net.Conn
	network string
}

func (o oneByOne) Read(b []byte) (int, error) {
	if o.network == "udp" {
		buffer := make([]byte, 1<<16)
		n, err := o.Conn.Read(buffer)
		return copy(b, buffer[:n]), err
	}
	return o.Conn.Read(b[:1])
}

func counters(t *testing.T, h *fabrictest.Host) map[string]uint64 {
	t.Helper()
	all, err := h.Path.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// moved are the counters that differ, by how much.
func moved(before, after map[string]uint64) map[string]uint64 {
	changed := map[string]uint64{}
	for name, n := range after {
		if n != before[name] {
			changed[name] = n - before[name]
		}
	}
	return changed
}
