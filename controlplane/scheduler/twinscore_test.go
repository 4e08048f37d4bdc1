package scheduler

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// twin has the same state as the cluster and computes everything from scratch, each time, by Kubernetes' rules as they are documented.
type twin struct {
	nodes      map[string]*corev1.Node
	placed     map[string]*corev1.Pod // by name, with nodeName
	namespaces map[string]map[string]string
	service    labels.Set
}

func newTwin() *twin {
	return &twin{nodes: map[string]*corev1.Node{}, placed: map[string]*corev1.Pod{}, namespaces: map[string]map[string]string{}}
}

// any returns a copy of one placed pod, if there is one.
func (w *twin) any(rng *rand.Rand) []*corev1.Pod {
	if len(w.placed) == 0 {
		return nil
	}
	names := make([]string, 0, len(w.placed))
	for name := range w.placed {
		names = append(names, name)
	}
	sort.Strings(names)
	return []*corev1.Pod{w.placed[names[rng.IntN(len(names))]].DeepCopy()}
}

func cpuOf(p *corev1.Pod) int64 { return p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue() }

func (w *twin) on(node string) (pods []*corev1.Pod) {
	for _, p := range w.placed {
		if p.Spec.NodeName == node {
			pods = append(pods, p)
		}
	}
	return pods
}

// count counts the pods on the nodes that have the label's value, as far as both are wanted.
func (w *twin) count(key, value string, node func(*corev1.Node) bool, pod func(*corev1.Pod) bool) (n int64) {
	for _, p := range w.placed {
		on := w.nodes[p.Spec.NodeName]
		if on == nil || !node(on) || !pod(p) {
			continue
		}
		if v, has := on.Labels[key]; has && v == value {
			n++
		}
	}
	return n
}

func anyNode(*corev1.Node) bool { return true }

func (w *twin) selects(bearer *corev1.Pod, t *corev1.PodAffinityTerm, p *corev1.Pod) bool {
	in := slices.Contains(t.Namespaces, p.Namespace) ||
		len(t.Namespaces) == 0 && t.NamespaceSelector == nil && p.Namespace == bearer.Namespace
	if t.NamespaceSelector != nil {
		s, _ := metav1.LabelSelectorAsSelector(t.NamespaceSelector)
		in = in || s.Matches(labels.Set(w.namespaces[p.Namespace]))
	}
	s, _ := metav1.LabelSelectorAsSelector(t.LabelSelector)
	return in && s.Matches(labels.Set(p.Labels))
}

func required(p *corev1.Pod) (near, anti []corev1.PodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			near = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			anti = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
	}
	return near, anti
}

func (w *twin) affinityFits(pod *corev1.Pod, node *corev1.Node) bool {
	near, anti := required(pod)
	all := func(p *corev1.Pod) bool {
		return !slices.ContainsFunc(near, func(t corev1.PodAffinityTerm) bool { return !w.selects(pod, &t, p) })
	}
	together, total := true, int64(0)
	for _, t := range near {
		value, has := node.Labels[t.TopologyKey]
		if !has {
			return false
		}
		together = together && w.count(t.TopologyKey, value, anyNode, all) > 0
		for _, n := range w.nodes {
			if v, has := n.Labels[t.TopologyKey]; has {
				total += w.count(t.TopologyKey, v, anyNode, all)
			}
		}
	}
	if !together && (total > 0 || !all(pod)) {
		return false
	}
	for _, t := range anti {
		value, has := node.Labels[t.TopologyKey]
		if has && w.count(t.TopologyKey, value, anyNode, func(p *corev1.Pod) bool { return w.selects(pod, &t, p) }) > 0 {
			return false
		}
	}
	for _, other := range w.placed {
		_, anti := required(other)
		on := w.nodes[other.Spec.NodeName]
		for _, t := range anti {
			if on == nil || !w.selects(other, &t, pod) {
				continue
			}
			theirs, has := on.Labels[t.TopologyKey]
			if ours, too := node.Labels[t.TopologyKey]; has && too && theirs == ours {
				return false
			}
		}
	}
	return true
}

// constraints returns those with the action, and which nodes and pods each counts.
func (w *twin) constraints(pod *corev1.Pod, action corev1.UnsatisfiableConstraintAction, each func(c *corev1.TopologySpreadConstraint, nodes func(*corev1.Node) bool, pods func(*corev1.Pod) bool)) {
	var of []corev1.TopologySpreadConstraint
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == action {
			of = append(of, c)
		}
	}
	for i := range of {
		c := &of[i]
		s, _ := metav1.LabelSelectorAsSelector(c.LabelSelector)
		for _, key := range c.MatchLabelKeys {
			r, _ := labels.SelectorFromSet(labels.Set{key: pod.Labels[key]}).Requirements()
			s = s.Add(r...)
		}
		each(c, func(n *corev1.Node) bool {
			for _, other := range of {
				if _, has := n.Labels[other.TopologyKey]; !has {
					return false
				}
			}
			if _, tainted := untoleratedTaint(nil, n); tainted && c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
				return false
			}
			return c.NodeAffinityPolicy != nil && *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyIgnore || w.selected(pod, n)
		}, func(p *corev1.Pod) bool {
			return p.Namespace == pod.Namespace && p.DeletionTimestamp == nil && s.Matches(labels.Set(p.Labels))
		})
	}
}

func (w *twin) selected(pod *corev1.Pod, n *corev1.Node) bool {
	return labels.SelectorFromSet(pod.Spec.NodeSelector).Matches(labels.Set(n.Labels))
}

func (w *twin) spreadFits(pod *corev1.Pod, node *corev1.Node) bool {
	fits := true
	w.constraints(pod, corev1.DoNotSchedule, func(c *corev1.TopologySpreadConstraint, nodes func(*corev1.Node) bool, pods func(*corev1.Pod) bool) {
		value, has := node.Labels[c.TopologyKey]
		if !has {
			fits = false
			return
		}
		least, domains := int64(math.MaxInt64), map[string]bool{}
		for _, n := range w.nodes {
			if nodes(n) {
				domains[n.Labels[c.TopologyKey]] = true
				least = min(least, w.count(c.TopologyKey, n.Labels[c.TopologyKey], nodes, pods))
			}
		}
		if c.MinDomains != nil && len(domains) < int(*c.MinDomains) {
			least = 0
		}
		with := w.count(c.TopologyKey, value, nodes, pods)
		if pods(pod) {
			with++
		}
		fits = fits && (len(domains) == 0 || with-least <= int64(c.MaxSkew))
	})
	return fits
}

func (w *twin) fits(pod *corev1.Pod, node *corev1.Node) bool {
	used, pods := int64(0), w.on(node.Name)
	for _, p := range pods {
		used += cpuOf(p)
		for _, have := range p.Spec.Containers[0].Ports {
			for _, want := range pod.Spec.Containers[0].Ports {
				if have.HostPort == want.HostPort {
					return false
				}
			}
		}
	}
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoSchedule {
			return false
		}
	}
	return !node.Spec.Unschedulable && used+cpuOf(pod) <= node.Status.Allocatable.Cpu().MilliValue() &&
		int64(len(pods)) < node.Status.Allocatable.Pods().Value() && w.selected(pod, node) &&
		w.spreadFits(pod, node) && w.affinityFits(pod, node)
}
