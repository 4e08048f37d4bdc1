package apiserver

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/witness"
)

const (
	// maxAppliedWait bounds one request.
	maxAppliedWait = time.Minute
	// appliedInterval is how often leases are looked at while somebody waits, and appliedPerNode what each node adds to it: a look reads
	// every lease.
	appliedInterval = 5 * time.Millisecond
	appliedPerNode  = 20 * time.Microsecond
)

// appliedNode is what a node that is alive reports in its lease.
type appliedNode struct {
	name     string
	revision uint64
}

// appliedNodes is shared by all who wait.
type appliedNodes struct {
	registry *resource.Registry

	mu    sync.Mutex
	nodes []appliedNode // lowest revisions first
	at    time.Time
}

// pending returns the nodes that have not applied a revision, and when to look again.
func (a *appliedNodes) pending(revision uint64, now time.Time) (names []string, again time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	interval := appliedInterval + time.Duration(len(a.nodes))*appliedPerNode
	if now.Sub(a.at) >= interval {
		a.nodes, a.at = a.read(), now
	}
	for _, n := range a.nodes {
		if n.revision >= revision {
			break
		}
		names = append(names, n.name)
	}
	slices.Sort(names)
	return names, interval
}

func (a *appliedNodes) read() (nodes []appliedNode) {
	alive := map[string]bool{}
	for _, node := range resource.ListAs[*corev1.Node](a.registry, kinds.Nodes, "", nil) {
		alive[node.Name] = isAlive(node)
	}
	for _, lease := range resource.ListAs[*coordinationv1.Lease](a.registry, kinds.Leases, corev1.NamespaceNodeLease, nil) {
		revision, err := strconv.ParseUint(lease.Annotations[servicespec.AppliedAnnotation], 10, 64)
		if err == nil && alive[lease.Name] {
			nodes = append(nodes, appliedNode{lease.Name, revision})
		}
	}
	slices.SortFunc(nodes, func(a, b appliedNode) int { return cmp.Compare(a.revision, b.revision) })
	return nodes
}

// isAlive says whether the node's kernel may still send connections: its agent reports, and others reach it.
func isAlive(node *corev1.Node) bool {
	return !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown || c.Type == witness.Reachable && c.Status == corev1.ConditionFalse
	})
}

// awaitApplied answers PathApplied.
func (s *Server) awaitApplied(w http.ResponseWriter, c *call) error {
	revision, err := strconv.ParseUint(c.query.Get("revision"), 10, 64)
	if err != nil {
		return apierrors.NewBadRequest("revision: " + err.Error())
	}
	wait := time.Duration(0)
	if text := c.query.Get("wait"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil {
			return apierrors.NewBadRequest("wait: " + err.Error())
		}
	}
	end := time.NewTimer(min(max(wait, 0), maxAppliedWait))
	defer end.Stop()
	answer := skepv1.Applied{}
	for ended := false; ; {
		pending, again := s.applied.pending(revision, time.Now())
		if answer.Pending = pending; len(pending) == 0 || ended {
			break
		}
		select {
		case <-time.After(again):
		case <-end.C:
			ended = true
		case <-c.Context().Done():
			return c.Context().Err()
		}
	}
	return answerJSON(w, c, answer)
}
