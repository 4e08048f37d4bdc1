package census_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/census"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

// room is a Plane, a Census over it, and the host.
type room struct {
	t      *testing.T
	plane  *service.Plane
	census *census.Census
	host   *lab.Namespace
}

func newRoom(t *testing.T) *room {
	t.Helper()
	r := &room{t: t, plane: lab.Open(t, lab.Pins(t)), host: lab.Host(t)}
	var err error
	if r.census, err = census.New(census.Options{Plane: r.plane, CgroupPath: sandbox.Cgroup()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.census.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *room) set(services ...service.Service) {
	r.t.Helper()
	for _, s := range services {
		r.plane.SetService(s)
	}
	lab.Flush(r.t, r.plane)
}

// sockets counts what is connected, by service and backend.
func (r *room) sockets() map[string]census.Connected {
	r.t.Helper()
	dump, err := r.plane.Dump()
	if err != nil {
		r.t.Fatal(err)
	}
	names := map[uint32]string{}
	for _, s := range dump.Services {
		names[s.ID] = s.Name
	}
	counted, err := r.census.CountNow()
	if err != nil {
		r.t.Fatal(err)
	}
	found := map[string]census.Connected{}
	for key, c := range counted {
		found[names[key.Service]+" "+key.Backend.String()] = c
	}
	return found
}

func (r *room) want(when string, sockets map[string]uint32) {
	r.t.Helper()
	found := r.sockets()
	for key, n := range sockets {
		if found[key].Sockets != n {
			r.t.Errorf("%s: %s has %d sockets, want %d", when, key, found[key].Sockets, n)
		}
		delete(found, key)
	}
	for key, c := range found {
		r.t.Errorf("%s: %s has %+v, want nothing", when, key, c)
	}
}

const first, second = "127.0.1.1:80", "127.0.1.2:80"

// Every socket that asked for a service counts once, for that service, as long as it is open.
func TestCountsSockets(t *testing.T) {
	r := newRoom(t)
	pod := lab.NewNamespace(t)
	for _, n := range []*lab.Namespace{r.host, pod} {
		for _, address := range []string{first, second, "[fd00::1]:80"} {
			n.Serve(t, service.TCP, address)
		}
	}
	web := lab.Service("t/web:tcp", service.TCP, "10.96.0.1:80", first, second)
	web.Frontends = append(web.Frontends, lab.Frontend("192.0.2.1:80", service.TCP))
	web.Selection = service.LeastConnections
	other := lab.Service("t/other:tcp", service.TCP, "10.96.0.2:80", first) // shares a backend
	six := lab.Service("t/six:tcp", service.TCP, "[fd00:96::1]:80", "[fd00::1]:80")
	dns := lab.Service("t/dns:udp", service.UDP, "10.96.0.1:53", "127.0.1.1:53")
	r.set(web)
	r.set(other, six, dns)
	r.want("at first", nil)

	var open []net.Conn
	dial := func(n *lab.Namespace, network, to string, times int) {
		for range times {
			open = append(open, n.Dial(t, network, to))
		}
	}
	dial(r.host, "tcp4", "10.96.0.1:80", 4)
	dial(pod, "tcp4", "192.0.2.1:80", 2)
	dial(pod, "tcp4", "10.96.0.2:80", 3)
	dial(pod, "tcp6", "[fd00:96::1]:80", 5)
	dial(r.host, "udp4", "10.96.0.1:53", 6)
	want := map[string]uint32{
		"t/web:tcp " + first: 3, "t/web:tcp " + second: 3, "t/other:tcp " + first: 3,
		"t/six:tcp [fd00::1]:80": 5, "t/dns:udp 127.0.1.1:53": 6,
	}
	r.want("open", want)

	// Not of a service: the backend's own address, another cgroup, a socket that only sends.
	r.host.Dial(t, "tcp4", first)
	leave := lab.Join(t, "..")
	r.host.Dial(t, "tcp4", second)
	leave()
	unconnected := lab.Unconnected(t, pod)
	if _, err := unconnected.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.96.0.1:53"))); err != nil {
		t.Fatal(err)
	}
	// The same socket in another file.
	copied, err := open[0].(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	r.want("with others beside them", want)
	open[0].Close()
	r.want("one file of two closed", want)
	copied.Close()
	want["t/web:tcp "+first]--
	r.want("both closed", want)

	// Both ends have sent FIN: the connection has ended, though its owner keeps the file.
	if err := open[1].(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	greeting, err := io.ReadAll(open[1])
	if err != nil {
		t.Fatal(err)
	}
	want["t/web:tcp "+strings.TrimSpace(string(greeting))]--
	r.want("over", want)
	for _, conn := range open[1:] {
		conn.Close()
	}
	r.want("all closed", nil)
}

// The mean of what TCP itself reports of its connections.
func TestRoundTrips(t *testing.T) {
	r := newRoom(t)
	r.host.Serve(t, service.TCP, first)
	r.set(lab.Service("t/web:tcp", service.TCP, "10.96.0.1:80", first))
	var sum time.Duration
	for range 3 {
		conn := r.host.Dial(t, "tcp4", "10.96.0.1:80")
		if _, err := lab.ReadName(conn); err != nil {
			t.Fatal(err)
		}
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var info *unix.TCPInfo
		if controlErr := raw.Control(func(fd uintptr) {
			info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		}); controlErr != nil || err != nil {
			t.Fatal(errors.Join(controlErr, err))
		}
		sum += time.Duration(info.Rtt) * time.Microsecond
	}
	got := r.sockets()["t/web:tcp "+first]
	if got.Timed != 3 || got.RoundTrip != sum/3 || sum == 0 {
		t.Errorf("%+v, want 3 connections with a mean of %s", got, sum/3)
	}
}

// failures are what services and their backends count.
func (r *room) failures() map[string]uint64 {
	r.t.Helper()
	dump, err := r.plane.Dump()
	if err != nil {
		r.t.Fatal(err)
	}
	counted := map[string]uint64{}
	for _, s := range dump.Services {
		counted[s.Name] = s.Failed
	}
	for _, b := range dump.Backends {
		counted[b.Service+" "+b.Address.String()] = b.Failed
	}
	return counted
}

func (r *room) wantFailures(when string, want map[string]uint64) {
	r.t.Helper()
	got := r.failures()
	for key, n := range got {
		if n != want[key] {
			r.t.Errorf("%s: %s counts %d failures, want %d", when, key, n, want[key])
		}
	}
}

// A connection fails if its backend refuses it or leaves it unanswered until the kernel or its owner gives up.
func TestCountsFailures(t *testing.T) {
	r := newRoom(t)
	pod, far := lab.NewNamespace(t), lab.NewNamespace(t)
	cut := lab.Link(t, pod, netip.MustParseAddr("10.244.1.2"), far, netip.MustParseAddr("10.244.9.2"))
	r.host.Serve(t, service.TCP, first)
	web := lab.Service("t/web:tcp", service.TCP, "10.96.0.1:80", first, second) // the second has no server
	other := lab.Service("t/other:tcp", service.TCP, "10.96.0.2:80", second)
	lost := lab.Service("t/lost:tcp", service.TCP, "10.96.0.3:80", "10.244.9.2:80")
	dns := lab.Service("t/dns:udp", service.UDP, "10.96.0.1:53", second)
	none := lab.Service("t/none:tcp", service.TCP, "10.96.0.4:80")
	r.set(web)
	r.set(other, lost, dns, none)
	want := map[string]uint64{}
	refused := func(to string) {
		t.Helper()
		if _, err := r.host.TryDial("tcp4", to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connect to %s: %v, want it refused", to, err)
		}
	}
	for range 8 { // half of them
		if conn, err := r.host.TryDial("tcp4", "10.96.0.1:80"); err == nil {
			conn.Close()
		}
	}
	want["t/web:tcp"], want["t/web:tcp "+second] = 4, 4
	r.wantFailures("refused by one of two", want)

	refused("10.96.0.2:80")
	refused("10.96.0.2:80")
	refused("10.96.0.4:80") // by no backend
	refused(second)         // asked for itself
	want["t/other:tcp"], want["t/other:tcp "+second] = 2, 2
	r.wantFailures("refused by a shared backend", want)

	datagrams := r.host.Dial(t, "udp4", "10.96.0.1:53")
	if _, err := lab.Exchange(datagrams); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("UDP: %v, want it refused", err)
	}
	want["t/dns:udp"], want["t/dns:udp "+second] = 1, 1
	r.wantFailures("UDP refused", want)

	cut()
	given := connecting(t, pod, "10.96.0.3:80", 0)
	r.wantFailures("while it waits", want)
	unix.Close(given)
	want["t/lost:tcp"], want["t/lost:tcp 10.244.9.2:80"] = 1, 1
	r.wantFailures("given up by its owner", want)

	timed := connecting(t, pod, "10.96.0.3:80", 100*time.Millisecond)
	defer unix.Close(timed)
	poll := []unix.PollFd{{Fd: int32(timed), Events: unix.POLLOUT}}
	if n, err := unix.Poll(poll, int(lab.Deadline.Milliseconds())); n != 1 || err != nil {
		t.Fatalf("the connect goes on: %v", err)
	}
	want["t/lost:tcp"], want["t/lost:tcp 10.244.9.2:80"] = 2, 2
	r.wantFailures("given up by the kernel", want)

	// An answered connection that is reset later does not count as failed.
	rude := lab.Service("t/rude:tcp", service.TCP, "10.96.0.5:80", "127.0.1.3:80")
	r.set(rude)
	listener, err := net.Listen("tcp4", "127.0.1.3:80")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn := r.host.Dial(t, "tcp4", "10.96.0.5:80")
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted.(*net.TCPConn).SetLinger(0)
	accepted.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read: %v, want a reset", err)
	}
	r.wantFailures("reset after it was answered", want)
	r.want("reset", map[string]uint32{"t/dns:udp " + second: 1})
}

// connecting begins a connect that gets no answer, and which the kernel gives up after a time. 0: its default.
func connecting(t *testing.T, n *lab.Namespace, address string, after time.Duration) (fd int) {
	t.Helper()
	err := n.Try(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds())); err != nil {
			return err
		}
		to := netip.MustParseAddrPort(address)
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		if !errors.Is(err, unix.EINPROGRESS) {
			return errors.Join(errors.New("connect did not have to wait"), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
