package scheduler

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/controlplane/controller"
)

// State is what decisions depend on, at one moment.
type State struct {
	Nodes                  []*corev1.Node
	Namespaces             []*corev1.Namespace
	Pods                   []*corev1.Pod
	Services               []*corev1.Service
	ReplicationControllers []*corev1.ReplicationController
	ReplicaSets            []*appsv1.ReplicaSet
}

// Simulation tries placements on a state of its own, by the scheduler's own filters and scores. Nothing is written.
type Simulation struct {
	c *cluster
	// pods are those on nodes, by namespace and name.
	pods map[*corev1.Pod]*placement
}

// NewSimulation begins with a state. It considers all nodes for each pod, and not a part of them.
func (c *Configuration) NewSimulation(state State) *Simulation {
	all := &Configuration{profiles: map[string]*profile{}}
	for name, p := range c.profiles {
		whole := *p
		whole.share = 100
		all.profiles[name] = &whole
	}
	s := &Simulation{c: newCluster(all), pods: map[*corev1.Pod]*placement{}}
	for _, n := range state.Namespaces {
		s.c.setNamespace(n.Name, labels.Set(maps.Clone(n.Labels)))
	}
	for _, service := range state.Services {
		s.c.setService(service.Namespace, service.Name, serviceSelector(service))
	}
	for _, rc := range state.ReplicationControllers {
		s.c.setController(rc.Namespace, string(rc.UID), labels.SelectorFromSet(rc.Spec.Selector))
	}
	for _, rs := range state.ReplicaSets {
		s.c.setController(rs.Namespace, string(rs.UID), selectorOf(rs.Spec.Selector))
	}
	for _, node := range state.Nodes {
		s.c.setNode(node)
	}
	for _, pod := range state.Pods {
		if pod.Spec.NodeName == "" || controller.PodTerminal(pod) {
			continue
		}
		s.c.place(newRequest(pod))
		s.pods[pod] = s.c.placed[keyOf(pod)]
	}
	return s
}

// Places says whether the pods like this one are placed by this scheduler, and not by another.
func (s *Simulation) Places(pod *corev1.Pod) bool { return s.c.configuration.of(pod) != nil }

// Replacement returns the node on which a pod would be placed that replaces this one while it ends; "" if there is none. If the pod's own node is as
// good as any, it is that. The pod has to be of the state.
func (s *Simulation) Replacement(pod *corev1.Pod) string {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	p := s.pods[pod]
	s.end(p, true)
	defer s.end(p, false)
	h, _ := s.c.choose(newRequest(pod))
	if h == nil {
		return ""
	}
	if fitting := s.c.scratch.fitting; len(fitting) > 1 {
		chosen, own := slices.Index(fitting, h), slices.Index(fitting, p.host)
		if own >= 0 && s.c.scratch.totals[own] == s.c.scratch.totals[chosen] {
			return p.host.name
		}
	}
	return h.name
}

// end says of a placed pod that it is being deleted, or not: then it has its room, but does not count any more where pods are spread.
func (s *Simulation) end(p *placement, deleting bool) {
	s.c.lift(p)
	p.request.deleting = deleting
	s.c.put(p)
}

// Move places a pod of the state on another node.
func (s *Simulation) Move(pod *corev1.Pod, node string) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	p := s.pods[pod]
	s.c.lift(p)
	p.host = s.c.hosts[node]
	s.c.put(p)
}

// Load is how much of a node's CPU and memory is requested, as the mean of both in thousandths; containers that request nothing count as they do
// for the score by room.
func (s *Simulation) Load(node string) int64 {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	h := s.c.hosts[node]
	if h == nil || h.allocatable.milliCPU == 0 || h.allocatable.memory == 0 {
		return 0
	}
	return (h.scored.milliCPU*1000/h.allocatable.milliCPU + h.scored.memory*1000/h.allocatable.memory) / 2
}

// Open says whether a node takes pods that tolerate nothing.
func (s *Simulation) Open(node string) bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	h := s.c.hosts[node]
	return h != nil && h.node != nil && h.ready && h.open
}
