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
	// settle is when a sweep is repeated. By then a connect that had chosen the
	// backend before it left has become a socket that can be seen, and a TCP
	// socket that its backend has still not answered waits for nothing.
	settle = 2 * time.Second
)

// NodeDown says that the Plane knows of a node that went down: Run closes the
// sockets that are connected to its backends.
func (s *Sweeper) NodeDown() {
	select {
	case s.nodeDown <- struct{}{}:
	default:
	}
}

// work is what one sweep has to look for.
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

// targetsOf is whom a departure may have left behind. A TCP backend that left a
// service answers for itself as long as it lives, and its kernel says goodbye
// for it when it dies: only who still waits for its first answer is in doubt.
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
		// The down bit is what the sockets are judged by.
		if err := s.options.Plane.Flush(ctx); err != nil {
			s.log.Error("sockets to nodes that are down are looked for in maps that are not up to date", "err", err)
		}
		if _, err := s.SweepDownNodes(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("sockets to nodes that are down are not all closed", "err", err)
		}
	}
	if _, err := s.Sweep(ctx, w.targets); err != nil && ctx.Err() == nil {
		s.log.Error("sockets to backends that are gone are not all closed", "backends", describe(w.targets), "err", err)
	}
}
