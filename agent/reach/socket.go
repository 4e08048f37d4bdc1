package reach

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/flow"
)

// probeSocket sends probes from one of this node's addresses and reads their answers. It never waits, and is used by one goroutine.
type probeSocket struct {
	fd     int
	local  netip.AddrPort
	key    flow.ProbeKey
	buffer [256]byte
	out    []byte
}

func openProbeSocket(addr netip.Addr, key flow.ProbeKey) (*probeSocket, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket of probes: %w", err)
	}
	s := &probeSocket{fd: fd, key: key}
	if err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(addr, 0))); err == nil {
		var bound unix.Sockaddr
		if bound, err = unix.Getsockname(fd); err == nil {
			s.local = addrPort(bound)
		}
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("socket of probes at %s: %w", addr, err)
	}
	return s, nil
}

func (s *probeSocket) close() { _ = unix.Close(s.fd) }

// send says whether the probe has left. What the kernel reports of earlier ones (an ICMP error) has nothing to do with this one; a local
// shortage, or no route, means that it has not left.
func (s *probeSocket) send(nonce uint64, to netip.AddrPort) bool {
	s.out = s.key.AppendProbe(s.out[:0], nonce, s.local, to)
	for range 3 {
		switch err := unix.Sendto(s.fd, s.out, unix.MSG_DONTWAIT, sockaddr(to)); {
		case err == nil:
			return true
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EHOSTUNREACH):
			return false
		case errors.Is(err, unix.EHOSTUNREACH):
			return true // the neighbour does not answer the kernel either
		}
	}
	return false
}

// drain calls answered for every answer that is there.
func (s *probeSocket) drain(answered func(from netip.AddrPort, nonce uint64)) {
	for range 4096 {
		n, from, err := unix.Recvfrom(s.fd, s.buffer[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier probe, or a signal
		}
		source := addrPort(from)
		if nonce, ok := s.key.ParseAnswer(s.buffer[:n], source, s.local); ok {
			answered(source, nonce)
		}
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
