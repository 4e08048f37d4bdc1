package loadbalancer

import (
	"net/netip"
	"sync"

	"github.com/skep-io/skep/controlplane/controller"
)

// ledger records who uses which address, as far as the cache shows: services have them in
// their status or claim them as external addresses, nodes have them. It is only a hint
// for a free address; the store decides whether it is free.
type ledger struct {
	mu    sync.Mutex
	addrs map[controller.Key][]netip.Addr
	users map[netip.Addr]map[controller.Key]struct{}
}

func newLedger() *ledger {
	return &ledger{addrs: map[controller.Key][]netip.Addr{}, users: map[netip.Addr]map[controller.Key]struct{}{}}
}

// set replaces the addresses that an object uses, and says whether any address became free.
func (l *ledger) set(key controller.Key, addrs []netip.Addr) (freed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.addrs[key]
	for _, addr := range before {
		delete(l.users[addr], key)
	}
	for _, addr := range addrs {
		if l.users[addr] == nil {
			l.users[addr] = map[controller.Key]struct{}{}
		}
		l.users[addr][key] = struct{}{}
	}
	for _, addr := range before {
		if len(l.users[addr]) == 0 {
			delete(l.users, addr)
			freed = true
		}
	}
	if l.addrs[key] = addrs; len(addrs) == 0 {
		delete(l.addrs, key)
	}
	return freed
}

// user returns an object other than key that uses an address, a node if one does.
func (l *ledger) user(addr netip.Addr, key controller.Key) (controller.Key, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := controller.Key{}
	for user := range l.users[addr] {
		if user != key && (found == controller.Key{} || user.Namespace == "") {
			found = user
		}
	}
	return found, found != controller.Key{}
}
