package apiserver

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"

	"github.com/skep-io/skep/controlplane/flowcontrol"
	"github.com/skep-io/skep/controlplane/identity"
)

const (
	// defaultSeats is how many requests are worked on at once, all levels together: Kubernetes' 400 reads and 200 changes.
	defaultSeats = 600
	// queueWait is how long a request waits for a seat: a quarter of the request timeout, as in Kubernetes.
	queueWait = requestTimeout / 4
	// bytesPerSeat is how much bodies may take in memory for each seat of a level; minLevelBytes is the least for a level,
	// so that two users can each send the largest body.
	bytesPerSeat  = 256 << 10
	minLevelBytes = 4 * maxBody
	// bodyOverhead is counted for each request whose body is being read, however small: its goroutine and its stream.
	bodyOverhead = 16 << 10
	// bytesOfWidth is the size of a body for which a request takes one seat more: decoded, it is many times as large.
	bytesOfWidth = 32 << 10
	// maxSessions is how many watches and streams one user may have open. Idle, each takes some ten KiB.
	maxSessions = 5000
)

// Priority levels, by Kubernetes' names for them.
const (
	levelExempt        = "exempt"
	levelNodeHigh      = "node-high"
	levelSystem        = "system"
	levelWorkloadLow   = "workload-low"
	levelGlobalDefault = "global-default"
	levelCatchAll      = "catch-all"
)

// levels are the priority levels with the flow schema that leads to each, and their parts of all seats in percent. None lends
// its seats to another: nodes can renew their leases even while other requests are slow.
var levels = []struct {
	level, schema string
	percent       int
}{
	{levelExempt, "exempt", 40},
	{levelNodeHigh, "system-node-high", 20},
	{levelSystem, "system-nodes", 20},
	{levelWorkloadLow, "service-accounts", 10},
	{levelGlobalDefault, "global-default", 8},
	{levelCatchAll, "catch-all", 2},
}

// class is a request's priority level and its flow there.
type class struct {
	level *flowcontrol.Level
	user  string
}

// limits bounds what is worked on, waited for and kept open at once, by level and by user.
type limits struct {
	levels      map[string]*flowcontrol.Level
	maxSessions int // of one user

	mu       sync.Mutex
	sessions map[string]int // by user
}

func newLimits(seats int) *limits {
	if seats <= 0 {
		seats = defaultSeats
	}
	l := &limits{levels: map[string]*flowcontrol.Level{}, maxSessions: maxSessions, sessions: map[string]int{}}
	for _, s := range levels {
		n := max(2, seats*s.percent/100)
		l.levels[s.level] = flowcontrol.NewLevel(flowcontrol.Config{
			Name: s.level, Seats: n, Queue: 4 * n, Bytes: max(minLevelBytes, n*bytesPerSeat),
		})
	}
	return l
}

// classify finds the level of a request by the rules of Kubernetes' default flow schemas. One rule differs: there,
// administrators have no limit at all; here they have most of the seats, since in a small cluster every user and every script is an
// administrator.
func (l *limits) classify(c *call) class {
	level := levelGlobalDefault
	switch node := identity.Node(c.user) != ""; {
	case c.user.GetName() == "":
		host, _, _ := net.SplitHostPort(c.RemoteAddr) // nothing else is known of a stranger
		return class{l.levels[levelCatchAll], host}
	case identity.Master(c.user):
		level = levelExempt
	case node && c.group == "" && c.resource == "nodes",
		node && c.group == coordinationv1.GroupName && c.resource == "leases" && c.namespace == corev1.NamespaceNodeLease:
		level = levelNodeHigh
	case node:
		level = levelSystem
	case slices.Contains(c.user.GetGroups(), serviceaccount.AllServiceAccountsGroup):
		level = levelWorkloadLow
	}
	return class{l.levels[level], c.user.GetName()}
}

// admit reads the body of a request, and then waits for a seat: only a request that can be worked on holds a seat, and not a slow client.
// The caller calls leave at the end.
func (s *Server) admit(c *call) (leave func(), err error) {
	class := s.limits.classify(c)
	body, release, err := s.receive(c, class)
	if err != nil {
		s.metrics.terminated(c, err)
		return nil, err
	}
	exit, err := s.acquireSeats(c.Context(), c, class, 1+len(body)/bytesOfWidth)
	if err != nil {
		release()
		s.metrics.terminated(c, err)
		return nil, err
	}
	inFlight := s.metrics.inFlight(c.Method)
	inFlight.Inc()
	return func() {
		inFlight.Dec()
		exit()
		release()
	}, nil
}

// acquireSeats waits for a request's seats.
func (s *Server) acquireSeats(ctx context.Context, c *call, class class, width int) (leave func(), err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, queueWait)
	defer cancel()
	leave, err = class.level.Enter(ctx, class.user, width)
	c.waited = time.Since(began)
	s.metrics.waited(class.level.Name, err == nil, c.waited)
	if err != nil {
		return nil, tooManyRequests()
	}
	return leave, nil
}

func tooManyRequests() error {
	return apierrors.NewTooManyRequests("too many requests, please try again later", 1)
}

// openSession counts a watch or a stream of a user, until leave.
func (s *Server) openSession(c *call) (leave func(), err error) {
	l, user := s.limits, c.user.GetName()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions[user] >= l.maxSessions {
		err := apierrors.NewTooManyRequests("this user has too many watches and streams open", 1)
		s.metrics.terminated(c, err)
		return nil, err
	}
	l.sessions[user]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.sessions[user]--; l.sessions[user] == 0 {
			delete(l.sessions, user)
		}
	}, nil
}

// unlimitedTime lifts the deadlines that the server puts on each request: watches and streams have their own.
func unlimitedTime(w http.ResponseWriter) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})  // fails only where there are no deadlines
	_ = control.SetWriteDeadline(time.Time{}) // likewise
}
