package agent

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/skep-io/skep/durable"
)

const (
	// serverName is a name that every API server's certificate has, whichever of their addresses is dialled, and no node's can have.
	serverName = "kubernetes.default.svc"
	// serversEvery is how often the list of servers is asked for.
	serversEvery = 10 * time.Second
	// askedAgainAfter is the least time between two requests for pod ranges, which nodes with ranges of nobody's could cause without end.
	askedAgainAfter = time.Second
	// leaseAnsweredWithin is how long a renewal of the node's lease, which is a small write, may take before another server is tried, where there is
	// one; the agent renews once a second.
	leaseAnsweredWithin = 800 * time.Millisecond
	// A server that was turned to is given so long before the next, and twice as long each time none is better; as long as calmAfter without
	// a change forgets that.
	settleFirst, settleMax = 2 * time.Second, 30 * time.Second
	calmAfter              = time.Minute
)

// servers are the API servers of the cluster, of which the agent uses one at a time: the one of --server, and those that the API names.
// The list is kept across restarts.
type servers struct {
	path string

	mu       sync.Mutex
	given    string   // HOST:PORT of --server
	urls     []string // as the API names them
	current  string   // HOST:PORT that is dialled first
	switched time.Time
	settle   time.Duration
}

func newServers(cfg Config) *servers {
	s := &servers{path: filepath.Join(cfg.StateDir, "servers"), settle: settleFirst}
	if u, err := url.Parse(cfg.Server); err == nil {
		s.given = hostPort(u)
	}
	s.current = s.given
	data, err := os.ReadFile(s.path)
	if err != nil || json.Unmarshal(data, &s.urls) != nil {
		s.urls = nil
	}
	if all := s.addresses(); len(s.urls) > 1 {
		// Agents spread over the servers.
		h := fnv.New32a()
		_, _ = h.Write([]byte(cfg.NodeName)) // never fails
		s.current = all[int(h.Sum32()%uint32(len(all)))]
	}
	return s
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// addresses are those of all servers, each once. mu is held, or the servers are not shared yet.
func (s *servers) addresses() []string {
	var all []string
	for _, text := range s.urls {
		if u, err := url.Parse(text); err == nil && u.Scheme == "https" && u.Hostname() != "" && !slices.Contains(all, hostPort(u)) {
			all = append(all, hostPort(u))
		}
	}
	if !slices.Contains(all, s.given) {
		all = append(all, s.given)
	}
	return all
}

// order is the order in which the servers are dialled.
func (s *servers) order() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.addresses()
	i := max(slices.Index(all, s.current), 0)
	return slices.Concat(all[i:], all[:i])
}

// known are the URLs of all servers, the current one first.
func (s *servers) known() []string {
	var urls []string
	for _, address := range s.order() {
		urls = append(urls, "https://"+address)
	}
	return urls
}

// update takes over the API's list. An empty one is of a skepd that has none.
func (s *servers) update(urls []string) {
	urls = slices.Clone(urls)
	slices.Sort(urls)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(urls) == 0 || slices.Equal(urls, s.urls) {
		return
	}
	s.urls = urls
	data, err := json.Marshal(urls)
	if err == nil {
		err = durable.WriteFile(s.path, append(data, '\n'), 0o600)
	}
	if err != nil {
		slog.Warn("the list of API servers is not kept across restarts", "path", s.path, "err", err)
	}
	slog.Info("API servers of the cluster", "servers", urls)
}

// use notes which server was connected.
func (s *servers) use(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = address
}

// leave has the next server dialled first, if address is the current one.
func (s *servers) leave(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all := s.addresses(); s.current == address && len(all) > 1 {
		s.current = all[(slices.Index(all, address)+1)%len(all)]
	}
}

// mayLeave says whether the current server is to be left for one that may be better: not if the last change was just now.
func (s *servers) mayLeave(now time.Time) (current string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := now.Sub(s.switched)
	if len(s.addresses()) < 2 || since < s.settle {
		return s.current, false
	}
	s.settle = min(2*s.settle, settleMax)
	if since > calmAfter {
		s.settle = settleFirst
	}
	s.switched = now
	return s.current, true
}

// keepServers asks for the list of servers and the pod ranges from time to time, and at once when a node has a range that is not known.
func (m *membership) keepServers(ctx context.Context) error {
	for {
		if n, err := m.tryNetwork(ctx); err == nil {
			m.servers.update(n.Servers)
			m.ranges.learn(m.cfg, n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(askedAgainAfter):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.ranges.wanted:
		case <-time.After(serversEvery - askedAgainAfter):
		}
	}
}
