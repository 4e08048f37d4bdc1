package fabrictest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
)

// Deadline bounds every wait; reaching it is a failure.
const Deadline = 15 * time.Second

// Fabric is some hosts on one link, whose router leads to a namespace outside.
//
//	hosts 192.0.2.11, .12, ... 2001:db8:2::11, ...  -- router 192.0.2.1, 203.0.113.1 -- outside 203.0.113.9, 2001:db8:9::9
type Fabric struct {
	Router  *Namespace
	Outside *Namespace
	Hosts   []*Host
	MTU     int
	tb      testing.TB
}

// Host is a node: pod network, service maps, and the pod path once OpenPath made it.
type Host struct {
	*Namespace
	Name    string
	Index   int
	Network *podnet.Network
	Plane   *service.Plane
	Path    *podpath.Path
	Pins    string // folder on a BPF filesystem of the host's own
	fabric  *Fabric
	flows   podpath.Maps
	pods    []*Pod
}

// Pod is a namespace with an address of each family.
type Pod struct {
	*Namespace
	podnet.Attachment
	ID   string
	Host *Host
}

// Addr4 and Addr6 are the pod's addresses.
func (p *Pod) Addr4() netip.Addr { return p.Addrs[0] }
func (p *Pod) Addr6() netip.Addr { return p.Addrs[1] }

// New makes a fabric whose hosts have their pod network and service maps and know each other's pods. No process is in the
// cgroup that their socket programs are attached to: what a test sends passes packet programs only.
func New(tb testing.TB, hosts int) *Fabric {
	tb.Helper()
	return newFabric(tb, hosts, bridged{})
}

// NewRouted is New, but each host has a link of its own to the router, so that pods of others are reached through VXLAN.
func NewRouted(tb testing.TB, hosts int) *Fabric {
	tb.Helper()
	return newFabric(tb, hosts, routed{})
}

func newFabric(tb testing.TB, hosts int, links links) *Fabric {
	tb.Helper()
	f := &Fabric{Router: sandbox.NewNamespace(tb), Outside: sandbox.NewNamespace(tb), MTU: 1500, tb: tb}
	f.Router.Do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0),
			links.prepare())
	})
	wire(f.Router, "outside", f.Outside, "eth0", f.MTU)
	f.Router.Do(func() error { return up("outside", "203.0.113.1/24", "2001:db8:9::1/64") })
	f.Outside.Do(func() error {
		return errors.Join(up("eth0", "203.0.113.9/24", "2001:db8:9::9/64"), routeVia("203.0.113.1", "2001:db8:9::1"))
	})
	for i := range hosts {
		f.Hosts = append(f.Hosts, f.newHost(i, links))
	}
	for _, h := range f.Hosts {
		h.introduce()
		awaitUp(h.Namespace)
	}
	awaitUp(f.Outside)
	awaitUp(f.Router)
	return f
}

// NodeIPs are a host's addresses, one of each family.
func NodeIPs(host int) []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + host)}),
		netip.MustParseAddr(fmt.Sprintf("2001:db8:2::%d", 11+host)),
	}
}

// RouterIPs are the router's addresses on the hosts' link, one of each family.
func RouterIPs() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:2::1")}
}

func podRanges(host int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", host+1)),
		netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", host+1)),
	}
}

// ClusterRanges hold all pods.
func ClusterRanges() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}
}

func serviceRanges() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
}

func (f *Fabric) newHost(index int, links links) *Host {
	f.tb.Helper()
	h := &Host{Name: fmt.Sprint("node", index+1), Index: index, fabric: f}
	h.Namespace = sandbox.NewNamespace(f.tb)
	wire(f.Router, h.Name, h.Namespace, "eth0", f.MTU)
	f.Router.Do(func() error { return links.atRouter(h.Name, NodeIPs(index)) })
	h.Do(func() error { return links.atHost(NodeIPs(index)) })
	h.Pins = sandbox.Pins(f.tb)
	h.startNetwork()
	h.startPlane()
	return h
}

func (h *Host) startNetwork() {
	h.fabric.tb.Helper()
	h.Do(func() (err error) {
		h.Network, err = podnet.New(podnet.Config{
			PodCIDRs:     podRanges(h.Index),
			NodeIPs:      NodeIPs(h.Index),
			ClusterCIDRs: ClusterRanges(),
			ServiceCIDRs: serviceRanges(),
		})
		return err
	})
	h.fabric.tb.Cleanup(h.Network.Close)
}

func (h *Host) startPlane() {
	tb := h.fabric.tb
	tb.Helper()
	cgroup := sandbox.NewCgroup(tb)
	h.Do(func() (err error) {
		h.Plane, err = service.Open(service.Options{PinDir: filepath.Join(h.Pins, "service"), CgroupPath: cgroup, Node: h.Name})
		return err
	})
	tb.Cleanup(func() {
		if err := errors.Join(h.Plane.Close(), service.Remove(filepath.Join(h.Pins, "service"))); err != nil {
			tb.Error(err)
		}
	})
	h.Plane.SetAddresses(NodeIPs(h.Index))
}

// introduce makes all others known to the host.
func (h *Host) introduce() {
	h.fabric.tb.Helper()
	var peers []podnet.Peer
	for _, other := range h.fabric.Hosts {
		h.Plane.SetNodeAddresses(other.Name, NodeIPs(other.Index))
		if other != h {
			peers = append(peers, podnet.Peer{Name: other.Name, NodeIPs: NodeIPs(other.Index), PodCIDRs: podRanges(other.Index)})
		}
	}
	h.Do(func() error { return h.Network.SyncRoutes(peers) })
}

// Uplinks are the interfaces that the host's path is attached to.
func (h *Host) Uplinks() []string { return h.Network.Uplinks() }

// PathOptions are those that OpenPath starts from.
func (h *Host) PathOptions() podpath.Options {
	return podpath.Options{
		PinDir:       filepath.Join(h.Pins, "path"),
		Plane:        h.Plane,
		Flows:        h.flows,
		Uplinks:      h.Uplinks(),
		ClusterCIDRs: ClusterRanges(),
	}
}

// OpenPath starts the pod path and attaches the host's pods; change may be nil. An earlier path is closed first, as by a new
// process.
func (h *Host) OpenPath(change func(*podpath.Options)) {
	h.fabric.tb.Helper()
	options := h.PathOptions()
	if change != nil {
		change(&options)
	}
	if h.Path == nil {
		h.fabric.tb.Cleanup(func() {
			err := h.Path.Close()
			if err := errors.Join(err, h.Try(func() error { return podpath.Remove(options.PinDir) })); err != nil {
				h.fabric.tb.Error(err)
			}
		})
	} else if err := h.Path.Close(); err != nil {
		h.fabric.tb.Fatal(err)
	}
	h.Do(func() (err error) {
		h.Path, err = podpath.Open(options)
		return err
	})
	if err := h.Path.SetNodes(h.fabric.Nodes(h)); err != nil {
		h.fabric.tb.Fatal(err)
	}
	for _, pod := range h.pods {
		h.attach(pod)
	}
}

// Nodes are the hosts as the path of one of them gets them.
func (f *Fabric) Nodes(at *Host) (nodes []podpath.Node) {
	for i, h := range f.Hosts {
		nodes = append(nodes, podpath.Node{Addrs: NodeIPs(i), PodCIDRs: podRanges(i), Own: h == at})
	}
	return nodes
}

// OpenPaths starts the pod path on every host.
func (f *Fabric) OpenPaths() {
	for _, h := range f.Hosts {
		h.OpenPath(nil)
	}
}

// UseFlows makes paths that are opened from now on share these flow maps.
func (h *Host) UseFlows(flows interface{ Maps() map[string]*ebpf.Map }) { h.flows = flows }

// NewPod makes a pod on the host, on its pod path if there is one.
func (h *Host) NewPod(id string) *Pod {
	h.fabric.tb.Helper()
	return h.NewLimitedPod(id, podnet.Bandwidth{})
}

// NewLimitedPod makes a pod with a bandwidth.
func (h *Host) NewLimitedPod(id string, limits podnet.Bandwidth) *Pod {
	h.fabric.tb.Helper()
	pod := &Pod{Namespace: sandbox.NewNamespace(h.fabric.tb), ID: id, Host: h}
	h.Do(func() (err error) {
		pod.Attachment, err = h.Network.Attach(id, pod.Path, limits)
		return err
	})
	awaitUp(pod.Namespace)
	awaitUp(h.Namespace)
	h.pods = append(h.pods, pod)
	if h.Path != nil {
		h.attach(pod)
	}
	return pod
}

// Forget leaves the pod out when the path is opened again.
func (h *Host) Forget(pod *Pod) {
	h.pods = slices.DeleteFunc(h.pods, func(p *Pod) bool { return p == pod })
}

func (h *Host) attach(pod *Pod) {
	h.fabric.tb.Helper()
	h.Do(func() error { return h.Path.Attach(pod.Index, pod.Addrs, pod.PodMAC) })
}

// SetService installs a service on every host and waits until their maps say so.
func (f *Fabric) SetService(s service.Service) {
	f.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Deadline)
	defer cancel()
	for _, h := range f.Hosts {
		h.Plane.SetService(s)
		if err := h.Plane.Flush(ctx); err != nil {
			f.tb.Fatal(err)
		}
	}
}

// Backend is a service's backend at a port of the pod.
func (p *Pod) Backend(addr netip.Addr, port uint16) service.Backend {
	return service.Backend{Addr: addr, Port: port, Node: p.Host.Name}
}
