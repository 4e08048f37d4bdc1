package sockets_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
	"github.com/skep-io/skep/test/hurts/lab"
)

// A backend is removed from one of its two services, the one whose sockets are in skep_sockets or the other: the remaining
// service's sockets stay open.
func TestLeavesTheSocketsOfAnotherService(t *testing.T) {
	for _, first := range []bool{true, false} {
		eachMethod(t, func(t *testing.T, r *room) {
			one := lab.Service("default/one:udp", service.UDP, "10.96.0.1:7", "127.0.1.1:7")
			two := lab.Service("default/two:udp", service.UDP, "10.96.0.2:7", "127.0.1.1:7")
			r.set(t, one)
			r.set(t, two)
			stays, left := r.host.Dial(t, "udp4", "10.96.0.1:7"), r.host.Dial(t, "udp4", "10.96.0.2:7")
			if first {
				one, two, stays, left = two, one, left, stays
			}
			two.Backends = nil
			r.set(t, two)
			later := r.host.Dial(t, "udp4", netip.AddrPortFrom(one.Frontends[0].Addr, 7).String())
			r.sweep(t, sockets.Result{Closed: 1, Served: 2}, target(service.UDP, "127.0.1.1:7"))
			wantClosed(t, "left", left)
			wantOpen(t, "stays", stays)
			wantOpen(t, "came later", later)
		})
	}
}

// One service with two addresses: a socket is found by the one that it asked for.
func TestClosesBySeveralAddressesOfOneService(t *testing.T) {
	eachMethod(t, func(t *testing.T, r *room) {
		s := lab.Service("default/one:udp", service.UDP, "10.96.0.1:7", "127.0.1.1:7", "127.0.1.2:7")
		s.Frontends = append(s.Frontends, lab.Frontend("192.0.2.1:7", service.UDP))
		r.set(t, s)
		for _, address := range []string{"10.96.0.1:7", "192.0.2.1:7", "10.96.0.1:7", "192.0.2.1:7"} {
			r.host.Dial(t, "udp4", address)
		}
		s.Backends = s.Backends[1:]
		r.set(t, s)
		r.sweep(t, sockets.Result{Closed: 2}, target(service.UDP, "127.0.1.1:7"))
		r.sweep(t, sockets.Result{Served: 2}, target(service.UDP, "127.0.1.2:7"))
	})
}

// A new pod got the address before the sweep: its clients stay, and so do the old
// ones, which cannot be distinguished and are served.
func TestLeavesAnAddressThatIsUsedAgain(t *testing.T) {
	eachMethod(t, func(t *testing.T, r *room) {
		old := lab.Service("default/old:udp", service.UDP, "10.96.0.1:7", "127.0.1.1:7")
		r.set(t, old)
		before := r.host.Dial(t, "udp4", "10.96.0.1:7")
		old.Backends = nil
		fresh := lab.Service("default/new:udp", service.UDP, "10.96.0.2:7", "127.0.1.1:7")
		r.set(t, old, fresh)
		after := r.host.Dial(t, "udp4", "10.96.0.2:7")
		r.sweep(t, sockets.Result{Served: 2}, target(service.UDP, "127.0.1.1:7"))
		wantOpen(t, "before", before)
		wantOpen(t, "after", after)
	})
}

// A draining backend loses its UDP sockets, and one that is ready again keeps the
// new ones.
func TestDrainingBackendLosesItsUDPSockets(t *testing.T) {
	eachMethod(t, func(t *testing.T, r *room) {
		s := lab.Service("default/echo:udp", service.UDP, echo, "127.0.1.1:7")
		r.set(t, s)
		conn := r.host.Dial(t, "udp4", echo)
		s.Backends[0].State = service.Unready
		r.set(t, s)
		s.Backends[0].State = service.Active
		r.set(t, s)
		r.sweep(t, sockets.Result{Served: 1}, target(service.UDP, "127.0.1.1:7"))
		s.Backends[0].State = service.Unready
		r.set(t, s)
		r.sweep(t, sockets.Result{Closed: 1}, target(service.UDP, "127.0.1.1:7"))
		wantClosed(t, "after draining", conn)
	})
}

// Sockets of cgroups without Skep's programs asked for the address itself.
func TestLeavesOtherCgroups(t *testing.T) {
	eachMethod(t, func(t *testing.T, r *room) {
		s := lab.Service("default/echo:udp", service.UDP, echo, "127.0.1.1:7")
		r.set(t, s)
		leave := lab.Join(t, "..")
		outside := r.host.Dial(t, "udp4", "127.0.1.1:7")
		leave()
		leave = lab.Join(t, "deep")
		inside := r.host.Dial(t, "udp4", echo)
		leave()
		s.Backends = nil
		r.set(t, s)
		r.sweep(t, sockets.Result{Closed: 1, Direct: 1}, target(service.UDP, "127.0.1.1:7"))
		wantOpen(t, "outside", outside)
		wantClosed(t, "inside", inside)
	})
}

// An AF_INET6 socket that uses IPv4 is a client of the same backend.
func TestClosesMappedSockets(t *testing.T) {
	eachMethod(t, func(t *testing.T, r *room) {
		s := lab.Service("default/echo:udp", service.UDP, echo, "127.0.1.1:7")
		r.set(t, s)
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		asked := netip.MustParseAddrPort(echo)
		if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: asked.Addr().As16(), Port: int(asked.Port())}); err != nil {
			t.Fatal(err)
		}
		s.Backends = nil
		r.set(t, s)
		r.sweep(t, sockets.Result{Closed: 1}, target(service.UDP, "127.0.1.1:7"))
		// A sender gets the error that there is no peer any more, a receiver the reason.
		if _, err := unix.Write(fd, []byte("?")); !errors.Is(err, unix.EDESTADDRREQ) {
			t.Errorf("send: %v, want EDESTADDRREQ", err)
		}
		if _, err := unix.Read(fd, make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("receive: %v, want ECONNABORTED", err)
		}
	})
}

// A namespace that ended, and one that is named twice, cause no error.
func TestPassesOverNamespacesThatAreGone(t *testing.T) {
	eachMethod(t, func(t *testing.T, r *room) {
		file := filepath.Join(t.TempDir(), "unmounted")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r.paths = []string{filepath.Join(t.TempDir(), "absent"), file}
		pod := r.pod(t)
		r.paths = append(r.paths, pod.Path, r.host.Path)
		s := lab.Service("default/echo:udp", service.UDP, echo, "127.0.1.1:7")
		r.set(t, s)
		pod.Dial(t, "udp4", echo)
		r.sweep(t, sockets.Result{Served: 1}, target(service.UDP, "127.0.1.1:7"))
	})
}

func TestRefusesWhatIsNoTarget(t *testing.T) {
	r := &room{plane: lab.Open(t, lab.Pins(t))}
	r.sweeper = newSweeper(t, sockets.Options{Plane: r.plane})
	bad := []sockets.Target{
		{},
		target(service.SCTP, "127.0.1.1:7"),
		target(service.UDP, "127.0.1.1:0"),
		target(service.UDP, "0.0.0.0:7"),
	}
	for _, b := range bad {
		if _, err := r.sweeper.Sweep(context.Background(), []sockets.Target{b}); err == nil {
			t.Errorf("%+v was taken for a target", b)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.sweeper.Sweep(ended, []sockets.Target{target(service.UDP, "127.0.1.1:7")}); !errors.Is(err, context.Canceled) {
		t.Errorf("a sweep after its context's end: %v", err)
	}
}

// A reader that waits is woken, also in a pod.
func TestWakesAReader(t *testing.T) {
	eachMethod(t, func(t *testing.T, r *room) {
		pod := r.pod(t)
		s := lab.Service("default/echo:udp", service.UDP, echo, "127.0.1.1:7")
		r.set(t, s)
		conn := pod.Dial(t, "udp4", echo)
		conn.SetDeadline(time.Now().Add(lab.Deadline))
		done := make(chan error, 1)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			done <- err
		}()
		s.Backends = nil
		r.set(t, s)
		r.sweep(t, sockets.Result{Closed: 1}, target(service.UDP, "127.0.1.1:7"))
		if err := <-done; !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("read: %v, want ECONNABORTED", err)
		}
	})
}
