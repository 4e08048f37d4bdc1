package controlplane

import (
	"strings"
	"testing"
)

// A wrong value of a flag is refused at once, in one line: flag, value, why, and what to give.
func TestRangesThatCannotBe(t *testing.T) {
	const both4, both6 = "10.96.0.0/16,fd00:96::/112", "10.244.0.0/16,fd00:244::/48"
	for _, c := range []struct {
		name string
		set  func(*Options)
		says []string
	}{
		{"pool malformed", func(o *Options) { o.LoadBalancerCIDR = "192.0.2.0" }, []string{"--lb-cidr 192.0.2.0", "neither a CIDR like", "nor a range"}},
		{"pool with bits past its prefix", func(o *Options) { o.LoadBalancerCIDR = "192.0.2.5/24" }, []string{"--lb-cidr 192.0.2.5/24", "did you mean 192.0.2.0/24"}},
		{"pool that overlaps itself", func(o *Options) { o.LoadBalancerCIDR = "192.0.2.0/24,192.0.2.9-192.0.2.12" }, []string{"--lb-cidr", "192.0.2.0/24 and 192.0.2.9-192.0.2.12 overlap"}},
		{"pool in the service range", func(o *Options) { o.LoadBalancerCIDR = "10.96.1.0/24" }, []string{"--lb-cidr 10.96.1.0/24 and --service-cidr 10.96.0.0/16 overlap", "give ranges apart"}},
		{"pool around the pod range", func(o *Options) { o.LoadBalancerCIDR = "10.240.0.0-10.250.0.0" }, []string{"--lb-cidr 10.240.0.0-10.250.0.0 and --pod-cidr 10.244.0.0/16 overlap"}},
		{"pool of both families in a range's way", func(o *Options) {
			o.ServiceCIDR, o.PodCIDR, o.LoadBalancerCIDR = both4, both6, "192.0.2.16/28,fd00:244::1:0/112"
		}, []string{"--lb-cidr fd00:244::1:0/112 and --pod-cidr fd00:244::/48 overlap"}},
		{"pool of a family that services lack", func(o *Options) { o.LoadBalancerCIDR = "2001:db8::/112" }, []string{"--lb-cidr 2001:db8::/112", "no service has addresses of that family", "--service-cidr is 10.96.0.0/16"}},
		{"pool with the server in it", func(o *Options) { o.LoadBalancerCIDR = "192.0.2.0/24" }, []string{"--lb-cidr 192.0.2.0/24", "own address 192.0.2.1", "that no host has"}},
		{"pool of multicast", func(o *Options) { o.LoadBalancerCIDR = "224.0.0.0/24" }, []string{"--lb-cidr 224.0.0.0/24", "unicast"}},
		{"no range", func(o *Options) { o.ServiceCIDR = "ten" }, []string{`--service-cidr "ten" is not a range like`}},
		{"a range and nothing", func(o *Options) { o.PodCIDR = "10.244.0.0/16," }, []string{`--pod-cidr "" is not a range like`}},
		{"loopback", func(o *Options) { o.ServiceCIDR = "127.0.0.0/16" }, []string{"--service-cidr 127.0.0.0/16", "give a private range"}},
		{"mapped", func(o *Options) { o.PodCIDR = "::ffff:10.244.0.0/112" }, []string{"--pod-cidr ::ffff:10.244.0.0/112", "give a private range"}},
		{"three ranges", func(o *Options) { o.PodCIDR = both6 + ",10.245.0.0/16" }, []string{"--pod-cidr", "one range, or one of each family"}},
		{"services in two families, pods in one", func(o *Options) { o.ServiceCIDR = both4 }, []string{"--service-cidr fd00:96::/112", "--pod-cidr is 10.244.0.0/16", "same families"}},
		{"families in another order", func(o *Options) { o.ServiceCIDR, o.PodCIDR = "fd00:96::/112,10.96.0.0/16", both6 }, []string{"--service-cidr fd00:96::/112,10.96.0.0/16", "--pod-cidr 10.244.0.0/16,fd00:244::/48", "same order"}},
		{"second ranges that overlap", func(o *Options) { o.ServiceCIDR, o.PodCIDR = "10.96.0.0/16,fd00:244::/112", both6 }, []string{"--service-cidr fd00:244::/112 and --pod-cidr fd00:244::/48 overlap"}},
		{"few services", func(o *Options) { o.ServiceCIDR = "10.96.0.0/30" }, []string{"--service-cidr 10.96.0.0/30 is too small", "/29"}},
		{"nodes larger than all pods", func(o *Options) { o.NodeMask = 12 }, []string{"--pod-cidr 10.244.0.0/16 is too small", "/12", "--node-cidr-mask-size"}},
		{"nodes without room", func(o *Options) { o.NodeMask4 = 31 }, []string{"--node-cidr-mask-size-ipv4 31 leaves a node no room", "give 16 to 30"}},
		{"a mask past the address", func(o *Options) { o.NodeMask = 33 }, []string{"--node-cidr-mask-size 33 leaves a node no room", "give 16 to 30"}},
		{"a negative mask", func(o *Options) { o.NodeMask4 = -1 }, []string{"--node-cidr-mask-size-ipv4 -1", "give 16 to 30"}},
		{"more nodes than can be", func(o *Options) { o.ServiceCIDR, o.PodCIDR, o.NodeMask6 = both4, both6, 80 }, []string{"--pod-cidr fd00:244::/48 is too large", "--node-cidr-mask-size-ipv6 of at most 64"}},
		{"one mask for two families", func(o *Options) { o.ServiceCIDR, o.PodCIDR, o.NodeMask = both4, both6, 24 }, []string{"--node-cidr-mask-size is for a --pod-cidr of one family", "--node-cidr-mask-size-ipv4"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{Listen: "192.0.2.1:6443"}
			c.set(&o)
			_, err := o.complete()
			if err == nil {
				t.Fatal("it is taken")
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %v", err)
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
		})
	}
}

func TestRangesThatCanBe(t *testing.T) {
	for _, o := range []Options{
		{},
		{LoadBalancerCIDR: "192.0.2.16/28, 192.0.2.9-192.0.2.10,192.0.2.40/32"},
		{ServiceCIDR: "10.96.0.0/29", PodCIDR: "10.244.0.0/30", NodeMask: 30},
		{ServiceCIDR: "fd00:96::/112,10.96.0.0/16", PodCIDR: "fd00:244::/48,10.244.0.0/16", LoadBalancerCIDR: "2001:db8::/112,192.0.2.16/28"},
		{ServiceCIDR: "10.96.0.0/16", PodCIDR: "10.244.0.0/16,fd00:244::/48"},
	} {
		o.Listen = "192.0.2.1:6443"
		if _, err := o.complete(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
