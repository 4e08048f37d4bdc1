package service

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Many threads at once: a turn is neither lost nor taken twice.
func TestConcurrentConnectsShareEvenly(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	backends := append(slices.Clone(three), "127.0.1.4:8080", "127.0.1.5:8080", "127.0.1.6:8080", "127.0.1.7:8080")
	p.SetService(serviceOf("default/echo:udp", UDP, "10.96.0.1:80", backends...))
	flush(t, p)
	const workers, each = 16, 62_500 // a million
	var group sync.WaitGroup
	errs := make(chan error, workers)
	for range workers {
		group.Go(func() { errs <- connectMany(each) })
	}
	group.Wait()
	for range workers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	d := dump(t, p)
	least, most, sum := uint64(1<<63), uint64(0), uint64(0)
	for _, b := range d.Backends {
		least, most, sum = min(least, b.Connections), max(most, b.Connections), sum+b.Connections
	}
	if sum != workers*each || d.Services[0].Connections != sum {
		t.Errorf("%d connections counted at backends, %d at the service, %d made", sum, d.Services[0].Connections, workers*each)
	}
	if most-least > uint64(runtime.NumCPU()) {
		t.Errorf("shares from %d to %d differ by more than %d CPUs", least, most, runtime.NumCPU())
	}
}

// connectMany connects one UDP socket again and again: the hook without the
// cost of TCP.
func connectMany(times int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Addr: [4]byte{10, 96, 0, 1}, Port: 80}
	for i := range times {
		if err := unix.Connect(fd, to); err != nil {
			return fmt.Errorf("connect %d: %w", i, err)
		}
	}
	return nil
}

// Endpoints change while clients connect: nobody is refused, nobody reaches a
// backend whose removal Flush has acknowledged, nobody another service's.
func TestNoConnectionFailsWhileEndpointsChange(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	const changes = 1000
	service := func(change int) Service {
		// A window of two that moves over eight: each change adds and removes.
		return serviceOf("default/echo:http", TCP, "10.96.0.1:80", rotating(change), rotating(change+1))
	}
	for i := range 8 {
		serve(t, TCP, rotating(i))
	}
	serve(t, TCP, "127.0.9.9:8080")
	other := serviceOf("default/other:http", TCP, "10.96.0.2:80", "127.0.9.9:8080")
	p.SetService(service(0))
	p.SetService(other)
	flush(t, p)

	var acknowledged atomic.Int64 // the change that the maps hold at least
	var announced atomic.Int64    // the change that they hold at most
	stop := make(chan struct{})
	var group sync.WaitGroup
	var connections atomic.Int64
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				first := int(acknowledged.Load())
				from, err := ask("tcp4", "10.96.0.1:80")
				last := int(announced.Load())
				connections.Add(1)
				if err != nil {
					t.Errorf("during change %d: %v", first, err)
					return
				}
				allowed := false
				for change := first; change <= last+1; change++ {
					allowed = allowed || from == rotating(change)
				}
				if !allowed {
					t.Errorf("change %d was acknowledged and %d announced, answered by %s", first, last, from)
					return
				}
			}
		})
	}
	for change := 1; change <= changes; change++ {
		announced.Store(int64(change))
		p.SetService(service(change))
		if change%2 == 0 { // reuse of ids and runs by a neighbour
			other.Backends[0].State = State(change / 2 % 2)
			p.SetService(other)
		}
		flush(t, p)
		acknowledged.Store(int64(change))
		for seen := connections.Load(); change%50 == 0 && connections.Load() < seen+4 && !t.Failed(); {
			runtime.Gosched() // let clients in between changes too
		}
	}
	close(stop)
	group.Wait()
	if n := connections.Load(); n < changes/10 {
		t.Errorf("only %d connections ran against %d changes", n, changes)
	}
	t.Logf("%d connections during %d changes", connections.Load(), changes)
	d := dump(t, p)
	if len(d.Backends) != 3 {
		t.Errorf("%d backends left, want 3: %+v", len(d.Backends), d.Backends)
	}
}

func rotating(i int) string {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 2, byte(1 + i%8)}), 8080).String()
}
