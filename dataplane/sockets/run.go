package sockets

import (
	"context"
	"time"

	"github.com/skep-io/skep/dataplane/service"
)

const (
	// gather is how long departures are collected for one sweep: a departure
	// rarely comes alone, and a sweep costs the same for many.
	gather = 5 * time.Millisecond
	// settle is after how long a sweep is repeated. By then a connect that had
	// chosen the backend before its removal is a socket that a sweep finds, and a
	// TCP socket that its backend has not answered will not be answered.
	settle = 2 * time.Second
)

// NodeDown says that SetNodeDown has marked a node in the Plane: Run closes the
// sockets that are connected to its backends.
func (s *Sweeper) NodeDown() {
	select {
	case s.nodeDown <- struct{}{}:
	default:
	}
}

// work is what one sweep has to search for.
type work struct {
	targets []Target
	nodes   bool
}

func (w *work) empty() bool { return len(w.targets) == 0 && !w.nodes }

// Run reads the Plane's departures until ctx ends or the Plane is closed, and
// sweeps for each, at once and again when everything has settled. What could not
// be swept is logged, and is swept by the repetition.
func (s *Sweeper) Run(ctx context.Context) {
	gone := s.options.Plane.Gone()
	var now, later work
	soon, settled := stopped(), stopped()
	defer soon.Stop()
	defer settled.Stop()
	// What arrives while a repetition is due waits for the next one.
	var next work
	for {
		select {
		case <-ctx.Done():
			return
		case departure, open := <-gone:
			if !open {
				return
			}
			now.targets = append(now.targets, targetsOf(departure)...)
			soon.Reset(gather)
		case <-s.nodeDown:
			now.nodes = true
			soon.Reset(gather)
		case <-soon.C:
			s.work(ctx, work{targets: atOnce(now.targets), nodes: now.nodes})
			if later.empty() {
				later = now
				settled.Reset(settle)
			} else {
				next.targets = append(next.targets, now.targets...)
				next.nodes = next.nodes || now.nodes
			}
			now = work{}
		case <-settled.C:
			s.work(ctx, later)
			if later, next = next, (work{}); !later.empty() {
				settled.Reset(settle)
			}
		}
	}
}

func stopped() *time.Timer {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return timer
}

// targetsOf returns the targets of a departure. A TCP backend that was removed
// from a service answers as long as it runs, and its kernel ends its connections
// when it exits: only sockets that wait for its first answer may be stale.
func targetsOf(d service.Departure) []Target {
	t := Target{Addr: d.Addr, Port: d.Port, Protocol: d.Protocol}
	switch d.Protocol {
	case service.UDP:
	case service.TCP:
		t.Connecting = true
	default:
		return nil
	}
	return []Target{t}
}

// atOnce leaves out the sockets that get time to be answered.
func atOnce(targets []Target) []Target {
	var out []Target
	for _, t := range targets {
		if !t.Connecting {
			out = append(out, t)
		}
	}
	return out
}

func (s *Sweeper) work(ctx context.Context, w work) {
	if w.nodes {
		// The programs decide by the down bit.
		if err := s.options.Plane.Flush(ctx); err != nil {
			s.log.Error("sockets to nodes that are down are looked for in maps that are not up to date", "err", err)
		}
		if _, err := s.SweepDownNodes(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("sockets to nodes that are down are not all closed", "err", err)
		}
	}
	if _, err := s.Sweep(ctx, w.targets); err != nil && ctx.Err() == nil {
		s.log.Error("not all sockets to removed backends are closed", "backends", describe(w.targets), "err", err)
	}
}
