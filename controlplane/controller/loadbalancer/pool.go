package loadbalancer

import (
	"fmt"
	"iter"
	"net/netip"
	"strings"
)

// Pool is the set of addresses that services of type LoadBalancer can have.
type Pool []span

// span is a run of addresses of one family, ends included.
type span struct {
	first, last netip.Addr
	text        string // as it was given
}

// ParsePool reads CIDRs and ranges (FIRST-LAST) that are separated by commas. Of
// an IPv4 CIDR the network and the broadcast address are left out, of an IPv6
// one the first address, which is the routers': give a range to use them too.
func ParsePool(text string) (Pool, error) {
	var pool Pool
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		s, err := parseSpan(part)
		if err != nil {
			return nil, err
		}
		for _, other := range pool {
			if s.overlaps(other.first, other.last) {
				return nil, fmt.Errorf("%s and %s overlap", other.text, s.text)
			}
		}
		pool = append(pool, s)
	}
	return pool, nil
}

func parseSpan(text string) (span, error) {
	if first, last, ok := strings.Cut(text, "-"); ok {
		s := span{text: text}
		var err error
		if s.first, err = netip.ParseAddr(strings.TrimSpace(first)); err == nil {
			s.last, err = netip.ParseAddr(strings.TrimSpace(last))
		}
		switch {
		case err != nil:
			return s, fmt.Errorf("%q is not a range like 192.0.2.10-192.0.2.99", text)
		case s.first.Is4() != s.last.Is4() || s.first.Is4In6() || s.last.Is4In6() || s.first.Zone() != "" || s.last.Zone() != "":
			return s, fmt.Errorf("%s: both ends must be plain addresses of one family", text)
		case s.last.Less(s.first):
			return s, fmt.Errorf("%s ends before it begins", text)
		}
		return s, usable(s)
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return span{}, fmt.Errorf("%q is neither a CIDR like 192.0.2.0/24 nor a range like 192.0.2.10-192.0.2.99", text)
	}
	if prefix != prefix.Masked() {
		return span{}, fmt.Errorf("%s has bits set past its prefix; did you mean %s?", text, prefix.Masked())
	}
	s := span{first: prefix.Addr(), last: lastOf(prefix), text: text}
	if left := s.first.BitLen() - prefix.Bits(); left > 1 {
		s.first = s.first.Next()
		if s.first.Is4() {
			s.last = s.last.Prev()
		}
	}
	return s, usable(s)
}

// usable refuses addresses that no host can announce on a link.
func usable(s span) error {
	for _, addr := range []netip.Addr{s.first, s.last} {
		if !addr.IsGlobalUnicast() {
			return fmt.Errorf("%s: %s is no address that can be announced: give unicast addresses of the hosts' link", s.text, addr)
		}
	}
	return nil
}

func lastOf(prefix netip.Prefix) netip.Addr {
	bytes := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

func (s span) contains(addr netip.Addr) bool {
	return s.first.Is4() == addr.Is4() && !addr.Less(s.first) && !s.last.Less(addr)
}

func (s span) overlaps(first, last netip.Addr) bool {
	return s.first.Is4() == first.Is4() && !last.Less(s.first) && !s.last.Less(first)
}

// Overlaps says which part of the pool shares addresses with a range; "" if none does.
func (p Pool) Overlaps(prefix netip.Prefix) string {
	for _, s := range p {
		if s.overlaps(prefix.Masked().Addr(), lastOf(prefix.Masked())) {
			return s.text
		}
	}
	return ""
}

// OfFamily is a part of the pool with IPv4 addresses, or one with IPv6; "" if there is none.
func (p Pool) OfFamily(four bool) string {
	for _, s := range p {
		if s.first.Is4() == four {
			return s.text
		}
	}
	return ""
}

// Contains says whether an address is of the pool.
func (p Pool) Contains(addr netip.Addr) bool {
	for _, s := range p {
		if s.contains(addr) {
			return true
		}
	}
	return false
}

// has says whether the pool has addresses of a family.
func (p Pool) has(four bool) bool { return p.OfFamily(four) != "" }

// addresses yields those of a family in order.
func (p Pool) addresses(four bool) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, s := range p {
			if s.first.Is4() != four {
				continue
			}
			for addr := s.first; ; addr = addr.Next() {
				if !yield(addr) {
					return
				}
				if addr == s.last {
					break
				}
			}
		}
	}
}

func (p Pool) String() string {
	parts := make([]string, len(p))
	for i, s := range p {
		parts[i] = s.text
	}
	return strings.Join(parts, ",")
}
