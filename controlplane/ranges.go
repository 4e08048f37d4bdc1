package controlplane

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/skep-io/skep/controlplane/allocator"
)

// parseRanges reads one range, or one of each family, separated by a comma.
func parseRanges(flag, text string) ([]netip.Prefix, error) {
	var ranges []netip.Prefix
	for cidr := range strings.SplitSeq(text, ",") {
		cidr = strings.TrimSpace(cidr)
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, fmt.Errorf("%s %q is not a range like 10.96.0.0/16", flag, cidr)
		}
		if prefix != prefix.Masked() {
			return nil, fmt.Errorf("%s %s has bits set past its prefix; did you mean %s?", flag, cidr, prefix.Masked())
		}
		if addr := prefix.Addr(); !addr.IsGlobalUnicast() || addr.Is4In6() {
			return nil, fmt.Errorf("%s %s are no addresses that packets can be routed to; give a private range like 10.96.0.0/16 or fd00:96::/112", flag, cidr)
		}
		ranges = append(ranges, prefix)
	}
	if len(ranges) > 2 || len(ranges) == 2 && ranges[0].Addr().Is4() == ranges[1].Addr().Is4() {
		return nil, fmt.Errorf("%s %s: give one range, or one of each family", flag, text)
	}
	return ranges, nil
}

// maxNodeBits bounds how many node ranges a pod range holds: 2^maxNodeBits, as in Kubernetes.
const maxNodeBits = 16

// podRanges reads the pod ranges and how large a node's part of each is.
func (o Options) podRanges() ([]allocator.PodRange, error) {
	ranges, err := parseRanges("--pod-cidr", o.PodCIDR)
	if err != nil {
		return nil, err
	}
	if o.NodeMask != 0 && len(ranges) > 1 {
		return nil, fmt.Errorf("--node-cidr-mask-size is for a --pod-cidr of one family: give --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6")
	}
	pods := make([]allocator.PodRange, len(ranges))
	for i, prefix := range ranges {
		flag, mask, standard := "--node-cidr-mask-size-ipv4", o.NodeMask4, DefaultNodeMask4
		if prefix.Addr().Is6() {
			flag, mask, standard = "--node-cidr-mask-size-ipv6", o.NodeMask6, DefaultNodeMask6
		}
		if o.NodeMask != 0 {
			flag, mask = "--node-cidr-mask-size", o.NodeMask
		}
		if mask == 0 {
			mask = standard
		}
		switch room := prefix.Addr().BitLen() - 2; {
		case mask < 0 || mask > room:
			return nil, fmt.Errorf("%s %d leaves a node no room for pods: give %d to %d", flag, mask, prefix.Bits(), min(room, prefix.Bits()+maxNodeBits))
		case mask < prefix.Bits():
			return nil, fmt.Errorf("--pod-cidr %s is too small: every node gets a /%d of it (%s)", prefix, mask, flag)
		case mask-prefix.Bits() > maxNodeBits:
			return nil, fmt.Errorf("--pod-cidr %s is too large for node ranges of /%d: give %s of at most %d", prefix, mask, flag, prefix.Bits()+maxNodeBits)
		}
		pods[i] = allocator.PodRange{Prefix: prefix, NodeMask: mask}
	}
	return pods, nil
}

// minServiceBits are the host bits of a range of 8 service addresses, the fewest that Kubernetes accepts.
const minServiceBits = 3

// checkServices refuses ranges that services cannot get addresses from, or whose services could have no pods.
func (s *settings) checkServices() error {
	for _, services := range s.services {
		if services.Addr().BitLen()-services.Bits() < minServiceBits {
			return fmt.Errorf("--service-cidr %s is too small: give a /%d or larger", services, services.Addr().BitLen()-minServiceBits)
		}
		if !slices.ContainsFunc(s.pods, func(p allocator.PodRange) bool { return p.Prefix.Addr().Is4() == services.Addr().Is4() }) {
			return fmt.Errorf("--service-cidr %s: no pod has an address of that family, as --pod-cidr is %s; give ranges of the same families", services, s.PodCIDR)
		}
	}
	if first := s.services[0]; first.Addr().Is4() != s.pods[0].Prefix.Addr().Is4() {
		return fmt.Errorf("--service-cidr %s begins with another family than --pod-cidr %s: the first of each is the primary one, so give both in the same order", s.ServiceCIDR, s.PodCIDR)
	}
	return nil
}

// checkPool refuses load-balancer addresses that no service could get, and this server's own.
func (s *settings) checkPool() error {
	for _, four := range []bool{true, false} {
		has := func(p netip.Prefix) bool { return p.Addr().Is4() == four }
		if part := s.pool.OfFamily(four); part != "" && !slices.ContainsFunc(s.services, has) {
			return fmt.Errorf("--lb-cidr %s: no service has addresses of that family, as --service-cidr is %s; leave it out, or give --service-cidr and --pod-cidr a range of each family", part, s.ServiceCIDR)
		}
	}
	if own := netip.PrefixFrom(s.advertise, s.advertise.BitLen()); s.pool.Overlaps(own) != "" {
		return fmt.Errorf("--lb-cidr %s has this server's own address %s: give addresses that no host has", s.pool.Overlaps(own), s.advertise)
	}
	return nil
}

// apart refuses ranges that share addresses: each address must belong to one range.
func (s *settings) apart() error {
	for _, services := range s.services {
		for _, pods := range s.pods {
			if services.Overlaps(pods.Prefix) {
				return overlap("--service-cidr", services, "--pod-cidr", pods.Prefix)
			}
		}
		if part := s.pool.Overlaps(services); part != "" {
			return overlap("--lb-cidr", part, "--service-cidr", services)
		}
	}
	for _, pods := range s.pods {
		if part := s.pool.Overlaps(pods.Prefix); part != "" {
			return overlap("--lb-cidr", part, "--pod-cidr", pods.Prefix)
		}
	}
	return nil
}

func overlap(flag string, value any, other string, with netip.Prefix) error {
	return fmt.Errorf("%s %s and %s %s overlap: an address can mean one thing only; give ranges apart", flag, value, other, with)
}
