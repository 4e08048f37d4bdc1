package conflict

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// loss is a frontend that a holder asked for and another has.
type loss struct {
	frontend servicespec.Frontend
	mine     servicespec.Claim
	to       claim
	at       netip.Addr // only there, as the other asks for that very address; zero: everywhere
}

// losses lists the frontends that a holder does not get. hasPort says whether a service
// has a frontend's port at its cluster addresses.
func (c *claims) losses(h holder, hasPort func(controller.Key, servicespec.Frontend) bool) (out []loss) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.of[h]
	for _, a := range have.list {
		if a.cluster {
			continue
		}
		mine := claim{a.claim, h, have.node}
		lost := func(to claim, at netip.Addr) { out = append(out, loss{a.frontend, a.claim, to, at}) }
		if key, ok := c.cluster[a.frontend.Addr]; ok && !a.frontend.Outside && key != h.Key && hasPort(key, a.frontend) {
			lost(claim{Claim: servicespec.Claim{Given: true}, holder: holder{Key: key}}, netip.Addr{})
			continue
		}
		if c.before(a.frontend, mine, lost) {
			continue
		}
		for addr := range c.within[a.frontend] {
			exact := a.frontend
			exact.Addr = addr
			for _, other := range c.by[exact] {
				if other.holder != h && other.meets(mine) && c.reaches(mine, addr) && c.reaches(other, addr) {
					lost(other, addr)
					break
				}
			}
		}
	}
	return out
}

// before calls lost for the claims that take precedence over a claim to a frontend: one
// that holds everywhere, or those that hold on some nodes.
func (c *claims) before(f servicespec.Frontend, mine claim, lost func(claim, netip.Addr)) (everywhere bool) {
	for _, other := range c.by[f] {
		if other.compare(mine) >= 0 {
			return false
		}
		if other.holder == mine.holder || !other.meets(mine) {
			continue
		}
		lost(other, netip.Addr{})
		if other.node == "" || mine.node != "" {
			return true
		}
	}
	return false
}

// reaches says whether a claim can hold at an address: its node has the address, or the claim is for all nodes.
func (c *claims) reaches(mine claim, addr netip.Addr) bool {
	return mine.node == "" || addr.IsLoopback() || slices.Contains(c.nodes[mine.node], addr)
}

// maxNamed is how many conflicts one message names.
const maxNamed = 5

// lossText describes losses in the words of their subject; "" if there are none.
func lossText(h holder, losses []loss) string {
	var lines []string
	for _, l := range losses {
		lines = append(lines, l.text(h))
	}
	return enumerate(lines, "; all else of it works")
}

// enumerate joins lines in order, each once, and adds end.
func enumerate(lines []string, end string) string {
	if len(lines) == 0 {
		return ""
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	if len(lines) > maxNamed {
		lines = append(lines[:maxNamed], "and more") // not how many: it would be another message each time
	}
	return strings.Join(lines, "; ") + end
}

func (l loss) text(h holder) string {
	what := l.frontend.String()
	switch {
	case h.pod:
		what = "host port " + what
		if l.frontend.Addr.IsUnspecified() {
			what = fmt.Sprintf("host port %d/%s", l.frontend.Port, l.frontend.Protocol)
		}
	case l.frontend.Addr.IsUnspecified():
		what = fmt.Sprintf("node port %d/%s", l.frontend.Port, l.frontend.Protocol)
	}
	if l.at.IsValid() {
		what += " at " + l.at.String()
	}
	who := "service " + l.to.holder.String()
	if l.to.holder.pod {
		who = "pod " + l.to.holder.String()
		if !h.pod {
			what += " on node " + l.to.node
		}
	}
	return what + " belongs to " + who + ", which " + l.why()
}

func (l loss) why() string {
	switch {
	case l.at.IsValid():
		return "asks for that very address"
	case l.to.Given && !l.mine.Given:
		return "was given that address"
	case l.to.Since < l.mine.Since:
		return "is older"
	}
	return "is as old and comes first by name"
}
