package service

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
)

// hosts are the desired addresses of this node and of others. nil means that
// none were set yet: what an earlier process wrote stays.
type hosts struct {
	own            map[netip.Addr]struct{}
	nodes          map[string][]netip.Addr
	withoutTunnels map[string]struct{} // nodes that unwrap no tunnels
}

// SetAddresses says which addresses this node has: those at which frontends
// with an unspecified address answer. Loopback is always one.
func (p *Plane) SetAddresses(addrs []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	touched := p.tables.setOwn(addrs)
	p.queue.hosts = true
	p.enqueue(false, touched...)
	for _, name := range touched {
		p.review(name)
	}
}

// setOwn stores this node's addresses and returns the names of all services whose
// maps may change by it, beside skep_addresses: frontends Here are added or removed.
func (t *tables) setOwn(addrs []netip.Addr) (touched []string) {
	t.hosts.own = map[netip.Addr]struct{}{}
	for _, addr := range addrs {
		t.hosts.own[plain(addr)] = struct{}{}
	}
	for name, s := range maps.Clone(t.asked) {
		if now, _ := t.atHome(s); !slices.Equal(now, t.services[name].Frontends) {
			touched = append(touched, t.set(s)...)
		}
	}
	return touched
}

// atHome are a service's frontends without those that are Here and at no address
// of this node, which are problems. As long as this node's addresses were not set,
// all are at home: nothing of an earlier process is removed.
func (t *tables) atHome(s Service) (frontends []Frontend, foreign []Problem) {
	for _, f := range s.Frontends {
		_, own := t.hosts.own[f.Addr]
		if f.Here && t.hosts.own != nil && !own && !f.Addr.IsUnspecified() && !f.Addr.IsLoopback() {
			foreign = append(foreign, Problem{Service: s.Name, Frontend: f, Reason: "frontend " + f.String() + " is ignored: this node has no such address"})
			continue
		}
		frontends = append(frontends, f)
	}
	return frontends, foreign
}

// SetNodeAddresses says which addresses, at most one a family, another node has:
// it accepts encapsulated packets for its backends there, and sends them from
// there. None removes the node.
func (p *Plane) SetNodeAddresses(node string, addrs []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	node = storedName(node)
	if len(addrs) == 0 {
		delete(p.tables.hosts.nodes, node)
	} else {
		p.tables.hosts.nodes[node] = nil
		for _, addr := range addrs {
			p.tables.hosts.nodes[node] = append(p.tables.hosts.nodes[node], plain(addr))
		}
	}
	p.queue.hosts = true
	p.queue.addNode(node)
	p.touch()
}

// SetNodeUnwraps says whether another node accepts encapsulated packets at all;
// the default is that it does. Connections from outside to backends on one that
// does not are forwarded from this node's address. Packets that it sends are
// unwrapped here all the same: it may accept them before this node is informed.
func (p *Plane) SetNodeUnwraps(node string, does bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	node = storedName(node)
	if does {
		delete(p.tables.hosts.withoutTunnels, node)
	} else {
		p.tables.hosts.withoutTunnels[node] = struct{}{}
	}
	p.queue.addNode(node)
	p.touch()
}

// desiredAddresses is what skep_addresses should hold. What was not set yet is
// kept as it is.
func (t *tables) desiredAddresses(installed map[netip.Addr]bpf.SocketAddressFlags, synced bool) map[netip.Addr]bpf.SocketAddressFlags {
	want := map[netip.Addr]bpf.SocketAddressFlags{}
	for addr, flags := range installed {
		if t.hosts.own != nil {
			flags &^= bpf.SocketAddressFlagsADDRESS_OWN
		}
		if synced {
			flags &^= bpf.SocketAddressFlagsADDRESS_PEER
		}
		want[addr] = flags
	}
	for addr := range t.hosts.own {
		want[addr] |= bpf.SocketAddressFlagsADDRESS_OWN
	}
	for _, addrs := range t.hosts.nodes {
		for _, addr := range addrs {
			want[addr] |= bpf.SocketAddressFlagsADDRESS_PEER
		}
	}
	maps.DeleteFunc(want, func(_ netip.Addr, flags bpf.SocketAddressFlags) bool { return flags == 0 })
	return want
}

// putAddresses makes skep_addresses hold what is wanted.
func (in *installed) putAddresses(want map[netip.Addr]bpf.SocketAddressFlags) error {
	var failed []error
	for addr, flags := range want {
		if in.addresses[addr] == flags {
			continue
		}
		if err := in.write.PutAddress(toAddress(addr), flags); err != nil {
			failed = append(failed, err)
			continue
		}
		in.addresses[addr] = flags
	}
	for addr := range in.addresses {
		if want[addr] != 0 {
			continue
		}
		if err := in.write.DeleteAddress(toAddress(addr)); err != nil {
			failed = append(failed, err)
			continue
		}
		delete(in.addresses, addr)
	}
	return errors.Join(failed...)
}

func (in *installed) adoptAddresses(m *kernelMaps) error {
	pinned, err := m.addresses.All()
	if err != nil {
		return err
	}
	for key, flags := range pinned {
		in.addresses[fromAddress(key)] = flags
	}
	return nil
}

func (t *tables) desiredNode(name string) bpf.SocketNode {
	_, down := t.nodesDown[name]
	addrs := t.hosts.nodes[name]
	if _, without := t.hosts.withoutTunnels[name]; without {
		addrs = nil
	}
	return nodeRecord(down, addrs)
}

func nodeRecord(down bool, addrs []netip.Addr) bpf.SocketNode {
	var record bpf.SocketNode
	if down {
		record.Down = 1
	}
	for _, addr := range slices.Backward(addrs) { // the first of a family counts
		if addr.Is4() {
			record.Ip4 = toAddress(addr)
		} else {
			record.Ip6 = toAddress(addr)
		}
	}
	return record
}

func nodeAddresses(record bpf.SocketNode) (addrs []netip.Addr) {
	for _, a := range []bpf.SocketAddress{record.Ip4, record.Ip6} {
		if a != (bpf.SocketAddress{}) {
			addrs = append(addrs, fromAddress(a))
		}
	}
	return addrs
}

// hostNetns returns the cookie of the network namespace that this process runs
// in, which is the host's.
func hostNetns() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("read the network namespace's cookie: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read the network namespace's cookie: %w", err)
	}
	return cookie, nil
}
