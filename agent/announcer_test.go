package agent

import (
	"maps"
	"net/netip"
	"testing"
	"time"
)

// link is a network on which nodes answer for addresses.
type link struct {
	announced map[netip.Addr]time.Time
	others    map[netip.Addr]bool
}

func (l *link) Announce(until map[netip.Addr]time.Time) error {
	l.announced = maps.Clone(until)
	return nil
}

func (l *link) InUse(addrs []netip.Addr) (map[netip.Addr]bool, error) {
	taken := map[netip.Addr]bool{}
	for _, addr := range addrs {
		if l.others[addr] {
			taken[addr] = true
		}
	}
	return taken, nil
}

func (l *link) answers(addr netip.Addr, at time.Time) bool { return at.Before(l.announced[addr]) }

// The control plane is down for half a minute: addresses are answered for throughout, as no other node can own them. Then
// another node has one: this node stops answering for it, and announces it again only when the other stops answering and its
// own lease holds.
func TestAddressesAreHeldUntilAnotherNodeHasThem(t *testing.T) {
	first, second := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8")
	l := &link{others: map[netip.Addr]bool{}}
	a := &announcer{}
	a.use(l)
	a.Own([]netip.Addr{first, second})
	if len(l.announced) > 0 {
		t.Errorf("announced before a lease: %v", l.announced)
	}
	now := time.Now()
	a.look(now)
	if len(l.announced) > 0 {
		t.Errorf("announced before a lease of this process: %v", l.announced)
	}
	a.renewed(now.Add(5 * time.Second))
	for range 30 {
		now = now.Add(askEvery)
		if !l.answers(first, now) || !l.answers(second, now) {
			t.Fatalf("%v: not answered %s after the last renewal", l.announced, now)
		}
		a.look(now)
	}
	l.others[first] = true
	now = now.Add(askEvery)
	a.look(now)
	if l.answers(first, now) || !l.answers(second, now) {
		t.Errorf("%v, want the address that another node has to be left to it, and the other held", l.announced)
	}
	// The lease holds again, and this node's list of its addresses is still old.
	a.renewed(now.Add(5 * time.Second))
	if l.answers(first, now) || !l.answers(second, now) {
		t.Errorf("%v after the lease was renewed, want the other node left alone", l.announced)
	}
	now = now.Add(2 * askEvery)
	a.look(now)
	if l.answers(first, now) {
		t.Errorf("%v: answered beside the other node", l.announced)
	}
	l.others[first] = false
	a.renewed(now.Add(5 * time.Second))
	now = now.Add(askEvery)
	a.look(now)
	if !l.answers(first, now) {
		t.Errorf("%v: not answered although the other node is silent", l.announced)
	}
}

// A node that is reachable again after a cut still has the address in its list that another was given meanwhile.
func TestAddressesAreLeftWhenTheLinkHeals(t *testing.T) {
	addr := netip.MustParseAddr("2001:db8::7")
	l := &link{others: map[netip.Addr]bool{}}
	a := &announcer{}
	a.use(l)
	a.Own([]netip.Addr{addr})
	now := time.Now()
	a.renewed(now.Add(5 * time.Second))
	for range 20 { // alone
		now = now.Add(askEvery)
		a.look(now)
	}
	a.renewed(now.Add(5 * time.Second)) // the first that it reaches is the control plane
	l.others[addr] = true
	now = now.Add(askEvery)
	a.look(now)
	if l.answers(addr, now) {
		t.Errorf("%v a second after the cut, want the address left to the node that has it", l.announced)
	}
	a.Own(nil)
	a.Own([]netip.Addr{addr}) // in the list again
	if !l.answers(addr, now) {
		t.Errorf("%v, want what the control plane names anew answered", l.announced)
	}
}
