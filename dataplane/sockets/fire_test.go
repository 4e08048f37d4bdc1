package sockets_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
	"github.com/skep-io/skep/test/hurts/lab"
)

// Backends are added and removed while sockets on the host and in pods connect: each closed socket had lost its backend since it
// connected, and at the end none is connected to a removed backend.
func TestExactlyThoseUnderFire(t *testing.T) {
	for _, method := range methods {
		t.Run(method.String(), func(t *testing.T) { underFire(t, method) })
	}
}

const fireBackends, fireChanges = 6, 300

func fireBackend(i int) string { return fmt.Sprintf("127.0.4.%d:7", 1+i%fireBackends) }

func underFire(t *testing.T, method sockets.Method) {
	r := &room{plane: lab.Open(t, lab.Pins(t)), host: lab.Host(t)}
	places := []*lab.Namespace{r.host, r.pod(t), r.pod(t)}
	for _, place := range places {
		for i := range fireBackends {
			place.Serve(t, service.UDP, fireBackend(i))
		}
	}
	r.sweeper = newSweeper(t, sockets.Options{
		Plane: r.plane, CgroupPath: sandbox.Cgroup(), Method: method, Namespaces: func() []string { return r.paths },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.sweeper.Run(ctx) }()
	defer func() { cancel(); <-done }()

	// Departures of each backend: those that the Plane may have got, and those that it has acknowledged. A
	// socket that connects after the second count is closed because of one above it.
	given, acknowledged := map[string]*atomic.Int64{}, map[string]*atomic.Int64{}
	for i := range fireBackends {
		given[fireBackend(i)], acknowledged[fireBackend(i)] = &atomic.Int64{}, &atomic.Int64{}
	}
	var ending atomic.Bool
	var opened, closed atomic.Int64
	var connecting, reading sync.WaitGroup
	r.set(t, lab.Service("default/echo:udp", service.UDP, echo, fireBackend(0), fireBackend(1), fireBackend(2)))
	for _, place := range places {
		connecting.Go(func() {
			for !ending.Load() {
				before := map[string]int64{}
				for name, count := range acknowledged {
					before[name] = count.Load()
				}
				conn, err := place.TryDial("udp4", echo)
				if err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				name, err := lab.Exchange(conn)
				if errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EDESTADDRREQ) {
					conn.Close() // it has lost its backend already, whichever that was
					continue
				}
				if err != nil {
					t.Errorf("exchange: %v", err)
					return
				}
				opened.Add(1)
				reading.Go(func() {
					defer conn.Close()
					conn.SetDeadline(time.Now().Add(lab.Deadline))
					_, err := conn.Read(make([]byte, 1))
					if !errors.Is(err, unix.ECONNABORTED) {
						t.Errorf("left on %s: %v", name, err)
					} else if given[name].Load() == before[name] {
						t.Errorf("closed although %s had not left", name)
					}
					closed.Add(1)
				})
			}
		})
	}
	for change := 1; change <= fireChanges; change++ {
		given[fireBackend(change-1)].Add(1)
		r.set(t, lab.Service("default/echo:udp", service.UDP, echo,
			fireBackend(change), fireBackend(change+1), fireBackend(change+2)))
		acknowledged[fireBackend(change-1)].Add(1)
		for seen := opened.Load(); change%3 == 0 && opened.Load() < seen+3 && !t.Failed(); {
			unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
	ending.Store(true)
	connecting.Wait()
	for _, count := range given {
		count.Add(1)
	}
	r.set(t, lab.Service("default/echo:udp", service.UDP, echo))
	reading.Wait()
	cancel()
	<-done // a sweep adds to the totals when it ends
	t.Logf("%d sockets in %d changes", opened.Load(), fireChanges)
	if got := r.sweeper.Totals(); got.Closed < uint64(closed.Load()) || got.Refused > 0 || got.Direct > 0 {
		t.Errorf("%d sockets were closed, counted as %+v", closed.Load(), got)
	}
}
