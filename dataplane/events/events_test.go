package events_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/census"
	"github.com/skep-io/skep/dataplane/events"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

// errEnough ends a Follow.
var errEnough = errors.New("enough")

// next returns the first events, which must be as many as are wanted.
func next(t *testing.T, l *events.Log, want int) []events.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.Deadline)
	defer cancel()
	var got []events.Event
	err := l.Follow(ctx, func(e events.Event) error {
		if got = append(got, e); len(got) == want {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("%d events, %v, want %d", len(got), err, want)
	}
	return got
}

func open(t *testing.T) (*service.Plane, *events.Log) {
	t.Helper()
	plane := lab.Open(t, lab.Pins(t))
	l, err := events.Open(plane, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return plane, l
}

func refused(t *testing.T, network, to string) {
	t.Helper()
	if _, err := lab.Host(t).TryDial(network, to); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("connect to %s: %v, want it refused", to, err)
	}
}

// An event has the client, what it asked for, and why it failed.
func TestTellsOfRefusedSockets(t *testing.T) {
	plane, l := open(t)
	c, err := census.New(census.Options{Plane: plane, CgroupPath: sandbox.Cgroup()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	plane.SetService(lab.Service("t/none:tcp", service.TCP, "10.96.0.1:80"))
	plane.SetService(lab.Service("t/down:udp", service.UDP, "[fd00:96::1]:53", "[fd00::1]:53"))
	plane.SetService(lab.Service("t/closed:tcp", service.TCP, "10.96.0.3:80", "127.0.1.1:80"))
	plane.SetNodeDown("node1", true)
	lab.Flush(t, plane)
	began := time.Now()
	refused(t, "tcp4", "10.96.0.1:80")
	refused(t, "udp6", "[fd00:96::1]:53")
	plane.SetNodeDown("node1", false)
	lab.Flush(t, plane)
	refused(t, "tcp4", "10.96.0.3:80")
	failed := next(t, l, 3)
	want := []events.Event{
		{Kind: "no_backend", Service: "t/none:tcp", Protocol: "TCP", Asked: netip.MustParseAddrPort("10.96.0.1:80")},
		{Kind: "backends_down", Service: "t/down:udp", Protocol: "UDP", Asked: netip.MustParseAddrPort("[fd00:96::1]:53")},
		{Kind: "backend_failed", Service: "t/closed:tcp", Protocol: "TCP", Backend: netip.MustParseAddrPort("127.0.1.1:80")},
	}
	command, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range failed {
		if got.Time.Before(began) || got.Time.After(time.Now()) {
			t.Errorf("%v has the time %s, between %s and now", got, got.Time, began)
		}
		if i < 2 {
			want[i].Process, want[i].Command = uint32(os.Getpid()), strings.TrimSpace(string(command))
		}
		got.Time = time.Time{}
		if got != want[i] {
			t.Errorf("got %+v, want %+v", got, want[i])
		}
	}
	if text := failed[2].String(); text != "t/closed:tcp: backend refused or did not answer: backend 127.0.1.1:80/TCP" {
		t.Errorf("%q", text)
	}
}

// Events of one service cannot displace those of others.
func TestTellsFewOfMany(t *testing.T) {
	plane, l := open(t)
	plane.SetService(lab.Service("t/none:tcp", service.TCP, "10.96.0.1:80"))
	plane.SetService(lab.Service("t/quiet:tcp", service.TCP, "10.96.0.2:80"))
	lab.Flush(t, plane)
	began := time.Now()
	for range 300 {
		if conn, err := net.Dial("tcp4", "10.96.0.1:80"); err == nil {
			conn.Close()
		}
	}
	seconds := int(time.Since(began)/time.Second) + 2 // a second begins between two connects
	refused(t, "tcp4", "10.96.0.2:80")
	last := events.Event{}
	loud := 0
	ctx, cancel := context.WithTimeout(context.Background(), lab.Deadline)
	defer cancel()
	err := l.Follow(ctx, func(e events.Event) error {
		if last = e; e.Service == "t/quiet:tcp" {
			return errEnough
		}
		loud++
		return nil
	})
	if !errors.Is(err, errEnough) || last.Kind != "no_backend" {
		t.Errorf("the quiet service: %+v, %v", last, err)
	}
	if loud < 8 || loud > 8*seconds {
		t.Errorf("%d of 300 connections in %d seconds were reported, want 8 a second", loud, seconds)
	}
}
