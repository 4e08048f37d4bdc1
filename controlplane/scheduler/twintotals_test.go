package scheduler

import (
	"fmt"
	"math"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// totals are the scores of the nodes on which a pod fits.
func (w *twin) totals(pod *corev1.Pod) map[string]int64 {
	totals := map[string]int64{}
	for name, n := range w.nodes {
		if w.fits(pod, n) {
			totals[name] = 0
		}
	}
	add := func(weight int64, scores map[string]int64) {
		for name := range totals {
			totals[name] += weight * scores[name]
		}
	}
	each := func(rate func(n *corev1.Node) int64) map[string]int64 {
		scores := map[string]int64{}
		for name := range totals {
			scores[name] = rate(w.nodes[name])
		}
		return scores
	}
	add(3, scaled(each(func(n *corev1.Node) (taints int64) {
		for _, t := range n.Spec.Taints {
			if t.Effect == corev1.TaintEffectPreferNoSchedule {
				taints++
			}
		}
		return taints
	}), true))
	add(2, scaled(each(func(n *corev1.Node) (sum int64) {
		if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
			for _, t := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
				if e := t.Preference.MatchExpressions[0]; n.Labels[e.Key] == e.Values[0] {
					sum += int64(t.Weight)
				}
			}
		}
		return sum
	}), false))
	add(1, each(func(n *corev1.Node) int64 { return w.leastAllocated(pod, n) }))
	add(1, each(func(n *corev1.Node) int64 { return w.balanced(pod, n) }))
	add(2, w.spreadScores(pod, totals))
	add(2, w.affinityScores(each(func(n *corev1.Node) int64 { return w.attraction(pod, n) })))
	return totals
}

func scaled(scores map[string]int64, reverse bool) map[string]int64 {
	most := int64(0)
	for _, s := range scores {
		most = max(most, s)
	}
	for name, s := range scores {
		if most > 0 {
			s = s * 100 / most
		}
		if reverse {
			s = 100 - s
		}
		scores[name] = s
	}
	return scores
}

func (w *twin) usage(node *corev1.Node) (cpu, memory, assumed int64) {
	for _, p := range w.on(node.Name) {
		cpu += cpuOf(p)
		assumed += 200 << 20
	}
	return cpu, 0, assumed
}

func (w *twin) leastAllocated(pod *corev1.Pod, node *corev1.Node) int64 {
	cpu, _, memory := w.usage(node)
	have := node.Status.Allocatable
	share := func(have, used int64) int64 { return (have - used) * 100 / have }
	return (share(have.Cpu().MilliValue(), cpu+cpuOf(pod)) + share(have.Memory().Value(), memory+200<<20)) / 2
}

func (w *twin) balanced(pod *corev1.Pod, node *corev1.Node) int64 {
	cpu, _, _ := w.usage(node)
	have := float64(node.Status.Allocatable.Cpu().MilliValue())
	score := func(cpu int64) int64 { return int64((1 - float64(cpu)/have/2) * 100) }
	return 50 + (50+score(cpu+cpuOf(pod))-score(cpu))/2
}

func (w *twin) spreadScores(pod *corev1.Pod, fitting map[string]int64) map[string]int64 {
	type part struct {
		key   string
		skew  int32
		nodes func(*corev1.Node) bool
		pods  func(*corev1.Pod) bool
	}
	var parts []part
	defaults := len(pod.Spec.TopologySpreadConstraints) == 0
	w.constraints(pod, corev1.ScheduleAnyway, func(c *corev1.TopologySpreadConstraint, nodes func(*corev1.Node) bool, pods func(*corev1.Pod) bool) {
		parts = append(parts, part{c.TopologyKey, c.MaxSkew, nodes, pods})
	})
	if defaults {
		s := labels.SelectorFromSet(pod.Labels)
		if service := labels.SelectorFromSet(w.service); w.service != nil && pod.Namespace == "default" && service.Matches(labels.Set(pod.Labels)) {
			s = service
		}
		pods := func(p *corev1.Pod) bool {
			return p.Namespace == pod.Namespace && p.DeletionTimestamp == nil && s.Matches(labels.Set(p.Labels))
		}
		nodes := func(n *corev1.Node) bool { return w.selected(pod, n) }
		parts = []part{{corev1.LabelHostname, 3, anyNode, pods}, {corev1.LabelTopologyZone, 5, nodes, pods}}
	}
	if parts == nil {
		return nil
	}
	ignored := map[string]bool{}
	for name := range fitting {
		for _, p := range parts {
			if _, has := w.nodes[name].Labels[p.key]; !has && !defaults {
				ignored[name] = true
			}
		}
	}
	factors := make([]float64, len(parts))
	for i, p := range parts {
		domains := map[string]bool{}
		for name := range fitting {
			if value, has := w.nodes[name].Labels[p.key]; has && !ignored[name] {
				domains[value] = true
			}
		}
		factors[i] = math.Log(float64(len(domains) + 2))
	}
	raw, least, most := map[string]int64{}, int64(math.MaxInt64), int64(0)
	for name := range fitting {
		if ignored[name] {
			continue
		}
		sum := 0.0
		for i, p := range parts {
			if value, has := w.nodes[name].Labels[p.key]; has {
				sum += float64(w.count(p.key, value, p.nodes, p.pods))*factors[i] + float64(p.skew-1)
			}
		}
		raw[name] = int64(math.Round(sum))
		least, most = min(least, raw[name]), max(most, raw[name])
	}
	for name, s := range raw {
		if raw[name] = 100; most > 0 {
			raw[name] = 100 * (most + least - s) / most
		}
	}
	return raw
}

func weighted(p *corev1.Pod) (terms []corev1.WeightedPodAffinityTerm) {
	a := p.Spec.Affinity
	if a != nil && a.PodAffinity != nil {
		terms = append(terms, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if a != nil && a.PodAntiAffinity != nil {
		for _, t := range a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			t.Weight = -t.Weight
			terms = append(terms, t)
		}
	}
	return terms
}

// attraction is how much the pod's terms and those of the placed pods draw it to a node.
func (w *twin) attraction(pod *corev1.Pod, node *corev1.Node) (sum int64) {
	for _, p := range w.placed {
		on := w.nodes[p.Spec.NodeName]
		if on == nil {
			continue
		}
		together := func(key string) bool {
			theirs, has := on.Labels[key]
			ours, too := node.Labels[key]
			return has && too && theirs == ours
		}
		for _, t := range weighted(pod) {
			if w.selects(pod, &t.PodAffinityTerm, p) && together(t.PodAffinityTerm.TopologyKey) {
				sum += int64(t.Weight)
			}
		}
		for _, t := range weighted(p) {
			if w.selects(p, &t.PodAffinityTerm, pod) && together(t.PodAffinityTerm.TopologyKey) {
				sum += int64(t.Weight)
			}
		}
		near, _ := required(p)
		for _, t := range near {
			if w.selects(p, &t, pod) && together(t.TopologyKey) {
				sum++
			}
		}
	}
	return sum
}

func (w *twin) affinityScores(raw map[string]int64) map[string]int64 {
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range raw {
		least, most = min(least, s), max(most, s)
	}
	for name, s := range raw {
		if raw[name] = 0; most > least {
			raw[name] = int64(100 * (float64(s-least) / float64(most-least)))
		}
	}
	return raw
}

func randomNode(rng *rand.Rand, i int) *corev1.Node {
	n := testNode(fmt.Sprintf("node%02d", i), fmt.Sprintf("zone%d", rng.IntN(4)), 500+rng.Int64N(4000), 1+rng.Int64N(12))
	n.Labels[corev1.LabelHostname] = n.Name
	n.Labels["disk"] = []string{"ssd", "hdd"}[rng.IntN(2)]
	if rng.IntN(6) == 0 {
		delete(n.Labels, corev1.LabelTopologyZone)
	}
	if rng.IntN(3) > 0 {
		n.Labels["rack"] = fmt.Sprint("rack", rng.IntN(6))
	}
	n.Spec.Unschedulable = rng.IntN(10) == 0
	for _, effect := range []corev1.TaintEffect{corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoSchedule} {
		if rng.IntN(8) == 0 {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: string(effect), Effect: effect})
		}
	}
	return n
}

func randomKey(rng *rand.Rand) string {
	return []string{corev1.LabelTopologyZone, corev1.LabelHostname, "rack"}[rng.IntN(3)]
}

func randomSelector(rng *rand.Rand) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch app := fmt.Sprint("app", rng.IntN(3)); rng.IntN(4) {
	case 0:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{app}}}
	default:
		s.MatchLabels = map[string]string{"app": app}
	}
	return s
}

func randomTerm(rng *rand.Rand) corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{TopologyKey: randomKey(rng), LabelSelector: randomSelector(rng)}
	switch rng.IntN(4) {
	case 0:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint(rng.IntN(2))}}
	case 1:
		t.Namespaces = []string{"other"}
	}
	return t
}

// randomPod is a pod, often one with wishes.
func randomPod(rng *rand.Rand, i int) *corev1.Pod {
	pod := testPod(fmt.Sprintf("pod%d", i), fmt.Sprintf("app%d", rng.IntN(3)), 10+rng.Int64N(900), 0)
	pod.Spec.Priority = ptr.To(rng.Int32N(3))
	pod.Namespace = []string{"default", "default", "other"}[rng.IntN(3)]
	if rng.IntN(8) == 0 {
		port := 8000 + rng.Int32N(2)
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: port, HostPort: port, Protocol: corev1.ProtocolTCP}}
	}
	if rng.IntN(6) == 0 {
		pod.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if rng.IntN(3) == 0 {
		policy := []*corev1.NodeInclusionPolicy{nil, ptr.To(corev1.NodeInclusionPolicyHonor), ptr.To(corev1.NodeInclusionPolicyIgnore)}
		for range 1 + rng.IntN(2) {
			c := corev1.TopologySpreadConstraint{
				MaxSkew: 1 + rng.Int32N(2), TopologyKey: randomKey(rng), LabelSelector: randomSelector(rng),
				WhenUnsatisfiable:  []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}[rng.IntN(2)],
				NodeAffinityPolicy: policy[rng.IntN(3)], NodeTaintsPolicy: policy[rng.IntN(3)],
			}
			if c.WhenUnsatisfiable == corev1.DoNotSchedule && rng.IntN(2) == 0 {
				c.MinDomains = ptr.To(1 + rng.Int32N(5))
			}
			if rng.IntN(3) == 0 {
				c.MatchLabelKeys = []string{"app"}
			}
			pod.Spec.TopologySpreadConstraints = append(pod.Spec.TopologySpreadConstraints, c)
		}
	}
	if rng.IntN(2) == 0 {
		return pod
	}
	a := &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}, NodeAffinity: &corev1.NodeAffinity{}}
	pod.Spec.Affinity = a
	if rng.IntN(4) == 0 {
		a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = []corev1.PodAffinityTerm{randomTerm(rng), randomTerm(rng)}[:1+rng.IntN(2)]
	}
	if rng.IntN(4) == 0 {
		a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = []corev1.PodAffinityTerm{randomTerm(rng)}
	}
	if rng.IntN(2) == 0 {
		a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{{Weight: 1 + rng.Int32N(100), PodAffinityTerm: randomTerm(rng)}}
	}
	if rng.IntN(2) == 0 {
		a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{{Weight: 1 + rng.Int32N(100), PodAffinityTerm: randomTerm(rng)}}
	}
	if rng.IntN(2) == 0 {
		a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.PreferredSchedulingTerm{{Weight: 1 + rng.Int32N(100), Preference: corev1.NodeSelectorTerm{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "rack", Operator: corev1.NodeSelectorOpIn, Values: []string{fmt.Sprint("rack", rng.IntN(6))}}},
		}}}
	}
	return pod
}
