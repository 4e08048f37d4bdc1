package hurts

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

// A client that had been refused while there was no endpoint waited for its whole timeout after the first one had come: its
// retransmitted SYNs went where conntrack had sent the first. kubernetes 48719.
func TestNoHangFromZeroToOneEndpoint(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	lab.Host(t).Serve(t, service.TCP, one)
	set(t, p, lab.Service("default/web:http", service.TCP, webService))
	// The same client port all along, so that nothing could tell the attempts apart.
	connect := func() (time.Duration, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			t.Fatal(err)
		}
		// Reset at the end, so that the port is free again.
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 40719}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 96, 0, 1}, Port: 80})
		return time.Since(began), err
	}
	const atOnce = 500 * time.Millisecond // a lost SYN is sent again after 1 s
	for round := range 5 {
		if took, err := connect(); !errors.Is(err, unix.ECONNREFUSED) || took > atOnce {
			t.Errorf("round %d, no endpoint: %v after %v, want ECONNREFUSED at once", round, err, took)
		}
		set(t, p, lab.Service("default/web:http", service.TCP, webService, one))
		if took, err := connect(); err != nil || took > atOnce {
			t.Errorf("round %d, one endpoint: %v after %v", round, err, took)
		}
		set(t, p, lab.Service("default/web:http", service.TCP, webService))
	}
}

// request asks for the backend's name, and for an echo after that: a request that takes its time.
func request(address string) error {
	conn, err := net.DialTimeout("tcp4", address, lab.Deadline)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(lab.Deadline))
	if _, err := lab.ReadName(conn); err != nil {
		return err
	}
	for range 3 {
		if _, err := lab.Exchange(conn); err != nil {
			return err
		}
	}
	return nil
}

// In a rolling update requests went to pods that had already ended: rules were written seconds after the endpoints had
// changed, and nothing said when. Here a pod may end once its removal is acknowledged and earlier connects have completed.
// kubernetes 43576, 85643.
func TestRollingUpdateLosesNoRequest(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	host := lab.Host(t)
	addresses := []string{one, two, three, "127.0.1.4:8080"}
	stop := make([]func(), len(addresses))
	running := make([]service.Backend, 0, 4)
	current := func() service.Service {
		s := lab.Service("default/web:http", service.TCP, webService)
		s.Backends = append(s.Backends, running...)
		return s
	}
	for i := range 3 {
		stop[i] = host.Serve(t, service.TCP, addresses[i])
		running = append(running, lab.Backend(addresses[i]))
	}
	set(t, p, current())

	c := clients(t, 4, func() error { return request(webService) })
	for update := range 40 {
		// The new pod is ready before the old one is removed, as in a Deployment with maxUnavailable 0.
		fresh := (update + 3) % len(addresses)
		stop[fresh] = host.Serve(t, service.TCP, addresses[fresh])
		running = append(running, lab.Backend(addresses[fresh]))
		set(t, p, current())
		running[0].State = service.Terminating
		set(t, p, current())
		c.settle() // clients that chose the old one before have connected now
		stop[update%len(addresses)]()
		running = running[1:]
		set(t, p, current())
	}
	done := c.stop()
	if done < 100 {
		t.Errorf("only %d requests in 40 updates", done)
	}
	t.Logf("%d requests during 40 updates", done)
}

// load is a group of clients that ask without pause; any failure is the test's.
type load struct {
	t       *testing.T
	ask     func() error
	ending  atomic.Bool
	done    atomic.Int64
	running sync.WaitGroup
	rounds  []atomic.Int64 // requests that each client has finished
}

func clients(t *testing.T, number int, ask func() error) *load {
	l := &load{t: t, ask: ask, rounds: make([]atomic.Int64, number)}
	for i := range number {
		l.running.Go(func() {
			for !l.ending.Load() {
				if err := l.ask(); err != nil {
					t.Errorf("request %d of client %d: %v", l.rounds[i].Load(), i, err)
					l.ending.Store(true)
				}
				l.rounds[i].Add(1)
				l.done.Add(1)
			}
		})
	}
	return l
}

// settle returns when every request that was open at the call has ended.
func (l *load) settle() {
	for i := range l.rounds {
		for before := l.rounds[i].Load(); l.rounds[i].Load() == before && !l.ending.Load(); {
			unixYield()
		}
	}
}

// stop ends the clients and returns how many requests were answered.
func (l *load) stop() int64 {
	l.ending.Store(true)
	l.running.Wait()
	return l.done.Load()
}

// unixYield lets the clients run.
func unixYield() { unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
