// Package plan finds which replicas should move so that workloads are spread as if their pods were placed now: after a zone has returned, or hosts were
// added. It computes a plan from a state and does nothing else; package rebalance carries plans out.
package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/scheduler"
)

// For the load alone a pod moves only between nodes that differ by minLoadDifference thousandths of their resources, and only if that takes away a
// loadGain of the difference: many moves of small pods would disturb more than they are worth.
const (
	minLoadDifference = 200
	loadGain          = 4
)

// Options say which workloads may move.
type Options struct {
	skepv1.RebalanceQuery
	// OptedIn leaves out the workloads that do not ask for it by their annotation or their namespace's.
	OptedIn bool
}

// Make makes a plan. Each move makes the sum over domains of the square of the workload's pods in them smaller, in the first topology in which it
// changes it; or, if it changes none, that of the nodes' loads. So plans end, and whatever is done after one is done is none of what it undid.
func Make(c *scheduler.Configuration, state scheduler.State, o Options) (plan skepv1.RebalancePlan) {
	b := newBoard(c.NewSimulation(state), state.Nodes)
	for _, w := range workloadsOf(state, o) {
		w.b = b
		if !slices.ContainsFunc(w.pods, func(p *corev1.Pod) bool { return !b.sim.Places(p) }) {
			b.workloads = append(b.workloads, w)
		}
	}
	for _, w := range b.workloads {
		if w.waits != "" {
			plan.Waiting = append(plan.Waiting, skepv1.RebalanceNote{Workload: w.name, Reason: w.waits})
		}
	}
	for _, find := range []func(*workload) *move{(*workload).spread, (*workload).unload} {
		for _, w := range b.workloads {
			for w.waits == "" && !w.uneven && (o.Limit == 0 || len(plan.Moves) < o.Limit) {
				m := find(w)
				if m == nil {
					break
				}
				if w.stays != "" {
					w.uneven = true
					break
				}
				plan.Moves = append(plan.Moves, m.done())
			}
		}
	}
	for _, w := range b.workloads {
		if w.stays != "" && w.uneven {
			plan.Kept = append(plan.Kept, skepv1.RebalanceNote{Workload: w.name, Reason: w.stays})
		}
	}
	return plan
}

// board is the state in which moves are tried.
type board struct {
	sim       *scheduler.Simulation
	nodes     map[string]*corev1.Node
	workloads []*workload
	open      map[string]map[string]bool // the domains, by a label, that have a node which takes pods
	least     int64                      // the load of the node that has least; -1: to be found, as pods have moved
}

func newBoard(sim *scheduler.Simulation, nodes []*corev1.Node) *board {
	b := &board{sim: sim, nodes: map[string]*corev1.Node{}, open: map[string]map[string]bool{}, least: -1}
	for _, n := range nodes {
		b.nodes[n.Name] = n
	}
	return b
}

// openDomains are the domains, by a label, that have a node which takes pods.
func (b *board) openDomains(key string) map[string]bool {
	if b.open[key] == nil {
		b.open[key] = map[string]bool{}
		for name := range b.nodes {
			if b.sim.Open(name) {
				b.open[key][b.domain(name, key)] = true
			}
		}
	}
	return b.open[key]
}

// leastLoad is the load of the node that has least of those that take pods.
func (b *board) leastLoad() int64 {
	if b.least < 0 {
		b.least = math.MaxInt64 / 2
		for name := range b.nodes {
			if b.sim.Open(name) {
				b.least = min(b.least, b.sim.Load(name))
			}
		}
	}
	return b.least
}

// domain is the domain of a node by a label; each node is a host of its own, whatever its label says.
func (b *board) domain(node, key string) string {
	if key == corev1.LabelHostname {
		return node
	}
	if n := b.nodes[node]; n != nil {
		return n.Labels[key]
	}
	return ""
}

// move is a pod that goes to another node.
type move struct {
	w      *workload
	pod    *corev1.Pod
	to     string
	reason string
}

// done carries the move out on the board.
func (m *move) done() skepv1.RebalanceMove {
	from := m.w.at[m.pod]
	m.w.b.sim.Move(m.pod, m.to)
	m.w.at[m.pod], m.w.b.least = m.to, -1
	return skepv1.RebalanceMove{
		Workload: m.w.name, Owner: string(m.w.owner), Namespace: m.pod.Namespace, Pod: m.pod.Name, UID: string(m.pod.UID), From: from, To: m.to, Reason: m.reason,
	}
}

// spread finds a pod that a fresh placement would put where fewer of its kind are.
func (w *workload) spread() *move {
	if !w.improvable() {
		return nil
	}
	counts := w.counts(corev1.LabelHostname)
	for _, from := range w.nodesByCount(counts) {
		pod := w.youngestOn(from)
		to := w.b.sim.Replacement(pod)
		if to == "" || to == from {
			continue
		}
		if better, key := w.compare(from, to); better > 0 {
			in := w.counts(key)
			return &move{w, pod, to, fmt.Sprintf("%d of %d replicas are %s, %d %s", in[w.b.domain(from, key)], len(w.pods), w.where(from, key), in[w.b.domain(to, key)], w.where(to, key))}
		}
	}
	return nil
}

// unload finds a pod that would go to a node that is used much less, without being spread worse.
func (w *workload) unload() *move {
	sim, least := w.b.sim, w.b.leastLoad()
	for _, from := range w.nodesByCount(w.counts(corev1.LabelHostname)) {
		before := sim.Load(from)
		if before < least+minLoadDifference {
			continue
		}
		pod := w.youngestOn(from)
		to := sim.Replacement(pod)
		if to == "" || to == from || before < sim.Load(to)+minLoadDifference {
			continue
		}
		if better, _ := w.compare(from, to); better < 0 {
			continue
		}
		target := sim.Load(to)
		sim.Move(pod, to)
		after := sim.Load(from) - sim.Load(to)
		sim.Move(pod, from)
		if difference := before - target; after >= 0 && difference-after >= difference/loadGain {
			return &move{w, pod, to, fmt.Sprintf("%d%% of the CPU and memory of %s are requested, %d%% of %s", before/10, from, target/10, to)}
		}
	}
	return nil
}

// compare says whether a pod's move from one node to another spreads the workload better (1), worse (-1) or as well (0), and by which topology.
func (w *workload) compare(from, to string) (better int, key string) {
	for _, key := range w.keys {
		a, b := w.b.domain(from, key), w.b.domain(to, key)
		if a == b {
			continue
		}
		counts := w.counts(key)
		// Of n and m pods in the two, n-1 and m+1 become: the squares' sum falls if n is larger by two at least.
		if d := cmp.Compare(counts[a]-1, counts[b]); d != 0 {
			return d, key
		}
	}
	return 0, ""
}

// improvable says whether there are two domains whose counts differ by two. It is a bound that is quickly computed: most workloads are spread well.
func (w *workload) improvable() bool {
	for _, key := range w.keys {
		counts, open := w.counts(key), w.b.openDomains(key)
		least, most, with := len(w.pods), 0, 0
		for domain, n := range counts {
			if most = max(most, n); open[domain] {
				least = min(least, n)
				with++
			}
		}
		if with < len(open) {
			least = 0
		}
		if most >= least+2 {
			return true
		}
	}
	return false
}
