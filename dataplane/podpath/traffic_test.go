package podpath_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
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
	defer conn.Close()
	if network == "udp" {
		return echoUDP(t, conn, 1)
	}
	return greeting(t, conn)
}

// greeting reads the line that serve begins with, and no more.
func greeting(t *testing.T, conn net.Conn) netip.AddrPort {
	t.Helper()
	var seen string
	if _, err := fmt.Fscanln(byteReader{conn}, &seen); err != nil {
		t.Fatalf("greeting of %s: %v", conn.RemoteAddr(), err)
	}
	return netip.MustParseAddrPort(seen)
}

type byteReader struct{ io.Reader }

func (r byteReader) Read(b []byte) (int, error) { return r.Reader.Read(b[:1]) }

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

// wantMoved fails unless exactly the named counters moved.
func wantMoved(t *testing.T, what string, before, after map[string]uint64, names ...string) {
	t.Helper()
	changed := moved(before, after)
	for _, name := range names {
		if changed[name] == 0 {
			t.Errorf("%s: counter %s did not move; those that did: %v", what, name, changed)
		}
		delete(changed, name)
	}
	if len(changed) > 0 {
		t.Errorf("%s: counters that should not have moved: %v", what, changed)
	}
}

// pump sends size bytes to an echo server and fails unless the same bytes come back.
func pump(t *testing.T, ns *fabrictest.Namespace, to netip.AddrPort, size int) {
	t.Helper()
	if err := transfer(ns, to, size); err != nil {
		t.Fatalf("%d bytes through %s: %v", size, to, err)
	}
}

func transfer(ns *fabrictest.Namespace, to netip.AddrPort, size int) error {
	var conn net.Conn
	err := ns.Try(func() (err error) {
		conn, err = net.DialTimeout("tcp", to.String(), fabrictest.Deadline)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(fabrictest.Deadline))
	var seen string
	if _, err := fmt.Fscanln(byteReader{conn}, &seen); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	sent, got := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		random := mathrand.NewChaCha8([32]byte{1})
		_, err := io.Copy(io.MultiWriter(conn, sent), io.LimitReader(random, int64(size)))
		done <- err
	}()
	if _, err := io.CopyN(got, conn, int64(size)); err != nil {
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		return errors.New("they came back changed")
	}
	return nil
}

// echoUDP sends a datagram to a serveUDP and returns what the server saw the client at; the rest must come back as sent.
func echoUDP(t *testing.T, conn net.Conn, size int) netip.AddrPort {
	t.Helper()
	payload := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
	if _, err := conn.Write(payload); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 1<<16)
	n, err := conn.Read(buffer)
	if err != nil {
		t.Fatalf("answer to a datagram of %d bytes: %v", size, err)
	}
	seen, rest, _ := bytes.Cut(buffer[:n], []byte("\n"))
	if !bytes.Equal(rest, payload) {
		t.Errorf("a datagram of %d bytes came back with %d", size, len(rest))
	}
	return netip.MustParseAddrPort(string(seen))
}

// serviceFor is a service of each family with the given backends' pods at one port.
func serviceFor(name string, protocol service.Protocol, port, targetPort uint16, pods ...*fabrictest.Pod) (service.Service, []netip.AddrPort) {
	addrs := []netip.AddrPort{
		netip.AddrPortFrom(netip.MustParseAddr("10.96.0.7"), port),
		netip.AddrPortFrom(netip.MustParseAddr("fd00:10:96::7"), port),
	}
	s := service.Service{Name: name}
	for i, addr := range addrs {
		s.Frontends = append(s.Frontends, service.Frontend{Addr: addr.Addr(), Port: port, Protocol: protocol, Scope: service.ScopeCluster})
		for _, pod := range pods {
			s.Backends = append(s.Backends, pod.Backend(pod.Addrs[i], targetPort))
		}
	}
	return s, addrs
}

// neighbourTalk are the counters of packets that hosts on a link send each other at any time.
const neighbourTalk = "from_uplink/not_ip from_uplink/stack to_uplink/stack from_pod/neighbour to_pod/neighbour"

// wantMovedBeside is wantMoved where some counters may have moved or not.
func wantMovedBeside(t *testing.T, what string, before, after map[string]uint64, allowed string, names ...string) {
	t.Helper()
	after = maps.Clone(after)
	for _, name := range strings.Fields(allowed) {
		if !slices.Contains(names, name) {
			after[name] = before[name]
		}
	}
	wantMoved(t, what, before, after, names...)
}
