package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/skep-io/skep/bpf"
)

// Difference is a way in which a node's maps are not what they should be.
type Difference struct {
	Subject string `json:"subject"` // a service's name, or "node NAME"
	What    string `json:"what"`
}

func (d Difference) String() string { return d.Subject + ": " + d.What }

// Compare lists where a dump of a node's maps differs from what these services and
// these down nodes should give with that node's addresses, in the order of subjects; nil if nowhere.
// Counters, ids and the order of turns are not compared.
func Compare(node string, want []Service, down map[string]bool, have *Dump) []Difference {
	t := newTables(node)
	var own []netip.Addr
	for _, a := range have.Addresses {
		if a.Own {
			own = append(own, a.Address)
		}
	}
	if own != nil {
		t.setOwn(own)
	}
	for _, s := range want {
		t.set(s)
	}
	installed := map[poolKey]*DumpService{}
	for i := range have.Services {
		s := &have.Services[i]
		f := s.Frontends[0] // a service is found by its frontends: there is one
		installed[poolKey{name: s.Name, ip6: f.Address.Addr().Is6(), protocol: protocolNamed(f.Protocol)}] = s
	}
	var out []Difference
	for name := range t.services {
		for key, pool := range t.desired(name) {
			key.name = storedName(key.name)
			s := installed[key]
			delete(installed, key)
			out = append(out, comparePool(pool, s)...)
		}
	}
	for key, s := range installed {
		out = append(out, Difference{key.name, fmt.Sprintf("is installed at %s, but the API has no such service", s.Frontends[0].Address)})
	}
	for _, n := range have.Nodes {
		if n.Name != node && n.Down != down[n.Name] {
			out = append(out, Difference{"node " + n.Name, fmt.Sprintf("is marked %s, but is %s", upOrDown(n.Down), upOrDown(down[n.Name]))})
		}
	}
	slices.SortFunc(out, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.What, b.What))
	})
	return out
}

func upOrDown(down bool) string {
	if down {
		return "down"
	}
	return "up"
}

func protocolNamed(name string) Protocol {
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		if p.String() == name {
			return p
		}
	}
	return 0
}

func comparePool(want *desiredPool, have *DumpService) (out []Difference) {
	if have == nil {
		return []Difference{{want.key.name, "is not installed at " + want.frontends[0].String()}}
	}
	differ := func(what string, wanted, installed []string) {
		missing, surplus := without(wanted, installed), without(installed, wanted)
		var parts []string
		if len(missing) > 0 {
			parts = append(parts, "lacks "+strings.Join(missing, ", "))
		}
		if len(surplus) > 0 {
			parts = append(parts, "has "+strings.Join(surplus, ", ")+" too many")
		}
		if len(parts) > 0 {
			out = append(out, Difference{want.key.name, what + ": " + strings.Join(parts, "; ")})
		}
	}
	var run, local []string
	for _, b := range want.backends {
		address := netip.AddrPortFrom(b.key.endpoint.Addr, b.key.endpoint.Port).String()
		if b.inRun {
			run = append(run, address)
		}
		if b.inLocal {
			local = append(local, address)
		}
	}
	differ("frontends", wantedFrontends(want), installedFrontends(have))
	differ("backends", run, texts(have.Slots))
	differ("backends of this node", local, texts(have.LocalSlots))
	differ("source ranges", texts(want.sources), texts(have.Sources))
	selection := Selection(want.flags & bpf.SocketServiceFlagsSELECT_MASK).String()
	forwarding := "dsr"
	if want.flags&bpf.SocketServiceFlagsSERVICE_SNAT != 0 {
		forwarding = "snat"
	}
	differ("selection", []string{selection}, []string{have.Selection})
	differ("forwarding", []string{forwarding}, []string{have.Forwarding})
	return out
}

func wantedFrontends(p *desiredPool) (out []string) {
	for _, f := range p.frontends {
		out = append(out, frontendText(f.String(), f.Scope.String(), p.affinitySeconds, f.Local, f.Restricted))
	}
	return out
}

func installedFrontends(s *DumpService) (out []string) {
	for _, f := range s.Frontends {
		out = append(out, frontendText(f.Address.String()+"/"+f.Protocol, f.Scope, f.AffinitySeconds, f.Local, f.Restricted))
	}
	return out
}

func frontendText(address, scope string, affinity uint32, local, restricted bool) string {
	text := address + " (" + scope
	if affinity > 0 {
		text += fmt.Sprintf(", affinity %d s", affinity)
	}
	if local {
		text += ", local"
	}
	if restricted {
		text += ", restricted"
	}
	return text + ")"
}

func texts[T fmt.Stringer](list []T) (out []string) {
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

// without lists what of a is not in b, in order.
func without(a, b []string) (out []string) {
	in := map[string]bool{}
	for _, s := range b {
		in[s] = true
	}
	for _, s := range a {
		if !in[s] {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
