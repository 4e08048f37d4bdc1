package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
)

// Open opens a Plane over the lab's cgroup and removes it when the test ends.
func Open(tb testing.TB, pins string) *service.Plane {
	tb.Helper()
	p, err := service.Open(service.Options{PinDir: pins, CgroupPath: sandbox.Cgroup()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		p.Close()
		if err := service.Remove(pins); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// Flush waits until the maps hold all that the Plane was given.
func Flush(tb testing.TB, p *service.Plane) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Deadline)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		tb.Fatal(err)
	}
}

// Frontend reads "10.96.0.1:80".
func Frontend(address string, protocol service.Protocol) service.Frontend {
	a := netip.MustParseAddrPort(address)
	return service.Frontend{Addr: a.Addr(), Port: a.Port(), Protocol: protocol}
}

// Backend reads "10.244.1.2:8080".
func Backend(address string) service.Backend {
	a := netip.MustParseAddrPort(address)
	return service.Backend{Addr: a.Addr(), Port: a.Port(), Node: "node1"}
}

// Service has one frontend.
func Service(name string, protocol service.Protocol, address string, backends ...string) service.Service {
	s := service.Service{Name: name, Frontends: []service.Frontend{Frontend(address, protocol)}}
	for _, b := range backends {
		s.Backends = append(s.Backends, Backend(b))
	}
	return s
}

// Serve answers every connection, or datagram, at an address with that address,
// until stop or the end of the test.
func (n *Namespace) Serve(tb testing.TB, protocol service.Protocol, address string) (stop func()) {
	tb.Helper()
	if protocol == service.UDP {
		return n.serveUDP(tb, address)
	}
	var listener net.Listener
	n.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	tb.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.WriteString(conn, address+"\n")
				io.Copy(conn, conn)
			}()
		}
	}()
	return func() { listener.Close() }
}

func (n *Namespace) serveUDP(tb testing.TB, address string) (stop func()) {
	tb.Helper()
	var conn net.PacketConn
	n.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	tb.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 512)
		for {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			conn.WriteTo([]byte(address), from)
		}
	}()
	return func() { conn.Close() }
}

// Dial connects from the namespace. The connection ends with the test.
func (n *Namespace) Dial(tb testing.TB, network, address string) net.Conn {
	tb.Helper()
	conn, err := n.TryDial(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

// TryDial connects from the namespace, for any goroutine; the caller closes the connection.
func (n *Namespace) TryDial(network, address string) (conn net.Conn, err error) {
	err = n.Try(func() error {
		conn, err = net.DialTimeout(network, address, Deadline)
		return err
	})
	if err == nil {
		conn.SetDeadline(time.Now().Add(Deadline))
	}
	return conn, err
}

// Ask connects over TCP and returns the address of the backend that answered.
func (n *Namespace) Ask(network, address string) (backend string, err error) {
	err = n.Try(func() error {
		backend, err = Ask(network, address)
		return err
	})
	return backend, err
}

// Ask is Namespace.Ask from the host, without a thread for each call.
func Ask(network, address string) (backend string, err error) {
	conn, err := net.DialTimeout(network, address, Deadline)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(Deadline))
	return ReadName(conn)
}

// ReadName returns the name that a TCP backend says first.
func ReadName(conn net.Conn) (string, error) {
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

// Exchange sends a datagram over a connected socket and returns the answer.
func Exchange(conn net.Conn) (answer string, err error) {
	conn.SetDeadline(time.Now().Add(Deadline))
	if _, err := conn.Write([]byte("?")); err != nil {
		return "", fmt.Errorf("send: %w", err)
	}
	buffer := make([]byte, 512)
	read, err := conn.Read(buffer)
	if err != nil {
		return "", fmt.Errorf("receive: %w", err)
	}
	return string(buffer[:read]), nil
}

// PeerName asks the kernel whom a connection leads to, as getpeername does.
func PeerName(conn net.Conn) (string, error) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return "", err
	}
	var peer unix.Sockaddr
	if controlErr := raw.Control(func(fd uintptr) { peer, err = unix.Getpeername(int(fd)) }); controlErr != nil {
		return "", controlErr
	}
	switch peer := peer.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(peer.Addr), uint16(peer.Port)).String(), err
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(peer.Addr).Unmap(), uint16(peer.Port)).String(), err
	}
	return "", err
}

// Unconnected is a UDP socket that names its peer with every datagram.
func Unconnected(tb testing.TB, n *Namespace) *net.UDPConn {
	tb.Helper()
	var conn *net.UDPConn
	n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", nil)
		return err
	})
	tb.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(Deadline))
	return conn
}

// Sink takes datagrams at an address and never answers.
func (n *Namespace) Sink(tb testing.TB, address string) {
	tb.Helper()
	var conn net.PacketConn
	n.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	tb.Cleanup(func() { conn.Close() })
}
