package etcd

import (
	"context"
	"sync"
	"time"
)

const (
	// leaderlessAfter is how long a member may be without a leader, as it is during an election, before its readers are sent away.
	leaderlessAfter = 3 * time.Second
	leaderEvery     = 250 * time.Millisecond
)

// HasLeader says whether the member is connected to a leader, or is one, that more than half of the members follow.
func (s *Server) HasLeader() bool { return s.etcd.Server.Leader() != 0 }

// leaderless tells when a member has had no leader for a while: it hears of no change then, and may never again, while the others go on.
type leaderless struct {
	hasLeader func() bool // nil: never leaderless

	mu    sync.Mutex
	since time.Time // zero: there is a leader
	lost  chan struct{}
}

func newLeaderless(hasLeader func() bool) *leaderless {
	return &leaderless{hasLeader: hasLeader, lost: make(chan struct{})}
}

// Lost is closed while there has been no leader for leaderlessAfter.
func (l *leaderless) Lost() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

func (l *leaderless) run(ctx context.Context) {
	if l.hasLeader == nil {
		return
	}
	ticker := time.NewTicker(leaderEvery)
	defer ticker.Stop()
	for {
		l.note(l.hasLeader(), time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (l *leaderless) note(leader bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	closed := false
	select {
	case <-l.lost:
		closed = true
	default:
	}
	switch {
	case leader && closed:
		l.lost = make(chan struct{})
		fallthrough
	case leader:
		l.since = time.Time{}
	case l.since.IsZero():
		l.since = now
	case !closed && now.Sub(l.since) >= leaderlessAfter:
		close(l.lost)
	}
}
