package allocator

import (
	"net/netip"
	"testing"
)

// TestAddressBands compares with the bands that kube-apiserver has.
func TestAddressBands(t *testing.T) {
	for prefix, want := range map[string]struct {
		first, last, dynamic string
		size                 uint64
	}{
		"10.96.0.0/16":    {"10.96.0.1", "10.96.255.254", "10.96.1.1", 65534},
		"10.96.0.0/24":    {"10.96.0.1", "10.96.0.254", "10.96.0.17", 254},
		"10.96.0.0/28":    {"10.96.0.1", "10.96.0.14", "10.96.0.1", 14},
		"10.96.0.128/30":  {"10.96.0.129", "10.96.0.130", "10.96.0.129", 2},
		"fd00::/112":      {"fd00::1", "fd00::ffff", "fd00::101", 65535},
		"fd00:1234::/108": {"fd00:1234::1", "fd00:1234::f:ffff", "fd00:1234::101", 1<<20 - 1},
	} {
		band := newAddressBand(netip.MustParsePrefix(prefix))
		if band.first.String() != want.first || band.last.String() != want.last || band.size != want.size ||
			addrAt(band.first, band.static).String() != want.dynamic {
			t.Errorf("%s: %+v, dynamic from %s; want %+v", prefix, band, addrAt(band.first, band.static), want)
		}
	}
	band := newAddressBand(netip.MustParsePrefix("10.96.0.0/27"))
	taken := map[netip.Addr]bool{}
	for i := range band.size {
		addr, ok := band.free(func(addr netip.Addr) bool { return taken[addr] })
		if !ok || taken[addr] || addr.Less(band.first) || band.last.Less(addr) {
			t.Fatalf("address %d is %s, %v", i, addr, ok)
		}
		if dynamic := !addr.Less(addrAt(band.first, band.static)); dynamic != (i < band.size-band.static) {
			t.Fatalf("address %d is %s: the static band is for when the other is full", i, addr)
		}
		taken[addr] = true
	}
	if addr, ok := band.free(func(addr netip.Addr) bool { return taken[addr] }); ok {
		t.Fatalf("%s of a full band", addr)
	}
}

func TestSubnets(t *testing.T) {
	for _, tc := range []struct {
		within string
		mask   int
		n      uint64
		want   string
	}{
		{"10.244.0.0/16", 24, 0, "10.244.0.0/24"},
		{"10.244.0.0/16", 24, 255, "10.244.255.0/24"},
		{"10.0.0.0/8", 24, 257, "10.1.1.0/24"},
		{"10.244.0.0/22", 26, 5, "10.244.1.64/26"},
		{"10.244.0.0/24", 32, 7, "10.244.0.7/32"},
		{"fd00::/48", 64, 0x1234, "fd00:0:0:1234::/64"},
		{"fd00::/112", 120, 3, "fd00::300/120"},
	} {
		if got := subnetAt(netip.MustParsePrefix(tc.within), tc.mask, tc.n); got.String() != tc.want {
			t.Errorf("subnet %d of /%d in %s is %s, want %s", tc.n, tc.mask, tc.within, got, tc.want)
		}
	}
}
