package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/sandbox"
)

func TestInterfacesThatCannotBe(t *testing.T) {
	ns := sandbox.NewNamespace(t)
	ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "tun0"
		return errors.Join(addPair("eth0", "far0"), addPair(podnet.OwnPrefix+"1", podnet.OwnPrefix+"2"), setAddress("eth0", netip.PrefixFrom(ownIP, 24), netlink.AddrAdd),
			netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN}))
	})
	for _, c := range []struct {
		name string
		cfg  Config
		says []string // none: it is taken
	}{
		{"none given", Config{}, nil},
		{"as it should be", Config{Uplinks: []string{"eth0"}, NodeIPs: []netip.Addr{ownIP}}, nil},
		{"unknown", Config{Uplinks: []string{"eth0", "eth9"}}, []string{"--uplink eth9", "no such interface", "eth0"}},
		{"loopback", Config{Uplinks: []string{"lo"}}, []string{"--uplink lo", "loopback", "eth0"}},
		{"a pod's", Config{Uplinks: []string{podnet.OwnPrefix + "1"}}, []string{"--uplink skep1", "leads to a pod", "eth0"}},
		{"without Ethernet", Config{Uplinks: []string{"tun0"}}, []string{"--uplink tun0", "no Ethernet address", "eth0"}},
		{"twice", Config{Uplinks: []string{"eth0", "eth0"}}, []string{"--uplink names eth0 twice"}},
		{"another host's address", Config{NodeIPs: []netip.Addr{second.Addr()}}, []string{"--node-ip 198.51.100.1", "no interface", "192.0.2.11"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := ns.Try(func() error { return checkInterfaces(c.cfg) })
			if (err == nil) != (len(c.says) == 0) {
				t.Fatalf("got %v, want an error about %q", err, c.says)
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
		})
	}
}
