package podnet

import (
	"net/netip"
	"testing"
)

func TestAddressesAreHandedOutInTurn(t *testing.T) {
	a := newAddresses(netip.MustParsePrefix("10.0.0.0/29")) // six usable: .1 to .6
	var got []netip.Addr
	for range 6 {
		addr, err := a.allocate("p")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, addr)
	}
	if got[0] != netip.MustParseAddr("10.0.0.1") || got[5] != netip.MustParseAddr("10.0.0.6") {
		t.Fatalf("handed out %v", got)
	}
	if addr, err := a.allocate("q"); err == nil {
		t.Fatalf("a full range handed out %s", addr)
	}
	a.release(got[4], "p")
	a.release(got[1], "p")
	a.release(got[2], "someone else")
	for _, want := range []netip.Addr{got[1], got[4]} { // after .6 comes the range's start
		if addr, err := a.allocate("q"); err != nil || addr != want {
			t.Fatalf("got %s, %v, want %s", addr, err, want)
		}
	}
}

func TestTakenAddressesMustBeInTheRangeAndFree(t *testing.T) {
	a := newAddresses(netip.MustParsePrefix("10.0.0.0/29"))
	for _, addr := range []string{"10.0.0.0", "10.0.0.7", "10.0.1.1"} {
		if err := a.reserve(netip.MustParseAddr(addr), "p"); err == nil {
			t.Errorf("took %s", addr)
		}
	}
	if err := a.reserve(netip.MustParseAddr("10.0.0.3"), "p"); err != nil {
		t.Fatal(err)
	}
	if err := a.reserve(netip.MustParseAddr("10.0.0.3"), "q"); err == nil {
		t.Error("two pods took one address")
	}
}
