package podnet

import (
	"fmt"
	"net/netip"
)

// addresses hands out a range's addresses in turn, so that a released one stays unused as long as possible: connections and DNS
// answers for its last owner must not reach a new one.
type addresses struct {
	prefix netip.Prefix
	last   netip.Addr            // handed out most recently
	owners map[netip.Addr]string // pod ids
}

func newAddresses(prefix netip.Prefix) *addresses {
	return &addresses{prefix: prefix, last: prefix.Addr(), owners: map[netip.Addr]string{}}
}

// allocate returns a free address; the range's first and, in IPv4, last address are never handed out.
func (a *addresses) allocate(owner string) (netip.Addr, error) {
	candidate := a.last
	for wraps := 0; wraps < 2; {
		candidate = candidate.Next()
		if !a.prefix.Contains(candidate) {
			candidate = a.prefix.Addr()
			wraps++
		}
		if _, taken := a.owners[candidate]; !taken && a.usable(candidate) {
			a.owners[candidate] = owner
			a.last = candidate
			return candidate, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no free address in this node's pod range %s: %d pods hold one", a.prefix, len(a.owners))
}

// reserve marks an address as owned, as after a restart.
func (a *addresses) reserve(addr netip.Addr, owner string) error {
	if !a.usable(addr) {
		return fmt.Errorf("address %s is not in this node's pod range %s", addr, a.prefix)
	}
	if other, taken := a.owners[addr]; taken && other != owner {
		return fmt.Errorf("address %s belongs to pod %s", addr, other)
	}
	a.owners[addr] = owner
	return nil
}

func (a *addresses) continueAfter(addr netip.Addr) { a.last = addr }

// release frees an address if owner still has it.
func (a *addresses) release(addr netip.Addr, owner string) {
	if a.owners[addr] == owner {
		delete(a.owners, addr)
	}
}

func (a *addresses) usable(addr netip.Addr) bool {
	if !a.prefix.Contains(addr) || addr == a.prefix.Addr() {
		return false
	}
	return addr.Is6() || a.prefix.Contains(addr.Next())
}
