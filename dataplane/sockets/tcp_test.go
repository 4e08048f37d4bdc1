package sockets_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
	"github.com/skep-io/skep/test/hurts/lab"
)

const backendAddr = "10.244.9.2:80"

// far gives the room a pod whose backend's host can be cut off.
func (r *room) far(t *testing.T) (pod *lab.Namespace, cut func()) {
	pod = r.pod(t)
	elsewhere := lab.NewNamespace(t)
	cut = lab.Link(t, pod, netip.MustParseAddr("10.244.1.2"), elsewhere, netip.MustParseAddr("10.244.9.2"))
	elsewhere.Serve(t, service.TCP, backendAddr)
	elsewhere.Serve(t, service.UDP, backendAddr)
	r.set(t, lab.Service("default/web:tcp", service.TCP, web, backendAddr),
		lab.Service("default/web:udp", service.UDP, web, backendAddr))
	return pod, cut
}

// connecting begins a connect that gets no answer.
func connecting(t *testing.T, pod *lab.Namespace, address string) (fd int) {
	t.Helper()
	err := pod.Try(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
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
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func errorOf(t *testing.T, fd int) unix.Errno {
	t.Helper()
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		t.Fatal(err)
	}
	return unix.Errno(errno)
}

// A host fails without sending a packet: clients that wait for it get an error at once.
func TestClosesConnectionsToADownNode(t *testing.T) {
	eachMethod(t, func(t *testing.T, r *room) {
		pod, cut := r.far(t)
		conn, datagrams := pod.Dial(t, "tcp4", web), pod.Dial(t, "udp4", web)
		if name, err := lab.ReadName(conn); err != nil || name != backendAddr {
			t.Fatalf("answered by %q, %v", name, err)
		}
		cut()
		waits := connecting(t, pod, web)
		sweep := func(want sockets.Result) {
			t.Helper()
			if got, err := r.sweeper.SweepDownNodes(context.Background()); err != nil || got != want {
				t.Errorf("%+v, %v, want %+v", got, err, want)
			}
		}
		sweep(sockets.Result{})
		r.plane.SetNodeDown("node2", true)
		lab.Flush(t, r.plane)
		sweep(sockets.Result{})
		wantOpen(t, "while another node is down", conn)
		r.plane.SetNodeDown("node1", true)
		lab.Flush(t, r.plane)
		sweep(sockets.Result{Closed: 3})
		wantClosed(t, "UDP", datagrams)
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("read: %v, want ECONNABORTED", err)
		}
		if errno := errorOf(t, waits); errno != unix.ECONNABORTED {
			t.Errorf("connect: %v, want ECONNABORTED", errno)
		}
		sweep(sockets.Result{})
	})
}

// A TCP backend that was only removed from the service keeps the connections that it has answered.
func TestConnectingTargetsKeepTheirConnections(t *testing.T) {
	eachMethod(t, func(t *testing.T, r *room) {
		pod, cut := r.far(t)
		conn := pod.Dial(t, "tcp4", web)
		cut()
		waits := connecting(t, pod, web)
		r.set(t, lab.Service("default/web:tcp", service.TCP, web))
		left := target(service.TCP, backendAddr)
		left.Connecting = true
		r.sweep(t, sockets.Result{Closed: 1, Alive: 1}, left)
		wantOpen(t, "connected", conn)
		if errno := errorOf(t, waits); errno != unix.ECONNABORTED {
			t.Errorf("connect: %v, want ECONNABORTED", errno)
		}
		r.sweep(t, sockets.Result{Closed: 1}, left, target(service.TCP, backendAddr))
		wantClosed(t, "connected, and the backend gone", conn)
	})
}

// Run closes clients' sockets after a departure or a node's failure by itself.
func TestRunFollowsThePlane(t *testing.T) {
	r := &room{plane: lab.Open(t, lab.Pins(t)), host: lab.Host(t)}
	r.sweeper = newSweeper(t, sockets.Options{
		Plane: r.plane, CgroupPath: sandbox.Cgroup(), Namespaces: func() []string { return r.paths },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.sweeper.Run(ctx) }()
	defer func() { cancel(); <-done }()

	pod, cut := r.far(t)
	s := lab.Service("default/echo:udp", service.UDP, echo, "127.0.1.1:7", "127.0.1.2:7")
	r.set(t, s)
	first, second := pod.Dial(t, "udp4", echo), pod.Dial(t, "udp4", echo)
	read := func(conn interface{ Read([]byte) (int, error) }) error {
		_, err := conn.Read(make([]byte, 64))
		return err
	}
	s.Backends = s.Backends[1:]
	began := time.Now()
	r.plane.SetService(s)
	if err := read(first); !errors.Is(err, unix.ECONNABORTED) {
		t.Fatalf("read from the backend that left: %v, want ECONNABORTED", err)
	}
	t.Logf("error after %v", time.Since(began))
	conn := pod.Dial(t, "tcp4", web)
	if _, err := lab.ReadName(conn); err != nil {
		t.Fatal(err)
	}
	cut()
	began = time.Now()
	r.plane.SetNodeDown("node1", true)
	r.sweeper.NodeDown()
	if err := read(conn); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("read from the node that died: %v, want ECONNABORTED", err)
	}
	t.Logf("error after %v", time.Since(began))
	if err := read(second); !errors.Is(err, unix.ECONNABORTED) { // the same node's
		t.Errorf("read: %v, want ECONNABORTED", err)
	}
}

// A connect whose backend is removed before it answers fails in seconds, not after two minutes; answered connections stay.
func TestRunEndsConnectsThatNobodyAnswers(t *testing.T) {
	r := &room{plane: lab.Open(t, lab.Pins(t)), host: lab.Host(t)}
	r.sweeper = newSweeper(t, sockets.Options{
		Plane: r.plane, CgroupPath: sandbox.Cgroup(), Namespaces: func() []string { return r.paths },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.sweeper.Run(ctx) }()
	defer func() { cancel(); <-done }()
	pod, cut := r.far(t)
	conn := pod.Dial(t, "tcp4", web)
	cut()
	waits := connecting(t, pod, web)
	began := time.Now()
	r.plane.DeleteService("default/web:tcp")
	poll := []unix.PollFd{{Fd: int32(waits), Events: unix.POLLOUT}}
	if n, err := unix.Poll(poll, int(lab.Deadline.Milliseconds())); n != 1 || err != nil {
		t.Fatalf("the connect goes on: %v", err)
	}
	if errno := errorOf(t, waits); errno != unix.ECONNABORTED {
		t.Errorf("connect: %v, want ECONNABORTED", errno)
	}
	t.Logf("error after %v", time.Since(began))
	wantOpen(t, "connected", conn)
}
