package cluster

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

const forwardingSwitch = "/proc/sys/net/ipv4/ip_forward"

// outboundState records what was changed on the user's machine, for Down.
type outboundState struct {
	Masquerade bool `json:"masquerade,omitempty"` // the nftables table skep-ID was made
	Forwarding bool `json:"forwarding,omitempty"` // IP forwarding was turned on
}

// ensureOutbound lets the hosts' subnet reach the outside, if the machine
// forwards already, or if the user asked for it.
func (c *Cluster) ensureOutbound(st *state, wanted bool) error {
	data, err := os.ReadFile(forwardingSwitch)
	if err != nil {
		return err
	}
	forwards := strings.TrimSpace(string(data)) == "1"
	if !forwards && !wanted && !st.Outbound.Forwarding {
		return nil
	}
	if !forwards {
		// Recorded before it is done: Down must undo it even after a crash in between.
		st.Outbound.Forwarding = true
		if err := st.save(c.Dir); err != nil {
			return err
		}
		if err := os.WriteFile(forwardingSwitch, []byte("1"), 0o644); err != nil {
			return err
		}
		c.say("Changed on this machine: net.ipv4.ip_forward = 1 (skep down sets it back to 0)")
	}
	if !st.Outbound.Masquerade {
		st.Outbound.Masquerade = true
		if err := st.save(c.Dir); err != nil {
			return err
		}
		c.say("Added on this machine: nftables table %s, masquerade of %s (skep down removes it)", bridgeName(c.Name), subnetPrefix(st.Subnet))
	}
	return masquerade(c.Name, st.Subnet)
}

// masquerade (re)makes the cluster's table in one transaction: packets from the
// subnet that leave by another link than the bridge get the machine's address.
func masquerade(name string, subnet int) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: bridgeName(name)}
	conn.AddTable(table) // so that the deletion never fails
	conn.DelTable(table)
	conn.AddTable(table)
	chain := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	prefix := subnetPrefix(subnet)
	bridge := make([]byte, 16)
	copy(bridge, bridgeName(name))
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}, // source address
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{255, 255, 255, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Addr().AsSlice()},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: bridge},
		&expr.Masq{},
	}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables: masquerade %s: %w (start the cluster without --outbound if pods need not reach the outside)", prefix, err)
	}
	return nil
}

// undoOutbound restores the machine as it was. Forwarding stays on if another
// cluster of Skep's masquerades, since it may need it.
func (c *Cluster) undoOutbound(out outboundState) error {
	var errs []error
	if out.Masquerade {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: bridgeName(c.Name)}
		conn.AddTable(table)
		conn.DelTable(table)
		errs = append(errs, conn.Flush())
	}
	if out.Forwarding {
		if others := othersOutbound(); len(others) > 0 {
			c.say("Left on this machine: net.ipv4.ip_forward = 1, which %s uses", strings.Join(others, ", "))
		} else {
			errs = append(errs, os.WriteFile(forwardingSwitch, []byte("0"), 0o644))
			c.say("Set back on this machine: net.ipv4.ip_forward = 0")
		}
	}
	return errors.Join(errs...)
}

func othersOutbound() []string {
	conn, err := nftables.New()
	if err != nil {
		return nil
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil
	}
	var names []string
	for _, table := range tables {
		if strings.HasPrefix(table.Name, "skep-") {
			names = append(names, table.Name)
		}
	}
	return names
}
