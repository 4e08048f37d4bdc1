// Package podnet gives every pod a network interface and an address of each family, and makes the addresses reachable: from
// this host, from the other hosts (by routes on a shared link, through VXLAN where there is none), and outwards through
// masquerading.
//
// It owns, on one host: the veth links named "skep" and eleven hex digits, the VXLAN links "skep-vxlan4" and "skep-vxlan6",
// all routes with protocol 83, and the nftables tables "ip skep" and "ip6 skep". It changes nothing else on the host; its
// state is recovered from the kernel, so a new process takes over the interfaces of the one before. It never
// decides which pods exist, and uses no Kubernetes types.
package podnet

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Config says where the host's pods get their addresses and how they leave the host. Each list but ClusterCIDRs has at most one entry
// of a family.
type Config struct {
	PodCIDRs     []netip.Prefix // this host's pods; they get an address of each, in this order
	NodeIPs      []netip.Addr   // addresses of this host; source of its traffic to pods, and what peers send to
	ClusterCIDRs []netip.Prefix // all hosts' pods: never masqueraded
	ServiceCIDRs []netip.Prefix // optional; packets that were not translated are refused here instead of leaking out
	MTU          int            // of the links between hosts; 0: that of the interface with the first of NodeIPs
	Logger       *slog.Logger   // nil: slog.Default()
	// UplinksChanged, if given, is called with what Uplinks returns whenever that changes, or one
	// of these links is recreated. It must not call SyncRoutes.
	UplinksChanged func(interfaces []string)
}

// Attachment is a pod's connection to the network.
type Attachment struct {
	Addrs         []netip.Addr // one of each family, in the order of Config.PodCIDRs
	HostInterface string
	Index         int // of HostInterface, on the host
	PodMAC        net.HardwareAddr
	// Shaped is set if the pod's inbound bandwidth is limited: packets to it wait in a queue of HostInterface, and must not
	// bypass it.
	Shaped bool
	// Unlimited says why a bandwidth that was asked for is not enforced; nil if it is.
	Unlimited error
}

// Equal says whether two attachments are the same.
func (a Attachment) Equal(b Attachment) bool {
	return a.HostInterface == b.HostInterface && a.Index == b.Index && a.Shaped == b.Shaped &&
		slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.PodMAC, b.PodMAC)
}

// Network is this host's pod network. Its methods may be called concurrently.
//
// Every method must run in the network namespace that New ran in.
type Network struct {
	cfg      Config
	log      *slog.Logger
	families []*family
	nl       *netlink.Handle
	stats    map[int]*nl.SocketHandle // its own socket: sampling does not wait for changes
	uplinks  []netlink.Link

	mu    sync.Mutex
	busy  map[string]chan struct{} // pods with an Attach or Detach under way
	pods  map[string]Attachment
	paths map[string]string // pod -> its network namespace, for those that this process attached
	// arrivals is what Uplinks returns.
	arrivals       []string
	arrivalIndexes []int
	overlayNames   []string // the last of arrivals

	// overhead is what the overlays in use add to a packet.
	overhead int

	routes   sync.Mutex          // one change of routes at a time; taken before mu, guards what follows
	peers    []Peer              // as last given to SyncRoutes; nil before
	inSet    []Peer              // those whose addresses the nftables set of peers has
	nodes    map[netip.Addr]bool // hosts on a shared link: not masqueraded towards
	overlays map[int]*overlay    // by family of the addresses between hosts
	refused  map[string]bool     // claims of peers that are ignored, and were logged
}

// New takes over the state of an earlier process, removes its incomplete interfaces, and prepares forwarding,
// refusal of unused addresses and masquerading. A host without nftables works without masquerading, and logs it.
func New(cfg Config) (*Network, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	families, err := cfg.families()
	if err != nil {
		return nil, err
	}
	families, err = usable(families, cfg.Logger)
	if err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open rtnetlink for counters: %w", err)
	}
	n := &Network{
		stats:    map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}},
		cfg:      cfg,
		log:      cfg.Logger,
		families: families,
		nl:       h,
		busy:     map[string]chan struct{}{},
		pods:     map[string]Attachment{},
		paths:    map[string]string{},
		nodes:    map[netip.Addr]bool{},
		overlays: map[int]*overlay{},
	}
	if err := n.start(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// usable leaves IPv6 out on a host that does not have it, unless it is the only family.
func usable(families []*family, log *slog.Logger) ([]*family, error) {
	off := ipv6Off()
	if off == "" {
		return families, nil
	}
	kept := slices.DeleteFunc(slices.Clone(families), func(f *family) bool { return !f.is4() })
	if len(kept) == 0 {
		return nil, fmt.Errorf("this node's pod range %s is IPv6, and IPv6 is off on this host: %s", families[0].pods, off)
	}
	if len(kept) < len(families) {
		log.Warn("pods get no IPv6 addresses: IPv6 is off on this host", "reason", off)
	}
	return kept, nil
}

// start runs in the order in which packets depend on its steps: nothing is forwarded to a range before its unused addresses are refused.
func (n *Network) start() error {
	if err := n.findUplinks(); err != nil {
		return err
	}
	if err := n.prepareForwarding(); err != nil {
		return err
	}
	if err := n.adoptOverlays(); err != nil {
		return err
	}
	n.reportUplinks()
	if err := n.adopt(); err != nil {
		return fmt.Errorf("adopt pod interfaces: %w", err)
	}
	if err := n.refuseUnused(); err != nil {
		return err
	}
	if err := n.adoptNodes(); err != nil {
		return err
	}
	for _, f := range n.families {
		if err := n.syncMasquerade(f); err != nil {
			n.log.Warn("pods cannot reach addresses outside the cluster: no masquerading, and what arrives at interfaces without Ethernet headers is not looked at; load the kernel's nf_tables and nft_masq modules and restart the agent", "family", f, "err", err)
			continue
		}
		f.masqueraded = true
	}
	for _, problem := range DroppedForwarding() {
		n.log.Warn("this host drops forwarded packets unless a rule lets them pass: without one for the pods' ranges, pods cannot be reached", "dropped by", problem, "ranges", n.cfg.ClusterCIDRs)
	}
	return nil
}

// prepareForwarding lets packets for pods in at the uplinks. Advertisements come first, on all interfaces that follow them:
// see keepAdvertisements.
func (n *Network) prepareForwarding() error {
	if n.family(netlink.FAMILY_V6) != nil {
		followers, err := n.followers()
		if err != nil {
			return err
		}
		for _, name := range followers {
			if err := keepAdvertisements(name); err != nil {
				return err
			}
		}
	}
	for _, f := range n.families {
		for _, link := range n.uplinks {
			if err := f.enableForwarding(link.Attrs().Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// followers are the interfaces that depend on router advertisements: the uplinks, and those with a route from one.
func (n *Network) followers() ([]string, error) {
	routes, err := n.nl.RouteList(nil, netlink.FAMILY_V6)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var names []string
	for _, link := range n.uplinks {
		names = append(names, link.Attrs().Name)
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_RA {
			continue
		}
		if link, err := n.nl.LinkByIndex(r.LinkIndex); err == nil && !slices.Contains(names, link.Attrs().Name) {
			names = append(names, link.Attrs().Name)
		}
	}
	return names, nil
}

// Attachments returns every pod that has an interface, by pod id.
func (n *Network) Attachments() map[string]Attachment {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make(map[string]Attachment, len(n.pods))
	for id, a := range n.pods {
		all[id] = a
	}
	return all
}

// MTU is that of the pods' interfaces.
func (n *Network) MTU() int { return n.cfg.MTU }

// Uplinks are the interfaces at which packets for pods arrive from outside and from other hosts, overlays in use included; one
// with a node address comes first.
func (n *Network) Uplinks() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.arrivals)
}

// Overlays are those of Uplinks that are overlays.
func (n *Network) Overlays() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.overlayNames)
}

// reportUplinks is called with routes held.
func (n *Network) reportUplinks() {
	var names []string
	var indexes []int // show that a link was recreated
	for _, link := range n.uplinks {
		names, indexes = append(names, link.Attrs().Name), append(indexes, link.Attrs().Index)
	}
	for _, underlay := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if o := n.overlays[underlay]; o != nil {
			names, indexes = append(names, overlayName(underlay)), append(indexes, o.index)
		}
	}
	n.mu.Lock()
	changed := !slices.Equal(n.arrivalIndexes, indexes)
	n.arrivals, n.arrivalIndexes, n.overlayNames = names, indexes, names[len(n.uplinks):]
	n.mu.Unlock()
	if changed && n.cfg.UplinksChanged != nil {
		n.cfg.UplinksChanged(slices.Clone(names))
	}
}

// Close releases the process's handles; interfaces, routes and rules stay.
func (n *Network) Close() {
	n.nl.Close()
	n.stats[unix.NETLINK_ROUTE].Close()
}

// lockPod makes Attach and Detach of one pod take turns, without delaying other pods.
func (n *Network) lockPod(podID string) (unlock func()) {
	for {
		n.mu.Lock()
		wait, taken := n.busy[podID]
		if !taken {
			done := make(chan struct{})
			n.busy[podID] = done
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				delete(n.busy, podID)
				n.mu.Unlock()
				close(done)
			}
		}
		n.mu.Unlock()
		<-wait
	}
}
