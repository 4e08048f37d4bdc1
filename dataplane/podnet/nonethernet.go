package podnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// peersName is the set of all other nodes' addresses.
const peersName = "peers"

func (h header) peers() *nftables.Set {
	return &nftables.Set{Table: h.ownTable(), Name: peersName, KeyType: h.keys}
}

// filterNonEthernet drops forged packets that arrive at an interface without Ethernet headers (tun, WireGuard, ipip), to which no program
// of Skep's can be attached. Nodes that are reached by such an interface wrap their pods' packets, so no valid packet there has a
// pod's address as its source, and wrapped ones come from a node.
//
// The rules are part of the transaction that replaces the table. The set keeps its elements, so that no packets of nodes are dropped
// until the next SyncRoutes.
func (n *Network) filterNonEthernet(c *nftables.Conn, table *nftables.Table, f *family, known []nftables.SetElement) error {
	h := f.header()
	peers := h.peers()
	if err := c.AddSet(peers, nil); err != nil {
		return fmt.Errorf("nftables set %s: %w", peersName, err)
	}
	for some := range slices.Chunk(known, setChunk) {
		if err := c.SetAddElements(peers, some); err != nil {
			return fmt.Errorf("nftables set %s: %w", peersName, err)
		}
	}
	chain := c.AddChain(&nftables.Chain{
		Name:     "prerouting",
		Table:    table,
		Type:     nftables.ChainTypeFilter,
		Hooknum:  nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRaw,
	})
	drop := []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	for _, cluster := range f.ranges() {
		pods := append(isNonEthernet(), h.matchPrefix(h.source, cluster, expr.CmpOpEq)...)
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(pods, drop...)})
	}
	wrapped := append(isNonEthernet(),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, VXLANPort)},
		h.load(h.source), &expr.Lookup{SourceRegister: 1, SetName: peers.Name, SetID: peers.ID, Invert: true})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(wrapped, drop...)})
	return nil
}

func isNonEthernet() (match []expr.Any) {
	for _, kind := range []uint16{unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK} {
		match = append(match,
			&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binary.NativeEndian.AppendUint16(nil, kind)})
	}
	return match
}

// knownPeers are the addresses that the table of an earlier process, or this one's, has.
func knownPeers(c *nftables.Conn, f *family) []nftables.SetElement {
	elements, err := c.GetSetElements(f.header().peers())
	if err != nil {
		return nil // there is no such table yet
	}
	var list []nftables.SetElement
	for _, e := range elements {
		list = append(list, nftables.SetElement{Key: e.Key})
	}
	return list
}

// syncPeers makes the set of other nodes equal to n.peers, writing only the difference.
func (n *Network) syncPeers() error {
	if n.inSet != nil && slices.EqualFunc(n.peers, n.inSet, Peer.Equal) {
		return nil
	}
	wanted := map[netip.Addr]bool{}
	for _, p := range n.peers {
		for _, addr := range p.NodeIPs {
			wanted[addr] = true
		}
	}
	for _, f := range n.families {
		if !f.masqueraded {
			continue
		}
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
		var gone, come []netip.Addr
		has := map[netip.Addr]bool{}
		for _, e := range knownPeers(c, f) {
			if addr, ok := netip.AddrFromSlice(e.Key); ok {
				if has[addr] = true; !wanted[addr] {
					gone = append(gone, addr)
				}
			}
		}
		for addr := range wanted {
			if !has[addr] {
				come = append(come, addr)
			}
		}
		if err := changeSet(f.header().peers(), elements(f, come), elements(f, gone)); err != nil {
			return err
		}
	}
	n.inSet = append([]Peer{}, n.peers...)
	return nil
}
