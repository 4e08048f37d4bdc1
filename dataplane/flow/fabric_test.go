package flow

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
)

// world is a fabric whose hosts get packets from outside.
type world struct {
	*fabrictest.Fabric
	t     *testing.T
	flows []*Flows
}

func newWorld(t *testing.T, hosts int) *world {
	t.Helper()
	return openWorld(t, fabrictest.New(t, hosts))
}

func openWorld(t *testing.T, f *fabrictest.Fabric) *world {
	t.Helper()
	w := &world{Fabric: f, t: t, flows: make([]*Flows, len(f.Hosts))}
	w.Router.Do(func() error {
		for _, h := range w.Hosts {
			if err := sandbox.LikeWire(h.Name); err != nil {
				return err
			}
		}
		return nil
	})
	for i, h := range w.Hosts {
		w.open(i, nil)
		h.UseFlows(w.flows[i])
	}
	t.Cleanup(func() {
		for i, h := range w.Hosts {
			if err := errors.Join(w.flows[i].Close(), h.Try(func() error { return Remove(w.options(i).PinDir) })); err != nil {
				t.Error(err)
			}
		}
	})
	w.OpenPaths()
	return w
}

func (w *world) options(host int) Options {
	h := w.Hosts[host]
	return Options{PinDir: filepath.Join(h.Pins, "flow"), Plane: h.Plane, Uplinks: []string{"eth0"}, Overlays: h.Network.Overlays(), NodeIPs: fabrictest.NodeIPs(host)}
}

// open starts a host's flows, or restarts them.
func (w *world) open(host int, change func(*Options)) {
	w.t.Helper()
	options := w.options(host)
	if change != nil {
		change(&options)
	}
	if w.flows[host] != nil {
		if err := w.flows[host].Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.Hosts[host].Do(func() (err error) {
		w.flows[host], err = Open(options)
		return err
	})
}

// nodePort is a service at a port of every node's addresses, with the pods as backends.
func nodePort(name string, protocol service.Protocol, port uint16, pods ...*fabrictest.Pod) service.Service {
	s := service.Service{Name: name}
	for i, any := range []netip.Addr{unspecified4, unspecified6} {
		s.Frontends = append(s.Frontends, service.Frontend{Addr: any, Port: port, Protocol: protocol, Scope: service.ScopeExternal})
		for _, pod := range pods {
			s.Backends = append(s.Backends, pod.Backend(pod.Addrs[i], 8080))
		}
	}
	return s
}

// moved runs f and returns by how much a host's counters changed.
func (w *world) moved(host int, f func()) map[string]uint64 {
	w.t.Helper()
	before, err := w.flows[host].Counters()
	if err != nil {
		w.t.Fatal(err)
	}
	f()
	after, err := w.flows[host].Counters()
	if err != nil {
		w.t.Fatal(err)
	}
	changed := map[string]uint64{}
	for name, n := range after {
		if n != before[name] {
			changed[name] = n - before[name]
		}
	}
	return changed
}

// serve answers TCP connections to the pod with the address that it sees the client at, then with all that it is sent, and
// datagrams with both.
func serve(t *testing.T, pod *fabrictest.Pod) {
	t.Helper()
	serveAt(t, pod.Namespace, 8080, pod.Addrs...)
}

// serveAt is serve at any addresses of a namespace.
func serveAt(t *testing.T, ns *fabrictest.Namespace, port uint16, addrs ...netip.Addr) {
	t.Helper()
	for _, addr := range addrs {
		at := netip.AddrPortFrom(addr, port).String()
		var listener net.Listener
		var datagrams net.PacketConn
		ns.Do(func() (err error) {
			if listener, err = net.Listen("tcp", at); err != nil {
				return err
			}
			datagrams, err = net.ListenPacket("udp", at)
			return err
		})
		t.Cleanup(func() { listener.Close(); datagrams.Close() })
		go serveTCP(listener)
		go serveUDP(datagrams)
	}
}

func serveTCP(listener net.Listener) {
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
}

func serveUDP(conn net.PacketConn) {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		conn.WriteTo(append([]byte(from.String()+"\n"), buffer[:n]...), from)
	}
}

func tryDial(t *testing.T, ns *fabrictest.Namespace, network string, to netip.AddrPort) (conn net.Conn, err error) {
	t.Helper()
	ns.Do(func() error {
		conn, err = net.DialTimeout(network, to.String(), deadline)
		return nil
	})
	if err == nil {
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(deadline))
	}
	return conn, err
}

func dial(t *testing.T, ns *fabrictest.Namespace, network string, to netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := tryDial(t, ns, network, to)
	if err != nil {
		t.Fatalf("connect to %s: %v", to, err)
	}
	return conn
}

// pump sends size bytes to the server, which must come back as they were, and returns what it saw the client at.
func pump(t *testing.T, conn net.Conn, size int) netip.AddrPort {
	t.Helper()
	seen, err := tryPump(conn, size)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func tryPump(conn net.Conn, size int) (client netip.AddrPort, err error) {
	var seen string
	if _, err := fmt.Fscanln(byteReader{conn}, &seen); err != nil {
		return client, fmt.Errorf("greeting of %s: %w", conn.RemoteAddr(), err)
	}
	sent, got := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		random := mathrand.NewChaCha8([32]byte{1})
		_, err := io.Copy(io.MultiWriter(conn, sent), io.LimitReader(random, int64(size)))
		done <- err
	}()
	if n, err := io.CopyN(got, conn, int64(size)); err != nil {
		return client, fmt.Errorf("%d of %d bytes through %s: %w", n, size, conn.RemoteAddr(), err)
	}
	if err := <-done; err != nil {
		return client, err
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		return client, fmt.Errorf("%d bytes through %s came back changed", size, conn.RemoteAddr())
	}
	return netip.ParseAddrPort(seen)
}

type byteReader struct{ io.Reader }

func (r byteReader) Read(b []byte) (int, error) { return r.Reader.Read(b[:1]) }

// echo sends a datagram, up to tries times, and returns what the server saw the client at; the rest must come back as sent.
func echo(t *testing.T, conn net.Conn, size, tries int) netip.AddrPort {
	t.Helper()
	payload := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
	buffer := make([]byte, 1<<16)
	for try := 1; ; try++ {
		if _, err := conn.Write(payload); err != nil {
			t.Fatal(err)
		}
		patience := deadline
		if try < tries {
			patience = time.Second
		}
		conn.SetReadDeadline(time.Now().Add(patience))
		n, err := conn.Read(buffer)
		if err != nil && try < tries {
			continue
		}
		if err != nil {
			t.Fatalf("answer to a datagram of %d bytes to %s: %v", size, conn.RemoteAddr(), err)
		}
		seen, rest, _ := bytes.Cut(buffer[:n], []byte("\n"))
		if !bytes.Equal(rest, payload) {
			t.Errorf("a datagram of %d bytes came back with %d", size, len(rest))
		}
		return netip.MustParseAddrPort(string(seen))
	}
}
