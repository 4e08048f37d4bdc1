package agent

import (
	"sync"
	"time"

	"github.com/skep-io/skep/dataplane/service"
)

// sweepAfter is how long a node has to be unreachable before the sockets that are connected to its backends are closed: new connections
// go elsewhere at once, but an interruption of a moment need not end those that are open.
const sweepAfter = time.Second

// marks says which nodes are down to the service tables, from two sources that are kept apart: the control plane, by the Node object, and
// verdicts that a node cannot be reached. A node is down while either says so. It also has the sockets closed that are connected to
// backends of nodes that are down.
type marks struct {
	*service.Plane
	mark  func(node string, down bool) // the Plane's SetNodeDown
	sweep func()

	mu          sync.Mutex
	reported    map[string]bool // by the control plane
	unreachable map[string]*time.Timer
}

func newMarks(plane *service.Plane, sweep func()) *marks {
	return &marks{Plane: plane, mark: plane.SetNodeDown, sweep: sweep, reported: map[string]bool{}, unreachable: map[string]*time.Timer{}}
}

// SetNodeDown is the control plane's mark.
func (m *marks) SetNodeDown(node string, down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reported[node] = down; !down {
		delete(m.reported, node)
	}
	m.mark(node, down || m.unreachable[node] != nil)
	if down {
		m.sweep()
	}
}

// SetNodeUnreachable is the mark of a verdict.
func (m *marks) SetNodeUnreachable(node string, unreachable bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if timer := m.unreachable[node]; timer != nil {
		timer.Stop()
		delete(m.unreachable, node)
	}
	if unreachable {
		m.unreachable[node] = time.AfterFunc(sweepAfter, m.sweep)
	}
	m.mark(node, unreachable || m.reported[node])
}

// unreachableNodes are those with a mark of a verdict.
func (m *marks) unreachableNodes() map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	nodes := map[string]bool{}
	for name := range m.unreachable {
		nodes[name] = true
	}
	return nodes
}
