package controlplane

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/skep-io/skep/controlplane/resource"
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
func (o Options) podRanges() ([]resource.PodRange, error) {
	ranges, err := parseRanges("--pod-cidr", o.PodCIDR)
	if err != nil {
		return nil, err
	}
	if o.NodeMask != 0 && len(ranges) > 1 {
		return nil, fmt.Errorf("--node-cidr-mask-size is for a --pod-cidr of one family: give --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6")
	}
	pods := make([]resource.PodRange, len(ranges))
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
		switch {
		case mask < prefix.Bits():
			return nil, fmt.Errorf("--pod-cidr %s is too small: every node gets a /%d of it (%s)", prefix, mask, flag)
		case mask-prefix.Bits() > maxNodeBits:
			return nil, fmt.Errorf("--pod-cidr %s is too large for node ranges of /%d: give %s of at most %d", prefix, mask, flag, prefix.Bits()+maxNodeBits)
		case mask > prefix.Addr().BitLen()-2:
			return nil, fmt.Errorf("%s %d leaves a node no room for pods", flag, mask)
		}
		pods[i] = resource.PodRange{Prefix: prefix, NodeMask: mask}
	}
	return pods, nil
}

// apart refuses ranges that share addresses: one address can mean one thing only.
func (s *settings) apart() error {
	for _, services := range s.services {
		for _, pods := range s.pods {
			if services.Overlaps(pods.Prefix) {
				return fmt.Errorf("--service-cidr %s and --pod-cidr %s overlap", services, pods.Prefix)
			}
		}
		if part := s.pool.Overlaps(services); part != "" {
			return fmt.Errorf("--lb-cidr %s and --service-cidr %s overlap", part, services)
		}
	}
	for _, pods := range s.pods {
		if part := s.pool.Overlaps(pods.Prefix); part != "" {
			return fmt.Errorf("--lb-cidr %s and --pod-cidr %s overlap", part, pods.Prefix)
		}
	}
	return nil
}
