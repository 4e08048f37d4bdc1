// Package podnet gives every pod a network interface and an address, and makes the address reachable: from this host, from
// the other hosts on a shared link, and outwards through masquerading.
//
// It owns, on one host: the veth links named "skep" and eleven hex digits, all routes that carry route protocol 83, and the
// nftables table "ip skep". It changes nothing else that it finds; what it holds is recovered from the kernel, so a new
// process takes over the interfaces of the one before. It never decides which pods exist, and knows no Kubernetes types.
package podnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Config says where the host's pods get their addresses and how they leave the host.
type Config struct {
	PodCIDR     netip.Prefix // this host's pods
	NodeIP      netip.Addr   // an address of this host; source of its traffic to pods, and what peers route through
	ClusterCIDR netip.Prefix // all hosts' pods: never masqueraded
	ServiceCIDR netip.Prefix // optional; what the service translation let through is refused here instead of leaking out
	MTU         int          // 0: that of the interface with NodeIP
	StateDir    string       // unused while the kernel holds all the state
	Logger      *slog.Logger // nil: slog.Default()
}

// Attachment is a pod's place on the network.
type Attachment struct {
	Addr          netip.Addr
	HostInterface string
	Index         int // of HostInterface, on the host
}

// Network is this host's pod network. Its methods may be called concurrently.
//
// Every method must run in the network namespace that New ran in.
type Network struct {
	cfg     Config
	log     *slog.Logger
	nl      *netlink.Handle
	stats   map[int]*nl.SocketHandle // its own socket: sampling does not wait for changes
	uplinks []netlink.Link

	mu        sync.Mutex
	busy      map[string]chan struct{} // pods with an Attach or Detach under way
	pods      map[string]Attachment
	addresses *addresses
	routes    sync.Mutex // one SyncRoutes at a time
}

// New takes over what an earlier process left, removes interfaces that it left half made, and prepares forwarding,
// refusal of unused addresses and masquerading. A host without nftables works, without masquerading, and says so.
func New(cfg Config) (*Network, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
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
		stats:     map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}},
		cfg:       cfg,
		log:       cfg.Logger,
		nl:        h,
		busy:      map[string]chan struct{}{},
		pods:      map[string]Attachment{},
		addresses: newAddresses(cfg.PodCIDR),
	}
	if err := n.start(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (c Config) validate() error {
	if !c.PodCIDR.IsValid() || c.PodCIDR != c.PodCIDR.Masked() {
		return fmt.Errorf("pod range %s is not a network prefix", c.PodCIDR)
	}
	if !c.NodeIP.IsValid() {
		return errors.New("the node's IP address is missing")
	}
	if !c.PodCIDR.Addr().Is4() || !c.NodeIP.Is4() {
		return fmt.Errorf("pod range %s and node address %s: only IPv4 is supported", c.PodCIDR, c.NodeIP)
	}
	if !c.ClusterCIDR.IsValid() || !c.ClusterCIDR.Overlaps(c.PodCIDR) || c.ClusterCIDR.Bits() > c.PodCIDR.Bits() {
		return fmt.Errorf("the cluster's pod range %s does not contain this node's, %s", c.ClusterCIDR, c.PodCIDR)
	}
	return nil
}

func (n *Network) start() error {
	if err := n.findUplinks(); err != nil {
		return err
	}
	if err := n.adopt(); err != nil {
		return fmt.Errorf("take over pod interfaces: %w", err)
	}
	if err := n.refuseUnused(); err != nil {
		return err
	}
	for _, link := range n.uplinks {
		if err := enableForwarding(link.Attrs().Name); err != nil {
			return err
		}
	}
	if err := n.syncMasquerade(); err != nil {
		n.log.Warn("pods cannot reach addresses outside the cluster: no masquerading; load the kernel's nf_tables and nft_masq modules and restart the agent", "error", err)
	}
	return nil
}

// findUplinks finds the interface with the node's address, and those that default routes use: replies to pods arrive there.
func (n *Network) findUplinks() error {
	addrs, err := n.nl.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	indexes := map[int]bool{}
	for _, a := range addrs {
		if got, ok := netip.AddrFromSlice(a.IP.To4()); ok && got == n.cfg.NodeIP {
			indexes[a.LinkIndex] = true
		}
	}
	if len(indexes) == 0 {
		return fmt.Errorf("no interface of this host has the node address %s", n.cfg.NodeIP)
	}
	for index := range indexes {
		link, err := n.nl.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("interface of node address %s: %w", n.cfg.NodeIP, err)
		}
		if n.cfg.MTU == 0 {
			n.cfg.MTU = link.Attrs().MTU
		}
	}
	routes, err := n.nl.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if isDefault(r) && r.LinkIndex > 0 {
			indexes[r.LinkIndex] = true
		}
	}
	for index := range indexes {
		link, err := n.nl.LinkByIndex(index)
		if err != nil {
			continue // a default route's interface that went away meanwhile forwards nothing
		}
		n.uplinks = append(n.uplinks, link)
	}
	return nil
}

// adopt recovers pods and addresses from the aliases of this host's links. A link of ours without a readable alias was left
// half made by a process that died, and is removed: nothing uses it yet.
func (n *Network) adopt() error {
	links, err := n.nl.LinkList()
	if err != nil {
		return err
	}
	newest := 0
	for _, link := range links {
		attrs := link.Attrs()
		if link.Type() != "veth" || !isHostInterface(attrs.Name) {
			continue
		}
		podID, addr, err := parseAlias(attrs.Alias)
		if err == nil && attrs.Name != HostInterface(podID) {
			err = fmt.Errorf("alias names pod %q, which has another interface", podID)
		}
		if err == nil {
			err = n.addresses.take(addr, podID)
		}
		if err != nil {
			n.log.Warn("removing a pod interface that no pod can use", "interface", attrs.Name, "reason", err)
			if err := n.deleteLink(link); err != nil {
				return err
			}
			continue
		}
		n.pods[podID] = Attachment{Addr: addr, HostInterface: attrs.Name, Index: attrs.Index}
		if attrs.Index > newest {
			newest = attrs.Index
			n.addresses.continueAfter(addr)
		}
		if err := n.configureHost(link, podID, addr); err != nil {
			return fmt.Errorf("pod %s: %w", podID, err)
		}
	}
	return nil
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

// Close releases the process's handles; interfaces, routes and rules stay.
func (n *Network) Close() {
	n.nl.Close()
	n.stats[unix.NETLINK_ROUTE].Close()
}

// lockPod makes Attach and Detach of one pod take turns, without holding up other pods.
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
