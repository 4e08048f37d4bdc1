package sockets_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
	"github.com/skep-io/skep/test/hurts/lab"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

var methods = []sockets.Method{sockets.Iterators, sockets.SockDiag}

// eachMethod runs a test with every way of closing, over a Plane of its own.
func eachMethod(t *testing.T, test func(t *testing.T, r *room)) {
	for _, method := range methods {
		t.Run(method.String(), func(t *testing.T) {
			r := &room{plane: lab.Open(t, lab.Pins(t)), host: lab.Host(t)}
			r.sweeper = newSweeper(t, sockets.Options{
				Plane: r.plane, CgroupPath: sandbox.Cgroup(), Method: method,
				Namespaces: func() []string { return r.paths },
			})
			if got := r.sweeper.Method(); got != method {
				t.Fatalf("the method is %s", got)
			}
			test(t, r)
		})
	}
}

func newSweeper(t *testing.T, o sockets.Options) *sockets.Sweeper {
	t.Helper()
	s, err := sockets.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// room is a test's Plane, a Sweeper over it, the host and its pods.
type room struct {
	plane   *service.Plane
	sweeper *sockets.Sweeper
	host    *lab.Namespace
	paths   []string
}

func (r *room) pod(t *testing.T) *lab.Namespace {
	n := lab.NewNamespace(t)
	r.paths = append(r.paths, n.Path)
	return n
}

func (r *room) set(t *testing.T, services ...service.Service) {
	t.Helper()
	for _, s := range services {
		r.plane.SetService(s)
	}
	lab.Flush(t, r.plane)
}

func (r *room) sweep(t *testing.T, want sockets.Result, targets ...sockets.Target) {
	t.Helper()
	got, err := r.sweeper.Sweep(context.Background(), targets)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("swept %v: %+v, want %+v", targets, got, want)
	}
}

func target(protocol service.Protocol, address string) sockets.Target {
	a := netip.MustParseAddrPort(address)
	return sockets.Target{Addr: a.Addr(), Port: a.Port(), Protocol: protocol}
}

// wantOpen and wantClosed read the socket's pending error.
func wantOpen(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	if errno := pending(t, conn); errno != 0 {
		t.Errorf("%s: %v, want it open", what, errno)
	}
}

func wantClosed(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	if errno := pending(t, conn); errno != unix.ECONNABORTED {
		t.Errorf("%s: error %d (%v), want ECONNABORTED", what, errno, errno)
	}
}

func pending(t *testing.T, conn net.Conn) unix.Errno {
	t.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var errno int
	if controlErr := raw.Control(func(fd uintptr) {
		errno, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	}); controlErr != nil || err != nil {
		t.Fatal(errors.Join(controlErr, err))
	}
	return unix.Errno(errno)
}

const web, echo = "10.96.0.1:80", "10.96.0.1:7"

// Exactly the sockets that connected through the service are closed, wherever they are.
func TestClosesWhatIsLeftOnADepartedBackend(t *testing.T) {
	eachMethod(t, func(t *testing.T, r *room) {
		pod := r.pod(t)
		s := lab.Service("default/echo:udp", service.UDP, echo, "127.0.1.1:7")
		six := lab.Service("default/six:udp", service.UDP, "[fd00:96::1]:7", "[fd00::1]:7")
		r.set(t, s, six)
		stale := map[string]net.Conn{
			"host":         r.host.Dial(t, "udp4", echo),
			"pod":          pod.Dial(t, "udp4", echo),
			"pod over v6":  pod.Dial(t, "udp6", "[fd00:96::1]:7"),
			"host over v6": r.host.Dial(t, "udp6", "[fd00:96::1]:7"),
		}
		other := map[string]net.Conn{
			"another port":         r.host.Dial(t, "udp4", "127.0.1.1:8"),
			"another address":      pod.Dial(t, "udp4", "127.0.1.2:7"),
			"the backend's own":    pod.Dial(t, "udp4", "127.0.1.1:7"),
			"the backend's own v6": r.host.Dial(t, "udp6", "[fd00::1]:7"),
		}
		unconnected := lab.Unconnected(t, pod)
		if _, err := unconnected.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(echo))); err != nil {
			t.Fatal(err)
		}
		all := []sockets.Target{target(service.UDP, "127.0.1.1:7"), target(service.UDP, "[fd00::1]:7")}
		r.sweep(t, sockets.Result{Served: 4, Direct: 2}, all...)

		s.Backends, six.Backends = nil, nil
		r.set(t, s, six)
		r.sweep(t, sockets.Result{Closed: 4, Direct: 2}, all...)
		for what, conn := range stale {
			wantClosed(t, what, conn)
		}
		for what, conn := range other {
			wantOpen(t, what, conn)
		}
		wantOpen(t, "unconnected", unconnected)
		r.sweep(t, sockets.Result{Direct: 2}, all...)
	})
}
