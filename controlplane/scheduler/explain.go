package scheduler

import (
	"fmt"
	"sort"
	"strings"
)

// noNodes is the message for a pod when there is no node at all.
const noNodes = "no nodes available to schedule pods"

// misfit counts the reasons why nodes were left out.
type misfit struct {
	nodes   int
	reasons map[string]int
	unmet   string  // why the pod fits nowhere whatever the nodes are; then there are no other reasons
	curable []*host // hosts on which the pod may fit once pods are removed
	// preemption says what preemption does, or why it does not help; empty if it was not tried.
	preemption string
}

func (m *misfit) add(reasons ...string) {
	if m.reasons == nil {
		m.reasons = map[string]int{}
	}
	for _, r := range reasons {
		m.reasons[r]++
	}
}

func (m *misfit) String() string {
	if m.nodes == 0 {
		return noNodes
	}
	text := m.summary()
	if m.preemption != "" {
		text += " preemption: " + m.preemption
	}
	return text
}

// summary names the reasons and how many nodes each left out.
func (m *misfit) summary() string {
	if m.unmet != "" {
		return fmt.Sprintf("0/%d nodes are available: %s.", m.nodes, m.unmet)
	}
	parts := make([]string, 0, len(m.reasons))
	for reason, n := range m.reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	sort.Strings(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", m.nodes, strings.Join(parts, ", "))
}

// explain says why a pod fits on none of the hosts.
func (c *cluster) explain(req *request, checks []check, hosts []*host) *misfit {
	why := &misfit{nodes: len(hosts)}
	for _, k := range checks {
		if u, ok := k.(universalRefusal); ok {
			why.unmet = u.refusesAll()
			return why
		}
	}
	for _, h := range hosts {
		reasons, curable := c.refusal(req, checks, h)
		why.add(reasons...)
		if curable {
			why.curable = append(why.curable, h)
		}
	}
	return why
}
