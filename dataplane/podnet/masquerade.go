package podnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

const (
	tableName = "skep"
	nodesName = "nodes"
	setChunk  = 1000 // elements that one message has room for
)

// header says where a family's IP header has the addresses.
type header struct {
	source, destination, length uint32
	table                       nftables.TableFamily
	keys                        nftables.SetDatatype
}

func (f *family) header() header {
	if f.is4() {
		return header{source: 12, destination: 16, length: 4, table: nftables.TableFamilyIPv4, keys: nftables.TypeIPAddr}
	}
	return header{source: 8, destination: 24, length: 16, table: nftables.TableFamilyIPv6, keys: nftables.TypeIP6Addr}
}

func (h header) ownTable() *nftables.Table { return &nftables.Table{Name: tableName, Family: h.table} }

func (h header) nodes() *nftables.Set {
	return &nftables.Set{Table: h.ownTable(), Name: nodesName, KeyType: h.keys}
}

// syncMasquerade replaces the family's table "skep" in one transaction: pods' packets that leave the cluster get the host's
// address. Hosts that share a link count as in the cluster too, since their answers reach the pod. Open connections keep
// their translation, which is in conntrack.
func (n *Network) syncMasquerade(f *family) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	h := f.header()
	table := h.ownTable()
	peers := knownPeers(c, f)
	c.AddTable(table) // so that deleting it cannot fail
	c.DelTable(table)
	c.AddTable(table)
	nodes := h.nodes()
	var present []netip.Addr
	for addr := range n.nodes {
		present = append(present, addr)
	}
	if err := c.AddSet(nodes, elements(f, present)); err != nil {
		return fmt.Errorf("nftables set %s: %w", nodesName, err)
	}
	chain := c.AddChain(&nftables.Chain{
		Name:     "postrouting",
		Table:    table,
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource,
	})
	match := h.matchPrefix(h.source, f.pods, expr.CmpOpEq)
	for _, pods := range f.ranges() {
		match = append(match, h.matchPrefix(h.destination, pods, expr.CmpOpNeq)...)
	}
	if f.service.IsValid() {
		match = append(match, h.matchPrefix(h.destination, f.service, expr.CmpOpNeq)...)
	}
	match = append(match, h.load(h.destination), &expr.Lookup{SourceRegister: 1, SetName: nodes.Name, SetID: nodes.ID, Invert: true})
	// Fully random source ports: two pods' queries from one port at one moment must not get the same one.
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match, &expr.Counter{}, &expr.Masq{FullyRandom: true})})
	if err := n.filterNonEthernet(c, table, f, peers); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", tableName, err)
	}
	return nil
}

func (h header) load(offset uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: h.length}
}

func (h header) matchPrefix(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		h.load(offset),
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: h.length,
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: bytes.Repeat([]byte{0}, int(h.length)),
		},
		&expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()},
	}
}

func elements(f *family, addrs []netip.Addr) (list []nftables.SetElement) {
	for _, addr := range addrs {
		if familyOf(addr) == f.id {
			list = append(list, nftables.SetElement{Key: addr.AsSlice()})
		}
	}
	return list
}

// syncNodes makes the hosts on shared links those of wanted, writing only the difference.
func (n *Network) syncNodes(wanted map[netip.Addr]bool) error {
	var come, gone []netip.Addr
	for addr := range wanted {
		if !n.nodes[addr] {
			come = append(come, addr)
		}
	}
	for addr := range n.nodes {
		if !wanted[addr] {
			gone = append(gone, addr)
		}
	}
	if len(come)+len(gone) == 0 {
		return nil
	}
	for _, f := range n.families {
		if !f.masqueraded {
			continue
		}
		if err := changeSet(f.header().nodes(), elements(f, come), elements(f, gone)); err != nil {
			return err
		}
	}
	n.nodes = wanted
	return nil
}

func changeSet(set *nftables.Set, come, gone []nftables.SetElement) error {
	if len(come)+len(gone) == 0 {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for some := range slices.Chunk(come, setChunk) {
		err = errors.Join(err, c.SetAddElements(set, some), c.Flush())
	}
	for some := range slices.Chunk(gone, setChunk) {
		err = errors.Join(err, c.SetDeleteElements(set, some), c.Flush())
	}
	if err != nil {
		return fmt.Errorf("write set %s to nftables: %w", set.Name, err)
	}
	return nil
}

func removeMasquerade() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, id := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		tables, err := c.ListTablesOfFamily(id)
		if err != nil {
			continue // a kernel without nftables has no table of ours
		}
		for _, t := range tables {
			if t.Name != tableName {
				continue
			}
			c.DelTable(t)
			if err := c.Flush(); err != nil {
				return fmt.Errorf("remove nftables table %s: %w", tableName, err)
			}
		}
	}
	return nil
}
