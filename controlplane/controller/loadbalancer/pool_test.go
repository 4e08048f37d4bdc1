package loadbalancer

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestPool(t *testing.T) {
	for _, tc := range []struct {
		text string
		four bool
		want string // the first ones and the count, or the error
	}{
		{"192.0.2.0/29", true, "192.0.2.1 .. 192.0.2.6: 6"},
		{"192.0.2.0/31", true, "192.0.2.0 .. 192.0.2.1: 2"},
		{"192.0.2.7/32", true, "192.0.2.7 .. 192.0.2.7: 1"},
		{"192.0.2.255-192.0.3.1", true, "192.0.2.255 .. 192.0.3.1: 3"},
		{" 192.0.2.9 , 192.0.2.4/31 ", true, `"192.0.2.9" is neither a CIDR`},
		{"192.0.2.9-192.0.2.9, 192.0.2.4/31", true, "192.0.2.9 .. 192.0.2.5: 3"},
		{"fd00::/126", false, "fd00::1 .. fd00::3: 3"},
		{"192.0.2.0/30,fd00::a-fd00::b", false, "fd00::a .. fd00::b: 2"},
		{"192.0.2.0/30,fd00::a-fd00::b", true, "192.0.2.1 .. 192.0.2.2: 2"},
		{"", true, ": 0"},
		{"192.0.2.1/24", true, "did you mean 192.0.2.0/24?"},
		{"192.0.2.1-fd00::1", true, "one family"},
		{"192.0.2.5-192.0.2.1", true, "ends before it begins"},
		{"192.0.2.0/24,192.0.2.17/32", true, "192.0.2.0/24 and 192.0.2.17/32 overlap"},
		{"224.0.0.0/24", true, "no address that can be announced"},
		{"127.0.0.0/24", true, "no address that can be announced"},
		{"fe80::/64", true, "no address that can be announced"},
		{"everything", true, "neither a CIDR"},
	} {
		pool, err := ParsePool(tc.text)
		if err != nil {
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%q: %v, want %q", tc.text, err, tc.want)
			}
			continue
		}
		all := slices.Collect(pool.addresses(tc.four))
		got := ": 0"
		if n := len(all); n > 0 {
			got = all[0].String() + " .. " + all[n-1].String() + ": " + string(rune('0'+n))
		}
		if got != tc.want {
			t.Errorf("%q has %s, want %s", tc.text, got, tc.want)
		}
		for _, addr := range all {
			if !pool.Contains(addr) || pool.Overlaps(netip.PrefixFrom(addr, addr.BitLen())) == "" {
				t.Errorf("%q does not contain its %s", tc.text, addr)
			}
		}
		for _, other := range []string{"192.0.0.0/24", "2001:db8::/32"} {
			if pool.Overlaps(netip.MustParsePrefix(other)) != "" || pool.Contains(netip.MustParsePrefix(other).Addr()) {
				t.Errorf("%q overlaps %s", tc.text, other)
			}
		}
	}
}
