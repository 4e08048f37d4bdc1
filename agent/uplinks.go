package agent

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/flow"
	"github.com/skep-io/skep/dataplane/podnet"
)

// uplinkNames are the interfaces that packets from outside arrive at. An interface that was found stays in the list while it
// exists: routes disappear and return with every DHCP renewal.
func (p *dataPlane) uplinkNames() ([]string, error) {
	if len(p.cfg.Uplinks) > 0 {
		return p.cfg.Uplinks, nil
	}
	found, err := findUplinks(p.membership.nodeIPs)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return union(found, slices.DeleteFunc(slices.Clone(p.uplinks), isMissing)), nil
}

func isMissing(name string) bool {
	_, err := netlink.LinkByName(name)
	return err != nil
}

// followUplinks finds the uplinks again and attaches programs to new ones.
func (p *dataPlane) followUplinks() error {
	names, err := p.uplinkNames()
	if err != nil {
		return err
	}
	if err := p.flows.SetUplinks(names); err != nil {
		return fmt.Errorf("traffic from outside: %w", err)
	}
	p.mu.Lock()
	p.uplinks = names
	p.mu.Unlock()
	p.uplinksChanged(p.network.Uplinks())
	p.reportUplinks()
	return nil
}

// uplinksChanged attaches programs to overlays as these are added and removed.
func (p *dataPlane) uplinksChanged(names []string) {
	p.mu.Lock()
	path, uplinks := p.path, p.uplinks
	p.mu.Unlock()
	if path == nil {
		return // it is opened with the uplinks of then
	}
	if err := path.SetUplinks(pathInterfaces(union(uplinks, names))); err != nil {
		slog.Error("programs for pods' packets are not attached to all interfaces", "uplinks", names, "err", err)
		return
	}
	if err := p.flows.SetOverlays(p.network.Overlays()); err != nil { // only once replies through them are translated back
		slog.Error("SNAT to pods behind an overlay does not work", "uplinks", names, "err", err)
	}
}

// reportUplinks says on the Node whether services from outside work here.
func (p *dataPlane) reportUplinks() {
	c := outsideCondition(p.flows.Uplinks())
	before, changed := p.membership.node.SetCondition(c)
	if !changed || c.Reason == attached && before.Reason == "" {
		return
	}
	kind := corev1.EventTypeWarning
	if c.Reason == attached {
		kind = corev1.EventTypeNormal
	}
	p.membership.event(kind, c.Reason, c.Message)
}

// Reasons of the condition and of events about it.
const (
	attached      = "UplinksAttached"
	noUplink      = "NoUplink"
	uplinksFailed = "UplinksFailed"
	someFailed    = "SomeUplinksFailed"
)

// outsideCondition reports the state of the uplinks. One that works is enough for True.
func outsideCondition(uplinks []flow.Uplink) corev1.NodeCondition {
	const outside = "services are not served to clients outside (node ports, external and load-balancer addresses) "
	var works, fails []string
	for _, u := range uplinks {
		if u.Err != nil {
			fails = append(fails, fmt.Sprintf("%s: %v", u.Name, u.Err))
			continue
		}
		works = append(works, fmt.Sprintf("%s: %s XDP", u.Name, u.XDP))
	}
	c := corev1.NodeCondition{Type: servicespec.ServesOutside, Status: corev1.ConditionTrue, Reason: attached, Message: strings.Join(works, "; ")}
	switch {
	case len(uplinks) == 0:
		c.Status, c.Reason = corev1.ConditionFalse, noUplink
		c.Message = outside + "here: no interface has this node's address or a default route; name those that packets from outside arrive at with --uplink"
	case len(works) == 0:
		c.Status, c.Reason = corev1.ConditionFalse, uplinksFailed
		c.Message = outside + "here; through other nodes clients reach pods here, which see those nodes' addresses: " + strings.Join(fails, "; ")
	case len(fails) > 0:
		c.Reason, c.Message = someFailed, outside+"at "+strings.Join(fails, "; ")+"; they are at "+strings.Join(works, "; ")
	}
	return c
}

// onEthernet omits interfaces that are missing, and those without Ethernet headers: programs could not parse their packets.
func onEthernet(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		link, err := netlink.LinkByName(name)
		return err != nil || len(link.Attrs().HardwareAddr) != 6
	})
}

// pathInterfaces are the uplinks, and the host's other interfaces, at which pods' packets can be recognised. Members of a bridge
// or bond are left out: their packets arrive at the bridge or bond.
func pathInterfaces(uplinks []string) (fit, others []string) {
	links, err := netlink.LinkList()
	if err != nil {
		slog.Error("list interfaces: forged packets are looked for at the uplinks only", "err", err)
	}
	for _, link := range links {
		a := link.Attrs()
		if a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6 && a.MasterIndex == 0 && !strings.HasPrefix(a.Name, podnet.OwnPrefix) && !slices.Contains(uplinks, a.Name) {
			others = append(others, a.Name)
		}
	}
	return onEthernet(uplinks), others
}

// findUplinks are the names of the interfaces that packets from outside arrive at.
func findUplinks(nodeIPs []netip.Addr) (names []string, err error) {
	links, err := podnet.FindUplinks(&netlink.Handle{}, nodeIPs)
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		names = append(names, link.Attrs().Name)
	}
	return names, nil
}

// union is a and what only b has, in their order.
func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}
