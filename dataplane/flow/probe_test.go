package flow

import (
	"net/netip"
	"testing"
	"time"
)

// A node detects whether another on its link answers for an address: by the answer of the other's program, and by what the other
// announces when it becomes the owner.
func TestNeighboursSayWhatIsTaken(t *testing.T) {
	w := newWorld(t, 2)
	link4, link6 := netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("2001:db8:2::99")
	addrs := []netip.Addr{link4, link6}
	asking, other := w.flows[0], w.flows[1]
	taken := func() (got map[netip.Addr]bool) {
		t.Helper()
		w.Hosts[0].Do(func() (err error) {
			got, err = asking.InUse(addrs)
			return err
		})
		return got
	}
	until := map[netip.Addr]time.Time{link4: time.Now().Add(time.Hour), link6: time.Now().Add(time.Hour)}
	if err := asking.Announce(until); err != nil {
		t.Fatal(err)
	}
	if got := taken(); len(got) != 0 {
		t.Errorf("%v are taken, want none: this node alone answers for them", got)
	}
	if err := other.Announce(until); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(deadline); ; {
		got := taken()
		if got[link4] && got[link6] {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v are taken, want both: another node answers for them", got)
		}
	}
	if err := other.Announce(nil); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(deadline); len(taken()) != 0; {
		if time.Now().After(end) {
			t.Fatal("an address stays taken after the other node has given it up")
		}
	}
}

func TestClaimsInFrames(t *testing.T) {
	for name, c := range map[string]struct {
		frame []byte
		addr  string
	}{
		"gratuitous request": {gratuitousARP(peerMAC, vip4.Addr(), 1), vip4.Addr().String()},
		"gratuitous reply":   {gratuitousARP(peerMAC, vip4.Addr(), 2), vip4.Addr().String()},
		"advertisement":      {advertisement(peerMAC, vip6.Addr()), vip6.Addr().String()},
		"probe":              {probe(peerMAC, vip4.Addr()), ""},
		"solicitation":       {probe(peerMAC, vip6.Addr()), ""},
		"TCP":                {tcp(client4, vip4, tcpSYN).arriving(), ""},
		"cut short":          {gratuitousARP(peerMAC, vip4.Addr(), 1)[:40], ""},
		"nothing":            {nil, ""},
	} {
		addr, mac, ok := claimOf(c.frame)
		if ok != (c.addr != "") || ok && (addr.String() != c.addr || mac != peerMAC) {
			t.Errorf("%s: %s at %x, %v, want %q", name, addr, mac, ok, c.addr)
		}
	}
}

// Whatever frame arrives from the link, only an address is read from it.
func FuzzClaims(f *testing.F) {
	for _, frame := range forgedFrames() {
		f.Add(frame)
	}
	f.Add(advertisement(peerMAC, vip6.Addr()))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if addr, _, ok := claimOf(frame); ok && (!addr.IsValid() || len(frame) < 42) {
			t.Errorf("% x claims %v", frame, addr)
		}
	})
}
