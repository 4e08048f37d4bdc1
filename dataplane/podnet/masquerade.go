package podnet

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

const tableName = "skep"

// ipv4 header offsets of the addresses
const (
	sourceOffset      = 12
	destinationOffset = 16
)

func ownTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}
}

// syncMasquerade replaces the table "ip skep" in one transaction: pods' packets that leave the cluster take the host's
// address. Connections under way keep their translation, which is in conntrack.
func (n *Network) syncMasquerade() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := ownTable()
	c.AddTable(table) // so that deleting it cannot fail
	c.DelTable(table)
	c.AddTable(table)
	chain := c.AddChain(&nftables.Chain{
		Name:     "postrouting",
		Table:    table,
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource,
	})
	match := matchPrefix(sourceOffset, n.cfg.PodCIDR, expr.CmpOpEq)
	match = append(match, matchPrefix(destinationOffset, n.cfg.ClusterCIDR, expr.CmpOpNeq)...)
	if n.cfg.ServiceCIDR.IsValid() && n.cfg.ServiceCIDR.Addr().Is4() {
		match = append(match, matchPrefix(destinationOffset, n.cfg.ServiceCIDR, expr.CmpOpNeq)...)
	}
	// Fully random source ports: two pods' queries from one port at one moment must not be given the same one.
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match, &expr.Counter{}, &expr.Masq{FullyRandom: true})})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table ip %s: %w", tableName, err)
	}
	return nil
}

func matchPrefix(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()},
	}
}

func removeMasquerade() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil // a kernel without nftables has no table of ours
	}
	for _, t := range tables {
		if t.Name != tableName {
			continue
		}
		c.DelTable(t)
		if err := c.Flush(); err != nil {
			return fmt.Errorf("remove nftables table ip %s: %w", tableName, err)
		}
	}
	return nil
}
