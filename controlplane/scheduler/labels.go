package scheduler

import (
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// matcher selects pods by namespace and labels. Equal ones have the same id.
type matcher struct {
	id         string
	namespaces []string
	byLabels   labels.Selector // selects namespaces besides; nil: none
	selector   labels.Selector
}

func newMatcher(namespaces []string, byLabels, selector labels.Selector) *matcher {
	namespaces = slices.Sorted(slices.Values(namespaces))
	id := strings.Join(namespaces, ",") + "|"
	if byLabels != nil {
		id += "{" + byLabels.String() + "}"
	}
	return &matcher{id: id + "|" + selectorID(selector), namespaces: namespaces, byLabels: byLabels, selector: selector}
}

// selectorID tells a selector of everything from one of nothing, which String does not.
func selectorID(s labels.Selector) string {
	if _, selectable := s.Requirements(); !selectable {
		return "nothing"
	}
	return "{" + s.String() + "}"
}

func (m *matcher) matches(namespace string, namespaceLabels, of labels.Set) bool {
	if !slices.Contains(m.namespaces, namespace) && (m.byLabels == nil || !m.byLabels.Matches(namespaceLabels)) {
		return false
	}
	return m.selector.Matches(of)
}

// class is the pods of one namespace with the same labels. What selects one of them selects all, so that selectors are evaluated once a class
// and not once a pod.
type class struct {
	id        string
	namespace string
	labels    labels.Set
	placed    map[*placement]struct{}
	tallies   []*tally  // that count it
	repelled  []*bearer // whose required anti-affinity selects it
	rated     []*bearer // whose preferred terms, or required affinity, select it
	// defaults are the selectors of the default spread constraints, by the pods' controller, as of a generation of the namespace's owners.
	defaults   map[string]*matcher
	generation int64
	used       int64
	gone       bool
}

// tally counts the placed pods that all its matchers select, in each space that is asked for.
type tally struct {
	matchers []*matcher
	live     bool // leaves out pods that are being deleted
	classes  []*class
	in       []*domainCounts
	used     int64
}

func (t *tally) selects(c *cluster, cl *class) bool {
	for _, m := range t.matchers {
		if !m.matches(cl.namespace, c.namespaces[cl.namespace], cl.labels) {
			return false
		}
	}
	return true
}

func (t *tally) counts(p *placement) bool { return !t.live || !p.request.deleting }

// bearer is a term of the affinity of placed pods: what counts is where the pods are that have it, with its weight.
type bearer struct {
	id      string
	matcher *matcher
	domainCounts
	placed int // pods that have it
}

// bearing is a bearer and its weight in one pod.
type bearing struct {
	*bearer
	weight int32
}

func classID(namespace string, of map[string]string) string {
	if len(of) == 0 {
		return namespace
	}
	var b strings.Builder
	b.WriteString(namespace)
	for _, k := range slices.Sorted(maps.Keys(of)) {
		b.WriteByte(',')
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(of[k])
	}
	return b.String()
}

// selectorOf reads a selector of the API: nil selects nothing. Validation has refused what cannot be read; what was stored all the same
// selects nothing.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}
