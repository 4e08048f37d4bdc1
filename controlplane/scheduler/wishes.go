package scheduler

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// relations are what a pod asks for in relation to other pods. Most pods ask for nothing.
type relations struct {
	spread  []spreadRule // its topology spread constraints
	near    []podTerm    // required affinity
	nearAll []*matcher   // of near: a pod counts for it if all of them select it
	nearID  string
	anti    []podTerm // required anti-affinity
	prefers []podTerm // preferred affinity, and anti-affinity with a negative weight
	owner   string    // the controller
}

// podTerm is a term of a pod's affinity.
type podTerm struct {
	key     string
	matcher *matcher
	weight  int32
}

// spreadRule is a topology spread constraint.
type spreadRule struct {
	key        string
	matcher    *matcher
	maxSkew    int32
	minDomains int32
	hard       bool // DoNotSchedule
	self       bool // it selects the pod itself
	pool       poolRules
}

func newRelations(pod *corev1.Pod) (r relations) {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		r.owner = string(ref.UID)
	}
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			for i := range a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
				t := newPodTerm(pod, &a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i], 0)
				r.near, r.nearAll = append(r.near, t), append(r.nearAll, t.matcher)
			}
			r.nearID = joinIDs(r.nearAll)
			for i := range a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
				t := &a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i]
				r.prefers = append(r.prefers, newPodTerm(pod, &t.PodAffinityTerm, t.Weight))
			}
		}
		if a.PodAntiAffinity != nil {
			for i := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
				r.anti = append(r.anti, newPodTerm(pod, &a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i], 0))
			}
			for i := range a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
				t := &a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i]
				r.prefers = append(r.prefers, newPodTerm(pod, &t.PodAffinityTerm, -t.Weight))
			}
		}
	}
	r.spread = spreadRules(pod)
	return r
}

// newPodTerm reads a term. matchLabelKeys and mismatchLabelKeys are in its selector already: the registry puts them there when the pod is created.
func newPodTerm(pod *corev1.Pod, t *corev1.PodAffinityTerm, weight int32) podTerm {
	namespaces := t.Namespaces
	var byLabels labels.Selector
	if t.NamespaceSelector != nil {
		byLabels = selectorOf(t.NamespaceSelector)
	} else if len(namespaces) == 0 {
		namespaces = []string{pod.Namespace}
	}
	return podTerm{key: t.TopologyKey, matcher: newMatcher(namespaces, byLabels, selectorOf(t.LabelSelector)), weight: weight}
}

// spreadRules reads the topology spread constraints. A host is in the pool of one if it has the labels of all that are as hard as it.
func spreadRules(pod *corev1.Pod) (rules []spreadRule) {
	constraints := pod.Spec.TopologySpreadConstraints
	keys := map[corev1.UnsatisfiableConstraintAction][]string{}
	for i := range constraints {
		action := constraints[i].WhenUnsatisfiable
		keys[action] = append(keys[action], constraints[i].TopologyKey)
	}
	for i := range constraints {
		c := &constraints[i]
		selector := selectorOf(c.LabelSelector)
		for _, key := range c.MatchLabelKeys {
			if value, has := pod.Labels[key]; has {
				of, _ := labels.SelectorFromSet(labels.Set{key: value}).Requirements()
				selector = selector.Add(of...)
			}
		}
		if selector.Empty() {
			selector = labels.Nothing() // as in Kubernetes: it counts no pod
		}
		rule := spreadRule{
			key: c.TopologyKey, matcher: newMatcher([]string{pod.Namespace}, nil, selector),
			maxSkew: c.MaxSkew, minDomains: ptr.Deref(c.MinDomains, 1), hard: c.WhenUnsatisfiable == corev1.DoNotSchedule,
			self: selector.Matches(labels.Set(pod.Labels)),
		}
		honorAffinity := c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
		honorTaints := c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
		rule.pool = poolFor(pod, keys[c.WhenUnsatisfiable], honorAffinity, honorTaints)
		rules = append(rules, rule)
	}
	return rules
}

// poolFor says on which hosts a constraint counts. The rules that admit every host with the only key have no id: no pool is kept for them.
func poolFor(pod *corev1.Pod, keys []string, honorAffinity, honorTaints bool) (rules poolRules) {
	spec := &pod.Spec
	if len(keys) > 1 {
		rules.keys = keys
		rules.id = fmt.Sprintf("keys %q", keys)
	}
	var required *corev1.NodeSelector
	if spec.Affinity != nil && spec.Affinity.NodeAffinity != nil {
		required = spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	if honorAffinity && (len(spec.NodeSelector) > 0 || required != nil) {
		rules.affinity = affinityOf(pod)
		rules.id += " affinity " + textOf(spec.NodeSelector) + textOf(required)
	}
	if honorTaints {
		tolerations := spec.Tolerations
		rules.taints = func(node *corev1.Node) bool {
			_, untolerated := untoleratedTaint(tolerations, node)
			return !untolerated
		}
		rules.id += " tolerations " + textOf(tolerations)
	}
	return rules
}

// textOf is a value's JSON: equal for equal values.
func textOf(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%#v", v)
	}
	return string(text)
}
